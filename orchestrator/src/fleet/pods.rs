//! The pods of a workload: their status, and the last log lines of a container.

use serde::Deserialize;
use serde_json::Value;

use crate::clock;
use crate::kube::{Client, Fault, segment};

use super::kstatus::{self, ObjectFields};
use super::model::{ContainerState, Pod, bounded};

/// The most pods of one workload that are shown.
const PODS_MOST: usize = 20;
/// The most containers of one pod that are shown.
const CONTAINERS_MOST: usize = 20;
/// The most lines and bytes of a log that are read.
const LINES_MOST: usize = 200;
const BYTES_MOST: usize = 256 * 1024;

/// The container whose log is read.
#[derive(Clone, Debug)]
pub struct Container {
    /// The kind of the workload that its pod belongs to.
    pub kind: String,
    /// The namespace of both.
    pub namespace: String,
    /// The workload's name.
    pub workload: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name.
    pub container: String,
    /// Whether to read the log from before the container's last start.
    pub previous: bool,
}

/// Returns true if objects of a kind have pods of their own.
pub(super) fn has_pods(group: &str, kind: &str) -> bool {
    matches!((group, kind), ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet") | ("batch", "Job"))
}

/// The label selector of a workload's pods; `None` if it has none.
pub(super) fn selector(group: &str, kind: &str, object: &Value) -> Option<String> {
    if !has_pods(group, kind) {
        return None;
    }
    let selector: Selector = serde_json::from_value(object.pointer("/spec/selector")?.clone()).ok()?;
    let equal = selector.match_labels.iter().map(|(name, value)| format!("{name}={value}"));
    let among = selector.match_expressions.iter().filter_map(|term| {
        let values = term.values.join(",");
        match term.operator.as_str() {
            "In" => Some(format!("{} in ({values})", term.key)),
            "NotIn" => Some(format!("{} notin ({values})", term.key)),
            "Exists" => Some(term.key.clone()),
            "DoesNotExist" => Some(format!("!{}", term.key)),
            _ => None,
        }
    });
    let terms: Vec<String> = equal.chain(among).collect();
    // An empty selector would match every pod.
    (!terms.is_empty() && terms.len() == selector.match_labels.len() + selector.match_expressions.len())
        .then(|| terms.join(","))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Selector {
    #[serde(default)]
    match_labels: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    match_expressions: Vec<Term>,
}

#[derive(Deserialize)]
struct Term {
    key: String,
    operator: String,
    #[serde(default)]
    values: Vec<String>,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    metadata: Value,
    #[serde(default)]
    items: Vec<Value>,
}

/// The pods that match a selector, most urgent first, and whether there are more.
pub(super) async fn of(client: &Client, namespace: &str, selector: &str) -> Result<(Vec<Pod>, bool), Fault> {
    let path =
        format!("/api/v1/namespaces/{}/pods?limit={PODS_MOST}&labelSelector={}", segment(namespace), segment(selector));
    let list: List = client.ask(&path).await?;
    let more = !ObjectFields(&list.metadata).text("/continue").is_empty() || list.items.len() > PODS_MOST;
    let mut pods: Vec<Pod> = list.items.iter().take(PODS_MOST).map(pod).collect();
    pods.sort_by_key(|pod| pod.status);
    Ok((pods, more))
}

/// One pod, if the selector matches it.
pub(super) async fn one(client: &Client, namespace: &str, selector: &str, name: &str) -> Result<Pod, Fault> {
    let path = format!(
        "/api/v1/namespaces/{}/pods?limit=1&labelSelector={}&fieldSelector={}",
        segment(namespace),
        segment(selector),
        segment(&format!("metadata.name={name}"))
    );
    let list: List = client.ask(&path).await?;
    let found = list.items.first().map(pod).filter(|pod| pod.name == name);
    found.ok_or_else(|| {
        Fault::NotFound(format!("the pod {namespace}/{name} is not there, or is no pod of that workload"))
    })
}

fn pod(object: &Value) -> Pod {
    let fields = ObjectFields(object);
    let (status, message) = kstatus::judge("", "Pod", object, clock::now());
    let states: Vec<ObjectFields<'_>> =
        fields.list("/status/initContainerStatuses").chain(fields.list("/status/containerStatuses")).collect();
    let declared = fields.list("/spec/initContainers").chain(fields.list("/spec/containers"));
    let containers: Vec<ContainerState> = declared
        .take(CONTAINERS_MOST)
        .map(|declared| {
            let name = declared.text("/name");
            let state = states.iter().find(|state| state.text("/name") == name).copied();
            container(name, state)
        })
        .collect();
    Pod {
        name: fields.text("/metadata/name").to_owned(),
        status,
        message,
        node: Some(fields.text("/spec/nodeName")).filter(|node| !node.is_empty()).map(str::to_owned),
        restarts: containers.iter().map(|container| container.restarts).sum(),
        created_at: clock::parse(fields.text("/metadata/creationTimestamp")),
        containers,
    }
}

fn container(name: &str, state: Option<ObjectFields<'_>>) -> ContainerState {
    let Some(fields) = state else {
        return ContainerState { name: name.to_owned(), ready: false, state: "not begun".to_owned(), restarts: 0 };
    };
    let state = if fields.0.pointer("/state/running").is_some() {
        "running".to_owned()
    } else if let Some(ended) = fields.0.pointer("/state/terminated").map(ObjectFields) {
        let code = ended.0.pointer("/exitCode").and_then(Value::as_i64).unwrap_or_default();
        format!("ended: {} ({code})", ended.text("/reason"))
    } else {
        format!("waiting: {}", fields.text("/state/waiting/reason"))
    };
    ContainerState {
        name: name.to_owned(),
        ready: fields.0.pointer("/ready") == Some(&Value::Bool(true)),
        state: bounded(&state).to_owned(),
        restarts: fields.0.pointer("/restartCount").and_then(Value::as_u64).unwrap_or_default(),
    }
}

/// The last log lines of a container.
pub(super) async fn log(client: &Client, of: &Container) -> Result<String, Fault> {
    let path = format!(
        "/api/v1/namespaces/{}/pods/{}/log?container={}&tailLines={LINES_MOST}&limitBytes={BYTES_MOST}&previous={}",
        segment(&of.namespace),
        segment(&of.pod),
        segment(&of.container),
        of.previous
    );
    let bytes = client.ask_bytes(&path).await?;
    // In case the server ignores both limits: only the end matters.
    let end = bytes.get(bytes.len().saturating_sub(BYTES_MOST)..).unwrap_or_default();
    Ok(String::from_utf8_lossy(end).into_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_selector_is_written_whole_or_not_at_all() {
        let of = |chosen: Value| selector("apps", "Deployment", &json!({"spec": {"selector": chosen}}));
        let terms = json!([{"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "old", "operator": "DoesNotExist"}]);
        assert_eq!(
            of(json!({"matchLabels": {"app": "x"}, "matchExpressions": terms})).unwrap(),
            "app=x,tier in (a,b),!old"
        );
        for nothing in [
            json!({}),
            json!(null),
            json!({"matchExpressions": [{"key": "a", "operator": "Gt"}]}),
            json!({"matchLabels": 7}),
        ] {
            assert_eq!(of(nothing.clone()), None, "{nothing}");
        }
        assert_eq!(selector("", "Service", &json!({"spec": {"selector": {"matchLabels": {"app": "x"}}}})), None);
    }

    #[test]
    fn a_pod_is_shown_with_each_container_in_the_order_in_which_they_begin() {
        let object = json!({
            "metadata": {"name": "backend-1", "creationTimestamp": "2026-01-31T10:00:00Z"},
            "spec": {"nodeName": "n1", "initContainers": [{"name": "migrate"}], "containers": [{"name": "app"}, {"name": "late"}]},
            "status": {"phase": "Running", "initContainerStatuses": [{"name": "migrate", "state": {"terminated": {"reason": "Completed", "exitCode": 0}}}],
                       "containerStatuses": [{"name": "app", "restartCount": 7, "ready": false, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
        });
        let pod = pod(&object);
        let states: Vec<_> = pod.containers.iter().map(|one| (one.name.as_str(), one.state.as_str())).collect();
        assert_eq!(
            states,
            [("migrate", "ended: Completed (0)"), ("app", "waiting: CrashLoopBackOff"), ("late", "not begun")]
        );
        assert_eq!((pod.restarts, pod.node.as_deref(), pod.message.as_str()), (7, Some("n1"), "app: CrashLoopBackOff"));
    }
}
