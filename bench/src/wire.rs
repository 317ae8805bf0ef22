//! Connections to contenders, without or with TLS, and the certificate that all of them use.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::options::Protocol;

/// How many connect at a time: fewer than the kernel's backlog.
const AT_A_TIME: usize = 64;

/// Opens all, a few at a time.
pub(crate) async fn open_all<T, F>(all: impl Iterator<Item = F>) -> anyhow::Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>> + Send + 'static,
{
    let (mut open, mut opening) = (Vec::with_capacity(all.size_hint().0), VecDeque::new());
    for one in all {
        opening.push_back(tokio::spawn(one));
        if opening.len() == AT_A_TIME
            && let Some(first) = opening.pop_front()
        {
            open.push(first.await??);
        }
    }
    for one in opening {
        open.push(one.await??);
    }
    Ok(open)
}

/// A certificate for 127.0.0.1, with its key, in files.
pub(crate) struct Certificate {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
    /// Chain and key in one file.
    pub(crate) together: PathBuf,
    der: CertificateDer<'static>,
}

impl Certificate {
    pub(crate) fn make(folder: &Path) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed([Ipv4Addr::LOCALHOST.to_string()])?;
        let (certificate, private) = (made.cert.pem(), made.signing_key.serialize_pem());
        let [chain, key, together] = ["chain.pem", "key.pem", "together.pem"].map(|name| folder.join(name));
        fs::write(&chain, &certificate)?;
        fs::write(&key, &private)?;
        fs::write(&together, certificate + &private)?;
        Ok(Self { chain, key, together, der: made.cert.der().clone() })
    }

    /// TLS settings for a contender with this certificate. All are offered the same: TLS 1.3 with one cipher suite and one key
    /// exchange, no resumption; otherwise servers would choose different amounts of work.
    fn connector(&self, protocol: Protocol) -> anyhow::Result<TlsConnector> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone())?;
        let provider = CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        };
        let config = ClientConfig::builder_with_provider(Arc::new(provider));
        let config = config.with_protocol_versions(&[&rustls::version::TLS13])?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.alpn_protocols = alpn(protocol);
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

fn alpn(protocol: Protocol) -> Vec<Vec<u8>> {
    match protocol {
        Protocol::Http2 => vec![b"h2".to_vec()],
        Protocol::Http1 | Protocol::Tls => vec![b"http/1.1".to_vec()],
    }
}

/// The address of a contender, and its protocol.
#[derive(Clone)]
pub(crate) struct Address {
    pub(crate) port: u16,
    tls: Option<TlsConnector>,
}

impl Address {
    /// With TLS if there is a certificate.
    pub(crate) fn new(port: u16, protocol: Protocol, certificate: Option<&Certificate>) -> anyhow::Result<Self> {
        let tls = certificate.map(|certificate| certificate.connector(protocol)).transpose()?;
        Ok(Self { port, tls })
    }

    /// The same address, with another protocol negotiated over TLS.
    pub(crate) fn with_protocol(&self, protocol: Protocol) -> Self {
        let tls = self.tls.as_ref().map(|tls| {
            let mut config = ClientConfig::clone(tls.config());
            config.alpn_protocols = alpn(protocol);
            TlsConnector::from(Arc::new(config))
        });
        Self { tls, ..*self }
    }

    /// Scheme, host and port.
    pub(crate) fn origin(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    pub(crate) async fn connect(&self) -> io::Result<Wire> {
        self.connect_by(TcpSocket::new_v4()?).await
    }

    /// Connects with a socket that has its own settings.
    pub(crate) async fn connect_by(&self, socket: TcpSocket) -> io::Result<Wire> {
        let stream = socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Wire::Plain(stream)) };
        let stream = tls.connect(ServerName::IpAddress(Ipv4Addr::LOCALHOST.into()), stream).await?;
        Ok(Wire::Tls(Box::new(stream)))
    }
}

/// An open connection.
pub(crate) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
