//! The orchestrator over real sockets: one test program, a module a topic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod answers;
mod api;
mod applied;
mod databases;
mod entrance;
mod fleet;
mod here;
mod impersonation;
#[path = "../../proxy/tests/imports.rs"]
#[allow(dead_code, unreachable_pub, reason = "the proxy's test of its floors uses all of it")]
mod imports;
mod kubernetes;
mod layers;
mod lines;
mod logs;
mod objects;
mod openapi;
mod program;
mod service;
mod serving;
mod store;
mod support;
