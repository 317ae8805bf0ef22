//! Envoy asks by gRPC whether to admit a request (`envoy.service.auth.v3.Authorization/Check`): judged like forwarded requests.
//!
//! Every client of the listener is believed, so it has its own address (`EXT_AUTHZ_ADDR`).

mod message;
mod read;
mod respond;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, UPGRADE};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use tonic::server::Grpc;
use tonic_prost::ProstCodec;

use self::message::{CheckRequest, CheckResponse, HealthCheckRequest, HealthCheckResponse, NOT_SERVING, SERVING};
use self::read::Described;
use crate::adapters::telemetry::Clean;
use crate::domain::caller::{Caller, Peer};
use crate::serve::answer::asker::{Asker, Front};
use crate::serve::answer::rejection::Rejection;
use crate::serve::answer::reply;
use crate::serve::app::{App, Snapshot};
use crate::serve::auth;
use crate::serve::body::Body;
use crate::serve::clock;
use crate::serve::exchange::{Exchange, Refused};
use crate::serve::request::headers::{self, Trace};
use crate::serve::verify;
use crate::serve::watch::InFlight;

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// The services whose health can be checked; the empty name is the whole server.
const SERVICES: [&str; 2] = ["", "envoy.service.auth.v3.Authorization"];

/// The largest accepted message, in bytes: a head of the largest `LIMIT_HEADER_BYTES`, and Envoy's other attributes.
const MESSAGE_MOST: usize = 2 * 1024 * 1024;
/// The prefix of a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// What a listener for checks needs in addition.
pub(crate) struct Checks {
    /// Whether the proxy is ready, for health checks.
    pub(crate) is_ready: Box<dyn Fn() -> bool + Send + Sync>,
}

/// Answers one call.
pub(crate) async fn handle(
    app: Arc<App>,
    checks: Arc<Checks>,
    peer: Peer,
    request: Request<Incoming>,
    in_flight: InFlight,
) -> Result<Response<Body>, Infallible> {
    let mut response = answer(app, checks, peer, request, &in_flight).await;
    in_flight.interim().end();
    response.body_mut().hold(in_flight);
    Ok(response)
}

async fn answer(
    app: Arc<App>,
    checks: Arc<Checks>,
    peer: Peer,
    request: Request<Incoming>,
    in_flight: &InFlight,
) -> Response<Body> {
    let is_grpc =
        request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if request.version() != Version::HTTP_2 || request.method() != Method::POST || !is_grpc {
        let sentence =
            "This port speaks gRPC (HTTP/2 without TLS), for Envoy's ext_authz: point browsers at LISTEN_ADDR.\n";
        return reply::bare(StatusCode::UNSUPPORTED_MEDIA_TYPE, Body::text(sentence));
    }
    let snapshot = app.snapshot();
    let path = request.uri().path().to_owned();
    let called = match path.as_str() {
        CHECK | HEALTH => whole(request, &snapshot).await,
        _ => Err(tonic::Status::unimplemented(
            "only Check of envoy.service.auth.v3.Authorization and of grpc.health.v1.Health is here",
        )),
    };
    let called = match called {
        Ok(called) => called,
        Err(status) => {
            note_failure(&peer, &path, &status);
            return convert(status.into_http::<tonic::body::Body>()).await;
        }
    };
    let response = if path == HEALTH {
        let codec = ProstCodec::<HealthCheckResponse, HealthCheckRequest>::default();
        limited(Grpc::new(codec)).unary(Health(checks), called).await
    } else {
        in_flight.lets_in();
        let codec = ProstCodec::<CheckResponse, CheckRequest>::default();
        limited(Grpc::new(codec)).unary(Authorization { app, peer, snapshot }, called).await
    };
    if let Some(status) =
        tonic::Status::from_header_map(response.headers()).filter(|status| status.code() != tonic::Code::Ok)
    {
        note_failure(&peer, &path, &status);
    }
    convert(response).await
}

fn limited<T: tonic::codec::Codec>(grpc: Grpc<T>) -> Grpc<T> {
    grpc.apply_max_message_size_config(Some(MESSAGE_MOST), None)
}

fn note_failure(peer: &Peer, path: &str, status: &tonic::Status) {
    let (path, reason) = (Clean(path), Clean(status.message()));
    tracing::info!(peer = %peer.address.ip(), %path, code = ?status.code(), %reason, "a call to EXT_AUTHZ_ADDR failed");
}

/// The call with its message, read within limits: [`MESSAGE_MOST`], and the time limit for a head.
async fn whole(request: Request<Incoming>, snapshot: &Snapshot) -> Result<Request<Full<Bytes>>, tonic::Status> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MESSAGE_MOST + PREFIX).collect();
    match tokio::time::timeout(snapshot.timeouts.header, body).await {
        Ok(Ok(body)) => Ok(Request::from_parts(head, Full::new(body.to_bytes()))),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(tonic::Status::resource_exhausted(format!("the message has more than {MESSAGE_MOST} bytes")))
        }
        Ok(Err(_)) => Err(tonic::Status::cancelled("the message broke off")),
        Err(_) => Err(tonic::Status::deadline_exceeded("the message did not come within TIMEOUT_HEADER")),
    }
}

/// Turns the library's response, which is complete at once, into ours.
async fn convert(response: Response<tonic::body::Body>) -> Response<Body> {
    let (head, body) = response.into_parts();
    match body.collect().await {
        Ok(body) => {
            let trailers = body.trailers().cloned();
            Response::from_parts(head, Body::call(body.to_bytes(), trailers))
        }
        // The status is in the head, and nothing follows it.
        Err(status) => status.into_http::<()>().map(|()| Body::call(Bytes::new(), None)),
    }
}

type CallFuture<T> = Pin<Box<dyn Future<Output = Result<tonic::Response<T>, tonic::Status>> + Send>>;

/// `grpc.health.v1.Health/Check`.
struct Health(Arc<Checks>);

impl tower_service::Service<tonic::Request<HealthCheckRequest>> for Health {
    type Response = tonic::Response<HealthCheckResponse>;
    type Error = tonic::Status;
    type Future = CallFuture<HealthCheckResponse>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), tonic::Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<HealthCheckRequest>) -> Self::Future {
        let status = if (self.0.is_ready)() { SERVING } else { NOT_SERVING };
        let known = SERVICES.contains(&request.get_ref().service.as_str());
        Box::pin(std::future::ready(if known {
            Ok(tonic::Response::new(HealthCheckResponse { status }))
        } else {
            Err(tonic::Status::not_found("no such service is here"))
        }))
    }
}

/// `envoy.service.auth.v3.Authorization/Check`.
struct Authorization {
    app: Arc<App>,
    peer: Peer,
    snapshot: Arc<Snapshot>,
}

impl tower_service::Service<tonic::Request<CheckRequest>> for Authorization {
    type Response = tonic::Response<CheckResponse>;
    type Error = tonic::Status;
    type Future = CallFuture<CheckResponse>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), tonic::Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<CheckRequest>) -> Self::Future {
        let (app, snapshot) = (Arc::clone(&self.app), Arc::clone(&self.snapshot));
        Box::pin(check(app, snapshot, self.peer, request.into_inner()))
    }
}

/// Judges the described request.
async fn check(
    app: Arc<App>,
    snapshot: Arc<Snapshot>,
    peer: Peer,
    asked: CheckRequest,
) -> Result<tonic::Response<CheckResponse>, tonic::Status> {
    let (mut exchange, outcome) = match read::read(asked, snapshot.limits.header_bytes) {
        Ok(described) => {
            let merged = described.merged;
            let (mut exchange, asked) = exchange(app, snapshot, described);
            let outcome = judge(&mut exchange, &asked, merged).await;
            (exchange, outcome)
        }
        Err(why) => (unread(app, snapshot, peer), Err(Rejection::NotDescribed(why).into())),
    };
    let response = match outcome {
        Ok(response) => {
            exchange.app.metrics.answered(StatusCode::OK);
            response
        }
        Err(refused) => respond::denied(refuse(&mut exchange, refused), &exchange.head.method),
    };
    Ok(tonic::Response::new(response))
}

/// The exchange for a described request, and the request's fields as received.
fn exchange(app: Arc<App>, snapshot: Arc<Snapshot>, described: Described) -> (Exchange, HeaderMap) {
    let Described { mut head, source, scheme, .. } = described;
    headers::join_cookies(&mut head.headers);
    let caller = headers::caller(&head.headers, Peer { address: source, scheme }, &snapshot.trusted_proxies);
    // Copied before ids that are not well-formed are removed, since Envoy must replace those too.
    let asked = head.headers.clone();
    let trace = Trace::of(&mut head.headers);
    let upgrades = head.headers.contains_key(UPGRADE);
    (Exchange { head, upgrades, caller, certificate: None, now: clock::now(), trace, app, snapshot }, asked)
}

/// The exchange for an unreadable description: Envoy's own call, whatever it described.
fn unread(app: Arc<App>, snapshot: Arc<Snapshot>, peer: Peer) -> Exchange {
    let mut head = Request::new(()).into_parts().0;
    (head.method, head.uri, head.version) = (Method::POST, http::Uri::from_static(CHECK), Version::HTTP_2);
    let caller = Caller::judge(peer, &snapshot.trusted_proxies, std::iter::empty(), None);
    let trace = Trace::of(&mut head.headers);
    Exchange { head, upgrades: false, caller, certificate: None, now: clock::now(), trace, app, snapshot }
}

async fn judge(exchange: &mut Exchange, asked: &HeaderMap, merged: bool) -> Result<CheckResponse, Refused> {
    let snapshot = Arc::clone(&exchange.snapshot);
    let sign_in = snapshot.sign_in.as_ref().ok_or(Rejection::AuthDisabled)?;
    if merged {
        let is_bearer = |field: &_| sign_in.bearers.is_some() && auth::bearer::is_bearer(field);
        read::check_merged(asked, |name| sign_in.cookies.is_ours(name), is_bearer).map_err(Rejection::NotDescribed)?;
    }
    headers::strip_request(&mut exchange.head.headers, exchange.caller.trusted);
    let permit = verify::admit_described(exchange, sign_in).await?;
    respond::allowed(exchange, sign_in, permit.session(), asked)
}

/// The proxy's own response, which Envoy passes on, including redirects.
fn refuse(exchange: &mut Exchange, Refused(rejection, cookies): Refused) -> Response<Body> {
    let rejection = verify::in_terms_of_fronts(rejection);
    let Exchange { head, upgrades, caller, trace, snapshot, .. } = &*exchange;
    let asker = Asker::of(head, *upgrades, &trace.request_id, caller, snapshot).by(Front { redirects: true });
    rejection.note(&asker, caller);
    exchange.app.metrics.refused(rejection.code());
    rejection.respond(&asker, cookies)
}
