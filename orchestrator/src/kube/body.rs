//! Bounded response bodies of a Kubernetes API.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

/// The largest response that is read: a page of a list, an object, or one event of a watch.
pub(super) const ANSWER_MOST: usize = 32 * 1024 * 1024;

/// How long all of a response may take, unless it is a watch: others wait for their turn meanwhile.
const WHOLE: Duration = Duration::from_secs(300);

/// Why reading a response stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyFault {
    /// It is too long.
    #[error("the cluster's answer is longer than {} MiB", ANSWER_MOST / 1024 / 1024)]
    TooLong,
    /// Its head, its next piece or all of it did not arrive in time.
    #[error("the cluster did not answer within {} s", .0.as_secs())]
    Late(Duration),
}

/// A response body that fails when it gets too long, or stalls. In a stream of lines the length of each line counts, and it may be
/// silent.
pub(super) struct Bounded {
    inner: Incoming,
    lines: bool,
    seen: usize,
    began: Instant,
    /// How long the next piece may take.
    idle: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Bounded {
    pub(super) fn new(inner: Incoming, lines: bool, idle: Duration) -> Self {
        Self { inner, lines, seen: 0, began: Instant::now(), idle, waiting: None }
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let idle = self.idle;
        !self.lines && self.waiting.get_or_insert_with(|| Box::pin(sleep(idle))).as_mut().poll(cx).is_ready()
    }

    fn count(&mut self, bytes: &Bytes) -> Result<(), BodyFault> {
        let newline = if self.lines { bytes.iter().rposition(|byte| *byte == b'\n') } else { None };
        self.seen = match newline {
            Some(at) => bytes.len() - at,
            None => self.seen + bytes.len(),
        };
        if self.seen > ANSWER_MOST { Err(BodyFault::TooLong) } else { Ok(()) }
    }
}

impl Body for Bounded {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending if self.is_late(cx) => return Poll::Ready(Some(Err(BodyFault::Late(self.idle).into()))),
            Poll::Pending => return Poll::Pending,
        };
        self.waiting = None;
        if !self.lines && self.began.elapsed() > WHOLE {
            return Poll::Ready(Some(Err(BodyFault::Late(WHOLE).into())));
        }
        let counted = frame.data_ref().map_or(Ok(()), |bytes| self.count(bytes));
        Poll::Ready(Some(counted.map(|()| frame).map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
