//! The faults that a simulated cluster can be set to show.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::fleet::Kind;

/// The current faults of a cluster.
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
    refuses_forgotten: AtomicBool,
    hidden: Mutex<BTreeSet<Kind>>,
    slow_ms: AtomicU64,
    watches: AtomicUsize,
    lists: AtomicUsize,
    reviews: AtomicUsize,
    cut: watch::Sender<u64>,
    hold: watch::Sender<bool>,
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
            refuses_forgotten: AtomicBool::default(),
            hidden: Mutex::default(),
            slow_ms: AtomicU64::default(),
            watches: AtomicUsize::default(),
            lists: AtomicUsize::default(),
            reviews: AtomicUsize::default(),
            cut: watch::Sender::new(0),
            hold: watch::Sender::new(false),
        }
    }
}

impl Faults {
    /// Stops all responses and silences watches, or ends this fault.
    pub fn set_dead(&self, dead: bool) {
        self.dead.store(dead, Ordering::SeqCst);
    }

    /// Answers every request with 503, or ends this fault.
    pub fn break_down(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    /// Cuts off watches in the middle of an event, or ends this fault.
    pub fn be_unreliable(&self, unreliable: bool) {
        self.unreliable.store(unreliable, Ordering::SeqCst);
    }

    /// Forbids changes, or allows them again.
    pub fn forbid_changes(&self, forbidden: bool) {
        self.forbidden.store(forbidden, Ordering::SeqCst);
    }

    /// Forbids reading the objects of a kind, or allows it again.
    pub fn hide(&self, kind: Kind, hidden: bool) {
        let mut kinds = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        if hidden {
            kinds.insert(kind)
        } else {
            kinds.remove(&kind)
        };
    }

    /// Forbids lists over all namespaces, or allows them again.
    pub fn confine(&self, confined: bool) {
        self.confined.store(confined, Ordering::SeqCst);
    }

    /// Refuses to begin a watch from a version that is gone, with the status 410 instead of an event, or ends this fault.
    pub fn refuse_forgotten(&self, refused: bool) {
        self.refuses_forgotten.store(refused, Ordering::SeqCst);
    }

    pub(super) fn refuses_forgotten(&self) -> bool {
        self.refuses_forgotten.load(Ordering::SeqCst)
    }

    pub(super) fn confines(&self) -> bool {
        self.confined.load(Ordering::SeqCst)
    }

    /// Forbids reading applied objects, or allows it again.
    pub fn hide_applied(&self, hidden: bool) {
        self.no_applied.store(hidden, Ordering::SeqCst);
    }

    pub(super) fn hides_applied(&self) -> bool {
        self.no_applied.load(Ordering::SeqCst)
    }

    /// Forbids reading events, or allows it again.
    pub fn hide_events(&self, hidden: bool) {
        self.no_events.store(hidden, Ordering::SeqCst);
    }

    /// Makes changes fail with a conflict, or ends this fault.
    pub fn conflict(&self, conflict: bool) {
        self.conflict.store(conflict, Ordering::SeqCst);
    }

    /// Delays each response, and each event of a watch, by `delay`.
    pub fn be_slow(&self, delay: Duration) {
        self.slow_ms.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Lets changes wait until this is taken back.
    pub fn hold_changes(&self, hold: bool) {
        self.hold.send_replace(hold);
    }

    /// How many changes wait.
    pub fn held_changes(&self) -> usize {
        self.hold.receiver_count()
    }

    pub(super) async fn may_change(&self) {
        if *self.hold.borrow() {
            // Fails only if the sender is dropped, which `self` owns.
            let mut hold = self.hold.subscribe();
            let _ended = hold.wait_for(|hold| !hold).await;
        }
    }

    /// Cuts off every open watch.
    pub fn cut_watches(&self) {
        self.cut.send_modify(|times| *times += 1);
    }

    /// How many watches have been started.
    pub fn watches(&self) -> usize {
        self.watches.load(Ordering::SeqCst)
    }

    /// How many lists have been started, pages after the first not counted.
    pub fn lists(&self) -> usize {
        self.lists.load(Ordering::SeqCst)
    }

    /// How many access reviews were requested.
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
