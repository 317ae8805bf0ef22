//! Values that may be used only once, remembered by this process.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::time::Timestamp;
use crate::ports::StoreUnavailable;

/// How many values are remembered at a time.
const MOST: usize = 10_000;

/// Used values, and until when each must not be used again.
#[derive(Default)]
pub(super) struct Once(Mutex<HashMap<String, Timestamp>>);

impl Once {
    /// Whether `what` was noted, and its time has not passed.
    pub(super) fn has_come(&self, what: &str, now: Timestamp) -> bool {
        self.seen().get(what).is_some_and(|until| now < *until)
    }

    /// Remembers `what` until then.
    ///
    /// # Errors
    /// If too many values are remembered already.
    pub(super) fn note(&self, what: &str, until: Timestamp, now: Timestamp) -> Result<(), StoreUnavailable> {
        let mut seen = self.seen();
        if seen.len() >= MOST {
            seen.retain(|_, until| now < *until);
        }
        if seen.len() >= MOST && !seen.contains_key(what) {
            return Err(StoreUnavailable("too many logout tokens at once".to_owned()));
        }
        seen.insert(what.to_owned(), until);
        Ok(())
    }

    /// Drops values whose time has passed.
    pub(super) fn sweep(&self, now: Timestamp) {
        self.seen().retain(|_, until| now < *until);
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<String, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn what_was_noted_has_come_until_it_may_come_again() {
        let (once, now) = (Once::default(), Timestamp::from_secs(1000));
        assert!(!once.has_come("a", now));
        once.note("a", now + HOUR, now).unwrap();
        assert!(once.has_come("a", now));
        assert!(!once.has_come("a", now + HOUR));
        once.note("a", now + HOUR + HOUR, now + HOUR).unwrap();
        assert!(once.has_come("a", now + HOUR));
    }

    #[test]
    fn only_so_much_is_remembered() {
        let (once, now) = (Once::default(), Timestamp::from_secs(1000));
        for n in 0..MOST {
            once.note(&n.to_string(), now + HOUR, now).unwrap();
        }
        assert!(once.note("one more", now + HOUR, now).is_err());
        assert!(once.note("7", now + HOUR, now).is_ok() && once.has_come("7", now));
        once.sweep(now);
        assert!(once.note("one more", now + HOUR, now).is_err());
        assert!(once.note("one more", now + HOUR + HOUR, now + HOUR).is_ok(), "room comes back with time");
    }
}
