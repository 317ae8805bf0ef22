//! The accepted issuers of bearer tokens, and the trusted claims.

use std::time::Duration;

use rustls::pki_types::CertificateDer;
use url::Url;

use super::super::{ClientRegistration, Tenants, WayOut, discovery};

/// The accepted issuers of bearer tokens.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct BearerSettings {
    /// Issuers of JWTs, in the order of the file; the plain provider's first.
    pub issuers: Vec<IssuerSettings>,
    /// `OAUTH_BEARER_GITHUB`: tokens that GitHub issued to this application.
    pub github: Option<GithubSettings>,
}

impl BearerSettings {
    /// The number of issuers.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.issuers.len() + self.github.is_some() as usize
    }
}

/// An issuer of JWTs, and which of its tokens are accepted.
#[derive(Clone, PartialEq, Eq)]
pub struct IssuerSettings {
    /// Its name in rules and logs, and for upstreams.
    pub name: String,
    /// The issuer itself.
    pub issuer: IssuerName,
    /// The audiences, one of which a token must have.
    pub audiences: Vec<String>,
    /// The plain provider's client id: a token issued for it alone is an ID token.
    pub client_id: Option<String>,
    /// Whether ID tokens are accepted like access tokens.
    pub takes_id_tokens: bool,
    /// The claims that make up an identity.
    pub names: ClaimNames,
    /// Claims that rules refer to.
    pub claims: Vec<String>,
    /// The content of `jwks_file`; `None`: the issuer publishes its keys.
    pub keys: Option<Vec<u8>>,
    /// `ca_file`: additional roots for the connection to the issuer.
    pub roots: Vec<CertificateDer<'static>>,
    /// The proxy for connections to the issuer.
    pub way_out: Option<WayOut>,
}

/// An issuer.
#[derive(Clone, PartialEq, Eq)]
pub enum IssuerName {
    /// The one with this `iss`.
    Named(String),
    /// Entra, and the tenants whose tokens are accepted.
    Entra {
        /// `OAUTH_ENTRA_AUTHORITY`.
        authority: Url,
        /// `OAUTH_TENANT_ID`.
        tenants: Tenants,
    },
}

impl IssuerName {
    /// Whether tokens that name `issuer` in `iss` may be of this one. May return true for a tenant of Entra that is known by its domain.
    #[must_use]
    pub fn may_issue_as(&self, issuer: &str) -> bool {
        match self {
            Self::Named(own) => is_same(own, issuer),
            Self::Entra { authority, tenants } => {
                let tenant = discovery::tenant_of_any_version(discovery::trimmed(authority), issuer);
                tenant.is_some_and(|tenant| match tenants {
                    Tenants::Named(named) => named.iter().any(|name| *name == tenant || !discovery::is_guid(name)),
                    Tenants::Common | Tenants::Organizations | Tenants::Consumers => true,
                })
            }
        }
    }

    /// Whether it is a tenant of Entra that is known by its domain, which may be any tenant.
    #[must_use]
    pub fn is_known_by_domain(&self) -> bool {
        let Self::Entra { tenants: Tenants::Named(named), .. } = self else { return false };
        named.iter().any(|name| !discovery::is_guid(name))
    }
}

/// Whether two names are of one issuer: it may end in a slash or not.
#[must_use]
pub fn is_same(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

/// The claims that make up an identity. A name with dots may be a path through objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimNames {
    /// The username, if lists and rules may trust it; `None`: `preferred_username`, for display only.
    pub username: Option<String>,
    /// The email, which counts only with `email_verified`.
    pub email: String,
    /// The groups.
    pub groups: String,
    /// The display name.
    pub name: String,
}

impl Default for ClaimNames {
    fn default() -> Self {
        Self { username: None, email: "email".to_owned(), groups: "groups".to_owned(), name: "name".to_owned() }
    }
}

/// The application whose GitHub tokens are accepted.
#[derive(Clone, PartialEq, Eq)]
pub struct GithubSettings {
    /// Our registration.
    pub client: ClientRegistration,
    /// `OAUTH_GITHUB_URL`.
    pub web: Url,
    /// `OAUTH_GITHUB_API_URL`.
    pub api: Url,
    /// The organisations and teams that lists and rules refer to.
    pub groups: Vec<String>,
    /// How long a long-lived request with such a token stays accepted: the token has no expiry, or a late one.
    pub lasts: Duration,
    /// `OAUTH_CA_FILE`.
    pub roots: Vec<CertificateDer<'static>>,
    /// `OAUTH_PROXY`.
    pub way_out: Option<WayOut>,
}
