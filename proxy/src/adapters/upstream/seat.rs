//! The streams of an HTTP/2 connection: how many are under way, and how many the server allows at once.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The limit until the server's settings have arrived. A number that servers rarely choose: with one that does, each new connection waits
/// a second for them, and the limit is read more often.
pub(super) const UNSEEN: usize = 99;

/// How often the limit is read where it is far away, in polls of the connection: a server may lower it.
const READ_EVERY: u32 = 16;

/// The streams of one connection.
pub(super) struct Streams {
    under_way: AtomicUsize,
    /// How many the server allows at once, when last read.
    limit: AtomicUsize,
    /// Whether a request has found the connection closing or closed, which its own task may not have noticed yet.
    is_dying: AtomicBool,
    /// Since when there has been none, as far as sweeps have seen.
    idle_since: Mutex<Option<Instant>>,
    began: Instant,
    /// When the last answer came, in milliseconds since then.
    answered: AtomicU64,
    /// Wakes a request that waits for a stream of any connection to this upstream.
    freed: Arc<Notify>,
}

impl Streams {
    pub(super) fn new(limit: usize, freed: &Arc<Notify>) -> Self {
        Self {
            under_way: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit.max(1)),
            is_dying: AtomicBool::new(false),
            idle_since: Mutex::new(None),
            began: Instant::now(),
            answered: AtomicU64::new(0),
            freed: Arc::clone(freed),
        }
    }

    /// How many streams are under way.
    pub(super) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Takes the connection out of use for further requests.
    pub(super) fn mark_dying(&self) {
        self.is_dying.store(true, Ordering::Release);
    }

    /// Whether an answer has come since that time; one of the same millisecond does not count.
    pub(super) fn has_answered_since(&self, time: Instant) -> bool {
        self.began + Duration::from_millis(self.answered.load(Ordering::Relaxed)) > time
    }

    pub(super) fn is_dying(&self) -> bool {
        self.is_dying.load(Ordering::Acquire)
    }

    /// Whether the limit is to be read at this poll of the connection: reading it takes the library's lock.
    pub(super) fn wants_limit(&self, polls: u32) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        limit == UNSEEN || self.under_way.load(Ordering::Relaxed) >= limit / 2 || polls.is_multiple_of(READ_EVERY)
    }

    /// Notes the limit. It counts as 1 at least: with 0 no request would be sent that could find out that it has been raised.
    pub(super) fn set_limit(&self, limit: usize) {
        let limit = limit.max(1);
        if self.limit.swap(limit, Ordering::Relaxed) < limit {
            self.freed.notify_one();
        }
    }

    /// Tells a waiting request that the connection has ended.
    pub(super) fn end(&self) {
        self.freed.notify_one();
    }

    /// Whether sweeps have seen no stream for this long.
    pub(super) fn are_idle_for(&self, limit: Duration, now: Instant) -> bool {
        let mut since = self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        if self.under_way.load(Ordering::Relaxed) > 0 {
            *since = None;
            return false;
        }
        now.saturating_duration_since(*since.get_or_insert(now)) >= limit
    }
}

/// The place of one stream; it counts until this is dropped.
pub(super) struct Seat(Arc<Streams>);

impl Seat {
    /// Takes a place, if the server allows one more stream.
    pub(super) fn of(streams: &Arc<Streams>) -> Option<Self> {
        let limit = streams.limit.load(Ordering::Relaxed);
        let mut taken = streams.under_way.load(Ordering::Relaxed);
        while taken < limit {
            match streams.under_way.compare_exchange_weak(taken, taken + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(Self(Arc::clone(streams))),
                Err(now) => taken = now,
            }
        }
        None
    }

    /// Takes the connection out of use for further requests.
    pub(super) fn mark_dying(&self) {
        self.0.mark_dying();
    }

    /// Notes that an answer has come at that time.
    pub(super) fn note_answer(&self, now: Instant) {
        let millis = now.saturating_duration_since(self.0.began).as_millis();
        self.0.answered.store(u64::try_from(millis).unwrap_or_default(), Ordering::Relaxed);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let before = self.0.under_way.fetch_sub(1, Ordering::Relaxed);
        if before >= self.0.limit.load(Ordering::Relaxed) {
            self.0.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_places_as_the_server_allows() {
        let streams = Arc::new(Streams::new(2, &Arc::default()));
        let (first, _second) = (Seat::of(&streams), Seat::of(&streams));
        assert!(first.is_some() && Seat::of(&streams).is_none());
        drop(first);
        let _third = Seat::of(&streams).unwrap();
        assert!(Seat::of(&streams).is_none());
        streams.set_limit(3);
        let _fourth = Seat::of(&streams).unwrap();
        streams.set_limit(0);
        assert!(Seat::of(&streams).is_none());
    }

    #[test]
    fn a_server_that_allows_no_stream_now_may_do_so_later() {
        let streams = Arc::new(Streams::new(0, &Arc::default()));
        let _only = Seat::of(&streams).unwrap();
        assert!(Seat::of(&streams).is_none() && streams.wants_limit(1));
    }

    #[tokio::test]
    async fn a_place_on_a_full_connection_wakes_who_waits_when_it_is_given_back() {
        let freed = Arc::new(Notify::new());
        let streams = Arc::new(Streams::new(1, &freed));
        drop(Seat::of(&streams));
        tokio::time::timeout(Duration::from_secs(5), freed.notified()).await.unwrap();
    }

    #[test]
    fn far_from_the_limit_it_is_rarely_read() {
        let streams = Arc::new(Streams::new(100, &Arc::default()));
        let seats: Vec<_> = (0..49).map_while(|_| Seat::of(&streams)).collect();
        assert_eq!((1..=32).filter(|polls| streams.wants_limit(*polls)).count(), 2);
        let _another = Seat::of(&streams).unwrap();
        assert!(streams.wants_limit(1));
        drop(seats);
    }

    #[test]
    fn it_is_known_whether_an_answer_has_come_since() {
        let streams = Arc::new(Streams::new(1, &Arc::default()));
        let start = Instant::now();
        assert!(!streams.has_answered_since(start));
        Seat::of(&streams).unwrap().note_answer(start + Duration::from_secs(2));
        assert!(streams.has_answered_since(start + Duration::from_secs(1)));
        assert!(!streams.has_answered_since(start + Duration::from_secs(2)));
    }

    #[test]
    fn idle_time_begins_with_the_first_sweep_that_sees_no_stream() {
        let streams = Arc::new(Streams::new(2, &Arc::default()));
        let (start, limit) = (Instant::now(), Duration::from_secs(4));
        assert!(!streams.are_idle_for(limit, start));
        let seat = Seat::of(&streams);
        assert!(!streams.are_idle_for(limit, start + limit));
        drop(seat);
        assert!(!streams.are_idle_for(limit, start + limit));
        assert!(streams.are_idle_for(limit, start + 2 * limit));
    }
}
