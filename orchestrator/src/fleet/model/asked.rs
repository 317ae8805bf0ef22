//! Requests to the fleet: filters, pages and actions.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::names::{ClusterId, Kind, Status};

/// The actions on a Flux object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Reconcile the object now.
    Reconcile {
        /// Whether to reconcile its source first.
        with_source: bool,
    },
    /// Install or upgrade a HelmRelease now, even without changes.
    Force,
    /// Reset the failure counts of a HelmRelease, and reconcile it now.
    Reset,
    /// Suspend its reconciliation.
    Suspend,
    /// Resume its reconciliation.
    Resume,
}

/// The filter of a list; a field that is `None` matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// In one cluster.
    pub cluster: Option<ClusterId>,
    /// Of one kind.
    pub kind: Option<Kind>,
    /// In one namespace.
    pub namespace: Option<String>,
    /// With one status.
    pub status: Option<Status>,
    /// With all these words in name, namespace, kind, cluster, revision or message; case does not count.
    pub text: Option<String>,
}

/// The requested part of a list, and its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// How many at most.
    pub limit: usize,
    /// How many to skip.
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
