//! What is found of a bearer token.

use std::sync::Arc;

use crate::domain::time::Timestamp;
use crate::ports::LoadedSession;

/// Why a token is not accepted. The reasons are for the log: they hold nothing of the token but names that it claims.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BearerError {
    /// It is not one that counts here.
    #[error("{0}")]
    Invalid(String),
    /// Whether it counts cannot be said now: no keys of its issuer are known.
    #[error("{0}")]
    Unavailable(String),
}

/// What a token was found to be.
pub(super) struct Accepted {
    pub(super) session: Arc<LoadedSession>,
    /// When it ends by its own word; the largest moment: it does not say.
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
