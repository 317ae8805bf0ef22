//! `GET /healthz`: whether the orchestrator answers.

use axum::http::header;
use axum::response::IntoResponse;

pub(super) async fn show() -> impl IntoResponse {
    ([(header::CACHE_CONTROL, "no-store")], "ok\n")
}
