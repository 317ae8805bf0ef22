//! Identity providers and their settings.

mod backoff;
pub mod bearer;
mod claims;
mod code_flow;
mod connect;
mod discovery;
mod entra;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod github;
mod github_api;
mod graph;
mod http;
mod id_token;
mod jwks;
mod logout_token;
mod oidc;
mod omissions;
mod publication;
mod quote;
mod relying_party;
mod rereading;
mod tenants;
#[cfg(test)]
mod tests;
mod way_out;

use aws_lc_rs::digest::{SHA256, digest};
use url::Url;

use crate::domain::identity::ProviderKind;
use crate::domain::secret::Secret;
use crate::domain::session::Authority;

pub use self::connect::{connect, uses_a_proxy};
pub use self::http::is_safe;
pub use self::omissions::log as log_omitted;
pub use self::way_out::{WayOut, goes_through_a_proxy};

/// Why a provider cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Secrets would be sent unencrypted.
    #[error("the provider's address {0} must be https (http is for loopback hosts only)")]
    Address(String),
    /// There are no roots to verify a provider's certificate with.
    #[error(
        "there are no trusted root certificates: install the system's (ca-certificates), or name a file in OAUTH_CA_FILE"
    )]
    NoRoots,
    /// One of the additional roots is not a certificate.
    #[error("a certificate in OAUTH_CA_FILE cannot be used as a root")]
    Root(#[source] rustls::Error),
    /// The TLS library failed.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// Our registration at the provider.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientRegistration {
    /// `OAUTH_CLIENT_ID`.
    pub id: String,
    /// `OAUTH_CLIENT_SECRET`.
    pub secret: Secret,
    /// `OAUTH_REDIRECT_URL`.
    pub redirect_url: Url,
    /// `OAUTH_SCOPES`, and the scopes that the rules need beside them.
    pub scopes: Vec<String>,
    /// Whether ID tokens are kept for upstreams that receive them.
    pub keeps_id_token: bool,
}

/// The settings of one provider. Every address is `https`, except on a loopback host.
#[derive(Clone, PartialEq, Eq)]
pub enum ProviderSettings {
    /// GitHub.
    Github {
        /// Our registration.
        client: ClientRegistration,
        /// `OAUTH_GITHUB_URL`.
        web: Url,
        /// `OAUTH_GITHUB_API_URL`.
        api: Url,
        /// The organisations and teams that rules refer to, so that no others need be read; empty: no rule needs groups.
        groups: Vec<String>,
    },
    /// Microsoft Entra ID.
    Entra {
        /// Our registration.
        client: ClientRegistration,
        /// `OAUTH_ENTRA_AUTHORITY`.
        authority: Url,
        /// `OAUTH_GRAPH_URL`.
        graph: Url,
        /// `OAUTH_TENANT_ID`.
        tenants: Tenants,
        /// Whether a rule needs groups: an overage is then read from Graph.
        wants_groups: bool,
        /// The claims that rules refer to.
        claims: Vec<String>,
    },
    /// Any OpenID Connect provider.
    Oidc {
        /// Our registration.
        client: ClientRegistration,
        /// `OAUTH_ISSUER_URL`.
        issuer: Url,
        /// `OAUTH_USERNAME_CLAIM`.
        username_claim: Option<String>,
        /// Whether a rule needs groups: they are then read from UserInfo if the ID token lacks them.
        wants_groups: bool,
        /// The claims that rules refer to.
        claims: Vec<String>,
    },
}

impl ProviderSettings {
    /// The addresses that we send requests to.
    fn addresses(&self) -> Vec<&Url> {
        match self {
            Self::Github { web, api, .. } => vec![web, api],
            Self::Entra { authority, graph, .. } => vec![authority, graph],
            Self::Oidc { issuer, .. } => vec![issuer],
        }
    }
}

impl ProviderSettings {
    /// The kind of provider.
    #[must_use]
    pub const fn kind(&self) -> ProviderKind {
        match self {
            Self::Github { .. } => ProviderKind::Github,
            Self::Entra { .. } => ProviderKind::Entra,
            Self::Oidc { .. } => ProviderKind::Oidc,
        }
    }

    /// Whether lists and rules may trust this provider's usernames.
    #[must_use]
    pub const fn vouches_for_usernames(&self) -> bool {
        match self {
            Self::Github { .. } | Self::Entra { .. } => true,
            Self::Oidc { username_claim, .. } => username_claim.is_some(),
        }
    }

    /// Identifies who vouches for users, and to whom: the provider's kind and address, our client id there, and our public origin. If one
    /// of these changes, or belongs to another deployment with the same secret, earlier sessions no longer count. The client secret is not
    /// included: changing it signs nobody out.
    #[must_use]
    pub fn authority(&self) -> Authority {
        let (kind, address, client) = match self {
            Self::Github { web, client, .. } => (ProviderKind::Github, web, client),
            Self::Entra { authority, client, .. } => (ProviderKind::Entra, authority, client),
            Self::Oidc { issuer, client, .. } => (ProviderKind::Oidc, issuer, client),
        };
        let origin = client.redirect_url.origin().ascii_serialization();
        // No part contains a line break, so the concatenation is unambiguous.
        let hash = digest(&SHA256, format!("{}\n{address}\n{}\n{origin}", kind.as_str(), client.id).as_bytes());
        let mut authority = [0; 8];
        for (to, from) in authority.iter_mut().zip(hash.as_ref()) {
            *to = *from;
        }
        Authority(authority)
    }
}

/// Which Entra tenants may sign in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tenants {
    /// `common`: any tenant, and personal accounts. An email from their administrators is not trusted.
    Common,
    /// `organizations`: any tenant.
    Organizations,
    /// `consumers`: personal accounts only.
    Consumers,
    /// These only, by GUID (lower case) or by a verified domain that discovery resolves to one.
    Named(Vec<String>),
}
