//! The core of OpenID Connect, shared by Entra and every other provider: discovery, the code flow, the ID token.

use std::sync::Arc;
use std::time::Duration;

use oauth2::AuthType;
use url::Url;

use super::ClientRegistration;
use super::claims::TokenClaims;
use super::code_flow::CodeFlow;
use super::discovery::{Document, Place, trimmed};
use super::http::Http;
use super::id_token::{self, Expected, IdToken, Rejected};
use super::logout_token;
use super::publication::{Publication, Published, Sender};
use super::quote::quote;
use crate::domain::grant::Grant;
use crate::domain::login::LoginAttempt;
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;
use crate::ports::{Prompt, RenewError, SignInError};

/// The longest ID token that is sent as a sign-out hint, in bytes: it is part of a URL, and servers reject longer ones.
const LONGEST_HINT: usize = 4096;
/// The longest ID token that is kept for upstreams, in bytes: servers accept no longer header field either.
const LONGEST_KEPT: usize = 16 * 1024;
/// The longest provider session id that is kept, in bytes.
const LONGEST_SESSION: usize = 255;

/// The relying party of OpenID Connect.
pub(super) struct RelyingParty {
    pub(super) http: Http,
    flow: CodeFlow,
    place: Place,
    publication: Publication,
    /// Whether upstreams receive the ID token.
    keeps_id_token: bool,
}

/// The result of a sign-in with a verified ID token.
pub(super) struct Verified {
    pub(super) id_token: IdToken,
    pub(super) grant: Grant,
    pub(super) userinfo_endpoint: Option<Url>,
}

impl Verified {
    /// When the user authenticated. A time in the future counts as now.
    pub(super) fn auth_time(&self, now: Timestamp) -> Option<Timestamp> {
        self.id_token.claims.seconds("auth_time").map(|secs| Timestamp::from_secs(secs).min(now))
    }

    /// The provider's session id, if the ID token has one (OpenID Connect Back-Channel Logout 1.0 §2.1).
    pub(super) fn provider_session(&self) -> Option<String> {
        self.id_token.claims.text("sid").filter(|sid| sid.len() <= LONGEST_SESSION).map(ToOwned::to_owned)
    }
}

/// The result of a refresh.
pub(super) struct Refreshed {
    pub(super) grant: Grant,
    id_token: Option<Result<Secret, String>>,
    published: Arc<Published>,
}

impl Refreshed {
    pub(super) fn userinfo_endpoint(&self) -> Option<&Url> {
        self.published.document.userinfo_endpoint.as_ref()
    }
}

impl RelyingParty {
    pub(super) fn new(http: Http, registration: ClientRegistration, place: Place) -> Self {
        let keeps_id_token = registration.keeps_id_token;
        let publication = Publication::new(place.clone());
        Self { http, flow: CodeFlow::new(registration), publication, place, keeps_id_token }
    }

    /// The URL to redirect the browser to.
    pub(super) fn authorization_url(&self, attempt: &LoginAttempt, prompt: Option<Prompt>) -> Result<Url, SignInError> {
        let published = self
            .publication
            .current()
            .ok_or_else(|| SignInError::Unreachable(self.publication.trouble().unwrap_or_default()))?;
        let endpoint = &published.document.authorization_endpoint;
        Ok(self.flow.authorization_url(endpoint, attempt, Some(attempt.nonce()), prompt))
    }

    /// RFC 9207 §2.4: a response from another issuer is a mix-up attack.
    pub(super) fn check_issuer(&self, sent: Option<&str>) -> Result<(), SignInError> {
        match (sent, self.publication.current()) {
            (Some(sent), Some(published)) if published.issuer.sends(sent) => Ok(()),
            (Some(sent), None) if self.could_send(sent) => Ok(()),
            (Some(sent), published) => {
                let ours = published.map_or_else(|| quote(trimmed(&self.place.issuer())), |known| known.issuer.shown());
                Err(SignInError::Issuer(format!("it says {}, {ours} is expected", quote(sent))))
            }
            (None, Some(published)) if published.document.promises_issuer() => {
                let ours = published.issuer.shown();
                let reason = format!("it says none, though discovery says that it does; {ours} is expected");
                Err(SignInError::Issuer(reason))
            }
            (None, Some(_)) => Ok(()),
            // Unknown whether it must name one: another replica redirected the browser, and this one has not read discovery.
            (None, None) => Err(SignInError::Unreachable(self.publication.trouble().unwrap_or_default())),
        }
    }

    /// Before discovery is read, the configured address determines the issuer.
    fn could_send(&self, sent: &str) -> bool {
        match &self.place {
            Place::Issuer(issuer) => sent.trim_end_matches('/') == trimmed(issuer),
            Place::Entra { authority, .. } => super::discovery::tenant_of(trimmed(authority), sent).is_some(),
        }
    }

    /// Redeems `code` and verifies the ID token.
    pub(super) async fn redeem(
        &self,
        code: &Secret,
        attempt: &LoginAttempt,
        now: Timestamp,
    ) -> Result<Verified, SignInError> {
        let published = self.publication.ready(&self.http).await.map_err(SignInError::TokenExchange)?;
        let document = &published.document;
        let mut tokens = self
            .flow
            .redeem(&self.http, &document.token_endpoint, auth(document), code, attempt)
            .await
            .map_err(SignInError::TokenExchange)?;
        let id_token = tokens.id.take().unwrap_or_else(|| {
            Err("the token endpoint issued no ID token: is the scope `openid` in OAUTH_SCOPES?".to_owned())
        });
        let id_token = id_token.map_err(SignInError::TokenExchange)?;
        let mut grant = tokens.grant(None, now);
        let verified = self
            .verify(&published, &id_token, &grant.access, Some(attempt.nonce()), now)
            .await
            .map_err(SignInError::TokenExchange)?;
        grant.id_token = self.kept(document, id_token);
        Ok(Verified { id_token: verified, grant, userinfo_endpoint: document.userinfo_endpoint.clone() })
    }

    /// Requests new tokens with the refresh token of `before`.
    pub(super) async fn refresh_tokens(
        &self,
        before: &Grant,
        refresh_token: &Secret,
        now: Timestamp,
    ) -> Result<Refreshed, RenewError> {
        let published = self.published().map_err(RenewError::NotNow)?;
        let document = &published.document;
        let mut tokens = self.flow.refresh(&self.http, &document.token_endpoint, auth(document), refresh_token).await?;
        let id_token = tokens.id.take();
        Ok(Refreshed { grant: tokens.grant(Some(before), now), id_token, published })
    }

    /// Verifies the ID token of a refresh; `None`: the response had none, which OpenID Connect Core §12.2 allows.
    pub(super) async fn verify_refreshed(
        &self,
        refreshed: &mut Refreshed,
        now: Timestamp,
    ) -> Result<Option<IdToken>, RenewError> {
        let id_token = refreshed.id_token.take().transpose().map_err(RenewError::NotNow)?;
        let Some(id_token) = id_token else { return Ok(None) };
        let verified = self
            .verify(&refreshed.published, &id_token, &refreshed.grant.access, None, now)
            .await
            .map_err(RenewError::NotNow)?;
        refreshed.grant.id_token = self.kept(&refreshed.published.document, id_token);
        Ok(Some(verified))
    }

    /// Verifies a signed UserInfo response, like an ID token.
    pub(super) async fn verify_userinfo(&self, token: &str, now: Timestamp) -> Result<TokenClaims, String> {
        let published = self.published()?;
        self.with_keys(&published, Sender::Provider, now, |published| {
            let signed = id_token::signed(token, &published.keys)?;
            id_token::check_userinfo(&signed.claims, &published.issuer, self.flow.client_id(), now.secs())
                .map_err(Rejected::Invalid)?;
            Ok(signed.claims)
        })
        .await
    }

    /// An ID token is long: it is kept only for upstreams that receive it, and for signing out at the provider.
    fn kept(&self, document: &Document, id_token: Secret) -> Option<Secret> {
        let length = id_token.expose().len();
        if self.keeps_id_token {
            if length > LONGEST_KEPT {
                tracing::warn!(
                    length,
                    "an ID token is longer than the {LONGEST_KEPT} bytes that are kept: upstreams are not told it"
                );
            }
            return (length <= LONGEST_KEPT).then_some(id_token);
        }
        (document.end_session_endpoint().is_some() && length <= LONGEST_HINT).then_some(id_token)
    }

    async fn verify(
        &self,
        published: &Arc<Published>,
        id_token: &Secret,
        access_token: &Secret,
        nonce: Option<&str>,
        now: Timestamp,
    ) -> Result<IdToken, String> {
        let verified = self.with_keys(published, Sender::Provider, now, |published| {
            let expected =
                Expected { issuer: &published.issuer, client_id: self.flow.client_id(), nonce, access_token, now };
            id_token::verify(id_token.expose(), &published.keys, &expected)
        });
        verified.await.map_err(|reason| format!("ID token: {reason}"))
    }

    /// Verifies with the current keys, or with newer ones if none of these verifies.
    async fn with_keys<T>(
        &self,
        published: &Arc<Published>,
        sender: Sender,
        now: Timestamp,
        verify: impl Fn(&Published) -> Result<T, Rejected>,
    ) -> Result<T, String> {
        match verify(published) {
            Ok(token) => Ok(token),
            Err(rejected @ (Rejected::Invalid(_) | Rejected::Issuer { .. })) => Err(rejected.to_string()),
            Err(Rejected::Key(why)) => match self.publication.newer_keys(&self.http, published, sender, now).await {
                Ok(Some(newer)) => verify(&newer).map_err(|rejected| rejected.to_string()),
                Ok(None) => Err(why.to_owned()),
                // The provider may well publish its key by now.
                Err(reason) => {
                    Err(format!("no key that is known here verifies it, and newer ones cannot be read: {reason}"))
                }
            },
        }
    }

    /// The URL for a browser that also signs out at the provider (OpenID Connect RP-Initiated Logout 1.0 §2).
    pub(super) fn logout_url(&self, id_token: Option<&Secret>, return_to: &Url) -> Option<Url> {
        let mut url = self.publication.current()?.document.end_session_endpoint()?;
        let mut query = url.query_pairs_mut();
        if let Some(id_token) = id_token.filter(|token| token.expose().len() <= LONGEST_HINT) {
            query.append_pair("id_token_hint", id_token.expose());
        }
        query.append_pair("client_id", self.flow.client_id());
        query.append_pair("post_logout_redirect_uri", return_to.as_str());
        drop(query);
        Some(url)
    }

    /// Verifies a logout token.
    pub(super) async fn verify_logout(&self, token: &Secret, now: Timestamp) -> Result<logout_token::Verified, String> {
        let published = self.published()?;
        self.with_keys(&published, Sender::Anyone, now, |published| {
            let expected = logout_token::Expected { issuer: &published.issuer, client_id: self.flow.client_id(), now };
            logout_token::verify(token.expose(), &published.keys, &expected)
        })
        .await
    }

    /// The provider's UserInfo endpoint; `None` if it has none, or discovery has not been read.
    pub(super) fn userinfo_endpoint(&self) -> Option<Url> {
        self.publication.current()?.document.userinfo_endpoint.clone()
    }

    fn published(&self) -> Result<Arc<Published>, String> {
        self.publication.current().ok_or_else(|| self.publication.trouble().unwrap_or_default())
    }

    /// Reads discovery and keys again; returns the pause before the next refresh.
    pub(super) async fn refresh(&self) -> Duration {
        self.publication.refresh(&self.http).await
    }

    /// Waits until discovery has been read, and triggers a read.
    pub(super) async fn ready(&self) {
        self.publication.first_reading().await;
    }

    /// Waits until a caller of [`Self::ready`] needs a read.
    pub(super) async fn wanted(&self) {
        self.publication.wanted().await;
    }

    /// Why sign-ins do not work now.
    pub(super) fn trouble(&self) -> Option<String> {
        self.publication.trouble()
    }
}

/// How the client sends its secret.
fn auth(document: &Document) -> AuthType {
    if document.takes_secret_in_form_only() { AuthType::RequestBody } else { AuthType::BasicAuth }
}
