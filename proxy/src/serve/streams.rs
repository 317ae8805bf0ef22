//! HTTP/2 streams as tasks, each ended when its reader takes no byte for too long.
//!
//! On HTTP/1 a reader that stalls stalls its connection's writes, which `connection` limits. On HTTP/2 it closes its own stream's
//! window: the connection goes on, and nothing polls that answer's body any more. So the task itself is watched: a task that
//! streams an answer and is not woken for the whole limit is dropped, which resets the stream (RFC 9113 §5.4.2).

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::{Instant, Sleep};

thread_local! {
    /// What the stream whose task is being polled wants of its watch; set by [`watch_this_stream`].
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

/// From the next poll on, the stream whose request is being handled must move: its answer has a body that is no event stream.
pub(crate) fn watch_this_stream() {
    WATCHED.set(true);
}

/// Runs a connection's streams.
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
            stream: Box::pin(stream),
            limit: self.limit,
            watched: false,
            last_polled: Instant::now(),
            alarm: None,
        });
    }
}

struct WatchedStream<F> {
    stream: Pin<Box<F>>,
    limit: Duration,
    watched: bool,
    last_polled: Instant,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<F: Future<Output = ()>> Future for WatchedStream<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let now = Instant::now();
        let rung = this.alarm.as_mut().is_some_and(|alarm| alarm.as_mut().poll(cx).is_ready());
        if rung && now >= this.last_polled + this.limit {
            tracing::debug!("an HTTP/2 stream was reset: its reader took nothing for {:?} (TIMEOUT_BODY)", this.limit);
            return Poll::Ready(());
        }
        if !rung {
            // Woken by the stream itself, which is how progress looks from here.
            this.last_polled = now;
        }
        let before = WATCHED.replace(false);
        let outcome = this.stream.as_mut().poll(cx);
        this.watched |= WATCHED.replace(before);
        if outcome.is_pending() && this.watched && (rung || this.alarm.is_none()) {
            let until = this.last_polled + this.limit;
            let alarm = this.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
            alarm.as_mut().reset(until);
            // Registers the task; an alarm that rings this very moment wakes it at once.
            if alarm.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        outcome
    }
}
