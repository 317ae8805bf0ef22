//! One connection: TLS, then HTTP under limits.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::Either;
use http_body::Body as _;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::adapters::certs::{self, Certificates};
use crate::adapters::net;
use crate::domain::caller::{NO_ADDRESS, Peer, Scheme};
use crate::domain::certificate::ClientCertificate;
use crate::serve::app::App;
use crate::serve::ext_authz::{self, Checks};
use crate::serve::handler;
use crate::serve::listener::crowd::Crowd;
use crate::serve::listener::drain::Drain;
use crate::serve::listener::socket::Stream;
use crate::serve::listener::{plain, proxy_protocol};
use crate::serve::settings::{Limits, Timeouts};
use crate::serve::watch::guarded::Guarded;
use crate::serve::watch::streams::StreamExecutor;
use crate::serve::watch::{Expiry, Overdue, Rest, UPLOADS_MOST, Watch};

/// What one HTTP/2 stream may send ahead of being read, in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
/// What is read ahead of an HTTP/1 body, in bytes.
const READ_BUFFER: u32 = 64 * 1024;
/// HTTP/2 streams at once on a connection.
const STREAMS: u32 = 100;
/// All streams of a connection together: as much as sixteen uploads that nobody reads. More would let one client hold too much.
const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;
const _: () = assert!(CONNECTION_WINDOW as usize == UPLOADS_MOST, "what may be sent ahead is what is counted");
/// What is held of an HTTP/2 answer that its reader is slow to take, in bytes.
const SEND_BUFFER: usize = 64 * 1024;

/// How long a connection on which nothing was read yet is given before it goes for others' sake: its request may wait to be read.
const TO_BE_READ: Duration = Duration::from_millis(20);

/// What a listener is for.
#[derive(Clone)]
pub(crate) enum Door {
    /// Requests of clients; with TLS, where it ends here.
    Requests(Option<Arc<Certificates>>),
    /// Envoy's questions about requests of its own.
    Checks(Arc<Checks>),
}

/// Serves one accepted connection to its end. `drain` ends it once what is in flight has ended.
pub(super) async fn serve(stream: Stream, door: Door, app: Arc<App>, crowd: &Crowd, drain: Drain) -> io::Result<()> {
    let snapshot = app.snapshot();
    let (limits, timeouts) = (snapshot.limits, snapshot.timeouts);
    let names_client = match &stream {
        Stream::Tcp(_, address) => {
            matches!(door, Door::Requests(_)) && snapshot.proxy_protocol_from.contain(address.ip())
        }
        Stream::Unix(_) => false,
    };
    drop(snapshot);
    if let Stream::Tcp(stream, _) = &stream {
        net::set_up(stream)?;
    }
    let watch = Arc::new(Watch::new(Instant::now(), timeouts, limits.header_bytes, Arc::clone(crowd.memory())));
    let _place = crowd.join(Arc::clone(&watch));
    let answering = Answering { app, limits, timeouts, watch, drain };
    match stream {
        Stream::Tcp(stream, address) => tcp(stream, address, names_client, door, crowd, answering).await,
        Stream::Unix(stream) => unix(stream, door, answering).await,
    }
}

async fn tcp(
    mut stream: TcpStream,
    mut address: SocketAddr,
    names_client: bool,
    door: Door,
    crowd: &Crowd,
    answering: Answering,
) -> io::Result<()> {
    let watch = &answering.watch;
    if names_client {
        let client = Box::pin(proxy_protocol::read(&mut stream));
        let client = tokio::select! {
            biased;
            client = tokio::time::timeout(answering.timeouts.header, client) => client.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?,
            () = watch.sent_away() => return Err(sent_away()),
        };
        match client {
            // Nobody has an address that is none.
            Ok(client) => address = client.filter(|client| !client.ip().is_unspecified()).unwrap_or(address),
            Err(error) => {
                crowd.warn_of_proxy_protocol(address.ip(), &error);
                return Err(error);
            }
        }
    }
    let tls = match door {
        Door::Requests(Some(tls)) => tls,
        door @ (Door::Requests(None) | Door::Checks(_)) => {
            let peer = Peer { address, scheme: Scheme::Http };
            return http(stream, Client { peer, certificate: None }, door, answering).await;
        }
    };
    let handshake = async {
        if plain::begins(&stream).await? {
            return plain::refuse(stream).await.map(|()| None);
        }
        TlsAcceptor::from(tls.server_config()).accept(stream).await.map(Some)
    };
    let Some(stream) = shaken(handshake, &answering).await? else { return Ok(()) };
    // One of a connection that a load balancer begins for somebody else may be the balancer's own.
    let certificate = shown(&stream).filter(|_| !names_client);
    let peer = Peer { address, scheme: Scheme::Https };
    http(stream, Client { peer, certificate }, Door::Requests(None), answering).await
}

/// A connection by a socket file: whoever it is has no address.
async fn unix(stream: UnixStream, door: Door, answering: Answering) -> io::Result<()> {
    let address = SocketAddr::new(NO_ADDRESS, 0);
    let tls = match door {
        Door::Requests(Some(tls)) => tls,
        door @ (Door::Requests(None) | Door::Checks(_)) => {
            let peer = Peer { address, scheme: Scheme::Http };
            return http(stream, Client { peer, certificate: None }, door, answering).await;
        }
    };
    let stream = shaken(TlsAcceptor::from(tls.server_config()).accept(stream), &answering).await?;
    let certificate = shown(&stream);
    let peer = Peer { address, scheme: Scheme::Https };
    http(stream, Client { peer, certificate }, Door::Requests(None), answering).await
}

/// Who is at the far end.
struct Client {
    peer: Peer,
    certificate: Option<Arc<ClientCertificate>>,
}

/// The certificate that the client has shown.
fn shown<IO>(stream: &TlsStream<IO>) -> Option<Arc<ClientCertificate>> {
    let leaf = stream.get_ref().1.peer_certificates()?.first()?;
    certs::client_certificate(leaf).map(Arc::new)
}

/// A handshake within the time for a head.
async fn shaken<T>(handshake: impl Future<Output = io::Result<T>>, answering: &Answering) -> io::Result<T> {
    answering.watch.takes_tls();
    tokio::select! {
        biased;
        shaken = tokio::time::timeout(answering.timeouts.header, handshake) => {
            shaken.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
        }
        () = answering.watch.sent_away() => Err(sent_away()),
    }
}

/// What every connection is answered with and within.
struct Answering {
    app: Arc<App>,
    limits: Limits,
    timeouts: Timeouts,
    watch: Arc<Watch>,
    drain: Drain,
}

fn sent_away() -> io::Error {
    io::Error::other("it was closed to make room, or because nobody took what was sent on it")
}

async fn http<IO>(stream: IO, client: Client, door: Door, answering: Answering) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Client { peer, certificate } = client;
    let Answering { app, limits, timeouts, watch, drain } = answering;
    let guarded = Guarded::new(stream, Arc::clone(&watch));
    let service = service_fn({
        let watch = Arc::clone(&watch);
        move |request: http::Request<hyper::body::Incoming>| {
            let http2 = request.version() == http::Version::HTTP_2;
            let has_body = !request.body().is_end_stream();
            let mut in_flight = Watch::begin(&watch, http2, has_body);
            if has_body {
                in_flight.expects_upload(ahead(http2, request.body().size_hint().exact()));
            }
            let app = Arc::clone(&app);
            match &door {
                Door::Requests(_) => Either::Left(handler::handle(app, peer, certificate.clone(), request, in_flight)),
                // In a box, so that it does not enlarge the future of every request.
                Door::Checks(checks) => {
                    Either::Right(Box::pin(ext_authz::handle(app, Arc::clone(checks), peer, request, in_flight)))
                }
            }
        }
    });
    let builder = builder(limits, timeouts);
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(guarded), service));
    let mut expiry = pin!(Expiry::of(&watch));
    let mut rest = pin!(Rest::of(&watch));
    let mut drained = pin!(drain.begun());
    let mut end = End::NotYet;
    let mut asked_again = false;
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
                Overdue::SentAway if !asked_again => {
                    // What came meanwhile is read first: somebody may have sent a request while we were too busy to see it.
                    asked_again = true;
                    if watch.has_read_something() {
                        tokio::task::yield_now().await;
                    } else {
                        tokio::time::sleep(TO_BE_READ).await;
                    }
                }
                Overdue::SentAway => return Err(sent_away()),
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

/// How much of a body of so many bytes may be read before it goes on: on HTTP/2 the stream's window, else a full buffer.
fn ahead(http2: bool, length: Option<u64>) -> usize {
    let most = if http2 { STREAM_WINDOW } else { READ_BUFFER };
    length.map_or(most, |length| u32::try_from(length).unwrap_or(u32::MAX).min(most)) as usize
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
        // WebSockets may come as streams; every other CONNECT is refused.
        .enable_connect_protocol()
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(timeouts.idle)
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}
