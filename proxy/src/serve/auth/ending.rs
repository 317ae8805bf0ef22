//! Ending sessions: all of a person, or all of a session at the provider.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::domain::session::{SessionKey, Whose};
use crate::domain::time::Timestamp;
use crate::ports::{Directory, LoadedSession, Sessions, StoreUnavailable};

/// How many sessions are ended at a time.
const AT_ONCE: usize = 16;

/// How often the store is asked for more: it tells of some hundreds at a time.
const ROUNDS: usize = 50;

/// Ends all sessions of `whose` but `kept`, and gives those that have ended. A person may have more than a store tells of at a time, and
/// may sign in anew meanwhile: it is asked until it knows of no other.
///
/// # Errors
/// [`StoreUnavailable`] where it did not tell, or did not confirm all; what could be ended has ended.
pub(crate) async fn end_all(
    store: &Arc<dyn Sessions>,
    directory: &dyn Directory,
    whose: Whose<'_>,
    kept: Option<SessionKey>,
    now: Timestamp,
) -> Result<Vec<Arc<LoadedSession>>, StoreUnavailable> {
    let mut seen: HashSet<SessionKey> = kept.into_iter().collect();
    let (mut ended, mut failure) = (Vec::new(), None);
    for _ in 0..ROUNDS {
        let found = directory.of(whose, now).await?;
        let fresh: Vec<_> = found.into_iter().filter(|session| seen.insert(session.key())).collect();
        if fresh.is_empty() {
            break;
        }
        if let Err(error) = end_each(store, &fresh).await {
            failure = Some(error);
        }
        ended.extend(fresh);
    }
    failure.map_or(Ok(ended), Err)
}

/// Ends these sessions, some at a time.
///
/// # Errors
/// [`StoreUnavailable`] where it did not confirm all; what could be ended has ended.
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
        ending.spawn(async move { store.end(&session).await });
    }
    let mut outcome = Ok(());
    while let Some(ended) = ending.join_next().await {
        outcome = outcome.and(ended.unwrap_or_else(|error| Err(StoreUnavailable(error.to_string()))));
    }
    outcome
}
