//! Whole flows over real sockets, as a client library would make them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod client;
mod entra;
mod faults;
mod github;
mod oidc;
mod page;
mod program;
