//! One object in full, read from its cluster on request.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;

use crate::clock;
use crate::kube::{Client, Fault, Seen, segment};

use super::cluster::Cluster;
use super::held;
use super::history;
use super::kept::LAST_APPLIED;
use super::model::{Condition, Event, InventoryEntry, Kind, ObjectDetail, bounded};
use super::plain;

/// How many events are shown.
const EVENTS_MOST: usize = 50;
/// How many applied objects are shown.
const INVENTORY_MOST: usize = 10_000;
/// Shown instead of an object that is nested too deeply to parse.
const TOO_DEEP: &str = "# not shown: its values are nested more than 128 deep\n";

/// Reads an object and its events.
///
/// # Errors
/// Why the cluster does not return the object. Events that may not be read are left out.
pub(super) async fn read(
    cluster: &Cluster,
    client: &Client,
    kind: Kind,
    namespace: &str,
    name: &str,
) -> Result<ObjectDetail, Fault> {
    let served = cluster.served(kind).ok_or_else(|| cluster.absence(&cluster.key(kind, namespace, name)))?;
    let path = served.path(namespace, name);
    let object = async {
        let read = client.ask_bytes(&path).await.and_then(|bytes| {
            let malformed = |_| Fault::Unreachable("the answer is not what a Kubernetes API answers".to_owned());
            let seen: Seen = serde_json::from_slice(&bytes).map_err(malformed)?;
            let marked: Marked = serde_json::from_slice(&bytes).map_err(malformed)?;
            // An object nested too deeply to parse is still an object.
            Ok((seen, marked.metadata, serde_json::from_slice::<Value>(&bytes).ok()))
        });
        // At once, and only if it still exists: it may be deleted while its events are read.
        read.map(|(seen, marks, object)| (cluster.refreshed(kind, &seen), seen, marks, object))
    };
    let (object, events, repository) =
        tokio::join!(object, events(client, kind, namespace, name), repository(cluster, client, kind, namespace, name));
    let (summary, seen, marks, object) = object?;
    let (events, events_fault) = match events {
        Ok(events) => (events, None),
        Err(fault) => (Vec::new(), Some(fault.to_string())),
    };
    let mut annotations = marks.annotations.unwrap_or_default();
    // It repeats the whole object, including what is left out elsewhere.
    annotations.remove(LAST_APPLIED);
    Ok(ObjectDetail {
        summary,
        conditions: seen.status.conditions.iter().map(condition).collect(),
        attempted: held::attempted(kind, &seen),
        history: history::past(kind, &seen.status.history),
        difference: history::difference(kind, &seen.status.history, repository.as_deref()),
        events,
        events_fault,
        inventory: inventory(kind, &seen),
        labels: marks.labels.unwrap_or_default(),
        annotations,
        yaml: object.map_or_else(|| TOO_DEEP.to_owned(), plain::yaml),
    })
}

fn condition(condition: &crate::kube::Condition) -> Condition {
    Condition {
        r#type: condition.topic.clone(),
        status: condition.status.clone(),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
        last_transition: condition.since(),
    }
}

fn inventory(kind: Kind, seen: &Seen) -> Vec<InventoryEntry> {
    held::entries(kind, seen).take(INVENTORY_MOST).filter_map(|(version, id)| held::entry(&version, &id)).collect()
}

/// The URL of the Git repository that a Kustomization's manifests come from, if the viewer may read it.
async fn repository(cluster: &Cluster, client: &Client, kind: Kind, namespace: &str, name: &str) -> Option<String> {
    if kind != Kind::Kustomization {
        return None;
    }
    let source = cluster.objects().get(&cluster.key(kind, namespace, name))?.source.clone()?;
    let served = cluster.served(source.0).filter(|_| source.0 == Kind::GitRepository)?;
    let object: Value = client.ask(&served.path(&source.1, &source.2)).await.ok()?;
    object.pointer("/spec/url").and_then(Value::as_str).map(str::to_owned)
}

async fn events(client: &Client, kind: Kind, namespace: &str, name: &str) -> Result<Vec<Event>, Fault> {
    let selector = format!("involvedObject.kind={kind},involvedObject.name={name}");
    let path =
        format!("/api/v1/namespaces/{}/events?limit=500&fieldSelector={}", segment(namespace), segment(&selector));
    let list: EventList = client.ask(&path).await?;
    let mut events: Vec<Event> = list.items.into_iter().map(Into::into).collect();
    events.sort_by_key(|event| std::cmp::Reverse(event.last_seen));
    events.truncate(EVENTS_MOST);
    Ok(events)
}

/// The fields that only the page of one object shows.
#[derive(Deserialize)]
struct Marked {
    metadata: Marks,
}

#[derive(Deserialize)]
struct Marks {
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct EventList {
    #[serde(default)]
    items: Vec<CoreEvent>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CoreEvent {
    r#type: Option<String>,
    reason: Option<String>,
    message: Option<String>,
    count: Option<u32>,
    first_timestamp: Option<String>,
    last_timestamp: Option<String>,
    event_time: Option<String>,
    source: EventSource,
    reporting_component: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct EventSource {
    component: Option<String>,
}

impl From<CoreEvent> for Event {
    fn from(event: CoreEvent) -> Self {
        let times = [event.last_timestamp, event.event_time, event.first_timestamp];
        let last_seen: Option<OffsetDateTime> = times.iter().flatten().find_map(|time| clock::parse(time));
        let source = event.source.component.filter(|source| !source.is_empty()).or(event.reporting_component);
        Self {
            r#type: event.r#type.unwrap_or_default(),
            reason: event.reason.unwrap_or_default(),
            message: bounded(&event.message.unwrap_or_default()).to_owned(),
            count: event.count.unwrap_or(1).max(1),
            last_seen,
            source: source.unwrap_or_default(),
        }
    }
}
