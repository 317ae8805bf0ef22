//! The real program, started and stopped by the test.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dev_idp::{DevIdp, Options};
use http::Request;
use http_body_util::Full;
use tempfile::TempDir;

use super::{Answer, Browser, HOST, PATIENCE, Upstream, until, wire};

/// The plan of a `sidegate` to start.
pub struct Plan {
    env: BTreeMap<String, String>,
    idp: Option<Arc<DevIdp>>,
    folder: TempDir,
    /// What a shell sets before it starts the program: `ulimit -n 1024`.
    limits: Option<String>,
    /// Its standard input.
    input: Option<OwnedFd>,
}

/// A running `sidegate`; killed on drop.
pub struct Proxy {
    child: Child,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    /// The listening addresses that it logs.
    pub listens: serde_json::Value,
    log: Arc<Mutex<Vec<String>>>,
    idp: Option<Arc<DevIdp>>,
    folder: TempDir,
}

impl Proxy {
    /// In open mode.
    pub fn open(upstream: &Upstream) -> Plan {
        Plan { env: common(upstream), idp: None, folder: TempDir::new().unwrap(), limits: None, input: None }
    }

    /// With sign-in by the development provider, as `github`, `entra` or `oidc`; all of its users are allowed.
    pub async fn with_sign_in(kind: &str, upstream: &Upstream) -> Plan {
        Self::with_sign_in_at(&format!("http://{HOST}"), kind, upstream).await
    }

    /// The same, with another public origin.
    pub async fn with_sign_in_at(origin: &str, kind: &str, upstream: &Upstream) -> Plan {
        let callback = format!("{origin}/api/v1/auth/callback");
        let idp = DevIdp::start(Options { redirect_urls: vec![callback.clone()], ..Options::default() }).await.unwrap();
        let origin = idp.origin();
        let mut env = common(upstream);
        for (name, value) in [
            ("OAUTH_ENABLED", "true"),
            ("OAUTH_PROVIDER", kind),
            ("OAUTH_CLIENT_ID", "sidegate-dev"),
            ("OAUTH_CLIENT_SECRET", "sidegate-dev-secret"),
            ("OAUTH_REDIRECT_URL", &callback),
        ] {
            env.insert(name.into(), value.into());
        }
        match kind {
            "github" => {
                env.insert("OAUTH_GITHUB_URL".into(), origin.clone());
                env.insert("OAUTH_GITHUB_API_URL".into(), origin);
            }
            "entra" => {
                env.insert("OAUTH_ENTRA_AUTHORITY".into(), origin.clone());
                env.insert("OAUTH_GRAPH_URL".into(), origin);
                env.insert("OAUTH_TENANT_ID".into(), dev_idp::users::CONTOSO.into());
            }
            "oidc" => {
                env.insert("OAUTH_ISSUER_URL".into(), format!("{origin}/oidc"));
            }
            other => panic!("no provider {other}"),
        }
        Plan { env, idp: Some(Arc::new(idp)), folder: TempDir::new().unwrap(), limits: None, input: None }
    }

    /// With sign-in by GitHub, started and ready.
    pub async fn start(upstream: &Upstream) -> Self {
        Self::with_sign_in("github", upstream).await.start().await
    }

    /// The development provider.
    pub fn idp(&self) -> &DevIdp {
        self.idp.as_deref().expect("open mode has no provider")
    }

    /// A folder for files, removed with the proxy.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends `signal` (`TERM`, `HUP`, …).
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(self.pid().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the process to end.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the proxy ends", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// The decisions that it has logged so far, with `AUDIT=all`.
    pub fn decisions(&self) -> Vec<serde_json::Value> {
        let log = self.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.filter(|line| line["event"] == "decision").collect()
    }

    /// Waits until it has logged `text`.
    pub async fn logs(&self, text: &str) {
        until(&format!("the log says {text:?}:\n{}", self.log()), async || self.log().contains(text)).await;
    }

    /// Sends a request without a session; `Host` is the public host unless the request has its own.
    pub async fn send(&self, request: http::request::Builder) -> Answer {
        self.send_body(request, Bytes::new()).await
    }

    /// The same with a body.
    pub async fn send_body(&self, request: http::request::Builder, body: impl Into<Bytes>) -> Answer {
        let mut request = request.body(Full::new(body.into())).unwrap();
        if !request.headers().contains_key("host") {
            request.headers_mut().insert("host", HOST.parse().unwrap());
        }
        wire::send(self.address, request).await
    }

    /// `GET` without a session.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path)).await
    }

    /// `GET` with a session, without a cookie jar.
    pub async fn get_as(&self, token: &str, path: &str) -> Answer {
        self.send(Request::get(path).header("cookie", format!("session_token={token}"))).await
    }

    /// `GET` on the admin listener.
    pub async fn admin(&self, path: &str) -> Answer {
        wire::send(self.admin, Request::get(path).header("host", "admin").body(Full::default()).unwrap()).await
    }

    /// Sends raw bytes.
    pub async fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        wire::raw(self.address, bytes).await
    }

    /// A signed-in browser.
    pub async fn signed_in_as(&self, user: &str) -> Browser<'_> {
        let mut browser = Browser::of(self);
        let answer = browser.sign_in(user).await;
        assert_eq!(answer.status, 302, "{user} was not signed in: {answer:?}\n{}", self.log());
        assert!(browser.cookie("session_token").is_some(), "{user} got no session");
        browser
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            eprintln!("the end of the proxy's log:\n{}", &log[log.len().saturating_sub(4000)..]);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn common(upstream: &Upstream) -> BTreeMap<String, String> {
    [
        ("LISTEN_ADDR", "127.0.0.1:0".to_owned()),
        ("ADMIN_ADDR", "127.0.0.1:0".to_owned()),
        ("LOG_FORMAT", "json".to_owned()),
        ("LOG_LEVEL", "debug".to_owned()),
        ("UPSTREAM_URL", format!("http://{}", upstream.address)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

impl Plan {
    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Starts it under system limits that a shell sets: `ulimit -n 1024`.
    pub fn under(mut self, limits: impl Into<String>) -> Self {
        self.limits = Some(limits.into());
        self
    }

    /// Passes it a socket, as systemd does.
    pub fn activated_by(self, socket: impl Into<OwnedFd>) -> Self {
        let limits = "export LISTEN_FDS=1 LISTEN_PID=$$ && exec 3<&0 0</dev/null";
        Self { input: Some(socket.into()), ..self.env("LISTEN_ADDR", "systemd").under(limits) }
    }

    /// Removes a variable.
    pub fn without(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// Another replica of this one: the same settings and provider.
    pub fn twin(&self) -> Self {
        Self {
            env: self.env.clone(),
            idp: self.idp.clone(),
            folder: TempDir::new().unwrap(),
            limits: None,
            input: None,
        }
    }

    /// Writes a file into the proxy's folder, and sets a variable to its path.
    pub fn file(mut self, name: &str, file: &str, text: &str) -> Self {
        let path = self.folder.path().join(file);
        std::fs::write(&path, text).unwrap();
        self.env.insert(name.into(), path.to_str().unwrap().into());
        self
    }

    /// A folder for files, before the start.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// The development provider, before the start.
    pub fn idp(&self) -> &DevIdp {
        self.idp.as_deref().expect("open mode has no provider")
    }

    /// The command, for tests that run it themselves.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidegate"));
        if let Some(limits) = &self.limits {
            command = Command::new("/bin/sh");
            command.arg("-c").arg(format!("{limits} && exec \"$0\"")).arg(env!("CARGO_BIN_EXE_sidegate"));
        }
        command.env_clear().envs(&self.env);
        let input = self.input.as_ref().map(|input| input.try_clone().unwrap());
        command.stdin(input.map_or_else(Stdio::null, Stdio::from));
        command
    }

    /// Starts it, and waits until it is ready and has reached its provider and its store.
    pub async fn start(self) -> Proxy {
        let shared = self.env.get("SESSION_STORE").is_some_and(|store| store == "redis");
        let proxy = self.start_alone().await;
        if proxy.idp.is_some() {
            until("the provider is reached", async || !proxy.admin("/readyz").await.text().contains("provider:")).await;
        }
        if shared {
            until("the store is reached", async || !proxy.admin("/readyz").await.text().contains("store:")).await;
        }
        proxy
    }

    /// Starts it, and waits until it is ready, even if its provider is unreachable.
    pub async fn start_alone(self) -> Proxy {
        let mut child = self.command().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (stderr, sink) = (child.stderr.take().unwrap(), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut proxy = Proxy {
            child,
            address: unknown,
            admin: unknown,
            listens: serde_json::Value::Null,
            log,
            idp: self.idp,
            folder: self.folder,
        };
        proxy.find_addresses().await;
        proxy
    }
}

impl Proxy {
    async fn find_addresses(&mut self) {
        let line = tokio::time::timeout(PATIENCE, async {
            loop {
                let ready = self.log.lock().unwrap().iter().find(|line| line.contains("sidegate is ready")).cloned();
                if let Some(line) = ready {
                    return line;
                }
                if let Some(status) = self.child.try_wait().unwrap() {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    panic!("sidegate ended with {status}:\n{}", self.log());
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        });
        let line = line.await.unwrap_or_else(|_| panic!("sidegate is not ready:\n{}", self.log()));
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        // A socket file has no address.
        self.address = line["listen"].as_str().unwrap().parse().unwrap_or(self.address);
        self.admin = line["admin"].as_str().unwrap().parse().unwrap();
        self.listens = line;
    }
}
