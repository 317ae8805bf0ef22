//! Listening without a port: on a socket file, and on the socket that systemd passes.

use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Output;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::net::UnixStream;

use crate::support::proxy::Plan;
use crate::support::wire::{self, read_until};
use crate::support::{Answer, HOST, PATIENCE, Proxy, Upstream, until};
use crate::tls::Issued;

/// Sends a request over a socket file.
async fn send(file: &Path, request: http::request::Builder) -> Answer {
    let mut request = request.body(Full::new(Bytes::new())).unwrap();
    request.headers_mut().insert("host", HOST.parse().unwrap());
    let stream = UnixStream::connect(file).await.unwrap();
    tokio::time::timeout(PATIENCE, wire::exchange(stream, request)).await.expect("no answer in time").unwrap()
}

/// A proxy that listens on this file in its folder.
fn by_file(plan: Plan) -> (Plan, PathBuf) {
    let file = plan.folder().join("sidegate.sock");
    let text = format!("unix:{}", file.display());
    (plan.env("LISTEN_ADDR", text), file)
}

/// Starts it, and waits until it ends by itself.
fn refused(plan: &Plan) -> String {
    let Output { status, stderr, .. } = plan.command().output().unwrap();
    assert_eq!(status.code(), Some(1));
    String::from_utf8(stderr).unwrap()
}

#[tokio::test]
async fn requests_come_by_a_socket_file_which_is_gone_at_the_end() {
    let upstream = Upstream::start().await;
    let (plan, file) = by_file(Proxy::open(&upstream));
    let mut proxy = plan.start().await;
    assert_eq!(proxy.listens["listen"], format!("unix:{}", file.display()));
    let made = std::fs::symlink_metadata(&file).unwrap();
    assert!(made.file_type().is_socket());
    assert_eq!(made.permissions().mode() & 0o777, 0o660, "its owner and group may connect, and nobody else");
    let forged = Request::get("/x")
        .header("x-forwarded-for", "203.0.113.9")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-user", "root")
        .header("x-real-ip", "203.0.113.9");
    assert_eq!(send(&file, forged).await.text(), "hello from upstream");
    let received = upstream.last();
    assert_eq!(received.header("x-forwarded-for"), "unknown", "nobody is believed who is not named");
    assert_eq!(received.header("x-forwarded-proto"), "http");
    assert!(!received.headers.contains_key("x-forwarded-user") && !received.headers.contains_key("x-real-ip"));
    proxy.signal("TERM");
    assert!(proxy.ended().await.success());
    assert!(!file.exists(), "it is removed at a clean stop");
}

#[tokio::test]
async fn plain_http_over_it_where_tls_ends_gets_an_answer_that_says_so() {
    let (upstream, issued) = (Upstream::start().await, Issued::new());
    let (plan, file) = by_file(issued.shown_by(Proxy::open(&upstream)));
    let _proxy = plan.start().await;
    let answer = send(&file, Request::get("/x")).await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("speaks HTTPS"), "{answer:?}");
    let secure = issued.handshake(UnixStream::connect(&file).await.unwrap()).await;
    let request = Request::get("/x").header("host", HOST).body(Full::new(Bytes::new())).unwrap();
    assert_eq!(wire::exchange(secure, request).await.unwrap().status, 200, "TLS still comes through");
}

#[tokio::test]
async fn forwarding_headers_over_it_are_believed_only_where_unix_is_trusted() {
    let upstream = Upstream::start().await;
    let rules = r#"
[[routes]]
path = "/near/**"
from = ["0.0.0.0/0", "::/0"]
allow = "public"

[[routes]]
path = "/office/**"
from = ["203.0.113.0/24"]
allow = "public"
"#;
    for (trusted, statuses) in [("0.0.0.0/0,::/0", [401, 401, 401]), ("unix:", [200, 200, 401])] {
        let plan = Proxy::with_sign_in("github", &upstream).await.env("TRUSTED_PROXIES", trusted);
        let (plan, file) = by_file(plan.file("SIDEGATE_CONFIG", "sidegate.toml", rules));
        let _proxy = plan.start().await;
        let by = |path: &str| Request::get(path.to_owned()).header("x-forwarded-for", "198.51.100.1, 203.0.113.9");
        let found = [
            send(&file, by("/near/x")).await.status.as_u16(),
            send(&file, by("/office/x")).await.status.as_u16(),
            send(&file, Request::get("/near/x")).await.status.as_u16(),
        ];
        assert_eq!(found, statuses, "{trusted}: a client without an address is in no network");
    }
    let received = upstream.last();
    assert_eq!(received.header("x-forwarded-for"), "198.51.100.1, 203.0.113.9", "there is no address to append");
}

#[tokio::test]
async fn only_a_socket_that_nobody_listens_by_is_replaced() {
    let upstream = Upstream::start().await;
    let (plan, file) = by_file(Proxy::open(&upstream));
    let twin = plan.twin();
    std::fs::write(&file, "precious").unwrap();
    let text = refused(&plan);
    assert!(text.contains("LISTEN_ADDR") && text.contains("no socket"), "{text}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    std::fs::remove_file(&file).unwrap();
    // A file left behind by a process that ended without cleaning up.
    drop(UnixListener::bind(&file).unwrap());
    let proxy = plan.start().await;
    proxy.logs("was left behind, and is replaced").await;
    assert_eq!(send(&file, Request::get("/x")).await.status, 200);
    let text = refused(&twin);
    assert!(text.contains("another program listens there"), "{text}");
    assert_eq!(send(&file, Request::get("/x")).await.status, 200, "it goes on");
    // Another process replaces it: that one's file stays.
    std::fs::remove_file(&file).unwrap();
    let other = UnixListener::bind(&file).unwrap();
    let mut proxy = proxy;
    proxy.signal("TERM");
    assert!(proxy.ended().await.success() && file.exists());
    drop(other);
    let nowhere = twin.env("LISTEN_ADDR", "unix:/nowhere/at/all.sock");
    assert!(refused(&nowhere).contains("its folder is not there"));
}

#[tokio::test]
async fn a_sign_in_and_a_websocket_go_by_a_socket_file() {
    let upstream = Upstream::raw(|mut stream| async move {
        use tokio::io::AsyncWriteExt as _;
        read_until(&mut stream, "\r\n\r\n").await;
        let accepted = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nwelcome";
        stream.write_all(accepted.as_bytes()).await.unwrap();
    })
    .await;
    let (plan, file) = by_file(Proxy::with_sign_in("github", &upstream).await);
    let proxy = plan.start().await;
    let login = send(&file, Request::get("/api/v1/auth/login?rd=/x")).await;
    assert_eq!(login.status, 302, "{login:?}");
    assert!(login.location().starts_with(&proxy.idp().origin()));
    assert_eq!(send(&file, Request::get("/x")).await.status, 401);
    let (plan, file) = by_file(Proxy::open(&upstream));
    let _proxy = plan.start().await;
    let mut stream = UnixStream::connect(&file).await.unwrap();
    let head = format!(
        "GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await.unwrap();
    assert!(read_until(&mut stream, "welcome").await.starts_with("HTTP/1.1 101"));
}

#[tokio::test]
async fn systemd_passes_a_port_on_and_keeps_it_over_a_restart() {
    let upstream = Upstream::start().await;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let plan = || Proxy::open(&upstream).activated_by(socket.try_clone().unwrap());
    let mut proxy = plan().start().await;
    assert_eq!(proxy.address, address);
    assert_eq!(proxy.get("/x").await.status, 200);
    assert_eq!(upstream.last().header("x-forwarded-for"), "127.0.0.1");
    proxy.signal("TERM");
    assert!(proxy.ended().await.success());
    // Between two processes, new connections wait in the queue.
    let waiting = tokio::spawn(async move {
        let request = Request::get("/queued").header("host", HOST).body(Full::default()).unwrap();
        wire::send(address, request).await
    });
    let _next = plan().start().await;
    assert_eq!(waiting.await.unwrap().status, 200);
}

#[tokio::test]
async fn systemd_passes_a_socket_file_on_and_removes_it_itself() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sidegate.sock");
    let socket = UnixListener::bind(&file).unwrap();
    let mut proxy = Proxy::open(&upstream).activated_by(socket.try_clone().unwrap()).start().await;
    assert_eq!(send(&file, Request::get("/x")).await.status, 200);
    proxy.signal("HUP");
    until("it has read its settings again", async || proxy.log().contains("was read again")).await;
    assert!(!proxy.log().contains("take effect at the next start"), "nothing has changed");
    proxy.signal("TERM");
    assert!(proxy.ended().await.success() && file.exists());
}

#[tokio::test]
async fn without_exactly_one_socket_it_does_not_start() {
    let upstream = Upstream::start().await;
    let none = Proxy::open(&upstream).env("LISTEN_ADDR", "systemd");
    assert!(refused(&none).contains("no socket was passed on"));
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let two = Proxy::open(&upstream)
        .activated_by(socket.try_clone().unwrap())
        .under("export LISTEN_FDS=2 LISTEN_PID=$$ && exec 3<&0 4<&0 0</dev/null");
    assert!(refused(&two).contains("passes 2 sockets on, and one is taken"));
    let another = Proxy::open(&upstream)
        .activated_by(socket.try_clone().unwrap())
        .under("export LISTEN_FDS=1 LISTEN_PID=1 && exec 3<&0 0</dev/null");
    assert!(refused(&another).contains("no socket was passed on"), "it was meant for another process");
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let other = Proxy::open(&upstream).activated_by(datagrams);
    assert!(refused(&other).contains("ListenStream="));
}
