//! Writes to standard error in the background: nothing waits for its reader.

use std::time::{Duration, Instant};

pub use log_lines::say;

/// How long shutdown waits for queued lines.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Waits until all queued lines have been written, for at most a second. Call it last.
pub fn flush() {
    log_lines::flush(Instant::now() + LAST_WAIT);
}

/// Prints panics like other lines.
pub fn install_panic_hook() {
    log_lines::install_panic_hook(|fault| say(&format!("dev-idp: {fault}")));
}
