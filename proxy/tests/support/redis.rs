//! Real Redis servers, started and stopped by the test, on loopback.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{PATIENCE, until};

/// The password of the sentinels.
pub const SENTINEL_PASSWORD: &str = "hush-hush";

/// One server; killed on drop.
pub struct Redis {
    child: Option<Child>,
    pub port: u16,
    program: &'static str,
    arguments: Vec<String>,
    folder: TempDir,
}

/// Whether the tests with Redis can run here. Where CI is set they must.
#[expect(clippy::disallowed_methods, reason = "whether it is CI is for the environment to say")]
pub fn is_installed() -> bool {
    let found = ["redis-server", "redis-sentinel"].iter().all(|program| {
        Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    });
    assert!(found || std::env::var_os("CI").is_none(), "redis-server is missing: run scripts/install-test-tools");
    if !found {
        eprintln!("SKIPPED the tests with Redis: redis-server is missing: run scripts/install-test-tools");
    }
    found
}

/// A port that was just free, below the system's ephemeral ports, along with the one 10000 above it (a cluster's bus).
pub fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(10_000..22_000);
        let free = |port: u16| TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).is_ok();
        if free(port) && free(port + 10_000) {
            return port;
        }
    }
}

impl Redis {
    /// A server without persistence.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with further arguments.
    pub async fn start_with(more: &[&str]) -> Self {
        Self::start_on(&["--port"], more).await
    }

    /// A replica of it, once it follows.
    pub async fn replica(&self) -> Self {
        let replica = Self::start_with(&["--replicaof", "127.0.0.1", &self.port.to_string()]).await;
        until("the replica follows", async || self.info("replication").await.contains("state=online")).await;
        replica
    }

    /// One with TLS only.
    pub async fn start_with_tls(more: &[&str]) -> Self {
        Self::start_on(&["--port", "0", "--tls-port"], more).await
    }

    async fn start_on(port_option: &[&str], more: &[&str]) -> Self {
        let (port, folder) = (free_port(), TempDir::new().unwrap());
        let port_text = port.to_string();
        let base =
            [&port_text, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"];
        let arguments = port_option.iter().chain(&base).chain(more).map(|text| (*text).to_owned()).collect();
        let mut server = Self { child: None, port, program: "redis-server", arguments, folder };
        server.launch().await;
        server
    }

    /// A sentinel that watches `master`.
    pub async fn sentinel(master: u16, quorum: usize) -> Self {
        let port = free_port();
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 {master} {quorum}\n\
             requirepass {SENTINEL_PASSWORD}\nsentinel sentinel-pass {SENTINEL_PASSWORD}\n\
             sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 3000\n"
        );
        std::fs::write(&file, text).unwrap();
        let arguments = vec![file.to_str().unwrap().to_owned()];
        let mut server = Self { child: None, port, program: "redis-sentinel", arguments, folder };
        server.launch().await;
        server
    }

    /// Starts it, also after a stop, on the same port.
    pub async fn launch(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let mut command = Command::new(self.program);
        command.args(&self.arguments).current_dir(self.folder.path());
        self.child = Some(command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null()).spawn().unwrap());
        let port = self.port;
        until("Redis listens", async || TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
    }

    pub fn url(&self) -> String {
        let password = if self.program == "redis-sentinel" { format!(":{SENTINEL_PASSWORD}@") } else { String::new() };
        format!("redis://{password}127.0.0.1:{}", self.port)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends `signal` (`STOP`, `CONT`).
    pub fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().expect("it was killed").id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
    }

    /// The text of `INFO section`.
    pub async fn info(&self, section: &str) -> String {
        let answer = self.ask(&["INFO", section]).await;
        answer.and_then(|answer| redis::from_redis_value(answer).ok()).unwrap_or_default()
    }

    /// Sends it a command; `None` if it does not answer.
    pub async fn ask(&self, words: &[&str]) -> Option<redis::Value> {
        ask(&self.url(), words).await
    }
}

/// Sends a server a command.
pub async fn ask(url: &str, words: &[&str]) -> Option<redis::Value> {
    let asked = async {
        let client = redis::Client::open(url).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.ok()?;
        let mut cmd = redis::cmd(words[0]);
        cmd.arg(&words[1..]);
        cmd.query_async(&mut connection).await.ok()
    };
    tokio::time::timeout(PATIENCE, asked).await.ok().flatten()
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
