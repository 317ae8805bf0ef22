//! Flux objects as watches read them: what is needed of them, and nothing else.

use std::borrow::Cow;
use std::collections::BTreeMap;

use kube::core::{ApiResource, DynamicResourceScope, ObjectMeta};
use serde::{Deserialize, Deserializer};
use time::OffsetDateTime;

use crate::clock;

/// The annotation by which anybody asks a controller to look at an object.
pub(crate) const REQUESTED_AT: &str = "reconcile.fluxcd.io/requestedAt";

/// A Flux object, as much of it as is needed.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Wire")]
pub(crate) struct Seen {
    metadata: ObjectMeta,
    pub(crate) created: Option<OffsetDateTime>,
    pub(crate) generation: i64,
    /// When it was asked for last, as whoever asked wrote it.
    pub(crate) requested: Option<String>,
    pub(crate) spec: Spec,
    pub(crate) status: Status,
}

impl Seen {
    pub(crate) fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Its version as a number, which it is in every Kubernetes so far; 0 where it is not.
    pub(crate) fn version(&self) -> u64 {
        self.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn condition(&self, topic: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|condition| condition.topic == topic)
    }
}

/// What an object asks for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Spec {
    #[serde(deserialize_with = "or_default")]
    pub(crate) suspend: bool,
    pub(crate) source_ref: Option<Reference>,
    pub(crate) chart_ref: Option<Reference>,
    pub(crate) chart: Option<Chart>,
    #[serde(rename = "type")]
    pub(crate) variant: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) depends_on: Vec<Dependency>,
}

/// Another object, by name.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Reference {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
}

/// An object of the same kind that has to be ready first.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
}

/// `spec.chart`: of a HelmRelease, a chart to be made; of a HelmChart, its name.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Chart {
    Template { spec: ChartSpec },
    Name(#[expect(dead_code, reason = "the form is what counts")] String),
}

/// A chart to be made.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ChartSpec {
    pub(crate) source_ref: Reference,
}

/// What an object's controller says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Status {
    #[serde(deserialize_with = "or_default")]
    pub(crate) conditions: Vec<Condition>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) observed_generation: i64,
    pub(crate) last_applied_revision: Option<String>,
    pub(crate) last_attempted_revision: Option<String>,
    pub(crate) last_handled_reconcile_at: Option<String>,
    pub(crate) artifact: Option<Artifact>,
    pub(crate) inventory: Option<Inventory>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) history: Vec<Release>,
    pub(crate) helm_chart: Option<String>,
    pub(crate) storage_namespace: Option<String>,
}

/// One of its topics.
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
    last_transition_time: Option<String>,
}

impl Condition {
    pub(crate) fn since(&self) -> Option<OffsetDateTime> {
        self.last_transition_time.as_deref().and_then(clock::parse)
    }
}

/// What a source has fetched.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Artifact {
    pub(crate) revision: String,
    pub(crate) last_update_time: Option<String>,
}

/// What was applied.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Inventory {
    #[serde(deserialize_with = "or_default")]
    pub(crate) entries: Vec<Entry>,
}

/// One thing that was applied: `namespace_name_group_kind`, and its version.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Entry {
    pub(crate) id: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) v: String,
}

/// One installation of a chart.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Release {
    pub(crate) name: String,
    pub(crate) version: u64,
    pub(crate) chart_version: String,
    pub(crate) last_deployed: Option<String>,
}

#[derive(Deserialize)]
struct Wire {
    metadata: Meta,
    #[serde(default, deserialize_with = "or_default")]
    spec: Spec,
    #[serde(default, deserialize_with = "or_default")]
    status: Status,
}

/// Some programs write `null` for what is not there.
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
    annotations: Option<BTreeMap<String, String>>,
}

impl From<Wire> for Seen {
    fn from(Wire { metadata, spec, status }: Wire) -> Self {
        let Meta { name, namespace, resource_version, generation, creation_timestamp, annotations } = metadata;
        Self {
            metadata: ObjectMeta { name, namespace, resource_version, ..ObjectMeta::default() },
            created: creation_timestamp.as_deref().and_then(clock::parse),
            generation,
            requested: annotations.and_then(|mut annotations| annotations.remove(REQUESTED_AT)),
            spec,
            status,
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
        let of = |chart| Spec::deserialize(&json!({"chart": chart})).unwrap().chart.unwrap();
        assert!(matches!(of(json!({"spec": {"sourceRef": {"kind": "Bucket", "name": "b"}}})), Chart::Template { .. }));
        assert!(matches!(of(json!("podinfo")), Chart::Name(_)));
    }
}
