//! `GET /`: the start page, which says who is signed in.

use askama::Template;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};

use crate::identity::{Identity, SignedIn};

// Nothing but our own style sheet and icon loads, no script runs, and no other site may frame the sign-out button
// (clickjacking).
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

#[derive(Template)]
#[template(path = "home.html")]
struct Home {
    identity: Option<Identity>,
}

pub(super) async fn show(SignedIn(identity): SignedIn) -> Response {
    match (Home { identity }).render() {
        Ok(page) => {
            let headers = [
                (header::CACHE_CONTROL, "no-store"),
                (header::CONTENT_SECURITY_POLICY, POLICY),
                (header::REFERRER_POLICY, "same-origin"),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ];
            (headers, Html(page)).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "the start page could not be made");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
