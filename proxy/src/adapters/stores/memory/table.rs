//! Sessions, stored packed and if there is room also ready for requests, indexed by key and by owner, in the order of their use.
//!
//! A general cache needs more space per session than the session itself: this table has one row of fixed size, with the lists linked
//! through the rows, and two small tables of row numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hashbrown::HashTable;

use super::super::weight;
use crate::adapters::assertion;
use crate::domain::session::SessionKey;
use crate::domain::time::Timestamp;
use crate::ports::{LoadedSession, Signed};

/// The overhead of a session beside its record, in bytes: its row, its share of the tables, and the allocator's overhead.
pub(super) const BESIDE: usize = size_of::<Row>() + 48;

/// What a kept signature takes, in bytes. It counts among the ready sessions.
const SIGNED: usize = size_of::<Signed>() + 8;

/// How many ready sessions that were used lately are skipped before one of them is packed nevertheless.
const REPRIEVES: usize = 64;

/// How many ready sessions are looked at for one that was used less lately than one that is not ready.
const LOOKED_AT: usize = 2;

/// By how many seconds: a use is noted once a second.
const SURELY: u32 = 2;

/// Sessions in the order of their use. The table enforces no limit and no expiry: its owner does.
#[derive(Default)]
pub(super) struct SessionTable {
    rows: Vec<Row>,
    vacant: Vec<u32>,
    by_key: HashTable<u32>,
    /// The newest session of each user, and of each provider session.
    persons: HashTable<u32>,
    provider_sessions: HashTable<u32>,
    newest: Option<u32>,
    bytes: usize,
    /// The head of the ring of ready sessions: the one made ready, or found in use, last.
    newest_ready: Option<u32>,
    ready_bytes: usize,
    /// Where [`SessionTable::look_round`] continues.
    round: usize,
    /// Where [`SessionTable::shed_signed`] continues.
    signed_round: usize,
}

/// One session.
struct Row {
    key: SessionKey,
    /// Empty if the row is vacant.
    record: Box<[u8]>,
    last_seen: Timestamp,
    expires_at: Timestamp,
    owners: Owners,
    in_use: Links,
    of_person: Links,
    of_provider_session: Links,
    ready: Option<Arc<LoadedSession>>,
    of_ready: Links,
    /// Whether it was requested since it was last considered for packing.
    is_wanted: AtomicBool,
    /// The second of its last request, while it is not ready; zero: there was none.
    asked: u32,
    /// What its last assertion was signed with, while it is not ready.
    signed: Option<Box<Signed>>,
    /// Whether it also had identities for upstreams other than the usual one, which are signed apart and not kept.
    had_others: bool,
}

/// Hashes of the session's owners. Different owners may share a hash: the caller checks the record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Owners {
    pub(super) person: u64,
    pub(super) provider_session: Option<std::num::NonZeroU64>,
}

/// One of a row's owners.
#[derive(Clone, Copy)]
pub(super) enum Owner {
    Person(u64),
    ProviderSession(std::num::NonZeroU64),
}

/// The neighbours in a ring of rows.
#[derive(Clone, Copy, Default)]
struct Links {
    newer: u32,
    older: u32,
}

#[derive(Clone, Copy)]
enum Ring {
    Use,
    Ready,
    Person,
    ProviderSession,
}

/// A session in the table.
pub(super) struct Kept<'a> {
    pub(super) key: SessionKey,
    pub(super) record: &'a [u8],
    pub(super) last_seen: Timestamp,
    pub(super) expires_at: Timestamp,
    /// The session ready for requests.
    pub(super) ready: Option<&'a Arc<LoadedSession>>,
}

impl SessionTable {
    /// Inserts a session as the one used last; replaces one with the same key.
    pub(super) fn put(
        &mut self,
        key: SessionKey,
        owners: Owners,
        record: Box<[u8]>,
        last_seen: Timestamp,
        expires_at: Timestamp,
    ) {
        self.remove(key);
        let bytes = record.len() + BESIDE;
        let links = Links::default();
        let row = Row {
            key,
            record,
            last_seen,
            expires_at,
            owners,
            in_use: links,
            of_person: links,
            of_provider_session: links,
            ready: None,
            of_ready: links,
            is_wanted: AtomicBool::new(false),
            asked: 0,
            signed: None,
            had_others: false,
        };
        let Some(at) = self.seat(row) else { return };
        self.bytes += bytes;
        self.by_key.insert_unique(hash(key), at, |at| self.rows.get(*at as usize).map_or(0, |row| hash(row.key)));
        self.newest = Some(self.join(Ring::Use, at, self.newest));
        self.join_owner(Owner::Person(owners.person), at);
        if let Some(provider_session) = owners.provider_session {
            self.join_owner(Owner::ProviderSession(provider_session), at);
        }
    }

    /// A session; does not count as a use.
    pub(super) fn get(&self, key: SessionKey) -> Option<Kept<'_>> {
        self.find(key).and_then(|at| self.row(at)).map(Row::kept)
    }

    /// A ready session, for a request.
    pub(super) fn ready(&self, key: SessionKey) -> Option<&Arc<LoadedSession>> {
        let row = self.row(self.find(key)?)?;
        // Written only once, so that busy sessions do not contend for a cache line.
        if !row.is_wanted.load(Ordering::Relaxed) {
            row.is_wanted.store(true, Ordering::Relaxed);
        }
        row.ready.as_ref()
    }

    /// Makes a session ready for a request, by `unpack`, and holds it so: all together take at most `most` bytes.
    pub(super) fn make_ready(
        &mut self,
        key: SessionKey,
        most: usize,
        now: Timestamp,
        unpack: impl FnOnce(&Kept<'_>) -> Option<LoadedSession>,
    ) -> Option<Arc<LoadedSession>> {
        let at = self.find(key)?;
        self.drop_ready(at);
        let row = self.row(at)?;
        let session = unpack(&row.kept())?.with_signed(row.signed.clone());
        let bytes = weight::of(&session) as usize;
        let session = Arc::new(session);
        let is_full = self.bytes + self.ready_bytes + bytes > most;
        // Only if its renewal cannot have been postponed, and nothing is signed, which would be lost with it.
        if is_full && !session.is_due(now) && row.has_all_signed(now) && !self.displaces(at) {
            self.rows.get_mut(at as usize)?.asked = second(now);
            return Some(session);
        }
        let row = self.rows.get_mut(at as usize)?;
        self.ready_bytes -= row.signed.take().map_or(0, |_| SIGNED);
        row.ready = Some(Arc::clone(&session));
        row.is_wanted = AtomicBool::new(false);
        self.ready_bytes += bytes;
        self.newest_ready = Some(self.join(Ring::Ready, at, self.newest_ready));
        self.shed_ready(most);
        Some(session)
    }

    /// Whether a session that is not ready was requested later than one that is, before this request; that one then is the next to be
    /// packed. Otherwise it is made ready for this request alone: where more are in use than can be held, those that are held stay, instead
    /// of each making way for the next.
    fn displaces(&mut self, at: u32) -> bool {
        let Some(row) = self.row(at) else { return true };
        let (asked, signer) = (row.asked.max(second(row.last_seen)), row.signed.as_ref().map(|signed| signed.signer));
        for _ in 0..LOOKED_AT {
            let Some(oldest) = self.newest_ready.map(|newest| self.links(Ring::Ready, newest).newer) else {
                return true;
            };
            let Some(row) = self.rows.get_mut(oldest as usize) else { return true };
            let Some(ready) = &row.ready else { return true };
            // Signers are numbered as they come: what a later one has signed says that ours counts no more.
            let signs_anew = ready.signed().map(|signed| signed.signer) > signer;
            if signs_anew || second(ready.last_seen()).saturating_add(SURELY) < asked {
                // It is the one to make way.
                *row.is_wanted.get_mut() = false;
                return true;
            }
            self.newest_ready = Some(oldest);
        }
        false
    }

    /// Packs ready sessions, the longest unrequested first, until all together take at most `most` bytes; in the end signatures go too.
    pub(super) fn shed_ready(&mut self, most: usize) {
        let mut reprieves = REPRIEVES;
        while self.bytes + self.ready_bytes > most {
            let Some(newest) = self.newest_ready else { return self.shed_signed(most) };
            let oldest = self.links(Ring::Ready, newest).newer;
            let Some(row) = self.rows.get_mut(oldest as usize) else { return };
            if std::mem::take(row.is_wanted.get_mut()) && reprieves > 0 {
                reprieves -= 1;
                // Turn the ring: the oldest becomes the newest.
                self.newest_ready = Some(oldest);
            } else {
                self.drop_ready(oldest);
            }
        }
    }

    /// Drops kept signatures, in an endless round. Where nothing is ready, so much can only be taken if nearly every row has one.
    fn shed_signed(&mut self, most: usize) {
        for _ in 0..self.rows.len() {
            if self.bytes + self.ready_bytes <= most {
                return;
            }
            self.signed_round = (self.signed_round + 1) % self.rows.len();
            if let Some(row) = self.rows.get_mut(self.signed_round) {
                self.ready_bytes -= row.signed.take().map_or(0, |_| SIGNED);
            }
        }
    }

    /// Packs a ready session; keeps what its last assertion was signed with.
    fn drop_ready(&mut self, at: u32) {
        let Some(row) = self.rows.get_mut(at as usize) else { return };
        let Some(ready) = row.ready.take() else { return };
        row.asked = second(ready.last_seen());
        row.had_others = !ready.upstream_identities().is_empty();
        row.signed = ready.signed().map(Box::new);
        self.ready_bytes += row.signed.as_ref().map_or(0, |_| SIGNED);
        self.ready_bytes -= weight::of(&ready) as usize;
        let rest = self.leave(Ring::Ready, at);
        if self.newest_ready == Some(at) {
            self.newest_ready = rest;
        }
    }

    #[cfg(test)]
    pub(super) fn forget_ready(&mut self, key: SessionKey) {
        if let Some(at) = self.find(key) {
            self.drop_ready(at);
        }
    }

    /// Notes a use of a session.
    pub(super) fn note(&mut self, key: SessionKey, last_seen: Timestamp) {
        let Some(at) = self.find(key) else { return };
        if let Some(row) = self.rows.get_mut(at as usize) {
            row.last_seen = row.last_seen.max(last_seen);
        }
        let rest = self.leave(Ring::Use, at);
        let head = if self.newest == Some(at) { rest } else { self.newest };
        self.newest = Some(self.join(Ring::Use, at, head));
    }

    /// Removes a session and ends it for its holders; returns whether it was there.
    pub(super) fn take(&mut self, key: SessionKey) -> bool {
        if let Some(ready) = self.get(key).and_then(|kept| kept.ready) {
            ready.end();
        }
        self.remove(key)
    }

    fn remove(&mut self, key: SessionKey) -> bool {
        let rows = &self.rows;
        let is_it = |at: &u32| rows.get(*at as usize).is_some_and(|row| row.key == key);
        let Ok(entry) = self.by_key.find_entry(hash(key), is_it) else { return false };
        let (at, _) = entry.remove();
        self.drop_ready(at);
        let rest = self.leave(Ring::Use, at);
        if self.newest == Some(at) {
            self.newest = rest;
        }
        let Some(owners) = self.row(at).map(|row| row.owners) else { return false };
        self.leave_owner(Owner::Person(owners.person), at);
        if let Some(provider_session) = owners.provider_session {
            self.leave_owner(Owner::ProviderSession(provider_session), at);
        }
        if let Some(row) = self.rows.get_mut(at as usize) {
            self.bytes -= row.record.len() + BESIDE;
            row.record = Box::default();
            self.ready_bytes -= row.signed.take().map_or(0, |_| SIGNED);
        }
        self.vacant.push(at);
        true
    }

    /// The least recently used session.
    pub(super) fn oldest(&self) -> Option<Kept<'_>> {
        let newest = self.row(self.newest?)?;
        self.row(newest.in_use.newer).map(Row::kept)
    }

    /// The sessions of an owner, the latest put first; may include those of another owner with the same hash.
    pub(super) fn of(&self, owner: Owner) -> impl Iterator<Item = Kept<'_>> {
        let head = self.owners(owner).find(owner.hash(), |at| self.is_of(*at, owner)).copied();
        let mut next = head;
        std::iter::from_fn(move || {
            let row = self.row(next?)?;
            let older = row.links(owner.ring()).older;
            next = Some(older).filter(|older| Some(*older) != head);
            Some(row.kept())
        })
    }

    /// Checks the next `most` rows of an endless round, and returns the keys of the sessions that match.
    pub(super) fn look_round(&mut self, most: usize, asked: impl Fn(&Kept<'_>) -> bool) -> Vec<SessionKey> {
        let end = self.round.saturating_add(most).min(self.rows.len());
        let rows = self.rows.get(self.round..end).unwrap_or_default();
        let found = rows.iter().filter(|row| !row.record.is_empty()).map(Row::kept).filter(asked);
        let found = found.map(|kept| kept.key).collect();
        self.round = if end == self.rows.len() { 0 } else { end };
        found
    }

    /// The number of sessions.
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// The size of the packed sessions, in bytes.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The size of everything, counted anew.
    #[cfg(test)]
    pub(super) fn all_bytes(&self) -> usize {
        let size = |row: &Row| {
            let ready = row.ready.as_ref().map_or(0, |ready| weight::of(ready) as usize);
            row.record.len() + BESIDE + ready + row.signed.as_ref().map_or(0, |_| SIGNED)
        };
        let all: usize = self.rows.iter().filter(|row| !row.record.is_empty()).map(size).sum();
        assert_eq!(self.bytes + self.ready_bytes, all, "what is counted as it comes and goes");
        all
    }

    fn find(&self, key: SessionKey) -> Option<u32> {
        self.by_key.find(hash(key), |at| self.row(*at).is_some_and(|row| row.key == key)).copied()
    }

    fn row(&self, at: u32) -> Option<&Row> {
        self.rows.get(at as usize)
    }

    /// Stores a row; `None` at 2^32 rows, which no memory holds.
    fn seat(&mut self, row: Row) -> Option<u32> {
        if let Some(at) = self.vacant.pop() {
            *self.rows.get_mut(at as usize)? = row;
            return Some(at);
        }
        let at = u32::try_from(self.rows.len()).ok()?;
        self.rows.push(row);
        Some(at)
    }

    /// Inserts a row into a ring in front of `head`; returns it as the new head.
    fn join(&mut self, ring: Ring, at: u32, head: Option<u32>) -> u32 {
        let head = head.unwrap_or(at);
        let oldest = if head == at { at } else { self.links(ring, head).newer };
        self.link(ring, oldest, at);
        self.link(ring, at, head);
        at
    }

    /// Removes a row from a ring; returns the next older one, if any is left.
    fn leave(&mut self, ring: Ring, at: u32) -> Option<u32> {
        let Links { newer, older } = self.links(ring, at);
        self.link(ring, newer, older);
        (older != at).then_some(older)
    }

    fn links(&self, ring: Ring, at: u32) -> Links {
        self.row(at).map(|row| *row.links(ring)).unwrap_or_default()
    }

    fn link(&mut self, ring: Ring, newer: u32, older: u32) {
        if let Some(row) = self.rows.get_mut(newer as usize) {
            row.links_mut(ring).older = older;
        }
        if let Some(row) = self.rows.get_mut(older as usize) {
            row.links_mut(ring).newer = newer;
        }
    }

    fn join_owner(&mut self, owner: Owner, at: u32) {
        let head = self.owners(owner).find(owner.hash(), |at| self.is_of(*at, owner)).copied();
        self.join(owner.ring(), at, head);
        match head {
            Some(head) => self.set_head(owner, head, at),
            None => {
                let (rows, table) = match owner {
                    Owner::Person(_) => (&self.rows, &mut self.persons),
                    Owner::ProviderSession(_) => (&self.rows, &mut self.provider_sessions),
                };
                table.insert_unique(owner.hash(), at, |at| {
                    rows.get(*at as usize).map_or(0, |row| row.hash_of(owner.ring()))
                });
            }
        }
    }

    fn leave_owner(&mut self, owner: Owner, at: u32) {
        match self.leave(owner.ring(), at) {
            Some(next) => self.set_head(owner, at, next),
            None => {
                if let Ok(entry) = self.owners_mut(owner).find_entry(owner.hash(), |head| *head == at) {
                    entry.remove();
                }
            }
        }
    }

    /// Replaces `from` by `to` where it is the head of an owner's ring.
    fn set_head(&mut self, owner: Owner, from: u32, to: u32) {
        if let Some(head) = self.owners_mut(owner).find_mut(owner.hash(), |head| *head == from) {
            *head = to;
        }
    }

    fn is_of(&self, at: u32, owner: Owner) -> bool {
        self.row(at).is_some_and(|row| row.hash_of(owner.ring()) == owner.hash())
    }

    const fn owners(&self, owner: Owner) -> &HashTable<u32> {
        match owner {
            Owner::Person(_) => &self.persons,
            Owner::ProviderSession(_) => &self.provider_sessions,
        }
    }

    const fn owners_mut(&mut self, owner: Owner) -> &mut HashTable<u32> {
        match owner {
            Owner::Person(_) => &mut self.persons,
            Owner::ProviderSession(_) => &mut self.provider_sessions,
        }
    }
}

impl Kept<'_> {
    /// The last use, including what the ready session knows of.
    pub(super) fn last_used(&self) -> Timestamp {
        self.ready.map_or(self.last_seen, |session| session.last_seen().max(self.last_seen))
    }
}

impl Row {
    /// Whether a request now needs no new signature, as far as the table knows.
    fn has_all_signed(&self, now: Timestamp) -> bool {
        !self.had_others && self.signed.as_ref().is_some_and(|signed| assertion::is_fresh(signed.issued_at, now))
    }

    fn kept(&self) -> Kept<'_> {
        Kept {
            key: self.key,
            record: &self.record,
            last_seen: self.last_seen,
            expires_at: self.expires_at,
            ready: self.ready.as_ref(),
        }
    }

    const fn links(&self, ring: Ring) -> &Links {
        match ring {
            Ring::Use => &self.in_use,
            Ring::Ready => &self.of_ready,
            Ring::Person => &self.of_person,
            Ring::ProviderSession => &self.of_provider_session,
        }
    }

    const fn links_mut(&mut self, ring: Ring) -> &mut Links {
        match ring {
            Ring::Use => &mut self.in_use,
            Ring::Ready => &mut self.of_ready,
            Ring::Person => &mut self.of_person,
            Ring::ProviderSession => &mut self.of_provider_session,
        }
    }

    fn hash_of(&self, ring: Ring) -> u64 {
        match ring {
            Ring::Use | Ring::Ready => 0,
            Ring::Person => self.owners.person,
            Ring::ProviderSession => self.owners.provider_session.map_or(0, std::num::NonZeroU64::get),
        }
    }
}

/// A time as its second.
fn second(time: Timestamp) -> u32 {
    u32::try_from(time.secs()).unwrap_or(u32::MAX)
}

impl Owner {
    const fn hash(self) -> u64 {
        match self {
            Self::Person(hash) => hash,
            Self::ProviderSession(hash) => hash.get(),
        }
    }

    const fn ring(self) -> Ring {
        match self {
            Self::Person(_) => Ring::Person,
            Self::ProviderSession(_) => Ring::ProviderSession,
        }
    }
}

/// A key is a SHA-256 already.
const fn hash(key: SessionKey) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = key.0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use proptest::prelude::*;

    use super::*;

    /// Number, user, provider session, and the turn of its insertion.
    type Line = (u8, u64, u64, u64);

    fn key(n: u8) -> SessionKey {
        SessionKey([n; 32])
    }

    /// Owners of a session: the user and the provider session, 0 for none.
    fn owners(person: u64, provider_session: u64) -> Owners {
        Owners { person, provider_session: NonZeroU64::new(provider_session) }
    }

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    fn put(table: &mut SessionTable, n: u8, person: u64, provider_session: u64) {
        table.put(key(n), owners(person, provider_session), vec![n; 10].into(), at(0), at(100));
    }

    fn of(table: &SessionTable, owner: Owner) -> Vec<u8> {
        table.of(owner).map(|kept| kept.key.0[0]).collect()
    }

    #[test]
    fn the_longest_unused_is_the_oldest() {
        let mut table = SessionTable::default();
        assert!(table.oldest().is_none());
        for n in 1..=3 {
            put(&mut table, n, 7, 0);
        }
        let oldest = |table: &SessionTable| table.oldest().map(|kept| kept.key);
        assert_eq!(oldest(&table), Some(key(1)));
        table.note(key(1), at(5));
        assert_eq!(oldest(&table), Some(key(2)));
        assert_eq!(table.get(key(1)).unwrap().last_seen, at(5));
        table.note(key(1), at(4));
        assert_eq!(table.get(key(1)).unwrap().last_seen, at(5), "a late note takes nothing back");
        assert!(table.take(key(2)) && !table.take(key(2)));
        assert_eq!(oldest(&table), Some(key(3)));
    }

    #[test]
    fn an_owners_sessions_are_found_the_latest_first() {
        let mut table = SessionTable::default();
        for (n, person, provider_session) in [(1, 7, 1), (2, 8, 2), (3, 7, 1), (4, 7, 0)] {
            put(&mut table, n, person, provider_session);
        }
        let first = Owner::ProviderSession(NonZeroU64::new(1).unwrap());
        assert_eq!(of(&table, Owner::Person(7)), [4, 3, 1]);
        assert_eq!(of(&table, first), [3, 1]);
        table.take(key(4));
        table.take(key(1));
        assert_eq!(of(&table, Owner::Person(7)), [3]);
        table.take(key(3));
        assert!(of(&table, Owner::Person(7)).is_empty() && of(&table, first).is_empty());
        assert_eq!(of(&table, Owner::Person(8)), [2]);
    }

    #[test]
    fn a_round_sees_every_session() {
        let mut table = SessionTable::default();
        for n in 1..=10 {
            put(&mut table, n, 7, 0);
        }
        table.take(key(4));
        let mut seen: Vec<u8> =
            (0..4).flat_map(|_| table.look_round(3, |kept| kept.key != key(5))).map(|key| key.0[0]).collect();
        seen.sort_unstable();
        assert_eq!(seen, [1, 2, 3, 6, 7, 8, 9, 10]);
        assert_eq!(table.look_round(3, |_| true), [key(1), key(2), key(3)], "and begins anew");
    }

    proptest! {
        /// Compares with a plain list, the newest last.
        #[test]
        fn it_does_as_a_plain_list_does(steps in proptest::collection::vec((0_u8..3, 0_u8..12, 0_u64..3, 0_u64..3), 0..200)) {
            let (mut table, mut list): (SessionTable, Vec<Line>) = Default::default();
            for (turn, (what, n, person, provider_session)) in (0_u64..).zip(steps) {
                let there = list.iter().position(|(other, ..)| *other == n);
                match what {
                    0 => {
                        there.map(|there| list.remove(there));
                        list.push((n, person, provider_session, turn));
                        put(&mut table, n, person, provider_session);
                    }
                    1 => {
                        if let Some(there) = there {
                            let row = list.remove(there);
                            list.push(row);
                        }
                        table.note(key(n), at(1));
                    }
                    _ => {
                        prop_assert_eq!(table.take(key(n)), there.is_some());
                        there.map(|there| list.remove(there));
                    }
                }
                prop_assert_eq!(table.len(), list.len());
                prop_assert_eq!(table.bytes(), list.len() * (10 + BESIDE));
                prop_assert_eq!(table.oldest().map(|kept| kept.key), list.first().map(|(n, ..)| key(*n)));
                let expected = |is: &dyn Fn(&Line) -> bool| {
                    let mut rows: Vec<_> = list.iter().filter(|row| is(row)).collect();
                    rows.sort_unstable_by_key(|row| std::cmp::Reverse(row.3));
                    rows.into_iter().map(|row| row.0).collect::<Vec<u8>>()
                };
                for owner in 0..3 {
                    prop_assert_eq!(of(&table, Owner::Person(owner)), expected(&|row| row.1 == owner));
                    if let Some(hash) = NonZeroU64::new(owner) {
                        prop_assert_eq!(of(&table, Owner::ProviderSession(hash)), expected(&|row| row.2 == owner));
                    }
                }
            }
        }
    }
}
