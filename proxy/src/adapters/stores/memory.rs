//! Sessions in this process's memory: gone when it ends, and bounded.

use std::collections::HashMap;
use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::notification::RemovalCause;
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::key;
use crate::adapters::seal;
use crate::domain::identity::{Email, Identity};
use crate::domain::session::{Session, SessionKey, SessionToken, Whose};
use crate::domain::time::Timestamp;
use crate::ports::{BeginError, Claim, Leave, LoadedSession, Pending, SessionStore, StoreTerms, StoreUnavailable};

/// How long a leave to renew lasts.
const LEAVE: Duration = Duration::from_secs(30);

/// How many things that count once are remembered.
const ONCE_MOST: usize = 10_000;

/// What all sessions together may take, in bytes: beyond it the longest unused goes first.
const CAPACITY: u64 = 128 * 1024 * 1024;

/// What a session takes beside its texts: the record, its ready headers, a signed assertion and the cache's own share.
const BASE_WEIGHT: usize = 2048;

/// Sessions by the hash of their token, so that the memory of the process shows no token.
pub struct MemoryStore {
    sessions: Cache<SessionKey, Arc<LoadedSession>>,
    /// Milliseconds; zero: no idle limit.
    idle: AtomicU64,
    evicted: Arc<AtomicU64>,
    /// Who renews which session, and until when the leave lasts.
    leaves: Mutex<HashMap<SessionKey, (u64, Timestamp)>>,
    tickets: AtomicU64,
    /// What counts once only, and until when.
    once: Mutex<HashMap<String, Timestamp>>,
}

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
                if cause == RemovalCause::Replaced {
                    return;
                }
                session.end();
                if cause == RemovalCause::Size {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
            .support_invalidation_closures()
            .build();
        let store = Self {
            sessions,
            idle: AtomicU64::new(0),
            evicted,
            leaves: Mutex::default(),
            tickets: AtomicU64::new(0),
            once: Mutex::default(),
        };
        store.set_idle(idle);
        store
    }

    fn set_idle(&self, idle: Duration) {
        self.idle.store(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn idle(&self) -> Duration {
        Duration::from_millis(self.idle.load(Ordering::Relaxed))
    }

    fn live(&self, key: SessionKey, now: Timestamp) -> Option<Arc<LoadedSession>> {
        let session = self.sessions.get(&key)?;
        if !session.is_live(self.idle(), now) {
            self.sessions.invalidate(&key);
            return None;
        }
        Some(session)
    }

    fn leaves(&self) -> MutexGuard<'_, HashMap<SessionKey, (u64, Timestamp)>> {
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, leave: &Leave) -> bool {
        let mut leaves = self.leaves();
        let key = leave.session.key();
        let ours = leaves.get(&key).is_some_and(|(ticket, _)| *ticket == leave.ticket);
        if ours {
            leaves.remove(&key);
        }
        ours
    }
}

impl SessionStore for MemoryStore {
    fn key(&self, token: &SessionToken) -> SessionKey {
        key::of(token)
    }

    fn hot(&self, token: &SessionToken, now: Timestamp) -> Option<Arc<LoadedSession>> {
        let session = self.live(key::of(token), now)?;
        session.touch(now);
        Some(session)
    }

    fn load<'a>(
        &'a self,
        token: &'a SessionToken,
        now: Timestamp,
    ) -> Pending<'a, Result<Option<Arc<LoadedSession>>, StoreUnavailable>> {
        Box::pin(ready(Ok(self.hot(token, now))))
    }

    fn follow<'a>(
        &'a self,
        held: &'a Arc<LoadedSession>,
        used: bool,
        now: Timestamp,
    ) -> Pending<'a, Result<Option<Arc<LoadedSession>>, StoreUnavailable>> {
        let session = self.live(held.key(), now);
        if let Some(session) = session.as_ref().filter(|_| used) {
            session.touch(now);
        }
        Box::pin(ready(Ok(session)))
    }

    fn begin(&self, session: Session, now: Timestamp) -> Pending<'_, Result<SessionToken, BeginError>> {
        let token = seal::random().map(SessionToken::from_random);
        Box::pin(ready(token.map_err(|error| BeginError::Internal(error.to_string())).inspect(|token| {
            let key = key::of(token);
            self.sessions.insert(key, Arc::new(LoadedSession::new(key, session, now)));
        })))
    }

    fn end(&self, key: SessionKey) -> Pending<'_, Result<(), StoreUnavailable>> {
        // Noted at once: the cache tells of a removal only later.
        if let Some(session) = self.sessions.remove(&key) {
            session.end();
        }
        Box::pin(ready(Ok(())))
    }

    fn of<'a>(
        &'a self,
        whose: Whose<'a>,
        now: Timestamp,
    ) -> Pending<'a, Result<Vec<Arc<LoadedSession>>, StoreUnavailable>> {
        let idle = self.idle();
        let mut found: Vec<_> = self
            .sessions
            .iter()
            .map(|(_, session)| session)
            .filter(|session| session.session().is(whose) && session.is_live(idle, now))
            .collect();
        found.sort_unstable_by_key(|session| std::cmp::Reverse(session.session().created_at));
        Box::pin(ready(Ok(found)))
    }

    fn claim(&self, key: SessionKey, now: Timestamp) -> Pending<'_, Result<Claim, StoreUnavailable>> {
        let Some(session) = self.live(key, now) else { return Box::pin(ready(Ok(Claim::Ended))) };
        let mut leaves = self.leaves();
        if leaves.get(&key).is_some_and(|(_, until)| now < *until) {
            return Box::pin(ready(Ok(Claim::Taken)));
        }
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        leaves.insert(key, (ticket, now + LEAVE));
        Box::pin(ready(Ok(Claim::Granted(Leave { session, ticket }))))
    }

    fn renew<'a>(
        &'a self,
        leave: &'a Leave,
        session: Session,
        now: Timestamp,
    ) -> Pending<'a, Result<bool, StoreUnavailable>> {
        let key = leave.session.key();
        let renewed = self.give_back(leave) && self.live(key, now).is_some();
        if renewed {
            let last_seen = leave.session.last_seen();
            let renewed = Arc::new(LoadedSession::new(key, session, last_seen));
            self.sessions.entry(key).and_compute_with(|entry| match entry {
                Some(_) => Op::Put(renewed),
                None => Op::Nop,
            });
        }
        Box::pin(ready(Ok(renewed)))
    }

    fn release<'a>(&'a self, leave: &'a Leave) -> Pending<'a, ()> {
        self.give_back(leave);
        Box::pin(ready(()))
    }

    fn is_first<'a>(
        &'a self,
        what: &'a str,
        until: Timestamp,
        now: Timestamp,
    ) -> Pending<'a, Result<bool, StoreUnavailable>> {
        let mut once = self.once.lock().unwrap_or_else(PoisonError::into_inner);
        once.retain(|_, until| now < *until);
        if once.len() >= ONCE_MOST {
            return Box::pin(ready(Err(StoreUnavailable("too many logout tokens at once".to_owned()))));
        }
        Box::pin(ready(Ok(once.insert(what.to_owned(), until).is_none())))
    }

    fn reconfigure(&self, terms: &StoreTerms) -> Result<(), String> {
        self.set_idle(terms.idle);
        Ok(())
    }

    fn sweep(&self, now: Timestamp) {
        self.leaves().retain(|_, (_, until)| now < *until);
        let idle = self.idle();
        let dead = move |_: &SessionKey, session: &Arc<LoadedSession>| !session.is_live(idle, now);
        // Refused only where closures are not supported, which the builder asked for.
        if let Err(error) = self.sessions.invalidate_entries_if(dead) {
            tracing::error!(%error, "expired sessions are not swept; each still ends when it is next asked for");
        }
        self.sessions.run_pending_tasks();
    }

    fn held(&self) -> u64 {
        self.sessions.entry_count()
    }

    fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    fn trouble(&self) -> Option<String> {
        None
    }
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
    use crate::domain::session::{Authority, Device};

    const HOUR: Duration = Duration::from_secs(3600);
    const US: Authority = Authority([1; 8]);

    fn session(now: Timestamp) -> Session {
        let identity = Identity {
            provider: ProviderKind::Github,
            id: "1".into(),
            email: None,
            name: "Ann".into(),
            username: Username::Vouched("ann".into()),
            groups: Vec::new(),
        };
        Session::begin(identity, US, Device::new([192, 0, 2, 1].into(), "Firefox"), HOUR, now)
    }

    #[tokio::test]
    async fn a_session_is_there_until_it_expires_or_is_ended() {
        let (store, now) = (MemoryStore::new(Duration::ZERO), Timestamp::from_secs(1000));
        let one = store.begin(session(now), now).await.unwrap();
        let two = store.begin(session(now), now).await.unwrap();
        assert!(store.hot(&one, now + HOUR.saturating_sub(Duration::from_secs(1))).is_some());
        assert!(store.hot(&one, now + HOUR).is_none());
        store.end(store.key(&two)).await.unwrap();
        assert!(store.load(&two, now).await.unwrap().is_none());
        assert!(store.hot(&SessionToken::from_random([3; 32]), now).is_none());
    }

    #[tokio::test]
    async fn use_keeps_a_session_from_going_idle() {
        let (store, now) = (MemoryStore::new(Duration::from_secs(60)), Timestamp::from_secs(1000));
        let token = store.begin(session(now), now).await.unwrap();
        assert!(store.hot(&token, Timestamp::from_secs(1059)).is_some());
        assert!(store.hot(&token, Timestamp::from_secs(1118)).is_some());
        assert!(store.hot(&token, Timestamp::from_secs(1178)).is_none());
        assert!(store.hot(&token, Timestamp::from_secs(1119)).is_none(), "ended is ended");
    }

    #[tokio::test]
    async fn a_full_store_lets_the_longest_unused_go() {
        let (store, now) = (MemoryStore::with_capacity(Duration::ZERO, 10 * 2200), Timestamp::from_secs(1000));
        let first = store.begin(session(now), now).await.unwrap();
        let second = store.begin(session(now), now).await.unwrap();
        for _ in 0..20 {
            let latest = store.begin(session(now), now).await.unwrap();
            assert!(store.hot(&first, now).is_some(), "the one in use stays");
            store.sweep(now);
            assert!(store.hot(&latest, now).is_some(), "a new sign-in is never refused");
        }
        assert!(store.hot(&second, now).is_none());
        assert!(store.evicted() >= 9);
    }

    #[tokio::test]
    async fn what_expired_is_swept() {
        let (store, now) = (MemoryStore::new(Duration::ZERO), Timestamp::from_secs(1000));
        store.begin(session(now), now).await.unwrap();
        store.sweep(now);
        assert_eq!(store.held(), 1);
        store.sweep(now + HOUR);
        store.sweep(now + HOUR);
        assert_eq!(store.held(), 0);
    }

    #[tokio::test]
    async fn one_renews_at_a_time_and_an_ended_session_stays_ended() {
        let (store, now) = (MemoryStore::new(Duration::ZERO), Timestamp::from_secs(1000));
        let token = store.begin(session(now), now).await.unwrap();
        let key = store.key(&token);
        let Claim::Granted(leave) = store.claim(key, now).await.unwrap() else { panic!("nobody has it") };
        assert!(matches!(store.claim(key, now).await.unwrap(), Claim::Taken));
        let renewed = Session { renew_at: Some(now + HOUR), ..session(now) };
        assert!(store.renew(&leave, renewed.clone(), now).await.unwrap());
        assert_eq!(store.hot(&token, now).unwrap().session().renew_at, Some(now + HOUR));
        let Claim::Granted(late) = store.claim(key, now).await.unwrap() else { panic!("it was given back") };
        assert!(!store.renew(&leave, renewed.clone(), now).await.unwrap(), "a leave counts once");
        store.end(key).await.unwrap();
        assert!(!store.renew(&late, renewed, now).await.unwrap());
        assert!(store.hot(&token, now).is_none());
        assert!(matches!(store.claim(key, now).await.unwrap(), Claim::Ended));
    }

    #[tokio::test]
    async fn whoever_holds_a_session_follows_it_through_a_renewal_to_its_end_and_does_not_keep_it_from_going_idle() {
        let (store, now) = (MemoryStore::new(Duration::from_secs(60)), Timestamp::from_secs(1000));
        let token = store.begin(session(now), now).await.unwrap();
        let held = store.hot(&token, now).unwrap();
        let Claim::Granted(leave) = store.claim(held.key(), now).await.unwrap() else { panic!("nobody has it") };
        let renewed = Session { renew_at: Some(now + HOUR), ..session(now) };
        assert!(store.renew(&leave, renewed, now).await.unwrap());
        let later = Timestamp::from_secs(1050);
        let followed = store.follow(&held, false, later).await.unwrap().unwrap();
        assert_eq!(followed.session().renew_at, Some(now + HOUR));
        assert!(store.follow(&held, false, Timestamp::from_secs(1059)).await.unwrap().is_some());
        assert!(store.follow(&held, true, Timestamp::from_secs(1059)).await.unwrap().is_some());
        assert!(store.follow(&held, false, Timestamp::from_secs(1118)).await.unwrap().is_some(), "that was a use");
        assert!(store.follow(&held, false, Timestamp::from_secs(1119)).await.unwrap().is_none());
        let token = store.begin(session(now), now).await.unwrap();
        let held = store.hot(&token, now).unwrap();
        store.end(held.key()).await.unwrap();
        assert!(store.follow(&held, true, now).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_persons_sessions_are_found() {
        let (store, now) = (MemoryStore::new(Duration::ZERO), Timestamp::from_secs(1000));
        store.begin(session(now), now).await.unwrap();
        store.begin(session(now + HOUR), now + HOUR).await.unwrap();
        let of = |id| store.of(Whose::Person { authority: US, id }, now);
        let found = of("1").await.unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].session().created_at, now + HOUR, "the newest first");
        assert!(of("2").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_counts_once_counts_once() {
        let (store, now) = (MemoryStore::new(Duration::ZERO), Timestamp::from_secs(1000));
        assert!(store.is_first("jti", now + HOUR, now).await.unwrap());
        assert!(!store.is_first("jti", now + HOUR, now).await.unwrap());
        assert!(store.is_first("jti", now + HOUR + HOUR, now + HOUR).await.unwrap());
    }
}
