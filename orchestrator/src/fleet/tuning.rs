//! Intervals and timeouts of the fleet.

use std::time::Duration;

/// Intervals and timeouts of the fleet.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// How often a cluster is probed. Default 15 s.
    pub probe: Duration,
    /// The time limit for a request or an action as a whole. Default 5 s.
    pub patience: Duration,
    /// The first delay before a failed cluster is tried again. Default 1 s; it doubles up to 30 s.
    pub retry: Duration,
    /// How often to check whether a cluster serves other kinds than before. Default 60 s.
    pub rediscover: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { probe: seconds(15), patience: seconds(5), retry: seconds(1), rediscover: seconds(60) }
    }
}
