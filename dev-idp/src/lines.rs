//! What the program says on standard error: nothing waits for who reads it.

use std::time::{Duration, Instant};

pub use log_lines::say;

/// How long the end of the program waits for what is queued.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Waits until what was said has been written, but no longer than a second. Call it last.
pub fn flush() {
    log_lines::flush(Instant::now() + LAST_WAIT);
}

/// Has panics said as other lines are.
pub fn heed_panics() {
    log_lines::heed_panics(|fault| say(&format!("dev-idp: {fault}")));
}
