//! The settings that a reload may change: the names, the sealing keys, and the idle limit.

use std::time::Duration;

use super::names::Names;
use crate::adapters::seal::Sealer;
use crate::domain::session::Session;
use crate::domain::time::Timestamp;
use crate::ports::StoreTerms;

/// How far the last use in the store may lag behind if there is no idle limit.
const LAG_MOST: Duration = Duration::from_secs(60);

/// The current terms.
pub(super) struct Terms {
    pub(super) names: Names,
    pub(super) sealer: Sealer,
    pub(super) idle: Duration,
    /// Rises by one with each reload that takes a secret away: what was opened before may not open any more.
    pub(super) generation: u64,
}

impl Terms {
    pub(super) fn new(prefix: &str, terms: &StoreTerms) -> Result<Self, String> {
        Ok(Self {
            names: Names::new(prefix, &terms.secrets).map_err(|error| error.to_string())?,
            sealer: Sealer::new(&terms.secrets, "session").map_err(|error| error.to_string())?,
            idle: terms.idle,
            generation: 0,
        })
    }

    /// The terms that replace `older`.
    pub(super) fn after(self, older: &Self) -> Self {
        Self { generation: older.generation + u64::from(!self.sealer.covers(&older.sealer)), ..self }
    }

    /// How far the last use in the store may lag behind.
    pub(super) fn lag(&self) -> Duration {
        if self.idle.is_zero() { LAG_MOST } else { LAG_MOST.min(self.idle / 10) }
    }

    /// When Redis may forget a session that was last seen at `seen`.
    pub(super) fn expires(&self, session: &Session, seen: Timestamp) -> Timestamp {
        if self.idle.is_zero() { session.expires_at } else { session.expires_at.min(seen + self.idle + self.lag()) }
    }
}
