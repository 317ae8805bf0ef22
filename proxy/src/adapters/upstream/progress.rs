//! How far a request on an HTTP/2 stream is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::seat::Seat;

/// The progress of a request's body; read by the task that waits for the response. The bodies of the request and of the response hold it:
/// until both are gone, the stream counts as under way.
pub(super) struct Progress {
    pub(super) seat: Seat,
    began: Instant,
    last_moved: AtomicU64,
    waits_for_client: AtomicBool,
    done: AtomicBool,
    gone: AtomicBool,
}

impl Progress {
    pub(super) fn begin(done: bool, seat: Seat) -> Self {
        Self {
            seat,
            began: Instant::now(),
            last_moved: AtomicU64::new(0),
            waits_for_client: AtomicBool::new(false),
            done: AtomicBool::new(done),
            gone: AtomicBool::new(false),
        }
    }

    pub(super) fn moved(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_moved.store(millis, Ordering::Relaxed);
        // Who sees this also sees the time.
        self.waits_for_client.store(false, Ordering::Release);
    }

    /// Whether the library has taken all of the body, or given it up. It may still wait to send the last piece.
    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    pub(super) fn last_moved(&self) -> Instant {
        self.began + Duration::from_millis(self.last_moved.load(Ordering::Relaxed))
    }

    pub(super) fn waits_for_client(&self) -> bool {
        self.waits_for_client.load(Ordering::Acquire)
    }

    pub(super) fn set_waits_for_client(&self) {
        self.waits_for_client.store(true, Ordering::Relaxed);
    }

    pub(super) fn set_done(&self) {
        self.done.store(true, Ordering::Release);
    }

    /// Whether the library has let go of the body.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(super) fn set_gone(&self) {
        self.set_done();
        self.gone.store(true, Ordering::Release);
    }
}
