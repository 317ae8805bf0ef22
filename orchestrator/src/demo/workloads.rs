//! The objects that Flux has applied in a simulated cluster: generated from inventories on request, with pods and logs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::clock;

use super::records;

/// An object's key: group, kind, namespace, name.
pub(super) type Thing = (String, String, String, String);

/// A kind outside Flux, as the API serves it.
pub(super) struct Served {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) kind: &'static str,
    pub(super) plural: &'static str,
    pub(super) namespaced: bool,
}

const fn served(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Served {
    Served { group, version, kind, plural, namespaced: true }
}

/// The kinds that are applied in simulated clusters.
pub(super) const SERVED: [Served; 13] = [
    Served { group: "", version: "v1", kind: "Namespace", plural: "namespaces", namespaced: false },
    served("", "v1", "Service", "services"),
    served("", "v1", "ConfigMap", "configmaps"),
    served("", "v1", "Secret", "secrets"),
    served("", "v1", "Pod", "pods"),
    served("apps", "v1", "Deployment", "deployments"),
    served("apps", "v1", "StatefulSet", "statefulsets"),
    served("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
    served("networking.k8s.io", "v1", "Ingress", "ingresses"),
    served("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
    served("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"),
    Served {
        group: "cert-manager.io",
        version: "v1",
        kind: "ClusterIssuer",
        plural: "clusterissuers",
        namespaced: false,
    },
    served("batch", "v1", "Job", "jobs"),
];

/// Overridden objects; `None` marks a missing one.
#[derive(Default)]
pub(super) struct Set(BTreeMap<Thing, Option<Value>>);

impl Set {
    pub(super) fn put(&mut self, thing: Thing, object: Option<Value>) {
        self.0.insert(thing, object);
    }

    /// An object as overridden, or else as generated.
    pub(super) fn find(&self, thing: &Thing) -> Option<Value> {
        match self.0.get(thing) {
            Some(set) => set.clone(),
            None => Some(by_itself(thing)),
        }
    }
}

/// The record of a Helm release: with one replica more than there are now, as if one was removed by hand.
fn record(namespace: &str, name: &str) -> Value {
    let release = name.trim_start_matches(records::PREFIX).rsplit_once('.').map_or(name, |(release, _)| release);
    let thing = |group: &str, kind: &str| (group.to_owned(), kind.to_owned(), namespace.to_owned(), release.to_owned());
    let mut deployment = by_itself(&thing("apps", "Deployment"));
    deployment["spec"]["replicas"] = 3.into();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": release}, "stringData": {"password": "correct-horse"}});
    records::secret(namespace, name, &[deployment, by_itself(&thing("", "Service")), secret])
}

fn by_itself((group, kind, namespace, name): &Thing) -> Value {
    if kind == "Secret" && name.starts_with(records::PREFIX) {
        return record(namespace, name);
    }
    let served = SERVED.iter().find(|served| served.group == group && served.kind == kind);
    let version = served.map_or("v1", |served| served.version);
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut object = json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "generation": 1, "labels": {"app": name}},
        "spec": {}, "status": {},
    });
    match kind.as_str() {
        "Deployment" => {
            object["spec"] = json!({"replicas": 2, "progressDeadlineSeconds": 600, "selector": {"matchLabels": {"app": name}},
                                    "template": {"spec": {"containers": [{"name": container(name), "image": image(name)}]}}});
            object["status"] = json!({
                "observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2,
                "conditions": [{"type": "Available", "status": "True"},
                               {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}],
            });
            if is_controller(name) {
                object["metadata"]["labels"] =
                    json!({"app": name, "app.kubernetes.io/part-of": "flux", "app.kubernetes.io/component": name});
                for field in [
                    "/spec/replicas",
                    "/status/replicas",
                    "/status/updatedReplicas",
                    "/status/readyReplicas",
                    "/status/availableReplicas",
                ] {
                    if let Some(count) = object.pointer_mut(field) {
                        *count = 1.into();
                    }
                }
            }
            if fails(name) {
                object["status"]["readyReplicas"] = 1.into();
                object["status"]["availableReplicas"] = 1.into();
            }
        }
        "ClusterIssuer" => {
            object["status"] = json!({"conditions": [{"type": "Ready", "status": "True", "message": "The ACME account was registered"}]});
        }
        "Service" => object["spec"] = json!({"type": "ClusterIP", "clusterIP": "10.96.7.1"}),
        "Namespace" => object["status"] = json!({"phase": "Active"}),
        _ => {}
    }
    object
}

fn is_controller(name: &str) -> bool {
    name.ends_with("-controller") && !name.contains("nginx")
}

/// The failing workload, so that a demonstration shows one.
fn fails(name: &str) -> bool {
    name == "frontend"
}

fn container(name: &str) -> &str {
    if is_controller(name) { "manager" } else { name }
}

fn image(name: &str) -> String {
    let version = match name {
        "source-controller" | "kustomize-controller" => "v1.7.2",
        "helm-controller" => "v1.4.2",
        "notification-controller" => "v1.7.3",
        _ => return format!("registry.example.com/{name}:3.4.1"),
    };
    format!("ghcr.io/fluxcd/{name}:{version}")
}

/// The pods of a Deployment.
pub(super) fn pods(deployment: &Value) -> Vec<Value> {
    let name = deployment.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let namespace = deployment.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
    let replicas = deployment.pointer("/status/replicas").and_then(Value::as_u64).unwrap_or(0).min(50);
    let ready = deployment.pointer("/status/readyReplicas").and_then(Value::as_u64).unwrap_or(0);
    (0..replicas).map(|number| pod(namespace, name, number, number < ready)).collect()
}

fn pod(namespace: &str, name: &str, number: u64, ready: bool) -> Value {
    let begun = clock::text(clock::now() - time::Duration::hours(5));
    let container = container(name);
    let state = if ready {
        json!({"name": container, "ready": true, "restartCount": 0, "state": {"running": {"startedAt": begun}}})
    } else {
        json!({"name": container, "ready": false, "restartCount": 9,
               "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container"}},
               "lastState": {"terminated": {"reason": "Error", "exitCode": 1}}})
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("{name}-6c9f8d7b5-{number:05x}"), "namespace": namespace, "labels": {"app": name}, "creationTimestamp": begun},
        "spec": {"nodeName": format!("node-{}", number % 3), "containers": [{"name": container, "image": image(name)}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
                   "containerStatuses": [state]},
    })
}

/// The log of a pod's container.
pub(super) fn log(pod: &Value, lines: usize) -> String {
    let ready = pod.pointer("/status/containerStatuses/0/ready") == Some(&Value::Bool(true));
    let name = pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let begun = clock::now() - time::Duration::minutes(5);
    let mut text = String::new();
    for number in 0..lines.min(40) {
        let moment = clock::text(begun + time::Duration::seconds(i64::try_from(number).unwrap_or(0) * 7));
        let line = if ready {
            format!("served GET /healthz in {} ms", number % 4 + 1)
        } else {
            format!("cannot reach the database at db.shop:5432, try {number}")
        };
        text.push_str(&format!("{moment} {name} {line}\n"));
    }
    if !ready {
        text.push_str("fatal: gave up after 40 tries\n");
    }
    text
}
