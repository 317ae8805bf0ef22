//! Floor 4, the path of a request.
//!
//! | step | module |
//! | --- | --- |
//! | a connection is accepted, within limits | `listener`, `watch` |
//! | what a request says, and which header fields it may not set | `request` |
//! | the session, and whether the request is admitted | `auth`, then `domain::judge` |
//! | the same for a proxy in front (forward-auth) | `verify`, and by gRPC `ext_authz` |
//! | forwarding to the upstream and back | `forward`, `body` |
//! | our own responses | `answer` |
//! | sessions renewed in the background | `renewal` |

pub mod settings;
pub mod upstream_settings;

pub(crate) mod answer;
pub(crate) mod app;
pub(crate) mod auth;
pub(crate) mod body;
pub(crate) mod clock;
pub(crate) mod destination;
mod exchange;
pub(crate) mod ext_authz;
mod forward;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod handler;
pub(crate) mod identity_fields;
pub(crate) mod listener;
pub(crate) mod log_limit;
pub(crate) mod renewal;
pub(crate) mod request;
mod verify;
pub(crate) mod watch;
