//! Floor 1, what we ask of the world: an identity provider, a session store, and the headers that a loaded session carries ready-made.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use url::Url;

use crate::domain::identity::{Identified, Identity, ProviderKind};
use crate::domain::login::LoginAttempt;
use crate::domain::secret::Secret;
use crate::domain::session::{Session, SessionToken};
use crate::domain::time::Timestamp;

/// An answer that has to be waited for.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Somebody who signs people in.
pub trait IdentityProvider: Send + Sync {
    /// Which kind it is.
    fn kind(&self) -> ProviderKind;

    /// Where to send a browser that signs in, with `state`, the PKCE challenge and, for OpenID Connect, `nonce`.
    ///
    /// # Errors
    /// [`SignInError::Unreachable`] while discovery is missing.
    fn authorization_url(&self, attempt: &LoginAttempt, prompt: Option<Prompt>) -> Result<Url, SignInError>;

    /// Checks the callback's `iss` (RFC 9207), before the code is redeemed: where it is sent it must be ours,
    /// and where discovery advertises it, it must be sent.
    ///
    /// # Errors
    /// [`SignInError::Issuer`] where it is another's, or missing.
    fn check_issuer(&self, issuer: Option<&str>) -> Result<(), SignInError>;

    /// Redeems an authorization code, and learns who signed in.
    fn sign_in<'a>(
        &'a self,
        code: &'a Secret,
        attempt: &'a LoginAttempt,
        now: Timestamp,
    ) -> Pending<'a, Result<Identity, SignInError>>;

    /// Fetches what the provider publishes (discovery, keys) where it is missing or old, and says when to come again.
    fn refresh(&self, now: Timestamp) -> Pending<'_, Duration>;

    /// What keeps sign-ins from working, as far as is known without asking now; `None`: nothing.
    fn trouble(&self) -> Option<String>;
}

/// What the provider is asked to show, though the person may be signed in there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// `prompt=select_account`: let the person choose who to be.
    SelectAccount,
}

/// Why a sign-in failed, by whose fault it is. The reasons are for the log: they name no secret, and may quote the provider.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// The provider cannot be reached, or has not been yet.
    #[error("the provider cannot be reached: {0}")]
    Unreachable(String),
    /// The callback's `iss` is not the provider's.
    #[error("the callback's issuer is not the provider's: {0}")]
    Issuer(String),
    /// The code was not redeemed, or the ID token does not verify.
    #[error("{0}")]
    TokenExchange(String),
    /// The provider did not say who it is.
    #[error("{0}")]
    UserInfo(String),
    /// The provider signs the person in, but this kind of account may not (another tenant's).
    #[error("{reason}")]
    NotAllowed {
        /// The address or name to write to the log.
        who: String,
        /// Why not.
        reason: String,
    },
}

/// Where sessions are kept.
pub trait SessionStore: Send + Sync {
    /// A session that this replica holds in its own memory; never waits. It answers only with sessions that are live at `now`, and notes
    /// that they were used.
    fn hot(&self, token: &SessionToken, now: Timestamp) -> Option<Arc<LoadedSession>>;

    /// A session that is live at `now`, from wherever it is kept; `Ok(None)`: there is none.
    fn load<'a>(
        &'a self,
        token: &'a SessionToken,
        now: Timestamp,
    ) -> Pending<'a, Result<Option<Arc<LoadedSession>>, StoreUnavailable>>;

    /// Keeps a new session under `token`.
    fn save<'a>(
        &'a self,
        token: &'a SessionToken,
        session: Session,
        now: Timestamp,
    ) -> Pending<'a, Result<(), StoreUnavailable>>;

    /// Ends a session, on every replica. One that is not there has ended.
    fn end<'a>(&'a self, token: &'a SessionToken) -> Pending<'a, Result<(), StoreUnavailable>>;

    /// Sheds what has expired.
    fn sweep(&self, now: Timestamp);

    /// Sessions held in this replica's memory.
    fn held(&self) -> u64;

    /// What keeps the store from working, as far as is known; `None`: nothing.
    fn trouble(&self) -> Option<String>;
}

/// The store did not answer: nobody is let in because of it, and nobody is signed out.
#[derive(Debug, thiserror::Error)]
#[error("the session store is unavailable: {0}")]
pub struct StoreUnavailable(pub String);

/// A session with all that a request needs of it, made once when it is loaded.
pub struct LoadedSession {
    session: Session,
    headers: IdentityHeaders,
    last_seen: AtomicU64,
    ended: AtomicBool,
    assertion: ArcSwapOption<IssuedAssertion>,
}

impl LoadedSession {
    /// Makes a session ready for requests.
    #[must_use]
    pub fn new(session: Session, last_seen: Timestamp) -> Self {
        Self {
            headers: IdentityHeaders::of(&session.identity),
            session,
            last_seen: AtomicU64::new(last_seen.millis()),
            ended: AtomicBool::new(false),
            assertion: ArcSwapOption::empty(),
        }
    }

    /// The session itself.
    #[must_use]
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// Its identity headers.
    #[must_use]
    pub const fn headers(&self) -> &IdentityHeaders {
        &self.headers
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
}

impl Identified for LoadedSession {
    fn identity(&self) -> &Identity {
        &self.session.identity
    }
}

/// A signed assertion, and what it was signed for.
pub struct IssuedAssertion {
    /// The header's value.
    pub value: HeaderValue,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// Which signer made it: another one (after a reload) signs anew.
    pub signer: u64,
}

/// The identity as header values, ready to be cloned into requests. Empty where there is nothing to say.
pub struct IdentityHeaders {
    /// Username where the policy may use it, else vouched email, else id.
    pub user: HeaderValue,
    /// The vouched email.
    pub email: HeaderValue,
    /// The username, also one for display only.
    pub preferred_username: HeaderValue,
    /// The groups, comma-separated.
    pub groups: HeaderValue,
    /// The provider's stable id.
    pub user_id: HeaderValue,
    /// The display name.
    pub name: HeaderValue,
    /// `github`, `entra` or `oidc`.
    pub provider: HeaderValue,
}

impl IdentityHeaders {
    /// Encodes an identity.
    #[must_use]
    pub fn of(identity: &Identity) -> Self {
        let groups: Vec<String> = identity.groups.iter().map(|group| encode(group, GROUP)).collect();
        Self {
            user: value(&encode(identity.principal(), TEXT)),
            email: value(&encode(identity.email_str(), TEXT)),
            preferred_username: value(&encode(identity.username.as_str(), TEXT)),
            groups: value(&groups.join(",")),
            user_id: value(&encode(&identity.id, TEXT)),
            name: value(&encode(&identity.name, TEXT)),
            provider: HeaderValue::from_static(identity.provider.as_str()),
        }
    }
}

/// What is percent-encoded in an identity header: `%`, control characters and (by the crate) all bytes beyond ASCII.
const TEXT: &AsciiSet = &CONTROLS.add(b'%');
/// In a group also the comma, which separates groups.
const GROUP: &AsciiSet = &TEXT.add(b',');

fn encode(text: &str, set: &'static AsciiSet) -> String {
    utf8_percent_encode(text, set).to_string()
}

/// Encoded text is printable ASCII, so it always is a header's value.
fn value(encoded: &str) -> HeaderValue {
    HeaderValue::from_str(encoded).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::identity::Username;

    #[test]
    fn identity_headers_are_percent_encoded() {
        let headers = IdentityHeaders::of(&Identity {
            provider: ProviderKind::Oidc,
            id: "a\r\nX-Forwarded-User: root".into(),
            email: None,
            name: "Zo\u{eb} <b>, 100%".into(),
            username: Username::Displayed("zoe".into()),
            groups: vec!["a,b".into(), "c d".into(), "\u{7f}".into()],
        });
        assert_eq!(headers.user, "a%0D%0AX-Forwarded-User: root");
        assert_eq!(headers.name, "Zo%C3%AB <b>, 100%25");
        assert_eq!(headers.groups, "a%2Cb,c d,%7F");
        assert_eq!(headers.email, "");
        assert_eq!(headers.preferred_username, "zoe");
    }
}
