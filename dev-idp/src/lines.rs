//! Lines for standard error, written by a thread of its own from a bounded queue: a reader that stands still or goes away costs lines, and
//! nothing waits for it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// How many lines wait to be written at most.
const MOST: usize = 256;
/// How long the end of the program waits for what is queued.
const LAST_WAIT: Duration = Duration::from_secs(1);

enum Turn {
    Line(String),
    /// All that was said before has been written when this is answered.
    Flush(SyncSender<()>),
}

struct Queue {
    turns: SyncSender<Turn>,
    lost: Arc<AtomicU64>,
}

fn queue() -> &'static Queue {
    static QUEUE: OnceLock<Queue> = OnceLock::new();
    QUEUE.get_or_init(|| {
        let (turns, queued) = sync_channel(MOST);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        // A descriptor of its own: whoever else writes to standard error must not wait for a lock that is held while nobody reads.
        if let Ok(descriptor) = io::stderr().as_fd().try_clone_to_owned() {
            // Without the thread all lines are lost, and counted.
            let _started = thread::Builder::new()
                .name("lines".to_owned())
                .spawn(move || write_out(&queued, &mut File::from(descriptor), &counted));
        }
        Queue { turns, lost }
    })
}

fn write_out(queued: &Receiver<Turn>, out: &mut impl io::Write, lost: &AtomicU64) {
    for turn in queued {
        match turn {
            Turn::Line(line) => {
                if out.write_all(line.as_bytes()).is_err() {
                    lost.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let missed = lost.swap(0, Ordering::Relaxed);
                if missed > 0 && writeln!(out, "dev-idp: {missed} lines could not be written and are lost").is_err() {
                    lost.fetch_add(missed, Ordering::Relaxed);
                }
            }
            // Whoever asked has waited long enough, or reads it.
            Turn::Flush(done) => drop(done.try_send(())),
        }
    }
}

/// Says something on standard error, without waiting for whoever reads it.
pub fn say(text: &str) {
    let mut line = text.trim_end().to_owned();
    line.push('\n');
    let queue = queue();
    if queue.turns.try_send(Turn::Line(line)).is_err() {
        queue.lost.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until what was said has been written, but no longer than a second. Call it last.
pub fn flush() {
    let (done, written) = sync_channel(1);
    let until = Instant::now() + LAST_WAIT;
    let mut turn = Turn::Flush(done);
    while let Err(std::sync::mpsc::TrySendError::Full(back)) = queue().turns.try_send(turn) {
        if Instant::now() >= until {
            return;
        }
        turn = back;
        thread::sleep(Duration::from_millis(5));
    }
    let _in_time = written.recv_timeout(until.saturating_duration_since(Instant::now()));
}

/// Sends what a panic has to say the same way as other lines: the library's own hook would wait for the reader.
pub fn heed_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let reason = panic.payload_as_str().unwrap_or("without a reason").escape_debug();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        say(&format!("dev-idp: a fault in the program at {place}: {reason}"));
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails as often as it is told to.
    struct Failing(usize, Vec<u8>);

    impl io::Write for Failing {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            if self.0 > 0 {
                self.0 -= 1;
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.1.extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_fail_are_counted_and_told_when_writing_works_again() {
        let (turns, queued) = sync_channel(MOST);
        for line in ["one\n", "two\n", "three\n"] {
            turns.send(Turn::Line(line.to_owned())).unwrap();
        }
        drop(turns);
        let (mut out, lost) = (Failing(2, Vec::new()), AtomicU64::new(0));
        write_out(&queued, &mut out, &lost);
        assert_eq!(out.1, b"three\ndev-idp: 2 lines could not be written and are lost\n");
        assert_eq!(lost.into_inner(), 0);
    }
}
