//! Other proxies, for comparison: two with sign-in, and two plain reverse proxies.

mod apache;
mod caddy;
mod haproxy;
mod oauth2_proxy;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dev_idp::DevIdp;
use tokio::net::TcpStream;

use crate::options::Protocol;
use crate::wire::{Address, Certificate};

/// The time limit for starting one.
const START_LIMIT: Duration = Duration::from_secs(10);

/// The most people who sign in to peers: Apache's session cache is limited.
const PEOPLE_MOST: usize = 1000;

/// The settings of a peer.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) upstream: u16,
    pub(crate) threads: usize,
    /// How many people are signed in, at peers with sign-in.
    pub(crate) people: usize,
    pub(crate) protocol: Protocol,
    /// With a certificate, the peer terminates TLS.
    pub(crate) certificate: Option<&'a Certificate>,
}

/// A running peer; dropping it stops it.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) address: Address,
    pub(crate) pids: Vec<u32>,
    /// The session cookies; empty for peers without sign-in.
    pub(crate) cookies: Vec<String>,
    _program: Program,
    _provider: Option<Arc<DevIdp>>,
}

/// A peer, or why it is left out.
type Started = anyhow::Result<Result<Peer, &'static str>>;

const MISSING: &str = "is not installed; scripts/bench-peers installs it";

/// Starts all that are installed, each with its own upstream port, and names those that are not.
pub(crate) async fn start(setup: Setup<'_>, upstreams: &[u16]) -> anyhow::Result<Vec<Peer>> {
    let setup = Setup { people: setup.people.min(PEOPLE_MOST), ..setup };
    let mut ports = upstreams.iter().copied().cycle();
    let mut own = || Setup { upstream: ports.next().unwrap_or(setup.upstream), ..setup };
    let all = [
        ("oauth2-proxy", oauth2_proxy::start(own()).await),
        ("apache", apache::start(own()).await),
        ("caddy", caddy::start(own()).await),
        ("haproxy", haproxy::start(own()).await),
    ];
    let mut peers = Vec::new();
    for (name, started) in all {
        match started.with_context(|| name)? {
            Ok(peer) => peers.push(peer),
            Err(why) => eprintln!("bench: {name} is left out: it {why}"),
        }
    }
    Ok(peers)
}

/// A process, and a stop command if killing it alone would leave its children behind.
struct Program {
    process: Child,
    stop: Option<Command>,
}

impl Program {
    /// Starts it, and waits until it listens.
    async fn start(name: &str, mut command: Command, folder: &Path, port: u16) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.output"));
        let output = fs::File::create(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let process = command.spawn().with_context(|| format!("{name} cannot be run"))?;
        let mut program = Self { process, stop: None };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            let is_over = program.process.try_wait()?.is_some() || began.elapsed() > START_LIMIT;
            ensure!(!is_over, "it does not start: {}", fs::read_to_string(&log)?.trim());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(program)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let stopped = self.stop.as_mut().is_some_and(|stop| stop.status().is_ok_and(|status| status.success()));
        if !stopped {
            let _may_have_ended = self.process.kill();
        }
        let _ended = self.process.wait();
    }
}

/// Returns true if a program is installed; `ask` makes it print something and exit.
fn is_installed(program: &str, ask: &str) -> bool {
    let mut command = Command::new(program);
    command.arg(ask).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok()
}

/// The address for a browser's sign-in on this port, over HTTP/1.1.
fn browser(port: u16, certificate: Option<&Certificate>) -> anyhow::Result<Address> {
    let protocol = if certificate.is_some() { Protocol::Tls } else { Protocol::Http1 };
    Address::new(port, protocol, certificate)
}
