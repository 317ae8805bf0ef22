//! The proxy's own responses: refusals, pages, JSON, redirects.

pub(crate) mod asker;
pub(crate) mod bad_callback;
pub(crate) mod challenge;
pub(crate) mod denial;
mod grpc;
pub(crate) mod pages;
pub(crate) mod query;
pub(crate) mod rejection;
pub(crate) mod reply;
