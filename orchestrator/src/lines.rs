//! Lines for standard error, from one bounded queue that a thread of its own writes out: a reader that stands still or goes
//! away costs lines, never a request. The proxy does the same, with the tests of the queue.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How much waits to be written at most, in bytes. Twice as much is held while what was taken is being written.
const MOST: usize = 1024 * 1024;
/// How long the end of the program waits for what is queued.
const LAST_WAIT: Duration = Duration::from_secs(1);
/// When a descriptor that does not block, and takes nothing, is tried again.
const AGAIN: Duration = Duration::from_millis(20);

/// Lines on their way out.
struct Lines {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    lost: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    /// Whether what was taken is still being written.
    writing: bool,
}

impl Lines {
    const fn new() -> Self {
        let waiting = Waiting { text: Vec::new(), writing: false };
        Self { waiting: Mutex::new(waiting), changed: Condvar::new(), lost: AtomicU64::new(0) }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues whole lines; where there is no room they are lost, and counted.
    fn push(&self, lines: &[u8]) {
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

    fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Writes out what is queued, for ever. `told` is called with the number of lines lost since the last time, once writing works.
    fn write_out(&self, mut out: impl Write, told: impl Fn(u64)) {
        let (mut text, mut torn, mut known) = (Vec::new(), false, 0);
        loop {
            let mut waiting = self.waiting();
            waiting.writing = false;
            self.changed.notify_all();
            while waiting.text.is_empty() {
                waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            waiting.writing = true;
            std::mem::swap(&mut text, &mut waiting.text);
            drop(waiting);
            // A line that broke off must not run into the next one.
            let whole = !torn || write_all(&mut out, b"\n") == 1;
            let written = if whole { write_all(&mut out, &text) } else { 0 };
            torn = if written > 0 { text.get(written - 1) != Some(&b'\n') } else { torn };
            let rest = text.get(written..).unwrap_or_default();
            if !rest.is_empty() {
                self.lose(rest);
            } else if self.lost() > known && self.waiting().text.len() < MOST / 2 {
                // Not while the queue is full, or this line would be lost too.
                let lost = self.lost();
                told(lost - known);
                known = lost;
            }
            text.clear();
        }
    }

    /// Waits until all that is queued was written, but no longer than `limit`.
    fn flush(&self, limit: Duration) {
        let until = Instant::now() + limit;
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

/// How much of it was written before an error.
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

/// What goes to standard error. Its writer starts with the first line.
fn standard_error() -> &'static Lines {
    static LINES: Lines = Lines::new();
    static WRITER: OnceLock<()> = OnceLock::new();
    WRITER.get_or_init(|| {
        // A descriptor of its own: whoever else writes to standard error must not wait for a lock that is held while nobody reads.
        let Ok(descriptor) = io::stderr().as_fd().try_clone_to_owned() else { return };
        // Without the thread the queue fills up, and lines are lost and counted.
        let _started = thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || LINES.write_out(File::from(descriptor), tell_lost));
    });
    &LINES
}

fn tell_lost(lost: u64) {
    tracing::warn!(
        lost,
        "{lost} lines of the log could not be written and are lost: whoever reads it was too slow, or away"
    );
}

/// Says something on standard error beside the log: what a command found, why the program ends.
pub fn say(text: &str) {
    let mut line = text.trim_end().to_owned();
    line.push('\n');
    standard_error().push(line.as_bytes());
}

/// Waits until what was logged and said has been written, but no longer than a second. Call it last.
pub fn flush() {
    standard_error().flush(LAST_WAIT);
}

/// How many lines could not be written since the start.
#[must_use]
pub fn lost_lines() -> u64 {
    standard_error().lost()
}

/// Sends what a panic has to say the same way as other lines: the library's own hook would wait for the reader.
pub fn heed_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let reason = panic.payload_as_str().unwrap_or("without a reason").escape_debug();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        say(&format!("orchestrator: a fault in the program at {place}: {reason}"));
    }));
}

/// Takes one formatted line of the log.
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
