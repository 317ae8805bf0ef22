//! The control handle over HTTP, for tests of a running binary; there only with `--allow-control`.
//!
//! Each call is a `POST` with a JSON body (which also keeps other sites' forms out):
//!
//! | path | body |
//! | --- | --- |
//! | `/_control/fail` | `{"endpoint":"token","fault":{"status":500},"times":2}`; also `{"slow":250}`, `"hold"`, `"malformed"`, `{"huge":8}`, `"cut"`, `{"refuse":"invalid_grant"}`; without `times` until cleared |
//! | `/_control/clear` | `{"endpoint":"token"}` |
//! | `/_control/lie` | `{"lie":"wrong_nonce"}`, `{"lie":{"claim":["tid","x"]}}`, `{"lie":{"missing_claim":"exp"}}`, `{"lie":{"token_field":["expires_in","3599"]}}` |
//! | `/_control/reset` | `{}`: no faults, no lies, counts at zero, the clock right |
//! | `/_control/rotate` | `{"old":"keep"}` or `"drop"` |
//! | `/_control/advance` | `{"seconds":61}` |
//! | `/_control/seen` | `{"endpoint":"user"}`: answers `{"requests":1,"last":{…},"refreshes":0}` |
//! | `/_control/tokens` | `{"lifetime":60}`, `{"expiring_github":true}` |
//! | `/_control/revoke` | `{"user":"ann"}`: her codes and tokens end, and she may sign in again |
//! | `/_control/access-token` | `{"claims":{"aud":"https://app.example.com","sub":"ci"}}`: answers `{"token":"…"}`, a JWT of the OpenID Connect provider; lies count for it too |
//! | `/_control/logout-token` | `{"user":"ann"}`, `{"user":"ann","to":"http://127.0.0.1:8080/api/v1/auth/backchannel-logout"}`: answers `{"token":"…","status":200}`; lies about claims and signatures count for it too |

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use crate::control::{Endpoint, Fault, Lie};
use crate::id_token;
use crate::keys::OldKey;
use crate::logout;
use crate::provider::{Origin, Provider};

type Shared = State<Arc<Provider>>;

pub(crate) fn router() -> Router<Arc<Provider>> {
    Router::new()
        .route("/_control/fail", post(fail))
        .route("/_control/clear", post(clear))
        .route("/_control/lie", post(lie))
        .route("/_control/reset", post(reset))
        .route("/_control/rotate", post(rotate))
        .route("/_control/advance", post(advance))
        .route("/_control/seen", post(seen))
        .route("/_control/tokens", post(tokens))
        .route("/_control/revoke", post(revoke))
        .route("/_control/access-token", post(access_token))
        .route("/_control/logout-token", post(logout_token))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fail {
    endpoint: Endpoint,
    fault: Fault,
    times: Option<u32>,
}

async fn fail(State(provider): Shared, Json(order): Json<Fail>) -> StatusCode {
    match order.times {
        Some(times) => provider.control.fail_times(times, order.endpoint, order.fault),
        None => provider.control.fail(order.endpoint, order.fault),
    }
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct At {
    endpoint: Endpoint,
}

async fn clear(State(provider): Shared, Json(order): Json<At>) -> StatusCode {
    provider.control.clear(order.endpoint);
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LieOrder {
    lie: Lie,
}

async fn lie(State(provider): Shared, Json(order): Json<LieOrder>) -> StatusCode {
    provider.control.lie(order.lie);
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

async fn reset(State(provider): Shared, Json(Nothing {}): Json<Nothing>) -> StatusCode {
    provider.control.reset();
    provider.clock.reset();
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotate {
    old: OldKey,
}

async fn rotate(State(provider): Shared, Json(order): Json<Rotate>) -> StatusCode {
    match provider.keys.rotate(order.old) {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    seconds: u64,
}

async fn advance(State(provider): Shared, Json(order): Json<Advance>) -> StatusCode {
    provider.clock.advance(Duration::from_secs(order.seconds));
    StatusCode::NO_CONTENT
}

async fn seen(State(provider): Shared, Json(order): Json<At>) -> Response {
    let requests = provider.control.requests(order.endpoint);
    let last = provider.control.last(order.endpoint);
    Json(json!({ "requests": requests, "last": last, "refreshes": provider.control.refreshes() })).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tokens {
    lifetime: Option<u64>,
    #[serde(default)]
    expiring_github: bool,
}

async fn tokens(State(provider): Shared, Json(order): Json<Tokens>) -> StatusCode {
    if let Some(seconds) = order.lifetime {
        provider.control.token_lifetime(Duration::from_secs(seconds));
    }
    if order.expiring_github {
        provider.control.expiring_github_tokens();
    }
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Of {
    user: String,
}

async fn revoke(State(provider): Shared, Json(order): Json<Of>) -> StatusCode {
    provider.grants().revoke_user(&order.user);
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccessOrder {
    claims: serde_json::Map<String, serde_json::Value>,
}

async fn access_token(State(provider): Shared, Origin(origin): Origin, Json(order): Json<AccessOrder>) -> Response {
    match id_token::issue_access(&provider, &origin, order.claims) {
        Ok(token) => Json(json!({ "token": token })).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogoutOrder {
    user: String,
    to: Option<String>,
}

async fn logout_token(State(provider): Shared, Origin(origin): Origin, Json(order): Json<LogoutOrder>) -> Response {
    let Some(token) = logout::token(&provider, &origin, &order.user) else {
        return (StatusCode::NOT_FOUND, Json(json!({ "error": "no such user at the OpenID Connect provider" })))
            .into_response();
    };
    let status = match &order.to {
        None => None,
        Some(to) => match logout::send(to, &token).await {
            Ok(status) => Some(status),
            Err(error) => {
                return (StatusCode::BAD_GATEWAY, Json(json!({ "error": error.to_string() }))).into_response();
            }
        },
    };
    Json(json!({ "token": token, "status": status })).into_response()
}
