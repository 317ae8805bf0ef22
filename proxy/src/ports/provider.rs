//! What we ask of whoever signs people in.

use std::time::Duration;

use url::Url;

use super::Pending;
use crate::domain::grant::Grant;
use crate::domain::identity::{Identity, ProviderKind};
use crate::domain::login::LoginAttempt;
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;

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
    ) -> Pending<'a, Result<SignedIn, SignInError>>;

    /// Asks again who the person is, with what was granted at the sign-in: by the refresh token where there is one, else by the access
    /// token as long as that lasts. The identity is of the same person. It takes 25 s at most, and gives the tokens that were issued
    /// whatever fails after that: those before them may be void.
    ///
    /// # Errors
    /// [`RenewError`], which tells "no more" from "not now".
    fn renew<'a>(
        &'a self,
        identity: &'a Identity,
        grant: &'a Grant,
        now: Timestamp,
    ) -> Pending<'a, Result<Renewed, RenewError>>;

    /// Where to send a browser that signs out at the provider too (OpenID Connect RP-Initiated Logout 1.0), and comes back to
    /// `return_to`; `None`: the provider has no such place, or it is not known yet.
    fn logout_url(&self, id_token: Option<&Secret>, return_to: &Url) -> Option<Url>;

    /// Verifies a logout token (OpenID Connect Back-Channel Logout 1.0 §2.6); that its `jti` comes once only is for the caller to check.
    ///
    /// # Errors
    /// Why it is not believed, for the log.
    fn verify_logout<'a>(&'a self, token: &'a Secret, now: Timestamp) -> Pending<'a, Result<LogoutToken, String>>;

    /// Fetches what the provider publishes (discovery, keys) where it is missing or old, and says when to come again.
    fn refresh(&self, now: Timestamp) -> Pending<'_, Duration>;

    /// Waits until people can be sent to the provider, and asks for a `refresh` where that is missing. It may wait for ever.
    fn ready(&self) -> Pending<'_, ()>;

    /// Waits until somebody waits for `ready`: `refresh` is due before its time.
    fn wanted(&self) -> Pending<'_, ()>;

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
    #[error("{0}")]
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

/// Somebody who signed in.
pub struct SignedIn {
    /// Who it is.
    pub identity: Identity,
    /// What the provider granted for asking again; `None`: nothing that could be used.
    pub grant: Option<Grant>,
    /// The provider's own session (`sid`), where it names one.
    pub provider_session: Option<String>,
    /// When the person proved to the provider who they are (`auth_time`), where it says so.
    pub auth_time: Option<Timestamp>,
    /// What the provider says of the person and does not count.
    pub omitted: Vec<Omitted>,
}

/// What a provider says of a person and does not count here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Omitted {
    /// What it is.
    pub what: Omission,
    /// Why it does not count, for the log: it names the person, and may quote the provider.
    pub reason: String,
}

/// Of what kind it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Omission {
    /// No address is vouched for.
    Email,
    /// The addresses could not be read.
    EmailUnreadable,
    /// Some groups came in another form than that of names.
    GroupsOfAnotherForm,
    /// The groups could not be read.
    GroupsUnreadable,
    /// GitHub leaves out organisations whose single sign-on the application has not been through.
    SingleSignOn,
}

/// What asking again brought.
pub struct Renewed {
    /// Who the person is now; or why the provider, which has issued new tokens, did not say so: it is to be asked again soon.
    pub identity: Result<Identity, String>,
    /// What is granted from now on, which may be as before.
    pub grant: Grant,
}

/// Why asking again brought nothing. The reasons are for the log: they name no secret, and may quote the provider.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// The provider says that the grant or the person is gone (`invalid_grant`), or speaks of somebody else: the session ends.
    #[error("{0}")]
    Gone(String),
    /// The provider did not answer, or failed: the session goes on, and it is asked again later.
    #[error("{0}")]
    NotNow(String),
}

/// A logout token that verifies.
pub struct LogoutToken {
    /// The person whose sessions end.
    pub subject: Option<String>,
    /// The provider's session that ends.
    pub provider_session: Option<String>,
    /// Names the token, which counts once.
    pub id: String,
    /// Until when it could be sent again.
    pub expires_at: Timestamp,
}
