//! What survives a restart: clusters, settings and activities, in SQLite or PostgreSQL, with the same statements.
//!
//! SQLite has one connection for writing and several for reading, since it allows one writer at a time.

mod activities;
mod clusters;
mod key_file;
mod migrations;
mod open;
mod retention;
mod seal;
mod settings;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sqlx::AnyPool;

pub use activities::{Activity, Filter, Mark, NewActivity, Outcome};
pub use clusters::{CLUSTERS_MOST, Cluster, Connection};
pub use key_file::KeyFileError;
pub use open::{Location, OpenError};
use seal::random;
pub use seal::{KEY_LEN, Key, SealError};
pub use settings::Settings;

/// How long the database may take to respond.
const PATIENCE: Duration = Duration::from_secs(10);

/// The open database. Clones share the same connections.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    reading: AnyPool,
    writing: AnyPool,
    sealer: seal::Sealer,
}

/// Why an operation of the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It took too long.
    #[error("the database did not answer within {} s", PATIENCE.as_secs())]
    TimedOut,
    /// The database, or the connection to it, failed.
    #[error("the database failed")]
    Database(#[source] sqlx::Error),
    /// Another cluster has the name.
    #[error("another cluster has this name")]
    NameTaken,
    /// The limit of clusters is reached.
    #[error("there are {CLUSTERS_MOST} clusters, which is the most: remove one first")]
    TooManyClusters,
    /// The cluster that the program runs in is registered already, under this name.
    #[error(
        "the cluster that the orchestrator runs in is registered already, as `{0}`: rename or change that one instead of \
         registering it again"
    )]
    InClusterTaken(String),
    /// There is no such row.
    #[error("there is no such entry")]
    NotFound,
    /// A kubeconfig could not be sealed or opened.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The database holds a value that this program does not write.
    #[error("the database holds a value that this program does not write: {0}")]
    UnknownValue(&'static str),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl Store {
    /// Checks that the database responds.
    ///
    /// # Errors
    /// [`StoreError::TimedOut`] or [`StoreError::Database`].
    pub async fn ping(&self) -> Result<(), StoreError> {
        within(sqlx::query("SELECT 1").execute(&self.0.reading)).await?;
        Ok(())
    }

    /// Closes all connections, once their current work is done.
    pub async fn close(&self) {
        self.0.reading.close().await;
        self.0.writing.close().await;
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

async fn within<T>(query: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
    Ok(tokio::time::timeout(PATIENCE, query).await.map_err(|_| StoreError::TimedOut)??)
}

/// A random 128-bit id, in hex.
///
/// # Errors
/// [`SealError::Crypto`] where the system has no randomness.
pub fn new_id() -> Result<String, SealError> {
    Ok(format!("{:032x}", u128::from_be_bytes(random()?)))
}
