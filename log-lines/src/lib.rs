//! Writes lines to standard error and to files, each from a bounded queue with its own thread: a reader that stalls or goes away, or
//! a full disk, costs lines, never a request.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The size of the queue, in bytes. Twice as much is held while a batch is being written.
const MOST: usize = 1024 * 1024;
/// How soon a non-blocking descriptor that accepts nothing is tried again.
const AGAIN: Duration = Duration::from_millis(20);

/// A queue of lines.
pub struct Lines {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    lost: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    /// Whether a batch is still being written.
    writing: bool,
    /// Whether the output is to be reopened.
    reopen: bool,
}

/// An output for lines.
pub trait Out: Write {
    /// Reopens it, if it has a name.
    fn reopen(&mut self) {}
}

impl Out for File {}

impl Default for Lines {
    fn default() -> Self {
        Self::new()
    }
}

impl Lines {
    /// An empty queue.
    #[must_use]
    pub const fn new() -> Self {
        let waiting = Waiting { text: Vec::new(), writing: false, reopen: false };
        Self { waiting: Mutex::new(waiting), changed: Condvar::new(), lost: AtomicU64::new(0) }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues whole lines; if there is no room, they are lost, and counted.
    pub fn push(&self, lines: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.text.len() + lines.len() > MOST {
            drop(waiting);
            self.lose(lines);
        } else {
            waiting.text.extend_from_slice(lines);
            drop(waiting);
            self.changed.notify_all();
        }
    }

    fn lose(&self, lines: &[u8]) {
        self.lost.fetch_add(count(lines), Ordering::Relaxed);
    }

    /// How many lines were lost since the start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Has the output reopened after the current batch.
    pub fn reopen(&self) {
        self.waiting().reopen = true;
        self.changed.notify_all();
    }

    /// Writes queued lines, forever. Calls `on_lost` with the number of lines lost since the last call, once writing works.
    pub fn write_out(&self, mut out: impl Out, on_lost: impl Fn(u64)) {
        let (mut text, mut torn, mut known) = (Vec::new(), false, 0);
        loop {
            let mut waiting = self.waiting();
            waiting.writing = false;
            self.changed.notify_all();
            while waiting.text.is_empty() && !waiting.reopen {
                waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            waiting.writing = true;
            std::mem::swap(&mut text, &mut waiting.text);
            let reopen = std::mem::take(&mut waiting.reopen);
            drop(waiting);
            if reopen {
                out.reopen();
            }
            if text.is_empty() {
                continue;
            }
            // A partial line must not run into the next one.
            let whole = !torn || write_all(&mut out, b"\n") == 1;
            let written = if whole { write_all(&mut out, &text) } else { 0 };
            torn = if written > 0 { text.get(written - 1) != Some(&b'\n') } else { torn };
            let rest = text.get(written..).unwrap_or_default();
            if !rest.is_empty() {
                self.lose(rest);
            } else if self.lost() > known && self.waiting().text.len() < MOST / 2 {
                // Not while the queue is full: this line would be lost too.
                let lost = self.lost();
                on_lost(lost - known);
                known = lost;
            }
            text.clear();
        }
    }

    /// Waits until all queued lines have been written, but not beyond `until`.
    pub fn flush(&self, until: Instant) {
        let mut waiting = self.waiting();
        while waiting.writing || !waiting.text.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            waiting = self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn count(lines: &[u8]) -> u64 {
    let ends = lines.iter().filter(|byte| **byte == b'\n').count();
    (ends + usize::from(lines.last().is_some_and(|last| *last != b'\n'))) as u64
}

/// How many bytes were written before an error.
fn write_all(out: &mut impl Write, text: &[u8]) -> usize {
    let mut written = 0;
    while let Some(rest) = text.get(written..).filter(|rest| !rest.is_empty()) {
        match out.write(rest) {
            Ok(0) => break,
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(AGAIN),
            Err(_) => break,
        }
    }
    written
}

/// The queue of standard error. Its writer thread starts with the first line.
fn standard_error() -> &'static Lines {
    static LINES: Lines = Lines::new();
    static WRITER: OnceLock<()> = OnceLock::new();
    WRITER.get_or_init(|| {
        // A separate descriptor: other writers to standard error must not wait for a lock that is held while nobody reads.
        let Ok(descriptor) = io::stderr().as_fd().try_clone_to_owned() else { return };
        // Without the thread the queue fills up, and lines are lost and counted.
        let _started = thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || LINES.write_out(File::from(descriptor), report_lost));
    });
    &LINES
}

/// Reports lost lines.
static LOST_REPORTER: OnceLock<fn(u64)> = OnceLock::new();

/// Sets the function that reports how many lines were lost, once writing works again. Without it a plain line is written.
pub fn set_lost_reporter(report: fn(u64)) {
    // The first one stays: a program has one log.
    let _first = LOST_REPORTER.set(report);
}

fn report_lost(lost: u64) {
    match LOST_REPORTER.get() {
        Some(report) => report(lost),
        None => say(&lost_in_words(lost)),
    }
}

/// The message about lost lines.
#[must_use]
pub fn lost_in_words(lost: u64) -> String {
    format!("{lost} lines of the log could not be written and are lost: its reader was too slow, or away")
}

/// Prints to standard error outside the log: a command's findings, or why the program ends.
pub fn say(text: &str) {
    let mut line = text.trim_end().to_owned();
    line.push('\n');
    standard_error().push(line.as_bytes());
}

/// Waits until all queued output has been written, but not beyond `until`.
pub fn flush(until: Instant) {
    standard_error().flush(until);
}

/// How many lines could not be written since the start.
#[must_use]
pub fn lost_lines() -> u64 {
    standard_error().lost()
}

/// Passes a panic's message to `log` as one printable line: the library's own hook would wait for the reader.
pub fn install_panic_hook(log: impl Fn(&str) + Send + Sync + 'static) {
    std::panic::set_hook(Box::new(move |panic| {
        let reason = panic.payload_as_str().unwrap_or("without a reason").escape_debug();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        log(&format!("a fault in the program at {place}: {reason}"));
    }));
}

/// A writer for one formatted line of the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogLine;

impl Write for LogLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        standard_error().push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard output of a command: a reader that goes away (`| head`) is not an error. A slow one is waited for, as a pager needs.
pub struct Output(pub io::Stdout);

impl Write for Output {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match self.0.write(text) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(text.len()),
            outcome => outcome,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0.flush() {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            outcome => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Accepts what the test allows: a number of bytes, or an error.
    struct Reader(Receiver<Result<usize, io::ErrorKind>>, Arc<Mutex<String>>);

    impl Write for Reader {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let allowed = self
                .0
                .recv()
                .unwrap_or_else(|_| {
                    loop {
                        thread::park()
                    }
                })?
                .min(text.len());
            self.1.lock().unwrap().push_str(std::str::from_utf8(&text[..allowed]).unwrap());
            Ok(allowed)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Out for Reader {}

    struct Trial {
        lines: &'static Lines,
        allow: Sender<Result<usize, io::ErrorKind>>,
        read: Arc<Mutex<String>>,
    }

    fn begin() -> Trial {
        let (lines, (allow, allowed), read) = (&*Box::leak(Box::new(Lines::new())), channel(), Arc::default());
        let reader = Reader(allowed, Arc::clone(&read));
        thread::spawn(move || lines.write_out(reader, |lost| lines.push(format!("{lost} lost\n").as_bytes())));
        Trial { lines, allow, read }
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_holds_nobody() {
        let trial = begin();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        for _ in 0..5000 {
            trial.lines.push(&line);
        }
        let lost = trial.lines.lost();
        // One full queue waits, and perhaps another is being written.
        assert!((5000 - 2 * 1024..=5000 - 1024).contains(&lost), "{lost}");
        let begun = Instant::now();
        trial.lines.flush(Instant::now() + Duration::from_millis(50));
        assert!(begun.elapsed() < Duration::from_secs(5));
        for _ in 0..4 {
            trial.allow.send(Ok(usize::MAX)).unwrap();
        }
        trial.lines.flush(Instant::now() + Duration::from_secs(10));
        assert!(trial.read.lock().unwrap().ends_with(&format!("{lost} lost\n")));
    }

    #[test]
    fn lines_that_fail_are_counted_and_reported_when_writing_works_again() {
        let trial = begin();
        trial.allow.send(Err(io::ErrorKind::StorageFull)).unwrap();
        trial.lines.push(b"one\ntwo\n");
        trial.lines.flush(Instant::now() + Duration::from_secs(10));
        assert_eq!(trial.lines.lost(), 2);
        // The next write breaks off within a line.
        trial.allow.send(Ok(2)).unwrap();
        trial.allow.send(Err(io::ErrorKind::BrokenPipe)).unwrap();
        trial.lines.push(b"three\n");
        trial.lines.flush(Instant::now() + Duration::from_secs(10));
        for _ in 0..4 {
            trial.allow.send(Ok(usize::MAX)).unwrap();
        }
        trial.lines.push(b"four\n");
        trial.lines.flush(Instant::now() + Duration::from_secs(10));
        assert_eq!(*trial.read.lock().unwrap(), "th\nfour\n3 lost\n");
    }

    #[test]
    fn a_descriptor_that_does_not_block_is_tried_again() {
        let trial = begin();
        for step in [Err(io::ErrorKind::WouldBlock), Ok(1), Err(io::ErrorKind::Interrupted), Ok(usize::MAX)] {
            trial.allow.send(step).unwrap();
        }
        trial.lines.push(b"one\n");
        trial.lines.flush(Instant::now() + Duration::from_secs(10));
        assert_eq!(*trial.read.lock().unwrap(), "one\n");
        assert_eq!(trial.lines.lost(), 0);
    }
}
