//! `GET /api/v1/whoami`: who the proxy says is asking.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use serde::Serialize;

use crate::identity::{ASSERTION, HEADERS, Identity, SignedIn, received};

/// The identity, decoded, beside the headers as they came.
#[derive(Serialize)]
struct Whoami<'a> {
    signed_in: bool,
    #[serde(flatten)]
    identity: Option<Identity>,
    /// Whether a signed assertion came along; it is a credential, so its value stays here.
    assertion: bool,
    headers: BTreeMap<&'static str, &'a str>,
}

pub(super) async fn show(SignedIn(identity): SignedIn, headers: HeaderMap) -> impl IntoResponse {
    let whoami = Whoami {
        signed_in: identity.is_some(),
        identity,
        assertion: headers.contains_key(ASSERTION),
        headers: HEADERS.iter().filter_map(|&name| Some((name, received(&headers, name)?))).collect(),
    };
    let body = serde_json::to_value(&whoami).unwrap_or_default();
    ([(header::CACHE_CONTROL, "no-store")], Json(body))
}
