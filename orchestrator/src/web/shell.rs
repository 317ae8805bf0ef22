//! The document of every page: the signed-in user, and the scripts that fill the rest.

use askama::Template;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};

use super::assets;
use crate::identity::{Identity, SignedIn};

// Only our own files load and run, nothing on the page can become markup or a script (XSS), and no other site may frame the
// buttons (clickjacking).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

#[derive(Template)]
#[template(path = "shell.html")]
struct Shell {
    identity: Option<Identity>,
    /// The path prefix of the files: it changes with their content.
    assets: String,
    modules: Vec<&'static str>,
}

pub(super) async fn show(SignedIn(identity): SignedIn) -> Response {
    document(identity, StatusCode::OK)
}

pub(super) async fn not_found(SignedIn(identity): SignedIn) -> Response {
    document(identity, StatusCode::NOT_FOUND)
}

fn document(identity: Option<Identity>, status: StatusCode) -> Response {
    let shell = Shell { identity, assets: assets::folder(), modules: assets::modules().collect() };
    match shell.render() {
        Ok(page) => {
            let headers = [
                (header::CACHE_CONTROL, "no-store"),
                (header::CONTENT_SECURITY_POLICY, POLICY),
                (header::REFERRER_POLICY, "same-origin"),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ];
            (status, headers, Html(page)).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "the page could not be made");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
