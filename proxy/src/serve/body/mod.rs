//! Bodies as the frames they came in, with back-pressure, and a limit on how long one may make no progress.

pub(crate) mod activity;
pub(crate) mod guard;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;
use tracing::field::display;

use crate::adapters::net::Alarm;
use crate::adapters::telemetry::Side;
use crate::adapters::upstream::{Answer, BrokenAnswer, Restart};
use crate::serve::body::guard::Guard;
use crate::serve::request::chosen::ChosenNames;
use crate::serve::request::headers;
use crate::serve::watch::streams::{self, Pace, Tail};
use crate::serve::watch::{InFlight, OpenBody};

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body moved no byte for {0:?} (TIMEOUT_BODY)")]
    Stalled(Duration),
    #[error("the body is larger than the upstream takes (limit_body)")]
    TooLarge,
    #[error("the session that it was for has ended")]
    SessionEnded,
    #[error(transparent)]
    Request(#[from] hyper::Error),
    #[error(transparent)]
    Answer(#[from] BrokenAnswer),
}

/// A response body.
pub(crate) struct Body {
    kind: Kind,
    held: Held,
    guard: Option<Box<Guard>>,
}

/// Keeps the connection from counting as idle until the body is sent.
enum Held {
    Not,
    /// Until hyper has taken it: on HTTP/1 a connection whose peer does not take it fails by itself.
    Given(#[expect(dead_code, reason = "counts until it is dropped")] InFlight),
    /// Until it was sent; with the remainder of the last piece.
    Sent(Arc<Tail>, Bytes),
}

enum Kind {
    Text(Option<Bytes>),
    /// The response to a gRPC call: a message, and trailers with the status.
    Call(Option<Bytes>, Option<HeaderMap>),
    Streamed(Answer, Stall),
}

impl Body {
    pub(crate) fn text(text: impl Into<Bytes>) -> Self {
        let text = text.into();
        Self { kind: Kind::Text((!text.is_empty()).then_some(text)), held: Held::Not, guard: None }
    }

    /// The response to a gRPC call.
    pub(crate) fn call(message: Bytes, trailers: Option<HeaderMap>) -> Self {
        let kind = Kind::Call((!message.is_empty()).then_some(message), trailers);
        Self { kind, held: Held::Not, guard: None }
    }

    /// Our own text; empty for any other body.
    pub(crate) fn into_text(self) -> Bytes {
        match self.kind {
            Kind::Text(text) => text.unwrap_or_default(),
            Kind::Call(..) | Kind::Streamed(..) => Bytes::new(),
        }
    }

    pub(crate) fn empty() -> Self {
        Self::text(Bytes::new())
    }

    /// An upstream's body, which may make no progress for at most `limit`.
    pub(crate) const fn streamed(answer: Answer, limit: Option<Duration>) -> Self {
        Self { kind: Kind::Streamed(answer, Stall::new(Side::Answer, limit)), held: Held::Not, guard: None }
    }

    /// The length of our own text, in bytes; `None` for other bodies.
    pub(crate) fn length_of_text(&self) -> Option<usize> {
        match &self.kind {
            Kind::Text(text) => Some(text.as_ref().map_or(0, Bytes::len)),
            Kind::Call(..) | Kind::Streamed(..) => None,
        }
    }

    /// The same without our own text, for a response that has no body.
    pub(crate) fn without_text(mut self) -> Self {
        if let Kind::Text(text) = &mut self.kind {
            *text = None;
        }
        self
    }

    /// Aborts the body when its session ends.
    pub(crate) fn guarded_by(mut self, guard: Option<Guard>) -> Self {
        self.guard = guard.map(Box::new);
        self
    }

    /// Keeps the connection from counting as idle until the body has ended; on HTTP/2 also watches its reader.
    pub(crate) fn hold(&mut self, mut in_flight: InFlight) {
        let may_rest = match &mut self.kind {
            Kind::Text(_) | Kind::Call(..) => false,
            Kind::Streamed(answer, stall) => {
                in_flight.gives_answer(answer.size_hint().exact());
                if answer.may_splice()
                    && let Some(splice) = in_flight.splice()
                {
                    answer.pass_through(splice);
                }
                stall.limit().is_none()
            }
        };
        self.held = if in_flight.is_http2() {
            let pace = match (in_flight.was_let_in(), may_rest) {
                (true, true) => Pace::MayRest,
                (true, false) => Pace::Moves,
                (false, _) => Pace::Ends,
            };
            let end = self.guard.take_if(|_| pace == Pace::MayRest).map(|guard| guard.into_end());
            Held::Sent(streams::watch_this_stream(pace, in_flight, end), Bytes::new())
        } else {
            Held::Given(in_flight)
        };
    }

    fn poll_kind(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.kind {
            Kind::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Kind::Call(message, trailers) => {
                let message = message.take().map(Frame::data);
                Poll::Ready(message.or_else(|| trailers.take().map(Frame::trailers)).map(Ok))
            }
            // The time that the client takes is limited where it is written to.
            Kind::Streamed(answer, _) if answer.waits_for_client() => Poll::Pending,
            Kind::Streamed(answer, stall) => poll_limited(answer, stall, self.guard.as_deref(), cx),
        }
    }

    /// The next frame; on HTTP/2 in pieces that report when they were sent.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Held::Sent(tail, rest) = &mut self.held
            && !rest.is_empty()
        {
            return Poll::Ready(Some(Ok(Frame::data(Tail::piece(tail, rest)))));
        }
        let frame = ready!(self.poll_kind(cx));
        let Held::Sent(tail, rest) = &mut self.held else { return Poll::Ready(frame) };
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| match frame.into_data() {
                Ok(data) if data.is_empty() => Frame::data(data),
                Ok(data) => {
                    *rest = data;
                    Frame::data(Tail::piece(tail, rest))
                }
                Err(frame) => frame,
            })
        }))
    }
}

/// The next frame of a body, unless it makes no progress for too long.
fn poll_limited<B>(
    body: &mut B,
    stall: &mut Stall,
    guard: Option<&Guard>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>>
where
    B: HttpBody<Data = Bytes> + Unpin,
    BodyError: From<B::Error>,
{
    match Pin::new(body).poll_frame(cx) {
        Poll::Pending => {
            let limit = ready!(stall.poll(cx, guard.and_then(Guard::wakes_at)));
            stall.side.note_body_cut();
            let whose = if stall.side == Side::Request { "a request's body" } else { "an answer" };
            let request_id = guard.map(|guard| display(guard.request_id()));
            tracing::info!(request_id, "{whose} was cut off: it moved no byte for {limit:?} (TIMEOUT_BODY)");
            Poll::Ready(Some(Err(BodyError::Stalled(limit))))
        }
        Poll::Ready(Some(Ok(mut frame))) => {
            stall.moved();
            if let Some(bounds) = &mut stall.bounds
                && !bounds.apply(&mut frame)
            {
                return Poll::Ready(Some(Err(BodyError::TooLarge)));
            }
            if let Some(trailers) = frame.trailers_mut() {
                headers::strip_trailers(trailers);
            }
            Poll::Ready(Some(Ok(frame)))
        }
        Poll::Ready(None) => Poll::Ready(None),
        Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = self.poll_piece(cx);
        if let Some(guard) = &mut self.guard
            && !matches!(frame, Poll::Ready(None))
            && guard.poll(frame.is_pending(), cx).is_ready()
        {
            tracing::debug!(request_id = %guard.request_id(), "an answer was broken off: its session ended");
            *self = Self::empty();
            return Poll::Ready(Some(Err(BodyError::SessionEnded)));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        if matches!(&self.held, Held::Sent(_, rest) if !rest.is_empty()) {
            return false;
        }
        match &self.kind {
            Kind::Text(text) => text.is_none(),
            Kind::Call(message, trailers) => message.is_none() && trailers.is_none(),
            Kind::Streamed(answer, _) => answer.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            // It ends with its trailers.
            Kind::Call(..) => SizeHint::default(),
            Kind::Streamed(answer, _) => answer.size_hint(),
        }
    }
}

/// The body for the upstream; `None`: no body. In a box, since most requests have none, and this is moved several times.
#[derive(Default)]
pub(crate) struct RequestBody(Option<Box<Content>>);

#[derive(Default)]
struct Content {
    rest: Option<Rest>,
    /// What a failed attempt had already taken: it is sent first.
    front: VecDeque<Bytes>,
}

/// What is still to come from the client.
struct Rest {
    inner: Incoming,
    stall: Stall,
    guard: Guard,
    /// Keeps the connection from counting as idle: the body may outlive the response.
    open: OpenBody,
}

impl RequestBody {
    pub(crate) const fn empty() -> Self {
        Self(None)
    }

    /// The body of the request `in_flight`, which may make no progress for at most `limit`, and is aborted by its guard.
    pub(crate) fn of(inner: Incoming, limit: Duration, in_flight: &InFlight, guard: impl FnOnce() -> Guard) -> Self {
        if inner.is_end_stream() {
            return Self::empty();
        }
        let stall = Stall::new(Side::Request, Some(limit));
        let rest = Some(Rest { inner, stall, guard: guard(), open: in_flight.receives_body() });
        Self(Some(Box::new(Content { rest, front: VecDeque::new() })))
    }

    /// Limits the body's size and removes the `chosen` names from its trailers; `None`: its declared length is larger.
    pub(crate) fn within(mut self, bytes: Option<u64>, chosen: &Arc<ChosenNames>) -> Option<Self> {
        if let Some(Rest { inner, stall, .. }) = self.0.as_mut().and_then(|content| content.rest.as_mut()) {
            if bytes.is_some_and(|most| inner.size_hint().lower() > most) {
                return None;
            }
            if bytes.is_some() || !chosen.is_empty() {
                stall.bounds = Some(Box::new(Bounds { left: bytes.unwrap_or(u64::MAX), chosen: Arc::clone(chosen) }));
            }
        }
        Some(self)
    }

    /// Whether a request was aborted because its body was larger than the upstream accepts.
    pub(crate) fn was_too_large(error: &(dyn std::error::Error + 'static)) -> bool {
        std::iter::successors(Some(error), |error| error.source())
            .any(|error| matches!(error.downcast_ref(), Some(BodyError::TooLarge)))
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(content) = &mut self.0 else { return Poll::Ready(None) };
        if let Some(data) = content.front.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let Some(Rest { inner, stall, guard, open }) = &mut content.rest else { return Poll::Ready(None) };
        let frame = poll_limited(inner, stall, Some(guard), cx);
        if frame.is_ready() {
            guard.note_activity();
        }
        let is_last = match &frame {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers() || inner.is_end_stream(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => false,
        };
        if is_last {
            open.has_ended();
        } else if guard.poll(frame.is_pending(), cx).is_ready() {
            tracing::debug!(request_id = %guard.request_id(), "an upload was broken off: its session ended");
            return Poll::Ready(Some(Err(BodyError::SessionEnded)));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|content| {
            content.front.is_empty() && content.rest.as_ref().is_none_or(|rest| rest.inner.is_end_stream())
        })
    }

    fn size_hint(&self) -> SizeHint {
        let Some(content) = &self.0 else { return SizeHint::with_exact(0) };
        let rest = content.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), |rest| rest.inner.size_hint());
        if content.front.is_empty() {
            return rest;
        }
        let front: u64 = content.front.iter().map(|data| data.len() as u64).sum();
        let mut hint = SizeHint::new();
        hint.set_lower(front.saturating_add(rest.lower()));
        if let Some(upper) = rest.upper() {
            hint.set_upper(front.saturating_add(upper));
        }
        hint
    }
}

impl Restart for RequestBody {
    fn restart(self, taken: Vec<Bytes>) -> Self {
        let Content { rest, front } = *self.0.unwrap_or_default();
        // An earlier attempt may have left parts that were not taken again.
        Self(Some(Box::new(Content { rest, front: taken.into_iter().chain(front).collect() })))
    }
}

/// Limits on a request's body.
struct Bounds {
    /// How many more bytes may come.
    left: u64,
    /// Names that are removed from its trailers.
    chosen: Arc<ChosenNames>,
}

impl Bounds {
    /// Applies the limits to a frame. Returns whether the body may go on.
    fn apply(&mut self, frame: &mut Frame<Bytes>) -> bool {
        if let Some(trailers) = frame.trailers_mut() {
            self.chosen.strip(trailers);
        }
        match self.left.checked_sub(frame.data_ref().map_or(0, |data| data.len() as u64)) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

/// A limit on how long a body may make no progress. It costs nothing until the body first has to be waited for.
struct Stall {
    side: Side,
    /// In milliseconds; `u64::MAX`: no limit.
    limit: u64,
    /// Further limits, which are rare.
    bounds: Option<Box<Bounds>>,
    last_moved: Option<Instant>,
    alarm: Alarm,
}

impl Stall {
    const fn new(side: Side, limit: Option<Duration>) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "a limit is a day at most")]
        let limit = match limit {
            Some(limit) => limit.as_millis() as u64,
            None => u64::MAX,
        };
        Self { side, limit, bounds: None, last_moved: None, alarm: Alarm::new() }
    }

    const fn limit(&self) -> Option<Duration> {
        if self.limit == u64::MAX { None } else { Some(Duration::from_millis(self.limit)) }
    }

    const fn moved(&mut self) {
        self.last_moved = None;
    }

    /// Ready with the limit once it has passed. Its alarm also fires at `wake`, if sooner, so that the body is polled then.
    fn poll(&mut self, cx: &mut Context<'_>, wake: Option<Instant>) -> Poll<Duration> {
        let Some(limit) = self.limit() else {
            if let Some(wake) = wake {
                let _ = self.alarm.poll(cx, wake);
            }
            return Poll::Pending;
        };
        let since = *self.last_moved.get_or_insert_with(Instant::now);
        if let Some(wake) = wake.filter(|wake| *wake < since + limit) {
            ready!(self.alarm.poll(cx, wake));
        }
        self.alarm.poll(cx, since + limit).map(|()| limit)
    }
}
