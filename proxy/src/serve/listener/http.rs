//! HTTP on one connection: HTTP/1.1 or HTTP/2 according to its first bytes, and without buffers while it is idle.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::adapters::net::Socket;
use crate::serve::body::Body;
use crate::serve::watch::guarded::{Guarded, HttpVersion};
use crate::serve::watch::streams::StreamExecutor;
use crate::serve::watch::{UPLOADS_MOST, Watch};

/// The most unread bytes that one HTTP/2 stream may send.
pub(super) const STREAM_WINDOW: u32 = 256 * 1024;
/// Concurrent HTTP/2 streams on a connection.
const STREAMS: u32 = 100;
/// The same for all streams of a connection: as much as sixteen unread uploads. More would let one client hold too much.
const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;
const _: () = assert!(CONNECTION_WINDOW as usize == UPLOADS_MOST, "what may be sent ahead is what is counted");
/// How much of an HTTP/2 response is buffered for a slow reader, in bytes.
const SEND_BUFFER: usize = 64 * 1024;

/// A connection whose requests `S` answers.
pub(super) struct HttpConnection<IO, S>
where
    S: RequestService,
    IO: AsyncRead + AsyncWrite + Socket + Unpin + Send + 'static,
{
    stage: Stage<IO, S>,
    watch: Arc<Watch>,
    /// Whether the requests in flight are the last.
    ends: bool,
}

/// The service that answers requests.
pub(super) trait RequestService:
    Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send + 'static> + Unpin + 'static
{
}

impl<S> RequestService for S where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
        + Unpin
        + 'static
{
}

enum Stage<IO, S>
where
    S: RequestService,
    IO: AsyncRead + AsyncWrite + Socket + Unpin + Send + 'static,
{
    /// Nothing was read yet, or nothing for some time.
    Rests {
        io: Guarded<IO>,
        service: S,
        /// `None`: its first bytes decide.
        version: Option<HttpVersion>,
    },
    Http1(Box<http1::UpgradeableConnection<TokioIo<Guarded<IO>>, S>>),
    Http2(Box<http2::Connection<TokioIo<Guarded<IO>>, S, StreamExecutor>>),
    Ended,
}

impl<IO, S> HttpConnection<IO, S>
where
    S: RequestService,
    IO: AsyncRead + AsyncWrite + Socket + Unpin + Send + 'static,
{
    pub(super) fn new(stream: IO, service: S, watch: Arc<Watch>) -> Self {
        if stream.plain().is_some() {
            watch.pipe().allow();
        }
        let io = Guarded::new(stream, Arc::clone(&watch));
        Self { stage: Stage::Rests { io, service, version: None }, watch, ends: false }
    }

    /// Ends the connection once its requests in flight have ended.
    pub(super) fn graceful_shutdown(&mut self) {
        self.ends = true;
        match &mut self.stage {
            Stage::Http1(connection) => Pin::new(&mut **connection).graceful_shutdown(),
            Stage::Http2(connection) => Pin::new(&mut **connection).graceful_shutdown(),
            Stage::Rests { .. } | Stage::Ended => {}
        }
    }

    /// Frees the buffers until bytes come. Only if every response has been written; on HTTP/2 the buffers stay.
    pub(super) fn rest(&mut self) {
        if !self.watch.is_at_rest() || !matches!(self.stage, Stage::Http1(_)) {
            return;
        }
        let Stage::Http1(connection) = std::mem::replace(&mut self.stage, Stage::Ended) else { return };
        let Some(http1::Parts { io, read_buf, service, .. }) = connection.into_parts() else { return };
        let mut io = io.into_inner();
        io.unread(&read_buf);
        self.watch.gives_buffers_back();
        self.stage = Stage::Rests { io, service, version: Some(HttpVersion::Http1) };
    }

    /// Starts HTTP with the first bytes.
    fn wake(&mut self, version: HttpVersion) {
        let Stage::Rests { io, service, .. } = std::mem::replace(&mut self.stage, Stage::Ended) else { return };
        self.watch.takes_buffers();
        self.stage = match version {
            HttpVersion::Http1 => {
                let connection = http1(&self.watch).serve_connection(TokioIo::new(io), service);
                Stage::Http1(Box::new(connection.with_upgrades()))
            }
            HttpVersion::Http2 => {
                let connection = http2(&self.watch).serve_connection(TokioIo::new(io), service);
                Stage::Http2(Box::new(connection))
            }
        };
        if self.ends {
            self.graceful_shutdown();
        }
    }
}

impl<IO, S> Future for HttpConnection<IO, S>
where
    S: RequestService,
    IO: AsyncRead + AsyncWrite + Socket + Unpin + Send + 'static,
{
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let this = &mut *self;
            match &mut this.stage {
                Stage::Rests { io, version, .. } => {
                    if this.ends && !io.has_begun() {
                        return Pin::new(io).poll_shutdown(cx);
                    }
                    match ready!(io.poll_begin(cx, *version))? {
                        Some(version) => this.wake(version),
                        None => this.ends = true,
                    }
                }
                Stage::Http1(connection) => return Pin::new(&mut **connection).poll(cx).map_err(io::Error::other),
                Stage::Http2(connection) => return Pin::new(&mut **connection).poll(cx).map_err(io::Error::other),
                Stage::Ended => return Poll::Ready(Ok(())),
            }
        }
    }
}

fn http1(watch: &Watch) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // `Watch` measures the time to a complete head; it distinguishes waiting for a request from reading one.
    builder.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(watch.head_most()).half_close(false);
    builder
}

fn http2(watch: &Watch) -> http2::Builder<StreamExecutor> {
    let timeouts = watch.timeouts();
    let mut builder = http2::Builder::new(StreamExecutor::new(timeouts.body));
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        // Allows WebSockets as streams (extended CONNECT); every other CONNECT is refused.
        .enable_connect_protocol()
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(watch.head_most()).unwrap_or(u32::MAX))
        .keep_alive_interval(timeouts.idle)
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}
