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
use crate::domain::claims::Claims;
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

/// Under this name an identity keeps which claim vouches for its username. No provider has such a claim.
const USERNAME_CLAIM: &str = "sidegate:username_claim";

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
        identity.map_err(|unread| unread.in_renewal())
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
                let omissions = Omissions::default();
                let identity = self.wanted.reread(before, &claims, &grant.supplied_by_userinfo, &omissions);
                omissions.log();
                Ok(identity)
            }
            Err(Unread::Call(error)) if error.is_unauthorized() => Ok(before.clone()),
            Err(unread) => Err(unread.in_renewal()),
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

impl Unread {
    /// What it means for a session that is being renewed: tokens of another subject end it.
    fn in_renewal(&self) -> RenewError {
        match self {
            Self::AnotherSubject => RenewError::Gone(self.to_string()),
            Self::Call(_) | Self::Signed(_) | Self::NoSubject => RenewError::NotNow(self.to_string()),
        }
    }
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

    /// Updates an identity from UserInfo. `supplied`: the claims it has ever supplied; all others keep their values. Notes what it
    /// omits only where that changes the identity: a recheck is frequent.
    fn reread(
        &self,
        before: &Identity,
        userinfo: &TokenClaims,
        supplied: &[String],
        omissions: &Omissions,
    ) -> Identity {
        let supplies = |name: &str| supplied.iter().any(|supplied| supplied == name);
        let text = |name: &str, before: &str| {
            if supplies(name) { userinfo.text(name).unwrap_or_default() } else { before }.to_owned()
        };
        // An address that UserInfo never verified stays as verified by the ID token, unless UserInfo now gives another one.
        let same = before.email_str().eq_ignore_ascii_case(userinfo.text("email").unwrap_or_default());
        let email = if supplies("email") && supplies("email_verified") {
            vouched(userinfo)
        } else {
            before.email.clone().filter(|_| same || !supplies("email"))
        };
        let id = quote(&before.id);
        if let Some(lost) = before.email.as_ref().filter(|_| email.is_none()) {
            let why = match userinfo.unverified_email("email") {
                Some(why) if userinfo.has("email") => format!("UserInfo now says otherwise: {why}"),
                Some(_) | None => "UserInfo has none any more".to_owned(),
            };
            let reason = format!("The email {} of {id} does not count any more: {why}", quote(lost.as_str()));
            omissions.note(Omission::Email, reason);
        }
        let username = match self.username.as_deref() {
            Some("email") => email_as_username(email.as_ref()),
            Some(claim) if supplies(claim) => Username::Vouched(userinfo.text(claim).unwrap_or_default().to_owned()),
            // Also one that nobody has vouched for, from before the claim was named.
            Some(_) => before.username.clone(),
            None => Username::Displayed(text("preferred_username", before.username.as_str())),
        };
        let is_username_new = self.username.as_deref().is_some_and(|claim| claim == "email" || supplies(claim));
        let groups = if supplies("groups") { userinfo.list("groups") } else { before.groups.clone() };
        if self.groups && groups != before.groups {
            omissions.note_groups(&id, userinfo, "groups");
        }
        let mut claims = before.claims.clone();
        for name in self.claims.iter().filter(|name| supplies(name)) {
            let texts = userinfo.list(name);
            if texts != before.claims.texts(name) {
                omissions.note_claim(&id, userinfo, name);
            }
            claims.set(name, texts);
        }
        if is_username_new {
            self.note_username_claim(&mut claims);
        }
        Identity { email, name: text("name", &before.name), username, groups, claims, ..before.clone() }
    }

    fn identity(&self, token: &TokenClaims, userinfo: &TokenClaims, omissions: &Omissions) -> Identity {
        let either = |name: &str| token.text(name).or_else(|| userinfo.text(name)).unwrap_or_default().to_owned();
        // The address and `email_verified` must come from the same source: otherwise one source would vouch for the other's address.
        let source = if token.has("email") && token.has("email_verified") { token } else { userinfo };
        let email = vouched(source);
        let id = quote(token.text("sub").unwrap_or_default());
        let described = if source.has("email") { source } else { token };
        if let Some(why) = described.unverified_email("email") {
            omissions.note(Omission::Email, format!("The email of {id} does not count: {why}"));
        }
        let username = match self.username.as_deref() {
            // Without the claim there is no username: an empty one never matches a rule.
            Some("email") => email_as_username(email.as_ref()),
            Some(claim) => {
                let username = either(claim);
                let odd = token.no_text(claim).or_else(|| userinfo.no_text(claim)).filter(|_| username.is_empty());
                if let Some(kind) = odd {
                    let reason = format!(
                        "The username of {id} does not count: `{claim}`, which OAUTH_USERNAME_CLAIM names, is {kind}, not text"
                    );
                    omissions.note(Omission::UsernameOfAnotherForm, reason);
                }
                Username::Vouched(username)
            }
            None => Username::Displayed(either("preferred_username")),
        };
        let groups = token.or(userinfo, "groups");
        if self.groups {
            omissions.note_groups(&id, groups, "groups");
        }
        for name in &self.claims {
            omissions.note_claim(&id, token.or(userinfo, name), name);
        }
        let mut claims = token.named(&self.claims, userinfo);
        self.note_username_claim(&mut claims);
        Identity {
            provider: ProviderKind::Oidc,
            id: token.text("sub").unwrap_or_default().to_owned(),
            email,
            name: either("name"),
            username,
            groups: groups.list("groups"),
            claims,
        }
    }

    /// Keeps with the identity which claim vouches for its username.
    fn note_username_claim(&self, claims: &mut Claims) {
        if let Some(claim) = &self.username {
            claims.set(USERNAME_CLAIM, vec![claim.clone()]);
        }
    }

    /// Whether the claim that vouched for a user's name still does. Who has signed in before it was kept is believed until an
    /// ID token or UserInfo brings the claim.
    fn vouches_still(&self, identity: &Identity) -> bool {
        match (&self.username, identity.claims.texts(USERNAME_CLAIM).first()) {
            (None, _) => identity.username.vouched().is_none(),
            (Some(claim), Some(kept)) => claim == kept,
            (Some(_), None) => true,
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

    fn admits(&self, identity: &Identity) -> bool {
        self.wanted.vouches_still(identity)
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
            let logout_token::Verified { claims, id, expires_at, .. } = self.party.verify_logout(token, now).await?;
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
    fn a_displayed_name_is_not_vouched_for_by_naming_a_claim_that_userinfo_does_not_supply() {
        let before = identity(None, json!({"sub": "s", "preferred_username": "admin"}), json!({}));
        let wanted = Wanted { username: Some("upn".to_owned()), groups: false, claims: Vec::new() };
        let reread = |userinfo: Value, supplied: &[String]| {
            let userinfo = serde_json::from_value(userinfo).unwrap();
            wanted.reread(&before, &userinfo, supplied, &Omissions::default()).username
        };
        assert_eq!(reread(json!({"preferred_username": "admin"}), &[]), Username::Displayed("admin".into()));
        assert_eq!(reread(json!({"upn": "eve"}), &["upn".to_owned()]), Username::Vouched("eve".into()));
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
            let omissions = Omissions::default();
            let now = wanted.reread(&before, &serde_json::from_value(userinfo).unwrap(), &supplied, &omissions);
            let email_is_gone = now.email.is_none() && before.email.is_some();
            let said = omissions.into_all().iter().any(|omitted| omitted.what == Omission::Email);
            assert_eq!(said, email_is_gone, "a lost email is explained, and no other");
            now
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

    #[test]
    fn a_recheck_that_takes_something_away_says_why() {
        let claims = vec!["level".to_owned()];
        let wanted = Wanted { username: None, groups: true, claims };
        let token =
            json!({"sub": "s", "email": "ann@example.com", "email_verified": true, "groups": ["a"], "level": "3"});
        let token = serde_json::from_value(token).unwrap();
        let before = wanted.identity(&token, &TokenClaims::default(), &Omissions::default());
        let said = |userinfo: Value, supplied: &[&str]| {
            let supplied: Vec<String> = supplied.iter().map(ToString::to_string).collect();
            let omissions = Omissions::default();
            wanted.reread(&before, &serde_json::from_value(userinfo).unwrap(), &supplied, &omissions);
            omissions.into_all().into_iter().map(|omitted| omitted.reason).collect::<Vec<_>>()
        };
        let (email, both) = (["email"], ["email", "email_verified"]);
        let lost = "The email ann@example.com of s does not count any more: ";
        for (userinfo, supplied, why) in [
            (
                json!({"email": "Ann@Example.com", "email_verified": false}),
                &both[..],
                "UserInfo now says otherwise: `email_verified` of Ann@Example.com is false",
            ),
            (json!({"email": "ann@example.com"}), &both, "the provider sent ann@example.com without `email_verified`"),
            (json!({"email": "eve@example.com"}), &email, "the provider sent eve@example.com without `email_verified`"),
            (json!({}), &email, "UserInfo has none any more"),
        ] {
            let all = said(userinfo.clone(), supplied);
            assert_eq!(all.len(), 1, "{userinfo}: {all:?}");
            assert!(all[0].starts_with(lost) && all[0].ends_with(why), "{userinfo}: {all:?}");
        }
        for unchanged in [json!({"email": "Ann@Example.com"}), json!({"groups": ["a", 7], "level": ["3", 3]})] {
            assert!(
                said(unchanged.clone(), &["email", "groups", "level"][usize::from(unchanged.get("email").is_none())..])
                    .is_empty(),
                "{unchanged}"
            );
        }
        assert!(said(json!({"groups": {"a": 1}}), &["groups"])[0].contains("`groups` is an object"));
        assert!(said(json!({"level": 3}), &["level"])[0].contains("`level` is a number"));
    }
}
