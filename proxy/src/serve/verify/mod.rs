//! `verify`: another proxy asks whether to admit a request, and whose it is (forward-auth).

use std::sync::Arc;

use http::header::{HeaderValue, ORIGIN};
use http::{Method, Response, StatusCode};

use crate::domain::identity::Identified as _;
use crate::domain::judge::Permit;
use crate::domain::paths::AUTH_PREFIX;
use crate::domain::readings::Readings;
use crate::ports::LoadedSession;
use crate::rendering::{ReadyFields, X_SIDEGATE_ASSERTION};
use crate::serve::answer::asker::{Asker, Front};
use crate::serve::answer::challenge::Challenge;
use crate::serve::answer::query::parameter;
use crate::serve::answer::rejection::Rejection;
use crate::serve::answer::reply;
use crate::serve::app::SignIn;
use crate::serve::auth;
use crate::serve::body::Body;
use crate::serve::exchange::{Exchange, Refused, unsigned};
use crate::serve::request::description::{self, BadDescription, Description};
use crate::serve::request::headers::{self, Malformed};

/// Answers a proxy in front. From here on the exchange has the head of the described request, so that the judgement, the audit
/// log and the sign-in URL are those of a forwarded request.
pub(crate) async fn answer(exchange: &mut Exchange) -> Response<Body> {
    let front = Front { redirects: redirects(exchange) };
    // The certificate is that of the asking proxy, not of its client.
    exchange.certificate = None;
    let outcome = match verify(exchange).await {
        Ok(response) => {
            exchange.app.metrics.answered(response.status());
            return response;
        }
        Err(refused) => refused,
    };
    let Refused(rejection, cookies) = outcome;
    let rejection = in_terms_of_fronts(rejection);
    let Exchange { head, upgrades, caller, trace, snapshot, .. } = &*exchange;
    let asker = Asker::of(head, *upgrades, &trace.request_id, caller, snapshot).by(front);
    rejection.note(&asker, caller);
    exchange.app.metrics.refused(rejection.code());
    rejection.respond(&asker, cookies)
}

/// Whether the proxy passes on a redirect: it says so, or it asks with the path after `verify/`, as only such proxies do.
fn redirects(exchange: &Exchange) -> bool {
    let uri = &exchange.head.uri;
    let says = || parameter(uri.query(), "on_fail").ok().flatten().is_some_and(|says| says == "redirect");
    if exchange.caller.trusted && description::is_in_path(uri.path()) { true } else { says() }
}

async fn verify(exchange: &mut Exchange) -> Result<Response<Body>, Refused> {
    let snapshot = Arc::clone(&exchange.snapshot);
    let sign_in = snapshot.sign_in.as_ref().ok_or(Rejection::AuthDisabled)?;
    let Exchange { head, caller, .. } = &mut *exchange;
    let asks_by_path = caller.trusted && description::is_in_path(head.uri.path());
    if !asks_by_path && ![Method::GET, Method::HEAD].contains(&head.method) {
        return Err(Rejection::MethodNotAllowed("GET, HEAD").into());
    }
    let described = if caller.trusted {
        Description::read(head, caller, &snapshot.rules).map_err(Rejection::NotDescribed)?
    } else {
        if description::describes(head) {
            tracing::info!(peer = %caller.peer, "a description of a request does not count: TRUSTED_PROXIES does not name its sender");
        }
        None
    };
    let is_described = described.is_some();
    if let Some(described) = described {
        described.replace(head);
    }
    headers::strip_request(&mut head.headers, caller.trusted);
    let permit = if is_described {
        admit_described(exchange, sign_in).await?
    } else {
        admit_undescribed(exchange, sign_in).await?
    };
    permitted(exchange, sign_in, &permit)
}

/// The permit for a described request, whose head is the exchange's.
pub(crate) async fn admit_described(
    exchange: &Exchange,
    sign_in: &SignIn,
) -> Result<Permit<Arc<LoadedSession>>, Refused> {
    let path = Readings::of(exchange.head.uri.path())
        .map_err(|why| Rejection::NotDescribed(BadDescription::Path(why)))
        .inspect_err(|why| auth::refused_before_rules(exchange, why))?;
    if path.may_be_below(AUTH_PREFIX) {
        return Err(Rejection::NotDescribed(BadDescription::OwnPath).into());
    }
    if opens_websocket_from_elsewhere(exchange, sign_in) {
        return Err(Rejection::CrossSite.into());
    }
    auth::admit(exchange, &path).await
}

/// The permit for a request without a description. Its `Host` may be what the proxy in front calls Sidegate, so the public origin may open a
/// WebSocket as well.
async fn admit_undescribed(exchange: &Exchange, sign_in: &SignIn) -> Result<Permit<Arc<LoadedSession>>, Refused> {
    let is_public = headers::is_same_origin(&exchange.head.headers, &sign_in.origin_text);
    if !is_public && opens_websocket_from_elsewhere(exchange, sign_in) {
        return Err(Rejection::CrossSite.into());
    }
    auth::admit_blindly(exchange).await
}

/// A WebSocket sends cookies from any site, without a preflight, so its origin must be that of its host (RFC 6455 §10.2). Proxies
/// in front drop the hop-by-hop `Upgrade`, but pass on what only browsers' WebSockets send.
fn opens_websocket_from_elsewhere(exchange: &Exchange, sign_in: &SignIn) -> bool {
    let Exchange { head, caller, .. } = exchange;
    if !exchange.upgrades && !head.headers.contains_key("sec-websocket-key") || !head.headers.contains_key(ORIGIN) {
        return false;
    }
    let host = headers::host(&head.headers, caller).unwrap_or_default();
    !sign_in.is_origin_of(&head.headers, host)
}

/// 200, with the identity. Every field is always present, so that a proxy that copies them overwrites what a client has sent.
fn permitted(
    exchange: &Exchange,
    sign_in: &SignIn,
    permit: &Permit<Arc<LoadedSession>>,
) -> Result<Response<Body>, Refused> {
    let session = permit.session();
    let mut response = reply::bare(StatusCode::OK, Body::empty());
    let fields = response.headers_mut();
    for (name, value) in ReadyFields::for_asking_proxies(session.map(|session| session.identity())) {
        fields.insert(name, value);
    }
    let assertion = session.map(|session| sign_in.assertions.header(session, exchange.now)).transpose();
    let assertion = assertion.map_err(unsigned)?;
    fields.insert(&X_SIDEGATE_ASSERTION, assertion.unwrap_or(HeaderValue::from_static("")));
    Ok(response)
}

/// Proxies in front handle 401 and 403, and take other codes for our failure: so errors of the request itself become refusals.
pub(crate) fn in_terms_of_fronts(rejection: Rejection) -> Rejection {
    if matches!(rejection, Rejection::Malformed(Malformed::Upstreams)) {
        return Rejection::NotDescribed(BadDescription::Upstreams);
    }
    if matches!(rejection, Rejection::Malformed(Malformed::BehindPrefix)) {
        return Rejection::NotDescribed(BadDescription::BehindPrefix);
    }
    if matches!(rejection, Rejection::Token(Challenge::Malformed(_))) {
        return Rejection::Token(Challenge::Invalid);
    }
    rejection
}
