//! The log's lines, written in the background: no request waits for their reader.

pub use log_lines::{Output, lost_lines, say};

/// Reports lost lines and panics in the format of the log.
pub fn install_log_hooks() {
    log_lines::set_lost_reporter(|lost| tracing::warn!(lost, "{}", log_lines::lost_in_words(lost)));
    log_lines::install_panic_hook(|fault| {
        if tracing::dispatcher::has_been_set() {
            tracing::error!("{fault}");
        } else {
            say(&format!("sidegate: {fault}"));
        }
    });
}
