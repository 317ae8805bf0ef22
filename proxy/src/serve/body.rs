//! Bodies as the frames they came in, with back-pressure, and a limit on how long one may move no byte.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::adapters::upstream::Lease;
use crate::serve::guard::Guard;
use crate::serve::headers;
use crate::serve::watch::InFlight;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body moved no byte for {0:?} (TIMEOUT_BODY)")]
    Stalled(Duration),
    #[error("the session that the answer was for has ended")]
    SessionEnded,
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

/// What a client is answered with.
pub(crate) struct Body {
    kind: Kind,
    in_flight: Option<InFlight>,
    guard: Option<Box<Guard>>,
}

enum Kind {
    Text(Option<Bytes>),
    Streamed(Box<Streamed>),
}

struct Streamed {
    inner: Incoming,
    lease: Option<(Lease<RequestBody>, Option<Arc<Progress>>)>,
    stall: Stall,
}

impl Body {
    pub(crate) fn text(text: impl Into<Bytes>) -> Self {
        let text = text.into();
        Self { kind: Kind::Text((!text.is_empty()).then_some(text)), in_flight: None, guard: None }
    }

    pub(crate) fn empty() -> Self {
        Self::text(Bytes::new())
    }

    /// An upstream's body. `sent` is the progress of the request's body: the connection is kept only if that has ended as well.
    pub(crate) fn streamed(
        inner: Incoming,
        lease: Lease<RequestBody>,
        sent: Option<Arc<Progress>>,
        limit: Option<Duration>,
    ) -> Self {
        let mut streamed = Streamed { inner, lease: Some((lease, sent)), stall: Stall::new(limit) };
        if streamed.inner.is_end_stream() {
            streamed.give_back();
            return Self::empty();
        }
        Self { kind: Kind::Streamed(Box::new(streamed)), in_flight: None, guard: None }
    }

    /// Breaks it off when the session that it is for ends.
    pub(crate) fn guarded_by(mut self, guard: Option<Box<Guard>>) -> Self {
        self.guard = guard;
        self
    }

    /// Keeps the connection from counting as idle until the body has ended.
    pub(crate) fn held_by(mut self, in_flight: InFlight) -> Self {
        self.in_flight = Some(in_flight);
        self
    }
}

impl Streamed {
    fn give_back(&mut self) {
        if let Some((lease, sent)) = self.lease.take()
            && sent.is_none_or(|sent| sent.is_done())
        {
            lease.give_back();
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Pending => {
                let limit = ready!(self.stall.poll(cx));
                Poll::Ready(Some(Err(BodyError::Stalled(limit))))
            }
            Poll::Ready(Some(Ok(mut frame))) => {
                self.stall.moved();
                if let Some(trailers) = frame.trailers_mut() {
                    headers::strip_trailers(trailers);
                }
                // The server asks no further once a sized body has given its last byte.
                if self.inner.is_end_stream() {
                    self.give_back();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.give_back();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match &mut self.kind {
            Kind::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Kind::Streamed(streamed) => streamed.poll_frame(cx),
        };
        if let Some(guard) = &mut self.guard
            && !matches!(frame, Poll::Ready(None))
            && guard.poll(frame.is_pending(), cx).is_ready()
        {
            *self = Self::empty();
            tracing::debug!("an answer was broken off: its session ended");
            return Poll::Ready(Some(Err(BodyError::SessionEnded)));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Text(text) => text.is_none(),
            Kind::Streamed(streamed) => streamed.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Kind::Streamed(streamed) => streamed.inner.size_hint(),
        }
    }
}

/// What the upstream is sent.
pub(crate) struct RequestBody(Option<Sending>);

struct Sending {
    inner: Incoming,
    progress: Arc<Progress>,
    stall: Stall,
}

impl RequestBody {
    pub(crate) const fn empty() -> Self {
        Self(None)
    }

    /// A client's body, and how far it has come; without a body there is nothing to watch.
    pub(crate) fn of(inner: Incoming, limit: Duration) -> (Self, Option<Arc<Progress>>) {
        if inner.is_end_stream() {
            return (Self::empty(), None);
        }
        let progress = Arc::new(Progress::begin());
        let sending = Sending { inner, progress: Arc::clone(&progress), stall: Stall::new(Some(limit)) };
        (Self(Some(sending)), Some(progress))
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(sending) = &mut self.0 else { return Poll::Ready(None) };
        match Pin::new(&mut sending.inner).poll_frame(cx) {
            Poll::Pending => {
                sending.progress.waits_for_client.store(true, Ordering::Relaxed);
                let limit = ready!(sending.stall.poll(cx));
                Poll::Ready(Some(Err(BodyError::Stalled(limit))))
            }
            Poll::Ready(Some(Ok(mut frame))) => {
                sending.stall.moved();
                sending.progress.moved();
                if let Some(trailers) = frame.trailers_mut() {
                    headers::strip_trailers(trailers);
                }
                if sending.inner.is_end_stream() {
                    sending.progress.done.store(true, Ordering::Release);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                sending.progress.done.store(true, Ordering::Release);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|sending| sending.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |sending| sending.inner.size_hint())
    }
}

/// How far a request's body has come; read by whoever waits for the answer.
pub(crate) struct Progress {
    began: Instant,
    last_moved: AtomicU64,
    waits_for_client: AtomicBool,
    done: AtomicBool,
}

impl Progress {
    fn begin() -> Self {
        Self {
            began: Instant::now(),
            last_moved: AtomicU64::new(0),
            waits_for_client: AtomicBool::new(false),
            done: AtomicBool::new(false),
        }
    }

    fn moved(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_moved.store(millis, Ordering::Relaxed);
        self.waits_for_client.store(false, Ordering::Relaxed);
    }

    /// Whether the whole body was sent.
    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// When the last byte moved.
    pub(crate) fn last_moved(&self) -> Instant {
        self.began + Duration::from_millis(self.last_moved.load(Ordering::Relaxed))
    }

    /// Whether it is the client that keeps us waiting, not the upstream.
    pub(crate) fn waits_for_client(&self) -> bool {
        self.waits_for_client.load(Ordering::Relaxed)
    }
}

/// A limit on how long a body may move no byte. It costs nothing until the body first has to be waited for.
struct Stall {
    limit: Option<Duration>,
    last_moved: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    const fn new(limit: Option<Duration>) -> Self {
        Self { limit, last_moved: None, alarm: None }
    }

    const fn moved(&mut self) {
        self.last_moved = None;
    }

    /// Ready with the limit once it has passed.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let Some(limit) = self.limit else { return Poll::Pending };
        let since = *self.last_moved.get_or_insert_with(Instant::now);
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(since + limit)));
        loop {
            ready!(alarm.as_mut().poll(cx));
            if since + limit <= Instant::now() {
                return Poll::Ready(limit);
            }
            alarm.as_mut().reset(since + limit);
        }
    }
}
