//! To the upstream and back: stream bodies, hand over upgrades.

use std::sync::Arc;
use std::time::Duration;

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::adapters::telemetry::Metrics;
use crate::adapters::upstream::{ConnectError, Lease, SendError, Upstream};
use crate::domain::policy::Permit;
use crate::ports::LoadedSession;
use crate::serve::body::{Body, Progress, RequestBody};
use crate::serve::exchange::{Exchange, Refused};
use crate::serve::guard::Guard;
use crate::serve::rejection::Rejection;
use crate::serve::settings::Timeouts;
use crate::serve::watch::InFlight;
use crate::serve::{headers, lasting, streams, tunnel};

/// Forwards one request, with leave: on behalf of the permit's session, or of nobody.
pub(crate) async fn forward(
    permit: Permit<Arc<LoadedSession>>,
    mut exchange: Exchange,
    body: Incoming,
    websocket: bool,
    in_flight: &InFlight,
) -> Result<Response<Body>, Refused> {
    if websocket && !may_open_websocket(&exchange) {
        return Err(Rejection::CrossSite.into());
    }
    let began = Instant::now();
    dress(&permit, &mut exchange, websocket)?;
    let upgrade = websocket.then(|| exchange.head.extensions.remove::<hyper::upgrade::OnUpgrade>()).flatten();
    let (body, progress) = RequestBody::of(body, exchange.site.timeouts.body);
    let (mut response, lease) = send(&mut exchange, body, progress.as_deref()).await?;
    exchange.house.metrics.forwarded(response.status(), began.elapsed());
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(upgrade) = upgrade else { return Err(upstream_failed("it switched protocols unasked")) };
        in_flight.becomes_tunnel();
        return Ok(tunnel::open(upgrade, response, permit, &exchange));
    }
    headers::strip_response(response.headers_mut());
    if let Some(sign_in) = &exchange.site.sign_in {
        sign_in.cookies.strip_response(response.headers_mut());
    }
    let event_stream = is_event_stream(response.headers());
    let limit = (!event_stream).then_some(exchange.site.timeouts.body);
    if exchange.head.version == Version::HTTP_2 && !event_stream {
        streams::watch_this_stream();
    }
    *response.version_mut() = Version::default();
    let response = response.map(|body| Body::streamed(body, lease, progress, limit));
    let length = response.body().size_hint().exact();
    let session = permit.session().filter(|_| Guard::is_needed(length));
    let guard = session.map(|session| {
        Guard::until(lasting::ended(Arc::clone(&exchange.house), Arc::clone(session), Arc::default()), began)
    });
    Ok(response.map(|body| body.guarded_by(guard)))
}

/// Says who it is and how it came, and turns the head into one for the upstream.
fn dress(permit: &Permit<Arc<LoadedSession>>, exchange: &mut Exchange, websocket: bool) -> Result<(), Refused> {
    let Exchange { head, caller, site, now, .. } = exchange;
    headers::set_forwarded(&mut head.headers, caller);
    if let Some(sign_in) = &site.sign_in {
        sign_in.cookies.strip_request(&mut head.headers);
        if let Some(session) = permit.session() {
            let assertion = sign_in.assertions.header(session, *now).map_err(|error| {
                tracing::error!("{error}: the request was not forwarded");
                Rejection::Internal
            })?;
            headers::set_identity(&mut head.headers, session.headers(), assertion);
        }
    }
    if websocket {
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    Ok(())
}

/// A WebSocket carries cookies from any site and knows no preflight, so its origin must be ours (RFC 6455 §10.2).
fn may_open_websocket(exchange: &Exchange) -> bool {
    let own;
    let origin = match &exchange.site.sign_in {
        Some(sign_in) => sign_in.origin_text.as_str(),
        None => {
            own = headers::own_origin(&exchange.head.headers, &exchange.caller).unwrap_or_default();
            &own
        }
    };
    headers::is_same_origin(&exchange.head.headers, origin)
}

/// Sends the request, and once more where that is safe: it was never sent; or a connection that had been used before closed before
/// the first byte of the answer, and the request has no body and may be repeated (RFC 9110 §9.2.2).
async fn send(
    exchange: &mut Exchange,
    body: RequestBody,
    progress: Option<&Progress>,
) -> Result<(Response<Incoming>, Lease<RequestBody>), Refused> {
    let upstream = Arc::clone(&exchange.site.upstream);
    let timeouts = exchange.site.timeouts;
    let mut head = take_head(exchange, &upstream);
    frame(&mut head, &body, upstream.is_multiplexed());
    let repeatable = progress.is_none() && is_idempotent(&head.method);
    let metrics = Arc::clone(&exchange.house.metrics);
    let unreachable = |error: ConnectError| {
        metrics.upstream_connect_errors.inc();
        tracing::warn!("{error}");
        Refused::from(Rejection::UpstreamUnreachable)
    };
    let mut lease = upstream.checkout().await.map_err(unreachable)?;
    let spare = (repeatable && lease.is_reused()).then(|| Spare::of(&head));
    let failure = match await_head(lease.send(Request::from_parts(head, body)), progress, timeouts, &metrics).await? {
        Ok(response) => return Ok((response, lease)),
        Err(failure) => failure,
    };
    let again = match (failure.unsent, spare) {
        (Some(unsent), _) => unsent,
        (None, Some(spare))
            if failure.error.is_incomplete_message() || failure.error.is_canceled() || is_reset(&failure.error) =>
        {
            Request::from_parts(spare.head(), RequestBody::empty())
        }
        (None, _) => return Err(upstream_failed_with(&failure.error, progress)),
    };
    metrics.upstream_retries.inc();
    let mut lease = upstream.connect_new().await.map_err(unreachable)?;
    match await_head(lease.send(again), progress, timeouts, &metrics).await? {
        Ok(response) => Ok((response, lease)),
        Err(failure) => Err(upstream_failed_with(&failure.error, progress)),
    }
}

/// The head as the upstream is sent it; what stays behind is enough for the log.
fn take_head(exchange: &mut Exchange, upstream: &Upstream<RequestBody>) -> Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = exchange.head.method.clone();
    head.headers = std::mem::take(&mut exchange.head.headers);
    let target = exchange.head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    if upstream.is_multiplexed() {
        head.version = Version::HTTP_2;
        let host = head.headers.remove(HOST);
        let authority = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or("localhost");
        let uri = Uri::builder().scheme("http").authority(authority).path_and_query(target).build();
        head.uri = uri.unwrap_or_default();
    } else {
        head.version = Version::HTTP_11;
        head.uri = Uri::from(target);
        if !head.headers.contains_key(HOST) {
            // An HTTP/1.0 client need not name a host; HTTP/1.1 must (RFC 9112 §3.2).
            head.headers.insert(HOST, HeaderValue::from_static(""));
        }
    }
    head
}

/// Frames the request by what its body is, not by what its headers said.
fn frame(head: &mut Parts, body: &RequestBody, multiplexed: bool) {
    if body.is_end_stream() {
        // Left standing, a length would make the upstream take the next request's bytes for this one's body.
        if head.headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0") {
            head.headers.remove(CONTENT_LENGTH);
        }
    } else if body.size_hint().exact().is_none() {
        head.headers.remove(CONTENT_LENGTH);
        if !multiplexed {
            // Said outright, since a `GET` with a body of unknown length would else lose it.
            head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
}

/// What is kept of a head while it is under way: its header fields as text in one piece, since to clone them one by one costs more
/// than all else that is done with a request.
struct Spare {
    method: Method,
    uri: Uri,
    version: Version,
    fields: Vec<(u16, u32)>,
    text: Vec<u8>,
}

impl Spare {
    fn of(head: &Parts) -> Self {
        let mut fields = Vec::with_capacity(head.headers.len());
        let mut text = Vec::with_capacity(2048);
        for (name, value) in &head.headers {
            let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
            text.extend_from_slice(name);
            text.extend_from_slice(value);
            fields.push((u16::try_from(name.len()).unwrap_or(0), u32::try_from(value.len()).unwrap_or(0)));
        }
        Self { method: head.method.clone(), uri: head.uri.clone(), version: head.version, fields, text }
    }

    fn head(self) -> Parts {
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = self.method;
        head.uri = self.uri;
        head.version = self.version;
        let mut rest = self.text.as_slice();
        for (name, value) in self.fields {
            let Some((field, after)) = rest.split_at_checked(usize::from(name)) else { break };
            let Some((text, after)) = after.split_at_checked(value as usize) else { break };
            rest = after;
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(field), HeaderValue::from_bytes(text)) {
                head.headers.append(name, value);
            }
        }
        head
    }
}

/// Waits for the head of an answer: from the last byte of the request `TIMEOUT_FIRST_BYTE`, and while its body is under way as long as
/// that moves.
async fn await_head(
    sending: impl Future<Output = Result<Response<Incoming>, SendError<RequestBody>>>,
    progress: Option<&Progress>,
    timeouts: Timeouts,
    metrics: &Metrics,
) -> Result<Result<Response<Incoming>, SendError<RequestBody>>, Refused> {
    let began = Instant::now();
    let deadline = || match progress {
        None => began + timeouts.first_byte,
        Some(progress) if progress.is_done() => progress.last_moved().max(began) + timeouts.first_byte,
        Some(progress) => progress.last_moved().max(began) + timeouts.body,
    };
    let alarm = tokio::time::sleep_until(deadline());
    tokio::pin!(sending, alarm);
    loop {
        tokio::select! {
            biased;
            outcome = &mut sending => return Ok(outcome),
            () = &mut alarm => {
                let deadline = deadline();
                if Instant::now() >= deadline {
                    return Err(overdue(progress, timeouts, metrics));
                }
                alarm.as_mut().reset(deadline);
            }
        }
    }
}

fn overdue(progress: Option<&Progress>, timeouts: Timeouts, metrics: &Metrics) -> Refused {
    let under_way = progress.filter(|progress| !progress.is_done());
    if under_way.is_some_and(Progress::waits_for_client) {
        return Rejection::RequestTimeout.into();
    }
    let (limit, what): (Duration, _) = match under_way {
        Some(_) => (timeouts.body, "took no byte of the request (TIMEOUT_BODY)"),
        None => (timeouts.first_byte, "did not answer (TIMEOUT_FIRST_BYTE)"),
    };
    metrics.upstream_timeouts.inc();
    tracing::warn!("the upstream {what} for {limit:?}");
    Rejection::UpstreamTimeout.into()
}

fn upstream_failed(why: &str) -> Refused {
    tracing::warn!("the upstream broke off before it had answered: {why}");
    Rejection::UpstreamUnreachable.into()
}

/// A request whose own body breaks off or stalls is its client's fault, not the upstream's.
fn upstream_failed_with(error: &hyper::Error, progress: Option<&Progress>) -> Refused {
    if error.is_user() && progress.is_some_and(|progress| !progress.is_done()) {
        return Rejection::RequestTimeout.into();
    }
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    upstream_failed(&format!("{error} {source}"))
}

fn is_reset(error: &hyper::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return matches!(
                io.kind(),
                std::io::ErrorKind::ConnectionReset
                    | std::io::ErrorKind::BrokenPipe
                    | std::io::ErrorKind::UnexpectedEof
            );
        }
        cause = inner.source();
    }
    false
}

/// The methods that may be repeated (RFC 9110 §9.2.2), but for `TRACE`, which does not pass.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().to_ascii_lowercase().starts_with(b"text/event-stream"))
}
