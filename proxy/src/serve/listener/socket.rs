//! Sockets for connections: a TCP port or a socket file.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net as unix;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// A listening socket.
pub(crate) enum Listener {
    Tcp(TcpListener),
    /// A socket file, which has no addresses.
    Unix(UnixListener),
}

/// The same outside the runtime.
pub(super) enum BlockingListener {
    Tcp(std::net::TcpListener),
    Unix(unix::UnixListener),
}

/// An accepted connection, not yet bound to a runtime.
pub(super) enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(unix::UnixStream),
}

/// A connection in a worker's runtime.
pub(super) enum Stream {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Listener {
    /// The next connection, detached from this thread's reactor, to be attached to a worker's.
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => listener.accept().await?.0.into_std().map(Accepted::Tcp),
            Self::Unix(listener) => listener.accept().await?.0.into_std().map(Accepted::Unix),
        }
    }

    pub(super) fn into_blocking(self) -> io::Result<BlockingListener> {
        match self {
            Self::Tcp(listener) => listener.into_std().map(BlockingListener::Tcp),
            Self::Unix(listener) => listener.into_std().map(BlockingListener::Unix),
        }
    }
}

impl BlockingListener {
    /// The next connection in the kernel's queue; `None`: it is empty.
    pub(super) fn accept(&self) -> Option<io::Result<Accepted>> {
        let accepted = match self {
            Self::Tcp(listener) => listener.accept().and_then(|(stream, _)| {
                stream.set_nonblocking(true)?;
                Ok(Accepted::Tcp(stream))
            }),
            Self::Unix(listener) => listener.accept().and_then(|(stream, _)| {
                stream.set_nonblocking(true)?;
                Ok(Accepted::Unix(stream))
            }),
        };
        match accepted {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            other => Some(other),
        }
    }
}

impl Accepted {
    pub(super) fn into_stream(self) -> io::Result<Stream> {
        match self {
            Self::Tcp(stream) => {
                let stream = TcpStream::from_std(stream)?;
                let address = stream.peer_addr()?;
                Ok(Stream::Tcp(stream, address))
            }
            Self::Unix(stream) => UnixStream::from_std(stream).map(Stream::Unix),
        }
    }
}
