//! The one place that reads the clock.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::domain::time::Timestamp;

/// The current time. A clock before 1970 reads as 1970: then everything has expired, and no one is admitted.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the place that reads the clock; everything else is given the time"
)]
pub(crate) fn now() -> Timestamp {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    Timestamp::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}
