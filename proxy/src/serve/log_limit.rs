//! Limits a log message to once a minute.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::domain::time::Timestamp;

const EVERY: Duration = Duration::from_secs(60);

/// When it was last written, in milliseconds; 0: never.
pub(crate) struct LogLimit(AtomicU64);

impl LogLimit {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Whether to write it now; of several concurrent callers, one gets `true`.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        let last = self.0.load(Ordering::Relaxed);
        let due = last == 0 || now.since(Timestamp::from_millis(last)) >= EVERY;
        due && self.0.compare_exchange(last, now.millis().max(1), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_at_once_and_then_after_a_minute() {
        let limit = LogLimit::new();
        let due = [100, 100, 159, 160, 161, 219, 220].map(|secs| limit.is_due(Timestamp::from_secs(secs)));
        assert_eq!(due, [true, false, false, true, false, false, true]);
    }
}
