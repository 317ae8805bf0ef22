//! What counts once only, remembered by this process.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::domain::time::Timestamp;
use crate::ports::StoreUnavailable;

/// How many things are remembered at a time.
const MOST: usize = 10_000;

/// What has come once, and until when it must not come again.
#[derive(Default)]
pub(super) struct Once(Mutex<HashMap<String, Timestamp>>);

impl Once {
    /// Notes `what` until then; whether this was the first time.
    ///
    /// # Errors
    /// While too much is remembered: what cannot be noted must not count.
    pub(super) fn is_first(&self, what: &str, until: Timestamp, now: Timestamp) -> Result<bool, StoreUnavailable> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MOST {
            seen.retain(|_, until| now < *until);
        }
        if seen.get(what).is_some_and(|until| now < *until) {
            return Ok(false);
        }
        if seen.len() >= MOST {
            return Err(StoreUnavailable("too many logout tokens at once".to_owned()));
        }
        seen.insert(what.to_owned(), until);
        Ok(true)
    }

    /// Forgets what may come again.
    pub(super) fn sweep(&self, now: Timestamp) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, until| now < *until);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn what_counts_once_counts_once() {
        let (once, now) = (Once::default(), Timestamp::from_secs(1000));
        assert!(once.is_first("a", now + HOUR, now).unwrap());
        assert!(!once.is_first("a", now + HOUR, now).unwrap());
        assert!(once.is_first("a", now + HOUR + HOUR, now + HOUR).unwrap());
    }

    #[test]
    fn what_cannot_be_noted_does_not_count() {
        let (once, now) = (Once::default(), Timestamp::from_secs(1000));
        for n in 0..MOST {
            assert!(once.is_first(&n.to_string(), now + HOUR, now).unwrap());
        }
        assert!(once.is_first("one more", now + HOUR, now).is_err());
        assert!(!once.is_first("7", now + HOUR, now).unwrap());
        once.sweep(now);
        assert!(once.is_first("one more", now + HOUR, now).is_err());
        assert!(once.is_first("one more", now + HOUR + HOUR, now + HOUR).unwrap(), "room comes back with time");
    }
}
