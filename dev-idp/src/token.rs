//! The token endpoint, except for the response format of each provider: authenticates the client and issues tokens.

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::claims;
use crate::dialect::Dialect;
use crate::grants::{Grant, Refusal, form_decode};
use crate::id_token;
use crate::params::Params;
use crate::provider::Provider;

/// The tokens for a client.
pub(crate) struct Issued {
    pub(crate) grant: Grant,
    pub(crate) access_token: String,
    /// The lifetime in seconds; `None`: it does not expire.
    pub(crate) expires_in: Option<u64>,
    pub(crate) refresh_token: Option<String>,
    pub(crate) id_token: Option<String>,
}

/// Why a token request is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Denied {
    #[error("client_id or client_secret is wrong, or missing")]
    Client,
    #[error("{0}")]
    Request(String),
    #[error("grant_type must be authorization_code, refresh_token or, with OpenID Connect, client_credentials")]
    GrantType,
    #[error(transparent)]
    Grant(#[from] Refusal),
    #[error(transparent)]
    Refresh(Refusal),
    #[error("the account is gone")]
    Gone,
    #[error("the ID token could not be signed")]
    Signing,
}

/// Answers a token request.
pub(crate) fn exchange(
    provider: &Provider,
    dialect: &Dialect,
    origin: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Issued, Denied> {
    let params = Params::parse(body).map_err(Denied::Request)?;
    authenticate(provider, headers, &params)?;
    let kind = params.find("grant_type").or((*dialect == Dialect::GitHub).then_some("authorization_code"));
    let (grant, fresh) = match kind {
        Some("authorization_code") => (redeem(provider, dialect, &params)?, true),
        Some("refresh_token") => {
            provider.control.count_refresh();
            let token = params.find("refresh_token").ok_or_else(|| missing("refresh_token"))?;
            (provider.grants().refresh(dialect, token).map_err(Denied::Refresh)?, false)
        }
        Some(_) | None => return Err(Denied::GrantType),
    };
    issue(provider, dialect, origin, grant, fresh)
}

/// RFC 6749 §2.3.1: the secret comes in the form or by Basic authentication, not both.
fn authenticate(provider: &Provider, headers: &HeaderMap, params: &Params) -> Result<(), Denied> {
    let (id, secret) = match headers.get(header::AUTHORIZATION) {
        Some(value) => {
            if params.find("client_secret").is_some() {
                return Err(Denied::Request("the client authenticates twice: by Basic and in the form".to_owned()));
            }
            let (id, secret) = value.to_str().ok().and_then(basic).ok_or(Denied::Client)?;
            if params.find("client_id").is_some_and(|named| named != id) {
                return Err(Denied::Client);
            }
            (id, secret)
        }
        None => match (params.find("client_id"), params.find("client_secret")) {
            (Some(id), Some(secret)) => (id.to_owned(), secret.to_owned()),
            (_, None) | (None, Some(_)) => return Err(Denied::Client),
        },
    };
    if id == provider.client_id && secret == provider.client_secret { Ok(()) } else { Err(Denied::Client) }
}

fn basic(value: &str) -> Option<(String, String)> {
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    Some((form_decode(id), form_decode(secret)))
}

/// An access token for the client itself (RFC 6749 §4.4), for the audience in the request (`audience`, or RFC 8707's `resource`);
/// `None`: another grant type.
pub(crate) fn client_credentials(
    provider: &Provider,
    origin: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Option<String>, Denied> {
    let params = Params::parse(body).map_err(Denied::Request)?;
    if params.find("grant_type") != Some("client_credentials") {
        return Ok(None);
    }
    authenticate(provider, headers, &params)?;
    let audience =
        params.find("audience").or_else(|| params.find("resource")).ok_or_else(|| missing("audience or resource"))?;
    let mut claims = claims::Claims::new();
    claims.insert("aud".to_owned(), serde_json::json!(audience));
    claims.insert("client_id".to_owned(), serde_json::json!(provider.client_id));
    id_token::issue_access(provider, origin, claims).map(Some).map_err(|_| Denied::Signing)
}

/// Returns true if these headers carry the client's credentials, by Basic authentication.
pub(crate) fn is_client(provider: &Provider, headers: &HeaderMap) -> bool {
    let named = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(basic);
    named.is_some_and(|(id, secret)| id == provider.client_id && secret == provider.client_secret)
}

fn redeem(provider: &Provider, dialect: &Dialect, params: &Params) -> Result<Grant, Denied> {
    let code = params.find("code").ok_or_else(|| missing("code"))?;
    let (url, verifier) = (params.find("redirect_uri"), params.find("code_verifier"));
    let now = provider.clock.now();
    // GitHub does not require the redirect URL; if given, it must match.
    if *dialect != Dialect::GitHub && url.is_none() {
        return Err(missing("redirect_uri"));
    }
    let mut grants = provider.grants();
    Ok(grants.redeem(dialect, code, url, verifier, now)?)
}

fn issue(provider: &Provider, dialect: &Dialect, origin: &str, grant: Grant, fresh: bool) -> Result<Issued, Denied> {
    let user = provider.user(&grant.user).ok_or(Denied::Gone)?;
    let expires_in = provider.control.lifetime(dialect);
    let (prefix, refresh_prefix) = match dialect {
        Dialect::GitHub if expires_in.is_some() => ("ghu_", "ghr_"),
        Dialect::GitHub => ("gho_", "ghr_"),
        Dialect::Entra(_) | Dialect::Oidc => ("", ""),
    };
    let expires = expires_in.map(|lasts| provider.clock.now().saturating_add(lasts));
    let claims = match dialect {
        Dialect::GitHub => None,
        Dialect::Entra(_) => {
            let account = user.entra.as_ref().ok_or(Denied::Gone)?;
            Some(claims::entra(&user, account, &grant, origin, &provider.client_id))
        }
        Dialect::Oidc => {
            let account = user.oidc.as_ref().ok_or(Denied::Gone)?;
            Some(claims::oidc(&user, account, &grant, origin))
        }
    };
    let access_token = provider.grants().issue_access(prefix, grant.clone(), expires);
    let offline = match dialect {
        Dialect::GitHub => expires_in.is_some(),
        Dialect::Entra(_) | Dialect::Oidc => grant.has_scope("offline_access"),
    };
    let refresh_token = offline.then(|| provider.grants().issue_refresh(refresh_prefix, grant.clone()));
    // A refreshed ID token has no nonce (OpenID Connect Core §12.2).
    let nonce = grant.nonce.as_deref().filter(|_| fresh);
    let id_token = claims
        .map(|mut claims| {
            if let Some(auth_time) = grant.auth_time {
                claims.insert("auth_time".to_owned(), serde_json::json!(auth_time));
            }
            id_token::issue(provider, claims, nonce, &access_token)
        })
        .transpose()
        .map_err(|_| Denied::Signing)?;
    Ok(Issued { grant, access_token, expires_in, refresh_token, id_token })
}

fn missing(name: &str) -> Denied {
    Denied::Request(format!("{name} is missing"))
}
