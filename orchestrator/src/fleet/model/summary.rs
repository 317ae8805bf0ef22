//! What lists and events contain about clusters and Flux objects.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::names::{ClusterId, Kind, Status};
use crate::clock;

/// How many characters of a message are kept.
pub const MESSAGE_MOST: usize = 500;

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
    #[serde(serialize_with = "clock::optional_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub checked_at: Option<OffsetDateTime>,
}

impl Health {
    /// The health of a cluster that has not been probed yet.
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
    #[serde(serialize_with = "clock::optional_rfc3339")]
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

/// A change that is published to subscribers.
#[derive(Clone, Debug)]
pub enum Change {
    /// An object was added, changed or deleted.
    Object {
        /// The cluster that it is in.
        cluster: ClusterId,
        /// Whether it was deleted.
        removed: bool,
        /// The object, as it is or was.
        summary: Box<ObjectSummary>,
    },
    /// A cluster was added, or its health changed.
    Cluster {
        /// The cluster.
        cluster: ClusterId,
        /// Its health.
        health: Health,
    },
    /// A cluster was removed.
    ClusterRemoved {
        /// The cluster.
        cluster: ClusterId,
    },
    /// So much of a cluster changed at once that subscribers should load it again.
    Reloaded {
        /// The cluster.
        cluster: ClusterId,
    },
}

/// Cuts `text` to the length of a message.
#[must_use]
pub fn bounded(text: &str) -> &str {
    // A shorter text cannot have more characters.
    if text.len() <= MESSAGE_MOST {
        return text;
    }
    match text.char_indices().nth(MESSAGE_MOST) {
        Some((end, _)) => text.get(..end).unwrap_or_default(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(bounded("short"), "short");
        assert_eq!(bounded(&"ü".repeat(MESSAGE_MOST + 1)), "ü".repeat(MESSAGE_MOST));
    }
}
