//! What upstreams other than the usual one are told of a session, kept with it.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::ReadyFields;
use crate::domain::time::Timestamp;

/// So many upstreams are remembered for one session: beyond it the one that was told first is made ready anew when it is next.
const REMEMBERED: usize = 4;

/// What one upstream is told of a session.
pub struct Told {
    /// Whose it is: each upstream of each snapshot has its own number.
    pub by: u64,
    /// When it was made.
    pub at: Timestamp,
    /// The fields.
    pub fields: ReadyFields,
}

/// What several upstreams are told of one session.
#[derive(Default)]
pub struct Tellings(ArcSwapOption<Vec<Arc<Told>>>);

impl Tellings {
    /// What that upstream was told last.
    #[must_use]
    pub fn by(&self, number: u64) -> Option<Arc<Told>> {
        self.0.load().as_ref()?.iter().find(|told| told.by == number).cloned()
    }

    /// Remembers what an upstream is told now.
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
