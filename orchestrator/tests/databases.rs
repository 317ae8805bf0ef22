//! Databases for tests: an SQLite file of one's own, or a database of one's own on a PostgreSQL that all tests share.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use orchestrator::secret::Secret;
use orchestrator::store::{KEY_LEN, Key, Location, Store};
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _, Executor as _};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
/// Nobody: PostgreSQL does not run as root.
const NOBODY: u32 = 65534;

/// The same tests on both databases: `sqlite::the_test` and `postgres::the_test`.
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test] async fn $test() { super::$test(&$crate::databases::Database::sqlite()).await; })+
        }
        mod postgres {
            $(#[tokio::test] async fn $test() {
                if let Some(database) = $crate::databases::Database::postgres().await { super::$test(&database).await; }
            })+
        }
    };
}
pub(crate) use on_both;

/// A database that nobody else uses.
pub(crate) struct Database {
    pub(crate) location: Location,
    folder: Option<TempDir>,
}

impl Database {
    pub(crate) fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Not there yet: the store has to make it.
        let location = Location::Sqlite(folder.path().join("data/orchestrator.db"));
        Self { location, folder: Some(folder) }
    }

    /// `None`, with a word on it, where PostgreSQL is not installed.
    pub(crate) async fn postgres() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let server = tokio::task::spawn_blocking(Server::shared).await.unwrap()?;
        let mut connection = server.connect("postgres").await;
        connection.execute(AssertSqlSafe(format!("CREATE DATABASE {name} STRATEGY file_copy"))).await.unwrap();
        connection.close().await.unwrap();
        Some(Self { location: Location::Postgres(Secret::new(server.url(&name))), folder: None })
    }

    pub(crate) async fn open(&self) -> Store {
        self.open_with(&[key(1)]).await
    }

    pub(crate) async fn open_with(&self, keys: &[Key]) -> Store {
        Store::open(&self.location, keys).await.unwrap()
    }

    /// The value of `DATABASE_URL`.
    pub(crate) fn url(&self) -> String {
        match &self.location {
            Location::Memory => "sqlite::memory:".into(),
            Location::Sqlite(path) => format!("sqlite://{}", path.display()),
            Location::Postgres(url) => url.expose().into(),
        }
    }

    pub(crate) async fn connect(&self) -> AnyConnection {
        AnyConnection::connect(&self.url()).await.unwrap()
    }

    /// Whether `text` stands anywhere in the database's files.
    pub(crate) async fn files_hold(&self, text: &str) -> bool {
        match &self.folder {
            Some(folder) => holds(folder.path(), text.as_bytes()),
            None => {
                self.connect().await.execute("CHECKPOINT").await.unwrap();
                holds(&Server::shared().unwrap().folder.join("data"), text.as_bytes())
            }
        }
    }
}

pub(crate) fn key(byte: u8) -> Key {
    Key::new(&[byte; KEY_LEN]).unwrap()
}

fn holds(path: &Path, text: &[u8]) -> bool {
    if path.is_dir() {
        return std::fs::read_dir(path).unwrap().any(|entry| holds(&entry.unwrap().path(), text));
    }
    // A file of a running server may go between the listing and the reading.
    path.is_file() && std::fs::read(path).is_ok_and(|bytes| memchr::memmem::find(&bytes, text).is_some())
}

/// The shared PostgreSQL; it listens on a socket only, and ends with this program however that ends.
struct Server {
    folder: PathBuf,
}

impl Server {
    fn shared() -> Option<&'static Self> {
        static SERVER: OnceLock<Option<Server>> = OnceLock::new();
        SERVER.get_or_init(Self::start).as_ref()
    }

    fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            let reason = "PostgreSQL is not installed: run scripts/install-test-tools";
            assert!(variable("CI").is_empty(), "{reason}");
            let _ = writeln!(std::io::stderr(), "SKIPPED the tests with PostgreSQL: {reason}");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("pg-").tempdir_in("/tmp").unwrap().keep();
        let root = std::fs::metadata(&folder).unwrap().uid() == 0;
        if root {
            chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let as_user = |command: &mut Command| {
            command
                .current_dir(&folder)
                .env("PATH", std::env::join_paths([&programs, Path::new("/usr/bin"), Path::new("/bin")]).unwrap());
            if root {
                command.uid(NOBODY).gid(NOBODY);
            }
        };
        let mut made = Command::new("initdb");
        made.args(["-D", "data", "-U", "test", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        as_user(&mut made);
        let made = made.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

        // The shell sees the end of its input when this program ends, and takes the server with it.
        let script = "postgres -D data -k \"$PWD\" -c listen_addresses= -c fsync=off -c max_connections=200 >log 2>&1 & \
                      cat >/dev/null; kill -INT $!; wait; rm -rf \"$PWD\"";
        let mut server = Command::new("sh");
        server.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        as_user(&mut server);
        std::mem::forget(server.spawn().unwrap().stdin.take().unwrap());

        let server = Self { folder };
        let deadline = Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(server.folder.join(".s.PGSQL.5432")).is_err() {
            assert!(Instant::now() < deadline, "{:?}", std::fs::read_to_string(server.folder.join("log")));
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(server)
    }

    fn url(&self, database: &str) -> String {
        format!("postgres:///{database}?host={}&user=test", self.folder.display())
    }

    async fn connect(&self, database: &str) -> AnyConnection {
        sqlx::any::install_default_drivers();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match AnyConnection::connect(&self.url(database)).await {
                Ok(connection) => return connection,
                // Its socket is there before it takes anybody in.
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Debian keeps them out of the PATH.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok().into_iter().flatten().flatten();
    let debian = versions.map(|version| version.path().join("bin"));
    let path = variable("PATH");
    debian.chain(std::env::split_paths(&path)).find(|folder| folder.join("initdb").is_file())
}

#[expect(clippy::disallowed_methods, reason = "where the tests run, not what they test")]
fn variable(name: &str) -> std::ffi::OsString {
    std::env::var_os(name).unwrap_or_default()
}
