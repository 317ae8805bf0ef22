//! Sessions in this process's memory: gone when it ends, and bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::domain::identity::{Email, Identity};
use crate::domain::session::{Session, SessionToken};
use crate::domain::time::Timestamp;
use crate::ports::{LoadedSession, Pending, SessionStore, StoreUnavailable};

/// What all sessions together may take, in bytes: beyond it the longest unused goes first.
const CAPACITY: u64 = 128 * 1024 * 1024;

/// What a session takes beside its texts: the record, its ready headers, a signed assertion and the cache's own share.
const BASE_WEIGHT: usize = 2048;

/// Sessions by the hash of their token, so that the memory of the process shows no token.
pub struct MemoryStore {
    sessions: Cache<Key, Arc<LoadedSession>>,
    /// Milliseconds; zero: no idle limit.
    idle: AtomicU64,
    evicted: Arc<AtomicU64>,
}

type Key = [u8; 32];

impl MemoryStore {
    /// An empty store. `idle`: how long a session may go unused; zero: for ever.
    #[must_use]
    pub fn new(idle: Duration) -> Self {
        Self::with_capacity(idle, CAPACITY)
    }

    fn with_capacity(idle: Duration, capacity: u64) -> Self {
        let evicted = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&evicted);
        let sessions = Cache::builder()
            // The default policy would refuse a new sign-in while the cache is full of sessions in use.
            .eviction_policy(EvictionPolicy::lru())
            .max_capacity(capacity)
            .weigher(|_, session: &Arc<LoadedSession>| weight(&session.session().identity))
            .eviction_listener(move |_, session, cause| {
                session.end();
                if cause == RemovalCause::Size {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
            .support_invalidation_closures()
            .build();
        let store = Self { sessions, idle: AtomicU64::new(0), evicted };
        store.set_idle(idle);
        store
    }

    /// Changes how long a session may go unused, after a reload.
    pub fn set_idle(&self, idle: Duration) {
        self.idle.store(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn idle(&self) -> Duration {
        Duration::from_millis(self.idle.load(Ordering::Relaxed))
    }

    /// Lets what is beyond the capacity go; the cache does it by itself only when it is used.
    pub fn settle(&self) {
        self.sessions.run_pending_tasks();
    }

    /// Ends all sessions: whoever vouched for them is not asked any more.
    pub fn end_all(&self) {
        for (key, session) in &self.sessions {
            session.end();
            self.sessions.invalidate(key.as_ref());
        }
    }

    /// Sessions that were ended early because the store was full.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }
}

impl SessionStore for MemoryStore {
    fn hot(&self, token: &SessionToken, now: Timestamp) -> Option<Arc<LoadedSession>> {
        let key = key(token);
        let session = self.sessions.get(&key)?;
        if !session.is_live(self.idle(), now) {
            self.sessions.invalidate(&key);
            return None;
        }
        session.touch(now);
        Some(session)
    }

    fn load<'a>(
        &'a self,
        token: &'a SessionToken,
        now: Timestamp,
    ) -> Pending<'a, Result<Option<Arc<LoadedSession>>, StoreUnavailable>> {
        Box::pin(std::future::ready(Ok(self.hot(token, now))))
    }

    fn save<'a>(
        &'a self,
        token: &'a SessionToken,
        session: Session,
        now: Timestamp,
    ) -> Pending<'a, Result<(), StoreUnavailable>> {
        self.sessions.insert(key(token), Arc::new(LoadedSession::new(session, now)));
        Box::pin(std::future::ready(Ok(())))
    }

    fn end<'a>(&'a self, token: &'a SessionToken) -> Pending<'a, Result<(), StoreUnavailable>> {
        // Noted at once: the cache tells of a removal only later.
        if let Some(session) = self.sessions.remove(&key(token)) {
            session.end();
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn sweep(&self, now: Timestamp) {
        let idle = self.idle();
        let dead = move |_: &Key, session: &Arc<LoadedSession>| !session.is_live(idle, now);
        // Refused only where closures are not supported, which the builder asked for.
        if let Err(error) = self.sessions.invalidate_entries_if(dead) {
            tracing::error!(%error, "expired sessions are not swept; each still ends when it is next asked for");
        }
        self.sessions.run_pending_tasks();
    }

    fn held(&self) -> u64 {
        self.sessions.entry_count()
    }

    fn trouble(&self) -> Option<String> {
        None
    }
}

fn key(token: &SessionToken) -> Key {
    let mut key = Key::default();
    for (to, from) in key.iter_mut().zip(digest(&SHA256, token.expose().as_bytes()).as_ref()) {
        *to = *from;
    }
    key
}

/// Each text is held twice: in the session, and in its ready header.
fn weight(identity: &Identity) -> u32 {
    let texts = [identity.id.len(), identity.name.len(), identity.username.as_str().len()];
    let email = identity.email.as_ref().map_or(0, |email| Email::as_str(email).len());
    let groups: usize = identity.groups.iter().map(|group| group.len() + 32).sum();
    let bytes = BASE_WEIGHT + 2 * (texts.iter().sum::<usize>() + email + groups);
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::identity::{ProviderKind, Username};
    use crate::domain::session::Lifetime;

    const HOUR: Duration = Duration::from_secs(3600);

    fn session(now: Timestamp) -> Session {
        let identity = Identity {
            provider: ProviderKind::Github,
            id: "1".into(),
            email: None,
            name: "Ann".into(),
            username: Username::Vouched("ann".into()),
            groups: Vec::new(),
        };
        Session::begin(identity, Lifetime { absolute: HOUR, idle: Duration::ZERO }, now)
    }

    fn token(n: u8) -> SessionToken {
        SessionToken::from_random([n; 32])
    }

    #[tokio::test]
    async fn a_session_is_there_until_it_expires_or_is_ended() {
        let (store, now) = (MemoryStore::new(Duration::ZERO), Timestamp::from_secs(1000));
        store.save(&token(1), session(now), now).await.unwrap();
        store.save(&token(2), session(now), now).await.unwrap();
        assert!(store.hot(&token(1), now + HOUR.saturating_sub(Duration::from_secs(1))).is_some());
        assert!(store.hot(&token(1), now + HOUR).is_none());
        store.end(&token(2)).await.unwrap();
        assert!(store.load(&token(2), now).await.unwrap().is_none());
        assert!(store.hot(&token(3), now).is_none());
    }

    #[tokio::test]
    async fn use_keeps_a_session_from_going_idle() {
        let (store, now) = (MemoryStore::new(Duration::from_secs(60)), Timestamp::from_secs(1000));
        store.save(&token(1), session(now), now).await.unwrap();
        assert!(store.hot(&token(1), Timestamp::from_secs(1059)).is_some());
        assert!(store.hot(&token(1), Timestamp::from_secs(1118)).is_some());
        assert!(store.hot(&token(1), Timestamp::from_secs(1178)).is_none());
        assert!(store.hot(&token(1), Timestamp::from_secs(1119)).is_none(), "ended is ended");
    }

    #[tokio::test]
    async fn a_full_store_lets_the_longest_unused_go() {
        let (store, now) = (MemoryStore::with_capacity(Duration::ZERO, 10 * 2200), Timestamp::from_secs(1000));
        for n in 1..=20 {
            store.save(&token(n), session(now), now).await.unwrap();
            assert!(store.hot(&token(1), now).is_some(), "the one in use stays");
            store.sweep(now);
        }
        assert!(store.hot(&token(20), now).is_some(), "a new sign-in is never refused");
        assert!(store.hot(&token(2), now).is_none());
        assert!(store.evicted() >= 9);
    }

    #[tokio::test]
    async fn what_expired_is_swept() {
        let (store, now) = (MemoryStore::new(Duration::ZERO), Timestamp::from_secs(1000));
        store.save(&token(1), session(now), now).await.unwrap();
        store.sweep(now);
        assert_eq!(store.held(), 1);
        store.sweep(now + HOUR);
        store.sweep(now + HOUR);
        assert_eq!(store.held(), 0);
    }
}
