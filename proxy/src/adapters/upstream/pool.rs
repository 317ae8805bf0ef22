//! An upstream's connection pool, and permits to send a request on a warm connection or a new one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::Body;
use prometheus_client::metrics::gauge::Gauge;
use rustls::ClientConfig;
use tokio::time::Instant;

use super::answer::Answer;
use super::ask::Patience;
use super::connect::{ConnectError, Forgiving, Target};
use super::connection::Connection;
use super::head::{RequestFraming, RequestHead};
use super::shared::Shared;
use super::shelf::Shelf;
use super::{BoxError, Failure, Restart, UpstreamAddress, UpstreamSettings};
use crate::adapters::telemetry::Held;

/// The upstream, and the connections to it. `B` is the type of the request bodies sent to it.
pub struct Upstream<B> {
    origin: String,
    target: Target,
    /// Whether requests share one HTTP/2 connection. If the TLS handshake decides that, the result of the last one.
    multiplexed: AtomicBool,
    is_negotiated_by_tls: bool,
    connect_timeout: Duration,
    shelf: Arc<Shelf>,
    shared: tokio::sync::Mutex<Option<Shared<B>>>,
    outage: Mutex<Option<Outage>>,
    connections: Gauge,
}

/// A time during which no connection can be made.
struct Outage {
    why: String,
    since: Instant,
    failed: u64,
}

/// Why no connection was available.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct NoConnection {
    /// What went wrong.
    #[source]
    pub error: ConnectError,
    /// Whether this is the first failure since the last success.
    pub is_first: bool,
}

impl<B> Upstream<B>
where
    B: Body<Data = Bytes> + Restart + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Creates an upstream with an empty pool, without connecting. `tls` is needed only for `https://` and `h2://`; `connections` counts
    /// open ones.
    ///
    /// # Errors
    /// If the address cannot be connected to; the text names the variable.
    pub fn new(
        settings: &UpstreamSettings,
        tls: Option<Arc<ClientConfig>>,
        connections: Gauge,
    ) -> Result<Self, String> {
        Ok(Self {
            origin: settings.address.origin(),
            target: Target::of(settings, tls)?,
            multiplexed: AtomicBool::new(match settings.address {
                UpstreamAddress::H2c { .. } | UpstreamAddress::H2 { .. } => true,
                UpstreamAddress::Https { .. } => settings.trust.offers_http2,
                UpstreamAddress::Http { .. } | UpstreamAddress::Unix(_) => false,
            }),
            is_negotiated_by_tls: matches!(settings.address, UpstreamAddress::Https { .. }),
            connect_timeout: settings.connect_timeout,
            shelf: Arc::new(Shelf::new()),
            shared: tokio::sync::Mutex::new(None),
            outage: Mutex::new(None),
            connections,
        })
    }

    /// The upstream's origin, for the log and the assertion's audience.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Why the last attempt to connect failed; `None` if it succeeded.
    pub fn trouble(&self) -> Option<String> {
        self.outage().as_ref().map(|outage| outage.why.clone())
    }

    /// Returns a connection for one request: a warm one, else a new one. `repeatable` says whether the request can be sent again if the
    /// connection proves to be closed.
    ///
    /// # Errors
    /// [`NoConnection`] if none was available in time.
    pub async fn checkout(&self, now: Instant, repeatable: bool) -> Result<Lease<B>, NoConnection> {
        let warm = if self.is_multiplexed() { None } else { self.shelf.take(now, repeatable) };
        match warm {
            Some(connection) => Ok(self.lease(Way::Own(connection), true, now)),
            None => self.connect_new().await,
        }
    }

    /// Returns an unused connection, for a request that met a closing one.
    ///
    /// # Errors
    /// [`NoConnection`] if none was available in time.
    pub async fn connect_new(&self) -> Result<Lease<B>, NoConnection> {
        // Boxed, so that the code for connecting does not enlarge the future of every request.
        if self.is_multiplexed() {
            return Box::pin(self.stream_of_shared()).await;
        }
        let stream = Box::pin(self.connect(false)).await?;
        if stream.speaks_http2() {
            self.multiplexed.store(true, Ordering::Relaxed);
            drop(stream);
            return Box::pin(self.stream_of_shared()).await;
        }
        Ok(self.own(stream))
    }

    /// Returns a new HTTP/1.1 connection, for a request that HTTP/2 cannot carry: a WebSocket.
    ///
    /// # Errors
    /// [`NoConnection`] if none was available in time.
    pub async fn connect_http1(&self) -> Result<Lease<B>, NoConnection> {
        Ok(self.own(Box::pin(self.connect(true)).await?))
    }

    fn own(&self, stream: Forgiving) -> Lease<B> {
        let connection = Connection::new(stream, Held::by(&self.connections));
        self.lease(Way::Own(connection), false, Instant::now())
    }

    fn is_multiplexed(&self) -> bool {
        self.multiplexed.load(Ordering::Relaxed)
    }

    /// Closes connections that have been idle for long.
    pub fn sweep(&self) {
        self.shelf.sweep();
    }

    fn lease(&self, way: Way<B>, reused: bool, since: Instant) -> Lease<B> {
        Lease { way, reused, since, shelf: Arc::clone(&self.shelf) }
    }

    async fn stream_of_shared(&self) -> Result<Lease<B>, NoConnection> {
        // Waiting for another task's connection attempt takes no longer than an attempt of our own.
        let Ok(mut shared) = tokio::time::timeout(self.connect_timeout, self.shared.lock()).await else {
            return Err(self.failed(self.timed_out()));
        };
        if let Some(open) = shared.as_ref().filter(|shared| !shared.is_closed()) {
            return Ok(self.lease(Way::Shared(open.clone()), true, Instant::now()));
        }
        if !self.is_multiplexed() {
            // The other task found out that the server speaks HTTP/1.1.
            drop(shared);
            return Ok(self.own(self.connect(false).await?));
        }
        let stream = self.connect(false).await?;
        if self.is_negotiated_by_tls && !stream.speaks_http2() {
            self.multiplexed.store(false, Ordering::Relaxed);
            return Ok(self.own(stream));
        }
        let begun = Shared::begin(stream, Held::by(&self.connections)).await;
        let new =
            begun.map_err(|source| self.failed(ConnectError::Handshake { origin: self.origin.clone(), source }))?;
        *shared = Some(new.clone());
        Ok(self.lease(Way::Shared(new), false, Instant::now()))
    }

    fn timed_out(&self) -> ConnectError {
        ConnectError::TimedOut { origin: self.origin.clone(), seconds: self.connect_timeout.as_secs_f32() }
    }

    fn outage(&self) -> MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: ConnectError) -> NoConnection {
        let (why, mut outage) = (error.to_string(), self.outage());
        let is_first = outage.is_none();
        let (since, failed) =
            outage.as_ref().map_or_else(|| (Instant::now(), 0), |outage| (outage.since, outage.failed));
        *outage = Some(Outage { why, since, failed: failed + 1 });
        NoConnection { error, is_first }
    }

    /// Logs in one line that the outage is over, and how many requests it cost.
    fn succeeded(&self) {
        if let Some(Outage { since, failed, .. }) = self.outage().take() {
            let seconds = since.elapsed().as_secs_f32();
            tracing::info!(failed, seconds, "the upstream {} can be reached again", self.origin);
        }
    }

    async fn connect(&self, only_http1: bool) -> Result<Forgiving, NoConnection> {
        let outcome = match tokio::time::timeout(self.connect_timeout, self.target.connect(only_http1)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) => Err(ConnectError::Connect { origin: self.origin.clone(), source }),
            Err(_) => Err(self.timed_out()),
        };
        if outcome.is_ok() {
            self.succeeded();
        }
        outcome.map_err(|error| self.failed(error))
    }
}

enum Way<B> {
    Own(Box<Connection>),
    Shared(Shared<B>),
}

/// A permit to send one request on a connection.
pub struct Lease<B> {
    way: Way<B>,
    reused: bool,
    /// Since when the connection is ready.
    since: Instant,
    shelf: Arc<Shelf>,
}

impl<B> Lease<B>
where
    B: Body<Data = Bytes> + Restart + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Whether the connection has carried a request before, so that the upstream may just have closed it.
    pub const fn is_reused(&self) -> bool {
        self.reused
    }

    /// Sends a request, and waits for the head of the response. The connection stays warm once both have ended.
    ///
    /// # Errors
    /// [`Failure`], by its cause.
    pub async fn send(
        self,
        head: &impl RequestHead,
        framing: RequestFraming,
        body: B,
        patience: Patience,
    ) -> Result<Response<Answer>, Failure<B>> {
        match self.way {
            Way::Own(connection) => connection.ask(head, framing, body, patience, self.since, &self.shelf).await,
            Way::Shared(shared) => Box::pin(shared.ask(head, framing, body, patience)).await,
        }
    }
}
