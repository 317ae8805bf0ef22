//! The client of a Kubernetes API: connections under limits, discovery, watches, reading and changing objects.

mod body;
mod client;
mod discovery;
mod fault;
mod field;
mod flux;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing;
mod kubeconfig;
mod watch;

pub(crate) use client::{Access, Client};
pub(crate) use discovery::{Served, ServedKind, discover, segment, served_kinds};
pub(crate) use fault::Fault;
pub(crate) use flux::{Chart, Condition, REQUESTED_AT, Reference, Release, Seen};
#[cfg(any(test, feature = "fuzzing"))]
pub use fuzzing::kubeconfigs;
pub use kubeconfig::{Connection, KUBECONFIG_MOST, KubeconfigFault};
pub(crate) use watch::{Watch, WatchEvent};
