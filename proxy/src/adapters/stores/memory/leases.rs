//! The leases to renew sessions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::session::SessionKey;
use crate::domain::time::Timestamp;
use crate::ports::LEASE;

/// Leases to renew sessions, at most one for each session at a time.
#[derive(Default)]
pub(super) struct LeaseTable {
    taken: Mutex<HashMap<SessionKey, (u64, Timestamp)>>,
    tickets: AtomicU64,
}

/// Who had a lease when it was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// Who gave it back.
    Giver,
    /// Nobody any more: it had expired.
    Nobody,
    /// Somebody who has taken it since.
    Another,
}

impl LeaseTable {
    /// Takes the lease for a session; `None` if it is taken.
    pub(super) fn take(&self, key: SessionKey, now: Timestamp) -> Option<u64> {
        let mut taken = self.taken();
        if taken.get(&key).is_some_and(|(_, until)| now < *until) {
            return None;
        }
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        taken.insert(key, (ticket, now + LEASE));
        Some(ticket)
    }

    /// Returns a lease; says who had it until now.
    pub(super) fn give_back(&self, key: SessionKey, ticket: u64) -> Holder {
        let mut taken = self.taken();
        match taken.get(&key) {
            None => Holder::Nobody,
            Some((holder, _)) if *holder == ticket => {
                taken.remove(&key);
                Holder::Giver
            }
            Some(_) => Holder::Another,
        }
    }

    /// Drops expired leases.
    pub(super) fn sweep(&self, now: Timestamp) {
        self.taken().retain(|_, (_, until)| now < *until);
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<SessionKey, (u64, Timestamp)>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leave_is_one_at_a_time_and_runs_out() {
        let (leases, now, key) = (LeaseTable::default(), Timestamp::from_secs(1000), SessionKey([1; 32]));
        let first = leases.take(key, now).unwrap();
        assert!(leases.take(key, now).is_none());
        assert!(leases.take(SessionKey([2; 32]), now).is_some());
        let second = leases.take(key, now + LEASE).unwrap();
        assert_eq!(leases.give_back(key, first), Holder::Another);
        assert_eq!(leases.give_back(key, second), Holder::Giver);
        assert_eq!(leases.give_back(key, second), Holder::Nobody, "it counts once");
        let third = leases.take(key, now).unwrap();
        leases.sweep(now + LEASE);
        assert_eq!(leases.give_back(key, third), Holder::Nobody);
    }
}
