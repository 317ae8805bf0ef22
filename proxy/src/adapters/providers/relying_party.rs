//! OpenID Connect's core, on which Entra and every other provider of it are built: discovery, the code flow, the ID token.

use std::sync::Arc;
use std::time::Duration;

use oauth2::AuthType;
use url::Url;

use super::ClientRegistration;
use super::claims::Claims;
use super::code_flow::CodeFlow;
use super::discovery::{Place, trimmed};
use super::http::Http;
use super::id_token::{self, Expected, IdToken, Rejected};
use super::publication::{Publication, Published};
use super::quote::quote;
use crate::domain::login::LoginAttempt;
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;
use crate::ports::{Prompt, SignInError};

/// Our side of OpenID Connect.
pub(super) struct RelyingParty {
    pub(super) http: Http,
    flow: CodeFlow,
    place: Place,
    publication: Publication,
}

/// Somebody whose ID token verifies.
pub(super) struct Verified {
    pub(super) claims: Claims,
    /// Whose tokens the key may sign, where the provider says it.
    pub(super) key_issuer: Option<String>,
    pub(super) access_token: Secret,
    pub(super) userinfo_endpoint: Option<Url>,
}

impl RelyingParty {
    pub(super) fn new(http: Http, registration: ClientRegistration, place: Place) -> Self {
        Self { http, flow: CodeFlow::new(registration), publication: Publication::new(place.clone()), place }
    }

    /// Where to send the browser.
    pub(super) fn authorization_url(&self, attempt: &LoginAttempt, prompt: Option<Prompt>) -> Result<Url, SignInError> {
        let published = self
            .publication
            .current()
            .ok_or_else(|| SignInError::Unreachable(self.publication.trouble().unwrap_or_default()))?;
        let endpoint = &published.document.authorization_endpoint;
        Ok(self.flow.authorization_url(endpoint, attempt, Some(attempt.nonce()), prompt))
    }

    /// RFC 9207 §2.4: an answer from another issuer is a mix-up attack.
    pub(super) fn check_issuer(&self, sent: Option<&str>) -> Result<(), SignInError> {
        match (sent, self.publication.current()) {
            (Some(sent), Some(published)) if published.issuer.sends(sent) => Ok(()),
            (Some(sent), None) if self.could_send(sent) => Ok(()),
            (Some(sent), Some(_) | None) => Err(SignInError::Issuer(quote(sent))),
            (None, Some(published)) if published.document.authorization_response_iss_parameter_supported => {
                Err(SignInError::Issuer("it names none, though discovery says that it does".to_owned()))
            }
            (None, Some(_)) => Ok(()),
            // Whether it must name one is not known: another replica sent the browser, and this one has not read discovery.
            (None, None) => Err(SignInError::Unreachable(self.publication.trouble().unwrap_or_default())),
        }
    }

    /// Before discovery is read, the configured address tells who the issuer is.
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
        let auth = if document.takes_secret_in_form_only() { AuthType::RequestBody } else { AuthType::BasicAuth };
        let tokens = self
            .flow
            .redeem(&self.http, &document.token_endpoint, auth, code, attempt)
            .await
            .map_err(SignInError::TokenExchange)?;
        let id_token = tokens.id.ok_or_else(|| {
            let reason = "the token endpoint issued no ID token: is the scope `openid` in OAUTH_SCOPES?";
            SignInError::TokenExchange(reason.to_owned())
        })?;
        let IdToken { claims, key_issuer } = self.verify(&published, &id_token, &tokens.access, attempt, now).await?;
        Ok(Verified {
            claims,
            key_issuer,
            access_token: tokens.access,
            userinfo_endpoint: document.userinfo_endpoint.clone(),
        })
    }

    async fn verify(
        &self,
        published: &Arc<Published>,
        id_token: &Secret,
        access_token: &Secret,
        attempt: &LoginAttempt,
        now: Timestamp,
    ) -> Result<IdToken, SignInError> {
        let verify = |published: &Published| {
            let expected = Expected {
                issuer: &published.issuer,
                client_id: self.flow.client_id(),
                nonce: attempt.nonce(),
                access_token,
                now,
            };
            id_token::verify(id_token.expose(), &published.keys, &expected)
        };
        let failed = |reason: String| Err(SignInError::TokenExchange(reason));
        match verify(published) {
            Ok(token) => Ok(token),
            Err(rejected @ Rejected::Invalid(_)) => failed(rejected.to_string()),
            Err(Rejected::UnknownKey) => match self.publication.newer_keys(&self.http, published, now).await {
                Ok(Some(newer)) => verify(&newer).or_else(|rejected| failed(rejected.to_string())),
                Ok(None) => failed(Rejected::UnknownKey.to_string()),
                Err(reason) => failed(format!("{}; {reason}", Rejected::UnknownKey)),
            },
        }
    }

    /// Reads discovery and keys again.
    pub(super) async fn refresh(&self) -> Duration {
        self.publication.refresh(&self.http).await
    }

    /// What keeps sign-ins from working.
    pub(super) fn trouble(&self) -> Option<String> {
        self.publication.trouble()
    }
}
