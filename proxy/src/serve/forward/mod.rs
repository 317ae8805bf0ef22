//! Forwards to the upstream and back: streams bodies, hands over upgrades.

mod copy;
pub(crate) mod lasting;
mod named;
mod passage;
mod tunnel;

use std::pin::pin;
use std::sync::Arc;

use http::Response;
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use self::passage::{
    Outgoing, Passing, framing, has_session_ended, is_idempotent, opened, pass_back, path_and_request_id,
    upstream_failed, while_admitted,
};
use crate::adapters::upstream::{Answer, Failure, NoConnection, Patience};
use crate::domain::judge::Permit;
use crate::ports::LoadedSession;
use crate::serve::answer::rejection::Rejection;
use crate::serve::body::guard::{FRESH, Guard};
use crate::serve::body::{Body, RequestBody};
use crate::serve::exchange::{Exchange, Refused};
use crate::serve::request::{credentials, headers};
use crate::serve::watch::InFlight;

/// Forwards one admitted request, with the permit's session, if any.
pub(crate) async fn forward(
    permit: Permit<Arc<LoadedSession>>,
    exchange: &mut Exchange,
    body: Incoming,
    websocket: bool,
    in_flight: &InFlight,
) -> Result<Response<Body>, Refused> {
    if websocket && !is_of_our_origin(exchange) {
        return Err(Rejection::CrossSite.into());
    }
    let destination = exchange.snapshot.destinations.of(permit.rule()).cloned();
    let impersonates = destination.as_ref().is_some_and(|destination| destination.impersonates);
    if impersonates && is_sent_by_another_sites_page(exchange, permit.session()) {
        return Err(Rejection::CrossSite.into());
    }
    let began = Instant::now();
    let upgrade = websocket.then(|| exchange.head.extensions.remove::<hyper::upgrade::OnUpgrade>()).flatten();
    let Exchange { head, snapshot, .. } = &mut *exchange;
    if let Some(sign_in) = &snapshot.sign_in {
        sign_in.cookies.strip_request(&mut head.headers);
    }
    if !snapshot.chosen.is_empty() {
        snapshot.chosen.strip(&mut head.headers);
    }
    if impersonates {
        credentials::strip(&mut head.headers);
    }
    if let Some(destination) = destination {
        let way = named::Way { destination, began, upgrade, websocket };
        // In a box, so that it does not enlarge the future of every request.
        return Box::pin(named::forward(permit, exchange, body, way, in_flight)).await;
    }
    let outgoing = Outgoing::of(&permit, exchange, websocket, in_flight)?;
    let sending = pin!(send(&outgoing, exchange, body, &permit, began));
    let answer = while_admitted(sending, exchange, &permit, began).await?;
    let body_limit = exchange.snapshot.timeouts.body;
    pass_back(answer, exchange, &permit, Passing { began, upgrade, body_limit }, in_flight)
}

/// Whether an unsafe request with a cookie comes from a page of another site or host: pages of sibling hosts also send the cookie,
/// and a server that impersonates people does not check a request's origin.
fn is_sent_by_another_sites_page(exchange: &Exchange, session: Option<&Arc<LoadedSession>>) -> bool {
    let is_by_cookie = session.is_some_and(|session| !session.is_token());
    if !is_by_cookie || exchange.head.method.is_safe() {
        return false;
    }
    match exchange.head.headers.get("sec-fetch-site") {
        Some(site) => !matches!(site.as_bytes(), b"same-origin" | b"none"),
        None => !is_of_our_origin(exchange),
    }
}

/// Whether `Origin` names no other origin. A WebSocket sends cookies from any site, without a preflight (RFC 6455 §10.2).
fn is_of_our_origin(exchange: &Exchange) -> bool {
    let Exchange { head, caller, snapshot, .. } = exchange;
    let asked = headers::host(&head.headers, caller).unwrap_or_default();
    match &snapshot.sign_in {
        // Another host that rules name has its own origin.
        Some(sign_in) if sign_in.is_public_host(asked) || snapshot.rules.are_about_host(asked) => {
            sign_in.is_origin_of(&head.headers, asked)
        }
        Some(sign_in) => headers::is_same_origin(&head.headers, &sign_in.origin_text),
        None => {
            let own = headers::own_origin(&head.headers, caller).unwrap_or_default();
            headers::is_same_origin(&head.headers, &own)
        }
    }
}

/// Sends the request, and again if that is safe: it was never sent; or a reused connection closed before the first byte of the
/// response, and the request has no body and is idempotent (RFC 9110 §9.2.2).
async fn send(
    outgoing: &Outgoing<'_>,
    exchange: &Exchange,
    body: Incoming,
    permit: &Permit<Arc<LoadedSession>>,
    now: Instant,
) -> Result<Response<Answer>, Refused> {
    let (upstream, timeouts, metrics) =
        (&exchange.snapshot.upstream, exchange.snapshot.timeouts, &exchange.app.metrics);
    let patience = Patience { first_byte: timeouts.first_byte, body: timeouts.body, look: FRESH };
    let mut body = RequestBody::of(body, timeouts.body, outgoing.in_flight, || {
        Guard::of(opened(exchange, permit), now, Some(0), &exchange.trace.request_id)
    });
    if !exchange.snapshot.chosen.is_empty() {
        body = body.within(None, &exchange.snapshot.chosen).unwrap_or_default();
    }
    let framing = framing(outgoing.head, &body);
    let repeatable = body.is_end_stream() && is_idempotent(&outgoing.head.method);
    let unreachable = |NoConnection { error, is_first }: NoConnection| {
        metrics.upstream_connect_errors.inc();
        let (_, request_id) = path_and_request_id(exchange);
        if is_first {
            tracing::warn!(%request_id, "{error}; until it can be reached again, further failures are only counted");
        } else {
            tracing::debug!(%request_id, "{error}");
        }
        Refused::from(Rejection::UpstreamUnreachable)
    };
    let lease = upstream.checkout(now, repeatable).await.map_err(unreachable)?;
    let reused = lease.is_reused();
    let again = match lease.send(outgoing, framing, body, patience).await {
        Ok(answer) => return Ok(answer),
        Err(Failure::Unsent(body)) => body,
        Err(Failure::Closed(_)) if reused && repeatable => RequestBody::empty(),
        Err(failure) => return Err(refuse(&failure, exchange)),
    };
    metrics.upstream_retries.inc();
    let lease = upstream.connect_new().await.map_err(unreachable)?;
    lease.send(outgoing, framing, again, patience).await.map_err(|failure| refuse(&failure, exchange))
}

fn refuse(failure: &Failure<RequestBody>, exchange: &Exchange) -> Refused {
    match failure {
        Failure::Body(error) if has_session_ended(error.as_ref()) => Rejection::Unauthenticated.into(),
        // A request whose own body breaks off or stalls is its client's fault, not the upstream's.
        Failure::Body(_) => Rejection::RequestTimeout.into(),
        Failure::TakesNothing(_) | Failure::Silent(_) => {
            exchange.app.metrics.upstream_timeouts.inc();
            let (path, request_id) = path_and_request_id(exchange);
            tracing::warn!(%path, %request_id, "the upstream gave no answer: {failure}");
            Rejection::UpstreamTimeout.into()
        }
        Failure::Closed(_) | Failure::Unsent(_) | Failure::Broken(_) => upstream_failed(&failure.to_string(), exchange),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiles only if `forward` takes a permit by value: no permit, no forward. [`Permit`] shows that no other code can
    /// make one.
    #[expect(dead_code, reason = "its types are what is tested")]
    async fn forward_takes_a_permit(
        permit: Permit<Arc<LoadedSession>>,
        exchange: &mut Exchange,
        body: Incoming,
        in_flight: &InFlight,
    ) -> Result<Response<Body>, Refused> {
        forward(permit, exchange, body, false, in_flight).await
    }
}
