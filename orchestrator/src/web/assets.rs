//! The files that the pages load: all from this program, nothing from outside.

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::api;

pub(super) async fn show(Path(name): Path<String>) -> Response {
    match name.as_str() {
        "home.css" => file("text/css; charset=utf-8", include_str!("assets/home.css")),
        "icon.svg" => file("image/svg+xml", include_str!("assets/icon.svg")),
        _ => api::not_found().await.into_response(),
    }
}

fn file(content_type: &'static str, content: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, content).into_response()
}
