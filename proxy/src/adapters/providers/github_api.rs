//! The parts of GitHub's REST API that a sign-in needs, with all pages of every list.

use http::header::LINK;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::http::{CallError, CallFault, Http, below, followed};
use super::omissions::Omissions;
use super::quote::quote;
use crate::domain::secret::Secret;
use crate::ports::Omission;

/// More pages of 100 than any real list has.
const MOST_PAGES: usize = 50;

pub(super) const HEADERS: [(HeaderName, HeaderValue); 2] = [
    (http::header::ACCEPT, HeaderValue::from_static("application/vnd.github+json")),
    (HeaderName::from_static("x-github-api-version"), HeaderValue::from_static("2022-11-28")),
];

/// The API on behalf of one user.
pub(super) struct Api<'a> {
    pub(super) http: &'a Http,
    /// `https://api.github.com`, or an Enterprise Server's, which ends in `/api/v3`.
    pub(super) base: &'a Url,
    pub(super) token: &'a Secret,
    pub(super) omissions: &'a Omissions,
}

/// `GET /user`.
#[derive(Deserialize)]
pub(super) struct User {
    pub(super) id: u64,
    pub(super) login: String,
    #[serde(default)]
    pub(super) name: Option<String>,
}

/// An item of `GET /user/emails`.
#[derive(Deserialize)]
pub(super) struct Address {
    pub(super) email: String,
    pub(super) primary: bool,
    pub(super) verified: bool,
}

/// An item of `GET /user/memberships/orgs`.
#[derive(Deserialize)]
pub(super) struct Membership {
    pub(super) state: String,
    pub(super) organization: Organization,
}

/// An item of `GET /user/teams`.
#[derive(Deserialize)]
pub(super) struct Team {
    pub(super) slug: String,
    pub(super) organization: Organization,
}

/// An organisation, by its login.
#[derive(Deserialize)]
pub(super) struct Organization {
    pub(super) login: String,
}

impl Api<'_> {
    pub(super) async fn user(&self) -> Result<User, CallError> {
        self.http.get_as(&below(self.base, "user"), self.token, &HEADERS).await?.json()
    }

    pub(super) async fn addresses(&self) -> Result<Vec<Address>, CallError> {
        self.list("user/emails", "per_page=100").await
    }

    pub(super) async fn memberships(&self) -> Result<Vec<Membership>, CallError> {
        self.list("user/memberships/orgs", "state=active&per_page=100").await
    }

    pub(super) async fn teams(&self) -> Result<Vec<Team>, CallError> {
        self.list("user/teams", "per_page=100").await
    }

    /// Returns all pages or an error: a partial list is not used.
    async fn list<T: DeserializeOwned>(&self, path: &str, query: &str) -> Result<Vec<T>, CallError> {
        let mut items = Vec::new();
        let mut url = below(self.base, path);
        url.set_query(Some(query));
        for _ in 0..MOST_PAGES {
            let answer = self.http.get_as(&url, self.token, &HEADERS).await?;
            self.note_left_out(path, &answer.headers);
            items.extend(answer.json::<Vec<T>>()?);
            match next(&answer.headers) {
                None => return Ok(items),
                Some(next) => url = followed(self.base, Some(next))?,
            }
        }
        Err(CallFault::Endless(MOST_PAGES).at(self.base))
    }

    /// GitHub omits organisations with single sign-on from lists for an application that they have not authorized.
    fn note_left_out(&self, path: &str, headers: &HeaderMap) {
        let said = headers.get("x-github-sso").and_then(|value| value.to_str().ok()).unwrap_or_default();
        if let Some(organizations) = said.strip_prefix("partial-results") {
            let reason = format!(
                "GitHub left organisations out of {path} (X-GitHub-SSO: partial-results{}), so no rule for them lets the person in: \
                 they have single sign-on, and the person must authorize the application for them, or sign in there first",
                quote(organizations)
            );
            self.omissions.note(Omission::SingleSignOn, reason);
        }
    }
}

/// The URL of the next page (RFC 8288).
fn next(headers: &HeaderMap) -> Option<Url> {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    links.flat_map(|value| value.split(',')).find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let mut parameters = parameters.split(';').map(str::trim);
        parameters
            .any(|parameter| matches!(parameter, "rel=\"next\"" | "rel=next"))
            .then(|| Url::parse(target).ok())
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(link: &str) -> HeaderMap {
        HeaderMap::from_iter([(LINK, HeaderValue::from_str(link).unwrap())])
    }

    #[test]
    fn the_next_page_is_the_one_that_is_called_so() {
        let link = r#"<https://a.example/x?page=1>; rel="prev", <https://a.example/x?page=3>; rel="next""#;
        assert_eq!(next(&headers(link)).unwrap().as_str(), "https://a.example/x?page=3");
        for none in [r#"<https://a.example/x>; rel="last""#, "", "<", r#"<x>; rel="next""#, r#"x; rel="next""#] {
            assert!(next(&headers(none)).is_none(), "{none}");
        }
    }

    proptest! {
        #[test]
        fn no_link_makes_it_panic(link in "[ -~]{0,80}") {
            let _next = next(&headers(&link));
        }
    }
}
