//! What would change if a recorded manifest were applied again.

use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::applied::InventoryEntry;
use crate::clock;

/// What the cluster answers when it is asked, by a dry run, to apply the manifests that it keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Comparison {
    /// Where the manifests are kept.
    pub kept: Vec<String>,
    /// Why there is nothing, or not all, to be compared.
    pub reasons: Vec<String>,
    /// What was compared: what would change first.
    pub items: Vec<Compared>,
    /// How many more manifests, and objects that may have one, were not compared.
    pub left: usize,
    /// When it was read.
    #[serde(serialize_with = "clock::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub read_at: OffsetDateTime,
}

/// One object, as it is and as it would become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Compared {
    /// Which object.
    #[serde(flatten)]
    pub entry: InventoryEntry,
    /// What would come of it.
    pub effect: Effect,
    /// Why, where that needs a word.
    pub message: String,
    /// What would change, as a unified diff of its YAML, without what looks like a secret; empty where nothing would.
    pub diff: String,
}

/// What would come of applying a manifest again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// The object would change.
    Different,
    /// The object is not there, and would be made.
    Missing,
    /// The cluster does not say.
    Unknown,
    /// Nothing would change.
    Same,
}
