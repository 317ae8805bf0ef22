//! The orchestrator over real sockets: one test program, a module a topic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod answers;
mod api;
mod databases;
mod entrance;
mod fleet;
mod impersonation;
mod layers;
mod logs;
mod objects;
mod openapi;
mod program;
mod service;
mod serving;
mod store;
mod support;
