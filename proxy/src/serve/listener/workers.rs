//! Worker threads, each with its own runtime: a connection, its requests and their upstream connections stay on one thread, so that no
//! request wakes another thread.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};

use crate::adapters::net::next_turn;

/// The workers, which take connections in rotation.
pub(crate) struct Workers {
    handles: Vec<Handle>,
    next: AtomicUsize,
}

impl Workers {
    /// Starts one worker per processor. They end with the process.
    pub(crate) fn start() -> io::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let handles = (0..processors).map(|_| start_one()).collect::<io::Result<_>>()?;
        Ok(Self { handles, next: AtomicUsize::new(0) })
    }

    /// The next worker in rotation.
    pub(crate) fn next(&self) -> Option<&Handle> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        self.handles.get(turn % self.handles.len().max(1))
    }
}

fn start_one() -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().on_thread_unpark(next_turn).build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("sidegate-worker".to_owned())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}
