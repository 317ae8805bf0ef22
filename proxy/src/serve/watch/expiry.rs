//! When a connection's time is over: that of a head, that of an unused connection, or its part of the drain.

use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep};

use super::{NEVER, SOON, Watch, millis};

/// How long a connection is unused until it gives its buffers back.
const NAP: Duration = Duration::from_secs(1);

pub(crate) enum Overdue {
    /// It has not been used for a while: it may give its buffers back.
    Rests,
    Idle,
    Head,
    /// It goes for others' sake, or because nobody takes what is sent on it.
    SentAway,
}

/// Ends when the connection has overstayed. It looks at the deadline each time the connection is polled, which costs one load.
pub(crate) struct Expiry<'w> {
    watch: &'w Watch,
    alarm: Option<Pin<Box<Sleep>>>,
    armed_for: Option<u64>,
    /// Whether the alarm knows whom to wake.
    waits: bool,
    registered: bool,
    /// The deadline of the rest that was told of.
    told_of_rest: Option<u64>,
}

impl<'w> Expiry<'w> {
    pub(crate) const fn of(watch: &'w Watch) -> Self {
        Self { watch, alarm: None, armed_for: None, waits: false, registered: false, told_of_rest: None }
    }
}

impl Future for Expiry<'_> {
    type Output = Overdue;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Overdue> {
        let this = &mut *self;
        if !this.registered {
            // Once: a connection lives in one task.
            this.registered = true;
            this.watch.task.register(cx.waker());
        }
        if this.watch.goes_now() {
            return Poll::Ready(Overdue::SentAway);
        }
        loop {
            let deadline = match this.watch.deadline.load(Ordering::Relaxed) {
                NEVER => return Poll::Pending,
                SOON => {
                    this.watch.expect_end();
                    continue;
                }
                deadline => deadline,
            };
            let reads_head = this.watch.reads_head.load(Ordering::Relaxed);
            let was_told = reads_head || this.told_of_rest == Some(deadline);
            let rests_from = if was_told { None } else { rests_from(this.watch, deadline) };
            let until = rests_from.unwrap_or(deadline);
            let at = this.watch.began + Duration::from_millis(until);
            let alarm = this.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            // Later deadlines need no new alarm: when the old one rings, we look again.
            if this.armed_for.is_none_or(|armed| armed > until) || alarm.is_elapsed() {
                if Instant::now() >= at {
                    if rests_from.is_some() {
                        this.told_of_rest = Some(deadline);
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
            // Unconstrained: else it is not told whom to wake where the task has used up its turn.
            ready!(pin!(unconstrained(alarm.as_mut())).poll(cx));
        }
    }
}

/// When a connection that is unused until `deadline` counts as at rest; `None`: it ends before.
fn rests_from(watch: &Watch, deadline: u64) -> Option<u64> {
    let unused = millis(watch.timeouts.idle.checked_sub(NAP)?);
    deadline.checked_sub(unused)
}

/// How long a connection without a request under way is kept while we drain: a request may be on its way to us.
const DRAIN_PAUSE: Duration = Duration::from_millis(500);

/// Once begun, ends when a request is under way, else after [`DRAIN_PAUSE`]. To be polled behind the connection, in the same task.
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
        if self.watch.in_flight.load(Ordering::Relaxed) > 0 {
            return Poll::Ready(());
        }
        self.alarm.as_mut().map_or(Poll::Pending, |alarm| alarm.as_mut().poll(cx))
    }
}
