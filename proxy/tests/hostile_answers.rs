//! An upstream with malformed responses: each is read in only one way, or refused, and none becomes another request's response.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Request, StatusCode, Version};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::client::full;
use crate::support::{Client, Proxy, Upstream, until};

/// The outcome of a response.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// The client reads exactly this body.
    Body(&'static str),
    /// The client gets 502 instead.
    Refused,
    /// Its head is forwarded; its body breaks off.
    Broken,
}
use Fate::{Body, Broken, Refused};

async fn read_head(stream: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return false,
        }
    }
    true
}

/// Answers each request with `bytes`, all at once or byte by byte, and then closes.
async fn answering(bytes: &'static [u8], piecemeal: bool) -> Upstream {
    Upstream::raw(move |mut stream| async move {
        if !read_head(&mut stream).await {
            return;
        }
        stream.set_nodelay(true).unwrap();
        for piece in bytes.chunks(if piecemeal { 1 } else { bytes.len().max(1) }) {
            if stream.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

async fn expect_fate(bytes: &'static [u8], fate: Fate) {
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]);
    for piecemeal in [false, true] {
        // A long response byte by byte would only take time.
        if piecemeal && bytes.len() > 1000 {
            continue;
        }
        let upstream = answering(bytes, piecemeal).await;
        let proxy = Proxy::open(&upstream).start().await;
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let mut client = Client::of(version, proxy.address).await;
            let outcome = match client.get("/x").await {
                Err(_) => None,
                Ok(answer) => {
                    let status = answer.status();
                    answer.into_body().collect().await.ok().map(|body| (status, body.to_bytes()))
                }
            };
            match fate {
                Body(text) => assert_eq!(outcome.unwrap().1, text, "{shown:?} {version:?}"),
                Refused => assert_eq!(outcome.unwrap().0, StatusCode::BAD_GATEWAY, "{shown:?} {version:?}"),
                Broken => assert!(outcome.is_none(), "{shown:?} {version:?}: {outcome:?}"),
            }
        }
    }
}

#[tokio::test]
async fn an_answer_has_one_reading_or_none() {
    let table: &[(&'static [u8], Fate)] = &[
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Body("ok")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", Body("ok")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", Body("ok")),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", Body("ok")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more", Body("ok")),
        (b"HTTP/1.1 200 OK\r\n\r\nall of it", Body("all of it")),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", Body("ok")),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", Body("")),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Body("ok")),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\nX: 1\r\n\r\n", Body("ok")),
        // The transfer coding wins, and the length is not forwarded (RFC 9112 section 6.3).
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Body("ok")),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Body("ok")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", Refused),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok", Refused),
        (b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", Refused),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok", Refused),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Refused),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused),
        (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Refused),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", Refused),
        (b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 2\r\n\r\nok", Refused),
        (b"HTTP/1.1 200 OK\r\nX: a\0\r\nContent-Length: 2\r\n\r\nok", Refused),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", Refused),
        (b"HTTP/1.1 100 Continue\r\n\r\n", Refused),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", Refused),
        (b"HTTP/3 200 OK\r\n\r\n", Refused),
        (b"\0\0\0\0\r\n\r\n", Refused),
        (b"", Refused),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", Broken),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", Broken),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", Broken),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nok\n0\n\n", Broken),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok!\r\n0\r\n\r\n", Broken),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n", Broken),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nok\r\n0\r\n\r\n", Broken),
    ];
    for (bytes, fate) in table {
        expect_fate(bytes, *fate).await;
    }
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    expect_fate(Box::leak(long.into_bytes().into_boxed_slice()), Refused).await;
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: 1\r\n".repeat(1000));
    expect_fate(Box::leak(many.into_bytes().into_boxed_slice()), Refused).await;
}

/// Interim responses for as long as they are read: as fast as possible, or with a pause in between.
async fn endless_interim(pause: Duration) -> Upstream {
    Upstream::raw(move |mut stream| async move {
        let some = b"HTTP/1.1 102 Processing\r\n\r\n".repeat(if pause.is_zero() { 1000 } else { 1 });
        if read_head(&mut stream).await {
            while stream.write_all(&some).await.is_ok() {
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn interim_answers_without_end_are_no_answer() {
    for pause in [Duration::ZERO, Duration::from_millis(300)] {
        let upstream = endless_interim(pause).await;
        let proxy = Proxy::open(&upstream).env("TIMEOUT_FIRST_BYTE", "1s").start().await;
        let began = Instant::now();
        let answer = proxy.get("/x").await;
        let took = began.elapsed();
        assert!(matches!(answer.status.as_u16(), 502 | 504), "{answer:?}");
        assert!(took < Duration::from_secs(3), "{pause:?}: {took:?}");
    }
}

#[tokio::test]
async fn what_stands_behind_an_answer_never_becomes_the_next_one() {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    const EVIL: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for at_once in [true, false] {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let upstream = Upstream::raw(move |mut stream| {
            let count = Arc::clone(&count);
            async move {
                stream.set_nodelay(true).unwrap();
                while read_head(&mut stream).await {
                    if at_once {
                        stream.write_all(&[OK, EVIL].concat()).await.unwrap();
                    } else {
                        stream.write_all(OK).await.unwrap();
                        stream.write_all(EVIL).await.unwrap();
                    }
                    count.fetch_add(1, Ordering::SeqCst);
                }
            }
        })
        .await;
        let proxy = Proxy::open(&upstream).start().await;
        let mut client = Client::http1(proxy.address).await;
        for number in 1..=120 {
            let request = if number % 3 == 0 { Request::post("/x") } else { Request::get("/x") };
            let answer = client.send(request, full("")).await.unwrap();
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok", "{number}");
            until("all was sent", async || sent.load(Ordering::SeqCst) == number).await;
        }
    }
}

#[tokio::test]
async fn a_body_where_none_may_be_never_becomes_the_next_answer() {
    const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for (method, head) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 42\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 42\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", "HTTP/1.1 205 Reset Content\r\nContent-Length: 42\r\n\r\n"),
    ] {
        // The body is written only after the next request has arrived, so that nothing reveals it before.
        let upstream = Upstream::raw(move |mut stream| async move {
            assert!(read_head(&mut stream).await);
            stream.write_all(head.as_bytes()).await.unwrap();
            if read_head(&mut stream).await {
                let _ = stream.write_all(EVIL.as_bytes()).await;
            }
        })
        .await;
        let proxy = Proxy::open(&upstream).start().await;
        for version in [Version::HTTP_11, Version::HTTP_2] {
            for _ in 0..2 {
                let mut client = Client::of(version, proxy.address).await;
                let request = Request::builder().method(method).uri("/x");
                let answer = client.send(request, full("")).await.unwrap();
                assert!(head.contains(answer.status().as_str()), "{method} {head:?} {version:?}: {answer:?}");
                assert!(answer.into_body().collect().await.unwrap().to_bytes().is_empty(), "{head:?}");
            }
        }
        assert_eq!(upstream.connections(), 4, "{method} {head:?}: a connection was used again");
    }
}

#[tokio::test]
async fn fields_that_a_status_forbids_are_dropped() {
    for (head, kept) in [
        ("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nX-Kept: yes\r\n\r\n", false),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\nX-Kept: yes\r\n\r\n", false),
        ("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\nX-Kept: yes\r\n\r\n0\r\n\r\n", false),
        ("HTTP/1.1 205 Reset Content\r\nContent-Length: 5\r\nX-Kept: yes\r\n\r\nhello", false),
        (
            "HTTP/1.1 205 Reset Content\r\nTransfer-Encoding: chunked\r\nX-Kept: yes\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            false,
        ),
        ("HTTP/1.1 205 Reset Content\r\nX-Kept: yes\r\n\r\n", false),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nX-Kept: yes\r\n\r\n", true),
        ("HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\nX-Kept: yes\r\n\r\n", true),
    ] {
        let upstream = answering(head.as_bytes(), false).await;
        let proxy = Proxy::open(&upstream).start().await;
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let answer = Client::of(version, proxy.address).await.get("/x").await.unwrap();
            assert_eq!(answer.headers()["x-kept"], "yes");
            for name in ["transfer-encoding", "trailer"] {
                assert!(!answer.headers().contains_key(name) || kept, "{name} {head:?} {version:?}");
            }
            let length = answer.headers().get("content-length").map(|length| length.to_str().unwrap().to_owned());
            // Over HTTP/1.1 a 205 must say that it has no body (RFC 9110 §15.3.6).
            let forbidden =
                if answer.status() == 205 { length.is_some_and(|length| length != "0") } else { length.is_some() };
            assert!(kept || !forbidden, "{head:?} {version:?}");
            assert!(answer.into_body().collect().await.unwrap().to_bytes().is_empty(), "{head:?} {version:?}");
        }
    }
}

#[tokio::test]
async fn many_fields_pass_and_more_are_refused_with_a_reason() {
    for (fields, status) in [(99, 200), (150, 200), (499, 200), (501, 502)] {
        let head = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 2\r\n\r\nok", "X-Many: 1\r\n".repeat(fields));
        let upstream = answering(head.into_bytes().leak(), false).await;
        let proxy = Proxy::open(&upstream).start().await;
        let answer = proxy.raw("GET /x HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{fields}: {}", &answer[..80]);
        if status == 200 {
            assert_eq!(answer.to_ascii_lowercase().matches("x-many: 1").count(), fields);
        } else {
            proxy.logs("its head has more than 500 fields").await;
        }
    }
}
