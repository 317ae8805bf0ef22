//! A session with all that a request needs of it, made once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::HeaderValue;

use super::{ReadyFields, Tellings};
use crate::domain::identity::{Identified, Identity};
use crate::domain::principal::{Known, Principal, Proof};
use crate::domain::session::{Session, SessionKey};
use crate::domain::time::Timestamp;

/// A session with all that a request needs of it, made once when it is loaded.
pub struct LoadedSession {
    key: SessionKey,
    session: Session,
    /// Who vouches for it, where that is a bearer token and no session of ours.
    token_of: Option<Arc<str>>,
    headers: ReadyFields,
    last_seen: AtomicU64,
    /// When the provider is to be asked again, in milliseconds; the largest number: never.
    due: AtomicU64,
    /// The last use that the store was told of, or is being told of.
    noted: AtomicU64,
    ended: AtomicBool,
    assertion: ArcSwapOption<IssuedAssertion>,
    /// What an assertion was signed with before this copy was made ready.
    signed_before: Option<Box<Signed>>,
    tellings: Tellings,
}

impl LoadedSession {
    /// Makes a session ready for requests.
    #[must_use]
    pub fn new(key: SessionKey, session: Session, last_seen: Timestamp) -> Self {
        Self {
            key,
            token_of: None,
            headers: ReadyFields::of(&session.identity, session.identity.provider.as_str()),
            due: AtomicU64::new(session.renew_at.map_or(u64::MAX, Timestamp::millis)),
            session,
            last_seen: AtomicU64::new(last_seen.millis()),
            noted: AtomicU64::new(last_seen.millis()),
            ended: AtomicBool::new(false),
            assertion: ArcSwapOption::empty(),
            signed_before: None,
            tellings: Tellings::default(),
        }
    }

    /// With the signature of an assertion that was sent for this very session before: while it is fresh, none is signed anew.
    #[must_use]
    pub fn with_signed(self, signed_before: Option<Box<Signed>>) -> Self {
        Self { signed_before, ..self }
    }

    /// Makes what a bearer token says ready for requests, by the name of who issued it. No store knows it.
    #[must_use]
    pub fn of_token(key: SessionKey, session: Session, issuer: Arc<str>, now: Timestamp) -> Self {
        let headers = ReadyFields::of(&session.identity, &issuer);
        Self { headers, token_of: Some(issuer), ..Self::new(key, session, now) }
    }

    /// Whether it is a bearer token, and no session of ours.
    #[must_use]
    pub const fn is_token(&self) -> bool {
        self.token_of.is_some()
    }

    /// The name by which rules, logs and upstreams know who vouches for it.
    #[must_use]
    pub fn provider(&self) -> &str {
        self.token_of.as_deref().unwrap_or_else(|| self.session.identity.provider.as_str())
    }

    /// What the store knows it by.
    #[must_use]
    pub const fn key(&self) -> SessionKey {
        self.key
    }

    /// The session itself.
    #[must_use]
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// Who it is, as header fields.
    #[must_use]
    pub const fn headers(&self) -> &ReadyFields {
        &self.headers
    }

    /// What upstreams other than the usual one are told of it.
    #[must_use]
    pub const fn tellings(&self) -> &Tellings {
        &self.tellings
    }

    /// When it was last used.
    #[must_use]
    pub fn last_seen(&self) -> Timestamp {
        Timestamp::from_millis(self.last_seen.load(Ordering::Relaxed))
    }

    /// Notes that it is used now. Written at most once a second, so that busy sessions do not fight over a cache line.
    pub fn touch(&self, now: Timestamp) {
        if now.since(self.last_seen()) >= Duration::from_secs(1) {
            self.last_seen.fetch_max(now.millis(), Ordering::Relaxed);
        }
    }

    /// Whether the provider is to be asked again at `now`.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        now.millis() >= self.due.load(Ordering::Relaxed)
    }

    /// Lets this copy of the session be, until then.
    pub fn postpone(&self, until: Timestamp) {
        self.due.store(until.millis(), Ordering::Relaxed);
    }

    /// Whether its last use is to be written to the store now, where that is done once in `every`: of those who ask at once, one is told yes.
    #[must_use]
    pub fn is_note_due(&self, every: Duration, now: Timestamp) -> bool {
        let noted = self.noted.load(Ordering::Relaxed);
        let due = now.since(Timestamp::from_millis(noted)) >= every;
        due && self.noted.compare_exchange(noted, now.millis(), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Notes that it is over, for whoever still holds it: an open WebSocket.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Whether it may be used at `now`, where it may go unused for `idle` (zero: for ever).
    #[must_use]
    pub fn is_live(&self, idle: Duration, now: Timestamp) -> bool {
        !self.ended.load(Ordering::Acquire) && self.session.is_live(self.last_seen(), idle, now)
    }

    /// The place where its assertion is kept until it is signed anew.
    #[must_use]
    pub const fn assertion(&self) -> &ArcSwapOption<IssuedAssertion> {
        &self.assertion
    }

    /// What the latest assertion was signed with, in this copy of the session or before it was made ready.
    #[must_use]
    pub fn signed(&self) -> Option<Signed> {
        let issued = self.assertion.load().as_deref().map(|issued| issued.signed);
        issued.or_else(|| self.signed_before.as_deref().copied())
    }
}

impl Known for LoadedSession {
    fn principal(&self) -> Principal<'_> {
        let principal = self.session.principal();
        match &self.token_of {
            None => principal,
            // Only what the token says of a sign-in counts: nobody signed in here.
            Some(issuer) => {
                Principal { provider: issuer, by: Proof::Bearer, proved_at: self.session.auth_time, ..principal }
            }
        }
    }
}

impl Identified for LoadedSession {
    fn identity(&self) -> &Identity {
        &self.session.identity
    }
}

/// A signed assertion.
pub struct IssuedAssertion {
    /// The header's value.
    pub value: HeaderValue,
    /// What it was signed with.
    pub signed: Signed,
}

/// An assertion's signature and what it was made for: with the session it gives the assertion again, at a tenth of the bytes, and
/// without the cost of signing.
#[derive(Clone, Copy)]
pub struct Signed {
    /// When it was made.
    pub issued_at: Timestamp,
    /// Which signer made it: another one (after a reload) signs anew.
    pub signer: u64,
    /// A hash of what was signed, by the signer's own key.
    pub of: u64,
    /// ES256: two numbers of 32 bytes.
    pub signature: [u8; 64],
}

/// How often a session's last use is written to its store: once a minute, or in a tenth of the time that it may go unused.
#[must_use]
pub fn note_every(idle: Duration) -> Duration {
    const MINUTE: Duration = Duration::from_secs(60);
    if idle.is_zero() { MINUTE } else { MINUTE.min(idle / 10) }
}
