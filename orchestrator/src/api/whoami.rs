//! `GET /api/v1/whoami`: the identity that the proxy sent.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use crate::identity::{ASSERTION, HEADERS, Identity, SignedIn, received};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(show))
}

/// The identity, decoded, beside the headers as they came.
#[derive(Serialize, ToSchema)]
struct Whoami {
    /// Whether the proxy named anybody.
    signed_in: bool,
    #[serde(flatten)]
    identity: Option<Identity>,
    /// Whether a signed assertion came along; it is a credential, so its value stays here.
    assertion: bool,
    /// The identity headers as they came.
    #[schema(value_type = BTreeMap<String, String>)]
    headers: BTreeMap<&'static str, String>,
}

/// Who the proxy says is asking.
#[utoipa::path(get, operation_id = "whoami", path = "/api/v1/whoami", tag = "about", responses((status = 200, body = Whoami)))]
async fn show(SignedIn(identity): SignedIn, headers: HeaderMap) -> impl IntoResponse {
    let values = HEADERS.iter().filter_map(|&name| Some((name, received(&headers, name)?.to_owned())));
    Json(Whoami {
        signed_in: identity.is_some(),
        identity,
        assertion: headers.contains_key(ASSERTION),
        headers: values.collect(),
    })
}
