//! A plain OpenID Connect provider at `{origin}/oidc`: discovery, keys, tokens, UserInfo and sign-out.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use url::Url;

use crate::authorize;
use crate::bodies;
use crate::claims;
use crate::control::Lie;
use crate::dialect::Dialect;
use crate::grants::TOKEN_LIFETIME;
use crate::id_token::verified_as_text;
use crate::pages;
use crate::params::Params;
use crate::provider::{Origin, Provider, locked};
use crate::token::{self, Denied, Issued};

/// `GET /oidc/.well-known/openid-configuration`.
pub(crate) async fn discovery(Origin(origin): Origin) -> Response {
    let issuer = format!("{origin}/oidc");
    let body = json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"),
        "jwks_uri": format!("{issuer}/jwks"),
        "userinfo_endpoint": format!("{issuer}/userinfo"),
        "end_session_endpoint": format!("{issuer}/end_session"),
        "backchannel_logout_supported": true,
        "backchannel_logout_session_supported": true,
        "authorization_response_iss_parameter_supported": true,
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "prompt_values_supported": ["none", "login", "consent", "select_account"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "claims_supported": ["sub", "name", "preferred_username", "email", "email_verified", "groups"],
    });
    bodies::json(StatusCode::OK, &body)
}

/// `GET /oidc/jwks`.
pub(crate) async fn jwks(State(provider): State<Arc<Provider>>) -> Response {
    let mut keys = provider.keys.published();
    for key in &mut keys {
        if let Value::Object(key) = key {
            key.insert("alg".to_owned(), json!("RS256"));
        }
    }
    bodies::json(StatusCode::OK, &json!({ "keys": keys }))
}

/// `POST /oidc/token`.
pub(crate) async fn token(
    State(provider): State<Arc<Provider>>,
    Origin(origin): Origin,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match token::client_credentials(&provider, &origin, &headers, &body) {
        Ok(None) => {}
        Ok(Some(token)) => {
            let body = json!({ "token_type": "Bearer", "access_token": token, "expires_in": TOKEN_LIFETIME });
            return bodies::json(StatusCode::OK, &body);
        }
        Err(denied) => return refused(&denied),
    }
    match token::exchange(&provider, &Dialect::Oidc, &origin, &headers, &body) {
        Ok(issued) => granted(&provider, issued),
        Err(denied) => refused(&denied),
    }
}

/// The token response of OpenID Connect, which Entra shares.
pub(crate) fn granted(provider: &Provider, issued: Issued) -> Response {
    let lies = provider.control.lies();
    let odd = lies.iter().find_map(|lie| if let Lie::TokenType(odd) = lie { Some(odd) } else { None });
    let mut body = json!({
        "token_type": odd.map_or("Bearer", String::as_str),
        "scope": issued.grant.scopes.join(" "),
        "expires_in": issued.expires_in,
        "access_token": issued.access_token,
        "refresh_token": issued.refresh_token,
        "id_token": issued.id_token,
    });
    if let Value::Object(fields) = &mut body {
        fields.retain(|name, value| {
            let withheld = (name == "id_token" && lies.contains(&Lie::NoIdToken))
                || (name == "access_token" && lies.contains(&Lie::NoAccessToken));
            !value.is_null() && !withheld
        });
    }
    bodies::json(StatusCode::OK, &body)
}

fn refused(denied: &Denied) -> Response {
    let (status, error) = match denied {
        Denied::Client => (StatusCode::UNAUTHORIZED, "invalid_client"),
        Denied::Request(_) => (StatusCode::BAD_REQUEST, "invalid_request"),
        Denied::GrantType => (StatusCode::BAD_REQUEST, "unsupported_grant_type"),
        Denied::Grant(_) | Denied::Refresh(_) | Denied::Gone => (StatusCode::BAD_REQUEST, "invalid_grant"),
        Denied::Signing => (StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
    };
    let body = json!({ "error": error, "error_description": denied.to_string() });
    let mut response = bodies::json(status, &body);
    if status == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Basic realm=\"dev-idp\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// `GET` or `POST /oidc/userinfo`: Entra's discovery points here too, since Graph serves it there.
pub(crate) async fn userinfo(State(provider): State<Arc<Provider>>, headers: HeaderMap) -> Response {
    let known = provider.bearer(&headers).and_then(|(user, grant)| match &grant.dialect {
        Dialect::GitHub => None,
        Dialect::Entra(_) => {
            let account = user.entra.as_ref()?;
            Some(claims::entra_userinfo(&user, account, &grant, &provider.client_id))
        }
        Dialect::Oidc => {
            let account = user.oidc.as_ref()?;
            Some(claims::oidc_userinfo(&user, account, &grant))
        }
    });
    let Some(mut claims) = known else {
        let body = json!({ "error": "invalid_token" });
        let mut response = bodies::json(StatusCode::UNAUTHORIZED, &body);
        let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        return response;
    };
    for lie in provider.control.lies() {
        if lie == Lie::OtherSubAtUserInfo {
            claims.insert("sub".to_owned(), json!("another-subject"));
        } else if lie == Lie::EmailVerifiedAsText {
            verified_as_text(&mut claims);
        } else if let Lie::UserInfoClaim(name, value) = lie {
            claims.insert(name, value);
        }
    }
    bodies::json(StatusCode::OK, &Value::Object(claims))
}

/// `GET` or `POST /oidc/end_session`, and Entra's `logout`: forgets the user, then redirects if the request names a URL on the origin
/// of a registered redirect URL.
pub(crate) async fn end_session(
    State(provider): State<Arc<Provider>>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> Response {
    let form = if method == Method::POST { &body[..] } else { uri.query().unwrap_or_default().as_bytes() };
    let params = match Params::parse(form) {
        Ok(params) => params,
        Err(fault) => return pages::error(StatusCode::BAD_REQUEST, &fault),
    };
    let strange = params.find("client_id").is_some_and(|id| id != provider.client_id);
    let mut response = match params.find("post_logout_redirect_uri") {
        _ if strange => {
            pages::error(StatusCode::BAD_REQUEST, "client_id is not the one this provider was started with.")
        }
        None => pages::signed_out(),
        Some(target) => match back(&provider, target, params.find("state")) {
            Some(location) => (StatusCode::FOUND, [(header::LOCATION, location)]).into_response(),
            None => pages::error(
                StatusCode::BAD_REQUEST,
                "post_logout_redirect_uri is not on the origin of a registered redirect URL (DEV_IDP_REDIRECT_URL).",
            ),
        },
    };
    let (name, value) = authorize::forget();
    response.headers_mut().insert(name, value);
    response
}

fn back(provider: &Provider, target: &str, state: Option<&str>) -> Option<HeaderValue> {
    let mut url = Url::parse(target).ok()?;
    let registered = locked(&provider.redirect_urls).clone();
    let known = registered.iter().filter_map(|known| Url::parse(known).ok());
    if !known.into_iter().any(|known| known.origin() == url.origin()) {
        return None;
    }
    if let Some(state) = state {
        url.query_pairs_mut().append_pair("state", state);
    }
    HeaderValue::from_str(url.as_str()).ok()
}
