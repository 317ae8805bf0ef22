//! Forwards to an upstream that a rule names, or with configured identity fields: to a backend, and to another if that is safe.

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;

use http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

use super::passage::{
    Outgoing, Passing, framing, has_session_ended, is_idempotent, opened, pass_back, path_and_request_id,
    while_admitted,
};
use crate::adapters::upstream::{Answer, Backend, Failure, Fields, NoConnection, Patience, RequestHead};
use crate::domain::judge::Permit;
use crate::ports::{LoadedSession, UpstreamIdentity};
use crate::rendering::ReadyFields;
use crate::serve::answer::rejection::Rejection;
use crate::serve::body::guard::{FRESH, Guard};
use crate::serve::body::{Body, RequestBody};
use crate::serve::destination::Destination;
use crate::serve::exchange::{Exchange, Refused, identity_not_passed};
use crate::serve::watch::InFlight;

static X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// The most backends tried for one request.
const TRIED_MOST: usize = 4;

/// How a request is forwarded.
pub(super) struct Way {
    pub(super) destination: Arc<Destination>,
    pub(super) began: Instant,
    pub(super) upgrade: Option<OnUpgrade>,
    pub(super) websocket: bool,
}

/// Forwards one admitted request to an upstream other than the usual one.
pub(super) async fn forward(
    permit: Permit<Arc<LoadedSession>>,
    exchange: &Exchange,
    body: Incoming,
    way: Way,
    in_flight: &InFlight,
) -> Result<Response<Body>, Refused> {
    let Way { destination, began, upgrade, websocket } = way;
    let manner = &destination.manner;
    let outgoing = Outgoing::of_nobody(exchange, websocket, in_flight);
    let (target, stripped) = destination.target(outgoing.target);
    let prefix = manner.strip_prefix.as_deref().filter(|_| stripped);
    let session = permit.session().filter(|_| exchange.snapshot.sign_in.is_some());
    let credential = credential(&destination, session, exchange)?;
    let (mut usual, mut identity, mut id_token) = (None, None, Vec::new());
    if let (Some(builder), Some(session)) = (&destination.identity_fields, session) {
        usual = builder.has_usual_fields().then(|| session.headers());
        identity = builder.build(session, exchange.now).map_err(|why| identity_not_passed(why, session))?;
        id_token = builder.id_token_fields(session);
    }
    let prefix = prefix.and_then(|prefix| HeaderValue::from_str(prefix).ok());
    let directed = Directed { outgoing, target, prefix, usual, identity, id_token, credential };
    let sending = pin!(send(&directed, &destination, exchange, body, &permit, began));
    let mut answer = while_admitted(sending, exchange, &permit, began).await?;
    destination.counters.answered(answer.status(), answer.body().arrived().saturating_duration_since(began));
    log_rejected_credential(&destination, answer.status(), exchange);
    destination.change(answer.headers_mut());
    pass_back(answer, exchange, &permit, Passing { began, upgrade, body_limit: manner.body }, in_flight)
}

/// Our bearer token for an upstream that impersonates people, if it needs one. Refuses a request without the token or a session.
fn credential(
    destination: &Destination,
    session: Option<&Arc<LoadedSession>>,
    exchange: &Exchange,
) -> Result<Option<HeaderValue>, Refused> {
    if destination.impersonates && (session.is_none() || destination.identity_fields.is_none()) {
        return Err(Rejection::Unauthenticated.into());
    }
    let Some(token) = &destination.token else { return Ok(None) };
    let credential = token.authorization();
    if credential.is_none() {
        // The reason is logged once, where the file is read, and shown in `readyz`.
        let ((path, request_id), upstream) = (path_and_request_id(exchange), &destination.name);
        tracing::debug!(%path, %request_id, upstream, "not forwarded: there is no token to be known by");
        return Err(Rejection::UpstreamUnreachable.into());
    }
    Ok(credential)
}

/// Logs, rarely, that an upstream that impersonates people rejects our own credential.
fn log_rejected_credential(destination: &Destination, status: StatusCode, exchange: &Exchange) {
    if destination.impersonates
        && status == StatusCode::UNAUTHORIZED
        && destination.rejection_limit.is_due(exchange.now)
    {
        let ((path, request_id), upstream) = (path_and_request_id(exchange), &destination.name);
        tracing::warn!(%path, %request_id, upstream, "the upstream does not accept our credential: it answers 401; told once a minute at most");
    }
}

/// The request for an upstream other than the usual one, the same for all its backends.
struct Directed<'e> {
    outgoing: Outgoing<'e>,
    target: Cow<'e, str>,
    /// The prefix removed from the path.
    prefix: Option<HeaderValue>,
    usual: Option<&'e ReadyFields>,
    identity: Option<Arc<UpstreamIdentity>>,
    /// The session's, from the provider.
    id_token: Vec<(HeaderName, HeaderValue)>,
    /// Our own.
    credential: Option<HeaderValue>,
}

/// The request for one backend.
struct ToBackend<'d, 'e> {
    directed: &'d Directed<'e>,
    /// The backend's own name; `None`: the host stays unchanged.
    host: Option<&'d HeaderValue>,
}

impl RequestHead for ToBackend<'_, '_> {
    fn method(&self) -> &Method {
        self.directed.outgoing.method()
    }

    fn target(&self) -> &str {
        &self.directed.target
    }

    fn write_fields(&self, fields: &mut impl Fields) {
        let Directed { outgoing, prefix, usual, identity, id_token, credential, .. } = self.directed;
        match self.host {
            Some(host) => outgoing.write_fields(&mut Renamed { fields, host }),
            None => outgoing.write_fields(fields),
        }
        if let Some(prefix) = prefix {
            fields.field(&X_FORWARDED_PREFIX, prefix);
        }
        if let Some(usual) = usual {
            fields.ready(usual);
        }
        if let Some(identity) = identity {
            fields.ready(&identity.fields);
        }
        for (name, value) in id_token {
            fields.field(name, value);
        }
        if let Some(credential) = credential {
            fields.field(&AUTHORIZATION, credential);
        }
    }

    fn receive_interim(&self, status: StatusCode, headers: HeaderMap) {
        self.directed.outgoing.receive_interim(status, headers);
    }
}

/// Writes fields, with another `Host`.
struct Renamed<'f, F> {
    fields: &'f mut F,
    host: &'f HeaderValue,
}

impl<F: Fields> Fields for Renamed<'_, F> {
    fn field(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.fields.field(name, if *name == HOST { self.host } else { value });
    }
}

/// A request that may have to be sent to several backends in turn.
struct Sending<'s> {
    destination: &'s Destination,
    exchange: &'s Exchange,
    tried: Vec<Arc<Backend<RequestBody>>>,
}

/// Sends the request to a backend, and to another if that is safe: it was never sent; or a connection closed before the first byte of
/// the response, and the request has no body and is idempotent (RFC 9110 §9.2.2). To the same one again if the connection was a reused one, or
/// if it was never sent and there is no other.
async fn send(
    directed: &Directed<'_>,
    destination: &Destination,
    exchange: &Exchange,
    body: Incoming,
    permit: &Permit<Arc<LoadedSession>>,
    now: Instant,
) -> Result<Response<Answer>, Refused> {
    let manner = &destination.manner;
    let head = directed.outgoing.head;
    let patience = Patience { first_byte: manner.first_byte, body: manner.body, look: FRESH };
    let body = RequestBody::of(body, manner.body, directed.outgoing.in_flight, || {
        Guard::of(opened(exchange, permit), now, Some(0), &exchange.trace.request_id)
    });
    let chosen = &exchange.snapshot.chosen;
    let mut body = body.within(manner.limit_body, chosen).ok_or(Rejection::ContentTooLarge)?;
    let framing = framing(head, &body);
    let repeatable = body.is_end_stream() && is_idempotent(&head.method);
    let mut sending = Sending { destination, exchange, tried: Vec::new() };
    let mut is_first = true;
    while let Some(backend) = sending.next() {
        if !std::mem::take(&mut is_first) {
            destination.counters.retries.inc();
        }
        let head = ToBackend { directed, host: (!manner.keeps_host).then(|| backend.authority()) };
        let lease = match backend.checkout(now, repeatable, directed.outgoing.websocket).await {
            Ok(lease) => lease,
            Err(none) => {
                sending.unreachable(&none);
                continue;
            }
        };
        let reused = lease.is_reused();
        let failure = match backend.send(lease, &head, framing, body, patience).await {
            Ok(answer) => return Ok(answer),
            Err(Failure::Unsent(unsent)) => {
                body = unsent;
                None
            }
            Err(failure @ Failure::Closed(_)) if repeatable => {
                body = RequestBody::empty();
                Some(failure)
            }
            Err(failure) => return Err(sending.refuse(&failure)),
        };
        if !reused {
            if !sending.is_last() {
                continue;
            }
            if let Some(failure) = failure {
                return Err(sending.refuse(&failure));
            }
        }
        // The connection was a reused one, or the request was never sent and there is no other backend: the same one may take it now.
        destination.counters.retries.inc();
        let lease = match backend.connect_new().await {
            Ok(lease) => lease,
            Err(none) => {
                sending.unreachable(&none);
                continue;
            }
        };
        match backend.send(lease, &head, framing, body, patience).await {
            Ok(answer) => return Ok(answer),
            Err(Failure::Unsent(unsent)) if !sending.is_last() => body = unsent,
            Err(Failure::Closed(_)) if repeatable && !sending.is_last() => body = RequestBody::empty(),
            Err(failure) => return Err(sending.refuse(&failure)),
        }
    }
    Err(sending.nowhere())
}

impl Sending<'_> {
    /// The next backend to try.
    fn next(&mut self) -> Option<Arc<Backend<RequestBody>>> {
        if self.tried.len() >= TRIED_MOST {
            return None;
        }
        let backend = self.destination.backends.pick(&self.tried)?;
        self.tried.push(Arc::clone(&backend));
        Some(backend)
    }

    /// Whether there is no other backend to try.
    fn is_last(&self) -> bool {
        self.tried.len() >= TRIED_MOST || self.destination.backends.pick(&self.tried).is_none()
    }

    fn unreachable(&self, NoConnection { error, is_first }: &NoConnection) {
        self.destination.counters.connect_errors.inc();
        let ((_, request_id), upstream) = (path_and_request_id(self.exchange), &self.destination.name);
        if *is_first {
            tracing::warn!(%request_id, upstream, "{error}; until it can be reached again, further failures are only counted");
        } else {
            tracing::debug!(%request_id, upstream, "{error}");
        }
    }

    /// Refuses the request: no backend is left.
    fn nowhere(&self) -> Refused {
        if self.tried.is_empty() {
            let ((path, request_id), upstream) = (path_and_request_id(self.exchange), &self.destination.name);
            tracing::warn!(%path, %request_id, upstream, "no backend of the upstream is well");
        }
        Rejection::UpstreamUnreachable.into()
    }

    fn refuse(&self, failure: &Failure<RequestBody>) -> Refused {
        match failure {
            Failure::Body(error) if has_session_ended(error.as_ref()) => Rejection::Unauthenticated.into(),
            Failure::Body(error) if RequestBody::was_too_large(error.as_ref()) => Rejection::ContentTooLarge.into(),
            Failure::Body(_) => Rejection::RequestTimeout.into(),
            Failure::TakesNothing(_) | Failure::Silent(_) => {
                self.destination.counters.timeouts.inc();
                let ((path, request_id), upstream) = (path_and_request_id(self.exchange), &self.destination.name);
                tracing::warn!(%path, %request_id, upstream, "the upstream gave no answer: {failure}");
                Rejection::UpstreamTimeout.into()
            }
            Failure::Closed(_) | Failure::Unsent(_) | Failure::Broken(_) => self.failed(&failure.to_string()),
        }
    }

    fn failed(&self, why: &str) -> Refused {
        let ((path, request_id), upstream) = (path_and_request_id(self.exchange), &self.destination.name);
        tracing::warn!(%path, %request_id, upstream, "the upstream broke off before it had answered: {why}");
        Rejection::UpstreamUnreachable.into()
    }
}
