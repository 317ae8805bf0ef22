//! What is done once at startup: the registered clusters are watched again.

use std::time::Duration;

use crate::clock;
use crate::fleet::{self, ClusterId, Fleet};
use crate::secret::Secret;
use crate::store::{self, Store, StoreError, new_id};

/// Recorded as the creator of clusters that the program registers itself.
const NOBODY: &str = "orchestrator";
/// The name of the cluster that the program runs in, until it is renamed.
const HERE: &str = "in-cluster";
/// The longest pause between two attempts to reach it.
const RETRY_MOST: Duration = Duration::from_secs(60);
/// How the addresses of simulated clusters start.
const LOOPBACK: &str = "http://127.0.0.1:";

/// Adds every registered cluster to the fleet; `impersonate` turns impersonation on for all. Skips, with a log line, a cluster
/// whose kubeconfig cannot be opened.
///
/// # Errors
/// If the database does not respond.
pub async fn load(store: &Store, fleet: &Fleet, in_cluster: bool, impersonate: bool) -> Result<(), StoreError> {
    for cluster in store.clusters().await? {
        let Ok(id) = cluster.id.parse() else { continue };
        let connection = match cluster.connection {
            store::Connection::Kubeconfig => match store.kubeconfig(&cluster.id).await {
                Ok(kubeconfig) => fleet::Connection::Kubeconfig { kubeconfig, context: cluster.context },
                Err(StoreError::Seal(reason)) => {
                    tracing::error!(cluster = cluster.name, %reason, "a cluster's kubeconfig cannot be opened");
                    continue;
                }
                Err(error) => return Err(error),
            },
            store::Connection::InCluster if in_cluster => fleet::Connection::InCluster,
            store::Connection::InCluster => {
                tracing::warn!(
                    cluster = cluster.name,
                    "the cluster that this runs in is not used: IN_CLUSTER is not true"
                );
                continue;
            }
        };
        let options = fleet::WatchOptions {
            as_person: impersonate || cluster.impersonate,
            namespaces: cluster.namespaces.clone(),
        };
        fleet.add_with(id, &cluster.name, &connection, &options).await;
    }
    Ok(())
}

/// Registers the cluster that the program runs in, reached by `here`, once it responds, unless it is registered: its API may
/// start later than this program. The first pause between two attempts is `retry`; it doubles up to a minute.
pub async fn register_here(store: Store, fleet: Fleet, here: fleet::Connection, impersonate: bool, retry: Duration) {
    let mut pause = retry;
    loop {
        match try_here(&store, &fleet, &here, impersonate).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%error, "the cluster that this runs in cannot be registered; it is tried again")
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MOST);
    }
}

/// Returns true if it is registered now.
async fn try_here(
    store: &Store,
    fleet: &Fleet,
    here: &fleet::Connection,
    impersonate: bool,
) -> Result<bool, StoreError> {
    let clusters = store.clusters().await?;
    if clusters.iter().any(|cluster| cluster.connection == store::Connection::InCluster) {
        return Ok(true);
    }
    match fleet.check(here).await {
        Ok(reached) => register(store, fleet, HERE, reached, here, impersonate).await.map(|()| true),
        Err(reason) => {
            tracing::error!(%reason, "the cluster that this runs in does not answer; it is tried again");
            Ok(false)
        }
    }
}

/// Registers a simulated cluster; replaces an earlier one with the same name, whose address has changed.
///
/// # Errors
/// If the database does not respond.
pub async fn register_simulated(
    store: &Store,
    fleet: &Fleet,
    name: &str,
    kubeconfig: Secret,
    impersonate: bool,
) -> Result<(), StoreError> {
    let clusters = store.clusters().await?;
    // Never replaces a person's cluster that happens to have the name.
    let simulated = |cluster: &&store::Cluster| cluster.created_by == NOBODY && cluster.server.starts_with(LOOPBACK);
    if let Some(earlier) = clusters.iter().filter(simulated).find(|cluster| cluster.name == name) {
        store.remove_cluster(&earlier.id).await?;
        if let Ok(id) = earlier.id.parse() {
            // It may not be in the fleet at all.
            let _ = fleet.remove(id);
        }
    }
    let connection = fleet::Connection::Kubeconfig { kubeconfig, context: None };
    // It runs in this process.
    match fleet.check(&connection).await {
        Ok(reached) => register(store, fleet, name, reached, &connection, impersonate).await,
        Err(reason) => {
            tracing::error!(name, %reason, "a simulated cluster does not answer");
            Ok(())
        }
    }
}

async fn register(
    store: &Store,
    fleet: &Fleet,
    name: &str,
    reached: fleet::Reached,
    connection: &fleet::Connection,
    impersonate: bool,
) -> Result<(), StoreError> {
    let (kind, kubeconfig) = match connection {
        fleet::Connection::Kubeconfig { kubeconfig, .. } => (store::Connection::Kubeconfig, Some(kubeconfig)),
        fleet::Connection::InCluster => (store::Connection::InCluster, None),
    };
    let cluster = store::Cluster {
        id: new_id()?,
        name: name.to_owned(),
        connection: kind,
        context: reached.context,
        server: reached.server,
        created_at: clock::now(),
        created_by: NOBODY.to_owned(),
        impersonate: false,
        namespaces: Vec::new(),
    };
    let _turn = fleet.turn().await;
    let cluster = match store.add_cluster(&cluster, kubeconfig).await {
        Ok(cluster) => cluster,
        Err(StoreError::NameTaken) => {
            tracing::warn!(name, "another cluster has this name: rename it, and restart to see this one");
            return Ok(());
        }
        // Somebody registered it while it was asked.
        Err(StoreError::InClusterTaken(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    if let Ok(id) = cluster.id.parse::<ClusterId>() {
        let options = fleet::WatchOptions { as_person: impersonate || cluster.impersonate, namespaces: Vec::new() };
        fleet.add_with(id, name, connection, &options).await;
    }
    tracing::info!(
        name,
        server = cluster.server,
        by_person = impersonate || cluster.impersonate,
        "registered a cluster"
    );
    Ok(())
}
