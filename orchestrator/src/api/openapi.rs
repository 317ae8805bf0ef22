//! `GET /api/v1/openapi.json`: the API as programs read it, made from the routes themselves.

use axum::Extension;
use axum::body::Bytes;
use axum::http::header;
use axum::response::IntoResponse;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;

/// What stands above the routes.
#[derive(OpenApi)]
#[openapi(info(
    title = "Orchestrator",
    description = "Many Flux clusters in one place. The proxy in front says who is asking; requests that change something \
                   must carry `Content-Type: application/json` or no body, and must not come from another site's page. \
                   Refusals are `{\"error\":\"code\",\"message\":\"sentence\"}`."
))]
pub(super) struct Head;

/// The document, written once.
#[derive(Clone)]
pub(super) struct Document(pub(super) Bytes);

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(show))
}

/// This description.
#[utoipa::path(get, operation_id = "openapi", path = "/api/v1/openapi.json", tag = "about", responses((status = 200, content_type = "application/json", body = Object)))]
async fn show(Extension(Document(text)): Extension<Document>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], text)
}
