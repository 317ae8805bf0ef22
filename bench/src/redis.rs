//! A private Redis server on loopback, without persistence.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::ensure;
use sidegate::adapters::stores::redis::{Host, Layout, RedisPlace, RedisSettings};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::nginx;

/// The time limit for starting it.
const START_LIMIT: Duration = Duration::from_secs(10);

/// A running server; dropping it stops it.
pub(crate) struct RedisServer {
    process: Child,
    _folder: TempDir,
    port: u16,
}

impl RedisServer {
    /// Starts one; `None` if the program is not installed.
    pub(crate) async fn start() -> anyhow::Result<Option<Self>> {
        let (port, folder) = (nginx::free_port()?, tempfile::tempdir()?);
        let process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let process = match process {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            process => process?,
        };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            ensure!(began.elapsed() < START_LIMIT, "redis-server does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Some(Self { process, _folder: folder, port }))
    }

    /// Stops it, and waits until it has ended.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        Ok(self.process.kill().await?)
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The settings of a store there, with a session cache of this size.
    pub(crate) fn settings(&self, memory_bytes: u64) -> RedisSettings {
        RedisSettings {
            place: RedisPlace {
                layout: Layout::Single,
                hosts: vec![Host { name: "127.0.0.1".to_owned(), port: self.port }],
                tls: false,
                user: None,
                password: None,
                database: 0,
            },
            prefix: "bench:".to_owned(),
            roots: Vec::new(),
            timeout: Duration::from_millis(250),
            cache_ttl: Duration::from_secs(10),
            memory_bytes,
        }
    }
}
