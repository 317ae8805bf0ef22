//! Warm connections, last in first out, in one list for each worker thread to avoid lock contention.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;
use crate::adapters::net::turn;

/// How long a connection may be idle. Less than the 5 s after which common servers (Node, uvicorn) close theirs, so that we rarely send a
/// request on a connection that is being closed.
pub(super) const IDLE_LIMIT: Duration = Duration::from_secs(4);

/// The most idle connections for each worker thread.
const IDLE_MOST: usize = 512;

/// Holds connections between requests, in one list for each worker to avoid lock contention. A connection taken from another worker's list
/// moves to the taking worker: otherwise each byte on it would wake the other one.
pub(super) struct Shelf(Box<[Mutex<VecDeque<Idle>>]>);

struct Idle {
    connection: Box<Connection>,
    since: Instant,
    /// The runtime's last poll before it became idle.
    turn: u64,
}

impl Shelf {
    pub(super) fn new() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self((0..workers).map(|_| Mutex::default()).collect())
    }

    /// Takes a connection that is open, as far as can be known; a request that is not `repeatable` would be lost on one that has just closed.
    pub(super) fn take(&self, now: Instant, repeatable: bool) -> Option<Box<Connection>> {
        self.take_own(now, repeatable).or_else(|| self.take_others(now))
    }

    /// Takes the one used last: rarely needed ones stay idle, and are closed. Those idle since before the runtime's last
    /// poll come first: for a `repeatable` request the kernel need not be asked about them.
    fn take_own(&self, now: Instant, repeatable: bool) -> Option<Box<Connection>> {
        let turn = turn();
        let mut idle = self.list(worker())?.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let polled_since = idle.iter().rposition(|idle| idle.turn != turn);
            let mut taken = match polled_since {
                Some(position) => idle.remove(position),
                None => idle.pop_back(),
            }?;
            if taken.is_warm(now) && taken.connection.is_quiet(polled_since.is_some() && repeatable) {
                return Some(taken.connection);
            }
        }
    }

    /// Takes one that the other worker is least likely to need.
    fn take_others(&self, now: Instant) -> Option<Box<Connection>> {
        for step in 1..self.0.len() {
            let mut idle = self.list(worker() + step)?.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some(mut first) = idle.pop_front() {
                if first.is_warm(now) && first.connection.is_quiet(false) {
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
            idle.push_back(Idle { connection, since: now, turn: turn() });
        }
    }

    pub(super) fn sweep(&self) {
        let now = Instant::now();
        for list in &self.0 {
            let mut idle = list.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|idle| idle.is_warm(now));
        }
    }

    /// Whether it holds a connection that has carried an answer since that time.
    pub(super) fn has_used_since(&self, time: Instant) -> bool {
        self.0.iter().any(|list| {
            let idle = list.lock().unwrap_or_else(PoisonError::into_inner);
            idle.iter().any(|idle| idle.since > time)
        })
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use prometheus_client::metrics::gauge::Gauge;
    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::adapters::net::next_turn;
    use crate::adapters::telemetry::Held;
    use crate::adapters::upstream::connect::Forgiving;

    fn worker() -> Runtime {
        Builder::new_current_thread().enable_all().on_thread_unpark(next_turn).build().unwrap()
    }

    /// A connection and its other side.
    fn pair() -> (Box<Connection>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        ours.set_nonblocking(true).unwrap();
        let stream = Forgiving::over(tokio::net::TcpStream::from_std(ours).unwrap());
        (Connection::new(stream, Held::by(&Gauge::default())), listener.accept().unwrap().0)
    }

    async fn a_turn() {
        let before = turn();
        while turn() == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[test]
    fn whatever_came_since_its_last_use_makes_a_connection_useless() {
        for (waits, ends) in [(false, false), (false, true), (true, false), (true, true)] {
            worker().block_on(async {
                let (shelf, now) = (Shelf::new(), Instant::now());
                let (connection, mut other) = pair();
                a_turn().await;
                shelf.keep(connection, now);
                if ends {
                    drop(other);
                } else {
                    other.write_all(b"!").unwrap();
                }
                if waits {
                    a_turn().await;
                }
                assert!(shelf.take(now, true).is_none(), "waits: {waits}, ends: {ends}");
            });
        }
    }

    #[test]
    fn for_a_request_that_cannot_be_repeated_the_kernel_is_always_asked() {
        worker().block_on(async {
            let (shelf, now) = (Shelf::new(), Instant::now());
            let (connection, other) = pair();
            shelf.keep(connection, now);
            a_turn().await;
            drop(other);
            assert!(shelf.take(now, false).is_none());
        });
    }

    #[test]
    fn it_is_known_whether_one_was_used_since() {
        worker().block_on(async {
            let (shelf, now) = (Shelf::new(), Instant::now());
            assert!(!shelf.has_used_since(now));
            let (connection, _other) = pair();
            shelf.keep(connection, now + Duration::from_millis(1));
            assert!(shelf.has_used_since(now) && !shelf.has_used_since(now + Duration::from_millis(1)));
        });
    }

    #[test]
    fn a_silent_one_is_taken_again_and_again() {
        worker().block_on(async {
            let (shelf, now) = (Shelf::new(), Instant::now());
            let (mut connection, _other) = pair();
            for number in 0..6 {
                shelf.keep(connection, now);
                if number % 2 == 0 {
                    a_turn().await;
                }
                connection = shelf.take(now, true).unwrap();
            }
        });
    }

    #[test]
    fn those_idle_since_before_the_last_poll_come_first_and_the_last_of_them() {
        worker().block_on(async {
            let (shelf, now) = (Shelf::new(), Instant::now());
            let (pairs, mut others) = (0..4).map(|_| pair()).unzip::<_, _, Vec<_>, Vec<_>>();
            let mut places = Vec::new();
            for (number, connection) in pairs.into_iter().enumerate() {
                if number == 2 {
                    a_turn().await;
                }
                places.push(std::ptr::from_ref(&*connection));
                shelf.keep(connection, now);
            }
            let taken: Vec<_> = std::iter::from_fn(|| shelf.take(now, true)).collect();
            let order =
                taken.iter().map(|taken| places.iter().position(|place| *place == std::ptr::from_ref(&**taken)));
            assert_eq!(order.map(Option::unwrap).collect::<Vec<_>>(), [1, 0, 3, 2]);
            others.clear();
        });
    }
}
