//! The routes of the simulated API, and its access control.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, Response, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use futures_util::stream;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::fleet::Kind;

use super::access::Caller;
use super::answer::{failure, gone, json as answer, refusal};
use super::kinds::Resource;
use super::query::Query;
use super::things::{self, merge};
use super::world::{Key, Refusal, World};

const LIST_DEFAULT: usize = 500;
const PATCH_MOST: usize = 1024 * 1024;
const BOOKMARK: Duration = Duration::from_secs(10);
const WATCH_MOST: Duration = Duration::from_secs(300);

struct Api {
    clusters: Vec<Arc<World>>,
    token: Arc<str>,
}

/// Serves everything below `/clusters/{name}`.
pub(super) fn routes(clusters: Vec<Arc<World>>, token: Arc<str>) -> Router {
    Router::new().fallback(handle).with_state(Arc::new(Api { clusters, token }))
}

async fn handle(State(api): State<Arc<Api>>, request: Request) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let parts: Vec<String> =
        path.split('/').skip(1).map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned()).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let ["clusters", name, rest @ ..] = parts.as_slice() else { return missing() };
    let Some(world) = api.clusters.iter().find(|world| world.name() == *name) else { return missing() };
    if world.faults().is_dead() {
        std::future::pending::<()>().await;
    }
    world.faults().delay().await;
    if request.method() == Method::PATCH {
        world.faults().may_change().await;
    }
    if world.faults().is_broken() {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "the etcd of the demo is on holiday");
    }
    let bearer = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if bearer.and_then(|value| value.strip_prefix("Bearer ")) != Some(&*api.token) {
        return refusal(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized");
    }
    match Caller::of(request.headers()) {
        Ok(caller) => route(world, &caller, rest, request).await,
        Err(reason) => refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", reason),
    }
}

/// Kubernetes' response to a caller without permission.
fn forbidden(caller: &Caller, verb: &str, resource: &str, group: &str, namespace: Option<&str>) -> Response<Body> {
    let place =
        namespace.map_or_else(|| "at the cluster scope".to_owned(), |within| format!("in the namespace \"{within}\""));
    let name = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
    let message = format!(
        "{name} is forbidden: User \"{}\" cannot {verb} resource \"{resource}\" in API group \"{group}\" {place}",
        caller.name()
    );
    refusal(StatusCode::FORBIDDEN, "Forbidden", &message)
}

/// Answers an access review for the caller.
async fn review(world: &World, caller: &Caller, request: Request) -> Response<Body> {
    world.faults().count_review();
    let body = axum::body::to_bytes(request.into_body(), PATCH_MOST).await.unwrap_or_default();
    let Ok(mut review) = serde_json::from_slice::<Value>(&body) else {
        return refusal(StatusCode::BAD_REQUEST, "BadRequest", "the body is no review");
    };
    let text = |name: &str| review["spec"]["resourceAttributes"][name].as_str().unwrap_or_default().to_owned();
    let namespace = Some(text("namespace")).filter(|namespace| !namespace.is_empty());
    let allowed = world.access().allows(caller, &text("verb"), &text("resource"), namespace.as_deref());
    review["status"] =
        json!({"allowed": allowed, "reason": if allowed { "RBAC: allowed by a RoleBinding" } else { "" }});
    answer(StatusCode::CREATED, &review)
}

async fn route(world: &Arc<World>, caller: &Caller, path: &[&str], request: Request) -> Response<Body> {
    let query = Query::of(request.uri().query().unwrap_or_default());
    if request.method() == Method::GET
        && !path.ends_with(&["events"])
        && let Some(answer) = things::answered(world, caller, path, &query)
    {
        return answer;
    }
    if request.method() == Method::PATCH && resource_of(world, path).is_none() {
        return match dry_run_manifest(&query, request).await {
            Ok(manifest) => things::dry_run(world, caller, path, &manifest).unwrap_or_else(missing),
            Err(refused) => *refused,
        };
    }
    match path {
        ["version"] => answer(
            StatusCode::OK,
            &json!({"major": "1", "minor": "34", "gitVersion": world.kubernetes_version(), "platform": "linux/amd64"}),
        ),
        ["api"] => answer(StatusCode::OK, &json!({"kind": "APIVersions", "versions": ["v1"]})),
        ["api", "v1", "namespaces", namespace, "events"] => {
            // Delayed once more than the object itself: there are many events.
            world.faults().delay().await;
            if world.access().allows(caller, "list", "events", Some(namespace)) && !world.faults().hides_events() {
                events(world, namespace, &query)
            } else {
                forbidden(caller, "list", "events", "", Some(namespace))
            }
        }
        ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"] if request.method() == Method::POST => {
            review(world, caller, request).await
        }
        ["apis"] => answer(StatusCode::OK, &groups(world)),
        ["apis", "apiextensions.k8s.io", "v1", "customresourcedefinitions", name] => definition(world, name),
        ["apis", group, version] => group_resources(world, group, version),
        ["apis", group, version, plural] => match resource(world, group, version, plural) {
            Some(found) => collection(world, caller, &found, version, None, &query),
            None => missing(),
        },
        ["apis", group, version, "namespaces", namespace, plural] => match resource(world, group, version, plural) {
            Some(found) => collection(world, caller, &found, version, Some(namespace), &query),
            None => missing(),
        },
        ["apis", group, version, "namespaces", namespace, plural, name] => {
            match resource(world, group, version, plural) {
                Some(found) => object(world, caller, &found, version, namespace, name, request).await,
                None => missing(),
            }
        }
        _ => missing(),
    }
}

/// The Flux resource that a path names.
fn resource_of(world: &World, path: &[&str]) -> Option<Resource> {
    match path {
        ["apis", group, version, "namespaces", _, plural, _] => resource(world, group, version, plural),
        _ => None,
    }
}

/// Reads the manifest of a dry run; other applies are not supported.
async fn dry_run_manifest(query: &Query, request: Request) -> Result<Value, Box<Response<Body>>> {
    let applied =
        request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/apply-patch+yaml");
    if !applied || query.value("dryRun").as_deref() != Some("All") || query.value("fieldManager").is_none() {
        let message = "only merge patches, and dry runs of applying with a fieldManager, are understood here";
        return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message).into());
    }
    let body = axum::body::to_bytes(request.into_body(), PATCH_MOST).await.unwrap_or_default();
    let manifest = serde_json::from_slice::<Value>(&body).ok().filter(Value::is_object);
    manifest.ok_or_else(|| refusal(StatusCode::BAD_REQUEST, "BadRequest", "the body is no manifest").into())
}

fn missing() -> Response<Body> {
    refusal(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
}

fn groups(world: &World) -> Value {
    let mut groups: Vec<Value> = vec![json!({
        "name": "apps", "versions": [{"groupVersion": "apps/v1", "version": "v1"}],
        "preferredVersion": {"groupVersion": "apps/v1", "version": "v1"},
    })];
    let resources = world.resources();
    let mut names: Vec<&str> = resources.iter().map(|resource| resource.kind.group()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let mut versions: Vec<&str> = resources
            .iter()
            .filter(|resource| resource.kind.group() == name)
            .flat_map(|resource| resource.versions.iter().copied())
            .collect();
        // "v1" before "v1beta2": a shorter name is more stable.
        versions.sort_unstable_by_key(|version| (version.len(), *version));
        versions.dedup();
        let versions: Vec<Value> = versions
            .into_iter()
            .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
            .collect();
        groups.push(json!({"name": name, "preferredVersion": versions.first(), "versions": versions}));
    }
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn group_resources(world: &World, group: &str, version: &str) -> Response<Body> {
    let resources: Vec<Value> = world
        .resources()
        .into_iter()
        .filter(|resource| resource.kind.group() == group && resource.versions.contains(&version))
        .flat_map(|Resource { kind, plural, .. }| {
            [
                json!({"name": plural, "singularName": "", "namespaced": true, "kind": kind.name(),
                       "verbs": ["get", "list", "patch", "watch"]}),
                json!({"name": format!("{plural}/status"), "singularName": "", "namespaced": true, "kind": kind.name(),
                       "verbs": ["get", "patch"]}),
            ]
        })
        .collect();
    if resources.is_empty() {
        return missing();
    }
    answer(
        StatusCode::OK,
        &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{group}/{version}"),
                "resources": resources}),
    )
}

fn definition(world: &World, name: &str) -> Response<Body> {
    let known = world.resources().into_iter().any(|resource| {
        name.strip_prefix(resource.plural).and_then(|rest| rest.strip_prefix('.')) == Some(resource.kind.group())
    });
    if !known {
        return missing();
    }
    answer(
        StatusCode::OK,
        &json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "flux",
                                                      "app.kubernetes.io/version": world.flux_version()}}}),
    )
}

fn resource(world: &World, group: &str, version: &str, plural: &str) -> Option<Resource> {
    world.resources().into_iter().find(|resource| {
        resource.kind.group() == group && resource.plural == plural && resource.versions.contains(&version)
    })
}

fn events(world: &World, namespace: &str, query: &Query) -> Response<Body> {
    let selector = query.value("fieldSelector").unwrap_or_default();
    let wanted = |event: &Value| {
        selector.split(',').filter(|term| !term.is_empty()).all(|term| {
            let (field, value) = term.split_once('=').unwrap_or((term, ""));
            let value = value.trim_start_matches('=');
            let pointer = format!("/{}", field.replace('.', "/"));
            event.pointer(&pointer).is_some_and(|found| found == value)
        })
    };
    let (items, version) = world.events(namespace, wanted);
    answer(
        StatusCode::OK,
        &json!({"kind": "EventList", "apiVersion": "v1", "metadata": {"resourceVersion": version.to_string()},
                "items": items.iter().map(AsRef::as_ref).collect::<Vec<&Value>>()}),
    )
}

fn collection(
    world: &Arc<World>,
    caller: &Caller,
    resource: &Resource,
    version: &str,
    namespace: Option<&str>,
    query: &Query,
) -> Response<Body> {
    let (plural, group) = (resource.plural, resource.kind.group());
    let confined = namespace.is_none() && world.faults().confines();
    if confined || world.faults().hides(resource.kind) || !world.access().allows(caller, "list", plural, namespace) {
        return forbidden(caller, "list", plural, group, namespace);
    }
    if query.value("watch").is_some_and(|value| value == "true" || value == "1") {
        return watch(world, resource, version, namespace, query);
    }
    let limit = query.value("limit").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
    let after = match query.value("continue").filter(|token| !token.is_empty()) {
        Some(token) => match read_token(resource.kind, &token) {
            Some(after) => Some(after),
            None => return refusal(StatusCode::BAD_REQUEST, "BadRequest", "continue key is not valid"),
        },
        None => {
            world.faults().count_list();
            None
        }
    };
    let Ok(sheet) = world.sheet(resource.kind, namespace, limit.unwrap_or(LIST_DEFAULT), after) else {
        return answer(StatusCode::GONE, &gone());
    };
    let mut metadata = json!({"resourceVersion": sheet.version.to_string()});
    if let Some(next) = &sheet.next {
        metadata["continue"] = token(sheet.version, next).into();
        metadata["remainingItemCount"] = sheet.remaining.into();
    }
    let kind = resource.kind.name();
    let items: Vec<Value> = sheet.items.iter().map(|object| at_version(object, resource, version)).collect();
    answer(
        StatusCode::OK,
        &json!({"kind": format!("{kind}List"), "apiVersion": format!("{}/{version}", resource.kind.group()),
                "metadata": metadata, "items": items}),
    )
}

fn at_version(object: &Value, resource: &Resource, version: &str) -> Value {
    let mut object = object.clone();
    object["apiVersion"] = format!("{}/{version}", resource.kind.group()).into();
    object
}

fn token(version: u64, (_, namespace, name): &Key) -> String {
    BASE64.encode(format!("{version} {namespace} {name}"))
}

fn read_token(kind: Kind, token: &str) -> Option<(u64, Key)> {
    let text = String::from_utf8(BASE64.decode(token).ok()?).ok()?;
    let mut words = text.split(' ');
    let version = words.next()?.parse().ok()?;
    Some((version, (kind, words.next()?.to_owned(), words.next()?.to_owned())))
}

/// An open watch.
struct Watch {
    world: Arc<World>,
    resource: Resource,
    version: String,
    namespace: Option<String>,
    seen: u64,
    ends: Instant,
    bookmarks: bool,
    newest: tokio::sync::watch::Receiver<u64>,
    cuts: tokio::sync::watch::Receiver<u64>,
    last: Option<Last>,
}

/// How a watch ends after the lines that it has just sent.
enum Last {
    /// At the end of a line.
    End,
    /// In the middle of the next line.
    Cut,
}

fn watch(
    world: &Arc<World>,
    resource: &Resource,
    version: &str,
    namespace: Option<&str>,
    query: &Query,
) -> Response<Body> {
    world.faults().count_watch();
    let Some(seen) = query.value("resourceVersion").and_then(|version| version.parse().ok()) else {
        return refusal(StatusCode::BAD_REQUEST, "BadRequest", "a watch here needs a resourceVersion");
    };
    if world.faults().refuses_forgotten() && world.since(resource.kind, seen).is_err() {
        return answer(StatusCode::GONE, &gone());
    }
    let seconds = query.value("timeoutSeconds").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    let watch = Watch {
        world: Arc::clone(world),
        resource: *resource,
        version: version.to_owned(),
        namespace: namespace.map(str::to_owned),
        seen,
        ends: Instant::now() + seconds.unwrap_or(WATCH_MOST).min(WATCH_MOST),
        bookmarks: query.value("allowWatchBookmarks").as_deref() == Some("true"),
        newest: world.newest(),
        cuts: world.faults().cuts(),
        last: None,
    };
    let lines = stream::unfold(watch, |mut watch| async move {
        match watch.last.take() {
            Some(Last::End) => return None,
            Some(Last::Cut) => return Some((Err(std::io::Error::other("cut off, as told")), end(watch))),
            None => {}
        }
        let lines = watch.next().await?;
        Some((Ok(lines), watch))
    });
    let mut answer = Response::new(Body::from_stream(lines));
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}

fn end(mut watch: Watch) -> Watch {
    watch.last = Some(Last::End);
    watch
}

impl Watch {
    /// Returns the next lines, or `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.world.faults().is_dead() {
                std::future::pending::<Infallible>().await;
            }
            match self.new_lines() {
                Ok(lines) if lines.is_empty() => {}
                Ok(lines) => {
                    self.world.faults().delay().await;
                    if self.world.faults().is_unreliable() {
                        self.last = Some(Last::Cut);
                        let half = lines.len() / 2;
                        return Some(Bytes::copy_from_slice(lines.get(..half).unwrap_or_default().as_bytes()));
                    }
                    return Some(lines.into());
                }
                Err(Refusal::Gone | Refusal::NotFound) => {
                    self.last = Some(Last::End);
                    return Some(line("ERROR", &gone()).into());
                }
            }
            tokio::select! {
                _ = self.newest.changed() => {}
                _ = self.cuts.changed() => {
                    self.last = Some(Last::Cut);
                    return Some(Bytes::from_static(b"{\"type\":\"MODI"));
                }
                () = tokio::time::sleep_until(self.ends) => return None,
                () = tokio::time::sleep(BOOKMARK), if self.bookmarks => return Some(self.bookmark().into()),
            }
        }
    }

    fn new_lines(&mut self) -> Result<String, Refusal> {
        let (events, newest) = self.world.since(self.resource.kind, self.seen)?;
        self.seen = newest;
        let mut lines = String::new();
        for logged in events {
            if self.namespace.as_ref().is_none_or(|namespace| *namespace == logged.key.1) {
                lines += &line(logged.what, &at_version(&logged.object, &self.resource, &self.version));
            }
        }
        Ok(lines)
    }

    fn bookmark(&self) -> String {
        let object = json!({
            "kind": self.resource.kind.name(),
            "apiVersion": format!("{}/{}", self.resource.kind.group(), self.version),
            "metadata": {"resourceVersion": self.seen.to_string(), "creationTimestamp": null},
        });
        line("BOOKMARK", &object)
    }
}

fn line(what: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": what, "object": object}))
}

async fn object(
    world: &World,
    caller: &Caller,
    resource: &Resource,
    version: &str,
    namespace: &str,
    name: &str,
    request: Request,
) -> Response<Body> {
    let verb = if request.method() == Method::PATCH { "patch" } else { "get" };
    // Before looking up the object, as Kubernetes does.
    if !world.access().allows(caller, verb, resource.plural, Some(namespace)) {
        return forbidden(caller, verb, resource.plural, resource.kind.group(), Some(namespace));
    }
    let Ok(key) = world.has(resource.kind, namespace, name) else {
        let (plural, group) = (resource.plural, resource.kind.group());
        let message = format!("{plural}.{group} \"{name}\" not found");
        return refusal(StatusCode::NOT_FOUND, "NotFound", &message);
    };
    if request.method() == Method::GET {
        return match world.find(&key) {
            Some(object) => answer(StatusCode::OK, &at_version(&object, resource, version)),
            None => missing(),
        };
    }
    if request.method() != Method::PATCH {
        return refusal(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "the server does not allow this method");
    }
    if world.faults().forbids_changes() {
        let (plural, group) = (resource.plural, resource.kind.group());
        let message = format!(
            "{plural}.{group} \"{name}\" is forbidden: User \"system:serviceaccount:demo:viewer\" cannot patch \
             resource \"{plural}\" in API group \"{group}\" in the namespace \"{namespace}\""
        );
        return refusal(StatusCode::FORBIDDEN, "Forbidden", &message);
    }
    if world.faults().conflicts() {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": the object has been modified; please apply your changes \
             to the latest version and try again",
            resource.plural
        );
        return refusal(StatusCode::CONFLICT, "Conflict", &message);
    }
    let query = Query::of(request.uri().query().unwrap_or_default());
    let manager = query.value("fieldManager").unwrap_or_else(|| "unknown".to_owned());
    if query.value("dryRun").is_some() {
        return match (dry_run_manifest(&query, request).await, world.find(&key)) {
            (Ok(manifest), Some(object)) => {
                let mut object = at_version(&object, resource, version);
                merge(&mut object, &manifest);
                answer(StatusCode::OK, &object)
            }
            (Err(refused), _) => *refused,
            (Ok(_), None) => missing(),
        };
    }
    let merging =
        request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/merge-patch+json");
    let body = axum::body::to_bytes(request.into_body(), PATCH_MOST).await;
    let patch = body.ok().filter(|_| merging).and_then(|body| serde_json::from_slice::<Value>(&body).ok());
    let Some(patch) = patch else {
        let message = failure(415, "UnsupportedMediaType", "only merge patches are understood here");
        return answer(StatusCode::UNSUPPORTED_MEDIA_TYPE, &message);
    };
    match change(world, key, &patch, &manager) {
        Some(object) => answer(StatusCode::OK, &at_version(&object, resource, version)),
        None => refusal(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", "what would come of it is no such object"),
    }
}

/// Applies a patch and returns the result; `None` if it would be malformed.
fn change(world: &World, key: Key, patch: &Value, manager: &str) -> Option<Arc<Value>> {
    let before = world.find(&key)?;
    let mut object = before.as_ref().clone();
    merge(&mut object, patch);
    if !object.is_object() {
        return None;
    }
    // Only the controller may write the status.
    object["status"] = before["status"].clone();
    let names = ["name", "namespace", "uid"];
    let sound =
        object["spec"].is_object() && names.iter().all(|name| object["metadata"][name] == before["metadata"][name]);
    if !sound {
        return None;
    }
    if object["spec"] != before["spec"] {
        object["metadata"]["generation"] = (before["metadata"]["generation"].as_i64().unwrap_or(1) + 1).into();
    }
    if let Some(managers) = object["metadata"]["managedFields"].as_array_mut() {
        managers.retain(|entry| entry["manager"] != manager);
        managers.push(json!({"manager": manager, "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {}}));
    }
    if object == *before {
        return Some(before);
    }
    let object = world.put(key.clone(), object);
    world.ask(key);
    Some(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_patch_sets_adds_and_removes() {
        let mut object = json!({"a": {"b": 1, "c": 2}, "d": [1]});
        merge(&mut object, &json!({"a": {"b": null, "e": {"f": 3}}, "d": "x"}));
        assert_eq!(object, json!({"a": {"c": 2, "e": {"f": 3}}, "d": "x"}));
    }

    #[test]
    fn a_continue_token_goes_both_ways() {
        let key = (Kind::Bucket, "a".to_owned(), "b".to_owned());
        assert_eq!(read_token(Kind::Bucket, &token(7, &key)), Some((7, key)));
        assert_eq!(read_token(Kind::Bucket, "!"), None);
    }
}
