//! Sessions that ended here and are not known to have ended in the store: held for ended, and tried again until they have.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::channel;
use super::lanes::{Lanes, Written};
use super::names::Names;
use super::scripts;
use super::terms::Terms;
use crate::domain::session::SessionKey;
use crate::ports::StoreUnavailable;

/// How many are held; beyond it a logout fails without being tried again.
const MOST: usize = 10_000;
/// The pause between tries.
const PAUSE: Duration = Duration::from_millis(500);

/// The sessions.
pub(super) struct Ends {
    lanes: Arc<Lanes>,
    open: Mutex<HashSet<SessionKey>>,
    more: Notify,
}

impl Ends {
    pub(super) fn new(lanes: Arc<Lanes>) -> Self {
        Self { lanes, open: Mutex::default(), more: Notify::new() }
    }

    /// Whether a session is held for ended.
    pub(super) fn holds(&self, key: SessionKey) -> bool {
        self.open().contains(&key)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.open().len()
    }

    /// Ends a session in the store. Held until that is confirmed, also where the caller does not wait for it.
    pub(super) async fn end(&self, key: SessionKey, names: &Names) -> Result<(), StoreUnavailable> {
        {
            let mut open = self.open();
            if open.len() >= MOST {
                tracing::error!("{MOST} logouts wait for the session store: further ones are not tried again");
            } else {
                open.insert(key);
            }
        }
        self.more.notify_one();
        self.try_to_end(key, names).await
    }

    async fn try_to_end(&self, key: SessionKey, names: &Names) -> Result<(), StoreUnavailable> {
        let session = names.session(key);
        let command = scripts::end(&session, &names.leave(key), &names.news(), &channel::ended(key));
        match self.lanes.write(vec![(session, vec![command])]).await? {
            Written::Safely => {
                self.open().remove(&key);
                Ok(())
            }
            Written::ByMasterOnly => Err(StoreUnavailable("no replica confirmed the logout".to_owned())),
        }
    }

    /// Tries again what was not confirmed; for ever.
    pub(super) async fn keep_trying(&self, terms: impl Fn() -> Arc<Terms>) {
        loop {
            if self.count() == 0 {
                self.more.notified().await;
            }
            tokio::time::sleep(PAUSE).await;
            let keys: Vec<SessionKey> = self.open().iter().copied().collect();
            for key in keys {
                // While the store is away the first tells it for all.
                if self.try_to_end(key, &terms().names).await.is_err() {
                    break;
                }
                tracing::info!("a logout that had waited for the session store is confirmed");
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, HashSet<SessionKey>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
