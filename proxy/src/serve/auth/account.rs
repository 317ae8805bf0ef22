//! Endpoints about the signed-in user, and the public sign-in page and keys.

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};
use std::sync::Arc;

use crate::domain::identity::Identified as _;
use crate::ports::LoadedSession;
use crate::serve::answer::pages::{self, SignInPage};
use crate::serve::answer::query;
use crate::serve::answer::rejection::Rejection;
use crate::serve::answer::reply;
use crate::serve::app::SignIn;
use crate::serve::auth::bearer;
use crate::serve::auth::session::{self, Found};
use crate::serve::body::Body;
use crate::serve::exchange::{Exchange, Refused};

/// `GET me`.
pub(super) async fn me(exchange: &Exchange, sign_in: &SignIn) -> Result<Response<Body>, Refused> {
    let session = anybody(exchange, sign_in).await?;
    Ok(reply::json(StatusCode::OK, &Value::Object(fields(&session))))
}

/// `GET session`: the fields of `me`, with groups and times.
pub(super) async fn session(exchange: &Exchange, sign_in: &SignIn) -> Result<Response<Body>, Refused> {
    let loaded = anybody(exchange, sign_in).await?;
    let session = loaded.session();
    let mut fields = fields(&loaded);
    fields.insert("groups".into(), json!(session.identity.groups));
    fields.insert("created_at".into(), session.created_at.rfc3339().into());
    fields.insert("expires_at".into(), session.expires_at.rfc3339().into());
    Ok(reply::json(StatusCode::OK, &Value::Object(fields)))
}

/// The identity of the request: by a bearer token where tokens are accepted, else by a session.
async fn anybody(exchange: &Exchange, sign_in: &SignIn) -> Result<Arc<LoadedSession>, Refused> {
    match bearer::find(exchange, sign_in).await? {
        Some(token) => {
            super::admit_session(exchange, &token)?;
            Ok(token)
        }
        None => current(exchange, sign_in).await,
    }
}

/// The request's live session.
pub(super) async fn current(exchange: &Exchange, sign_in: &SignIn) -> Result<Arc<LoadedSession>, Refused> {
    let session = match session::find(exchange, sign_in).await? {
        Found::Session(session) => session,
        Found::NoSession => return Err(Rejection::Unauthenticated.into()),
        Found::Conflict => {
            return Err(Refused(Rejection::Unauthenticated, sign_in.cookies.clear_session().to_vec()));
        }
    };
    super::admit_session(exchange, &session)?;
    Ok(session)
}

fn fields(session: &LoadedSession) -> Map<String, Value> {
    let who = session.identity();
    [
        ("id", who.id.as_str()),
        ("email", who.email_str()),
        ("name", &who.name),
        ("username", who.username.as_str()),
        ("provider", session.provider()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.into()))
    .collect()
}

/// `GET sign-in`: a page with a button, for links that should not redirect to the provider at once.
pub(super) fn sign_in_page(exchange: &Exchange, sign_in: &SignIn) -> Response<Body> {
    let page = SignInPage {
        site: Some(&sign_in.host_text),
        provider: pages::provider_name(sign_in.provider.kind()),
        return_to: &query::wanted(exchange.head.uri.query(), &exchange.snapshot),
        notice: None,
    };
    reply::html(StatusCode::OK, pages::sign_in(&page))
}

/// `GET jwks`: the assertion's public keys, which verifiers may keep for five minutes.
pub(super) fn jwks(sign_in: &SignIn) -> Response<Body> {
    let mut response = reply::bare(StatusCode::OK, Body::text(sign_in.assertions.jwks().clone()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    response
}
