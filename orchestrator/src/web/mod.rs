//! The pages for people, embedded in the program: one document, which its scripts fill from the API.

mod assets;
mod shell;

use axum::Router;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::api;
use crate::identity::{SignedIn, received};

/// The paths of pages; `assets/app.js` knows what is on each.
const PAGES: [&str; 6] =
    ["/", "/clusters/{id}", "/clusters/{id}/{kind}/{namespace}/{name}", "/resources", "/activity", "/settings"];

pub(crate) fn routes() -> Router {
    PAGES
        .into_iter()
        .fold(Router::new(), |router, page| router.route(page, get(shell::show)))
        .route("/assets/{version}/{*name}", get(assets::show))
}

/// The response for an unknown path: a page for people, JSON for programs.
pub(crate) async fn not_found(signed_in: SignedIn, headers: HeaderMap) -> Response {
    if received(&headers, "accept").is_some_and(|accept| accept.contains("text/html")) {
        shell::not_found(signed_in).await
    } else {
        api::not_found().await.into_response()
    }
}
