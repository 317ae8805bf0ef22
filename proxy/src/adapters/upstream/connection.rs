//! A connection to the upstream, which carries one request after the other.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

use super::connect::Forgiving;
use crate::adapters::net::Alarm;
use crate::adapters::telemetry::Held;

/// How much is read at once, in bytes: at first, and while much arrives.
const READ_LEAST: usize = 8 * 1024;
const READ_MOST: usize = 64 * 1024;

/// The receiving side of a connection, and the bytes received but not used yet.
pub(super) struct Inlet<R> {
    pub(super) stream: R,
    pub(super) input: BytesMut,
    pub(super) next: usize,
}

impl<R: AsyncRead + Unpin> Inlet<R> {
    /// Reads more bytes. Ready with 0 at the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.capacity() - self.input.len() < READ_LEAST {
            self.input.reserve(self.next);
        }
        let room = self.input.capacity() - self.input.len();
        let read = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input))?;
        self.next = if read == room { (self.next * 2).min(READ_MOST) } else { READ_LEAST };
        Poll::Ready(Ok(read))
    }
}

/// A connection that carries one request after the other.
pub(super) struct Connection {
    pub(super) inlet: Inlet<Forgiving>,
    /// The write buffer; empty between requests.
    pub(super) buffer: Vec<u8>,
    pub(super) alarm: Alarm,
    pub(super) held: Held,
}

impl Connection {
    pub(super) fn new(stream: Forgiving, held: Held) -> Box<Self> {
        let inlet = Inlet { stream, input: BytesMut::new(), next: READ_LEAST };
        Box::new(Self { inlet, buffer: Vec::new(), alarm: Alarm::new(), held })
    }

    /// Whether it is open and no bytes have arrived; see [`Forgiving::is_quiet`].
    pub(super) fn is_quiet(&mut self, polled_since: bool) -> bool {
        self.inlet.input.is_empty() && self.inlet.stream.is_quiet(polled_since)
    }

    /// Moves the connection to the current worker.
    pub(super) fn move_here(self) -> io::Result<Self> {
        let Inlet { stream, input, next } = self.inlet;
        let inlet = Inlet { stream: stream.move_here()?, input, next };
        Ok(Self { inlet, buffer: self.buffer, alarm: Alarm::new(), held: self.held })
    }
}
