//! Whose bearer tokens are accepted, and what is believed of them.

use std::time::Duration;

use rustls::pki_types::CertificateDer;
use url::Url;

use super::super::{ClientRegistration, Tenants, WayOut};

/// Whose bearer tokens are accepted.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct BearerSettings {
    /// Issuers of JWTs, in the order of the file; the plain provider's first.
    pub issuers: Vec<IssuerSettings>,
    /// `OAUTH_BEARER_GITHUB`: tokens that GitHub issued to this application.
    pub github: Option<GithubSettings>,
}

impl BearerSettings {
    /// How many issuers there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.issuers.len() + self.github.is_some() as usize
    }
}

/// An issuer of JWTs, and which of them count here.
#[derive(Clone, PartialEq, Eq)]
pub struct IssuerSettings {
    /// The name by which rules, logs and upstreams know it.
    pub name: String,
    /// Who it is.
    pub issuer: IssuerName,
    /// The audiences, one of which a token must have.
    pub audiences: Vec<String>,
    /// The plain provider's client id: what is issued for it alone is an ID token.
    pub client_id: Option<String>,
    /// Whether an ID token is as good as an access token.
    pub takes_id_tokens: bool,
    /// Which claims say who somebody is.
    pub names: ClaimNames,
    /// The claims that rules name.
    pub claims: Vec<String>,
    /// What stands in `jwks_file`; `None`: the keys are those that the issuer publishes.
    pub keys: Option<Vec<u8>>,
    /// `ca_file`: further roots for the connection to the issuer.
    pub roots: Vec<CertificateDer<'static>>,
    /// The proxy on the way to the issuer.
    pub way_out: Option<WayOut>,
}

/// Who an issuer is.
#[derive(Clone, PartialEq, Eq)]
pub enum IssuerName {
    /// The one with this name, as `iss` has it.
    Named(String),
    /// Entra, and the tenants whose tokens count.
    Entra {
        /// `OAUTH_ENTRA_AUTHORITY`.
        authority: Url,
        /// `OAUTH_TENANT_ID`.
        tenants: Tenants,
    },
}

/// Which claims say who somebody is. A name with dots may be a way through objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimNames {
    /// The username, where lists and rules may believe it; `None`: `preferred_username`, for display only.
    pub username: Option<String>,
    /// The email, which counts with `email_verified`.
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

/// The application whose GitHub tokens count.
#[derive(Clone, PartialEq, Eq)]
pub struct GithubSettings {
    /// Our registration.
    pub client: ClientRegistration,
    /// `OAUTH_GITHUB_URL`.
    pub web: Url,
    /// `OAUTH_GITHUB_API_URL`.
    pub api: Url,
    /// The organisations and teams that lists and rules name.
    pub groups: Vec<String>,
    /// How long what stays open for such a token is believed: it has no end of its own, or a late one.
    pub lasts: Duration,
    /// `OAUTH_CA_FILE`.
    pub roots: Vec<CertificateDer<'static>>,
    /// `OAUTH_PROXY`.
    pub way_out: Option<WayOut>,
}
