//! The proxy under test: started, and signed in through the development provider.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use dev_idp::DevIdp;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::options::Protocol;
use crate::people::{self, CLIENT_ID, CLIENT_SECRET, Door};
use crate::wire::{Address, Certificate};
use crate::{cpu, http, nginx};

/// The key for sealing sessions in the stores `jwt` and `redis`.
const SECRET: &str = "c2VjcmV0LW9mLXRoZS1iZW5jaC1hbmQtb2Ytbm90aGluZy1lbHNl";

/// The proxy's default limit of connections.
pub(crate) const CONNECTIONS: usize = 10_000;

/// The time limit for starting the proxy.
const START_LIMIT: Duration = Duration::from_secs(10);

/// The time limit for stopping it; then it is killed.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Where the proxy keeps its sessions.
#[derive(Clone)]
pub(crate) enum Store {
    Memory,
    Jwt,
    /// The server's URL.
    Redis(String),
}

/// The settings of a proxy.
pub(crate) struct Setup<'a> {
    pub(crate) upstream: u16,
    pub(crate) threads: usize,
    pub(crate) folder: &'a Path,
    pub(crate) rules: usize,
    /// How many people are signed in, each with a session.
    pub(crate) people: usize,
    pub(crate) store: Store,
    /// The limit for the sessions in its memory, in bytes, where it is another than its own.
    pub(crate) session_memory: Option<u64>,
    /// The limit of connections.
    pub(crate) connections: usize,
    /// Whether it is started anew after the sign-ins, where its store outlives it: a replica that has not seen these sessions.
    pub(crate) anew: bool,
    /// With a certificate, the proxy terminates TLS.
    pub(crate) certificate: Option<&'a Certificate>,
    pub(crate) protocol: Protocol,
}

/// A running proxy, and sessions on it; dropping it stops it.
pub(crate) struct Sidegate {
    name: String,
    process: Child,
    provider: Arc<DevIdp>,
    pid: u32,
    log: PathBuf,
    /// For the measured requests.
    address: Address,
    door: Door,
    cookies: Vec<String>,
}

impl Sidegate {
    /// Starts the program with the settings of a typical sidecar, and signs people in.
    pub(crate) async fn start(name: String, program: &Path, setup: Setup<'_>) -> anyhow::Result<Self> {
        let Setup { folder, people, certificate, protocol, .. } = setup;
        ensure!(program.is_file(), "there is no {}: cargo build --release -p sidegate", program.display());
        let port = nginx::free_port()?;
        // Sign-in uses HTTP/1.1.
        let spoken = if certificate.is_some() { Protocol::Tls } else { Protocol::Http1 };
        let browser = Address::new(port, spoken, certificate)?;
        let redirect_url = format!("{}/api/v1/auth/callback", browser.origin());
        let provider = people::provider(&redirect_url, people).await?;
        let log = folder.join(format!("{name}.log"));
        let launched =
            Launched { name: &name, program, port, redirect_url: &redirect_url, provider: &provider, log: &log };
        let mut process = launched.start(&setup).await?;
        let door = Door { browser, login: "/api/v1/auth/login", cookie: "session_token" };
        let cookies = door.sign_all_in(&provider, people).await.with_context(|| format!("signing in to {name}"))?;
        if setup.anew {
            end(&mut process);
            process = launched.start(&setup).await?;
        }
        for cookie in [cookies.first(), cookies.last()].into_iter().flatten() {
            let me = http::get(&door.browser, "/api/v1/auth/me", cookie).await?;
            ensure!(me.status == 200, "the session is not taken: `me` was answered {}: {}", me.status, me.body);
        }
        let pid = process.id().with_context(|| format!("{name} has ended"))?;
        let address = Address::new(port, protocol, certificate)?;
        Ok(Self { name, process, provider, pid, log, address, door, cookies })
    }

    /// Signs the first person in once more, as a browser does: to `login`, to the provider, and back with a code.
    pub(crate) async fn sign_in(&self) -> anyhow::Result<()> {
        self.door.sign_in(&self.provider, 0).await.map(drop)
    }

    /// Stops it, and waits until it has ended.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        Ok(self.process.kill().await?)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where it writes its log.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) const fn port(&self) -> u16 {
        self.address.port
    }

    pub(crate) const fn address(&self) -> &Address {
        &self.address
    }

    /// The cookie of each session, as `name=value`.
    pub(crate) fn cookies(&self) -> &[String] {
        &self.cookies
    }
}

/// What every start of a proxy has in common.
struct Launched<'a> {
    name: &'a str,
    program: &'a Path,
    port: u16,
    redirect_url: &'a str,
    provider: &'a DevIdp,
    log: &'a Path,
}

impl Launched<'_> {
    /// Starts the process, and waits until it listens.
    async fn start(&self, setup: &Setup<'_>) -> anyhow::Result<Child> {
        let &Self { name, program, port, redirect_url, provider, log } = self;
        let &Setup { upstream, threads, folder, rules, ref store, connections, certificate, .. } = setup;
        let mut command = Command::from(cpu::limited(program, threads)?);
        command.env_clear();
        if rules > 0 {
            let config = folder.join(format!("{name}.toml"));
            fs::write(&config, with_rules(rules))?;
            command.env("SIDEGATE_CONFIG", config);
        }
        if let Some(certificate) = certificate {
            command.env("TLS_CERT_FILE", &certificate.chain).env("TLS_KEY_FILE", &certificate.key);
        }
        match store {
            Store::Memory => command.env("SESSION_STORE", "memory"),
            Store::Jwt => command.env("SESSION_STORE", "jwt").env("SESSION_SECRET", SECRET),
            Store::Redis(url) => {
                command.env("SESSION_STORE", "redis").env("SESSION_REDIS_URL", url).env("SESSION_SECRET", SECRET)
            }
        };
        if let Some(bytes) = setup.session_memory {
            command.env("SESSION_MEMORY_BYTES", bytes.to_string());
        }
        let mut process = command
            .env("OAUTH_ENABLED", "true")
            .env("OAUTH_PROVIDER", "github")
            .env("OAUTH_GITHUB_URL", provider.origin())
            .env("OAUTH_GITHUB_API_URL", provider.origin())
            .env("OAUTH_CLIENT_ID", CLIENT_ID)
            .env("OAUTH_CLIENT_SECRET", CLIENT_SECRET)
            .env("OAUTH_REDIRECT_URL", redirect_url)
            .env("OAUTH_ALLOWED_USERS", "@example.com")
            .env("UPSTREAM_URL", format!("http://127.0.0.1:{upstream}"))
            .env("LISTEN_ADDR", format!("127.0.0.1:{port}"))
            .env("ADMIN_ADDR", "127.0.0.1:0")
            .env("LIMIT_CONNECTIONS", connections.to_string())
            .stdin(Stdio::null())
            .stdout(fs::File::create(log)?)
            .stderr(fs::OpenOptions::new().append(true).open(log)?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be run", program.display()))?;
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if process.try_wait()?.is_some() || began.elapsed() > START_LIMIT {
                bail!("{name} does not start: {}", fs::read_to_string(log)?.trim());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(process)
    }
}

impl Drop for Sidegate {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// Ends a process with a signal, so that a build that counts itself (`scripts/profile-load`) writes its counters.
fn end(process: &mut Child) {
    let pid = process.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let Some(pid) = pid else { return };
    if kill_process(pid, Signal::TERM).is_err() {
        return;
    }
    let began = Instant::now();
    while matches!(process.try_wait(), Ok(None)) && began.elapsed() < END_LIMIT {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A configuration with this many rules, of which the last allows the measured requests.
fn with_rules(rules: usize) -> String {
    let rule = |path: String| format!("[[routes]]\npath = \"{path}\"\nallow = [\"@example.com\"]\n\n");
    (1..rules).map(|number| format!("/app-{number}/**")).chain(["/**".to_owned()]).map(rule).collect()
}
