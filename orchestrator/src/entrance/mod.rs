//! What every request passes first: checks that it names a host of ours, and verifies the proxy's assertion.

mod assertion;
mod hosts;
mod keys;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::api::ApiError;
use crate::identity::{ASSERTION, HEADERS, Verified, received};

pub use assertion::{Assertion, Expected};
pub use hosts::{BadHost, Hosts};
pub use keys::{BadSource, Source};

/// Requested by monitoring, under any name or address: they reveal nothing of clusters or people.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];
/// Also answers requests without an assertion, as not signed in.
const WHOAMI: &str = "/api/v1/whoami";

/// Decides which requests are accepted. Clones share the same state.
#[derive(Clone, Debug, Default)]
pub struct Entrance(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    hosts: Hosts,
    assertion: Option<Assertion>,
}

impl Entrance {
    /// Accepts requests that name one of `hosts` and, with `assertion`, carry a valid assertion.
    #[must_use]
    pub fn new(hosts: Hosts, assertion: Option<Assertion>) -> Self {
        Self(Arc::new(Inner { hosts, assertion }))
    }
}

/// Refuses a request that names another host, or whose assertion is not valid; records the identity.
pub(crate) async fn check(State(entrance): State<Entrance>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if PROBES.contains(&path) {
        return next.run(request).await;
    }
    if let Err(refusal) = host(&entrance.0.hosts, &request) {
        return refusal.into_response();
    }
    let Some(assertion) = &entrance.0.assertion else { return next.run(request).await };
    let verified = identify(assertion, request.headers()).await;
    let is_public = path == WHOAMI;
    let identity = match verified {
        Ok(identity) => Some(identity),
        Err(ApiError::Unauthenticated(reason)) if is_public => {
            tracing::debug!(reason, "nobody is asking who they are");
            None
        }
        Err(refusal) => return refusal.into_response(),
    };
    // Anyone who can reach this address can set them.
    for name in HEADERS {
        request.headers_mut().remove(name);
    }
    request.extensions_mut().insert(Verified(identity));
    next.run(request).await
}

fn host(hosts: &Hosts, request: &Request) -> Result<(), ApiError> {
    let mut named = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (named.next(), named.next()) else {
        return Err(ApiError::BadRequest("a request names one host, in the field `Host`".into()));
    };
    let host = host.to_str().unwrap_or_default();
    // If the target names a host, it overrides the field (RFC 9112 §3.2.2): both must be ours.
    let target = request.uri().authority().map(axum::http::uri::Authority::as_str);
    match std::iter::once(host).chain(target).find(|host| !hosts.lists(host)) {
        None => Ok(()),
        Some(strange) => {
            let shown: String = strange.chars().filter(|char| !char.is_control()).take(255).collect();
            // At debug level: such requests cost as little to send as to log.
            tracing::debug!(host = shown, "a request for a host that ORCHESTRATOR_HOSTS does not list is refused");
            Err(ApiError::WrongHost(shown))
        }
    }
}

async fn identify(assertion: &Assertion, headers: &HeaderMap) -> Result<crate::identity::Identity, ApiError> {
    let mut sent = headers.get_all(ASSERTION).iter();
    let token = received(headers, ASSERTION).filter(|token| !token.is_empty());
    match (token, sent.nth(1)) {
        (Some(token), None) => assertion.verify(token).await,
        (_, Some(_)) => Err(ApiError::Unauthenticated("there is more than one X-Sidegate-Assertion")),
        (None, None) => Err(ApiError::Unauthenticated(
            "there is no X-Sidegate-Assertion, and ORCHESTRATOR_ASSERTION_JWKS wants one: come by way of the proxy, and sign in",
        )),
    }
}
