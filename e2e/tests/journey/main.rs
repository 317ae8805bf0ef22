//! The journey of a person: open, sign in, be told no, look after clusters, sign out; and that of a newcomer: README.md, `make run`.
//!
//! All three programs run as they are shipped, and a real Chromium goes through them.
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
