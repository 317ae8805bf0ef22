//! One cluster: its cached objects, and how changes are published.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::kube::{Access, Client, Fault, KubeconfigFault, Seen, Served};

use super::answers::Answers;
use super::held::{Held, Key};
use super::interner::Interner;
use super::model::{Change, ClusterId, Health, HealthState, Kind, ObjectSummary};
use super::person::{Viewer, WatchOptions};
use super::tuning::Tuning;

/// How many objects may change at once before subscribers are asked to reload instead.
const PUBLISHED_MOST: usize = 200;
/// How many kinds of one cluster are listed at a time.
const LISTED_AT_ONCE: usize = 2;
/// How many users may have an object's inventory read at a time.
const INVENTORIES_AT_ONCE: usize = 2;

/// Where a kind is listed and watched: in one namespace, or in all.
pub(super) type Scope = Option<Arc<str>>;

/// State that all clusters of a fleet share.
pub(super) struct Shared {
    pub(super) tuning: Tuning,
    pub(super) interner: Arc<Interner>,
    /// Permits for listing.
    pub(super) list_permits: Arc<Semaphore>,
    /// Permits for refreshing what people may see.
    pub(super) refresh_permits: Arc<Semaphore>,
    pub(super) changes: broadcast::Sender<Arc<Change>>,
    pub(super) ending: CancellationToken,
}

/// One watched cluster.
pub(super) struct Cluster {
    pub(super) id: ClusterId,
    pub(super) client: Option<Client>,
    pub(super) tuning: Tuning,
    pub(super) interner: Arc<Interner>,
    /// Signals a request to reconnect and read everything again.
    pub(super) reconnect: Notify,
    /// Permits for listing: of this cluster, and of the whole fleet.
    pub(super) list_permits: [Arc<Semaphore>; 2],
    /// Permits for reading an object's inventory.
    pub(super) inventory_permits: Semaphore,
    /// Its cached answers on what people may see.
    pub(super) answers: Answers,
    /// Permits for refreshing those, in the whole fleet.
    pub(super) refresh_permits: Arc<Semaphore>,
    /// Whether requests impersonate the user.
    as_person: bool,
    /// The only namespaces that are watched; empty means all.
    namespaces: Box<[Arc<str>]>,
    name: RwLock<Arc<str>>,
    objects: RwLock<BTreeMap<Key, Held>>,
    connection: Mutex<State>,
    changes: broadcast::Sender<Arc<Change>>,
    pub(super) ending: CancellationToken,
}

struct State {
    health: Health,
    served: BTreeMap<Kind, Served>,
    /// For each served kind: whether its objects have been read, or why not.
    kinds: BTreeMap<(Kind, Scope), Reading>,
}

/// The progress of reading a kind.
enum Reading {
    Pending,
    Done,
    Failing(Fault),
}

impl State {
    fn outage(&self) -> Option<Fault> {
        let is_down = self.health.state == HealthState::Down;
        is_down.then(|| Fault::Unreachable(self.health.reason.clone().unwrap_or_default()))
    }

    /// How far the place of an object has been read, if it is watched.
    fn reading(&self, (kind, namespace, _): &Key) -> Option<&Reading> {
        let within = |scope: &Scope| scope.as_ref().is_none_or(|only| only == namespace);
        self.kinds.iter().find(|((of, scope), _)| of == kind && within(scope)).map(|(_, reading)| reading)
    }

    fn unread(&self, key: &Key) -> Option<Fault> {
        let is_unread = match self.reading(key) {
            Some(reading) => matches!(reading, Reading::Pending),
            None => self.kinds.is_empty() && self.health.state == HealthState::Connecting,
        };
        let still_read = || Fault::Unreachable("the cluster is still being read: try again in a moment".to_owned());
        self.outage().or_else(|| is_unread.then(still_read))
    }
}

impl Cluster {
    /// A cluster without any state yet.
    pub(super) fn new(
        id: ClusterId,
        name: &str,
        access: Result<Access, KubeconfigFault>,
        options: &WatchOptions,
        shared: &Shared,
    ) -> Arc<Self> {
        let (client, health) = match access {
            Ok(access) => (Some(access.client), Health::connecting()),
            Err(fault) => (None, down(fault.to_string(), &Health::connecting())),
        };
        Arc::new(Self {
            id,
            client,
            tuning: shared.tuning,
            interner: Arc::clone(&shared.interner),
            reconnect: Notify::new(),
            list_permits: [Arc::new(Semaphore::new(LISTED_AT_ONCE)), Arc::clone(&shared.list_permits)],
            inventory_permits: Semaphore::new(INVENTORIES_AT_ONCE),
            answers: Answers::default(),
            refresh_permits: Arc::clone(&shared.refresh_permits),
            as_person: options.as_person,
            namespaces: options.namespaces.iter().map(|namespace| shared.interner.intern(namespace)).collect(),
            name: RwLock::new(name.into()),
            objects: RwLock::new(BTreeMap::new()),
            connection: Mutex::new(State { health, served: BTreeMap::new(), kinds: BTreeMap::new() }),
            changes: shared.changes.clone(),
            ending: shared.ending.child_token(),
        })
    }

    /// Returns true if requests impersonate the user.
    pub(super) fn asks_as_person(&self) -> bool {
        self.as_person
    }

    /// The scopes in which each kind is listed and watched.
    pub(super) fn scopes(&self) -> Vec<Scope> {
        if self.namespaces.is_empty() {
            return vec![None];
        }
        self.namespaces.iter().cloned().map(Some).collect()
    }

    /// The client for a viewer's requests.
    pub(super) fn client_for(&self, viewer: &Viewer) -> Result<Option<Client>, Fault> {
        let Some(client) = &self.client else { return Ok(None) };
        match viewer {
            Viewer::Person(person) if self.as_person => match person {
                Ok(person) => Ok(Some(client.acting_as(person.headers()))),
                Err(reason) => Err(Fault::Forbidden(reason.clone())),
            },
            Viewer::Person(_) | Viewer::Program => Ok(Some(client.clone())),
        }
    }

    /// Stops all tasks of this cluster.
    pub(super) fn stop(&self) {
        self.ending.cancel();
    }

    pub(super) fn name(&self) -> Arc<str> {
        Arc::clone(&self.name.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn rename(&self, name: &str) {
        *self.name.write().unwrap_or_else(PoisonError::into_inner) = name.into();
    }

    pub(super) fn health(&self) -> Health {
        self.state().health.clone()
    }

    /// Why the cluster is down, if it is.
    pub(super) fn outage(&self) -> Option<Fault> {
        self.state().outage()
    }

    /// How a kind is served, if it is.
    pub(super) fn served(&self, kind: Kind) -> Option<Served> {
        self.state().served.get(&kind).cloned()
    }

    /// Why an object that is not held cannot be shown: it is not there, or what there is has not been read.
    pub(super) fn absence(&self, key: &Key) -> Fault {
        let state = self.state();
        if let Some(fault) = state.unread(key) {
            return fault;
        }
        match state.reading(key) {
            Some(Reading::Failing(fault)) => fault.clone(),
            // Its kind is not served, or not in the watched namespaces.
            Some(Reading::Pending | Reading::Done) | None => {
                let (kind, namespace, name) = key;
                Fault::NotFound(format!("{kind} {namespace}/{name} is not there"))
            }
        }
    }

    /// Why the place of an object is not known, yet or any more; the same for every name.
    pub(super) fn unread(&self, key: &Key) -> Option<Fault> {
        self.state().unread(key)
    }

    /// Records a new connection; the objects are still to be read.
    pub(super) fn connected(&self, answer: &Answer, flux: Option<String>, served: BTreeMap<Kind, Served>) {
        let has_removed = {
            let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
            let before = objects.len();
            objects.retain(|(kind, ..), _| served.contains_key(kind));
            objects.len() < before
        };
        let mut state = self.state();
        let scopes = self.scopes();
        let all = served.keys().flat_map(|kind| scopes.iter().map(|scope| ((*kind, scope.clone()), Reading::Pending)));
        state.kinds = all.collect();
        state.served = served;
        state.health.flux_version = flux;
        self.judge(&mut state, Some(answer));
        // No list of theirs will report it.
        if has_removed {
            self.publish(Change::Reloaded { cluster: self.id });
        }
    }

    /// Records a successful probe.
    pub(super) fn answered(&self, answer: &Answer) {
        self.judge(&mut self.state(), Some(answer));
    }

    /// Records a failure to reach the cluster.
    pub(super) fn failed(&self, fault: &Fault) {
        let mut state = self.state();
        let health = down(fault.to_string(), &state.health);
        self.set_health(&mut state, health);
    }

    /// Records that the objects of a kind currently cannot be read.
    pub(super) fn kind_failed(&self, kind: Kind, scope: &Scope, fault: &Fault) {
        let mut state = self.state();
        let place = scope.as_deref().map(|namespace| format!(" in {namespace}")).unwrap_or_default();
        let reason = format!("{kind}{place}: {fault}");
        // Of any other fault no more follows than that its objects are not known.
        let is_refusal = matches!(fault, Fault::Forbidden(_));
        let fault = if is_refusal { Fault::Forbidden(reason) } else { Fault::Unreachable(reason) };
        self.read(&mut state, kind, scope, Reading::Failing(fault));
    }

    /// Records that the objects of a kind are read without errors.
    pub(super) fn kind_recovered(&self, kind: Kind, scope: &Scope) {
        let mut state = self.state();
        if matches!(state.kinds.get(&(kind, scope.clone())), Some(Reading::Failing(_))) {
            self.read(&mut state, kind, scope, Reading::Done);
        }
    }

    /// Replaces all objects of a kind in a scope by a fresh list.
    pub(super) fn listed(&self, kind: Kind, scope: &Scope, fresh: BTreeMap<Key, Held>) {
        let mut state = self.state();
        let first = matches!(state.kinds.get(&(kind, scope.clone())), Some(Reading::Pending));
        let differences = self.replace(kind, scope, fresh);
        if first {
            // Published all at once, with the last kind.
        } else if differences.len() > PUBLISHED_MOST {
            self.publish(Change::Reloaded { cluster: self.id });
        } else {
            differences.into_iter().for_each(|change| self.publish(change));
        }
        self.read(&mut state, kind, scope, Reading::Done);
    }

    // Records the state of a kind; the last kind of a first reading publishes all objects.
    fn read(&self, state: &mut State, kind: Kind, scope: &Scope, reading: Reading) {
        let first = matches!(state.kinds.insert((kind, scope.clone()), reading), Some(Reading::Pending));
        self.judge(state, None);
        if first && !state.kinds.values().any(|reading| matches!(reading, Reading::Pending)) {
            self.publish(Change::Reloaded { cluster: self.id });
        }
    }

    fn replace(&self, kind: Kind, scope: &Scope, mut fresh: BTreeMap<Key, Held>) -> Vec<Change> {
        let name = self.name();
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        let mut differences = Vec::new();
        let within = |key: &Key| scope.as_ref().is_none_or(|namespace| *namespace == key.1);
        let before: Vec<Key> = of_kind(&objects, kind).map(|(key, _)| key).filter(|key| within(key)).cloned().collect();
        for key in before {
            if !fresh.contains_key(&key)
                && let Some(held) = objects.remove(&key)
            {
                let summary = Box::new(held.summary(self.id, &name, &key));
                differences.push(Change::Object { cluster: self.id, removed: true, summary });
            }
        }
        while let Some((key, held)) = fresh.pop_first() {
            // Also where it has an older version: a restored cluster counts on from an earlier one. If a person's change came after the
            // list, the watch reports it once more.
            let (held, different) = put(objects.entry(key.clone()), held);
            if different {
                let summary = Box::new(held.summary(self.id, &name, &key));
                differences.push(Change::Object { cluster: self.id, removed: false, summary });
            }
        }
        differences
    }

    /// Stores an object as it is now; it may be known already.
    pub(super) fn changed(&self, kind: Kind, seen: &Seen) -> ObjectSummary {
        self.store(kind, seen, true)
    }

    /// Updates an object that was read on its own. If it was deleted in the meantime, it is not added again, and the summary is of
    /// what was read.
    pub(super) fn refreshed(&self, kind: Kind, seen: &Seen) -> ObjectSummary {
        self.store(kind, seen, false)
    }

    fn store(&self, kind: Kind, seen: &Seen, may_be_new: bool) -> ObjectSummary {
        let key = self.key(kind, seen.namespace(), seen.name());
        let api_version = self.served(kind).map(|served| served.api_version()).unwrap_or_default();
        let held = Held::new(kind, seen, &self.interner.intern(&api_version), &self.interner);
        let name = self.name();
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that it is not deleted in between.
        if !may_be_new && !objects.contains_key(&key) {
            return held.summary(self.id, &name, &key);
        }
        let (held, different) = put_newer(&mut objects, &key, held);
        let summary = held.summary(self.id, &name, &key);
        if different {
            let summary = Box::new(summary.clone());
            // Under the lock, so that changes are published in order.
            self.publish(Change::Object { cluster: self.id, removed: false, summary });
        }
        summary
    }

    /// Removes a deleted object.
    pub(super) fn removed(&self, kind: Kind, seen: &Seen) {
        let key = self.key(kind, seen.namespace(), seen.name());
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = objects.remove(&key) {
            let summary = Box::new(held.summary(self.id, &self.name(), &key));
            self.publish(Change::Object { cluster: self.id, removed: true, summary });
        }
    }

    /// Locks the objects for reading; keep it short: watches wait meanwhile.
    pub(super) fn objects(&self) -> RwLockReadGuard<'_, BTreeMap<Key, Held>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn key(&self, kind: Kind, namespace: &str, name: &str) -> Key {
        (kind, self.interner.intern(namespace), name.into())
    }

    // Computes the cluster's health from its responses, and from whether its objects could be read.
    fn judge(&self, state: &mut State, answer: Option<&Answer>) {
        let mut health = state.health.clone();
        if let Some(answer) = answer {
            health.version = Some(answer.version.clone());
            health.latency_ms = u64::try_from(answer.took.as_millis()).ok();
            health.checked_at = Some(clock::now());
        } else if health.state == HealthState::Down {
            // Only a response makes it up again.
            return;
        }
        let reading = state.kinds.values().any(|reading| matches!(reading, Reading::Pending));
        let failures = state.kinds.values().filter_map(|reading| match reading {
            Reading::Failing(fault) => Some(fault.to_string()),
            Reading::Pending | Reading::Done => None,
        });
        let failures: Vec<String> = failures.collect();
        let reason = (!failures.is_empty()).then(|| failures.join("; "));
        health.state = if reading { HealthState::Connecting } else { HealthState::Up };
        health.reason = reason.or_else(|| {
            state.served.is_empty().then(|| "Flux is not installed: none of its kinds are served".to_owned())
        });
        self.set_health(state, health);
    }

    fn set_health(&self, state: &mut State, health: Health) {
        let visible = |health: &Health| (health.state, health.reason.clone(), health.version.clone());
        let differs = visible(&health) != visible(&state.health) || health.checked_at != state.health.checked_at;
        if health.state != state.health.state || health.reason != state.health.reason {
            self.log(&health);
        }
        let comes_back = state.health.state == HealthState::Down && health.state != HealthState::Down;
        state.health = health;
        if differs {
            self.publish(Change::Cluster { cluster: self.id, health: state.health.clone() });
        }
        // While it was down nobody was asked about, so people were shown less.
        if comes_back && self.as_person {
            self.publish(Change::Reloaded { cluster: self.id });
        }
    }

    fn log(&self, health: &Health) {
        let (cluster, reason) = (self.id, health.reason.as_deref().unwrap_or_default());
        match health.state {
            HealthState::Down => tracing::warn!(%cluster, reason, "a cluster is down"),
            HealthState::Up if !reason.is_empty() => tracing::warn!(%cluster, reason, "a cluster is up, but not whole"),
            HealthState::Up => tracing::info!(%cluster, "a cluster is up"),
            HealthState::Connecting => tracing::debug!(%cluster, reason, "a cluster is being read"),
        }
    }

    fn publish(&self, change: Change) {
        // An error only means that there are no subscribers.
        let _ = self.changes.send(Arc::new(change));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A cluster's response to a probe.
pub(super) struct Answer {
    pub(super) version: String,
    pub(super) took: Duration,
}

fn down(reason: String, before: &Health) -> Health {
    let mut health = before.clone();
    (health.state, health.reason) = (HealthState::Down, Some(reason));
    (health.latency_ms, health.checked_at) = (None, Some(clock::now()));
    health
}

/// The objects of one kind.
pub(super) fn of_kind(objects: &BTreeMap<Key, Held>, kind: Kind) -> impl Iterator<Item = (&Key, &Held)> {
    let first: Key = (kind, "".into(), "".into());
    objects.range(first..).take_while(move |((of, ..), _)| *of == kind)
}

/// Stores an object, as [`put`] does; one that is older than the stored one is ignored.
fn put_newer<'a>(objects: &'a mut BTreeMap<Key, Held>, key: &Key, held: Held) -> (&'a Held, bool) {
    match objects.entry(key.clone()) {
        Entry::Occupied(place) if held.version != 0 && held.version < place.get().version => (place.into_mut(), false),
        entry @ (Entry::Occupied(_) | Entry::Vacant(_)) => put(entry, held),
    }
}

/// Stores an object; returns what is stored now and whether it looks different from before.
fn put(entry: Entry<'_, Key, Held>, mut held: Held) -> (&Held, bool) {
    let before = match entry {
        Entry::Vacant(place) => return (place.insert(held), true),
        Entry::Occupied(place) => place.into_mut(),
    };
    let different = !held.is_displayed_like(before);
    if different && held.updated <= before.updated {
        held.updated = clock::millis(clock::now());
    }
    held.updated = held.updated.max(before.updated);
    *before = held;
    (before, different)
}
