//! The sign-in states that were used on this replica, so that none is accepted twice.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};

use crate::domain::login::ATTEMPT_LIFETIME;
use crate::domain::time::Timestamp;

/// How many are remembered at least. Beyond that the oldest are forgotten: anyone can begin sign-ins and use up their states, and must
/// not be able to keep all others from signing in.
const LEAST: usize = 100_000;

/// Used states in two generations: the older one is dropped when a new one begins.
#[derive(Default)]
pub(super) struct States(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashSet<[u8; 16]>,
    old: HashSet<[u8; 16]>,
    /// When the young generation began.
    began: Option<Timestamp>,
}

impl States {
    /// Takes a state; returns whether it was unused. It is remembered for as long as a sign-in may take.
    pub(super) fn take(&self, state: &str, now: Timestamp) -> bool {
        let mut name = [0; 16];
        for (to, from) in name.iter_mut().zip(digest(&SHA256, state.as_bytes()).as_ref()) {
            *to = *from;
        }
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let age = now.since(*states.began.get_or_insert(now));
        if age >= ATTEMPT_LIFETIME || states.young.len() >= LEAST {
            states.old = std::mem::take(&mut states.young);
            if age >= ATTEMPT_LIFETIME * 2 {
                states.old = HashSet::new();
            }
            states.began = Some(now);
        }
        !states.old.contains(&name) && states.young.insert(name)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_state_counts_once_for_as_long_as_a_sign_in_may_take() {
        let (states, now) = (States::default(), Timestamp::from_secs(100_000));
        assert!(states.take("b", now) && states.take("a", now + Duration::from_secs(599)));
        for later in [599, 600, 1198] {
            assert!(!states.take("a", now + Duration::from_secs(later)), "{later}");
        }
        assert!(states.take("a", now + Duration::from_secs(3600)), "it is forgotten in the end");
    }

    #[test]
    fn of_many_at_once_exactly_one_learns_that_it_is_the_first() {
        let (states, now) = (States::default(), Timestamp::from_secs(1000));
        let first = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| {
                    first.fetch_add(usize::from(states.take("a", now)), std::sync::atomic::Ordering::Relaxed)
                });
            }
        });
        assert_eq!(first.into_inner(), 1);
    }

    #[test]
    fn a_flood_takes_bounded_memory_and_forgets_the_oldest_first() {
        let (states, now) = (States::default(), Timestamp::from_secs(1000));
        assert!(states.take("first", now));
        for n in 0..LEAST - 1 {
            assert!(states.take(&n.to_string(), now));
        }
        assert!(!states.take("first", now));
        for n in LEAST..LEAST * 3 {
            states.take(&n.to_string(), now);
        }
        let held = states.0.lock().unwrap();
        assert!(held.young.len() <= LEAST && held.old.len() <= LEAST);
    }
}
