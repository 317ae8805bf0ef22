//! What upstreams other than the usual one get to know of a session, kept with the session.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::ReadyFields;
use crate::domain::time::Timestamp;

/// How many upstreams are remembered per session; beyond it the oldest entry is dropped, and made again when next needed.
const REMEMBERED: usize = 4;

/// The identity header fields of one session for one upstream.
pub struct Told {
    /// The upstream's number, unique to each upstream of each snapshot.
    pub by: u64,
    /// When it was made.
    pub at: Timestamp,
    /// The fields.
    pub fields: ReadyFields,
}

/// The identity header fields of one session for several upstreams.
#[derive(Default)]
pub struct Tellings(ArcSwapOption<Vec<Arc<Told>>>);

impl Tellings {
    /// The latest fields for that upstream.
    #[must_use]
    pub fn by(&self, number: u64) -> Option<Arc<Told>> {
        self.0.load().as_ref()?.iter().find(|told| told.by == number).cloned()
    }

    /// Remembers the current fields for an upstream.
    pub fn keep(&self, told: &Arc<Told>) {
        self.0.rcu(|before| {
            let others = before.iter().flat_map(|all| all.iter()).filter(|other| other.by != told.by);
            let mut all: Vec<Arc<Told>> = others.cloned().collect();
            let excess = (all.len() + 1).saturating_sub(REMEMBERED);
            all.drain(..excess);
            all.push(Arc::clone(told));
            Some(Arc::new(all))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_upstreams_are_remembered_each_with_its_last() {
        let all = Tellings::default();
        let keep = |by, secs| {
            all.keep(&Arc::new(Told { by, at: Timestamp::from_secs(secs), fields: ReadyFields::new(&[]) }));
        };
        (1..=4).for_each(|by| keep(by, by));
        keep(1, 9);
        assert_eq!(all.by(1).unwrap().at, Timestamp::from_secs(9));
        assert!(all.by(2).is_some());
        keep(5, 5);
        assert!(all.by(2).is_none() && all.by(1).is_some() && all.by(5).is_some());
    }
}
