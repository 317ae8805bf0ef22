//! Identity providers, and what each needs to know.

use url::Url;

use crate::domain::secret::Secret;

/// Our registration at the provider.
#[derive(Clone)]
pub struct ClientRegistration {
    /// `OAUTH_CLIENT_ID`.
    pub id: String,
    /// `OAUTH_CLIENT_SECRET`.
    pub secret: Secret,
    /// `OAUTH_REDIRECT_URL`.
    pub redirect_url: Url,
    /// `OAUTH_SCOPES`, with what the rules need beyond them.
    pub scopes: Vec<String>,
}

/// What one provider needs to know. Every address is `https`, except on a loopback host.
#[derive(Clone)]
pub enum ProviderSettings {
    /// GitHub.
    Github {
        /// Our registration.
        client: ClientRegistration,
        /// `OAUTH_GITHUB_URL`.
        web: Url,
        /// `OAUTH_GITHUB_API_URL`.
        api: Url,
        /// The organisations and teams that the rules name, so that no others need be read; empty: no rule asks for groups.
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
        /// Whether a rule asks for groups, so that an overage is read from Graph.
        wants_groups: bool,
    },
    /// Any OpenID Connect provider.
    Oidc {
        /// Our registration.
        client: ClientRegistration,
        /// `OAUTH_ISSUER_URL`.
        issuer: Url,
        /// `OAUTH_USERNAME_CLAIM`.
        username_claim: Option<String>,
        /// Whether a rule asks for groups, so that they are looked for at UserInfo where the ID token lacks them.
        wants_groups: bool,
    },
}

/// Which Entra tenants may sign in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tenants {
    /// `common`: any tenant, and personal accounts. Their administrators' word for an email counts for nothing.
    Common,
    /// `organizations`: any tenant.
    Organizations,
    /// `consumers`: personal accounts only.
    Consumers,
    /// These only, by GUID (lower case) or by a verified domain that discovery resolves to one.
    Named(Vec<String>),
}
