//! Time limits on what a connection does: reads a head, stays idle, or waits for its peer to take bytes.

mod expiry;
pub(crate) mod guarded;
mod interim;
pub(crate) mod memory;
pub(crate) mod parser;
mod pipe;
pub(crate) mod streams;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

pub(crate) use self::expiry::{DrainPause, Expiry, Overdue};
use crate::adapters::net::Splice;
use crate::adapters::telemetry::Held;
use crate::serve::settings::Timeouts;
use crate::serve::watch::interim::Interim;
use crate::serve::watch::memory::{Memory, Share};
use crate::serve::watch::pipe::Pipe;

/// The memory counted for a connection, in bytes: the connection with its first buffers; added by TLS; added by HTTP/2, with its first
/// streams; each further stream.
pub(crate) const CONNECTION: usize = 16 * 1024;
const TLS: usize = 32 * 1024;
const HTTP2: usize = 64 * 1024;
const STREAMS: usize = 8;
const STREAM: usize = 8 * 1024;
/// The part of it for buffers, which a connection has only while it is in use.
const BUFFERS: usize = 12 * 1024;

/// How much of a head the first buffers hold, in bytes; a larger head is counted.
const HEAD: usize = 4 * 1024;
/// How much of a response is buffered for a slow reader, in bytes, unless the response is small.
const ANSWER: usize = 96 * 1024;
const SMALL_ANSWER: u64 = 16 * 1024;

/// The most unread bytes that an HTTP/2 client may send, on all its streams together.
pub(crate) const UPLOADS_MOST: usize = 4 * 1024 * 1024;

/// The most unread bytes that the client of a WebSocket over HTTP/2 may send.
const TUNNEL: usize = 256 * 1024;

/// What a connection is doing, and its deadline. Written by the stream and the requests, read by [`Expiry`].
pub(crate) struct Watch {
    began: Instant,
    timeouts: Timeouts,
    in_flight: AtomicUsize,
    /// How many bodies of requests are still being received: one may outlive the response to its request.
    bodies: AtomicUsize,
    /// Whether the last body on HTTP/1.1 was not received to its end.
    is_body_left: AtomicBool,
    http2: AtomicBool,
    upgraded: AtomicBool,
    /// Milliseconds after `began`; `NEVER` while something is in flight, `SOON` if [`Expiry`] must still set it.
    deadline: AtomicU64,
    /// Whether the deadline is for a head that is being read, rather than for an idle connection.
    reads_head: AtomicBool,
    /// Whether each request so far had no body and came after the previous response: only then is the start of the next one certain.
    in_step: AtomicBool,
    interim: Interim,
    pipe: Pipe,
    share: Share,
    /// The largest size of the head's buffer, in bytes.
    head_most: usize,
    /// How many bytes of a head were read, and how many are counted for it.
    head_come: AtomicUsize,
    head_counted: AtomicUsize,
    /// Memory to take for what was read, before more is read.
    owed: AtomicUsize,
    /// Unread bytes that clients may send on this connection.
    uploads: AtomicUsize,
    /// How many streams beyond [`STREAMS`] are counted.
    streams_counted: AtomicUsize,
    /// Whether a request on this connection was admitted.
    let_in: AtomicBool,
    was_used: AtomicBool,
    /// Until when a sign-in that comes back keeps it open, in milliseconds; zero: none has come.
    signs_in: AtomicU64,
    /// Whether everything written was sent: TLS may hold some of it.
    is_flushed: AtomicBool,
    /// Whether our side of it ends: nothing that comes is a request any more.
    is_shut: AtomicBool,
    /// Whether its buffers were freed.
    is_bare: AtomicBool,
    /// Whether it is to be closed to make room, and the task to wake for it.
    closing: AtomicU8,
    task: Mutex<Option<Waker>>,
    /// Freed with the last handle, so that a WebSocket keeps it when the connection's HTTP has ended.
    _place: Option<Place>,
}

/// One of the places for connections (`LIMIT_CONNECTIONS`), taken and counted until dropped.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    _counted: Held,
}

impl Place {
    pub(crate) const fn new(permit: OwnedSemaphorePermit, counted: Held) -> Self {
        Self { _permit: permit, _counted: counted }
    }
}

/// Whether to close a connection to make room: no; yes, unless a request has come by then; yes, unless a request was admitted by then; in
/// any case.
const OPEN: u8 = 0;
const CLOSE_UNLESS_USED: u8 = 1;
const CLOSE_UNLESS_ADMITTED: u8 = 2;
const CLOSE: u8 = 3;

/// The state of a connection that decides whether it is closed when there are too many.
pub(crate) struct ConnectionState {
    /// Whether a request on it was admitted.
    pub(crate) let_in: bool,
    /// Whether a request was ever read on it.
    pub(crate) was_used: bool,
    /// Whether a sign-in came back on it a moment ago.
    pub(crate) signs_in: bool,
    /// Whether requests are in flight.
    pub(crate) busy: bool,
    /// How long it has been open.
    pub(crate) age: Duration,
    /// How long it has been idle or reading a head; zero while it is busy.
    pub(crate) rests: Duration,
    /// The memory counted for it, in bytes.
    pub(crate) held: usize,
    /// Whether a long head or many streams were sent on it.
    pub(crate) grown: bool,
    /// Whether it is already being closed.
    pub(crate) closing: bool,
}

/// How long a sign-in that comes back from the provider keeps its connection open: it cannot be repeated.
const SIGN_IN: Duration = Duration::from_secs(10);

const NEVER: u64 = u64::MAX;
const SOON: u64 = NEVER - 1;

impl Watch {
    pub(crate) fn new(accepted: Instant, timeouts: Timeouts, head_most: usize, memory: Arc<Memory>) -> Self {
        let share = Share::of(memory);
        share.grow(CONNECTION);
        let watch = Self {
            began: accepted,
            timeouts,
            in_flight: AtomicUsize::new(0),
            bodies: AtomicUsize::new(0),
            is_body_left: AtomicBool::new(false),
            http2: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
            deadline: AtomicU64::new(NEVER),
            reads_head: AtomicBool::new(true),
            in_step: AtomicBool::new(true),
            interim: Interim::new(),
            pipe: Pipe::new(),
            share,
            head_most,
            head_come: AtomicUsize::new(0),
            head_counted: AtomicUsize::new(0),
            owed: AtomicUsize::new(0),
            uploads: AtomicUsize::new(0),
            streams_counted: AtomicUsize::new(0),
            let_in: AtomicBool::new(false),
            was_used: AtomicBool::new(false),
            signs_in: AtomicU64::new(0),
            is_flushed: AtomicBool::new(true),
            is_shut: AtomicBool::new(false),
            is_bare: AtomicBool::new(false),
            closing: AtomicU8::new(OPEN),
            task: Mutex::new(None),
            _place: None,
        };
        watch.deadline.store(millis(timeouts.header), Ordering::Relaxed);
        watch
    }

    /// The same, with the place that the connection takes.
    pub(crate) fn with_place(self, place: Place) -> Self {
        Self { _place: Some(place), ..self }
    }

    pub(crate) fn begin(watch: &Arc<Self>, http2: bool, has_body: bool) -> InFlight {
        if http2 || has_body {
            watch.in_step.store(false, Ordering::Relaxed);
            watch.is_body_left.store(has_body && !http2, Ordering::Relaxed);
        } else if watch.is_body_left.load(Ordering::Relaxed) {
            watch.is_body_left.store(false, Ordering::Relaxed);
        }
        let streams = watch.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        if http2 {
            watch.becomes_http2();
            watch.count_streams(streams);
        }
        watch.share.grow(watch.owed.swap(0, Ordering::Relaxed));
        watch.was_used.store(true, Ordering::Relaxed);
        watch.head_come.store(0, Ordering::Relaxed);
        watch.reads_head.store(false, Ordering::Relaxed);
        watch.deadline.store(NEVER, Ordering::Relaxed);
        InFlight { watch: Arc::clone(watch), let_in: AtomicBool::new(false), upload: 0, answer: 0 }
    }

    pub(crate) const fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// The pipe of large responses.
    pub(crate) const fn pipe(&self) -> &Pipe {
        &self.pipe
    }

    /// How long a head may be, in bytes.
    pub(crate) const fn head_most(&self) -> usize {
        self.head_most
    }

    /// TLS is terminated here, which takes memory of its own.
    pub(crate) fn takes_tls(&self) {
        self.share.grow(TLS);
    }

    fn becomes_http2(&self) {
        if !self.http2.load(Ordering::Relaxed) && !self.http2.swap(true, Ordering::Relaxed) {
            self.grow_or_owe(HTTP2);
        }
    }

    /// Bytes from clients not yet admitted need free memory first; admitted clients go on, and room is made elsewhere.
    fn grow_or_owe(&self, bytes: usize) {
        if self.let_in.load(Ordering::Relaxed) {
            self.share.grow(bytes);
        } else if !self.share.try_grow(bytes) {
            self.owed.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn count_streams(&self, streams: usize) {
        let further = streams.saturating_sub(STREAMS);
        let counted = self.streams_counted.load(Ordering::Relaxed);
        if further > counted {
            self.streams_counted.store(further, Ordering::Relaxed);
            self.share.grow((further - counted) * STREAM);
        }
    }

    /// Counts bytes of a head: a full buffer is doubled, and the old one exists beside the new one meanwhile.
    fn count_head(&self, come: usize) {
        let wanted = come.next_power_of_two() * 2;
        let counted = self.head_counted.load(Ordering::Relaxed);
        if wanted > counted {
            self.head_counted.store(wanted, Ordering::Relaxed);
            self.grow_or_owe(wanted - counted);
        }
    }

    /// Counts unread bytes that clients may send: never more than the connection's own window.
    fn count_upload(&self, bytes: usize, window: usize) {
        let before = self.uploads.fetch_add(bytes, Ordering::Relaxed);
        self.share.grow((before + bytes).min(window) - before.min(window));
    }

    fn discount_upload(&self, bytes: usize, window: usize) {
        let before = self.uploads.fetch_sub(bytes, Ordering::Relaxed);
        self.share.shrink(before.min(window) - before.saturating_sub(bytes).min(window));
    }

    /// Its current state.
    pub(crate) fn state(&self, now: Instant) -> ConnectionState {
        let limit = if self.reads_head.load(Ordering::Relaxed) { self.timeouts.header } else { self.timeouts.idle };
        let deadline = self.deadline.load(Ordering::Relaxed);
        let rests = match deadline {
            NEVER | SOON => Duration::ZERO,
            deadline => (now + limit).saturating_duration_since(self.began + Duration::from_millis(deadline)),
        };
        let grown = self.head_counted.load(Ordering::Relaxed) + self.streams_counted.load(Ordering::Relaxed) > 0;
        ConnectionState {
            grown,
            let_in: self.let_in.load(Ordering::Relaxed),
            was_used: self.was_used.load(Ordering::Relaxed),
            signs_in: millis(now.saturating_duration_since(self.began)) < self.signs_in.load(Ordering::Relaxed),
            busy: self.is_busy(),
            age: now.saturating_duration_since(self.began),
            rests,
            held: self.share.held(),
            closing: self.closing.load(Ordering::Relaxed) != OPEN,
        }
    }

    /// Closes the connection, to make room or because its peer takes nothing that is sent.
    pub(crate) fn close(&self) {
        self.closing.store(CLOSE, Ordering::Release);
        self.wake_task();
    }

    /// Wakes the connection's task, which stays registered: a close may be cancelled, and decided again.
    fn wake_task(&self) {
        if let Some(task) = &*self.task.lock().unwrap_or_else(PoisonError::into_inner) {
            task.wake_by_ref();
        }
    }

    /// From now on a close wakes this task.
    fn register(&self, task: &Waker) {
        let mut registered = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !registered.as_ref().is_some_and(|known| known.will_wake(task)) {
            *registered = Some(task.clone());
        }
    }

    /// Whether a request is in flight, or the body of one that was answered is still being received.
    fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::SeqCst) > 0 || self.bodies.load(Ordering::SeqCst) > 0
    }

    /// Closes the connection to make room, unless a request has come on it: we may have been too slow to read it.
    pub(crate) fn close_unless_used(&self) {
        let _unless_closing_already =
            self.closing.compare_exchange(OPEN, CLOSE_UNLESS_USED, Ordering::AcqRel, Ordering::Relaxed);
        self.wake_task();
    }

    /// Closes the connection to make room, unless a request on it is admitted: the one in flight may not have been judged yet.
    pub(crate) fn close_unless_admitted(&self) {
        let _unless_closing_already =
            self.closing.compare_exchange(OPEN, CLOSE_UNLESS_ADMITTED, Ordering::AcqRel, Ordering::Relaxed);
        self.wake_task();
    }

    /// Cancels a close that was decided before a request on it was admitted.
    fn cancel_close(&self) {
        let closing = self.closing.load(Ordering::Relaxed);
        if matches!(closing, CLOSE_UNLESS_USED | CLOSE_UNLESS_ADMITTED) {
            let _unless_closing_anyway =
                self.closing.compare_exchange(closing, OPEN, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Whether part of a head was read on it.
    pub(crate) fn has_read_something(&self) -> bool {
        self.head_come.load(Ordering::Relaxed) > 0
    }

    /// Whether to close it now; one that came into use after all stays.
    fn closes_now(&self) -> bool {
        match self.closing.load(Ordering::Acquire) {
            OPEN => false,
            CLOSE_UNLESS_USED if self.is_busy() => {
                self.closing.compare_exchange(CLOSE_UNLESS_USED, OPEN, Ordering::AcqRel, Ordering::Relaxed).is_err()
            }
            _ => true,
        }
    }

    /// Ends when the connection is to be closed. For the connection's own task, before it speaks HTTP.
    pub(crate) fn close_requested(&self) -> impl Future<Output = ()> {
        std::future::poll_fn(|cx| {
            self.register(cx.waker());
            if self.closes_now() { Poll::Ready(()) } else { Poll::Pending }
        })
    }

    fn end(&self) {
        // Of two that end at once, here and in [`OpenBody`], at least one sees that both have.
        if self.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 {
            if self.head_counted.load(Ordering::Relaxed) > 0 {
                self.share.shrink(self.head_counted.swap(0, Ordering::Relaxed));
            }
            if self.streams_counted.load(Ordering::Relaxed) > 0 {
                self.share.shrink(self.streams_counted.swap(0, Ordering::Relaxed) * STREAM);
            }
            if self.bodies.load(Ordering::SeqCst) == 0 {
                self.becomes_idle();
            }
        }
    }

    fn becomes_idle(&self) {
        self.reads_head.store(false, Ordering::Relaxed);
        let deadline = millis(self.began.elapsed()).saturating_add(millis(self.timeouts.idle));
        self.deadline.store(deadline, Ordering::Relaxed);
    }

    /// Records that bytes were read, perhaps the first of a later request. HTTP/2 also has bytes without requests, which prove nothing.
    fn read_something(&self, bytes: usize) {
        if self.is_busy() {
            self.in_step.store(false, Ordering::Relaxed);
            return;
        }
        let come = self.head_come.load(Ordering::Relaxed).saturating_add(bytes);
        self.head_come.store(come, Ordering::Relaxed);
        if come > HEAD && !self.upgraded.load(Ordering::Relaxed) {
            self.count_head(come.min(self.head_most));
        }
        let idle = !self.reads_head.load(Ordering::Relaxed);
        if idle && !self.http2.load(Ordering::Relaxed) && !self.upgraded.load(Ordering::Relaxed) {
            self.reads_head.store(true, Ordering::Relaxed);
            // The whole head has nearly always come: this avoids reading the clock.
            self.deadline.store(SOON, Ordering::Relaxed);
        }
    }

    /// Whether it speaks HTTP/1.1, may have further requests, and every request on it was received whole and answered, and the response sent.
    pub(crate) fn is_at_rest(&self) -> bool {
        !self.is_busy()
            && !self.is_shut()
            && !self.reads_head.load(Ordering::Relaxed)
            && self.interim.is_between()
            && self.is_flushed.load(Ordering::Relaxed)
            && !self.http2.load(Ordering::Relaxed)
            && !self.upgraded.load(Ordering::Relaxed)
    }

    /// Whether it speaks HTTP/1.1 and its peer has not taken all of a response yet.
    fn is_being_read(&self) -> bool {
        !self.is_flushed.load(Ordering::Relaxed)
            && !self.http2.load(Ordering::Relaxed)
            && !self.upgraded.load(Ordering::Relaxed)
    }

    pub(crate) fn gives_buffers_back(&self) {
        if !self.is_bare.swap(true, Ordering::Relaxed) {
            self.pipe.close();
            self.share.shrink(BUFFERS);
        }
    }

    pub(crate) fn takes_buffers(&self) {
        if self.is_bare.swap(false, Ordering::Relaxed) {
            self.share.grow(BUFFERS);
        }
    }

    fn is_shut(&self) -> bool {
        self.is_shut.load(Ordering::Relaxed)
    }

    /// Whether its peer may still be sending a body on HTTP/1.1 that nobody receives.
    fn leaves_body(&self) -> bool {
        self.is_body_left.load(Ordering::Relaxed) && !self.upgraded.load(Ordering::Relaxed)
    }

    /// Whether the next bytes read are certainly the first of a request.
    fn begins_request(&self) -> bool {
        self.in_step.load(Ordering::Relaxed) && !self.is_busy()
    }

    /// Whether hyper's next message would answer no request that we were given: then it refuses a head.
    fn refuses_head(&self) -> bool {
        self.reads_head.load(Ordering::Relaxed)
            && !self.is_busy()
            && self.interim.is_between()
            && !self.http2.load(Ordering::Relaxed)
            && !self.upgraded.load(Ordering::Relaxed)
    }

    /// Starts the time limit for a head.
    pub(crate) fn expect_end(&self) {
        self.reads_head.store(true, Ordering::Relaxed);
        self.deadline
            .store(millis(self.began.elapsed()).saturating_add(millis(self.timeouts.header)), Ordering::Relaxed);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(SOON - 1)
}

/// A request in progress; the connection is not idle until this is dropped.
pub(crate) struct InFlight {
    watch: Arc<Watch>,
    let_in: AtomicBool,
    /// What its client may send unread, and how much of its response may be buffered, in bytes.
    upload: usize,
    answer: usize,
}

impl InFlight {
    /// The request becomes a tunnel. On HTTP/1 the whole connection does: from here on its bytes are not HTTP, and may pause. On HTTP/2 it
    /// is one stream of many, and in flight until the returned value is dropped.
    #[must_use]
    pub(crate) fn becomes_tunnel(&self) -> Option<Self> {
        if !self.is_http2() {
            self.watch.upgraded.store(true, Ordering::Relaxed);
            return None;
        }
        self.watch.in_flight.fetch_add(1, Ordering::Relaxed);
        let let_in = AtomicBool::new(self.was_let_in());
        let mut held = Self { watch: Arc::clone(&self.watch), let_in, upload: 0, answer: 0 };
        held.expects_upload(TUNNEL);
        held.gives_answer(None);
        Some(held)
    }

    /// The request's body is received from here on, also after the response: until then nothing else can come on the connection.
    pub(crate) fn receives_body(&self) -> OpenBody {
        self.watch.bodies.fetch_add(1, Ordering::SeqCst);
        OpenBody(Arc::clone(&self.watch))
    }

    /// Its sender was admitted.
    pub(crate) fn lets_in(&self) {
        self.let_in.store(true, Ordering::Relaxed);
        self.watch.let_in.store(true, Ordering::Relaxed);
        self.watch.cancel_close();
    }

    /// The request is a sign-in that comes back from the provider. Counts once on a connection, so that nobody keeps a place by it.
    pub(crate) fn signs_in(&self) {
        let until = millis(self.watch.began.elapsed()).saturating_add(millis(SIGN_IN));
        let _only_the_first = self.watch.signs_in.compare_exchange(0, until, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(crate) fn was_let_in(&self) -> bool {
        self.let_in.load(Ordering::Relaxed)
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.watch.http2.load(Ordering::Relaxed)
    }

    /// Its client may send this many bytes unread; on HTTP/2 all streams together at most the connection's window.
    pub(crate) fn expects_upload(&mut self, bytes: usize) {
        // The first buffers hold this much anyway.
        if bytes <= HEAD {
            return;
        }
        self.watch.count_upload(bytes, UPLOADS_MOST);
        self.upload += bytes;
    }

    /// Its response is streamed, with this length; `None`: unknown.
    pub(crate) fn gives_answer(&mut self, length: Option<u64>) {
        if self.answer == 0 && length.is_none_or(|length| length > SMALL_ANSWER) {
            self.watch.share.grow(ANSWER);
            self.answer = ANSWER;
        }
    }

    /// What its response may pass through to the client without being copied; on HTTP/2 nothing.
    pub(crate) fn splice(&self) -> Option<Arc<Splice>> {
        if self.is_http2() { None } else { self.watch.pipe.splice() }
    }

    /// Closes the whole connection.
    pub(crate) fn cuts_connection(&self) {
        self.watch.close();
    }

    /// Interim responses to the request, if its connection speaks HTTP/1.1.
    pub(crate) fn interim(&self) -> &Interim {
        &self.watch.interim
    }
}

/// A request's body that is being received; the connection is not idle until this is dropped.
pub(crate) struct OpenBody(Arc<Watch>);

impl OpenBody {
    /// It has come to its end.
    pub(crate) fn has_ended(&self) {
        self.0.is_body_left.store(false, Ordering::Relaxed);
    }
}

impl Drop for OpenBody {
    fn drop(&mut self) {
        if self.0.bodies.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.in_flight.load(Ordering::SeqCst) == 0 {
            // The connection's own task sees that it is idle: a request that begins meanwhile begins there.
            self.0.wake_task();
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.upload > 0 {
            self.watch.discount_upload(self.upload, UPLOADS_MOST);
        }
        self.watch.share.shrink(self.answer);
        self.watch.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn watch() -> Arc<Watch> {
        let limit = Duration::from_secs(10);
        let timeouts = Timeouts { header: limit, idle: limit, body: limit, first_byte: limit };
        Arc::new(Watch::new(Instant::now(), timeouts, 65536, Arc::new(Memory::new(None))))
    }

    #[test]
    fn an_admitted_connection_stays_open_unless_it_is_closed_in_any_case() {
        for (close, stays) in [
            (Watch::close_unless_used as fn(&Watch), true),
            (Watch::close_unless_admitted, true),
            (Watch::close, false),
        ] {
            let watch = watch();
            let in_flight = Watch::begin(&watch, false, false);
            close(&watch);
            in_flight.lets_in();
            assert_eq!(!watch.closes_now(), stays);
        }
    }

    #[tokio::test]
    async fn a_close_that_was_cancelled_keeps_no_later_one_from_the_connection() {
        let watch = watch();
        let connection = Arc::clone(&watch);
        let connection = tokio::spawn(async move { Expiry::of(&connection).await });
        tokio::task::yield_now().await;
        let in_flight = Watch::begin(&watch, false, false);
        watch.close_unless_used();
        tokio::task::yield_now().await;
        in_flight.lets_in();
        drop(in_flight);
        watch.close();
        let ended = tokio::time::timeout(Duration::from_millis(500), connection).await;
        assert!(matches!(ended, Ok(Ok(Overdue::Closed))), "nobody has woken it");
    }

    #[test]
    fn a_connection_is_busy_until_the_body_has_come_that_outlives_its_response() {
        let watch = watch();
        let in_flight = Watch::begin(&watch, false, true);
        let body = in_flight.receives_body();
        drop(in_flight);
        watch.read_something(100);
        assert!(!watch.is_at_rest() && watch.state(Instant::now()).busy && !watch.has_read_something());
        body.has_ended();
        drop(body);
        assert!(watch.is_at_rest() && !watch.state(Instant::now()).busy && !watch.leaves_body());
        // A body that is never received is read and dropped.
        drop(Watch::begin(&watch, false, true).receives_body());
        assert!(watch.leaves_body());
        watch.is_shut.store(true, Ordering::Relaxed);
        assert!(!watch.is_at_rest(), "what still comes is no request");
    }

    #[test]
    fn a_connection_that_is_never_admitted_is_closed() {
        let watch = watch();
        let in_flight = Watch::begin(&watch, false, false);
        watch.close_unless_admitted();
        assert!(watch.closes_now() && !in_flight.was_let_in());
    }
}
