//! The life of a cluster's connection: connect, discover, watch, probe periodically, and reconnect.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::kube::{Client, Fault, Served, discover};

use super::backoff::Backoff;
use super::cluster::{Answer, Cluster};
use super::model::Kind;
use super::watching;

/// The time limit for the discovery of a cluster's kinds.
const DISCOVERY: Duration = Duration::from_secs(15);
/// The definition whose label holds the version of Flux.
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/";

/// Why a session ended without a fault.
enum End {
    /// A new session was requested, or the cluster serves other kinds than before.
    Reconnect,
    /// A kind is not found although discovery listed it.
    Vanished,
}

/// Keeps a session with a cluster, if it has a client, until it is stopped.
pub(super) fn begin(cluster: &Arc<Cluster>) {
    if let Some(client) = cluster.client.clone() {
        let task = keep_connected(Arc::clone(cluster), client);
        let ending = cluster.ending.clone();
        tokio::spawn(async move { ending.run_until_cancelled(task).await });
    }
}

async fn keep_connected(cluster: Arc<Cluster>, client: Client) {
    let mut backoff = Backoff::new(cluster.tuning.retry);
    loop {
        let pause = match session(&cluster, &client).await {
            Ok(End::Reconnect) => Duration::ZERO,
            Ok(End::Vanished) => backoff.next(),
            Err(fault) => {
                tracing::debug!(cluster = %cluster.id, reason = %fault, "a cluster cannot be reached");
                cluster.failed(&fault);
                backoff.next()
            }
        };
        let _ = timeout(pause, cluster.reconnect.notified()).await;
    }
}

/// The kinds to discover: a kind, its name and its group.
pub(super) fn wanted() -> [(Kind, &'static str, &'static str); 16] {
    Kind::ALL.map(|kind| (kind, kind.name(), kind.group()))
}

async fn session(cluster: &Arc<Cluster>, client: &Client) -> Result<End, Fault> {
    let answer = probe(cluster, client).await?;
    let served = kinds(client).await?;
    let flux = flux_version(cluster, client, &served).await;
    cluster.connected(&answer, flux, served.clone());
    // Dropped with the session, which stops the watches.
    let mut watches = JoinSet::new();
    for (kind, served) in &served {
        for scope in cluster.scopes() {
            watches.spawn(watching::watch(Arc::clone(cluster), client.clone(), *kind, scope, served.clone()));
        }
    }
    let mut discovered_at = Instant::now();
    loop {
        tokio::select! {
            () = cluster.reconnect.notified() => return Ok(End::Reconnect),
            Some(_) = watches.join_next() => return Ok(End::Vanished),
            () = sleep(cluster.tuning.probe) => {}
        }
        probe_with_retry(cluster, client).await?;
        // This finds kinds that are installed later, and those that move to another version.
        if discovered_at.elapsed() >= cluster.tuning.rediscover {
            discovered_at = Instant::now();
            if kinds(client).await.is_ok_and(|now| now != served) {
                return Ok(End::Reconnect);
            }
        }
    }
}

// One probe may be lost; the session ends after the second failure.
async fn probe_with_retry(cluster: &Cluster, client: &Client) -> Result<(), Fault> {
    let fault = match probe(cluster, client).await {
        Ok(answer) => {
            cluster.answered(&answer);
            return Ok(());
        }
        Err(fault) => fault,
    };
    cluster.failed(&fault);
    sleep(cluster.tuning.retry).await;
    let answer = probe(cluster, client).await?;
    cluster.answered(&answer);
    Ok(())
}

async fn probe(cluster: &Cluster, client: &Client) -> Result<Answer, Fault> {
    let patience = cluster.tuning.patience;
    let asked = Instant::now();
    let version = timeout(patience, client.version()).await.map_err(|_| Fault::late(patience.as_secs()))??;
    Ok(Answer { version, took: asked.elapsed() })
}

async fn kinds(client: &Client) -> Result<BTreeMap<Kind, Served>, Fault> {
    let found = timeout(DISCOVERY, discover(client, &wanted())).await;
    found.map_err(|_| Fault::late(DISCOVERY.as_secs()))?
}

// From a label of Flux's own definitions; unknown if these may not be read.
async fn flux_version(cluster: &Cluster, client: &Client, served: &BTreeMap<Kind, Served>) -> Option<String> {
    let served = served.get(&Kind::Kustomization).or_else(|| served.values().next())?;
    let path = format!("{DEFINITIONS}{}.{}", served.plural, served.group);
    let asked = timeout(cluster.tuning.patience, client.ask::<Definition>(&path)).await;
    let version = asked.ok()?.ok()?.metadata.labels.remove("app.kubernetes.io/version")?;
    Some(version.chars().filter(|char| !char.is_control()).take(64).collect())
}

#[derive(serde::Deserialize)]
struct Definition {
    metadata: Labelled,
}

#[derive(serde::Deserialize)]
struct Labelled {
    #[serde(default)]
    labels: BTreeMap<String, String>,
}
