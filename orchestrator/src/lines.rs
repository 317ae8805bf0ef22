//! Writes log lines in the background: no request waits for the reader of the log.

use std::time::{Duration, Instant};

pub use log_lines::{LogLine, lost_lines, say};

/// How long shutdown waits for queued lines.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Reports lost lines in the format of the log, and logs panics as lines like any other.
pub fn start() {
    log_lines::set_lost_reporter(|lost| tracing::warn!(lost, "{}", log_lines::lost_in_words(lost)));
    log_lines::install_panic_hook(|fault| say(&format!("orchestrator: {fault}")));
}

/// Waits until all queued output has been written, for at most a second. Call it last.
pub fn flush() {
    log_lines::flush(Instant::now() + LAST_WAIT);
}
