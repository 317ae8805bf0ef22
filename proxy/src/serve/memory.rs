//! What the connections of clients take of memory together: a budget in bytes, and each connection's part of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The part of the budget above which room is made: eighths.
const FULL_EIGHTHS: usize = 7;

/// The budget of the process (`LIMIT_MEMORY`). It is counted by what may grow (heads, windows, answers under way), not by each byte.
pub(crate) struct Memory {
    limit: usize,
    taken: AtomicUsize,
    pressed: Notify,
}

impl Memory {
    /// `None`: without a limit.
    pub(crate) fn new(limit: Option<usize>) -> Self {
        Self { limit: limit.unwrap_or(usize::MAX), taken: AtomicUsize::new(0), pressed: Notify::new() }
    }

    /// Whether `bytes` more fit.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.taken.load(Ordering::Relaxed).saturating_add(bytes) <= self.limit
    }

    /// How many bytes are to be given back until there is room again.
    pub(crate) fn excess(&self) -> usize {
        self.taken.load(Ordering::Relaxed).saturating_sub(self.mark())
    }

    /// How many bytes are taken beyond the limit itself.
    pub(crate) fn overdraft(&self) -> usize {
        self.taken.load(Ordering::Relaxed).saturating_sub(self.limit)
    }

    /// Ends once room is to be made.
    pub(crate) async fn pressed(&self) {
        self.pressed.notified().await;
    }

    const fn mark(&self) -> usize {
        self.limit / 8 * FULL_EIGHTHS
    }

    fn take(&self, bytes: usize) {
        let before = self.taken.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.mark() {
            self.pressed.notify_one();
        }
    }

    fn give_back(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// One connection's part; given back when dropped.
pub(crate) struct Share {
    memory: Arc<Memory>,
    held: AtomicUsize,
}

impl Share {
    pub(crate) const fn of(memory: Arc<Memory>) -> Self {
        Self { memory, held: AtomicUsize::new(0) }
    }

    /// Nobody is refused here: whoever is to go instead is chosen beside the connections.
    pub(crate) fn grow(&self, bytes: usize) {
        if bytes > 0 {
            self.held.fetch_add(bytes, Ordering::Relaxed);
            self.memory.take(bytes);
        }
    }

    pub(crate) fn shrink(&self, bytes: usize) {
        if bytes > 0 {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
            self.memory.give_back(bytes);
        }
    }

    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.give_back(self.held());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_connection_took_comes_back_with_its_end() {
        let memory = Arc::new(Memory::new(Some(800)));
        let share = Share::of(Arc::clone(&memory));
        share.grow(600);
        assert!(memory.has_room(200) && !memory.has_room(201));
        assert_eq!((memory.excess(), memory.overdraft()), (0, 0));
        share.grow(300);
        assert_eq!((memory.excess(), memory.overdraft(), share.held()), (200, 100, 900));
        share.shrink(250);
        assert_eq!(share.held(), 650);
        drop(share);
        assert!(memory.has_room(800));
    }

    #[test]
    fn without_a_limit_there_is_always_room() {
        let memory = Arc::new(Memory::new(None));
        let share = Share::of(Arc::clone(&memory));
        share.grow(1 << 40);
        assert!(memory.has_room(1 << 40));
        assert_eq!((memory.excess(), memory.overdraft()), (0, 0));
    }
}
