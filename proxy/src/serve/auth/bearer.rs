//! The bearer token of a request: equivalent to a session, and used instead of one.

use std::sync::Arc;

use http::header::{AUTHORIZATION, CACHE_CONTROL, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use serde_json::json;

use crate::adapters::providers::bearer::{BearerError, Bearers, Verified};
use crate::adapters::telemetry::audit;
use crate::domain::paths::METADATA;
use crate::ports::LoadedSession;
use crate::serve::answer::challenge::Challenge;
use crate::serve::answer::rejection::Rejection;
use crate::serve::answer::reply;
use crate::serve::app::SignIn;
use crate::serve::body::Body;
use crate::serve::exchange::{Exchange, Refused};

/// The identity of the request's bearer token; `None`: it has none, or tokens are ignored.
pub(crate) async fn find(exchange: &Exchange, sign_in: &SignIn) -> Result<Option<Arc<LoadedSession>>, Rejection> {
    let Some(bearers) = &sign_in.bearers else { return Ok(None) };
    match presented(&exchange.head.headers) {
        Ok(None) => Ok(None),
        // In a box, so that it does not enlarge the future of every request.
        Ok(Some(token)) => Box::pin(verify(exchange, bearers, token)).await.map(Some),
        Err(why) => {
            note(exchange, "malformed", why);
            Err(Rejection::Token(Challenge::Malformed(why)))
        }
    }
}

async fn verify(exchange: &Exchange, bearers: &Bearers, token: &str) -> Result<Arc<LoadedSession>, Rejection> {
    let (outcome, reason, challenge) = match bearers.verify(token, exchange.now).await {
        Ok((session, verified)) => {
            exchange.app.metrics.bearer(match verified {
                Verified::Now => "verified",
                Verified::Before => "remembered",
            });
            return Ok(session);
        }
        Err(BearerError::Invalid(reason)) => ("invalid", reason, Challenge::Invalid),
        Err(BearerError::Unavailable(reason)) => ("unknown", reason, Challenge::Unknown),
    };
    note(exchange, outcome, &reason);
    Err(Rejection::Token(challenge))
}

/// Counts a rejected token, and writes the reason to the audit log.
pub(crate) fn note(exchange: &Exchange, outcome: &'static str, reason: &str) {
    exchange.app.metrics.bearer(outcome);
    audit::token_refused(outcome, reason, exchange.origin());
}

/// Removes bearer tokens if they are accepted here, so that no upstream gets one meant for us. Other schemes stay.
pub(crate) fn strip(headers: &mut HeaderMap, sign_in: &SignIn) {
    if sign_in.bearers.is_some() && headers.get_all(AUTHORIZATION).iter().any(is_bearer) {
        headers.remove(AUTHORIZATION);
    }
}

/// The single token of a request (RFC 6750 §2.1).
fn presented(headers: &HeaderMap) -> Result<Option<&str>, &'static str> {
    if !headers.get_all(AUTHORIZATION).iter().any(is_bearer) {
        return Ok(None);
    }
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else {
        return Err("there are several Authorization fields, and one is a bearer token");
    };
    let text = field.to_str().ok().and_then(|text| text.trim().get(SCHEME.len()..)).unwrap_or_default();
    let token = text.trim_start_matches(' ');
    if token.len() == text.len() || !is_token(token) {
        return Err("what stands behind `Bearer` is not a token");
    }
    Ok(Some(token))
}

const SCHEME: &[u8] = b"bearer";

/// Whether a field has this scheme, whatever follows.
pub(crate) fn is_bearer(field: &HeaderValue) -> bool {
    let field = field.as_bytes().trim_ascii_start();
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    field.get(..SCHEME.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
        && !field.get(SCHEME.len()).is_some_and(is_name)
}

/// `b64token` (RFC 6750 §2.1).
fn is_token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    !body.is_empty() && body.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b))
}

/// The accepted issuers (RFC 9728), if any.
pub(crate) fn metadata(exchange: &Exchange) -> Option<Result<Response<Body>, Refused>> {
    let sign_in = exchange.snapshot.sign_in.as_ref()?;
    let bearers = sign_in.bearers.as_ref()?;
    if exchange.head.uri.path() != METADATA {
        return None;
    }
    if ![Method::GET, Method::HEAD].contains(&exchange.head.method) {
        return Some(Err(Rejection::MethodNotAllowed("GET, HEAD").into()));
    }
    let body = json!({
        "resource": sign_in.origin_text,
        "authorization_servers": bearers.issuers(),
        "bearer_methods_supported": ["header"],
    });
    let mut response = reply::json(StatusCode::OK, &body);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    exchange.app.metrics.answered(StatusCode::OK);
    Some(Ok(response))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fields: &[&str]) -> HeaderMap {
        fields.iter().map(|field| (AUTHORIZATION, HeaderValue::from_str(field).unwrap())).collect()
    }

    #[test]
    fn one_token_behind_the_word_bearer_is_presented() {
        for (fields, token) in [
            (&["Bearer a.b.c"] as &[&str], Some("a.b.c")),
            (&["bearer a"], Some("a")),
            (&["BEARER   a-._~+/9=="], Some("a-._~+/9==")),
            (&["Bearer a "], Some("a")),
            (&[], None),
            (&["Basic YTpi"], None),
            (&["Basic YTpi", "Digest x"], None),
            (&["Bearers a"], None),
            (&["Bearer-x a"], None),
            (&["DPoP a.b.c"], None),
            (&[""], None),
        ] {
            assert_eq!(presented(&of(fields)), Ok(token), "{fields:?}");
        }
    }

    #[test]
    fn what_is_written_wrongly_or_twice_is_no_token() {
        for fields in [
            &["Bearer"] as &[&str],
            &["Bearer "],
            &["Bearer a b"],
            &["Bearer a,b"],
            &["Bearer a, Basic b"],
            &["Bearer\ta"],
            &["Bearer=a"],
            &["Bearer, a"],
            &["Bearer ="],
            &["Bearer a=b"],
            &["Bearer \"a\""],
            &["Bearer a", "Bearer a"],
            &["Basic b", "Bearer a"],
            &["Bearer a", "Basic b"],
            &["Bearer", "Bearer"],
        ] {
            assert!(presented(&of(fields)).is_err(), "{fields:?}");
        }
        let mut latin = HeaderMap::new();
        latin.insert(AUTHORIZATION, HeaderValue::from_bytes(b"Bearer \xe4").unwrap());
        assert!(presented(&latin).is_err());
    }
}
