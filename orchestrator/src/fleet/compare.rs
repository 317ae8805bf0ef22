//! Computes what would change if the manifests that a cluster keeps were applied again, by dry runs of its API server.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::Value;
use similar::TextDiff;
use tokio::time::{Instant, timeout_at};

use crate::clock;
use crate::kube::{Client, Fault, Release, Seen, ServedKind, segment, served_kinds};

use super::applied::is_read;
use super::cluster::Cluster;
use super::held::{self, Key};
use super::kept::{self, Manifest};
use super::model::{Compared, Comparison, Effect, InventoryEntry, Kind};
use super::plain;

/// The time limit for all of it.
pub(super) const PATIENCE: Duration = Duration::from_secs(12);
/// The most objects that are compared.
const OBJECTS_MOST: usize = 100;
/// The most groups and versions that are looked up, and how many requests run at a time.
const GROUPS_MOST: usize = 40;
const ASKED_AT_ONCE: usize = 8;
/// The longest diff, and the limit for all diffs together, in bytes.
const DIFF_MOST: usize = 64 * 1024;
const DIFFS_MOST: usize = 512 * 1024;
/// The time limit for finding a minimal diff; after that a longer one is accepted.
const DIFF_PATIENCE: Duration = Duration::from_millis(200);
/// How many context lines a diff shows.
const AROUND: usize = 3;

/// What is to be compared, and the messages about it.
#[derive(Default)]
struct Found {
    manifests: Vec<Manifest>,
    /// Applied objects that could not be read, with the reason.
    unread: Vec<Compared>,
    kept: Vec<String>,
    reasons: Vec<String>,
    left: usize,
}

/// Compares an object, or the objects that it applied, with the result of applying the manifests that the cluster keeps. `as_person`:
/// the client impersonates the user.
///
/// # Errors
/// Why the object itself cannot be read. Others that cannot be compared are unknown, with the reason.
pub(super) async fn read(cluster: &Cluster, client: &Client, key: &Key, as_person: bool) -> Result<Comparison, Fault> {
    let deadline = Instant::now() + PATIENCE;
    let late = |_| Fault::late(PATIENCE.as_secs());
    let _permit = timeout_at(deadline, cluster.inventory_permits.acquire()).await.map_err(late)?;
    let (kind, namespace, name): (Kind, &str, &str) = (key.0, &key.1, &key.2);
    let served = cluster.served(kind).ok_or_else(|| cluster.absence(key))?;
    let bytes = timeout_at(deadline, client.ask_bytes(&served.path(namespace, name))).await.map_err(late)??;
    let strange = |_| Fault::Unreachable("the answer is not what a Kubernetes API answers".to_owned());
    let seen: Seen = serde_json::from_slice(&bytes).map_err(strange)?;

    let mut found = Found::default();
    if let Ok(object) = serde_json::from_slice::<Value>(&bytes) {
        found.note(&object, &format!("what kubectl applied last is noted at this {kind}"));
    }
    let comparing = async {
        match kind {
            Kind::HelmRelease => found.of_release(client, &seen, as_person).await,
            Kind::Kustomization | Kind::ResourceSet | Kind::FluxInstance => {
                found.of_inventory(client, kind, &seen, deadline).await;
            }
            // These kinds apply nothing.
            Kind::GitRepository
            | Kind::OciRepository
            | Kind::HelmRepository
            | Kind::HelmChart
            | Kind::Bucket
            | Kind::ExternalArtifact
            | Kind::ImageRepository
            | Kind::ImagePolicy
            | Kind::ImageUpdateAutomation
            | Kind::Receiver
            | Kind::Alert
            | Kind::Provider => {}
        }
    };
    timeout_at(deadline, comparing).await.map_err(late)?;
    if found.manifests.is_empty() && found.reasons.is_empty() {
        found.reasons.push("the cluster keeps no manifest of it".to_owned());
    }
    found.left += found.manifests.len().saturating_sub(OBJECTS_MOST);
    found.manifests.truncate(OBJECTS_MOST);
    let wanted = wanted(found.manifests.iter().map(|manifest| &manifest.entry));
    let groups = groups(client, wanted, deadline).await;
    let compared = found.manifests.into_iter().map(|manifest| one(client, &groups, manifest, deadline));
    let mut items: Vec<Compared> = stream::iter(compared).buffered(ASKED_AT_ONCE).collect().await;
    items.append(&mut found.unread);
    items.sort_by_key(|item| item.effect);
    bound(&mut items);
    Ok(Comparison { kept: found.kept, reasons: found.reasons, items, left: found.left, read_at: clock::now() })
}

impl Found {
    /// Adds the manifest that `kubectl apply` recorded in an object.
    fn note(&mut self, object: &Value, words: &str) {
        match kept::last_applied(object) {
            Some(Ok(manifest)) => {
                self.manifests.push(manifest);
                self.add_source(words);
            }
            Some(Err(reason)) => self.reasons.push(reason.to_owned()),
            None => {}
        }
    }

    fn add_source(&mut self, words: &str) {
        if !self.kept.iter().any(|source| source == words) {
            self.kept.push(words.to_owned());
        }
    }

    /// Adds the manifests of the latest successful release: Helm keeps them in a Secret.
    async fn of_release(&mut self, client: &Client, seen: &Seen, as_person: bool) {
        let good = |release: &&Release| matches!(release.status.as_str(), "" | "deployed") && !release.name.is_empty();
        let Some(release) = seen.status.history.iter().find(good) else {
            self.reasons.push("no installation of it is deployed".to_owned());
            return;
        };
        if !as_person {
            self.reasons.push(
                "Helm keeps what it installed in a Secret, and Secrets are read only as the person who asks: this cluster does not \
                 decide by person"
                    .to_owned(),
            );
            return;
        }
        let within = seen.status.storage_namespace.as_deref().unwrap_or_else(|| seen.namespace());
        let record = format!("sh.helm.release.v1.{}.v{}", release.name, release.version);
        let path = format!("/api/v1/namespaces/{}/secrets/{}", segment(within), segment(&record));
        let text = match client.ask::<Value>(&path).await {
            Ok(secret) => kept::record(&secret).map_err(str::to_owned),
            Err(fault) => Err(format!("the record of the installation cannot be read: {fault}")),
        };
        match text {
            Ok(text) => {
                let namespace = if release.namespace.is_empty() { within } else { &release.namespace };
                let (manifests, none) = kept::manifests(&text, namespace);
                self.manifests.extend(manifests);
                self.left += none;
                self.add_source(&format!("Helm's record of release {} of {}", release.version, release.name));
            }
            Err(reason) => self.reasons.push(reason),
        }
    }

    /// Adds the manifests recorded in applied objects. A Kustomization's own manifests are in its source, which the cluster does not
    /// keep.
    async fn of_inventory(&mut self, client: &Client, kind: Kind, seen: &Seen, deadline: Instant) {
        let entries = held::entries(kind, seen).filter_map(|(version, id)| held::entry(&version, &id));
        let mut entries: Vec<InventoryEntry> = entries.filter(is_read).collect();
        self.left += entries.len().saturating_sub(OBJECTS_MOST);
        entries.truncate(OBJECTS_MOST);
        let groups = groups(client, wanted(entries.iter()), deadline).await;
        let objects = entries.into_iter().map(|entry| object(client, &groups, entry));
        let objects: Vec<(InventoryEntry, Result<Value, Fault>)> =
            stream::iter(objects).buffered(ASKED_AT_ONCE).collect().await;
        for (entry, object) in objects {
            match object {
                Ok(object) => self.note(&object, "what kubectl applied last is noted at some of what it applied"),
                // Nothing is noted at an object that is not there.
                Err(Fault::NotFound(_)) => {}
                Err(fault) => self.unread.push(unknown(entry, fault.to_string())),
            }
        }
        self.reasons.push(format!(
            "what a {kind} would apply now is made from its source, of which a cluster keeps nothing: the history below compares its \
             last two revisions"
        ));
    }
}

/// The served kinds of each group and version, or why they are not known.
type Groups = BTreeMap<(String, String), Result<Vec<ServedKind>, Fault>>;

fn wanted<'a>(entries: impl Iterator<Item = &'a InventoryEntry>) -> BTreeSet<(String, String)> {
    entries.filter(|entry| is_read(entry)).map(|entry| (entry.group.clone(), entry.version.clone())).collect()
}

async fn groups(client: &Client, wanted: BTreeSet<(String, String)>, deadline: Instant) -> Groups {
    let asked = wanted.into_iter().take(GROUPS_MOST).map(|(group, version)| async move {
        let found = timeout_at(deadline, served_kinds(client, &group, &version)).await;
        ((group, version), found.unwrap_or_else(|_| Err(Fault::late(PATIENCE.as_secs()))))
    });
    stream::iter(asked).buffer_unordered(ASKED_AT_ONCE).collect().await
}

fn served_kind<'a>(groups: &'a Groups, entry: &InventoryEntry) -> Result<&'a ServedKind, Fault> {
    let unserved = || Fault::NotFound("the cluster does not serve this kind".to_owned());
    match groups.get(&(entry.group.clone(), entry.version.clone())) {
        Some(Ok(served_kinds)) => {
            served_kinds.iter().find(|served_kind| served_kind.kind == entry.kind).ok_or_else(unserved)
        }
        Some(Err(Fault::NotFound(_))) => Err(unserved()),
        Some(Err(fault)) => Err(fault.clone()),
        None => Err(Fault::Refused(format!("only {GROUPS_MOST} groups of kinds are looked up"))),
    }
}

/// An applied object, or why it cannot be read.
async fn object(client: &Client, groups: &Groups, entry: InventoryEntry) -> (InventoryEntry, Result<Value, Fault>) {
    let path = served_kind(groups, &entry).map(|kind| kind.path(&entry.namespace, &entry.name));
    let object = match path {
        Ok(path) => client.ask(&path).await,
        Err(fault) => Err(fault),
    };
    (entry, object)
}

/// An object that is not compared.
fn unknown(entry: InventoryEntry, message: String) -> Compared {
    Compared { entry, effect: Effect::Unknown, message, diff: String::new() }
}

async fn one(client: &Client, groups: &Groups, manifest: Manifest, deadline: Instant) -> Compared {
    let Manifest { entry, body, manager } = manifest;
    if !is_read(&entry) {
        return unknown(entry, "Secrets are not compared".to_owned());
    }
    let asked = async {
        let path = served_kind(groups, &entry)?.path(&entry.namespace, &entry.name);
        let now = match client.ask::<Value>(&path).await {
            Ok(now) => Some(now),
            Err(Fault::NotFound(_)) => None,
            Err(fault) => return Err(fault),
        };
        let after = client.dry_run(&path, &body, manager).await?;
        Ok((now, after))
    };
    match timeout_at(deadline, asked).await.unwrap_or_else(|_| Err(Fault::late(PATIENCE.as_secs()))) {
        Ok((now, after)) => judge(entry, now, after),
        Err(fault) => unknown(entry, fault.to_string()),
    }
}

/// Compares an object with the result of the dry run.
fn judge(entry: InventoryEntry, now: Option<Value>, after: Value) -> Compared {
    let missing = now.is_none();
    let (now, after) = (now.map(plain::comparable), plain::comparable(after));
    if now.as_ref() == Some(&after) {
        return Compared { entry, effect: Effect::Same, message: String::new(), diff: String::new() };
    }
    let before = now.map(plain::without_secrets).unwrap_or_default();
    let diff = unified(&before, &plain::without_secrets(after));
    let hidden = diff.is_empty();
    let message = if hidden { "only values that are left out here would change" } else { "" }.to_owned();
    Compared { entry, effect: if missing { Effect::Missing } else { Effect::Different }, message, diff }
}

fn unified(before: &str, after: &str) -> String {
    if before == after {
        return String::new();
    }
    let diff = TextDiff::configure().timeout(DIFF_PATIENCE).diff_lines(before, after);
    plain::cut_at(diff.unified_diff().context_radius(AROUND).to_string(), DIFF_MOST)
}

// Sorted by importance, so the last items lose their diffs first.
fn bound(items: &mut [Compared]) {
    let mut left = DIFFS_MOST;
    for item in items {
        if item.diff.len() > left {
            item.diff.clear();
            item.message = "not shown: the diffs before it are as long as is shown at once".to_owned();
        }
        left -= item.diff.len();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry() -> InventoryEntry {
        let [group, version, kind, namespace, name] = ["apps", "v1", "Deployment", "shop", "a"].map(str::to_owned);
        InventoryEntry { group, version, kind, namespace, name }
    }

    fn deployment(replicas: u64, password: &str) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment",
               "metadata": {"name": "a", "resourceVersion": replicas.to_string(), "managedFields": [{"manager": password}]},
               "spec": {"replicas": replicas, "env": [{"name": "DB_PASSWORD", "value": password}]}, "status": {"replicas": replicas}})
    }

    #[test]
    fn what_only_the_server_writes_makes_no_difference() {
        let mut later = deployment(2, "x");
        later["metadata"]["resourceVersion"] = "9".into();
        later["status"] = json!({});
        let same = judge(entry(), Some(deployment(2, "x")), later);
        assert_eq!((same.effect, same.diff.as_str()), (Effect::Same, ""));
    }

    #[test]
    fn a_difference_is_a_unified_diff_without_secrets() {
        let different = judge(entry(), Some(deployment(5, "old-secret")), deployment(2, "new-secret"));
        assert_eq!(different.effect, Effect::Different);
        assert!(
            different.diff.contains("-  replicas: 5\n") && different.diff.contains("+  replicas: 2\n"),
            "{}",
            different.diff
        );
        assert!(
            !different.diff.contains("secret\n") && !different.diff.contains("managedFields"),
            "{}",
            different.diff
        );
        let hidden = judge(entry(), Some(deployment(2, "old-secret")), deployment(2, "new-secret"));
        assert_eq!((hidden.effect, hidden.diff.as_str()), (Effect::Different, ""));
        assert!(hidden.message.contains("left out"), "{}", hidden.message);
        let missing = judge(entry(), None, deployment(2, "x"));
        assert!(missing.effect == Effect::Missing && missing.diff.contains("+kind: Deployment"), "{}", missing.diff);
    }

    #[test]
    fn diffs_are_shown_up_to_a_length_each_and_together() {
        let long = |letter: &str| (0..20_000).map(|line| format!("{letter}{line}\n")).collect::<String>();
        let diff = unified(&long("a"), &long("b"));
        assert!(diff.len() < DIFF_MOST + 100 && diff.contains("# cut off here"), "{}", diff.len());
        let mut items: Vec<Compared> = (0..12)
            .map(|_| Compared { entry: entry(), effect: Effect::Different, message: String::new(), diff: diff.clone() })
            .collect();
        bound(&mut items);
        assert!(items.iter().map(|item| item.diff.len()).sum::<usize>() <= DIFFS_MOST);
        assert!(items.last().unwrap().message.contains("not shown"));
    }
}
