//! A session with everything that a request needs of it, made once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::HeaderValue;

use super::{Omitted, UpstreamIdentities};
use crate::domain::identity::{Identified, Identity};
use crate::domain::principal::{Known, Principal, Proof};
use crate::domain::session::{Session, SessionKey};
use crate::domain::time::Timestamp;
use crate::rendering::ReadyFields;

/// A session with everything that a request needs of it, made once when it is loaded.
pub struct LoadedSession {
    key: SessionKey,
    session: Session,
    /// Present if this is a bearer token rather than a session of ours. In a box, since sessions are many.
    token: Option<Box<Token>>,
    headers: ReadyFields,
    last_seen: AtomicU64,
    /// When the provider is due to be asked again, in milliseconds; `u64::MAX`: never.
    due: AtomicU64,
    /// The last use that was written to the store, or is being written.
    noted: AtomicU64,
    ended: AtomicBool,
    assertion: ArcSwapOption<IssuedAssertion>,
    /// The signature of an assertion from before this copy was made.
    signed_before: Option<Box<Signed>>,
    upstream_identities: UpstreamIdentities,
}

/// What is known of a bearer token beside its claims.
struct Token {
    issuer: Arc<str>,
    /// What of it does not count.
    omitted: Box<[Omitted]>,
}

impl LoadedSession {
    /// Makes a session ready for requests.
    #[must_use]
    pub fn new(key: SessionKey, session: Session, last_seen: Timestamp) -> Self {
        Self {
            key,
            token: None,
            headers: ReadyFields::of(&session.identity, session.identity.provider.as_str()),
            due: AtomicU64::new(session.renew_at.map_or(u64::MAX, Timestamp::millis)),
            session,
            last_seen: AtomicU64::new(last_seen.millis()),
            noted: AtomicU64::new(last_seen.millis()),
            ended: AtomicBool::new(false),
            assertion: ArcSwapOption::empty(),
            signed_before: None,
            upstream_identities: UpstreamIdentities::default(),
        }
    }

    /// Adds the signature of an assertion sent earlier for this same session: while it is fresh, no new one is signed.
    #[must_use]
    pub fn with_signed(self, signed_before: Option<Box<Signed>>) -> Self {
        Self { signed_before, ..self }
    }

    /// Makes the claims of a bearer token ready for requests, under its issuer's name; `omitted` is what of it does not count, since it
    /// has no sign-in that could log that. No store knows it.
    #[must_use]
    pub fn of_token(
        key: SessionKey,
        session: Session,
        issuer: Arc<str>,
        omitted: Vec<Omitted>,
        now: Timestamp,
    ) -> Self {
        let headers = ReadyFields::of(&session.identity, &issuer);
        let token = Token { issuer, omitted: omitted.into() };
        Self { headers, token: Some(Box::new(token)), ..Self::new(key, session, now) }
    }

    /// What of a bearer token does not count; empty for a session of ours.
    #[must_use]
    pub fn omitted(&self) -> &[Omitted] {
        self.token.as_deref().map_or(&[], |token| &token.omitted)
    }

    /// Whether it is a bearer token rather than a session of ours.
    #[must_use]
    pub const fn is_token(&self) -> bool {
        self.token.is_some()
    }

    /// The name of the provider or issuer, as rules, logs and upstreams use it.
    #[must_use]
    pub fn provider(&self) -> &str {
        self.token.as_deref().map_or_else(|| self.session.identity.provider.as_str(), |token| &*token.issuer)
    }

    /// Its key in the store.
    #[must_use]
    pub const fn key(&self) -> SessionKey {
        self.key
    }

    /// The session itself.
    #[must_use]
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// The identity, as header fields.
    #[must_use]
    pub const fn headers(&self) -> &ReadyFields {
        &self.headers
    }

    /// The identity fields for upstreams other than the usual one.
    #[must_use]
    pub const fn upstream_identities(&self) -> &UpstreamIdentities {
        &self.upstream_identities
    }

    /// When it was last used.
    #[must_use]
    pub fn last_seen(&self) -> Timestamp {
        Timestamp::from_millis(self.last_seen.load(Ordering::Relaxed))
    }

    /// Records a use now. Written at most once a second, so that busy sessions do not contend for a cache line.
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

    /// Postpones asking the provider for this copy of the session.
    pub fn postpone(&self, until: Timestamp) {
        self.due.store(until.millis(), Ordering::Relaxed);
    }

    /// Whether to write its last use to the store now, at most once in `every`; of several concurrent callers one gets `true`.
    #[must_use]
    pub fn is_note_due(&self, every: Duration, now: Timestamp) -> bool {
        let noted = self.noted.load(Ordering::Relaxed);
        let due = now.since(Timestamp::from_millis(noted)) >= every;
        due && self.noted.compare_exchange(noted, now.millis(), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Marks it as ended, for those that still hold it, such as an open WebSocket.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Whether it was marked as ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Whether it may be used at `now`; `idle` is how long it may stay unused (zero: for ever).
    #[must_use]
    pub fn is_live(&self, idle: Duration, now: Timestamp) -> bool {
        !self.has_ended() && self.session.is_live(self.last_seen(), idle, now)
    }

    /// The cache of its latest assertion.
    #[must_use]
    pub const fn assertion(&self) -> &ArcSwapOption<IssuedAssertion> {
        &self.assertion
    }

    /// As if this signer had signed an assertion for it.
    #[cfg(test)]
    pub(crate) fn was_signed(&self, signer: u64, now: Timestamp) {
        let signed = Signed { issued_at: now, signer, of: 1, signature: [9; 64] };
        let value = HeaderValue::from_static("a.b.c");
        self.assertion.store(Some(Arc::new(IssuedAssertion { value, signed })));
    }

    /// The signature of the latest assertion, made by this copy of the session or before it.
    #[must_use]
    pub fn signed(&self) -> Option<Signed> {
        let issued = self.assertion.load().as_deref().map(|issued| issued.signed);
        issued.or_else(|| self.signed_before.as_deref().copied())
    }
}

impl Known for LoadedSession {
    fn principal(&self) -> Principal<'_> {
        let principal = self.session.principal();
        match &self.token {
            None => principal,
            // Only the token's own `auth_time` counts: nobody signed in here.
            Some(token) => {
                Principal { provider: &token.issuer, by: Proof::Bearer, proved_at: self.session.auth_time, ..principal }
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
    /// Its signature.
    pub signed: Signed,
}

/// An assertion's signature and its inputs: together with the session they restore the assertion, at a tenth of its size and without
/// the cost of signing.
#[derive(Clone, Copy)]
pub struct Signed {
    /// When it was made.
    pub issued_at: Timestamp,
    /// The signer's number; another signer (after a reload) signs again.
    pub signer: u64,
    /// A hash of what was signed, keyed by the signer.
    pub of: u64,
    /// ES256: two 32-byte integers.
    pub signature: [u8; 64],
}

/// How often a session's last use is written to its store: once a minute, or once in a tenth of the idle limit if that is shorter.
#[must_use]
pub fn note_every(idle: Duration) -> Duration {
    const MINUTE: Duration = Duration::from_secs(60);
    if idle.is_zero() { MINUTE } else { MINUTE.min(idle / 10) }
}
