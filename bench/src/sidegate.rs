//! The proxy under test: started, and signed in through the development provider.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use dev_idp::DevIdp;
use dev_idp::users::{Email, GitHubAccount, User};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::{cpu, http, nginx};

/// What seals sessions in the stores `jwt` and `redis`.
const SECRET: &str = "c2VjcmV0LW9mLXRoZS1iZW5jaC1hbmQtb2Ytbm90aGluZy1lbHNl";

/// How many connections a proxy takes at a time by default.
pub(crate) const CONNECTIONS: usize = 10_000;

/// How long the proxy may take to start.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Where the proxy keeps its sessions.
#[derive(Clone)]
pub(crate) enum Store {
    Memory,
    Jwt,
    /// The server's URL.
    Redis(String),
}

/// What a proxy is started with.
pub(crate) struct Setup<'a> {
    pub(crate) upstream: u16,
    pub(crate) threads: usize,
    pub(crate) folder: &'a Path,
    pub(crate) rules: usize,
    /// How many people are signed in, each with a session.
    pub(crate) people: usize,
    pub(crate) store: Store,
    /// How many connections it takes at a time, at most.
    pub(crate) connections: usize,
}

/// A running proxy, and sessions on it; dropping it stops it.
pub(crate) struct Sidegate {
    name: String,
    _process: Child,
    provider: DevIdp,
    pid: u32,
    port: u16,
    cookies: Vec<String>,
}

impl Sidegate {
    /// Starts the program with the settings of a usual sidecar, and signs people in.
    pub(crate) async fn start(name: String, program: &Path, setup: Setup<'_>) -> anyhow::Result<Self> {
        let Setup { upstream, threads, folder, rules, people, store, connections } = setup;
        ensure!(program.is_file(), "there is no {}: cargo build --release -p sidegate", program.display());
        let port = nginx::free_port()?;
        let redirect_url = format!("http://127.0.0.1:{port}/api/v1/auth/callback");
        let provider = DevIdp::start(dev_idp::Options {
            redirect_urls: vec![redirect_url.clone()],
            users: (0..people).map(user).collect(),
            ..dev_idp::Options::default()
        })
        .await?;
        let log = folder.join(format!("{name}.log"));
        let mut command = Command::from(cpu::limited(program, threads)?);
        command.env_clear();
        if rules > 0 {
            let config = folder.join(format!("{name}.toml"));
            fs::write(&config, with_rules(rules))?;
            command.env("SIDEGATE_CONFIG", config);
        }
        match store {
            Store::Memory => command.env("SESSION_STORE", "memory"),
            Store::Jwt => command.env("SESSION_STORE", "jwt").env("SESSION_SECRET", SECRET),
            Store::Redis(url) => {
                command.env("SESSION_STORE", "redis").env("SESSION_REDIS_URL", url).env("SESSION_SECRET", SECRET)
            }
        };
        let mut process = command
            .env("OAUTH_ENABLED", "true")
            .env("OAUTH_PROVIDER", "github")
            .env("OAUTH_GITHUB_URL", provider.origin())
            .env("OAUTH_GITHUB_API_URL", provider.origin())
            .env("OAUTH_CLIENT_ID", "sidegate-dev")
            .env("OAUTH_CLIENT_SECRET", "sidegate-dev-secret")
            .env("OAUTH_REDIRECT_URL", redirect_url)
            .env("OAUTH_ALLOWED_USERS", "@example.com")
            .env("UPSTREAM_URL", format!("http://127.0.0.1:{upstream}"))
            .env("LISTEN_ADDR", format!("127.0.0.1:{port}"))
            .env("ADMIN_ADDR", "127.0.0.1:0")
            .env("LIMIT_CONNECTIONS", connections.to_string())
            .stdin(Stdio::null())
            .stdout(fs::File::create(&log)?)
            .stderr(fs::OpenOptions::new().append(true).open(&log)?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be run", program.display()))?;
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if process.try_wait()?.is_some() || began.elapsed() > START_LIMIT {
                bail!("{name} does not start: {}", fs::read_to_string(&log)?.trim());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let pid = process.id().with_context(|| format!("{name} has ended"))?;
        let mut cookies = Vec::with_capacity(people);
        for number in 0..people {
            cookies.push(sign_in(port, &provider, number).await.with_context(|| format!("signing in to {name}"))?);
        }
        for cookie in [cookies.first(), cookies.last()].into_iter().flatten() {
            let me = http::get(port, "/api/v1/auth/me", cookie).await?;
            ensure!(me.status == 200, "the session is not taken: `me` was answered {}", me.status);
        }
        Ok(Self { name, _process: process, provider, pid, port, cookies })
    }

    /// Signs the first person in once more, as a browser does: to `login`, to the provider, and back with a code.
    pub(crate) async fn sign_in(&self) -> anyhow::Result<()> {
        sign_in(self.port, &self.provider, 0).await.map(drop)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// The cookie of each session, as `name=value`.
    pub(crate) fn cookies(&self) -> &[String] {
        &self.cookies
    }
}

/// The person `number`, as GitHub knows them.
fn user(number: usize) -> User {
    let login = format!("user-{number:07}");
    let email = format!("{login}@example.com");
    let account = GitHubAccount {
        id: 10_000_000 + number as u64,
        login: login.clone(),
        public_email: Some(email.clone()),
        emails: vec![Email { address: email, primary: true, verified: true }],
        memberships: Vec::new(),
        teams: Vec::new(),
    };
    User {
        name: format!("Firstname Lastname {number}"),
        remark: String::new(),
        github: Some(account),
        entra: None,
        oidc: None,
        id: login,
    }
}

/// A file with so many rules, of which the last lets in what is measured.
fn with_rules(rules: usize) -> String {
    let rule = |path: String| format!("[[routes]]\npath = \"{path}\"\nallow = [\"@example.com\"]\n\n");
    (1..rules).map(|number| format!("/app-{number}/**")).chain(["/**".to_owned()]).map(rule).collect()
}

async fn sign_in(port: u16, provider: &DevIdp, number: usize) -> anyhow::Result<String> {
    let login = http::get(port, "/api/v1/auth/login", "").await?;
    let authorize = login.location.with_context(|| format!("login was answered {}", login.status))?;
    let callback = provider.approve(&authorize, &format!("user-{number:07}"))?;
    let path = callback.splitn(4, '/').nth(3).context("the callback's URL has no path")?;
    let back = http::get(port, &format!("/{path}"), &login.cookies.join("; ")).await?;
    let session = back.cookies.into_iter().find(|cookie| cookie.starts_with("session_token="));
    session.with_context(|| format!("the callback was answered {}, without a session", back.status))
}
