//! How many used sign-in states this replica may write to the store, so that strangers cannot fill it.

use std::sync::{Mutex, PoisonError};

use crate::domain::login::ATTEMPT_LIFETIME;
use crate::domain::time::Timestamp;

/// How many in the time that a sign-in may take, which is how long each stays in the store. With some 200 bytes each, they take 4 MB.
const MOST: usize = 20_000;

/// Counts the states written since a moment.
#[derive(Default)]
pub(super) struct SharedStates(Mutex<Option<(Timestamp, usize)>>);

impl SharedStates {
    /// Counts one more; returns whether it may be written.
    pub(super) fn has_room(&self, now: Timestamp) -> bool {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (began, count) = held.filter(|(began, _)| now.since(*began) < ATTEMPT_LIFETIME).unwrap_or((now, 0));
        let has_room = count < MOST;
        *held = Some((began, count + usize::from(has_room)));
        has_room
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn so_many_are_written_in_the_time_of_a_sign_in_and_again_after_it() {
        let (shared, now) = (SharedStates::default(), Timestamp::from_secs(1000));
        let later = now + ATTEMPT_LIFETIME.saturating_sub(Duration::from_secs(1));
        assert!((0..MOST).all(|_| shared.has_room(now)));
        assert!(!shared.has_room(now) && !shared.has_room(later));
        assert!((0..MOST).all(|_| shared.has_room(now + ATTEMPT_LIFETIME)));
        assert!(!shared.has_room(now + ATTEMPT_LIFETIME));
    }
}
