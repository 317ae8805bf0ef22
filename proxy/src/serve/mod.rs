//! Floor 3, the way of a request.

pub mod accept;
pub mod admin;
pub mod explain;
pub mod operator;
pub mod settings;

mod activity;
mod auth;
mod background;
mod body;
mod clock;
mod connection;
mod cookies;
mod crowd;
mod drain;
mod ending;
mod exchange;
mod forward;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod guard;
mod handler;
mod headers;
mod interim;
mod lasting;
mod memory;
mod pages;
mod parser;
mod plain;
mod query;
mod question;
mod rejection;
mod renewal;
mod session;
mod site;
mod streams;
mod tunnel;
mod watch;
mod workers;
