//! One connection to an HTTP/2 upstream, shared by all requests: which requests are retried when it refuses one or breaks off.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::h2::{self, DATA, END_HEADERS, END_STREAM, HEADERS, PING};
use crate::support::proxy::Plan;
use crate::support::{Proxy, Upstream, until};

const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;

const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;

/// What the upstream does with the second request on a connection, once; it answers every other one with 200.
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

async fn serve(mut stream: TcpStream, does: Does, seen: Arc<Seen>) {
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
            _ if here != 2 || seen.requests.load(Ordering::SeqCst) != 2 => {
                let head = h2::frame(HEADERS, END_HEADERS, id, &h2::fields(&[(":status", "200")]));
                [head, h2::frame(DATA, END_STREAM, id, &body)].concat()
            }
            _ => match does {
                Does::Resets(reason) => h2::frame(RST_STREAM, 0, id, &reason.to_be_bytes()),
                Does::GoesAwayBefore | Does::GoesAwayBeforeAndCloses => goes_away(id - 2),
                Does::GoesAwayAfterAndCloses => goes_away(id),
                Does::Closes | Does::ClosesWhenIdle => Vec::new(),
            },
        };
        let _ = stream.write_all(&answer).await;
        let closes = match does {
            Does::Closes | Does::GoesAwayAfterAndCloses | Does::GoesAwayBeforeAndCloses => here == 2 && is_whole,
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

async fn upstream(does: Does) -> (Upstream, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let kept = Arc::clone(&seen);
    (Upstream::raw(move |stream| serve(stream, does, Arc::clone(&kept))).await, seen)
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
            let (upstream, seen) = upstream(does).await;
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
