//! The answer to Envoy: changes to the request on its way to the application, or the response to its client.

use std::sync::Arc;

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName};
use http::{Method, Response, StatusCode};

use super::message::{
    CheckResponse, DeniedHttpResponse, HeaderValueOption, HttpResponse, HttpStatus, OkHttpResponse, Status,
};
use crate::adapters::upstream::Fields as _;
use crate::domain::identity::Identified as _;
use crate::ports::LoadedSession;
use crate::rendering::{ReadyFields, X_SIDEGATE_ASSERTION};
use crate::serve::answer::rejection::Rejection;
use crate::serve::app::SignIn;
use crate::serve::auth;
use crate::serve::body::Body;
use crate::serve::exchange::{Exchange, Refused, identity_not_passed, unsigned};
use crate::serve::request::description::BadDescription;
use crate::serve::request::headers;

/// gRPC's own codes, which only state whether the request is admitted.
const OK: i32 = 0;
const PERMISSION_DENIED: i32 = 7;
const UNAUTHENTICATED: i32 = 16;

/// Fields that Envoy manages itself, on the connection or by its configuration: neither removed nor changed.
fn is_envoys_own(name: &HeaderName) -> bool {
    const OWN: [&str; 11] = [
        "connection",
        "keep-alive",
        "te",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
        "host",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-port",
        "x-forwarded-client-cert",
    ];
    OWN.contains(&name.as_str()) || name.as_str().starts_with("x-envoy-")
}

/// The changes to the fields of an admitted request, the same as for a forwarded one. `asked` are the fields as received;
/// those of the exchange lack what a client may not set.
pub(super) fn allowed(
    exchange: &mut Exchange,
    sign_in: &SignIn,
    session: Option<&Arc<LoadedSession>>,
    asked: &HeaderMap,
) -> Result<CheckResponse, Refused> {
    let Exchange { head, caller, snapshot, .. } = &mut *exchange;
    let left = &mut head.headers;
    if caller.trusted {
        headers::normalize_trusted(left, caller.client);
        headers::normalize_forwarded_host(left, caller);
    }
    headers::strip_odd_spellings(left);
    auth::bearer::strip(left, sign_in);
    if snapshot.rules.names_methods() {
        headers::strip_method_overrides(left);
    }
    sign_in.cookies.strip_request(left);
    snapshot.chosen.strip(left);
    let mut set = identity_fields(exchange, sign_in, session)?;
    exchange.trace.write_fields(&mut set);
    let (changed, headers_to_remove) = changes(asked, &exchange.head.headers, &set);
    let mut options = Vec::with_capacity(set.len() + changed.len());
    for fields in [&set, &changed] {
        for name in fields.keys() {
            for (place, value) in fields.get_all(name).iter().enumerate() {
                let value = std::str::from_utf8(value.as_bytes());
                // The protocol's strings are UTF-8.
                let value = value.map_err(|_| Rejection::NotDescribed(BadDescription::Unreadable("Cookie")))?;
                options.push(HeaderValueOption::new(name.as_str(), value, place > 0));
            }
        }
    }
    let ok = OkHttpResponse { headers: options, headers_to_remove };
    Ok(CheckResponse { status: Some(Status { code: OK }), http_response: Some(HttpResponse::Ok(ok)) })
}

/// The identity fields for the upstream of `UPSTREAM_URL`; with the usual set, also the names that forward-auth proxies
/// use.
fn identity_fields(
    exchange: &Exchange,
    sign_in: &SignIn,
    session: Option<&Arc<LoadedSession>>,
) -> Result<HeaderMap, Rejection> {
    let mut identity = HeaderMap::new();
    // No session: fields of these names from the client are removed and not replaced.
    let Some(session) = session else { return Ok(identity) };
    let chosen = exchange.snapshot.destinations.of(None).and_then(|usual| usual.identity_fields.as_ref());
    if chosen.is_none_or(|builder| builder.has_usual_fields()) {
        identity.ready(session.headers());
        for (name, value) in ReadyFields::for_asking_proxies(Some(session.identity())) {
            identity.insert(name, value);
        }
    }
    match chosen {
        None => {
            let assertion = sign_in.assertions.header(session, exchange.now);
            let assertion = assertion.map_err(unsigned)?;
            identity.insert(&X_SIDEGATE_ASSERTION, assertion);
        }
        Some(builder) => {
            if let Some(fields) =
                builder.build(session, exchange.now).map_err(|why| identity_not_passed(why, session))?
            {
                identity.ready(&fields.fields);
            }
            for (name, value) in builder.id_token_fields(session) {
                identity.append(name, value);
            }
        }
    }
    Ok(identity)
}

/// The fields whose values have changed, and the names of those removed. Envoy removes after it sets, so no name in `set` is among
/// them.
fn changes(asked: &HeaderMap, left: &HeaderMap, set: &HeaderMap) -> (HeaderMap, Vec<String>) {
    let (mut changed, mut gone) = (HeaderMap::new(), Vec::new());
    for name in asked.keys().filter(|name| !is_envoys_own(name) && !set.contains_key(*name)) {
        if !left.contains_key(name) {
            gone.push(name.as_str().to_owned());
        } else if !left.get_all(name).iter().eq(asked.get_all(name).iter()) {
            for value in left.get_all(name) {
                changed.append(name.clone(), value.clone());
            }
        }
    }
    (changed, gone)
}

/// The proxy's own response to a refused request, for Envoy to send.
pub(super) fn denied(response: Response<Body>, method: &Method) -> CheckResponse {
    let (head, body) = response.into_parts();
    let mut headers = Vec::with_capacity(head.headers.len());
    for name in head.headers.keys().filter(|name| ![CONTENT_LENGTH, CONNECTION].contains(name)) {
        // Each value is our own text. All of one name (`Set-Cookie`) are sent, and replace others.
        let values = head.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        headers.extend(values.enumerate().map(|(place, value)| {
            let option = HeaderValueOption::new(name.as_str(), value, false);
            if place > 0 { option.further() } else { option }
        }));
    }
    let has_body = *method != Method::HEAD;
    let denied = DeniedHttpResponse {
        status: Some(HttpStatus { code: i32::from(head.status.as_u16()) }),
        headers,
        body: if has_body { String::from_utf8_lossy(&body.into_text()).into_owned() } else { String::new() },
    };
    let signs_in = [StatusCode::UNAUTHORIZED, StatusCode::FOUND].contains(&head.status);
    let code = if signs_in { UNAUTHENTICATED } else { PERMISSION_DENIED };
    CheckResponse { status: Some(Status { code }), http_response: Some(HttpResponse::Denied(denied)) }
}
