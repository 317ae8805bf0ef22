//! An idle connection releases its buffers, and then handles the next request normally.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Response;
use http_body_util::Full;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::wire::read_until;
use crate::support::{HOST, PATIENCE, Proxy, Upstream, memory, until};
use crate::tls::Issued;

/// Longer than a connection keeps unused buffers.
const LONG: Duration = Duration::from_millis(1300);

/// Sends bytes, at once or one by one, and reads a response up to `end`.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8], one_by_one: bool, end: &str) -> String {
    for piece in bytes.chunks(if one_by_one { 1 } else { bytes.len() }) {
        stream.write_all(piece).await.unwrap();
        stream.flush().await.unwrap();
        if one_by_one {
            tokio::task::yield_now().await;
        }
    }
    read_until(stream, end).await
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").into_bytes()
}

fn post(path: &str, body: &str) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

async fn is_used_after_rests(mut stream: impl AsyncRead + AsyncWrite + Unpin, upstream: &Upstream) {
    for one_by_one in [false, true] {
        for (request, path) in [
            (get("/a"), "/a"),
            (get("/b?q=\"<x>\""), "/b?q=%22%3Cx%3E%22"),
            (post("/c", "body"), "/c"),
            ([b"\r\n".to_vec(), get("/d")].concat(), "/d"),
        ] {
            // A request that is not normalized one byte at a time is refused by the parser: that does not matter here.
            if one_by_one && path.contains('?') {
                continue;
            }
            let answer = ask(&mut stream, &request, one_by_one, "upstream").await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            assert_eq!(upstream.last().uri, path);
            tokio::time::sleep(LONG).await;
        }
    }
}

#[tokio::test]
async fn a_connection_is_used_again_after_a_rest() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    is_used_after_rests(TcpStream::connect(proxy.address).await.unwrap(), &upstream).await;
}

#[tokio::test]
async fn so_is_one_with_tls() {
    let (upstream, issued) = (Upstream::start().await, Issued::new());
    let proxy = issued.shown_by(Proxy::open(&upstream)).start().await;
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    is_used_after_rests(issued.handshake(stream).await, &upstream).await;
}

#[tokio::test]
async fn an_answer_that_its_reader_leaves_for_a_while_comes_whole() {
    let upstream = Upstream::answering(|asked| {
        let length = asked.uri.path().trim_start_matches('/').parse().unwrap();
        Response::new(Full::from(vec![b'x'; length]))
    })
    .await;
    let issued = Issued::new();
    let proxy = issued.shown_by(Proxy::open(&upstream)).start().await;
    let plain = Proxy::open(&upstream).start().await;
    let ask = async |address: SocketAddr, length: usize, has_tls: bool| {
        // A small window, so that the proxy has to hold much of the response.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 * 1024).unwrap();
        let stream = socket.connect(address).await.unwrap();
        let request = format!("GET /{length} HTTP/1.1\r\nHost: {HOST}\r\nConnection: keep-alive\r\n\r\n");
        let read = if has_tls {
            read_late(issued.handshake(stream).await, request.as_bytes(), length).await
        } else {
            read_late(stream, request.as_bytes(), length).await
        };
        assert_eq!(read, length, "TLS: {has_tls}");
    };
    // Lengths between what the kernel buffers and what the proxy buffers.
    let lengths = (0..24).map(|step| 16 * 1024 * (step * step + 1));
    let asking = lengths.flat_map(|length| [ask(proxy.address, length, true), ask(plain.address, length, false)]);
    futures_util::future::join_all(asking).await;
}

/// How many bytes of a body reach a client that starts to read late.
async fn read_late(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8], length: usize) -> usize {
    stream.write_all(request).await.unwrap();
    tokio::time::sleep(2 * LONG).await;
    read_until(&mut stream, "\r\n\r\n").await;
    let mut body = vec![0; length];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut body)).await.expect("the end does not come").unwrap()
}

#[tokio::test]
async fn what_comes_after_a_rest_has_the_time_of_a_head_and_a_rest_the_time_of_an_unused_connection() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_HEADER", "1s").env("TIMEOUT_IDLE", "4s").start().await;
    for (more, least, most) in [("", 4, 6), ("GET / HT", 1, 3)] {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        ask(&mut stream, &get("/"), false, "upstream").await;
        let mut began = Instant::now();
        if !more.is_empty() {
            tokio::time::sleep(LONG).await;
            stream.write_all(more.as_bytes()).await.unwrap();
            began = Instant::now();
        }
        let mut rest = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it stays open").unwrap();
        let took = began.elapsed();
        assert!(
            rest.is_empty() && took > Duration::from_secs(least) - Duration::from_millis(100),
            "{more:?}: {took:?}"
        );
        assert!(took < Duration::from_secs(most), "{more:?}: {took:?}");
    }
}

#[tokio::test]
async fn a_restart_closes_what_rests_at_once() {
    let upstream = Upstream::start().await;
    let mut proxy = Proxy::open(&upstream).start().await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    ask(&mut stream, &get("/"), false, "upstream").await;
    tokio::time::sleep(LONG).await;
    proxy.signal("TERM");
    let began = Instant::now();
    assert!(proxy.ended().await.success());
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test]
async fn connections_at_rest_take_little_memory() {
    const AT_ONCE: u64 = 100;
    const TIMES: u64 = 4;
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    let resident = || memory(proxy.pid(), "VmRSS") * 1024;
    let mut open = Vec::new();
    // Buffers that the first connections release serve later ones.
    let mut before = 0;
    for time in 0..=TIMES {
        for _ in 0..AT_ONCE {
            let mut stream = TcpStream::connect(proxy.address).await.unwrap();
            ask(&mut stream, &get("/"), false, "upstream").await;
            open.push(stream);
        }
        tokio::time::sleep(LONG).await;
        if time == 0 {
            before = resident();
        }
    }
    let each = resident().saturating_sub(before) / (TIMES * AT_ONCE);
    println!("a connection at rest takes {each} bytes");
    assert!(each < 8 * 1024, "{each} bytes");
}

/// An upstream that answers before it has read a body; and how much of the body it has read, if it `reads` on.
async fn early(reads: bool) -> (Upstream, Arc<AtomicUsize>) {
    let come = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&come);
    let upstream = Upstream::raw(move |mut stream| {
        let counted = Arc::clone(&counted);
        async move {
            read_until(&mut stream, "\r\n\r\n").await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly").await.unwrap();
            let mut piece = vec![0; 64 * 1024];
            while reads && let Ok(length @ 1..) = stream.read(&mut piece).await {
                counted.fetch_add(length, Ordering::Relaxed);
            }
            tokio::time::sleep(PATIENCE).await;
        }
    })
    .await;
    (upstream, come)
}

/// Sends as much as is taken. Returns how much that was.
async fn send_until_stuck(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    let mut sent = 0;
    while sent < bytes.len()
        && let Ok(written) = tokio::time::timeout(Duration::from_millis(500), stream.write(&bytes[sent..])).await
    {
        sent += written.unwrap();
    }
    sent
}

#[tokio::test]
async fn what_is_left_of_a_body_after_an_early_answer_is_no_request() {
    // More than all buffers on the way hold.
    const LENGTH: usize = 64 << 20;
    let rest: Vec<u8> = get("/smuggled").into_iter().cycle().take(LENGTH).collect();
    for reads in [true, false] {
        let (upstream, come) = early(reads).await;
        let proxy = Proxy::open(&upstream).start().await;
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let head = format!("POST /a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {LENGTH}\r\n\r\n");
        let answer = ask(&mut stream, head.as_bytes(), false, "early").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        if !reads {
            let sent = send_until_stuck(&mut stream, &rest).await;
            assert!(sent < LENGTH, "the body must be stuck");
        }
        tokio::time::sleep(LONG).await;
        let sent = send_until_stuck(&mut stream, if reads { &rest } else { &rest[..1000] }).await;
        assert_eq!(sent == LENGTH, reads);
        if reads {
            until("the body comes whole", async || come.load(Ordering::Relaxed) == LENGTH).await;
        }
        let more = tokio::time::timeout(LONG, stream.read(&mut [0])).await;
        assert!(more.is_err(), "a part of the body was answered: {more:?}");
        assert_eq!(upstream.connections(), 1);
    }
}

#[tokio::test]
async fn a_body_that_goes_on_after_its_answer_has_its_own_time_and_the_connection_rests_behind_it() {
    let (upstream, come) = early(true).await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_HEADER", "1s").env("TIMEOUT_IDLE", "3s").start().await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let head = format!("POST /a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 10\r\n\r\n");
    ask(&mut stream, head.as_bytes(), false, "early").await;
    for sent in 1..=10 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        stream.write_all(b"x").await.unwrap();
        until("it comes", async || come.load(Ordering::Relaxed) == sent).await;
    }
    let began = Instant::now();
    let end = tokio::time::timeout(PATIENCE, stream.read(&mut [0])).await.expect("it never counts as idle");
    assert_eq!(end.unwrap(), 0);
    assert!((2..6).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}
