//! Warm connections, last in first out, in one list for each worker thread to avoid lock contention.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;

/// How long a connection may be idle. Less than the 5 s after which common servers (Node, uvicorn) close theirs, so that we rarely send a
/// request on a connection that is being closed.
const IDLE_LIMIT: Duration = Duration::from_secs(4);

/// The most idle connections for each worker thread.
const IDLE_MOST: usize = 512;

/// Holds connections between requests, in one list for each worker to avoid lock contention. A connection taken from another worker's list
/// moves to the taking worker: otherwise each byte on it would wake the other one.
pub(super) struct Shelf(Box<[Mutex<VecDeque<Idle>>]>);

struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

impl Shelf {
    pub(super) fn new() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self((0..workers).map(|_| Mutex::default()).collect())
    }

    pub(super) fn take(&self, now: Instant) -> Option<Box<Connection>> {
        self.take_own(now).or_else(|| self.take_others(now))
    }

    /// Takes the one used last: rarely needed ones stay idle, and are closed.
    fn take_own(&self, now: Instant) -> Option<Box<Connection>> {
        let mut idle = self.list(worker())?.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(mut last) = idle.pop_back() {
            if last.is_warm(now) && last.connection.is_quiet() {
                return Some(last.connection);
            }
        }
        None
    }

    /// Takes one that the other worker is least likely to need.
    fn take_others(&self, now: Instant) -> Option<Box<Connection>> {
        for step in 1..self.0.len() {
            let mut idle = self.list(worker() + step)?.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some(mut first) = idle.pop_front() {
                if first.is_warm(now) && first.connection.is_quiet() {
                    drop(idle);
                    return first.connection.move_here().ok().map(Box::new);
                }
            }
        }
        None
    }

    /// Keeps a connection for the next request. Call it only after the response and the request have ended.
    pub(super) fn keep(&self, connection: Box<Connection>, now: Instant) {
        let Some(own) = self.list(worker()) else { return };
        let mut idle = own.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MOST {
            idle.push_back(Idle { connection, since: now });
        }
    }

    pub(super) fn sweep(&self) {
        let now = Instant::now();
        for list in &self.0 {
            let mut idle = list.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|idle| idle.is_warm(now));
        }
    }

    fn list(&self, number: usize) -> Option<&Mutex<VecDeque<Idle>>> {
        self.0.get(number % self.0.len().max(1))
    }
}

impl Idle {
    fn is_warm(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < IDLE_LIMIT
    }
}

/// A number for this thread, so that a worker finds the connections that it used last.
fn worker() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static WORKER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    WORKER.with(|number| *number)
}
