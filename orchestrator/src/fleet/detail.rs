//! One object in full, read from its cluster at the moment of asking.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;

use crate::clock;
use crate::kube::{Client, Fault, Seen, segment};

use super::cluster::Cluster;
use super::held;
use super::model::{Condition, Event, InventoryEntry, Kind, ObjectDetail, bounded};
use super::plain;

/// How many events are shown.
const EVENTS_MOST: usize = 50;
/// How many things that were applied are shown.
const INVENTORY_MOST: usize = 10_000;
/// Repeats the whole object, with all that is left out elsewhere.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Reads an object and its events.
///
/// # Errors
/// Why the cluster does not show the object. Events that may not be read are left out.
pub(super) async fn read(
    cluster: &Cluster,
    client: &Client,
    kind: Kind,
    namespace: &str,
    name: &str,
) -> Result<ObjectDetail, Fault> {
    let gone = || Fault::NotFound(format!("{kind} {namespace}/{name}"));
    let served = cluster.served(kind).ok_or_else(gone)?;
    let path = served.path(namespace, name);
    let (object, events) = tokio::join!(client.ask::<Value>(&path), events(client, kind, namespace, name));
    let object = object?;
    let seen: Seen = Seen::deserialize(&object)
        .map_err(|_| Fault::Unreachable("the answer is not what a Kubernetes API answers".to_owned()))?;
    let summary = cluster.changed(kind, &seen);
    Ok(ObjectDetail {
        summary,
        conditions: seen.status.conditions.iter().map(condition).collect(),
        events: events.unwrap_or_default(),
        inventory: inventory(&seen),
        labels: texts(&object, "/metadata/labels"),
        annotations: texts(&object, "/metadata/annotations"),
        yaml: plain::yaml(object),
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

fn inventory(seen: &Seen) -> Vec<InventoryEntry> {
    held::entries(seen).take(INVENTORY_MOST).filter_map(|(version, id)| held::entry(&version, &id)).collect()
}

fn texts(object: &Value, pointer: &str) -> BTreeMap<String, String> {
    let texts = object.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
    let texts = texts.filter(|(name, _)| *name != LAST_APPLIED);
    texts.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
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
