//! The sessions on a person's list: found to be shown or ended, ended unread where this replica cannot open them, and kept from being
//! too many.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use redis::Value;

use super::RedisStore;
use super::ends::Evidence;
use super::pages::Pages;
use super::terms::Terms;
use crate::domain::session::{SessionKey, SessionSelector};
use crate::domain::time::Timestamp;
use crate::ports::{EndError, LoadedSession, SESSIONS_OF_ONE, StoreUnavailable};

/// How many sessions of a list are read at a time.
const READ_AT_A_TIME: usize = 32;
/// How many of them are ended at a time: more would keep others from their turn to write where a replica is slow to confirm.
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
        let terms = self.terms.load_full();
        let mut found: Vec<Arc<LoadedSession>> = Vec::new();
        for list in terms.names.list(selector) {
            found.extend(self.live_on(&terms, &list, selector, now).await?);
        }
        found.sort_unstable_by_key(|session| (std::cmp::Reverse(session.session().created_at), session.key()));
        found.dedup_by_key(|session| session.key());
        found.truncate(SESSIONS_OF_ONE);
        Ok(found)
    }

    /// The live sessions on one list: all, or so many as are listed at most.
    async fn live_on(
        &self,
        terms: &Terms,
        list: &str,
        selector: SessionSelector<'_>,
        now: Timestamp,
    ) -> Result<Vec<Arc<LoadedSession>>, StoreUnavailable> {
        let (mut pages, mut found) = (Pages::of(list), Vec::new());
        while found.len() < SESSIONS_OF_ONE
            && let Some(keys) = pages.read_on(&self.line, now).await?
        {
            let mut sessions = stream::iter(keys)
                .map(async |key| self.peek(terms, key, now).await.map(|peeked| (key, peeked)))
                .buffered(READ_AT_A_TIME);
            let mut gone = Vec::new();
            while let Some(outcome) = sessions.next().await {
                match outcome? {
                    (_, Peeked::Session(session)) => found.push(session),
                    (_, Peeked::Unreadable | Peeked::Ending) => {}
                    (key, Peeked::Gone) => gone.push(key),
                }
            }
            pages.forget(&self.line, &gone).await?;
            found.retain(|session| session.session().is(selector) && session.is_live(terms.idle, now));
        }
        Ok(found)
    }

    /// Ends what is left on a selector's lists: the sessions that this replica cannot read, those that look idle here and may be in use on
    /// another replica, and those whose end is not confirmed yet. Whose the unreadable ones are is certain without reading them: the names
    /// of lists are made with a secret.
    pub(super) async fn end_remaining_on_lists(
        &self,
        selector: SessionSelector<'_>,
        kept: Option<SessionKey>,
        now: Timestamp,
    ) -> (usize, Option<EndError>) {
        let (terms, mut ended, mut failure) = (self.terms.load_full(), 0, None);
        for list in terms.names.list(selector) {
            let mut pages = Pages::of(&list);
            loop {
                let keys = match pages.read_on(&self.line, now).await {
                    Ok(Some(keys)) => keys,
                    Ok(None) => break,
                    Err(error) => return (ended, EndError::worse(failure, Some(EndError::Unavailable(error)))),
                };
                let keys = keys.into_iter().filter(|key| Some(*key) != kept);
                let mut endings = stream::iter(keys)
                    .map(async |key| (key, self.end_listed(&terms, key, selector, now).await))
                    .buffered(ENDED_AT_A_TIME);
                let mut gone = Vec::new();
                while let Some((key, outcome)) = endings.next().await {
                    match outcome {
                        Ok(Some(count)) => {
                            ended += count;
                            gone.push(key);
                        }
                        Ok(None) => {}
                        Err(error) => failure = EndError::worse(failure, Some(error)),
                    }
                }
                if let Err(error) = pages.forget(&self.line, &gone).await {
                    failure = EndError::worse(failure, Some(EndError::Unavailable(error)));
                }
            }
        }
        (ended, failure)
    }

    /// Ends what a key on a list names. Returns how many have ended by this; `None`: it is not of the selector, and stays.
    async fn end_listed(
        &self,
        terms: &Terms,
        key: SessionKey,
        selector: SessionSelector<'_>,
        now: Timestamp,
    ) -> Result<Option<usize>, EndError> {
        match self.peek(terms, key, now).await.map_err(EndError::Unavailable)? {
            Peeked::Session(session) if !session.session().is(selector) => Ok(None),
            // However long it is unused by what the store knows: a use on another replica may not be written yet.
            Peeked::Session(_) | Peeked::Unreadable => {
                self.end_now(key, Evidence::Session).await?;
                Ok(Some(1))
            }
            // An earlier logout has reported it as not confirmed: this one must not report success for it.
            Peeked::Ending => {
                self.end_now(key, Evidence::Session).await?;
                Ok(Some(0))
            }
            Peeked::Gone => Ok(Some(0)),
        }
    }

    /// Ends the oldest sessions of a list that is too long (of one user), so that no user fills the store by signing in. Those that have
    /// ended are taken off the list first: they do not count.
    pub(super) async fn end_those_beyond(&self, list: &str, now: Timestamp) {
        let is_short = self.beyond(list).await.is_ok_and(|beyond| beyond.is_empty());
        if is_short || self.forget_gone(list, now).await.is_err() {
            return;
        }
        let Ok(beyond) = self.beyond(list).await else { return };
        for key in beyond.into_iter().take(READ_AT_A_TIME) {
            let mut forget = redis::cmd("ZREM");
            forget.arg(list).arg(&key.0);
            // A session that cannot be ended now stays listed, and is tried again at the next sign-in.
            if self.end_now(key, Evidence::Session).await.is_err() || self.line.call(&forget).await.is_err() {
                return;
            }
        }
    }

    /// The sessions beyond those that a list may have, the oldest first.
    async fn beyond(&self, list: &str) -> Result<Vec<SessionKey>, StoreUnavailable> {
        let mut cmd = redis::cmd("ZRANGE");
        // The last ones are kept; those before are the oldest.
        cmd.arg(list).arg(0).arg(-1 - i64::try_from(SESSIONS_OF_ONE).unwrap_or(i64::MAX - 1));
        let keys = self.line.call(&cmd).await?;
        let keys: Vec<Vec<u8>> = redis::from_redis_value(keys).unwrap_or_default();
        Ok(keys.into_iter().filter_map(|key| key.try_into().ok()).map(SessionKey).collect())
    }

    /// Takes ended sessions off a list, from the last to expire on, until so many others were met as the list may have.
    async fn forget_gone(&self, list: &str, now: Timestamp) -> Result<(), StoreUnavailable> {
        let (terms, mut pages, mut left) = (self.terms.load_full(), Pages::of(list), 0);
        while left < SESSIONS_OF_ONE
            && let Some(keys) = pages.read_on(&self.line, now).await?
        {
            let mut looked_at = stream::iter(keys)
                .map(async |key| self.is_gone(&terms, key).await.map(|is_gone| (key, is_gone)))
                .buffered(READ_AT_A_TIME);
            let mut gone = Vec::new();
            while let Some(outcome) = looked_at.next().await {
                match outcome? {
                    (key, true) => gone.push(key),
                    (_, false) => left += 1,
                }
            }
            pages.forget(&self.line, &gone).await?;
        }
        Ok(())
    }

    /// Whether the store has no such session; asks for its last use, which is short.
    async fn is_gone(&self, terms: &Terms, key: SessionKey) -> Result<bool, StoreUnavailable> {
        let mut cmd = redis::cmd("HGET");
        cmd.arg(terms.names.session(key)).arg("s");
        Ok(matches!(self.line.call(&cmd).await?, Value::Nil))
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
