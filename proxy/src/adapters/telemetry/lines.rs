//! The log's lines, written in the background: no request waits for their reader.

pub use log_lines::{Output, lost_lines, say};

/// Reports lost lines and panics in the format of the log.
pub fn install_log_hooks() {
    log_lines::tell_lost_by(|lost| tracing::warn!(lost, "{}", log_lines::lost_in_words(lost)));
    log_lines::heed_panics(|fault| {
        if tracing::dispatcher::has_been_set() {
            tracing::error!("{fault}");
        } else {
            say(&format!("sidegate: {fault}"));
        }
    });
}
