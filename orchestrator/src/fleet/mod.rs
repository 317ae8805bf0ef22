//! The registered clusters: the cached state of each and of its Flux objects, live, and the actions on them.

mod act;
mod answers;
mod applied;
mod backoff;
mod cluster;
mod compare;
mod controllers;
mod detail;
mod held;
mod history;
mod interner;
mod kept;
mod kstatus;
mod model;
mod person;
mod plain;
mod pods;
mod query;
mod session;
mod tree;
mod tuning;
mod view;
mod watching;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, MutexGuard, Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

use crate::kube::{Access, Client, Fault};
pub use crate::kube::{Connection, KUBECONFIG_MOST, KubeconfigFault};

use cluster::{Cluster, Shared};
use held::Key;
pub use model::*;
pub use person::{NotAPerson, Person, Viewer, WatchOptions};
pub use pods::Container;
pub use tuning::Tuning;
pub use view::Views;

/// How many changes a subscriber may lag behind before it misses some.
const CHANGES_KEPT: usize = 4096;
/// How many kinds are listed at a time, in all clusters together: lists are large while they are read.
const LISTED_AT_ONCE: usize = 16;
/// How many pairs of person and cluster have their permissions refreshed at a time.
const ASKED_AGAIN_AT_ONCE: usize = 32;
/// The time limit for actions that reconcile sources first.
const WITH_SOURCES: Duration = Duration::from_secs(12);

/// The watched clusters. Clones share the same fleet; its connections close when the last one is dropped.
#[derive(Clone)]
pub struct Fleet(Arc<Inner>);

struct Inner {
    clusters: RwLock<BTreeMap<ClusterId, Arc<Cluster>>>,
    /// Held by whoever changes how clusters are registered.
    turn: Mutex<()>,
    shared: Shared,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.ending.cancel();
    }
}

/// Why the fleet's operation failed. The reasons are for people, and hold no credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    /// There is no such cluster or object.
    #[error("{what}")]
    NotFound {
        /// What is missing, in a sentence.
        what: String,
    },
    /// The cluster does not respond.
    #[error("{reason}")]
    Unreachable {
        /// Why.
        reason: String,
    },
    /// The cluster responds, but denies access.
    #[error("{reason}")]
    Forbidden {
        /// The cluster's message.
        reason: String,
    },
    /// Another client changed the object at the same time.
    #[error("{reason}")]
    Conflict {
        /// The cluster's message.
        reason: String,
    },
    /// The request is not valid, or the cluster refuses it.
    #[error("{reason}")]
    Invalid {
        /// Why, and a remedy.
        reason: String,
    },
}

impl From<Fault> for FleetError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unreachable(reason) => Self::Unreachable { reason },
            Fault::Forbidden(reason) => Self::Forbidden { reason },
            Fault::NotFound(what) => Self::NotFound { what },
            Fault::Conflict(reason) => Self::Conflict { reason },
            Fault::Refused(reason) | Fault::Gone(reason) => Self::Invalid { reason },
        }
    }
}

impl From<KubeconfigFault> for FleetError {
    fn from(fault: KubeconfigFault) -> Self {
        Self::Invalid { reason: fault.to_string() }
    }
}

impl Fleet {
    /// Creates a fleet without clusters.
    #[must_use]
    pub fn start(tuning: Tuning) -> Self {
        let shared = Shared {
            tuning,
            interner: Arc::default(),
            list_permits: Arc::new(Semaphore::new(LISTED_AT_ONCE)),
            refresh_permits: Arc::new(Semaphore::new(ASKED_AGAIN_AT_ONCE)),
            changes: broadcast::Sender::new(CHANGES_KEPT),
            ending: CancellationToken::new(),
        };
        Self(Arc::new(Inner { clusters: RwLock::default(), turn: Mutex::default(), shared }))
    }

    /// Checks a connection and probes the cluster; nothing is stored.
    ///
    /// # Errors
    /// [`FleetError::Invalid`] if the kubeconfig is refused; otherwise why the cluster did not respond.
    pub async fn check(&self, connection: &Connection) -> Result<Reached, FleetError> {
        let access = Access::new(connection).await?;
        self.within(reach(access)).await
    }

    /// Waits for the turn to change how clusters are registered. Whoever holds it reads the database, and changes it and the fleet,
    /// with nobody in between: otherwise what the fleet does could differ from what is stored. Do not wait for a cluster meanwhile.
    pub async fn turn(&self) -> MutexGuard<'_, ()> {
        self.0.turn.lock().await
    }

    /// Starts watching a cluster; replaces one with the same id. If the connection is refused, the cluster is down, with the reason.
    pub async fn add(&self, id: ClusterId, name: &str, connection: &Connection) {
        self.add_with(id, name, connection, &WatchOptions::default()).await;
    }

    /// The same, with its own impersonation and namespaces.
    pub async fn add_with(&self, id: ClusterId, name: &str, connection: &Connection, options: &WatchOptions) {
        let access = Access::new(connection).await;
        let cluster = Cluster::new(id, name, access, options, &self.0.shared);
        session::begin(&cluster);
        let replaced = self.write(|clusters| clusters.insert(id, Arc::clone(&cluster)));
        if let Some(replaced) = replaced {
            replaced.stop();
        }
        self.publish(Change::Cluster { cluster: id, health: cluster.health() });
    }

    /// Renames a cluster.
    ///
    /// # Errors
    /// [`FleetError::NotFound`].
    pub fn rename(&self, id: ClusterId, name: &str) -> Result<(), FleetError> {
        let cluster = self.cluster(id)?;
        cluster.rename(name);
        self.publish(Change::Cluster { cluster: id, health: cluster.health() });
        self.publish(Change::Reloaded { cluster: id });
        Ok(())
    }

    /// Stops watching a cluster.
    ///
    /// # Errors
    /// [`FleetError::NotFound`].
    pub fn remove(&self, id: ClusterId) -> Result<(), FleetError> {
        let removed = self.write(|clusters| clusters.remove(&id)).ok_or_else(|| no_cluster(id))?;
        removed.stop();
        self.publish(Change::ClusterRemoved { cluster: id });
        Ok(())
    }

    /// The health of a cluster.
    ///
    /// # Errors
    /// [`FleetError::NotFound`].
    pub fn health(&self, id: ClusterId) -> Result<Health, FleetError> {
        Ok(self.cluster(id)?.health())
    }

    /// The health of each cluster.
    #[must_use]
    pub fn healths(&self) -> BTreeMap<ClusterId, Health> {
        self.all().iter().map(|cluster| (cluster.id, cluster.health())).collect()
    }

    /// Reconnects to a cluster and reads it again, without waiting for it.
    ///
    /// # Errors
    /// [`FleetError::NotFound`].
    pub fn resync(&self, id: ClusterId) -> Result<(), FleetError> {
        self.cluster(id)?.reconnect.notify_one();
        Ok(())
    }

    /// A page of the objects that match a filter.
    #[must_use]
    pub fn list(&self, filter: &Filter, page: Page) -> Listing<ObjectSummary> {
        self.list_seen(&Views::default(), filter, page)
    }

    /// The same, limited to what may be seen.
    #[must_use]
    pub fn list_seen(&self, views: &Views, filter: &Filter, page: Page) -> Listing<ObjectSummary> {
        query::list(&self.chosen(filter.cluster), views, filter, page)
    }

    /// What a viewer may see of a cluster, or of all. A cluster with impersonation is asked, unless it has answered within the last
    /// minute.
    pub async fn views(&self, viewer: &Viewer, cluster: Option<ClusterId>) -> Views {
        view::of(&self.chosen(cluster), viewer).await
    }

    /// Returns true if a viewer may see an object.
    pub async fn shows(&self, viewer: &Viewer, id: ClusterId, kind: Kind, namespace: &str) -> bool {
        match self.cluster(id) {
            Ok(cluster) => view::shows(&cluster, viewer, kind, namespace).await,
            // The cluster was removed, so it cannot be asked.
            Err(_) => matches!(viewer, Viewer::Program),
        }
    }

    /// Returns true if requests to a cluster impersonate the user.
    #[must_use]
    pub fn asks_as_person(&self, id: ClusterId) -> bool {
        self.cluster(id).is_ok_and(|cluster| cluster.asks_as_person())
    }

    /// The only namespaces in which a cluster is watched; none means all.
    ///
    /// # Errors
    /// [`FleetError::NotFound`].
    pub fn namespaces(&self, id: ClusterId) -> Result<Vec<String>, FleetError> {
        Ok(self.cluster(id)?.scopes().into_iter().flatten().map(|namespace| namespace.to_string()).collect())
    }

    /// All details of one object, read from its cluster now.
    ///
    /// # Errors
    /// [`FleetError::NotFound`], or why the cluster did not respond within 5 s.
    pub async fn detail(
        &self,
        id: ClusterId,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<ObjectDetail, FleetError> {
        self.detail_for(&Viewer::Program, id, kind, namespace, name).await
    }

    /// The same, for a viewer.
    ///
    /// # Errors
    /// As [`Self::detail`]; and if the cluster does not allow the viewer to see it.
    pub async fn detail_for(
        &self,
        viewer: &Viewer,
        id: ClusterId,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<ObjectDetail, FleetError> {
        let cluster = self.cluster(id)?;
        let client = known(&cluster, viewer, &cluster.key(kind, namespace, name))?;
        self.within(detail::read(&cluster, &client, kind, namespace, name)).await
    }

    /// The status of what an object has applied, read from its cluster now, within 12 s.
    ///
    /// # Errors
    /// As [`Self::detail_for`].
    pub async fn applied_for(
        &self,
        viewer: &Viewer,
        id: ClusterId,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Applied, FleetError> {
        let cluster = self.cluster(id)?;
        let key = cluster.key(kind, namespace, name);
        let client = known(&cluster, viewer, &key)?;
        Ok(applied::read(&cluster, &client, &key).await?)
    }

    /// What would change if the manifests that the cluster keeps of an object, or of what it applied, were applied again: by dry runs
    /// of the API server, within 12 s.
    ///
    /// # Errors
    /// As [`Self::detail_for`].
    pub async fn comparison_for(
        &self,
        viewer: &Viewer,
        id: ClusterId,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Comparison, FleetError> {
        let cluster = self.cluster(id)?;
        let key = cluster.key(kind, namespace, name);
        let client = known(&cluster, viewer, &key)?;
        let as_person = decides_by_person(&cluster, viewer);
        Ok(compare::read(&cluster, &client, &key, as_person).await?)
    }

    /// The last lines of a container's log, in a pod of a workload that the object has applied.
    ///
    /// # Errors
    /// As [`Self::detail_for`]; [`FleetError::NotFound`] if it is not such a pod.
    pub async fn log_for(
        &self,
        viewer: &Viewer,
        id: ClusterId,
        kind: Kind,
        namespace: &str,
        name: &str,
        of: &Container,
    ) -> Result<String, FleetError> {
        let cluster = self.cluster(id)?;
        let key = cluster.key(kind, namespace, name);
        let client = known(&cluster, viewer, &key)?;
        within(applied::PATIENCE, applied::log(&cluster, &client, &key, of)).await
    }

    /// Flux's own controllers in a cluster.
    ///
    /// # Errors
    /// As [`Self::detail_for`].
    pub async fn controllers_for(&self, viewer: &Viewer, id: ClusterId) -> Result<Vec<Controller>, FleetError> {
        let cluster = self.cluster(id)?;
        let client = cluster.client_for(viewer)?.ok_or_else(|| no_client(&cluster))?;
        self.within(controllers::read(&client)).await
    }

    /// The dependency tree of a cluster: around one object, or all of it.
    ///
    /// # Errors
    /// [`FleetError::NotFound`].
    pub fn tree(&self, id: ClusterId, root: Option<&ObjectRef>) -> Result<Tree, FleetError> {
        self.tree_seen(&Views::default(), id, root)
    }

    /// The same, limited to what may be seen.
    ///
    /// # Errors
    /// [`FleetError::NotFound`], or why what there is has not been read; [`FleetError::Forbidden`] if the root may not be seen.
    pub fn tree_seen(&self, views: &Views, id: ClusterId, root: Option<&ObjectRef>) -> Result<Tree, FleetError> {
        let cluster = self.cluster(id)?;
        let root = root.map(|root| cluster.key(root.kind, &root.namespace, &root.name));
        if let Some(key) = &root {
            if !views.shows(&cluster, key) {
                // Nobody can be shown anything then, whatever they may list.
                if let Some(fault) = cluster.unread(key) {
                    return Err(fault.into());
                }
                return Err(FleetError::Forbidden {
                    reason: format!("the cluster does not let you list {} in {}", key.0, key.1),
                });
            }
            let is_known = cluster.objects().contains_key(key);
            if !is_known {
                return Err(cluster.absence(key).into());
            }
        }
        Ok(tree::tree(&cluster.objects(), root.as_ref(), |key| views.shows(&cluster, key)))
    }

    /// How many objects there are in a cluster, or in all of them.
    ///
    /// # Errors
    /// [`FleetError::NotFound`].
    pub fn stats(&self, id: Option<ClusterId>) -> Result<Stats, FleetError> {
        self.stats_seen(&Views::default(), id)
    }

    /// The same, limited to what may be seen.
    ///
    /// # Errors
    /// [`FleetError::NotFound`].
    pub fn stats_seen(&self, views: &Views, id: Option<ClusterId>) -> Result<Stats, FleetError> {
        id.map_or(Ok(()), |id| self.cluster(id).map(drop))?;
        Ok(query::stats(&self.chosen(id), views))
    }

    /// Performs an action on an object; returns its state right afterwards.
    ///
    /// # Errors
    /// [`FleetError::NotFound`], or why the cluster did not do it.
    pub async fn act(
        &self,
        id: ClusterId,
        kind: Kind,
        namespace: &str,
        name: &str,
        action: Action,
    ) -> Result<ObjectSummary, FleetError> {
        self.act_for(&Viewer::Program, id, kind, namespace, name, action).await
    }

    /// The same, for a viewer.
    ///
    /// # Errors
    /// As [`Self::act`]; and if the cluster does not allow the viewer to do it.
    pub async fn act_for(
        &self,
        viewer: &Viewer,
        id: ClusterId,
        kind: Kind,
        namespace: &str,
        name: &str,
        action: Action,
    ) -> Result<ObjectSummary, FleetError> {
        let cluster = self.cluster(id)?;
        let key = cluster.key(kind, namespace, name);
        let client = known(&cluster, viewer, &key)?;
        let patience = match action {
            Action::Reconcile { with_source: true } => self.0.shared.tuning.patience.max(WITH_SOURCES),
            Action::Reconcile { with_source: false }
            | Action::Force
            | Action::Reset
            | Action::Suspend
            | Action::Resume => self.0.shared.tuning.patience,
        };
        let by_person = decides_by_person(&cluster, viewer);
        within(patience, act::act(&cluster, &client, &key, action, by_person, self.subscribe())).await
    }

    /// Subscribes to all further changes. A receiver that lags by more than 4,096 gets an error and should load everything again.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Change>> {
        self.0.shared.changes.subscribe()
    }

    async fn within<T>(&self, work: impl Future<Output = Result<T, Fault>>) -> Result<T, FleetError> {
        within(self.0.shared.tuning.patience, work).await
    }

    fn cluster(&self, id: ClusterId) -> Result<Arc<Cluster>, FleetError> {
        let clusters = self.0.clusters.read().unwrap_or_else(PoisonError::into_inner);
        clusters.get(&id).cloned().ok_or_else(|| no_cluster(id))
    }

    fn chosen(&self, id: Option<ClusterId>) -> Vec<Arc<Cluster>> {
        match id {
            Some(id) => self.cluster(id).into_iter().collect(),
            None => self.all(),
        }
    }

    fn all(&self) -> Vec<Arc<Cluster>> {
        self.0.clusters.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn write<T>(&self, change: impl FnOnce(&mut BTreeMap<ClusterId, Arc<Cluster>>) -> T) -> T {
        change(&mut self.0.clusters.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn publish(&self, change: Change) {
        // An error only means that there are no subscribers.
        let _ = self.0.shared.changes.send(Arc::new(change));
    }
}

async fn reach(access: Access) -> Result<Reached, Fault> {
    let asked = Instant::now();
    let version = access.client.version().await?;
    let latency_ms = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
    let served = crate::kube::discover(&access.client, &session::wanted()).await?;
    let flux_kinds = served.into_keys().collect();
    Ok(Reached { server: access.server, context: access.context, version, latency_ms, flux_kinds })
}

/// The error of a cluster without a client: its connection was refused.
fn no_client(cluster: &Cluster) -> FleetError {
    FleetError::Unreachable { reason: cluster.health().reason.unwrap_or_default() }
}

fn no_cluster(id: ClusterId) -> FleetError {
    FleetError::NotFound { what: format!("there is no cluster {id}") }
}

async fn within<T>(patience: Duration, work: impl Future<Output = Result<T, Fault>>) -> Result<T, FleetError> {
    match tokio::time::timeout(patience, work).await {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(_) => Err(Fault::late(patience.as_secs()).into()),
    }
}

// Only objects seen in the cluster are requested, so that no made-up name gets into a URL. With impersonation the cluster is always
// asked, so that a refusal does not reveal what exists: names are escaped.
fn known(cluster: &Cluster, viewer: &Viewer, key: &Key) -> Result<Client, FleetError> {
    let client = cluster.client_for(viewer)?.ok_or_else(|| no_client(cluster))?;
    let is_known = decides_by_person(cluster, viewer) || cluster.objects().contains_key(key);
    if is_known { Ok(client) } else { Err(cluster.absence(key).into()) }
}

/// Returns true if a viewer may know of a cluster only what the cluster shows them.
fn decides_by_person(cluster: &Cluster, viewer: &Viewer) -> bool {
    cluster.asks_as_person() && matches!(viewer, Viewer::Person(_))
}
