//! A user's journey: open, sign in, be refused, manage clusters, sign out; and a newcomer's: README.md, `make run`.
//!
//! All three programs run as shipped, driven through a real Chromium.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panic, and reads what its surroundings offer"
)]

mod browser;
mod http;
mod make_run;
mod newcomer;
mod orchestrate;
mod programs;
mod refused;
mod sign_in;
mod stack;
mod step_up;
