//! Asking a provider again who somebody is: bounded in time, and no token lost by what fails after it was issued.

use std::time::Duration;

use crate::domain::grant::Grant;
use crate::domain::identity::Identity;
use crate::ports::{RenewError, Renewed};

/// How long reading may take once there are tokens: with the token endpoint's ten seconds well below the leave to renew.
const READING: Duration = Duration::from_secs(12);

/// When somebody is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// Nothing is known yet: what cannot be read now is not there.
    SignIn,
    /// Much is known: what cannot be read now is read later.
    Renewal,
}

/// Waits for a reading, not for ever.
pub(super) async fn in_time(
    reading: impl Future<Output = Result<Identity, RenewError>> + Send,
) -> Result<Identity, RenewError> {
    let late = || RenewError::NotNow(format!("the provider did not say who it is within {} s", READING.as_secs()));
    tokio::time::timeout(READING, reading).await.unwrap_or_else(|_| Err(late()))
}

/// What came of a reading after new tokens were issued: these are kept, whatever it was, unless the session ends.
pub(super) fn with_new_tokens(read: Result<Identity, RenewError>, grant: Grant) -> Result<Renewed, RenewError> {
    match read {
        Ok(identity) => Ok(Renewed { identity: Ok(identity), grant }),
        Err(RenewError::NotNow(reason)) => Ok(Renewed { identity: Err(reason), grant }),
        Err(gone @ RenewError::Gone(_)) => Err(gone),
    }
}
