//! What the fleet says about clusters and Flux objects: values only.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::clock;

/// How many characters of a message are kept.
pub const MESSAGE_MOST: usize = 500;

/// A registered cluster: 128 random bits, written as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
#[schema(value_type = String, example = "6f1e2a9c0b7d4e5f8a1b2c3d4e5f6071")]
pub struct ClusterId(u128);

impl ClusterId {
    /// The id of these bits.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for ClusterId {
    type Err = NotAClusterId;

    fn from_str(text: &str) -> Result<Self, NotAClusterId> {
        let digits = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let bits = digits.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        bits.map(Self).ok_or(NotAClusterId)
    }
}

impl Serialize for ClusterId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ClusterId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A text that is no cluster's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cluster's id is 32 lower-case hexadecimal digits")]
pub struct NotAClusterId;

/// How a Flux object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Its controller could not do what the object asks for.
    Failed,
    /// Its controller is at work, or has been asked to be.
    Progressing,
    /// It has been asked to go, and something has to be done before it does.
    Terminating,
    /// Nobody has said anything about it yet, or what is said cannot be read.
    Unknown,
    /// It is to be left alone.
    Suspended,
    /// All is as the object asks for.
    Ready,
}

impl Status {
    /// All of them, the most urgent one first.
    pub const ALL: [Self; 6] =
        [Self::Failed, Self::Progressing, Self::Terminating, Self::Unknown, Self::Suspended, Self::Ready];
    /// Their words, in the order of [`Self::ALL`].
    pub const WORDS: [&str; 6] = ["failed", "progressing", "terminating", "unknown", "suspended", "ready"];

    /// The word for it in JSON and in addresses.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Progressing => "progressing",
            Self::Terminating => "terminating",
            Self::Unknown => "unknown",
            Self::Suspended => "suspended",
            Self::Ready => "ready",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Status {
    type Err = NotAStatus;

    /// Case does not count.
    fn from_str(text: &str) -> Result<Self, NotAStatus> {
        Self::ALL.into_iter().find(|status| status.word().eq_ignore_ascii_case(text)).ok_or(NotAStatus)
    }
}

/// A text that is no status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a status is one of: {}", Status::WORDS.join(", "))]
pub struct NotAStatus;

/// The kinds of Flux that are looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub enum Kind {
    /// Applies manifests from a source.
    Kustomization,
    /// Installs a chart.
    HelmRelease,
    /// Reads a Git repository.
    GitRepository,
    /// Reads an OCI artifact.
    #[serde(rename = "OCIRepository")]
    OciRepository,
    /// Knows where charts are.
    HelmRepository,
    /// Fetches one chart.
    HelmChart,
    /// Reads an object store.
    Bucket,
    /// Holds what another program has made.
    ExternalArtifact,
    /// Looks for the tags of an image.
    ImageRepository,
    /// Chooses one of an image's tags.
    ImagePolicy,
    /// Writes chosen tags into a repository.
    ImageUpdateAutomation,
    /// Takes in what others tell Flux.
    Receiver,
    /// Says what is to be told.
    Alert,
    /// Knows how something is told.
    Provider,
    /// Installs Flux itself.
    FluxInstance,
    /// Makes objects from templates.
    ResourceSet,
}

impl Kind {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 16] = [
        Self::Kustomization,
        Self::HelmRelease,
        Self::GitRepository,
        Self::OciRepository,
        Self::HelmRepository,
        Self::HelmChart,
        Self::Bucket,
        Self::ExternalArtifact,
        Self::ImageRepository,
        Self::ImagePolicy,
        Self::ImageUpdateAutomation,
        Self::Receiver,
        Self::Alert,
        Self::Provider,
        Self::FluxInstance,
        Self::ResourceSet,
    ];

    /// The name that Kubernetes has for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kustomization => "Kustomization",
            Self::HelmRelease => "HelmRelease",
            Self::GitRepository => "GitRepository",
            Self::OciRepository => "OCIRepository",
            Self::HelmRepository => "HelmRepository",
            Self::HelmChart => "HelmChart",
            Self::Bucket => "Bucket",
            Self::ExternalArtifact => "ExternalArtifact",
            Self::ImageRepository => "ImageRepository",
            Self::ImagePolicy => "ImagePolicy",
            Self::ImageUpdateAutomation => "ImageUpdateAutomation",
            Self::Receiver => "Receiver",
            Self::Alert => "Alert",
            Self::Provider => "Provider",
            Self::FluxInstance => "FluxInstance",
            Self::ResourceSet => "ResourceSet",
        }
    }

    /// The API group that serves it.
    #[must_use]
    pub const fn group(self) -> &'static str {
        match self {
            Self::Kustomization => "kustomize.toolkit.fluxcd.io",
            Self::HelmRelease => "helm.toolkit.fluxcd.io",
            Self::GitRepository
            | Self::OciRepository
            | Self::HelmRepository
            | Self::HelmChart
            | Self::Bucket
            | Self::ExternalArtifact => "source.toolkit.fluxcd.io",
            Self::ImageRepository | Self::ImagePolicy | Self::ImageUpdateAutomation => "image.toolkit.fluxcd.io",
            Self::Receiver | Self::Alert | Self::Provider => "notification.toolkit.fluxcd.io",
            Self::FluxInstance | Self::ResourceSet => "fluxcd.controlplane.io",
        }
    }

    /// Whether its controller looks at an object when it is asked to by the annotation, and says when it has.
    #[must_use]
    pub const fn is_reconciled_on_request(self) -> bool {
        !matches!(self, Self::ExternalArtifact | Self::ImagePolicy | Self::Alert | Self::Provider)
    }

    /// Whether `spec.suspend` has its controller leave an object alone.
    #[must_use]
    pub const fn can_be_suspended(self) -> bool {
        !matches!(self, Self::ExternalArtifact | Self::ImagePolicy | Self::FluxInstance | Self::ResourceSet)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = NotAKind;

    /// Case does not count.
    fn from_str(text: &str) -> Result<Self, NotAKind> {
        Self::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(text)).ok_or(NotAKind)
    }
}

/// A text that is no kind of Flux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a kind is one of: {}", Kind::ALL.map(Kind::name).join(", "))]
pub struct NotAKind;

/// Whether a cluster can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// It answers.
    Up,
    /// It has not been asked yet, or its objects are still being read.
    Connecting,
    /// It does not answer, or refuses.
    Down,
}

/// How a cluster is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Health {
    /// Whether it can be reached.
    pub state: HealthState,
    /// Why not, or what is amiss although it can be.
    pub reason: Option<String>,
    /// How long its last answer took, in milliseconds.
    pub latency_ms: Option<u64>,
    /// The version of Kubernetes.
    pub version: Option<String>,
    /// The version of Flux, where its definitions tell it.
    pub flux_version: Option<String>,
    /// When it was asked last.
    #[serde(serialize_with = "optional_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub checked_at: Option<OffsetDateTime>,
}

impl Health {
    /// Of a cluster that has not been asked yet.
    #[must_use]
    pub const fn connecting() -> Self {
        Self {
            state: HealthState::Connecting,
            reason: None,
            latency_ms: None,
            version: None,
            flux_version: None,
            checked_at: None,
        }
    }
}

/// Which object is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, ToSchema)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What lists show of a Flux object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ObjectSummary {
    /// The cluster that it is in.
    pub cluster: ClusterId,
    /// What people call that cluster.
    pub cluster_name: String,
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// How it is.
    pub status: Status,
    /// What its controller says, at most 500 characters.
    pub message: String,
    /// What was applied, installed or fetched last.
    pub revision: Option<String>,
    /// Where it gets its content from.
    pub source: Option<ObjectRef>,
    /// Whether it is to be left alone.
    pub suspended: bool,
    /// Since when it has been ready.
    #[serde(serialize_with = "optional_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ready_since: Option<OffsetDateTime>,
    /// When it changed last.
    #[serde(serialize_with = "clock::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: OffsetDateTime,
    /// The version by which the cluster serves it.
    pub api_version: String,
    /// How many times what it asks for has been changed.
    pub generation: i64,
}

/// All that is shown of one Flux object, read from the cluster at the moment of asking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ObjectDetail {
    /// What lists show of it.
    #[serde(flatten)]
    pub summary: ObjectSummary,
    /// What its controller says, by topic.
    pub conditions: Vec<Condition>,
    /// What was tried last, where that is not what has been applied.
    pub attempted: Option<String>,
    /// What was reconciled or installed before, the newest first, where it keeps a history.
    pub history: Vec<Past>,
    /// What is different between the last two revisions in it.
    pub difference: Option<Difference>,
    /// What happened to it lately, the newest first.
    pub events: Vec<Event>,
    /// Why there are no events to be shown, where they could not be read.
    pub events_fault: Option<String>,
    /// What it has applied or installed.
    pub inventory: Vec<InventoryEntry>,
    /// Itself, without what only Kubernetes reads and without what looks like a secret.
    pub yaml: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations, less the one that repeats the whole object.
    pub annotations: BTreeMap<String, String>,
}

/// One of an object's conditions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Condition {
    /// Its topic, such as `Ready`.
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// The reason, in one word.
    pub reason: String,
    /// The reason, in a sentence.
    pub message: String,
    /// When its status changed last.
    #[serde(serialize_with = "optional_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_transition: Option<OffsetDateTime>,
}

/// An entry of an object's history: a reconciliation of a Kustomization, or an installation of a HelmRelease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Past {
    /// What was applied or installed.
    pub revision: String,
    /// How it went, in the controller's word, such as `ReconciliationSucceeded` or `deployed`.
    pub outcome: String,
    /// The digest of what was applied, or of the installation.
    pub digest: String,
    /// The number of the installation; 0 where there is none.
    pub number: u64,
    /// How many times the same was reconciled; 0 where that is not counted.
    pub times: u64,
    /// When it began.
    #[serde(serialize_with = "optional_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub first: Option<OffsetDateTime>,
    /// When it was last.
    #[serde(serialize_with = "optional_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last: Option<OffsetDateTime>,
}

/// Something that happened to an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Event {
    /// `Normal` or `Warning`.
    pub r#type: String,
    /// What happened, in one word.
    pub reason: String,
    /// What happened, in a sentence.
    pub message: String,
    /// How many times it has happened.
    pub count: u32,
    /// When it happened last.
    #[serde(serialize_with = "optional_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen: Option<OffsetDateTime>,
    /// Who says so.
    pub source: String,
}

/// An object of any kind that a Flux object has applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct InventoryEntry {
    /// Its API group; empty for the core group.
    pub group: String,
    /// Its API version.
    pub version: String,
    /// Its kind.
    pub kind: String,
    /// Its namespace; empty where its kind has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// How something that was applied is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AppliedStatus {
    /// It cannot become what it is to be.
    Failed,
    /// It is not in the cluster.
    Missing,
    /// It is becoming what it is to be.
    Progressing,
    /// It is being deleted.
    Terminating,
    /// It could not be read.
    Unknown,
    /// It is as it is to be.
    Ready,
}

impl From<Status> for AppliedStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Failed => Self::Failed,
            Status::Progressing => Self::Progressing,
            Status::Terminating => Self::Terminating,
            Status::Unknown => Self::Unknown,
            // Whoever suspended it wanted that.
            Status::Suspended | Status::Ready => Self::Ready,
        }
    }
}

/// What a Flux object has applied, and how it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Applied {
    /// It, the most urgent first.
    pub items: Vec<AppliedObject>,
    /// How many more have been applied and were not looked at.
    pub left: usize,
    /// When it was read.
    #[serde(serialize_with = "clock::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub read_at: OffsetDateTime,
}

/// Something that was applied, and how it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct AppliedObject {
    /// What it is.
    #[serde(flatten)]
    pub entry: InventoryEntry,
    /// How it is.
    pub status: AppliedStatus,
    /// Why, at most 500 characters.
    pub message: String,
    /// Of a workload: its pods, at most 20.
    pub pods: Vec<Pod>,
    /// Whether it has more of them.
    pub more_pods: bool,
    /// Why its pods are not shown, where they could not be read.
    pub pods_fault: Option<String>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// How it is.
    pub status: AppliedStatus,
    /// Why.
    pub message: String,
    /// The node that it runs on.
    pub node: Option<String>,
    /// How many times its containers were started again.
    pub restarts: u64,
    /// When it was made.
    #[serde(serialize_with = "optional_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub created_at: Option<OffsetDateTime>,
    /// Its containers, in the order in which they begin.
    pub containers: Vec<ContainerState>,
}

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ContainerState {
    /// Its name.
    pub name: String,
    /// Whether it serves.
    pub ready: bool,
    /// What it does, such as `running` or `waiting: CrashLoopBackOff`.
    pub state: String,
    /// How many times it was started again.
    pub restarts: u64,
}

/// One of Flux's own controllers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Controller {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its version: the tag of its image.
    pub version: Option<String>,
    /// The version of Flux that it came with.
    pub flux_version: Option<String>,
    /// How it is.
    pub status: AppliedStatus,
    /// Why.
    pub message: String,
}

/// What is different between the last two revisions of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Difference {
    /// The one before.
    pub from: String,
    /// The newest.
    pub to: String,
    /// What is different, part by part.
    pub parts: Vec<DifferentPart>,
    /// Where the two can be compared: a page of the Git host, where that is one that is known.
    pub compare: Option<String>,
}

/// A part that is different, or that is the same where that says something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct DifferentPart {
    /// What it is, such as `chart` or `values`.
    pub name: String,
    /// As it was.
    pub before: String,
    /// As it is.
    pub after: String,
}

/// What comes from what, from sources to what was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Tree {
    /// The objects.
    pub nodes: Vec<TreeNode>,
    /// The ways between them.
    pub edges: Vec<TreeEdge>,
    /// Whether there were more objects than are shown.
    pub truncated: bool,
}

/// An object in a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct TreeNode {
    /// `group/Kind/namespace/name`: unique in its cluster.
    pub id: String,
    /// Its kind, as Kubernetes calls it.
    pub kind: String,
    /// Its namespace; empty where its kind has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// How it is, where it is an object of Flux.
    pub status: Option<Status>,
    /// What its controller says.
    pub message: String,
    /// Whether it is an object of Flux.
    pub flux: bool,
    /// How many of the objects that it applied are not in this tree; they are in its own.
    pub hidden: u32,
}

/// A way in a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct TreeEdge {
    /// The id of the node that it leads from.
    pub from: String,
    /// The id of the node that it leads to.
    pub to: String,
    /// What it means.
    pub relation: Relation,
}

/// What a way in a tree means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// The first is where the second gets its content.
    Source,
    /// The first has applied the second.
    Applies,
    /// The second waits for the first.
    DependsOn,
    /// The first is the chart that the second installs.
    Chart,
}

/// How many objects there are of each status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Counts {
    /// All of them.
    pub total: u64,
    /// Those that are ready.
    pub ready: u64,
    /// Those whose controller is at work.
    pub progressing: u64,
    /// Those that are being deleted.
    pub terminating: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that are to be left alone.
    pub suspended: u64,
    /// Those that nobody has said anything about.
    pub unknown: u64,
}

impl Counts {
    /// Counts one more.
    pub fn count(&mut self, status: Status) {
        self.total += 1;
        match status {
            Status::Failed => self.failed += 1,
            Status::Progressing => self.progressing += 1,
            Status::Terminating => self.terminating += 1,
            Status::Unknown => self.unknown += 1,
            Status::Suspended => self.suspended += 1,
            Status::Ready => self.ready += 1,
        }
    }
}

/// How many objects there are, by status and by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Stats {
    /// All of them.
    pub total: u64,
    /// All of them, by status.
    pub by_status: Counts,
    /// Those of each kind that there are any of, by status.
    pub by_kind: BTreeMap<String, Counts>,
}

impl Stats {
    /// Counts one more.
    pub fn count(&mut self, kind: Kind, status: Status) {
        self.total += 1;
        self.by_status.count(status);
        match self.by_kind.get_mut(kind.name()) {
            Some(counts) => counts.count(status),
            None => self.by_kind.entry(kind.name().to_owned()).or_default().count(status),
        }
    }
}

/// What can be done to a Flux object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Have its controller look at it now.
    Reconcile {
        /// Whether its source is to be looked at first.
        with_source: bool,
    },
    /// Have the controller of a HelmRelease install or upgrade it now, whether anything has changed or not.
    Force,
    /// Have the controller of a HelmRelease forget the failures that it has counted, and look at it now.
    Reset,
    /// Have its controller leave it alone.
    Suspend,
    /// Have its controller look after it again.
    Resume,
}

/// What a list is narrowed to; what is `None` does not narrow it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// To one cluster.
    pub cluster: Option<ClusterId>,
    /// To one kind.
    pub kind: Option<Kind>,
    /// To one namespace.
    pub namespace: Option<String>,
    /// To one status.
    pub status: Option<Status>,
    /// To those with all these words in name, namespace, kind, cluster, revision or message; case does not count.
    pub text: Option<String>,
}

/// Which part of a list is wanted, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// How many at most.
    pub limit: usize,
    /// How many to leave out before them.
    pub offset: usize,
    /// The order.
    pub sort: Sort,
}

/// The order of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sort {
    /// By name, then namespace, kind and cluster.
    #[default]
    Name,
    /// The most urgent status first, then by name.
    Status,
    /// What changed last first.
    Updated,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Listing<T> {
    /// The part.
    pub items: Vec<T>,
    /// How many there are in the whole list.
    pub total: usize,
}

/// What was found where a kubeconfig leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Reached {
    /// The address of the cluster's API.
    pub server: String,
    /// The context that was used.
    pub context: Option<String>,
    /// The version of Kubernetes.
    pub version: String,
    /// How long the answer took, in milliseconds.
    pub latency_ms: u64,
    /// The kinds of Flux that the cluster serves.
    pub flux_kinds: Vec<Kind>,
}

/// Something changed.
#[derive(Clone, Debug)]
pub enum Change {
    /// An object is new, different or gone.
    Object {
        /// The cluster that it is in.
        cluster: ClusterId,
        /// Whether it is gone.
        removed: bool,
        /// The object, as it is or was.
        summary: Box<ObjectSummary>,
    },
    /// A cluster is new, or its health is different.
    Cluster {
        /// The cluster.
        cluster: ClusterId,
        /// How it is.
        health: Health,
    },
    /// A cluster is no longer looked after.
    ClusterRemoved {
        /// The cluster.
        cluster: ClusterId,
    },
    /// So much of a cluster changed at once that its readers had better ask again.
    Reloaded {
        /// The cluster.
        cluster: ClusterId,
    },
}

fn optional_rfc3339<S: Serializer>(moment: &Option<OffsetDateTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match moment {
        Some(moment) => clock::rfc3339(moment, serializer),
        None => serializer.serialize_none(),
    }
}

/// `text`, or as much of it as is kept of a message.
#[must_use]
pub fn bounded(text: &str) -> &str {
    match text.char_indices().nth(MESSAGE_MOST) {
        Some((end, _)) => text.get(..end).unwrap_or_default(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clusters_id_is_written_one_way_only() {
        let id = ClusterId::from_bytes([0x0a; 16]);
        assert_eq!(id.to_string(), "0a".repeat(16));
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in
            ["", "0a", &"0A".repeat(16), &"zz".repeat(16), &"0a".repeat(17), "+0000000000000000000000000000001"]
        {
            assert_eq!(wrong.parse::<ClusterId>(), Err(NotAClusterId), "{wrong}");
        }
    }

    #[test]
    fn the_words_for_kinds_are_those_of_kubernetes_and_case_does_not_count() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            assert_eq!(kind.name().to_uppercase().parse(), Ok(kind));
        }
        assert!("Secret".parse::<Kind>().unwrap_err().to_string().contains("OCIRepository"));
    }

    #[test]
    fn the_words_for_statuses_go_both_ways() {
        for (status, word) in Status::ALL.into_iter().zip(Status::WORDS) {
            assert_eq!(serde_json::to_value(status).unwrap(), word);
            assert_eq!((word.parse(), status.word()), (Ok(status), word));
        }
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(bounded("short"), "short");
        assert_eq!(bounded(&"ü".repeat(MESSAGE_MOST + 1)), "ü".repeat(MESSAGE_MOST));
    }
}
