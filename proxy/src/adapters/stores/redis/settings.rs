//! The settings of the store in Redis.

use std::time::Duration;

use rustls::pki_types::CertificateDer;

use crate::domain::secret::Secret;

/// `SESSION_REDIS_…` and related settings.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// `SESSION_REDIS_URL`, parsed.
    pub place: RedisPlace,
    /// `SESSION_REDIS_PREFIX`: the prefix of all our keys and channels.
    pub prefix: String,
    /// `SESSION_REDIS_CA_FILE`: additional roots, beside the system's.
    pub roots: Vec<CertificateDer<'static>>,
    /// `SESSION_STORE_TIMEOUT`: the time limit of a call, connecting included.
    pub timeout: Duration,
    /// `SESSION_CACHE_TTL`: how long a session in memory stays valid without news from Redis.
    pub cache_ttl: Duration,
    /// `SESSION_MEMORY_BYTES`: the limit for all sessions in memory; a change needs a restart.
    pub memory_bytes: u64,
}

/// The address of Redis.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisPlace {
    /// The kind of deployment.
    pub layout: Layout,
    /// The hosts that the URL names: one, or the sentinels, or some nodes of the cluster.
    pub hosts: Vec<Host>,
    /// Whether to use TLS.
    pub tls: bool,
    /// The ACL user; `None`: the default user.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// The number of the database.
    pub database: i64,
}

/// A kind of deployment.
#[derive(Clone, PartialEq, Eq)]
pub enum Layout {
    /// One server.
    Single,
    /// Sentinels that monitor the master.
    Sentinel {
        /// The master's name at the sentinels.
        master: String,
        /// `SESSION_REDIS_SENTINEL_PASSWORD`.
        password: Option<Secret>,
    },
    /// A Redis Cluster.
    Cluster,
}

/// A host and its port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// A name or an address, IPv6 without brackets.
    pub name: String,
    /// Its port.
    pub port: u16,
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

impl RedisPlace {
    /// The place for log lines: without user and password.
    #[must_use]
    pub fn shown(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(ToString::to_string).collect();
        match &self.layout {
            Layout::Single => hosts.join(","),
            Layout::Sentinel { master, .. } => format!("{master} (sentinels {})", hosts.join(",")),
            Layout::Cluster => format!("cluster {}", hosts.join(",")),
        }
    }
}
