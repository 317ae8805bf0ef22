//! What is spoken with a Kubernetes API: connections under limits, discovery, watches, reading and changing objects.
#![expect(dead_code, reason = "watches and actions are built on it")]

mod body;
mod client;
mod discovery;
mod fault;
mod kubeconfig;

pub(crate) use client::{Access, Client};
pub(crate) use discovery::discover;
pub(crate) use fault::Fault;
pub use kubeconfig::{Connection, KUBECONFIG_MOST, KubeconfigFault};
