//! Writes last uses of sessions to the store: in the background, and rarely.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use futures_util::{StreamExt as _, stream};
use redis::Value;
use tokio::sync::mpsc;

use super::hot::{Entry, Hot};
use super::line::Line;
use super::scripts;
use super::terms::Terms;
use crate::domain::time::Timestamp;
use crate::ports::{LoadedSession, StoreUnavailable};

/// How many uses wait; when full, a later use is written instead.
const WAITING_MOST: usize = 4096;
/// How many are written at a time.
const AT_A_TIME: usize = 32;

/// The queue of uses.
pub(super) struct Seen(mpsc::Sender<Arc<Entry>>);

/// The task that writes uses.
pub(super) struct Writer {
    uses: mpsc::Receiver<Arc<Entry>>,
    line: Arc<Line>,
    hot: Arc<Hot>,
    terms: Arc<ArcSwap<Terms>>,
}

impl Seen {
    pub(super) fn new(line: Arc<Line>, hot: Arc<Hot>, terms: Arc<ArcSwap<Terms>>) -> (Self, Writer) {
        let (sender, uses) = mpsc::channel(WAITING_MOST);
        (Self(sender), Writer { uses, line, hot, terms })
    }

    /// Notes a use at `now`, and queues a write if the last one is long ago.
    pub(super) fn note(&self, entry: &Arc<Entry>, terms: &Terms, now: Timestamp) {
        entry.loaded.touch(now);
        let written = entry.seen_written.load(Ordering::Relaxed);
        if now.since(Timestamp::from_millis(written)) < terms.lag() {
            return;
        }
        let first =
            entry.seen_written.compare_exchange(written, now.millis(), Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if first && self.0.try_send(Arc::clone(entry)).is_err() {
            entry.seen_written.store(written, Ordering::Relaxed);
        }
    }
}

impl Writer {
    /// Writes uses; never returns.
    pub(super) async fn run(self) {
        let Self { uses, line, hot, terms } = self;
        let uses = stream::unfold(uses, async |mut uses| uses.recv().await.map(|entry| (entry, uses)));
        uses.for_each_concurrent(AT_A_TIME, async |entry| write(&line, &hot, &terms.load(), &entry).await).await;
    }
}

async fn write(line: &Line, hot: &Hot, terms: &Terms, entry: &Entry) {
    let (key, session, seen) = (entry.loaded.key(), entry.loaded.session(), entry.loaded.last_seen());
    let expires = terms.expires(session, seen).millis();
    match line.call(&scripts::see(&terms.names.session(key), seen.millis(), expires)).await {
        // It has ended, and this replica did not know.
        Ok(Value::Int(0)) => hot.end(key),
        // List it again too: this restores list entries lost in a failover. Where that fails, a later use does it.
        Ok(_) => _ = list(line, terms, &entry.loaded, seen).await,
        // A later use is written instead.
        Err(_) => {}
    }
}

/// Puts a session on its lists, also if it is there already.
pub(super) async fn list(
    line: &Line,
    terms: &Terms,
    loaded: &LoadedSession,
    now: Timestamp,
) -> Result<(), StoreUnavailable> {
    let (key, session) = (loaded.key(), loaded.session());
    for list in terms.names.lists(session) {
        line.call(&scripts::list(&list, &key.0, session.expires_at.millis(), now.millis())).await?;
    }
    Ok(())
}
