//! Accepts connections while there is room for more.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::adapters::net::pipes_most;
use crate::adapters::telemetry::Held;
use crate::serve::app::App;
use crate::serve::listener::connection::{self, Purpose};
use crate::serve::listener::crowd::Crowd;
use crate::serve::listener::drain::Drain;
use crate::serve::listener::socket::{Accepted, Listener};
use crate::serve::listener::workers::Workers;
use crate::serve::settings::Limits;
use crate::serve::watch::{self, Place};

/// How long to wait for a place, or for memory, before connections are closed to make room.
const PLACE_PAUSE: Duration = Duration::from_millis(50);
const ROOM_PAUSE: Duration = Duration::from_millis(5);
/// After how many pauses in which no connection could be closed the log says so.
const IN_VAIN_MOST: u32 = 40;

/// How long who has connected before the stop waits for a place.
const LAST_PLACE: Duration = Duration::from_secs(5);

/// Open files other than connections of clients and to the upstream: listeners, store, provider, probes, files that are read.
const FILES_BESIDE: u64 = 160;

/// How long the accept loop pauses when the system has no file descriptor left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// How many connections are open at a time: `LIMIT_CONNECTIONS`, or what open files and memory allow. Each may need an upstream
/// connection as well, and half of the memory is for what they carry.
pub(crate) fn places(limits: &Limits, files: Option<u64>, memory: Option<usize>) -> usize {
    let by_files = files.map_or(usize::MAX, |files| {
        let beside = FILES_BESIDE + 2 * pipes_most(Some(files)) as u64;
        let left = files.saturating_sub(beside).max(files / 2) / 2;
        usize::try_from(left).unwrap_or(usize::MAX)
    });
    let by_memory = memory.map_or(usize::MAX, |bytes| bytes / 2 / watch::CONNECTION);
    let places = limits.connections.min(by_files).min(by_memory).max(1);
    if places < limits.connections {
        let (why, fix) = if by_files <= by_memory {
            ("so many files may be open", "raise the limit of open files (ulimit -Hn, LimitNOFILE)")
        } else {
            ("so much memory there is (LIMIT_MEMORY)", "give it more memory")
        };
        tracing::warn!(
            "LIMIT_CONNECTIONS is {}, but only {places} connections are taken at a time, because only {why}: {fix}, or lower LIMIT_CONNECTIONS",
            limits.connections
        );
    }
    places
}

/// Accepts connections, and gives each to a worker.
pub(crate) struct Acceptor {
    pub(crate) app: Arc<App>,
    pub(crate) purpose: Purpose,
    pub(crate) connections: TaskTracker,
    pub(crate) drain: Drain,
    pub(crate) room: Arc<Semaphore>,
    pub(crate) crowd: Arc<Crowd>,
    pub(crate) workers: Arc<Workers>,
}

impl Acceptor {
    pub(crate) async fn run(&self, listener: Listener, stop: &CancellationToken) {
        loop {
            let next = async {
                // Before the accept, not after: connections beyond the limit wait in the kernel's queue.
                let room = self.place().await?;
                Some((listener.accept().await, room))
            };
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                next = next => next,
            };
            let Some((accepted, room)) = next else { return };
            self.take(accepted, room).await;
        }
        if let Err(error) = self.run_dry(listener).await {
            tracing::warn!("who had just connected could not be served: {error}");
        }
    }

    /// A place for one more connection, with memory for it. If there is none, connections that were silent for long are closed.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        let mut in_vain = 0;
        let place = loop {
            match tokio::time::timeout(PLACE_PAUSE, Arc::clone(&self.room).acquire_owned()).await {
                Ok(place) => break place.ok()?,
                Err(_) if self.crowd.make_places() => in_vain = 0,
                Err(_) => in_vain += 1,
            }
            if in_vain == IN_VAIN_MOST {
                self.crowd.warn_of_waiting();
            }
        };
        while !self.crowd.memory().has_room(watch::CONNECTION) {
            self.crowd.make_room();
            tokio::time::sleep(ROOM_PAUSE).await;
        }
        Some(place)
    }

    /// Serves clients that have already connected: reads the kernel's queue directly, since the runtime may not have been notified yet.
    /// Where they wait in vain for a place, the listener closes, so that they and others go elsewhere.
    async fn run_dry(&self, listener: Listener) -> io::Result<()> {
        let listener = listener.into_blocking()?;
        loop {
            let Ok(Some(room)) = tokio::time::timeout(LAST_PLACE, self.place()).await else { return Ok(()) };
            let Some(accepted) = listener.accept() else { return Ok(()) };
            self.take(accepted, room).await;
        }
    }

    async fn take(&self, accepted: io::Result<Accepted>, room: OwnedSemaphorePermit) {
        match accepted {
            Ok(stream) => self.serve(stream, room),
            Err(error) if is_one_connections_own(&error) => {}
            Err(error) => {
                tracing::error!("connections cannot be accepted: {error}; check the limit of open files (ulimit -n)");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }

    fn serve(&self, accepted: Accepted, room: OwnedSemaphorePermit) {
        let place = Place::new(room, Held::by(&self.app.metrics.downstream_connections));
        let (app, crowd) = (Arc::clone(&self.app), Arc::clone(&self.crowd));
        let connection = connection::serve(accepted, self.purpose.clone(), app, crowd, self.drain.clone(), place);
        match self.workers.next() {
            Some(worker) => self.connections.spawn_on(connection, worker),
            None => self.connections.spawn(connection),
        };
    }
}

/// Errors of `accept` that concern one connection, not the listener.
fn is_one_connections_own(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_open_files_and_memory() {
        let limits = Limits { header_bytes: 65536, connections: 10_000, memory: None };
        assert_eq!(places(&limits, None, None), 10_000);
        assert_eq!(places(&limits, Some(1 << 20), None), 10_000);
        assert_eq!(places(&limits, Some(1024), None), 432, "half is for the upstream, some for the rest");
        assert_eq!(places(&limits, Some(4096), None), 1904, "and some for pipes");
        assert_eq!(places(&limits, Some(64), None), 16);
        assert_eq!(places(&limits, Some(1), None), 1);
        assert_eq!(places(&limits, None, Some(192 << 20)), 6144);
        assert_eq!(places(&Limits { connections: 20, ..limits }, Some(1024), Some(192 << 20)), 20);
    }
}
