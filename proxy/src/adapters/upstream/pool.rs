//! Warm connections, last in first out, a list for each worker thread so that no two fight over one lock.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prometheus_client::metrics::gauge::Gauge;
use rustls::ClientConfig;

use super::connect::{ConnectError, Forgiving, Target};
use super::{UpstreamAddress, UpstreamSettings};
use crate::adapters::telemetry::Held;

/// How long a connection may lie unused. Less than the 5 s after which common servers (Node, uvicorn) close theirs, so that we
/// seldom send a request into a connection that is being closed.
const IDLE_LIMIT: Duration = Duration::from_secs(4);

/// Unused connections kept for each worker thread.
const IDLE_MOST: usize = 512;

/// What an HTTP/2 upstream may send of one answer ahead of its reader, in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;

/// And of all together: as much as the protocol knows (RFC 9113 §6.9.1). Everyone's requests share the one connection, so answers
/// that nobody reads must never use it up; each is bounded by its own window.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// What is held of an HTTP/2 request's body that the upstream is slow to take, in bytes.
const SEND_BUFFER: usize = 64 * 1024;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The upstream, and the connections to it. `B` is the type of the request bodies sent to it.
pub struct Upstream<B> {
    origin: String,
    target: Target,
    multiplexed: bool,
    connect_timeout: Duration,
    shards: Box<[Mutex<Vec<Idle<B>>>]>,
    shared: tokio::sync::Mutex<Option<http2::SendRequest<B>>>,
    failure: ArcSwapOption<String>,
    connections: Gauge,
}

struct Idle<B> {
    sender: http1::SendRequest<B>,
    since: Instant,
}

impl<B> Upstream<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// An upstream with an empty pool; nothing is connected yet. `tls` is needed for `https://` only; `connections` counts those open.
    ///
    /// # Errors
    /// Where the address is not one to connect to; the text names the variable.
    pub fn new(
        settings: &UpstreamSettings,
        tls: Option<Arc<ClientConfig>>,
        connections: Gauge,
    ) -> Result<Self, String> {
        let shards = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Self {
            origin: settings.address.origin(),
            target: Target::of(settings, tls)?,
            multiplexed: matches!(settings.address, UpstreamAddress::H2c { .. }),
            connect_timeout: settings.connect_timeout,
            shards: (0..shards).map(|_| Mutex::new(Vec::new())).collect(),
            shared: tokio::sync::Mutex::new(None),
            failure: ArcSwapOption::empty(),
            connections,
        })
    }

    /// The upstream's origin, for the log and the assertion's audience.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether requests go out as HTTP/2, which wants absolute URIs.
    pub const fn is_multiplexed(&self) -> bool {
        self.multiplexed
    }

    /// Why the last attempt to connect failed; `None`: it did not.
    pub fn trouble(&self) -> Option<String> {
        self.failure.load().as_deref().cloned()
    }

    /// A connection to send one request on: a warm one, else a new one.
    ///
    /// # Errors
    /// [`ConnectError`] where no connection was had in time.
    pub async fn checkout(self: &Arc<Self>) -> Result<Lease<B>, ConnectError> {
        if self.multiplexed {
            return self.stream_of_shared().await;
        }
        while let Some(mut sender) = self.take_idle() {
            // A connection is ready as soon as its task has read the last answer to its end: normally at once.
            if sender.ready().await.is_ok() {
                return Ok(self.lease(Sender::Own(sender), true));
            }
        }
        self.connect_new().await
    }

    /// A connection that nobody has used yet, for a request that met a dying one.
    ///
    /// # Errors
    /// [`ConnectError`] where no connection was had in time.
    pub async fn connect_new(self: &Arc<Self>) -> Result<Lease<B>, ConnectError> {
        if self.multiplexed {
            return self.stream_of_shared().await;
        }
        let io = self.connect().await?;
        let (sender, connection) = http1::handshake(io)
            .await
            .map_err(|source| ConnectError::Handshake { origin: self.origin.clone(), source })?;
        let held = Held::by(&self.connections);
        tokio::spawn(async move {
            let _held = held;
            let ended = connection.with_upgrades().await;
            tracing::trace!(error = ended.err().map(tracing::field::display), "an upstream connection ended");
        });
        Ok(self.lease(Sender::Own(sender), false))
    }

    /// Closes connections that have lain unused for long.
    pub fn sweep(&self) {
        for shard in &self.shards {
            let mut idle = shard.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|idle| idle.since.elapsed() < IDLE_LIMIT && !idle.sender.is_closed());
        }
    }

    fn lease(self: &Arc<Self>, sender: Sender<B>, reused: bool) -> Lease<B> {
        Lease { sender, reused, upstream: Arc::clone(self) }
    }

    fn take_idle(&self) -> Option<http1::SendRequest<B>> {
        let own = worker();
        for step in 0..self.shards.len() {
            let mut idle = self.shard(own + step)?.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some(last) = idle.pop() {
                if !last.sender.is_closed() && last.since.elapsed() < IDLE_LIMIT {
                    return Some(last.sender);
                }
            }
        }
        None
    }

    fn keep(&self, sender: http1::SendRequest<B>) {
        let Some(shard) = self.shard(worker()) else { return };
        let mut idle = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MOST {
            idle.push(Idle { sender, since: Instant::now() });
        }
    }

    fn shard(&self, number: usize) -> Option<&Mutex<Vec<Idle<B>>>> {
        self.shards.get(number % self.shards.len().max(1))
    }

    async fn stream_of_shared(self: &Arc<Self>) -> Result<Lease<B>, ConnectError> {
        // Whoever waits for another's attempt to connect waits no longer than for one of its own.
        let Ok(mut shared) = tokio::time::timeout(self.connect_timeout, self.shared.lock()).await else {
            return Err(self.timed_out());
        };
        if let Some(sender) = shared.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(self.lease(Sender::Shared(sender.clone()), true));
        }
        let io = self.connect().await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(20))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .handshake(io)
            .await
            .map_err(|source| ConnectError::Handshake { origin: self.origin.clone(), source })?;
        let held = Held::by(&self.connections);
        tokio::spawn(async move {
            let _held = held;
            let ended = connection.await;
            tracing::trace!(error = ended.err().map(tracing::field::display), "an upstream connection ended");
        });
        *shared = Some(sender.clone());
        Ok(self.lease(Sender::Shared(sender), false))
    }

    fn timed_out(&self) -> ConnectError {
        ConnectError::TimedOut { origin: self.origin.clone(), seconds: self.connect_timeout.as_secs_f32() }
    }

    async fn connect(&self) -> Result<TokioIo<Forgiving>, ConnectError> {
        let outcome = match tokio::time::timeout(self.connect_timeout, self.target.connect()).await {
            Ok(Ok(stream)) => Ok(TokioIo::new(stream)),
            Ok(Err(source)) => Err(ConnectError::Connect { origin: self.origin.clone(), source }),
            Err(_) => Err(self.timed_out()),
        };
        match &outcome {
            Ok(_) if self.failure.load().is_none() => {}
            Ok(_) => self.failure.store(None),
            Err(error) => self.failure.store(Some(Arc::new(error.to_string()))),
        }
        outcome
    }
}

/// A number for this thread, so that a worker finds the connections that it used last.
fn worker() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static WORKER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    WORKER.with(|number| *number)
}

enum Sender<B> {
    Own(http1::SendRequest<B>),
    Shared(http2::SendRequest<B>),
}

/// Leave to send one request on a connection. Dropping it closes an HTTP/1.1 connection; [`Lease::give_back`] keeps it warm.
pub struct Lease<B> {
    sender: Sender<B>,
    reused: bool,
    upstream: Arc<Upstream<B>>,
}

/// A request that got no answer.
pub struct SendError<B> {
    /// The request, where no byte of it was sent: it may be sent again whatever it is.
    pub unsent: Option<Request<B>>,
    /// What went wrong.
    pub error: hyper::Error,
}

impl<B> Lease<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Whether the connection has carried a request before, so that the upstream may just have closed it.
    pub const fn is_reused(&self) -> bool {
        self.reused
    }

    /// Sends a request, and waits for the head of the answer.
    ///
    /// # Errors
    /// [`SendError`], with the request where it was never sent.
    pub async fn send(&mut self, request: Request<B>) -> Result<Response<Incoming>, SendError<B>> {
        let answer = match &mut self.sender {
            Sender::Own(sender) => sender.try_send_request(request).await,
            Sender::Shared(sender) => sender.try_send_request(request).await,
        };
        answer.map_err(|mut error| SendError { unsent: error.take_message(), error: error.into_error() })
    }

    /// Keeps the connection for the next request. Only once the answer was read, and the request sent, to their ends.
    pub fn give_back(self) {
        match self.sender {
            Sender::Own(sender) if !sender.is_closed() => self.upstream.keep(sender),
            Sender::Own(_) | Sender::Shared(_) => {}
        }
    }
}
