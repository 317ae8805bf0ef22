//! Accept, serve under limits, and end without dropping a request.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The limits for clients.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a connection may take to send a request's head, and how long it may stay idle before the next one: longer than
    /// a proxy keeps an idle connection, so that the proxy closes first. Default 120 s.
    pub header_read: Duration,
    /// The most open connections; more wait to be accepted. Default 1,024.
    pub connections: usize,
    /// How long requests in flight may take to finish after shutdown begins. Default 30 s.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { header_read: Duration::from_secs(120), connections: 1024, drain: Duration::from_secs(30) }
    }
}

/// Raises the limit of open files to the highest that this process may have: each kind of each cluster is watched over a
/// connection of its own, and many systems start with 1,024 files.
pub fn raise_open_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

/// Binds the address to listen on.
///
/// # Errors
/// One line that names the cause and a remedy.
pub async fn bind(addr: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(addr).await.map_err(|source| {
        let kind = source.kind();
        if kind == io::ErrorKind::AddrInUse {
            BindError::Taken { addr }
        } else if kind == io::ErrorKind::PermissionDenied {
            BindError::Privileged { addr }
        } else {
            BindError::Other { addr, source }
        }
    })
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another program listens on it.
    #[error(
        "cannot listen on {addr}: another program does already. Stop it, or choose another port with --listen or \
         ORCHESTRATOR_LISTEN_ADDR"
    )]
    Taken {
        /// The address that was asked for.
        addr: SocketAddr,
    },
    /// The system reserves it for privileged programs.
    #[error(
        "cannot listen on {addr}: the system does not allow it. Choose a port above 1023 with --listen or \
         ORCHESTRATOR_LISTEN_ADDR"
    )]
    Privileged {
        /// The address that was asked for.
        addr: SocketAddr,
    },
    /// The system refuses for another reason, such as an address that no interface has.
    #[error("cannot listen on {addr}: choose an address of this machine with --listen or ORCHESTRATOR_LISTEN_ADDR")]
    Other {
        /// The address that was asked for.
        addr: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
}

/// Serves until `stop` completes, then lets the requests in flight finish.
///
/// HTTP/1.1 only: the proxy in front speaks it, and hyper's version detection would wait without a deadline.
pub async fn run(listener: TcpListener, routes: Router, limits: Limits, stop: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let tracker = TaskTracker::new();
    let ending = CancellationToken::new();
    let mut stop = pin!(stop);

    while let Some((stream, place)) = tokio::select! {
        () = &mut stop => None,
        accepted = accept(&listener, &places) => accepted,
    } {
        let connection = connection(stream, routes.clone(), limits, ending.clone());
        tracker.spawn(async move {
            connection.await;
            drop(place);
        });
    }

    drop(listener);
    ending.cancel();
    tracker.close();
    if tokio::time::timeout(limits.drain, tracker.wait()).await.is_err() {
        tracing::warn!(connections = tracker.len(), "requests were still in flight at the end of the drain");
    }
}

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return Some((stream, place)),
            // Most likely out of file descriptors: without a pause this loop would use a whole core.
            Err(error) => {
                tracing::error!(%error, "cannot accept a connection; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, routes: Router, limits: Limits, ending: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot switch Nagle's algorithm off");
    }
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .with_upgrades();
    let mut served = pin!(served);
    let outcome = tokio::select! {
        outcome = &mut served => outcome,
        () = ending.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection ended early");
    }
}
