//! The status that Flux's controllers write into an object.

use serde_json::{Value, json};

use crate::fleet::Kind;

const REQUESTED: &str = "/metadata/annotations/reconcile.fluxcd.io~1requestedAt";

/// The controller has started.
pub(super) fn begin(object: &mut Value, now: &str) {
    let message = "Reconciliation in progress";
    condition(object, "Reconciling", "True", "Progressing", message, now);
    condition(object, "Ready", "Unknown", "Progressing", message, now);
}

/// The controller has succeeded.
pub(super) fn succeed(kind: Kind, object: &mut Value, now: &str, revision: &str) {
    match kind {
        Kind::Kustomization => {
            object["status"]["lastAppliedRevision"] = revision.into();
            object["status"]["lastAttemptedRevision"] = revision.into();
        }
        Kind::HelmRelease => {
            object["status"]["lastAttemptedRevision"] = revision.into();
            if let Some(newest) = object.pointer_mut("/status/history/0") {
                newest["chartVersion"] = revision.into();
                newest["lastDeployed"] = now.into();
            }
        }
        Kind::FluxInstance | Kind::ResourceSet => object["status"]["lastAppliedRevision"] = revision.into(),
        Kind::ImageRepository
        | Kind::ImagePolicy
        | Kind::ImageUpdateAutomation
        | Kind::Receiver
        | Kind::Alert
        | Kind::Provider => {}
        Kind::GitRepository
        | Kind::OciRepository
        | Kind::HelmRepository
        | Kind::HelmChart
        | Kind::Bucket
        | Kind::ExternalArtifact => {
            object["status"]["artifact"]["revision"] = revision.into();
            object["status"]["artifact"]["lastUpdateTime"] = now.into();
        }
    }
    let (reason, message) = success(kind, object, revision);
    remove_condition(object, "Reconciling");
    remove_condition(object, "Stalled");
    condition(object, "Ready", "True", reason, &message, now);
    add_history(object, reason, now);
    done(object);
}

/// The controller has failed.
pub(super) fn fail(object: &mut Value, now: &str, reason: &str, message: &str) {
    remove_condition(object, "Reconciling");
    condition(object, "Ready", "False", reason, message, now);
    add_history(object, reason, now);
    // Only the condition has the new generation: `observedGeneration` of the status stays at the last success.
    handled(object);
}

/// The controller's message after a success.
pub(super) fn success(kind: Kind, object: &Value, revision: &str) -> (&'static str, String) {
    match kind {
        Kind::Kustomization => ("ReconciliationSucceeded", format!("Applied revision: {revision}")),
        Kind::HelmRelease => {
            let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
            let chart = text("/status/history/0/chartName");
            let number = object.pointer("/status/history/0/version").and_then(Value::as_u64).unwrap_or(1);
            let message = format!(
                "Helm upgrade succeeded for release {namespace}/{name}.v{number} with chart {chart}@{revision}"
            );
            ("UpgradeSucceeded", message)
        }
        Kind::HelmChart => {
            let chart = object.pointer("/spec/chart").and_then(Value::as_str).unwrap_or_default();
            ("ChartPullSucceeded", format!("pulled '{chart}' chart with version '{revision}'"))
        }
        Kind::ImageRepository
        | Kind::ImagePolicy
        | Kind::ImageUpdateAutomation
        | Kind::Receiver
        | Kind::Alert
        | Kind::Provider
        | Kind::FluxInstance
        | Kind::ResourceSet => ("Succeeded", "reconciled".to_owned()),
        Kind::GitRepository | Kind::OciRepository | Kind::HelmRepository | Kind::Bucket | Kind::ExternalArtifact => {
            ("Succeeded", format!("stored artifact for revision '{revision}'"))
        }
    }
}

fn done(object: &mut Value) {
    object["status"]["observedGeneration"] = object["metadata"]["generation"].clone();
    handled(object);
}

/// A Kustomization keeps a history of its reconciliations, one entry for each digest and outcome.
fn add_history(object: &mut Value, outcome: &str, now: &str) {
    if object["kind"] != "Kustomization" {
        return;
    }
    let revision = object["status"]["lastAttemptedRevision"].as_str().unwrap_or_default().to_owned();
    let digest = format!("sha256:{:0<64}", revision.rsplit(':').next().unwrap_or_default());
    if !object["status"]["history"].is_array() {
        object["status"]["history"] = json!([]);
    }
    let Some(history) = object["status"]["history"].as_array_mut() else { return };
    let same = |entry: &Value| entry["digest"] == digest && entry["lastReconciledStatus"] == outcome;
    if let Some(entry) = history.first_mut().filter(|entry| same(entry)) {
        entry["lastReconciled"] = now.into();
        entry["totalReconciliations"] = (entry["totalReconciliations"].as_u64().unwrap_or(0) + 1).into();
        return;
    }
    let entry = json!({
        "digest": digest, "firstReconciled": now, "lastReconciled": now, "lastReconciledDuration": "1.5s",
        "lastReconciledStatus": outcome, "totalReconciliations": 1, "metadata": {"revision": revision},
    });
    history.insert(0, entry);
    history.truncate(5);
}

fn handled(object: &mut Value) {
    if let Some(requested) = object.pointer(REQUESTED).cloned() {
        object["status"]["lastHandledReconcileAt"] = requested;
    }
}

fn condition(object: &mut Value, topic: &str, status: &str, reason: &str, message: &str, now: &str) {
    let generation = object["metadata"]["generation"].clone();
    if !object["status"]["conditions"].is_array() {
        object["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = object["status"]["conditions"].as_array_mut() else { return };
    let since = conditions
        .iter()
        .find(|condition| condition["type"] == topic && condition["status"] == status)
        .map_or_else(|| now.into(), |condition| condition["lastTransitionTime"].clone());
    let condition = json!({
        "type": topic, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since, "observedGeneration": generation,
    });
    match conditions.iter_mut().find(|condition| condition["type"] == topic) {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}

fn remove_condition(object: &mut Value, topic: &str) {
    if let Some(conditions) = object["status"]["conditions"].as_array_mut() {
        conditions.retain(|condition| condition["type"] != topic);
    }
}
