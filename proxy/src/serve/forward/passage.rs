//! What all forwarding has in common: the head for the upstream, and the response for the client.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Response, StatusCode, Version};
use http_body::Body as _;
use tokio::time::Instant;

use super::lasting::{self, Open};
use super::tunnel;
use crate::adapters::telemetry::Clean;
use crate::adapters::upstream::{Answer, Fields, RequestFraming, RequestHead};
use crate::domain::judge::Permit;
use crate::ports::LoadedSession;
use crate::rendering::{ReadyFields, X_SIDEGATE_ASSERTION};
use crate::serve::answer::rejection::Rejection;
use crate::serve::app::Snapshot;
use crate::serve::body::guard::{FRESH, Guard};
use crate::serve::body::{Body, BodyError, RequestBody};
use crate::serve::exchange::{Exchange, Refused, unsigned};
use crate::serve::request::connect;
use crate::serve::request::headers;
use crate::serve::request::headers::{Forwarded, Trace};
use crate::serve::request::question::Question;
use crate::serve::watch::InFlight;

/// What is known of a request when its response has come.
pub(super) struct Passing {
    pub(super) began: Instant,
    pub(super) upgrade: Option<hyper::upgrade::OnUpgrade>,
    /// How long the response's body may make no progress.
    pub(super) body_limit: Duration,
}

/// Turns the upstream's response into the client's.
pub(super) fn pass_back(
    answer: Response<Answer>,
    exchange: &Exchange,
    permit: &Permit<Arc<LoadedSession>>,
    Passing { began, upgrade, body_limit }: Passing,
    in_flight: &InFlight,
) -> Result<Response<Body>, Refused> {
    let (mut answer, body) = answer.into_parts();
    exchange.app.metrics.forwarded(answer.status, body.arrived().saturating_duration_since(began));
    if answer.status == StatusCode::SWITCHING_PROTOCOLS {
        // Nothing else was requested, and any other protocol would be a tunnel that nothing inspects (RFC 9110 §7.8).
        if !headers::switches_to_websocket(&answer.headers) {
            return Err(upstream_failed("it switched to another protocol than was asked for", exchange));
        }
        if !connect::is_accepted(&exchange.head, &answer.headers) {
            return Err(upstream_failed("its Sec-WebSocket-Accept is no answer to the key", exchange));
        }
        let (Some(client), Some(upstream)) = (upgrade, body.into_tunnel()) else {
            return Err(upstream_failed("it switched protocols unasked", exchange));
        };
        let held = in_flight.becomes_tunnel();
        return Ok(tunnel::open(client, upstream, answer.headers, opened(exchange, permit).kept(), exchange, held));
    }
    if connect::is_websocket(&exchange.head) && answer.status.is_success() {
        // Over HTTP/2 this would mean that the WebSocket is open (RFC 8441 §5).
        return Err(upstream_failed("it answered a WebSocket without switching to it", exchange));
    }
    headers::strip_response(&mut answer.headers);
    headers::strip_forbidden(&mut answer.headers, answer.status);
    if let Some(sign_in) = &exchange.snapshot.sign_in {
        sign_in.cookies.strip_response(&mut answer.headers);
    }
    answer.version = Version::default();
    if answer.status == StatusCode::RESET_CONTENT {
        // It has no content (RFC 9110 §15.3.6): any content is dropped here, with the upstream connection.
        return Ok(Response::from_parts(answer, Body::empty()));
    }
    // On HTTP/2 the client may still be slow to take a body that is complete here.
    let is_given_at_once = body.is_end_stream() || (body.is_here() && exchange.head.version != Version::HTTP_2);
    // An event stream may be silent for as long as it likes.
    let may_rest = !is_given_at_once && is_event_stream(&answer.headers);
    let limit = (!may_rest).then_some(body_limit);
    let guard = (!is_given_at_once)
        .then(|| Guard::of(opened(exchange, permit), began, body.size_hint().exact(), &exchange.trace.request_id));
    Ok(Response::from_parts(answer, Body::streamed(body, limit).guarded_by(guard)))
}

/// What the request opens, to be judged again while it lasts.
pub(super) fn opened(exchange: &Exchange, permit: &Permit<Arc<LoadedSession>>) -> Open {
    Open::of(&exchange.app, Question::of(&exchange.head, &exchange.caller).with(exchange.certificate.clone()), permit)
}

/// The head for the upstream: the client's without what it may not set, then the forwarding and identity fields.
pub(super) struct Outgoing<'e> {
    pub(super) head: &'e Parts,
    pub(super) target: &'e str,
    trace: &'e Trace,
    forwarded: Forwarded<'e>,
    /// Whether a trusted proxy has sent forwarding fields, which we write again with this hop added.
    trusted: bool,
    identity: Option<(&'e ReadyFields, HeaderValue)>,
    pub(super) websocket: bool,
    pub(super) in_flight: &'e InFlight,
    snapshot: &'e Snapshot,
}

impl<'e> Outgoing<'e> {
    pub(super) fn of(
        permit: &'e Permit<Arc<LoadedSession>>,
        exchange: &'e Exchange,
        websocket: bool,
        in_flight: &'e InFlight,
    ) -> Result<Self, Refused> {
        let Exchange { snapshot, now, .. } = exchange;
        let identity = match (&snapshot.sign_in, permit.session()) {
            (Some(sign_in), Some(session)) => {
                let assertion = sign_in.assertions.header(session, *now).map_err(unsigned)?;
                Some((session.headers(), assertion))
            }
            (_, None) | (None, Some(_)) => None,
        };
        Ok(Self { identity, ..Self::of_nobody(exchange, websocket, in_flight) })
    }

    /// The same without identity fields.
    pub(super) fn of_nobody(exchange: &'e Exchange, websocket: bool, in_flight: &'e InFlight) -> Self {
        let Exchange { head, caller, snapshot, trace, .. } = exchange;
        let target = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let forwarded = Forwarded::of(&head.headers, caller);
        let trusted = caller.trusted;
        Self { head, target, trace, forwarded, trusted, identity: None, websocket, in_flight, snapshot }
    }
}

impl RequestHead for Outgoing<'_> {
    fn method(&self) -> &Method {
        &self.head.method
    }

    fn target(&self) -> &str {
        self.target
    }

    fn receive_interim(&self, status: StatusCode, mut headers: HeaderMap) {
        // `100` answers our own `Expect`; HTTP/1.0 has no interim responses (RFC 9110 §15.2), and over HTTP/2 hyper sends none.
        if self.head.version != Version::HTTP_11 || status == StatusCode::CONTINUE {
            return;
        }
        headers::strip_response(&mut headers);
        headers::strip_forbidden(&mut headers, status);
        if let Some(sign_in) = &self.snapshot.sign_in {
            sign_in.cookies.strip_response(&mut headers);
        }
        self.in_flight.interim().add(status, &headers);
    }

    fn write_fields(&self, fields: &mut impl Fields) {
        for (name, value) in &self.head.headers {
            // If a wrong length were kept, the upstream would take the next request's bytes for this one's body.
            if *name != CONTENT_LENGTH && !(self.trusted && headers::is_rewritten(name)) {
                fields.field(name, value);
            }
        }
        if self.head.version == Version::HTTP_10 && !self.head.headers.contains_key(HOST) {
            // An HTTP/1.0 client need not send `Host`; HTTP/1.1 must (RFC 9112 §3.2).
            fields.field(&HOST, &HeaderValue::from_static(""));
        }
        self.trace.write_fields(fields);
        self.forwarded.write_fields(fields);
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

/// Gives up the request if its session ends, or the rules no longer admit it, before the response's head has come. A request answered
/// within a second pays nothing for it. The caller pins the sending: by value it would lie in the future twice.
pub(super) async fn while_admitted<T>(
    mut sending: Pin<&mut impl Future<Output = Result<T, Refused>>>,
    exchange: &Exchange,
    permit: &Permit<Arc<LoadedSession>>,
    began: Instant,
) -> Result<T, Refused> {
    let (mut ended, mut is_new) = (None, true);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(outcome) = sending.as_mut().poll(cx) {
            return Poll::Ready(outcome);
        }
        // The first poll does not read the clock.
        if std::mem::take(&mut is_new) || (ended.is_none() && began.elapsed() < FRESH) {
            // The wait for the upstream wakes the task by then.
            return Poll::Pending;
        }
        let ended = ended.get_or_insert_with(|| Box::pin(lasting::ended(opened(exchange, permit), Arc::default())));
        ended.as_mut().poll(cx).map(|()| {
            let (path, request_id) = path_and_request_id(exchange);
            tracing::debug!(%path, %request_id, "a request was given up: its session ended");
            Err(Rejection::Unauthenticated.into())
        })
    })
    .await
}

/// Frames the request by its actual body, not by its header fields.
pub(super) fn framing(head: &Parts, body: &RequestBody) -> RequestFraming {
    if body.is_end_stream() {
        let said = head.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0");
        return if said { RequestFraming::Length(0) } else { RequestFraming::Absent };
    }
    body.size_hint().exact().map_or(RequestFraming::Chunked, RequestFraming::Length)
}

pub(super) fn has_session_ended(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(|error| matches!(error.downcast_ref(), Some(BodyError::SessionEnded)))
}

/// What a log line about a failed request names: its path and its id.
pub(super) fn path_and_request_id(exchange: &Exchange) -> (Clean<'_>, Clean<'_>) {
    (Clean(exchange.head.uri.path()), Clean(exchange.trace.request_id.as_str()))
}

pub(super) fn upstream_failed(why: &str, exchange: &Exchange) -> Refused {
    let (path, request_id) = path_and_request_id(exchange);
    tracing::warn!(%path, %request_id, "the upstream broke off before it had answered: {why}");
    Rejection::UpstreamUnreachable.into()
}

/// The idempotent methods (RFC 9110 §9.2.2), except `TRACE`, which is not forwarded.
pub(super) fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

const EVENT_STREAM: &[u8] = b"text/event-stream";

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().get(..EVENT_STREAM.len()))
        .is_some_and(|kind| kind.eq_ignore_ascii_case(EVENT_STREAM))
}
