//! One simulated cluster: its objects, their versions, and recent events.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::clock;
use crate::fleet::Kind;

use super::access::{Access, Binding};
use super::faults::Faults;
use super::kinds::{self, Resource};
use super::records;
use super::workloads::{Set, Thing};

/// How many past changes a watch can resume from.
const LOG_MOST: usize = 1000;
/// How many events are kept.
const EVENTS_MOST: usize = 500;

/// An object's key: kind, namespace, name.
pub(super) type Key = (Kind, String, String);

/// One simulated cluster.
pub struct World {
    name: String,
    older: bool,
    faults: Faults,
    access: Access,
    things: Mutex<Set>,
    state: Mutex<State>,
    newest: watch::Sender<u64>,
}

struct State {
    version: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    missing: BTreeSet<Kind>,
    log: VecDeque<Logged>,
    /// Watches from before this version cannot be served.
    oldest: u64,
    events: VecDeque<Arc<Value>>,
    /// Objects with a requested reconciliation that has not started.
    asked: BTreeSet<Key>,
}

/// One change, as watches report it.
#[derive(Clone)]
pub(super) struct Logged {
    pub(super) version: u64,
    pub(super) key: Key,
    pub(super) what: &'static str,
    pub(super) object: Arc<Value>,
}

/// Why a request fails.
pub(super) enum Refusal {
    NotFound,
    Gone,
}

/// A page of a list.
pub(super) struct Sheet {
    pub(super) version: u64,
    pub(super) items: Vec<Arc<Value>>,
    pub(super) next: Option<Key>,
    pub(super) remaining: usize,
}

impl World {
    pub(super) fn new(name: &str, objects: Vec<(Key, Value)>) -> Self {
        let state = State {
            version: 1000,
            objects: BTreeMap::new(),
            missing: BTreeSet::new(),
            log: VecDeque::new(),
            oldest: 1000,
            events: VecDeque::new(),
            asked: BTreeSet::new(),
        };
        let world = Self {
            name: name.to_owned(),
            older: name == "staging",
            faults: Faults::default(),
            access: Access::default(),
            things: Mutex::default(),
            state: Mutex::new(state),
            newest: watch::Sender::new(1000),
        };
        for (key, object) in objects {
            world.put(key, object);
        }
        world
    }

    /// The name of the cluster.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The faults of the cluster.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Adds a permission for an impersonated user or group. Without a binding they may do nothing.
    pub fn bind(&self, binding: Binding) {
        self.access.bind(binding);
    }

    /// Removes all bindings of a user or a group.
    pub fn unbind(&self, subject: &str) {
        self.access.unbind(subject);
    }

    pub(super) fn access(&self) -> &Access {
        &self.access
    }

    /// Overrides an applied object, or makes it missing.
    pub fn set_applied(&self, group: &str, kind: &str, namespace: &str, name: &str, object: Option<Value>) {
        let thing = (group.to_owned(), kind.to_owned(), namespace.to_owned(), name.to_owned());
        self.things.lock().unwrap_or_else(PoisonError::into_inner).put(thing, object);
    }

    /// An object that some Flux object has applied.
    pub(super) fn applied(&self, thing: &Thing) -> Option<Value> {
        let (group, kind, namespace, name) = thing;
        let id = format!("{namespace}_{name}_{group}_{kind}");
        let names_it = |object: &Arc<Value>| {
            let entries = object.pointer("/status/inventory/entries").and_then(Value::as_array);
            entries.into_iter().flatten().any(|entry| entry["id"] == id) || installs(object, thing)
        };
        self.state()
            .objects
            .values()
            .any(names_it)
            .then(|| self.things.lock().unwrap_or_else(PoisonError::into_inner).find(thing))
            .flatten()
    }

    /// All applied objects of a kind, in a namespace or in all.
    pub(super) fn all_applied(&self, group: &str, kind: &str, namespace: Option<&str>) -> Vec<Value> {
        let ending = format!("_{group}_{kind}");
        let things: BTreeSet<Thing> = self
            .state()
            .objects
            .values()
            .filter_map(|object| object.pointer("/status/inventory/entries")?.as_array())
            .flatten()
            .filter_map(|entry| entry["id"].as_str()?.strip_suffix(&ending)?.split_once('_'))
            .filter(|(within, _)| namespace.is_none_or(|wanted| wanted == *within))
            .map(|(within, name)| (group.to_owned(), kind.to_owned(), within.to_owned(), name.to_owned()))
            .collect();
        let set = self.things.lock().unwrap_or_else(PoisonError::into_inner);
        things.iter().filter_map(|thing| set.find(thing)).collect()
    }

    /// How many Flux objects there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.state().objects.len()
    }

    /// The current state of an object.
    #[must_use]
    pub fn object(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        self.find(&(kind, namespace.to_owned(), name.to_owned())).map(|object| object.as_ref().clone())
    }

    /// Changes an object, as its controller would; does not create it.
    pub fn change(&self, kind: Kind, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let key = (kind, namespace.to_owned(), name.to_owned());
        if let Some(object) = self.find(&key) {
            let mut object = object.as_ref().clone();
            change(&mut object);
            self.put(key, object);
        }
    }

    /// Creates or replaces an object.
    pub fn create(&self, kind: Kind, namespace: &str, name: &str, object: Value) {
        self.put((kind, namespace.to_owned(), name.to_owned()), object);
    }

    /// Deletes an object.
    pub fn delete(&self, kind: Kind, namespace: &str, name: &str) {
        let key = (kind, namespace.to_owned(), name.to_owned());
        let mut state = self.state();
        if let Some(object) = state.objects.remove(&key) {
            let mut object = object.as_ref().clone();
            state.version += 1;
            set_version(&mut object, state.version);
            let version = state.version;
            state.log(Logged { version, key, what: "DELETED", object: Arc::new(object) });
            self.newest.send_replace(version);
        }
    }

    /// Removes the definition of a kind, or restores it together with its objects.
    pub fn serve(&self, kind: Kind, served: bool) {
        let mut state = self.state();
        if served {
            state.missing.remove(&kind)
        } else {
            state.missing.insert(kind)
        };
        drop(state);
        self.faults.cut_watches();
    }

    /// Drops the change log: a watch that resumes from before now is answered `410 Gone`.
    pub fn forget(&self) {
        let mut state = self.state();
        // One step further, so that even the newest known version is too old.
        state.version += 1;
        state.oldest = state.version;
        state.log.clear();
    }

    /// Counts versions from the beginning again, as after a restore of an older backup, and drops the change log.
    pub fn restore(&self) {
        let mut state = self.state();
        (state.version, state.oldest) = (1, 1);
        state.log.clear();
        for object in state.objects.values_mut() {
            set_version(Arc::make_mut(object), 1);
        }
    }

    pub(super) fn resources(&self) -> Vec<Resource> {
        let state = self.state();
        kinds::served(self.older).into_iter().filter(|resource| !state.missing.contains(&resource.kind)).collect()
    }

    pub(super) fn flux_version(&self) -> &'static str {
        if self.older { "v2.5.1" } else { "v2.7.2" }
    }

    pub(super) fn kubernetes_version(&self) -> &'static str {
        if self.older { "v1.33.4" } else { "v1.34.1" }
    }

    pub(super) fn find(&self, key: &Key) -> Option<Arc<Value>> {
        self.state().objects.get(key).cloned()
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.state().objects.keys().cloned().collect()
    }

    /// Stores an object with the next version.
    pub(super) fn put(&self, key: Key, mut object: Value) -> Arc<Value> {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        set_version(&mut object, version);
        let object = Arc::new(object);
        let replaced = state.objects.insert(key.clone(), Arc::clone(&object));
        let what = if replaced.is_some() { "MODIFIED" } else { "ADDED" };
        state.log(Logged { version, key, what, object: Arc::clone(&object) });
        self.newest.send_replace(version);
        object
    }

    /// Records a request to reconcile an object.
    pub(super) fn ask(&self, key: Key) {
        self.state().asked.insert(key);
    }

    pub(super) fn take_asked(&self) -> BTreeSet<Key> {
        std::mem::take(&mut self.state().asked)
    }

    /// A page of a kind's objects: `limit` objects from `after` on, of one namespace or of all.
    pub(super) fn sheet(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        limit: usize,
        after: Option<(u64, Key)>,
    ) -> Result<Sheet, Refusal> {
        let state = self.state();
        let (version, start) = match after {
            Some((version, _)) if version < state.oldest => return Err(Refusal::Gone),
            Some((version, key)) => (version, Bound::Excluded(key)),
            None => (state.version, Bound::Included((kind, String::new(), String::new()))),
        };
        let mut rest = state
            .objects
            .range((start, Bound::Unbounded))
            .take_while(|((of, ..), _)| *of == kind)
            .filter(|((_, within, _), _)| namespace.is_none_or(|namespace| namespace == within));
        let page: Vec<_> = rest.by_ref().take(limit).collect();
        let remaining = rest.count();
        let next = if remaining > 0 { page.last().map(|(key, _)| (*key).clone()) } else { None };
        let items = page.into_iter().map(|(_, object)| Arc::clone(object)).collect();
        Ok(Sheet { version, items, next, remaining })
    }

    /// The changes of a kind after `version`, and the newest version.
    pub(super) fn since(&self, kind: Kind, version: u64) -> Result<(Vec<Logged>, u64), Refusal> {
        let state = self.state();
        if version < state.oldest {
            return Err(Refusal::Gone);
        }
        let later = state.log.iter().filter(|logged| logged.version > version && logged.key.0 == kind);
        Ok((later.cloned().collect(), state.version))
    }

    pub(super) fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Adds an event about an object.
    pub(super) fn add_event(&self, key: &Key, warning: bool, reason: &str, message: &str) {
        let (kind, namespace, name) = key;
        let now = clock::text(clock::now());
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": format!("{name}.{version:x}"), "namespace": namespace,
                         "resourceVersion": version.to_string()},
            "involvedObject": {"kind": kind.name(), "namespace": namespace, "name": name},
            "type": if warning { "Warning" } else { "Normal" },
            "reason": reason, "message": message, "count": 1, "firstTimestamp": now, "lastTimestamp": now,
            "source": {"component": controller(*kind)},
        });
        state.events.push_back(Arc::new(event));
        if state.events.len() > EVENTS_MOST {
            state.events.pop_front();
        }
    }

    pub(super) fn events(&self, namespace: &str, wanted: impl Fn(&Value) -> bool) -> (Vec<Arc<Value>>, u64) {
        let state = self.state();
        let within = state.events.iter().filter(|event| event["metadata"]["namespace"] == namespace);
        (within.filter(|event| wanted(event)).cloned().collect(), state.version)
    }

    pub(super) fn has(&self, kind: Kind, namespace: &str, name: &str) -> Result<Key, Refusal> {
        let key = (kind, namespace.to_owned(), name.to_owned());
        if self.state().objects.contains_key(&key) { Ok(key) } else { Err(Refusal::NotFound) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn log(&mut self, logged: Logged) {
        self.log.push_back(logged);
        if self.log.len() > LOG_MOST
            && let Some(forgotten) = self.log.pop_front()
        {
            self.oldest = forgotten.version;
        }
    }
}

/// Returns true if the object is a release's own record, or in its manifests.
fn installs(object: &Value, (group, kind, namespace, name): &Thing) -> bool {
    let Some(release) = object.pointer("/status/history/0").filter(|_| object["kind"] == "HelmRelease") else {
        return false;
    };
    if release["namespace"] != *namespace {
        return false;
    }
    let installed = release["name"].as_str().unwrap_or_default();
    match (group.as_str(), kind.as_str()) {
        ("", "Secret") => *name == format!("{}{installed}.v{}", records::PREFIX, release["version"]),
        ("apps", "Deployment") | ("", "Service") => name == installed,
        _ => false,
    }
}

fn set_version(object: &mut Value, version: u64) {
    object["metadata"]["resourceVersion"] = version.to_string().into();
}

fn controller(kind: Kind) -> &'static str {
    match kind {
        Kind::Kustomization => "kustomize-controller",
        Kind::HelmRelease => "helm-controller",
        Kind::GitRepository
        | Kind::OciRepository
        | Kind::HelmRepository
        | Kind::HelmChart
        | Kind::Bucket
        | Kind::ExternalArtifact => "source-controller",
        Kind::ImageRepository | Kind::ImagePolicy => "image-reflector-controller",
        Kind::ImageUpdateAutomation => "image-automation-controller",
        Kind::Receiver | Kind::Alert | Kind::Provider => "notification-controller",
        Kind::FluxInstance | Kind::ResourceSet => "flux-operator",
    }
}
