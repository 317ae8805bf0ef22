//! The pauses between retries.

use std::time::Duration;

/// The longest pause, in seconds.
const LONGEST: u64 = 60;

/// Pauses of one second, doubling up to a minute.
#[derive(Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after one more failure.
    pub(super) fn failed(&mut self) -> Duration {
        let pause = 1_u64.checked_shl(self.failures).unwrap_or(LONGEST).min(LONGEST);
        self.failures = self.failures.saturating_add(1).min(u64::BITS - 1);
        Duration::from_secs(pause)
    }

    /// Resets the pauses.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_minute_and_start_over() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u64> = (0..9).map(|_| backoff.failed().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        for _ in 0..200 {
            assert!(backoff.failed().as_secs() <= 60);
        }
        backoff.succeeded();
        assert_eq!(backoff.failed().as_secs(), 1);
    }
}
