//! The routes of objects that Flux has applied: of any kind, with pods and their logs.

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use serde_json::{Value, json};

use super::access::Caller;
use super::answer::{json as answer, refusal};
use super::query::Query;
use super::workloads::{self, SERVED, Served};
use super::world::World;

/// Answers a request for an applied object; `None` if the path is for something else.
pub(super) fn answered(world: &World, caller: &Caller, path: &[&str], query: &Query) -> Option<Response<Body>> {
    let (group, version, rest) = match path {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let of_group = || SERVED.iter().filter(|served| served.group == group && served.version == version);
    let served = |plural: &str| of_group().find(|served| served.plural == plural);
    match rest {
        [] if of_group().next().is_some() => Some(resources(group, version, of_group())),
        [plural] => Some(list(world, caller, served(plural)?, None, query)),
        ["namespaces", name] => Some(one(world, caller, served("namespaces")?, "", name)),
        ["namespaces", namespace, plural] => Some(list(world, caller, served(plural)?, Some(namespace), query)),
        [plural, name] => Some(one(world, caller, served(plural).filter(|served| !served.namespaced)?, "", name)),
        ["namespaces", namespace, plural, name] => Some(one(world, caller, served(plural)?, namespace, name)),
        ["namespaces", namespace, "pods", name, "log"] => Some(log(world, caller, namespace, name, query)),
        _ => None,
    }
}

/// Answers a dry-run apply to an applied object; `None` if the path is for something else. Nothing changes.
pub(super) fn dry_run(world: &World, caller: &Caller, path: &[&str], manifest: &Value) -> Option<Response<Body>> {
    let (group, version, rest) = match path {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let served = |plural: &str| {
        SERVED.iter().find(|served| served.group == group && served.version == version && served.plural == plural)
    };
    let (served, namespace, name) = match rest {
        ["namespaces", namespace, plural, name] => (served(plural)?, *namespace, *name),
        [plural, name] => (served(plural).filter(|served| !served.namespaced)?, "", *name),
        _ => return None,
    };
    let within = Some(namespace).filter(|namespace| !namespace.is_empty());
    if let Some(refused) = refused(world, caller, "patch", served.plural, served.group, within) {
        return Some(refused);
    }
    let thing = (served.group.to_owned(), served.kind.to_owned(), namespace.to_owned(), name.to_owned());
    let mut object = world.applied(&thing).unwrap_or_default();
    merge(&mut object, manifest);
    Some(answer(StatusCode::OK, &object))
}

/// A merge patch (RFC 7396), which equals apply where lists are given whole.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in patch {
        match (value.is_null(), target.as_object_mut()) {
            (true, Some(target)) => drop(target.remove(name)),
            (false, Some(target)) => merge(target.entry(name.clone()).or_insert(Value::Null), value),
            (_, None) => {}
        }
    }
}

fn resources<'a>(group: &str, version: &str, of_group: impl Iterator<Item = &'a Served>) -> Response<Body> {
    let resources: Vec<Value> = of_group
        .map(|served| json!({"name": served.plural, "singularName": "", "namespaced": served.namespaced, "kind": served.kind, "verbs": ["get", "list"]}))
        .collect();
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    answer(
        StatusCode::OK,
        &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}),
    )
}

/// Kubernetes' response to a caller without permission; `None` if permitted.
fn refused(
    world: &World,
    caller: &Caller,
    verb: &str,
    resource: &str,
    group: &str,
    namespace: Option<&str>,
) -> Option<Response<Body>> {
    if world.access().allows(caller, verb, resource, namespace) && !world.faults().hides_applied() {
        return None;
    }
    let name = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
    let message = format!(
        "{name} is forbidden: User \"{}\" cannot {verb} resource \"{resource}\" in API group \"{group}\"",
        caller.name()
    );
    Some(refusal(StatusCode::FORBIDDEN, "Forbidden", &message))
}

fn one(world: &World, caller: &Caller, served: &Served, namespace: &str, name: &str) -> Response<Body> {
    let within = Some(namespace).filter(|namespace| !namespace.is_empty());
    if let Some(refused) = refused(world, caller, "get", served.plural, served.group, within) {
        return refused;
    }
    let thing = (served.group.to_owned(), served.kind.to_owned(), namespace.to_owned(), name.to_owned());
    match world.applied(&thing) {
        Some(object) => answer(StatusCode::OK, &object),
        None => refusal(StatusCode::NOT_FOUND, "NotFound", &format!("{} \"{name}\" not found", served.plural)),
    }
}

fn list(world: &World, caller: &Caller, served: &Served, namespace: Option<&str>, query: &Query) -> Response<Body> {
    if let Some(refused) = refused(world, caller, "list", served.plural, served.group, namespace) {
        return refused;
    }
    let items = match served.kind {
        "Pod" => pods(world, namespace),
        kind => world.all_applied(served.group, kind, namespace),
    };
    let items: Vec<Value> = items.into_iter().filter(|item| chosen(item, query)).collect();
    answer(
        StatusCode::OK,
        &json!({"kind": format!("{}List", served.kind), "metadata": {"resourceVersion": "1"}, "items": items}),
    )
}

fn pods(world: &World, namespace: Option<&str>) -> Vec<Value> {
    world.all_applied("apps", "Deployment", namespace).iter().flat_map(workloads::pods).collect()
}

/// Returns true if label and field selectors match; of label selectors only `name=value` is supported.
fn chosen(item: &Value, query: &Query) -> bool {
    let terms = |name: &str| -> Vec<(String, String)> {
        let text = query.value(name).unwrap_or_default();
        text.split(',')
            .filter_map(|term| term.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    };
    terms("labelSelector").iter().all(|(name, value)| item["metadata"]["labels"][name.as_str()] == *value.as_str())
        && terms("fieldSelector").iter().all(|(name, value)| {
            item.pointer(&format!("/{}", name.replace('.', "/"))).is_some_and(|found| found == value.as_str())
        })
}

fn log(world: &World, caller: &Caller, namespace: &str, name: &str, query: &Query) -> Response<Body> {
    if let Some(refused) = refused(world, caller, "get", "pods/log", "", Some(namespace)) {
        return refused;
    }
    let Some(pod) = pods(world, Some(namespace)).into_iter().find(|pod| pod["metadata"]["name"] == name) else {
        return refusal(StatusCode::NOT_FOUND, "NotFound", &format!("pods \"{name}\" not found"));
    };
    let lines = query.value("tailLines").and_then(|lines| lines.parse().ok()).unwrap_or(1000);
    let mut text = workloads::log(&pod, lines);
    if query.value("previous").as_deref() == Some("true") {
        text = format!("before the last start:\n{text}");
    }
    let mut answer = Response::new(Body::from(text));
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    answer
}
