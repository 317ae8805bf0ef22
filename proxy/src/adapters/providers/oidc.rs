//! Any OpenID Connect provider: its claims into an identity.

use std::time::Duration;

use url::Url;

use super::ClientRegistration;
use super::claims::Claims;
use super::discovery::Place;
use super::http::Http;
use super::relying_party::{RelyingParty, Verified};
use crate::domain::identity::{Email, Identity, ProviderKind, Username};
use crate::domain::login::LoginAttempt;
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;
use crate::ports::{IdentityProvider, Pending, Prompt, SignInError, SignedIn};

/// An OpenID Connect provider.
pub(super) struct Oidc {
    party: RelyingParty,
    wanted: Wanted,
}

/// Which claims make an identity here.
struct Wanted {
    username: Option<String>,
    groups: bool,
}

impl Oidc {
    pub(super) fn new(
        http: Http,
        registration: ClientRegistration,
        issuer: Url,
        username_claim: Option<String>,
        wants_groups: bool,
    ) -> Self {
        Self {
            party: RelyingParty::new(http, registration, Place::Issuer(issuer)),
            wanted: Wanted { username: username_claim, groups: wants_groups },
        }
    }

    async fn identify(&self, verified: Verified) -> Result<Identity, SignInError> {
        let userinfo = match &verified.userinfo_endpoint {
            Some(endpoint) if self.wanted.is_missing(&verified.claims) => {
                self.userinfo(endpoint, &verified).await.map_err(SignInError::UserInfo)?
            }
            Some(_) | None => Claims::default(),
        };
        Ok(self.wanted.identity(&verified.claims, &userinfo))
    }

    /// OpenID Connect Core §5.3.2: UserInfo that speaks of another subject must not be used, or one person's token could
    /// be filled up with another's address.
    async fn userinfo(&self, endpoint: &Url, verified: &Verified) -> Result<Claims, String> {
        let answer = self.party.http.get_as(endpoint, &verified.access_token, &[]).await;
        let claims: Claims = answer.and_then(|answer| answer.json()).map_err(|error| format!("UserInfo: {error}"))?;
        if claims.text("sub").is_some() && claims.text("sub") == verified.claims.text("sub") {
            Ok(claims)
        } else {
            Err("UserInfo speaks of another subject than the ID token".to_owned())
        }
    }
}

impl Wanted {
    /// Whether the ID token lacks something that UserInfo may know.
    fn is_missing(&self, claims: &Claims) -> bool {
        let username = self.username.as_deref().unwrap_or("preferred_username");
        let groups = self.groups && !claims.has("groups");
        groups || ["email", "email_verified", "name", username].into_iter().any(|name| !claims.has(name))
    }

    fn identity(&self, token: &Claims, userinfo: &Claims) -> Identity {
        let either = |name: &str| token.text(name).or_else(|| userinfo.text(name)).unwrap_or_default().to_owned();
        // An address and the word that it is verified count only from one source: joined from two, one would vouch for
        // the other's address.
        let source = if token.has("email") && token.has("email_verified") { token } else { userinfo };
        let email = source
            .text("email")
            .filter(|_| source.is_true("email_verified"))
            .and_then(|address| Email::parse(address).ok());
        let username = match self.username.as_deref() {
            // Without the claim there is no username at all: an empty one never matches a rule. An address is one only
            // where it is vouched for.
            Some("email") => {
                Username::Vouched(email.as_ref().map(|email| email.as_str().to_owned()).unwrap_or_default())
            }
            Some(claim) => Username::Vouched(either(claim)),
            None => Username::Displayed(either("preferred_username")),
        };
        let groups = if token.has("groups") { token } else { userinfo };
        Identity {
            provider: ProviderKind::Oidc,
            id: token.text("sub").unwrap_or_default().to_owned(),
            email,
            name: either("name"),
            username,
            groups: groups.list("groups"),
        }
    }
}

impl IdentityProvider for Oidc {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Oidc
    }

    fn authorization_url(&self, attempt: &LoginAttempt, prompt: Option<Prompt>) -> Result<Url, SignInError> {
        self.party.authorization_url(attempt, prompt)
    }

    fn check_issuer(&self, issuer: Option<&str>) -> Result<(), SignInError> {
        self.party.check_issuer(issuer)
    }

    fn sign_in<'a>(
        &'a self,
        code: &'a Secret,
        attempt: &'a LoginAttempt,
        now: Timestamp,
    ) -> Pending<'a, Result<SignedIn, SignInError>> {
        Box::pin(async move {
            let identity = self.identify(self.party.redeem(code, attempt, now).await?).await?;
            Ok(SignedIn { identity, grant: None, provider_session: None })
        })
    }

    fn refresh(&self, _now: Timestamp) -> Pending<'_, Duration> {
        Box::pin(self.party.refresh())
    }

    fn trouble(&self) -> Option<String> {
        self.party.trouble()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn identity(username: Option<&str>, token: Value, userinfo: Value) -> Identity {
        let wanted = Wanted { username: username.map(ToOwned::to_owned), groups: true };
        wanted.identity(&serde_json::from_value(token).unwrap(), &serde_json::from_value(userinfo).unwrap())
    }

    fn email(token: Value, userinfo: Value) -> String {
        identity(None, token, userinfo).email_str().to_owned()
    }

    #[test]
    fn only_a_verified_address_is_vouched_for() {
        let ann = json!("ann@example.com");
        assert_eq!(email(json!({"email": ann, "email_verified": true}), json!({})), "ann@example.com");
        assert_eq!(email(json!({"email": ann, "email_verified": "true"}), json!({})), "ann@example.com");
        assert_eq!(email(json!({}), json!({"email": ann, "email_verified": true})), "ann@example.com");
        for not in [json!(false), json!("false"), json!(null), json!(1), json!("yes")] {
            assert_eq!(email(json!({"email": ann, "email_verified": not}), json!({})), "", "{not}");
        }
        assert_eq!(email(json!({"email": "a@b@example.com", "email_verified": true}), json!({})), "");
    }

    #[test]
    fn one_source_does_not_vouch_for_the_others_address() {
        let (ann, eve) = (json!("ann@example.com"), json!("eve@evil.example"));
        assert_eq!(email(json!({"email": ann}), json!({"email": eve, "email_verified": true})), "eve@evil.example");
        assert_eq!(email(json!({"email": ann}), json!({"email_verified": true})), "");
        assert_eq!(email(json!({"email_verified": true}), json!({"email": ann})), "");
        assert_eq!(
            email(json!({"email": eve, "email_verified": false}), json!({"email": ann, "email_verified": true})),
            ""
        );
    }

    #[test]
    fn a_username_is_vouched_for_only_by_the_configured_claim() {
        let claims = || json!({"sub": "s", "preferred_username": "ann", "upn": "ann@corp", "email": "a@b.c"});
        assert_eq!(identity(None, claims(), json!({})).username, Username::Displayed("ann".into()));
        assert_eq!(identity(Some("upn"), claims(), json!({})).username, Username::Vouched("ann@corp".into()));
        assert_eq!(identity(Some("missing"), claims(), json!({})).username.vouched(), None);
        assert_eq!(identity(Some("email"), claims(), json!({})).username.vouched(), None);
    }

    #[test]
    fn groups_of_the_token_win_over_those_of_userinfo() {
        assert_eq!(identity(None, json!({"groups": ["a"]}), json!({"groups": ["b"]})).groups, ["a"]);
        assert_eq!(identity(None, json!({}), json!({"groups": "b"})).groups, ["b"]);
    }
}
