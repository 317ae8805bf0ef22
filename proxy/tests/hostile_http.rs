//! Hostile bytes: smuggling, malformed heads, disguised targets, slow and idle connections.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{Request, Version};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::client::full;
use crate::support::wire::read_until;
use crate::support::{Client, HOST, PATIENCE, Proxy, Upstream, until};

/// An upstream that keeps the raw bytes of each message, delimited by the message's own framing.
async fn recording() -> (Upstream, Arc<Mutex<Vec<String>>>) {
    let messages = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&messages);
    let upstream = Upstream::raw(move |mut stream| {
        let kept = Arc::clone(&kept);
        async move {
            while let Some(message) = read_message(&mut stream).await {
                kept.lock().unwrap().push(message);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    (upstream, messages)
}

async fn read_message(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        bytes.push(stream.read_u8().await.ok()?);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = head.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let whole = if head.contains("transfer-encoding: chunked") {
            body.ends_with("0\r\n\r\n")
        } else {
            body.len() >= length.unwrap_or(0)
        };
        if whole {
            return Some(text);
        }
    }
}

/// The proxy's treatment of a request.
enum Fate {
    /// 400, the connection closed, nothing sent to the upstream.
    Refused,
    /// Another refusal of the same kind.
    RefusedWith(u16),
    /// One message, with this framing and body.
    Chunked(&'static str),
    /// One message, with this length and body.
    Sized(&'static str),
}

/// Sends `request`, and then, like an attacker, a second one, which must not be forwarded if the first was refused.
async fn meets(request: &[u8], fate: Fate) {
    let (upstream, messages) = recording().await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_IDLE", "1s").env("TIMEOUT_BODY", "2s").start().await;
    expect_fate(&proxy, &upstream, &messages, request, &fate).await;
}

async fn expect_fate(proxy: &Proxy, upstream: &Upstream, messages: &Mutex<Vec<String>>, request: &[u8], fate: &Fate) {
    let shown = String::from_utf8_lossy(request).into_owned();
    messages.lock().unwrap().clear();
    let before = upstream.connections();
    let answer = proxy.raw(request).await;
    let seen = messages.lock().unwrap().clone();
    let (status, framing, body) = match fate {
        Fate::Refused => (400, None, ""),
        Fate::RefusedWith(status) => (*status, None, ""),
        Fate::Chunked(body) => (200, Some("transfer-encoding: chunked"), *body),
        Fate::Sized(body) => (200, Some("content-length: "), *body),
    };
    assert!(
        answer.starts_with(&format!("HTTP/1.1 {status} ")) || answer.starts_with(&format!("HTTP/1.0 {status} ")),
        "{shown:?} was answered with {answer:?}, and the upstream saw {seen:?}"
    );
    assert_eq!(answer.matches("HTTP/1.").count(), 1, "{shown:?} had one answer too many: {answer:?}");
    let Some(framing) = framing else {
        assert_eq!(seen, Vec::<String>::new(), "{shown:?}");
        assert_eq!(upstream.connections(), before, "{shown:?} was refused, yet a connection was made");
        return;
    };
    assert_eq!(seen.len(), 1, "{shown:?} became {seen:?}");
    let (head, sent) = seen[0].split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    let framings = head.matches("\r\ncontent-length:").count() + head.matches("\r\ntransfer-encoding:").count();
    assert_eq!(framings, 1, "{shown:?} became {head:?}");
    assert!(head.contains(framing), "{shown:?} became {head:?}");
    assert_eq!(sent, body, "{shown:?}");
}

fn post(lines: &str, body: &str) -> Vec<u8> {
    format!("POST /first HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{lines}\r\n\r\n{body}").into_bytes()
}

const CHUNKED: &str = "3\r\nabc\r\n0\r\n\r\n";

#[tokio::test]
async fn a_message_has_one_reading_or_none() {
    let (upstream, messages) = recording().await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_IDLE", "1s").env("TIMEOUT_BODY", "2s").start().await;
    let smuggled = format!("GET /smuggled HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let behind = format!("{CHUNKED}{smuggled}");
    for (lines, body, fate) in [
        ("Transfer-Encoding: chunked", CHUNKED, Fate::Chunked(CHUNKED)),
        ("Content-Length: 3", "abc", Fate::Sized("abc")),
        // Both: the transfer coding wins (RFC 9112 §6.3), and the length must not be forwarded.
        ("Content-Length: 4\r\nTransfer-Encoding: chunked", &behind, Fate::Chunked(CHUNKED)),
        ("Transfer-Encoding: chunked\r\nContent-Length: 4", &behind, Fate::Chunked(CHUNKED)),
        ("Transfer-Encoding: CHUNKED", CHUNKED, Fate::Chunked(CHUNKED)),
        ("Transfer-Encoding: chunked \t", CHUNKED, Fate::Chunked(CHUNKED)),
        ("Transfer-Encoding:\tchunked", CHUNKED, Fate::Chunked(CHUNKED)),
        // Codings that are not decoded here.
        ("Transfer-Encoding: gzip, chunked", &behind, Fate::Refused),
        ("Transfer-Encoding: chunked, chunked", &behind, Fate::Refused),
        ("Transfer-Encoding: chunked, identity", &behind, Fate::Refused),
        ("Transfer-Encoding: identity", &behind, Fate::Refused),
        ("Transfer-Encoding: xchunked", &behind, Fate::Refused),
        ("Transfer-Encoding: \"chunked\"", &behind, Fate::Refused),
        ("Transfer-Encoding: chunked;q=1", &behind, Fate::Refused),
        ("Transfer-Encoding: ,chunked", &behind, Fate::Refused),
        ("Transfer-Encoding:", &behind, Fate::Refused),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", &behind, Fate::Refused),
        ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", &behind, Fate::Refused),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: x", &behind, Fate::Refused),
        ("Transfer-Encoding: \x0bchunked", &behind, Fate::Refused),
        // Lengths that parsers read differently.
        ("Content-Length: 3\r\nContent-Length: 4", "abcd", Fate::Refused),
        ("Content-Length: 3, 4", "abcd", Fate::Refused),
        ("Content-Length: -3", "abc", Fate::Refused),
        ("Content-Length: +3", "abc", Fate::Refused),
        ("Content-Length: 0x3", "abc", Fate::Refused),
        ("Content-Length: 3 3", "abc", Fate::Refused),
        ("Content-Length: 3.0", "abc", Fate::Refused),
        ("Content-Length: ", "abc", Fate::Refused),
        ("Content-Length: 18446744073709551616", "abc", Fate::Refused),
        // Names that some parsers take for framing and others do not.
        ("Transfer-Encoding : chunked", &behind, Fate::Refused),
        ("Content-Length : 3", "abc", Fate::Refused),
        ("Content-Length\t: 3", "abc", Fate::Refused),
        ("X: y\r\n Transfer-Encoding: chunked", &behind, Fate::Refused),
        ("Transfer-Encoding:\r\n chunked", &behind, Fate::Refused),
        ("X: a\0b", "", Fate::Refused),
        ("X: a\x01b", "", Fate::Refused),
        ("X: a\rb", "", Fate::Refused),
        ("X\0: a", "", Fate::Refused),
        ("X\x7f: a", "", Fate::Refused),
        ("X y: a", "", Fate::Refused),
        (": a", "", Fate::Refused),
        ("no colon", "", Fate::Refused),
    ] {
        expect_fate(&proxy, &upstream, &messages, &post(lines, body), &fate).await;
    }
}

#[tokio::test]
async fn a_repaired_message_does_not_let_what_stands_behind_it_pass_as_a_request() {
    let (upstream, messages) = recording().await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_IDLE", "1s").start().await;
    let bytes = format!(
        "POST /first HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGPOST /second HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
    );
    let answer = proxy.raw(bytes).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let seen = messages.lock().unwrap().clone();
    assert!(seen[0].starts_with("POST /first ") && !seen[0].contains("second"), "{seen:?}");
    for message in &seen {
        let head = message.to_ascii_lowercase();
        assert!(!(head.contains("\r\ncontent-length:") && head.contains("\r\ntransfer-encoding:")), "{message:?}");
    }
}

#[tokio::test]
async fn http10_knows_no_transfer_coding() {
    let request = format!("POST /first HTTP/1.0\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNKED}");
    meets(request.as_bytes(), Fate::Refused).await;
}

#[tokio::test]
async fn heads_that_are_not_http_are_refused() {
    let (upstream, messages) = recording().await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_IDLE", "1s").env("TIMEOUT_HEADER", "2s").start().await;
    for request in [
        format!("GET / HTTP/1.1\r\n Host: {HOST}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n\tX: y\r\nHost: {HOST}\r\n\r\n"),
        format!("GET / HTTP/1.2\r\nHost: {HOST}\r\n\r\n"),
        format!("GET / HTTP/3.0\r\nHost: {HOST}\r\n\r\n"),
        format!("GET / http/1.1\r\nHost: {HOST}\r\n\r\n"),
        format!("GET / HTTP/1.1 x\r\nHost: {HOST}\r\n\r\n"),
        format!("GET /\0 HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        format!("GET /a b HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        format!("G@T{{}} / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        format!("GET\t/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\r\n\r\n".to_owned(),
    ] {
        expect_fate(&proxy, &upstream, &messages, request.as_bytes(), &Fate::Refused).await;
    }
}

#[tokio::test]
async fn a_bare_line_feed_never_makes_two_requests_of_one() {
    let (upstream, messages) = recording().await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_IDLE", "1s").start().await;
    proxy.raw(format!("GET /first HTTP/1.1\nHost: {HOST}\nX: a\nConnection: close\n\n")).await;
    proxy
        .raw(format!("GET /first HTTP/1.1\r\nHost: {HOST}\r\nX: a\n\nGET /b HTTP/1.1\r\nConnection: close\r\n\r\n"))
        .await;
    for message in messages.lock().unwrap().iter() {
        assert!(!message.replace("\r\n", "").contains(['\r', '\n']), "a bare line feed went on: {message:?}");
        assert!(message.starts_with("GET /first HTTP/1.1\r\n"), "{message:?}");
    }
}

#[tokio::test]
async fn a_chunked_body_that_is_malformed_never_ends_well() {
    let (upstream, messages) = recording().await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_IDLE", "1s").env("TIMEOUT_BODY", "2s").start().await;
    for body in [
        "10000000000000000\r\nabc\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "xyz\r\nabc\r\n0\r\n\r\n",
        "\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabcXX0\r\n\r\n",
        "3\nabc\n0\n\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "3\rX\r\nabc\r\n0\r\n\r\n",
    ] {
        messages.lock().unwrap().clear();
        let answer = proxy.raw(post("Transfer-Encoding: chunked", body)).await;
        assert!(!answer.starts_with("HTTP/1.1 2"), "{body:?} was answered with {answer:?}");
        assert_eq!(*messages.lock().unwrap(), Vec::<String>::new(), "{body:?} reached the upstream as a whole message");
    }
    // A chunk extension is dropped, not forwarded.
    let answer = proxy.raw(post("Transfer-Encoding: chunked", "3;name=value\r\nabc\r\n0\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(messages.lock().unwrap()[0].ends_with(CHUNKED));
}

#[tokio::test]
async fn a_request_names_one_host() {
    let (upstream, messages) = recording().await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_IDLE", "1s").start().await;
    for (target, hosts) in [
        ("/", ""),
        ("/", "Host: a.example\r\nHost: b.example\r\n"),
        ("/", "Host: a.example\r\nHost: a.example\r\n"),
        ("/", "Host:\r\n"),
        ("/", "Host: user@a.example\r\n"),
        ("/", "Host: a.example, b.example\r\n"),
        ("/", "Host: a.example b.example\r\n"),
        ("/", "Host: a.example/path\r\n"),
        ("/", "Host: a.example?x\r\n"),
        ("/", "Host: a.example#x\r\n"),
        ("/", "Host: a.example:80:80\r\n"),
        ("/", "Host: a.example:99999\r\n"),
        ("/", "Host: a.example:port\r\n"),
        ("/", "Host: [::1\r\n"),
        ("/", "Host: a\\b.example\r\n"),
        ("/", "Host: <b>\r\n"),
        ("http://a.example/", ""),
        ("http://a.example/", "Host: b.example\r\n"),
        ("http://a.example:81/", "Host: a.example:82\r\n"),
        ("http://user@a.example/", "Host: a.example\r\n"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\n{hosts}\r\n");
        expect_fate(&proxy, &upstream, &messages, request.as_bytes(), &Fate::Refused).await;
    }
    let answer = proxy.raw("GET http://A.example/x?y HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let seen = messages.lock().unwrap().clone();
    assert!(seen[0].starts_with("GET /x?y HTTP/1.1\r\n") && seen[0].contains("host: a.example\r\n"), "{seen:?}");
}

#[tokio::test]
async fn over_http2_host_and_authority_agree() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    for (host, status) in [("evil.example", 400), ("user@app.localhost", 400), (HOST, 200), ("APP.localhost", 200)] {
        let before = upstream.received().len();
        let mut client = Client::http2(proxy.address).await;
        let answer = client.send(Request::get("/").header("host", host), full("")).await.unwrap();
        assert_eq!(answer.status(), status, "{host}");
        assert_eq!(upstream.received().len() - before, usize::from(status == 200), "{host}");
    }
    assert_eq!(upstream.connections(), 1, "what was refused made no connection");
}

#[tokio::test]
async fn connect_and_trace_do_not_pass() {
    let (upstream, messages) = recording().await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_IDLE", "1s").start().await;
    for request in [
        format!("TRACE / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"),
        format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\nConnection: close\r\n\r\n"),
        format!("trace / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"),
        format!("TrAcE / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"),
        format!("connect / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"),
    ] {
        expect_fate(&proxy, &upstream, &messages, request.as_bytes(), &Fate::RefusedWith(405)).await;
    }
    for method in ["TRACE", "trace", "connect"] {
        let answer =
            Client::http2(proxy.address).await.send(Request::builder().method(method).uri("/"), full("")).await;
        assert_eq!(answer.unwrap().status(), 405, "{method} over HTTP/2");
    }
}

#[tokio::test]
async fn a_target_is_a_path_or_a_star_for_options() {
    let (upstream, messages) = recording().await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_IDLE", "1s").start().await;
    for request in [
        format!("GET * HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"),
        format!("POST * HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        format!("options * HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"),
        format!("GET {HOST} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"),
    ] {
        expect_fate(&proxy, &upstream, &messages, request.as_bytes(), &Fate::RefusedWith(400)).await;
    }
    let first_line = || messages.lock().unwrap().last().unwrap().lines().next().unwrap().to_owned();
    for (request, line) in [
        (format!("OPTIONS * HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"), "OPTIONS * HTTP/1.1"),
        (format!("GET http://{HOST}?x=1 HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"), "GET /?x=1 HTTP/1.1"),
        (format!("GET http://{HOST} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"), "GET / HTTP/1.1"),
    ] {
        let answer = proxy.raw(&request).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{request}: {answer}");
        assert_eq!(first_line(), line);
    }
    // Over HTTP/2, where `:path` may consist of a query only.
    let Client::Http2(mut sender) = Client::http2(proxy.address).await else { unreachable!() };
    let request = Request::get(format!("http://{HOST}?x=2")).body(full("")).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    assert_eq!(first_line(), "GET /?x=2 HTTP/1.1");
}

#[tokio::test]
async fn head_gets_no_body_of_ours() {
    let upstream = Upstream::start().await;
    let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let open = Proxy::open(&upstream).env("UPSTREAM_URL", format!("http://{refused}")).start().await;
    let signing = Proxy::start(&upstream).await;
    for (proxy, path, accept, status) in [
        (&open, "/x", "*/*", 502),
        (&open, "/api/v1/auth/status", "*/*", 200),
        (&open, "/api/v1/auth/me", "*/*", 404),
        (&signing, "/x", "*/*", 401),
        (&signing, "/x", "text/html", 302),
        (&signing, "/api/v1/auth/status", "*/*", 200),
        (&signing, "/api/v1/auth/jwks", "*/*", 200),
        (&signing, "/api/v1/auth/sign-in", "text/html", 200),
        (&signing, "/api/v1/auth/nothing", "text/html", 404),
        (&signing, "/api/v1/auth/logout", "*/*", 405),
        (&signing, "/api/v1/auth/me", "*/*", 401),
    ] {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let ask = async |method: &str| {
                let request = Request::builder().method(method).uri(path).header("accept", accept);
                let answer = Client::of(version, proxy.address).await.send(request, full("")).await.unwrap();
                let (head, body) = answer.into_parts();
                (head, body.collect().await.unwrap().to_bytes())
            };
            let ((head, body), (of_get, text)) = (ask("HEAD").await, ask("GET").await);
            assert_eq!((head.status.as_u16(), body.len()), (status, 0), "{path} {version:?}");
            if of_get.status == head.status && !text.is_empty() {
                let length = head.headers.get("content-length").map(|length| length.to_str().unwrap().to_owned());
                let here = text.len().to_string();
                assert!(accept != "*/*" || length.is_none_or(|length| length == here), "{path} {version:?}");
            }
        }
    }
}

#[tokio::test]
async fn an_upgrade_to_http2_does_not_pass() {
    let (upstream, messages) = recording().await;
    let proxy = Proxy::open(&upstream).start().await;
    let answer = proxy
        .raw(format!(
            "GET /first HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n\
             HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
        ))
        .await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let seen = messages.lock().unwrap().join("").to_ascii_lowercase();
    for name in ["upgrade", "http2-settings", "connection:"] {
        assert!(!seen.contains(name), "{name} went on: {seen}");
    }
}

#[tokio::test]
async fn pipelined_requests_are_each_judged_by_themselves() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let cookie = proxy.signed_in_as("ann").await.cookie_header();
    let answer = proxy
        .raw(format!(
            "GET /one HTTP/1.1\r\nHost: {HOST}\r\nCookie: {cookie}\r\n\r\n\
             GET /two HTTP/1.1\r\nHost: {HOST}\r\n\r\n\
             GET /three HTTP/1.1\r\nHost: {HOST}\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n"
        ))
        .await;
    let statuses: Vec<&str> = answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "401", "200"], "{answer}");
    let paths: Vec<String> = upstream.received().iter().map(|received| received.uri.to_string()).collect();
    assert_eq!(paths, ["/one", "/three"]);
}

#[tokio::test]
async fn a_request_that_is_not_let_in_makes_no_connection_to_the_upstream() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    for request in [
        Request::get("/"),
        Request::post("/form"),
        Request::get("/").header("accept", "text/html"),
        Request::get("/").header("cookie", "session_token=nonsense"),
        Request::get("/").header("x-forwarded-user", "ann").header("authorization", "Basic YTpi"),
    ] {
        let answer = proxy.send(request).await;
        assert!([401, 302].contains(&answer.status.as_u16()), "{answer:?}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn heads_beyond_the_limits_are_431() {
    let (upstream, messages) = recording().await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_IDLE", "1s").start().await;
    let wide = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX: {}\r\n\r\n", "a".repeat(70_000));
    let many = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{}\r\n", "X: y\r\n".repeat(1000));
    for request in [wide, many] {
        expect_fate(&proxy, &upstream, &messages, request.as_bytes(), &Fate::RefusedWith(431)).await;
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: {HOST}\r\n\r\n", "a".repeat(70_000));
    let answer = proxy.raw(long).await;
    assert!(answer.starts_with("HTTP/1.1 414 ") || answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn tricks_with_the_path_of_our_endpoints_are_never_forwarded() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    for path in [
        "/api/v1/auth",
        "/api/v1/auth/",
        "//api/v1/auth/me",
        "/api//v1/auth/me",
        "/api/v1/auth//me",
        "/api/v1/%61uth/me",
        "/api/v1/auth%2fme",
        "/api%2Fv1%2Fauth/me",
        "/api\\v1\\auth\\me",
        "/api/v1\\auth/me",
        "/api/v1/%5Cauth/me",
        "/x/../api/v1/auth/me",
        "/x/%2e%2e/api/v1/auth/me",
        "/./api/v1/auth/me",
        "/api/v1/auth/..;/me",
        "/api/v1/auth/../auth/me",
        "/api/v1/auth/../../../etc",
        "/api/v1/auth/..%2f..%2fx",
    ] {
        let answer = proxy.raw(format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{path}: {answer}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_head_that_takes_too_long_costs_the_connection() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_HEADER", "1s").start().await;
    for start in ["", "GET / HTTP/1.1\r\nHos", "PRI * HTTP/2.0\r\n"] {
        let began = Instant::now();
        proxy.raw(start).await;
        assert!((1..5).contains(&began.elapsed().as_secs()), "{start:?} was cut after {:?}", began.elapsed());
    }
    // Sending one byte at a time does not extend the time limit.
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let began = Instant::now();
    let trickle = async {
        while stream.write_all(b"G").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, trickle).await.expect("the trickle was never cut");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn an_unused_connection_is_closed_and_one_in_use_is_not() {
    let upstream = Upstream::raw(|mut stream| async move {
        read_message(&mut stream).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    })
    .await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_IDLE", "1s").start().await;
    let idle = async {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let request = format!("GET /api/v1/auth/status HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        read_until(&mut stream, "}").await;
        let began = Instant::now();
        let mut rest = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("never closed").unwrap();
        assert!(began.elapsed() < Duration::from_secs(3), "closed after {:?}", began.elapsed());
    };
    let idle2 = async {
        let mut client = Client::http2(proxy.address).await;
        assert_eq!(client.get("/api/v1/auth/status").await.unwrap().status(), 200);
        let Client::Http2(sender) = &client else { panic!("this is HTTP/2") };
        let began = Instant::now();
        until("the HTTP/2 connection is closed", async || sender.is_closed()).await;
        assert!(began.elapsed() < Duration::from_secs(5), "closed after {:?}", began.elapsed());
    };
    let busy = |version| {
        let address = proxy.address;
        async move {
            let answer = Client::of(version, address).await.get("/slow").await.unwrap();
            assert_eq!(answer.status(), 200, "{version:?}");
        }
    };
    tokio::join!(idle, idle2, busy(Version::HTTP_11), busy(Version::HTTP_2));
}

#[tokio::test]
async fn a_connection_beyond_the_limit_waits_until_one_closes() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).env("LIMIT_CONNECTIONS", "2").start().await;
    let request = format!("GET /api/v1/auth/status HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        read_until(&mut stream, "}").await;
        open.push(stream);
    }
    let mut third = TcpStream::connect(proxy.address).await.unwrap();
    third.write_all(request.as_bytes()).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(500), third.read_u8()).await;
    assert!(early.is_err(), "the third was served beside two: {early:?}");
    open.pop();
    assert!(read_until(&mut third, "}").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_websocket_keeps_its_place() {
    let upstream = Upstream::raw(|mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        let accepted = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nwelcome";
        stream.write_all(accepted.as_bytes()).await.unwrap();
        let _end = stream.read_u8().await;
    })
    .await;
    let proxy = Proxy::open(&upstream).env("LIMIT_CONNECTIONS", "2").start().await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let head = format!(
            "GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        read_until(&mut stream, "welcome").await;
        open.push(stream);
    }
    let metrics = proxy.admin("/metrics").await.text();
    assert!(metrics.contains("sidegate_connections{side=\"downstream\"} 2\n"), "{metrics}");
    let mut third = TcpStream::connect(proxy.address).await.unwrap();
    third.write_all(format!("GET /api/v1/auth/status HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
    let early = tokio::time::timeout(Duration::from_secs(1), third.read_u8()).await;
    assert!(early.is_err(), "the third was served beside two WebSockets: {early:?}");
    proxy.logs("none can be freed: WebSockets").await;
    open.pop();
    assert!(read_until(&mut third, "}").await.starts_with("HTTP/1.1 200 "));
}

/// Random bytes, similar enough to HTTP to get past the first checks.
fn noise(random: &mut fastrand::Rng) -> Vec<u8> {
    const PARTS: [&[u8]; 24] = [
        b"GET ",
        b"POST ",
        b"/",
        b"/api/v1/auth/login?rd=",
        b"/api/v1/auth/callback?code=x&state=",
        b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n",
        b"Host: app.localhost\r\n",
        b"Cookie: session_token=",
        b"Content-Length: ",
        b"Transfer-Encoding: chunked\r\n",
        b"X-Forwarded-For: ",
        b"Connection: ",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\0",
        b"%",
        b"%ff",
        b"..",
        b"0\r\n\r\n",
        b"ffffffff\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0\0\x04\x01\x05\0\0\0\x01",
    ];
    let mut bytes = if random.bool() {
        format!("GET /{} HTTP/1.1\r\nHost: {HOST}\r\n", random.alphanumeric()).into_bytes()
    } else {
        Vec::new()
    };
    for _ in 0..random.usize(1..20) {
        if random.u8(..) < 200 {
            bytes.extend_from_slice(PARTS[random.usize(..PARTS.len())]);
        } else {
            bytes.extend((0..random.usize(..12)).map(|_| random.u8(..)));
        }
    }
    bytes
}

#[tokio::test]
async fn noise_never_brings_it_down() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..300 {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let _ = stream.write_all(&noise(&mut random)).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "a connection whose client had ended it was not closed");
    }
    assert_eq!(proxy.admin("/livez").await.status, 200);
    assert_eq!(proxy.get("/api/v1/auth/status").await.status, 200);
    assert_eq!(upstream.connections(), 0, "noise without a session reached the upstream");
    assert!(!proxy.log().contains("panicked"), "{}", proxy.log());
}

#[tokio::test]
async fn an_old_client_is_spoken_for_in_http11() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    let answer = proxy.raw("GET /old HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
    let received = upstream.last();
    assert_eq!((received.version, received.header("host")), (Version::HTTP_11, String::new()));
}

#[tokio::test]
async fn an_answers_trailers_cannot_set_cookies_or_frame() {
    let upstream = Upstream::raw(|mut stream| async move {
        read_message(&mut stream).await;
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\
                      Trailer: X-Sum, Set-Cookie, Content-Length, X-Forwarded-User\r\n\r\n3\r\nabc\r\n0\r\n\
                      X-Sum: 42\r\nSet-Cookie: session_token=evil\r\nContent-Length: 9\r\nX-Forwarded-User: root\r\n\r\n";
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.read_u8().await;
    })
    .await;
    let proxy = Proxy::open(&upstream).start().await;
    let answer = proxy.send(Request::get("/").header("te", "trailers")).await;
    assert_eq!(answer.text(), "abc");
    let trailers = answer.trailers.expect("a client that takes trailers gets them");
    assert_eq!(trailers.keys().collect::<Vec<_>>(), ["x-sum"]);
}
