//! Serves `livez`, `readyz` and `metrics` on a separate listener.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::adapters::telemetry::{Clean, METRICS_CONTENT_TYPE, Metrics};

/// With this many connections the oldest silent one makes room for the next: a probe always gets through.
const CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection carries one request and is closed after this time, however slow its client is.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// The time limit of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// How much of a response a probe reads, in bytes.
const PROBE_LIMIT: u64 = 16 * 1024;

const TEXT: &str = "text/plain; charset=utf-8";

/// The state behind the admin listener.
pub struct Admin {
    phase: AtomicU8,
    troubles: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    metrics: Arc<Metrics>,
}

/// The proxy's phase of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Listening; the provider or the store has not been tried yet.
    Starting,
    /// Serving.
    Ready,
    /// Shutting down.
    Draining,
}

impl Admin {
    /// Creates it in [`Phase::Starting`]. `troubles` returns on each call what does not work although requests are served, one line each:
    /// `provider: …`, `store: …`, `upstream: …`, `configuration: last reload failed: …`, `certificate: expires in 3 days`.
    #[must_use]
    pub fn new(troubles: Box<dyn Fn() -> Vec<String> + Send + Sync>, metrics: Arc<Metrics>) -> Self {
        Self { phase: AtomicU8::new(Phase::Starting as u8), troubles, metrics }
    }

    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Enters [`Phase::Ready`], unless shutting down; returns whether it did.
    pub fn become_ready(&self) -> bool {
        let (from, to) = (Phase::Starting as u8, Phase::Ready as u8);
        self.phase.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The current phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            ready if ready == Phase::Ready as u8 => Phase::Ready,
            draining if draining == Phase::Draining as u8 => Phase::Draining,
            _ => Phase::Starting,
        }
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if !matches!(path, "/livez" | "/readyz" | "/metrics") {
            return respond(StatusCode::NOT_FOUND, TEXT, "not found: ask for /livez, /readyz or /metrics\n");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "method not allowed: use GET\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/readyz" => self.readiness(),
            "/metrics" => respond(StatusCode::OK, METRICS_CONTENT_TYPE, self.metrics.render()),
            _ => respond(StatusCode::OK, TEXT, "ok\n"),
        }
    }

    /// An unavailable provider, store or upstream does not make us unready: all replicas would be taken out of service at once, including
    /// everything that works without them (held sessions, error pages).
    fn readiness(&self) -> Response<Full<Bytes>> {
        match self.phase() {
            Phase::Starting => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, "starting\n"),
            Phase::Draining => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, "draining\n"),
            Phase::Ready => {
                let mut text = String::from("ready\n");
                for trouble in (self.troubles)() {
                    // A message may quote a provider, which must not add lines of its own.
                    text.push_str(&Clean(&trouble).to_string());
                    text.push('\n');
                }
                respond(StatusCode::OK, TEXT, text)
            }
        }
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Serves on `listener` until `shutdown` is done. Shut it down last, so that a drain is visible from outside.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>, shutdown: impl Future<Output = ()>) {
    let mut shutdown = pin!(shutdown);
    // Dropping it closes open connections.
    let mut connections = JoinSet::new();
    let mut open = VecDeque::new();
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    make_room(&mut open);
                    let (admin, asked) = (Arc::clone(&admin), Arc::new(AtomicBool::new(false)));
                    let has_asked = Arc::clone(&asked);
                    let task = connections.spawn(async move {
                        // Errors of a connection here concern only its client.
                        let _ = timeout(CONNECTION_TIMEOUT, connection(stream, &admin, &has_asked)).await;
                    });
                    open.push_back(Open { task, asked });
                }
                Err(error) => {
                    warn!(%error, "the admin listener cannot accept a connection");
                    // Probably too many files are open: retrying at once would only use up a core.
                    sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

/// An open connection, and whether it has carried a request.
struct Open {
    task: AbortHandle,
    asked: Arc<AtomicBool>,
}

/// Closes the oldest silent connection if there are too many; if all have carried a request, the oldest.
fn make_room(open: &mut VecDeque<Open>) {
    open.retain(|open| !open.task.is_finished());
    if open.len() < CONNECTIONS {
        return;
    }
    let oldest = open.iter().position(|open| !open.asked.load(Ordering::Relaxed)).unwrap_or_default();
    if let Some(oldest) = open.remove(oldest) {
        oldest.task.abort();
    }
}

async fn connection(stream: TcpStream, admin: &Admin, asked: &AtomicBool) -> hyper::Result<()> {
    let service = service_fn(|request| async move {
        asked.store(true, Ordering::Relaxed);
        Ok::<_, Infallible>(admin.answer(&request))
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(16 * 1024)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

/// Asks the proxy with the admin listener at `address` whether it is ready, within 3 seconds: `sidegate health`. For an unspecified address
/// (`0.0.0.0`, `[::]`) loopback is used.
///
/// # Errors
/// Why it is not, for people.
pub async fn ask_readiness(address: SocketAddr) -> Result<(), String> {
    ask_within(PROBE_TIMEOUT, reachable(address)).await
}

async fn ask_within(patience: Duration, address: SocketAddr) -> Result<(), String> {
    match timeout(patience, probe(address)).await {
        Ok(Ok(answer)) => judge(address, &answer),
        Ok(Err(error)) => Err(format!(
            "cannot reach the admin listener at {address}: {error}; is sidegate running, with this ADMIN_ADDR?"
        )),
        Err(_) => Err(format!("the admin listener at {address} did not answer within {} s", patience.as_secs_f32())),
    }
}

fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    address
}

async fn probe(address: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(PROBE_LIMIT).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn judge(address: SocketAddr, answer: &[u8]) -> Result<(), String> {
    let answer = String::from_utf8_lossy(answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.split([' ', '\r']).next());
    match (status, body.lines().next()) {
        (Some("200"), Some("ready")) => Ok(()),
        (Some("503"), Some(phase)) => Err(format!("not ready: {}", Clean(phase))),
        (Some(_) | None, _) => {
            Err(format!("what listens at {address} is not sidegate's admin listener: look at ADMIN_ADDR"))
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    struct Running {
        address: SocketAddr,
        admin: Arc<Admin>,
        stop: oneshot::Sender<()>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Running {
        async fn start(troubles: &'static [&'static str]) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let troubles = move || troubles.iter().map(|trouble| (*trouble).to_owned()).collect();
            let admin = Arc::new(Admin::new(Box::new(troubles), Arc::new(Metrics::new(&["not_found"], &[]))));
            let (stop, stopped) = oneshot::channel();
            let task = tokio::spawn(serve(listener, Arc::clone(&admin), async {
                let _ = stopped.await;
            }));
            Self { address, admin, stop, task }
        }

        async fn ask(&self, line: &str) -> String {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }
    }

    #[tokio::test]
    async fn the_process_lives_while_it_answers() {
        let running = Running::start(&[]).await;
        let answer = running.ask("GET /livez").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
        let answer = running.ask("HEAD /livez").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
        assert!(answer.contains("content-length: 3\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn readiness_follows_the_phase() {
        let running = Running::start(&[]).await;
        let answer = running.ask("GET /readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\nstarting\n"), "{answer}");
        assert_eq!(ask_readiness(running.address).await.unwrap_err(), "not ready: starting");

        running.admin.enter(Phase::Ready);
        let answer = running.ask("GET /readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nready\n"), "{answer}");
        ask_readiness(running.address).await.unwrap();

        running.admin.enter(Phase::Draining);
        let answer = running.ask("GET /readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\ndraining\n"), "{answer}");
        assert_eq!(ask_readiness(running.address).await.unwrap_err(), "not ready: draining");
        assert!(running.ask("GET /livez").await.starts_with("HTTP/1.1 200 "));
    }

    #[tokio::test]
    async fn troubles_are_reported_and_do_not_make_it_unready() {
        let running = Running::start(&["provider: away\r\nready", "certificate: expires in 3 days"]).await;
        running.admin.enter(Phase::Ready);
        let answer = running.ask("GET /readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        assert_eq!(body, "ready\nprovider: away\\r\\nready\ncertificate: expires in 3 days\n");
        ask_readiness(running.address).await.unwrap();
    }

    #[tokio::test]
    async fn metrics_are_in_a_format_that_prometheus_names() {
        let running = Running::start(&[]).await;
        let answer = running.ask("GET /metrics").await;
        assert!(
            answer.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
            "{answer}"
        );
        assert!(answer.contains("sidegate_build_info{") && answer.ends_with("# EOF\n"), "{answer}");
    }

    #[tokio::test]
    async fn nothing_else_is_there() {
        let running = Running::start(&[]).await;
        assert!(running.ask("GET /").await.starts_with("HTTP/1.1 404 "));
        assert!(running.ask("GET /livez/").await.starts_with("HTTP/1.1 404 "));
        let answer = running.ask("POST /readyz").await;
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD\r\n"), "{answer}");
        let answer = running.ask(&format!("GET /{}", "a".repeat(20_000))).await;
        assert!(answer.starts_with("HTTP/1.1 414 ") || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }

    #[tokio::test]
    async fn it_stops_on_request_even_with_connections_open() {
        let running = Running::start(&[]).await;
        running.admin.enter(Phase::Ready);
        let _idle = TcpStream::connect(running.address).await.unwrap();
        ask_readiness(running.address).await.unwrap();
        running.stop.send(()).unwrap();
        timeout(Duration::from_secs(5), running.task).await.unwrap().unwrap();
        let fault = ask_readiness(running.address).await.unwrap_err();
        assert!(fault.contains("cannot reach") && fault.contains("ADMIN_ADDR"), "{fault}");
    }

    #[tokio::test]
    async fn a_probe_is_not_fooled_by_another_server() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let other = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello").await;
        });
        assert!(ask_readiness(address).await.unwrap_err().contains("not sidegate's"));
        other.await.unwrap();
    }

    #[tokio::test]
    async fn a_probe_does_not_wait_for_ever() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = listener.local_addr().unwrap();
        let fault = ask_within(Duration::from_millis(50), silent).await.unwrap_err();
        assert!(fault.contains("did not answer within 0.05 s"), "{fault}");
    }

    #[tokio::test]
    async fn a_silent_crowd_makes_room_for_a_probe() {
        let running = Running::start(&[]).await;
        running.admin.enter(Phase::Ready);
        let mut crowd = Vec::new();
        for number in 0..4 * CONNECTIONS {
            let mut stream = TcpStream::connect(running.address).await.unwrap();
            if number % 2 == 0 {
                stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: half").await.unwrap();
            }
            crowd.push(stream);
            if number % 8 == 0 {
                ask_readiness(running.address).await.unwrap();
            }
        }
        let mut closed = 0;
        for stream in &mut crowd {
            closed += usize::from(timeout(Duration::from_millis(1), stream.read(&mut [0])).await.is_ok());
        }
        assert!(closed >= 3 * CONNECTIONS, "the oldest went: {closed}");
    }

    #[test]
    fn an_unspecified_address_is_asked_at_loopback() {
        let asked = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(asked("0.0.0.0:9091"), "127.0.0.1:9091");
        assert_eq!(asked("[::]:9091"), "[::1]:9091");
        assert_eq!(asked("10.0.0.1:9091"), "10.0.0.1:9091");
    }
}
