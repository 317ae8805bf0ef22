//! The whole request path in one function: read [`answer`] from top to bottom to know what Sidegate does.

use std::convert::Infallible;
use std::sync::Arc;

use http::header::{CONTENT_LENGTH, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::adapters::upstream::recycle;
use crate::domain::caller::Peer;
use crate::domain::certificate::ClientCertificate;
use crate::domain::paths::{self, AUTH_PREFIX};
use crate::domain::readings::Readings;
use crate::serve::answer::asker::Asker;
use crate::serve::answer::rejection::Rejection;
use crate::serve::app::App;
use crate::serve::auth;
use crate::serve::body::Body;
use crate::serve::clock;
use crate::serve::exchange::{Exchange, Refused};
use crate::serve::forward;
use crate::serve::request::headers::{self, Malformed, Trace};
use crate::serve::request::{connect, description};
use crate::serve::verify;
use crate::serve::watch::InFlight;

/// Handles a request, from its head to the head of its response.
async fn answer(exchange: &mut Exchange, body: Incoming, in_flight: &InFlight) -> Result<Response<Body>, Refused> {
    let Exchange { head, upgrades, caller, .. } = exchange;
    headers::check(head).map_err(Rejection::Malformed)?;
    // In any case: servers that ignore the case of a method would take `trace` for `TRACE`.
    if ["TRACE", "CONNECT"].iter().any(|name| head.method.as_str().eq_ignore_ascii_case(name)) {
        return Err(Rejection::MethodNotAllowed("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS").into());
    }
    headers::join_cookies(&mut head.headers);
    let over_http2 = connect::is_websocket(head);
    if description::is_asked_at(head.uri.path()) && !over_http2 {
        // An operator's own proxy asks for all of its clients on few connections, which make room for nobody.
        if caller.trusted {
            in_flight.lets_in();
        }
        let answer = Box::pin(verify::answer(exchange)).await;
        if answer.status() == StatusCode::OK {
            in_flight.lets_in();
        }
        return Ok(answer);
    }
    let websocket = over_http2 || (*upgrades && headers::is_websocket(head));
    // From here on, the head has no identity or forwarding fields that this caller may not set.
    headers::strip_request(&mut head.headers, caller.trusted);

    let path = Readings::of(exchange.head.uri.path())
        .map_err(|why| Rejection::Malformed(Malformed::Path(why)))
        .inspect_err(|why| auth::refused_before_rules(exchange, why))?;
    if path.may_be_below(AUTH_PREFIX) {
        // An upstream never gets such a path, and our endpoints match only their literal spelling.
        if !path.is_plain() || over_http2 {
            return Err(Rejection::NotFound.into());
        }
        if exchange.head.uri.path() == paths::CALLBACK {
            in_flight.signs_in();
        }
        // In a box, so that the sign-in code does not enlarge the future of every request.
        return Box::pin(auth::answer(exchange, body)).await;
    }
    if exchange.caller.trusted {
        headers::normalize_trusted(&mut exchange.head.headers, exchange.caller.client);
    }
    if let Some(answer) = auth::bearer::metadata(exchange).filter(|_| !over_http2) {
        return answer;
    }
    let permit = auth::admit(exchange, &path).await?;
    if let Some(sign_in) = &exchange.snapshot.sign_in {
        auth::bearer::strip(&mut exchange.head.headers, sign_in);
    }
    if exchange.snapshot.rules.names_methods() {
        headers::strip_method_overrides(&mut exchange.head.headers);
    }
    in_flight.lets_in();
    forward::forward(permit, exchange, body, websocket, in_flight).await
}

/// Answers one request, by a response or a refusal.
pub(crate) fn handle(
    app: Arc<App>,
    peer: Peer,
    certificate: Option<Arc<ClientCertificate>>,
    request: Request<Incoming>,
    in_flight: InFlight,
) -> impl Future<Output = Result<Response<Body>, Infallible>> {
    let (mut exchange, body) = begin(app, peer, certificate, request);
    // Taken now: forward-auth may replace the method by that of the request it asks about.
    let is_head = exchange.head.method == Method::HEAD;
    async move {
        let response = match answer(&mut exchange, body, &in_flight).await {
            Ok(response) => response,
            Err(refused) => refuse(&exchange, refused),
        };
        in_flight.interim().end();
        recycle(std::mem::take(&mut exchange.head.headers));
        let mut response = if is_head { without_body(response) } else { response };
        response.body_mut().hold(in_flight);
        Ok(response)
    }
}

fn begin(
    app: Arc<App>,
    peer: Peer,
    certificate: Option<Arc<ClientCertificate>>,
    request: Request<Incoming>,
) -> (Exchange, Incoming) {
    let (mut head, body) = request.into_parts();
    let snapshot = app.snapshot();
    let caller = headers::caller(&head.headers, peer, &snapshot.trusted_proxies);
    let trace = Trace::of(&mut head.headers);
    let upgrades = connect::make_upgrade(&mut head) || head.headers.contains_key(UPGRADE);
    // A proxy in front presents its own certificate, not that of its client.
    let certificate = certificate.filter(|_| !caller.trusted);
    (Exchange { head, upgrades, caller, certificate, now: clock::now(), trace, app, snapshot }, body)
}

/// The response to `HEAD`: the head that `GET` would get (RFC 9110 §9.3.2). In HTTP/2 only the end of the stream ends the response.
fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    if let Some(length) = body.length_of_text().filter(|length| *length > 0) {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Response::from_parts(head, body.without_text())
}

fn refuse(exchange: &Exchange, Refused(rejection, cookies): Refused) -> Response<Body> {
    let Exchange { head, upgrades, caller, trace, snapshot, .. } = exchange;
    let asker = Asker::of(head, *upgrades, &trace.request_id, caller, snapshot);
    rejection.note(&asker, &exchange.caller);
    exchange.app.metrics.refused(rejection.code());
    rejection.respond(&asker, cookies)
}
