//! WebSockets over HTTP/2 (RFC 8441): the same rules and lifetime, another handshake.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request, Response, Version};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::client::{Out, full};
use crate::support::wire::{closed, echoes, read_until};
use crate::support::{HOST, PATIENCE, Proxy, Upstream, until};
use crate::tls::Issued;

/// A connection for WebSockets and requests.
struct Http2 {
    sender: SendRequest<Out>,
    scheme: &'static str,
}

impl Http2 {
    async fn of(address: SocketAddr) -> Self {
        Self::on(TcpStream::connect(address).await.unwrap()).await
    }

    async fn on(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (mut sender, connection) =
            http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender.ready().await.unwrap();
        let mut client = Self { sender, scheme: "http" };
        // The server's capabilities come with its settings, so before its first response.
        client.get("/api/v1/auth/status").await;
        client
    }

    async fn connect(&mut self, protocol: &'static str, path: &str, fields: &[(&str, &str)]) -> Response<Incoming> {
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .version(Version::HTTP_2)
            .uri(format!("{}://{HOST}{path}", self.scheme))
            .extension(Protocol::from_static(protocol))
            .header("sec-websocket-version", "13");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let sent = self.sender.send_request(request.body(full("")).unwrap());
        tokio::time::timeout(PATIENCE, sent).await.expect("no answer in time").unwrap()
    }

    async fn websocket(&mut self, path: &str, fields: &[(&str, &str)]) -> Response<Incoming> {
        self.connect("websocket", path, fields).await
    }

    async fn get(&mut self, path: &str) -> Response<Incoming> {
        let request = Request::get(format!("http://{HOST}{path}")).body(full("")).unwrap();
        tokio::time::timeout(PATIENCE, self.sender.send_request(request)).await.expect("no answer in time").unwrap()
    }
}

async fn opened(answer: Response<Incoming>) -> TokioIo<Upgraded> {
    assert_eq!(answer.status(), 200, "{answer:?}");
    TokioIo::new(hyper::upgrade::on(answer).await.unwrap())
}

async fn text(answer: Response<Incoming>) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

fn accept(head: &str) -> String {
    let key = head.lines().find(|line| line.to_lowercase().starts_with("sec-websocket-key:"));
    let key = key.unwrap_or_else(|| panic!("no key in {head}")).split_once(':').unwrap().1.trim();
    let whole = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, whole.as_bytes()))
}

/// Sends the received request head, and echoes each byte.
async fn echo() -> Upstream {
    Upstream::raw(|mut stream| async move {
        let head = read_until(&mut stream, "\r\n\r\n").await;
        let lower = head.to_lowercase();
        if !lower.contains("upgrade: websocket") || !lower.contains("connection: upgrade") {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain").await.unwrap();
            return;
        }
        let accepted = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {}\r\n\
             Sec-WebSocket-Protocol: chat\r\nSet-Cookie: session_token=x\r\n\r\n",
            accept(&head)
        );
        stream.write_all(accepted.as_bytes()).await.unwrap();
        stream.write_all(format!("{head}welcome").as_bytes()).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        let _ = writer.shutdown().await;
    })
    .await
}

#[tokio::test]
async fn bytes_pass_both_ways_as_one_stream_of_many() {
    let upstream = echo().await;
    let proxy = Proxy::open(&upstream).start().await;
    let mut client = Http2::of(proxy.address).await;
    let fields = [
        ("sec-websocket-protocol", "chat"),
        ("origin", "http://app.localhost"),
        ("sec-websocket-key", "forged"),
        ("x-forwarded-user", "root"),
    ];
    let answer = client.websocket("/ws?a=b", &fields).await;
    for name in ["connection", "upgrade", "sec-websocket-accept", "content-length", "transfer-encoding"] {
        assert!(!answer.headers().contains_key(name), "{name} is for HTTP/1: {answer:?}");
    }
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
    let mut stream = opened(answer).await;
    let head = read_until(&mut stream, "welcome").await;
    assert!(head.starts_with("GET /ws?a=b HTTP/1.1\r\n"), "{head}");
    let lower = head.to_lowercase();
    for line in
        ["\r\nhost: app.localhost\r\n", "\r\nsec-websocket-version: 13\r\n", "\r\nsec-websocket-protocol: chat\r\n"]
    {
        assert!(lower.contains(line), "{line:?} is not in {head}");
    }
    assert!(!lower.contains("root") && !lower.contains("forged") && !lower.contains(":protocol"), "{head}");
    echoes(&mut stream, b"\x01any bytes\r\n\r\n\0").await;
    echoes(&mut stream, &vec![b'x'; 1_000_000]).await;
    // Meanwhile, on the same connection: a request, and another one.
    assert_eq!(client.get("/page").await.status(), 200);
    let mut second = opened(client.websocket("/ws", &[]).await).await;
    read_until(&mut second, "welcome").await;
    echoes(&mut second, b"two").await;
    echoes(&mut stream, b"one").await;
    second.shutdown().await.unwrap();
    closed(&mut second).await;
    echoes(&mut stream, b"still").await;
}

#[tokio::test]
async fn it_needs_a_session_and_our_origin_and_is_judged_as_a_get() {
    let upstream = echo().await;
    let rules = "[[routes]]\npath = \"/open/**\"\nmethods = [\"GET\"]\nallow = \"public\"\n\n[[routes]]\npath = \"/closed/**\"\nallow = \"nobody\"";
    let plan = Proxy::with_sign_in("github", &upstream).await.env("AUDIT", "all");
    let proxy = plan.file("SIDEGATE_CONFIG", "sidegate.toml", rules).start().await;
    let mut client = Http2::of(proxy.address).await;
    let answer = client.websocket("/ws", &[("accept", "text/html"), ("sec-fetch-mode", "navigate")]).await;
    assert_eq!(answer.status(), 401, "it is no navigation");
    assert!(text(answer).await.contains("unauthenticated"));
    let cookie = proxy.signed_in_as("ann").await.cookie_header();
    for origin in ["http://other.example", "null", "https://app.localhost", ""] {
        let answer = client.websocket("/ws", &[("cookie", &cookie), ("origin", origin)]).await;
        assert_eq!(answer.status(), 403, "{origin}");
        assert!(text(answer).await.contains("cross_site"));
    }
    assert_eq!(client.websocket("/closed/ws", &[("cookie", &cookie)]).await.status(), 403);
    for (path, status) in [("/api/v1/auth/status", 404), ("/api/v1/auth/verify", 404), ("/api/v1/auth/me", 404)] {
        assert_eq!(client.websocket(path, &[("cookie", &cookie)]).await.status(), status, "{path} is no WebSocket");
    }
    assert_eq!(upstream.connections(), 0, "nothing of this reached the upstream");
    let mut open = opened(client.websocket("/open/ws", &[]).await).await;
    read_until(&mut open, "welcome").await;
    let answer = client.websocket("/ws", &[("cookie", &cookie), ("origin", "http://app.localhost")]).await;
    assert!(answer.headers().get("set-cookie").is_none(), "an upstream sets none of our cookies: {answer:?}");
    let head = read_until(&mut opened(answer).await, "welcome").await.to_lowercase();
    assert!(head.contains("x-forwarded-user: ann") && head.contains("x-sidegate-assertion: "), "{head}");
    assert!(!head.contains("session_token"), "{head}");
    proxy.logs("Permitted: GET /ws").await;
}

#[tokio::test]
async fn every_other_connect_stays_refused() {
    let upstream = echo().await;
    let proxy = Proxy::open(&upstream).start().await;
    let mut client = Http2::of(proxy.address).await;
    for protocol in ["connect-udp", "WebSocket", "websocket2"] {
        let answer = client.connect(protocol, "/ws", &[]).await;
        assert_eq!(answer.status(), 405, "{protocol}");
    }
    let plain = Request::builder().method(Method::CONNECT).uri("app.localhost:80").body(full("")).unwrap();
    let answer =
        tokio::time::timeout(PATIENCE, client.sender.send_request(plain)).await.expect("no answer in time").unwrap();
    assert_eq!(answer.status(), 405);
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn an_upstream_that_does_not_switch_opens_nothing() {
    for (answer, status) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 502),
        ("HTTP/1.1 204 No Content\r\n\r\n", 502),
        ("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno", 426),
        ("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", 302),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 502),
        (
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            502,
        ),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", 502),
    ] {
        let upstream = Upstream::raw(move |mut stream| async move {
            read_until(&mut stream, "\r\n\r\n").await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.read_u8().await;
        })
        .await;
        let proxy = Proxy::open(&upstream).start().await;
        let mut client = Http2::of(proxy.address).await;
        assert_eq!(client.websocket("/ws", &[]).await.status(), status, "{answer}");
    }
}

#[tokio::test]
async fn a_named_upstream_is_reached_over_http_1_and_one_of_http_2_opens_nothing() {
    let upstream = echo().await;
    let text = format!(
        "[[upstreams]]\nname = \"chat\"\nurls = [\"http://{0}\"]\nstrip_prefix = \"/chat\"\n\n[[upstreams]]\nname = \"two\"\nurls = [\"h2c://{0}\"]\n\n\
         [[routes]]\npath = \"/chat/**\"\nupstream = \"chat\"\n\n[[routes]]\npath = \"/two/**\"\nupstream = \"two\"\n",
        upstream.address
    );
    let proxy = Proxy::open(&upstream).file("SIDEGATE_CONFIG", "sidegate.toml", &text).start().await;
    let mut client = Http2::of(proxy.address).await;
    let mut stream = opened(client.websocket("/chat/ws?a", &[]).await).await;
    assert!(read_until(&mut stream, "welcome").await.starts_with("GET /ws?a HTTP/1.1\r\n"));
    echoes(&mut stream, b"there and back").await;
    let answer = client.websocket("/two/ws", &[]).await;
    assert!(answer.status().is_server_error(), "{answer:?}");
}

#[tokio::test]
async fn by_tls_it_is_https_for_the_origin_too() {
    let upstream = echo().await;
    let issued = Issued::new();
    let proxy = issued.shown_by(Proxy::open(&upstream)).start().await;
    let stream = issued.handshake(TcpStream::connect(proxy.address).await.unwrap()).await;
    let mut client = Http2::on(stream).await;
    client.scheme = "https";
    assert_eq!(client.websocket("/ws", &[("origin", "http://app.localhost")]).await.status(), 403);
    let answer = client.websocket("/ws", &[("origin", "https://app.localhost")]).await;
    let head = read_until(&mut opened(answer).await, "welcome").await.to_lowercase();
    assert!(head.contains("x-forwarded-proto: https"), "{head}");
}

#[tokio::test]
async fn a_logout_closes_that_stream_and_nothing_else_of_the_connection() {
    let upstream = echo().await;
    let proxy = Proxy::start(&upstream).await;
    let (mut ann, bob) = (proxy.signed_in_as("ann").await, proxy.signed_in_as("bob").await);
    let mut client = Http2::of(proxy.address).await;
    let mut anns = opened(client.websocket("/ws", &[("cookie", &ann.cookie_header())]).await).await;
    let mut bobs = opened(client.websocket("/ws", &[("cookie", &bob.cookie_header())]).await).await;
    read_until(&mut anns, "welcome").await;
    read_until(&mut bobs, "welcome").await;
    ann.send(Request::post("/api/v1/auth/logout")).await;
    assert!(closed(&mut anns).await < Duration::from_secs(5));
    echoes(&mut bobs, b"goes on").await;
    assert_eq!(client.get("/api/v1/auth/status").await.status(), 200);
}

#[tokio::test]
async fn an_open_one_keeps_its_connection_and_one_that_has_ended_does_not() {
    let upstream = echo().await;
    let plan = Proxy::open(&upstream).env("TIMEOUT_IDLE", "1s").env("TIMEOUT_HEADER", "1s").env("TIMEOUT_BODY", "1s");
    let proxy = plan.start().await;
    let mut client = Http2::of(proxy.address).await;
    let mut stream = opened(client.websocket("/ws", &[]).await).await;
    read_until(&mut stream, "welcome").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    echoes(&mut stream, b"after a rest").await;
    let open = async || {
        let metrics = proxy.admin("/metrics").await.text();
        metrics.contains("sidegate_connections{side=\"downstream\"} 1")
    };
    assert!(open().await);
    stream.shutdown().await.unwrap();
    closed(&mut stream).await;
    drop(stream);
    until("the connection is closed", async || !open().await).await;
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_upstreams_side_and_a_drain_waits_no_longer_than_it_may() {
    let (gone, mut ended) = tokio::sync::mpsc::channel(4);
    let upstream = Upstream::raw(move |mut stream| {
        let gone = gone.clone();
        async move {
            let head = read_until(&mut stream, "\r\n\r\n").await;
            let accepted = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {}\r\n\r\nwelcome",
                accept(&head)
            );
            stream.write_all(accepted.as_bytes()).await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            let _ = gone.send(()).await;
        }
    })
    .await;
    let mut proxy = Proxy::open(&upstream).env("SHUTDOWN_TIMEOUT", "2s").start().await;
    let mut client = Http2::of(proxy.address).await;
    let mut stream = opened(client.websocket("/ws", &[]).await).await;
    read_until(&mut stream, "welcome").await;
    drop((stream, client));
    tokio::time::timeout(PATIENCE, ended.recv()).await.expect("the upstream's side stays open");
    let mut client = Http2::of(proxy.address).await;
    let mut stream = opened(client.websocket("/ws", &[]).await).await;
    read_until(&mut stream, "welcome").await;
    let began = Instant::now();
    proxy.signal("TERM");
    assert!(proxy.ended().await.success());
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}
