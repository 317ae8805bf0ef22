//! Deletes activities that are too old or too many.

use sqlx::AnyPool;
use time::OffsetDateTime;

use super::{Store, StoreError, within};
use crate::clock;

/// How many activities are kept whatever the settings say: the oldest beyond them are deleted.
const ACTIVITIES_MOST: i64 = 1_000_000;
/// How many are deleted at once, so that other queries get their turn.
const BATCH: i64 = 500;

impl Store {
    /// Deletes the activities that are older than `limit`, and the oldest beyond a million. Returns how many.
    ///
    /// # Errors
    /// If the database does not respond; what was deleted until then stays deleted.
    pub async fn prune_activities(&self, limit: OffsetDateTime) -> Result<u64, StoreError> {
        let beyond = sqlx::query_scalar("SELECT at FROM activities ORDER BY at DESC, id DESC LIMIT 1 OFFSET $1");
        let beyond: Option<i64> = within(beyond.bind(ACTIVITIES_MOST).fetch_optional(&self.0.reading)).await?;
        let limit = clock::millis(limit).max(beyond.map_or(i64::MIN, |at| at.saturating_add(1)));
        let mut pruned = 0;
        loop {
            let batch = prune_batch(&self.0.writing, limit).await?;
            pruned += batch;
            if i64::try_from(batch).unwrap_or(i64::MAX) < BATCH {
                return Ok(pruned);
            }
            tokio::task::yield_now().await;
        }
    }
}

async fn prune_batch(pool: &AnyPool, limit: i64) -> Result<u64, StoreError> {
    let delete = sqlx::query(
        "DELETE FROM activities WHERE id IN (SELECT id FROM activities WHERE at < $1 ORDER BY at, id LIMIT $2)",
    );
    Ok(within(delete.bind(limit).bind(BATCH).execute(pool)).await?.rows_affected())
}
