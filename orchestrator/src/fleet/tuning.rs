//! How the fleet behaves in time.

use std::time::Duration;

/// How the fleet behaves in time.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// How often a cluster is asked whether it is there. Default 15 s.
    pub probe: Duration,
    /// How long a question or an action may take as a whole. Default 5 s.
    pub patience: Duration,
    /// How long to wait before a cluster that failed is asked again, the first time. Default 1 s; it doubles to 30 s.
    pub retry: Duration,
    /// How often to look whether a cluster serves other kinds than before. Default 60 s.
    pub rediscover: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { probe: seconds(15), patience: seconds(5), retry: seconds(1), rediscover: seconds(60) }
    }
}
