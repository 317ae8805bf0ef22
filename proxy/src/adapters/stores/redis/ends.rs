//! Sessions that ended here but maybe not yet in the store: they count as ended, and the store is retried until it confirms that.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::channel;
use super::lanes::{Durability, Lanes};
use super::names::Names;
use super::scripts;
use super::terms::Terms;
use crate::domain::session::SessionKey;
pub(super) use crate::ports::Evidence;
use crate::ports::{Sessions, StoreUnavailable};

/// How many are kept for each evidence; beyond it a logout that is not confirmed fails without a retry.
pub(super) const MOST: usize = 10_000;
/// The pause between retries.
const PAUSE: Duration = Duration::from_millis(500);

/// The ends that are not confirmed.
pub(super) struct Ends {
    lanes: Arc<Lanes>,
    open: Mutex<Open>,
    /// The store that has taken this one's place: it goes on with all of them.
    heir: OnceLock<Arc<dyn Sessions>>,
}

#[derive(Default)]
struct Open {
    sessions: HashSet<SessionKey>,
    unseen: HashSet<SessionKey>,
}

impl Open {
    fn of(&mut self, evidence: Evidence) -> &mut HashSet<SessionKey> {
        match evidence {
            Evidence::Session => &mut self.sessions,
            Evidence::Unseen => &mut self.unseen,
        }
    }

    /// `false`: there is no room.
    fn note(&mut self, key: SessionKey, evidence: Evidence) -> bool {
        // Each waits once, as what it is best known.
        if evidence == Evidence::Session && self.unseen.remove(&key) {
            self.sessions.insert(key);
        } else if !self.holds(key) {
            let waiting = self.of(evidence);
            if waiting.len() >= MOST {
                return false;
            }
            waiting.insert(key);
        }
        true
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
        Self { lanes, open: Mutex::default(), heir: OnceLock::new() }
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
    /// for it. `false`: there is no room for one more, or the store in this one's place cannot take it.
    pub(super) fn note(&self, key: SessionKey, evidence: Evidence) -> bool {
        let is_noted = self.open().note(key, evidence);
        self.heir.get().map_or(is_noted, |heir| heir.inherit(key, evidence))
    }

    /// Hands all that is not confirmed, and all that is noted from now on, to the store that takes this one's place. Returns how many of
    /// them it cannot take.
    pub(super) fn hand_over(&self, heir: &Arc<dyn Sessions>) -> usize {
        // Before the rest, so that nothing that is noted meanwhile is missed. A store is replaced only once.
        let _is_first = self.heir.set(Arc::clone(heir));
        let of = |evidence| self.waiting(evidence).into_iter().filter(|key| !heir.inherit(*key, evidence)).count();
        of(Evidence::Session) + of(Evidence::Unseen)
    }

    /// Ends a session in the store. Tokens that may be made up wait for replicas one at a time: they take no lane from the others.
    pub(super) async fn try_to_end(
        &self,
        key: SessionKey,
        evidence: Evidence,
        names: &Names,
    ) -> Result<(), StoreUnavailable> {
        let session = names.session(key);
        let command = scripts::end(&session, &names.lease(key), &names.news(), &channel::ended(key));
        let writes = vec![(session, vec![command])];
        let written = match evidence {
            Evidence::Session => self.lanes.write(writes).await?,
            Evidence::Unseen => self.lanes.write_for_anybody(writes).await?,
        };
        match written {
            Durability::Safely => {
                self.open().forget(key);
                Ok(())
            }
            Durability::ByMasterOnly => Err(StoreUnavailable("no replica confirmed the logout".to_owned())),
        }
    }

    /// Retries what was not confirmed; never returns. Each evidence by itself, so that made-up tokens keep no session waiting.
    pub(super) async fn keep_trying(&self, terms: impl Fn() -> Arc<Terms>) {
        tokio::join!(self.retry(Evidence::Session, &terms), self.retry(Evidence::Unseen, &terms));
    }

    async fn retry(&self, evidence: Evidence, terms: &impl Fn() -> Arc<Terms>) {
        loop {
            // Those from before the pause: what is new is being tried for the first time.
            let mut keys = self.waiting(evidence);
            tokio::time::sleep(PAUSE).await;
            // In another order each time: else those that fail first, round after round, would keep the others from being tried.
            fastrand::shuffle(&mut keys);
            for key in keys {
                if !self.holds(key) {
                    continue;
                }
                // As a session in any case: what is retried takes one lane at a time, and must get its turn although others make up tokens. One
                // failure is enough: several in a row would break off a link that still works for other keys.
                if self.try_to_end(key, Evidence::Session, &terms().names).await.is_err() {
                    break;
                }
                tracing::info!("a logout that had waited for the session store is confirmed");
            }
        }
    }

    /// Those that are not confirmed.
    fn waiting(&self, evidence: Evidence) -> Vec<SessionKey> {
        self.open().of(evidence).iter().copied().collect()
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
