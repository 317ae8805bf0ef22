//! GitHub, at github.com or an Enterprise Server: OAuth without ID tokens; the identity comes from its API.

use std::collections::HashSet;
use std::time::Duration;

use oauth2::AuthType;
use url::Url;

use super::ClientRegistration;
use super::code_flow::CodeFlow;
use super::discovery::trimmed;
use super::github_api::{Address, Api, Membership, Team};
use super::http::{CallError, Http, below};
use super::omissions::Omissions;
use super::quote::quote;
use super::rereading::{Occasion, in_time, with_new_tokens};
use crate::domain::grant::Grant;
use crate::domain::identity::{Email, Identity, ProviderKind, Username};
use crate::domain::login::LoginAttempt;
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;
use crate::ports::{
    IdentityProvider, LogoutToken, Omission, Pending, Prompt, RenewError, Renewed, SignInError, SignedIn,
};

/// The most organisations and teams in an identity; those that rules refer to come first.
const MOST_GROUPS: usize = 1000;
/// An access token with a refresh token (a GitHub App's) lasts eight hours. It is renewed when less than this is left; until then it is
/// used for reading.
const NEAR_ITS_END: Duration = Duration::from_secs(75 * 60);
/// Nothing that GitHub publishes is cached.
const IDLE: Duration = Duration::from_secs(3600);

/// GitHub.
pub(super) struct Github {
    http: Http,
    flow: CodeFlow,
    web: Url,
    api: Url,
    /// The organisations and teams that rules refer to, in lower case.
    wanted: HashSet<String>,
}

impl Github {
    pub(super) fn new(http: Http, registration: ClientRegistration, web: Url, api: Url, groups: &[String]) -> Self {
        let wanted = groups.iter().map(|group| group.to_ascii_lowercase()).collect();
        Self { http, flow: CodeFlow::new(registration), web, api, wanted }
    }

    /// The identity of a request's access token.
    pub(super) async fn identity(&self, access_token: &Secret) -> Result<Identity, CallError> {
        let omissions = Omissions::default();
        let identity = self.read(access_token, Occasion::SignIn, &omissions).await;
        omissions.log();
        identity
    }

    /// The identity of the access token, from GitHub's API.
    async fn read(
        &self,
        access_token: &Secret,
        occasion: Occasion,
        omissions: &Omissions,
    ) -> Result<Identity, CallError> {
        let api = Api { http: &self.http, base: &self.api, token: access_token, omissions };
        let user = api.user().await?;
        let email = match api.addresses().await {
            Ok(addresses) => {
                let email = vouched(&addresses);
                if email.is_none() {
                    let why = why_no_email(&addresses);
                    let reason = format!("No email of {} ({}) counts: {why}", quote(&user.login), user.id);
                    omissions.note(Omission::Email, reason);
                }
                email
            }
            Err(error) if error.is_forbidden() => {
                let reason = format!(
                    "The addresses of {} cannot be read, so no rule for an address lets them in: {error}; \
                     ask for the scope user:email in OAUTH_SCOPES",
                    quote(&user.login)
                );
                omissions.note(Omission::EmailUnreadable, reason);
                None
            }
            Err(error) => return Err(error),
        };
        let groups = self.groups(&api, &user.login, occasion).await?;
        Ok(Identity {
            provider: ProviderKind::Github,
            id: user.id.to_string(),
            email,
            name: user.name.unwrap_or_default(),
            username: Username::Vouched(user.login),
            groups,
            claims: crate::domain::claims::Claims::default(),
        })
    }

    /// Organisations and teams, if rules refer to any; unreadable ones count as no membership.
    async fn groups(&self, api: &Api<'_>, login: &str, occasion: Occasion) -> Result<Vec<String>, CallError> {
        if self.wanted.is_empty() {
            return Ok(Vec::new());
        }
        let memberships = readable(api.memberships().await, "organisations", login, occasion, api.omissions)?;
        let with_teams = !memberships.is_empty() && self.wanted.iter().any(|group| group.contains('/'));
        let teams =
            if with_teams { readable(api.teams().await, "teams", login, occasion, api.omissions)? } else { Vec::new() };
        let mut groups = active(memberships, teams);
        groups.sort_by_key(|group| !self.wanted.contains(&group.to_ascii_lowercase()));
        groups.truncate(MOST_GROUPS);
        Ok(groups)
    }

    async fn renewed(&self, before: &Identity, grant: &Grant, now: Timestamp) -> Result<Renewed, RenewError> {
        let ends = grant.access_expires_at.is_some_and(|end| end.since(now) <= NEAR_ITS_END);
        let Some(refresh_token) = grant.refresh.as_ref().filter(|_| ends) else {
            let identity = in_time(self.reread(before, &grant.access, Age::Old)).await?;
            return Ok(Renewed { identity: Ok(identity), grant: grant.clone() });
        };
        let tokens =
            self.flow.refresh(&self.http, &self.token_endpoint(), AuthType::RequestBody, refresh_token).await?;
        let grant = tokens.grant(Some(grant), now);
        let read = in_time(self.reread(before, &grant.access, Age::New)).await;
        with_new_tokens(read, grant)
    }

    /// Reads the access token's identity again, which must be the same account. GitHub responds 401 to a revoked token.
    async fn reread(&self, before: &Identity, access_token: &Secret, age: Age) -> Result<Identity, RenewError> {
        let omissions = Omissions::default();
        let read = self.read(access_token, Occasion::Renewal, &omissions).await;
        omissions.log();
        let identity = read.map_err(|error| {
            let revoked = age == Age::Old && error.is_unauthorized();
            let gone = revoked || (error.is_forbidden() && error.says("suspended"));
            let reason = format!("GitHub: {error}");
            if gone { RenewError::Gone(reason) } else { RenewError::NotNow(reason) }
        })?;
        if identity.id != before.id {
            return Err(RenewError::Gone("the access token is of another account".to_owned()));
        }
        Ok(identity)
    }

    fn token_endpoint(&self) -> Url {
        below(&self.web, "login/oauth/access_token")
    }
}

/// How to treat an access token that GitHub does not know.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Age {
    /// It was revoked.
    Old,
    /// GitHub has just issued it, and will know it later.
    New,
}

/// Returns a list; an empty one if GitHub does not allow reading it, and at a sign-in also if the call fails.
fn readable<T>(
    list: Result<Vec<T>, CallError>,
    what: &str,
    login: &str,
    occasion: Occasion,
    omissions: &Omissions,
) -> Result<Vec<T>, CallError> {
    list.or_else(|error| {
        if occasion == Occasion::Renewal && !error.is_forbidden() {
            return Err(error);
        }
        let reason = format!(
            "The {what} of {} cannot be read, so no rule for them lets the person in: {error}; \
             ask for the scope read:org in OAUTH_SCOPES, and let the organisation approve the application",
            quote(login)
        );
        omissions.note(Omission::GroupsUnreadable, reason);
        Ok(Vec::new())
    })
}

/// The primary address, if it is verified.
fn vouched(addresses: &[Address]) -> Option<Email> {
    let address = addresses.iter().find(|address| address.primary && address.verified)?;
    Email::parse(&address.email).ok()
}

/// Why no address is trusted.
fn why_no_email(addresses: &[Address]) -> String {
    match addresses.iter().find(|address| address.primary) {
        Some(primary) if primary.verified => format!("the primary one, {}, is no address", quote(&primary.email)),
        Some(primary) => format!("the primary one, {}, is not verified at GitHub", quote(&primary.email)),
        None => format!("none of the {} at GitHub is the primary one", addresses.len()),
    }
}

/// `org` and `org/team` of the organisations where the user's membership is active: a pending invitation is no membership.
fn active(memberships: Vec<Membership>, teams: Vec<Team>) -> Vec<String> {
    let active = memberships.into_iter().filter(|membership| membership.state == "active");
    let mut groups: Vec<String> = active.map(|membership| membership.organization.login).collect();
    let organizations: HashSet<String> = groups.iter().map(|login| login.to_ascii_lowercase()).collect();
    let teams = teams.into_iter().filter(|team| organizations.contains(&team.organization.login.to_ascii_lowercase()));
    groups.extend(teams.map(|team| format!("{}/{}", team.organization.login, team.slug)));
    groups
}

impl IdentityProvider for Github {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Github
    }

    fn authorization_url(&self, attempt: &LoginAttempt, prompt: Option<Prompt>) -> Result<Url, SignInError> {
        Ok(self.flow.authorization_url(&below(&self.web, "login/oauth/authorize"), attempt, None, prompt))
    }

    fn check_issuer(&self, issuer: Option<&str>) -> Result<(), SignInError> {
        let web = trimmed(&self.web);
        match issuer {
            None => Ok(()),
            Some(issuer) if issuer == web || issuer == format!("{web}/login/oauth") => Ok(()),
            Some(issuer) => {
                Err(SignInError::Issuer(format!("it says {}, {web}/login/oauth is expected", quote(issuer))))
            }
        }
    }

    fn sign_in<'a>(
        &'a self,
        code: &'a Secret,
        attempt: &'a LoginAttempt,
        now: Timestamp,
    ) -> Pending<'a, Result<SignedIn, SignInError>> {
        Box::pin(async move {
            let tokens = self
                .flow
                .redeem(&self.http, &self.token_endpoint(), AuthType::RequestBody, code, attempt)
                .await
                .map_err(SignInError::TokenExchange)?;
            let grant = tokens.grant(None, now);
            let omissions = Omissions::default();
            let identity = self.read(&grant.access, Occasion::SignIn, &omissions).await;
            let identity = identity.map_err(|error| SignInError::UserInfo(format!("GitHub: {error}")))?;
            let omitted = omissions.into_all();
            Ok(SignedIn { identity, grant: Some(grant), provider_session: None, auth_time: None, omitted })
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

    fn logout_url(&self, _id_token: Option<&Secret>, _return_to: &Url) -> Option<Url> {
        None
    }

    fn verify_logout<'a>(&'a self, _token: &'a Secret, _now: Timestamp) -> Pending<'a, Result<LogoutToken, String>> {
        Box::pin(std::future::ready(Err("GitHub sends no logout tokens".to_owned())))
    }

    fn refresh(&self, _now: Timestamp) -> Pending<'_, Duration> {
        Box::pin(std::future::ready(IDLE))
    }

    fn ready(&self) -> Pending<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn wanted(&self) -> Pending<'_, ()> {
        Box::pin(std::future::pending())
    }

    fn trouble(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_primary_verified_address_is_vouched_for() {
        let vouched = |addresses: serde_json::Value| {
            let addresses: Vec<Address> = serde_json::from_value(addresses).unwrap();
            vouched(&addresses).map(String::from)
        };
        let other = json!({"email": "b@example.com", "primary": false, "verified": true});
        let primary = json!({"email": "a@example.com", "primary": true, "verified": true});
        let unproven = json!({"email": "a@example.com", "primary": true, "verified": false});
        assert_eq!(vouched(json!([other, primary])), Some("a@example.com".to_owned()));
        assert_eq!(vouched(json!([other, unproven])), None);
        assert_eq!(vouched(json!([])), None);
    }

    #[test]
    fn a_team_counts_only_with_an_active_membership_of_its_organisation() {
        let memberships = serde_json::from_value(json!([
            {"state": "active", "organization": {"login": "Acme"}},
            {"state": "pending", "organization": {"login": "evil"}},
        ]));
        let teams = serde_json::from_value(json!([
            {"slug": "platform", "organization": {"login": "acme"}},
            {"slug": "root", "organization": {"login": "evil"}},
            {"slug": "root", "organization": {"login": "elsewhere"}},
        ]));
        assert_eq!(active(memberships.unwrap(), teams.unwrap()), ["Acme", "acme/platform"]);
    }
}
