//! A new connection to the upstream: over TCP, TLS or a Unix socket.

use std::io;
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{BoxError, UpstreamAddress, UpstreamSettings};
use crate::adapters::net::{Plain, set_up, write_pieces};

/// Why connecting to the upstream failed. The text names the upstream and the reason.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The connection failed.
    #[error("cannot connect to the upstream {origin}: {source}")]
    Connect {
        /// The upstream's origin.
        origin: String,
        /// The system's error.
        source: io::Error,
    },
    /// Connecting took too long.
    #[error("cannot connect to the upstream {origin}: no connection within {seconds} s (TIMEOUT_CONNECT)")]
    TimedOut {
        /// The upstream's origin.
        origin: String,
        /// The limit.
        seconds: f32,
    },
    /// The server does not speak HTTP as expected.
    #[error("the upstream {origin} does not speak HTTP: {source}")]
    Handshake {
        /// The upstream's origin.
        origin: String,
        /// What happened instead.
        source: BoxError,
    },
    /// No further HTTP/2 stream can be had.
    #[error(
        "the upstream {origin} takes no more requests at once: its {connections} HTTP/2 connections have as many streams as it allows, \
         and none ended within {seconds} s (TIMEOUT_CONNECT)"
    )]
    Crowded {
        /// The upstream's origin.
        origin: String,
        /// How many connections are open.
        connections: usize,
        /// The limit.
        seconds: f32,
    },
}

/// A prepared connection target.
pub(super) enum Target {
    Tcp {
        host: String,
        port: u16,
    },
    /// `http1` offers only HTTP/1.1.
    Tls {
        host: String,
        port: u16,
        name: ServerName<'static>,
        connector: TlsConnector,
        http1: TlsConnector,
    },
    Unix(PathBuf),
}

impl Target {
    pub(super) fn of(settings: &UpstreamSettings, tls: Option<Arc<ClientConfig>>) -> Result<Self, String> {
        Ok(match &settings.address {
            UpstreamAddress::Http { host, port } | UpstreamAddress::H2c { host, port } => {
                Self::Tcp { host: host.clone(), port: *port }
            }
            UpstreamAddress::Https { host, port } | UpstreamAddress::H2 { host, port } => {
                let tls = tls.ok_or("an https upstream needs a TLS client")?;
                let name = settings.trust.server_name.as_ref().unwrap_or(host);
                let mut http1 = ClientConfig::clone(&tls);
                http1.alpn_protocols = vec![b"http/1.1".to_vec()];
                Self::Tls {
                    host: host.clone(),
                    port: *port,
                    name: ServerName::try_from(name.clone())
                        .map_err(|_| format!("the upstream {}: `{name}` is no host name", settings.address.origin()))?,
                    connector: TlsConnector::from(tls),
                    http1: TlsConnector::from(Arc::new(http1)),
                }
            }
            UpstreamAddress::Unix(path) => Self::Unix(path.clone()),
        })
    }

    /// Connects; with `only_http1`, a server that may speak either is offered only HTTP/1.1.
    pub(super) async fn connect(&self, only_http1: bool) -> io::Result<Forgiving> {
        Ok(Forgiving { stream: self.stream(only_http1).await?, deaf: false })
    }

    async fn stream(&self, only_http1: bool) -> io::Result<Stream> {
        match self {
            Self::Tcp { host, port } => Ok(Stream::Tcp(tcp(host, *port).await?)),
            Self::Tls { host, port, name, connector, http1 } => {
                let connector = if only_http1 { http1 } else { connector };
                let stream = connector.connect(name.clone(), tcp(host, *port).await?).await?;
                Ok(Stream::Tls(Box::new(stream)))
            }
            Self::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
        }
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    set_up(&stream)?;
    Ok(stream)
}

/// A connection whose peer may respond and close before it has read the whole request (413, say): further writes are lost, but the response
/// can still be read. A failed write therefore counts as done, and reading returns the response or the end.
pub(super) struct Forgiving {
    stream: Stream,
    deaf: bool,
}

impl Forgiving {
    #[cfg(test)]
    pub(super) const fn over(stream: TcpStream) -> Self {
        Self { stream: Stream::Tcp(stream), deaf: false }
    }

    /// Moves the connection from the worker that drives it to the current one.
    pub(super) fn move_here(self) -> io::Result<Self> {
        let stream = match self.stream {
            Stream::Tcp(stream) => Stream::Tcp(TcpStream::from_std(stream.into_std()?)?),
            Stream::Unix(stream) => Stream::Unix(UnixStream::from_std(stream.into_std()?)?),
            // A TLS stream cannot be taken apart and reassembled: it stays with its worker.
            Stream::Tls(stream) => Stream::Tls(stream),
        };
        Ok(Self { stream, deaf: self.deaf })
    }

    /// Whether the server chose HTTP/2 in the handshake.
    pub(super) fn speaks_http2(&self) -> bool {
        match &self.stream {
            Stream::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
            Stream::Tcp(_) | Stream::Unix(_) => false,
        }
    }

    pub(super) const fn has_tls(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    /// The socket, if bytes come from it as they are.
    pub(super) fn plain(&self) -> Option<Plain<'_>> {
        match &self.stream {
            Stream::Tcp(stream) => Some(Plain::Tcp(stream)),
            Stream::Unix(stream) => Some(Plain::Unix(stream)),
            Stream::Tls(_) => None,
        }
    }

    /// Whether the connection is open and no bytes have arrived: bytes after a response would be read as the next one. With `polled_since`
    /// this thread's runtime has polled the kernel since the last use, and knows what arrived before the request did; otherwise the kernel is
    /// asked about this connection.
    pub(super) fn is_quiet(&mut self, polled_since: bool) -> bool {
        !self.deaf && self.stream.is_silent() && !self.stream.has_news(polled_since)
    }

    /// Lets a write or a flush that failed because the peer has closed count as done, with this outcome.
    fn forgive<T>(&mut self, outcome: Poll<io::Result<T>>, done: T) -> Poll<io::Result<T>> {
        match outcome {
            Poll::Ready(Err(error))
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                self.deaf = true;
                Poll::Ready(Ok(done))
            }
            Poll::Ready(_) | Poll::Pending => outcome,
        }
    }
}

impl AsyncRead for Forgiving {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if self.deaf && buf.filled().len() == before {
            // The failed write has consumed the system's error: without it, a response that ends with its connection would look complete.
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Forgiving {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Ready(Ok(buf.len()));
        }
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.forgive(outcome, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wanted = bufs.iter().map(|buf| buf.len()).sum();
        if self.deaf {
            return Poll::Ready(Ok(wanted));
        }
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.forgive(outcome, wanted)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deaf {
            return Poll::Ready(Ok(()));
        }
        // Over TLS this writes.
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.forgive(outcome, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deaf { Poll::Ready(Ok(())) } else { Pin::new(&mut self.stream).poll_shutdown(cx) }
    }
}

/// A connection of any of the three kinds.
enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Stream {
    /// Whether no bytes are buffered outside the kernel: TLS may first have to process a record that is no data, such as a session ticket.
    fn is_silent(&mut self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => true,
            Self::Tls(stream) => Pin::new(stream)
                .poll_read(&mut Context::from_waker(Waker::noop()), &mut ReadBuf::new(&mut [0]))
                .is_pending(),
        }
    }

    /// Whether the kernel holds received bytes, or the connection's end. With `polled_since` it is asked only if the runtime has an event.
    fn has_news(&self, polled_since: bool) -> bool {
        let peek = |socket: SockRef<'_>| socket.peek(&mut [MaybeUninit::uninit()]);
        let peeked = match self {
            Self::Tcp(stream) if polled_since => stream.try_io(Interest::READABLE, || peek(stream.into())),
            Self::Tcp(stream) => peek(stream.into()),
            Self::Unix(stream) if polled_since => stream.try_io(Interest::READABLE, || peek(stream.into())),
            Self::Unix(stream) => peek(stream.into()),
            Self::Tls(stream) => peek(stream.get_ref().0.into()),
        };
        !peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Tls($stream) => $call,
            Stream::Unix($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => write_pieces(Pin::new(stream), cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::{TlsAcceptor, server};

    use super::*;
    use crate::adapters::certs;
    use crate::adapters::upstream::Trust;

    /// A connection over TLS, and its other side.
    async fn over_tls() -> (Forgiving, server::TlsStream<TcpStream>) {
        let certified = rcgen::generate_simple_self_signed(["app.internal".to_owned()]).unwrap();
        let root = certified.cert.der().clone();
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![root.clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let settings = UpstreamSettings {
            address: UpstreamAddress::Https { host: "127.0.0.1".to_owned(), port },
            roots: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            trust: Trust { server_name: Some("app.internal".to_owned()), ..Trust::default() },
        };
        let client = certs::client_config(&[root], &[]).unwrap();
        let target = Target::of(&settings, Some(Arc::new(client))).unwrap();
        let accepting = async {
            let (stream, _) = listener.accept().await.unwrap();
            TlsAcceptor::from(Arc::new(config)).accept(stream).await
        };
        let (ours, theirs) = tokio::join!(target.connect(false), accepting);
        (ours.unwrap(), theirs.unwrap())
    }

    #[tokio::test]
    async fn an_answer_is_read_although_the_peer_has_closed_before_the_last_bytes_were_flushed() {
        let (mut ours, mut theirs) = over_tls().await;
        // Until TLS holds as much as it may that the socket has not taken.
        let piece = [0; 16 * 1024];
        while let Poll::Ready(written) =
            std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut ours).poll_write(cx, &piece))).await
        {
            assert!(written.unwrap() > 0);
        }
        theirs.write_all(b"HTTP/1.1 413 Content Too Large\r\n\r\n").await.unwrap();
        theirs.flush().await.unwrap();
        // Closing with unread bytes resets the connection.
        drop(theirs);
        ours.flush().await.unwrap();
        let mut answer = [0; 64];
        let read = ours.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 413 "));
        assert!(ours.read(&mut answer).await.is_err(), "this is no proper end");
    }
}
