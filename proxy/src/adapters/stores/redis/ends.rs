//! Sessions that ended here but maybe not yet in the store: they count as ended, and the store is retried until it confirms that.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::channel;
use super::lanes::{Durability, Lanes};
use super::names::Names;
use super::scripts;
use super::terms::Terms;
use crate::domain::session::SessionKey;
use crate::ports::StoreUnavailable;

/// How many are kept for each evidence; beyond it a logout that is not confirmed fails without a retry.
pub(super) const MOST: usize = 10_000;
/// The pause between retries.
const PAUSE: Duration = Duration::from_millis(500);
/// The ends that are not confirmed.
pub(super) struct Ends {
    lanes: Arc<Lanes>,
    open: Mutex<Open>,
    more: Notify,
}

#[derive(Default)]
struct Open {
    sessions: HashSet<SessionKey>,
    unseen: HashSet<SessionKey>,
}

/// How we know of a session that is to end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    /// We had the session itself.
    Session,
    /// A token named it, which may be made up: such ones have their own limit, so that they take no room from the others.
    Unseen,
}

impl Open {
    fn of(&mut self, evidence: Evidence) -> &mut HashSet<SessionKey> {
        match evidence {
            Evidence::Session => &mut self.sessions,
            Evidence::Unseen => &mut self.unseen,
        }
    }

    fn holds(&self, key: SessionKey) -> bool {
        self.sessions.contains(&key) || self.unseen.contains(&key)
    }

    fn len(&self) -> usize {
        self.sessions.len() + self.unseen.len()
    }

    fn forget(&mut self, key: SessionKey) {
        self.sessions.remove(&key);
        self.unseen.remove(&key);
    }
}

impl Ends {
    pub(super) fn new(lanes: Arc<Lanes>) -> Self {
        Self { lanes, open: Mutex::default(), more: Notify::new() }
    }

    /// Whether a session counts as ended.
    pub(super) fn holds(&self, key: SessionKey) -> bool {
        self.open().holds(key)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.open().len()
    }

    /// Notes that a session is to end: from now on it counts as ended here, and the store is asked until it confirms that, whoever waits
    /// for it. `false`: there is no room for one more.
    pub(super) fn note(&self, key: SessionKey, evidence: Evidence) -> bool {
        let mut open = self.open();
        // Each waits once, however it is known.
        if !open.holds(key) {
            let waiting = open.of(evidence);
            if waiting.len() >= MOST {
                return false;
            }
            waiting.insert(key);
        }
        self.more.notify_one();
        true
    }

    /// Ends a session in the store.
    pub(super) async fn try_to_end(&self, key: SessionKey, names: &Names) -> Result<(), StoreUnavailable> {
        let session = names.session(key);
        let command = scripts::end(&session, &names.lease(key), &names.news(), &channel::ended(key));
        match self.lanes.write(vec![(session, vec![command])]).await? {
            Durability::Safely => {
                self.open().forget(key);
                Ok(())
            }
            Durability::ByMasterOnly => Err(StoreUnavailable("no replica confirmed the logout".to_owned())),
        }
    }

    /// Retries what was not confirmed; never returns.
    pub(super) async fn keep_trying(&self, terms: impl Fn() -> Arc<Terms>) {
        loop {
            if self.count() == 0 {
                self.more.notified().await;
            }
            tokio::time::sleep(PAUSE).await;
            let mut keys: Vec<SessionKey> = {
                let open = self.open();
                open.sessions.iter().chain(&open.unseen).copied().collect()
            };
            // In another order each time: else those that fail first, round after round, would keep the others from being tried.
            fastrand::shuffle(&mut keys);
            for key in keys {
                // One failure is enough: several in a row would break off a link that still works for other keys.
                if self.try_to_end(key, &terms().names).await.is_err() {
                    break;
                }
                tracing::info!("a logout that had waited for the session store is confirmed");
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
