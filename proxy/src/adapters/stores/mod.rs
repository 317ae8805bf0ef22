//! Session stores, and the choice of one.

pub mod jwt;
mod key;
pub mod memory;
pub mod record;
pub mod redis;
mod signatures;
mod states;
mod weight;

use std::sync::Arc;

pub use self::key::{is_public_id, public_id};

use self::jwt::JwtStore;
use self::memory::MemoryStore;
use self::redis::{RedisSettings, RedisStore};
use crate::adapters::telemetry::StoreMetrics;
use crate::ports::{Sessions, StoreTerms};

/// `SESSION_STORE` and related settings.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreSettings {
    /// In this process's memory.
    Memory {
        /// `SESSION_MEMORY_BYTES`: the limit for all sessions together; a change needs a restart.
        bytes: u64,
    },
    /// In Redis or Valkey.
    Redis(Box<RedisSettings>),
    /// In the cookie alone.
    Jwt {
        /// `SESSION_MEMORY_BYTES`: the limit for cached verified sessions; a change needs a restart.
        bytes: u64,
    },
}

impl StoreSettings {
    /// The value of `SESSION_STORE`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Memory { .. } => "memory",
            Self::Redis(_) => "redis",
            Self::Jwt { .. } => "jwt",
        }
    }

    /// Whether a store opened with these settings can be kept for the settings `wanted`.
    #[must_use]
    pub fn can_continue_as(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Memory { .. }, Self::Memory { .. }) | (Self::Jwt { .. }, Self::Jwt { .. }) => true,
            (Self::Redis(ours), Self::Redis(wanted)) => {
                **ours == RedisSettings { memory_bytes: ours.memory_bytes, ..(**wanted).clone() }
            }
            (Self::Memory { .. } | Self::Redis(_) | Self::Jwt { .. }, _) => false,
        }
    }
}

/// Opens the store.
///
/// # Errors
/// If the settings cannot be used; the text names the variable.
pub fn open(settings: &StoreSettings, terms: &StoreTerms, metrics: &StoreMetrics) -> Result<Arc<dyn Sessions>, String> {
    match settings {
        StoreSettings::Memory { bytes } => Ok(Arc::new(MemoryStore::new(terms.idle, *bytes))),
        StoreSettings::Redis(settings) => {
            metrics.shared(true);
            Ok(RedisStore::open(settings, terms, metrics)?)
        }
        StoreSettings::Jwt { bytes } => Ok(Arc::new(JwtStore::new(*bytes, terms)?)),
    }
}
