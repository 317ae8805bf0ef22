//! The cached form of a Flux object: compact, with only what lists and trees show.

use std::borrow::Cow;
use std::sync::Arc;

use time::OffsetDateTime;

use crate::clock;
use crate::kube::{Chart, Condition, Reference, Release, Seen};

use super::interner::Interner;
use super::model::{ClusterId, InventoryEntry, Kind, ObjectRef, ObjectSummary, Status, bounded};

/// How many inventory entries are cached for trees; the page of one object shows more.
const INVENTORY_MOST: usize = 2000;
/// How many dependencies are cached.
const DEPENDENCIES_MOST: usize = 50;

/// An object's key within its cluster.
pub(super) type Key = (Kind, Arc<str>, Arc<str>);

/// A cached Flux object.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) status: Status,
    pub(super) suspended: bool,
    /// Whether its controller never reports a status.
    pub(super) fixed: bool,
    pub(super) generation: i64,
    /// Its resource version; 0 if that is not a number.
    pub(super) version: u64,
    pub(super) updated: i64,
    pub(super) ready_since: Option<i64>,
    pub(super) api_version: Arc<str>,
    pub(super) message: Arc<str>,
    pub(super) revision: Option<Arc<str>>,
    pub(super) source: Option<Key>,
    /// The chart that was created for it.
    pub(super) chart: Option<Key>,
    pub(super) depends_on: Box<[(Arc<str>, Arc<str>)]>,
    /// What it has applied, one entry a line, as Flux writes it: version and id.
    pub(super) inventory: Box<str>,
    /// The last reconciliation request that its controller has handled.
    pub(super) handled: Option<Box<str>>,
}

impl Held {
    pub(super) fn new(kind: Kind, seen: &Seen, api_version: &Arc<str>, interner: &Interner) -> Self {
        let registry = kind == Kind::HelmRepository && seen.spec.variant.as_deref() == Some("oci");
        // Current versions of these kinds have no status at all.
        let silent = matches!(kind, Kind::Alert | Kind::Provider) && seen.status.conditions.is_empty();
        let fixed = registry || silent;
        let status = status(kind, seen, fixed);
        let ready = seen.condition("Ready");
        let unreadable = seen
            .malformed
            .map(|malformed| format!("unreadable: {} is not of the form that Flux gives it", malformed.0));
        let message = match (&unreadable, ready) {
            (Some(reason), _) => reason.as_str(),
            (None, Some(_)) if status == Status::Terminating => "it is being deleted",
            (None, Some(ready)) => bounded(&ready.message),
            (None, None) if registry => "an OCI registry: charts are pulled from it as they are needed",
            (None, None) => "",
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
            message: interner.intern(message),
            revision: revision(kind, seen).map(|revision| interner.intern(bounded(&revision))),
            source: source(kind, seen, interner),
            chart: chart(kind, seen, interner),
            depends_on: seen
                .spec
                .depends_on
                .iter()
                .take(DEPENDENCIES_MOST)
                .map(|other| {
                    let namespace = other.namespace.as_deref().unwrap_or_else(|| seen.namespace());
                    (interner.intern(namespace), interner.intern(&other.name))
                })
                .collect(),
            inventory: inventory(kind, seen),
            handled: seen.status.last_handled_reconcile_at.as_deref().map(Into::into),
        }
    }

    /// Returns true if the two look the same to people. A new version alone does not count as a change.
    pub(super) fn is_displayed_like(&self, other: &Self) -> bool {
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

    /// The objects that it has applied.
    pub(super) fn applied(&self) -> impl Iterator<Item = InventoryEntry> + '_ {
        self.inventory.lines().filter_map(|line| line.split_once(' ')).filter_map(|(version, id)| entry(version, id))
    }
}

fn reference((kind, namespace, name): &Key) -> ObjectRef {
    ObjectRef { kind: *kind, namespace: namespace.to_string(), name: name.to_string() }
}

/// Parses an entry as Flux writes it: `namespace_name_group_kind`, where `__` in a name stands for a colon.
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

/// The inventory of an object, as Flux writes it; for a HelmRelease without an inventory, the record of the release.
pub(super) fn entries(kind: Kind, seen: &Seen) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    let kept = seen.status.inventory.iter().flat_map(|inventory| &inventory.entries);
    let newest = seen.status.history.first().filter(|_| kind == Kind::HelmRelease && seen.status.inventory.is_none());
    let record = newest.filter(|release| !release.name.is_empty()).map(|release| {
        let namespace = seen.status.storage_namespace.as_deref().unwrap_or_else(|| seen.namespace());
        let (name, number) = (&release.name, release.version);
        ("v1".into(), format!("{namespace}_sh.helm.release.v1.{name}.v{number}__Secret").into())
    });
    kept.map(|entry| (entry.v.as_str().into(), entry.id.as_str().into())).chain(record)
}

fn inventory(kind: Kind, seen: &Seen) -> Box<str> {
    let mut lines = String::new();
    for (version, id) in entries(kind, seen).take(INVENTORY_MOST) {
        // Neither may contain whitespace; anything else is not from Flux.
        if !version.contains(char::is_whitespace) && !id.contains(char::is_whitespace) {
            lines.push_str(&version);
            lines.push(' ');
            lines.push_str(&id);
            lines.push('\n');
        }
    }
    lines.into_boxed_str()
}

/// Derives the status like Flux's own tools (kstatus): deletion first, then the conditions of this generation. Each condition has its
/// own generation: controllers raise `observedGeneration` of the whole status only on success.
fn status(kind: Kind, seen: &Seen, fixed: bool) -> Status {
    if seen.deleting {
        return Status::Terminating;
    }
    if seen.malformed.is_some() {
        return Status::Unknown;
    }
    if seen.spec.suspend {
        return Status::Suspended;
    }
    if fixed {
        return Status::Ready;
    }
    // A request that has not been handled yet: the conditions are older than it.
    let handled = kind.is_reconciled_on_request();
    let asked = handled && seen.requested.is_some() && seen.requested != seen.status.last_handled_reconcile_at;
    let current = |condition: &Condition| {
        let whole = Some(seen.status.observed_generation).filter(|generation| *generation > 0);
        condition.observed_generation.or(whole).is_none_or(|generation| generation >= seen.generation)
    };
    let says = |topic: &str, status: &str| {
        seen.condition(topic).is_some_and(|condition| condition.status == status && current(condition))
    };
    let Some(ready) = seen.condition("Ready") else {
        if says("Stalled", "True") {
            return Status::Failed;
        }
        let begun = !seen.status.conditions.is_empty() || seen.status.observed_generation > 0;
        return if begun { Status::Progressing } else { Status::Unknown };
    };
    if asked {
        return Status::Progressing;
    }
    if says("Stalled", "True") || says("Ready", "False") {
        // Also during a retry.
        return Status::Failed;
    }
    if ready.status == "True" && current(ready) && !says("Reconciling", "True") {
        return Status::Ready;
    }
    Status::Progressing
}

/// The revision that has been applied, installed or fetched: never one that was only attempted.
fn revision(kind: Kind, seen: &Seen) -> Option<String> {
    let status = &seen.status;
    let found = match kind {
        Kind::Kustomization | Kind::ResourceSet | Kind::FluxInstance => status.last_applied_revision.clone(),
        Kind::HelmRelease => {
            let good = |release: &&Release| matches!(release.status.as_str(), "" | "deployed" | "superseded");
            let installed = status.history.iter().find(good).map(|release| release.chart_version.clone());
            installed.or_else(|| status.last_applied_revision.clone())
        }
        Kind::ImagePolicy => status
            .latest_ref
            .as_ref()
            .filter(|image| !image.tag.is_empty())
            .map(|image| format!("{}:{}", image.name, image.tag)),
        Kind::GitRepository
        | Kind::OciRepository
        | Kind::HelmRepository
        | Kind::HelmChart
        | Kind::Bucket
        | Kind::ExternalArtifact => status.artifact.as_ref().map(|artifact| artifact.revision.clone()),
        Kind::ImageRepository | Kind::ImageUpdateAutomation | Kind::Receiver | Kind::Alert | Kind::Provider => None,
    };
    found.filter(|revision| !revision.is_empty())
}

/// The last attempted revision, if it differs from the applied one.
pub(super) fn attempted(kind: Kind, seen: &Seen) -> Option<String> {
    let tried = match kind {
        Kind::HelmRelease => {
            let tried = seen.status.history.first().map(|release| &release.chart_version);
            tried.or(seen.status.last_attempted_revision.as_ref())
        }
        Kind::Kustomization | Kind::ResourceSet | Kind::FluxInstance => seen.status.last_attempted_revision.as_ref(),
        Kind::GitRepository
        | Kind::OciRepository
        | Kind::HelmRepository
        | Kind::HelmChart
        | Kind::Bucket
        | Kind::ExternalArtifact
        | Kind::ImageRepository
        | Kind::ImagePolicy
        | Kind::ImageUpdateAutomation
        | Kind::Receiver
        | Kind::Alert
        | Kind::Provider => None,
    };
    tried.filter(|tried| !tried.is_empty() && revision(kind, seen).as_ref() != Some(*tried)).cloned()
}

/// When it last changed, as far as the object shows.
fn updated(seen: &Seen) -> OffsetDateTime {
    let times = [
        seen.status.artifact.as_ref().and_then(|artifact| artifact.last_update_time.as_deref()),
        seen.status.history.first().and_then(|entry| entry.last_deployed.as_deref()),
    ];
    let times = times.into_iter().flatten().filter_map(clock::parse);
    let conditions = seen.status.conditions.iter().filter_map(|condition| condition.since());
    times.chain(conditions).chain(seen.created).max().unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn source(kind: Kind, seen: &Seen, interner: &Interner) -> Option<Key> {
    let reference = match (kind, &seen.spec.chart) {
        (Kind::HelmRelease, Some(Chart::Template { spec })) => Some(&spec.source_ref),
        _ => seen.spec.source_ref.as_ref().or(seen.spec.chart_ref.as_ref()).or(seen.spec.image_ref.as_ref()),
    };
    // A policy names its repository without a kind.
    let unnamed = if kind == Kind::ImagePolicy { Kind::ImageRepository } else { Kind::GitRepository };
    reference.and_then(|reference| resolve(reference, unnamed, seen.namespace(), interner))
}

fn resolve(reference: &Reference, unnamed: Kind, namespace: &str, interner: &Interner) -> Option<Key> {
    let namespace = reference.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or(namespace);
    let kind = if reference.kind.is_empty() { unnamed } else { reference.kind.parse().ok()? };
    Some((kind, interner.intern(namespace), interner.intern(&reference.name)))
}

fn chart(kind: Kind, seen: &Seen, interner: &Interner) -> Option<Key> {
    if kind != Kind::HelmRelease {
        return None;
    }
    let (namespace, name) = seen.status.helm_chart.as_deref()?.split_once('/')?;
    Some((Kind::HelmChart, interner.intern(namespace), interner.intern(name)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn held(kind: Kind, object: Value) -> Held {
        let seen: Seen = serde_json::from_value(object).unwrap();
        Held::new(kind, &seen, &"v1".into(), &Interner::default())
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

    /// The status of an object of generation 2; conditions are `(type, status, reason, generation)`.
    fn status_of(kind: Kind, conditions: &[(&str, &str, &str, i64)], observed: i64) -> Status {
        let conditions: Vec<Value> = conditions
            .iter()
            .map(|(topic, status, reason, generation)| {
                let mut condition = json!({"type": topic, "status": status, "reason": reason, "message": "M"});
                if *generation > 0 {
                    condition["observedGeneration"] = (*generation).into();
                }
                condition
            })
            .collect();
        let metadata = json!({"name": "a", "namespace": "b", "generation": 2});
        let status = json!({"conditions": conditions, "observedGeneration": observed});
        held(kind, json!({"metadata": metadata, "spec": {}, "status": status})).status
    }

    #[test]
    fn statuses_of_every_controller_mean_what_fluxs_own_tools_say() {
        use Kind as K;
        use Status::{Failed, Progressing, Ready, Unknown};
        for (kind, conditions, observed, expected) in [
            // kustomize-controller: a new path that does not exist; the whole status stays at the last success.
            (K::Kustomization, &[("Ready", "False", "ArtifactFailed", 2)][..], 1, Failed),
            (
                K::Kustomization,
                &[("Reconciling", "True", "ProgressingWithRetry", 2), ("Ready", "False", "BuildFailed", 2)],
                1,
                Failed,
            ),
            (
                K::Kustomization,
                &[("Reconciling", "True", "Progressing", 2), ("Ready", "Unknown", "Progressing", 2)],
                1,
                Progressing,
            ),
            (K::Kustomization, &[("Ready", "True", "ReconciliationSucceeded", 2)], 2, Ready),
            (K::Kustomization, &[("Ready", "True", "ReconciliationSucceeded", 1)], 1, Progressing),
            (K::Kustomization, &[("Ready", "False", "HealthCheckFailed", 1)], 1, Progressing),
            (K::Kustomization, &[("Ready", "False", "DependencyNotReady", 2)], -1, Failed),
            // helm-controller
            (
                K::HelmRelease,
                &[
                    ("Stalled", "True", "RetriesExceeded", 2),
                    ("Ready", "False", "UpgradeFailed", 2),
                    ("Released", "False", "UpgradeFailed", 2),
                ],
                2,
                Failed,
            ),
            (
                K::HelmRelease,
                &[("Reconciling", "True", "Progressing", 2), ("Ready", "Unknown", "Progressing", 2)],
                1,
                Progressing,
            ),
            (
                K::HelmRelease,
                &[("Ready", "True", "UpgradeSucceeded", 2), ("Released", "True", "UpgradeSucceeded", 2)],
                2,
                Ready,
            ),
            // source-controller
            (
                K::GitRepository,
                &[("Reconciling", "True", "Progressing", 2), ("Ready", "True", "Succeeded", 1)],
                1,
                Progressing,
            ),
            (
                K::GitRepository,
                &[
                    ("FetchFailed", "True", "GitOperationFailed", 2),
                    ("Ready", "False", "GitOperationFailed", 2),
                    ("ArtifactInStorage", "True", "Succeeded", 1),
                ],
                1,
                Failed,
            ),
            (K::OciRepository, &[("Stalled", "True", "URLInvalid", 2), ("Ready", "False", "URLInvalid", 2)], 2, Failed),
            (
                K::HelmRepository,
                &[("Reconciling", "True", "Progressing", 2), ("Ready", "True", "Succeeded", 2)],
                1,
                Progressing,
            ),
            (K::HelmChart, &[("Stalled", "True", "InvalidChartReference", 2)], -1, Failed),
            (K::Bucket, &[("Ready", "True", "Succeeded", 2), ("Stalled", "True", "X", 1)], 2, Ready),
            // image controllers, notification-controller, flux-operator
            (K::ImageRepository, &[("Ready", "False", "ReadOperationFailed", 2)], 1, Failed),
            (K::ImagePolicy, &[("Ready", "True", "Succeeded", 2)], 2, Ready),
            (K::ImageUpdateAutomation, &[("Ready", "False", "GitOperationFailed", 2)], 1, Failed),
            (K::Receiver, &[("Ready", "True", "Succeeded", 2)], 2, Ready),
            (K::Alert, &[][..], 0, Ready),
            (K::Provider, &[][..], 0, Ready),
            (K::FluxInstance, &[("Ready", "False", "BuildFailed", 2)], 0, Failed),
            (
                K::ResourceSet,
                &[("Ready", "Unknown", "Progressing", 2), ("Reconciling", "True", "Progressing", 2)],
                0,
                Progressing,
            ),
            // Conditions without a generation of their own: that of the whole status counts.
            (K::Kustomization, &[("Ready", "True", "R", 0)], 1, Progressing),
            (K::Kustomization, &[("Ready", "False", "R", 0)], 1, Progressing),
            (K::Kustomization, &[("Ready", "False", "R", 0)], 2, Failed),
            (K::ExternalArtifact, &[("Ready", "True", "R", 0)], 0, Ready),
            (K::Kustomization, &[], 2, Progressing),
            (K::Kustomization, &[], 0, Unknown),
        ] {
            assert_eq!(status_of(kind, conditions, observed), expected, "{kind} {conditions:?} {observed}");
        }
    }

    #[test]
    fn an_object_that_is_being_deleted_is_that_whatever_else_it_is() {
        for spec in [json!({}), json!({"suspend": true})] {
            let metadata =
                json!({"name": "a", "namespace": "b", "generation": 2, "deletionTimestamp": "2026-01-31T10:00:00Z"});
            let object = json!({"metadata": metadata, "spec": spec, "status": {"conditions": ready("False")}});
            assert_eq!(held(Kind::Kustomization, object).status, Status::Terminating);
        }
    }

    #[test]
    fn a_request_that_nobody_has_seen_to_is_progress_where_the_kind_knows_requests() {
        let status = |kind: Kind, condition: &str, handled: &str| {
            let annotations = json!({"reconcile.fluxcd.io/requestedAt": "later"});
            let metadata = json!({"name": "a", "namespace": "b", "generation": 1, "annotations": annotations});
            let status =
                json!({"conditions": ready(condition), "observedGeneration": 1, "lastHandledReconcileAt": handled});
            held(kind, json!({"metadata": metadata, "status": status})).status
        };
        assert_eq!(status(Kind::Kustomization, "False", "before"), Status::Progressing);
        assert_eq!(status(Kind::Kustomization, "False", "later"), Status::Failed);
        assert_eq!(status(Kind::Kustomization, "True", "later"), Status::Ready);
        assert_eq!(status(Kind::ImagePolicy, "True", "before"), Status::Ready);
    }

    #[test]
    fn the_history_of_a_kustomization_is_no_release_and_what_was_only_tried_is_no_revision() {
        let history = json!([{"digest": "sha256:aa", "lastReconciledStatus": "BuildFailed", "totalReconciliations": 3,
                              "firstReconciled": "2026-01-31T10:00:00Z", "lastReconciled": "2026-01-31T11:00:00Z",
                              "metadata": {"revision": "main@sha1:bb"}}]);
        let tried = kustomization(json!({}), json!({"history": history, "lastAttemptedRevision": "main@sha1:bb"}));
        assert_eq!((tried.applied().count(), tried.revision), (0, None));

        let failed = json!([{"name": "a", "version": 2, "chartVersion": "2.0.0", "status": "failed"},
                            {"name": "a", "version": 1, "chartVersion": "1.0.0", "status": "superseded"}]);
        let metadata = json!({"name": "a", "namespace": "b"});
        let release = held(Kind::HelmRelease, json!({"metadata": metadata, "status": {"history": failed}}));
        assert_eq!(release.revision.as_deref(), Some("1.0.0"));
    }

    #[test]
    fn an_oddly_shaped_object_is_unreadable_and_says_why() {
        let held = kustomization(json!({"dependsOn": "x"}), json!({"conditions": ready("True")}));
        assert_eq!(held.status, Status::Unknown);
        assert!(held.message.contains("unreadable") && held.message.contains("spec.dependsOn"), "{}", held.message);
    }

    #[test]
    fn a_policy_comes_from_its_repository_and_an_external_artifact_can_be_a_source() {
        let metadata = json!({"name": "a", "namespace": "b"});
        let policy = held(
            Kind::ImagePolicy,
            json!({"metadata": metadata, "spec": {"imageRepositoryRef": {"name": "r"}},
                                                    "status": {"latestRef": {"name": "x/y", "tag": "1.2"}}}),
        );
        assert_eq!(policy.source, Some((Kind::ImageRepository, "b".into(), "r".into())));
        assert_eq!(policy.revision.as_deref(), Some("x/y:1.2"));
        let applied = kustomization(json!({"sourceRef": {"kind": "ExternalArtifact", "name": "e"}}), json!({}));
        assert_eq!(applied.source.map(|source| source.0), Some(Kind::ExternalArtifact));
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
