//! The providers, and their differences.

use crate::users::{CONSUMERS, CONTOSO, CONTOSO_DOMAIN, FABRIKAM, FABRIKAM_DOMAIN, User};

/// The provider that answers a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    GitHub,
    Entra(Tenant),
    Oidc,
}

/// The accounts that an Entra authority accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tenant {
    /// Work, school and personal accounts.
    Common,
    /// Work and school accounts.
    Organizations,
    /// The accounts of one tenant, named by its id.
    One(String),
}

impl Dialect {
    /// The dialect whose authorization endpoint is at `path`.
    pub(crate) fn of_authorize(path: &str) -> Option<Self> {
        match path {
            "/login/oauth/authorize" => Some(Self::GitHub),
            "/oidc/authorize" => Some(Self::Oidc),
            entra => {
                entra.strip_prefix('/')?.strip_suffix("/oauth2/v2.0/authorize").and_then(Tenant::parse).map(Self::Entra)
            }
        }
    }

    /// Returns true if `user` has an account here.
    pub(crate) fn admits(&self, user: &User) -> bool {
        match self {
            Self::GitHub => user.github.is_some(),
            Self::Oidc => user.oidc.is_some(),
            Self::Entra(tenant) => user.entra.as_ref().is_some_and(|account| tenant.admits(&account.tid)),
        }
    }

    /// The display name.
    pub(crate) fn title(&self) -> &'static str {
        match self {
            Self::GitHub => "GitHub",
            Self::Entra(_) => "Microsoft Entra ID",
            Self::Oidc => "OpenID Connect",
        }
    }

    /// Returns true if a grant made under `self` may be used at `other`: never at another provider.
    pub(crate) fn same_provider(&self, other: &Self) -> bool {
        matches!(
            (self, other),
            (Self::GitHub, Self::GitHub) | (Self::Entra(_), Self::Entra(_)) | (Self::Oidc, Self::Oidc)
        )
    }

    /// Returns true if a code issued under `self` may be redeemed at `other`, of the same provider: an Entra code of one tenant is
    /// refused at another's endpoint. `common` and `organizations` are of every tenant.
    pub(crate) fn shares_tenant(&self, other: &Self) -> bool {
        !matches!(
            (self, other),
            (Self::Entra(Tenant::One(ours)), Self::Entra(Tenant::One(theirs))) if ours != theirs
        )
    }
}

impl Tenant {
    /// Parses the tenant segment of an authority: a tenant's id, its domain, or one of Entra's keywords.
    pub(crate) fn parse(segment: &str) -> Option<Self> {
        match segment.to_ascii_lowercase().as_str() {
            "common" => Some(Self::Common),
            "organizations" => Some(Self::Organizations),
            "consumers" => Some(Self::One(CONSUMERS.to_owned())),
            CONTOSO_DOMAIN => Some(Self::One(CONTOSO.to_owned())),
            FABRIKAM_DOMAIN => Some(Self::One(FABRIKAM.to_owned())),
            id @ (CONTOSO | FABRIKAM | CONSUMERS) => Some(Self::One(id.to_owned())),
            _ => None,
        }
    }

    pub(crate) fn admits(&self, tid: &str) -> bool {
        match self {
            Self::Common => true,
            Self::Organizations => tid != CONSUMERS,
            Self::One(id) => id == tid,
        }
    }

    /// The issuer's tenant segment: a template if several tenants share the authority, as at Entra. `consumers` is a single tenant,
    /// so its id is used.
    pub(crate) fn issuer_segment(&self) -> &str {
        match self {
            Self::Common | Self::Organizations => "{tenantid}",
            Self::One(id) => id,
        }
    }
}
