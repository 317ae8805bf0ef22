//! When a connection's time is over: that for a head, that for an idle connection, or that for the drain.

use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep};

use super::{NEVER, SOON, Watch, millis};

/// How long a connection is idle until it frees its buffers.
const NAP: Duration = Duration::from_secs(1);

pub(crate) enum Overdue {
    /// It was idle for a while: it may free its buffers.
    Rests,
    Idle,
    Head,
    /// It is closed to make room, or because its peer takes nothing that is sent.
    Closed,
}

/// Ends when a time limit of the connection has passed, or it is to be closed. Each poll checks the deadline, which costs one load.
pub(crate) struct Expiry<'w> {
    watch: &'w Watch,
    alarm: Option<Pin<Box<Sleep>>>,
    armed_for: Option<u64>,
    /// Whether the alarm has our waker.
    waits: bool,
    registered: bool,
    /// The deadline for which `Rests` was already returned.
    rest_reported: Option<u64>,
    /// Until when a peer is given time to take its response, before the connection may rest; in milliseconds.
    looks_again: u64,
}

impl<'w> Expiry<'w> {
    pub(crate) const fn of(watch: &'w Watch) -> Self {
        Self {
            watch,
            alarm: None,
            armed_for: None,
            waits: false,
            registered: false,
            rest_reported: None,
            looks_again: 0,
        }
    }
}

impl Future for Expiry<'_> {
    type Output = Overdue;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Overdue> {
        let this = &mut *self;
        if !this.registered {
            // Only once: a connection lives in one task.
            this.registered = true;
            this.watch.register(cx.waker());
        }
        if this.watch.closes_now() {
            return Poll::Ready(Overdue::Closed);
        }
        loop {
            let deadline = match this.watch.deadline.load(Ordering::Relaxed) {
                NEVER if this.watch.is_busy() => return Poll::Pending,
                // The last body has come to its end after its response.
                NEVER => {
                    this.watch.becomes_idle();
                    continue;
                }
                SOON => {
                    this.watch.expect_end();
                    continue;
                }
                deadline => deadline,
            };
            let reads_head = this.watch.reads_head.load(Ordering::Relaxed);
            let is_reported = reads_head || this.rest_reported == Some(deadline);
            let rests_from = if is_reported { None } else { rests_from(this.watch, deadline) };
            let rests_from = rests_from.map(|from| from.max(this.looks_again)).filter(|from| *from < deadline);
            let until = rests_from.unwrap_or(deadline);
            let at = this.watch.began + Duration::from_millis(until);
            let alarm = this.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            // Later deadlines need no new alarm: when the old one fires, we check again.
            if this.armed_for.is_none_or(|armed| armed > until) || alarm.is_elapsed() {
                if Instant::now() >= at {
                    if rests_from.is_some() {
                        if this.watch.is_being_read() {
                            this.looks_again = until.saturating_add(millis(NAP));
                            continue;
                        }
                        this.rest_reported = Some(deadline);
                        return Poll::Ready(Overdue::Rests);
                    }
                    return Poll::Ready(if reads_head { Overdue::Head } else { Overdue::Idle });
                }
                alarm.as_mut().reset(at);
                this.armed_for = Some(until);
                this.waits = false;
            }
            if this.waits {
                return Poll::Pending;
            }
            this.waits = true;
            // Unconstrained: otherwise the alarm does not store the waker when the task has used up its budget.
            ready!(pin!(unconstrained(alarm.as_mut())).poll(cx));
        }
    }
}

/// When a connection that is idle until `deadline` counts as at rest; `None`: it ends before that.
fn rests_from(watch: &Watch, deadline: u64) -> Option<u64> {
    let unused = millis(watch.timeouts.idle.checked_sub(NAP)?);
    deadline.checked_sub(unused)
}

/// How long a connection without a request in flight is kept during the drain: a request may be on its way to us.
const DRAIN_PAUSE: Duration = Duration::from_millis(500);

/// Once begun, ends when a request is in flight, else after [`DRAIN_PAUSE`]. Must be polled after the connection, in the same task.
pub(crate) struct DrainPause<'w> {
    watch: &'w Watch,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<'w> DrainPause<'w> {
    pub(crate) const fn of(watch: &'w Watch) -> Self {
        Self { watch, alarm: None }
    }

    pub(crate) fn begin(mut self: Pin<&mut Self>) {
        self.alarm = Some(Box::pin(tokio::time::sleep(DRAIN_PAUSE)));
    }
}

impl Future for DrainPause<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.watch.is_busy() {
            return Poll::Ready(());
        }
        self.alarm.as_mut().map_or(Poll::Pending, |alarm| alarm.as_mut().poll(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::watch;
    use super::*;

    #[tokio::test]
    async fn a_peer_that_takes_its_response_late_leaves_the_connection_to_rest_then() {
        let watch = watch();
        drop(Watch::begin(&watch, false, false));
        watch.is_flushed.store(false, Ordering::Relaxed);
        let mut expiry = pin!(Expiry::of(&watch));
        let first = tokio::time::timeout(NAP + NAP / 2, expiry.as_mut()).await;
        assert!(first.is_err(), "its response is not taken yet");
        watch.is_flushed.store(true, Ordering::Relaxed);
        assert!(matches!(tokio::time::timeout(2 * NAP, expiry).await, Ok(Overdue::Rests)));
    }
}
