//! Ends sessions: all of a person, or all of a session at the provider.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::domain::session::{SessionKey, SessionSelector};
use crate::domain::time::Timestamp;
use crate::ports::{Directory, LoadedSession, Sessions, StoreUnavailable};

/// How many sessions are ended concurrently.
const AT_ONCE: usize = 8;

/// How often the store is asked for more: it lists some hundreds at a time.
const ROUNDS: usize = 50;

/// What ended.
#[derive(Default)]
pub(crate) struct Ended {
    /// The sessions that were read before they ended.
    pub(crate) sessions: Vec<Arc<LoadedSession>>,
    /// How many more ended without being read: while secrets or versions are changed, another replica may have written them, or they
    /// looked unused here.
    pub(crate) unread: usize,
}

impl Ended {
    pub(crate) const fn count(&self) -> usize {
        self.sessions.len() + self.unread
    }
}

/// Ends all sessions of `selector` except `kept`, and returns those that ended. A person may have more than a store lists at a time, and
/// may sign in again meanwhile: the store is asked until it lists no others.
///
/// # Errors
/// [`StoreUnavailable`]: a list failed, or not every end was confirmed; the sessions that could be ended have ended.
pub(crate) async fn end_all(
    store: &Arc<dyn Sessions>,
    directory: &dyn Directory,
    selector: SessionSelector<'_>,
    kept: Option<SessionKey>,
    now: Timestamp,
) -> Result<Ended, StoreUnavailable> {
    let mut seen: HashSet<SessionKey> = kept.into_iter().collect();
    let (mut ended, mut failure) = (Ended::default(), None);
    for _ in 0..ROUNDS {
        let found = directory.of(selector, now).await?;
        let fresh: Vec<_> = found.into_iter().filter(|session| seen.insert(session.key())).collect();
        if let Err(error) = end_each(store, &fresh).await {
            failure = Some(error);
        }
        let unread = directory.end_remaining(selector, kept, now).await.unwrap_or_else(|error| {
            failure = Some(error);
            0
        });
        if fresh.is_empty() && unread == 0 {
            return failure.map_or(Ok(ended), Err);
        }
        ended.sessions.extend(fresh);
        ended.unread += unread;
    }
    // Not done: what the last round has not seen may live on.
    Err(failure
        .unwrap_or_else(|| StoreUnavailable("the store lists further sessions again and again: try again".to_owned())))
}

/// Ends these sessions, a batch at a time.
///
/// # Errors
/// [`StoreUnavailable`]: not every end was confirmed; the sessions that could be ended have ended.
pub(crate) async fn end_each(
    store: &Arc<dyn Sessions>,
    sessions: &[Arc<LoadedSession>],
) -> Result<(), StoreUnavailable> {
    let mut outcome = Ok(());
    for batch in sessions.chunks(AT_ONCE) {
        outcome = outcome.and(end_batch(store, batch).await);
    }
    outcome
}

async fn end_batch(store: &Arc<dyn Sessions>, batch: &[Arc<LoadedSession>]) -> Result<(), StoreUnavailable> {
    let mut ending = JoinSet::new();
    for session in batch {
        let (store, session) = (Arc::clone(store), Arc::clone(session));
        ending.spawn(async move { store.end(&session).await.map_err(StoreUnavailable::from) });
    }
    let mut outcome = Ok(());
    while let Some(ended) = ending.join_next().await {
        outcome = outcome.and(ended.unwrap_or_else(|error| Err(StoreUnavailable(error.to_string()))));
    }
    outcome
}
