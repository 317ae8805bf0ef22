//! Sessions in this process's memory: lost when it ends, and bounded.
//!
//! Sessions are stored packed in several tables, each with its own lock; those in use are also kept ready for requests, as many as
//! there is room for. Requests for ready sessions take read locks only; a table is changed when a session begins, comes into use or ends.

mod leases;
mod once;
mod table;

use std::future::ready;
use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use self::leases::LeaseTable;
use self::once::Once;
use self::table::{Kept, Owner, Owners, SessionTable};
use super::states::States;
use super::{key, record};
use crate::adapters::seal;
use crate::domain::session::{Authority, Session, SessionKey, SessionSelector, SessionToken};
use crate::domain::time::Timestamp;
use crate::ports::{
    BeginError, Claim, Directory, EndError, Lease, Leases, LoadedSession, Pending, SESSIONS_OF_ONE, Sessions,
    StoreTerms, StoreUnavailable, note_every,
};

/// One table for each of this many bytes, up to [`TABLES_MOST`].
const BYTES_PER_TABLE: u64 = 4 * 1024 * 1024;
const TABLES_MOST: u64 = 64;

/// The part of the memory reserved for ready sessions (one in this many). They may also use what packed ones leave free.
const READY_PART: u64 = 4;

/// The number of sweeps (one a second) in which every session is checked once.
const SWEEPS: usize = 60;
/// How many rows are checked under one lock, at least and at most.
const LOOK_LEAST: usize = 256;
const LOOK_MOST: usize = 4096;

/// How many seemingly unused sessions are checked for a recent use before one is evicted.
const REPRIEVES: usize = 64;

/// The part of the memory for packed sessions that one user's may take (one in this many), so that their sign-ins evict no one else's
/// sessions.
const PERSONS_PART: usize = 16;

/// Sessions by the hash of their token, so that the memory of the process holds no token.
pub struct MemoryStore {
    tables: Box<[RwLock<SessionTable>]>,
    /// The limit of packed sessions in one table, in bytes.
    room: usize,
    /// The limit of packed and ready sessions in one table together.
    room_of_all: usize,
    /// Milliseconds; zero: no idle limit.
    idle: AtomicU64,
    evicted: AtomicU64,
    leases: LeaseTable,
    once: Once,
    states: States,
    hasher: RandomState,
}

impl MemoryStore {
    /// An empty store. `idle`: how long a session may go unused; zero: no limit. `bytes`: the limit for all sessions together; beyond
    /// it the least recently used is evicted first.
    #[must_use]
    pub fn new(idle: Duration, bytes: u64) -> Self {
        let tables = (bytes / BYTES_PER_TABLE).clamp(1, TABLES_MOST);
        let room = |bytes: u64| usize::try_from(bytes / tables).unwrap_or(usize::MAX);
        let store = Self {
            tables: (0..tables).map(|_| RwLock::default()).collect(),
            room: room(bytes - bytes / READY_PART),
            room_of_all: room(bytes),
            idle: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            leases: LeaseTable::default(),
            once: Once::default(),
            states: States::default(),
            hasher: RandomState::new(),
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

    /// A live session, ready for requests; with `used`, notes the use.
    fn live(&self, key: SessionKey, used: bool, now: Timestamp) -> Option<Arc<LoadedSession>> {
        let idle = self.idle();
        let ready = self.looked_at(key).ready(key).map(Arc::clone);
        let session = match ready {
            Some(session) if session.is_live(idle, now) => session,
            Some(_) => {
                self.end_if_expired(&mut self.table(key), key, now);
                return None;
            }
            None => self.make_ready(key, now)?,
        };
        if used {
            session.touch(now);
            if session.is_note_due(note_every(idle), now) {
                self.table(key).note(key, session.last_seen());
            }
        }
        Some(session)
    }

    /// Makes a session ready from its record.
    fn make_ready(&self, key: SessionKey, now: Timestamp) -> Option<Arc<LoadedSession>> {
        let mut table = self.table(key);
        if self.end_if_expired(&mut table, key, now) {
            return None;
        }
        // Another request may have done it already.
        if let Some(session) = table.ready(key) {
            return Some(Arc::clone(session));
        }
        table.make_ready(key, self.room_of_all, now, unpacked)
    }

    /// Ends a session that has expired; returns whether it has ended. Otherwise updates its last use, which the table learns only now
    /// and then.
    fn end_if_expired(&self, table: &mut SessionTable, key: SessionKey, now: Timestamp) -> bool {
        let Some(kept) = table.get(key) else { return true };
        let (noted, expires_at, last_seen) = (kept.last_seen, kept.expires_at, kept.last_used());
        if is_over(expires_at, last_seen, self.idle(), now) {
            table.take(key);
            return true;
        }
        if last_seen > noted {
            table.note(key, last_seen);
        }
        false
    }

    fn put(&self, table: &mut SessionTable, key: SessionKey, session: &Session, last_seen: Timestamp, now: Timestamp) {
        let record = record::pack(session).as_slice().into();
        table.put(key, self.owners(session), record, last_seen, session.expires_at);
        table.shed_ready(self.room_of_all);
        for _ in 0..REPRIEVES {
            if !self.is_full(table) {
                return;
            }
            let Some(oldest) = table.oldest() else { return };
            let (oldest, noted) = (oldest.key, oldest.last_seen);
            if !self.end_if_expired(table, oldest, now) && table.get(oldest).is_some_and(|kept| kept.last_seen == noted)
            {
                self.evict(table, oldest);
            }
        }
        while self.is_full(table) {
            let Some(oldest) = table.oldest().map(|kept| kept.key) else { return };
            self.evict(table, oldest);
        }
    }

    /// Ends a user's own least recently used sessions if one more would be too many, or exceed their share.
    fn make_room_of_one(&self, session: &Session) {
        let person = self.owner(SessionSelector::Person { authority: session.authority, id: &session.identity.id });
        let size = |record: &[u8]| record.len() + table::BESIDE;
        let mut own = Vec::new();
        for table in self.all_looked_at() {
            own.extend(table.of(person).map(|kept| (kept.last_used(), kept.key, size(kept.record))));
        }
        let share = self.room.saturating_mul(self.tables.len()) / PERSONS_PART;
        let mut number = own.len() + 1;
        let mut bytes = own.iter().map(|(.., size)| size).sum::<usize>() + size(&record::pack(session));
        let is_too_much = |number: usize, bytes: usize| number > SESSIONS_OF_ONE || bytes > share;
        if !is_too_much(number, bytes) {
            return;
        }
        own.sort_unstable_by_key(|(seen, ..)| *seen);
        for (_, key, size) in own {
            if !is_too_much(number, bytes) {
                return;
            }
            self.evict(&mut self.table(key), key);
            number -= 1;
            bytes -= size;
        }
    }

    /// Whether the table is full. The newest session is always accepted.
    fn is_full(&self, table: &SessionTable) -> bool {
        table.bytes() > self.room && table.len() > 1
    }

    fn evict(&self, table: &mut SessionTable, key: SessionKey) {
        table.take(key);
        self.evicted.fetch_add(1, Ordering::Relaxed);
    }

    fn end_key(&self, key: SessionKey) {
        self.table(key).take(key);
    }

    /// Locks the table of a session for writing.
    fn table(&self, key: SessionKey) -> RwLockWriteGuard<'_, SessionTable> {
        self.lock(key).write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the table of a session for reading.
    fn looked_at(&self, key: SessionKey) -> RwLockReadGuard<'_, SessionTable> {
        self.lock(key).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self, key: SessionKey) -> &RwLock<SessionTable> {
        // The table hashes by the first bytes.
        let [.., last] = key.0;
        let at = usize::from(last) % self.tables.len();
        #[expect(
            clippy::indexing_slicing,
            reason = "a remainder is less than what divides, and there is always a table"
        )]
        &self.tables[at]
    }

    /// Locks one table after the other for reading.
    fn all_looked_at(&self) -> impl Iterator<Item = RwLockReadGuard<'_, SessionTable>> {
        self.tables.iter().map(|table| table.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn owners(&self, session: &Session) -> Owners {
        let provider_session =
            session.provider_session.as_deref().map(|sid| self.hash_of(session.authority, "provider session", sid));
        Owners { person: self.hash_of(session.authority, "person", &session.identity.id).get(), provider_session }
    }

    fn owner(&self, selector: SessionSelector<'_>) -> Owner {
        match selector {
            SessionSelector::Person { authority, id } => Owner::Person(self.hash_of(authority, "person", id).get()),
            SessionSelector::ProviderSession { authority, sid } => {
                Owner::ProviderSession(self.hash_of(authority, "provider session", sid))
            }
        }
    }

    fn hash_of(&self, authority: Authority, what: &str, name: &str) -> NonZeroU64 {
        NonZeroU64::new(self.hasher.hash_one((authority, what, name))).unwrap_or(NonZeroU64::MIN)
    }
}

impl Sessions for MemoryStore {
    fn key(&self, token: &SessionToken) -> SessionKey {
        key::of(token)
    }

    fn hot(&self, token: &SessionToken, now: Timestamp) -> Option<Arc<LoadedSession>> {
        self.live(key::of(token), true, now)
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
        Box::pin(ready(Ok(self.live(held.key(), used, now))))
    }

    fn begin(&self, session: Session, now: Timestamp) -> Pending<'_, Result<SessionToken, BeginError>> {
        let token = seal::random().map(SessionToken::from_random);
        Box::pin(ready(token.map_err(|error| BeginError::Internal(error.to_string())).inspect(|token| {
            let key = key::of(token);
            self.make_room_of_one(&session);
            self.put(&mut self.table(key), key, &session, now, now);
        })))
    }

    fn end<'a>(&'a self, session: &'a LoadedSession) -> Pending<'a, Result<(), EndError>> {
        self.end_key(session.key());
        Box::pin(ready(Ok(())))
    }

    fn end_unseen<'a>(&'a self, token: &'a SessionToken) -> Pending<'a, Result<(), StoreUnavailable>> {
        self.end_key(key::of(token));
        Box::pin(ready(Ok(())))
    }

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
        Some(self)
    }

    fn leases(&self) -> Option<&dyn Leases> {
        Some(self)
    }

    fn reconfigure(&self, terms: &StoreTerms) -> Result<(), String> {
        self.set_idle(terms.idle);
        Ok(())
    }

    fn sweep(&self, now: Timestamp) {
        self.leases.sweep(now);
        self.once.sweep(now);
        let idle = self.idle();
        for table in &self.tables {
            let mut table = table.write().unwrap_or_else(PoisonError::into_inner);
            let most = (table.len() / SWEEPS).clamp(LOOK_LEAST, LOOK_MOST);
            for key in table.look_round(most, |kept| is_over(kept.expires_at, kept.last_seen, idle, now)) {
                self.end_if_expired(&mut table, key, now);
            }
        }
    }

    fn held(&self) -> u64 {
        self.all_looked_at().map(|table| table.len() as u64).sum()
    }

    fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    fn trouble(&self) -> Option<String> {
        None
    }
}

impl Directory for MemoryStore {
    fn of<'a>(
        &'a self,
        selector: SessionSelector<'a>,
        now: Timestamp,
    ) -> Pending<'a, Result<Vec<Arc<LoadedSession>>, StoreUnavailable>> {
        let (owner, idle) = (self.owner(selector), self.idle());
        let mut found = Vec::new();
        for table in self.all_looked_at() {
            let sessions = table.of(owner).take(SESSIONS_OF_ONE).filter_map(|kept| match kept.ready {
                Some(session) => Some(Arc::clone(session)),
                None => unpacked(&kept).map(Arc::new),
            });
            found.extend(sessions.filter(|session| session.session().is(selector) && session.is_live(idle, now)));
        }
        found.sort_unstable_by_key(|session| std::cmp::Reverse(session.session().created_at));
        found.truncate(SESSIONS_OF_ONE);
        Box::pin(ready(Ok(found)))
    }

    fn has_come<'a>(&'a self, what: &'a str, now: Timestamp) -> Pending<'a, Result<bool, StoreUnavailable>> {
        Box::pin(ready(Ok(self.once.has_come(what, now))))
    }

    fn note_coming<'a>(
        &'a self,
        what: &'a str,
        until: Timestamp,
        now: Timestamp,
    ) -> Pending<'a, Result<(), StoreUnavailable>> {
        Box::pin(ready(self.once.note(what, until, now)))
    }
}

impl Leases for MemoryStore {
    fn claim(&self, key: SessionKey, now: Timestamp) -> Pending<'_, Result<Claim, StoreUnavailable>> {
        let claim = match self.live(key, false, now) {
            None => Claim::Ended,
            Some(session) => match self.leases.take(key, now) {
                Some(ticket) => Claim::Granted(Lease { session, ticket }),
                None => Claim::Taken,
            },
        };
        Box::pin(ready(Ok(claim)))
    }

    fn renew<'a>(
        &'a self,
        lease: &'a Lease,
        session: Session,
        now: Timestamp,
    ) -> Pending<'a, Result<bool, StoreUnavailable>> {
        let key = lease.session.key();
        let is_ours = self.leases.give_back(key, lease.ticket);
        let mut table = self.table(key);
        let renewed = is_ours && !self.end_if_expired(&mut table, key, now);
        if renewed && let Some(kept) = table.get(key) {
            // A renewal does not extend the session's lifetime.
            let session = Session { expires_at: session.expires_at.min(kept.expires_at), ..session };
            let last_seen = kept.last_seen.max(lease.session.last_seen());
            self.put(&mut table, key, &session, last_seen, now);
        }
        Box::pin(ready(Ok(renewed)))
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> Pending<'a, ()> {
        self.leases.give_back(lease.session.key(), lease.ticket);
        Box::pin(ready(()))
    }
}

/// Like [`Session::is_live`], without the session.
fn is_over(expires_at: Timestamp, last_seen: Timestamp, idle: Duration, now: Timestamp) -> bool {
    now >= expires_at || (!idle.is_zero() && now.since(last_seen) >= idle)
}

/// Unpacks a session, which always succeeds: this process wrote it.
fn unpacked(kept: &Kept<'_>) -> Option<LoadedSession> {
    match record::unpack(kept.record) {
        Ok(session) => Some(LoadedSession::new(kept.key, session, kept.last_seen)),
        Err(error) => {
            tracing::error!(%error, "a session in memory cannot be read");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::identity::{Identity, ProviderKind, Username};
    use crate::domain::session::{Authority, Device};
    use crate::ports::{IssuedAssertion, Signed};

    const HOUR: Duration = Duration::from_secs(3600);
    const MEMORY: u64 = 128 * 1024 * 1024;
    const US: Authority = Authority([1; 8]);

    fn session(now: Timestamp) -> Session {
        let identity = Identity {
            provider: ProviderKind::Github,
            id: "1".into(),
            email: None,
            name: "Ann".into(),
            username: Username::Vouched("ann".into()),
            groups: Vec::new(),
            claims: crate::domain::claims::Claims::default(),
        };
        Session::begin(identity, US, Device::new([192, 0, 2, 1].into(), "Firefox"), HOUR, now)
    }

    #[tokio::test]
    async fn a_session_is_there_until_it_expires_or_is_ended() {
        let (store, now) = (MemoryStore::new(Duration::ZERO, MEMORY), Timestamp::from_secs(1000));
        let one = store.begin(session(now), now).await.unwrap();
        let two = store.begin(session(now), now).await.unwrap();
        assert!(store.hot(&one, now + HOUR.saturating_sub(Duration::from_secs(1))).is_some());
        assert!(store.hot(&one, now + HOUR).is_none());
        store.end_unseen(&two).await.unwrap();
        assert!(store.load(&two, now).await.unwrap().is_none());
        assert!(store.hot(&SessionToken::from_random([3; 32]), now).is_none());
    }

    #[tokio::test]
    async fn use_keeps_a_session_from_going_idle() {
        let (store, now) = (MemoryStore::new(Duration::from_secs(60), MEMORY), Timestamp::from_secs(1000));
        let token = store.begin(session(now), now).await.unwrap();
        assert!(store.hot(&token, Timestamp::from_secs(1059)).is_some());
        assert!(store.hot(&token, Timestamp::from_secs(1118)).is_some());
        assert!(store.hot(&token, Timestamp::from_secs(1178)).is_none());
        assert!(store.hot(&token, Timestamp::from_secs(1119)).is_none(), "ended is ended");
    }

    fn session_of(id: &str, now: Timestamp) -> Session {
        let mut session = session(now);
        session.identity.id = id.into();
        session
    }

    #[tokio::test]
    async fn one_persons_sign_ins_end_their_own_sessions_and_nobody_elses() {
        for bytes in [1 << 20, 64 << 20] {
            let mut now = Timestamp::from_secs(1000);
            let store = MemoryStore::new(Duration::ZERO, bytes);
            let mut others = Vec::new();
            for number in 0..300 {
                others.push(store.begin(session_of(&format!("other{number}"), now), now).await.unwrap());
            }
            let (mut own, mut used) = (Vec::new(), None);
            for number in 0..4000 {
                // A use is recorded to the second: sessions used within the same second may be in any order.
                now = now + Duration::from_millis(20);
                own.push(store.begin(session_of("loud", now), now).await.unwrap());
                if number == 0 {
                    used = own.first().cloned();
                }
                assert!(store.hot(used.as_ref().unwrap(), now).is_some(), "the one in use stays");
            }
            for other in &others {
                assert!(store.hot(other, now).is_some(), "somebody else's session was ended");
            }
            let left = own.iter().filter(|token| store.hot(token, now).is_some()).count();
            assert!(left <= SESSIONS_OF_ONE && left > 50, "{left}");
            assert!(store.hot(own.last().unwrap(), now).is_some(), "the latest is there");
            assert!(store.hot(&own[1], now).is_none(), "their longest unused went");
        }
    }

    #[tokio::test]
    async fn a_full_store_lets_the_longest_unused_go() {
        let mut now = Timestamp::from_secs(1000);
        let store = MemoryStore::new(Duration::ZERO, 1 << 20);
        let first = store.begin(session(now), now).await.unwrap();
        let second = store.begin(session(now), now).await.unwrap();
        let held = store.hot(&second, now).unwrap();
        for number in 0..8000 {
            now = now + Duration::from_millis(200);
            let latest = store.begin(session_of(&number.to_string(), now), now).await.unwrap();
            assert!(store.hot(&first, now).is_some(), "the one in use stays");
            assert!(store.hot(&latest, now).is_some(), "a new sign-in is never refused");
        }
        assert!(store.hot(&second, now).is_none());
        assert!(store.follow(&held, true, now).await.unwrap().is_none(), "whoever holds it is told");
        assert_eq!(store.held() + store.evicted(), 8002);
        assert!(store.evicted() > 1000 && store.held() > 1000, "{} and {}", store.evicted(), store.held());
        let record = record::pack(&session(now)).len() as u64;
        assert!(store.held() * (record + table::BESIDE as u64) <= 1 << 20);
    }

    #[tokio::test]
    async fn as_many_are_ready_as_there_is_room_for_and_those_in_use_stay_ready() {
        let (store, now) = (MemoryStore::new(Duration::ZERO, 1 << 20), Timestamp::from_secs(1000));
        let mut tokens = Vec::new();
        for number in 0..1500 {
            tokens.push(store.begin(session_of(&number.to_string(), now), now).await.unwrap());
        }
        let is_ready = |token: &SessionToken| {
            let key = store.key(token);
            store.table(key).get(key).is_some_and(|kept| kept.ready.is_some())
        };
        let (busy, others) = tokens.split_at(50);
        for token in busy {
            assert!(store.hot(token, now).is_some());
        }
        for token in others {
            assert!(store.hot(token, now).is_some() && is_ready(token));
            for token in busy {
                assert!(is_ready(token), "it is in use");
                store.hot(token, now);
            }
            assert!(store.table(store.key(token)).all_bytes() <= 1 << 20);
        }
        let ready = tokens.iter().filter(|token| is_ready(token)).count();
        assert!(ready > 1 << 7, "the quarter alone holds fewer than {ready}");
        assert_eq!(store.held(), 1500, "nothing ends for it");
    }

    fn sign(session: &LoadedSession, now: Timestamp) {
        sign_by(7, session, now);
    }

    fn sign_by(signer: u64, session: &LoadedSession, now: Timestamp) {
        let signed = Signed { issued_at: now, signer, of: 1, signature: [9; 64] };
        let value = http::HeaderValue::from_static("a.b.c");
        session.assertion().store(Some(Arc::new(IssuedAssertion { value, signed })));
    }

    #[tokio::test]
    async fn where_more_are_in_use_than_can_be_held_ready_those_held_stay_until_they_are_idle() {
        let (store, begun) = (MemoryStore::new(Duration::ZERO, 1 << 20), Timestamp::from_secs(1000));
        let mut tokens = Vec::new();
        for number in 0..1000 {
            let token = store.begin(session_of(&number.to_string(), begun), begun).await.unwrap();
            sign(&store.hot(&token, begun).unwrap(), begun);
            tokens.push(token);
        }
        let are_ready = |tokens: &[SessionToken]| -> Vec<bool> {
            let table = store.table(store.key(&tokens[0]));
            tokens.iter().map(|token| table.get(store.key(token)).unwrap().ready.is_some()).collect()
        };
        let mut held = Vec::new();
        for second in 3..8 {
            let now = begun + Duration::from_secs(second);
            for token in &tokens {
                let session = store.hot(token, now).unwrap();
                assert_eq!(session.signed().unwrap().signature, [9; 64], "nothing is signed anew for it");
                assert!(store.table(store.key(token)).all_bytes() <= 1 << 20);
            }
            held.push(are_ready(&tokens));
        }
        let number = |held: &[bool]| held.iter().filter(|is_ready| **is_ready).count();
        assert!(number(&held[4]) > 200 && number(&held[4]) < 500, "{} are ready", number(&held[4]));
        assert_eq!(held[3], held[4]);
        // One whose signature counts no more is held, so that the new one is kept: after the clock was set back, or after a reload.
        let now = begun + Duration::from_secs(8);
        let mut unheld =
            tokens.iter().zip(&held[4]).filter(|(_, is_ready)| !**is_ready).map(|(token, _)| token.clone());
        let early = unheld.next().unwrap();
        store.hot(&early, Timestamp::from_secs(500)).unwrap();
        let outdated = unheld.next().unwrap();
        let renewed = tokens.iter().zip(&held[4]).filter(|(_, is_ready)| **is_ready);
        for (token, _) in renewed {
            sign_by(8, &store.hot(token, now).unwrap(), now);
        }
        store.hot(&outdated, now).unwrap();
        assert_eq!(are_ready(&[early, outdated]), [true, true]);
        // Who comes while the others are idle takes their room, after one request for itself alone.
        let mut comers: Vec<_> = tokens.into_iter().zip(&held[4]).filter(|(_, is_ready)| !**is_ready).collect();
        comers.truncate(200);
        let comers: Vec<_> = comers.into_iter().map(|(token, _)| token).collect();
        for second in [20, 21] {
            for token in &comers {
                store.hot(token, begun + Duration::from_secs(second)).unwrap();
            }
        }
        assert!(number(&are_ready(&comers)) > 190, "{} of {}", number(&are_ready(&comers)), comers.len());
    }

    #[tokio::test]
    async fn kept_signatures_count_as_memory_too() {
        let (store, now) = (MemoryStore::new(Duration::ZERO, 1 << 20), Timestamp::from_secs(1000));
        for number in 0..4500 {
            let token = store.begin(session_of(&number.to_string(), now), now).await.unwrap();
            sign(&store.hot(&token, now).unwrap(), now);
            assert!(store.all_looked_at().all(|table| table.all_bytes() <= 1 << 20), "after {number}");
        }
        assert!(store.evicted() > 0, "so many do not fit");
    }

    #[tokio::test]
    async fn a_session_that_is_made_ready_again_knows_what_was_signed_for_it() {
        let (store, now) = (MemoryStore::new(Duration::ZERO, MEMORY), Timestamp::from_secs(1000));
        let token = store.begin(session(now), now).await.unwrap();
        let key = store.key(&token);
        sign(&store.hot(&token, now).unwrap(), now);
        for _ in 0..2 {
            store.table(key).forget_ready(key);
            assert_eq!(store.hot(&token, now).unwrap().signed().unwrap().signature, [9; 64]);
        }
        let Claim::Granted(lease) = store.claim(key, now).await.unwrap() else { panic!("nobody has it") };
        assert!(store.renew(&lease, session(now), now).await.unwrap());
        assert!(store.hot(&token, now).unwrap().signed().is_none(), "a renewed one is signed for anew");
    }

    #[tokio::test]
    async fn what_is_not_ready_any_more_still_counts_with_its_last_use() {
        let idle = Duration::from_secs(600);
        let (store, now) = (MemoryStore::new(idle, 1 << 20), Timestamp::from_secs(1000));
        let token = store.begin(session(now), now).await.unwrap();
        let key = store.key(&token);
        let used = now + Duration::from_secs(300);
        assert!(store.hot(&token, used).is_some());
        store.table(key).forget_ready(key);
        let before = used + idle.saturating_sub(Duration::from_secs(1));
        assert_eq!(store.hot(&token, before).unwrap().last_seen(), before);
        store.table(key).forget_ready(key);
        assert!(store.hot(&token, before + idle).is_none());
        assert_eq!(store.held(), 0);
    }

    #[tokio::test]
    async fn a_sweep_does_not_end_what_was_used_since_the_table_recorded_it() {
        let idle = Duration::from_secs(600);
        let (store, now) = (MemoryStore::new(idle, MEMORY), Timestamp::from_secs(1000));
        let token = store.begin(session(now), now).await.unwrap();
        // Within the minute: the table is not updated.
        assert!(store.hot(&token, now + Duration::from_secs(50)).is_some());
        store.sweep(now + Duration::from_secs(610));
        assert_eq!(store.held(), 1);
        store.sweep(now + Duration::from_secs(650));
        assert_eq!(store.held(), 0);
    }

    #[tokio::test]
    async fn a_renewal_takes_the_new_identity_and_never_a_later_end() {
        let (store, now) = (MemoryStore::new(Duration::ZERO, MEMORY), Timestamp::from_secs(1000));
        let token = store.begin(session(now), now).await.unwrap();
        let Claim::Granted(lease) = store.claim(store.key(&token), now).await.unwrap() else { panic!("nobody has it") };
        let late = Session { expires_at: now + HOUR + HOUR, provider_session: Some("sid".into()), ..session(now) };
        assert!(store.renew(&lease, late, now).await.unwrap());
        for _ in 0..2 {
            let renewed = store.hot(&token, now).unwrap();
            assert_eq!(renewed.session().expires_at, now + HOUR);
            assert_eq!(renewed.session().provider_session.as_deref(), Some("sid"));
            store.table(store.key(&token)).forget_ready(store.key(&token));
        }
        let selector = SessionSelector::ProviderSession { authority: US, sid: "sid" };
        assert_eq!(store.of(selector, now).await.unwrap().len(), 1);
        assert!(store.hot(&token, now + HOUR).is_none());
        assert!(store.of(selector, now).await.unwrap().is_empty());
    }

    #[test]
    fn an_ended_session_never_comes_back_however_requests_and_renewals_race_with_its_end() {
        let (store, now) = (MemoryStore::new(Duration::from_secs(60), 1 << 20), Timestamp::from_secs(1000));
        for round in 0..200 {
            let token = at_once(store.begin(session(now), now)).unwrap();
            let key = store.key(&token);
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        for n in 0..50 {
                            store.hot(&token, now + Duration::from_secs(n));
                            store.table(key).forget_ready(key);
                        }
                    });
                }
                scope.spawn(|| {
                    for _ in 0..20 {
                        if let Ok(Claim::Granted(lease)) = at_once(store.claim(key, now)) {
                            let renewed = Session { renew_at: Some(now), ..session(now) };
                            at_once(store.renew(&lease, renewed, now)).unwrap();
                        }
                    }
                });
                scope.spawn(|| at_once(store.end_unseen(&token)).unwrap());
            });
            assert!(store.hot(&token, now).is_none(), "round {round}");
            assert!(store.table(key).get(key).is_none() && matches!(at_once(store.claim(key, now)), Ok(Claim::Ended)));
        }
    }

    /// The result of a call to a store in memory, which is always ready.
    fn at_once<T>(mut pending: Pending<'_, T>) -> T {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match pending.as_mut().poll(&mut context) {
            std::task::Poll::Ready(answer) => answer,
            std::task::Poll::Pending => panic!("it waits"),
        }
    }

    #[tokio::test]
    async fn what_expired_is_swept() {
        let (store, now) = (MemoryStore::new(Duration::ZERO, MEMORY), Timestamp::from_secs(1000));
        store.begin(session(now), now).await.unwrap();
        store.sweep(now);
        assert_eq!(store.held(), 1);
        store.sweep(now + HOUR);
        store.sweep(now + HOUR);
        assert_eq!(store.held(), 0);
    }

    #[tokio::test]
    async fn one_renews_at_a_time_and_an_ended_session_stays_ended() {
        let (store, now) = (MemoryStore::new(Duration::ZERO, MEMORY), Timestamp::from_secs(1000));
        let token = store.begin(session(now), now).await.unwrap();
        let key = store.key(&token);
        let Claim::Granted(lease) = store.claim(key, now).await.unwrap() else { panic!("nobody has it") };
        assert!(matches!(store.claim(key, now).await.unwrap(), Claim::Taken));
        let renewed = Session { renew_at: Some(now + HOUR), ..session(now) };
        assert!(store.renew(&lease, renewed.clone(), now).await.unwrap());
        assert_eq!(store.hot(&token, now).unwrap().session().renew_at, Some(now + HOUR));
        let Claim::Granted(late) = store.claim(key, now).await.unwrap() else { panic!("it was given back") };
        assert!(!store.renew(&lease, renewed.clone(), now).await.unwrap(), "a lease counts once");
        store.end(&late.session).await.unwrap();
        assert!(!store.renew(&late, renewed, now).await.unwrap());
        assert!(store.hot(&token, now).is_none());
        assert!(matches!(store.claim(key, now).await.unwrap(), Claim::Ended));
    }

    #[tokio::test]
    async fn a_holder_follows_a_session_through_a_renewal_to_its_end_and_does_not_keep_it_from_going_idle() {
        let (store, now) = (MemoryStore::new(Duration::from_secs(60), MEMORY), Timestamp::from_secs(1000));
        let token = store.begin(session(now), now).await.unwrap();
        let held = store.hot(&token, now).unwrap();
        let Claim::Granted(lease) = store.claim(held.key(), now).await.unwrap() else { panic!("nobody has it") };
        let renewed = Session { renew_at: Some(now + HOUR), ..session(now) };
        assert!(store.renew(&lease, renewed, now).await.unwrap());
        let later = Timestamp::from_secs(1050);
        let followed = store.follow(&held, false, later).await.unwrap().unwrap();
        assert_eq!(followed.session().renew_at, Some(now + HOUR));
        assert!(store.follow(&held, false, Timestamp::from_secs(1059)).await.unwrap().is_some());
        assert!(store.follow(&held, true, Timestamp::from_secs(1059)).await.unwrap().is_some());
        assert!(store.follow(&held, false, Timestamp::from_secs(1118)).await.unwrap().is_some(), "that was a use");
        assert!(store.follow(&held, false, Timestamp::from_secs(1119)).await.unwrap().is_none());
        let token = store.begin(session(now), now).await.unwrap();
        let held = store.hot(&token, now).unwrap();
        store.end(&held).await.unwrap();
        assert!(store.follow(&held, true, now).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_persons_sessions_are_found() {
        let (store, now) = (MemoryStore::new(Duration::ZERO, MEMORY), Timestamp::from_secs(1000));
        store.begin(session(now), now).await.unwrap();
        store.begin(session(now + HOUR), now + HOUR).await.unwrap();
        let of = |id| store.of(SessionSelector::Person { authority: US, id }, now);
        let found = of("1").await.unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].session().created_at, now + HOUR, "the newest first");
        assert!(of("2").await.unwrap().is_empty());
    }
}
