//! The result of checking a bearer token.

use std::sync::Arc;

use crate::domain::time::Timestamp;
use crate::ports::LoadedSession;

/// Why a token is not accepted. The reasons go to the log: of the token they contain only names that it claims.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BearerError {
    /// It is not valid here.
    #[error("{0}")]
    Invalid(String),
    /// It cannot be checked now: no keys of its issuer are known.
    #[error("{0}")]
    Unavailable(String),
}

/// The result of an accepted token.
pub(super) struct Accepted {
    pub(super) session: Arc<LoadedSession>,
    /// When it expires by its own claims; the largest timestamp if it does not say.
    pub(super) expires_at: Timestamp,
}

/// Whether a token had been verified before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// Just now.
    Now,
    /// Within the last minute.
    Before,
}
