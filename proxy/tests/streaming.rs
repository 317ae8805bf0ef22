//! Streaming bodies: events one by one, back-pressure, trailers, `100-continue`, and streams that do not block each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::support::client::{full, next_data, pieces};
use crate::support::wire::read_until;
use crate::support::{Client, HOST, PATIENCE, Proxy, Upstream, until};

const BOTH: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

const PIECE: usize = 16 * 1024;

fn piece() -> Bytes {
    Bytes::from_static(&[b'x'; PIECE])
}

/// An upstream that sends `pieces` pieces to every client, and counts those taken from it; `/small` gets a small response.
async fn flood(pieces_each: usize) -> (Upstream, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let upstream = Upstream::streaming(move |request| {
        let count = Arc::clone(&count);
        async move {
            if request.uri().path() == "/small" {
                return Response::new(full("small"));
            }
            let (mut sender, body) = pieces();
            tokio::spawn(async move {
                for _ in 0..pieces_each {
                    if sender.send_data(piece()).await.is_err() {
                        return;
                    }
                    count.fetch_add(1, Ordering::SeqCst);
                }
            });
            Response::new(body)
        }
    })
    .await;
    (upstream, taken)
}

/// Waits until a count has not changed for half a second, and returns it.
async fn stable_count(count: &AtomicUsize) -> usize {
    let (mut last, mut since) = (count.load(Ordering::SeqCst), Instant::now());
    until("the count rests", async || {
        let now = count.load(Ordering::SeqCst);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_millis(500)
    })
    .await;
    last
}

#[tokio::test]
async fn events_arrive_one_by_one_at_once() {
    let (streams, mut opened) = mpsc::unbounded_channel();
    let upstream = Upstream::streaming(move |_| {
        let (sender, body) = pieces();
        streams.send(sender).unwrap();
        async { Response::builder().header("content-type", "text/event-stream").body(body).unwrap() }
    })
    .await;
    let proxy = Proxy::open(&upstream).start().await;
    for version in BOTH {
        let mut client = Client::of(version, proxy.address).await;
        let mut body = client.get("/events").await.unwrap().into_body();
        let mut events = opened.recv().await.unwrap();
        for number in 0..10 {
            // The next event is sent only after this one has arrived: none may be buffered until another comes.
            let event = format!("data: {number}\n\n");
            events.send_data(event.clone().into()).await.unwrap();
            assert_eq!(next_data(&mut body).await.unwrap().unwrap(), event, "{version:?}");
        }
    }
}

#[tokio::test]
async fn pieces_go_both_ways_at_once() {
    let upstream = Upstream::streaming(async |request| {
        let (mut sender, body) = pieces();
        tokio::spawn(async move {
            let mut incoming = request.into_body();
            while let Some(Ok(frame)) = incoming.frame().await {
                let _ = sender.send(frame).await;
            }
        });
        Response::new(body)
    })
    .await;
    let h1 = Proxy::open(&upstream).start().await;
    let h2 = Proxy::open(&upstream).env("UPSTREAM_URL", format!("h2c://{}", upstream.address)).start().await;
    for proxy in [&h1, &h2] {
        for version in BOTH {
            let mut client = Client::of(version, proxy.address).await;
            let (mut sender, body) = pieces();
            let mut answer = client.send(Request::post("/echo"), body).await.unwrap().into_body();
            for number in 0..10 {
                let text = format!("piece {number}");
                sender.send_data(text.clone().into()).await.unwrap();
                assert_eq!(next_data(&mut answer).await.unwrap().unwrap(), text, "{version:?}");
            }
            drop(sender);
            assert!(next_data(&mut answer).await.is_none_or(|end| end.unwrap().is_empty()));
        }
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let upstream = Upstream::streaming(async |request| {
        assert_eq!(request.headers()["te"], "trailers");
        let body = request.into_body().collect().await.unwrap();
        let received = body.trailers().cloned().unwrap_or_default();
        let (mut sender, body) = pieces();
        tokio::spawn(async move {
            sender.send_data("answer".into()).await.unwrap();
            let mut trailers = HeaderMap::new();
            let names: Vec<&str> = received.keys().map(http::HeaderName::as_str).collect();
            trailers.insert("x-received", HeaderValue::from_str(&names.join(",")).unwrap());
            trailers.insert("x-sum", HeaderValue::from_static("42"));
            sender.send_trailers(trailers).await.unwrap();
        });
        Response::builder().header("trailer", "x-received, x-sum").body(body).unwrap()
    })
    .await;
    let h1 = Proxy::open(&upstream).start().await;
    let h2 = Proxy::open(&upstream).env("UPSTREAM_URL", format!("h2c://{}", upstream.address)).start().await;
    for proxy in [&h1, &h2] {
        for version in BOTH {
            let mut client = Client::of(version, proxy.address).await;
            let (mut sender, body) = pieces();
            let names = ["x-checksum", "x-forwarded-user", "cookie", "authorization"];
            let uploading = tokio::spawn(async move {
                sender.send_data("request".into()).await.unwrap();
                let mut trailers = HeaderMap::new();
                for name in names {
                    trailers.insert(http::HeaderName::from_static(name), HeaderValue::from_static("1"));
                }
                sender.send_trailers(trailers).await.unwrap();
            });
            let request = Request::post("/x").header("te", "trailers").header("trailer", names.join(", "));
            let answer = client.send(request, body).await.unwrap().into_body().collect().await.unwrap();
            let trailers = answer.trailers().cloned().unwrap_or_default();
            assert_eq!(answer.to_bytes(), "answer");
            assert_eq!(trailers.get("x-sum").map(HeaderValue::as_bytes), Some(&b"42"[..]), "{version:?}");
            assert_eq!(trailers["x-received"], "x-checksum", "{version:?}: only what may stand there");
            uploading.await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_the_upstream() {
    const PIECES: usize = 4_000;
    let (upstream, taken) = flood(PIECES).await;
    let proxy = Proxy::open(&upstream).start().await;
    // The kernel's loopback buffers take some MiB on each of the two connections.
    for version in BOTH {
        taken.store(0, Ordering::SeqCst);
        let mut client = Client::of(version, proxy.address).await;
        let mut body = client.get("/x").await.unwrap().into_body();
        let stopped = stable_count(&taken).await;
        assert!(stopped < PIECES / 2, "{version:?}: {stopped} of {PIECES} pieces were taken though nobody reads");
        let mut read = 0;
        while let Some(data) = next_data(&mut body).await {
            read += data.unwrap().len();
        }
        assert_eq!(read, PIECES * PIECE, "{version:?}: all comes once it is read");
    }
}

#[tokio::test]
async fn an_upstream_that_does_not_read_stops_the_upload() {
    let goes_on = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = Arc::clone(&goes_on);
    let upstream = Upstream::streaming(move |request| {
        let gate = Arc::clone(&gate);
        async move {
            gate.acquire().await.unwrap().forget();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Response::new(full(body.len().to_string()))
        }
    })
    .await;
    const PIECES: usize = 4_000;
    let proxy = Proxy::open(&upstream).start().await;
    for version in BOTH {
        let mut client = Client::of(version, proxy.address).await;
        let (mut sender, body) = pieces();
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        tokio::spawn(async move {
            for _ in 0..PIECES {
                if sender.send_data(piece()).await.is_err() {
                    return;
                }
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        let opener = async {
            let stopped = stable_count(&sent).await;
            goes_on.add_permits(1);
            stopped
        };
        let (answer, stopped) = tokio::join!(client.send(Request::post("/x"), body), opener);
        assert!(stopped < PIECES / 2, "{version:?}: {stopped} of {PIECES} pieces were taken though nobody reads");
        let text = answer.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(text, (PIECES * PIECE).to_string());
    }
}

#[tokio::test]
async fn a_client_that_expects_100_gets_it_only_once_it_is_let_in() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let head = |cookie: &str| {
        format!(
            "POST /x HTTP/1.1\r\nHost: {HOST}\r\nCookie: {cookie}\r\nContent-Length: 4\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
        )
    };
    let refused = proxy.raw(head("a=b")).await;
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    assert_eq!(upstream.connections(), 0, "not even a connection");

    let ann = proxy.signed_in_as("ann").await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(head(&ann.cookie_header()).as_bytes()).await.unwrap();
    let interim = read_until(&mut stream, "\r\n\r\n").await;
    assert!(interim.starts_with("HTTP/1.1 100"), "{interim}");
    stream.write_all(b"body").await.unwrap();
    let answer = read_until(&mut stream, "hello from upstream").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(&upstream.last().body[..], b"body");
}

#[tokio::test]
async fn streams_of_one_connection_run_at_once() {
    let waiting = Arc::new(tokio::sync::Barrier::new(20));
    let upstream = Upstream::streaming(move |request| {
        let waiting = Arc::clone(&waiting);
        async move {
            // No request is answered before all have arrived.
            waiting.wait().await;
            Response::new(full(request.uri().path().to_owned()))
        }
    })
    .await;
    let proxy = Proxy::open(&upstream).start().await;
    let Client::Http2(sender) = Client::http2(proxy.address).await else { unreachable!() };
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..20 {
        let mut client = Client::Http2(sender.clone());
        asking.spawn(async move {
            let path = format!("/{number}");
            let answer = client.get(&path).await.unwrap().into_body().collect().await.unwrap();
            assert_eq!(answer.to_bytes(), path);
        });
    }
    while let Some(done) = asking.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn a_slow_reader_or_a_stalled_upload_does_not_stall_another_stream() {
    let (upstream, taken) = flood(4_000).await;
    let proxy = Proxy::open(&upstream).start().await;
    let Client::Http2(sender) = Client::http2(proxy.address).await else { unreachable!() };
    let stream = || Client::Http2(sender.clone());
    let mut unread = Vec::new();
    for _ in 0..3 {
        unread.push(stream().get("/x").await.unwrap().into_body());
    }
    let (mut stalled, body) = pieces();
    let uploading = tokio::spawn({
        let mut client = stream();
        async move { client.send(Request::post("/upload"), body).await }
    });
    stalled.send_data(piece()).await.unwrap();
    stable_count(&taken).await;
    for _ in 0..20 {
        let began = Instant::now();
        let answer = stream().get("/small").await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(answer.to_bytes(), "small");
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
    uploading.abort();
}

#[tokio::test]
async fn slow_readers_do_not_stall_others_on_the_one_connection_to_an_h2c_upstream() {
    let (upstream, taken) = flood(4_000).await;
    let proxy = Proxy::open(&upstream).env("UPSTREAM_URL", format!("h2c://{}", upstream.address)).start().await;
    let mut unread = Vec::new();
    for _ in 0..20 {
        let mut client = Client::http1(proxy.address).await;
        unread.push((client.get("/x").await.unwrap().into_body(), client));
    }
    stable_count(&taken).await;
    let began = Instant::now();
    let answer = Client::http1(proxy.address).await.get("/small").await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "small");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn uploads_that_nobody_takes_do_not_stall_another_stream() {
    let upstream = Upstream::streaming(async |request| {
        if request.uri().path() == "/small" {
            return Response::new(full("small"));
        }
        let _unread = request;
        std::future::pending().await
    })
    .await;
    let proxy = Proxy::open(&upstream).start().await;
    let Client::Http2(sender) = Client::http2(proxy.address).await else { unreachable!() };
    let sent = Arc::new(AtomicUsize::new(0));
    let mut uploads = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let (mut sender_of_one, body) = pieces();
        let (mut client, count) = (Client::Http2(sender.clone()), Arc::clone(&sent));
        uploads.spawn(async move { drop(client.send(Request::post("/stuck"), body).await) });
        uploads.spawn(async move {
            while sender_of_one.send_data(piece()).await.is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    stable_count(&sent).await;
    let mut client = Client::Http2(sender);
    let answer = client.send(Request::post("/small"), full("also with a body")).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "small");
}

#[tokio::test]
async fn a_stream_that_is_not_read_is_reset() {
    let (upstream, taken) = flood(4_000).await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_BODY", "1s").start().await;
    let Client::Http2(sender) = Client::http2(proxy.address).await else { unreachable!() };
    let mut unread = Client::Http2(sender.clone()).get("/x").await.unwrap().into_body();
    stable_count(&taken).await;
    proxy.logs("an HTTP/2 stream was reset").await;
    let outcome = async {
        while let Some(data) = next_data(&mut unread).await {
            data?;
        }
        Ok::<_, hyper::Error>(())
    };
    assert!(outcome.await.is_err(), "it must not look whole");
    let small = Client::Http2(sender).get("/small").await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(small.to_bytes(), "small", "the connection goes on");
}

#[tokio::test]
async fn a_stream_that_is_read_slowly_is_not_reset() {
    let (upstream, _) = flood(300).await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_BODY", "2s").start().await;
    for version in BOTH {
        let mut client = Client::of(version, proxy.address).await;
        let mut body = client.get("/x").await.unwrap().into_body();
        let (began, mut read) = (Instant::now(), 0);
        while let Some(data) = next_data(&mut body).await {
            read += data.unwrap().len();
            if began.elapsed() < Duration::from_secs(5) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        assert_eq!(read, 300 * PIECE, "{version:?}");
    }
}

#[tokio::test]
async fn a_connection_whose_reader_stalls_is_cut() {
    let (upstream, _) = flood(4_000).await;
    let ended = Arc::new(AtomicBool::new(false));
    let proxy = Proxy::open(&upstream).env("TIMEOUT_BODY", "1s").start().await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(format!("GET /x HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
    proxy.logs("a connection ended").await;
    let reading = {
        let ended = Arc::clone(&ended);
        tokio::spawn(async move {
            let mut read = Vec::new();
            let _ = stream.read_to_end(&mut read).await;
            ended.store(true, Ordering::SeqCst);
            read.len()
        })
    };
    let read = tokio::time::timeout(PATIENCE, reading).await.unwrap().unwrap();
    assert!(ended.load(Ordering::SeqCst) && read < 4_000 * PIECE, "{read}");
}

#[tokio::test]
async fn a_stream_that_its_client_resets_ends_the_upstream_request() {
    let ended = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ended);
    let upstream = Upstream::raw(move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            read_until(&mut stream, "\r\n\r\n").await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
            count.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let proxy = Proxy::open(&upstream).start().await;
    let Client::Http2(sender) = Client::http2(proxy.address).await else { unreachable!() };
    let mut client = Client::Http2(sender.clone());
    let asking = tokio::time::timeout(Duration::from_millis(300), client.get("/x")).await;
    assert!(asking.is_err(), "there is no answer, and its stream was reset by now");
    until("the upstream's connection ends", async || ended.load(Ordering::SeqCst) == 1).await;
    assert!(!sender.is_closed(), "the connection is still there");
}
