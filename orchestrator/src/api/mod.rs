//! The JSON API, one file per resource.

mod activities;
mod actor;
mod app;
mod applied;
mod clusters;
mod error;
mod events;
mod export;
mod guard;
mod input;
mod journal;
mod objects;
mod openapi;
mod probes;
mod resources;
mod settings;
mod streams;
mod viewer;
mod whoami;

use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;

pub use app::App;
pub(crate) use error::ApiError;
use openapi::{Document, Head};

pub(crate) fn routes(app: App) -> Router {
    let (router, document) = OpenApiRouter::with_openapi(Head::openapi())
        .merge(probes::routes())
        .merge(clusters::routes())
        .merge(resources::routes())
        .merge(objects::routes())
        .merge(applied::routes())
        .merge(activities::routes())
        .merge(settings::routes())
        .merge(events::routes())
        .merge(whoami::routes())
        .merge(openapi::routes())
        .split_for_parts();
    let document = Document::new(&document);
    router
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .layer(DefaultBodyLimit::max(input::BODY_MOST))
        .layer(Extension(document))
        .layer(middleware::from_fn(guard::check))
        .layer(middleware::from_fn_with_state(app.clone(), count))
        .with_state(app)
}

async fn count(State(app): State<App>, request: Request, next: Next) -> Response {
    let begun = tokio::time::Instant::now();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let response = next.run(request).await;
    app.metrics.answered(route.unwrap_or_default(), response.status(), begun.elapsed());
    response
}

pub(crate) async fn not_found() -> impl IntoResponse {
    ApiError::NotFound("there is nothing at this address; the start page is /".into())
}
