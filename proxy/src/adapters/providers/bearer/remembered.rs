//! Tokens that were verified lately, by a hash of each: for a minute at most, and never past their end.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use moka::sync::Cache;

use super::verdict::Accepted;
use crate::domain::session::SessionKey;
use crate::domain::time::Timestamp;
use crate::ports::LoadedSession;

/// How long a token is believed without another look.
const LASTS: Duration = Duration::from_secs(60);
/// What they may take together, in bytes.
const MOST: u64 = 16 * 1024 * 1024;
/// What one takes beside what its token says.
const EACH: usize = 1024;

/// The hash that a token is known by.
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

/// The tokens of one set of settings: with other settings there is another set.
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
    /// Who the token is, where that was verified within the last minute.
    pub(super) fn find(&self, key: &SessionKey, now: Timestamp) -> Option<Arc<LoadedSession>> {
        // Where the clock is set back meanwhile, the cache forgets it after a minute all the same.
        self.entries.get(key).filter(|entry| now < entry.until).map(|entry| entry.session)
    }

    /// Remembers what a token of so many bytes was found to be.
    pub(super) fn keep(&self, key: SessionKey, bytes: usize, accepted: &Accepted, now: Timestamp) {
        let until = accepted.expires_at.min(now + LASTS);
        if now < until {
            let weight = u32::try_from(bytes.saturating_mul(4).saturating_add(EACH)).unwrap_or(u32::MAX);
            self.entries.insert(key, Entry { session: Arc::clone(&accepted.session), until, weight });
        }
    }
}
