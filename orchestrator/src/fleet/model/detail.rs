//! The details of one Flux object, for its page.

use std::collections::BTreeMap;

use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::applied::InventoryEntry;
use super::summary::ObjectSummary;
use crate::clock;

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
    #[serde(serialize_with = "clock::optional_rfc3339")]
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
    #[serde(serialize_with = "clock::optional_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub first: Option<OffsetDateTime>,
    /// When it was last.
    #[serde(serialize_with = "clock::optional_rfc3339")]
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
    #[serde(serialize_with = "clock::optional_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen: Option<OffsetDateTime>,
    /// Who says so.
    pub source: String,
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
