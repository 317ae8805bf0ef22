//! Signatures of assertions, kept for a moment longer than their sessions are held ready.

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::key::ByKey;
use crate::adapters::assertion;
use crate::domain::session::SessionKey;
use crate::ports::{LoadedSession, Signed};

/// One in this many bytes of the memory for sessions is for signatures.
const PART: u64 = 8;

/// What one takes with the cache's overhead, in bytes.
const ENTRY: u64 = 448;

/// The signatures of sessions that were dropped from memory for lack of room: one that comes back soon needs no new signature, which costs
/// several times as much as anything else about it.
pub(super) struct Signatures(Cache<SessionKey, Signed, ByKey>);

impl Signatures {
    /// Of `bytes` of memory for sessions, how much is left beside signatures.
    pub(super) const fn room_beside(bytes: u64) -> u64 {
        bytes - bytes / PART
    }

    /// For a store with `bytes` of memory for sessions.
    pub(super) fn new(bytes: u64) -> Self {
        let cache = Cache::builder()
            .eviction_policy(EvictionPolicy::lru())
            .max_capacity(bytes / PART / ENTRY)
            .time_to_live(assertion::REUSE)
            .build_with_hasher(ByKey::default());
        Self(cache)
    }

    /// Keeps what a session's last assertion was signed with.
    pub(super) fn keep(&self, session: &LoadedSession) {
        if let Some(signed) = session.signed() {
            self.0.insert(session.key(), signed);
        }
    }

    /// Gives it to a session that is made ready again.
    pub(super) fn give(&self, session: LoadedSession) -> LoadedSession {
        // It stays: of several requests at once, each makes the session ready.
        let signed = self.0.get(&session.key());
        session.with_signed(signed.map(Box::new))
    }

    pub(super) fn sweep(&self) {
        self.0.run_pending_tasks();
    }
}
