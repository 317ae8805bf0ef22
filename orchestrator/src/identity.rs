//! The identity of a request, from the headers that the proxy in front sets.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use utoipa::ToSchema;

/// The headers that carry an identity, in the order of display.
///
/// The proxy removes them from every incoming request and sets its own, so behind it they can be trusted.
pub const HEADERS: [&str; 7] = [
    "X-Forwarded-User",
    "X-Forwarded-Email",
    "X-Forwarded-Preferred-Username",
    "X-Forwarded-Groups",
    "X-Forwarded-User-Id",
    "X-Forwarded-Name",
    "X-Forwarded-Provider",
];

/// The header with the signed identity; its value is a credential and is never shown.
pub const ASSERTION: &str = "X-Sidegate-Assertion";

/// A signed-in user, decoded for people to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Identity {
    /// The name that the proxy's policy knows the user by.
    pub user: String,
    /// The address that the provider vouches for; empty where there is none.
    pub email: String,
    /// The username at the provider; empty where there is none.
    pub preferred_username: String,
    /// The groups, in the order of the header.
    pub groups: Vec<String>,
    /// The provider's stable id.
    pub user_id: String,
    /// The display name; empty where there is none.
    pub name: String,
    /// `github`, `entra` or `oidc`.
    pub provider: String,
}

/// The identity from a verified assertion, among a request's extensions; if it is there, the headers are ignored.
#[derive(Clone, Debug)]
pub(crate) struct Verified(pub(crate) Option<Identity>);

/// How clusters are accessed as a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impersonation {
    /// True for every cluster, whatever its own setting.
    pub everywhere: bool,
    /// The prefix of the names of people and groups.
    pub prefix: String,
    /// Which of a person's names is used.
    pub by: Naming,
}

/// A name of a person. There is no fallback between them: a name of one kind could be another person's name of another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// The username, where users cannot choose their own: GitHub and Entra.
    Username,
    /// The verified email address from the provider.
    Email,
    /// The id at the provider.
    Id,
}

impl Naming {
    /// Returns that name; empty where there is none.
    #[must_use]
    pub fn of(self, identity: &Identity) -> &str {
        match self {
            Self::Username if identity.has_vouched_username() => &identity.preferred_username,
            Self::Username => "",
            Self::Email => &identity.email,
            Self::Id => &identity.user_id,
        }
    }
}

impl Identity {
    /// Returns true if users cannot choose this username themselves.
    pub(crate) fn has_vouched_username(&self) -> bool {
        matches!(self.provider.as_str(), "github" | "entra")
    }

    /// The identity of a request: from the assertion where assertions are verified, else from the headers.
    pub(crate) fn of(parts: &Parts) -> Option<Self> {
        match parts.extensions.get::<Verified>() {
            Some(Verified(identity)) => identity.clone(),
            None => Self::from_headers(&parts.headers),
        }
    }

    /// The identity in a request's headers; `None` if the proxy runs in open mode, or the route is public.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let user = decoded(headers, "X-Forwarded-User");
        if user.is_empty() {
            return None;
        }
        Some(Self {
            user,
            email: decoded(headers, "X-Forwarded-Email"),
            preferred_username: decoded(headers, "X-Forwarded-Preferred-Username"),
            groups: groups(headers),
            user_id: decoded(headers, "X-Forwarded-User-Id"),
            name: decoded(headers, "X-Forwarded-Name"),
            provider: decoded(headers, "X-Forwarded-Provider"),
        })
    }

    /// The name to display: the display name, else the name that the policy uses.
    pub fn display_name(&self) -> &str {
        if self.name.is_empty() { &self.user } else { &self.name }
    }

    /// The provider's name as people write it.
    pub fn provider_name(&self) -> &str {
        match self.provider.as_str() {
            "github" => "GitHub",
            "entra" => "Microsoft Entra ID",
            "oidc" => "OpenID Connect",
            other => other,
        }
    }
}

/// The identity, if the user is signed in: an extractor for handlers.
#[derive(Debug)]
pub struct SignedIn(pub Option<Identity>);

impl<S: Sync> FromRequestParts<S> for SignedIn {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(Identity::of(parts)))
    }
}

/// A header's first value, as received.
pub(crate) fn received<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn decoded(headers: &HeaderMap, name: &str) -> String {
    received(headers, name).map(decode).unwrap_or_default()
}

// A comma inside a group's name arrives as %2C: split first, decode afterwards.
fn groups(headers: &HeaderMap) -> Vec<String> {
    let list = received(headers, "X-Forwarded-Groups").unwrap_or_default();
    list.split(',').map(str::trim).filter(|group| !group.is_empty()).map(decode).collect()
}

fn decode(value: &str) -> String {
    percent_decode_str(value).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(headers: &[(&'static str, &'static str)]) -> Option<Identity> {
        let map = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        Identity::from_headers(&map)
    }

    #[test]
    fn values_are_percent_decoded() {
        let jo = identity(&[("X-Forwarded-User", "jo"), ("X-Forwarded-Name", "Jos%C3%A9 100%25")]).unwrap();
        assert_eq!(jo.display_name(), "José 100%");
    }

    #[test]
    fn a_comma_inside_a_group_does_not_split_it() {
        let jo = identity(&[("X-Forwarded-User", "jo"), ("X-Forwarded-Groups", "a%2Cb,org/team")]).unwrap();
        assert_eq!(jo.groups, ["a,b", "org/team"]);
    }

    #[test]
    fn no_user_is_nobody_whatever_else_is_there() {
        assert_eq!(identity(&[]), None);
        assert_eq!(identity(&[("X-Forwarded-User", ""), ("X-Forwarded-Email", "a@example.com")]), None);
    }

    #[test]
    fn without_a_display_name_the_user_is_shown() {
        let jo = identity(&[("X-Forwarded-User", "jo@example.com"), ("X-Forwarded-Name", "")]).unwrap();
        assert_eq!(jo.display_name(), "jo@example.com");
    }
}
