//! Opens the database: its file or server, its tables, and the keys for its sealed values.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use sqlx::any::AnyPoolOptions;
use sqlx::migrate::MigrateError;
use sqlx::{AnyConnection, AnyPool, Connection as _, Executor as _};

use super::seal::Sealer;
use super::{Inner, Key, KeyFileError, PATIENCE, SealError, Store, key_file, migrations};
use crate::files;
use crate::secret::Secret;

const READERS: u32 = 4;
const POSTGRES_CONNECTIONS: u32 = 8;
/// How long to wait for a PostgreSQL that does not respond yet: it may start at the same time as this program.
const START: Duration = Duration::from_secs(30);
const BETWEEN_TRIES: Duration = Duration::from_millis(500);

/// Where the database is.
#[derive(Clone, Debug)]
pub enum Location {
    /// In memory, lost when the program ends.
    Memory,
    /// An SQLite file; it and its directory are created if they are missing.
    Sqlite(PathBuf),
    /// A PostgreSQL server: its URL, which may hold a password.
    Postgres(Secret),
}

/// Why the database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be created.
    #[error(
        "cannot open the database {}: give the directory to this program's user, or name another with \
         DATABASE_URL=sqlite:///path/to/orchestrator.db",
        .path.display()
    )]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The database refuses the connection.
    #[error("cannot open the database: is DATABASE_URL right, and its server reachable from here?")]
    Connect(#[source] sqlx::Error),
    /// The tables are those of a newer version.
    #[error("the database was written by a newer orchestrator: run that version, or restore a backup from before it")]
    Newer,
    /// The tables could not be created.
    #[error("cannot prepare the tables of the database: this program's user needs to own them")]
    Migrate(#[source] MigrateError),
    /// There is no key.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// A key is needed and none is given.
    #[error("with PostgreSQL, ENCRYPTION_KEY must be set: 32 bytes, for example of `openssl rand -base64 32`")]
    NoKey,
    /// The keys cannot be used.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl Store {
    /// Opens the database, creates or upgrades its tables, and takes `keys` (the first seals, all open). Without keys, SQLite
    /// uses a key file beside it, and memory a random key.
    ///
    /// # Errors
    /// What is wrong, and a remedy.
    pub async fn open(location: &Location, keys: &[Key]) -> Result<Self, OpenError> {
        sqlx::any::install_default_drivers();
        let (reading, writing) = match location {
            Location::Memory => memory().await?,
            Location::Sqlite(path) => sqlite(path).await?,
            Location::Postgres(url) => postgres(url).await?,
        };
        let sealer = match (location, keys) {
            (Location::Memory, []) => Sealer::new(&Key::random()?, &[])?,
            (Location::Sqlite(path), keys) => beside(path, keys, &reading).await?,
            (Location::Postgres(_), []) => return Err(OpenError::NoKey),
            (Location::Memory | Location::Postgres(_), [first, others @ ..]) => Sealer::new(first, others)?,
        };
        Ok(Self(Arc::new(Inner { reading, writing, sealer })))
    }
}

async fn memory() -> Result<(AnyPool, AnyPool), OpenError> {
    // One connection that never closes: the data would be lost with it.
    let only = options().max_connections(1).idle_timeout(None).max_lifetime(None);
    let pool = only.connect("sqlite::memory:").await.map_err(OpenError::Connect)?;
    migrations::all().run(&pool).await.map_err(tables)?;
    Ok((pool.clone(), pool))
}

async fn sqlite(path: &Path) -> Result<(AnyPool, AnyPool), OpenError> {
    make_file(path).map_err(|source| OpenError::File { path: path.into(), source })?;
    let path = percent_encode(path.as_os_str().as_encoded_bytes(), NON_ALPHANUMERIC);
    let url = format!("sqlite://{path}?mode=rw");
    // Losing a record of an action is worse than an fsync; there are few.
    let writing = with_pragmas(options().max_connections(1), "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;");
    let writing = writing.connect(&url).await.map_err(OpenError::Connect)?;
    migrations::all().run(&writing).await.map_err(tables)?;
    let reading = with_pragmas(options().max_connections(READERS), "PRAGMA query_only = ON;");
    let reading = reading.connect(&url).await.map_err(OpenError::Connect)?;
    Ok((reading, writing))
}

async fn postgres(url: &Secret) -> Result<(AnyPool, AnyPool), OpenError> {
    let mut connection = first_connection(url).await?;
    migrations::all().run(&mut connection).await.map_err(tables)?;
    let _ = connection.close().await;
    // The server times out as well, so that it does not work on without a client.
    let pool = options().max_connections(POSTGRES_CONNECTIONS).after_connect(|connection, _| {
        Box::pin(async move {
            connection.execute("SET statement_timeout = '10s'").await?;
            Ok(())
        })
    });
    let pool = pool.connect(url.expose()).await.map_err(OpenError::Connect)?;
    Ok((pool.clone(), pool))
}

/// Waits for a server that is still starting, but not for one that refuses.
async fn first_connection(url: &Secret) -> Result<AnyConnection, OpenError> {
    let deadline = tokio::time::Instant::now() + START;
    loop {
        match tokio::time::timeout(PATIENCE, AnyConnection::connect(url.expose())).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) if !starting(&error) || tokio::time::Instant::now() > deadline => {
                return Err(OpenError::Connect(error));
            }
            Err(_) if tokio::time::Instant::now() > deadline => {
                return Err(OpenError::Connect(sqlx::Error::PoolTimedOut));
            }
            Ok(Err(error)) => tracing::warn!(%error, "the database does not answer yet; trying again"),
            Err(_) => tracing::warn!("the database does not answer yet; trying again"),
        }
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
}

// 57P03: "the database system is starting up".
fn starting(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(_))
        || error.as_database_error().is_some_and(|refusal| refusal.code().as_deref() == Some("57P03"))
}

fn options() -> AnyPoolOptions {
    AnyPoolOptions::new().acquire_timeout(PATIENCE)
}

/// SQLite's settings apply to each connection separately.
fn with_pragmas(options: AnyPoolOptions, more: &'static str) -> AnyPoolOptions {
    options.after_connect(move |connection, _| {
        Box::pin(async move {
            connection
                .execute("PRAGMA busy_timeout = 5000; PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY;")
                .await?;
            connection.execute(more).await?;
            Ok(())
        })
    })
}

fn make_file(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    // SQLite gives its other files the mode of this one.
    files::create_missing(path)
}

/// The keys given, and the one in the file beside the database, which is created if there is neither.
async fn beside(database: &Path, keys: &[Key], reading: &AnyPool) -> Result<Sealer, OpenError> {
    let path = key_file::path_beside(database);
    let in_file = key_file::read(&path)?;
    if let [first, others @ ..] = keys {
        let others: Vec<Key> = others.iter().cloned().chain(in_file).collect();
        return Ok(Sealer::new(first, &others)?);
    }
    if let Some(key) = in_file {
        return Ok(Sealer::new(&key, &[])?);
    }
    let sealed: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM clusters WHERE kubeconfig IS NOT NULL")
        .fetch_one(reading)
        .await
        .map_err(OpenError::Connect)?;
    if sealed > 0 {
        return Err(KeyFileError::Gone { path }.into());
    }
    Ok(Sealer::new(&key_file::make(&path)?, &[])?)
}

fn tables(error: MigrateError) -> OpenError {
    if let MigrateError::VersionMissing(_) = error { OpenError::Newer } else { OpenError::Migrate(error) }
}
