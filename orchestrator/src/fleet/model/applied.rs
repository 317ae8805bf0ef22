//! What a Flux object has applied, its status, and Flux's own controllers.

use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::names::Status;
use crate::clock;

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
            // It was suspended on purpose.
            Status::Suspended | Status::Ready => Self::Ready,
        }
    }
}

/// What a Flux object has applied, and how it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Applied {
    /// It, the most urgent first.
    pub items: Vec<AppliedObject>,
    /// How many more have been applied and were not read.
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
    /// Its status.
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
    /// Its status.
    pub status: AppliedStatus,
    /// Why.
    pub message: String,
    /// The node that it runs on.
    pub node: Option<String>,
    /// How many times its containers were started again.
    pub restarts: u64,
    /// When it was made.
    #[serde(serialize_with = "clock::optional_rfc3339")]
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
    /// Its status.
    pub status: AppliedStatus,
    /// Why.
    pub message: String,
}
