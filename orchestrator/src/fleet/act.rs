//! Actions on objects, by Flux's own annotations and fields.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::time::timeout;

use crate::clock;
use crate::kube::{Client, Fault, REQUESTED_AT, Seen};

use super::cluster::Cluster;
use super::held::Key;
use super::model::{Action, Change, Kind, ObjectSummary};
use super::tree;

/// Requests one install or upgrade of a HelmRelease, even without changes.
const FORCE_AT: &str = "reconcile.fluxcd.io/forceAt";
/// Resets the failure counts of a HelmRelease.
const RESET_AT: &str = "reconcile.fluxcd.io/resetAt";

/// How long to wait for a source's reconciliation before reconciling the object anyway.
const SOURCE: Duration = Duration::from_secs(4);

/// Performs an action on an object. It is known to exist, except where the cluster decides `by_person`: then nothing of the cache
/// counts before the cluster has shown the object to the person.
///
/// # Errors
/// Why it failed.
pub(super) async fn act(
    cluster: &Cluster,
    client: &Client,
    key: &Key,
    action: Action,
    by_person: bool,
    changes: broadcast::Receiver<Arc<Change>>,
) -> Result<ObjectSummary, Fault> {
    let kind = key.0;
    let refused = match action {
        Action::Force | Action::Reset if kind != Kind::HelmRelease => "only a HelmRelease can be forced or reset",
        Action::Reconcile { .. } if !kind.is_reconciled_on_request() => {
            "its controller looks at it by itself, and not on request"
        }
        Action::Suspend | Action::Resume if !kind.can_be_suspended() => "objects of this kind cannot be suspended",
        Action::Reconcile { .. } | Action::Force | Action::Reset | Action::Suspend | Action::Resume => "",
    };
    if !refused.is_empty() {
        return Err(Fault::Refused(format!("{kind}: {refused}")));
    }
    // What follows reads the cache, which was read with the orchestrator's own account: its answers would tell whether a hidden
    // object exists, whether it is suspended, and its source. The other actions ask the cluster first in any case.
    if by_person && !matches!(action, Action::Suspend | Action::Resume) {
        look(cluster, client, key).await?;
    }
    match action {
        Action::Suspend => change(cluster, client, key, &suspend(true)).await,
        Action::Resume => change(cluster, client, key, &suspend(false)).await,
        Action::Force => request_reconciliation(cluster, client, key, Some(FORCE_AT)).await,
        Action::Reset => request_reconciliation(cluster, client, key, Some(RESET_AT)).await,
        Action::Reconcile { with_source } => {
            refuse_suspended(cluster, key)?;
            if with_source {
                source_first(cluster, client, key, by_person, changes).await?;
            }
            request_reconciliation(cluster, client, key, None).await
        }
    }
}

// By the cached state; the cluster itself decides in the end.
fn refuse_suspended(cluster: &Cluster, key: &Key) -> Result<(), Fault> {
    let suspended = cluster.objects().get(key).is_some_and(|held| held.suspended);
    if suspended {
        return Err(Fault::Refused("it is suspended: resume it, and it will be reconciled".to_owned()));
    }
    Ok(())
}

/// Requests a reconciliation; `annotation` is a further annotation, set to the same token.
async fn request_reconciliation(
    cluster: &Cluster,
    client: &Client,
    key: &Key,
    annotation: Option<&str>,
) -> Result<ObjectSummary, Fault> {
    refuse_suspended(cluster, key)?;
    let (mark, mut patch) = request();
    if let (Some(annotation), Some(annotations)) =
        (annotation, patch.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut))
    {
        annotations.insert(annotation.to_owned(), mark.into());
    }
    change(cluster, client, key, &patch).await
}

fn suspend(suspend: bool) -> Value {
    json!({"spec": {"suspend": suspend}})
}

/// A request for reconciliation, and the token by which its completion is recognized.
fn request() -> (String, Value) {
    let mark = clock::text(clock::now());
    let patch = json!({"metadata": {"annotations": {REQUESTED_AT: mark}}});
    (mark, patch)
}

// Reconciles the sources one after another, since one feeds the next. Does not wait for slow ones: when a source has a new artifact,
// Flux itself reconciles the object.
async fn source_first(
    cluster: &Cluster,
    client: &Client,
    key: &Key,
    by_person: bool,
    mut changes: broadcast::Receiver<Arc<Change>>,
) -> Result<(), Fault> {
    let mut sources = tree::sources(&cluster.objects(), key);
    if by_person {
        look_at_sources(cluster, client, key).await?;
    }
    sources.retain(|source| cluster.objects().get(source).is_some_and(|held| !held.suspended && !held.fixed));
    for source in sources {
        let (mark, patch) = request();
        change(cluster, client, &source, &patch).await?;
        let handled = || {
            let objects = cluster.objects();
            objects.get(&source).is_none_or(|held| held.handled.as_deref() == Some(mark.as_str()))
        };
        let seen_to = async {
            while !handled() {
                // Lagging is harmless: only the cached state counts.
                if let Err(broadcast::error::RecvError::Closed) = changes.recv().await {
                    return;
                }
            }
        };
        let _ = timeout(SOURCE, seen_to).await;
    }
    Ok(())
}

/// Asks the cluster for the sources of an object: first for the one that it names, which names the next, so that a hidden chart's own source
/// is not revealed. One that is not there is asked for as well: else the answer would tell which ones are.
async fn look_at_sources(cluster: &Cluster, client: &Client, key: &Key) -> Result<(), Fault> {
    let mut at = key.clone();
    // A release's chart, and where that comes from.
    for _ in 0..2 {
        let named = tree::named_source(&cluster.objects(), &at);
        let Some(source) = named else { break };
        match look(cluster, client, &source).await {
            Ok(()) => at = source,
            Err(Fault::NotFound(_)) => break,
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

/// Asks the cluster for an object, only to learn whether it shows it.
async fn look(cluster: &Cluster, client: &Client, key: &Key) -> Result<(), Fault> {
    client.ask_bytes(&path(cluster, key)?).await.map(drop)
}

async fn change(cluster: &Cluster, client: &Client, key: &Key, patch: &Value) -> Result<ObjectSummary, Fault> {
    let seen: Seen = client.change(&path(cluster, key)?, patch).await?;
    Ok(cluster.refreshed(key.0, &seen))
}

fn path(cluster: &Cluster, key: &Key) -> Result<String, Fault> {
    let (kind, namespace, name) = key;
    let served = cluster.served(*kind).ok_or_else(|| cluster.absence(key))?;
    Ok(served.path(namespace, name))
}
