//! Measures the orchestrator with many clusters: how long until all of their objects are to be seen, how much memory
//! that takes, and how long its pages take then.
//!
//! ```text
//! orchestrator demo-api (100 clusters, 20,000 objects) <- orchestrator <- questions
//! ```
//!
//! The two are processes of their own, so that the memory is that of the orchestrator alone.
#![expect(clippy::print_stdout, reason = "the figures are what it is for")]
#![expect(clippy::indexing_slicing, reason = "of JSON: reading what is not there gives null")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to read everything anew.
const READ_ANEW: Duration = Duration::from_secs(4);
/// How often each page is asked for.
const TIMES: usize = 25;

/// Measures the orchestrator with many simulated clusters.
#[derive(Parser)]
struct Options {
    /// How many clusters
    #[arg(long, default_value_t = 100)]
    clusters: usize,
    /// How many objects each has
    #[arg(long, default_value_t = 200)]
    objects: usize,
    /// How long a step of the clusters' life takes, in milliseconds; 0: nothing happens by itself
    #[arg(long, default_value_t = 0)]
    pace: u64,
    /// How long to watch what happens before measuring, in seconds
    #[arg(long, default_value_t = 5)]
    settle: u64,
    /// How often to have everything read anew
    #[arg(long, default_value_t = 3)]
    resyncs: usize,
    /// The program; by default that of the release build
    #[arg(long)]
    program: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = tokio::select! {
        outcome = run(&options) => outcome,
        // What was started is stopped as it is dropped.
        () = interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn interrupted() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        },
        Err(_) => std::future::pending().await,
    }
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let beside = std::env::current_exe()?.with_file_name("orchestrator");
    let program = options.program.clone().unwrap_or(beside);
    // It is started in another folder.
    let program =
        program.canonicalize().with_context(|| format!("there is no {}: build it first", program.display()))?;
    let folder = tempfile::tempdir().context("no temporary folder could be made")?;
    let (_simulator, kubeconfigs) = simulate(&program, options)?;
    let total = options.clusters * options.objects;

    let first = Orchestrator::start(&program, folder.path()).await?;
    for kubeconfig in &kubeconfigs {
        first.post("/api/v1/clusters", kubeconfig).await?;
    }
    first.until_all_are_seen(total).await?;
    drop(first);

    // What counts is a start with everything registered.
    let begun = Instant::now();
    let orchestrator = Orchestrator::start(&program, folder.path()).await?;
    let listening = begun.elapsed();
    orchestrator.until_all_are_seen(total).await?;
    let whole = begun.elapsed();
    println!("{} clusters, {total} objects", options.clusters);
    println!("listening after            {:>8} ms", listening.as_millis());
    println!("first full view after      {:>8} ms", whole.as_millis());
    println!("resident then              {:>8.1} MiB", orchestrator.memory("VmRSS")?);
    sleep(Duration::from_secs(options.settle)).await;
    println!("resident {:>2} s later       {:>8.1} MiB", options.settle, orchestrator.memory("VmRSS")?);
    pages(&orchestrator).await?;
    for round in 1..=options.resyncs {
        read_anew(&orchestrator, options.clusters, total).await?;
        println!("resident after resync {round:>2}    {:>8.1} MiB", orchestrator.memory("VmRSS")?);
    }
    println!("greatest of all            {:>8.1} MiB", orchestrator.memory("VmHWM")?);
    Ok(())
}

/// Has everything be read anew, and waits for it.
async fn read_anew(orchestrator: &Orchestrator, clusters: usize, total: usize) -> anyhow::Result<()> {
    let all = orchestrator.ask("/api/v1/clusters?limit=500").await?;
    let ids: Vec<&str> = all["items"].as_array().into_iter().flatten().filter_map(|one| one["id"].as_str()).collect();
    ensure!(ids.len() == clusters.min(500), "only {} clusters of {clusters} are listed", ids.len());
    for id in &ids {
        orchestrator.post(&format!("/api/v1/clusters/{id}/sync"), &json!({})).await?;
    }
    sleep(READ_ANEW).await;
    orchestrator.until_all_are_seen(total).await
}

async fn pages(orchestrator: &Orchestrator) -> anyhow::Result<()> {
    let clusters = orchestrator.ask("/api/v1/clusters?limit=1").await?;
    let id = clusters["items"][0]["id"].as_str().context("a cluster without an id")?.to_owned();
    let one = orchestrator.ask(&format!("/api/v1/resources?cluster={id}&kind=Kustomization&limit=1")).await?;
    let object = &one["items"][0];
    let (namespace, name) = (&object["namespace"], &object["name"]);
    let object = format!(
        "/api/v1/clusters/{id}/flux/Kustomization/{}/{}",
        namespace.as_str().unwrap_or_default(),
        name.as_str().unwrap_or_default()
    );
    let paths = [
        "/".to_owned(),
        "/api/v1/clusters?limit=100".to_owned(),
        "/api/v1/resources?limit=50".to_owned(),
        "/api/v1/resources?limit=500&offset=15000&sort=updated".to_owned(),
        "/api/v1/resources?q=cluster-07%20revision&limit=50".to_owned(),
        "/api/v1/resources?q=there-is-no-such-word&limit=50".to_owned(),
        format!("/api/v1/clusters/{id}/resources?limit=50"),
        format!("/api/v1/clusters/{id}/resources/tree"),
        format!("/api/v1/clusters/{id}/flux/stats"),
        object.clone(),
        format!("{object}/tree"),
        "/api/v1/activities?limit=50".to_owned(),
        "/metrics".to_owned(),
    ];
    println!("\n{:>9} {:>9} {:>9}  page", "median", "greatest", "KiB");
    for path in paths {
        let mut times = Vec::new();
        let mut size = 0;
        for _ in 0..TIMES {
            let asked = Instant::now();
            size = orchestrator.get(&path).await?.len();
            times.push(asked.elapsed());
        }
        times.sort_unstable();
        let median = times.get(TIMES / 2).copied().unwrap_or_default();
        let greatest = times.last().copied().unwrap_or_default();
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        println!("{:>6.1} ms {:>6.1} ms {:>9.1}  {path}", ms(median), ms(greatest), size as f64 / 1024.0);
    }
    println!();
    Ok(())
}

/// A process that ends with us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // What has ended already needs no ending.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn simulate(program: &Path, options: &Options) -> anyhow::Result<(Running, Vec<Value>)> {
    let mut child = Command::new(program)
        .arg("demo-api")
        .args(["--clusters", &options.clusters.to_string(), "--objects", &options.objects.to_string()])
        .args(["--pace", &options.pace.to_string()])
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("{} cannot be started: build it first", program.display()))?;
    let out = child.stdout.take().context("the simulator has no output")?;
    let running = Running(child);
    let lines = BufReader::new(out).lines().take(options.clusters);
    let kubeconfigs: Vec<Value> = lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect::<anyhow::Result<_>>()?;
    ensure!(kubeconfigs.len() == options.clusters, "the simulator ended early");
    Ok((running, kubeconfigs))
}

struct Orchestrator {
    addr: SocketAddr,
    running: Running,
}

impl Orchestrator {
    async fn start(program: &Path, folder: &Path) -> anyhow::Result<Self> {
        // Free a moment ago; nobody else takes ports here.
        let addr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let child = Command::new(program)
            .env_clear()
            .env("ORCHESTRATOR_LISTEN_ADDR", addr.to_string())
            .current_dir(folder)
            .stdin(Stdio::null())
            .stderr(fs::File::create(folder.join("log"))?)
            .spawn()?;
        let orchestrator = Self { addr, running: Running(child) };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(addr).await.is_err() {
            ensure!(Instant::now() < deadline, "the orchestrator does not listen: {}", last_lines(folder));
            sleep(Duration::from_millis(5)).await;
        }
        Ok(orchestrator)
    }

    async fn until_all_are_seen(&self, total: usize) -> anyhow::Result<()> {
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

    async fn ask(&self, path: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&self.get(path).await?)?)
    }

    async fn get(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        self.exchange(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Vec<u8>> {
        let body = json!(body).to_string();
        let length = body.len();
        let head = "Host: localhost\r\nConnection: close\r\nContent-Type: application/json";
        self.exchange(&format!("POST {path} HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}")).await
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
            bail!("{}: {}", String::from_utf8_lossy(&answer), String::from_utf8_lossy(&body));
        }
        Ok(body)
    }

    /// A line of `/proc/PID/status`, in MiB.
    fn memory(&self, line: &str) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.running.0.id()))
            .context("there is no /proc: this needs Linux")?;
        let found = status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
        let kib: f64 = found.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).context("no such line")?;
        Ok(kib / 1024.0)
    }
}

fn last_lines(folder: &Path) -> String {
    let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
    log.lines().rev().take(5).collect::<Vec<_>>().join(" | ")
}
