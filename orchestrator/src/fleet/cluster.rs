//! One cluster: what is held of it, and how changes of that are told.

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
use super::model::{Change, ClusterId, Health, HealthState, Kind, ObjectSummary};
use super::person::{Manner, Viewer};
use super::tuning::Tuning;
use super::words::Words;

/// How many objects may change at once before readers are told to ask again instead.
const TOLD_MOST: usize = 200;
/// How many kinds of one cluster are listed at a time.
const LISTED_AT_ONCE: usize = 2;
/// How many people may have all that an object applied be read at a time.
const LOOKS_AT_ONCE: usize = 2;

/// Where a kind is listed and watched: in one namespace, or in all.
pub(super) type Scope = Option<Arc<str>>;

/// What all clusters of a fleet share.
pub(super) struct Shared {
    pub(super) tuning: Tuning,
    pub(super) words: Arc<Words>,
    /// Places to list at.
    pub(super) places: Arc<Semaphore>,
    /// Places to ask again what people may see.
    pub(super) asking_again: Arc<Semaphore>,
    pub(super) changes: broadcast::Sender<Arc<Change>>,
    pub(super) ending: CancellationToken,
}

/// One cluster that is looked after.
pub(super) struct Cluster {
    pub(super) id: ClusterId,
    pub(super) client: Option<Client>,
    pub(super) tuning: Tuning,
    pub(super) words: Arc<Words>,
    /// Asked to be read anew.
    pub(super) again: Notify,
    /// Places to list at: here, and in the whole fleet.
    pub(super) places: [Arc<Semaphore>; 2],
    /// Places to look at all that an object applied.
    pub(super) looks: Semaphore,
    /// What it has said of what people may see.
    pub(super) answers: Answers,
    /// Places to ask for that again, in the whole fleet.
    pub(super) asking_again: Arc<Semaphore>,
    /// Whether it is asked as the person who asks us.
    as_person: bool,
    /// The only namespaces that are looked at; none means all.
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
    /// Of each served kind: whether its objects are there, or why not.
    kinds: BTreeMap<(Kind, Scope), Reading>,
}

/// How far the reading of a kind is.
enum Reading {
    Pending,
    Done,
    Failing(String),
}

impl Cluster {
    /// A cluster of which nothing is known yet.
    pub(super) fn new(
        id: ClusterId,
        name: &str,
        access: Result<Access, KubeconfigFault>,
        manner: &Manner,
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
            words: Arc::clone(&shared.words),
            again: Notify::new(),
            places: [Arc::new(Semaphore::new(LISTED_AT_ONCE)), Arc::clone(&shared.places)],
            looks: Semaphore::new(LOOKS_AT_ONCE),
            answers: Answers::default(),
            asking_again: Arc::clone(&shared.asking_again),
            as_person: manner.as_person,
            namespaces: manner.namespaces.iter().map(|namespace| shared.words.one(namespace)).collect(),
            name: RwLock::new(name.into()),
            objects: RwLock::new(BTreeMap::new()),
            connection: Mutex::new(State { health, served: BTreeMap::new(), kinds: BTreeMap::new() }),
            changes: shared.changes.clone(),
            ending: shared.ending.child_token(),
        })
    }

    /// Whether it decides by person.
    pub(super) fn asks_as_person(&self) -> bool {
        self.as_person
    }

    /// Where each kind is listed and watched.
    pub(super) fn scopes(&self) -> Vec<Scope> {
        if self.namespaces.is_empty() {
            return vec![None];
        }
        self.namespaces.iter().cloned().map(Some).collect()
    }

    /// The client that asks for a viewer.
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

    /// Ends all that is done for it.
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

    /// How a kind is served, where it is.
    pub(super) fn served(&self, kind: Kind) -> Option<Served> {
        self.state().served.get(&kind).cloned()
    }

    /// It answers; its objects are to be read.
    pub(super) fn connected(&self, answer: &Answer, flux: Option<String>, served: BTreeMap<Kind, Served>) {
        self.objects.write().unwrap_or_else(PoisonError::into_inner).retain(|(kind, ..), _| served.contains_key(kind));
        let mut state = self.state();
        let scopes = self.scopes();
        let all = served.keys().flat_map(|kind| scopes.iter().map(|scope| ((*kind, scope.clone()), Reading::Pending)));
        state.kinds = all.collect();
        state.served = served;
        state.health.flux_version = flux;
        self.judge(&mut state, Some(answer));
    }

    /// It answers still.
    pub(super) fn answered(&self, answer: &Answer) {
        self.judge(&mut self.state(), Some(answer));
    }

    /// It does not answer.
    pub(super) fn failed(&self, fault: &Fault) {
        let mut state = self.state();
        let health = down(fault.to_string(), &state.health);
        self.tell_health(&mut state, health);
    }

    /// The objects of a kind cannot be read at the moment.
    pub(super) fn troubled(&self, kind: Kind, scope: &Scope, fault: &Fault) {
        let mut state = self.state();
        let place = scope.as_deref().map(|namespace| format!(" in {namespace}")).unwrap_or_default();
        self.read(&mut state, kind, scope, Reading::Failing(format!("{kind}{place}: {fault}")));
    }

    /// The objects of a kind are being read without trouble.
    pub(super) fn untroubled(&self, kind: Kind, scope: &Scope) {
        let mut state = self.state();
        if matches!(state.kinds.get(&(kind, scope.clone())), Some(Reading::Failing(_))) {
            self.read(&mut state, kind, scope, Reading::Done);
        }
    }

    /// All objects of a kind within a scope, as they are now.
    pub(super) fn listed(&self, kind: Kind, scope: &Scope, fresh: BTreeMap<Key, Held>) {
        let mut state = self.state();
        let first = matches!(state.kinds.get(&(kind, scope.clone())), Some(Reading::Pending));
        let differences = self.replace(kind, scope, fresh);
        if first {
            // Told all at once, with the last kind.
        } else if differences.len() > TOLD_MOST {
            self.tell(Change::Reloaded { cluster: self.id });
        } else {
            differences.into_iter().for_each(|change| self.tell(change));
        }
        self.read(&mut state, kind, scope, Reading::Done);
    }

    // Notes how far a kind is; the last one of a first reading brings all of them to the readers.
    fn read(&self, state: &mut State, kind: Kind, scope: &Scope, reading: Reading) {
        let first = matches!(state.kinds.insert((kind, scope.clone()), reading), Some(Reading::Pending));
        self.judge(state, None);
        if first && !state.kinds.values().any(|reading| matches!(reading, Reading::Pending)) {
            self.tell(Change::Reloaded { cluster: self.id });
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
            let (held, different) = put(&mut objects, &key, held);
            if different {
                let summary = Box::new(held.summary(self.id, &name, &key));
                differences.push(Change::Object { cluster: self.id, removed: false, summary });
            }
        }
        differences
    }

    /// An object as it is now; it may be known already.
    pub(super) fn changed(&self, kind: Kind, seen: &Seen) -> ObjectSummary {
        let key = self.key(kind, seen.namespace(), seen.name());
        let api_version = self.served(kind).map(|served| served.api_version()).unwrap_or_default();
        let held = Held::new(kind, seen, &self.words.one(&api_version), &self.words);
        let name = self.name();
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        let (held, different) = put(&mut objects, &key, held);
        let summary = held.summary(self.id, &name, &key);
        if different {
            let summary = Box::new(summary.clone());
            // Under the lock, so that changes are told in their order.
            self.tell(Change::Object { cluster: self.id, removed: false, summary });
        }
        summary
    }

    /// An object as it was read on its own. It may have gone meanwhile: then it is not taken up again, and what is said is what
    /// was read.
    pub(super) fn refreshed(&self, kind: Kind, seen: &Seen) -> ObjectSummary {
        let key = self.key(kind, seen.namespace(), seen.name());
        if self.objects().contains_key(&key) {
            return self.changed(kind, seen);
        }
        let api_version = self.served(kind).map(|served| served.api_version()).unwrap_or_default();
        let held = Held::new(kind, seen, &self.words.one(&api_version), &self.words);
        held.summary(self.id, &self.name(), &key)
    }

    /// An object is gone.
    pub(super) fn removed(&self, kind: Kind, seen: &Seen) {
        let key = self.key(kind, seen.namespace(), seen.name());
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = objects.remove(&key) {
            let summary = Box::new(held.summary(self.id, &self.name(), &key));
            self.tell(Change::Object { cluster: self.id, removed: true, summary });
        }
    }

    /// The objects, to be read quickly: watches wait meanwhile.
    pub(super) fn objects(&self) -> RwLockReadGuard<'_, BTreeMap<Key, Held>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn key(&self, kind: Kind, namespace: &str, name: &str) -> Key {
        (kind, self.words.one(namespace), name.into())
    }

    // What the cluster's health follows from: its answers, and whether its objects could be read.
    fn judge(&self, state: &mut State, answer: Option<&Answer>) {
        let mut health = state.health.clone();
        if let Some(answer) = answer {
            health.version = Some(answer.version.clone());
            health.latency_ms = u64::try_from(answer.took.as_millis()).ok();
            health.checked_at = Some(clock::now());
        } else if health.state == HealthState::Down {
            // Only an answer makes it up again.
            return;
        }
        let reading = state.kinds.values().any(|reading| matches!(reading, Reading::Pending));
        let troubles = state.kinds.values().filter_map(|reading| match reading {
            Reading::Failing(reason) => Some(reason.as_str()),
            Reading::Pending | Reading::Done => None,
        });
        let troubles: Vec<&str> = troubles.collect();
        let trouble = (!troubles.is_empty()).then(|| troubles.join("; "));
        health.state = if reading { HealthState::Connecting } else { HealthState::Up };
        health.reason = trouble.or_else(|| {
            state.served.is_empty().then(|| "Flux is not installed: none of its kinds are served".to_owned())
        });
        self.tell_health(state, health);
    }

    fn tell_health(&self, state: &mut State, health: Health) {
        let visible = |health: &Health| (health.state, health.reason.clone(), health.version.clone());
        let told = visible(&health) != visible(&state.health) || health.checked_at != state.health.checked_at;
        if health.state != state.health.state || health.reason != state.health.reason {
            self.log(&health);
        }
        state.health = health;
        if told {
            self.tell(Change::Cluster { cluster: self.id, health: state.health.clone() });
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

    fn tell(&self, change: Change) {
        // An error says only that nobody listens.
        let _ = self.changes.send(Arc::new(change));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a cluster answered when it was asked whether it is there.
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

/// Puts an object in its place, and says what is there now and whether that looks different from before. What is older
/// than what is there already stays out.
fn put<'a>(objects: &'a mut BTreeMap<Key, Held>, key: &Key, mut held: Held) -> (&'a Held, bool) {
    let before = match objects.entry(key.clone()) {
        Entry::Vacant(place) => return (place.insert(held), true),
        Entry::Occupied(place) => place.into_mut(),
    };
    if held.version != 0 && held.version < before.version {
        return (before, false);
    }
    let different = !held.looks_like(before);
    if different && held.updated <= before.updated {
        held.updated = clock::millis(clock::now());
    }
    held.updated = held.updated.max(before.updated);
    *before = held;
    (before, different)
}
