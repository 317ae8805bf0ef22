//! Pooled connections to the upstream, with deadlines.

mod answer;
mod ask;
mod backends;
mod busy;
mod connect;
mod connection;
mod framing;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod head;
mod health;
mod lookup;
mod pool;
mod progress;
mod seat;
mod shared;
mod shelf;
mod token_file;
mod unread;
mod upload;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::CertificateDer;

use crate::adapters::certs::ClientIdentity;

pub use answer::{Answer, BrokenAnswer, Tunnel};
pub use ask::Patience;
pub use backends::{Backend, Backends, PoolSettings};
pub use connect::ConnectError;
pub use head::{Fields, RequestFraming, RequestHead, recycle};
pub use pool::{Lease, NoConnection, Upstream};
pub use token_file::{TokenFile, authorization};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum Failure<B> {
    /// The connection closed before the first byte of a response.
    #[error("it closed the connection: {0}")]
    Closed(#[source] io::Error),
    /// No byte was sent, or the upstream says that it has not processed the request (RFC 9113 §8.7): any request may be sent again. Holds
    /// the request's body.
    #[error("it went away before it took the request")]
    Unsent(B),
    /// The request's own body broke off or stalled, which is the client's fault.
    #[error("the request's body broke off: {0}")]
    Body(#[source] BoxError),
    /// The upstream accepted no byte of the request for this long.
    #[error("it took no byte of the request for {0:?} (TIMEOUT_BODY)")]
    TakesNothing(Duration),
    /// The upstream had the whole request, and did not respond for this long.
    #[error("it did not answer for {0:?} (TIMEOUT_FIRST_BYTE)")]
    Silent(Duration),
    /// The connection failed, or the response is malformed.
    #[error("{0}")]
    Broken(#[source] BoxError),
}

/// A request's body that can be read again from its start after a part of it was taken.
pub trait Restart {
    /// The same body, with the taken part in front again.
    #[must_use]
    fn restart(self, taken: Vec<Bytes>) -> Self;
}

/// `UPSTREAM_URL` and its related settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// The upstream's address.
    pub address: UpstreamAddress,
    /// `UPSTREAM_CA_FILE`: additional roots.
    pub roots: Vec<CertificateDer<'static>>,
    /// `TIMEOUT_CONNECT`: the limit for opening a connection, TLS included.
    pub connect_timeout: Duration,
    /// Settings that only a named upstream can have.
    pub trust: Trust,
}

/// What is trusted at an upstream beside its roots, and what is offered there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// `client_cert_file` and `client_key_file`: our identity there.
    pub client: Option<ClientIdentity>,
    /// `server_name`: the name that the certificate must match, instead of the address's.
    pub server_name: Option<String>,
    /// Whether `https` offers HTTP/2.
    pub offers_http2: bool,
}

/// How backends are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The path that is requested; 2xx means healthy.
    pub path: String,
    /// The interval of the checks.
    pub every: Duration,
}

/// The upstream's address and protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamAddress {
    /// `http://host:port`: HTTP/1.1.
    Http {
        /// A name or an address; IPv6 without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// `https://host:port`: HTTP/1.1 over TLS.
    Https {
        /// A name or an address, which the certificate must match; IPv6 without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// `h2://host:port`: only HTTP/2 over TLS.
    H2 {
        /// A name or an address, which the certificate must match; IPv6 without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// `h2c://host:port`: HTTP/2 without TLS, with prior knowledge.
    H2c {
        /// A name or an address; IPv6 without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// `unix:/path`: HTTP/1.1 over a Unix socket.
    Unix(PathBuf),
}

impl UpstreamAddress {
    /// The upstream's origin as in the assertion's `aud` and the log: `http://127.0.0.1:8081`, `unix:/run/app.sock`. The scheme's default
    /// port is omitted.
    #[must_use]
    pub fn origin(&self) -> String {
        match self {
            Self::Http { host, port } => origin("http", host, *port, 80),
            Self::Https { host, port } => origin("https", host, *port, 443),
            Self::H2 { host, port } => origin("h2", host, *port, 443),
            Self::H2c { host, port } => origin("h2c", host, *port, 80),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    /// Whether it is reached over TLS.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Https { .. } | Self::H2 { .. })
    }

    /// Its host and port; `None` for a Unix socket.
    #[must_use]
    pub fn host_and_port(&self) -> Option<(&str, u16)> {
        match self {
            Self::Http { host, port }
            | Self::Https { host, port }
            | Self::H2 { host, port }
            | Self::H2c { host, port } => Some((host, *port)),
            Self::Unix(_) => None,
        }
    }

    /// Its own name for `Host`: `localhost` for a Unix socket.
    #[must_use]
    pub fn authority(&self) -> String {
        let origin = self.origin();
        origin.split_once("://").map_or_else(|| "localhost".to_owned(), |(_, authority)| authority.to_owned())
    }

    /// The same server at another host, one of the addresses of its name.
    #[must_use]
    pub fn at(&self, host: String) -> Self {
        match self {
            Self::Http { port, .. } => Self::Http { host, port: *port },
            Self::Https { port, .. } => Self::Https { host, port: *port },
            Self::H2 { port, .. } => Self::H2 { host, port: *port },
            Self::H2c { port, .. } => Self::H2c { host, port: *port },
            Self::Unix(path) => Self::Unix(path.clone()),
        }
    }
}

fn origin(scheme: &str, host: &str, port: u16, default: u16) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    if port == default { format!("{scheme}://{host}") } else { format!("{scheme}://{host}:{port}") }
}
