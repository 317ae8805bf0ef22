//! What is asked of the fleet: parts of lists, and actions.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::names::{ClusterId, Kind, Status};

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
