//! Writes that wait for a replica. `WAIT` blocks its connection, and covers only that connection's writes: so these have their own.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Pipeline, Value};
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};

use super::dial::{Conn, late, within};
use super::line::{Line, Link};
use crate::ports::StoreUnavailable;

/// How many writes wait for replicas at a time; further ones wait for their turn.
const LANES: usize = 4;
/// How many of the store's timeouts a write waits for its turn: one before it takes about one of them where a replica is silent.
const TURN: u32 = 4;

/// Connections for writes that wait for replicas.
pub(super) struct Lanes {
    line: Arc<Line>,
    runtime: tokio::runtime::Handle,
    room: Semaphore,
    lanes: Vec<Mutex<Option<(u64, Conn)>>>,
    wait: Duration,
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
    pub(super) fn new(line: Arc<Line>, runtime: tokio::runtime::Handle) -> Self {
        let wait = line.dialer.timeout;
        let lanes = (0..LANES).map(|_| Mutex::new(None)).collect();
        Self { line, runtime, room: Semaphore::new(LANES), lanes, wait }
    }

    /// Writes in this order, and waits for a replica of each master that has any.
    pub(super) async fn write(&self, writes: Vec<Write>) -> Result<Durability, StoreUnavailable> {
        self.ask(writes).await.map(|(_, written)| written)
    }

    /// The same; also returns the reply to the last command.
    pub(super) async fn ask(&self, writes: Vec<Write>) -> Result<(Value, Durability), StoreUnavailable> {
        let link = self.line.first_link_or_refuse().await?;
        if !writes.iter().any(|(key, _)| link.replicas(key) > 0) {
            let mut last = Value::Nil;
            for (key, commands) in joined(writes, &link) {
                last = self.line.call_all(&key, pipeline(commands)).await?.pop().unwrap_or(Value::Nil);
            }
            return Ok((last, Durability::Safely));
        }
        // The turn is waited for before the deadline begins: how long that takes says nothing of the store.
        let _place = self.place().await?;
        // It may be another by now.
        let link = self.line.link_or_refuse()?;
        let outcome = within(self.wait * 2, async { Ok(self.write_and_wait(&link, writes).await) }).await;
        match outcome {
            Ok(outcome) => outcome,
            Err(error) => self.line.record_outcome(&link, Err(error)),
        }
    }

    /// Waits for a place among the writes that wait for replicas.
    async fn place(&self) -> Result<SemaphorePermit<'_>, StoreUnavailable> {
        match tokio::time::timeout(self.wait * TURN, self.room.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(too_many()),
        }
    }

    async fn write_and_wait(&self, link: &Link, writes: Vec<Write>) -> Result<(Value, Durability), StoreUnavailable> {
        // Whoever has a place finds a lane: there are as many, and a lane is let go before the place.
        let Some(mut lane) = self.lanes.iter().find_map(|lane| lane.try_lock().ok()) else { return Err(too_many()) };
        // A connection is put back only after success: one that still waits, or failed, is dropped.
        let mut conn = match lane.take() {
            Some((generation, conn)) if generation == link.generation => conn,
            Some(_) | None => match self.open(link).await {
                Ok(conn) => conn,
                Err(error) => return self.line.record_outcome(link, Err(error)),
            },
        };
        let (mut last, mut written) = (Value::Nil, Durability::Safely);
        for (key, commands) in joined(writes, link) {
            let replicas = link.replicas(&key);
            let pipeline = pipeline(commands);
            let outcome = if replicas > 0 {
                // Ask all replicas: others choose the next master, by their state a second before. One confirmation is enough.
                conn.run_all_and_wait(&key, pipeline, replicas, self.wait).await
            } else {
                conn.run_all(&key, pipeline).await.map(|answers| (answers, true))
            };
            let (mut answers, is_confirmed) = self.line.record_outcome(link, outcome)?;
            if !is_confirmed {
                written = Durability::ByMasterOnly;
            }
            last = answers.pop().unwrap_or(Value::Nil);
        }
        *lane = Some((link.generation, conn));
        Ok((last, written))
    }

    /// Opens a connection on the store's own runtime: a connection is driven where it was opened.
    async fn open(&self, link: &Link) -> redis::RedisResult<Conn> {
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

/// Our own lack of room, which counts as no failure of the store.
fn too_many() -> StoreUnavailable {
    StoreUnavailable("too many writes wait for replicas of the session store".to_owned())
}

/// For a node, joins all writes into one.
fn joined(writes: Vec<Write>, link: &Link) -> Vec<Write> {
    let mut writes = writes.into_iter();
    match (&link.conn, writes.next()) {
        (Conn::Node(_), Some((key, mut commands))) => {
            commands.extend(writes.flat_map(|(_, commands)| commands));
            vec![(key, commands)]
        }
        (Conn::Node(_), None) => Vec::new(),
        (Conn::Cluster(_), first) => first.into_iter().chain(writes).collect(),
    }
}

fn pipeline(commands: Vec<Cmd>) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(commands.len());
    for command in commands {
        pipeline.add_command(command);
    }
    pipeline
}
