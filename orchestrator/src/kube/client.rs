//! A connection to one cluster's API, under limits, and requests over it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use http_body_util::BodyExt;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tower::ServiceBuilder;

use super::body::{BodyFault, Bounded};
use super::fault::Fault;
use super::kubeconfig::{self, Connection, KubeconfigFault};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the head of a response may take.
const HEAD: Duration = Duration::from_secs(10);
/// How long the next piece of a response may take, unless it is a watch.
const IDLE: Duration = Duration::from_secs(30);
/// The shortest time between the starts of two watches.
const WATCH_PAUSE: Duration = Duration::from_secs(1);
/// How many idle connections are kept: as many as one person's requests need.
const IDLE_MOST: usize = 8;
/// The read buffer: a larger one would be held for as long as the connection lives.
const READ_BUFFER: usize = 64 * 1024;

/// A checked connection to a cluster, with a client for it.
pub(crate) struct Access {
    /// The client.
    pub(crate) client: Client,
    /// The address of the cluster's API.
    pub(crate) server: String,
    /// The context that is used.
    pub(crate) context: Option<String>,
}

impl Access {
    /// Checks a connection and creates a client for it; sends nothing yet.
    ///
    /// # Errors
    /// Why the connection is not accepted.
    pub(crate) async fn new(connection: &Connection) -> Result<Self, KubeconfigFault> {
        Self::with_idle(connection, IDLE).await
    }

    /// The same; `idle` is how long the next piece of a response may take.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(super) async fn with_idle(connection: &Connection, idle: Duration) -> Result<Self, KubeconfigFault> {
        let checked = kubeconfig::read(connection).await?;
        let client = client(&checked.config, idle).map_err(|error| refused(&error))?;
        let user = &checked.config.auth_info;
        let is_somebody_else = user.impersonate.is_some()
            || user.impersonate_uid.is_some()
            || user.impersonate_groups.is_some()
            || user.impersonate_user_extra.is_some();
        Ok(Self {
            client: Client { kube: client, headers: Arc::default(), is_somebody_else },
            server: checked.server,
            context: checked.context,
        })
    }
}

// Only the credentials can still be wrong; the error itself may quote them.
fn refused(error: &kube::Error) -> KubeconfigFault {
    if matches!(error, kube::Error::RustlsTls(_)) {
        return KubeconfigFault::BadPair;
    }
    KubeconfigFault::Unusable
}

fn client(config: &kube::Config, idle: Duration) -> Result<kube::Client, kube::Error> {
    // Fails if a provider is installed already, which is fine.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    // A watch is silent for long: only keep-alive detects a peer that is gone without closing.
    tcp.set_keepalive(Some(Duration::from_secs(30)));
    tcp.set_keepalive_interval(Some(Duration::from_secs(10)));
    tcp.set_keepalive_retries(Some(3));
    let https = config.rustls_https_connector_with_connector(tcp)?;
    let pool: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(IDLE_MOST)
        .pool_timer(TokioTimer::new())
        .http1_max_buf_size(READ_BUFFER)
        .build(https);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .layer_fn(|inner| Limits::new(inner, idle))
        .service(pool);
    Ok(kube::Client::new(service, config.default_namespace.clone()))
}

/// The limits of every exchange, for all callers.
#[derive(Clone)]
struct Limits<S> {
    inner: S,
    idle: Duration,
    /// When a watch of this path was last started: one entry per kind.
    begun: Arc<Mutex<HashMap<String, Instant>>>,
}

impl<S> Limits<S> {
    fn new(inner: S, idle: Duration) -> Self {
        Self { inner, idle, begun: Arc::default() }
    }

    /// Returns when a watch of this path may start. Otherwise a server that ends watches as soon as they start would be requested
    /// again without a pause.
    fn turn(&self, path: &str) -> Instant {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let turn = begun.get(path).map_or(now, |last| (*last + WATCH_PAUSE).max(now));
        begun.insert(path.to_owned(), turn);
        turn
    }
}

impl<S, E> tower::Service<Request<Body>> for Limits<S>
where
    S: tower::Service<Request<Body>, Response = http::Response<hyper::body::Incoming>, Error = E>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    E: Into<tower::BoxError> + 'static,
{
    type Response = http::Response<Bounded>;
    type Error = tower::BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let watches =
            request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("watch=")));
        let turn = watches.then(|| self.turn(request.uri().path()));
        // The clone that was polled ready is the one to call; a new clone takes its place.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let idle = self.idle;
        Box::pin(async move {
            if let Some(turn) = turn {
                tokio::time::sleep_until(turn).await;
            }
            let answer = tokio::time::timeout(HEAD, inner.call(request)).await.map_err(|_| BodyFault::Late(HEAD))?;
            Ok(answer.map_err(Into::into)?.map(|body| Bounded::new(body, watches, idle)))
        })
    }
}

/// A client of one cluster's API. Clones share the same connections.
#[derive(Clone)]
pub(crate) struct Client {
    kube: kube::Client,
    /// Header fields of every request that is not a watch: the impersonation headers.
    headers: Arc<HeaderMap>,
    /// Whether the kubeconfig itself acts as somebody (`as`, `as-groups` and their kin).
    is_somebody_else: bool,
}

/// Why a cluster cannot decide by person with such a kubeconfig.
const ACTS_AS_OTHER: &str = "the cluster's kubeconfig acts as somebody itself (as, as-groups), and so cannot act as you: replace it by one \
                             whose account has the right to impersonate";

/// The content type of a merge patch.
pub(crate) const MERGE_PATCH: &str = "application/merge-patch+json";
/// The content type of an apply; JSON is YAML.
const APPLY_PATCH: &str = "application/apply-patch+yaml";
/// The field manager in Kubernetes' records.
pub(crate) const FIELD_MANAGER: &str = "flux-orchestrator";

impl Client {
    /// The underlying `kube` client, for watches.
    pub(crate) fn inner(&self) -> kube::Client {
        self.kube.clone()
    }

    /// Returns a client that adds these header fields to each request.
    pub(crate) fn acting_as(&self, headers: HeaderMap) -> Self {
        Self { headers: Arc::new(headers), ..self.clone() }
    }

    /// Creates an object at `path`, and returns the result.
    ///
    /// # Errors
    /// Why it failed; the caller sets the deadline.
    pub(crate) async fn create<T: DeserializeOwned>(&self, path: &str, object: &impl Serialize) -> Result<T, Fault> {
        let body = serde_json::to_vec(object).map_err(|error| Fault::from(kube::Error::SerdeError(error)))?;
        let request = Request::post(path)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body));
        self.exchange(request).await
    }

    /// Gets `path`, which may hold a query, and parses the response.
    ///
    /// # Errors
    /// Why it failed; the caller sets the deadline.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<T, Fault> {
        let request = Request::get(path).header(header::ACCEPT, "application/json").body(Body::empty());
        self.exchange(request).await
    }

    /// The same, without parsing.
    ///
    /// # Errors
    /// Why it failed; the caller sets the deadline.
    pub(crate) async fn ask_bytes(&self, path: &str) -> Result<Bytes, Fault> {
        let request = Request::get(path).header(header::ACCEPT, "application/json").body(Body::empty());
        self.send(request).await
    }

    /// Patches the object at `path`, and returns the result.
    ///
    /// # Errors
    /// Why it failed; the caller sets the deadline.
    pub(crate) async fn change<T: DeserializeOwned>(&self, path: &str, patch: &serde_json::Value) -> Result<T, Fault> {
        let request = Request::builder()
            .method(Method::PATCH)
            .uri(format!("{path}?fieldManager={FIELD_MANAGER}"))
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, MERGE_PATCH)
            .body(Body::from(patch.to_string().into_bytes()));
        self.exchange(request).await
    }

    /// Returns the result of applying a manifest to `path`, by a dry run: nothing changes. `manager` is the field manager.
    ///
    /// # Errors
    /// Why it failed; the caller sets the deadline.
    pub(crate) async fn dry_run(
        &self,
        path: &str,
        manifest: &serde_json::Value,
        manager: &str,
    ) -> Result<serde_json::Value, Fault> {
        let request = Request::builder()
            .method(Method::PATCH)
            // With force: the result matters here, not conflicts with other field managers.
            .uri(format!("{path}?dryRun=All&force=true&fieldManager={manager}"))
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, APPLY_PATCH)
            .body(Body::from(manifest.to_string().into_bytes()));
        self.exchange(request).await
    }

    /// The version of Kubernetes, such as `v1.33.1`.
    ///
    /// # Errors
    /// Why it failed.
    pub(crate) async fn version(&self) -> Result<String, Fault> {
        let version: Version = self.ask("/version").await?;
        Ok(version.git_version.chars().filter(|char| !char.is_control()).take(64).collect())
    }

    async fn exchange<T: DeserializeOwned>(&self, request: http::Result<Request<Body>>) -> Result<T, Fault> {
        let bytes = self.send(request).await?;
        serde_json::from_slice(&bytes).map_err(|error| kube::Error::SerdeError(error).into())
    }

    async fn send(&self, request: http::Result<Request<Body>>) -> Result<Bytes, Fault> {
        let mut request = request.map_err(|_| Fault::Refused("the address is not one that can be asked".to_owned()))?;
        // The kubeconfig's groups would be added to the person's.
        if self.is_somebody_else && !self.headers.is_empty() {
            return Err(Fault::Forbidden(ACTS_AS_OTHER.to_owned()));
        }
        for (name, value) in self.headers.iter() {
            request.headers_mut().append(name, value.clone());
        }
        let answer = self.kube.send(request).await?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            let error = serde_json::from_slice::<ErrorStatus>(&bytes).unwrap_or_default();
            return Err(Fault::of_status(status.as_u16(), &error.message));
        }
        Ok(bytes)
    }
}

/// The `Status` object that a Kubernetes API sends with an error.
#[derive(Default, Deserialize)]
struct ErrorStatus {
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    git_version: String,
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::secret::Secret;

    #[tokio::test]
    async fn a_kubeconfig_that_acts_as_somebody_itself_acts_as_nobody_else() {
        for (user, is_refused) in [
            ("{token: t}", false),
            ("{token: t, as: x}", true),
            ("{token: t, as: x, as-groups: [\"system:masters\"]}", true),
            ("{token: t, as: x, as-uid: \"1\"}", true),
            ("{token: t, as: x, as-user-extra: {scope: [all]}}", true),
        ] {
            // Nobody listens there.
            let text = format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: one\nclusters:\n- name: c\n  cluster:\n    \
                 server: https://127.0.0.1:1\nusers:\n- name: u\n  user: {user}\ncontexts:\n- name: one\n  \
                 context: {{cluster: c, user: u}}\n"
            );
            let connection = Connection::Kubeconfig { kubeconfig: Secret::new(text), context: None };
            let client = Access::new(&connection).await.unwrap().client;
            let person = HeaderMap::from_iter([(
                http::HeaderName::from_static("impersonate-user"),
                HeaderValue::from_static("ann"),
            )]);
            let fault = client.acting_as(person).version().await.unwrap_err();
            assert_eq!(matches!(&fault, Fault::Forbidden(why) if why == ACTS_AS_OTHER), is_refused, "{user}: {fault}");
            assert!(matches!(client.version().await, Err(Fault::Unreachable(_))), "{user}: by itself it may");
        }
    }
}
