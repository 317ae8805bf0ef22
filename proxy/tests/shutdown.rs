//! Shutdown: no request in flight is dropped, nothing waits forever, and the exit code is 0.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response, Version};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::client::{full, next_data, pieces};
use crate::support::wire::read_until;
use crate::support::{Client, HOST, PATIENCE, Proxy, Upstream, until};

/// An upstream that answers once the gate is open, and counts the requests that wait.
async fn gated() -> (Upstream, Arc<Semaphore>, Arc<Semaphore>) {
    let (gate, waiting) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (open, arrived) = (Arc::clone(&gate), Arc::clone(&waiting));
    let upstream = Upstream::streaming(move |request| {
        let (open, arrived) = (Arc::clone(&open), Arc::clone(&arrived));
        async move {
            arrived.add_permits(1);
            open.acquire().await.unwrap().forget();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Response::new(full(format!("answered {}", body.len())))
        }
    })
    .await;
    (upstream, gate, waiting)
}

#[tokio::test]
async fn what_is_in_flight_is_answered() {
    const EACH: usize = 100;
    let (upstream, gate, waiting) = gated().await;
    let mut proxy = Proxy::start(&upstream).await;
    let cookie = proxy.signed_in_as("ann").await.cookie_header();
    let mut asking = JoinSet::new();
    let Client::Http2(shared) = Client::http2(proxy.address).await else { unreachable!() };
    for number in 0..2 * EACH {
        let http2 = number % 2 == 0;
        let mut client = if http2 { Client::Http2(shared.clone()) } else { Client::http1(proxy.address).await };
        let request = Request::post("/x").header("cookie", &cookie);
        asking.spawn(async move {
            let answer = client.send(request, full("body")).await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "answered 4");
        });
    }
    drop(shared);
    until("200 are in flight", async || waiting.available_permits() == 2 * EACH).await;
    proxy.signal("TERM");
    proxy.logs("draining").await;
    gate.add_permits(2 * EACH);
    let mut answered = 0;
    while let Some(done) = asking.join_next().await {
        done.unwrap();
        answered += 1;
    }
    assert_eq!(answered, 2 * EACH);
    assert_eq!(proxy.ended().await.code(), Some(0), "{}", proxy.log());
    assert!(proxy.log().contains("drained: everything in flight has ended"));
}

#[tokio::test]
async fn an_answer_and_an_upload_under_way_go_on_to_their_ends() {
    let upstream = Upstream::streaming(async |request| {
        let (mut sender, body) = pieces();
        tokio::spawn(async move {
            let mut incoming = request.into_body();
            while let Some(Ok(frame)) = incoming.frame().await {
                sender.send(frame).await.unwrap();
            }
        });
        Response::new(body)
    })
    .await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut proxy = Proxy::open(&upstream).start().await;
        let mut client = Client::of(version, proxy.address).await;
        let (mut sender, body) = pieces();
        let mut answer = client.send(Request::post("/echo"), body).await.unwrap().into_body();
        sender.send_data("before".into()).await.unwrap();
        assert_eq!(next_data(&mut answer).await.unwrap().unwrap(), "before");
        proxy.signal("TERM");
        proxy.logs("draining").await;
        sender.send_data("after".into()).await.unwrap();
        assert_eq!(next_data(&mut answer).await.unwrap().unwrap(), "after", "{version:?}");
        drop(sender);
        assert!(next_data(&mut answer).await.is_none_or(|end| end.is_ok()));
        assert_eq!(proxy.ended().await.code(), Some(0));
    }
}

#[tokio::test]
async fn an_answer_while_draining_says_that_it_is_the_last() {
    let (upstream, gate, waiting) = gated().await;
    let mut proxy = Proxy::open(&upstream).start().await;
    let mut client = Client::http1(proxy.address).await;
    let asking = tokio::spawn(async move { client.get("/x").await.unwrap() });
    until("it is in flight", async || waiting.available_permits() == 1).await;
    proxy.signal("TERM");
    until("nobody is accepted any more", async || TcpStream::connect(proxy.address).await.is_err()).await;
    gate.add_permits(1);
    assert_eq!(asking.await.unwrap().headers()["connection"], "close");
    assert_eq!(proxy.ended().await.code(), Some(0));
}

#[tokio::test]
async fn it_is_not_ready_at_once_and_goes_on_accepting_for_the_delay() {
    let upstream = Upstream::start().await;
    for signal in ["TERM", "INT"] {
        let mut proxy = Proxy::open(&upstream).env("SHUTDOWN_DELAY", "2s").start().await;
        assert_eq!(proxy.admin("/readyz").await.status, 200);
        proxy.signal(signal);
        let began = Instant::now();
        until("it is not ready", async || proxy.admin("/readyz").await.status == 503).await;
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(proxy.admin("/livez").await.status, 200, "not ready is not dead");
        assert_eq!(proxy.get("/x").await.text(), "hello from upstream");
        assert_eq!(proxy.ended().await.code(), Some(0));
        assert!(began.elapsed() >= Duration::from_millis(1_900), "{:?}", began.elapsed());
        assert!(TcpStream::connect(proxy.address).await.is_err());
    }
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let upstream = Upstream::start().await;
    let mut proxy = Proxy::open(&upstream).start().await;
    let (mut first, mut second) = (Client::http1(proxy.address).await, Client::http2(proxy.address).await);
    for client in [&mut first, &mut second] {
        client.get("/x").await.unwrap().into_body().collect().await.unwrap();
    }
    let mut silent = TcpStream::connect(proxy.address).await.unwrap();
    let began = Instant::now();
    proxy.signal("TERM");
    assert_eq!(proxy.ended().await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(silent.read(&mut [0]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_connection_that_waits_to_be_accepted_is_served() {
    let (upstream, gate, waiting) = gated().await;
    let mut proxy = Proxy::open(&upstream).env("LIMIT_CONNECTIONS", "1").start().await;
    let mut first = Client::http1(proxy.address).await;
    let asking = tokio::spawn(async move { first.get("/x").await.unwrap().into_body().collect().await.unwrap() });
    until("the first is in flight", async || waiting.available_permits() == 1).await;
    let mut queued = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(format!("GET /x HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
        queued.push(stream);
    }
    proxy.signal("TERM");
    proxy.logs("draining").await;
    gate.add_permits(21);
    for mut stream in queued {
        let answer = read_until(&mut stream, "answered 0").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    asking.await.unwrap();
    assert_eq!(proxy.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_request_that_is_on_its_way_at_the_signal_is_answered_and_is_its_connections_last() {
    let upstream = Upstream::start().await;
    let mut proxy = Proxy::open(&upstream).start().await;
    let request = format!("GET /x HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let mut streams = Vec::new();
    for number in 0..20 {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let used = number % 2 == 0;
        if used {
            stream.write_all(request.as_bytes()).await.unwrap();
            let answer = read_until(&mut stream, "hello from upstream").await;
            assert!(!answer.to_lowercase().contains("connection: close"), "{answer}");
        }
        streams.push(stream);
    }
    proxy.signal("TERM");
    // The drain has begun; requests until now were sent before the client could know.
    until("nobody is accepted any more", async || TcpStream::connect(proxy.address).await.is_err()).await;
    for stream in &mut streams {
        stream.write_all(request.as_bytes()).await.unwrap();
    }
    for mut stream in streams {
        let answer = read_until(&mut stream, "hello from upstream").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0, "closed behind it");
    }
    assert_eq!(proxy.ended().await.code(), Some(0));
}

#[tokio::test]
async fn what_does_not_end_is_cut_off_at_the_timeout() {
    let upstream = Upstream::raw(|mut stream| async move {
        let head = read_until(&mut stream, "\r\n\r\n").await;
        if head.to_lowercase().contains("upgrade: websocket") {
            let accepted = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
            stream.write_all(accepted.as_bytes()).await.unwrap();
        }
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    for lines in ["", "Connection: upgrade\r\nUpgrade: websocket\r\n"] {
        let mut proxy = Proxy::open(&upstream).env("SHUTDOWN_TIMEOUT", "1s").start().await;
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(format!("GET /x HTTP/1.1\r\nHost: {HOST}\r\n{lines}\r\n").as_bytes()).await.unwrap();
        let expected = if lines.is_empty() { 1 } else { 2 };
        until("it is in flight", async || upstream.connections() == expected).await;
        if !lines.is_empty() {
            read_until(&mut stream, "\r\n\r\n").await;
        }
        let began = Instant::now();
        proxy.signal("TERM");
        assert_eq!(proxy.ended().await.code(), Some(0));
        assert!((900..5_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
        assert!(proxy.log().contains("SHUTDOWN_TIMEOUT has passed"), "{}", proxy.log());
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it stays open");
    }
}

#[tokio::test]
async fn a_second_signal_in_earnest_ends_it_at_once() {
    let (upstream, _gate, waiting) = gated().await;
    let mut proxy = Proxy::open(&upstream).start().await;
    let mut client = Client::http1(proxy.address).await;
    let asking = tokio::spawn(async move { client.get("/x").await.is_ok() });
    until("it is in flight", async || waiting.available_permits() == 1).await;
    proxy.signal("INT");
    proxy.logs("draining").await;
    // Within the first second it would count as an echo of the first, which a terminal and a script may both send.
    proxy.signal("INT");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert!(proxy.admin("/livez").await.status.is_success(), "an echo ended it");
    let began = Instant::now();
    // Within the first second it could be an echo of the first.
    until("a second signal is received", async || {
        proxy.signal("INT");
        proxy.log().contains("a second signal")
    })
    .await;
    assert_eq!(proxy.ended().await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(!asking.await.unwrap());
}

#[tokio::test]
async fn while_nobody_gives_up_a_place_new_clients_are_turned_away() {
    let (upstream, gate, waiting) = gated().await;
    let mut proxy = Proxy::open(&upstream).env("LIMIT_CONNECTIONS", "1").start().await;
    let mut first = Client::http1(proxy.address).await;
    let asking = tokio::spawn(async move { first.get("/x").await.unwrap().into_body().collect().await.unwrap() });
    until("the first is in flight", async || waiting.available_permits() == 1).await;
    proxy.signal("TERM");
    proxy.logs("draining").await;
    until("it listens no more", async || TcpStream::connect(proxy.address).await.is_err()).await;
    gate.add_permits(1);
    asking.await.unwrap();
    assert_eq!(proxy.ended().await.code(), Some(0));
}
