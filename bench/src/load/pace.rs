//! A steady pace: a fixed number of requests a second; any free connection sends the next one.

use std::cell::Cell;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// A separate thread keeps the time, since the runtime's timers have a resolution of a millisecond; it ends with the pace.
pub(super) struct Pace {
    due: Arc<Semaphore>,
    began: Instant,
    each: Duration,
    taken: Cell<u32>,
}

impl Pace {
    pub(super) fn start(rate: u32) -> Self {
        let (due, began, each) = (Arc::new(Semaphore::new(0)), Instant::now(), Duration::from_secs(1) / rate);
        let clock = Arc::downgrade(&due);
        thread::spawn(move || keep(&clock, began, each));
        Self { due, began, each, taken: Cell::new(0) }
    }

    /// Waits until the next request is due, and returns its due time: latency is measured from there, so that it includes waiting for
    /// a free connection. `None`: the pace was stopped.
    pub(super) async fn next(&self) -> Option<Instant> {
        self.due.acquire().await.ok()?.forget();
        let number = self.taken.replace(self.taken.get() + 1);
        Some(self.began + self.each * number)
    }

    pub(super) fn stop(&self) {
        self.due.close();
    }
}

fn keep(due: &Weak<Semaphore>, began: Instant, each: Duration) {
    let mut given = 0;
    while let Some(due) = due.upgrade().filter(|due| !due.is_closed()) {
        while began.elapsed() >= each * given {
            due.add_permits(1);
            given += 1;
        }
        drop(due);
        thread::sleep((each * given).saturating_sub(began.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_are_due_one_after_the_other() {
        let pace = Pace::start(1000);
        let first = pace.next().await.unwrap();
        for number in 1..=20 {
            assert_eq!(pace.next().await.unwrap() - first, Duration::from_millis(number));
        }
        assert!(first.elapsed() >= Duration::from_millis(20));
        pace.stop();
        assert!(pace.next().await.is_none());
    }
}
