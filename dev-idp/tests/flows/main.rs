//! Whole flows over real sockets, as a client library would make them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub
)]

mod client;
mod entra;
mod faults;
mod github;
#[path = "../../../proxy/tests/imports.rs"]
#[allow(dead_code, reason = "the proxy's test of its floors uses all of it")]
mod imports;
mod layers;
mod oidc;
mod page;
mod program;
