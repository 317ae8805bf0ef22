//! What every request passes first: whether it names a host of ours, and who the proxy's signature says is asking.

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

/// What is asked by whatever watches over the program, by whichever name or address: it says nothing of clusters or people.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];
/// Answers also whoever has no assertion, by saying that they are nobody.
const WHOAMI: &str = "/api/v1/whoami";

/// Who is let in. A clone is the same one.
#[derive(Clone, Debug, Default)]
pub struct Entrance(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    hosts: Hosts,
    assertion: Option<Assertion>,
}

impl Entrance {
    /// Lets in what names one of `hosts` and, with `assertion`, what the proxy has signed.
    #[must_use]
    pub fn new(hosts: Hosts, assertion: Option<Assertion>) -> Self {
        Self(Arc::new(Inner { hosts, assertion }))
    }
}

/// Refuses a request that names another host, or whose assertion does not hold; notes who is asking.
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
    let anybody = path == WHOAMI;
    let identity = match verified {
        Ok(identity) => Some(identity),
        Err(ApiError::Unauthenticated(reason)) if anybody => {
            tracing::debug!(reason, "nobody is asking who they are");
            None
        }
        Err(refusal) => return refusal.into_response(),
    };
    // Whoever can reach this address can write them.
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
    // The target counts more than the field where it names a host (RFC 9112 §3.2.2): both have to be ours.
    let target = request.uri().authority().map(axum::http::uri::Authority::as_str);
    match std::iter::once(host).chain(target).find(|host| !hosts.lists(host)) {
        None => Ok(()),
        Some(strange) => {
            let shown: String = strange.chars().filter(|char| !char.is_control()).take(255).collect();
            // Not for each request: it is as cheap to send as it is to log.
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
