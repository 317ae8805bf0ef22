//! How long a connection may do what it is doing: read a head, rest, or wait for its peer to take bytes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::adapters::net::{Alarm, write_pieces};
use crate::serve::settings::Timeouts;

/// What a connection is doing, and until when it may. Written by the stream and the requests, read by [`Expiry`].
pub(crate) struct Watch {
    began: Instant,
    timeouts: Timeouts,
    in_flight: AtomicUsize,
    http2: AtomicBool,
    upgraded: AtomicBool,
    /// Milliseconds after `began`; `NEVER` while something is in flight, `SOON` where [`Expiry`] is still to say when.
    deadline: AtomicU64,
    /// Whether the deadline is for a head that is being read, rather than for an unused connection.
    reads_head: AtomicBool,
}

const NEVER: u64 = u64::MAX;
const SOON: u64 = NEVER - 1;

impl Watch {
    pub(crate) fn new(accepted: Instant, timeouts: Timeouts) -> Self {
        let watch = Self {
            began: accepted,
            timeouts,
            in_flight: AtomicUsize::new(0),
            http2: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
            deadline: AtomicU64::new(NEVER),
            reads_head: AtomicBool::new(true),
        };
        watch.deadline.store(millis(timeouts.header), Ordering::Relaxed);
        watch
    }

    pub(crate) fn begin(watch: &Arc<Self>, http2: bool) -> InFlight {
        watch.in_flight.fetch_add(1, Ordering::Relaxed);
        watch.http2.store(http2, Ordering::Relaxed);
        watch.reads_head.store(false, Ordering::Relaxed);
        watch.deadline.store(NEVER, Ordering::Relaxed);
        InFlight(Arc::clone(watch))
    }

    fn end(&self) {
        if self.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.reads_head.store(false, Ordering::Relaxed);
            self.deadline
                .store(millis(self.began.elapsed()).saturating_add(millis(self.timeouts.idle)), Ordering::Relaxed);
        }
    }

    /// The first byte of a later request has come. On HTTP/2 bytes come without requests, and prove nothing.
    fn read_something(&self) {
        let idle = self.in_flight.load(Ordering::Relaxed) == 0 && !self.reads_head.load(Ordering::Relaxed);
        if idle && !self.http2.load(Ordering::Relaxed) && !self.upgraded.load(Ordering::Relaxed) {
            self.reads_head.store(true, Ordering::Relaxed);
            // Nearly always the whole head has come: this spares a look at the clock.
            self.deadline.store(SOON, Ordering::Relaxed);
        }
    }

    /// From now on the time for a head runs.
    pub(crate) fn expect_end(&self) {
        self.reads_head.store(true, Ordering::Relaxed);
        self.deadline
            .store(millis(self.began.elapsed()).saturating_add(millis(self.timeouts.header)), Ordering::Relaxed);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(SOON - 1)
}

/// A request under way; the connection is not idle until it is dropped.
pub(crate) struct InFlight(Arc<Watch>);

impl InFlight {
    /// The connection becomes a tunnel: from here on its bytes are not HTTP, and may rest.
    pub(crate) fn becomes_tunnel(&self) {
        self.0.upgraded.store(true, Ordering::Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.end();
    }
}

pub(crate) enum Overdue {
    Idle,
    Head,
}

/// Ends when the connection has overstayed. It looks at the deadline each time the connection is polled, which costs one load.
pub(crate) struct Expiry<'w> {
    watch: &'w Watch,
    alarm: Option<Pin<Box<Sleep>>>,
    armed_for: Option<u64>,
}

impl<'w> Expiry<'w> {
    pub(crate) const fn of(watch: &'w Watch) -> Self {
        Self { watch, alarm: None, armed_for: None }
    }
}

impl Future for Expiry<'_> {
    type Output = Overdue;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Overdue> {
        let this = &mut *self;
        loop {
            let deadline = match this.watch.deadline.load(Ordering::Relaxed) {
                NEVER => return Poll::Pending,
                SOON => {
                    this.watch.expect_end();
                    continue;
                }
                deadline => deadline,
            };
            let at = this.watch.began + Duration::from_millis(deadline);
            let alarm = this.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            // Later deadlines need no new alarm: when the old one rings, we look again.
            if this.armed_for.is_none_or(|armed| armed > deadline) || alarm.is_elapsed() {
                if Instant::now() >= at {
                    let reads_head = this.watch.reads_head.load(Ordering::Relaxed);
                    return Poll::Ready(if reads_head { Overdue::Head } else { Overdue::Idle });
                }
                alarm.as_mut().reset(at);
                this.armed_for = Some(deadline);
            }
            ready!(alarm.as_mut().poll(cx));
        }
    }
}

/// How long a connection without a request under way is kept while we drain: a request may be on its way to us.
const REST: Duration = Duration::from_millis(500);

/// Once begun, ends when a request is under way, else after [`REST`]. To be polled behind the connection, in the same task.
pub(crate) struct Rest<'w> {
    watch: &'w Watch,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<'w> Rest<'w> {
    pub(crate) const fn of(watch: &'w Watch) -> Self {
        Self { watch, alarm: None }
    }

    pub(crate) fn begin(mut self: Pin<&mut Self>) {
        self.alarm = Some(Box::pin(tokio::time::sleep(REST)));
    }
}

impl Future for Rest<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.watch.in_flight.load(Ordering::Relaxed) > 0 {
            return Poll::Ready(());
        }
        self.alarm.as_mut().map_or(Poll::Pending, |alarm| alarm.as_mut().poll(cx))
    }
}

/// The connection's bytes, with a limit on how long the peer may refuse to take any.
pub(crate) struct Guarded<IO> {
    stream: IO,
    watch: Arc<Watch>,
    write_alarm: Alarm,
    write_waits: Option<Instant>,
}

impl<IO> Guarded<IO> {
    pub(crate) const fn new(stream: IO, watch: Arc<Watch>) -> Self {
        Self { stream, watch, write_alarm: Alarm::new(), write_waits: None }
    }

    fn check<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() || self.watch.upgraded.load(Ordering::Relaxed) {
            self.write_waits = None;
            return outcome;
        }
        let until = *self.write_waits.get_or_insert_with(Instant::now) + self.watch.timeouts.body;
        self.write_alarm.poll(cx, until).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guarded<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.watch.read_something();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guarded<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.check(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = write_pieces(Pin::new(&mut self.stream), cx, bufs);
        self.check(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.check(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.check(cx, outcome)
    }
}
