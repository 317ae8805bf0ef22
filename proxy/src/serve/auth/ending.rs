//! Ends sessions: all of a person, or all of a session at the provider.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::adapters::telemetry::Clean;
use crate::domain::session::{SessionKey, SessionSelector};
use crate::domain::time::Timestamp;
use crate::ports::{Directory, EndError, LoadedSession, Sessions, StoreUnavailable};
use crate::serve::answer::rejection::Rejection;
use crate::serve::exchange::Exchange;

/// How many sessions are ended concurrently.
const AT_ONCE: usize = 8;

/// How often the store is asked for more: it lists some hundreds at a time.
const ROUNDS: usize = 50;

/// What ended, and why that may not be all.
#[derive(Default)]
pub(crate) struct Ended {
    /// The sessions that were read before they ended, as the store has confirmed.
    pub(crate) confirmed: Vec<Arc<LoadedSession>>,
    /// Those that have ended here, and whose end the store is asked to confirm until it does.
    pub(crate) retried: Vec<Arc<LoadedSession>>,
    /// How many more ended without being read: while secrets or versions are changed, another replica may have written them, or they
    /// looked unused here.
    pub(crate) unread: usize,
    /// A list failed, or not every end was confirmed. The sessions that could be ended have ended all the same.
    pub(crate) failure: Option<EndError>,
}

impl Ended {
    /// How many count as ended.
    pub(crate) const fn count(&self) -> usize {
        self.confirmed.len() + self.retried.len() + self.unread
    }

    /// One of those that were read.
    pub(crate) fn one(&self) -> Option<&LoadedSession> {
        self.confirmed.first().or_else(|| self.retried.first()).map(|session| &**session)
    }

    fn note(&mut self, session: Arc<LoadedSession>, outcome: Result<(), EndError>) {
        match outcome {
            Ok(()) => self.confirmed.push(session),
            Err(error) => {
                if error.is_retried() {
                    self.retried.push(session);
                }
                self.fail(error);
            }
        }
    }

    fn fail(&mut self, error: EndError) {
        self.failure = EndError::worse(self.failure.take(), Some(error));
    }

    fn add(&mut self, more: Self) {
        self.confirmed.extend(more.confirmed);
        self.retried.extend(more.retried);
        self.unread += more.unread;
        self.failure = EndError::worse(self.failure.take(), more.failure);
    }
}

/// Logs that a sign-out did not end every session for certain, and returns its refusal, which says whether that goes on being tried.
pub(crate) fn refuse_sign_out(error: &EndError, exchange: &Exchange) -> Rejection {
    let request_id = Clean(exchange.origin().request_id);
    if error.is_retried() {
        tracing::error!(%request_id, "a logout was not confirmed: {error}");
        return Rejection::LogoutUnconfirmed;
    }
    tracing::error!(
        %request_id,
        "a logout did not end every session, and a copy of its cookie is valid until it expires: {error}"
    );
    Rejection::LogoutFailed
}

/// Ends all sessions of `selector` except `kept`. A person may have more than a store lists at a time, and may sign in again meanwhile: the
/// store is asked until it lists no others. What a list that failed may have named is not tried again.
pub(crate) async fn end_all(
    store: &Arc<dyn Sessions>,
    directory: &dyn Directory,
    selector: SessionSelector<'_>,
    kept: Option<SessionKey>,
    now: Timestamp,
) -> Ended {
    let mut seen: HashSet<SessionKey> = kept.into_iter().collect();
    let mut ended = Ended::default();
    for _ in 0..ROUNDS {
        let found = match directory.of(selector, now).await {
            Ok(found) => found,
            Err(error) => {
                ended.fail(EndError::Unavailable(error));
                return ended;
            }
        };
        let fresh: Vec<_> = found.into_iter().filter(|session| seen.insert(session.key())).collect();
        ended.add(end_each(store, &fresh).await);
        let (unread, failure) = directory.end_remaining(selector, kept, now).await;
        ended.failure = EndError::worse(ended.failure.take(), failure);
        if fresh.is_empty() && unread == 0 {
            return ended;
        }
        ended.unread += unread;
    }
    // Not done: what the last round has not seen may live on.
    let why = "the store lists further sessions again and again: try again".to_owned();
    ended.fail(EndError::Unavailable(StoreUnavailable(why)));
    ended
}

/// Ends these sessions, a batch at a time.
pub(crate) async fn end_each(store: &Arc<dyn Sessions>, sessions: &[Arc<LoadedSession>]) -> Ended {
    let mut ended = Ended::default();
    for batch in sessions.chunks(AT_ONCE) {
        ended.add(end_batch(store, batch).await);
    }
    ended
}

async fn end_batch(store: &Arc<dyn Sessions>, batch: &[Arc<LoadedSession>]) -> Ended {
    let mut ending = JoinSet::new();
    for session in batch {
        let (store, session) = (Arc::clone(store), Arc::clone(session));
        ending.spawn(async move {
            let outcome = store.end(&session).await;
            (session, outcome)
        });
    }
    let mut ended = Ended::default();
    while let Some(joined) = ending.join_next().await {
        match joined {
            Ok((session, outcome)) => ended.note(session, outcome),
            Err(error) => ended.fail(EndError::Unavailable(StoreUnavailable(error.to_string()))),
        }
    }
    ended
}
