//! Connections of clients: accepted within limits, served by a worker each, ended when we drain.

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
