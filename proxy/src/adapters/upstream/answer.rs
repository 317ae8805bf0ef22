//! The upstream's response: its body as it arrives, or after a protocol switch the connection itself.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf};
use tokio::time::Instant;

use super::busy::Busy;
use super::connect::Forgiving;
use super::connection::{Connection, Inlet};
use super::framing::{Decoder, Malformed, Piece};
use super::progress::Progress;
use super::shelf::Shelf;
use crate::adapters::net::{Plain, Splice};
use crate::adapters::telemetry::Held;

/// Longer responses, in bytes, are worth a pipe.
const LARGE: u64 = 256 * 1024;

/// Why a response ended early.
#[derive(Debug, thiserror::Error)]
#[error("the upstream's answer broke off: {0}")]
pub struct BrokenAnswer(#[source] Box<dyn std::error::Error + Send + Sync>);

/// The body of a response. Read to its end, it gives the connection back; dropped earlier, it closes it.
pub struct Answer {
    kind: Kind,
    arrived: Instant,
}

enum Kind {
    /// The whole body has arrived.
    Whole(Bytes),
    Flowing(Box<Flow>),
    /// On a stream of a connection, which counts it as under way until this is dropped.
    Multiplexed(Incoming, Arc<Progress>),
    /// Of a backend whose requests are counted too.
    Counted(Box<(Incoming, Arc<Progress>, Busy)>),
    Switched(Box<Tunnel>),
}

impl Answer {
    /// The response on a connection whose request was sent completely, and where the connection goes afterwards; `None`: it closes.
    pub(super) fn whole(
        mut connection: Box<Connection>,
        body: Decoder,
        shelf: Option<Arc<Shelf>>,
        arrived: Instant,
    ) -> Self {
        let input = &mut connection.inlet.input;
        if body.left().is_some_and(|left| left == input.len() as u64) {
            let data = input.split().freeze();
            if let Some(shelf) = shelf {
                shelf.keep(connection, arrived);
            }
            return Self { kind: Kind::Whole(data), arrived };
        }
        let flow = Flow::new(Source::Whole(connection, shelf), body);
        Self { kind: Kind::Flowing(Box::new(flow)), arrived }
    }

    /// The response on a connection that is still sending the request.
    pub(super) fn half(inlet: Inlet<ReadHalf<Forgiving>>, body: Decoder, held: Held, arrived: Instant) -> Self {
        Self { kind: Kind::Flowing(Box::new(Flow::new(Source::Half(inlet, held), body))), arrived }
    }

    pub(super) const fn multiplexed(body: Incoming, stream: Arc<Progress>, arrived: Instant) -> Self {
        Self { kind: Kind::Multiplexed(body, stream), arrived }
    }

    pub(super) fn switched(tunnel: Tunnel, arrived: Instant) -> Self {
        Self { kind: Kind::Switched(Box::new(tunnel)), arrived }
    }

    /// Counts the backend's request as under way until the response has ended.
    pub(super) fn counted_by(self, busy: Busy) -> Self {
        let kind = match self.kind {
            Kind::Whole(data) => Kind::Whole(data),
            Kind::Flowing(mut flow) => {
                flow.busy = Some(busy);
                Kind::Flowing(flow)
            }
            Kind::Multiplexed(body, stream) => Kind::Counted(Box::new((body, stream, busy))),
            Kind::Switched(mut tunnel) => {
                tunnel.busy = Some(busy);
                Kind::Switched(tunnel)
            }
            Kind::Counted(counted) => Kind::Counted(counted),
        };
        Self { kind, arrived: self.arrived }
    }

    /// Whether the whole body has arrived, so that forwarding it needs no waiting.
    #[must_use]
    pub const fn is_here(&self) -> bool {
        matches!(self.kind, Kind::Whole(_))
    }

    /// Whether the bytes of the body may pass through a [`Splice`]: they come in the clear, and there are many of them.
    #[must_use]
    pub fn may_splice(&self) -> bool {
        match &self.kind {
            Kind::Flowing(flow) => flow.body.left().is_some_and(|left| left > LARGE) && flow.source.plain().is_some(),
            Kind::Whole(_) | Kind::Multiplexed(..) | Kind::Counted(_) | Kind::Switched(_) => false,
        }
    }

    /// From now on the bytes of the body pass through this pipe, and its frames stand for them.
    pub(crate) fn pass_through(&mut self, splice: Arc<Splice>) {
        if let Kind::Flowing(flow) = &mut self.kind {
            flow.splice = Some(splice);
        }
    }

    /// Whether bytes of the body are in the pipe, so that it is the client who is waited for.
    pub(crate) fn waits_for_client(&self) -> bool {
        match &self.kind {
            Kind::Flowing(flow) => flow.splice.as_ref().is_some_and(|splice| splice.held() > 0),
            Kind::Whole(_) | Kind::Multiplexed(..) | Kind::Counted(_) | Kind::Switched(_) => false,
        }
    }

    /// When the response's head arrived.
    #[must_use]
    pub const fn arrived(&self) -> Instant {
        self.arrived
    }

    /// The connection, if the response was `101 Switching Protocols`.
    #[must_use]
    pub fn into_tunnel(self) -> Option<Tunnel> {
        match self.kind {
            Kind::Switched(tunnel) => Some(*tunnel),
            Kind::Whole(_) | Kind::Flowing(_) | Kind::Multiplexed(..) | Kind::Counted(_) => None,
        }
    }
}

/// A body that arrives in pieces.
struct Flow {
    source: Source,
    body: Decoder,
    /// Whether a piece was handed out that may still be in the client's buffer.
    given: bool,
    broken: Option<BrokenAnswer>,
    /// What its bytes pass through.
    splice: Option<Arc<Splice>>,
    /// Counts the request until it is dropped.
    busy: Option<Busy>,
}

enum Source {
    Whole(Box<Connection>, Option<Arc<Shelf>>),
    Half(Inlet<ReadHalf<Forgiving>>, #[expect(dead_code, reason = "counts until it is dropped")] Held),
    Gone,
}

impl Source {
    fn input(&mut self) -> Option<&mut BytesMut> {
        match self {
            Self::Whole(connection, _) => Some(&mut connection.inlet.input),
            Self::Half(inlet, _) => Some(&mut inlet.input),
            Self::Gone => None,
        }
    }

    /// The socket, if bytes come from it as they are, and only those of the response.
    fn plain(&self) -> Option<Plain<'_>> {
        match self {
            Self::Whole(connection, _) => connection.inlet.stream.plain(),
            Self::Half(..) | Self::Gone => None,
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self {
            Self::Whole(connection, _) => connection.inlet.poll_fill(cx),
            Self::Half(inlet, _) => inlet.poll_fill(cx),
            Self::Gone => Poll::Ready(Ok(0)),
        }
    }
}

impl Flow {
    const fn new(source: Source, body: Decoder) -> Self {
        Self { source, body, given: false, broken: None, splice: None, busy: None }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenAnswer>>> {
        if let Some(broken) = self.broken.take() {
            return Poll::Ready(Some(Err(broken)));
        }
        let given = std::mem::replace(&mut self.given, false);
        let outcome = ready!(self.poll_piece(cx));
        if self.body.has_ended() || !matches!(outcome, Ok(Some(_))) {
            self.end();
        }
        match outcome {
            Err(broken) if given => {
                // On an error the server drops what it has not sent yet. To let the client receive the bytes before the break, the error is
                // returned only at the next poll.
                self.broken = Some(broken);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            outcome => {
                self.given = outcome.is_ok();
                Poll::Ready(outcome.transpose())
            }
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, BrokenAnswer>> {
        loop {
            let Some(input) = self.source.input() else { return Poll::Ready(Ok(None)) };
            match self.body.take(input).map_err(|malformed: Malformed| BrokenAnswer(malformed.into()))? {
                Piece::Data(data) => return Poll::Ready(Ok(Some(Frame::data(data)))),
                Piece::Trailers(trailers) => return Poll::Ready(Ok(Some(Frame::trailers(trailers)))),
                Piece::End => return Poll::Ready(Ok(None)),
                Piece::Wanting => {}
            }
            if let Some(come) = ready!(self.poll_splice(cx)) {
                return Poll::Ready(come.map(|come| Some(Frame::data(come))));
            }
            let read = ready!(self.source.poll_fill(cx)).map_err(|error| BrokenAnswer(error.into()))?;
            if read == 0 {
                let whole = self.body.ends_with_connection();
                let cut = || BrokenAnswer(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                return Poll::Ready(if whole { Ok(None) } else { Err(cut()) });
            }
        }
    }

    /// Moves bytes of the body into the pipe. `None`: they are to be read.
    fn poll_splice(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokenAnswer>>> {
        let (Some(splice), Some(left), Some(socket)) = (&self.splice, self.body.left(), self.source.plain()) else {
            return Poll::Ready(None);
        };
        if splice.held() > 0 {
            // Who empties it wakes this task.
            return Poll::Pending;
        }
        Poll::Ready(match ready!(splice.poll_fill(cx, &socket, left)) {
            Ok(come) if come.is_empty() => None,
            Ok(come) => {
                self.body.pass(come.len() as u64);
                Some(Ok(come))
            }
            // What is wrong is told by reading; or nothing is, and the system does not let us have this.
            Err(_) => {
                self.splice = None;
                None
            }
        })
    }

    /// Gives the connection back if the body ended properly and no bytes follow it.
    fn end(&mut self) {
        self.busy = None;
        if let Source::Whole(connection, Some(shelf)) = std::mem::replace(&mut self.source, Source::Gone)
            && self.body.has_ended()
        {
            shelf.keep(connection, Instant::now());
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BrokenAnswer;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenAnswer>>> {
        match &mut self.kind {
            Kind::Whole(data) if data.is_empty() => Poll::Ready(None),
            Kind::Whole(data) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(data))))),
            Kind::Flowing(flow) => flow.poll_frame(cx),
            Kind::Multiplexed(body, _) => Pin::new(body).poll_frame(cx).map_err(|error| BrokenAnswer(error.into())),
            Kind::Counted(counted) => {
                Pin::new(&mut counted.0).poll_frame(cx).map_err(|error| BrokenAnswer(error.into()))
            }
            Kind::Switched(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole(data) => data.is_empty(),
            Kind::Flowing(flow) => flow.body.has_ended(),
            Kind::Multiplexed(body, _) => body.is_end_stream(),
            Kind::Counted(counted) => counted.0.is_end_stream(),
            Kind::Switched(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(data) => SizeHint::with_exact(data.len() as u64),
            Kind::Flowing(flow) => flow.body.left().map_or_else(SizeHint::default, SizeHint::with_exact),
            Kind::Multiplexed(body, _) => body.size_hint(),
            Kind::Counted(counted) => counted.0.size_hint(),
            Kind::Switched(_) => SizeHint::with_exact(0),
        }
    }
}

/// A connection that no longer carries HTTP.
pub struct Tunnel {
    stream: Forgiving,
    /// The bytes after the response's head, copied: usually there are none, and a handle would keep the whole buffer.
    early: Bytes,
    _held: Held,
    /// Counts the request until it is dropped.
    busy: Option<Busy>,
}

impl Tunnel {
    pub(super) fn new(stream: Forgiving, early: &[u8], held: Held) -> Self {
        Self { stream, early: Bytes::copy_from_slice(early), _held: held, busy: None }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let here = self.early.len().min(buf.remaining());
        buf.put_slice(&self.early.split_to(here));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
