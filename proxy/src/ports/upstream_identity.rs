//! What upstreams other than the usual one get to know of a session, kept with the session.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::domain::time::Timestamp;
use crate::rendering::ReadyFields;

/// How many upstreams are remembered per session; beyond it the oldest entry is dropped, and made again when next needed.
const REMEMBERED: usize = 4;

/// The identity header fields of one session for one upstream.
pub struct UpstreamIdentity {
    /// The upstream's number, unique to each upstream of each snapshot.
    pub upstream: u64,
    /// When it was made.
    pub at: Timestamp,
    /// The fields.
    pub fields: ReadyFields,
}

/// The identity header fields of one session for several upstreams.
#[derive(Default)]
pub struct UpstreamIdentities(ArcSwapOption<Vec<Arc<UpstreamIdentity>>>);

impl UpstreamIdentities {
    /// The latest fields for that upstream.
    #[must_use]
    pub fn for_upstream(&self, number: u64) -> Option<Arc<UpstreamIdentity>> {
        self.0.load().as_ref()?.iter().find(|identity| identity.upstream == number).cloned()
    }

    /// Whether it was made for no upstream yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.load().is_none()
    }

    /// Remembers the current fields for an upstream.
    pub fn keep(&self, identity: &Arc<UpstreamIdentity>) {
        self.0.rcu(|before| {
            let others = before.iter().flat_map(|all| all.iter()).filter(|other| other.upstream != identity.upstream);
            let mut all: Vec<Arc<UpstreamIdentity>> = others.cloned().collect();
            let excess = (all.len() + 1).saturating_sub(REMEMBERED);
            all.drain(..excess);
            all.push(Arc::clone(identity));
            Some(Arc::new(all))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_upstreams_are_remembered_each_with_its_last() {
        let all = UpstreamIdentities::default();
        let keep = |upstream, secs| {
            all.keep(&Arc::new(UpstreamIdentity {
                upstream,
                at: Timestamp::from_secs(secs),
                fields: ReadyFields::new(&[]),
            }));
        };
        (1..=4).for_each(|number| keep(number, number));
        keep(1, 9);
        assert_eq!(all.for_upstream(1).unwrap().at, Timestamp::from_secs(9));
        assert!(all.for_upstream(2).is_some());
        keep(5, 5);
        assert!(all.for_upstream(2).is_none() && all.for_upstream(1).is_some() && all.for_upstream(5).is_some());
    }
}
