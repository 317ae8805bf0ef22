//! The measured programs, and requests to them.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(120);
/// The kernel reports hundredths of a second to every program on Linux (`USER_HZ`), whatever its own clock.
const TICK: Duration = Duration::from_millis(10);
/// The positions of user and system time in `/proc/PID/stat`, counted after the program's name.
const TIMES: std::ops::Range<usize> = 11..13;

/// A process that is stopped on drop.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Simulated clusters; they end on drop.
pub(crate) struct Simulator {
    _running: Running,
    /// The request body that registers each cluster.
    pub(crate) registrations: Vec<Value>,
}

impl Simulator {
    pub(crate) fn start(program: &Path, clusters: usize, arguments: &[(&str, String)]) -> anyhow::Result<Self> {
        let mut child = Command::new(program)
            .arg("demo-api")
            .args(["--clusters", &clusters.to_string()])
            .args(arguments.iter().flat_map(|(name, value)| [(*name).to_owned(), value.clone()]))
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("{} cannot be started: build it first", program.display()))?;
        let out = child.stdout.take().context("the simulator has no output")?;
        let running = Running(child);
        let lines = BufReader::new(out).lines().take(clusters);
        let registrations: Vec<Value> =
            lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect::<anyhow::Result<_>>()?;
        ensure!(registrations.len() == clusters, "the simulator ended early");
        Ok(Self { _running: running, registrations })
    }
}

/// A running orchestrator.
pub(crate) struct Orchestrator {
    addr: SocketAddr,
    running: Running,
    /// Its working folder, with its log.
    folder: PathBuf,
    /// The header line that identifies the requester.
    pub(crate) asker: String,
}

impl Orchestrator {
    pub(crate) async fn start(program: &Path, folder: &Path, settings: &[(&str, OsString)]) -> anyhow::Result<Self> {
        // The port was just free; nothing else takes ports here.
        let addr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let child = Command::new(program)
            .env_clear()
            .env("ORCHESTRATOR_LISTEN_ADDR", addr.to_string())
            .envs(settings.iter().map(|(name, value)| (*name, value)))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stderr(fs::File::create(folder.join("log"))?)
            .spawn()?;
        let (running, folder, asker) = (Running(child), folder.to_owned(), "X-Asked-By: bench".to_owned());
        let orchestrator = Self { addr, running, folder, asker };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(addr).await.is_err() {
            ensure!(
                Instant::now() < deadline,
                "the orchestrator does not listen: {}",
                last_lines(&orchestrator.folder)
            );
            sleep(Duration::from_millis(5)).await;
        }
        Ok(orchestrator)
    }

    pub(crate) async fn until_all_are_seen(&self, total: usize) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.ask("/api/v1/resources?limit=1").await?["total"].as_u64();
            if seen == u64::try_from(total).ok() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "only {seen:?} objects of {total} are to be seen");
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn ask(&self, path: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&self.get(path).await?)?)
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        self.get_as(path, &self.asker).await
    }

    /// Sends the request with this identity line.
    pub(crate) async fn get_as(&self, path: &str, asker: &str) -> anyhow::Result<Vec<u8>> {
        self.exchange(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{asker}\r\n\r\n")).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Vec<u8>> {
        let body = json!(body).to_string();
        let (length, asker) = (body.len(), &self.asker);
        let head = "Host: localhost\r\nConnection: close\r\nContent-Type: application/json";
        self.exchange(&format!("POST {path} HTTP/1.1\r\n{head}\r\n{asker}\r\nContent-Length: {length}\r\n\r\n{body}"))
            .await
    }

    async fn exchange(&self, request: &str) -> anyhow::Result<Vec<u8>> {
        let answer = async {
            let mut stream = TcpStream::connect(self.addr).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            anyhow::Ok(answer)
        };
        let mut answer = timeout(PATIENCE, answer).await.context("no answer came")??;
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").context("an answer without a head")?;
        let body = answer.split_off(end + 4);
        if !answer.starts_with(b"HTTP/1.1 2") {
            let (asked, said) = (request.lines().next().unwrap_or_default(), String::from_utf8_lossy(&body));
            bail!("{asked} was answered {}{said}; {}", String::from_utf8_lossy(&answer), last_lines(&self.folder));
        }
        Ok(body)
    }

    /// A value of `/proc/PID/status`, in MiB.
    pub(crate) fn memory(&self, line: &str) -> anyhow::Result<f64> {
        let status = self.proc("status")?;
        let found = status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
        let kib: f64 = found.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).context("no such line")?;
        Ok(kib / 1024.0)
    }

    /// User and system time so far, of all threads.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = self.proc("stat")?;
        let rest = stat.rsplit_once(')').context("/proc/PID/stat reads unlike proc(5)")?.1;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let times = fields.get(TIMES).context("/proc/PID/stat is too short")?;
        let ticks = times.iter().map(|field| field.parse::<u32>()).sum::<Result<u32, _>>()?;
        Ok(TICK * ticks)
    }

    fn proc(&self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.running.0.id());
        fs::read_to_string(path).context("there is no /proc: this needs Linux")
    }
}

fn last_lines(folder: &Path) -> String {
    let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
    log.lines().rev().take(5).collect::<Vec<_>>().join(" | ")
}
