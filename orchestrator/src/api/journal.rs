//! Every deed is written down before it is done and when it has ended, logged, and told to who listens.

use std::sync::Arc;

use tokio::sync::broadcast;
use tokio_util::task::TaskTracker;

use super::error::ApiError;
use crate::clock;
use crate::store::{Activity, Deed, Outcome, Store};

/// How many activities a subscriber may lag behind before it misses some.
const KEPT: usize = 256;

/// Where deeds are written down.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    store: Store,
    told: broadcast::Sender<Arc<Activity>>,
    under_way: TaskTracker,
}

/// What came of a deed that succeeded.
pub(super) struct Done<T> {
    pub(super) value: T,
    /// What there is to say of it; may be empty.
    pub(super) message: String,
}

impl<T> Done<T> {
    /// A success that speaks for itself.
    pub(super) const fn silently(value: T) -> Self {
        Self { value, message: String::new() }
    }
}

impl Journal {
    pub(super) fn new(store: Store) -> Self {
        Self { store, told: broadcast::Sender::new(KEPT), under_way: TaskTracker::new() }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<Activity>> {
        self.told.subscribe()
    }

    /// Does `work` and writes it down. It goes on where the caller goes away: what was begun has an end.
    pub(super) async fn doing<T: Send + 'static>(
        &self,
        deed: Deed,
        work: impl Future<Output = Result<Done<T>, ApiError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        let journal = self.clone();
        let task = self.under_way.spawn(async move { journal.write_down(deed, work).await });
        task.await.unwrap_or_else(|error| {
            tracing::error!(%error, "an action broke off");
            Err(ApiError::Internal)
        })
    }

    async fn write_down<T>(
        &self,
        deed: Deed,
        work: impl Future<Output = Result<Done<T>, ApiError>>,
    ) -> Result<T, ApiError> {
        // Without a record nothing is done.
        let id = self.store.begin_activity(&deed, clock::now()).await?;
        let done = work.await;
        let (outcome, message) = match &done {
            Ok(done) => (Outcome::Succeeded, done.message.clone()),
            Err(error) => (Outcome::Failed, error.message()),
        };
        tracing::info!(
            actor = deed.actor,
            actor_id = deed.actor_id,
            action = deed.action,
            cluster = deed.cluster,
            cluster_name = deed.cluster_name,
            kind = deed.kind,
            namespace = deed.namespace,
            name = deed.name,
            outcome = outcome.word(),
            message,
            request_id = deed.request_id,
            "action"
        );
        match self.store.end_activity(&id, outcome, &message).await {
            Ok(activity) => {
                // An error says only that nobody listens.
                let _ = self.told.send(Arc::new(activity));
            }
            Err(error) => tracing::error!(%error, id, "the end of an action could not be written down"),
        }
        done.map(|done| done.value)
    }

    /// Waits until nothing is under way.
    pub(super) async fn rest(&self) {
        self.under_way.close();
        self.under_way.wait().await;
    }
}
