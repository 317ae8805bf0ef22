//! The status of what a Flux object applied: each object is read from the cluster on request, workloads with their pods.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::clock;
use crate::kube::{Client, Fault, Seen, ServedKind, served_kinds};

use super::cluster::Cluster;
use super::held::{self, Held, Key};
use super::kstatus;
use super::model::{Applied, AppliedObject, AppliedStatus, InventoryEntry, Kind, Pod};
use super::pods;

/// The time limit for all of it; what has not been read by then is unknown.
pub(super) const PATIENCE: Duration = Duration::from_secs(12);
/// The most objects that are read.
const OBJECTS_MOST: usize = 200;
/// The most groups and versions that are looked up.
const GROUPS_MOST: usize = 40;
/// How many requests run at a time.
const ASKED_AT_ONCE: usize = 8;
/// The most pods that are shown, in total.
const PODS_MOST: usize = 200;
/// The only kind that is never read.
const SECRET: (&str, &str) = ("", "Secret");

/// The status of each object that an object applied, most urgent first.
///
/// # Errors
/// Why the object itself cannot be read. Other objects that cannot be read are unknown, with the reason.
pub(super) async fn read(cluster: &Cluster, client: &Client, key: &Key) -> Result<Applied, Fault> {
    let deadline = Instant::now() + PATIENCE;
    let late = |_| Fault::late(PATIENCE.as_secs());
    // Two users at a time: each may cause hundreds of requests.
    let _permit = timeout_at(deadline, cluster.inventory_permits.acquire()).await.map_err(late)?;
    let inventory = timeout_at(deadline, inventory(cluster, client, key)).await.map_err(late)??;
    let left = inventory.len().saturating_sub(OBJECTS_MOST);
    let entries: Vec<InventoryEntry> = inventory.into_iter().take(OBJECTS_MOST).collect();
    let served = served(client, &entries, deadline).await;
    let reads = entries.into_iter().map(|entry| read_entry(cluster, client, &served, entry, deadline));
    let mut items: Vec<AppliedObject> = stream::iter(reads).buffered(ASKED_AT_ONCE).collect().await;
    bound_pods(&mut items);
    items.sort_by_key(|item| item.status);
    Ok(Applied { items, left, read_at: clock::now() })
}

/// The current inventory of an object.
pub(super) async fn inventory(cluster: &Cluster, client: &Client, key: &Key) -> Result<Vec<InventoryEntry>, Fault> {
    let (kind, namespace, name): (Kind, &str, &str) = (key.0, &key.1, &key.2);
    let served = cluster.served(kind).ok_or_else(|| cluster.absence(key))?;
    let seen: Seen = client.ask(&served.path(namespace, name)).await?;
    Ok(held::entries(kind, &seen).filter_map(|(version, id)| held::entry(&version, &id)).collect())
}

/// The served kinds of each group and version, or why they are not known.
type Groups = BTreeMap<(String, String), Result<Vec<ServedKind>, Fault>>;

async fn served(client: &Client, entries: &[InventoryEntry], deadline: Instant) -> Groups {
    let wanted: BTreeSet<(String, String)> = entries
        .iter()
        .filter(|entry| is_read(entry))
        .map(|entry| (entry.group.clone(), entry.version.clone()))
        .collect();
    let asked = wanted.into_iter().take(GROUPS_MOST).map(|(group, version)| async move {
        let found = timeout_at(deadline, served_kinds(client, &group, &version)).await;
        let found = found.unwrap_or_else(|_| Err(Fault::late(PATIENCE.as_secs())));
        ((group, version), found)
    });
    stream::iter(asked).buffer_unordered(ASKED_AT_ONCE).collect().await
}

/// Returns true if objects of this kind are read at all.
pub(super) fn is_read(entry: &InventoryEntry) -> bool {
    (entry.group.as_str(), entry.kind.as_str()) != SECRET
}

/// The path of one object.
pub(super) fn path(served_kinds: &[ServedKind], entry: &InventoryEntry) -> Option<String> {
    let served_kind = served_kinds.iter().find(|served_kind| served_kind.kind == entry.kind)?;
    Some(served_kind.path(&entry.namespace, &entry.name))
}

async fn read_entry(
    cluster: &Cluster,
    client: &Client,
    served: &Groups,
    entry: InventoryEntry,
    deadline: Instant,
) -> AppliedObject {
    let bare = |status, message: String, entry| AppliedObject {
        entry,
        status,
        message,
        pods: Vec::new(),
        pods_fault: None,
        more_pods: false,
    };
    if !is_read(&entry) {
        return bare(AppliedStatus::Unknown, "Secrets are not read".to_owned(), entry);
    }
    let path = match served.get(&(entry.group.clone(), entry.version.clone())) {
        Some(Ok(served_kinds)) => {
            path(served_kinds, &entry).ok_or_else(|| Fault::NotFound("the cluster does not serve this kind".to_owned()))
        }
        // The group or its version was removed, and the object with it.
        Some(Err(Fault::NotFound(_))) => Err(Fault::NotFound("the cluster does not serve this kind".to_owned())),
        Some(Err(fault)) => Err(fault.clone()),
        None => Err(Fault::Refused(format!("only {GROUPS_MOST} groups of kinds are looked up"))),
    };
    let read = async {
        let object: Value = client.ask(&path?).await?;
        Ok(object)
    };
    let read = timeout_at(deadline, read).await.unwrap_or_else(|_| Err(Fault::late(PATIENCE.as_secs())));
    let object = match read {
        Ok(object) => object,
        Err(Fault::NotFound(_)) => {
            return bare(AppliedStatus::Missing, "the cluster does not have it".to_owned(), entry);
        }
        Err(fault) => return bare(AppliedStatus::Unknown, fault.to_string(), entry),
    };
    let (status, message) = flux(cluster, &entry, &object)
        .unwrap_or_else(|| kstatus::judge(&entry.group, &entry.kind, &object, clock::now()));
    let mut item = bare(status, message, entry);
    if let Some(selector) = pods::selector(&item.entry.group, &item.entry.kind, &object) {
        let asked = timeout_at(deadline, pods::of(client, &item.entry.namespace, &selector)).await;
        match asked.unwrap_or_else(|_| Err(Fault::late(PATIENCE.as_secs()))) {
            Ok((pods, more)) => (item.pods, item.more_pods) = (pods, more),
            Err(fault) => item.pods_fault = Some(fault.to_string()),
        }
    }
    item
}

/// Flux objects get the same status as everywhere else here.
fn flux(cluster: &Cluster, entry: &InventoryEntry, object: &Value) -> Option<(AppliedStatus, String)> {
    let kind: Kind = entry.kind.parse().ok().filter(|kind: &Kind| kind.group() == entry.group)?;
    let seen: Seen = serde_json::from_value(object.clone()).ok()?;
    let held = Held::new(kind, &seen, &cluster.interner.intern(&entry.version), &cluster.interner);
    Some((held.status.into(), held.message.to_string()))
}

// Drops the pods of healthy workloads first: they matter least.
fn bound_pods(items: &mut [AppliedObject]) {
    let mut left = PODS_MOST;
    let mut order: Vec<&mut AppliedObject> = items.iter_mut().collect();
    order.sort_by_key(|item| item.status);
    for item in order {
        item.more_pods |= item.pods.len() > left;
        item.pods.truncate(left);
        left -= item.pods.len();
    }
}

/// The last log lines of a container, in a pod of a workload that the object applied.
///
/// # Errors
/// Why it failed.
pub(super) async fn log(cluster: &Cluster, client: &Client, key: &Key, of: &pods::Container) -> Result<String, Fault> {
    let not_its_own =
        || Fault::NotFound(format!("{} {} is not what {} {} applied", of.kind, of.workload, key.0, key.2));
    let inventory = inventory(cluster, client, key).await?;
    let same = |entry: &&InventoryEntry| {
        entry.kind == of.kind
            && entry.namespace == of.namespace
            && entry.name == of.workload
            && pods::has_pods(&entry.group, &entry.kind)
    };
    let entry = inventory.iter().find(same).ok_or_else(not_its_own)?;
    let served_kinds = served_kinds(client, &entry.group, &entry.version).await?;
    let object: Value = client.ask(&path(&served_kinds, entry).ok_or_else(not_its_own)?).await?;
    let selector = pods::selector(&entry.group, &entry.kind, &object).ok_or_else(not_its_own)?;
    let pod: Pod = pods::one(client, &of.namespace, &selector, &of.pod).await?;
    if !pod.containers.iter().any(|container| container.name == of.container) {
        return Err(Fault::NotFound(format!("the pod {} has no container {}", of.pod, of.container)));
    }
    pods::log(client, of).await
}
