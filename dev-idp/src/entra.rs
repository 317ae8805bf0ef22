//! Microsoft Entra ID, version 2.0: discovery, keys, tokens and sign-out of each tenant.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};

use crate::bodies;
use crate::dialect::{Dialect, Tenant};
use crate::grants::Refusal;
use crate::oidc;
use crate::provider::{Origin, Provider};
use crate::token::{self, Denied};

/// `GET /{tenant}/v2.0/.well-known/openid-configuration`.
pub(crate) async fn discovery(Origin(origin): Origin, Path(segment): Path<String>) -> Response {
    let Some(tenant) = Tenant::parse(&segment) else {
        return unknown_tenant();
    };
    let authority = format!("{origin}/{segment}");
    let body = json!({
        "issuer": format!("{origin}/{}/v2.0", tenant.issuer_segment()),
        "authorization_endpoint": format!("{authority}/oauth2/v2.0/authorize"),
        "token_endpoint": format!("{authority}/oauth2/v2.0/token"),
        "jwks_uri": format!("{authority}/discovery/v2.0/keys"),
        "userinfo_endpoint": format!("{origin}/oidc/userinfo"),
        "end_session_endpoint": format!("{authority}/oauth2/v2.0/logout"),
        "msgraph_host": origin.split_once("://").map(|(_, host)| host),
        "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
        "response_modes_supported": ["query"],
        "response_types_supported": ["code"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "claims_supported": ["sub", "iss", "aud", "exp", "iat", "nonce", "preferred_username", "name", "tid", "ver", "at_hash", "email"],
        "request_uri_parameter_supported": false,
        "http_logout_supported": true,
        "frontchannel_logout_supported": true,
    });
    bodies::json(StatusCode::OK, &body)
}

/// `GET /{tenant}/discovery/v2.0/keys`: as at Entra, with an issuer and without `alg`.
pub(crate) async fn keys(
    State(provider): State<Arc<Provider>>,
    Origin(origin): Origin,
    Path(segment): Path<String>,
) -> Response {
    let Some(tenant) = Tenant::parse(&segment) else {
        return unknown_tenant();
    };
    let mut keys = provider.keys.published();
    for key in &mut keys {
        if let Value::Object(key) = key {
            let issuer = format!("{origin}/{}/v2.0", tenant.issuer_segment());
            key.insert("issuer".to_owned(), json!(issuer));
        }
    }
    bodies::json(StatusCode::OK, &json!({ "keys": keys }))
}

/// `POST /{tenant}/oauth2/v2.0/token`.
pub(crate) async fn token(
    State(provider): State<Arc<Provider>>,
    Origin(origin): Origin,
    Path(segment): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(tenant) = Tenant::parse(&segment) else {
        return unknown_tenant();
    };
    match token::exchange(&provider, &Dialect::Entra(tenant), &origin, &headers, &body) {
        Ok(issued) => oidc::granted(&provider, issued),
        Err(denied) => refused(&denied),
    }
}

fn refused(denied: &Denied) -> Response {
    let (status, error, number) = match denied {
        Denied::Client => (StatusCode::UNAUTHORIZED, "invalid_client", 7_000_215),
        Denied::Request(_) => (StatusCode::BAD_REQUEST, "invalid_request", 900_144),
        Denied::GrantType => (StatusCode::BAD_REQUEST, "unsupported_grant_type", 70_003),
        Denied::Grant(Refusal::Unknown) | Denied::Refresh(Refusal::Unknown) => {
            (StatusCode::BAD_REQUEST, "invalid_grant", 9_002_313)
        }
        Denied::Grant(Refusal::Spent) | Denied::Refresh(Refusal::Spent) => {
            (StatusCode::BAD_REQUEST, "invalid_grant", 54_005)
        }
        Denied::Grant(Refusal::Expired) | Denied::Refresh(Refusal::Expired) => {
            (StatusCode::BAD_REQUEST, "invalid_grant", 70_008)
        }
        Denied::Grant(Refusal::RedirectUrl) | Denied::Refresh(Refusal::RedirectUrl) => {
            (StatusCode::BAD_REQUEST, "invalid_grant", 500_112)
        }
        Denied::Grant(Refusal::Verifier) | Denied::Refresh(Refusal::Verifier) => {
            (StatusCode::BAD_REQUEST, "invalid_grant", 501_481)
        }
        Denied::Grant(Refusal::Tenant) | Denied::Refresh(Refusal::Tenant) => {
            (StatusCode::BAD_REQUEST, "invalid_grant", 700_005)
        }
        Denied::Gone => (StatusCode::BAD_REQUEST, "invalid_grant", 50_057),
        Denied::Signing => (StatusCode::INTERNAL_SERVER_ERROR, "server_error", 90_033),
    };
    aadsts(status, error, number, &denied.to_string())
}

pub(crate) fn unknown_tenant() -> Response {
    let text = "there is no such tenant: use common, organizations, consumers, or the id of a demo tenant";
    aadsts(StatusCode::BAD_REQUEST, "invalid_tenant", 90_002, text)
}

fn aadsts(status: StatusCode, error: &str, number: u32, text: &str) -> Response {
    let body = json!({
        "error": error,
        "error_description": format!("AADSTS{number}: {text}."),
        "error_codes": [number],
        "error_uri": format!("https://login.microsoftonline.com/error?code={number}"),
    });
    bodies::json(status, &body)
}
