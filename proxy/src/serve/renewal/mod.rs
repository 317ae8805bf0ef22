//! Renews sessions in the background: one renewal at a time per session, however many requests and replicas see that it is due.

mod rests;
mod schedule;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::rests::Rests;
use crate::adapters::grants::GrantSealer;
use crate::adapters::seal::CryptoFailure;
use crate::adapters::telemetry::{Clean, Metrics, audit};
use crate::domain::grant::{Grant, SealedGrant};
use crate::domain::identity::ProviderKind;
use crate::domain::secret::Secret;
use crate::domain::session::{Authority, Session, SessionKey};
use crate::domain::time::Timestamp;
use crate::ports::{Claim, IdentityProvider, LEASE, Lease, Leases, LoadedSession, RenewError, Renewed, Sessions};
use crate::serve::clock;

/// How many sessions are renewed concurrently; the others go on unchanged, and are renewed a little later.
const AT_ONCE: usize = 64;
/// How long a request waits for the renewal of a session that was unused for long.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a session must be overdue before a request waits for it, if `SESSION_RECHECK` is off.
const OVERDUE: Duration = Duration::from_secs(900);
/// How long requests ignore a renewal in progress.
const UNDER_WAY: Duration = Duration::from_secs(30);

/// What lives as long as the process: the renewals in progress, and the pauses after failures.
pub(crate) struct Renewals {
    tasks: TaskTracker,
    room: Arc<Semaphore>,
    /// Sessions that this replica is renewing; the token is cancelled when the renewal is done.
    flights: Mutex<HashMap<SessionKey, CancellationToken>>,
    rests: Mutex<Rests>,
    metrics: Arc<Metrics>,
}

impl Renewals {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            tasks: TaskTracker::new(),
            room: Arc::new(Semaphore::new(AT_ONCE)),
            flights: Mutex::default(),
            rests: Mutex::default(),
            metrics,
        }
    }

    /// Waits for the renewals in progress: a rotated token must be saved before the process ends.
    pub(crate) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The number of renewals in progress.
    pub(crate) fn under_way(&self) -> usize {
        self.tasks.len()
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<SessionKey, CancellationToken>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rests(&self) -> MutexGuard<'_, Rests> {
        self.rests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How sessions are renewed under one configuration.
pub(crate) struct Renewing {
    pub(crate) renewals: Arc<Renewals>,
    pub(crate) provider: Arc<dyn IdentityProvider>,
    pub(crate) store: Arc<dyn Sessions>,
    pub(crate) grants: Arc<GrantSealer>,
    pub(crate) authority: Authority,
    /// `SESSION_RECHECK`.
    pub(crate) recheck: Duration,
}

impl Renewing {
    /// Stores a sign-in's grant in its new session, and sets when the provider is to be asked again: never, if the grant is too long to be
    /// kept.
    ///
    /// # Errors
    /// [`CryptoFailure`], which does not occur on a sound machine.
    pub(crate) fn begin_with(
        &self,
        session: &mut Session,
        grant: Option<Grant>,
        now: Timestamp,
    ) -> Result<(), CryptoFailure> {
        // A session kept only in a cookie is never renewed, and never contains the provider's tokens.
        let Some(grant) = grant.filter(|_| self.store.leases().is_some()) else { return Ok(()) };
        session.renew_at = self.next(&grant, now);
        if session.renew_at.is_some() || grant.id_token.is_some() {
            session.grant = self.seal(&session.identity.id, grant)?;
        }
        session.renew_at = session.renew_at.filter(|_| session.grant.is_some());
        Ok(())
    }

    /// The session to use for a request when `session` is due: usually `session` itself, while it is renewed in the background. Only after
    /// a long time without use the request waits, so that a person since removed at the provider is not admitted again; an unavailable
    /// provider keeps no one out. `None`: it has ended.
    pub(crate) async fn renew_for_request(
        self: &Arc<Self>,
        session: Arc<LoadedSession>,
        now: Timestamp,
    ) -> Option<Arc<LoadedSession>> {
        let overdue = session.session().renew_at.map_or(Duration::ZERO, |due| now.since(due));
        let wait = overdue > if self.recheck.is_zero() { OVERDUE } else { self.recheck };
        let Some(flight) = self.begin(&session, wait, now) else { return Some(session) };
        if !wait {
            return Some(session);
        }
        // Finished or timed out: the store's state is used.
        let _in_time = tokio::time::timeout(PATIENCE, flight.cancelled()).await;
        match self.store.follow(&session, true, clock::now()).await {
            Ok(current) => current,
            Err(_) => Some(session),
        }
    }

    /// Begins to renew a session that is due, for a holder that makes no requests (an open WebSocket).
    pub(crate) fn renew_in_background(self: &Arc<Self>, session: &Arc<LoadedSession>, now: Timestamp) {
        let _flight = self.begin(session, false, now);
    }

    /// Begins to renew a session that is due, unless a renewal is in progress; `None` if it is postponed.
    fn begin(
        self: &Arc<Self>,
        session: &Arc<LoadedSession>,
        awaited: bool,
        now: Timestamp,
    ) -> Option<CancellationToken> {
        let (renewals, key) = (&self.renewals, session.key());
        let mut flights = renewals.flights();
        if let Some(flight) = flights.get(&key) {
            return Some(flight.clone());
        }
        if let Err(until) = renewals.rests().ask(key, self.authority, now) {
            session.postpone(until);
            return None;
        }
        let Ok(room) = Arc::clone(&renewals.room).try_acquire_owned() else {
            renewals.rests().ask_no_more(self.authority);
            renewals.metrics.renewal("deferred");
            session.postpone(now + Duration::from_secs(1) + spread(Duration::from_secs(2)));
            return None;
        };
        if !awaited {
            session.postpone(now + UNDER_WAY);
        }
        let flight = CancellationToken::new();
        flights.insert(key, flight.clone());
        let landing =
            RenewalGuard { renewals: Arc::clone(renewals), authority: self.authority, key, flight: flight.clone() };
        let (renewing, session) = (Arc::clone(self), Arc::clone(session));
        renewals.tasks.spawn(async move {
            let (_room, _landing) = (room, landing);
            let outcome = renewing.renew(&session, awaited).await;
            renewing.renewals.metrics.renewal(outcome);
        });
        Some(flight)
    }

    /// Renews a session under a lease of the store, and returns the outcome for the metrics.
    async fn renew(&self, held: &Arc<LoadedSession>, awaited: bool) -> &'static str {
        let claimed = clock::now();
        let Some(leases) = self.store.leases() else { return "unusable" };
        let lease = match claim(leases, held.key(), awaited).await {
            Ok(Claim::Granted(lease)) => lease,
            Ok(Claim::Taken) => {
                held.postpone(clock::now() + Duration::from_secs(2) + spread(Duration::from_secs(3)));
                return "taken";
            }
            Ok(Claim::Ended) => return "ended_before",
            Err(()) => {
                held.postpone(clock::now() + Duration::from_secs(2) + spread(Duration::from_secs(3)));
                return "store_away";
            }
        };
        let session = lease.session.session();
        let now = clock::now();
        if session.renew_at.is_none_or(|due| now < due) {
            // Another replica was faster, and this replica's copy is outdated.
            held.postpone(session.renew_at.unwrap_or(session.expires_at));
            leases.release(&lease).await;
            return "adopted";
        }
        let sealed = session.grant.as_ref().filter(|_| session.authority == self.authority);
        let grant = sealed.and_then(|sealed| self.grants.open(self.authority, &session.identity.id, sealed));
        let Some(grant) = grant else {
            // Earlier versions set a time of renewal also where the tokens were too long to be kept.
            let why = if session.grant.is_some() { "cannot be opened by any SESSION_SECRET" } else { "were not kept" };
            tracing::warn!("a session's tokens {why}: it goes on, and is not renewed");
            let unrenewed = Session { grant: None, renew_at: None, ..session.clone() };
            return save(leases, held, &lease, unrenewed, claimed, "unusable").await;
        };
        match self.provider.renew(&session.identity, &grant, now).await {
            Ok(renewed) => self.take(leases, held, &lease, renewed, claimed).await,
            Err(RenewError::Gone(reason)) => {
                self.end(leases, held, &lease, &reason).await;
                "ended"
            }
            Err(RenewError::NotNow(reason)) => {
                self.put_off(held, session, &grant, &reason);
                leases.release(&lease).await;
                "put_off"
            }
        }
    }

    /// Applies the provider's answer.
    async fn take(
        &self,
        leases: &dyn Leases,
        held: &LoadedSession,
        lease: &Lease,
        renewed: Renewed,
        claimed: Timestamp,
    ) -> &'static str {
        let before = lease.session.session();
        let Renewed { identity, grant } = renewed;
        let now = clock::now();
        let (identity, renew_at, outcome) = match identity {
            Ok(identity) => {
                self.note_provider_answer(before.identity.provider.as_str(), held.key());
                let renew_at = self.next(&grant, now);
                (identity, renew_at, "renewed")
            }
            Err(reason) => {
                let again = self.put_off(held, before, &grant, &reason);
                (before.identity.clone(), Some(again), "put_off")
            }
        };
        let grant = match self.seal(&identity.id, grant) {
            Ok(grant) => grant,
            Err(error) => {
                tracing::error!("a session's new tokens cannot be sealed, so that it is not renewed again: {error}");
                None
            }
        };
        let (renew_at, outcome) = if grant.is_some() { (renew_at, outcome) } else { (None, "unusable") };
        let session = Session { identity, grant, renew_at, ..before.clone() };
        save(leases, held, lease, session, claimed, outcome).await
    }

    /// The provider reports the end of the session: ends it on every replica.
    async fn end(&self, leases: &dyn Leases, held: &LoadedSession, lease: &Lease, reason: &str) {
        self.note_provider_answer(lease.session.session().identity.provider.as_str(), held.key());
        audit::sessions_ended(&lease.session.session().identity, 1, reason, None);
        held.end();
        if let Err(error) = self.store.end(held).await {
            let again = if error.is_retried() { " yet, and is tried again" } else { "" };
            tracing::warn!("the end of a session is not confirmed{again}: {error}");
        }
        leases.release(lease).await;
    }

    /// Postpones the session's renewal, and that of all sessions if the provider fails repeatedly. Returns until when.
    fn put_off(&self, held: &LoadedSession, session: &Session, grant: &Grant, reason: &str) -> Timestamp {
        let pause = schedule::pause(session, grant, self.recheck);
        let rest = self.renewals.rests().failed(held.key(), self.authority, pause, clock::now(), fastrand::f64());
        held.postpone(rest.until);
        let reason = Clean(reason);
        if rest.is_news {
            tracing::warn!("sessions cannot be renewed for now, and go on with what is known: {reason}");
        } else {
            tracing::debug!("a session is not renewed for now: {reason}");
        }
        rest.until
    }

    /// When to ask the provider again about what it granted at `now`.
    fn next(&self, grant: &Grant, now: Timestamp) -> Option<Timestamp> {
        let between = self.provider.kind() == ProviderKind::Github;
        schedule::next(grant, self.recheck, now, between, fastrand::f64())
    }

    /// Records that the provider has answered, with any result.
    fn note_provider_answer(&self, provider: &'static str, key: SessionKey) {
        if self.renewals.rests().succeeded(key, self.authority) {
            tracing::info!(provider, "sessions are renewed again");
        }
    }

    /// Seals a grant, without the ID token if it is too long with it. `None`: it is too long in any case, which the log says.
    fn seal(&self, id: &str, mut grant: Grant) -> Result<Option<SealedGrant>, CryptoFailure> {
        let mut sealed = self.grants.seal(self.authority, id, &grant)?;
        if sealed.is_none() && grant.id_token.take().is_some() {
            tracing::warn!("a session's tokens are longer than is kept of them together: its ID token is left out");
            sealed = self.grants.seal(self.authority, id, &grant)?;
        }
        if sealed.is_none() {
            let length = |token: &Secret| token.expose().len();
            let bytes = length(&grant.access) + grant.refresh.as_ref().map_or(0, length);
            tracing::warn!(
                "a session's tokens are too long to be kept ({bytes} bytes, at most 32 KiB with their times): it is not renewed, and \
                 lasts until SESSION_TTL, also if the provider no longer knows the person"
            );
        }
        Ok(sealed)
    }
}

/// A renewal in progress; dropping it, after any outcome, releases the waiters.
struct RenewalGuard {
    renewals: Arc<Renewals>,
    authority: Authority,
    key: SessionKey,
    flight: CancellationToken,
}

impl Drop for RenewalGuard {
    fn drop(&mut self) {
        self.renewals.flights().remove(&self.key);
        self.renewals.rests().ask_no_more(self.authority);
        self.flight.cancel();
    }
}

/// A random part of `most`.
fn spread(most: Duration) -> Duration {
    most.mul_f64(fastrand::f64())
}

/// Claims the lease. If a request waits, retries while another replica holds it, for up to [`PATIENCE`].
async fn claim(leases: &dyn Leases, key: SessionKey, awaited: bool) -> Result<Claim, ()> {
    let until = clock::now() + if awaited { PATIENCE } else { Duration::ZERO };
    loop {
        let now = clock::now();
        match leases.claim(key, now).await {
            Ok(Claim::Taken) if now < until => {
                tokio::time::sleep(Duration::from_millis(100) + spread(Duration::from_millis(100))).await;
            }
            Ok(claim) => return Ok(claim),
            Err(error) => {
                tracing::debug!("a session is not renewed: {error}");
                return Err(());
            }
        }
    }
}

/// Stores the renewed session. The old tokens may be void, so an unavailable store is retried as long as the lease lasts.
async fn save(
    leases: &dyn Leases,
    held: &LoadedSession,
    lease: &Lease,
    session: Session,
    claimed: Timestamp,
    outcome: &'static str,
) -> &'static str {
    let mut pause = Duration::from_millis(100);
    loop {
        let now = clock::now();
        match leases.renew(lease, session.clone(), now).await {
            Ok(true) => return outcome,
            // The user signed out meanwhile, or an earlier attempt succeeded but its answer was lost.
            Ok(false) => return "ended_before",
            Err(error) if now.since(claimed) >= LEASE => {
                tracing::error!(
                    "a session's new tokens are lost, so that it may end at its next renewal: {}",
                    Clean(&error.to_string())
                );
                held.postpone(now + Duration::from_secs(5));
                return "lost";
            }
            Err(_) => {
                tokio::time::sleep(pause + spread(pause)).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
        }
    }
}
