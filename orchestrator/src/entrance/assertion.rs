//! Verifies the identity that the proxy has signed: an ES256 JWT in `X-Sidegate-Assertion`.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};
use serde::Deserialize;
use url::Url;

use super::hosts::Hosts;
use super::keys::{Keys, Source};
use crate::api::ApiError;
use crate::identity::{Identity, Naming};

/// The accepted clock difference to the proxy, in seconds.
const LEEWAY: u64 = 30;
/// The longest assertion, in bytes; a request's header section could hardly be longer.
const TOKEN_MOST: usize = 64 * 1024;

/// Which assertions are meant for us.
#[derive(Debug)]
pub struct Expected {
    /// The proxy's public origin; without one, any origin on a host that we serve.
    pub issuer: Option<String>,
    /// The audience that the proxy uses for us; without one, a loopback address or our own, with the port that we listen on.
    pub audience: Option<String>,
    /// The hosts that we serve.
    pub hosts: Hosts,
    /// The port that we listen on.
    pub port: u16,
}

/// Verifies assertions.
#[derive(Debug)]
pub struct Assertion {
    keys: Keys,
    expected: Expected,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: Audience,
    sub: String,
    #[serde(default)]
    provider: String,
    #[serde(default)]
    email: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    preferred_username: String,
    #[serde(default)]
    groups: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Assertion {
    /// Verifies with the keys from `source`.
    #[must_use]
    pub fn new(source: Source, expected: Expected) -> Self {
        // Fails if a provider is installed already, which is fine.
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        Self { keys: Keys::new(source), expected }
    }

    /// Verifies an assertion and returns its identity.
    ///
    /// # Errors
    /// [`ApiError::Unauthenticated`] if it is not valid; [`ApiError::KeysUnavailable`] if the keys are not available.
    pub(super) async fn verify(&self, token: &str) -> Result<Identity, ApiError> {
        let refused = ApiError::Unauthenticated;
        if token.len() > TOKEN_MOST {
            return Err(refused("the X-Sidegate-Assertion is too long"));
        }
        let head = jsonwebtoken::decode_header(token).map_err(|_| refused("the X-Sidegate-Assertion is not a JWT"))?;
        if head.alg != Algorithm::ES256 {
            return Err(refused("the X-Sidegate-Assertion is not signed by ES256"));
        }
        let keys = self.keys.of(head.kid.as_deref()).await?;
        let mut rules = Validation::new(Algorithm::ES256);
        rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        rules.leeway = LEEWAY;
        rules.validate_nbf = true;
        // Checked below: the valid audience depends on our address.
        rules.validate_aud = false;
        let mut outcome =
            Err(refused("the X-Sidegate-Assertion is signed by a key that is not in ORCHESTRATOR_ASSERTION_JWKS"));
        for key in &keys {
            match jsonwebtoken::decode::<Claims>(token, key, &rules) {
                Ok(decoded) => {
                    outcome = Ok(decoded.claims);
                    break;
                }
                Err(error) => outcome = Err(refused(words(error.kind()))),
            }
        }
        let claims = outcome?;
        self.expected(&claims)?;
        identity(claims).ok_or(refused("the X-Sidegate-Assertion names nobody"))
    }

    fn expected(&self, claims: &Claims) -> Result<(), ApiError> {
        let issued = match &self.expected.issuer {
            Some(issuer) => claims.iss == *issuer,
            None => authority(&claims.iss).is_some_and(|authority| self.expected.hosts.lists(&authority)),
        };
        if !issued {
            return Err(ApiError::Unauthenticated(
                "the X-Sidegate-Assertion is of another issuer than ORCHESTRATOR_ASSERTION_ISSUER and ORCHESTRATOR_HOSTS say",
            ));
        }
        let for_us = |audience: &String| match &self.expected.audience {
            Some(expected) => audience == expected,
            None => origin(audience)
                .is_some_and(|(host, port)| port == Some(self.expected.port) && self.expected.hosts.is_own(&host)),
        };
        let meant = match &claims.aud {
            Audience::One(audience) => for_us(audience),
            Audience::Several(audiences) => audiences.iter().any(for_us),
        };
        if meant {
            return Ok(());
        }
        Err(ApiError::Unauthenticated(
            "the X-Sidegate-Assertion is for another audience: set ORCHESTRATOR_ASSERTION_AUDIENCE to the origin of the proxy's \
             UPSTREAM_URL, or to the upstream's name",
        ))
    }
}

/// Why an assertion is not valid.
fn words(kind: &ErrorKind) -> &'static str {
    if matches!(kind, ErrorKind::ExpiredSignature) {
        "the X-Sidegate-Assertion has expired: compare the clocks of both machines"
    } else if matches!(kind, ErrorKind::ImmatureSignature) {
        "the X-Sidegate-Assertion is of the future: compare the clocks of both machines"
    } else if matches!(kind, ErrorKind::InvalidSignature) {
        "the signature of the X-Sidegate-Assertion is not by a key of ORCHESTRATOR_ASSERTION_JWKS"
    } else {
        "the X-Sidegate-Assertion lacks a claim, or has one of a form that does not count"
    }
}

/// The host and port of an origin.
fn origin(text: &str) -> Option<(String, Option<u16>)> {
    let url = web(text)?;
    Some((url.host_str()?.to_owned(), url.port_or_known_default()))
}

/// The host of an origin, with its port unless that is the scheme's own: as requests to it name it.
fn authority(text: &str) -> Option<String> {
    let url = web(text)?;
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

fn web(text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"))
}

/// Names the user as in `X-Forwarded-User`: by username where users cannot choose their own, else by email, else by id.
fn identity(claims: Claims) -> Option<Identity> {
    let Claims { sub, provider, email, name, preferred_username, groups, .. } = claims;
    if sub.is_empty() {
        return None;
    }
    let mut identity =
        Identity { user: String::new(), email, preferred_username, groups, user_id: sub, name, provider };
    let names = [Naming::Username, Naming::Email, Naming::Id].map(|naming| naming.of(&identity));
    let user = names.iter().find(|name| !name.is_empty()).map(|name| (*name).to_owned())?;
    identity.user = user;
    Some(identity)
}
