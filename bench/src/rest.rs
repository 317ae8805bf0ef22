//! Measures the memory of an idle kept-alive connection after its first request.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, ensure};
use sidegate::adapters::machine::raise_open_files;
use tokio::net::TcpSocket;

use crate::load::{self, Client, Session};
use crate::nginx::{Nginx, Proxying};
use crate::options::{Protocol, RestOptions};
use crate::sidegate::{Setup, Sidegate, Store};
use crate::wire::{self, Address, Certificate};
use crate::{http, memory, nginx, program, report};

const BODY: usize = 1024;
const PATH: &str = "/reports/quarterly";
/// The first connections cause one-time allocations, which are not counted.
const FIRST: usize = 100;
/// Open files of a process that do not belong to clients; Sidegate needs two per client, one of them for the upstream, and some
/// reserve.
const OTHER_FILES: u64 = 300;
/// How many connections share a local address: each takes a port of it.
const PORTS: usize = 20_000;

/// Prints the figures for each number of connections that open files allow.
pub(crate) async fn run(options: &RestOptions) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}\n", report::machine(&nginx::version()?))?;
    measure(&mut out, &options.connections, options.threads, options.sidegate.as_deref()).await
}

pub(crate) async fn measure(
    out: &mut impl Write,
    numbers: &[usize],
    threads: usize,
    sidegate: Option<&Path>,
) -> anyhow::Result<()> {
    let files = raise_open_files().unwrap_or(u64::MAX);
    let room = usize::try_from(files.saturating_sub(OTHER_FILES) / 2).unwrap_or(usize::MAX);
    writeln!(out, "| connections at rest | protocol | sidegate: bytes each | nginx: bytes each |")?;
    writeln!(out, "| --- | --- | --- | --- |")?;
    let mut done = 0;
    for number in numbers.iter().map(|number| *number.min(&room)).filter(|number| *number > FIRST) {
        if number == done {
            writeln!(out, "| more | | left out: a process may open {files} files here | |")?;
            break;
        }
        done = number;
        for protocol in [Protocol::Http1, Protocol::Tls, Protocol::Http2] {
            let [sidegate, nginx] = both(number, protocol, threads, sidegate).await?;
            writeln!(out, "| {number} | {protocol} | {sidegate} | {nginx} |")?;
            out.flush()?;
        }
    }
    Ok(())
}

/// The memory per connection of Sidegate, and of nginx.
async fn both(number: usize, protocol: Protocol, threads: usize, sidegate: Option<&Path>) -> anyhow::Result<[u64; 2]> {
    let folder = tempfile::tempdir().context("no temporary folder could be made")?;
    let made = Certificate::make(folder.path())?;
    let certificate = (protocol != Protocol::Http1).then_some(&made);
    let upstream = Nginx::upstream(folder.path(), BODY)?;
    let setup = Setup {
        upstream: upstream.port(),
        threads,
        folder: folder.path(),
        rules: 0,
        people: 1,
        store: Store::Memory,
        session_memory: None,
        connections: number + 100,
        anew: false,
        certificate,
        protocol,
    };
    let sidegate = Sidegate::start("sidegate".into(), &program(sidegate)?, setup).await?;
    let cookie = sidegate.cookies().first().cloned().unwrap_or_default();
    let ours = hold(sidegate.address(), protocol, &cookie, number, &[sidegate.pid()]).await.context("sidegate")?;
    drop(sidegate);

    let proxying = Proxying { upstream: upstream.port(), workers: threads, connections: number, protocol, certificate };
    let proxy = Nginx::proxy(folder.path(), &proxying)?;
    let (address, workers) = (Address::new(proxy.port(), protocol, certificate)?, proxy.workers(threads).await?);
    let theirs = hold(&address, protocol, &cookie, number, &workers).await.context("nginx")?;
    Ok([ours, theirs])
}

/// Opens this many connections, and measures their memory.
async fn hold(address: &Address, protocol: Protocol, cookie: &str, number: usize, pids: &[u32]) -> anyhow::Result<u64> {
    let mut held = open(address, protocol, cookie, FIRST).await?;
    let before = memory::stable_resident(pids).await?;
    held.extend(open(address, protocol, cookie, number - FIRST).await?);
    let after = memory::stable_resident(pids).await?;
    for one in &mut held {
        ensure!(one.is_open().await, "a connection at rest was closed");
    }
    Ok(after.saturating_sub(before) / (number - FIRST).max(1) as u64)
}

/// A connection that has received a response.
enum Held {
    Http1(Client),
    Http2(Session),
}

impl Held {
    async fn is_open(&mut self) -> bool {
        match self {
            Self::Http1(client) => client.is_open().await,
            Self::Http2(session) => session.is_open(),
        }
    }
}

async fn open(address: &Address, protocol: Protocol, cookie: &str, number: usize) -> anyhow::Result<Vec<Held>> {
    let all = (0..number).map(|_| first_request(address.clone(), protocol, cookie.to_owned()));
    wire::open_all(all).await
}

async fn first_request(address: Address, protocol: Protocol, cookie: String) -> anyhow::Result<Held> {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let socket = TcpSocket::new_v4()?;
    // Closed connections keep their ports for a while: those of an earlier measurement are not used again.
    let from =
        u8::try_from(2 + MADE.fetch_add(1, Ordering::Relaxed) / PORTS).context("more connections than addresses")?;
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, from), 0)))?;
    let wire = address.connect_by(socket).await.context("no connection to a contender")?;
    match protocol {
        Protocol::Http1 | Protocol::Tls => {
            let mut client = Client::over(wire, 4096);
            client.exchange(&http::browser_request(&address, PATH, &cookie), BODY).await?;
            Ok(Held::Http1(client))
        }
        Protocol::Http2 => {
            let session = Session::over(wire).await?;
            load::exchange(&session.send, http::browser_request_2(&address, PATH, &cookie)?, BODY).await?;
            Ok(Held::Http2(session))
        }
    }
}
