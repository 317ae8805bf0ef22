//! Requests on an HTTP/2 connection whose bodies go on after their answers. Where the upstream accepts nothing of one any more, the connection
//! is given up: the library cannot reset the stream of a request that was answered.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::progress::Progress;
use super::seat::Streams;

/// How often the bodies are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The requests of one connection that were answered before all of their bodies was sent.
pub(super) struct Unread {
    bodies: Mutex<Vec<Remainder>>,
    streams: Arc<Streams>,
    /// The task that reads and writes: the connection ends with it.
    driver: Option<AbortHandle>,
}

/// What is left of a body.
struct Remainder {
    progress: Weak<Progress>,
    /// `TIMEOUT_BODY`.
    limit: Duration,
}

impl Unread {
    pub(super) const fn new(streams: Arc<Streams>, driver: Option<AbortHandle>) -> Self {
        Self { bodies: Mutex::new(Vec::new()), streams, driver }
    }

    /// Watches the rest of a body, of which the upstream must accept something every `limit`.
    pub(super) fn watch(self: &Arc<Self>, progress: &Arc<Progress>, limit: Duration) {
        let mut bodies = self.bodies();
        bodies.push(Remainder { progress: Arc::downgrade(progress), limit });
        if bodies.len() == 1 {
            tokio::spawn(Arc::clone(self).run());
        }
    }

    /// Looks at the bodies until they have ended. If one is stuck, the connection takes no further requests, and ends once nothing else is under
    /// way on it.
    async fn run(self: Arc<Self>) {
        let mut is_given_up = false;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let Some(stuck) = self.stuck(Instant::now()) else { return };
            // Not at the first look: a request may just be taking a stream.
            if is_given_up && stuck > 0 && self.streams.under_way() <= stuck {
                break;
            }
            if stuck > 0 {
                is_given_up = true;
                self.streams.mark_dying();
            }
        }
        tracing::debug!("the upstream took nothing of the rest of a request (TIMEOUT_BODY): its connection is closed");
        if let Some(driver) = &self.driver {
            driver.abort();
        }
    }

    /// How many bodies are stuck; `None`: all have ended.
    fn stuck(&self, now: Instant) -> Option<usize> {
        let mut bodies = self.bodies();
        bodies.retain(|body| !body.has_ended());
        (!bodies.is_empty()).then(|| bodies.iter().filter(|body| body.is_stuck(now)).count())
    }

    fn bodies(&self) -> MutexGuard<'_, Vec<Remainder>> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remainder {
    fn has_ended(&self) -> bool {
        self.progress.upgrade().is_none_or(|progress| progress.is_gone())
    }

    /// Whether the upstream has accepted nothing for too long. While the response is still being read, the stream is in use.
    fn is_stuck(&self, now: Instant) -> bool {
        let Some(progress) = self.progress.upgrade() else { return false };
        // This handle, and that of the request's body.
        let is_read = Arc::strong_count(&progress) > 2;
        !is_read && !progress.is_gone() && !progress.waits_for_client() && progress.last_moved() + self.limit <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::upstream::seat::Seat;

    #[test]
    fn a_body_is_stuck_if_it_waits_for_nobody_but_the_upstream_for_too_long() {
        let streams = Arc::new(Streams::new(2, &Arc::default()));
        let unread = Unread::new(Arc::clone(&streams), None);
        let body = Arc::new(Progress::begin(false, Seat::of(&streams).unwrap()));
        let limit = Duration::from_secs(1);
        unread.bodies().push(Remainder { progress: Arc::downgrade(&body), limit });
        let (now, later) = (Instant::now(), Instant::now() + 2 * limit);
        assert_eq!((unread.stuck(now), unread.stuck(later)), (Some(0), Some(1)));
        let response = Arc::clone(&body);
        assert_eq!(unread.stuck(later), Some(0), "its response is still being read");
        drop(response);
        body.set_waits_for_client();
        assert_eq!(unread.stuck(later), Some(0), "the client sends nothing");
        body.moved();
        assert_eq!(unread.stuck(later), Some(1));
        drop(body);
        assert_eq!((unread.stuck(later), streams.under_way()), (None, 0), "it keeps no stream");
    }
}
