//! Floor 3, the adapters: providers, stores, upstreams, keys, certificates, logs.

pub mod assertion;
pub mod certs;
pub mod files;
pub mod grants;
pub mod machine;
pub(crate) mod net;
pub mod providers;
pub mod seal;
pub mod stores;
pub mod telemetry;
pub mod upstream;
