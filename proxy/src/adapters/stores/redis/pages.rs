//! A list of sessions, read page by page from the last to expire: those that have ended stay listed until somebody takes them off, and
//! may fill many pages above a live one.

use std::collections::HashSet;

use super::line::Line;
use crate::domain::session::SessionKey;
use crate::domain::time::Timestamp;
use crate::ports::{SESSIONS_OF_ONE, StoreUnavailable};

/// How many pages are read at a time. A longer list is refused, not taken for read: those that are gone have been taken off by then, so
/// that the next reading comes further.
const PAGES_MOST: usize = 40;

/// The pages of a list, as far as they were read.
pub(super) struct Pages {
    list: String,
    /// The end of the last session that was read. By it, unlike by a position, nothing is passed over when others take sessions off.
    from: String,
    /// What was read: the sessions of a common end may come once more.
    read: HashSet<Vec<u8>>,
    count: usize,
    is_done: bool,
}

impl Pages {
    pub(super) fn of(list: &str) -> Self {
        Self { list: list.to_owned(), from: "+inf".to_owned(), read: HashSet::new(), count: 0, is_done: false }
    }

    /// The keys of unexpired sessions on the next page that were on none before; `None`: the list was read to its end.
    pub(super) async fn read_on(
        &mut self,
        line: &Line,
        now: Timestamp,
    ) -> Result<Option<Vec<SessionKey>>, StoreUnavailable> {
        if self.is_done {
            return Ok(None);
        }
        if self.count == PAGES_MOST {
            return Err(too_long());
        }
        self.count += 1;
        let mut cmd = redis::cmd("ZREVRANGEBYSCORE");
        cmd.arg(&self.list).arg(&self.from).arg(format!("({}", now.millis()));
        cmd.arg("WITHSCORES").arg("LIMIT").arg(0).arg(SESSIONS_OF_ONE);
        let entries = redis::from_redis_value::<Vec<(Vec<u8>, f64)>>(line.call(&cmd).await?);
        let entries = entries.map_err(|error| StoreUnavailable(error.to_string()))?;
        let (is_full, last) = (entries.len() >= SESSIONS_OF_ONE, entries.last().map(|(_, end)| end.to_string()));
        let members = entries.into_iter().map(|(member, _)| member);
        let fresh: Vec<Vec<u8>> = members.filter(|member| self.read.insert(member.clone())).collect();
        match last {
            // A whole page of sessions with the same end, none of which is gone.
            Some(_) if is_full && fresh.is_empty() => return Err(too_long()),
            Some(last) if is_full => self.from = last,
            Some(_) | None => self.is_done = true,
        }
        Ok(Some(fresh.into_iter().filter_map(|key| key.try_into().ok()).map(SessionKey).collect()))
    }

    /// Takes sessions off the list.
    pub(super) async fn forget(&self, line: &Line, gone: &[SessionKey]) -> Result<(), StoreUnavailable> {
        if gone.is_empty() {
            return Ok(());
        }
        let mut forget = redis::cmd("ZREM");
        forget.arg(&self.list);
        for key in gone {
            forget.arg(&key.0);
        }
        line.call(&forget).await.map(|_| ())
    }
}

fn too_long() -> StoreUnavailable {
    StoreUnavailable("a list of sessions is too long to be read at once: try again".to_owned())
}
