//! The discovery document of an OpenID Connect provider (OpenID Connect Discovery §3, §4), and its issuer.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use url::Url;

use super::claims::TokenClaims;
use super::http::is_safe;
use super::quote::quote;

/// The placeholder for the tenant in Entra's issuers.
const TENANT: &str = "{tenantid}";

/// The document's path below an issuer (OpenID Connect Discovery §4.1).
pub(super) const WELL_KNOWN: &str = ".well-known/openid-configuration";

/// The issuer of a provider's tokens.
#[derive(Clone, Debug)]
pub(super) enum Issuer {
    /// Exactly this one.
    Exactly(String),
    /// Entra: `{authority}/{tid}/v2.0`, with the tenant that the token itself names.
    TenantOf {
        /// The authority, without a trailing slash.
        authority: String,
    },
}

impl Issuer {
    /// Checks the token's `iss` against this issuer.
    pub(super) fn check(&self, claims: &TokenClaims) -> Result<(), &'static str> {
        let claimed = claims.text("iss").ok_or("it has no issuer")?;
        let ours = match self {
            Self::Exactly(issuer) => claimed == issuer,
            Self::TenantOf { authority } => {
                let tenant = claims.text("tid").ok_or("it names no tenant, and so no issuer that it could have")?;
                if !is_guid(tenant) {
                    return Err("its tenant is not a GUID, and so its issuer is none of Entra's");
                }
                claimed == of_tenant(authority, tenant)
            }
        };
        if ours { Ok(()) } else { Err("its issuer is not the provider") }
    }

    /// Whether this is an access token of Entra's version 1.0, whose issuer has another form: an API gets these unless its registration
    /// asks for 2.0 (`requestedAccessTokenVersion`).
    pub(super) fn issues_version_1(&self, claims: &TokenClaims) -> bool {
        self.as_version_2(claims).is_some()
    }

    /// Whether a key that Entra publishes for `template` may sign an access token whose issuer has been checked.
    pub(super) fn may_sign_access(&self, template: &str, claims: &TokenClaims) -> bool {
        match (self.as_version_2(claims), claims.text("tid")) {
            (Some(issuer), Some(tenant)) => template.replace(TENANT, tenant) == issuer,
            (Some(_), None) | (None, _) => may_sign(template, claims),
        }
    }

    /// The version 2.0 issuer of a version 1.0 access token: the keys are the same, and are published for 2.0.
    fn as_version_2(&self, claims: &TokenClaims) -> Option<String> {
        let Self::TenantOf { authority } = self else { return None };
        let tenant = claims.text("tid").filter(|tenant| is_guid(tenant))?;
        let issuer = format!("{}/{tenant}/", of_version_1(authority));
        (claims.text("ver") == Some("1.0") && claims.text("iss") == Some(&issuer)).then(|| of_tenant(authority, tenant))
    }

    /// The issuer as shown to people.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Exactly(issuer) => quote(issuer),
            Self::TenantOf { authority } => quote(&of_tenant(authority, TENANT)),
        }
    }

    /// Whether a callback's `iss` (RFC 9207) is this issuer; for Entra any tenant's, which the token then has to name.
    pub(super) fn sends(&self, issuer: &str) -> bool {
        match self {
            Self::Exactly(ours) => ours == issuer,
            Self::TenantOf { authority } => tenant_of(authority, issuer).is_some(),
        }
    }
}

/// Whether a key that Entra publishes for `template` may sign these claims, whose issuer has been checked: one tenant's keys must not
/// sign for another.
pub(super) fn may_sign(template: &str, claims: &TokenClaims) -> bool {
    let tenant = claims.text("tid").unwrap_or(TENANT);
    claims.text("iss") == Some(template.replace(TENANT, tenant).as_str())
}

/// The issuer of one of Entra's tenants.
fn of_tenant(authority: &str, tenant: &str) -> String {
    format!("{authority}/{tenant}/v2.0")
}

/// The base of version 1.0 issuers; China's cloud has its own.
fn of_version_1(authority: &str) -> &'static str {
    if authority.ends_with(".cn") { "https://sts.chinacloudapi.cn" } else { "https://sts.windows.net" }
}

/// The tenant, in lower case, of an Entra issuer.
pub(super) fn tenant_of(authority: &str, issuer: &str) -> Option<String> {
    let tenant = issuer.strip_prefix(authority)?.strip_prefix('/')?.strip_suffix("/v2.0")?;
    is_guid(tenant).then(|| tenant.to_ascii_lowercase())
}

/// The tenant, in lower case, of an Entra issuer of version 1.0 or 2.0, which may end in a slash or not.
pub(super) fn tenant_of_any_version(authority: &str, issuer: &str) -> Option<String> {
    let issuer = issuer.trim_end_matches('/');
    let version_1 = || issuer.strip_prefix(of_version_1(authority))?.strip_prefix('/').filter(|tenant| is_guid(tenant));
    tenant_of(authority, issuer).or_else(|| Some(version_1()?.to_ascii_lowercase()))
}

/// Whether `text` is a GUID: 32 hexadecimal digits in five groups.
pub(super) fn is_guid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    lengths == [8, 4, 4, 4, 12] && groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The fields of the document that are used here.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Document {
    pub(super) issuer: String,
    pub(super) authorization_endpoint: Url,
    pub(super) token_endpoint: Url,
    pub(super) jwks_uri: Url,
    #[serde(default, deserialize_with = "optional")]
    pub(super) userinfo_endpoint: Option<Url>,
    /// Text, so that an invalid URL does not prevent sign-in.
    #[serde(default)]
    end_session_endpoint: Option<String>,
    #[serde(default, deserialize_with = "optional")]
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default, deserialize_with = "optional")]
    authorization_response_iss_parameter_supported: Option<bool>,
}

/// An optional member: `null` and the empty string, which some providers send instead, count as absent.
fn optional<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    if value.is_null() || value.as_str() == Some("") {
        return Ok(None);
    }
    T::deserialize(value).map(Some).map_err(D::Error::custom)
}

impl Document {
    /// Whether the callback names its issuer (RFC 9207 §3).
    pub(super) fn promises_issuer(&self) -> bool {
        self.authorization_response_iss_parameter_supported.unwrap_or_default()
    }

    /// Whether the client must authenticate in the form. Basic is the default (OpenID Connect Discovery §3) and mandatory for servers
    /// (RFC 6749 §2.3.1), unless only the form is listed.
    pub(super) fn takes_secret_in_form_only(&self) -> bool {
        self.token_endpoint_auth_methods_supported.as_ref().is_some_and(|methods| {
            let lists = |name: &str| methods.iter().any(|method| method == name);
            lists("client_secret_post") && !lists("client_secret_basic")
        })
    }

    /// The URL for signing out at the provider (OpenID Connect RP-Initiated Logout 1.0 §2.1), if it is safe.
    pub(super) fn end_session_endpoint(&self) -> Option<Url> {
        let endpoint = Url::parse(self.end_session_endpoint.as_deref()?).ok()?;
        is_safe(&endpoint).then_some(endpoint)
    }

    /// Checks that the document can be trusted, and returns the issuer that it describes.
    ///
    /// A document for another issuer would let that one sign users in here (OpenID Connect Discovery §4.3).
    pub(super) fn check(&self, place: &Place) -> Result<Issuer, String> {
        let endpoints = [
            ("authorization_endpoint", Some(&self.authorization_endpoint)),
            ("token_endpoint", Some(&self.token_endpoint)),
            ("jwks_uri", Some(&self.jwks_uri)),
            ("userinfo_endpoint", self.userinfo_endpoint.as_ref()),
        ];
        for (name, endpoint) in endpoints {
            if endpoint.is_some_and(|endpoint| !is_safe(endpoint)) {
                return Err(format!("discovery: {name} is neither https nor on a loopback host"));
            }
        }
        place.believe(&self.issuer)
    }
}

/// The document of an issuer that is not used for sign-in, reduced to what its tokens need.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct KeysDocument {
    issuer: String,
    pub(super) jwks_uri: Url,
}

impl KeysDocument {
    /// Checks that the document can be trusted, and returns the issuer that it describes.
    pub(super) fn check(&self, place: &Place) -> Result<Issuer, String> {
        if !is_safe(&self.jwks_uri) {
            return Err("discovery: jwks_uri is neither https nor on a loopback host".to_owned());
        }
        place.believe(&self.issuer)
    }
}

/// Where a provider publishes its document.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// Below its issuer.
    Issuer(Url),
    /// Below one tenant, or one of Entra's keywords for several.
    Entra {
        /// The authority.
        authority: Url,
        /// The tenant, or the keyword.
        tenant: String,
    },
}

impl Place {
    /// The configured issuer URL.
    pub(super) fn issuer(&self) -> Url {
        match self {
            Self::Issuer(issuer) => issuer.clone(),
            Self::Entra { authority, tenant } => super::http::below(authority, &format!("{tenant}/v2.0")),
        }
    }

    /// The issuer that is accepted for a document found here that claims to be of `found`.
    fn believe(&self, found: &str) -> Result<Issuer, String> {
        let elsewhere = |expected: &str| {
            let found = quote(found);
            Err(format!("discovery: the issuer is {found}, not {expected}; correct the address that is configured"))
        };
        match self {
            // A URL cannot distinguish `https://idp.example` from `https://idp.example/`: the document's spelling is the issuer's.
            Self::Issuer(issuer) if trimmed(issuer) == found.trim_end_matches('/') => {
                Ok(Issuer::Exactly(found.to_owned()))
            }
            Self::Issuer(issuer) => elsewhere(issuer.as_str()),
            Self::Entra { authority, .. } => {
                let authority = trimmed(authority).to_owned();
                let any = of_tenant(&authority, TENANT);
                if found == any || tenant_of(&authority, found).is_some() {
                    Ok(Issuer::TenantOf { authority })
                } else {
                    elsewhere(&any)
                }
            }
        }
    }

    /// The document's URL.
    pub(super) fn document(&self) -> Url {
        match self {
            Self::Issuer(issuer) => super::http::below(issuer, WELL_KNOWN),
            Self::Entra { authority, tenant } => super::http::below(authority, &format!("{tenant}/v2.0/{WELL_KNOWN}")),
        }
    }
}

/// A URL without trailing slashes.
pub(super) fn trimmed(url: &Url) -> &str {
    url.as_str().trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CONTOSO: &str = "c0117050-0000-4000-8000-00000000c017";

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn document(issuer: &str, token_endpoint: &str) -> Document {
        serde_json::from_value(json!({
            "issuer": issuer,
            "authorization_endpoint": "https://idp.example/a",
            "token_endpoint": token_endpoint,
            "jwks_uri": "https://idp.example/k",
        }))
        .unwrap()
    }

    #[test]
    fn a_document_speaks_for_its_own_issuer_only() {
        let good = "https://idp.example/t";
        let place = |issuer: &str| Place::Issuer(url(issuer));
        assert!(document("https://idp.example", good).check(&place("https://idp.example")).is_ok());
        assert!(document("https://idp.example/", good).check(&place("https://idp.example")).is_ok());
        assert!(document("https://evil.example", good).check(&place("https://idp.example")).is_err());
        assert!(document("https://idp.example/a", good).check(&place("https://idp.example")).is_err());
        assert!(document("https://idp.example", "http://idp.example/t").check(&place("https://idp.example")).is_err());
    }

    #[test]
    fn a_place_to_sign_out_that_is_no_safe_address_is_none() {
        let place = |endpoint: &str| {
            let document: Document = serde_json::from_value(json!({
                "issuer": "https://idp.example",
                "authorization_endpoint": "https://idp.example/a",
                "token_endpoint": "https://idp.example/t",
                "jwks_uri": "https://idp.example/k",
                "end_session_endpoint": endpoint,
            }))
            .unwrap();
            document.end_session_endpoint()
        };
        assert_eq!(place("https://idp.example/out?a=b"), Some(url("https://idp.example/out?a=b")));
        for bad in ["", "/out", "http://idp.example/out", "javascript:alert(1)"] {
            assert_eq!(place(bad), None, "{bad}");
        }
    }

    #[test]
    fn entras_documents_are_for_a_tenant_or_for_the_template() {
        let place = Place::Entra { authority: url("https://login.example"), tenant: "common".into() };
        let check = |issuer: &str| document(issuer, "https://login.example/t").check(&place).is_ok();
        assert!(check("https://login.example/{tenantid}/v2.0"));
        assert!(check(&format!("https://login.example/{CONTOSO}/v2.0")));
        assert!(!check("https://login.example/common/v2.0"));
        assert!(!check("https://evil.example/{tenantid}/v2.0"));
    }

    #[test]
    fn an_entra_issuer_is_that_of_the_tokens_own_tenant() {
        let issuer = Issuer::TenantOf { authority: "https://login.example".into() };
        let check = |iss: &str, tid: &str| {
            issuer.check(&serde_json::from_value(json!({ "iss": iss, "tid": tid })).unwrap()).is_ok()
        };
        assert!(check(&format!("https://login.example/{CONTOSO}/v2.0"), CONTOSO));
        assert!(!check(&format!("https://login.example/{CONTOSO}/v2.0"), "fab21ca0-0000-4000-8000-00000000fab2"));
        assert!(!check("https://login.example/../v2.0", ".."));
        assert!(!check(&format!("https://evil.example/{CONTOSO}/v2.0"), CONTOSO));
        assert!(issuer.sends(&format!("https://login.example/{CONTOSO}/v2.0")));
        assert!(!issuer.sends("https://login.example/{tenantid}/v2.0"));
    }

    #[test]
    fn a_key_of_one_tenant_does_not_sign_for_another() {
        let claims: TokenClaims =
            serde_json::from_value(json!({ "iss": format!("https://login.example/{CONTOSO}/v2.0"), "tid": CONTOSO }))
                .unwrap();
        assert!(may_sign("https://login.example/{tenantid}/v2.0", &claims));
        assert!(may_sign(&format!("https://login.example/{CONTOSO}/v2.0"), &claims));
        assert!(!may_sign("https://login.example/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0", &claims));
    }

    #[test]
    fn a_guid_is_five_groups_of_hexadecimal_digits() {
        assert!(is_guid(CONTOSO));
        for not in ["", "common", "c01170500000400080000000000c017", "g0117050-0000-4000-8000-00000000c017"] {
            assert!(!is_guid(not), "{not}");
        }
    }
}
