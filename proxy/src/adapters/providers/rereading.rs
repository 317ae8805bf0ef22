//! Reads an identity again from the provider: with a time limit, and keeping new tokens even if a later step fails.

use std::time::Duration;

use crate::domain::grant::Grant;
use crate::domain::identity::Identity;
use crate::ports::{RenewError, Renewed};

/// The time limit for reading once there are new tokens: with the token endpoint's ten seconds well below the renewal lease.
const READING: Duration = Duration::from_secs(12);

/// The occasion of a read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// Nothing is known yet: unreadable data counts as absent.
    SignIn,
    /// Much is known: unreadable data is read later.
    Renewal,
}

/// Limits the time of a read.
pub(super) async fn in_time(
    reading: impl Future<Output = Result<Identity, RenewError>> + Send,
) -> Result<Identity, RenewError> {
    let late = || RenewError::NotNow(format!("the provider did not say who it is within {} s", READING.as_secs()));
    tokio::time::timeout(READING, reading).await.unwrap_or_else(|_| Err(late()))
}

/// The outcome of a read after new tokens were issued: they are kept in any case, unless the session ends.
pub(super) fn with_new_tokens(read: Result<Identity, RenewError>, grant: Grant) -> Result<Renewed, RenewError> {
    match read {
        Ok(identity) => Ok(Renewed { identity: Ok(identity), grant }),
        Err(RenewError::NotNow(reason)) => Ok(Renewed { identity: Err(reason), grant }),
        Err(gone @ RenewError::Gone(_)) => Err(gone),
    }
}
