//! The answers for programs, one file a resource.

mod healthz;
mod whoami;

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

pub(crate) fn routes() -> Router {
    Router::new().route("/healthz", get(healthz::show)).route("/api/v1/whoami", get(whoami::show))
}

/// A refusal as programs read it.
#[derive(Serialize)]
struct Refusal {
    error: &'static str,
    message: &'static str,
}

pub(crate) async fn not_found() -> impl IntoResponse {
    let refusal = Refusal { error: "not_found", message: "There is nothing at this address; the start page is /" };
    (StatusCode::NOT_FOUND, [(header::CACHE_CONTROL, "no-store")], Json(refusal))
}
