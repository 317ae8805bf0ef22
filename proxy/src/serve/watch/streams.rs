//! HTTP/2 streams as tasks, each ended if its reader takes no byte for too long.
//!
//! On HTTP/1 a stalled reader stalls its connection's writes, which `watch` limits. On HTTP/2 it exhausts its own stream's
//! window: the connection goes on, and nothing polls that response's body any more. So the task itself is watched: a task that has
//! a response to send and is not woken within the limit is dropped, which resets the stream (RFC 9113 §5.4.2). Every response is watched,
//! ours too; only event streams of admitted users may pause.
//!
//! A task ends once the last bytes of its response are queued, which is before they are sent: a window of one byte is enough for that. So
//! the buffers themselves report when they were sent ([`Tail`]), and until then their task stays.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use hyper::rt::Executor;
use tokio::time::{Instant, Sleep};

use crate::serve::watch::InFlight;

/// The size of one piece, in bytes: as much as a frame holds, so that each piece taken shows that the reader reads.
const PIECE: usize = 16 * 1024;

thread_local! {
    /// What the stream whose task is being polled has reported about its response.
    static REPORTED: RefCell<Option<Reported>> = const { RefCell::new(None) };
}

struct Reported {
    pace: Pace,
    tail: Arc<Tail>,
    end: Option<End>,
}

/// Ends when a stream must be reset, whether its reader takes anything or not.
pub(crate) type End = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The progress that a response must make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// An event stream for an admitted user: it may pause.
    MayRest,
    /// Another response for an admitted user: some of it must be taken within each time limit.
    Moves,
    /// Any other response, one of our own and short: all of it must be taken within the time limit.
    Ends,
}

/// Sets the pace for the stream whose request is being handled; it is watched from the next poll on.
pub(crate) fn watch_this_stream(pace: Pace, in_flight: InFlight, end: Option<End>) -> Arc<Tail> {
    let tail = Arc::new(Tail { in_flight, unsent: AtomicUsize::new(0), task: AtomicWaker::new() });
    REPORTED.set(Some(Reported { pace, tail: Arc::clone(&tail), end }));
    tail
}

/// The queued but unsent part of a response. The request is in flight until it is sent.
pub(crate) struct Tail {
    in_flight: InFlight,
    unsent: AtomicUsize,
    task: AtomicWaker,
}

impl Tail {
    /// Splits off the front of `data`; the piece reports when it was sent.
    pub(crate) fn piece(tail: &Arc<Self>, data: &mut Bytes) -> Bytes {
        tail.unsent.fetch_add(1, Ordering::Relaxed);
        let bytes = data.split_to(data.len().min(PIECE));
        Bytes::from_owner(Piece { bytes, tail: Arc::clone(tail) })
    }

    fn is_sent(&self) -> bool {
        self.unsent.load(Ordering::Acquire) == 0
    }
}

struct Piece {
    bytes: Bytes,
    tail: Arc<Tail>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.tail.unsent.fetch_sub(1, Ordering::AcqRel);
        self.tail.task.wake();
    }
}

/// Spawns the streams of a connection.
#[derive(Clone)]
pub(crate) struct StreamExecutor {
    limit: Duration,
}

impl StreamExecutor {
    pub(crate) const fn new(limit: Duration) -> Self {
        Self { limit }
    }
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(WatchedStream {
            stream: Some(Box::pin(stream)),
            limit: self.limit,
            pace: Pace::MayRest,
            tail: None,
            end: None,
            since: Instant::now(),
            yielded: false,
            alarm: None,
        });
    }
}

struct WatchedStream<F> {
    /// `None`: the whole response is queued, and the task waits until it is sent.
    stream: Option<Pin<Box<F>>>,
    limit: Duration,
    pace: Pace,
    tail: Option<Arc<Tail>>,
    end: Option<End>,
    /// When the time limit began to run.
    since: Instant,
    yielded: bool,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<F: Future<Output = ()>> WatchedStream<F> {
    /// Whether the stream's own task is done.
    fn poll_stream(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let Some(stream) = &mut self.stream else { return true };
        let before = REPORTED.take();
        let outcome = stream.as_mut().poll(cx);
        let reported = REPORTED.replace(before);
        if let Some(Reported { pace, tail, end }) = reported {
            (self.pace, self.tail, self.since, self.end) = (pace, Some(tail), now, end);
        }
        outcome.is_ready()
    }

    fn note_timeout(&self) {
        match (&self.stream, &self.tail) {
            (None, Some(tail)) => {
                // To the library the stream is closed, so it cannot be reset by itself.
                tracing::debug!(
                    "an HTTP/2 connection was closed: its reader left the end of an answer for {:?} (TIMEOUT_BODY)",
                    self.limit
                );
                tail.in_flight.cuts_connection();
            }
            _ => tracing::debug!(
                "an HTTP/2 stream was reset: its reader took nothing for {:?} (TIMEOUT_BODY)",
                self.limit
            ),
        }
    }

    fn arm(&mut self, rung: bool, cx: &mut Context<'_>) {
        if rung || self.alarm.is_none() {
            let until = self.since + self.limit;
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
            alarm.as_mut().reset(until);
            // Registers the task; an alarm that fires right now wakes it at once.
            if alarm.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
    }
}

impl<F: Future<Output = ()>> Future for WatchedStream<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let now = Instant::now();
        let rung = this.alarm.as_mut().is_some_and(|alarm| alarm.as_mut().poll(cx).is_ready());
        if now >= this.since + this.limit && (rung || this.pace == Pace::Ends) && this.pace != Pace::MayRest {
            this.note_timeout();
            return Poll::Ready(());
        }
        if !rung && this.pace != Pace::Ends {
            // Woken by the stream itself, which counts as progress.
            this.since = now;
        }
        if this.poll_stream(now, cx) {
            let Some(tail) = this.tail.clone() else { return Poll::Ready(()) };
            if this.stream.take().is_some() && this.pace == Pace::MayRest {
                // The end of an event stream is no event: from here on it is watched like any other. What remains is timed by
                // TIMEOUT_BODY; the wake-ups of `end` would count as progress.
                this.pace = Pace::Moves;
                this.end = None;
            }
            tail.task.register(cx.waker());
            if tail.is_sent() {
                return Poll::Ready(());
            }
            if !std::mem::replace(&mut this.yielded, true) {
                // The connection nearly always sends it next.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        if this.end.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready()) {
            tracing::debug!("an answer was broken off: its session ended");
            return Poll::Ready(());
        }
        if this.pace != Pace::MayRest {
            this.arm(rung, cx);
        }
        Poll::Pending
    }
}
