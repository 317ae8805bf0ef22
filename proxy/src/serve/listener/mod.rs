//! Client connections: accepted within limits, each served by a worker, ended by the drain.

pub(crate) mod accept;
pub(crate) mod connection;
pub(crate) mod crowd;
pub(crate) mod drain;
mod http;
mod plain;
mod proxy_protocol;
pub(crate) mod redirect;
pub(crate) mod socket;
pub(crate) mod workers;
