//! The bytes of a client's connection, as hyper reads and writes them: watched, and adapted where its parser refuses too much.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::memory::Waiting;
use super::{Watch, parser};
use crate::adapters::net::{Alarm, Socket, is_stand_in, write_pieces};

/// How many bytes are read at once for the first request after a rest.
const AHEAD: usize = 4096;

/// How long the rest of a body that nobody wants is read and dropped after the response: a socket that is closed with unread bytes takes its
/// response back (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(5);

/// The HTTP/2 connection preface (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The HTTP version of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    Http1,
    Http2,
}

/// The connection's bytes, with a limit on how long the peer may take none.
pub(crate) struct Guarded<IO> {
    stream: IO,
    watch: Arc<Watch>,
    write_alarm: Alarm,
    write_waits: Option<Instant>,
    /// Whether nothing was read yet of the next request's head.
    at_request: bool,
    /// Bytes read before hyper asked for them.
    ahead: BytesMut,
    /// Bytes to write before all others: interim responses, or a refusal in place of hyper's.
    first: BytesMut,
    /// Whether hyper has refused a head: its own bytes are dropped, since ours replace them.
    refused: bool,
    /// Whether our side of the connection has ended.
    has_shut: bool,
    /// The wait for memory for what was read, if there is not enough now.
    room: Option<Waiting>,
}

impl<IO> Guarded<IO> {
    pub(crate) fn new(stream: IO, watch: Arc<Watch>) -> Self {
        Self {
            stream,
            watch,
            write_alarm: Alarm::new(),
            write_waits: None,
            at_request: true,
            ahead: BytesMut::new(),
            first: BytesMut::new(),
            refused: false,
            has_shut: false,
            room: None,
        }
    }

    /// Ready once there is memory for what was read; until then no more is read.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let owed = self.watch.owed.load(Ordering::Relaxed);
        if owed > 0 {
            let room = self.room.get_or_insert_with(|| self.watch.share.wait(owed));
            ready!(room.poll(&self.watch.share, cx));
            self.room = None;
            self.watch.owed.fetch_sub(owed, Ordering::Relaxed);
        }
        Poll::Ready(())
    }

    fn check<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() || self.watch.upgraded.load(Ordering::Relaxed) {
            // Once our side has ended, it says since when we linger.
            if !self.has_shut {
                self.write_waits = None;
            }
            return outcome;
        }
        let until = *self.write_waits.get_or_insert_with(Instant::now) + self.watch.timeouts.body;
        self.write_alarm.poll(cx, until).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<IO: AsyncWrite + Unpin> Guarded<IO> {
    /// Writes the bytes that come before hyper's.
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(interim) = self.watch.interim.take() {
            self.first.extend_from_slice(&interim);
        }
        while !self.first.is_empty() {
            let outcome = Pin::new(&mut self.stream).poll_write(cx, &self.first);
            let written = ready!(self.check(cx, outcome))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.first.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Prepares for a write of hyper's. Ready with `true` if hyper's bytes must not be written.
    fn poll_before(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<bool>> {
        // At once: while an interim response waits for the peer, hyper already holds what comes behind it.
        self.watch.is_flushed.store(false, Ordering::Relaxed);
        if !self.refused
            && self.watch.refuses_head()
            && let Some(explained) = parser::explain_refusal(bytes)
        {
            self.first.extend_from_slice(&explained);
            self.refused = true;
        }
        ready!(self.poll_first(cx))?;
        self.watch.interim.set_between(false);
        Poll::Ready(Ok(self.refused))
    }
}

impl<IO: AsyncRead + Unpin> Guarded<IO> {
    /// Whether bytes were read that hyper has not taken yet.
    pub(crate) fn has_begun(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Puts back bytes that hyper did not use; they are read first next time.
    pub(crate) fn unread(&mut self, bytes: &[u8]) {
        self.ahead.extend_from_slice(bytes);
    }

    /// Ready once a request begins, with its HTTP version; `None`: the connection has ended. The first bytes of a connection determine the
    /// version; later requests have the `known` one.
    pub(crate) fn poll_begin(
        &mut self,
        cx: &mut Context<'_>,
        known: Option<HttpVersion>,
    ) -> Poll<io::Result<Option<HttpVersion>>> {
        loop {
            let version = match known {
                _ if self.ahead.is_empty() => None,
                Some(version) => Some(version),
                None if self.ahead.starts_with(PREFACE) => {
                    self.watch.becomes_http2();
                    Some(HttpVersion::Http2)
                }
                None if PREFACE.starts_with(&self.ahead) => None,
                None => Some(HttpVersion::Http1),
            };
            if version.is_some() {
                return Poll::Ready(Ok(version));
            }
            if ready!(self.poll_ahead(cx))? == 0 {
                return Poll::Ready(Ok((!self.ahead.is_empty()).then_some(HttpVersion::Http1)));
            }
        }
    }

    /// Reads into a buffer on the stack, so that a silent connection takes no heap buffer.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = [0; AHEAD];
        let mut read = ReadBuf::new(&mut room);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        let come = read.filled();
        if !come.is_empty() {
            self.watch.read_something(come.len());
            let first = std::mem::replace(&mut self.at_request, false) && self.watch.begins_request();
            let encoded = if first { parser::encode_signs(come) } else { None };
            self.ahead.extend_from_slice(encoded.as_deref().unwrap_or(come));
        }
        Poll::Ready(Ok(come.len()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Guarded<IO> {
    /// Reads and drops what the peer still sends. Ready once it ends, or has had [`LINGER`].
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = *self.write_waits.get_or_insert_with(Instant::now) + LINGER;
        let mut room = [0; AHEAD];
        while self.write_alarm.poll(cx, until).is_pending() {
            let mut read = ReadBuf::new(&mut room);
            let outcome = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read));
            if outcome.is_err() || read.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(())
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guarded<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_room(cx));
        if !self.ahead.is_empty() {
            let here = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead.split_to(here));
            if self.ahead.is_empty() {
                // Even when empty it keeps its allocation.
                self.ahead = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if let Some(come) = buf.filled().get(before..).filter(|come| !come.is_empty()) {
            self.watch.read_something(come.len());
            if std::mem::replace(&mut self.at_request, false) && self.watch.begins_request() {
                encode_signs(buf, before);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Socket + Unpin> AsyncWrite for Guarded<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if ready!(self.poll_before(cx, buf))? {
            return Poll::Ready(Ok(buf.len()));
        }
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.check(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if ready!(self.poll_before(cx, bufs.first().map_or(&[], |piece| piece)))? {
            return Poll::Ready(Ok(bufs.iter().map(|piece| piece.len()).sum()));
        }
        let outcome = match bufs.iter().position(|piece| is_stand_in(piece)) {
            None => write_pieces(Pin::new(&mut self.stream), cx, bufs),
            Some(0) => {
                let most = bufs.first().map_or(0, |piece| piece.len());
                self.watch.pipe().poll_drain(cx, self.stream.plain().as_ref(), most)
            }
            Some(at) => write_pieces(Pin::new(&mut self.stream), cx, bufs.get(..at).unwrap_or_default()),
        };
        self.check(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Hyper flushes once it has written everything it had.
        self.watch.interim.set_between(true);
        self.at_request |= !self.watch.is_busy() && !self.watch.reads_head.load(Ordering::Relaxed);
        ready!(self.poll_first(cx))?;
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        if matches!(outcome, Poll::Ready(Ok(()))) {
            self.watch.is_flushed.store(true, Ordering::Relaxed);
        }
        self.check(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Before it has: TLS may have to wait until it can say so.
        self.watch.is_shut.store(true, Ordering::Relaxed);
        if !self.has_shut {
            let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
            ready!(self.check(cx, outcome))?;
            self.has_shut = true;
        }
        if self.refused || self.watch.leaves_body() {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}

/// Percent-encodes the characters that the parser refuses in what was read after `before`, if there is room for it.
fn encode_signs(buf: &mut ReadBuf<'_>, before: usize) {
    let Some(encoded) = buf.filled().get(before..).and_then(parser::encode_signs) else { return };
    if encoded.len() <= buf.capacity() - before {
        buf.set_filled(before);
        buf.put_slice(&encoded);
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::super::tests::watch;
    use super::*;

    #[tokio::test]
    async fn what_waits_behind_an_interim_response_is_not_sent_yet() {
        let watch = watch();
        let (stream, _peer) = tokio::io::duplex(8);
        let mut guarded = Guarded::new(stream, Arc::clone(&watch));
        watch.interim.add(StatusCode::EARLY_HINTS, &HeaderMap::new());
        let waits = std::future::poll_fn(|cx| {
            Poll::Ready(Pin::new(&mut guarded).poll_write(cx, b"HTTP/1.1 200 OK").is_pending())
        });
        assert!(waits.await && !watch.is_flushed.load(Ordering::Relaxed), "its buffers would be thrown away");
    }
}
