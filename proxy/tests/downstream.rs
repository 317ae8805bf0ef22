//! Incoming connections: behind a load balancer with the PROXY protocol, and over plain HTTP with a redirect to https.

use std::net::SocketAddr;

use http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{HOST, PATIENCE, Proxy, Upstream};
use crate::tls::Issued;

/// The response to these bytes, until the connection closes.
async fn answer(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A refused connection may be reset.
    let _end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("no end in time");
    String::from_utf8(answer).unwrap()
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-For: 198.51.100.9\r\nConnection: close\r\n\r\n")
        .into_bytes()
}

#[tokio::test]
async fn a_load_balancer_names_the_client_by_the_proxy_protocol() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).env("PROXY_PROTOCOL_FROM", "127.0.0.0/8").start().await;
    let binary = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[192, 0, 2, 8, 192, 0, 2, 2, 1, 2, 3, 4]].concat();
    for (header, client) in [
        (b"PROXY TCP4 192.0.2.7 192.0.2.2 40000 443\r\n".to_vec(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 40000 443\r\n".to_vec(), "2001:db8::7"),
        (binary, "192.0.2.8"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
    ] {
        let answer = answer(proxy.address, &[header, get("/x")].concat()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(upstream.last().header("x-forwarded-for"), client);
    }
}

#[tokio::test]
async fn a_client_that_the_proxy_protocol_names_is_trusted_as_if_it_had_connected_itself() {
    let upstream = Upstream::start().await;
    let plan =
        Proxy::open(&upstream).env("PROXY_PROTOCOL_FROM", "127.0.0.1").env("TRUSTED_PROXIES", "192.0.2.7,127.0.0.1");
    let proxy = plan.start().await;
    for (client, seen) in [("192.0.2.7", "198.51.100.9, 192.0.2.7"), ("192.0.2.6", "192.0.2.6")] {
        let header = format!("PROXY TCP4 {client} 192.0.2.2 40000 443\r\n").into_bytes();
        answer(proxy.address, &[header, get("/x")].concat()).await;
        assert_eq!(upstream.last().header("x-forwarded-for"), seen, "the balancer's own address vouches for nobody");
    }
}

#[tokio::test]
async fn without_the_header_a_connection_of_a_balancer_ends_and_the_log_says_why() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).env("PROXY_PROTOCOL_FROM", "127.0.0.1").start().await;
    for bytes in [get("/x"), [b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n".to_vec(), get("/x")].concat()] {
        assert_eq!(answer(proxy.address, &bytes).await, "");
    }
    proxy.logs("127.0.0.1 is one of PROXY_PROTOCOL_FROM, but").await;
    assert_eq!(
        proxy.log().matches("one of PROXY_PROTOCOL_FROM").count(),
        1,
        "not for each connection: {}",
        proxy.log()
    );
    assert_eq!(upstream.received().len(), 0);
    // A probe that only connects does no harm, and the next connection is served.
    drop(TcpStream::connect(proxy.address).await.unwrap());
    let named = [b"PROXY TCP4 192.0.2.7 192.0.2.2 40000 443\r\n".to_vec(), get("/x")].concat();
    assert!(answer(proxy.address, &named).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn from_others_the_proxy_protocol_is_refused() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).env("PROXY_PROTOCOL_FROM", "192.0.2.0/24").start().await;
    assert_eq!(proxy.get("/x").await.status, 200);
    let seen = upstream.received().len();
    let binary = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[192, 0, 2, 8, 192, 0, 2, 2, 1, 2, 3, 4]].concat();
    for header in [b"PROXY TCP4 192.0.2.7 192.0.2.2 40000 443\r\n".to_vec(), binary] {
        let answer = answer(proxy.address, &[header, get("/x")].concat()).await;
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    assert_eq!(upstream.received().len(), seen);
}

#[tokio::test]
async fn a_balancer_that_sends_half_a_header_is_not_waited_for() {
    let upstream = Upstream::start().await;
    let plan = Proxy::open(&upstream).env("PROXY_PROTOCOL_FROM", "127.0.0.1").env("TIMEOUT_HEADER", "1s");
    let proxy = plan.start().await;
    assert_eq!(answer(proxy.address, b"PROXY TCP4 1.2.3.4").await, "");
}

#[tokio::test]
async fn tls_begins_behind_the_proxy_protocol() {
    let (upstream, issued) = (Upstream::start().await, Issued::new());
    let proxy = issued.shown_by(Proxy::open(&upstream)).env("PROXY_PROTOCOL_FROM", "127.0.0.1").start().await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.2 40000 443\r\n").await.unwrap();
    let mut stream = issued.handshake(stream).await;
    stream.write_all(&get("/x")).await.unwrap();
    let mut answer = Vec::new();
    let _end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("no end in time");
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    assert_eq!(upstream.last().header("x-forwarded-for"), "192.0.2.7");
    assert_eq!(upstream.last().header("x-forwarded-proto"), "https");
}

#[tokio::test]
async fn plain_http_is_led_to_https_and_served_nothing() {
    let (upstream, issued) = (Upstream::start().await, Issued::new());
    let proxy = issued.shown_by(Proxy::open(&upstream)).env("HTTP_REDIRECT_ADDR", "127.0.0.1:0").start().await;
    let ready = proxy.log().lines().find(|line| line.contains("sidegate is ready")).unwrap().to_owned();
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    let redirect: SocketAddr = ready["redirect"].as_str().unwrap().parse().unwrap();
    let led = answer(redirect, &get("/a/b?c=%20d")).await;
    assert!(
        led.starts_with("HTTP/1.1 308 ") && led.contains(&format!("location: https://{HOST}/a/b?c=%20d\r\n")),
        "{led}"
    );
    let body = format!("POST /x HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100000\r\n\r\n{}", "x".repeat(100_000));
    assert!(answer(redirect, body.as_bytes()).await.starts_with("HTTP/1.1 308 "));
    for bad in ["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "\u{16}\u{3}\u{1}\r\n\r\n"] {
        assert!(answer(redirect, bad.as_bytes()).await.starts_with("HTTP/1.1 400 "), "{bad}");
    }
    assert_eq!(upstream.received().len(), 0);
    assert!(proxy.send(Request::get("/x")).await.status != 200, "the other port speaks TLS only");
}

#[tokio::test]
async fn silent_connections_do_not_stop_the_redirect() {
    let (upstream, issued) = (Upstream::start().await, Issued::new());
    let proxy = issued.shown_by(Proxy::open(&upstream)).env("HTTP_REDIRECT_ADDR", "127.0.0.1:0").start().await;
    let ready = proxy.log().lines().find(|line| line.contains("sidegate is ready")).unwrap().to_owned();
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    let redirect: SocketAddr = ready["redirect"].as_str().unwrap().parse().unwrap();
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(redirect).await.unwrap());
    }
    let led = tokio::time::timeout(std::time::Duration::from_secs(5), answer(redirect, &get("/x"))).await;
    assert!(led.expect("shut out").starts_with("HTTP/1.1 308 "));
}

#[tokio::test]
async fn a_redirect_leads_to_the_port_of_the_public_origin() {
    let (upstream, issued) = (Upstream::start().await, Issued::new());
    let plan = issued.shown_by(Proxy::with_sign_in("github", &upstream).await).env("HTTP_REDIRECT_ADDR", "127.0.0.1:0");
    let plan = plan.env("OAUTH_REDIRECT_URL", format!("https://{HOST}:8443/api/v1/auth/callback"));
    let proxy = plan.start().await;
    let ready = proxy.log().lines().find(|line| line.contains("sidegate is ready")).unwrap().to_owned();
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    let led = answer(ready["redirect"].as_str().unwrap().parse().unwrap(), &get("/x")).await;
    assert!(led.contains(&format!("location: https://{HOST}:8443/x\r\n")), "{led}");
}
