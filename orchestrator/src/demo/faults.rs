//! What a simulated cluster can be told to do wrong.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::fleet::Kind;

/// What a cluster does wrong at the moment.
#[derive(Debug)]
pub struct Faults {
    dead: AtomicBool,
    broken: AtomicBool,
    unreliable: AtomicBool,
    forbidden: AtomicBool,
    conflict: AtomicBool,
    no_events: AtomicBool,
    no_applied: AtomicBool,
    confined: AtomicBool,
    hidden: Mutex<BTreeSet<Kind>>,
    slow_ms: AtomicU64,
    watches: AtomicUsize,
    lists: AtomicUsize,
    reviews: AtomicUsize,
    cut: watch::Sender<u64>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            dead: AtomicBool::default(),
            broken: AtomicBool::default(),
            unreliable: AtomicBool::default(),
            forbidden: AtomicBool::default(),
            conflict: AtomicBool::default(),
            no_events: AtomicBool::default(),
            no_applied: AtomicBool::default(),
            confined: AtomicBool::default(),
            hidden: Mutex::default(),
            slow_ms: AtomicU64::default(),
            watches: AtomicUsize::default(),
            lists: AtomicUsize::default(),
            reviews: AtomicUsize::default(),
            cut: watch::Sender::new(0),
        }
    }
}

impl Faults {
    /// From now on nothing is answered, and watches fall silent; or all is well again.
    pub fn die(&self, dead: bool) {
        self.dead.store(dead, Ordering::SeqCst);
    }

    /// From now on every answer is 503; or all is well again.
    pub fn break_down(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    /// From now on watches are cut off in the middle of an event; or all is well again.
    pub fn be_unreliable(&self, unreliable: bool) {
        self.unreliable.store(unreliable, Ordering::SeqCst);
    }

    /// From now on changes are forbidden; or all is well again.
    pub fn forbid_changes(&self, forbidden: bool) {
        self.forbidden.store(forbidden, Ordering::SeqCst);
    }

    /// From now on the objects of a kind may not be read; or they may again.
    pub fn hide(&self, kind: Kind, hidden: bool) {
        let mut kinds = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        if hidden {
            kinds.insert(kind)
        } else {
            kinds.remove(&kind)
        };
    }

    /// From now on nothing may be listed over all namespaces at once; or it may again.
    pub fn confine(&self, confined: bool) {
        self.confined.store(confined, Ordering::SeqCst);
    }

    pub(super) fn confines(&self) -> bool {
        self.confined.load(Ordering::SeqCst)
    }

    /// From now on what was applied may not be read; or it may again.
    pub fn hide_applied(&self, hidden: bool) {
        self.no_applied.store(hidden, Ordering::SeqCst);
    }

    pub(super) fn hides_applied(&self) -> bool {
        self.no_applied.load(Ordering::SeqCst)
    }

    /// From now on events may not be read; or they may again.
    pub fn hide_events(&self, hidden: bool) {
        self.no_events.store(hidden, Ordering::SeqCst);
    }

    /// From now on changes meet a conflict; or all is well again.
    pub fn conflict(&self, conflict: bool) {
        self.conflict.store(conflict, Ordering::SeqCst);
    }

    /// From now on each answer, and each event of a watch, comes that late.
    pub fn be_slow(&self, delay: Duration) {
        self.slow_ms.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Cuts off every connection that watches at the moment.
    pub fn cut_watches(&self) {
        self.cut.send_modify(|times| *times += 1);
    }

    /// How many watches have been begun.
    pub fn watches(&self) -> usize {
        self.watches.load(Ordering::SeqCst)
    }

    /// How many lists have been begun, pages after the first not counted.
    pub fn lists(&self) -> usize {
        self.lists.load(Ordering::SeqCst)
    }

    /// How many times it was asked what somebody may do.
    pub fn reviews(&self) -> usize {
        self.reviews.load(Ordering::SeqCst)
    }

    pub(super) fn count_review(&self) {
        self.reviews.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    pub(super) fn is_unreliable(&self) -> bool {
        self.unreliable.load(Ordering::SeqCst)
    }

    pub(super) fn forbids_changes(&self) -> bool {
        self.forbidden.load(Ordering::SeqCst)
    }

    pub(super) fn hides(&self, kind: Kind) -> bool {
        self.hidden.lock().unwrap_or_else(PoisonError::into_inner).contains(&kind)
    }

    pub(super) fn hides_events(&self) -> bool {
        self.no_events.load(Ordering::SeqCst)
    }

    pub(super) fn conflicts(&self) -> bool {
        self.conflict.load(Ordering::SeqCst)
    }

    pub(super) async fn delay(&self) {
        let delay = Duration::from_millis(self.slow_ms.load(Ordering::SeqCst));
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }

    pub(super) fn cuts(&self) -> watch::Receiver<u64> {
        self.cut.subscribe()
    }

    pub(super) fn count_watch(&self) {
        self.watches.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn count_list(&self) {
        self.lists.fetch_add(1, Ordering::SeqCst);
    }
}
