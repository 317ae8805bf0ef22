//! One connection: TLS, then HTTP under limits.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::Either;
use http_body::Body as _;
use hyper::service::service_fn;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::adapters::certs::{self, Certificates};
use crate::adapters::net::{self, Socket};
use crate::domain::caller::{NO_ADDRESS, Peer, Scheme};
use crate::domain::certificate::ClientCertificate;
use crate::serve::app::App;
use crate::serve::ext_authz::{self, Checks};
use crate::serve::handler;
use crate::serve::listener::crowd::{Crowd, Membership};
use crate::serve::listener::drain::Drain;
use crate::serve::listener::http::{HttpConnection, RequestService, STREAM_WINDOW};
use crate::serve::listener::socket::{Accepted, Stream};
use crate::serve::listener::{plain, proxy_protocol};
use crate::serve::watch::{DrainPause, Expiry, Overdue, Place, Watch};

/// The read buffer for an HTTP/1 body, in bytes.
const READ_BUFFER: u32 = 64 * 1024;

/// How long a connection with nothing read yet may stay before it is closed to make room: its request may wait to be read.
const TO_BE_READ: Duration = Duration::from_millis(20);

/// The purpose of a listener.
#[derive(Clone)]
pub(crate) enum Purpose {
    /// Client requests; with TLS if it is terminated here.
    Requests(Option<Arc<Certificates>>),
    /// Envoy's checks (`ext_authz`) of its own requests.
    Checks(Arc<Checks>),
}

/// Serves one accepted connection to its end. `drain` ends it once its requests in flight have ended.
pub(super) fn serve(
    accepted: Accepted,
    purpose: Purpose,
    app: Arc<App>,
    crowd: Arc<Crowd>,
    drain: Drain,
    place: Place,
) -> impl Future<Output = ()> + Send {
    // In a box, so that the task of an idle connection does not keep the memory that its start took.
    let begun = Box::pin(begin(accepted, purpose, app, crowd, drain, place));
    async move {
        let ended = match begun.await {
            Ok(Some(Begun { http, _member })) => http.await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            tracing::debug!("a connection ended: {error}");
        }
    }
}

/// A connection that speaks HTTP.
struct Begun {
    http: Pin<Box<dyn Future<Output = io::Result<()>> + Send>>,
    _member: Membership,
}

/// Begins HTTP on a connection. `None`: it was answered before that, and has ended.
async fn begin(
    accepted: Accepted,
    purpose: Purpose,
    app: Arc<App>,
    crowd: Arc<Crowd>,
    drain: Drain,
    place: Place,
) -> io::Result<Option<Begun>> {
    let stream = accepted.into_stream()?;
    let snapshot = app.snapshot();
    let (limits, timeouts) = (snapshot.limits, snapshot.timeouts);
    let names_client = match &stream {
        Stream::Tcp(_, address) => {
            matches!(purpose, Purpose::Requests(_)) && snapshot.proxy_protocol_from.contain(address.ip())
        }
        Stream::Unix(_) => false,
    };
    drop(snapshot);
    if let Stream::Tcp(stream, _) = &stream {
        net::set_up(stream)?;
    }
    let watch = Watch::new(Instant::now(), timeouts, limits.header_bytes, Arc::clone(crowd.memory()));
    let watch = Arc::new(watch.with_place(place));
    let member = Crowd::join(&crowd, Arc::clone(&watch));
    let answering = Answering { app, watch, drain };
    let opened = open(stream, names_client, purpose, &crowd, &answering).await?;
    let Some(Opened { stream, client, purpose }) = opened else { return Ok(None) };
    let http = match stream {
        Transport::Tcp(stream) => http(stream, client, purpose, answering),
        Transport::Unix(stream) => http(stream, client, purpose, answering),
        Transport::TlsOverTcp(stream) => http(stream, client, purpose, answering),
        Transport::TlsOverUnix(stream) => http(stream, client, purpose, answering),
    };
    Ok(Some(Begun { http, _member: member }))
}

/// A connection on which HTTP may begin.
struct Opened {
    stream: Transport,
    client: Client,
    purpose: Purpose,
}

enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    TlsOverTcp(Box<TlsStream<TcpStream>>),
    TlsOverUnix(Box<TlsStream<UnixStream>>),
}

/// What comes before HTTP: the PROXY protocol header of a load balancer, and TLS. `None`: the connection was answered, and has ended.
async fn open(
    stream: Stream,
    names_client: bool,
    purpose: Purpose,
    crowd: &Crowd,
    answering: &Answering,
) -> io::Result<Option<Opened>> {
    let (mut stream, mut address) = match stream {
        Stream::Tcp(stream, address) => (stream, address),
        Stream::Unix(stream) => return open_unix(stream, purpose, answering).await,
    };
    if names_client && let Some(client) = named_client(&mut stream, address, crowd, answering).await? {
        address = client;
    }
    let tls = match purpose {
        Purpose::Requests(Some(tls)) => tls,
        purpose @ (Purpose::Requests(None) | Purpose::Checks(_)) => {
            let client = Client { peer: Peer { address, scheme: Scheme::Http }, certificate: None };
            return Ok(Some(Opened { stream: Transport::Tcp(stream), client, purpose }));
        }
    };
    let handshake = async {
        if plain::begins(&stream).await? {
            return plain::refuse(stream).await.map(|()| None);
        }
        TlsAcceptor::from(tls.server_config()).accept(stream).await.map(Some)
    };
    let Some(stream) = handshake_in_time(handshake, answering).await? else { return Ok(None) };
    // On a connection that a load balancer opens for its client, the certificate may be the balancer's own.
    let certificate = shown(&stream).filter(|_| !names_client);
    let client = Client { peer: Peer { address, scheme: Scheme::Https }, certificate };
    Ok(Some(Opened { stream: Transport::TlsOverTcp(Box::new(stream)), client, purpose: Purpose::Requests(None) }))
}

/// The client's address in the PROXY protocol header, if it names one.
async fn named_client(
    stream: &mut TcpStream,
    balancer: SocketAddr,
    crowd: &Crowd,
    answering: &Answering,
) -> io::Result<Option<SocketAddr>> {
    let client = tokio::select! {
        biased;
        client = tokio::time::timeout(answering.watch.timeouts().header, proxy_protocol::read(stream)) => {
            client.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
        }
        () = answering.watch.close_requested() => return Err(closed_by_us()),
    };
    // No client has an unspecified address.
    let client = client.map(|client| client.filter(|client| !client.ip().is_unspecified()));
    client.inspect_err(|error| crowd.warn_of_proxy_protocol(balancer.ip(), error))
}

/// The same for a connection through a socket file: its client has no address.
async fn open_unix(stream: UnixStream, purpose: Purpose, answering: &Answering) -> io::Result<Option<Opened>> {
    let address = SocketAddr::new(NO_ADDRESS, 0);
    let tls = match purpose {
        Purpose::Requests(Some(tls)) => tls,
        purpose @ (Purpose::Requests(None) | Purpose::Checks(_)) => {
            let client = Client { peer: Peer { address, scheme: Scheme::Http }, certificate: None };
            return Ok(Some(Opened { stream: Transport::Unix(stream), client, purpose }));
        }
    };
    let handshake = async {
        if plain::begins_by_file(&stream).await? {
            return plain::refuse(stream).await.map(|()| None);
        }
        TlsAcceptor::from(tls.server_config()).accept(stream).await.map(Some)
    };
    let Some(stream) = handshake_in_time(handshake, answering).await? else { return Ok(None) };
    let client = Client { peer: Peer { address, scheme: Scheme::Https }, certificate: shown(&stream) };
    Ok(Some(Opened { stream: Transport::TlsOverUnix(Box::new(stream)), client, purpose: Purpose::Requests(None) }))
}

/// The client of a connection.
struct Client {
    peer: Peer,
    certificate: Option<Arc<ClientCertificate>>,
}

/// The certificate that the client has presented.
fn shown<IO>(stream: &TlsStream<IO>) -> Option<Arc<ClientCertificate>> {
    let leaf = stream.get_ref().1.peer_certificates()?.first()?;
    certs::client_certificate(leaf).map(Arc::new)
}

/// A TLS handshake within the time limit for a head.
async fn handshake_in_time<T>(handshake: impl Future<Output = io::Result<T>>, answering: &Answering) -> io::Result<T> {
    answering.watch.takes_tls();
    tokio::select! {
        biased;
        outcome = tokio::time::timeout(answering.watch.timeouts().header, handshake) => {
            outcome.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
        }
        () = answering.watch.close_requested() => Err(closed_by_us()),
    }
}

/// What a connection needs to answer requests.
struct Answering {
    app: Arc<App>,
    watch: Arc<Watch>,
    drain: Drain,
}

fn closed_by_us() -> io::Error {
    io::Error::other("it was closed to make room, or because nobody took what was sent on it")
}

/// Serves requests until the connection ends.
fn http<IO>(
    stream: IO,
    client: Client,
    purpose: Purpose,
    answering: Answering,
) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send>>
where
    IO: AsyncRead + AsyncWrite + Socket + Unpin + Send + 'static,
{
    let Client { peer, certificate } = client;
    let Answering { app, watch, drain } = answering;
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
            match &purpose {
                Purpose::Requests(_) => {
                    Either::Left(handler::handle(app, peer, certificate.clone(), request, in_flight))
                }
                // In a box, so that it does not enlarge the future of every request.
                Purpose::Checks(checks) => {
                    Either::Right(Box::pin(ext_authz::handle(app, Arc::clone(checks), peer, request, in_flight)))
                }
            }
        }
    });
    let connection = HttpConnection::new(stream, service, Arc::clone(&watch));
    Box::pin(until_end(connection, watch, drain))
}

/// Drives a connection to its end: by itself, by a time limit, or by the drain.
#[expect(
    clippy::manual_async_fn,
    reason = "what a block captures lies in its future once, what a function is given twice"
)]
fn until_end<IO, S>(
    mut connection: HttpConnection<IO, S>,
    watch: Arc<Watch>,
    drain: Drain,
) -> impl Future<Output = io::Result<()>>
where
    IO: AsyncRead + AsyncWrite + Socket + Unpin + Send + 'static,
    S: RequestService,
{
    async move {
        let mut expiry = pin!(Expiry::of(&watch));
        let mut pause = pin!(DrainPause::of(&watch));
        let mut drained = pin!(drain.begun());
        let mut end = End::NotYet;
        let mut asked_again = false;
        loop {
            tokio::select! {
                biased;
                ended = &mut connection => return ended,
                () = drained.as_mut(), if end == End::NotYet => {
                    end = End::Near;
                    pause.as_mut().begin();
                }
                () = pause.as_mut(), if end == End::Near => {
                    end = End::ShuttingDown;
                    connection.graceful_shutdown();
                }
                overdue = expiry.as_mut() => match overdue {
                    Overdue::Rests => {
                        asked_again = false;
                        connection.rest();
                    }
                    // An idle connection is asked to close; one that does not is dropped at the next limit.
                    Overdue::Idle if end != End::ShuttingDown => {
                        end = End::ShuttingDown;
                        watch.expect_end();
                        connection.graceful_shutdown();
                    }
                    Overdue::Idle | Overdue::Head => return Err(io::ErrorKind::TimedOut.into()),
                    Overdue::Closed if !asked_again => {
                        // Pending bytes are read first: a request may have come while we were too busy to read it.
                        asked_again = true;
                        if watch.has_read_something() {
                            tokio::task::yield_now().await;
                        } else {
                            // In a box, so that it does not enlarge every connection.
                            Box::pin(tokio::time::sleep(TO_BE_READ)).await;
                        }
                    }
                    Overdue::Closed => return Err(closed_by_us()),
                },
            }
        }
    }
}

/// The progress of ending a connection.
#[derive(PartialEq, Eq)]
enum End {
    NotYet,
    /// It has no request in flight, and ends if none comes.
    Near,
    /// The requests in flight are the last.
    ShuttingDown,
}

/// How much of a body of this length may be read before it is forwarded: on HTTP/2 the stream's window, else a full buffer.
fn ahead(http2: bool, length: Option<u64>) -> usize {
    let most = if http2 { STREAM_WINDOW } else { READ_BUFFER };
    length.map_or(most, |length| u32::try_from(length).unwrap_or(u32::MAX).min(most)) as usize
}
