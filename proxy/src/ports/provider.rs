//! The identity provider as the proxy uses it.

use std::time::Duration;

use url::Url;

use super::Pending;
use crate::domain::grant::Grant;
use crate::domain::identity::{Identity, ProviderKind};
use crate::domain::login::LoginAttempt;
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;

/// A provider that people sign in with.
pub trait IdentityProvider: Send + Sync {
    /// Which kind it is.
    fn kind(&self) -> ProviderKind;

    /// The URL that starts a sign-in in the browser, with `state`, the PKCE challenge and, for OpenID Connect, `nonce`.
    ///
    /// # Errors
    /// [`SignInError::Unreachable`] while discovery is missing.
    fn authorization_url(&self, attempt: &LoginAttempt, prompt: Option<Prompt>) -> Result<Url, SignInError>;

    /// Checks the callback's `iss` (RFC 9207) before the code is redeemed: if present, it must be this provider's; if discovery
    /// advertises it, it must be present.
    ///
    /// # Errors
    /// [`SignInError::Issuer`] if it is missing or another provider's.
    fn check_issuer(&self, issuer: Option<&str>) -> Result<(), SignInError>;

    /// Redeems an authorization code and reads the identity.
    fn sign_in<'a>(
        &'a self,
        code: &'a Secret,
        attempt: &'a LoginAttempt,
        now: Timestamp,
    ) -> Pending<'a, Result<SignedIn, SignInError>>;

    /// Asks the provider for the identity again, with the grant of the sign-in: by the refresh token if there is one, else by the
    /// access token while it is valid. The returned identity is of the same person. Takes 25 s at most. If a step fails after new tokens
    /// were issued, it returns those tokens: the old ones may be void.
    ///
    /// # Errors
    /// [`RenewError`], which distinguishes "no more" from "not now".
    fn renew<'a>(
        &'a self,
        identity: &'a Identity,
        grant: &'a Grant,
        now: Timestamp,
    ) -> Pending<'a, Result<Renewed, RenewError>>;

    /// Whether somebody who has signed in earlier may still come in by what the settings say now of the provider's users: at Entra, by their
    /// tenant. In doubt they may, until [`IdentityProvider::renew`] says otherwise.
    fn admits(&self, _identity: &Identity) -> bool {
        true
    }

    /// The URL that signs the browser out at the provider (OpenID Connect RP-Initiated Logout 1.0) and returns it to `return_to`;
    /// `None`: the provider has no such endpoint, or discovery is missing.
    fn logout_url(&self, id_token: Option<&Secret>, return_to: &Url) -> Option<Url>;

    /// Verifies a logout token (OpenID Connect Back-Channel Logout 1.0 §2.6). The caller must check that its `jti` is used only once.
    ///
    /// # Errors
    /// Why the token is rejected, for the log.
    fn verify_logout<'a>(&'a self, token: &'a Secret, now: Timestamp) -> Pending<'a, Result<LogoutToken, String>>;

    /// Fetches what the provider publishes (discovery, keys) if it is missing or old; returns when to call this again.
    fn refresh(&self, now: Timestamp) -> Pending<'_, Duration>;

    /// Waits until browsers can be sent to the provider, and requests a `refresh` if discovery is missing. May wait for ever.
    fn ready(&self) -> Pending<'_, ()>;

    /// Waits until a caller waits in `ready`: `refresh` is then due early.
    fn wanted(&self) -> Pending<'_, ()>;

    /// The known reason why sign-ins fail, without asking the provider now; `None`: no known problem.
    fn trouble(&self) -> Option<String>;
}

/// What the provider is asked to show even if the person is signed in there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// `prompt=select_account`: lets the person choose an account.
    SelectAccount,
}

/// Why a sign-in failed, by the party at fault. The reasons are for the log: they contain no secret, and may quote the provider.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// The provider cannot be reached, or has not been reached yet.
    #[error("{0}")]
    Unreachable(String),
    /// The callback's `iss` is not the provider's.
    #[error("the callback's issuer is not the provider's: {0}")]
    Issuer(String),
    /// The code was not redeemed, or the ID token does not verify.
    #[error("{0}")]
    TokenExchange(String),
    /// The provider did not return the user's identity.
    #[error("{0}")]
    UserInfo(String),
    /// The provider signs the person in, but this kind of account is not allowed (e.g. another tenant's).
    #[error("{reason}")]
    NotAllowed {
        /// The address or name to write to the log.
        who: String,
        /// Why not.
        reason: String,
    },
}

/// The result of a sign-in.
pub struct SignedIn {
    /// Who it is.
    pub identity: Identity,
    /// The provider's grant for asking again; `None`: nothing usable was granted.
    pub grant: Option<Grant>,
    /// The provider's own session (`sid`), if the provider names one.
    pub provider_session: Option<String>,
    /// When the person authenticated at the provider (`auth_time`), if the provider says so.
    pub auth_time: Option<Timestamp>,
    /// Statements of the provider about the person that are ignored.
    pub omitted: Vec<Omitted>,
}

/// A statement of a provider about a person that is ignored here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Omitted {
    /// What it is.
    pub what: Omission,
    /// Why it is ignored, for the log: names the person, and may quote the provider.
    pub reason: String,
}

/// The kind of an ignored statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Omission {
    /// No email address is verified.
    Email,
    /// App roles, group names and claims are those of an Entra tenant that is not named.
    UnnamedTenant,
    /// The email addresses could not be read.
    EmailUnreadable,
    /// Some groups are not in the form of names.
    GroupsOfAnotherForm,
    /// The groups could not be read.
    GroupsUnreadable,
    /// The claim that is the username is not text.
    UsernameOfAnotherForm,
    /// A claim that a rule refers to is neither text nor a list of texts, or not all of it is.
    ClaimOfAnotherForm,
    /// GitHub omits organisations with single sign-on that the application was not authorized for.
    SingleSignOn,
}

/// The result of asking the provider again.
pub struct Renewed {
    /// The current identity; or why the provider issued new tokens but no identity: ask again soon.
    pub identity: Result<Identity, String>,
    /// The grant from now on; may be unchanged.
    pub grant: Grant,
}

/// Why asking again failed. The reasons are for the log: they contain no secret, and may quote the provider.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// The grant or the person no longer exists (`invalid_grant`), or the answer is about another person: the session ends.
    #[error("{0}")]
    Gone(String),
    /// The provider did not answer, or failed: the session continues, and the provider is asked again later.
    #[error("{0}")]
    NotNow(String),
}

/// A logout token that verifies.
pub struct LogoutToken {
    /// The person whose sessions end.
    pub subject: Option<String>,
    /// The provider's session that ends.
    pub provider_session: Option<String>,
    /// The token's id (`jti`), accepted once.
    pub id: String,
    /// Until when the token could be replayed.
    pub expires_at: Timestamp,
}
