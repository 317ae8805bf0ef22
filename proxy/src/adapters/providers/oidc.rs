//! Any OpenID Connect provider: maps its claims to an identity.

use std::time::Duration;

use http::HeaderValue;
use http::header::ACCEPT;
use url::Url;

use super::ClientRegistration;
use super::claims::TokenClaims;
use super::discovery::Place;
use super::http::{CallError, Http};
use super::logout_token;
use super::omissions::Omissions;
use super::quote::quote;
use super::relying_party::{Refreshed, RelyingParty, Verified};
use super::rereading::{in_time, with_new_tokens};
use crate::domain::grant::Grant;
use crate::domain::identity::{Email, Identity, ProviderKind, Username};
use crate::domain::login::LoginAttempt;
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;
use crate::ports::{
    IdentityProvider, LogoutToken, Omission, Pending, Prompt, RenewError, Renewed, SignInError, SignedIn,
};

/// Some providers sign their UserInfo responses (OpenID Connect Core §5.3.2).
const USERINFO: HeaderValue = HeaderValue::from_static("application/json, application/jwt;q=0.9");

/// An OpenID Connect provider.
pub(super) struct Oidc {
    party: RelyingParty,
    wanted: Wanted,
}

/// The claims that make up an identity.
pub(super) struct Wanted {
    pub(super) username: Option<String>,
    pub(super) groups: bool,
    /// Claims that rules refer to.
    pub(super) claims: Vec<String>,
}

impl Oidc {
    pub(super) fn new(http: Http, registration: ClientRegistration, issuer: Url, wanted: Wanted) -> Self {
        Self { party: RelyingParty::new(http, registration, Place::Issuer(issuer)), wanted }
    }

    /// The identity in the claims of an ID token, completed from UserInfo; notes in the grant what UserInfo supplied.
    async fn identify(
        &self,
        claims: &TokenClaims,
        grant: &mut Grant,
        userinfo_endpoint: Option<&Url>,
        now: Timestamp,
        omissions: &Omissions,
    ) -> Result<Identity, Unread> {
        let userinfo = match userinfo_endpoint {
            Some(endpoint) if self.wanted.is_missing(claims) => {
                self.userinfo(endpoint, &grant.access, claims.text("sub").unwrap_or_default(), now).await?
            }
            Some(_) | None => TokenClaims::default(),
        };
        self.wanted.note_supplied(&userinfo, grant);
        Ok(self.wanted.identity(claims, &userinfo, omissions))
    }

    /// OpenID Connect Core §5.3.2: UserInfo for another subject must not be used, or one user's token could be completed with another's
    /// address.
    async fn userinfo(
        &self,
        endpoint: &Url,
        access_token: &Secret,
        subject: &str,
        now: Timestamp,
    ) -> Result<TokenClaims, Unread> {
        let answer =
            self.party.http.get_as(endpoint, access_token, &[(ACCEPT, USERINFO)]).await.map_err(Unread::Call)?;
        let claims: TokenClaims = match answer.jwt() {
            Some(token) => self.party.verify_userinfo(token, now).await.map_err(Unread::Signed)?,
            None => answer.json().map_err(Unread::Call)?,
        };
        match claims.text("sub") {
            Some(sub) if sub == subject => Ok(claims),
            Some(_) => Err(Unread::AnotherSubject),
            None => Err(Unread::NoSubject),
        }
    }

    async fn renewed(&self, before: &Identity, grant: &Grant, now: Timestamp) -> Result<Renewed, RenewError> {
        let Some(refresh_token) = &grant.refresh else {
            let mut grant = grant.clone();
            let endpoint = self.party.userinfo_endpoint();
            let identity = in_time(self.reread(before, &mut grant, endpoint.as_ref(), now)).await?;
            return Ok(Renewed { identity: Ok(identity), grant });
        };
        let mut refreshed = self.party.refresh_tokens(grant, refresh_token, now).await?;
        let read = in_time(self.read_refreshed(before, &mut refreshed, now)).await;
        with_new_tokens(read, refreshed.grant)
    }

    async fn read_refreshed(
        &self,
        before: &Identity,
        refreshed: &mut Refreshed,
        now: Timestamp,
    ) -> Result<Identity, RenewError> {
        let endpoint = refreshed.userinfo_endpoint().cloned();
        let Some(id_token) = self.party.verify_refreshed(refreshed, now).await? else {
            return self.reread(before, &mut refreshed.grant, endpoint.as_ref(), now).await;
        };
        // OpenID Connect Core §12.2: the issuer is checked already, and the subject must be the same.
        if id_token.claims.text("sub") != Some(&before.id) {
            return Err(RenewError::Gone("the new ID token is of another subject".to_owned()));
        }
        let omissions = Omissions::default();
        let identity = self.identify(&id_token.claims, &mut refreshed.grant, endpoint.as_ref(), now, &omissions).await;
        omissions.log();
        identity.map_err(|unread| RenewError::NotNow(unread.to_string()))
    }

    /// Updates a known identity from UserInfo. It stays as it is if UserInfo cannot be asked, with this token or at all.
    async fn reread(
        &self,
        before: &Identity,
        grant: &mut Grant,
        endpoint: Option<&Url>,
        now: Timestamp,
    ) -> Result<Identity, RenewError> {
        let Some(endpoint) = endpoint else { return Ok(before.clone()) };
        match self.userinfo(endpoint, &grant.access, &before.id, now).await {
            Ok(claims) => {
                self.wanted.note_supplied(&claims, grant);
                Ok(self.wanted.reread(before, &claims, &grant.supplied_by_userinfo))
            }
            Err(Unread::Call(error)) if error.is_unauthorized() => Ok(before.clone()),
            Err(unread @ Unread::AnotherSubject) => Err(RenewError::Gone(unread.to_string())),
            Err(unread @ (Unread::Call(_) | Unread::Signed(_) | Unread::NoSubject)) => {
                Err(RenewError::NotNow(unread.to_string()))
            }
        }
    }
}

/// Why UserInfo could not be used.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error("UserInfo: {0}")]
    Call(CallError),
    #[error("UserInfo, which came as a signed token: {0}")]
    Signed(String),
    #[error("UserInfo speaks of another subject than the ID token")]
    AnotherSubject,
    #[error("UserInfo names no subject, and could be of another subject than the ID token")]
    NoSubject,
}

impl Wanted {
    /// Whether the ID token lacks a claim that UserInfo may have.
    fn is_missing(&self, claims: &TokenClaims) -> bool {
        let groups = self.groups && !claims.has("groups");
        let named = self.claims.iter().any(|name| !claims.has(name));
        groups
            || named
            || ["email", "email_verified", "name", self.username()].into_iter().any(|name| !claims.has(name))
    }

    /// The claim that supplies the username.
    fn username(&self) -> &str {
        self.username.as_deref().unwrap_or("preferred_username")
    }

    /// Notes which of the relevant claims UserInfo supplies.
    fn note_supplied(&self, userinfo: &TokenClaims, grant: &mut Grant) {
        let names = ["email", "email_verified", "name", self.username(), "groups"];
        for name in names.into_iter().chain(self.claims.iter().map(String::as_str)) {
            if userinfo.has(name) && !grant.supplied_by_userinfo.iter().any(|supplied| supplied == name) {
                grant.supplied_by_userinfo.push(name.to_owned());
            }
        }
    }

    /// Updates an identity from UserInfo. `supplied`: the claims it has ever supplied; all others keep their values.
    fn reread(&self, before: &Identity, userinfo: &TokenClaims, supplied: &[String]) -> Identity {
        let supplies = |name: &str| supplied.iter().any(|supplied| supplied == name);
        let text = |name: &str, before: &str| {
            if supplies(name) { userinfo.text(name).unwrap_or_default() } else { before }.to_owned()
        };
        // An address that UserInfo never verified stays as verified by the ID token, unless UserInfo now gives another one.
        let same = before.email_str() == userinfo.text("email").unwrap_or_default();
        let email = if supplies("email") && supplies("email_verified") {
            vouched(userinfo)
        } else {
            before.email.clone().filter(|_| same || !supplies("email"))
        };
        let username = match self.username.as_deref() {
            Some("email") => email_as_username(email.as_ref()),
            Some(claim) => Username::Vouched(text(claim, before.username.as_str())),
            None => Username::Displayed(text("preferred_username", before.username.as_str())),
        };
        let groups = if supplies("groups") { userinfo.list("groups") } else { before.groups.clone() };
        let mut claims = before.claims.clone();
        for name in self.claims.iter().filter(|name| supplies(name)) {
            claims.set(name, userinfo.list(name));
        }
        Identity { email, name: text("name", &before.name), username, groups, claims, ..before.clone() }
    }

    fn identity(&self, token: &TokenClaims, userinfo: &TokenClaims, omissions: &Omissions) -> Identity {
        let either = |name: &str| token.text(name).or_else(|| userinfo.text(name)).unwrap_or_default().to_owned();
        // The address and `email_verified` must come from the same source: otherwise one source would vouch for the other's address.
        let source = if token.has("email") && token.has("email_verified") { token } else { userinfo };
        let email = vouched(source);
        let id = quote(token.text("sub").unwrap_or_default());
        if let Some(why) = source.unverified_email() {
            omissions.note(Omission::Email, format!("The email of {id} does not count: {why}"));
        }
        let username = match self.username.as_deref() {
            // Without the claim there is no username: an empty one never matches a rule.
            Some("email") => email_as_username(email.as_ref()),
            Some(claim) => Username::Vouched(either(claim)),
            None => Username::Displayed(either("preferred_username")),
        };
        let groups = if token.has("groups") { token } else { userinfo };
        if let Some(why) = groups.left_out("groups").filter(|_| self.groups) {
            let reason = format!("Not all groups of {id} were taken, so no rule for those lets them in: {why}");
            omissions.note(Omission::GroupsOfAnotherForm, reason);
        }
        Identity {
            provider: ProviderKind::Oidc,
            id: token.text("sub").unwrap_or_default().to_owned(),
            email,
            name: either("name"),
            username,
            groups: groups.list("groups"),
            claims: token.named(&self.claims, userinfo),
        }
    }
}

/// The address, if the same source says that it is verified.
fn vouched(source: &TokenClaims) -> Option<Email> {
    let address = source.text("email").filter(|_| source.is_true("email_verified"))?;
    Email::parse(address).ok()
}

/// An address is a username only if it is verified.
fn email_as_username(email: Option<&Email>) -> Username {
    Username::Vouched(email.map(|email| email.as_str().to_owned()).unwrap_or_default())
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
            let verified = self.party.redeem(code, attempt, now).await?;
            let provider_session = verified.provider_session();
            let auth_time = verified.auth_time(now);
            let Verified { id_token, mut grant, userinfo_endpoint } = verified;
            let omissions = Omissions::default();
            let identity =
                self.identify(&id_token.claims, &mut grant, userinfo_endpoint.as_ref(), now, &omissions).await;
            let identity = identity.map_err(|unread| SignInError::UserInfo(unread.to_string()))?;
            let omitted = omissions.into_all();
            Ok(SignedIn { identity, grant: Some(grant), provider_session, auth_time, omitted })
        })
    }

    fn renew<'a>(
        &'a self,
        identity: &'a Identity,
        grant: &'a Grant,
        now: Timestamp,
    ) -> Pending<'a, Result<Renewed, RenewError>> {
        Box::pin(self.renewed(identity, grant, now))
    }

    fn logout_url(&self, id_token: Option<&Secret>, return_to: &Url) -> Option<Url> {
        self.party.logout_url(id_token, return_to)
    }

    fn verify_logout<'a>(&'a self, token: &'a Secret, now: Timestamp) -> Pending<'a, Result<LogoutToken, String>> {
        Box::pin(async move {
            let logout_token::Verified { claims, id, expires_at } = self.party.verify_logout(token, now).await?;
            let text = |name| claims.text(name).map(ToOwned::to_owned);
            Ok(LogoutToken { subject: text("sub"), provider_session: text("sid"), id, expires_at })
        })
    }

    fn refresh(&self, _now: Timestamp) -> Pending<'_, Duration> {
        Box::pin(self.party.refresh())
    }

    fn ready(&self) -> Pending<'_, ()> {
        Box::pin(self.party.ready())
    }

    fn wanted(&self) -> Pending<'_, ()> {
        Box::pin(self.party.wanted())
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
        let wanted = Wanted { username: username.map(ToOwned::to_owned), groups: true, claims: Vec::new() };
        let (token, userinfo) = (serde_json::from_value(token).unwrap(), serde_json::from_value(userinfo).unwrap());
        wanted.identity(&token, &userinfo, &Omissions::default())
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
    fn what_userinfo_has_supplied_counts_as_it_last_was_and_what_it_never_supplied_stays() {
        let wanted = Wanted { username: Some("upn".to_owned()), groups: true, claims: Vec::new() };
        let token =
            json!({"sub": "s", "email": "a@b.c", "email_verified": true, "name": "Ann", "upn": "ann", "groups": ["a"]});
        let token = serde_json::from_value(token).unwrap();
        let before = wanted.identity(&token, &TokenClaims::default(), &Omissions::default());
        let reread = |userinfo: Value, supplied: &[&str]| {
            let supplied: Vec<String> = supplied.iter().map(ToString::to_string).collect();
            wanted.reread(&before, &serde_json::from_value(userinfo).unwrap(), &supplied)
        };
        assert_eq!(reread(json!({}), &[]), before);
        assert_eq!(reread(json!({"email": "a@b.c"}), &["email"]), before);
        assert_eq!(reread(json!({"email": "x@b.c"}), &["email"]).email, None, "nobody vouches for the new one");
        let all = ["email", "email_verified", "name", "upn", "groups"];
        let now = json!({"email": "x@b.c", "email_verified": true, "name": "Anna", "upn": "anna", "groups": ["b"]});
        let changed = reread(now, &all);
        assert_eq!(
            (changed.email_str(), changed.name.as_str(), changed.groups.clone()),
            ("x@b.c", "Anna", vec!["b".to_owned()])
        );
        assert_eq!(changed.username, Username::Vouched("anna".into()));
        let gone = reread(json!({}), &all);
        assert_eq!((gone.email, gone.groups.len(), gone.username.vouched()), (None, 0, None));
    }

    #[test]
    fn groups_of_the_token_win_over_those_of_userinfo() {
        assert_eq!(identity(None, json!({"groups": ["a"]}), json!({"groups": ["b"]})).groups, ["a"]);
        assert_eq!(identity(None, json!({}), json!({"groups": "b"})).groups, ["b"]);
    }
}
