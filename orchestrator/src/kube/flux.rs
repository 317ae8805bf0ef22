//! The parts of Flux objects that watches read: only what is needed.

use std::borrow::Cow;
use std::collections::BTreeMap;

use kube::core::{ApiResource, DynamicResourceScope, ObjectMeta};
use serde::{Deserialize, Deserializer};
use time::OffsetDateTime;

use super::field::Field;
use crate::clock;

/// The annotation that requests a reconciliation.
pub(crate) const REQUESTED_AT: &str = "reconcile.fluxcd.io/requestedAt";

/// A Flux object, reduced to what is needed.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Wire")]
pub(crate) struct Seen {
    metadata: ObjectMeta,
    pub(crate) created: Option<OffsetDateTime>,
    /// Whether its deletion was requested, and a finalizer still has to run.
    pub(crate) deleting: bool,
    pub(crate) generation: i64,
    /// The time of the last requested reconciliation, as the requester wrote it.
    pub(crate) requested: Option<String>,
    pub(crate) spec: Spec,
    pub(crate) status: Status,
    /// The first field whose form differs from Flux's.
    pub(crate) malformed: Option<Malformed>,
}

/// The name of a field of the wrong form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl Seen {
    pub(crate) fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Its resource version as a number, which it is in every Kubernetes so far; otherwise 0.
    pub(crate) fn version(&self) -> u64 {
        self.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn condition(&self, topic: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|condition| condition.topic == topic)
    }
}

/// The desired state of an object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spec {
    pub(crate) suspend: bool,
    pub(crate) source_ref: Option<Reference>,
    pub(crate) chart_ref: Option<Reference>,
    pub(crate) chart: Option<Chart>,
    pub(crate) image_ref: Option<Reference>,
    pub(crate) variant: Option<String>,
    pub(crate) depends_on: Vec<Dependency>,
}

/// A reference to another object.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Reference {
    /// Empty where the field allows only one kind.
    #[serde(default)]
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
}

/// An object of the same kind that must be ready first.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
}

/// `spec.chart`: in a HelmRelease, a template for a chart; in a HelmChart, its name.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Chart {
    Template { spec: ChartSpec },
    Name(#[expect(dead_code, reason = "the form is what counts")] String),
}

/// A template for a chart.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ChartSpec {
    pub(crate) source_ref: Reference,
}

/// The status that an object's controller reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Status {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) observed_generation: i64,
    pub(crate) last_applied_revision: Option<String>,
    pub(crate) last_attempted_revision: Option<String>,
    pub(crate) last_handled_reconcile_at: Option<String>,
    pub(crate) artifact: Option<Artifact>,
    pub(crate) inventory: Option<Inventory>,
    pub(crate) history: Vec<Release>,
    pub(crate) helm_chart: Option<String>,
    pub(crate) storage_namespace: Option<String>,
    pub(crate) latest_ref: Option<ImageRef>,
}

/// One condition of the status.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub(crate) topic: String,
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) reason: String,
    #[serde(default)]
    pub(crate) message: String,
    /// The generation of the object that it describes.
    pub(crate) observed_generation: Option<i64>,
    last_transition_time: Option<String>,
}

impl Condition {
    pub(crate) fn since(&self) -> Option<OffsetDateTime> {
        self.last_transition_time.as_deref().and_then(clock::parse)
    }
}

/// The artifact that a source has fetched.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Artifact {
    pub(crate) revision: String,
    pub(crate) last_update_time: Option<String>,
}

/// The objects that were applied.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Inventory {
    #[serde(deserialize_with = "or_default")]
    pub(crate) entries: Vec<Entry>,
}

/// One applied object: `namespace_name_group_kind`, and its version.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Entry {
    pub(crate) id: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) v: String,
}

/// One entry of a history: a release of a chart, or a reconciliation of a Kustomization.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Release {
    pub(crate) name: String,
    /// The namespace that it was installed in.
    pub(crate) namespace: String,
    pub(crate) version: u64,
    pub(crate) chart_name: String,
    pub(crate) chart_version: String,
    pub(crate) app_version: String,
    /// The digest of the values that it was installed with.
    pub(crate) config_digest: String,
    /// The release's state: `deployed`, `superseded`, `failed`, ….
    pub(crate) status: String,
    pub(crate) digest: String,
    pub(crate) first_deployed: Option<String>,
    pub(crate) last_deployed: Option<String>,
    pub(crate) first_reconciled: Option<String>,
    pub(crate) last_reconciled: Option<String>,
    pub(crate) last_reconciled_status: String,
    pub(crate) total_reconciliations: u64,
    #[serde(deserialize_with = "or_default")]
    pub(crate) metadata: BTreeMap<String, String>,
}

/// The image that a policy has selected.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ImageRef {
    pub(crate) name: String,
    pub(crate) tag: String,
}

#[derive(Deserialize)]
struct Wire {
    metadata: Meta,
    #[serde(default)]
    spec: Field<SpecWire>,
    #[serde(default)]
    status: Field<StatusWire>,
}

// Each field by itself: one of the wrong form does not hide the others.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SpecWire {
    suspend: Field<bool>,
    source_ref: Field<Option<Reference>>,
    chart_ref: Field<Option<Reference>>,
    chart: Field<Option<Chart>>,
    image_repository_ref: Field<Option<Reference>>,
    #[serde(rename = "type")]
    variant: Field<Option<String>>,
    depends_on: Field<Vec<Dependency>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StatusWire {
    conditions: Field<Vec<Condition>>,
    observed_generation: Field<i64>,
    last_applied_revision: Field<Option<String>>,
    last_attempted_revision: Field<Option<String>>,
    last_handled_reconcile_at: Field<Option<String>>,
    artifact: Field<Option<Artifact>>,
    inventory: Field<Option<Inventory>>,
    history: Field<Vec<Release>>,
    helm_chart: Field<Option<String>>,
    storage_namespace: Field<Option<String>>,
    latest_ref: Field<Option<ImageRef>>,
}

/// Unwraps fields, and records the first of the wrong form.
struct Fields(Option<&'static str>);

impl Fields {
    fn read<T: Default>(&mut self, field: Field<T>, name: &'static str) -> T {
        match field {
            Field::Read(value) => value,
            Field::Malformed => {
                self.0.get_or_insert(name);
                T::default()
            }
        }
    }

    fn spec(&mut self, wire: Field<SpecWire>) -> Spec {
        let wire = self.read(wire, "spec");
        Spec {
            suspend: self.read(wire.suspend, "spec.suspend"),
            source_ref: self.read(wire.source_ref, "spec.sourceRef"),
            chart_ref: self.read(wire.chart_ref, "spec.chartRef"),
            chart: self.read(wire.chart, "spec.chart"),
            image_ref: self.read(wire.image_repository_ref, "spec.imageRepositoryRef"),
            variant: self.read(wire.variant, "spec.type"),
            depends_on: self.read(wire.depends_on, "spec.dependsOn"),
        }
    }

    fn status(&mut self, wire: Field<StatusWire>) -> Status {
        let wire = self.read(wire, "status");
        Status {
            conditions: self.read(wire.conditions, "status.conditions"),
            observed_generation: self.read(wire.observed_generation, "status.observedGeneration"),
            last_applied_revision: self.read(wire.last_applied_revision, "status.lastAppliedRevision"),
            last_attempted_revision: self.read(wire.last_attempted_revision, "status.lastAttemptedRevision"),
            last_handled_reconcile_at: self.read(wire.last_handled_reconcile_at, "status.lastHandledReconcileAt"),
            artifact: self.read(wire.artifact, "status.artifact"),
            inventory: self.read(wire.inventory, "status.inventory"),
            history: self.read(wire.history, "status.history"),
            helm_chart: self.read(wire.helm_chart, "status.helmChart"),
            storage_namespace: self.read(wire.storage_namespace, "status.storageNamespace"),
            latest_ref: self.read(wire.latest_ref, "status.latestRef"),
        }
    }
}

/// Some programs write `null` for a missing value.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
    generation: i64,
    creation_timestamp: Option<String>,
    deletion_timestamp: Option<String>,
    annotations: Option<Annotations>,
}

/// Only [`REQUESTED_AT`] is needed; the others may be long, and every object has some.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Annotations {
    #[serde(rename = "reconcile.fluxcd.io/requestedAt")]
    requested: Option<String>,
}

impl From<Wire> for Seen {
    fn from(Wire { metadata, spec, status }: Wire) -> Self {
        let Meta { name, namespace, resource_version, generation, creation_timestamp, .. } = metadata;
        let mut fields = Fields(None);
        Self {
            metadata: ObjectMeta { name, namespace, resource_version, ..ObjectMeta::default() },
            created: creation_timestamp.as_deref().and_then(clock::parse),
            deleting: metadata.deletion_timestamp.is_some(),
            generation,
            requested: metadata.annotations.and_then(|annotations| annotations.requested),
            spec: fields.spec(spec),
            status: fields.status(status),
            malformed: fields.0.map(Malformed),
        }
    }
}

impl kube::Resource for Seen {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_null_is_not_there() {
        let status = json!({"conditions": null, "history": null, "inventory": {"entries": null}, "artifact": null});
        let spec = json!({"suspend": null, "dependsOn": null});
        let metadata = json!({"name": "a", "annotations": null, "creationTimestamp": null});
        for object in [json!({"metadata": metadata, "spec": spec, "status": status}), json!({"metadata": metadata})] {
            let seen: Seen = serde_json::from_value(object).unwrap();
            assert!(!seen.spec.suspend && seen.status.conditions.is_empty() && seen.requested.is_none());
        }
    }

    #[test]
    fn the_chart_of_a_release_is_to_be_made_and_that_of_a_chart_has_a_name() {
        let of = |chart| serde_json::from_value::<Chart>(chart).unwrap();
        assert!(matches!(of(json!({"spec": {"sourceRef": {"kind": "Bucket", "name": "b"}}})), Chart::Template { .. }));
        assert!(matches!(of(json!("podinfo")), Chart::Name(_)));
    }

    #[test]
    fn an_oddly_shaped_object_is_read_as_far_as_it_can_be_and_the_field_is_named() {
        let metadata = json!({"name": "a", "namespace": "b"});
        for (spec, status, malformed) in [
            (json!({}), json!({}), None),
            (json!("x"), json!({}), Some("spec")),
            (json!([1, {"a": 2}]), json!(7), Some("spec")),
            (json!({"dependsOn": "x"}), json!({}), Some("spec.dependsOn")),
            (json!({"suspend": "yes"}), json!({"conditions": {}}), Some("spec.suspend")),
            (json!({}), json!({"conditions": [{"type": 7}]}), Some("status.conditions")),
            (json!({}), json!({"inventory": {"entries": [{"v": "v1"}]}}), Some("status.inventory")),
            (json!({}), json!(-1.5), Some("status")),
        ] {
            // As text, as it comes from a cluster.
            let text = json!({"metadata": metadata, "spec": spec, "status": status}).to_string();
            let seen: Seen = serde_json::from_str(&text).unwrap();
            assert_eq!((seen.name(), seen.malformed), ("a", malformed.map(Malformed)), "{text}");
        }
    }
}
