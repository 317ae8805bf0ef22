//! The proxy's own responses: refusals, pages, JSON, redirects.

pub(crate) mod asker;
pub(crate) mod bad_callback;
pub(crate) mod challenge;
mod grpc;
pub(crate) mod pages;
pub(crate) mod query;
pub(crate) mod rejection;
pub(crate) mod reply;
