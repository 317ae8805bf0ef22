//! The memory that clients' connections use: a budget in bytes, and each connection's share of it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// The part of the budget, in eighths, above which room is made, and which bounds heads of clients not yet admitted. The rest is for new
/// connections and admitted clients.
const FULL_EIGHTHS: usize = 7;
/// How much is freed at a time for waiting heads: one part in this many of the budget.
const FREED_AT_A_TIME: usize = 16;

/// The process's budget (`LIMIT_MEMORY`). Counts what can grow (heads, windows, responses in progress), not each byte.
pub(crate) struct Memory {
    limit: usize,
    taken: AtomicUsize,
    /// How many bytes the connections wait for that may not take them now.
    wanted: AtomicUsize,
    pressed: Notify,
    freed: Arc<Notify>,
}

impl Memory {
    /// `None`: no limit.
    pub(crate) fn new(limit: Option<usize>) -> Self {
        Self {
            limit: limit.unwrap_or(usize::MAX),
            taken: AtomicUsize::new(0),
            wanted: AtomicUsize::new(0),
            pressed: Notify::new(),
            freed: Arc::default(),
        }
    }

    /// Whether `bytes` more fit.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.taken.load(Ordering::Relaxed).saturating_add(bytes) <= self.limit
    }

    /// How many bytes must be freed until there is room again.
    pub(crate) fn excess(&self) -> usize {
        self.taken.load(Ordering::Relaxed).saturating_sub(self.mark())
    }

    /// How many bytes are taken beyond the limit itself.
    pub(crate) fn overdraft(&self) -> usize {
        self.taken.load(Ordering::Relaxed).saturating_sub(self.limit)
    }

    /// How many bytes idle connections without an admitted request must free: what others wait for, a part at a time.
    pub(crate) fn wanted(&self) -> usize {
        self.wanted.load(Ordering::SeqCst).min(self.limit / FREED_AT_A_TIME)
    }

    /// Ends when room must be made.
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

    /// Takes the bytes only if they fit below the mark.
    fn try_take(&self, bytes: usize) -> bool {
        let mut taken = self.taken.load(Ordering::SeqCst);
        while let Some(after) = taken.checked_add(bytes).filter(|after| *after <= self.mark()) {
            match self.taken.compare_exchange_weak(taken, after, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return true,
                Err(now) => taken = now,
            }
        }
        false
    }

    fn give_back(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Ordering::SeqCst);
        self.pass_on();
    }

    /// Wakes the longest waiter.
    fn pass_on(&self) {
        if self.wanted.load(Ordering::SeqCst) > 0 {
            self.freed.notify_one();
        }
    }
}

/// One connection's share; returned when dropped.
pub(crate) struct Share {
    memory: Arc<Memory>,
    held: AtomicUsize,
}

impl Share {
    pub(crate) const fn of(memory: Arc<Memory>) -> Self {
        Self { memory, held: AtomicUsize::new(0) }
    }

    /// Always succeeds: which connection is closed to make room is decided elsewhere.
    pub(crate) fn grow(&self, bytes: usize) {
        if bytes > 0 {
            self.held.fetch_add(bytes, Ordering::Relaxed);
            self.memory.take(bytes);
        }
    }

    /// Takes the bytes only if they fit.
    pub(crate) fn try_grow(&self, bytes: usize) -> bool {
        let taken = self.memory.try_take(bytes);
        if taken {
            self.held.fetch_add(bytes, Ordering::Relaxed);
        }
        taken
    }

    /// Ends when there was room for this many bytes, and they were taken.
    pub(crate) fn wait(&self, bytes: usize) -> Waiting {
        self.memory.wanted.fetch_add(bytes, Ordering::SeqCst);
        Waiting { memory: Arc::clone(&self.memory), bytes, freed: None }
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

/// A connection that waits for memory. First come, first served.
pub(crate) struct Waiting {
    memory: Arc<Memory>,
    bytes: usize,
    freed: Option<Pin<Box<OwnedNotified>>>,
}

impl Waiting {
    /// Ready once `share`, which began the wait, has taken the bytes.
    pub(crate) fn poll(&mut self, share: &Share, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if share.try_grow(self.bytes) {
                // There may be room for one more.
                self.memory.pass_on();
                return Poll::Ready(());
            }
            self.memory.pressed.notify_one();
            let memory = &self.memory;
            let freed = self.freed.get_or_insert_with(|| Box::pin(Arc::clone(&memory.freed).notified_owned()));
            ready!(freed.as_mut().poll(cx));
            self.freed = None;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.memory.wanted.fetch_sub(self.bytes, Ordering::SeqCst);
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

    #[tokio::test]
    async fn who_waits_takes_what_is_given_back_and_the_longest_first() {
        let memory = Arc::new(Memory::new(Some(800)));
        let [full, first, second] = [(); 3].map(|()| Share::of(Arc::clone(&memory)));
        assert!(full.try_grow(700), "seven eighths");
        assert!(!first.try_grow(1));
        let (mut waits, mut waits_too) = (first.wait(40), second.wait(10));
        assert_eq!(memory.wanted(), 50);
        let poll = async |waiting: &mut Waiting, share: &Share| {
            std::future::poll_fn(|cx| Poll::Ready(waiting.poll(share, cx).is_ready())).await
        };
        assert!(!poll(&mut waits, &first).await && !poll(&mut waits_too, &second).await);
        full.shrink(45);
        assert!(poll(&mut waits, &first).await);
        drop(waits);
        assert_eq!((memory.wanted(), first.held()), (10, 40));
        assert!(!poll(&mut waits_too, &second).await, "five are left");
        drop(full);
        std::future::poll_fn(|cx| waits_too.poll(&second, cx)).await;
        assert_eq!(second.held(), 10);
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
