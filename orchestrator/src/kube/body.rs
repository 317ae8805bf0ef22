//! Bounded response bodies of a Kubernetes API.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// The largest response that is read: a page of a list, an object, or one event of a watch.
pub(super) const ANSWER_MOST: usize = 32 * 1024 * 1024;

/// Why reading a response stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyFault {
    /// It is too long.
    #[error("the cluster's answer is longer than {} MiB", ANSWER_MOST / 1024 / 1024)]
    TooLong,
    /// Its head did not arrive in time.
    #[error("the cluster did not answer within {} s", .0.as_secs())]
    Late(Duration),
}

/// A response body that fails when it gets too long. In a stream of lines the limit applies to each line.
pub(super) struct Bounded {
    inner: Incoming,
    lines: bool,
    seen: usize,
}

impl Bounded {
    pub(super) fn new(inner: Incoming, lines: bool) -> Self {
        Self { inner, lines, seen: 0 }
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
            Poll::Pending => return Poll::Pending,
        };
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
