//! What is held of a Flux object: what lists and trees show, compactly, and not the object.

use std::sync::Arc;

use time::OffsetDateTime;

use crate::clock;
use crate::kube::{Chart, Reference, Seen};

use super::model::{ClusterId, InventoryEntry, Kind, ObjectRef, ObjectSummary, Status, bounded};
use super::words::Words;

/// How many entries of an inventory are held for trees; pages of one object show more.
const INVENTORY_MOST: usize = 2000;
/// How many dependencies are held.
const DEPENDENCIES_MOST: usize = 50;

/// Which object it is, within its cluster.
pub(super) type Key = (Kind, Arc<str>, Arc<str>);

/// A Flux object, as it is held.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) status: Status,
    pub(super) suspended: bool,
    /// Whether its controller never has anything to say about it.
    pub(super) fixed: bool,
    pub(super) generation: i64,
    /// Its version in Kubernetes; 0 where that is no number.
    pub(super) version: u64,
    pub(super) updated: i64,
    pub(super) ready_since: Option<i64>,
    pub(super) api_version: Arc<str>,
    pub(super) message: Arc<str>,
    pub(super) revision: Option<Arc<str>>,
    pub(super) source: Option<Key>,
    /// The chart that was made for it.
    pub(super) chart: Option<Key>,
    pub(super) depends_on: Box<[(Arc<str>, Arc<str>)]>,
    /// What it has applied, a line each, as Flux writes it: version and id.
    pub(super) inventory: Box<str>,
    /// The last request to look at it that its controller has seen to.
    pub(super) handled: Option<Box<str>>,
}

impl Held {
    pub(super) fn new(kind: Kind, seen: &Seen, api_version: &Arc<str>, words: &Words) -> Self {
        let fixed = kind == Kind::HelmRepository && seen.spec.variant.as_deref() == Some("oci");
        let status = status(seen, fixed);
        let ready = seen.condition("Ready");
        let message = match ready {
            Some(ready) => bounded(&ready.message),
            None if fixed => "an OCI registry: charts are pulled from it as they are needed",
            None => "",
        };
        Self {
            status,
            suspended: seen.spec.suspend,
            fixed,
            generation: seen.generation,
            version: seen.version(),
            updated: clock::millis(updated(seen)),
            ready_since: ready
                .filter(|ready| ready.status == "True")
                .and_then(|ready| ready.since())
                .map(clock::millis),
            api_version: Arc::clone(api_version),
            message: words.one(message),
            revision: revision(kind, seen).map(|revision| words.one(bounded(revision))),
            source: source(kind, seen, words),
            chart: chart(kind, seen, words),
            depends_on: seen
                .spec
                .depends_on
                .iter()
                .take(DEPENDENCIES_MOST)
                .map(|other| {
                    let namespace = other.namespace.as_deref().unwrap_or_else(|| seen.namespace());
                    (words.one(namespace), words.one(&other.name))
                })
                .collect(),
            inventory: inventory(seen),
            handled: seen.status.last_handled_reconcile_at.as_deref().map(Into::into),
        }
    }

    /// Whether the two look the same to people. What has a new version only has been written without being changed.
    pub(super) fn looks_like(&self, other: &Self) -> bool {
        let plain = |held: &Self| (held.status, held.suspended, held.generation, held.ready_since);
        plain(self) == plain(other)
            && self.message == other.message
            && self.revision == other.revision
            && self.api_version == other.api_version
            && self.source == other.source
            && self.chart == other.chart
            && self.depends_on == other.depends_on
            && self.inventory == other.inventory
    }

    pub(super) fn summary(&self, cluster: ClusterId, cluster_name: &str, key: &Key) -> ObjectSummary {
        let (kind, namespace, name) = key;
        ObjectSummary {
            cluster,
            cluster_name: cluster_name.to_owned(),
            kind: *kind,
            namespace: namespace.to_string(),
            name: name.to_string(),
            status: self.status,
            message: self.message.to_string(),
            revision: self.revision.as_deref().map(str::to_owned),
            source: self.source.as_ref().map(reference),
            suspended: self.suspended,
            ready_since: self.ready_since.map(clock::from_millis),
            updated_at: clock::from_millis(self.updated),
            api_version: self.api_version.to_string(),
            generation: self.generation,
        }
    }

    /// What it has applied.
    pub(super) fn applied(&self) -> impl Iterator<Item = InventoryEntry> + '_ {
        self.inventory.lines().filter_map(|line| line.split_once(' ')).filter_map(|(version, id)| entry(version, id))
    }
}

fn reference((kind, namespace, name): &Key) -> ObjectRef {
    ObjectRef { kind: *kind, namespace: namespace.to_string(), name: name.to_string() }
}

/// Reads an entry as Flux writes it: `namespace_name_group_kind`, where a name may hold `__` for a colon.
pub(super) fn entry(version: &str, id: &str) -> Option<InventoryEntry> {
    let (namespace, rest) = id.split_once('_')?;
    let (rest, kind) = rest.rsplit_once('_')?;
    let (name, group) = rest.rsplit_once('_')?;
    Some(InventoryEntry {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.replace("__", ":"),
    })
}

/// What an object has applied, as Flux writes it; of a release whose controller keeps no inventory, the record of
/// the installation.
pub(super) fn entries(seen: &Seen) -> impl Iterator<Item = (String, String)> + '_ {
    let kept = seen.status.inventory.iter().flat_map(|inventory| &inventory.entries);
    let record = seen.status.history.first().filter(|_| seen.status.inventory.is_none()).map(|release| {
        let namespace = seen.status.storage_namespace.as_deref().unwrap_or_else(|| seen.namespace());
        let (name, number) = (&release.name, release.version);
        ("v1".to_owned(), format!("{namespace}_sh.helm.release.v1.{name}.v{number}__Secret"))
    });
    kept.map(|entry| (entry.v.clone(), entry.id.clone())).chain(record)
}

fn inventory(seen: &Seen) -> Box<str> {
    let mut lines = String::new();
    for (version, id) in entries(seen).take(INVENTORY_MOST) {
        // Both are words; anything else is not from Flux.
        if !version.contains(char::is_whitespace) && !id.contains(char::is_whitespace) {
            lines.push_str(&version);
            lines.push(' ');
            lines.push_str(&id);
            lines.push('\n');
        }
    }
    lines.into_boxed_str()
}

fn status(seen: &Seen, fixed: bool) -> Status {
    if seen.spec.suspend {
        return Status::Suspended;
    }
    if fixed {
        return Status::Ready;
    }
    let Some(ready) = seen.condition("Ready") else {
        let begun = !seen.status.conditions.is_empty() || seen.status.observed_generation > 0;
        return if begun { Status::Progressing } else { Status::Unknown };
    };
    // A request that nobody has seen to yet, or a change: whatever was said was said of something else.
    let asked = seen.requested.is_some() && seen.requested != seen.status.last_handled_reconcile_at;
    let changed = seen.status.observed_generation > 0 && seen.status.observed_generation < seen.generation;
    match ready.status.as_str() {
        "False" if !asked && !changed => Status::Failed,
        "True" if !asked && !changed => Status::Ready,
        _ => Status::Progressing,
    }
}

fn revision(kind: Kind, seen: &Seen) -> Option<&str> {
    let status = &seen.status;
    let found = match kind {
        Kind::Kustomization => status.last_applied_revision.as_ref().or(status.last_attempted_revision.as_ref()),
        Kind::HelmRelease => status
            .history
            .first()
            .map(|release| &release.chart_version)
            .or(status.last_applied_revision.as_ref())
            .or(status.last_attempted_revision.as_ref()),
        Kind::GitRepository | Kind::OciRepository | Kind::HelmRepository | Kind::HelmChart | Kind::Bucket => {
            status.artifact.as_ref().map(|artifact| &artifact.revision)
        }
    };
    found.map(String::as_str).filter(|revision| !revision.is_empty())
}

/// When it changed last, as far as it tells.
fn updated(seen: &Seen) -> OffsetDateTime {
    let said = [
        seen.status.artifact.as_ref().and_then(|artifact| artifact.last_update_time.as_deref()),
        seen.status.history.first().and_then(|release| release.last_deployed.as_deref()),
    ];
    let said = said.into_iter().flatten().filter_map(clock::parse);
    let conditions = seen.status.conditions.iter().filter_map(|condition| condition.since());
    said.chain(conditions).chain(seen.created).max().unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn source(kind: Kind, seen: &Seen, words: &Words) -> Option<Key> {
    let reference = match (kind, &seen.spec.chart) {
        (Kind::HelmRelease, Some(Chart::Template { spec })) => Some(&spec.source_ref),
        _ => seen.spec.source_ref.as_ref().or(seen.spec.chart_ref.as_ref()),
    };
    reference.and_then(|reference| resolve(reference, seen.namespace(), words))
}

fn resolve(reference: &Reference, namespace: &str, words: &Words) -> Option<Key> {
    let namespace = reference.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or(namespace);
    Some((reference.kind.parse().ok()?, words.one(namespace), words.one(&reference.name)))
}

fn chart(kind: Kind, seen: &Seen, words: &Words) -> Option<Key> {
    if kind != Kind::HelmRelease {
        return None;
    }
    let (namespace, name) = seen.status.helm_chart.as_deref()?.split_once('/')?;
    Some((Kind::HelmChart, words.one(namespace), words.one(name)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn held(kind: Kind, object: Value) -> Held {
        let seen: Seen = serde_json::from_value(object).unwrap();
        Held::new(kind, &seen, &"v1".into(), &Words::default())
    }

    fn kustomization(spec: Value, status: Value) -> Held {
        let annotations = json!({"reconcile.fluxcd.io/requestedAt": "later"});
        let metadata = json!({"name": "apps", "namespace": "flux-system", "generation": 2, "annotations": annotations});
        held(Kind::Kustomization, json!({"metadata": metadata, "spec": spec, "status": status}))
    }

    fn ready(status: &str) -> Value {
        json!([{"type": "Ready", "status": status, "reason": "R", "message": "M",
                "lastTransitionTime": "2026-01-31T10:00:00Z"}])
    }

    #[test]
    fn the_status_is_what_the_controller_says_of_this_generation_and_request() {
        let status = |conditions: Value, generation: i64, handled: &str| {
            let status =
                json!({"conditions": conditions, "observedGeneration": generation, "lastHandledReconcileAt": handled});
            kustomization(json!({}), status).status
        };
        assert_eq!(status(ready("True"), 2, "later"), Status::Ready);
        assert_eq!(status(ready("False"), 2, "later"), Status::Failed);
        assert_eq!(status(ready("Unknown"), 2, "later"), Status::Progressing);
        assert_eq!(status(ready("True"), 1, "later"), Status::Progressing);
        assert_eq!(status(ready("False"), 2, "before"), Status::Progressing);
        assert_eq!(status(json!([]), 2, "later"), Status::Progressing);
        assert_eq!(status(json!([]), 0, "later"), Status::Unknown);
    }

    #[test]
    fn what_is_suspended_is_that_whatever_else_it_is() {
        let held = kustomization(json!({"suspend": true}), json!({"conditions": ready("False")}));
        assert_eq!((held.status, held.suspended), (Status::Suspended, true));
    }

    #[test]
    fn an_oci_registry_has_nothing_to_say_and_is_ready() {
        let metadata = json!({"name": "registry", "namespace": "a"});
        let held = held(Kind::HelmRepository, json!({"metadata": metadata, "spec": {"type": "oci"}}));
        assert_eq!((held.status, held.fixed), (Status::Ready, true));
    }

    #[test]
    fn inventory_entries_are_read_as_flux_writes_them() {
        let read = |id| entry("v1", id).map(|entry| (entry.namespace, entry.name, entry.group, entry.kind));
        let expected = |parts: [&str; 4]| {
            let [namespace, name, group, kind] = parts.map(str::to_owned);
            Some((namespace, name, group, kind))
        };
        assert_eq!(read("shop_backend_apps_Deployment"), expected(["shop", "backend", "apps", "Deployment"]));
        assert_eq!(read("_shop__Namespace"), expected(["", "shop", "", "Namespace"]));
        let role = expected(["", "system:view", "rbac.authorization.k8s.io", "ClusterRole"]);
        assert_eq!(read("_system__view_rbac.authorization.k8s.io_ClusterRole"), role);
        assert_eq!(read("nonsense"), None);
    }

    #[test]
    fn a_release_without_an_inventory_shows_the_record_of_its_installation() {
        let metadata = json!({"name": "podinfo", "namespace": "apps"});
        let history = json!([{"name": "podinfo", "version": 3, "chartVersion": "6.9.2"}]);
        let held = held(Kind::HelmRelease, json!({"metadata": metadata, "status": {"history": history}}));
        let applied: Vec<_> = held.applied().map(|entry| (entry.kind, entry.namespace, entry.name)).collect();
        assert_eq!(applied, [("Secret".into(), "apps".into(), "sh.helm.release.v1.podinfo.v3".into())]);
        assert_eq!(held.revision.as_deref(), Some("6.9.2"));
    }

    #[test]
    fn a_chart_comes_from_its_repository_and_a_release_from_its_chart() {
        let metadata = json!({"name": "loki", "namespace": "monitoring"});
        let chart = json!({"spec": {"chart": "loki", "sourceRef": {"kind": "HelmRepository", "name": "grafana"}}});
        let release = json!({"metadata": metadata, "spec": {"chart": chart}, "status": {"helmChart": "monitoring/monitoring-loki"}});
        let held = held(Kind::HelmRelease, release);
        assert_eq!(held.source.map(|source| (source.0, source.2)), Some((Kind::HelmRepository, "grafana".into())));
        assert_eq!(held.chart.map(|chart| (chart.0, chart.2)), Some((Kind::HelmChart, "monitoring-loki".into())));
    }
}
