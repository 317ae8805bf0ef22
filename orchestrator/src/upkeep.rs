//! Periodic tasks: deletes old activities, and closes those that never ended.

use std::time::Duration;

use time::OffsetDateTime;

use crate::clock;
use crate::store::{Store, StoreError};

const EVERY: Duration = Duration::from_secs(600);
/// No action takes this long: one that began earlier and has no end was cut off.
const ACTION_MOST: time::Duration = time::Duration::minutes(2);

/// Runs the periodic tasks until dropped.
pub async fn run(store: Store) {
    loop {
        match once(&store, clock::now()).await {
            Ok(0) => {}
            Ok(pruned) => tracing::info!(pruned, "the activity log forgot what was older than its retention"),
            Err(error) => tracing::warn!(%error, "the activity log could not be pruned; trying again later"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// One round; returns how many activities were deleted.
///
/// # Errors
/// If the database does not respond.
pub async fn once(store: &Store, now: OffsetDateTime) -> Result<u64, StoreError> {
    store.close_activities(now - ACTION_MOST).await?;
    let days = store.settings().await?.activity_retention_days;
    store.prune_activities(now - time::Duration::days(days.into())).await
}
