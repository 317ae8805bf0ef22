//! The open client connections, and which of them are closed when there are too many.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use crate::serve::watch::memory::Memory;
use crate::serve::watch::{ConnectionState, Watch};

/// How long a connection must be silent before it may be closed to make room, while all places are taken.
const SILENT: Duration = Duration::from_millis(500);
/// The same for an idle connection that has carried a request.
const RESTED: Duration = Duration::from_secs(5);
/// How old a connection that was never admitted may become while all places are taken, whatever it carries.
const NEVER_ADMITTED: Duration = Duration::from_secs(10);
/// A silent connection this young that holds only its first buffers is spared: its client may be about to sign in.
const YOUNG: Duration = Duration::from_secs(1);
/// By then a first request has been judged: the store is asked for at most a quarter of a second.
const JUDGED: Duration = Duration::from_millis(300);
/// An admitted client that holds more than this, in bytes, is closed before others have to wait.
const LARGE: usize = 1024 * 1024;
/// While all places are taken, one in this many connections is closed at a time.
const PART: usize = 16;
/// How often the log says that connections are closed to make room.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// The pause between checks of memory while room is being made.
const PAUSE: Duration = Duration::from_millis(5);

/// The open connections.
pub(crate) struct Crowd {
    memory: Arc<Memory>,
    members: Mutex<HashMap<u64, Arc<Watch>>>,
    next: AtomicU64,
    shed: Counter,
    warned: Mutex<Option<Instant>>,
    warned_of_waiting: Mutex<Option<Instant>>,
    warned_of_proxy_protocol: Mutex<Option<Instant>>,
}

/// The order in which connections are closed: those of admitted clients last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Not admitted, nothing in flight: silent, or with part of a head.
    Silent,
    /// Not admitted, with requests in flight.
    Strangers,
    /// Admitted, nothing in flight.
    Resting,
    /// Admitted, with requests in flight.
    Busy,
}

impl Rank {
    const fn of(state: &ConnectionState) -> Self {
        match (state.let_in, state.busy) {
            (false, false) => Self::Silent,
            (false, true) => Self::Strangers,
            (true, false) => Self::Resting,
            (true, true) => Self::Busy,
        }
    }
}

fn is_due(warned: &Mutex<Option<Instant>>) -> bool {
    let now = Instant::now();
    let mut warned = warned.lock().unwrap_or_else(PoisonError::into_inner);
    let due = warned.is_none_or(|last| now.duration_since(last) >= WARN_EVERY);
    if due {
        *warned = Some(now);
    }
    due
}

/// A connection's membership, until dropped.
pub(crate) struct Membership {
    crowd: Arc<Crowd>,
    number: u64,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.crowd.members().remove(&self.number);
    }
}

impl Crowd {
    /// `shed` counts connections closed to make room.
    pub(crate) fn new(memory: Arc<Memory>, shed: Counter) -> Self {
        Self {
            memory,
            members: Mutex::default(),
            next: AtomicU64::new(0),
            shed,
            warned: Mutex::new(None),
            warned_of_waiting: Mutex::new(None),
            warned_of_proxy_protocol: Mutex::new(None),
        }
    }

    pub(crate) const fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    pub(crate) fn join(crowd: &Arc<Self>, watch: Arc<Watch>) -> Membership {
        let number = crowd.next.fetch_add(1, Ordering::Relaxed);
        crowd.members().insert(number, watch);
        Membership { crowd: Arc::clone(crowd), number }
    }

    fn members(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Watch>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections up to a rank, in the order in which they are closed; and how many bytes those hold that are being closed already.
    fn queue(&self, last: Rank) -> (Vec<(Rank, ConnectionState, Arc<Watch>)>, usize) {
        let now = Instant::now();
        let members = self.members();
        let states = members.values().map(|watch| {
            let state = watch.state(now);
            (Rank::of(&state), state, Arc::clone(watch))
        });
        let (leaving, mut queue): (Vec<_>, Vec<_>) = states.partition(|(_, state, _)| state.closing);
        drop(members);
        let leaving = leaving.iter().map(|(_, state, _)| state.held).sum();
        queue.retain(|(rank, ..)| *rank <= last);
        // First those that sent much; then the longest idle; of those with requests in flight, the one that holds most.
        queue.sort_by_key(|(rank, state, _)| {
            (*rank, std::cmp::Reverse((state.grown && !state.busy, state.rests, state.held)))
        });
        (queue, leaving)
    }

    /// All places are taken: closes connections that were silent for long.
    /// Whether any was.
    pub(crate) fn make_places(&self) -> bool {
        let most = self.members().len() / PART + 1;
        let is_idle = |(rank, state, _): &(Rank, ConnectionState, Arc<Watch>)| match rank {
            Rank::Silent if !state.was_used => state.rests >= SILENT,
            Rank::Silent => state.rests >= RESTED || (state.age >= NEVER_ADMITTED && !state.signs_in),
            Rank::Strangers => state.age >= NEVER_ADMITTED && !state.signs_in,
            Rank::Resting => state.rests >= RESTED,
            Rank::Busy => false,
        };
        let (queue, _) = self.queue(Rank::Resting);
        let gone: Vec<_> = queue.into_iter().filter(is_idle).take(most).collect();
        for (rank, _, watch) in &gone {
            self.close(*rank, watch);
        }
        if !gone.is_empty() {
            self.warn("all places are taken (LIMIT_CONNECTIONS, fitted to open files and LIMIT_MEMORY)");
        }
        !gone.is_empty()
    }

    /// Warns that new connections wait because none may be closed, at most once in [`WARN_EVERY`].
    pub(crate) fn warn_of_waiting(&self) {
        if is_due(&self.warned_of_waiting) {
            tracing::warn!(
                "all places are taken (LIMIT_CONNECTIONS, fitted to open files and LIMIT_MEMORY), and none can be freed: WebSockets \
                 and admitted clients stay; new connections wait until one ends: raise the limit, or run more replicas"
            );
        }
    }

    /// Makes room in memory: closes first the longest idle connections not admitted; last, if no others are left, admitted ones with
    /// requests in flight, those that hold most first.
    pub(crate) fn make_room(&self) {
        if self.memory.excess() + self.memory.wanted() == 0 {
            return;
        }
        let (queue, mut freed) = self.queue(Rank::Busy);
        // Read after the queue: what a connection frees in between must not be freed again by others.
        let (excess, wanted, overdraft) = (self.memory.excess(), self.memory.wanted(), self.memory.overdraft());
        let mut gone = 0_usize;
        for (rank, state, watch) in queue {
            let enough = match rank {
                // An incomplete head makes room for waiting ones.
                Rank::Silent => excess + wanted,
                Rank::Busy if state.held < LARGE => overdraft,
                Rank::Strangers | Rank::Resting | Rank::Busy => excess,
            };
            if freed >= enough {
                if rank == Rank::Silent {
                    continue;
                }
                break;
            }
            let is_young = match rank {
                Rank::Silent => state.rests < YOUNG,
                // Its first request may belong to a session, and may not be judged yet.
                Rank::Strangers => state.age < JUDGED,
                Rank::Resting | Rank::Busy => false,
            };
            if is_young && !state.grown {
                continue;
            }
            freed = freed.saturating_add(state.held);
            gone += 1;
            self.close(rank, &watch);
        }
        if gone > 0 {
            self.warn("the memory for connections is used up (LIMIT_MEMORY)");
        }
    }

    fn close(&self, rank: Rank, watch: &Watch) {
        match rank {
            Rank::Silent | Rank::Resting => watch.close_unless_used(),
            Rank::Strangers => watch.close_unless_admitted(),
            Rank::Busy => watch.close(),
        }
        self.shed.inc();
    }

    /// At most once in [`WARN_EVERY`].
    fn warn(&self, why: &str) {
        if is_due(&self.warned) {
            tracing::warn!("{why}: the slowest connections are closed; sidegate_connections_shed_total counts them");
        }
    }

    /// Warns that a connection from one of `PROXY_PROTOCOL_FROM` does not begin with it, at most once in [`WARN_EVERY`]. A load balancer's
    /// check whether the port is open closes the connection at once, which is no error.
    pub(crate) fn warn_of_proxy_protocol(&self, peer: IpAddr, error: &io::Error) {
        if error.kind() == io::ErrorKind::InvalidData && is_due(&self.warned_of_proxy_protocol) {
            tracing::warn!(
                %peer,
                "a connection was closed: {peer} is one of PROXY_PROTOCOL_FROM, but {error}; turn the PROXY protocol on there, or take \
                 it out of PROXY_PROTOCOL_FROM"
            );
        }
    }

    /// Makes room whenever there is too little; never ends.
    pub(crate) async fn keep_room(&self) {
        loop {
            self.memory.pressed().await;
            self.make_room();
            // A closed connection frees its memory a moment later.
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::settings::Timeouts;

    #[test]
    fn who_is_never_let_in_gives_up_a_place_whatever_keeps_it_busy() {
        let memory = Arc::new(Memory::new(None));
        let crowd = Arc::new(Crowd::new(Arc::clone(&memory), Counter::default()));
        let limit = Duration::from_secs(60);
        let timeouts = Timeouts { header: limit, idle: limit, body: limit, first_byte: limit };
        let now = Instant::now();
        let joins = |age| {
            let watch = Arc::new(Watch::new(now - Duration::from_secs(age), timeouts, 65536, Arc::clone(&memory)));
            (Crowd::join(&crowd, Arc::clone(&watch)), Watch::begin(&watch, true, true), watch)
        };
        let (old, new, admitted, signs_in) = (joins(11), joins(9), joins(11), joins(60));
        admitted.1.lets_in();
        signs_in.1.signs_in();
        assert!(crowd.make_places());
        for _ in 0..4 {
            crowd.make_places();
        }
        let closing = [&old, &new, &admitted, &signs_in].map(|(_, _, watch)| watch.state(Instant::now()).closing);
        assert_eq!(closing, [true, false, false, false]);
        drop(old);
        assert!(!crowd.make_places(), "all that are left stay");
        // Between two requests it is no better.
        let (_member, request, watch) = joins(11);
        drop(request);
        crowd.make_places();
        assert!(watch.state(Instant::now()).closing);
    }

    #[test]
    fn whose_first_request_is_being_judged_does_not_make_room_for_large_answers() {
        let memory = Arc::new(Memory::new(Some(200_000)));
        let crowd = Arc::new(Crowd::new(Arc::clone(&memory), Counter::default()));
        let limit = Duration::from_secs(10);
        let timeouts = Timeouts { header: limit, idle: limit, body: limit, first_byte: limit };
        let joins = |accepted| {
            let watch = Arc::new(Watch::new(accepted, timeouts, 65536, Arc::clone(&memory)));
            (Crowd::join(&crowd, Arc::clone(&watch)), watch)
        };
        let now = Instant::now();
        let [(_member, large), (_member2, new)] = [joins(now), joins(now)];
        let answers = [(); 2].map(|()| {
            let mut answer = Watch::begin(&large, true, false);
            answer.lets_in();
            answer.gives_answer(None);
            answer
        });
        let judged = Watch::begin(&new, false, false);
        assert!(memory.excess() > 0);
        crowd.make_room();
        let is_closing = |watch: &Watch| watch.state(Instant::now()).closing;
        assert!(is_closing(&large) && !is_closing(&new));
        drop((answers, judged));
    }
}
