//! Every action is recorded before it starts and when it has ended, logged, and sent to subscribers.

use std::sync::Arc;

use tokio::sync::broadcast;
use tokio_util::task::TaskTracker;

use super::error::ApiError;
use crate::clock;
use crate::store::{Activity, NewActivity, Outcome, Store};

/// How many activities a subscriber may lag behind before it misses some.
const KEPT: usize = 256;

/// Where actions are recorded.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    store: Store,
    activities: broadcast::Sender<Arc<Activity>>,
    under_way: TaskTracker,
}

/// The result of an action that succeeded.
pub(super) struct Done<T> {
    pub(super) value: T,
    /// The message for the record; may be empty.
    pub(super) message: String,
}

impl<T> Done<T> {
    /// A success without a message.
    pub(super) const fn silently(value: T) -> Self {
        Self { value, message: String::new() }
    }
}

impl Journal {
    pub(super) fn new(store: Store) -> Self {
        Self { store, activities: broadcast::Sender::new(KEPT), under_way: TaskTracker::new() }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<Activity>> {
        self.activities.subscribe()
    }

    /// Performs `work` and records it. It continues when the caller disconnects, so that it always completes.
    pub(super) async fn perform<T: Send + 'static>(
        &self,
        new_activity: NewActivity,
        work: impl Future<Output = Result<Done<T>, ApiError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        let journal = self.clone();
        let task = self.under_way.spawn(async move { journal.record(new_activity, work).await });
        task.await.unwrap_or_else(|error| {
            tracing::error!(%error, "an action broke off");
            Err(ApiError::Internal)
        })
    }

    async fn record<T>(
        &self,
        new_activity: NewActivity,
        work: impl Future<Output = Result<Done<T>, ApiError>>,
    ) -> Result<T, ApiError> {
        // Without a record the action is not performed.
        let id = self.store.begin_activity(&new_activity, clock::now()).await?;
        let done = work.await;
        let (outcome, message) = match &done {
            Ok(done) => (Outcome::Succeeded, done.message.clone()),
            Err(error) => (Outcome::Failed, error.message()),
        };
        tracing::info!(
            actor = new_activity.actor,
            actor_id = new_activity.actor_id,
            action = new_activity.action,
            cluster = new_activity.cluster,
            cluster_name = new_activity.cluster_name,
            kind = new_activity.kind,
            namespace = new_activity.namespace,
            name = new_activity.name,
            outcome = outcome.word(),
            message,
            request_id = new_activity.request_id,
            "action"
        );
        match self.store.end_activity(&id, outcome, &message).await {
            Ok(activity) => {
                // An error only means that there are no subscribers.
                let _ = self.activities.send(Arc::new(activity));
            }
            Err(error) => tracing::error!(%error, id, "the end of an action could not be written down"),
        }
        done.map(|done| done.value)
    }

    /// Waits until no action is in progress.
    pub(super) async fn wait_until_idle(&self) {
        self.under_way.close();
        self.under_way.wait().await;
    }
}
