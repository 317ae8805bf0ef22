//! Writes that wait for a replica. `WAIT` blocks its connection, and covers only that connection's writes: so these have their own.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use redis::{Cmd, ErrorKind, Pipeline, RedisResult, Value};
use tokio::sync::{AcquireError, Mutex, Semaphore};

use super::dial::{Conn, late, within};
use super::line::{Line, Link, describe};
use crate::adapters::telemetry::StoreMetrics;
use crate::ports::StoreUnavailable;

/// How many writes wait for replicas at a time; further ones wait for their turn.
const LANES: usize = 4;
/// How many of the store's timeouts a write waits for its turn: one before it takes about one of them where a replica is silent.
const TURN: u32 = 4;
/// A connection that rested longer is not used again: servers (`timeout`) and balancers close those that rest.
const REST_MOST: Duration = Duration::from_secs(10);
/// The least that a server is asked to wait: to it, 0 means for ever.
const WAIT_LEAST: Duration = Duration::from_millis(1);
/// How long a failed write is reported.
const TOLD: Duration = Duration::from_secs(60);
/// How late a quiet server notices that a `WAIT` is over: it looks ten times a second.
const TICK: Duration = Duration::from_millis(100);

/// Connections for writes that wait for replicas.
pub(super) struct Lanes {
    line: Arc<Line>,
    runtime: tokio::runtime::Handle,
    metrics: StoreMetrics,
    room: Semaphore,
    /// The one place for writes that anybody can cause.
    anybody: Semaphore,
    lanes: Vec<Mutex<Option<Lane>>>,
    wait: Duration,
    /// Why the last write on these connections failed.
    failing: std::sync::Mutex<Option<Failure>>,
}

/// A connection at rest.
struct Lane {
    conn: Conn,
    /// That of the link at the time.
    generation: u64,
    since: Instant,
}

/// A write that failed.
struct Failure {
    at: Instant,
    /// That of the link at the time.
    generation: u64,
    why: String,
}

/// Commands whose keys lie in one slot: the first key, and the commands.
pub(super) type Write = (String, Vec<Cmd>);

/// How safely a write was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// On a replica too, if there are any.
    Safely,
    /// On the master alone, though there are replicas: it would be lost with the master.
    ByMasterOnly,
}

impl Lanes {
    pub(super) fn new(line: Arc<Line>, runtime: tokio::runtime::Handle, metrics: StoreMetrics) -> Self {
        let wait = line.dialer.timeout;
        let lanes = (0..LANES).map(|_| Mutex::new(None)).collect();
        let (room, anybody) = (Semaphore::new(LANES), Semaphore::new(1));
        Self { line, runtime, metrics, room, anybody, lanes, wait, failing: std::sync::Mutex::default() }
    }

    /// Why writes fail while the link works; `None` if the last one did not, or was long ago.
    pub(super) fn trouble(&self) -> Option<String> {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.line.link()?.generation;
        let last = failing.as_ref().filter(|last| last.generation == current && last.at.elapsed() < TOLD)?;
        Some(format!("the last write that waits for replicas failed: {}", last.why))
    }

    /// Writes in this order, and waits for a replica of each master that has any.
    pub(super) async fn write(&self, writes: Vec<Write>) -> Result<Durability, StoreUnavailable> {
        self.ask(writes).await.map(|(_, written)| written)
    }

    /// The same for what anybody can cause, without a session: such writes wait for replicas one at a time, so that they leave the other
    /// places to everyone else.
    pub(super) async fn write_for_anybody(&self, writes: Vec<Write>) -> Result<Durability, StoreUnavailable> {
        self.ask_after(Some(&self.anybody), writes).await.map(|(_, written)| written)
    }

    /// As [`Lanes::write`]; also returns the reply to the last command.
    pub(super) async fn ask(&self, writes: Vec<Write>) -> Result<(Value, Durability), StoreUnavailable> {
        self.ask_after(None, writes).await
    }

    async fn ask_after(
        &self,
        first: Option<&Semaphore>,
        writes: Vec<Write>,
    ) -> Result<(Value, Durability), StoreUnavailable> {
        let link = self.line.first_link_or_refuse().await?;
        if !writes.iter().any(|(key, _)| link.replicas(key) > 0) {
            let mut last = Value::Nil;
            for (key, pipeline) in pipelines(writes, &link) {
                last = self.line.call_all(&key, pipeline).await?.pop().unwrap_or(Value::Nil);
            }
            // In a cluster another master may have replicas.
            if matches!(link.conn, Conn::Node(_)) {
                self.note(None);
            }
            return Ok((last, Durability::Safely));
        }
        // The turn is waited for before the deadline begins: how long that takes says nothing of the store.
        let places = async {
            let first = match first {
                Some(room) => Some(room.acquire().await?),
                None => None,
            };
            Ok::<_, AcquireError>((first, self.room.acquire().await?))
        };
        let Ok(Ok(_places)) = tokio::time::timeout(self.wait * TURN, places).await else { return Err(too_many()) };
        // It may be another by now.
        let link = self.line.link_or_refuse()?;
        // Whoever has a place finds a lane: there are as many, and a lane is let go before the place.
        let Some(mut lane) = self.lanes.iter().find_map(|lane| lane.try_lock().ok()) else { return Err(too_many()) };
        let outcome = self.write_on(&mut lane, &link, &pipelines(writes, &link)).await;
        self.record(&link, outcome)
    }

    fn note(&self, failure: Option<Failure>) {
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// Writes on the lane's connection, or on a new one. If it was closed while it rested, writes on a new one, once: each of our scripts
    /// may be repeated.
    async fn write_on(
        &self,
        lane: &mut Option<Lane>,
        link: &Link,
        writes: &[(String, Pipeline)],
    ) -> RedisResult<(Value, Durability)> {
        // A connection is put back only after success: one that still waits, or failed, is dropped.
        let mut rested = lane.take().filter(|lane| lane.is_usable(link)).map(|lane| lane.conn);
        loop {
            let has_rested = rested.is_some();
            let mut conn = match rested.take() {
                Some(conn) => conn,
                None => self.open(link).await?,
            };
            match within(self.wait * 2 + TICK, self.write_all(&mut conn, link, writes)).await {
                Ok(written) => {
                    *lane = Some(Lane { conn, generation: link.generation, since: Instant::now() });
                    return Ok(written);
                }
                Err(error) if has_rested && error.is_connection_dropped() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes, and waits for replicas for as long as one call may take, all writes together.
    async fn write_all(
        &self,
        conn: &mut Conn,
        link: &Link,
        writes: &[(String, Pipeline)],
    ) -> RedisResult<(Value, Durability)> {
        let until = Instant::now() + self.wait;
        let (mut last, mut written) = (Value::Nil, Durability::Safely);
        for (key, pipeline) in writes {
            let (pipeline, replicas) = (pipeline.clone(), link.replicas(key));
            // Once a write is not confirmed, the others need not be: all count as one.
            let mut answers = if replicas > 0 && written == Durability::Safely {
                let left = until.saturating_duration_since(Instant::now()).max(WAIT_LEAST);
                // Ask all replicas: others choose the next master, by their state a second before. One confirmation is enough.
                let (answers, is_confirmed) = conn.run_all_and_wait(key, pipeline, replicas, left).await?;
                if !is_confirmed {
                    written = Durability::ByMasterOnly;
                }
                answers
            } else {
                conn.run_all(key, pipeline).await?
            };
            last = answers.pop().unwrap_or(Value::Nil);
        }
        Ok((last, written))
    }

    /// Records an outcome. A lane's connection that cannot be had, fails or is late says nothing of the link's, which is tested all the time:
    /// only what a server answers to a command counts there.
    fn record<T>(&self, link: &Link, outcome: RedisResult<T>) -> Result<T, StoreUnavailable> {
        let failure = |error| Failure { at: Instant::now(), generation: link.generation, why: describe(error) };
        self.note(outcome.as_ref().err().map(failure));
        match outcome {
            Err(error) if !matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) => {
                self.metrics.failed.inc();
                let why = describe(&error);
                tracing::debug!("a write that waits for replicas of the session store failed: {why}");
                Err(StoreUnavailable(why))
            }
            outcome => self.line.record_outcome(link, outcome),
        }
    }

    /// Opens a connection on the store's own runtime: a connection is driven where it was opened.
    async fn open(&self, link: &Link) -> RedisResult<Conn> {
        let (dialer, node) = (Arc::clone(&self.line.dialer), link.node.clone());
        let opened = self.runtime.spawn(async move {
            match node {
                Some(host) => dialer.node(&host).await,
                None => dialer.cluster().await,
            }
        });
        opened.await.unwrap_or_else(|_| Err(late()))
    }
}

impl Lane {
    fn is_usable(&self, link: &Link) -> bool {
        self.generation == link.generation && self.since.elapsed() < REST_MOST
    }
}

/// Our own lack of room, which counts as no failure of the store.
fn too_many() -> StoreUnavailable {
    StoreUnavailable("too many writes wait for replicas of the session store".to_owned())
}

/// A pipeline for each write; for a node, one for all.
fn pipelines(writes: Vec<Write>, link: &Link) -> Vec<(String, Pipeline)> {
    let is_node = matches!(link.conn, Conn::Node(_));
    let mut pipelines: Vec<(String, Pipeline)> = Vec::with_capacity(writes.len());
    for (key, commands) in writes {
        if !is_node || pipelines.is_empty() {
            pipelines.push((key, Pipeline::new()));
        }
        if let Some((_, pipeline)) = pipelines.last_mut() {
            for command in commands {
                pipeline.add_command(command);
            }
        }
    }
    pipelines
}
