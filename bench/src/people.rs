//! People, their identity provider, and their sign-in.

use std::sync::Arc;

use anyhow::{Context, ensure};
use dev_idp::DevIdp;
use dev_idp::users::{Email, GitHubAccount, OidcAccount, User};
use tokio::task::JoinSet;

use crate::http;
use crate::wire::Address;

/// The client id at the provider.
pub(crate) const CLIENT_ID: &str = "sidegate-dev";
pub(crate) const CLIENT_SECRET: &str = "sidegate-dev-secret";

/// How many people sign in at a time.
const AT_A_TIME: usize = 16;

/// The development provider, with this many people.
pub(crate) async fn provider(redirect_url: &str, number: usize) -> anyhow::Result<Arc<DevIdp>> {
    let options = dev_idp::Options {
        redirect_urls: vec![redirect_url.to_owned()],
        users: (0..number).map(user).collect(),
        ..dev_idp::Options::default()
    };
    Ok(Arc::new(DevIdp::start(options).await?))
}

/// The person `number`, with accounts at GitHub and an OpenID Connect provider.
fn user(number: usize) -> User {
    let login = format!("user-{number:07}");
    let email = format!("{login}@example.com");
    let account = GitHubAccount {
        id: 10_000_000 + number as u64,
        login: login.clone(),
        public_email: Some(email.clone()),
        emails: vec![Email { address: email.clone(), primary: true, verified: true }],
        memberships: Vec::new(),
        teams: Vec::new(),
    };
    let oidc = OidcAccount {
        sub: login.clone(),
        email: Some(email),
        email_verified: Some(true),
        username: Some(login.clone()),
        groups: Vec::new(),
        at_userinfo_only: false,
    };
    User {
        name: format!("Firstname Lastname {number}"),
        remark: String::new(),
        github: Some(account),
        entra: None,
        oidc: Some(oidc),
        id: login,
    }
}

/// How people sign in: the login page, and the name of the session cookie, or its prefix.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) browser: Address,
    pub(crate) login: &'static str,
    pub(crate) cookie: &'static str,
}

impl Door {
    /// Signs everyone in, a few at a time; returns their cookies in order.
    pub(crate) async fn sign_all_in(&self, provider: &Arc<DevIdp>, people: usize) -> anyhow::Result<Vec<String>> {
        let mut places = JoinSet::new();
        for place in 0..people.min(AT_A_TIME) {
            let (door, provider) = (self.clone(), Arc::clone(provider));
            places.spawn(async move {
                let mut cookies = Vec::with_capacity(people / AT_A_TIME + 1);
                for number in (place..people).step_by(AT_A_TIME) {
                    cookies.push((number, door.sign_in(&provider, number).await?));
                }
                anyhow::Ok(cookies)
            });
        }
        let mut cookies = Vec::with_capacity(people);
        while let Some(ended) = places.join_next().await {
            cookies.extend(ended??);
        }
        cookies.sort_unstable();
        Ok(cookies.into_iter().map(|(_, cookie)| cookie).collect())
    }

    /// Signs a person in as a browser does: login, provider, and back with a code. Returns a `Cookie` field value.
    pub(crate) async fn sign_in(&self, provider: &DevIdp, number: usize) -> anyhow::Result<String> {
        let login = http::get(&self.browser, self.login, "").await?;
        let authorize =
            login.location.with_context(|| format!("login was answered {}: {}", login.status, login.body))?;
        let callback = provider.approve(&authorize, &format!("user-{number:07}"))?;
        let path = callback.splitn(4, '/').nth(3).context("the callback's URL has no path")?;
        let back = http::get(&self.browser, &format!("/{path}"), &login.cookies.join("; ")).await?;
        let is_session = |cookie: &&String| {
            let (name, value) = cookie.split_once('=').unwrap_or_default();
            name.trim_start_matches("__Host-").starts_with(self.cookie) && !name.ends_with("_csrf") && !value.is_empty()
        };
        let cookies: Vec<&str> = back.cookies.iter().filter(is_session).map(String::as_str).collect();
        ensure!(!cookies.is_empty(), "the callback was answered {}, without a session: {}", back.status, back.body);
        Ok(cookies.join("; "))
    }
}
