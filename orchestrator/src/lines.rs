//! The log's lines, written beside requests: nothing waits for who reads them.

use std::time::{Duration, Instant};

pub use log_lines::{LogLine, lost_lines, say};

/// How long the end of the program waits for what is queued.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Has lost lines told in the form of the log, and panics as lines like any other.
pub fn start() {
    log_lines::tell_lost_by(|lost| tracing::warn!(lost, "{}", log_lines::lost_in_words(lost)));
    log_lines::heed_panics(|fault| say(&format!("orchestrator: {fault}")));
}

/// Waits until what was logged and said has been written, but no longer than a second. Call it last.
pub fn flush() {
    log_lines::flush(Instant::now() + LAST_WAIT);
}
