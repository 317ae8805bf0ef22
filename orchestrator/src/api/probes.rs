//! `/healthz`, `/readyz` and `/metrics`, for monitoring.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use crate::metrics;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(healthz)).routes(routes!(readyz)).routes(routes!(metrics))
}

/// Whether the orchestrator answers.
#[utoipa::path(get, operation_id = "healthz", path = "/healthz", tag = "probes", responses((status = 200, content_type = "text/plain", body = String)))]
async fn healthz() -> impl IntoResponse {
    "ok\n"
}

/// Whether it takes requests: not while it ends. A database that is away is named, and what was read of the clusters is
/// still shown meanwhile.
#[utoipa::path(get, operation_id = "readyz", path = "/readyz", tag = "probes", responses(
    (status = 200, content_type = "text/plain", body = String),
    (status = 503, content_type = "text/plain", body = String),
))]
async fn readyz(State(app): State<App>) -> impl IntoResponse {
    if app.ending.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "ending\n");
    }
    match app.store.ping().await {
        Ok(()) => (StatusCode::OK, "ready\n"),
        Err(error) => {
            tracing::warn!(%error, "the database does not answer");
            (StatusCode::OK, "ready, but the database does not answer: nothing can be changed\n")
        }
    }
}

/// What Prometheus reads.
#[utoipa::path(get, operation_id = "metrics", path = "/metrics", tag = "probes",
    responses((status = 200, content_type = "application/openmetrics-text", body = String)))]
async fn metrics(State(app): State<App>) -> impl IntoResponse {
    app.metrics.observe(&app.fleet, app.streams.count());
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], app.metrics.render())
}
