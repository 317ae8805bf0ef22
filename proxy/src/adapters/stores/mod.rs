//! Session stores, and which one the operator wants.

mod key;
pub mod memory;
pub mod record;

use std::sync::Arc;

pub use self::key::{is_public_id, public_id};

use self::memory::MemoryStore;
use crate::ports::{SessionStore, StoreTerms};

/// `SESSION_STORE` and what belongs to it.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreSettings {
    /// In this process's memory.
    Memory,
}

/// Makes the store ready to be used.
///
/// # Errors
/// Where the settings cannot be used; the text names the variable.
pub fn open(settings: &StoreSettings, terms: &StoreTerms) -> Result<Arc<dyn SessionStore>, String> {
    match settings {
        StoreSettings::Memory => Ok(Arc::new(MemoryStore::new(terms.idle))),
    }
}
