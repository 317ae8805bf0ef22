//! The pages for people: picking a user, signed out, and errors. They work without scripts.

use askama::Template;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};

use crate::params::Params;
use crate::users::User;

// No form-action: Chromium would apply it to the redirect to the client too.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; frame-ancestors 'none'";

/// The contents of the page that picks a user.
#[derive(Template)]
#[template(path = "pick.html")]
pub(crate) struct Picking<'a> {
    pub(crate) provider: &'a str,
    pub(crate) client_id: &'a str,
    pub(crate) scopes: &'a str,
    pub(crate) hint: Option<&'a str>,
    pub(crate) action: String,
    pub(crate) params: &'a Params,
    pub(crate) users: Vec<User>,
}

impl Picking<'_> {
    /// Returns true if the request's hint is `user`'s id or email address.
    fn hinted(&self, user: &User) -> bool {
        self.hint.is_some_and(|hint| hint == user.id || Some(hint) == address(user))
    }
}

#[derive(Template)]
#[template(path = "message.html")]
struct Message<'a> {
    title: &'a str,
    message: &'a str,
}

pub(crate) fn pick(page: &Picking<'_>) -> Response {
    answer(StatusCode::OK, page)
}

pub(crate) fn error(status: StatusCode, message: &str) -> Response {
    answer(status, &Message { title: "This sign-in cannot go on", message })
}

pub(crate) fn signed_out() -> Response {
    let message = "The development identity provider has forgotten who you were.";
    answer(StatusCode::OK, &Message { title: "Signed out", message })
}

fn answer(status: StatusCode, page: &impl Template) -> Response {
    let Ok(html) = page.render() else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let headers = [
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (status, headers, Html(html)).into_response()
}

/// The email address that the page shows beside a name.
fn address(user: &User) -> Option<&str> {
    let oidc = user.oidc.as_ref().and_then(|account| account.email.as_deref());
    oidc.or_else(|| user.entra.as_ref().map(|account| account.upn.as_str()))
}
