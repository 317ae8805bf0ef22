//! To the upstream and back: stream bodies, hand over upgrades.

pub(crate) mod lasting;
mod tunnel;

use std::sync::Arc;
use std::task::Poll;

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::adapters::telemetry::Clean;
use crate::adapters::upstream::{Answer, Failure, Fields, NoConnection, Patience, RequestFraming, RequestHead};
use crate::domain::judge::Permit;
use crate::ports::{LoadedSession, ReadyFields};
use crate::serve::answer::rejection::Rejection;
use crate::serve::app::Snapshot;
use crate::serve::body::guard::{FRESH, Guard};
use crate::serve::body::{Body, BodyError, RequestBody};
use crate::serve::exchange::{Exchange, Refused};
use crate::serve::forward::lasting::Open;
use crate::serve::request::headers;
use crate::serve::request::headers::{Forwarded, Trace};
use crate::serve::request::question::Question;
use crate::serve::watch::InFlight;

static X_SIDEGATE_ASSERTION: HeaderName = HeaderName::from_static("x-sidegate-assertion");

/// Forwards one request, with leave: on behalf of the permit's session, or of nobody.
pub(crate) async fn forward(
    permit: Permit<Arc<LoadedSession>>,
    exchange: &mut Exchange,
    body: Incoming,
    websocket: bool,
    in_flight: &InFlight,
) -> Result<Response<Body>, Refused> {
    if websocket && !may_open_websocket(exchange) {
        return Err(Rejection::CrossSite.into());
    }
    let began = Instant::now();
    let upgrade = websocket.then(|| exchange.head.extensions.remove::<hyper::upgrade::OnUpgrade>()).flatten();
    let Exchange { head, snapshot, .. } = &mut *exchange;
    if let Some(sign_in) = &snapshot.sign_in {
        sign_in.cookies.strip_request(&mut head.headers);
    }
    let outgoing = Outgoing::of(&permit, exchange, websocket, in_flight)?;
    let (mut answer, body) =
        while_admitted(send(&outgoing, exchange, body, &permit, began), exchange, &permit, began).await?.into_parts();
    exchange.app.metrics.forwarded(answer.status, body.arrived().saturating_duration_since(began));
    if answer.status == StatusCode::SWITCHING_PROTOCOLS {
        // Nothing else was asked for, and whatever else came would be a tunnel that nobody looks into (RFC 9110 §7.8).
        if !headers::switches_to_websocket(&answer.headers) {
            return Err(upstream_failed("it switched to another protocol than was asked for", exchange));
        }
        let (Some(client), Some(upstream)) = (upgrade, body.into_tunnel()) else {
            return Err(upstream_failed("it switched protocols unasked", exchange));
        };
        in_flight.becomes_tunnel();
        return Ok(tunnel::open(client, upstream, answer.headers, opened(exchange, &permit), exchange));
    }
    headers::strip_response(&mut answer.headers);
    headers::strip_forbidden(&mut answer.headers, answer.status);
    if let Some(sign_in) = &exchange.snapshot.sign_in {
        sign_in.cookies.strip_response(&mut answer.headers);
    }
    let event_stream = is_event_stream(&answer.headers);
    let limit = (!event_stream).then_some(exchange.snapshot.timeouts.body);
    answer.version = Version::default();
    if answer.status == StatusCode::RESET_CONTENT {
        // It has no content (RFC 9110 §15.3.6): what there is all the same ends here, and the connection with it.
        return Ok(Response::from_parts(answer, Body::empty()));
    }
    let guard = (!body.is_end_stream()).then(|| Guard::of(opened(exchange, &permit), began, body.size_hint().exact()));
    Ok(Response::from_parts(answer, Body::streamed(body, limit).guarded_by(guard)))
}

/// What the request opens, to be asked again while it lasts.
fn opened(exchange: &Exchange, permit: &Permit<Arc<LoadedSession>>) -> Open {
    Open::of(&exchange.app, Question::of(&exchange.head, &exchange.caller), permit)
}

/// The head that the upstream is sent: what the client says, less what it may not say, then how the request came and who it is.
struct Outgoing<'e> {
    head: &'e Parts,
    target: &'e str,
    trace: &'e Trace,
    forwarded: Forwarded<'e>,
    /// Whether a trusted proxy has said how the request came, which we say anew with ourselves added.
    trusted: bool,
    identity: Option<(&'e ReadyFields, HeaderValue)>,
    websocket: bool,
    in_flight: &'e InFlight,
    snapshot: &'e Snapshot,
}

impl<'e> Outgoing<'e> {
    fn of(
        permit: &'e Permit<Arc<LoadedSession>>,
        exchange: &'e Exchange,
        websocket: bool,
        in_flight: &'e InFlight,
    ) -> Result<Self, Refused> {
        let Exchange { head, caller, snapshot, now, trace, .. } = exchange;
        let identity = match (&snapshot.sign_in, permit.session()) {
            (Some(sign_in), Some(session)) => {
                let assertion = sign_in.assertions.header(session, *now).map_err(|error| {
                    tracing::error!("{error}: the request was not forwarded");
                    Rejection::Internal
                })?;
                Some((session.headers(), assertion))
            }
            (_, None) | (None, Some(_)) => None,
        };
        let target = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let forwarded = Forwarded::of(&head.headers, caller);
        Ok(Self { head, target, trace, forwarded, trusted: caller.trusted, identity, websocket, in_flight, snapshot })
    }
}

impl RequestHead for Outgoing<'_> {
    fn method(&self) -> &Method {
        &self.head.method
    }

    fn target(&self) -> &str {
        self.target
    }

    fn hear_interim(&self, status: StatusCode, mut headers: HeaderMap) {
        // `100` is the answer to our own `Expect`; an HTTP/1.0 client knows none (RFC 9110 §15.2), and over HTTP/2 hyper sends none.
        if self.head.version != Version::HTTP_11 || status == StatusCode::CONTINUE {
            return;
        }
        headers::strip_response(&mut headers);
        headers::strip_forbidden(&mut headers, status);
        if let Some(sign_in) = &self.snapshot.sign_in {
            sign_in.cookies.strip_response(&mut headers);
        }
        self.in_flight.interim().hear(status, &headers);
    }

    fn tell(&self, fields: &mut impl Fields) {
        for (name, value) in &self.head.headers {
            // Left standing, a length would make the upstream take the next request's bytes for this one's body.
            if *name != CONTENT_LENGTH && !(self.trusted && headers::is_said_anew(name)) {
                fields.field(name, value);
            }
        }
        if self.head.version == Version::HTTP_10 && !self.head.headers.contains_key(HOST) {
            // An HTTP/1.0 client need not name a host; HTTP/1.1 must (RFC 9112 §3.2).
            fields.field(&HOST, &HeaderValue::from_static(""));
        }
        self.trace.tell(fields);
        self.forwarded.tell(fields);
        if let Some((identity, assertion)) = &self.identity {
            fields.ready(identity);
            fields.field(&X_SIDEGATE_ASSERTION, assertion);
        }
        if self.websocket {
            fields.field(&CONNECTION, &HeaderValue::from_static("upgrade"));
            fields.field(&UPGRADE, &HeaderValue::from_static("websocket"));
        }
    }
}

/// A WebSocket carries cookies from any site and knows no preflight, so its origin must be ours (RFC 6455 §10.2).
fn may_open_websocket(exchange: &Exchange) -> bool {
    let Exchange { head, caller, snapshot, .. } = exchange;
    let asked = headers::host(&head.headers, caller).unwrap_or_default();
    let own;
    let origin = match &snapshot.sign_in {
        // Another host that rules are about has an origin of its own.
        Some(sign_in) if sign_in.is_public_host(asked) || !snapshot.rules.are_about_host(asked) => {
            sign_in.origin_text.as_str()
        }
        Some(_) | None => {
            own = headers::own_origin(&head.headers, caller).unwrap_or_default();
            &own
        }
    };
    headers::is_same_origin(&head.headers, origin)
}

/// Gives the answer up where its session ends, or nobody may pass any more, before its head has come. A request that is answered within a
/// second costs nothing for it.
async fn while_admitted<T>(
    sending: impl Future<Output = Result<T, Refused>>,
    exchange: &Exchange,
    permit: &Permit<Arc<LoadedSession>>,
    began: Instant,
) -> Result<T, Refused> {
    let (mut sending, mut ended) = (std::pin::pin!(sending), None);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(outcome) = sending.as_mut().poll(cx) {
            return Poll::Ready(outcome);
        }
        if ended.is_none() && began.elapsed() < FRESH {
            // Whoever waits for the upstream wakes us by then.
            return Poll::Pending;
        }
        let ended = ended.get_or_insert_with(|| Box::pin(lasting::ended(opened(exchange, permit), Arc::default())));
        ended.as_mut().poll(cx).map(|()| {
            tracing::debug!("a request was given up: its session ended");
            Err(Rejection::Unauthenticated.into())
        })
    })
    .await
}

/// Sends the request, and once more where that is safe: it was never sent; or a connection that had been used before closed before
/// the first byte of the answer, and the request has no body and may be repeated (RFC 9110 §9.2.2).
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
    let body = RequestBody::of(body, timeouts.body, || Guard::of(opened(exchange, permit), now, Some(0)));
    let framing = framing(outgoing.head, &body);
    let repeatable = body.is_end_stream() && is_idempotent(&outgoing.head.method);
    let unreachable = |NoConnection { error, is_first }: NoConnection| {
        metrics.upstream_connect_errors.inc();
        let (_, request_id) = told(exchange);
        if is_first {
            tracing::warn!(%request_id, "{error}; until it can be reached again, further failures are only counted");
        } else {
            tracing::debug!(%request_id, "{error}");
        }
        Refused::from(Rejection::UpstreamUnreachable)
    };
    let lease = upstream.checkout(now).await.map_err(unreachable)?;
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

/// Frames the request by what its body is, not by what its headers said.
fn framing(head: &Parts, body: &RequestBody) -> RequestFraming {
    if body.is_end_stream() {
        let said = head.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0");
        return if said { RequestFraming::Length(0) } else { RequestFraming::Absent };
    }
    body.size_hint().exact().map_or(RequestFraming::Chunked, RequestFraming::Length)
}

fn refuse(failure: &Failure<RequestBody>, exchange: &Exchange) -> Refused {
    match failure {
        Failure::Body(error) if has_session_ended(error.as_ref()) => Rejection::Unauthenticated.into(),
        // A request whose own body breaks off or stalls is its client's fault, not the upstream's.
        Failure::Body(_) => Rejection::RequestTimeout.into(),
        Failure::TakesNothing(_) | Failure::Silent(_) => {
            exchange.app.metrics.upstream_timeouts.inc();
            let (path, request_id) = told(exchange);
            tracing::warn!(%path, %request_id, "the upstream gave no answer: {failure}");
            Rejection::UpstreamTimeout.into()
        }
        Failure::Closed(_) | Failure::Unsent(_) | Failure::Broken(_) => upstream_failed(&failure.to_string(), exchange),
    }
}

fn has_session_ended(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(|error| matches!(error.downcast_ref(), Some(BodyError::SessionEnded)))
}

/// What a line about a request's failure names: cause and request stand together.
fn told(exchange: &Exchange) -> (Clean<'_>, Clean<'_>) {
    let request_id = exchange.trace.request_id.to_str().unwrap_or_default();
    (Clean(exchange.head.uri.path()), Clean(request_id))
}

fn upstream_failed(why: &str, exchange: &Exchange) -> Refused {
    let (path, request_id) = told(exchange);
    tracing::warn!(%path, %request_id, "the upstream broke off before it had answered: {why}");
    Rejection::UpstreamUnreachable.into()
}

/// The methods that may be repeated (RFC 9110 §9.2.2), but for `TRACE`, which does not pass.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

const EVENT_STREAM: &[u8] = b"text/event-stream";

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().get(..EVENT_STREAM.len()))
        .is_some_and(|kind| kind.eq_ignore_ascii_case(EVENT_STREAM))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does not compile where `forward` goes without a permit, or takes one only to look at: no permit, no forward. That nobody can
    /// make one is shown at [`Permit`].
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
