//! Sidegate: an authentication reverse proxy.
//!
//! The way of a request, which `serve::handler` walks in one function:
//!
//! ```text
//! accept -> connection (tls, http/1 or 2) -> handler: caller -> path -> auth pages | session -> policy -> forward -> upstream
//! ```
//!
//! The floors; each imports only from those below it, and `tests/layers.rs` holds that:
//!
//! | floor | module | what it is |
//! | --- | --- | --- |
//! | 6 | `config` | what the operator wrote |
//! | 5 | `run` | the process: start, reload, drain, the operator's commands |
//! | 4 | `serve` | the way of a request |
//! | 3 | `adapters` | the world: providers, stores, upstreams, keys, certificates, logs |
//! | 2 | `ports` | what we ask of the world |
//! | 1 | `rendering` | an identity as header fields |
//! | 0 | `domain` | what is true: values only |

#![warn(clippy::print_stderr, reason = "what is said goes through the queue of the log")]

pub mod adapters;
pub mod config;
pub mod domain;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod ports;
pub mod rendering;
pub mod run;
pub mod serve;
