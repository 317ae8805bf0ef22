//! What an anonymous client can hold: streams, connections, memory, open files. Signed-in users are not affected.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body_util::Full;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::client::full;
use crate::support::h2::{self, H2};
use crate::support::{HOST, PATIENCE, Plan, Proxy, Upstream, memory, until, wire};

/// One of our own pages.
const PAGE: &str = "/api/v1/auth/sign-in";

/// Raises the limit of open files of this process, which plays all the clients; returns it.
fn open_files() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    maximum.unwrap_or(u64::MAX)
}

fn quick(plan: Plan) -> Plan {
    ["TIMEOUT_HEADER", "TIMEOUT_IDLE", "TIMEOUT_BODY", "TIMEOUT_FIRST_BYTE"]
        .into_iter()
        .fold(plan, |plan, name| plan.env(name, "1s"))
}

/// How a reader takes its responses.
#[derive(Clone, Copy, Debug)]
enum Taking {
    /// Nothing, and the window is closed.
    Nothing,
    /// One byte, which is enough to have the rest queued.
    OneByte,
    /// A byte now and then.
    Trickle,
    /// The connection's window is closed.
    NothingTogether,
}

#[tokio::test]
async fn clients_without_a_session_that_take_no_answer_do_not_shut_others_out() {
    let upstream = Upstream::start().await;
    for taking in [Taking::Nothing, Taking::OneByte, Taking::Trickle, Taking::NothingTogether] {
        let plan = quick(Proxy::with_sign_in("github", &upstream).await).env("LIMIT_CONNECTIONS", "20");
        let proxy = plan.start().await;
        let window = match taking {
            Taking::Nothing => 0,
            Taking::OneByte | Taking::Trickle => 1,
            Taking::NothingTogether => 1 << 20,
        };
        let mut connections = Vec::new();
        for _ in 0..20 {
            let connection = H2::connect(proxy.address, window).await;
            // Enough of them use up the connection's window, which is 65535 bytes and never updated.
            for number in 0..30_u32 {
                connection.get(2 * number + 1, PAGE, &[("accept", "text/html")]).await;
            }
            connections.push(connection);
        }
        let keeping = tokio::spawn({
            let connections = connections.clone();
            async move {
                loop {
                    for connection in &connections {
                        connection.ping().await;
                        if matches!(taking, Taking::Trickle) {
                            for number in 0..30_u32 {
                                connection.widen(2 * number + 1, 1).await;
                            }
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        });
        let began = Instant::now();
        let served = async {
            let mut stream = TcpStream::connect(proxy.address).await.unwrap();
            let request = format!("GET /api/v1/auth/status HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.read_u8().await.is_ok()
        };
        assert!(tokio::time::timeout(PATIENCE, served).await.expect("shut out"), "{taking:?}");
        println!("{taking:?}: a new client was served after {:?}", began.elapsed());
        until("every client without a session is gone", async || {
            connections.iter().all(|connection| connection.received().closed)
        })
        .await;
        println!("{taking:?}: all were gone after {:?}", began.elapsed());
        keeping.abort();
    }
}

#[tokio::test]
async fn who_asks_on_and_on_without_being_let_in_gives_up_the_place_and_a_proxy_that_asks_for_others_keeps_it() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("github", &upstream).await;
    let proxy = plan.env("LIMIT_CONNECTIONS", "2").env("TRUSTED_PROXIES", "127.0.0.1").start().await;
    let again = |path: &'static str, lines: &str, served: &'static str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{lines}\r\n");
        let address = proxy.address;
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            loop {
                stream.write_all(request.as_bytes()).await.unwrap();
                wire::read_until(&mut stream, served).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
    };
    let asked = "X-Original-URI: /x\r\nX-Original-Method: GET\r\n";
    let proxy_in_front = again("/api/v1/auth/verify", asked, "}");
    let stranger = again("/api/v1/auth/status", "", "}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut new = TcpStream::connect(proxy.address).await.unwrap();
    new.write_all(format!("GET /x HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
    let served = tokio::time::timeout(Duration::from_secs(20), wire::read_until(&mut new, "}")).await;
    assert!(served.expect("shut out").starts_with("HTTP/1.1 401 "));
    until("the stranger's connection is gone", async || stranger.is_finished()).await;
    assert!(!proxy_in_front.is_finished());
}

#[tokio::test]
async fn an_answer_that_is_not_taken_is_reset_and_the_connection_goes_on() {
    let upstream = Upstream::answering(|_| Response::new("x".repeat(20_000).into())).await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_BODY", "1s").start().await;
    let connection = H2::connect(proxy.address, 0).await;
    connection.get(1, "/x", &[]).await;
    until("the stream is reset", async || connection.received().reset == [1]).await;
    connection.get(3, "/x", &[]).await;
    connection.widen(3, 1 << 20).await;
    until("the next is answered", async || connection.received().data == 20_000).await;
    assert!(!connection.received().closed);
}

#[tokio::test]
async fn requests_that_never_come_to_their_end_do_not_hold_a_connection() {
    let upstream = Upstream::start().await;
    let proxy = quick(Proxy::with_sign_in("github", &upstream).await).start().await;
    // A body that never arrives: our response comes before it.
    let unsent = H2::connect(proxy.address, 1 << 20).await;
    for number in 0..50_u32 {
        let head = h2::request("POST", "/x", &[("content-length", "1000000")]);
        unsent.send(&h2::frame(h2::HEADERS, h2::END_HEADERS, 2 * number + 1, &head)).await;
    }
    // A head that never ends, as the first and after a request.
    let half = H2::connect(proxy.address, 1 << 20).await;
    half.send(&h2::frame(h2::HEADERS, 0, 1, &h2::request("GET", "/x", &[]))).await;
    let behind = H2::connect(proxy.address, 1 << 20).await;
    behind.get(1, "/api/v1/auth/status", &[]).await;
    until("it is answered", async || behind.received().answered == [1]).await;
    behind.send(&h2::frame(h2::HEADERS, 0, 3, &h2::request("GET", "/x", &[]))).await;
    // Nothing but pings.
    let pings = H2::connect(proxy.address, 1 << 20).await;
    let all = [unsent, half, behind, pings];
    until("all are closed", async || {
        all[3].ping().await;
        all.iter().all(|connection| connection.received().closed)
    })
    .await;
    assert_eq!(all[0].received().answered.len(), 50);
    assert!(upstream.received().is_empty());
}

#[tokio::test]
async fn continuations_without_end_end_the_connection() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::with_sign_in("github", &upstream).await.start().await;
    let connection = H2::connect(proxy.address, 1 << 20).await;
    connection.send(&h2::frame(h2::HEADERS, 0, 1, &h2::request("GET", "/x", &[]))).await;
    let more = h2::frame(9, 0, 1, &h2::fields(&[("x-a", "1")]));
    until("it is closed", async || {
        connection.send(&more.repeat(1000)).await;
        connection.received().closed
    })
    .await;
}

/// A signed-in user's requests, each on a new connection: their durations, sorted. None may be closed to make room.
async fn pace_of(proxy: &Proxy, cookie: &str, requests: usize) -> Vec<Duration> {
    let mut took = Vec::new();
    for number in 0..requests {
        let began = Instant::now();
        let request = Request::get("/small").header("host", HOST).header("cookie", cookie);
        let answer = wire::try_send(proxy.address, request.body(Full::default()).unwrap()).await;
        let answer = answer.unwrap_or_else(|error| panic!("request {number} was not answered: {error}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        took.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    took.sort_unstable();
    took
}

/// How anonymous or signed-in clients fill our memory.
#[derive(Clone, Copy, Debug)]
enum Filling {
    /// HTTP/1 heads of which 60 KB were sent.
    HalfHeads,
    /// HTTP/2 heads of which 60 KB were sent.
    HalfHeads2,
    /// Our pages on streams without a window.
    Unread,
    /// Uploads of a signed-in user, over HTTP/2, to an upstream that does not read.
    Uploads,
    /// Large responses to a signed-in user, over HTTP/2, with one byte read of each.
    Downloads,
}

/// Opens a connection that holds as much as it can; `None` if it was refused.
async fn fill(address: SocketAddr, filling: Filling, cookie: &str) -> Option<Box<dyn std::any::Any + Send>> {
    match filling {
        Filling::HalfHeads => {
            let mut stream = TcpStream::connect(address).await.ok()?;
            let head = format!("GET /x HTTP/1.1\r\nHost: {HOST}\r\nX: {}", "x".repeat(60_000));
            stream.write_all(head.as_bytes()).await.ok()?;
            Some(Box::new(stream))
        }
        Filling::HalfHeads2 => {
            let mut stream = TcpStream::connect(address).await.ok()?;
            let value = "x".repeat(15_000);
            let head = h2::request("GET", "/x", &[("x-a", &value)]);
            let more = h2::fields(&[("x-a", &value)]);
            let bytes = [
                h2::preface(0),
                h2::frame(h2::HEADERS, 0, 1, &head),
                h2::frame(9, 0, 1, &more),
                h2::frame(9, 0, 1, &more),
                h2::frame(9, 0, 1, &more),
            ];
            stream.write_all(&bytes.concat()).await.ok()?;
            Some(Box::new(stream))
        }
        Filling::Unread | Filling::Downloads => {
            let connection = H2::connect(address, u32::from(matches!(filling, Filling::Downloads))).await;
            for number in 0..100_u32 {
                match filling {
                    Filling::Downloads => connection.get(2 * number + 1, "/large", &[("cookie", cookie)]).await,
                    Filling::HalfHeads | Filling::HalfHeads2 | Filling::Unread | Filling::Uploads => {
                        connection.get(2 * number + 1, PAGE, &[("accept", "text/html")]).await
                    }
                }
            }
            Some(Box::new(connection))
        }
        Filling::Uploads => {
            let connection = H2::connect(address, 1 << 20).await;
            let piece = [b'x'; 16_000];
            for number in 0..100_u32 {
                let head = h2::request("POST", "/unread", &[("cookie", cookie)]);
                connection.send(&h2::frame(h2::HEADERS, h2::END_HEADERS, 2 * number + 1, &head)).await;
            }
            for round in 0..2500_u32 {
                connection.send(&h2::frame(h2::DATA, 0, 2 * (round % 100) + 1, &piece)).await;
                if round * 16_000 > 60_000 * 100 {
                    break;
                }
            }
            Some(Box::new(connection))
        }
    }
}

/// A private control group with 256 MiB of memory; removed on drop.
struct Cgroup(PathBuf);

impl Cgroup {
    /// `None` if this process may not create one.
    fn of_256_mib() -> Option<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("sidegate-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let tops = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        tops.into_iter().find_map(|(top, limit)| {
            let group = Self(Path::new(top).join(&name));
            // Never created from ordinary files: it is a cgroup only if the kernel put the file there.
            std::fs::create_dir(&group.0).ok()?;
            let limited = group.0.join(limit).exists() && std::fs::write(group.0.join(limit), "268435456").is_ok();
            limited.then_some(group)
        })
    }

    /// The shell command to enter it.
    fn enter(&self) -> String {
        format!("echo $$ > {}/cgroup.procs", self.0.display())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its process was just killed.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Under a cgroup, if one can be created, else under the process's own limit.
async fn stays_within_memory(filling: Filling, connections: usize) {
    let cgroup = Cgroup::of_256_mib();
    let limit = cgroup.as_ref().map_or_else(|| "ulimit -d 262144".to_owned(), Cgroup::enter);
    stays_within(limit, filling, connections).await;
}

async fn stays_within(limit: String, filling: Filling, connections: usize) {
    open_files();
    let upstream = Upstream::streaming(async |request| match request.uri().path() {
        "/unread" => {
            let _unread = request;
            std::future::pending().await
        }
        "/large" => Response::new(full(vec![b'x'; 300_000])),
        _ => Response::new(full("small")),
    })
    .await;
    let plan = Proxy::with_sign_in("github", &upstream).await.under(&limit).env("LOG_LEVEL", "info");
    let proxy = plan.start().await;
    assert!(proxy.log().contains("LIMIT_MEMORY"), "the limit is found");
    let cookie = proxy.signed_in_as("ann").await.cookie_header();
    let other = proxy.signed_in_as("ann").await.cookie_header();
    let mut attack = JoinSet::new();
    for _ in 0..8 {
        let (address, cookie) = (proxy.address, cookie.clone());
        attack.spawn(async move {
            let mut held = Vec::new();
            for _ in 0..connections / 8 {
                let filled = tokio::time::timeout(Duration::from_secs(5), fill(address, filling, &cookie)).await;
                held.push(filled.ok().flatten());
            }
            held
        });
    }
    let took = pace_of(&proxy, &other, 100).await;
    let held: Vec<_> = attack.join_all().await;
    let after = pace_of(&proxy, &other, 20).await;
    println!(
        "{filling:?}, {limit}: {connections} connections, at most {} MiB resident; signed in: median {:?}, p99 {:?}; afterwards p99 {:?}",
        memory(proxy.pid(), "VmHWM") / 1024,
        took[50],
        took[98],
        after[19],
    );
    drop(held);
    // The test build is not optimised, and shares its cores with the attackers and other tests.
    let most = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });
    assert!(took[50] < Duration::from_secs(1) && took[98] < most && after[19] < most, "{took:?} {after:?}");
    assert!(memory(proxy.pid(), "VmHWM") / 1024 < 256, "it took {} MiB", memory(proxy.pid(), "VmHWM") / 1024);
    assert_eq!(proxy.admin("/livez").await.status, 200, "{}", proxy.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_sent_heads_fit_256_mib() {
    stays_within_memory(Filling::HalfHeads, 3000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_sent_heads_fit_256_mib_of_the_process_itself() {
    stays_within("ulimit -d 262144".into(), Filling::HalfHeads, 3000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_sent_heads_over_http2_fit_256_mib() {
    stays_within_memory(Filling::HalfHeads2, 3000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_pages_over_http2_fit_256_mib() {
    stays_within_memory(Filling::Unread, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_nobody_reads_fit_256_mib() {
    stays_within_memory(Filling::Uploads, 64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_fit_256_mib() {
    stays_within_memory(Filling::Downloads, 32).await;
}

#[tokio::test]
async fn a_user_who_is_signed_in_is_served_beside_more_silent_connections_than_open_files() {
    open_files();
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("github", &upstream).await.under("ulimit -n 1024");
    let proxy = plan.start().await;
    assert!(proxy.log().contains("LIMIT_CONNECTIONS is 10000, but only 432"), "{}", proxy.log());
    let cookie = proxy.signed_in_as("ann").await.cookie_header();
    let mut silent = Vec::new();
    for _ in 0..1100 {
        silent.push(TcpStream::connect(proxy.address).await.unwrap());
    }
    let began = Instant::now();
    let first = proxy.send(Request::get("/x").header("cookie", &cookie)).await;
    assert_eq!(first.status, 200, "{first:?}");
    println!("1100 silent connections: served after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(8));
    let took = pace_of(&proxy, &cookie, 50).await;
    assert!(took[48] < Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn a_burst_of_connections_waits_to_be_accepted_and_none_has_to_try_again() {
    open_files();
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    // The kernel's backlog; 4096 by default.
    let queue: usize = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
    let burst = queue.saturating_sub(96).min(4000);
    // Nothing is accepted while it is stopped.
    proxy.signal("STOP");
    let mut connecting = JoinSet::new();
    for _ in 0..burst {
        connecting.spawn(TcpStream::connect(proxy.address));
    }
    let connected = tokio::time::timeout(PATIENCE, connecting.join_all()).await;
    proxy.signal("CONT");
    assert_eq!(connected.expect("the queue is full").iter().filter(|outcome| outcome.is_ok()).count(), burst);
    assert_eq!(proxy.get("/x").await.status, 200);
}

/// Simultaneous connections wait in the kernel's queue: no client has to retry after a second, however busy the proxy is.
#[tokio::test]
async fn four_thousand_connects_at_once_wait_for_nobody() {
    const AT_ONCE: u64 = 4000;
    let queue =
        std::fs::read_to_string("/proc/sys/net/core/somaxconn").map_or(AT_ONCE, |text| text.trim().parse().unwrap());
    let number = AT_ONCE.min(queue - queue / 64).min(open_files().saturating_sub(500));
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(proxy.pid()).unwrap()).unwrap();
    // It accepts nothing while it is stopped.
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let mut connecting = JoinSet::new();
    for _ in 0..number {
        connecting.spawn(TcpStream::connect(proxy.address));
    }
    let mut connected = Vec::new();
    while let Some(connection) =
        tokio::time::timeout(PATIENCE, connecting.join_next()).await.expect("some wait in vain")
    {
        connected.push(connection.unwrap().unwrap());
    }
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert_eq!(connected.len() as u64, number);
    let last = connected.last_mut().unwrap();
    last.write_all(b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n").await.unwrap();
    assert!(wire::read_until(last, "\r\n").await.starts_with("HTTP/1.1 200"), "the last of them is answered");
}

#[tokio::test]
async fn the_soft_limit_of_open_files_is_raised() {
    let upstream = Upstream::start().await;
    let plan = Proxy::open(&upstream).under("ulimit -Sn 100");
    let proxy = plan.start().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", proxy.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[3], words[4], "{line}");
}

#[tokio::test]
async fn silent_connections_do_not_keep_probes_from_the_admin_listener() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    let mut silent = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(proxy.admin).await.unwrap();
        if number % 2 == 0 {
            stream.write_all(b"GET /readyz HTT").await.unwrap();
        }
        silent.push(stream);
    }
    for _ in 0..48 {
        let began = Instant::now();
        assert_eq!(proxy.admin("/readyz").await.status, 200);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
}
