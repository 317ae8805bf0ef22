//! Measures the proxy's memory per idle WebSocket, and how soon all are closed after their session has ended.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sidegate::adapters::machine::raise_open_files;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::options::{Protocol, WebsocketOptions};
use crate::sidegate::{Setup, Sidegate, Store};
use crate::{cpu, http, memory, program, wire};

/// The limit for the proxy's memory per WebSocket, in bytes.
const AIM: u64 = 12 * 1024;
/// The time limit for closing all.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);
/// Open files of a process that do not belong to WebSockets: the proxy keeps some in reserve.
const OTHER_FILES: u64 = 256;
/// The time limit for steps that are not measured.
const PATIENCE: Duration = Duration::from_secs(20);

/// Opens all, keeps them idle, ends their session, and prints the figures.
pub(crate) async fn run(options: &WebsocketOptions) -> anyhow::Result<()> {
    let files = raise_open_files().unwrap_or(u64::MAX);
    let room = usize::try_from(files.saturating_sub(OTHER_FILES) / 2).unwrap_or(usize::MAX);
    let count = options.websockets.min(room);
    let mut out = std::io::stdout();
    if count < options.websockets {
        writeln!(out, "{count} instead of {}: a process may open {files} files here", options.websockets)?;
    }
    let folder = tempfile::tempdir().context("no temporary folder could be made")?;
    let upstream = TcpListener::bind("127.0.0.1:0").await?;
    let port = upstream.local_addr()?.port();
    let serving = tokio::spawn(serve(upstream));
    let setup = Setup {
        upstream: port,
        threads: options.threads,
        folder: folder.path(),
        rules: 0,
        people: 1,
        store: Store::Memory,
        session_memory: None,
        connections: count + 100,
        anew: false,
        certificate: None,
        protocol: Protocol::Http1,
    };
    let proxy = Sidegate::start("sidegate".into(), &program(options.sidegate.as_deref())?, setup).await?;
    let cookie = proxy.cookies().first().cloned().unwrap_or_default();

    // The first ones cause one-time allocations, which are not counted.
    let mut held = open(proxy.port(), &cookie, count.min(100)).await?;
    let (first, before) = (held.len(), memory::stable_resident(&[proxy.pid()]).await?);
    let began = Instant::now();
    held.extend(open(proxy.port(), &cookie, count - first).await?);
    let opened = began.elapsed();
    let at_once = memory::resident(&[proxy.pid()])?;
    let after = memory::stable_resident(&[proxy.pid()]).await?;
    let (many, each) = (held.len() - first, |taken: u64| taken.saturating_sub(before) / (count - first).max(1) as u64);
    writeln!(
        out,
        "{many} idle WebSockets more: {} bytes each ({} right after they were opened; {:.1} MiB resident in all), opened in {:.1} s",
        each(after),
        each(at_once),
        after as f64 / (1024.0 * 1024.0),
        opened.as_secs_f64(),
    )?;

    let used = cpu::Processes::of(&[proxy.pid()]);
    let (idle, began) = (used.used()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let busy = used.used()?.since(&idle).as_secs_f64() / began.elapsed().as_secs_f64();
    writeln!(out, "{:.1} % of a processor to hold them", 100.0 * busy)?;

    log_out(proxy.port(), &cookie).await?;
    let began = Instant::now();
    let mut closing = JoinSet::new();
    for mut stream in held {
        closing.spawn(async move {
            let closed = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 64])).await;
            (closed.is_ok_and(|read| !matches!(read, Ok(1..))), began.elapsed())
        });
    }
    let mut took = Vec::with_capacity(count);
    while let Some(closed) = closing.join_next().await {
        let (closed, after) = closed?;
        ensure!(closed, "a WebSocket stays open after its session has ended");
        took.push(after);
    }
    took.sort_unstable();
    let (median, last) = (took.get(took.len() / 2).copied(), took.last().copied().unwrap_or_default());
    writeln!(
        out,
        "all {} closed after the logout: the median after {:.2} s, the last after {:.2} s",
        took.len(),
        median.unwrap_or_default().as_secs_f64(),
        last.as_secs_f64(),
    )?;
    serving.abort();
    ensure!(each(after) <= AIM, "one takes {} bytes, more than {AIM}", each(after));
    ensure!(last < CLOSED_WITHIN, "the last was closed after {last:?}");
    Ok(())
}

/// Switches protocols on each connection, and then sends nothing.
async fn serve(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                if !matches!(stream.read_buf(&mut head).await, Ok(1..)) {
                    return;
                }
            }
            drop(head);
            let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
            if stream.write_all(answer.as_bytes()).await.is_ok() {
                let _ = stream.read(&mut [0; 64]).await;
            }
        });
    }
}

/// Opens this many WebSockets of one session.
async fn open(port: u16, cookie: &str, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    wire::open_all((0..count).map(|_| upgrade(port, cookie.to_owned()))).await
}

async fn upgrade(port: u16, cookie: String) -> anyhow::Result<TcpStream> {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let head = format!(
            "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nCookie: {cookie}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            ensure!(stream.read_buf(&mut answer).await? > 0, "the connection was closed before the answer");
        }
        ensure!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
        Ok(stream)
    };
    tokio::time::timeout(PATIENCE, exchange).await.context("an upgrade was not answered")?
}

async fn log_out(port: u16, cookie: &str) -> anyhow::Result<()> {
    let request = format!(
        "POST /api/v1/auth/logout HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\nSec-Fetch-Site: same-origin\r\nCookie: {cookie}\r\nContent-Length: 0\r\n\r\n"
    );
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        ensure!(stream.read_buf(&mut answer).await? > 0, "the logout was not answered");
        if let Some(frame) = http::Frame::parse(&answer)? {
            ensure!(frame.status == 200, "the logout was answered {}", frame.status);
            return Ok(());
        }
    }
}
