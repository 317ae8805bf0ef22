//! Sessions in Redis or Valkey, shared by all replicas; frequently used ones also in memory, which saves a request the round trip.

mod channel;
mod cluster;
mod dial;
mod ends;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod hot;
mod lanes;
mod line;
mod lists;
mod names;
mod pages;
mod scripts;
mod seen;
mod sentinel;
mod settings;
mod shared_states;
mod terms;
mod ticket;
mod walk;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use redis::Value;
use tokio_util::sync::CancellationToken;

use self::channel::Channel;
use self::dial::Dialer;
use self::ends::{Ends, Evidence};
use self::hot::{Entry, Hot};
use self::lanes::{Durability, Lanes, Write};
use self::line::Line;
use self::seen::Seen;
pub use self::settings::{Host, Layout, RedisPlace, RedisSettings};
use self::shared_states::SharedStates;
use self::terms::Terms;
use self::ticket::Ticket;
use super::states::States;
use super::{key, record};
use crate::adapters::seal;
use crate::adapters::telemetry::StoreMetrics;
use crate::domain::session::{Session, SessionKey, SessionSelector, SessionToken};
use crate::domain::time::Timestamp;
use crate::ports::{
    BeginError, Claim, Directory, EndError, LEASE, Lease, Leases, LoadedSession, Pending, Sessions, StoreTerms,
    StoreUnavailable,
};

/// How long one call retries to write a renewed session: the provider has changed its tokens already.
const RENEWAL_TRIED: Duration = Duration::from_secs(10);
/// The pause between two tries.
const RENEWAL_PAUSE: Duration = Duration::from_millis(250);
/// How often the same message is logged, in milliseconds.
const LOG_EVERY: u64 = 60_000;

/// The session store in Redis. Its tasks run in the runtime where it was opened, and end with the store.
pub struct RedisStore {
    prefix: String,
    terms: Arc<ArcSwap<Terms>>,
    line: Arc<Line>,
    lanes: Arc<Lanes>,
    hot: Arc<Hot>,
    ends: Arc<Ends>,
    seen: Seen,
    states: States,
    shared_states: SharedStates,
    metrics: StoreMetrics,
    replica: u64,
    unreadable: CountedLogLimit,
    unconfirmed: CountedLogLimit,
    unshared: CountedLogLimit,
    stop: CancellationToken,
}

/// A message that is logged once a minute at most.
#[derive(Default)]
struct CountedLogLimit {
    last: AtomicU64,
    count: AtomicU64,
}

impl RedisStore {
    /// Opens the store, which connects in the background: until it has, its calls return that it is unavailable.
    ///
    /// # Errors
    /// If the settings cannot be used.
    pub fn open(settings: &RedisSettings, terms: &StoreTerms, metrics: &StoreMetrics) -> Result<Arc<Self>, String> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|error| error.to_string())?;
        let (prefix, metrics): (String, StoreMetrics) = (settings.prefix.clone(), metrics.clone());
        let terms = Arc::new(ArcSwap::from_pointee(Terms::new(&prefix, terms)?));
        let probe = terms.load().names.session(SessionKey([0; 32]));
        let line = Arc::new(Line::new(Dialer::new(settings)?, probe, metrics.clone()));
        let is_clustered = matches!(settings.place.layout, Layout::Cluster);
        let hot = Arc::new(Hot::new(settings.memory_bytes, settings.cache_ttl, is_clustered));
        let lanes = Arc::new(Lanes::new(Arc::clone(&line), runtime.clone(), metrics.clone()));
        let ends = Arc::new(Ends::new(Arc::clone(&lanes)));
        let (seen, writer) = Seen::new(Arc::clone(&line), Arc::clone(&hot), Arc::clone(&terms));
        let replica = u64::from_be_bytes(seal::random().map_err(|error| error.to_string())?);
        let channel = Channel {
            line: Arc::clone(&line),
            hot: Arc::clone(&hot),
            metrics: metrics.clone(),
            news: terms.load().names.news(),
            pulse: terms.load().names.pulse(replica),
            replica,
            pulses: Arc::default(),
        };
        let store = Self {
            prefix,
            terms,
            line,
            lanes,
            hot,
            ends,
            seen,
            states: States::default(),
            shared_states: SharedStates::default(),
            metrics,
            replica,
            unreadable: CountedLogLimit::default(),
            unconfirmed: CountedLogLimit::default(),
            unshared: CountedLogLimit::default(),
            stop: CancellationToken::new(),
        };
        let stop = || store.stop.clone();
        let (line, stopped) = (Arc::clone(&store.line), stop());
        runtime.spawn(async move { stopped.run_until_cancelled(line.keep_up()).await });
        let stopped = stop();
        runtime.spawn(async move { stopped.run_until_cancelled(channel.listen()).await });
        let stopped = stop();
        runtime.spawn(async move { stopped.run_until_cancelled(writer.run()).await });
        let (ends, terms, stopped) = (Arc::clone(&store.ends), Arc::clone(&store.terms), stop());
        runtime.spawn(async move { stopped.run_until_cancelled(ends.keep_trying(|| terms.load_full())).await });
        Ok(Arc::new(store))
    }

    fn terms(&self) -> arc_swap::Guard<Arc<Terms>> {
        self.terms.load()
    }

    /// A session that is in memory and still valid there.
    fn at_hand(&self, key: SessionKey, used: bool, now: Timestamp) -> Option<Arc<LoadedSession>> {
        let (terms, entry) = (self.terms(), self.hot.fresh(key)?);
        // A session that looks idle here may be in use elsewhere.
        if !entry.loaded.is_live(terms.idle, now) {
            return None;
        }
        self.metrics.hits.inc();
        Some(self.give(&entry, used, now))
    }

    fn give(&self, entry: &Arc<Entry>, used: bool, now: Timestamp) -> Arc<LoadedSession> {
        if used {
            self.seen.note(entry, &self.terms(), now);
        }
        Arc::clone(&entry.loaded)
    }

    async fn find(
        &self,
        key: SessionKey,
        used: bool,
        now: Timestamp,
    ) -> Result<Option<Arc<LoadedSession>>, StoreUnavailable> {
        if self.ends.holds(key) || self.hot.has_ended(key) {
            return Ok(None);
        }
        if let Some(session) = self.at_hand(key, used, now) {
            return Ok(Some(session));
        }
        self.metrics.misses.inc();
        match self.read(key, now).await {
            Ok(entry) => Ok(entry.map(|entry| self.give(&entry, used, now))),
            Err(unavailable) => {
                let idle = self.terms().idle;
                let entry = self.hot.for_want_of_better(key).filter(|entry| entry.loaded.is_live(idle, now));
                entry.map(|entry| Some(self.give(&entry, used, now))).ok_or(unavailable)
            }
        }
    }

    /// Reads a session from Redis into memory.
    async fn read(&self, key: SessionKey, now: Timestamp) -> Result<Option<Arc<Entry>>, StoreUnavailable> {
        let reading = self.hot.reading();
        let Some((value, seen)) = self.fetch(key).await? else {
            if self.hot.any(key).is_some() {
                self.hot.end(key);
            }
            return Ok(None);
        };
        let terms = self.terms();
        let known = self.hot.any(key);
        let loaded = match &known {
            Some(entry) if entry.is_of(&value, terms.generation) => {
                entry.loaded.touch(seen);
                Arc::clone(&entry.loaded)
            }
            Some(_) | None => {
                let Some(session) = self.open_value(&terms, key, &value) else { return Ok(None) };
                let seen = known.as_ref().map_or(seen, |entry| seen.max(entry.loaded.last_seen()));
                Arc::new(self.hot.ready(key, session, seen))
            }
        };
        if !loaded.is_live(terms.idle, now) || self.ends.holds(key) {
            return Ok(None);
        }
        Ok(self.hot.insert(loaded, &value, terms.generation, reading, seen.millis()))
    }

    /// A session's sealed value, and when it was last seen.
    async fn fetch(&self, key: SessionKey) -> Result<Option<(Vec<u8>, Timestamp)>, StoreUnavailable> {
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(self.terms().names.session(key)).arg("v").arg("s");
        let answer = self.line.call(&cmd).await?;
        let read = redis::from_redis_value::<(Option<Vec<u8>>, Option<u64>)>(answer);
        Ok(match read {
            Ok((Some(value), seen)) => Some((value, Timestamp::from_millis(seen.unwrap_or_default()))),
            Ok((None, _)) => None,
            Err(_) => {
                self.log_unreadable("it is not what Sidegate writes");
                None
            }
        })
    }

    /// Opens a sealed value. An unreadable one counts as no session: its owner signs in again.
    fn open_value(&self, terms: &Terms, key: SessionKey, value: &[u8]) -> Option<Session> {
        let Some(opened) = terms.sealer.open_bytes(&key.0, value) else {
            self.log_unreadable("no SESSION_SECRET opens it");
            return None;
        };
        record::unpack(&opened).map_err(|why| self.log_unreadable(&why.to_string())).ok()
    }

    fn log_unreadable(&self, why: &str) {
        if let Some(count) = self.unreadable.due(self.hot.now()) {
            tracing::warn!(count, "sessions in the store cannot be read, and their owners sign in again: {why}");
        }
    }

    fn seal(&self, terms: &Terms, key: SessionKey, session: &Session) -> Result<Vec<u8>, String> {
        terms.sealer.seal_bytes(&key.0, &record::pack(session)).map_err(|error| error.to_string())
    }

    async fn begin_now(&self, session: Session, now: Timestamp) -> Result<SessionToken, BeginError> {
        let internal = |why: String| BeginError::Internal(why);
        let token = SessionToken::from_random(seal::random().map_err(|error| internal(error.to_string()))?);
        let (key, terms, reading) = (key::of(&token), self.terms.load_full(), self.hot.reading());
        let value = self.seal(&terms, key, &session).map_err(internal)?;
        // Listed first: an entry without a session is harmless, a session without an entry escapes a logout everywhere.
        let mut writes = listing(&terms, key, &session, now);
        let name = terms.names.session(key);
        let expires = terms.expires(&session, now).millis();
        let keep = scripts::keep(&name, &value, now.millis(), expires);
        writes.push((name, vec![keep]));
        self.confirmed(self.lanes.write(writes).await?);
        if let Some(list) = terms.names.lists(&session).first() {
            self.end_those_beyond(list, now).await;
        }
        self.hot.insert(
            Arc::new(LoadedSession::new(key, session, now)),
            &value,
            terms.generation,
            reading,
            // No use counts as written yet: the first one is written at once, and lists the session again. Who read the list before
            // the session was there has taken it off.
            0,
        );
        Ok(token)
    }

    fn confirmed(&self, written: Durability) {
        if written == Durability::ByMasterOnly
            && let Some(count) = self.unconfirmed.due(self.hot.now())
        {
            tracing::warn!(
                count,
                "no replica of the session store confirmed a write in time: should the master fail now, it is lost"
            );
        }
    }

    /// Ends a session here at once, and in the store.
    async fn end_now(&self, key: SessionKey, evidence: Evidence) -> Result<(), EndError> {
        self.hot.end(key);
        let is_noted = self.ends.note(key, evidence);
        let terms = self.terms.load_full();
        self.ends.try_to_end(key, evidence, &terms.names).await.map_err(|unavailable| {
            if is_noted {
                return EndError::Unconfirmed(unavailable);
            }
            let (most, StoreUnavailable(why)) = (ends::MOST, unavailable);
            let why = format!(
                "{why}; as {most} logouts wait for it already, or a reload took it away, this one is not tried again"
            );
            EndError::Unavailable(StoreUnavailable(why))
        })
    }

    async fn claim_now(&self, key: SessionKey, now: Timestamp) -> Result<Claim, StoreUnavailable> {
        if self.ends.holds(key) || self.hot.has_ended(key) {
            return Ok(Claim::Ended);
        }
        let terms = self.terms.load_full();
        let number = seal::random().map(u32::from_be_bytes);
        let number = number.map_err(|error| StoreUnavailable(error.to_string()))?;
        let (name, lease) = (terms.names.session(key), terms.names.lease(key));
        let lasts = u64::try_from(LEASE.as_millis()).unwrap_or_default();
        let answer = self.line.call(&scripts::claim(&name, &lease, number, lasts)).await?;
        let parts: Vec<Value> = redis::from_redis_value(answer).unwrap_or_default();
        let (value, seen) = match parts.as_slice() {
            [Value::Int(2), Value::BulkString(value), seen] => {
                (value, redis::from_redis_value_ref::<u64>(seen).unwrap_or_default())
            }
            [Value::Int(1)] => return Ok(Claim::Taken),
            _ => return Ok(Claim::Ended),
        };
        let ticket = Ticket::of(number, value).written();
        let seen = Timestamp::from_millis(seen);
        let seen = self.hot.any(key).map_or(seen, |entry| seen.max(entry.loaded.last_seen()));
        let session = self.open_value(&terms, key, value).map(|session| LoadedSession::new(key, session, seen));
        match session.filter(|session| session.is_live(terms.idle, now)) {
            Some(session) => Ok(Claim::Granted(Lease { session: Arc::new(session), ticket })),
            None => {
                // Another replica may be able to read it, or know of a later use.
                self.release_now(&lease, number).await;
                Ok(Claim::Ended)
            }
        }
    }

    async fn renew_now(&self, lease: &Lease, session: Session, now: Timestamp) -> Result<bool, StoreUnavailable> {
        let (key, terms) = (lease.session.key(), self.terms.load_full());
        let value = self.seal(&terms, key, &session).map_err(StoreUnavailable)?;
        let (name, lock) = (terms.names.session(key), terms.names.lease(key));
        let (news, message) = (terms.names.news(), channel::changed(key, self.replica));
        let ticket = Ticket::read(lease.ticket);
        let began = Instant::now();
        let reading = loop {
            let reading = self.hot.reading();
            // Repeating it gives the same result, if a response was lost. Alone: no failure of another write loses the new tokens.
            let command = scripts::renew(&name, &lock, &ticket, &value, &news, &message);
            match self.renewed_by(vec![(name.clone(), vec![command])]).await {
                Ok(true) => break reading,
                Ok(false) => return Ok(false),
                Err(unavailable) if began.elapsed() > RENEWAL_TRIED => return Err(unavailable),
                Err(_) => tokio::time::sleep(RENEWAL_PAUSE).await,
            }
        };
        let seen = self.hot.any(key).map_or(lease.session.last_seen(), |entry| entry.loaded.last_seen());
        let written = lease.session.last_seen().millis();
        let renewed = Arc::new(LoadedSession::new(key, session, seen));
        if self.ends.holds(key) {
            return Ok(false);
        }
        let Some(entry) = self.hot.insert(renewed, &value, terms.generation, reading, written) else {
            return Ok(false);
        };
        self.list_again(&terms, &entry, now).await;
        Ok(true)
    }

    async fn release_now(&self, lease: &str, number: u32) {
        // It expires by itself.
        let _ = self.line.call(&scripts::release(lease, number)).await;
    }

    async fn renewed_by(&self, writes: Vec<Write>) -> Result<bool, StoreUnavailable> {
        let (answer, written) = self.lanes.ask(writes).await?;
        self.confirmed(written);
        Ok(matches!(answer, Value::Int(1)))
    }

    /// Lists a renewed session under the secret that now seals it: its lists may be those of a secret that is about to be taken away.
    async fn list_again(&self, terms: &Terms, entry: &Entry, now: Timestamp) {
        if let Err(error) = seen::list(&self.line, terms, &entry.loaded, now).await {
            // The next use is written at once, and lists it.
            entry.seen_written.store(0, Ordering::Relaxed);
            tracing::debug!("a renewed session is not listed anew yet, but when it is next used: {error}");
        }
    }

    /// Checks the name under each secret: while secrets rotate, replicas differ in which is the first.
    async fn was_noted(&self, what: &str) -> Result<bool, StoreUnavailable> {
        let terms = self.terms.load_full();
        for name in terms.names.once(what) {
            let mut cmd = redis::cmd("GET");
            cmd.arg(name);
            if !matches!(self.line.call(&cmd).await?, Value::Nil) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes each name atomically, so that only one of several concurrent replicas gets the state. While secrets rotate, replicas use
    /// different names, but all in the same order: the first name that two of them share decides.
    ///
    /// Anyone can make up codes for states of their own. Beyond the limit a state counts once on this replica only: refusing it would
    /// let a stranger keep everybody from signing in, and the provider accepts a code only once.
    async fn take_state_now(&self, state: &str, until: Timestamp, now: Timestamp) -> Result<bool, StoreUnavailable> {
        if !self.states.take(state, now) {
            return Ok(false);
        }
        if !self.shared_states.has_room(now) {
            if let Some(count) = self.unshared.due(self.hot.now()) {
                tracing::warn!(
                    count,
                    "so many sign-ins come back that the session store holds no more of their states: each counts once on this replica only"
                );
            }
            return Ok(true);
        }
        let mut names = self.terms.load_full().names.once(&format!("state {state}"));
        names.sort_unstable();
        for name in names {
            let mut cmd = redis::cmd("SET");
            cmd.arg(name).arg(1).arg("NX").arg("PXAT").arg(until.millis());
            if matches!(self.line.call(&cmd).await?, Value::Nil) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn note(&self, what: &str, until: Timestamp) -> Result<(), StoreUnavailable> {
        let terms = self.terms.load_full();
        for name in terms.names.once(what) {
            let mut cmd = redis::cmd("SET");
            cmd.arg(name).arg(1).arg("PXAT").arg(until.millis());
            self.line.call(&cmd).await?;
        }
        Ok(())
    }
}

/// The writes that put a session on its lists.
fn listing(terms: &Terms, key: SessionKey, session: &Session, now: Timestamp) -> Vec<Write> {
    let end = session.expires_at.millis();
    let lists = terms.names.lists(session).into_iter();
    lists.map(|list| (list.clone(), vec![scripts::list(&list, &key.0, end, now.millis())])).collect()
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl CountedLogLimit {
    /// The number of messages, if it is time to log them.
    fn due(&self, now: u64) -> Option<u64> {
        self.count.fetch_add(1, Ordering::Relaxed);
        let last = self.last.load(Ordering::Relaxed);
        let due = last == 0 || now.saturating_sub(last) >= LOG_EVERY;
        let ours = due && self.last.compare_exchange(last, now.max(1), Ordering::Relaxed, Ordering::Relaxed).is_ok();
        ours.then(|| self.count.swap(0, Ordering::Relaxed))
    }
}

impl Sessions for RedisStore {
    fn key(&self, token: &SessionToken) -> SessionKey {
        key::of(token)
    }

    fn hot(&self, token: &SessionToken, now: Timestamp) -> Option<Arc<LoadedSession>> {
        self.at_hand(key::of(token), true, now)
    }

    fn load<'a>(
        &'a self,
        token: &'a SessionToken,
        now: Timestamp,
    ) -> Pending<'a, Result<Option<Arc<LoadedSession>>, StoreUnavailable>> {
        Box::pin(self.find(key::of(token), true, now))
    }

    fn follow<'a>(
        &'a self,
        held: &'a Arc<LoadedSession>,
        used: bool,
        now: Timestamp,
    ) -> Pending<'a, Result<Option<Arc<LoadedSession>>, StoreUnavailable>> {
        Box::pin(self.find(held.key(), used, now))
    }

    fn begin(&self, session: Session, now: Timestamp) -> Pending<'_, Result<SessionToken, BeginError>> {
        Box::pin(self.begin_now(session, now))
    }

    fn end<'a>(&'a self, session: &'a LoadedSession) -> Pending<'a, Result<(), EndError>> {
        session.end();
        Box::pin(self.end_now(session.key(), Evidence::Session))
    }

    fn end_unseen<'a>(&'a self, token: &'a SessionToken) -> Pending<'a, Result<(), EndError>> {
        Box::pin(self.end_now(key::of(token), Evidence::Unseen))
    }

    fn take_state<'a>(
        &'a self,
        state: &'a str,
        until: Timestamp,
        now: Timestamp,
    ) -> Pending<'a, Result<bool, StoreUnavailable>> {
        Box::pin(self.take_state_now(state, until, now))
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

    fn hand_over(&self, heir: &Arc<dyn Sessions>) -> usize {
        self.ends.hand_over(heir)
    }

    fn inherit(&self, key: SessionKey, evidence: Evidence) -> bool {
        self.hot.end(key);
        self.ends.note(key, evidence)
    }

    fn reconfigure(&self, terms: &StoreTerms) -> Result<(), String> {
        let terms = Terms::new(&self.prefix, terms)?.after(&self.terms());
        let generation = terms.generation;
        self.terms.store(Arc::new(terms));
        self.hot.require(generation);
        Ok(())
    }

    fn sweep(&self, _now: Timestamp) {
        self.hot.sweep();
    }

    fn held(&self) -> u64 {
        self.hot.count()
    }

    fn evicted(&self) -> u64 {
        self.hot.evicted()
    }

    fn tried(&self) -> Pending<'_, ()> {
        Box::pin(self.line.tried())
    }

    fn trouble(&self) -> Option<String> {
        let waiting = || match self.ends.count() {
            0 => None,
            count => Some(format!("{count} logouts wait to be confirmed by the store")),
        };
        let silent = || {
            (self.hot.silence() > channel::SILENCE_MOST)
                .then(|| "news of ended sessions does not come through, sessions in memory count for SESSION_CACHE_TTL at most".to_owned())
        };
        self.line.trouble().or_else(waiting).or_else(silent).or_else(|| self.lanes.trouble())
    }
}

impl Directory for RedisStore {
    fn of<'a>(
        &'a self,
        selector: SessionSelector<'a>,
        now: Timestamp,
    ) -> Pending<'a, Result<Vec<Arc<LoadedSession>>, StoreUnavailable>> {
        Box::pin(self.listed(selector, now))
    }

    fn end_remaining<'a>(
        &'a self,
        selector: SessionSelector<'a>,
        kept: Option<SessionKey>,
        now: Timestamp,
    ) -> Pending<'a, (usize, Option<EndError>)> {
        Box::pin(self.end_remaining_on_lists(selector, kept, now))
    }

    fn has_come<'a>(&'a self, what: &'a str, _now: Timestamp) -> Pending<'a, Result<bool, StoreUnavailable>> {
        Box::pin(self.was_noted(what))
    }

    fn note_coming<'a>(
        &'a self,
        what: &'a str,
        until: Timestamp,
        _now: Timestamp,
    ) -> Pending<'a, Result<(), StoreUnavailable>> {
        Box::pin(self.note(what, until))
    }
}

impl Leases for RedisStore {
    fn claim(&self, key: SessionKey, now: Timestamp) -> Pending<'_, Result<Claim, StoreUnavailable>> {
        Box::pin(self.claim_now(key, now))
    }

    fn renew<'a>(
        &'a self,
        lease: &'a Lease,
        session: Session,
        now: Timestamp,
    ) -> Pending<'a, Result<bool, StoreUnavailable>> {
        Box::pin(self.renew_now(lease, session, now))
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> Pending<'a, ()> {
        Box::pin(async move {
            let terms = self.terms.load_full();
            self.release_now(&terms.names.lease(lease.session.key()), Ticket::read(lease.ticket).number).await;
        })
    }
}
