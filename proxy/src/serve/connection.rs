//! One connection: TLS, then HTTP under limits.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::adapters::net;
use crate::domain::caller::{Peer, Scheme};
use crate::serve::drain::Drain;
use crate::serve::handler;
use crate::serve::settings::{Limits, Timeouts};
use crate::serve::site::House;
use crate::serve::streams::StreamExecutor;
use crate::serve::watch::{Expiry, Guarded, Overdue, Rest, Watch};

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
    drain: Drain,
) -> io::Result<()> {
    let site = house.site();
    let (limits, timeouts) = (site.limits, site.timeouts);
    drop(site);
    let address = stream.peer_addr()?;
    net::set_up(&stream)?;
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
    drain: Drain,
) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let watch = Arc::new(Watch::new(accepted, timeouts));
    let guarded = Guarded::new(stream, Arc::clone(&watch));
    let service = service_fn({
        let watch = Arc::clone(&watch);
        move |request| {
            let in_flight = Watch::begin(&watch, request.version() == http::Version::HTTP_2);
            handler::handle(Arc::clone(&house), peer, request, in_flight)
        }
    });
    let builder = builder(limits, timeouts);
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(guarded), service));
    let mut expiry = pin!(Expiry::of(&watch));
    let mut rest = pin!(Rest::of(&watch));
    let mut drained = pin!(drain.begun());
    let mut end = End::NotYet;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => return ended.map_err(io::Error::other),
            () = drained.as_mut(), if end == End::NotYet => {
                end = End::Near;
                rest.as_mut().begin();
            }
            () = rest.as_mut(), if end == End::Near => {
                end = End::Told;
                connection.as_mut().graceful_shutdown();
            }
            overdue = expiry.as_mut() => match overdue {
                // An unused connection is told to go; one that does not is dropped at the next limit.
                Overdue::Idle if end != End::Told => {
                    end = End::Told;
                    watch.expect_end();
                    connection.as_mut().graceful_shutdown();
                }
                Overdue::Idle | Overdue::Head => return Err(io::ErrorKind::TimedOut.into()),
            },
        }
    }
}

/// How far the end of a connection has come.
#[derive(PartialEq, Eq)]
enum End {
    NotYet,
    /// It has no request under way, and ends if none comes.
    Near,
    /// What is under way is the last.
    Told,
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
