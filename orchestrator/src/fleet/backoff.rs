//! The delay before the next attempt.

use std::time::Duration;

use tokio::time::Instant;

/// The longest delay.
const MOST: Duration = Duration::from_secs(30);
/// After this time without a fault the delays start small again.
const RESET_AFTER: Duration = Duration::from_secs(60);

/// Delays that double with each fault, up to 30 s, with jitter: clusters that failed together do not all retry at once.
pub(super) struct Backoff {
    least: Duration,
    next: Duration,
    last: Option<Instant>,
}

impl Backoff {
    pub(super) fn new(least: Duration) -> Self {
        Self { least, next: least, last: None }
    }

    /// Resets the delay after a success.
    pub(super) fn reset(&mut self) {
        self.next = self.least;
    }

    /// The delay after this fault: between half of the current delay and all of it.
    pub(super) fn next(&mut self) -> Duration {
        let now = Instant::now();
        if self.last.is_some_and(|last| now.duration_since(last) > RESET_AFTER) {
            self.reset();
        }
        self.last = Some(now);
        let wait = self.next;
        self.next = (wait * 2).min(MOST);
        wait.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn delays_double_up_to_a_limit_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        for longest in [1, 2, 4, 8, 16, 30, 30] {
            let (wait, longest) = (backoff.next(), Duration::from_secs(longest));
            assert!(wait >= longest / 2 && wait <= longest, "{wait:?} of {longest:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_secs(1));
    }
}
