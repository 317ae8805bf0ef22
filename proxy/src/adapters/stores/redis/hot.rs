//! Sessions in this replica's memory, and how long each stays valid there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::adapters::stores::key::ByKey;
use crate::adapters::stores::signatures::Signatures;
use crate::adapters::stores::weight;
use crate::domain::session::{Session, SessionKey};
use crate::domain::time::Timestamp;
use crate::ports::LoadedSession;

/// How long the end or change of a session is remembered: longer than any read of it can take.
const NEWS_LAST: Duration = Duration::from_secs(60);
/// A session unused for this long is dropped from memory.
const UNUSED_MOST: Duration = Duration::from_secs(900);
/// How many ended or changed sessions are remembered.
const NEWS_MOST: u64 = 100_000;

/// Sessions in memory, least recently used evicted first.
pub(super) struct Hot {
    entries: Cache<SessionKey, Arc<Entry>, ByKey>,
    news: Cache<SessionKey, News>,
    /// When news was last evicted for lack of room: reads under way at that time may have missed some.
    lost: Arc<AtomicU64>,
    channel: ChannelState,
    /// Whether a proof is one of a single master's news: in a cluster each sends its own.
    is_clustered: bool,
    /// Sessions opened under earlier terms than these are not used: the current secrets may not open them.
    generation: AtomicU64,
    ttl: Duration,
    began: Instant,
    evicted: Arc<AtomicU64>,
    signatures: Arc<Signatures>,
}

/// A session in memory.
pub(super) struct Entry {
    pub(super) loaded: Arc<LoadedSession>,
    /// Identifies the sealed value.
    value: [u8; 16],
    /// The generation of the terms that it was opened under.
    generation: u64,
    /// When it was read, and the subscription that was active before that.
    read: ReadMoment,
    /// When it was reported as changed; 0: never.
    changed: AtomicU64,
    /// The last use that was written to the store.
    pub(super) seen_written: AtomicU64,
}

/// The moment of a read.
#[derive(Clone, Copy)]
pub(super) struct ReadMoment {
    at: u64,
    subscription: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum News {
    Ended,
    Changed(u64),
}

/// The state of the channel that brings news. Times are milliseconds of our own clock.
#[derive(Default)]
struct ChannelState {
    /// The number of the subscription; news between two subscriptions is missed.
    subscription: AtomicU64,
    /// When news was last proven to arrive.
    proven: AtomicU64,
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

impl Hot {
    pub(super) fn new(bytes: u64, ttl: Duration, is_clustered: bool) -> Self {
        let evicted = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&evicted);
        let signatures = Arc::new(Signatures::new(bytes));
        let kept = Arc::clone(&signatures);
        let entries = Cache::builder()
            // The default policy would reject a new session while the cache is full of sessions in use.
            .eviction_policy(EvictionPolicy::lru())
            .max_capacity(Signatures::room_beside(bytes))
            .time_to_idle(UNUSED_MOST)
            .weigher(|_, entry: &Arc<Entry>| weight::in_cache(&entry.loaded))
            .eviction_listener(move |_, entry, cause| {
                if cause == RemovalCause::Size {
                    kept.keep(&entry.loaded);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
            .build_with_hasher(ByKey::default());
        let (lost, began) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let given_up = Arc::clone(&lost);
        let news = Cache::builder()
            .eviction_policy(EvictionPolicy::lru())
            .max_capacity(NEWS_MOST)
            .time_to_live(NEWS_LAST)
            .eviction_listener(move |_, _, cause| {
                if cause == RemovalCause::Size {
                    given_up.store(millis(began).max(1), Ordering::Release);
                }
            })
            .build();
        let generation = AtomicU64::new(0);
        Self {
            entries,
            news,
            lost,
            channel: ChannelState::default(),
            is_clustered,
            generation,
            ttl,
            began,
            evicted,
            signatures,
        }
    }

    fn clock(&self) -> u64 {
        millis(self.began)
    }

    /// Call this before reading a session.
    pub(super) fn reading(&self) -> ReadMoment {
        ReadMoment { at: self.clock(), subscription: self.channel.subscription.load(Ordering::Acquire) }
    }

    /// A session that can be used without being read again.
    pub(super) fn fresh(&self, key: SessionKey) -> Option<Arc<Entry>> {
        let entry = self.any(key)?;
        let subscribed = entry.read.subscription == self.channel.subscription.load(Ordering::Acquire);
        let unchanged = subscribed && entry.changed.load(Ordering::Acquire) == 0 && self.is_young(&entry);
        (unchanged && (!self.is_clustered || self.is_recent(entry.read.at))).then_some(entry)
    }

    /// A session that can be used while the store is unavailable.
    pub(super) fn for_want_of_better(&self, key: SessionKey) -> Option<Arc<Entry>> {
        self.any(key).filter(|entry| self.is_young(entry))
    }

    /// The session in memory, valid or not, unless a secret was taken away since it was opened.
    pub(super) fn any(&self, key: SessionKey) -> Option<Arc<Entry>> {
        let entry = self.entries.get(&key)?;
        (entry.generation >= self.generation.load(Ordering::Acquire)).then_some(entry)
    }

    /// From now on uses only sessions that were opened under the terms of this generation, or later ones.
    pub(super) fn require(&self, generation: u64) {
        if self.generation.fetch_max(generation, Ordering::AcqRel) < generation {
            // They would not be used any more, but still take memory.
            self.entries.invalidate_all();
        }
    }

    /// Whether the entry was known to be unchanged less than `ttl` ago.
    fn is_young(&self, entry: &Entry) -> bool {
        let changed = entry.changed.load(Ordering::Acquire);
        let certain = if changed != 0 {
            changed
        } else if entry.read.subscription == self.channel.subscription.load(Ordering::Acquire) {
            let proven = self.channel.proven.load(Ordering::Acquire);
            // In an outage a cluster's proof counts as well, but not again and again.
            let most = if self.is_clustered {
                entry.read.at.saturating_add(u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX))
            } else {
                u64::MAX
            };
            entry.read.at.max(proven.min(most))
        } else {
            entry.read.at
        };
        self.is_recent(certain)
    }

    /// Whether it is less than `ttl` ago.
    fn is_recent(&self, at: u64) -> bool {
        Duration::from_millis(self.clock().saturating_sub(at)) < self.ttl
    }

    /// A session ready for requests, with what its last assertion was signed with, if that is known here.
    pub(super) fn ready(&self, key: SessionKey, session: Session, seen: Timestamp) -> LoadedSession {
        let loaded = LoadedSession::new(key, session, seen);
        match self.entries.get(&key).and_then(|entry| entry.loaded.signed()) {
            Some(signed) => loaded.with_signed(Some(Box::new(signed))),
            None => self.signatures.give(loaded),
        }
    }

    /// Stores a session that was read and opened under the terms of `generation`; `None`: it has ended in the meantime.
    pub(super) fn insert(
        &self,
        loaded: Arc<LoadedSession>,
        sealed: &[u8],
        generation: u64,
        read: ReadMoment,
        seen_written: u64,
    ) -> Option<Arc<Entry>> {
        let key = loaded.key();
        let entry = Arc::new(Entry {
            loaded,
            value: tail(sealed),
            generation,
            read,
            changed: AtomicU64::new(0),
            seen_written: AtomicU64::new(seen_written),
        });
        self.entries.insert(key, Arc::clone(&entry));
        // Apply news that arrived during the read.
        match self.news.get(&key) {
            Some(News::Ended) => {
                self.forget(key, &entry);
                return None;
            }
            Some(News::Changed(at)) if at >= read.at => entry.changed.store(at.max(1), Ordering::Release),
            Some(News::Changed(_)) => {}
            None => {
                let lost = self.lost.load(Ordering::Acquire);
                if lost != 0 && lost >= read.at {
                    entry.changed.store(lost, Ordering::Release);
                }
            }
        }
        Some(entry)
    }

    /// Ends a session on this replica, also for requests that hold it already.
    pub(super) fn end(&self, key: SessionKey) {
        self.news.insert(key, News::Ended);
        if let Some(entry) = self.entries.remove(&key) {
            entry.loaded.end();
        }
    }

    fn forget(&self, key: SessionKey, entry: &Entry) {
        entry.loaded.end();
        self.entries.invalidate(&key);
    }

    /// Marks a session to be read again: it changed or ended elsewhere, or a message claims so.
    pub(super) fn change(&self, key: SessionKey) {
        // No message can revive a session that has ended here.
        if self.has_ended(key) {
            return;
        }
        let now = self.clock().max(1);
        self.news.insert(key, News::Changed(now));
        if let Some(entry) = self.entries.get(&key) {
            entry.changed.store(now, Ordering::Release);
        }
    }

    /// Whether the session is known to have ended.
    pub(super) fn has_ended(&self, key: SessionKey) -> bool {
        self.news.get(&key) == Some(News::Ended)
    }

    /// Notes a new subscription: sessions read before it may have missed news.
    pub(super) fn subscribed(&self) {
        self.channel.subscription.fetch_add(1, Ordering::AcqRel);
        self.proven(self.clock());
    }

    /// Notes that all news sent before `at` has arrived. A time in the future counts as now.
    pub(super) fn proven(&self, at: u64) {
        self.channel.proven.fetch_max(at.min(self.clock()), Ordering::AcqRel);
    }

    /// The current time, for [`Hot::proven`].
    pub(super) fn now(&self) -> u64 {
        self.clock()
    }

    /// The time since news was last proven to arrive.
    pub(super) fn silence(&self) -> Duration {
        Duration::from_millis(self.clock().saturating_sub(self.channel.proven.load(Ordering::Acquire)))
    }

    /// Runs the caches' pending maintenance.
    pub(super) fn sweep(&self) {
        self.entries.run_pending_tasks();
        self.news.run_pending_tasks();
        self.signatures.sweep();
    }

    pub(super) fn count(&self) -> u64 {
        self.entries.entry_count()
    }

    pub(super) fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }
}

impl Entry {
    /// Whether this entry is what the given sealed value opens to under the terms of `generation`.
    pub(super) fn is_of(&self, sealed: &[u8], generation: u64) -> bool {
        self.value == tail(sealed) && self.generation == generation
    }
}

/// The last bytes of a sealed value: its authentication tag, which identifies it.
fn tail(sealed: &[u8]) -> [u8; 16] {
    sealed.last_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::identity::{Identity, ProviderKind, Username};
    use crate::domain::session::{Authority, Device};

    const KEY: SessionKey = SessionKey([1; 32]);
    const TTL: Duration = Duration::from_secs(10);

    fn loaded(key: SessionKey) -> Arc<LoadedSession> {
        let identity = Identity {
            provider: ProviderKind::Github,
            id: "1".into(),
            email: None,
            name: String::new(),
            username: Username::Vouched("ann".into()),
            groups: Vec::new(),
            claims: crate::domain::claims::Claims::default(),
        };
        let now = Timestamp::from_secs(1);
        let device = Device::new([192, 0, 2, 1].into(), "");
        let session = Session::begin(identity, Authority([0; 8]), device, Duration::from_secs(3600), now);
        Arc::new(LoadedSession::new(key, session, now))
    }

    fn hot() -> Hot {
        Hot::new(1 << 20, TTL, false)
    }

    fn is_over(session: &LoadedSession) -> bool {
        !session.is_live(Duration::ZERO, Timestamp::from_secs(2))
    }

    #[test]
    fn a_session_counts_while_nothing_was_missed_of_it() {
        let hot = hot();
        hot.insert(loaded(KEY), b"", 0, hot.reading(), 0).unwrap();
        assert!(hot.fresh(KEY).is_some(), "also before there is a channel, for a while");
        hot.subscribed();
        assert!(hot.fresh(KEY).is_none(), "read again once when the channel is back");
        assert!(hot.for_want_of_better(KEY).is_some());
        hot.insert(loaded(KEY), b"", 0, hot.reading(), 0).unwrap();
        assert!(hot.fresh(KEY).is_some());
        hot.change(KEY);
        assert!(hot.fresh(KEY).is_none());
        assert!(hot.for_want_of_better(KEY).is_some(), "while the store is away the old one does");
    }

    #[test]
    fn what_was_read_before_the_news_of_its_end_is_not_taken() {
        let hot = hot();
        let (reading, session) = (hot.reading(), loaded(KEY));
        hot.end(KEY);
        assert!(hot.insert(Arc::clone(&session), b"", 0, reading, 0).is_none());
        assert!(is_over(&session) && hot.any(KEY).is_none() && hot.has_ended(KEY));
    }

    #[test]
    fn what_was_read_before_the_news_of_its_change_is_read_again() {
        let hot = hot();
        let reading = hot.reading();
        hot.change(KEY);
        hot.insert(loaded(KEY), b"", 0, reading, 0).unwrap();
        assert!(hot.fresh(KEY).is_none());
    }

    #[test]
    fn what_was_opened_before_a_secret_was_taken_away_is_not_used_and_what_is_read_again_is() {
        let hot = hot();
        let value = [7; 20];
        hot.insert(loaded(KEY), &value, 0, hot.reading(), 0).unwrap();
        hot.require(0);
        assert!(hot.fresh(KEY).is_some(), "no secret was taken away");
        hot.require(1);
        let is_gone =
            |hot: &Hot| hot.fresh(KEY).is_none() && hot.for_want_of_better(KEY).is_none() && hot.any(KEY).is_none();
        assert!(is_gone(&hot));
        let late = hot.insert(loaded(KEY), &value, 0, hot.reading(), 0).unwrap();
        assert!(is_gone(&hot), "it was opened just before");
        assert!(late.is_of(&value, 0) && !late.is_of(&value, 1));
        hot.insert(loaded(KEY), &value, 1, hot.reading(), 0).unwrap();
        assert!(hot.fresh(KEY).is_some());
    }

    #[test]
    fn the_bound_runs_from_the_last_proof() {
        let mut hot = hot();
        hot.began -= Duration::from_secs(60);
        let a_minute_ago = ReadMoment { at: 0, subscription: 0 };
        hot.insert(loaded(KEY), b"", 0, a_minute_ago, 0).unwrap();
        assert!(hot.fresh(KEY).is_none() && hot.for_want_of_better(KEY).is_none(), "nothing was proven since");
        hot.proven(49_000);
        assert!(hot.fresh(KEY).is_none());
        hot.proven(55_000);
        assert!(hot.fresh(KEY).is_some() && hot.for_want_of_better(KEY).is_some());
    }

    #[test]
    fn in_a_cluster_a_pulse_keeps_nothing_valid_for_longer_than_since_it_was_read_but_in_an_outage() {
        let mut hot = Hot::new(1 << 20, TTL, true);
        hot.insert(loaded(KEY), b"", 0, hot.reading(), 0).unwrap();
        assert!(hot.fresh(KEY).is_some());
        hot.began -= Duration::from_secs(11);
        hot.proven(hot.now());
        assert!(hot.fresh(KEY).is_none(), "the pulse may have come through another master than its news would");
        assert!(hot.for_want_of_better(KEY).is_some());
        hot.began -= Duration::from_secs(10);
        hot.proven(hot.now());
        assert!(hot.for_want_of_better(KEY).is_none(), "the other masters' pulses do not keep it for ever");
        hot.insert(loaded(KEY), b"", 0, hot.reading(), 0).unwrap();
        assert!(hot.fresh(KEY).is_some(), "it was read again");
    }

    #[test]
    fn nobody_proves_the_future_and_nobodys_word_brings_back_what_has_ended() {
        let mut hot = hot();
        hot.insert(loaded(KEY), b"", 0, hot.reading(), 0).unwrap();
        hot.proven(u64::MAX);
        hot.began -= Duration::from_secs(60);
        assert!(hot.fresh(KEY).is_none(), "a minute later it is not proven any more");
        hot.end(KEY);
        hot.change(KEY);
        assert!(hot.has_ended(KEY));
    }

    #[test]
    fn a_flood_of_news_takes_bounded_memory_and_what_was_read_meanwhile_is_read_again() {
        let hot = hot();
        let reading = hot.reading();
        for n in 0..NEWS_MOST + 1000 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_le_bytes());
            hot.change(SessionKey(key));
        }
        hot.sweep();
        assert!(hot.news.entry_count() <= NEWS_MOST);
        hot.insert(loaded(SessionKey([9; 32])), b"", 0, reading, 0).unwrap();
        assert!(hot.fresh(SessionKey([9; 32])).is_none(), "news of it may be among what was given up");
    }

    #[test]
    fn what_is_given_up_for_want_of_room_has_not_ended() {
        let hot = Hot::new(5 * 2048, TTL, false);
        let held = loaded(KEY);
        held.was_signed(7, Timestamp::from_secs(1));
        hot.insert(Arc::clone(&held), b"", 0, hot.reading(), 0).unwrap();
        for n in 2..40 {
            hot.insert(loaded(SessionKey([n; 32])), b"", 0, hot.reading(), 0).unwrap();
            hot.sweep();
        }
        assert!(hot.any(KEY).is_none() && hot.evicted() > 30 && hot.count() < 6);
        assert!(!is_over(&held));
        for _ in 0..2 {
            let again = hot.ready(KEY, held.session().clone(), Timestamp::from_secs(1));
            assert_eq!(again.signed().unwrap().signature, [9; 64], "nothing is signed anew for it");
        }
        let other = hot.ready(SessionKey([2; 32]), held.session().clone(), Timestamp::from_secs(1));
        assert!(other.signed().is_none());
    }
}
