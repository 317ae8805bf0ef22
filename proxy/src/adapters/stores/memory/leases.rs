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

    /// Returns a lease; says whether its holder still had it.
    pub(super) fn give_back(&self, key: SessionKey, ticket: u64) -> bool {
        let mut taken = self.taken();
        let is_ours = taken.get(&key).is_some_and(|(holder, _)| *holder == ticket);
        if is_ours {
            taken.remove(&key);
        }
        is_ours
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
        assert!(!leases.give_back(key, first), "another has it now");
        assert!(leases.give_back(key, second) && !leases.give_back(key, second));
        let third = leases.take(key, now).unwrap();
        leases.sweep(now + LEASE);
        assert!(!leases.give_back(key, third));
    }
}
