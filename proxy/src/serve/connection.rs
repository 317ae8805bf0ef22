//! One connection: TLS, then HTTP under limits.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::domain::caller::{Peer, Scheme};
use crate::serve::handler;
use crate::serve::settings::{Limits, Timeouts};
use crate::serve::site::House;
use crate::serve::streams::StreamExecutor;

/// What one HTTP/2 stream may send ahead of being read, in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
/// HTTP/2 streams at once on a connection.
const STREAMS: u32 = 100;
/// All streams' windows together, so that unread uploads never hold up another stream.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS;
/// What is held of an HTTP/2 answer that its reader is slow to take, in bytes.
const SEND_BUFFER: usize = 64 * 1024;

/// Serves one accepted connection to its end. `drain` ends it once what is in flight has ended.
pub(crate) async fn serve(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    house: Arc<House>,
    drain: CancellationToken,
) -> io::Result<()> {
    let site = house.site();
    let (limits, timeouts) = (site.limits, site.timeouts);
    drop(site);
    let address = stream.peer_addr()?;
    stream.set_nodelay(true)?;
    let Some(acceptor) = tls else {
        let peer = Peer { address, scheme: Scheme::Http };
        return http(stream, peer, house, limits, timeouts, Instant::now(), drain).await;
    };
    let accepted = Instant::now();
    let handshake = tokio::time::timeout(timeouts.header, acceptor.accept(stream));
    let stream = handshake.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let peer = Peer { address, scheme: Scheme::Https };
    http(stream, peer, house, limits, timeouts, accepted, drain).await
}

async fn http<IO>(
    stream: IO,
    peer: Peer,
    house: Arc<House>,
    limits: Limits,
    timeouts: Timeouts,
    accepted: Instant,
    drain: CancellationToken,
) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let watch = Arc::new(Watch::new(accepted, timeouts));
    let guarded = Guarded { stream, watch: Arc::clone(&watch), write_alarm: None, write_waits: None };
    let service = service_fn({
        let watch = Arc::clone(&watch);
        move |request| {
            let in_flight = Watch::begin(&watch, request.version() == http::Version::HTTP_2);
            handler::handle(Arc::clone(&house), peer, request, in_flight)
        }
    });
    let builder = builder(limits, timeouts);
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(guarded), service));
    let mut expiry = pin!(Expiry { watch: &watch, alarm: None, armed_for: None });
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => return ended.map_err(io::Error::other),
            () = drain.cancelled(), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            overdue = expiry.as_mut() => match overdue {
                // An unused connection is told to go; one that does not is dropped at the next limit.
                Overdue::Idle if !draining => {
                    draining = true;
                    watch.expect_end();
                    connection.as_mut().graceful_shutdown();
                }
                Overdue::Idle | Overdue::Head => return Err(io::ErrorKind::TimedOut.into()),
            },
        }
    }
}

fn builder(limits: Limits, timeouts: Timeouts) -> auto::Builder<StreamExecutor> {
    let mut builder = auto::Builder::new(StreamExecutor::new(timeouts.body));
    // The time to a complete head is measured by `Watch`, which tells waiting for a request from reading one.
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes)
        .half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(timeouts.idle)
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

/// What a connection is doing, and until when it may. Written by the stream and the requests, read by [`Expiry`].
struct Watch {
    began: Instant,
    timeouts: Timeouts,
    in_flight: AtomicUsize,
    http2: AtomicBool,
    upgraded: AtomicBool,
    /// Milliseconds after `began`; `NEVER` while something is in flight.
    deadline: AtomicU64,
    /// Whether the deadline is for a head that is being read, rather than for an unused connection.
    reads_head: AtomicBool,
}

const NEVER: u64 = u64::MAX;

impl Watch {
    fn new(accepted: Instant, timeouts: Timeouts) -> Self {
        let watch = Self {
            began: accepted,
            timeouts,
            in_flight: AtomicUsize::new(0),
            http2: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
            deadline: AtomicU64::new(NEVER),
            reads_head: AtomicBool::new(true),
        };
        watch.deadline.store(millis(timeouts.header), Ordering::Relaxed);
        watch
    }

    fn begin(watch: &Arc<Self>, http2: bool) -> InFlight {
        watch.in_flight.fetch_add(1, Ordering::Relaxed);
        watch.http2.store(http2, Ordering::Relaxed);
        watch.reads_head.store(false, Ordering::Relaxed);
        watch.deadline.store(NEVER, Ordering::Relaxed);
        InFlight(Arc::clone(watch))
    }

    fn end(&self) {
        if self.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.reads_head.store(false, Ordering::Relaxed);
            self.deadline
                .store(millis(self.began.elapsed()).saturating_add(millis(self.timeouts.idle)), Ordering::Relaxed);
        }
    }

    /// The first byte of a later request has come. On HTTP/2 bytes come without requests, and prove nothing.
    fn read_something(&self) {
        let idle = self.in_flight.load(Ordering::Relaxed) == 0 && !self.reads_head.load(Ordering::Relaxed);
        if idle && !self.http2.load(Ordering::Relaxed) && !self.upgraded.load(Ordering::Relaxed) {
            self.expect_end();
        }
    }

    /// From now on the time for a head runs.
    fn expect_end(&self) {
        self.reads_head.store(true, Ordering::Relaxed);
        self.deadline
            .store(millis(self.began.elapsed()).saturating_add(millis(self.timeouts.header)), Ordering::Relaxed);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(NEVER - 1)
}

/// A request under way; the connection is not idle until it is dropped.
pub(crate) struct InFlight(Arc<Watch>);

impl InFlight {
    /// The connection becomes a tunnel: from here on its bytes are not HTTP, and may rest.
    pub(crate) fn becomes_tunnel(&self) {
        self.0.upgraded.store(true, Ordering::Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.end();
    }
}

enum Overdue {
    Idle,
    Head,
}

/// Ends when the connection has overstayed. It looks at the deadline each time the connection is polled, which costs one load.
struct Expiry<'w> {
    watch: &'w Watch,
    alarm: Option<Pin<Box<Sleep>>>,
    armed_for: Option<u64>,
}

impl Future for Expiry<'_> {
    type Output = Overdue;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Overdue> {
        let this = &mut *self;
        loop {
            let deadline = this.watch.deadline.load(Ordering::Relaxed);
            if deadline == NEVER {
                return Poll::Pending;
            }
            let at = this.watch.began + Duration::from_millis(deadline);
            let alarm = this.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            // Later deadlines need no new alarm: when the old one rings, we look again.
            if this.armed_for.is_none_or(|armed| armed > deadline) || alarm.is_elapsed() {
                if Instant::now() >= at {
                    let reads_head = this.watch.reads_head.load(Ordering::Relaxed);
                    return Poll::Ready(if reads_head { Overdue::Head } else { Overdue::Idle });
                }
                alarm.as_mut().reset(at);
                this.armed_for = Some(deadline);
            }
            ready!(alarm.as_mut().poll(cx));
        }
    }
}

/// The connection's bytes, with a limit on how long the peer may refuse to take any.
struct Guarded<IO> {
    stream: IO,
    watch: Arc<Watch>,
    write_alarm: Option<Pin<Box<Sleep>>>,
    write_waits: Option<Instant>,
}

impl<IO> Guarded<IO> {
    fn check<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() || self.watch.upgraded.load(Ordering::Relaxed) {
            self.write_waits = None;
            return outcome;
        }
        let until = *self.write_waits.get_or_insert_with(Instant::now) + self.watch.timeouts.body;
        let alarm = self.write_alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if alarm.is_elapsed() || alarm.deadline() > until {
            alarm.as_mut().reset(until);
        }
        while alarm.as_mut().poll(cx).is_ready() {
            if Instant::now() >= until {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            alarm.as_mut().reset(until);
        }
        Poll::Pending
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guarded<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.watch.read_something();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guarded<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.check(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.check(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.check(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.check(cx, outcome)
    }
}
