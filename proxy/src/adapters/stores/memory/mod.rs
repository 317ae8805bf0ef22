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

use self::leases::{Holder, LeaseTable};
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

    fn end_unseen<'a>(&'a self, token: &'a SessionToken) -> Pending<'a, Result<(), EndError>> {
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
        let holder = self.leases.give_back(key, lease.ticket);
        let mut table = self.table(key);
        let has_ended = self.end_if_expired(&mut table, key, now);
        let renewed = !has_ended
            && match holder {
                Holder::Giver => true,
                // A lease that expired meanwhile does no harm while the session is as it was claimed: the provider has changed the tokens
                // already.
                Holder::Nobody => table.get(key).is_some_and(|kept| is_as_claimed(&kept, lease)),
                Holder::Another => false,
            };
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

/// Whether nobody has renewed a session since its lease was taken.
fn is_as_claimed(kept: &Kept<'_>, lease: &Lease) -> bool {
    kept.record == record::pack(lease.session.session()).as_slice()
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
mod tests;
