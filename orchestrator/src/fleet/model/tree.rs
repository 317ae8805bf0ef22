//! The dependency tree of Flux objects.

use serde::Serialize;
use utoipa::ToSchema;

use super::names::Status;

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
