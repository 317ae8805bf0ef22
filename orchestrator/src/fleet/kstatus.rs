//! The status of an object of any kind, by the rules of Kubernetes' library for it (kstatus), which Flux uses for its health checks.

use std::fmt::Display;

use serde_json::Value;
use time::{Duration, OffsetDateTime};

use crate::clock;

use super::model::{AppliedStatus, bounded};

/// How long a pod may be unschedulable before that counts as a failure.
const SCHEDULED_WITHIN: Duration = Duration::seconds(15);

/// The status, and its reason.
pub(super) type Judgement = (AppliedStatus, String);

/// An object's fields, for reading.
#[derive(Clone, Copy)]
pub(super) struct ObjectFields<'a>(pub(super) &'a Value);

impl<'a> ObjectFields<'a> {
    pub(super) fn text(self, pointer: &str) -> &'a str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    fn number(self, pointer: &str) -> Option<i64> {
        self.0.pointer(pointer).and_then(Value::as_i64)
    }

    fn count(self, pointer: &str) -> i64 {
        self.number(pointer).unwrap_or(0)
    }

    pub(super) fn list(self, pointer: &str) -> impl Iterator<Item = Self> {
        self.0.pointer(pointer).and_then(Value::as_array).into_iter().flatten().map(Self)
    }

    /// The condition of this type, if it has this status.
    fn condition(self, topic: &str, status: &str) -> Option<Self> {
        let says = |condition: &Self| condition.text("/type") == topic && condition.text("/status") == status;
        self.list("/status/conditions").find(says)
    }
}

fn ready(message: impl Display) -> Judgement {
    (AppliedStatus::Ready, message.to_string())
}

fn progressing(message: impl Display) -> Judgement {
    (AppliedStatus::Progressing, message.to_string())
}

fn failed(message: impl Display) -> Judgement {
    (AppliedStatus::Failed, message.to_string())
}

/// The status of an object of this group and kind at this time.
pub(super) fn judge(group: &str, kind: &str, object: &Value, now: OffsetDateTime) -> Judgement {
    let fields = ObjectFields(object);
    let (status, message) = generic(fields).unwrap_or_else(|| match (group, kind) {
        ("apps", "Deployment") => deployment(fields),
        ("apps", "StatefulSet") => stateful_set(fields),
        ("apps", "DaemonSet") => daemon_set(fields),
        ("apps", "ReplicaSet") => replica_set(fields),
        ("batch", "Job") => job(fields),
        ("", "Pod") => pod(fields, now),
        ("", "PersistentVolumeClaim") => claim(fields),
        ("", "Service") => service(fields),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => definition(fields),
        ("", "ConfigMap" | "Secret") | ("batch", "CronJob") | ("policy", "PodDisruptionBudget") => ready(""),
        _ => by_ready(fields),
    });
    (status, bounded(&message).to_owned())
}

/// The rules for every kind that follows Kubernetes' conventions.
fn generic(fields: ObjectFields<'_>) -> Option<Judgement> {
    if fields.0.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null()) {
        return Some((AppliedStatus::Terminating, "it is being deleted".to_owned()));
    }
    let observed = fields.number("/status/observedGeneration");
    if observed.is_some() && observed != fields.number("/metadata/generation") {
        return Some(progressing("its controller has not seen to the last change"));
    }
    if let Some(stalled) = fields.condition("Stalled", "True") {
        return Some(failed(stalled.text("/message")));
    }
    fields.condition("Reconciling", "True").map(|reconciling| progressing(reconciling.text("/message")))
}

fn by_ready(fields: ObjectFields<'_>) -> Judgement {
    let Some(condition) = fields.list("/status/conditions").find(|condition| condition.text("/type") == "Ready") else {
        return ready("");
    };
    let message = condition.text("/message");
    if condition.text("/status") == "True" { ready(message) } else { progressing(message) }
}

fn of(what: &str, there: i64, wanted: i64) -> Option<Judgement> {
    (there < wanted).then(|| progressing(format_args!("{there} of {wanted} {what}")))
}

fn deployment(fields: ObjectFields<'_>) -> Judgement {
    let deadline = fields.number("/spec/progressDeadlineSeconds").unwrap_or(i64::from(i32::MAX));
    let mut progressed = deadline == i64::from(i32::MAX);
    for condition in fields.list("/status/conditions").filter(|condition| condition.text("/type") == "Progressing") {
        match condition.text("/reason") {
            "ProgressDeadlineExceeded" => return failed(condition.text("/message")),
            "NewReplicaSetAvailable" if condition.text("/status") == "True" => progressed = true,
            _ => {}
        }
    }
    let wanted = fields.number("/spec/replicas").unwrap_or(1);
    let (all, updated) = (fields.count("/status/replicas"), fields.count("/status/updatedReplicas"));
    of("replicas", all, wanted)
        .or_else(|| of("replicas updated", updated, wanted))
        .or_else(|| (all > wanted).then(|| progressing(format_args!("{} replicas of before end", all - wanted))))
        .or_else(|| of("replicas available", fields.count("/status/availableReplicas"), updated))
        .or_else(|| of("replicas ready", fields.count("/status/readyReplicas"), wanted))
        .or_else(|| (!progressed).then(|| progressing("the new replicas are not available yet")))
        .or_else(|| fields.condition("Available", "True").is_none().then(|| progressing("not available")))
        .unwrap_or_else(|| ready(format_args!("{all} of {wanted} replicas")))
}

fn stateful_set(fields: ObjectFields<'_>) -> Judgement {
    if fields.text("/spec/updateStrategy/type") == "OnDelete" {
        return ready("its pods are updated when they are deleted");
    }
    let wanted = fields.number("/spec/replicas").unwrap_or(1);
    let (all, updated) = (fields.count("/status/replicas"), fields.count("/status/updatedReplicas"));
    let begun = of("replicas", all, wanted)
        .or_else(|| of("replicas ready", fields.count("/status/readyReplicas"), wanted))
        .or_else(|| (all > wanted).then(|| progressing(format_args!("{} replicas of before end", all - wanted))));
    if let Some(begun) = begun {
        return begun;
    }
    if let Some(partition) = fields.number("/spec/updateStrategy/rollingUpdate/partition") {
        let to_update = wanted.saturating_sub(partition);
        return of("replicas updated", updated, to_update)
            .unwrap_or_else(|| ready(format_args!("{updated} replicas updated")));
    }
    let same = fields.text("/status/currentRevision") == fields.text("/status/updateRevision");
    of("replicas current", fields.count("/status/currentReplicas"), wanted)
        .or_else(|| (!same).then(|| progressing("the new replicas are not all current yet")))
        .unwrap_or_else(|| ready(format_args!("{all} of {wanted} replicas")))
}

fn daemon_set(fields: ObjectFields<'_>) -> Judgement {
    let wanted = fields.number("/status/desiredNumberScheduled");
    let (Some(wanted), Some(_)) = (wanted, fields.number("/status/observedGeneration")) else {
        return progressing("its controller has not seen to it yet");
    };
    of("pods", fields.count("/status/currentNumberScheduled"), wanted)
        .or_else(|| of("pods updated", fields.count("/status/updatedNumberScheduled"), wanted))
        .or_else(|| of("pods available", fields.count("/status/numberAvailable"), wanted))
        .or_else(|| of("pods ready", fields.count("/status/numberReady"), wanted))
        .unwrap_or_else(|| ready(format_args!("{wanted} pods")))
}

fn replica_set(fields: ObjectFields<'_>) -> Judgement {
    if let Some(failure) = fields.condition("ReplicaFailure", "True") {
        return progressing(failure.text("/message"));
    }
    let wanted = fields.number("/spec/replicas").unwrap_or(1);
    let all = fields.count("/status/replicas");
    of("replicas labelled", fields.count("/status/fullyLabeledReplicas"), wanted)
        .or_else(|| of("replicas available", fields.count("/status/availableReplicas"), wanted))
        .or_else(|| of("replicas ready", fields.count("/status/readyReplicas"), wanted))
        .or_else(|| (all > wanted).then(|| progressing(format_args!("{} replicas end", all - wanted))))
        .unwrap_or_else(|| ready(format_args!("{all} of {wanted} replicas")))
}

fn job(fields: ObjectFields<'_>) -> Judgement {
    if fields.condition("Complete", "True").is_some() {
        return ready("completed");
    }
    if let Some(failure) = fields.condition("Failed", "True") {
        return failed(failure.text("/message"));
    }
    if fields.condition("Suspended", "True").is_some() {
        return ready("suspended");
    }
    if fields.text("/status/startTime").is_empty() {
        return progressing("not started");
    }
    ready(format_args!("running: {} active, {} failed", fields.count("/status/active"), fields.count("/status/failed")))
}

/// As in kstatus, except that a pod that has ended without success is failed.
fn pod(fields: ObjectFields<'_>, now: OffsetDateTime) -> Judgement {
    let waiting = || fields.list("/status/containerStatuses").chain(fields.list("/status/initContainerStatuses"));
    let stuck = waiting().find_map(|container| {
        let reason = container.text("/state/waiting/reason");
        let stuck =
            ["CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerConfigError"];
        stuck.contains(&reason).then(|| failed(format_args!("{}: {reason}", container.text("/name"))))
    });
    match fields.text("/status/phase") {
        "Succeeded" => ready("completed"),
        "Failed" => failed(match fields.text("/status/message") {
            "" => "ended without success",
            message => message,
        }),
        "Running" if fields.condition("Ready", "True").is_some() => ready(""),
        "Running" => stuck.unwrap_or_else(|| progressing("running, but not ready")),
        "Pending" => {
            if let Some(unscheduled) = fields.condition("PodScheduled", "False") {
                let created = clock::parse(fields.text("/metadata/creationTimestamp"));
                let late = created.is_none_or(|created| now - created > SCHEDULED_WITHIN);
                if unscheduled.text("/reason") == "Unschedulable" && late {
                    return failed(unscheduled.text("/message"));
                }
                return progressing("not scheduled yet");
            }
            stuck.unwrap_or_else(|| progressing("starting"))
        }
        _ => progressing("nobody has seen to it yet"),
    }
}

fn claim(fields: ObjectFields<'_>) -> Judgement {
    match fields.text("/status/phase") {
        "Bound" => ready("bound"),
        phase => progressing(format_args!("not bound: {phase}")),
    }
}

fn service(fields: ObjectFields<'_>) -> Judgement {
    if fields.text("/spec/type") == "LoadBalancer" && fields.text("/spec/clusterIP").is_empty() {
        return progressing("it has no address yet");
    }
    ready("")
}

fn definition(fields: ObjectFields<'_>) -> Judgement {
    if let Some(refused) = fields.condition("NamesAccepted", "False") {
        return failed(refused.text("/message"));
    }
    if fields.condition("Established", "True").is_some() {
        return ready("established");
    }
    match fields.condition("Established", "False") {
        Some(refused) if refused.text("/reason") != "Installing" => failed(refused.text("/message")),
        Some(_) | None => progressing("being installed"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(group: &str, kind: &str, object: &Value) -> AppliedStatus {
        judge(group, kind, object, clock::parse("2026-01-31T10:00:00Z").unwrap()).0
    }

    fn deployed(spec: Value, mut status: Value) -> Value {
        status["observedGeneration"] = 3.into();
        json!({"metadata": {"generation": 3}, "spec": spec, "status": status})
    }

    #[test]
    fn each_kind_is_judged_as_flux_waits_for_it() {
        use AppliedStatus::{Failed, Progressing, Ready, Terminating};
        let available = json!([{"type": "Available", "status": "True"},
                               {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}]);
        let whole = |wanted: i64| json!({"replicas": wanted, "updatedReplicas": wanted, "readyReplicas": wanted, "availableReplicas": wanted, "conditions": available});
        let with = |mut status: Value, name: &str, value: Value| {
            status[name] = value;
            status
        };
        let spec = json!({"replicas": 2, "progressDeadlineSeconds": 600});
        let late = json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "late"}]);
        let condition = |topic: &str, status: &str| json!({"status": {"conditions": [{"type": topic, "status": status, "reason": "R"}]}});
        let cases = [
            ("apps", "Deployment", deployed(spec.clone(), whole(2)), Ready),
            ("apps", "Deployment", deployed(spec.clone(), with(whole(2), "readyReplicas", 1.into())), Progressing),
            ("apps", "Deployment", deployed(spec.clone(), with(whole(2), "availableReplicas", 1.into())), Progressing),
            ("apps", "Deployment", deployed(spec.clone(), with(whole(2), "updatedReplicas", 1.into())), Progressing),
            ("apps", "Deployment", deployed(spec.clone(), whole(3)), Progressing),
            ("apps", "Deployment", deployed(spec.clone(), with(whole(2), "conditions", late)), Failed),
            ("apps", "Deployment", deployed(json!({"replicas": 0}), whole(0)), Ready),
            (
                "apps",
                "Deployment",
                json!({"metadata": {"generation": 4}, "status": {"observedGeneration": 3}}),
                Progressing,
            ),
            ("apps", "Deployment", json!({"metadata": {"deletionTimestamp": "2026-01-31T10:00:00Z"}}), Terminating),
            (
                "apps",
                "StatefulSet",
                deployed(spec.clone(), json!({"replicas": 2, "readyReplicas": 2, "currentReplicas": 2})),
                Ready,
            ),
            (
                "apps",
                "StatefulSet",
                deployed(spec.clone(), json!({"replicas": 2, "readyReplicas": 1, "currentReplicas": 2})),
                Progressing,
            ),
            (
                "apps",
                "StatefulSet",
                deployed(
                    spec.clone(),
                    json!({"replicas": 2, "readyReplicas": 2, "currentReplicas": 2, "currentRevision": "a", "updateRevision": "b"}),
                ),
                Progressing,
            ),
            ("apps", "StatefulSet", json!({"spec": {"updateStrategy": {"type": "OnDelete"}}}), Ready),
            ("apps", "DaemonSet", json!({"metadata": {"generation": 1}}), Progressing),
            (
                "apps",
                "DaemonSet",
                deployed(
                    json!({}),
                    json!({"desiredNumberScheduled": 2, "currentNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 2, "numberReady": 2}),
                ),
                Ready,
            ),
            (
                "apps",
                "DaemonSet",
                deployed(
                    json!({}),
                    json!({"desiredNumberScheduled": 2, "currentNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 1}),
                ),
                Progressing,
            ),
            ("batch", "Job", condition("Complete", "True"), Ready),
            ("batch", "Job", condition("Failed", "True"), Failed),
            ("batch", "Job", json!({"status": {"startTime": "2026-01-31T10:00:00Z"}}), Ready),
            ("batch", "Job", json!({}), Progressing),
            ("", "PersistentVolumeClaim", json!({"status": {"phase": "Bound"}}), Ready),
            ("", "PersistentVolumeClaim", json!({"status": {"phase": "Pending"}}), Progressing),
            ("", "Service", json!({"spec": {"type": "LoadBalancer"}}), Progressing),
            ("", "Service", json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1"}}), Ready),
            ("", "ConfigMap", json!({}), Ready),
            ("apiextensions.k8s.io", "CustomResourceDefinition", condition("Established", "True"), Ready),
            ("apiextensions.k8s.io", "CustomResourceDefinition", condition("NamesAccepted", "False"), Failed),
            ("apiextensions.k8s.io", "CustomResourceDefinition", json!({}), Progressing),
            ("cert-manager.io", "Certificate", condition("Ready", "True"), Ready),
            ("cert-manager.io", "Certificate", condition("Ready", "False"), Progressing),
            ("cert-manager.io", "Certificate", condition("Stalled", "True"), Failed),
            ("cert-manager.io", "Certificate", condition("Reconciling", "True"), Progressing),
            ("example.com", "Thing", json!("not even an object"), Ready),
        ];
        for (group, kind, object, expected) in cases {
            assert_eq!(status(group, kind, &object), expected, "{group}/{kind} {object}");
        }
    }

    #[test]
    fn a_pod_says_why_it_does_not_run() {
        use AppliedStatus::{Failed, Progressing, Ready};
        let waiting = |phase: &str, reason: &str| json!({"status": {"phase": phase, "containerStatuses": [{"name": "app", "state": {"waiting": {"reason": reason}}}]}});
        let unscheduled = |created: &str| {
            json!({"metadata": {"creationTimestamp": created}, "status": {"phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}]}})
        };
        for (pod, expected) in [
            (json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}), Ready),
            (json!({"status": {"phase": "Running"}}), Progressing),
            (waiting("Running", "CrashLoopBackOff"), Failed),
            (waiting("Pending", "ImagePullBackOff"), Failed),
            (waiting("Pending", "ContainerCreating"), Progressing),
            (unscheduled("2026-01-31T09:59:00Z"), Failed),
            (unscheduled("2026-01-31T09:59:55Z"), Progressing),
            (json!({"status": {"phase": "Succeeded"}}), Ready),
            (json!({"status": {"phase": "Failed"}}), Failed),
            (json!({}), Progressing),
        ] {
            assert_eq!(status("", "Pod", &pod), expected, "{pod}");
        }
    }
}
