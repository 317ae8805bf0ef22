//! The pipe through which the large responses of one connection pass to its client.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use crate::adapters::net::{Plain, Splice};

/// One for all responses of a connection: of two that follow one another, the later may begin before the earlier has been written.
pub(crate) struct Pipe {
    /// Whether the client's socket takes bytes as they are.
    is_possible: AtomicBool,
    splice: Mutex<Option<Arc<Splice>>>,
}

impl Pipe {
    pub(super) const fn new() -> Self {
        Self { is_possible: AtomicBool::new(false), splice: Mutex::new(None) }
    }

    /// The client's socket takes bytes as they are.
    pub(crate) fn allow(&self) {
        self.is_possible.store(true, Ordering::Relaxed);
    }

    /// What a response may pass through; made when it is first asked for. `None`: it is to be written as any other.
    pub(super) fn splice(&self) -> Option<Arc<Splice>> {
        if !self.is_possible.load(Ordering::Relaxed) {
            return None;
        }
        let mut known = self.known();
        if known.is_none() {
            *known = Splice::new().map(Arc::new);
        }
        known.clone()
    }

    /// Writes at most `most` of the bytes in it, for which a piece of a body stands. Once it is empty, the body is polled again.
    pub(super) fn poll_drain(
        &self,
        cx: &mut Context<'_>,
        socket: Option<&Plain<'_>>,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        let mut known = self.known();
        let (Some(splice), Some(socket)) = (&*known, socket) else {
            return Poll::Ready(Err(io::Error::other("there is no pipe for what is to be written")));
        };
        let gone = ready!(splice.poll_drain(cx, socket, most))?;
        if splice.held() == 0 {
            if Arc::strong_count(splice) == 1 {
                // The body has ended.
                *known = None;
            } else {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Ready(Ok(gone))
    }

    /// Closes it, until it is asked for again.
    pub(super) fn close(&self) {
        *self.known() = None;
    }

    fn known(&self) -> MutexGuard<'_, Option<Arc<Splice>>> {
        self.splice.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
