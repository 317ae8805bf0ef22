//! Bytes that pass from one socket to another within the kernel (`splice`), and what stands for them in a body meanwhile.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::process::{Resource, getrlimit};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use self::kernel::{pipe, splice};

/// The most bytes that are moved at once.
const MOST: usize = 128 * 1024;

/// The most pipes at once, where this many files may be open. Each takes two, and holds up to 16 pages of a response. Where few may be open,
/// connections need them more.
pub(crate) fn pipes_most(files: Option<u64>) -> usize {
    if files.is_none_or(|files| files >= 4096) { 64 } else { 0 }
}

/// The same for this process.
static PIPES_MOST: LazyLock<usize> = LazyLock::new(|| pipes_most(getrlimit(Resource::Nofile).current));

/// How many pipes there are.
static PIPES: AtomicUsize = AtomicUsize::new(0);

/// Stands for as many bytes that are in a pipe: a body can carry it, and who writes the body knows it by its address.
static STAND_IN: [u8; MOST] = [0; MOST];

/// A pipe between two sockets. It is filled only while it is empty, so that what stands for its bytes is one piece of a body.
pub(crate) struct Splice {
    reader: OwnedFd,
    writer: OwnedFd,
    /// How many bytes are in it.
    held: AtomicUsize,
}

impl Splice {
    /// A new pipe; `None`: there are enough, or the system gives none.
    pub(crate) fn new() -> Option<Self> {
        let before = PIPES.fetch_add(1, Ordering::Relaxed);
        if before < *PIPES_MOST
            && let Ok((reader, writer)) = pipe()
        {
            return Some(Self { reader, writer, held: AtomicUsize::new(0) });
        }
        PIPES.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// How many bytes are in it.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Moves at most `most` bytes from a socket into the empty pipe. Returns what stands for them: nothing, if the socket has ended.
    pub(crate) fn poll_fill(&self, cx: &mut Context<'_>, from: &Plain<'_>, most: u64) -> Poll<io::Result<Bytes>> {
        let most = usize::try_from(most).unwrap_or(MOST).min(MOST);
        let come = ready!(from.poll(cx, Interest::READABLE, |socket| splice(socket, self.writer.as_fd(), most)))?;
        self.held.fetch_add(come, Ordering::Relaxed);
        Poll::Ready(Ok(STAND_IN.get(..come).map_or_else(Bytes::new, Bytes::from_static)))
    }

    /// Moves at most `most` bytes from the pipe into a socket.
    pub(crate) fn poll_drain(&self, cx: &mut Context<'_>, to: &Plain<'_>, most: usize) -> Poll<io::Result<usize>> {
        if most > self.held() {
            return Poll::Ready(Err(io::Error::other("more is to be written than was received")));
        }
        let gone = ready!(to.poll(cx, Interest::WRITABLE, |socket| splice(self.reader.as_fd(), socket, most)))?;
        self.held.fetch_sub(gone, Ordering::Relaxed);
        Poll::Ready(Ok(gone))
    }
}

impl Drop for Splice {
    fn drop(&mut self) {
        PIPES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a piece of a body stands for bytes in a pipe.
pub(crate) fn is_stand_in(piece: &[u8]) -> bool {
    !piece.is_empty() && STAND_IN.as_ptr_range().contains(&piece.as_ptr())
}

/// A socket whose bytes are those that are sent: not TLS.
pub(crate) enum Plain<'a> {
    Tcp(&'a TcpStream),
    Unix(&'a UnixStream),
}

impl Plain<'_> {
    /// Does `io` once the socket is ready for it.
    fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        interest: Interest,
        mut io: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(match self {
                Self::Tcp(socket) if interest.is_readable() => socket.poll_read_ready(cx),
                Self::Tcp(socket) => socket.poll_write_ready(cx),
                Self::Unix(socket) if interest.is_readable() => socket.poll_read_ready(cx),
                Self::Unix(socket) => socket.poll_write_ready(cx),
            })?;
            let outcome = match self {
                Self::Tcp(socket) => socket.try_io(interest, || io(socket.as_fd())),
                Self::Unix(socket) => socket.try_io(interest, || io(socket.as_fd())),
            };
            match outcome {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }
}

/// A client's connection.
pub(crate) trait Socket {
    /// The socket, if bytes pass through it as they are.
    fn plain(&self) -> Option<Plain<'_>>;
}

impl Socket for TcpStream {
    fn plain(&self) -> Option<Plain<'_>> {
        Some(Plain::Tcp(self))
    }
}

impl Socket for UnixStream {
    fn plain(&self) -> Option<Plain<'_>> {
        Some(Plain::Unix(self))
    }
}

impl<IO> Socket for Box<TlsStream<IO>> {
    fn plain(&self) -> Option<Plain<'_>> {
        None
    }
}

#[cfg(test)]
impl Socket for tokio::io::DuplexStream {
    fn plain(&self) -> Option<Plain<'_>> {
        None
    }
}

#[cfg(target_os = "linux")]
mod kernel {
    use std::io;
    use std::os::fd::{BorrowedFd, OwnedFd};

    use rustix::pipe::{PipeFlags, SpliceFlags};

    pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
        Ok(rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?)
    }

    pub(super) fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        Ok(rustix::pipe::splice(from, None, to, None, most, SpliceFlags::NONBLOCK)?)
    }
}

#[cfg(not(target_os = "linux"))]
mod kernel {
    use std::io;
    use std::os::fd::{BorrowedFd, OwnedFd};

    pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn splice(_: BorrowedFd<'_>, _: BorrowedFd<'_>, _: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
