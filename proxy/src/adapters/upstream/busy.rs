//! The number of requests that a backend has under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A request under way; it counts until this is dropped.
pub(super) struct Busy(Arc<AtomicUsize>);

impl Busy {
    /// Counts one more.
    pub(super) fn with(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
