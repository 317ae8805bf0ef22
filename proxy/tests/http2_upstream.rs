//! Connections to an HTTP/2 upstream, shared by many requests: which requests are retried when one refuses them or breaks off, and when
//! another is opened.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::channel;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::client::{full, next_data, pieces};
use crate::support::h2::{self, DATA, END_HEADERS, END_STREAM, HEADERS, PING};
use crate::support::proxy::Plan;
use crate::support::wire::read_until;
use crate::support::{Client, HOST, Proxy, Upstream, until};

const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;

const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;

/// What the upstream does with one request, the first or the second on its first connection; it answers every other one with 200.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    /// Resets the stream with this error code.
    Resets(u32),
    /// Sends GOAWAY, having processed only the streams before it.
    GoesAwayBefore,
    /// The same, and closes the connection at once.
    GoesAwayBeforeAndCloses,
    /// Sends GOAWAY, having possibly processed it, and closes the connection.
    GoesAwayAfterAndCloses,
    /// Closes the connection.
    Closes,
    /// Answers, and closes the connection after the first response.
    ClosesWhenIdle,
}

/// What was received.
#[derive(Default)]
struct Seen {
    requests: AtomicUsize,
    connections: AtomicUsize,
}

/// Kind, flags, stream and payload of the next frame; `None` at the end.
async fn frame(stream: &mut TcpStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
}

async fn serve(mut stream: TcpStream, does: Does, at: usize, seen: Arc<Seen>) {
    seen.connections.fetch_add(1, Ordering::SeqCst);
    stream.write_all(&h2::frame(SETTINGS, 0, 0, &[])).await.unwrap();
    let mut preface = [0; 24];
    let _ = stream.read_exact(&mut preface).await;
    let (mut here, mut body) = (0, Vec::new());
    while let Some((kind, flags, id, payload)) = frame(&mut stream).await {
        let goes_away = |last: u32| h2::frame(GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat());
        match kind {
            HEADERS => {
                here += 1;
                body.clear();
                seen.requests.fetch_add(1, Ordering::SeqCst);
            }
            DATA => body.extend_from_slice(&payload),
            _ => {}
        }
        let is_whole = matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0;
        let answer = match (kind, flags & ACK) {
            (SETTINGS, 0) => h2::frame(SETTINGS, ACK, 0, &[]),
            (PING, 0) => h2::frame(PING, ACK, 0, &payload),
            _ if !is_whole => Vec::new(),
            _ if here != at || seen.requests.load(Ordering::SeqCst) != at => {
                let head = h2::frame(HEADERS, END_HEADERS, id, &h2::fields(&[(":status", "200")]));
                [head, h2::frame(DATA, END_STREAM, id, &body)].concat()
            }
            _ => match does {
                Does::Resets(reason) => h2::frame(RST_STREAM, 0, id, &reason.to_be_bytes()),
                Does::GoesAwayBefore | Does::GoesAwayBeforeAndCloses => goes_away(id.saturating_sub(2)),
                Does::GoesAwayAfterAndCloses => goes_away(id),
                Does::Closes | Does::ClosesWhenIdle => Vec::new(),
            },
        };
        let _ = stream.write_all(&answer).await;
        let closes = match does {
            Does::Closes | Does::GoesAwayAfterAndCloses | Does::GoesAwayBeforeAndCloses => here == at && is_whole,
            Does::ClosesWhenIdle => here == 1 && seen.requests.load(Ordering::SeqCst) == 1 && is_whole,
            Does::Resets(_) | Does::GoesAwayBefore => false,
        };
        if closes && seen.connections.load(Ordering::SeqCst) == 1 {
            // Reads to the end: closing with unread bytes would reset the connection and lose the last sent bytes.
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
            return;
        }
    }
}

/// `at`: with which request it does it.
async fn upstream(does: Does, at: usize) -> (Upstream, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let kept = Arc::clone(&seen);
    (Upstream::raw(move |stream| serve(stream, does, at, Arc::clone(&kept))).await, seen)
}

/// As `UPSTREAM_URL`, and as a named one.
fn plans(upstream: &Upstream) -> [Plan; 2] {
    let url = format!("h2c://{}", upstream.address);
    let file = format!("[[upstreams]]\nname = \"app\"\nurls = [\"{url}\"]\n[[routes]]\nupstream = \"app\"\n");
    [
        Proxy::open(upstream).env("UPSTREAM_URL", url),
        Proxy::open(upstream).file("SIDEGATE_CONFIG", "sidegate.toml", &file),
    ]
}

#[tokio::test]
async fn a_request_is_sent_again_where_the_upstream_has_not_looked_at_it_or_it_may_be_repeated() {
    let long = "x".repeat(20_000);
    let cases: [(Does, &str, &str, u16, usize); 20] = [
        // The upstream reports that it has not processed the request: any request is retried.
        (Does::Resets(REFUSED_STREAM), "GET", "", 200, 3),
        (Does::Resets(REFUSED_STREAM), "POST", "", 200, 3),
        (Does::GoesAwayBefore, "GET", "", 200, 3),
        (Does::GoesAwayBefore, "POST", "", 200, 3),
        (Does::GoesAwayBefore, "PATCH", "", 200, 3),
        (Does::GoesAwayBeforeAndCloses, "POST", "", 200, 3),
        (Does::Resets(REFUSED_STREAM), "POST", "body", 200, 3),
        (Does::GoesAwayBefore, "POST", "body", 200, 3),
        // A long body has already been sent.
        (Does::Resets(REFUSED_STREAM), "POST", &long, 502, 2),
        // The upstream may have processed it: only idempotent requests are retried.
        (Does::Closes, "GET", "", 200, 3),
        (Does::Closes, "DELETE", "", 200, 3),
        (Does::Closes, "POST", "", 502, 2),
        (Does::Closes, "PUT", "body", 502, 2),
        (Does::GoesAwayAfterAndCloses, "GET", "", 200, 3),
        (Does::GoesAwayAfterAndCloses, "POST", "", 502, 2),
        // Only this request was cancelled; the connection is fine.
        (Does::Resets(CANCEL), "GET", "", 502, 2),
        (Does::Resets(CANCEL), "POST", "", 502, 2),
        // Nothing was sent on the old connection.
        (Does::ClosesWhenIdle, "GET", "", 200, 2),
        (Does::ClosesWhenIdle, "POST", "", 200, 2),
        (Does::ClosesWhenIdle, "POST", "body", 200, 2),
    ];
    for (does, method, body, status, requests) in cases {
        for place in 0..2 {
            let (upstream, seen) = upstream(does, 2).await;
            let [usual, named] = plans(&upstream);
            let proxy = if place == 0 { usual } else { named }.start().await;
            assert_eq!(proxy.get("/first").await.status.as_u16(), 200, "{does:?}");
            if does == Does::ClosesWhenIdle {
                until("the proxy knows that it is closed", async || {
                    let metrics = proxy.admin("/metrics").await.text();
                    metrics
                        .lines()
                        .filter(|line| line.starts_with("sidegate_upstream_connections{"))
                        .all(|line| line.ends_with(" 0"))
                })
                .await;
            }
            let answer = proxy.send_body(Request::builder().method(method).uri("/second"), body.to_owned()).await;
            let context = format!("{does:?} {method} {} {place}\n{}", body.len(), proxy.log());
            assert_eq!(answer.status.as_u16(), status, "{context}");
            assert!(status != 200 || answer.body == body.as_bytes(), "{context}");
            assert_eq!(seen.requests.load(Ordering::SeqCst), requests, "{context}");
            assert_eq!(proxy.get("/third").await.status.as_u16(), 200, "{context}");
            let broken = !matches!(does, Does::Resets(_));
            assert_eq!(seen.connections.load(Ordering::SeqCst), 1 + usize::from(broken), "{context}");
        }
    }
}

/// Also where there is no other backend, and the connection was opened for the request.
#[tokio::test]
async fn a_first_request_that_the_upstream_has_not_looked_at_is_sent_again_too() {
    for does in [Does::Resets(REFUSED_STREAM), Does::GoesAwayBefore, Does::GoesAwayBeforeAndCloses] {
        for (method, body) in [("GET", ""), ("POST", ""), ("POST", "body")] {
            for place in 0..2 {
                let (upstream, seen) = upstream(does, 1).await;
                let [usual, named] = plans(&upstream);
                let proxy = if place == 0 { usual } else { named }.start().await;
                let answer = proxy.send_body(Request::builder().method(method).uri("/first"), body).await;
                let context = format!("{does:?} {method} {body} {place}\n{}", proxy.log());
                assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, body), "{context}");
                assert_eq!(seen.requests.load(Ordering::SeqCst), 2, "{context}");
                let broken = !matches!(does, Does::Resets(_));
                assert_eq!(seen.connections.load(Ordering::SeqCst), 1 + usize::from(broken), "{context}");
            }
        }
    }
}

/// Requests on a connection that gets GOAWAY: those that were processed are answered on it, the others on a new one.
#[tokio::test]
async fn of_many_requests_on_a_connection_that_goes_away_each_is_answered_once() {
    const TAKEN: usize = 10;
    let (answered, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&answered);
    let upstream = Upstream::raw(move |mut stream| {
        let (count, is_first) = (Arc::clone(&count), connections.fetch_add(1, Ordering::SeqCst) == 0);
        async move {
            stream.write_all(&h2::frame(SETTINGS, 0, 0, &[])).await.unwrap();
            let mut preface = [0; 24];
            let _ = stream.read_exact(&mut preface).await;
            let mut taken = Vec::new();
            while let Some((kind, flags, id, payload)) = frame(&mut stream).await {
                let mut out = match (kind, flags & ACK) {
                    (SETTINGS, 0) => h2::frame(SETTINGS, ACK, 0, &[]),
                    (PING, 0) => h2::frame(PING, ACK, 0, &payload),
                    _ => Vec::new(),
                };
                let well = |id| h2::frame(HEADERS, END_STREAM | END_HEADERS, id, &h2::fields(&[(":status", "200")]));
                if kind == HEADERS && !is_first {
                    count.fetch_add(1, Ordering::SeqCst);
                    out.extend(well(id));
                } else if kind == HEADERS && taken.len() < TAKEN {
                    taken.push(id);
                    if taken.len() == TAKEN {
                        out.extend(h2::frame(GOAWAY, 0, 0, &[id.to_be_bytes(), [0; 4]].concat()));
                        count.fetch_add(TAKEN, Ordering::SeqCst);
                        out.extend(taken.iter().flat_map(|id| well(*id)));
                    }
                }
                if stream.write_all(&out).await.is_err() {
                    break;
                }
            }
        }
    })
    .await;
    let [usual, _] = plans(&upstream);
    let proxy = usual.start().await;
    let all = futures_util::future::join_all((0..30).map(|_| proxy.send_body(Request::post("/x"), ""))).await;
    let statuses: Vec<u16> = all.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(statuses, [200; 30], "{}", proxy.log());
    assert_eq!(answered.load(Ordering::SeqCst), 30);
}

/// The other ends of responses that have not ended.
type Held = Arc<Mutex<Vec<channel::Sender<Bytes>>>>;

/// An upstream that allows so many streams on a connection, and says in `x-app` on which one it answers. Under `/held` the response does
/// not end before its other end is dropped.
async fn narrow(streams: u32) -> (Upstream, Held) {
    slow_to_open(streams, Duration::ZERO).await
}

/// The same, but each connection after the first one says nothing for `pause`, and a response under `/short` takes 20 ms.
async fn slow_to_open(streams: u32, pause: Duration) -> (Upstream, Held) {
    let (held, connections) = (Held::default(), AtomicUsize::new(0));
    let kept = Arc::clone(&held);
    let upstream = Upstream::raw(move |stream| {
        let (kept, number) = (Arc::clone(&kept), connections.fetch_add(1, Ordering::SeqCst) + 1);
        async move {
            if number > 1 {
                tokio::time::sleep(pause).await;
            }
            let service = service_fn(move |request: Request<Incoming>| {
                let takes = if request.uri().path() == "/short" { Duration::from_millis(20) } else { Duration::ZERO };
                let body = if request.uri().path().starts_with("/held") {
                    let (sender, body) = pieces();
                    kept.lock().unwrap().push(sender);
                    body
                } else {
                    full("small")
                };
                let answer = Response::builder().header("x-app", number).body(body).unwrap();
                async move {
                    tokio::time::sleep(takes).await;
                    Ok::<_, Infallible>(answer)
                }
            });
            let mut server = http2::Builder::new(TokioExecutor::new());
            server.max_concurrent_streams(streams);
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await;
    (upstream, held)
}

/// A response without end, its client, and the number of the upstream's connection.
async fn hold(proxy: &Proxy) -> (Incoming, Client, String) {
    let mut client = Client::http1(proxy.address).await;
    let answer = client.get("/held").await.unwrap();
    assert_eq!(answer.status().as_u16(), 200, "{}", proxy.log());
    let number = answer.headers()["x-app"].to_str().unwrap().to_owned();
    (answer.into_body(), client, number)
}

#[tokio::test]
async fn when_a_connection_has_all_the_streams_it_may_have_another_is_opened_and_the_first_is_used_again_later() {
    for place in 0..2 {
        let (upstream, held) = narrow(4).await;
        let [usual, named] = plans(&upstream);
        let proxy = if place == 0 { usual } else { named }.start().await;
        let mut long = Vec::new();
        for _ in 0..4 {
            long.push(hold(&proxy).await);
        }
        assert!(long.iter().all(|(_, _, number)| number == "1"), "{}", proxy.log());
        for method in ["GET", "POST"] {
            let began = Instant::now();
            let answer = proxy.send_body(Request::builder().method(method).uri("/small"), "").await;
            assert_eq!((answer.status.as_u16(), answer.header("x-app").as_str()), (200, "2"), "{}", proxy.log());
            assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        }
        held.lock().unwrap().clear();
        for (body, _, _) in &mut long {
            assert!(next_data(body).await.is_none());
        }
        until("the first connection is used again", async || proxy.get("/small").await.header("x-app") == "1").await;
        assert_eq!(upstream.connections(), 2);
    }
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_stream_back() {
    let (upstream, _held) = narrow(1).await;
    let [usual, _] = plans(&upstream);
    let proxy = usual.start().await;
    let (body, client, number) = hold(&proxy).await;
    assert_eq!((number.as_str(), proxy.get("/small").await.header("x-app").as_str()), ("1", "2"));
    drop((body, client));
    until("the first connection is used again", async || proxy.get("/small").await.header("x-app") == "1").await;
}

#[tokio::test]
async fn a_further_connection_without_streams_is_given_up_and_the_first_is_kept() {
    let (upstream, held) = narrow(1).await;
    let [_, named] = plans(&upstream);
    let proxy = named.start().await;
    let open = async || {
        let metrics = proxy.admin("/metrics").await.text();
        let line =
            metrics.lines().find(|line| line.starts_with("sidegate_upstream_connections{upstream=\"app\"")).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    let _long = hold(&proxy).await;
    assert_eq!(proxy.get("/small").await.header("x-app"), "2");
    assert_eq!(open().await, "2");
    until("the second connection is closed", async || open().await == "1").await;
    held.lock().unwrap().clear();
    until("the first connection is used", async || proxy.get("/small").await.header("x-app") == "1").await;
}

#[tokio::test]
async fn many_requests_at_once_on_no_connection_yet_are_spread_over_as_many_as_they_need() {
    let (upstream, _held) = narrow(4).await;
    let [usual, _] = plans(&upstream);
    let proxy = usual.start().await;
    let began = Instant::now();
    let _all = futures_util::future::join_all((0..12).map(|_| hold(&proxy))).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(upstream.connections(), 3);
}

#[tokio::test]
async fn beyond_the_most_connections_a_request_waits_for_a_stream_and_no_longer_than_for_a_connection() {
    let (upstream, held) = narrow(1).await;
    let [usual, _] = plans(&upstream);
    let proxy = usual.env("TIMEOUT_CONNECT", "1s").start().await;
    let mut long = Vec::new();
    for _ in 0..16 {
        long.push(hold(&proxy).await);
    }
    let began = Instant::now();
    let refused = proxy.send_body(Request::post("/small"), "a body").await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (502, "upstream_unreachable"));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    proxy.logs("its 16 HTTP/2 connections have as many streams as it allows").await;
    assert!(proxy.admin("/readyz").await.text().contains("takes no more requests at once"));
    let (answer, ()) = tokio::join!(proxy.get("/small"), async { drop(held.lock().unwrap().pop()) });
    assert_eq!(answer.status.as_u16(), 200, "{}", proxy.log());
    proxy.logs("can be reached again").await;
    assert_eq!(upstream.connections(), 16);
}

/// The requests of others do not suffer from a server that takes one connection only.
#[tokio::test]
async fn where_no_second_connection_can_be_had_a_request_waits_for_a_stream_of_the_first() {
    let (upstream, held) = narrow(1).await;
    let (address, taken) = only_one(upstream.address).await;
    let proxy = Proxy::open(&upstream).env("UPSTREAM_URL", format!("h2c://{address}")).start().await;
    let _long = hold(&proxy).await;
    let waits = async {
        // A second connection has been tried.
        until("it is refused", async || taken.load(Ordering::SeqCst) >= 2).await;
        held.lock().unwrap().clear();
    };
    let (answer, ()) = tokio::join!(proxy.get("/small"), waits);
    assert_eq!((answer.status.as_u16(), answer.header("x-app").as_str()), (200, "1"), "{}", proxy.log());
}

/// An upstream that answers every request before it reads the body, says in `x-app` on which connection, and takes of its bodies only what
/// fits into the first window. The very first response does not end. And how many connections have ended.
async fn deaf() -> (Upstream, Arc<AtomicUsize>) {
    let (connections, ended) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&ended);
    let upstream = Upstream::raw(move |mut stream| {
        let (number, count) = (connections.fetch_add(1, Ordering::SeqCst) + 1, Arc::clone(&count));
        async move {
            stream.write_all(&h2::frame(SETTINGS, 0, 0, &[])).await.unwrap();
            let mut preface = [0; 24];
            let _ = stream.read_exact(&mut preface).await;
            let name = number.to_string();
            let head = [(":status", "200"), ("content-type", "text/event-stream"), ("x-app", name.as_str())];
            while let Some((kind, flags, id, payload)) = frame(&mut stream).await {
                let end = if (number, id) == (1, 1) { 0 } else { END_STREAM };
                let out = match (kind, flags & ACK) {
                    (SETTINGS, 0) => h2::frame(SETTINGS, ACK, 0, &[]),
                    (PING, 0) => h2::frame(PING, ACK, 0, &payload),
                    (HEADERS, _) => h2::frame(HEADERS, END_HEADERS | end, id, &h2::fields(&head)),
                    _ => Vec::new(),
                };
                let _ = stream.write_all(&out).await;
            }
            count.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    (upstream, ended)
}

#[tokio::test]
async fn a_connection_on_which_the_rest_of_an_answered_request_is_stuck_is_given_up_and_ends_after_its_other_streams() {
    // Of the shorter one the last piece waits alone: the window has 65,535 bytes.
    for (place, length) in [1 << 20, 65_635].into_iter().enumerate() {
        let (upstream, ended) = deaf().await;
        let [usual, named] = plans(&upstream);
        let proxy = if place == 0 { usual } else { named }.env("TIMEOUT_BODY", "1s").start().await;
        let (mut long, client, number) = hold(&proxy).await;
        let mut uploading = TcpStream::connect(proxy.address).await.unwrap();
        let head = format!("POST /x HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n");
        uploading.write_all(head.as_bytes()).await.unwrap();
        let answer = read_until(&mut uploading, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("x-app: 1\r\n"), "{answer}");
        assert_eq!(number, "1");
        let rest = tokio::spawn(async move {
            for piece in vec![b'x'; length].chunks(65_535) {
                let _cut = uploading.write_all(piece).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            uploading
        });
        until("another connection is used", async || proxy.get("/x").await.header("x-app") == "2").await;
        let cut = tokio::time::timeout(Duration::from_secs(2), http_body_util::BodyExt::frame(&mut long)).await;
        assert!(cut.is_err(), "another's answer was cut off: {cut:?}");
        assert_eq!(ended.load(Ordering::SeqCst), 0, "{}", proxy.log());
        drop((long, client));
        until("the first connection ends", async || ended.load(Ordering::SeqCst) == 1).await;
        assert_eq!(proxy.get("/x").await.header("x-app"), "2");
        rest.abort();
    }
}

/// An address that passes the first connection on, and closes every other one at once; and how many there were.
pub async fn only_one(behind: std::net::SocketAddr) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, taken) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&taken);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                tokio::spawn(async move {
                    let mut other = TcpStream::connect(behind).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut other).await;
                });
            }
        }
    });
    (address, taken)
}

#[tokio::test]
async fn while_streams_end_all_the_time_another_connection_is_opened_all_the_same() {
    let (upstream, _held) = slow_to_open(2, Duration::from_millis(200)).await;
    let [proxy, _named] = plans(&upstream);
    let proxy = proxy.start().await;
    let (mut asking, began) = (tokio::task::JoinSet::new(), Instant::now());
    for _ in 0..6 {
        let mut client = Client::http1(proxy.address).await;
        asking.spawn(async move {
            let mut by = Vec::new();
            while began.elapsed() < Duration::from_secs(2) {
                let answer = client.get("/short").await.unwrap();
                assert_eq!(answer.status().as_u16(), 200);
                by.push(answer.headers()["x-app"].to_str().unwrap().to_owned());
                let _whole = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
            }
            by
        });
    }
    let by: Vec<String> = asking.join_all().await.into_iter().flatten().collect();
    let elsewhere = by.iter().filter(|number| *number != "1").count();
    assert!(elsewhere > by.len() / 4, "{elsewhere} of {}", by.len());
    assert!(upstream.connections() <= 4, "{} were begun", upstream.connections());
}
