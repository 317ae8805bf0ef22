//! The state that the handlers share.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::fleet::Fleet;
use crate::identity::Impersonation;
use crate::metrics::Metrics;
use crate::store::Store;

use super::journal::Journal;
use super::streams::Streams;

/// The state that the handlers share. Clones share the same state.
#[derive(Clone)]
pub struct App {
    pub(super) fleet: Fleet,
    pub(super) store: Store,
    pub(super) journal: Journal,
    pub(super) metrics: Arc<Metrics>,
    pub(super) streams: Streams,
    pub(super) ending: CancellationToken,
    pub(super) in_cluster: bool,
    pub(super) impersonation: Option<Impersonation>,
}

impl App {
    /// `ending` is cancelled when shutdown begins: event streams then end at once. `in_cluster` allows the cluster that the
    /// program runs in to be registered.
    #[must_use]
    pub fn new(fleet: Fleet, store: Store, ending: CancellationToken, in_cluster: bool) -> Self {
        let journal = Journal::new(store.clone());
        Self {
            fleet,
            store,
            journal,
            metrics: Arc::default(),
            streams: Streams::default(),
            ending,
            in_cluster,
            impersonation: None,
        }
    }

    /// Adds impersonation: clusters can then be queried as the signed-in user.
    #[must_use]
    pub fn with_impersonation(self, impersonation: Option<Impersonation>) -> Self {
        Self { impersonation, ..self }
    }

    /// Returns true if requests to the cluster impersonate the user; `cluster` is the cluster's own setting.
    pub(super) fn impersonates(&self, cluster: bool) -> bool {
        cluster || self.impersonation.as_ref().is_some_and(|impersonation| impersonation.everywhere)
    }

    /// Waits until no action is in progress.
    pub async fn wait_until_idle(&self) {
        self.journal.wait_until_idle().await;
    }
}
