//! All sessions, for operators: read page by page from every master.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;

use super::RedisStore;
use super::dial::{Conn, within};
use super::line::describe;
use super::lists::Peeked;
use crate::domain::time::Timestamp;
use crate::ports::{LoadedSession, StoreUnavailable};

/// The approximate number of keys in a page.
const PAGE: usize = 200;

impl RedisStore {
    /// Waits until the store is available.
    ///
    /// # Errors
    /// Why it is not, after `most`.
    pub async fn reach(&self, most: Duration) -> Result<(), StoreUnavailable> {
        let mut up = self.line.watch();
        let reached = tokio::time::timeout(most, up.wait_for(|generation| *generation != 0)).await;
        match reached {
            Ok(_) => Ok(()),
            Err(_) => self.line.link_or_refuse().map(|_| ()),
        }
    }

    /// Calls `each` with every live session, in no particular order; possibly twice. Sessions that begin or end meanwhile may be missed or
    /// not.
    ///
    /// # Errors
    /// If the store does not respond: then some sessions are missing.
    pub async fn all(
        &self,
        now: Timestamp,
        mut each: impl FnMut(Arc<LoadedSession>) + Send,
    ) -> Result<(), StoreUnavailable> {
        let link = self.line.link_or_refuse()?;
        let terms = self.terms.load_full();
        let mut masters = match &link.conn {
            Conn::Node(_) => vec![link.conn.clone()],
            Conn::Cluster(_) => Vec::new(),
        };
        if masters.is_empty() {
            for host in link.map.load().masters() {
                let conn = self.line.dialer.node(&host).await;
                masters.push(conn.map_err(|error| StoreUnavailable(format!("{host}: {}", describe(&error))))?);
            }
        }
        for mut master in masters {
            let mut cursor = 0_u64;
            loop {
                let mut scan = redis::cmd("SCAN");
                scan.arg(cursor).arg("MATCH").arg(terms.names.all_sessions()).arg("COUNT").arg(PAGE);
                let page = within(self.line.dialer.timeout, master.run(&scan)).await;
                let page: Value = page.map_err(|error| StoreUnavailable(describe(&error)))?;
                let page = redis::from_redis_value::<(u64, Vec<Vec<u8>>)>(page);
                let (next, names) = page.map_err(|error| StoreUnavailable(error.to_string()))?;
                for key in names.iter().filter_map(|name| terms.names.session_key(name)) {
                    if let Peeked::Session(session) = self.peek(&terms, key, now).await?
                        && session.is_live(terms.idle, now)
                    {
                        each(session);
                    }
                }
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(())
    }
}
