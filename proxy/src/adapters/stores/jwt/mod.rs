//! Sessions in the cookie alone: the token is the signed session, and this process stores only caches and ended sessions.

mod ended;
mod token;

use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use self::ended::{Ended, NoRoom};
use self::token::{KeyRing, Rejected};
use super::key::ByKey;
use super::signatures::Signatures;
use super::states::States;
use super::{key, weight};
use crate::domain::session::{Session, SessionKey, SessionToken};
use crate::domain::time::Timestamp;
use crate::ports::{
    BeginError, Directory, EndError, Leases, LoadedSession, Pending, Sessions, StoreTerms, StoreUnavailable,
};

/// The largest cookie, with its name and its attributes, in bytes: browsers store up to 4096 (RFC 6265bis §5.6), and some count
/// everything.
const COOKIE_MOST: usize = 4096;

/// A session that was unused for this long is verified again at its next use.
const UNUSED: Duration = Duration::from_secs(3600);

/// Signs sessions into cookies, and remembers those that ended here.
///
/// Verified sessions are cached, so that a request costs no signature check and no assertion. The key ring and the ended sessions share one
/// lock, and sessions are cached only under that lock: so none that has ended, or whose key was removed, comes back.
pub struct JwtStore {
    verified: Cache<SessionKey, Arc<LoadedSession>, ByKey>,
    signatures: Arc<Signatures>,
    rules: Mutex<Rules>,
    states: States,
}

struct Rules {
    ring: Arc<KeyRing>,
    /// The length of the cookie without the token.
    cookie_beside: usize,
    ended: Ended,
}

impl JwtStore {
    /// A store that caches up to `bytes` of verified sessions.
    ///
    /// # Errors
    /// If there is no secret to sign with.
    pub fn new(bytes: u64, terms: &StoreTerms) -> Result<Self, String> {
        let ring = Arc::new(KeyRing::new(&terms.secrets)?);
        let signatures = Arc::new(Signatures::new(bytes));
        let evicted = Arc::clone(&signatures);
        Ok(Self {
            verified: Cache::builder()
                .eviction_policy(EvictionPolicy::lru())
                .max_capacity(Signatures::room_beside(bytes))
                .weigher(|_, session: &Arc<LoadedSession>| weight::in_cache(session))
                .time_to_idle(UNUSED)
                .eviction_listener(move |_, session, cause| {
                    if cause == RemovalCause::Size {
                        evicted.keep(&session);
                    }
                })
                .build_with_hasher(ByKey::default()),
            signatures,
            rules: Mutex::new(Rules { ring, cookie_beside: terms.cookie_beside, ended: Ended::default() }),
            states: States::default(),
        })
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ready(&self, key: SessionKey, now: Timestamp) -> Option<Arc<LoadedSession>> {
        let session = self.verified.get(&key)?;
        if !session.is_live(Duration::ZERO, now) {
            self.verified.invalidate(&key);
            return None;
        }
        session.touch(now);
        Some(session)
    }

    fn verify(&self, token: &SessionToken, now: Timestamp) -> Option<Arc<LoadedSession>> {
        let ring = Arc::clone(&self.rules().ring);
        let mut session = verified(&ring, token)?;
        let key = key::of(token);
        let rules = self.rules();
        if !Arc::ptr_eq(&ring, &rules.ring) {
            // A reload happened in the meantime: its keys count.
            session = verified(&rules.ring, token)?;
        }
        if rules.ended.holds(key) || !session.is_live(now, Duration::ZERO, now) {
            return None;
        }
        let session = Arc::new(self.signatures.give(LoadedSession::new(key, session, now)));
        self.verified.insert(key, Arc::clone(&session));
        Some(session)
    }

    fn sign(&self, session: &Session) -> Result<SessionToken, BeginError> {
        let (ring, beside) = {
            let rules = self.rules();
            (Arc::clone(&rules.ring), rules.cookie_beside)
        };
        let token = ring.sign(session).map_err(|error| BeginError::Internal(error.to_string()))?;
        let bytes = token.len() + beside;
        let token = SessionToken::parse(&token).filter(|_| bytes <= COOKIE_MOST);
        token.ok_or(BeginError::TooLarge { bytes, most: COOKIE_MOST })
    }
}

fn verified(ring: &KeyRing, token: &SessionToken) -> Option<Session> {
    match ring.verify(token.expose()) {
        Ok(session) => Some(session),
        Err(Rejected::NotOurs) => None,
        Err(error @ Rejected::Version) => {
            tracing::warn!(%error, "a session cookie that we have signed cannot be read: its owner signs in again");
            None
        }
    }
}

impl Sessions for JwtStore {
    fn key(&self, token: &SessionToken) -> SessionKey {
        key::of(token)
    }

    fn hot(&self, token: &SessionToken, now: Timestamp) -> Option<Arc<LoadedSession>> {
        self.ready(key::of(token), now)
    }

    fn load<'a>(
        &'a self,
        token: &'a SessionToken,
        now: Timestamp,
    ) -> Pending<'a, Result<Option<Arc<LoadedSession>>, StoreUnavailable>> {
        Box::pin(ready(Ok(self.hot(token, now).or_else(|| self.verify(token, now)))))
    }

    /// Without its token a session is found only while it is cached, and looking it up regularly keeps it there. Otherwise its holder
    /// comes back with the token.
    fn follow<'a>(
        &'a self,
        held: &'a Arc<LoadedSession>,
        _used: bool,
        now: Timestamp,
    ) -> Pending<'a, Result<Option<Arc<LoadedSession>>, StoreUnavailable>> {
        Box::pin(ready(Ok(self.ready(held.key(), now))))
    }

    fn begin(&self, session: Session, _now: Timestamp) -> Pending<'_, Result<SessionToken, BeginError>> {
        Box::pin(ready(self.sign(&session)))
    }

    fn end<'a>(&'a self, session: &'a LoadedSession) -> Pending<'a, Result<(), EndError>> {
        let key = session.key();
        let mut rules = self.rules();
        let added = rules.ended.add(key, session.session());
        if added.is_ok() {
            session.end();
            if let Some(ready) = self.verified.remove(&key) {
                ready.end();
            }
        }
        Box::pin(ready(added.map_err(|no_room| match no_room {
            NoRoom::Full => EndError::Unavailable(StoreUnavailable(no_room.to_string())),
            NoRoom::OfPerson => EndError::NoRoomOfPerson(no_room.to_string()),
        })))
    }

    /// The session has expired, has ended, or was never signed here: no later request finds it either.
    fn end_unseen<'a>(&'a self, _token: &'a SessionToken) -> Pending<'a, Result<(), EndError>> {
        Box::pin(ready(Ok(())))
    }

    /// On this replica only: another one does not know of it.
    fn take_state<'a>(
        &'a self,
        state: &'a str,
        _until: Timestamp,
        now: Timestamp,
    ) -> Pending<'a, Result<bool, StoreUnavailable>> {
        Box::pin(ready(Ok(self.take_state_here(state, now))))
    }

    fn take_state_here(&self, state: &str, now: Timestamp) -> bool {
        self.states.take(state, now)
    }

    fn directory(&self) -> Option<&dyn Directory> {
        None
    }

    fn leases(&self) -> Option<&dyn Leases> {
        None
    }

    fn reconfigure(&self, terms: &StoreTerms) -> Result<(), String> {
        let ring = Arc::new(KeyRing::new(&terms.secrets)?);
        let mut rules = self.rules();
        rules.cookie_beside = terms.cookie_beside;
        if !ring.covers(&rules.ring) {
            self.verified.invalidate_all();
        }
        rules.ring = ring;
        Ok(())
    }

    fn sweep(&self, now: Timestamp) {
        let mut rules = self.rules();
        rules.ended.sweep(now);
        drop(rules);
        self.verified.run_pending_tasks();
        self.signatures.sweep();
    }

    fn held(&self) -> u64 {
        self.verified.entry_count()
    }

    fn trouble(&self) -> Option<String> {
        self.rules().ended.is_full().then(|| {
            format!("{} sessions have ended before they expire: sign-outs are refused until some have", ended::MOST)
        })
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::domain::identity::{Identity, ProviderKind, Username};
    use crate::domain::session::{Authority, Device};

    const HOUR: Duration = Duration::from_secs(3600);
    const MEMORY: u64 = 1 << 20;

    fn terms(secrets: &[u8]) -> StoreTerms {
        let secrets = secrets.iter().map(|byte| Zeroizing::new(vec![*byte; 32])).collect();
        StoreTerms { idle: Duration::ZERO, secrets, cookie_beside: 80 }
    }

    fn store() -> JwtStore {
        JwtStore::new(MEMORY, &terms(&[1])).unwrap()
    }

    fn session(groups: usize, now: Timestamp) -> Session {
        let identity = Identity {
            provider: ProviderKind::Entra,
            id: "1".into(),
            email: None,
            name: "Ann".into(),
            username: Username::Vouched("ann".into()),
            groups: (0..groups).map(|n| format!("00000000-0000-0000-0000-{n:012}")).collect(),
            claims: crate::domain::claims::Claims::default(),
        };
        Session::begin(identity, Authority([1; 8]), Device::new([192, 0, 2, 1].into(), "Firefox"), HOUR, now)
    }

    /// A session that lasts a minute.
    fn session_of(id: &str, now: Timestamp) -> Session {
        let mut session = Session { expires_at: now + Duration::from_secs(60), ..session(0, now) };
        session.identity.id = id.into();
        session
    }

    fn numbered(number: usize) -> SessionKey {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_le_bytes());
        SessionKey(key)
    }

    #[tokio::test]
    async fn the_cookie_is_the_session_on_every_replica_until_it_expires() {
        let now = Timestamp::from_secs(1000);
        let token = store().begin(session(3, now), now).await.unwrap();
        let other = store();
        assert!(other.hot(&token, now).is_none(), "it was not verified yet");
        let loaded = other.load(&token, now).await.unwrap().unwrap();
        assert_eq!(loaded.session(), &session(3, now));
        assert!(Arc::ptr_eq(&loaded, &other.hot(&token, now).unwrap()), "verified once");
        let last = now + HOUR.saturating_sub(Duration::from_secs(1));
        assert!(other.hot(&token, last).is_some());
        assert!(other.hot(&token, now + HOUR).is_none() && other.load(&token, now + HOUR).await.unwrap().is_none());
        assert!(store().load(&token, now + HOUR).await.unwrap().is_none());
        assert!(store().load(&SessionToken::from_random([1; 32]), now).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn an_ended_session_stays_ended_on_this_replica_until_it_would_have_expired() {
        let (store, other, now) = (store(), store(), Timestamp::from_secs(1000));
        let token = store.begin(session(0, now), now).await.unwrap();
        let held = store.load(&token, now).await.unwrap().unwrap();
        store.end(&held).await.unwrap();
        assert!(!held.is_live(Duration::ZERO, now), "whoever holds it is told");
        assert!(store.follow(&held, true, now).await.unwrap().is_none());
        for _ in 0..2 {
            assert!(store.load(&token, now).await.unwrap().is_none());
            store.sweep(now + HOUR.saturating_sub(Duration::from_secs(1)));
        }
        store.end(&held).await.unwrap();
        store.sweep(now);
        assert!(other.load(&token, now).await.unwrap().is_some(), "elsewhere a copy lasts");
        store.sweep(now + HOUR);
        assert!(store.rules().ended.is_empty() && store.load(&token, now + HOUR).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn one_that_is_no_longer_held_ready_is_remembered_as_ended_until_it_expires() {
        let (store, now) = (store(), Timestamp::from_secs(1000));
        let token = store.begin(session(0, now), now).await.unwrap();
        let held = store.load(&token, now).await.unwrap().unwrap();
        store.verified.invalidate_all();
        store.end(&held).await.unwrap();
        store.sweep(now + HOUR.saturating_sub(Duration::from_secs(1)));
        assert!(store.load(&token, now).await.unwrap().is_none());
        store.sweep(now + HOUR);
        assert!(store.rules().ended.is_empty());
    }

    #[tokio::test]
    async fn nothing_is_remembered_of_tokens_that_were_made_up_or_have_expired() {
        let (store, now) = (store(), Timestamp::from_secs(1000));
        let token = store.begin(session(0, now), now).await.unwrap();
        let others = JwtStore::new(MEMORY, &terms(&[9])).unwrap().begin(session(0, now), now).await.unwrap();
        let made_up = [SessionToken::from_random([7; 32]), SessionToken::parse("x").unwrap(), others];
        for (token, at) in made_up.iter().map(|token| (token, now)).chain([(&token, now + HOUR)]) {
            assert!(store.load(token, at).await.unwrap().is_none());
            store.end_unseen(token).await.unwrap();
        }
        assert!(store.rules().ended.is_empty());
    }

    #[tokio::test]
    async fn what_is_verified_again_for_want_of_room_is_not_signed_for_again() {
        let (store, now) = (store(), Timestamp::from_secs(1000));
        let token = store.begin(session(0, now), now).await.unwrap();
        let first = store.load(&token, now).await.unwrap().unwrap();
        first.was_signed(7, now);
        for number in 0..1000 {
            let other = store.begin(session_of(&number.to_string(), now), now).await.unwrap();
            store.load(&other, now).await.unwrap().unwrap();
        }
        store.sweep(now);
        assert!(store.hot(&token, now).is_none() && store.held() < 600, "{} are held", store.held());
        let again = store.load(&token, now).await.unwrap().unwrap();
        assert!(!Arc::ptr_eq(&first, &again));
        assert_eq!(again.signed().unwrap().signature, [9; 64]);
    }

    #[tokio::test]
    async fn memory_of_ended_sessions_is_bounded_and_none_is_forgotten_for_want_of_room() {
        let (store, now) = (store(), Timestamp::from_secs(1000));
        let token = store.begin(session(0, now), now).await.unwrap();
        let held = store.load(&token, now).await.unwrap().unwrap();
        for n in 0..ended::MOST {
            let person = format!("person {}", n / ended::MOST_OF_ONE);
            store.rules().ended.add(numbered(n), &session_of(&person, now)).unwrap();
        }
        assert!(store.end(&held).await.is_err_and(|why| matches!(why, EndError::Unavailable(_))));
        assert!(store.trouble().is_some());
        assert!(store.load(&token, now).await.unwrap().is_some(), "not said to have ended, and not ended");
        store.sweep(now + Duration::from_secs(60));
        assert!(store.trouble().is_none());
        store.end(&held).await.unwrap();
        assert!(store.load(&token, now).await.unwrap().is_none());
        assert!(store.end(&held).await.is_ok(), "one that is remembered has ended");
    }

    #[tokio::test]
    async fn one_person_takes_their_share_of_the_memory_of_ended_sessions_and_nobody_elses() {
        let (store, now) = (store(), Timestamp::from_secs(1000));
        let mut last = None;
        for n in 0..ended::MOST {
            last = store.rules().ended.add(numbered(n), &session_of("loud", now)).err();
            if last.is_some() {
                break;
            }
        }
        assert_eq!(last, Some(ended::NoRoom::OfPerson));
        let begin = async |id: &str| {
            let token = store.begin(Session { expires_at: now + HOUR, ..session_of(id, now) }, now).await.unwrap();
            store.load(&token, now).await.unwrap().unwrap()
        };
        let (loud, ann) = (begin("loud").await, begin("ann").await);
        assert!(store.end(&loud).await.is_err_and(|why| matches!(why, EndError::NoRoomOfPerson(_))));
        assert!(loud.is_live(Duration::ZERO, now), "not said to have ended, and not ended");
        store.end(&ann).await.unwrap();
        assert!(store.trouble().is_none(), "there is room for all others");
        store.sweep(now + Duration::from_secs(60));
        store.end(&loud).await.unwrap();
    }

    #[tokio::test]
    async fn a_session_that_does_not_fit_into_a_cookie_is_refused() {
        let (store, now) = (store(), Timestamp::from_secs(1000));
        let begun = |groups| store.begin(session(groups, now), now);
        let most = (0..200).take_while(|groups| at_once(begun(*groups)).is_ok()).count() - 1;
        let token = begun(most).await.unwrap();
        assert!(token.expose().len() + 80 <= COOKIE_MOST && token.expose().len() > 3900, "{most} groups");
        let Err(BeginError::TooLarge { bytes, most: room }) = begun(most + 1).await else { panic!("it fits") };
        assert!(bytes > room && room == COOKIE_MOST);
        assert!(begun(1000).await.is_err());
    }

    #[tokio::test]
    async fn a_secret_that_is_taken_away_ends_its_sessions_and_a_new_one_does_not() {
        let (store, now) = (store(), Timestamp::from_secs(1000));
        let old = store.begin(session(0, now), now).await.unwrap();
        let held = store.load(&old, now).await.unwrap().unwrap();
        store.reconfigure(&terms(&[2, 1])).unwrap();
        assert!(Arc::ptr_eq(&held, &store.hot(&old, now).unwrap()), "still held ready");
        let new = store.begin(session(0, now), now).await.unwrap();
        assert!(store.load(&new, now).await.unwrap().is_some());
        store.reconfigure(&terms(&[2])).unwrap();
        assert!(
            store.load(&old, now).await.unwrap().is_none() && store.follow(&held, true, now).await.unwrap().is_none()
        );
        assert!(store.load(&new, now).await.unwrap().is_some());
        assert!(store.reconfigure(&terms(&[])).is_err());
        assert!(store.load(&new, now).await.unwrap().is_some(), "the old terms stay");
    }

    #[tokio::test]
    async fn it_is_never_renewed_and_cannot_be_listed() {
        let (store, now) = (store(), Timestamp::from_secs(1000));
        let token = store.begin(session(0, now), now).await.unwrap();
        assert!(store.load(&token, now).await.unwrap().is_some());
        assert!(store.directory().is_none() && store.leases().is_none());
    }

    /// The result of a call to this store, which is always ready.
    fn at_once<T>(mut pending: Pending<'_, T>) -> T {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match pending.as_mut().poll(&mut context) {
            std::task::Poll::Ready(answer) => answer,
            std::task::Poll::Pending => panic!("it waits"),
        }
    }
}
