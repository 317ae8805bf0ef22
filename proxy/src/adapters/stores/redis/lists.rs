//! The sessions on a person's list: found to be shown or ended, and ended unread where this replica cannot open them.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};

use super::ends::Evidence;
use super::terms::Terms;
use super::{READ_AT_A_TIME, RedisStore};
use crate::domain::session::{SessionKey, SessionSelector};
use crate::domain::time::Timestamp;
use crate::ports::{LoadedSession, SESSIONS_OF_ONE, StoreUnavailable};

/// How many unreadable sessions are ended at a time: more would wait for a connection beyond their deadline where a replica is slow to
/// confirm.
const ENDED_AT_A_TIME: usize = 8;

/// What a key names, when it is looked up for a list.
pub(super) enum Peeked {
    /// A session; it may have expired.
    Session(Arc<LoadedSession>),
    /// A session that this replica cannot read, and another one may: secrets or versions differ while they are changed.
    Unreadable,
    /// A session that has ended here, and that the store may still have.
    Ending,
    /// Nothing any more.
    Gone,
}

impl RedisStore {
    /// The live sessions of a selector. Takes those that are gone off its lists, and leaves all others there.
    pub(super) async fn listed(
        &self,
        selector: SessionSelector<'_>,
        now: Timestamp,
    ) -> Result<Vec<Arc<LoadedSession>>, StoreUnavailable> {
        let (terms, mut found) = (self.terms.load_full(), Vec::new());
        for list in terms.names.list(selector) {
            let mut sessions = stream::iter(self.keys_on(&list, now).await?)
                .map(async |key| self.peek(&terms, key, now).await.map(|peeked| (key, peeked)))
                .buffered(READ_AT_A_TIME);
            while let Some(outcome) = sessions.next().await {
                match outcome? {
                    (_, Peeked::Session(session)) => found.push(session),
                    (_, Peeked::Unreadable | Peeked::Ending) => {}
                    (key, Peeked::Gone) => {
                        let mut forget = redis::cmd("ZREM");
                        forget.arg(&list).arg(&key.0);
                        self.line.call(&forget).await?;
                    }
                }
            }
        }
        found.retain(|session| session.session().is(selector) && session.is_live(terms.idle, now));
        found.sort_unstable_by_key(|session| (std::cmp::Reverse(session.session().created_at), session.key()));
        found.dedup_by_key(|session| session.key());
        found.truncate(SESSIONS_OF_ONE);
        Ok(found)
    }

    /// Ends the sessions on a selector's lists that this replica cannot read, and those whose end is not confirmed yet. Whose they are is certain without reading them: the names of
    /// lists are made with a secret.
    pub(super) async fn end_unreadable_on_lists(
        &self,
        selector: SessionSelector<'_>,
        kept: Option<SessionKey>,
        now: Timestamp,
    ) -> Result<usize, StoreUnavailable> {
        let (terms, mut ended, mut failure) = (self.terms.load_full(), 0, None);
        for list in terms.names.list(selector) {
            let keys = self.keys_on(&list, now).await?.filter(|key| Some(*key) != kept);
            let mut endings = stream::iter(keys)
                .map(async |key| match self.peek(&terms, key, now).await? {
                    Peeked::Unreadable => self.end_now(key, Evidence::Session).await.map(|()| 1),
                    // An earlier logout has reported it as not confirmed: this one must not report success for it.
                    Peeked::Ending => self.end_now(key, Evidence::Session).await.map(|()| 0),
                    Peeked::Session(_) | Peeked::Gone => Ok(0),
                })
                .buffered(ENDED_AT_A_TIME);
            while let Some(outcome) = endings.next().await {
                match outcome {
                    Ok(count) => ended += count,
                    Err(error) => failure = Some(error),
                }
            }
        }
        failure.map_or(Ok(ended), Err)
    }

    /// The keys of the unexpired sessions on a list, the last to expire first.
    async fn keys_on(
        &self,
        list: &str,
        now: Timestamp,
    ) -> Result<impl Iterator<Item = SessionKey> + use<>, StoreUnavailable> {
        let mut cmd = redis::cmd("ZREVRANGEBYSCORE");
        cmd.arg(list).arg("+inf").arg(format!("({}", now.millis())).arg("LIMIT").arg(0).arg(SESSIONS_OF_ONE);
        let keys = self.line.call(&cmd).await?;
        let keys: Vec<Vec<u8>> = redis::from_redis_value(keys).unwrap_or_default();
        Ok(keys.into_iter().filter_map(|key| key.try_into().ok()).map(SessionKey))
    }

    /// Reads a session for a list, without keeping it in memory.
    pub(super) async fn peek(
        &self,
        terms: &Terms,
        key: SessionKey,
        now: Timestamp,
    ) -> Result<Peeked, StoreUnavailable> {
        if self.ends.holds(key) {
            return Ok(Peeked::Ending);
        }
        if self.hot.has_ended(key) {
            // Whether the store knows it too is not certain: there may have been too many to be tried again.
            return Ok(if self.fetch(key).await?.is_some() { Peeked::Ending } else { Peeked::Gone });
        }
        if let Some(entry) = self.hot.fresh(key).filter(|entry| entry.loaded.is_live(terms.idle, now)) {
            return Ok(Peeked::Session(Arc::clone(&entry.loaded)));
        }
        let Some((value, seen)) = self.fetch(key).await? else { return Ok(Peeked::Gone) };
        Ok(match self.open_value(terms, key, &value) {
            Some(session) => Peeked::Session(Arc::new(LoadedSession::new(key, session, seen))),
            None => Peeked::Unreadable,
        })
    }
}
