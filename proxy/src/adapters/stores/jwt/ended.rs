//! The sessions that ended on this replica, each remembered until it would have expired.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use crate::domain::session::{Session, SessionKey};
use crate::domain::time::Timestamp;

/// How many are remembered, at about 100 bytes each.
pub(super) const MOST: usize = 200_000;

/// How many of them may be one person's, so that their sign-ins and sign-outs do not take all others' room.
pub(super) const MOST_OF_ONE: usize = MOST / 16;

/// The ended sessions. Only unexpired sessions that we have signed are added: otherwise made-up ones could fill it.
#[derive(Default)]
pub(super) struct Ended {
    /// When each would have expired, and the hash of its person.
    sessions: HashMap<SessionKey, (Timestamp, u64)>,
    /// How many are of each person.
    persons: HashMap<u64, usize>,
    hasher: RandomState,
}

/// Why a session cannot be remembered as ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoRoom {
    /// There are too many.
    #[error("the store remembers {MOST} ended sessions, and has no room for another")]
    Full,
    /// There are too many of this person.
    #[error("the store remembers {MOST_OF_ONE} ended sessions of this person, and has no room for another of theirs")]
    OfPerson,
}

impl Ended {
    /// Remembers that a session has ended.
    ///
    /// # Errors
    /// [`NoRoom`]: nothing is changed.
    pub(super) fn add(&mut self, key: SessionKey, session: &Session) -> Result<(), NoRoom> {
        if self.sessions.contains_key(&key) {
            return Ok(());
        }
        let person = self.hasher.hash_one((session.authority, &session.identity.id));
        if self.persons.get(&person).is_some_and(|count| *count >= MOST_OF_ONE) {
            return Err(NoRoom::OfPerson);
        }
        if self.is_full() {
            return Err(NoRoom::Full);
        }
        self.sessions.insert(key, (session.expires_at, person));
        *self.persons.entry(person).or_default() += 1;
        Ok(())
    }

    /// Whether the session is known to have ended.
    pub(super) fn holds(&self, key: SessionKey) -> bool {
        self.sessions.contains_key(&key)
    }

    /// Whether there is no room for another, whoever's it is.
    pub(super) fn is_full(&self) -> bool {
        self.sessions.len() >= MOST
    }

    /// Forgets those that have expired.
    pub(super) fn sweep(&mut self, now: Timestamp) {
        let persons = &mut self.persons;
        self.sessions.retain(|_, (until, person)| {
            let stays = now < *until;
            if !stays && let Some(count) = persons.get_mut(person) {
                *count = count.saturating_sub(1);
            }
            stays
        });
        persons.retain(|_, count| *count > 0);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.persons.is_empty()
    }
}
