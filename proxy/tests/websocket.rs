//! WebSockets: bytes in both directions, for authorized users, while they remain authorized.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::wire::{closed, echoes, read_until};
use crate::support::{HOST, Proxy, Upstream};

const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Switches protocols, sends a greeting, and echoes each byte.
async fn echo() -> Upstream {
    Upstream::raw(|mut stream| async move {
        let head = read_until(&mut stream, "\r\n\r\n").await;
        let upgrades =
            head.to_lowercase().contains("upgrade: websocket") && head.to_lowercase().contains("connection: upgrade");
        if !upgrades {
            stream.write_all(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            return;
        }
        stream.write_all(format!("{ACCEPTED}welcome").as_bytes()).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        let _ = writer.shutdown().await;
    })
    .await
}

/// Sends an upgrade with further header lines, and `behind` immediately after it.
async fn upgrade(proxy: &Proxy, lines: &str, behind: &str) -> TcpStream {
    upgrade_at(proxy, HOST, lines, behind).await
}

/// The same for any host.
async fn upgrade_at(proxy: &Proxy, host: &str, lines: &str, behind: &str) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let head = format!(
        "GET /ws?a=b HTTP/1.1\r\nHost: {host}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n{behind}"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn bytes_pass_both_ways_and_an_end_passes_on() {
    let upstream = echo().await;
    let proxy = Proxy::open(&upstream).start().await;
    let mut stream = upgrade(&proxy, "", "").await;
    let head = read_until(&mut stream, "welcome").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let lower = head.to_lowercase();
    for line in [
        "\r\nconnection: upgrade\r\n",
        "\r\nupgrade: websocket\r\n",
        "\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n",
    ] {
        assert!(lower.contains(line), "{line:?} is not in {head}");
    }
    echoes(&mut stream, "\u{1}any bytes\r\n\r\n\0").await;
    echoes(&mut stream, &"x".repeat(300_000)).await;
    stream.shutdown().await.unwrap();
    closed(&mut stream).await;
}

#[tokio::test]
async fn bytes_right_behind_the_upgrade_are_not_lost() {
    let upstream = echo().await;
    let proxy = Proxy::open(&upstream).start().await;
    let mut stream = upgrade(&proxy, "", "early").await;
    let answer = read_until(&mut stream, "welcomeearly").await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
}

#[tokio::test]
async fn a_websocket_needs_a_session_and_our_origin() {
    let upstream = echo().await;
    let proxy = Proxy::start(&upstream).await;
    let answer = read_until(&mut upgrade(&proxy, "", "").await, "}").await;
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("unauthenticated"), "{answer}");
    let page =
        upgrade(&proxy, "Accept: text/html\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n", "").await;
    let answer = read_until(&mut { page }, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 401"), "an upgrade is no navigation: {answer}");

    let ann = proxy.signed_in_as("ann").await;
    let cookie = format!("Cookie: {}\r\n", ann.cookie_header());
    let foreign = [
        "http://other.example",
        "https://app.localhost",
        "http://app.localhost:81",
        "null",
        "http://app.localhost.other.example",
        "http://sub.app.localhost",
        "",
    ];
    for origin in foreign {
        let mut stream = upgrade(&proxy, &format!("{cookie}Origin: {origin}\r\n"), "").await;
        let answer = read_until(&mut stream, "}").await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("cross_site"), "{origin}: {answer}");
    }
    assert_eq!(upstream.connections(), 0, "nothing of this reached the upstream");

    for origin in ["", "Origin: http://app.localhost\r\n"] {
        let mut stream = upgrade(&proxy, &format!("{cookie}{origin}"), "").await;
        let answer = read_until(&mut stream, "welcome").await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{origin}: {answer}");
    }
}

/// As behind a balancer that ends TLS and is not one of `TRUSTED_PROXIES`: the connection is by http, the pages are by https.
#[tokio::test]
async fn another_host_has_the_scheme_of_the_public_origin() {
    let upstream = echo().await;
    let other = format!("grafana.{HOST}");
    let rules = format!("[[routes]]\nhost = \"{other}\"\nallow = \"public\"");
    let plan = Proxy::with_sign_in_at(&format!("https://{HOST}"), "github", &upstream).await;
    let proxy = plan.file("SIDEGATE_CONFIG", "sidegate.toml", &rules).start().await;
    for origin in [format!("http://{other}"), format!("https://{HOST}"), format!("http://{HOST}"), "null".to_owned()] {
        let mut stream = upgrade_at(&proxy, &other, &format!("Origin: {origin}\r\n"), "").await;
        let answer = read_until(&mut stream, "}").await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("cross_site"), "{origin}: {answer}");
    }
    for host in [other.clone(), format!("{other}:443")] {
        let mut stream = upgrade_at(&proxy, &host, &format!("Origin: https://{other}\r\n"), "").await;
        let answer = read_until(&mut stream, "welcome").await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{host}: {answer}");
    }
}

#[tokio::test]
async fn another_port_of_the_public_host_has_its_own_origin() {
    let upstream = echo().await;
    let plan = Proxy::with_sign_in_at(&format!("https://{HOST}"), "github", &upstream).await;
    let proxy = plan.file("SIDEGATE_CONFIG", "sidegate.toml", "[[routes]]\nallow = \"public\"").start().await;
    for (port, origin, is_let_in) in [
        (":8443", format!("https://{HOST}:8443"), true),
        (":8443", format!("https://{HOST}"), true),
        (":80", format!("https://{HOST}"), true),
        (":8443", format!("http://{HOST}:8443"), false),
        (":8443", format!("https://{HOST}:8444"), false),
        (":443", format!("https://{HOST}"), true),
        ("", format!("https://{HOST}"), true),
        ("", format!("https://{HOST}:8443"), false),
    ] {
        let mut stream = upgrade_at(&proxy, &format!("{HOST}{port}"), &format!("Origin: {origin}\r\n"), "").await;
        let answer = read_until(&mut stream, if is_let_in { "welcome" } else { "}" }).await;
        let expected = if is_let_in { "HTTP/1.1 101" } else { "HTTP/1.1 403" };
        assert!(answer.starts_with(expected), "{port} {origin}: {answer}");
    }
}

#[tokio::test]
async fn in_open_mode_the_origin_is_the_host_that_was_asked_for() {
    let upstream = echo().await;
    let proxy = Proxy::open(&upstream).start().await;
    let answer = read_until(&mut upgrade(&proxy, "Origin: http://other.example\r\n", "").await, "}").await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("cross_site"), "{answer}");
    let answer = read_until(&mut upgrade(&proxy, "Origin: http://app.localhost\r\n", "").await, "welcome").await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
}

#[tokio::test]
async fn a_logout_closes_it_within_5_seconds() {
    let upstream = echo().await;
    let proxy = Proxy::start(&upstream).await;
    let (mut ann, bob) = (proxy.signed_in_as("ann").await, proxy.signed_in_as("bob").await);
    let mut anns = upgrade(&proxy, &format!("Cookie: {}\r\n", ann.cookie_header()), "").await;
    let mut bobs = upgrade(&proxy, &format!("Cookie: {}\r\n", bob.cookie_header()), "").await;
    for stream in [&mut anns, &mut bobs] {
        read_until(stream, "welcome").await;
    }
    assert_eq!(ann.post("/api/v1/auth/logout").await.status, 200);
    let took = closed(&mut anns).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    echoes(&mut bobs, "bob is still here").await;
}

/// `bench websockets` does the same with ten thousand, and measures their memory.
#[tokio::test]
async fn a_logout_closes_two_hundred_idle_ones_within_5_seconds() {
    let upstream = echo().await;
    let proxy = Proxy::start(&upstream).await;
    let (mut ann, bob) = (proxy.signed_in_as("ann").await, proxy.signed_in_as("bob").await);
    let (anns, bobs) = (format!("Cookie: {}\r\n", ann.cookie_header()), format!("Cookie: {}\r\n", bob.cookie_header()));
    let mut bobs = upgrade(&proxy, &bobs, "").await;
    read_until(&mut bobs, "welcome").await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        let mut stream = upgrade(&proxy, &anns, "").await;
        read_until(&mut stream, "welcome").await;
        idle.push(stream);
    }
    assert_eq!(ann.post("/api/v1/auth/logout").await.status, 200);
    let began = Instant::now();
    for stream in &mut idle {
        closed(stream).await;
    }
    let took = began.elapsed();
    println!("200 idle WebSockets: the last was closed after {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    echoes(&mut bobs, "bob is still here").await;
}

#[tokio::test]
async fn a_reload_that_refuses_the_user_closes_it_within_5_seconds() {
    let upstream = echo().await;
    let proxy = Proxy::with_sign_in("github", &upstream)
        .await
        .file("OAUTH_ALLOWED_USERS_FILE", "allowed", "ann@example.com\nbob@example.com\n")
        .start()
        .await;
    let (ann, bob) = (proxy.signed_in_as("ann").await, proxy.signed_in_as("bob").await);
    let mut anns = upgrade(&proxy, &format!("Cookie: {}\r\n", ann.cookie_header()), "").await;
    let mut bobs = upgrade(&proxy, &format!("Cookie: {}\r\n", bob.cookie_header()), "").await;
    for stream in [&mut anns, &mut bobs] {
        read_until(stream, "welcome").await;
    }
    std::fs::write(proxy.folder().join("allowed"), "bob@example.com\n").unwrap();
    proxy.logs("the configuration was read again").await;
    let took = closed(&mut anns).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    echoes(&mut bobs, "bob is still here").await;
}

#[tokio::test]
async fn what_nobody_has_opened_is_closed_within_5_seconds_of_a_reload_that_turns_sign_in_on() {
    let upstream = echo().await;
    let plan = Proxy::with_sign_in("github", &upstream).await.without("OAUTH_ENABLED");
    let proxy = plan.file("SIDEGATE_CONFIG", "sidegate.toml", "oauth_enabled = false").start_alone().await;
    let mut stream = upgrade(&proxy, "", "").await;
    read_until(&mut stream, "welcome").await;
    echoes(&mut stream, "nobody").await;
    std::fs::write(proxy.folder().join("sidegate.toml"), "oauth_enabled = true").unwrap();
    proxy.logs("the configuration was read again").await;
    assert!(closed(&mut stream).await < Duration::from_secs(5));
}

#[tokio::test]
async fn bytes_of_the_client_keep_its_session_from_going_idle_and_their_lack_lets_it() {
    let upstream = echo().await;
    let proxy = Proxy::with_sign_in("github", &upstream).await.env("SESSION_IDLE_TTL", "4s").start().await;
    let ann = proxy.signed_in_as("ann").await;
    let mut stream = upgrade(&proxy, &format!("Cookie: {}\r\n", ann.cookie_header()), "").await;
    read_until(&mut stream, "welcome").await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(9) {
        echoes(&mut stream, "here").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let took = closed(&mut stream).await;
    assert!(took < Duration::from_secs(9), "{took:?}");
}

#[tokio::test]
async fn an_expired_session_closes_it_within_5_seconds() {
    let upstream = echo().await;
    let proxy = Proxy::with_sign_in("github", &upstream).await.env("SESSION_TTL", "3s").start().await;
    let ann = proxy.signed_in_as("ann").await;
    let mut stream = upgrade(&proxy, &format!("Cookie: {}\r\n", ann.cookie_header()), "").await;
    read_until(&mut stream, "welcome").await;
    let took = closed(&mut stream).await;
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[tokio::test]
async fn an_idle_one_outlives_the_limits_on_idle_connections_and_bodies() {
    let upstream = echo().await;
    let proxy = Proxy::open(&upstream)
        .env("TIMEOUT_IDLE", "1s")
        .env("TIMEOUT_BODY", "1s")
        .env("TIMEOUT_HEADER", "1s")
        .env("TIMEOUT_FIRST_BYTE", "1s")
        .start()
        .await;
    let mut stream = upgrade(&proxy, "", "").await;
    read_until(&mut stream, "welcome").await;
    // Only time can show it.
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    echoes(&mut stream, "still there").await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    echoes(&mut stream, "and still").await;
}

#[tokio::test]
async fn an_answer_of_an_upstream_that_declines_is_passed_on() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    let mut stream = upgrade(&proxy, "", "").await;
    let answer = read_until(&mut stream, "hello from upstream").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let received = upstream.last();
    assert_eq!((received.header("connection").as_str(), received.header("upgrade").as_str()), ("upgrade", "websocket"));
    assert_eq!(received.uri, "/ws?a=b");
    assert_eq!(received.header("sec-websocket-key"), "dGhlIHNhbXBsZSBub25jZQ==");
}

#[tokio::test]
async fn a_switch_to_another_protocol_than_the_websocket_is_502() {
    for lines in [
        "Connection: Upgrade\r\nUpgrade: foo\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, foo\r\n",
        "Connection: Upgrade\r\n",
    ] {
        let upstream = Upstream::raw(move |mut stream| async move {
            read_until(&mut stream, "\r\n\r\n").await;
            let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
        .await;
        let proxy = Proxy::open(&upstream).start().await;
        let mut stream = upgrade(&proxy, "", "").await;
        let answer = read_until(&mut stream, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{lines:?}: {answer}");
        proxy.logs("it switched to another protocol than was asked for").await;
    }
}

#[tokio::test]
async fn a_switch_of_protocols_that_nobody_asked_for_is_502() {
    let upstream = Upstream::raw(|mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(ACCEPTED.as_bytes()).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let proxy = Proxy::open(&upstream).start().await;
    assert_eq!(proxy.get("/x").await.code(), "upstream_unreachable");
    let answer = proxy
        .raw(format!("GET /x HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n"))
        .await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}
