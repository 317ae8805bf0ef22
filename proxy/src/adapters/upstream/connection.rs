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

/// How much is read at once, in bytes: at first, and where much comes.
const READ_LEAST: usize = 8 * 1024;
const READ_MOST: usize = 64 * 1024;

/// What comes in, and what was read of it already.
pub(super) struct Inlet<R> {
    pub(super) stream: R,
    pub(super) input: BytesMut,
    pub(super) next: usize,
}

impl<R: AsyncRead + Unpin> Inlet<R> {
    /// Reads on. Ready with 0 at the end.
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
    /// For what is written; empty between requests.
    pub(super) buffer: Vec<u8>,
    pub(super) alarm: Alarm,
    pub(super) held: Held,
}

impl Connection {
    pub(super) fn new(stream: Forgiving, held: Held) -> Box<Self> {
        let inlet = Inlet { stream, input: BytesMut::new(), next: READ_LEAST };
        Box::new(Self { inlet, buffer: Vec::new(), alarm: Alarm::new(), held })
    }

    /// Whether it is open and nothing has come on it.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.inlet.input.is_empty() && self.inlet.stream.is_quiet()
    }

    /// The same connection, driven by the worker that calls this.
    pub(super) fn move_here(self) -> io::Result<Self> {
        let Inlet { stream, input, next } = self.inlet;
        let inlet = Inlet { stream: stream.move_here()?, input, next };
        Ok(Self { inlet, buffer: self.buffer, alarm: Alarm::new(), held: self.held })
    }
}
