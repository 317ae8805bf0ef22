//! `GET /api/v1/openapi.json`: the OpenAPI document, generated from the routes.

use axum::Extension;
use axum::body::Bytes;
use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Value, json};
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

/// What the entrance answers before a route is reached, and why.
const ENTRANCE: [(&str, &str); 3] = [
    (
        "401",
        "With ORCHESTRATOR_ASSERTION_JWKS: nobody is signed in, as far as the proxy's signature says (`unauthenticated`)",
    ),
    ("421", "The request names a host that is not one of ORCHESTRATOR_HOSTS (`wrong_host`)"),
    ("503", "The keys of ORCHESTRATOR_ASSERTION_JWKS cannot be read (`keys_unavailable`)"),
];
/// Requested by IP address, without an assertion.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// The document, serialized once.
#[derive(Clone)]
pub(super) struct Document(Bytes);

impl Document {
    /// The document of the routes, with the entrance's responses added.
    pub(super) fn new(of_routes: &utoipa::openapi::OpenApi) -> Self {
        let mut document = serde_json::to_value(of_routes).unwrap_or_default();
        let paths = document.pointer_mut("/paths").and_then(Value::as_object_mut).into_iter().flatten();
        let operations = paths
            .filter(|(path, _)| !PROBES.contains(&path.as_str()))
            .flat_map(|(_, item)| item.as_object_mut().into_iter().flatten());
        for responses in operations.filter_map(|(_, operation)| operation.get_mut("responses")?.as_object_mut()) {
            for (status, description) in ENTRANCE {
                let schema = json!({"$ref": "#/components/schemas/Refusal"});
                let response = json!({"description": description, "content": {"application/json": {"schema": schema}}});
                responses.entry(status).or_insert(response);
            }
        }
        Self(document.to_string().into())
    }
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(show))
}

/// This description.
#[utoipa::path(get, operation_id = "openapi", path = "/api/v1/openapi.json", tag = "about", responses((status = 200, content_type = "application/json", body = Object)))]
async fn show(Extension(Document(text)): Extension<Document>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], text)
}
