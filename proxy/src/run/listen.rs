//! The listeners: a port, a Unix socket of our own, or a socket from systemd.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use listenfd::ListenFd;
use rustix::fs::Mode;
use socket2::TcpKeepalive;
use tokio::net::{TcpListener, TcpSocket};

use crate::serve::listener::socket::Listener;
use crate::serve::settings::Listen;

/// How many connections wait in the kernel's queue; its own limit may be lower (`net.core.somaxconn`). Further clients retry after a
/// second.
const BACKLOG: u32 = 4096;

/// Removed from a Unix socket's mode 0777: its owner and its group may connect (0660).
const UMASK: Mode = Mode::from_bits_retain(0o117);

/// The place of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An address.
    Address(SocketAddr),
    /// A Unix socket; `None`: it has no printable path.
    File(Option<PathBuf>),
}

impl Place {
    /// The address; a Unix socket has none.
    #[must_use]
    pub const fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::File(_) => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::File(path) => write!(f, "unix:{}", path.as_deref().unwrap_or(Path::new("")).display()),
        }
    }
}

/// A listener for requests.
pub(super) struct Bound {
    pub(super) listener: Listener,
    pub(super) place: Place,
    /// The Unix socket that we must remove.
    pub(super) file: Option<SocketFile>,
}

/// Begins to listen for requests (`LISTEN_ADDR`).
pub(super) fn listen(wanted: &Listen) -> anyhow::Result<Bound> {
    match wanted {
        Listen::Address(address) => {
            let listener = bind("LISTEN_ADDR", *address)?;
            of_port(listener)
        }
        Listen::File(path) => {
            let (listener, file) =
                SocketFile::open(path).with_context(|| format!("LISTEN_ADDR: unix:{}", path.display()))?;
            let place = Place::File(Some(path.clone()));
            Ok(Bound { listener: Listener::Unix(listener), place, file: Some(file) })
        }
        Listen::Systemd => from_systemd(),
    }
}

fn of_port(listener: TcpListener) -> anyhow::Result<Bound> {
    let place = Place::Address(listener.local_addr()?);
    let socket = socket2::SockRef::from(&listener);
    // Accepted connections inherit both.
    #[cfg(target_os = "linux")]
    socket.set_tcp_notsent_lowat(UNSENT_MOST)?;
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    Ok(Bound { listener: Listener::Tcp(listener), place, file: None })
}

/// When the kernel asks a silent peer whether it is still there: a WebSocket on which nothing is sent and whose client has vanished would
/// keep its place for ever.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);

/// How many unsent bytes of a response the kernel may buffer. By default it is some MiB, and a slow but steady reader would seem to accept
/// nothing until they are sent (`TIMEOUT_BODY`).
#[cfg(target_os = "linux")]
const UNSENT_MOST: u32 = 128 * 1024;

/// The single socket passed by systemd (`LISTEN_FDS`, `LISTEN_PID`), of either kind. Its file belongs to systemd.
fn from_systemd() -> anyhow::Result<Bound> {
    let mut passed = ListenFd::from_env();
    anyhow::ensure!(
        passed.len() > 0,
        "LISTEN_ADDR: is `systemd`, but no socket was passed on (LISTEN_FDS): start sidegate.socket, which starts the service"
    );
    anyhow::ensure!(
        passed.len() == 1,
        "LISTEN_ADDR: systemd passes {} sockets on, and one is taken: leave one Listen… line in sidegate.socket",
        passed.len()
    );
    if let Ok(Some(listener)) = passed.take_tcp_listener(0) {
        listener.set_nonblocking(true)?;
        return of_port(TcpListener::from_std(listener)?);
    }
    let listener = passed.take_unix_listener(0).ok().flatten();
    let listener = listener.context(
        "LISTEN_ADDR: the socket that systemd passes on is none that connections come by: it needs ListenStream=",
    )?;
    listener.set_nonblocking(true)?;
    let path = listener.local_addr()?.as_pathname().map(Path::to_owned);
    let listener = Listener::Unix(tokio::net::UnixListener::from_std(listener)?);
    Ok(Bound { listener, place: Place::File(path), file: None })
}

/// A Unix socket created by us; removed when dropped.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Its device and inode numbers, to recognize it.
    is: (u64, u64),
}

impl SocketFile {
    /// Creates the socket, replacing a stale one.
    fn open(path: &Path) -> anyhow::Result<(tokio::net::UnixListener, Self)> {
        let listener = match bind_file(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(path)?;
                bind_file(path)
            }
            other => other,
        };
        let listener = listener.map_err(explain)?;
        listener.set_nonblocking(true)?;
        let made = std::fs::symlink_metadata(path)?;
        let file = Self { path: path.to_owned(), is: (made.dev(), made.ino()) };
        Ok((tokio::net::UnixListener::from_std(listener)?, file))
    }
}

/// Removes the socket, unless another one has replaced it.
impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = std::fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.is);
        if is_ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!("the socket file {} is left behind: {error}", self.path.display());
        }
    }
}

/// Sets the mode from the beginning.
fn bind_file(path: &Path) -> io::Result<UnixListener> {
    let before = rustix::process::umask(UMASK);
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    bound
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the system has many reasons; four of them have a fix worth naming")]
fn explain(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::NotFound => {
            anyhow::anyhow!("its folder is not there: make it, or have systemd make it (RuntimeDirectory=)")
        }
        io::ErrorKind::PermissionDenied => anyhow::anyhow!("this user may not make files in its folder"),
        io::ErrorKind::InvalidInput => anyhow::anyhow!("the path is too long for a socket: 107 bytes are the most"),
        io::ErrorKind::AddrInUse => anyhow::anyhow!("another program has made it this very moment"),
        _ => anyhow::anyhow!("cannot listen: {error}"),
    }
}

/// Removes a Unix socket without a listener. Any other file stays.
fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let found = std::fs::symlink_metadata(path)?;
    anyhow::ensure!(
        found.file_type().is_socket(),
        "something is there that is no socket, and it is not replaced: remove it, or choose another path"
    );
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!("the socket file {} was left behind, and is replaced", path.display());
            std::fs::remove_file(path).context("it was left behind, and cannot be removed")
        }
        Err(error) => Err(anyhow::anyhow!("whether anybody listens there cannot be found out: {error}")),
        Ok(_) => Err(anyhow::anyhow!("another program listens there: stop it, or choose another path")),
    }
}

/// Listens at the address that `variable` configures.
pub(super) fn bind(variable: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the system has many reasons; three of them have a fix worth naming"
    )]
    open(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow::anyhow!("{variable}: {address} is in use by another program: stop it, or choose another port")
        }
        io::ErrorKind::PermissionDenied => {
            anyhow::anyhow!(
                "{variable}: {address} needs a privilege that this user does not have: choose a port from 1024 on"
            )
        }
        io::ErrorKind::AddrNotAvailable => {
            anyhow::anyhow!("{variable}: {address} is no address of this machine: use 0.0.0.0 or [::] for all of them")
        }
        _ => anyhow::anyhow!("{variable}: cannot listen on {address}: {error}"),
    })
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
