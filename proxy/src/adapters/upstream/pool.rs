//! An upstream's connection pool, and permits to send a request on a warm connection or a new one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Response;
use http_body::Body;
use prometheus_client::metrics::gauge::Gauge;
use rustls::ClientConfig;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::answer::Answer;
use super::ask::Patience;
use super::connect::{ConnectError, Forgiving, Target};
use super::connection::Connection;
use super::head::{RequestFraming, RequestHead};
use super::shared::{Shared, Stream};
use super::shelf::{IDLE_LIMIT, Shelf};
use super::{BoxError, Failure, Restart, UpstreamAddress, UpstreamSettings};
use crate::adapters::telemetry::Held;

/// How long the opening of a further connection may last before the request that opens it looks for a stream elsewhere as well: longer than a
/// server's settings are waited for.
const OPENING_USUAL: Duration = Duration::from_millis(1500);

/// The most HTTP/2 connections to one upstream.
const SHARED_MOST: usize = 16;

/// The upstream, and the connections to it. `B` is the type of the request bodies sent to it.
pub struct Upstream<B> {
    origin: String,
    target: Target,
    /// Whether requests share HTTP/2 connections. If the TLS handshake decides that, the result of the last one.
    multiplexed: AtomicBool,
    is_negotiated_by_tls: bool,
    connect_timeout: Duration,
    shelf: Arc<Shelf>,
    /// The HTTP/2 connections, the oldest first: usually one. Changed only under `opening`.
    shared: ArcSwap<Vec<Shared<B>>>,
    opening: tokio::sync::Mutex<()>,
    /// Wakes a request that waits for a stream.
    freed: Arc<Notify>,
    outage: Mutex<Option<Outage>>,
    connections: Gauge,
}

/// A time during which no connection can be made.
struct Outage {
    why: String,
    since: Instant,
    last_failed: Instant,
    failed: u64,
    /// Whether there are connections, but none had a stream left.
    is_crowding: bool,
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
            shared: ArcSwap::from_pointee(Vec::new()),
            opening: tokio::sync::Mutex::new(()),
            freed: Arc::default(),
            outage: Mutex::new(None),
            connections,
        })
    }

    /// The upstream's origin, for the log and the assertion's audience.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Why the last attempt to connect failed; `None` if it succeeded, or the upstream has answered since.
    pub fn trouble(&self) -> Option<String> {
        self.outage().as_ref().map(|outage| outage.why.clone())
    }

    /// Returns a connection for one request: a warm one, else a new one. `repeatable` says whether the request can be sent again if the
    /// connection proves to be closed.
    ///
    /// # Errors
    /// [`NoConnection`] if none was available in time.
    pub async fn checkout(&self, now: Instant, repeatable: bool) -> Result<Lease<B>, NoConnection> {
        let warm = if self.is_multiplexed() {
            self.free_stream(None).map(Way::Shared)
        } else {
            self.shelf.take(now, repeatable).map(Way::Own)
        };
        match warm {
            Some(way) => Ok(self.lease(way, true, now)),
            None => self.connect().await,
        }
    }

    /// Returns an unused connection, for a request that met a closing one.
    ///
    /// # Errors
    /// [`NoConnection`] if none was available in time.
    pub async fn connect_new(&self) -> Result<Lease<B>, NoConnection> {
        // Where one of several HTTP/2 connections closes, the others may too: only a newer one is better.
        if self.is_multiplexed() && self.shared.load().len() > 1 {
            return Box::pin(self.next_stream(Some(Instant::now()))).await;
        }
        self.connect().await
    }

    /// Returns a stream of an HTTP/2 connection, or a new HTTP/1.1 connection.
    async fn connect(&self) -> Result<Lease<B>, NoConnection> {
        // Boxed, so that the code for connecting does not enlarge the future of every request.
        if self.is_multiplexed() {
            return Box::pin(self.next_stream(None)).await;
        }
        let stream = Box::pin(self.dial(false)).await?;
        if stream.speaks_http2() {
            self.multiplexed.store(true, Ordering::Relaxed);
            drop(stream);
            return Box::pin(self.next_stream(None)).await;
        }
        Ok(self.own(stream))
    }

    /// Returns a new HTTP/1.1 connection, for a request that HTTP/2 cannot carry: a WebSocket.
    ///
    /// # Errors
    /// [`NoConnection`] if none was available in time.
    pub async fn connect_http1(&self) -> Result<Lease<B>, NoConnection> {
        Ok(self.own(Box::pin(self.dial(true)).await?))
    }

    fn own(&self, stream: Forgiving) -> Lease<B> {
        let connection = Connection::new(stream, Held::by(&self.connections));
        self.lease(Way::Own(connection), false, Instant::now())
    }

    fn is_multiplexed(&self) -> bool {
        self.multiplexed.load(Ordering::Relaxed)
    }

    /// Closes connections that have been idle for long, and notes the end of an outage that no new connection has shown.
    pub fn sweep(&self) {
        self.shelf.sweep();
        self.sweep_shared(Instant::now());
        self.end_outage();
    }

    /// Gives up HTTP/2 connections that are closed, and those without streams except the first.
    fn sweep_shared(&self, now: Instant) {
        let Ok(_opening) = self.opening.try_lock() else { return };
        let before = self.shared.load();
        if before.len() < 2 {
            return;
        }
        let mut kept = Vec::with_capacity(before.len());
        for shared in before.iter().filter(|shared| !shared.is_closed()) {
            if kept.is_empty() || !shared.is_idle_for(IDLE_LIMIT, now) {
                kept.push(shared.clone());
            }
        }
        if kept.len() < before.len() {
            self.shared.store(Arc::new(kept));
        }
    }

    /// Notes that streams can be had again, or that the upstream has answered on a connection from before.
    fn end_outage(&self) {
        let outage = self.outage().as_ref().map(|outage| (outage.is_crowding, outage.last_failed));
        let is_over = match outage {
            None => false,
            Some((true, _)) => self.free_stream(None).is_some(),
            Some((false, last_failed)) => self.has_answered_since(last_failed),
        };
        if is_over {
            self.succeeded();
        }
    }

    fn has_answered_since(&self, time: Instant) -> bool {
        self.shelf.has_used_since(time) || self.shared.load().iter().any(|shared| shared.has_answered_since(time))
    }

    fn lease(&self, way: Way<B>, reused: bool, since: Instant) -> Lease<B> {
        Lease { way, reused, since, shelf: Arc::clone(&self.shelf) }
    }

    /// The HTTP/2 connections that take requests.
    fn alive(&self) -> Vec<Shared<B>> {
        self.shared.load().iter().filter(|shared| !shared.is_closed()).cloned().collect()
    }

    /// Takes a stream of the first connection that has one left; with `since`, of those opened at that time or later.
    fn free_stream(&self, since: Option<Instant>) -> Option<Stream<B>> {
        let is_fit = |shared: &&Shared<B>| !shared.is_closed() && since.is_none_or(|since| shared.is_since(since));
        self.shared.load().iter().filter(is_fit).find_map(Shared::stream)
    }

    /// Waits for a stream: of an open connection, or of another one, which one request at a time opens. Who opens it takes a stream that ends
    /// meanwhile only where that lasts long: else no connection would ever be opened while streams end all the time.
    async fn next_stream(&self, mut since: Option<Instant>) -> Result<Lease<B>, NoConnection> {
        let until = Instant::now() + self.connect_timeout;
        let (mut may_open, mut opening) = (true, Opening::default());
        loop {
            // Looked at once: else a stream could be passed over at the moment at which it grows old.
            let (is_young, is_under_way) = (opening.is_young(), opening.is_under_way());
            if !is_young && let Some(stream) = self.free_stream(since) {
                // There may be more, for another that waits.
                self.freed.notify_one();
                return Ok(self.lease(Way::Shared(stream), true, Instant::now()));
            }
            let usual = opening.0.as_ref().map_or(until, |(_, usual)| *usual);
            tokio::select! {
                biased;
                outcome = opening.outcome() => {
                    opening = Opening::default();
                    if let Some(lease) = outcome? {
                        return Ok(lease);
                    }
                    (may_open, since) = (false, None);
                }
                () = tokio::time::sleep_until(until), if !is_under_way => break,
                turn = self.opening.lock(), if may_open && !is_under_way => {
                    // Others may have opened one meanwhile.
                    if self.free_stream(since).is_none() {
                        opening = Opening(Some((Box::pin(self.open_another(turn)), Instant::now() + OPENING_USUAL)));
                    }
                }
                // Who needs a newer connection leaves streams of older ones to others.
                () = self.freed.notified(), if since.is_none() && !is_young => may_open |= self.alive().is_empty(),
                () = tokio::time::sleep_until(usual), if is_young => {}
            }
        }
        let last = self.free_stream(None).map(|stream| self.lease(Way::Shared(stream), true, Instant::now()));
        last.ok_or_else(|| self.failed(self.no_stream()))
    }

    /// Opens another connection. `None`: it cannot be had, but there are others, whose streams may end.
    async fn open_another(&self, turn: tokio::sync::MutexGuard<'_, ()>) -> Opened<B> {
        if !self.is_multiplexed() {
            // The other task found out that the server speaks HTTP/1.1.
            drop(turn);
            return Ok(Some(self.own(self.dial(false).await?)));
        }
        let mut alive = self.alive();
        if alive.len() >= SHARED_MOST {
            return Ok(None);
        }
        match self.begin().await {
            Ok(Begun::Http1(stream)) => {
                self.succeeded();
                self.multiplexed.store(false, Ordering::Relaxed);
                Ok(Some(self.own(stream)))
            }
            Ok(Begun::Http2(new)) => {
                self.succeeded();
                let stream = new.stream();
                alive.push(new);
                self.shared.store(Arc::new(alive));
                self.freed.notify_one();
                Ok(stream.map(|stream| self.lease(Way::Shared(stream), false, Instant::now())))
            }
            Err(error) if alive.is_empty() => Err(self.failed(error)),
            Err(error) => {
                tracing::debug!("no further connection, so a request waits for a stream to end: {error}");
                Ok(None)
            }
        }
    }

    /// Connects, and starts HTTP/2 if the server speaks it.
    async fn begin(&self) -> Result<Begun<B>, ConnectError> {
        let stream = self.try_dial(false).await?;
        if self.is_negotiated_by_tls && !stream.speaks_http2() {
            return Ok(Begun::Http1(stream));
        }
        let begun = Shared::begin(stream, Held::by(&self.connections), &self.freed).await;
        begun.map(Begun::Http2).map_err(|source| ConnectError::Handshake { origin: self.origin.clone(), source })
    }

    fn no_stream(&self) -> ConnectError {
        match self.alive().len() {
            0 => self.timed_out(),
            connections => ConnectError::Crowded {
                origin: self.origin.clone(),
                connections,
                seconds: self.connect_timeout.as_secs_f32(),
            },
        }
    }

    fn timed_out(&self) -> ConnectError {
        ConnectError::TimedOut { origin: self.origin.clone(), seconds: self.connect_timeout.as_secs_f32() }
    }

    fn outage(&self) -> MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: ConnectError) -> NoConnection {
        let is_crowding = matches!(error, ConnectError::Crowded { .. });
        let (why, last_failed, mut outage) = (error.to_string(), Instant::now(), self.outage());
        let is_first = outage.is_none();
        let (since, failed) = outage.as_ref().map_or((last_failed, 0), |outage| (outage.since, outage.failed));
        *outage = Some(Outage { why, since, last_failed, failed: failed + 1, is_crowding });
        NoConnection { error, is_first }
    }

    /// Logs in one line that the outage is over, and how many requests it cost.
    fn succeeded(&self) {
        if let Some(Outage { since, failed, .. }) = self.outage().take() {
            let seconds = since.elapsed().as_secs_f32();
            tracing::info!(failed, seconds, "the upstream {} can be reached again", self.origin);
        }
    }

    async fn dial(&self, only_http1: bool) -> Result<Forgiving, NoConnection> {
        let outcome = self.try_dial(only_http1).await;
        if outcome.is_ok() {
            self.succeeded();
        }
        outcome.map_err(|error| self.failed(error))
    }

    async fn try_dial(&self, only_http1: bool) -> Result<Forgiving, ConnectError> {
        match tokio::time::timeout(self.connect_timeout, self.target.connect(only_http1)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) => Err(ConnectError::Connect { origin: self.origin.clone(), source }),
            Err(_) => Err(self.timed_out()),
        }
    }
}

/// The opening of another connection by a request that waits for a stream, if it is its turn.
struct Opening<'u, B>(Option<(BoxFuture<'u, Opened<B>>, Instant)>);

/// `None`: another connection cannot be had, but there are others.
type Opened<B> = Result<Option<Lease<B>>, NoConnection>;

impl<B> Default for Opening<'_, B> {
    fn default() -> Self {
        Self(None)
    }
}

impl<B> Opening<'_, B> {
    const fn is_under_way(&self) -> bool {
        self.0.is_some()
    }

    /// Whether it is under way, and has not lasted long yet.
    fn is_young(&self) -> bool {
        self.0.as_ref().is_some_and(|(_, usual)| Instant::now() < *usual)
    }

    async fn outcome(&mut self) -> Opened<B> {
        match &mut self.0 {
            Some((opening, _)) => opening.await,
            None => std::future::pending().await,
        }
    }
}

/// A new connection.
enum Begun<B> {
    Http1(Forgiving),
    Http2(Shared<B>),
}

enum Way<B> {
    Own(Box<Connection>),
    Shared(Stream<B>),
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
            Way::Shared(stream) => Box::pin(stream.ask(head, framing, body, patience)).await,
        }
    }
}
