//! Recently verified tokens, by their hash: for a minute at most, and never past their expiry.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use moka::sync::Cache;

use super::verdict::Accepted;
use crate::domain::session::SessionKey;
use crate::domain::time::Timestamp;
use crate::ports::LoadedSession;

/// How long a verified token is accepted without another check.
const LASTS: Duration = Duration::from_secs(60);
/// The limit for all of them together, in bytes.
const MOST: u64 = 16 * 1024 * 1024;
/// The overhead of one beside its token's content.
const EACH: usize = 1024;

/// The hash that identifies a token.
pub(super) fn key_of(token: &str) -> SessionKey {
    let mut key = [0; 32];
    for (to, from) in key.iter_mut().zip(digest(&SHA256, token.as_bytes()).as_ref()) {
        *to = *from;
    }
    SessionKey(key)
}

#[derive(Clone)]
struct Entry {
    session: Arc<LoadedSession>,
    until: Timestamp,
    weight: u32,
}

/// The verified tokens under one set of settings: other settings have a cache of their own.
pub(super) struct Remembered {
    entries: Cache<SessionKey, Entry>,
}

impl Default for Remembered {
    fn default() -> Self {
        let weigh = |_: &SessionKey, entry: &Entry| entry.weight;
        Self { entries: Cache::builder().max_capacity(MOST).weigher(weigh).time_to_live(LASTS).build() }
    }
}

impl Remembered {
    /// The session of the token, if that was verified within the last minute.
    pub(super) fn find(&self, key: &SessionKey, now: Timestamp) -> Option<Arc<LoadedSession>> {
        // If the clock is set back, the cache still drops the token after a minute.
        self.entries.get(key).filter(|entry| now < entry.until).map(|entry| entry.session)
    }

    /// Caches the result for a token of `bytes` bytes.
    pub(super) fn keep(&self, key: SessionKey, bytes: usize, accepted: &Accepted, now: Timestamp) {
        let until = accepted.expires_at.min(now + LASTS);
        if now < until {
            let weight = u32::try_from(bytes.saturating_mul(4).saturating_add(EACH)).unwrap_or(u32::MAX);
            self.entries.insert(key, Entry { session: Arc::clone(&accepted.session), until, weight });
        }
    }
}
