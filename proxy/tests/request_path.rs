//! A request's path to the upstream and back: what is forwarded unchanged, each kind of upstream, timeouts, retries.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::client::{full, next_data, pieces};
use crate::support::wire::read_until;
use crate::support::{Client, HOST, PATIENCE, Proxy, Upstream, until};

/// An upstream that keeps each request's head, and asks `answer` what to do: given the number of the request, counted over all
/// connections from 1, it returns the bytes to send, and whether the connection stays open.
async fn scripted(
    answer: impl Fn(usize) -> (&'static str, bool) + Send + Sync + 'static,
) -> (Upstream, Arc<Mutex<Vec<String>>>) {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let (kept, answer) = (Arc::clone(&heads), Arc::new(answer));
    let upstream = Upstream::raw(move |mut stream| {
        let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
        async move {
            while let Some(head) = read_head(&mut stream).await {
                let number = {
                    let mut kept = kept.lock().unwrap();
                    kept.push(head);
                    kept.len()
                };
                let (bytes, stays) = answer(number);
                let _ = stream.write_all(bytes.as_bytes()).await;
                if !stays {
                    return;
                }
            }
        }
    })
    .await;
    (upstream, heads)
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn paths_and_queries_pass_as_they_are() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    let targets = [
        "/",
        "//",
        "//host/x",
        "/a//b",
        "/a/../b",
        "/a/./b/",
        "/%2F%2f",
        "/a%00b",
        "/?a=%00",
        "/a?",
        "/a??",
        "/a?b=c?d/../e",
        "/a;p=1;q",
        "/%e2%82%ac",
        "/%zz",
        "/a|b",
        "/a+b%20c",
        "/~a!$&'()*,=:@",
        "/?x=http://other.example/&y=%26",
        "/%2e%2e/x",
        "/a\\b",
        "/api/v1/authentic",
        "/api/v1/aut%68or",
    ];
    for target in targets {
        let answer =
            proxy.raw(format!("GET {target} HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{target}: {answer}");
        assert_eq!(upstream.last().uri.to_string(), target);
    }
    let answer = proxy.raw("OPTIONS * HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(upstream.last().uri.to_string(), "*");
    let answer = proxy
        .raw("GET http://app.localhost/abs?q=1 HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(upstream.last().uri.to_string(), "/abs?q=1");
}

/// The targets of oauth2-proxy's tests for paths. It matches rules against them; here they are forwarded unchanged, or refused.
#[tokio::test]
async fn targets_from_the_tests_of_another_proxy_pass_as_they_are_or_not_at_all() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    for (target, forwarded) in [
        ("/public/file", "/public/file"),
        ("/public/", "/public/"),
        ("/public/file?next=/../protected;v=1&tag=%23", "/public/file?next=/../protected;v=1&tag=%23"),
        ("/public/file?q=%zz", "/public/file?q=%zz"),
        ("/public/a%20b", "/public/a%20b"),
        ("/public/%66ile", "/public/%66ile"),
        ("/public/caf%C3%A9", "/public/caf%C3%A9"),
        ("/public%2ffile", "/public%2ffile"),
        ("/public/a+b", "/public/a+b"),
        ("/public/a%2bb", "/public/a%2bb"),
        ("/public/100%25", "/public/100%25"),
        ("/public/file.txt", "/public/file.txt"),
        ("/public/...", "/public/..."),
        ("/public/../protected?token=x", "/public/../protected?token=x"),
        ("/public/%2e%2E/protected", "/public/%2e%2E/protected"),
        ("/public%2f..%2fprotected", "/public%2f..%2fprotected"),
        ("/public/./file", "/public/./file"),
        ("/public/..", "/public/.."),
        ("/public/.", "/public/."),
        ("//protected/public", "//protected/public"),
        ("/public//file", "/public//file"),
        ("/public/%2ffile", "/public/%2ffile"),
        ("/public/..;/protected", "/public/..;/protected"),
        ("/public/%2e%2e%3b/protected", "/public/%2e%2e%3b/protected"),
        ("/public/file;version=1", "/public/file;version=1"),
        ("/protected;/public", "/protected;/public"),
        ("/public/%zz?token=x", "/public/%zz?token=x"),
        ("/public/%", "/public/%"),
        ("/public#x", "/public"),
        ("/public%23x", "/public%23x"),
        ("/public%3fx", "/public%3fx"),
        ("/public\\..\\protected", "/public\\..\\protected"),
        ("/public%5c..%5cprotected", "/public%5c..%5cprotected"),
        ("/public/%00", "/public/%00"),
        ("/public/%7f", "/public/%7f"),
        ("public/file", ""),
        ("https://example.com/public/file", ""),
        ("example.com:443", ""),
        ("*", ""),
        ("/public/a b", ""),
    ] {
        let before = upstream.received().len();
        let answer =
            proxy.raw(format!("GET {target} HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n")).await;
        let status = if forwarded.is_empty() { "HTTP/1.1 400 " } else { "HTTP/1.1 200 " };
        assert!(answer.starts_with(status), "{target}: {answer}");
        let came: Vec<_> =
            upstream.received().into_iter().skip(before).map(|received| received.uri.to_string()).collect();
        assert_eq!(came, if forwarded.is_empty() { Vec::new() } else { vec![forwarded] }, "{target}");
    }
}

#[tokio::test]
async fn every_method_passes_with_its_body() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "PURGE"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let mut client = Client::of(version, proxy.address).await;
            let request = Request::builder().method(&method).uri("/x");
            let answer = client.send(request, full("a body")).await.unwrap();
            assert_eq!(answer.status(), 200, "{method}");
            let received = upstream.last();
            assert_eq!((received.method, &received.body[..]), (method.clone(), &b"a body"[..]));
            assert_eq!(received.version, Version::HTTP_11);
            assert_eq!(received.headers["content-length"], "6", "a sized body stays sized");
        }
    }
}

#[tokio::test]
async fn bodies_keep_their_framing() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    let head = "Host: app.localhost\r\nConnection: close\r\n";
    proxy.raw(format!("POST /x HTTP/1.1\r\n{head}Content-Length: 0\r\n\r\n")).await;
    assert_eq!(upstream.last().header("content-length"), "0");
    proxy
        .raw(format!(
            "POST /x HTTP/1.1\r\n{head}Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n"
        ))
        .await;
    let received = upstream.last();
    assert_eq!(&received.body[..], b"abcde");
    assert_eq!(received.header("transfer-encoding"), "chunked");
    assert_eq!(received.trailers.as_ref().unwrap()["x-sum"], "5");
    assert_eq!(received.header("content-length"), "");
    proxy.raw(format!("POST /x HTTP/1.1\r\n{head}Content-Length: 5\r\n\r\nabcde")).await;
    let received = upstream.last();
    assert_eq!((received.header("content-length").as_str(), &received.body[..]), ("5", &b"abcde"[..]));
    assert_eq!(received.header("transfer-encoding"), "");
    proxy.raw(format!("GET /x HTTP/1.1\r\n{head}\r\n")).await;
    assert_eq!(upstream.last().header("content-length"), "", "a GET without a body gets none");
    assert_eq!(upstream.last().header("transfer-encoding"), "");
}

#[tokio::test]
async fn answers_without_a_body_keep_their_headers() {
    let (upstream, _) = scripted(|number| match number {
        1 => ("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nETag: \"a\"\r\n\r\n", true),
        2 => ("HTTP/1.1 204 No Content\r\nX-Kept: yes\r\n\r\n", true),
        3 => ("HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\nETag: \"a\"\r\n\r\n", true),
        _ => (OK, true),
    })
    .await;
    let proxy = Proxy::open(&upstream).start().await;
    let mut client = Client::http1(proxy.address).await;
    let head = client.send(Request::head("/x"), full("")).await.unwrap();
    assert_eq!((head.status().as_u16(), &head.headers()["content-length"]), (200, &"1234".parse().unwrap()));
    assert!(head.into_body().collect().await.unwrap().to_bytes().is_empty());
    let none = client.get("/x").await.unwrap();
    assert_eq!((none.status().as_u16(), &none.headers()["x-kept"]), (204, &"yes".parse().unwrap()));
    assert!(!none.headers().contains_key("content-length") && !none.headers().contains_key("transfer-encoding"));
    drop(none);
    let unmodified = client.get("/x").await.unwrap();
    assert_eq!((unmodified.status().as_u16(), &unmodified.headers()["etag"]), (304, &"\"a\"".parse().unwrap()));
    // hyper omits the length, which RFC 9110 §8.6 allows; a wrong one would not be allowed.
    assert!(unmodified.headers().get("content-length").is_none_or(|length| length == "1234"));
    drop(unmodified);
    let plain = client.get("/x").await.unwrap();
    assert_eq!(plain.into_body().collect().await.unwrap().to_bytes(), "ok", "the connections are still in step");
    assert_eq!(upstream.connections(), 2, "after HEAD a connection is not used again");
}

#[tokio::test]
async fn answers_pass_less_what_is_the_hops_own() {
    let upstream = Upstream::answering(|_| {
        Response::builder()
            .status(418)
            .header("x-app", "1")
            .header("x-app", "2")
            .header("set-cookie", "app=1")
            .header("server", "app")
            .header("connection", "x-mine, keep-alive")
            .header("x-mine", "secret")
            .header("keep-alive", "timeout=5")
            .header("proxy-connection", "keep-alive")
            .header("upgrade", "h2c")
            .header("date", "Tue, 01 Jan 2030 00:00:00 GMT")
            .body(Full::from("teapot"))
            .unwrap()
    })
    .await;
    let proxy = Proxy::open(&upstream).start().await;
    let answer = proxy.get("/x").await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (418, "teapot"));
    assert_eq!(answer.headers.get_all("x-app").iter().count(), 2);
    assert_eq!(answer.header("set-cookie"), "app=1");
    assert_eq!(answer.header("server"), "app");
    assert_eq!(answer.header("date"), "Tue, 01 Jan 2030 00:00:00 GMT");
    for name in ["connection", "x-mine", "keep-alive", "proxy-connection", "upgrade"] {
        assert_eq!(answer.header(name), "", "{name}");
    }
}

#[tokio::test]
async fn requests_pass_less_what_is_the_hops_own() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    let request = Request::get("/x")
        .header("connection", "x-mine, close")
        .header("x-mine", "1")
        .header("keep-alive", "timeout=5")
        .header("proxy-connection", "keep-alive")
        .header("proxy-authorization", "Basic eA==")
        .header("te", "gzip")
        .header("upgrade", "h2c")
        .header("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA")
        .header("x-kept", "yes")
        .header("accept-encoding", "gzip, br");
    assert_eq!(proxy.send(request).await.status, 200);
    let received = upstream.last();
    for name in [
        "x-mine",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "upgrade",
        "http2-settings",
        "connection",
    ] {
        assert_eq!(received.header(name), "", "{name}");
    }
    assert_eq!((received.header("x-kept").as_str(), received.header("accept-encoding").as_str()), ("yes", "gzip, br"));
    assert_eq!(received.header("host"), "app.localhost");
}

#[tokio::test]
async fn a_preflight_is_a_request_like_any_other() {
    let upstream = Upstream::start().await;
    let preflight = || {
        Request::options("/x").header("origin", "https://other.example").header("access-control-request-method", "PUT")
    };
    let open = Proxy::open(&upstream).start().await;
    assert_eq!(open.send(preflight()).await.status, 200);
    assert_eq!(upstream.last().header("access-control-request-method"), "PUT");
    let proxy = Proxy::start(&upstream).await;
    assert_eq!(proxy.send(preflight()).await.code(), "unauthenticated");
    assert_eq!(upstream.received().len(), 1);
}

#[tokio::test]
async fn an_h2c_upstream_is_spoken_to_in_http2() {
    let upstream = Upstream::streaming(async |request| {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let seen = format!("{:?} {} {} {:?}", head.version, head.method, head.uri, body);
        Response::builder().header("x-app", "1").body(full(seen)).unwrap()
    })
    .await;
    let proxy = Proxy::open(&upstream).env("UPSTREAM_URL", format!("h2c://{}", upstream.address)).start().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut client = Client::of(version, proxy.address).await;
        for _ in 0..3 {
            let answer = client.send(Request::post("//a%2F?b=%00"), full("sent")).await.unwrap();
            assert_eq!(answer.headers()["x-app"], "1");
            let text = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(text, "HTTP/2.0 POST http://app.localhost//a%2F?b=%00 b\"sent\"");
        }
    }
    let old = proxy.raw("GET /old HTTP/1.0\r\n\r\n").await;
    assert!(old.contains("200 OK") && old.contains("/old"), "{old}");
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_unix_socket_serves_as_upstream() {
    let nobody = Upstream::start().await;
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("app.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(OK.as_bytes()).await.unwrap();
        head
    });
    let proxy = Proxy::open(&nobody).env("UPSTREAM_URL", format!("unix:{}", path.display())).start().await;
    assert_eq!(proxy.get("/over/a?socket=1").await.text(), "ok");
    assert!(serving.await.unwrap().starts_with("GET /over/a?socket=1 HTTP/1.1\r\n"));
    assert_eq!(proxy.get("/x").await.code(), "upstream_unreachable", "the socket file is there, but nobody listens");
    assert_eq!(nobody.connections(), 0);
}

/// An HTTPS server with a certificate for `localhost`; returns its port and the certificate in PEM.
async fn https_upstream() -> (u16, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                read_until(&mut stream, "\r\n\r\n").await;
                stream.write_all(OK.as_bytes()).await.unwrap();
                let _ = stream.shutdown().await;
            });
        }
    });
    (port, made.cert.pem())
}

#[tokio::test]
async fn an_https_upstream_needs_a_certificate_that_is_trusted_and_for_its_name() {
    let nobody = Upstream::start().await;
    let (port, certificate) = https_upstream().await;
    let trusting = Proxy::open(&nobody)
        .env("UPSTREAM_URL", format!("https://localhost:{port}"))
        .file("UPSTREAM_CA_FILE", "ca.pem", &certificate)
        .start()
        .await;
    assert_eq!(trusting.get("/x").await.text(), "ok");
    let doubting = Proxy::open(&nobody).env("UPSTREAM_URL", format!("https://localhost:{port}")).start().await;
    let answer = doubting.get("/x").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_GATEWAY, "upstream_unreachable"));
    doubting.logs("certificate").await;
    let elsewhere = Proxy::open(&nobody)
        .env("UPSTREAM_URL", format!("https://127.0.0.1:{port}"))
        .file("UPSTREAM_CA_FILE", "ca.pem", &certificate)
        .start()
        .await;
    assert_eq!(elsewhere.get("/x").await.code(), "upstream_unreachable", "a certificate for another name");
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_502_and_named_in_readyz() {
    let upstream = Upstream::start().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = Proxy::open(&upstream).env("UPSTREAM_URL", format!("http://{free}")).start().await;
    let answer = proxy.get("/x").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_GATEWAY, "upstream_unreachable"));
    assert!(!answer.text().contains(&free.to_string()), "the caller does not learn where the upstream is");
    let ready = proxy.admin("/readyz").await;
    assert_eq!(ready.status, 200);
    assert!(ready.text().contains(&free.to_string()), "{}", ready.text());
    proxy.logs(&format!("cannot connect to the upstream http://{free}")).await;
    let page = proxy.send(Request::get("/x").header("accept", "text/html")).await;
    assert_eq!(page.status, 502);
    assert!(page.header("content-type").starts_with("text/html"));
}

/// The address of a listener whose queue is full, so that the kernel drops further connections; and the sockets that fill it.
async fn full_queue() -> (std::net::SocketAddr, (socket2::Socket, Vec<TcpStream>)) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut fillers = Vec::new();
    for _ in 0..8 {
        if let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
            fillers.push(stream);
        }
    }
    (address, (socket, fillers))
}

#[tokio::test]
async fn an_upstream_that_does_not_accept_is_502_after_the_time_to_connect() {
    let (address, _fillers) = full_queue().await;
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream)
        .env("UPSTREAM_URL", format!("http://{address}"))
        .env("TIMEOUT_CONNECT", "1s")
        .start()
        .await;
    let began = Instant::now();
    let answer = proxy.get("/x").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_GATEWAY, "upstream_unreachable"));
    assert!((900..4_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    proxy.logs("TIMEOUT_CONNECT").await;
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_is_504() {
    let (upstream, heads) = scripted(|_| ("", true)).await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_FIRST_BYTE", "1s").start().await;
    let began = Instant::now();
    let answer = proxy.get("/x").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout"));
    assert!((900..4_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_eq!(heads.lock().unwrap().len(), 1, "a request that timed out is not sent again");
}

#[tokio::test]
async fn the_time_to_the_first_byte_counts_from_the_last_byte_sent() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_FIRST_BYTE", "1s").start().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut client = Client::of(version, proxy.address).await;
        let (mut sender, body) = pieces();
        let uploading = tokio::spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(400)).await;
                sender.send_data("piece ".into()).await.unwrap();
            }
        });
        let answer = client.send(Request::post("/x"), body).await.unwrap();
        assert_eq!(answer.status(), 200);
        uploading.await.unwrap();
        assert_eq!(upstream.last().body.len(), 30);
    }
}

#[tokio::test]
async fn a_stalled_upload_is_408() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_BODY", "1s").start().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut client = Client::of(version, proxy.address).await;
        let (mut sender, body) = pieces();
        sender.send_data("half".into()).await.unwrap();
        let answer = client.send(Request::post("/x"), body).await.unwrap();
        assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT, "{version:?}");
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&text).contains("request_timeout"));
        drop(sender);
    }
    assert_eq!(upstream.received().len(), 0, "the upstream never saw a whole request");
}

#[tokio::test]
async fn an_upstream_that_takes_no_byte_of_an_upload_is_504() {
    let upstream = Upstream::raw(async |stream| {
        let _unread = stream;
        std::future::pending().await
    })
    .await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_BODY", "1s").start().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut client = Client::of(version, proxy.address).await;
        let answer = client.send(Request::post("/x"), full(vec![b'x'; 32 << 20])).await.unwrap();
        assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT, "{version:?}");
    }
    proxy.logs("TIMEOUT_BODY").await;
}

#[tokio::test]
async fn an_h2c_upstream_that_is_away_keeps_nobody_waiting_for_the_others() {
    let upstream = Upstream::start().await;
    let (address, _fillers) = full_queue().await;
    let proxy = Proxy::open(&upstream)
        .env("UPSTREAM_URL", format!("h2c://{address}"))
        .env("TIMEOUT_CONNECT", "1s")
        .start()
        .await;
    let began = Instant::now();
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let mut client = Client::http1(proxy.address).await;
        asking.spawn(async move { client.get("/x").await.unwrap().status() });
    }
    while let Some(status) = asking.join_next().await {
        assert_eq!(status.unwrap(), StatusCode::BAD_GATEWAY);
    }
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_stalled_download_is_cut() {
    let (upstream, _) = scripted(|_| ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", true)).await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_BODY", "1s").start().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut client = Client::of(version, proxy.address).await;
        let mut body = client.get("/x").await.unwrap().into_body();
        assert_eq!(next_data(&mut body).await.unwrap().unwrap(), "half");
        assert!(next_data(&mut body).await.unwrap().is_err(), "{version:?}: a cut answer must not look whole");
    }
}

#[tokio::test]
async fn a_silent_event_stream_is_not_cut() {
    let senders = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&senders);
    let upstream = Upstream::streaming(move |_| {
        let (sender, body) = pieces();
        kept.lock().unwrap().push(sender);
        async { Response::builder().header("content-type", "text/event-stream").body(body).unwrap() }
    })
    .await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_BODY", "1s").env("TIMEOUT_IDLE", "1s").start().await;
    let (mut first, mut second) = (Client::http1(proxy.address).await, Client::http2(proxy.address).await);
    let mut bodies = [first.get("/x").await.unwrap().into_body(), second.get("/x").await.unwrap().into_body()];
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let senders = std::mem::take(&mut *senders.lock().unwrap());
    for mut sender in senders {
        sender.send_data("data: late\n\n".into()).await.unwrap();
    }
    for body in &mut bodies {
        assert_eq!(next_data(body).await.unwrap().unwrap(), "data: late\n\n");
    }
}

#[tokio::test]
async fn many_requests_share_one_connection() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    let mut client = Client::http1(proxy.address).await;
    for number in 0..50 {
        let request = if number % 2 == 0 { Request::get("/x") } else { Request::post("/x") };
        let answer = client.send(request, full(if number % 2 == 0 { "" } else { "body" })).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello from upstream");
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn an_upstream_that_closes_after_each_answer_gets_new_connections() {
    let (upstream, heads) =
        scripted(|_| ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", false)).await;
    let proxy = Proxy::open(&upstream).start().await;
    let mut client = Client::http1(proxy.address).await;
    for _ in 0..5 {
        let answer = client.send(Request::post("/x"), full("body")).await.unwrap();
        assert!(!answer.headers().contains_key("connection"), "the client's own connection stays");
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok");
    }
    assert_eq!((upstream.connections(), heads.lock().unwrap().len()), (5, 5));
}

#[tokio::test]
async fn a_request_without_a_body_is_sent_again_once_where_a_used_connection_closes_unanswered() {
    for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"] {
        let ok = if method == "HEAD" { "HTTP/1.1 200 OK\r\n\r\n" } else { OK };
        let (upstream, heads) = scripted(move |number| match number {
            1 => (OK, true),
            2 => ("", false),
            _ => (ok, true),
        })
        .await;
        let proxy = Proxy::open(&upstream).start().await;
        assert_eq!(proxy.get("/x").await.status, 200);
        assert_eq!(proxy.send(Request::builder().method(method).uri("/x")).await.status, 200, "{method}");
        assert_eq!((upstream.connections(), heads.lock().unwrap().len()), (2, 3), "{method}");
    }
}

#[tokio::test]
async fn it_is_not_sent_a_third_time() {
    let (upstream, heads) = scripted(|number| if number == 1 { (OK, true) } else { ("", false) }).await;
    let proxy = Proxy::open(&upstream).start().await;
    assert_eq!(proxy.get("/x").await.status, 200);
    assert_eq!(proxy.get("/x").await.code(), "upstream_unreachable");
    assert_eq!((upstream.connections(), heads.lock().unwrap().len()), (2, 3));
}

#[tokio::test]
async fn a_fresh_connection_that_closes_unanswered_is_no_reason_to_send_again() {
    let (upstream, heads) = scripted(|_| ("", false)).await;
    let proxy = Proxy::open(&upstream).start().await;
    assert_eq!(proxy.get("/x").await.code(), "upstream_unreachable");
    assert_eq!((upstream.connections(), heads.lock().unwrap().len()), (1, 1));
}

#[tokio::test]
async fn what_may_not_be_repeated_is_sent_once() {
    for (method, body) in [("POST", ""), ("POST", "body"), ("PATCH", ""), ("PUT", "body"), ("PURGE", "")] {
        let (upstream, heads) = scripted(|number| if number == 1 { (OK, true) } else { ("", false) }).await;
        let proxy = Proxy::open(&upstream).start().await;
        assert_eq!(proxy.get("/x").await.status, 200);
        let answer = proxy.send_body(Request::builder().method(method).uri("/x"), body).await;
        assert_eq!(answer.code(), "upstream_unreachable", "{method} {body}");
        assert_eq!((upstream.connections(), heads.lock().unwrap().len()), (1, 2), "{method} {body}");
    }
}

#[tokio::test]
async fn what_was_never_sent_is_sent_whatever_it_is() {
    // Closes each connection right after its response, without announcing it.
    let (upstream, heads) = scripted(|_| (OK, false)).await;
    let proxy = Proxy::open(&upstream).start().await;
    for _ in 0..20 {
        let answer = proxy.send_body(Request::post("/x"), "body").await;
        assert_eq!(answer.text(), "ok");
    }
    assert_eq!(heads.lock().unwrap().len(), 20, "each was sent once");
}

#[tokio::test]
async fn an_answer_cut_in_the_middle_is_broken_for_the_client_and_not_asked_for_again() {
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf";
    let (upstream, heads) = scripted(move |number| if number % 2 == 1 { (OK, true) } else { (cut, false) }).await;
    let proxy = Proxy::open(&upstream).start().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut client = Client::of(version, proxy.address).await;
        let whole = client.get("/x").await.unwrap();
        assert_eq!(whole.into_body().collect().await.unwrap().to_bytes(), "ok");
        // On HTTP/2 the reset may overtake the half of the body.
        let cut = client.get("/x").await.unwrap().into_body().collect().await;
        assert!(cut.is_err(), "{version:?}: {cut:?}");
    }
    assert_eq!(heads.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn a_chunked_answer_without_its_end_is_broken_for_the_client() {
    let (upstream, _) =
        scripted(|_| ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", false)).await;
    let proxy = Proxy::open(&upstream).start().await;
    let answer = proxy.raw("GET /x HTTP/1.1\r\nHost: app.localhost\r\n\r\n").await;
    assert!(answer.contains("half") && !answer.contains("\r\n0\r\n"), "{answer}");
}

#[tokio::test]
async fn the_trailers_of_an_answer_pass_to_who_takes_them() {
    let bytes =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 2\r\n\r\n";
    let (upstream, _) = scripted(move |_| (bytes, true)).await;
    let proxy = Proxy::open(&upstream).start().await;
    let taking = proxy.send(Request::get("/x").header("te", "trailers")).await;
    assert_eq!((taking.text().as_str(), &taking.trailers.unwrap()["x-sum"]), ("ok", &"2".parse().unwrap()));
    assert_eq!(proxy.get("/x").await.text(), "ok");
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_passes_whole() {
    let (upstream, _) = scripted(|_| ("HTTP/1.0 200 OK\r\n\r\nall of it", false)).await;
    let proxy = Proxy::open(&upstream).start().await;
    assert_eq!(proxy.get("/x").await.text(), "all of it");
}

#[tokio::test]
async fn an_early_answer_passes_before_the_body_is_read() {
    let upstream =
        Upstream::streaming(async |_| Response::builder().status(413).body(full("too large")).unwrap()).await;
    let proxy = Proxy::open(&upstream).start().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut client = Client::of(version, proxy.address).await;
        let (mut sender, body) = pieces();
        sender.send_data("begin".into()).await.unwrap();
        let answer = client.send(Request::post("/x"), body).await.unwrap();
        assert_eq!(answer.status(), 413, "{version:?}");
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "too large");
        drop(sender);
    }
}

#[tokio::test]
async fn an_answer_of_an_upstream_that_answers_early_and_closes_is_read() {
    let early = "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 9\r\n\r\ntoo large";
    let (upstream, _) = scripted(move |_| (early, false)).await;
    let proxy = Proxy::open(&upstream).start().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        for number in 0..100 {
            // Closing with unread bytes resets a connection, so that writing the rest of the body fails.
            let mut client = Client::of(version, proxy.address).await;
            let answer = client.send(Request::post("/x"), full(vec![b'x'; 1 << 20])).await;
            let answer = answer.unwrap_or_else(|error| panic!("{version:?}, {number}: {error:?}"));
            assert_eq!(answer.status(), 413);
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "too large");
        }
    }
}

#[tokio::test]
async fn a_large_body_that_is_refused_does_not_take_the_refusal_away() {
    const LENGTH: usize = 16 << 20;
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    for number in 0..20 {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let head = format!("POST /x HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {LENGTH}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // Sends everything before it reads, as simple clients do.
        stream.write_all(&vec![b'x'; LENGTH]).await.unwrap_or_else(|error| panic!("{number}: {error}"));
        let answer = read_until(&mut stream, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }
}

#[tokio::test]
async fn what_comes_of_a_refused_body_is_dropped_for_a_while_and_is_no_request() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let cookie = proxy.signed_in_as("ann").await.cookie_header();
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let head = format!("POST /x HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100000\r\n\r\nbegins");
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let began = Instant::now();
    // Longer than an idle connection keeps its buffers.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let smuggled = format!("GET /smuggled HTTP/1.1\r\nHost: {HOST}\r\nCookie: {cookie}\r\n\r\n");
    stream.write_all(smuggled.as_bytes()).await.unwrap();
    // Until it is closed, however much is sent.
    let sending = async {
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, sending).await.expect("it stays open");
    assert!((3..8).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(upstream.connections(), 0, "a part of the body was taken for a request");
}

#[tokio::test]
async fn garbage_from_the_upstream_is_502() {
    let garbage = [
        "garbage\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok",
        "HTTP/1.1 99999 What\r\n\r\n",
        "SSH-2.0-OpenSSH_9.9\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ];
    for bytes in garbage {
        let (upstream, _) = scripted(move |_| (bytes, false)).await;
        let proxy = Proxy::open(&upstream).start().await;
        let answer = proxy.get("/x").await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (StatusCode::BAD_GATEWAY, "upstream_unreachable"),
            "{bytes:?}"
        );
    }
}

#[tokio::test]
async fn interim_answers_do_not_take_the_place_of_the_answer() {
    let (upstream, _) = scripted(|_| {
        ("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true)
    })
    .await;
    let proxy = Proxy::open(&upstream).start().await;
    assert_eq!(proxy.get("/x").await.text(), "ok");
}

#[tokio::test]
async fn interim_answers_reach_a_client_that_knows_them() {
    const HINTS: &str = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nContent-Length: 3\r\n\
                         Connection: x-hop\r\nX-Hop: 1\r\n\r\n";
    // The response comes only after the client has the interim one.
    let go_on = Arc::new(tokio::sync::Notify::new());
    let released = Arc::clone(&go_on);
    let upstream = Upstream::raw(move |mut stream| {
        let released = Arc::clone(&released);
        async move {
            while read_head(&mut stream).await.is_some() {
                stream.write_all(HINTS.as_bytes()).await.unwrap();
                released.notified().await;
                stream.write_all(OK.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let proxy = Proxy::open(&upstream).start().await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    for _ in 0..2 {
        stream.write_all(b"GET /x HTTP/1.1\r\nHost: app.localhost\r\n\r\n").await.unwrap();
        let early = read_until(&mut stream, "</a.css>\r\n\r\n").await;
        assert_eq!(early, "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n");
        go_on.notify_one();
        let answer = read_until(&mut stream, "\r\n\r\nok").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    // An HTTP/1.0 client never gets one (RFC 9110 §15.2); over HTTP/2 the response comes as well.
    go_on.notify_one();
    let old = proxy.raw("GET /x HTTP/1.0\r\nHost: app.localhost\r\n\r\n").await;
    assert!(old.contains(" 200 OK") && !old.contains("HTTP/1.1 10"), "{old}");
    go_on.notify_one();
    assert_eq!(Client::http2(proxy.address).await.get("/x").await.unwrap().status(), 200);
}

#[tokio::test]
async fn interim_answers_that_come_with_the_answer_stand_before_it() {
    let (upstream, _) = scripted(|_| {
        ("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true)
    })
    .await;
    let proxy = Proxy::open(&upstream).start().await;
    let request = "GET /x HTTP/1.1\r\nHost: app.localhost\r\n\r\n";
    let answer = proxy
        .raw(format!("{request}{request}GET /x HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n"))
        .await;
    let statuses: Vec<_> =
        answer.lines().filter(|line| line.contains("HTTP/1.1 ")).map(|line| line.trim_start_matches("ok")).collect();
    assert_eq!(statuses.len(), 6, "{answer}");
    for pair in statuses.chunks(2) {
        assert_eq!(pair, ["HTTP/1.1 103 Early Hints", "HTTP/1.1 200 OK"], "{answer}");
    }
}

#[tokio::test]
async fn signs_that_browsers_encode_pass_encoded() {
    let (upstream, heads) = scripted(|_| (OK, true)).await;
    let proxy = Proxy::open(&upstream).start().await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    for (sent, forwarded) in [
        ("/x?q=\"a\"<b>", "/x?q=%22a%22%3Cb%3E"),
        ("/<x>`y\"{}|^?`{}|^", "/%3Cx%3E%60y\"{}|^?`{}|^"),
        ("/x?plain=%22", "/x?plain=%22"),
    ] {
        stream.write_all(format!("GET {sent} HTTP/1.1\r\nHost: app.localhost\r\n\r\n").as_bytes()).await.unwrap();
        let answer = read_until(&mut stream, "\r\n\r\nok").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{sent}: {answer}");
        let line = heads.lock().unwrap().last().unwrap().lines().next().unwrap().to_owned();
        assert_eq!(line, format!("GET {forwarded} HTTP/1.1"));
    }
}

#[tokio::test]
async fn what_the_parser_refuses_is_refused_with_a_reason() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    for (request, status) in [
        ("GET /a b HTTP/1.1\r\nHost: app.localhost\r\n\r\n".to_owned(), 400),
        ("GET /x HTTP/1.1\r\nHost : app.localhost\r\n\r\n".to_owned(), 400),
        ("GET /x HTTP/1.1\r\nno colon\r\n\r\n".to_owned(), 400),
        (format!("GET /x HTTP/1.1\r\nHost: app.localhost\r\nX: {}\r\n\r\n", "x".repeat(70_000)), 431),
    ] {
        let answer = proxy.raw(&request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
        assert_eq!(body["error"], "bad_request", "{head}");
        assert!(body["message"].as_str().is_some_and(|text| text.len() > 20));
    }
    assert!(upstream.received().is_empty());
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_upstream_request() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let ended = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ended);
        let upstream = Upstream::raw(move |mut stream| {
            let count = Arc::clone(&count);
            async move {
                read_head(&mut stream).await.unwrap();
                let mut rest = Vec::new();
                let outcome = stream.read_to_end(&mut rest).await;
                assert!(outcome.is_ok() || outcome.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
                count.fetch_add(1, Ordering::SeqCst);
            }
        })
        .await;
        let proxy = Proxy::open(&upstream).start().await;
        let mut client = Client::of(version, proxy.address).await;
        let asking = tokio::time::timeout(Duration::from_millis(300), client.get("/x")).await;
        assert!(asking.is_err(), "there is no answer");
        drop(client);
        until("the upstream's connection ends", async || ended.load(Ordering::SeqCst) == 1).await;
    }
}

#[tokio::test]
async fn what_is_left_of_an_answer_is_not_read_once_its_reader_has_gone() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let upstream = Upstream::streaming(move |_| {
        let (mut sender, body) = pieces();
        let count = Arc::clone(&count);
        tokio::spawn(async move {
            while sender.send_data(Bytes::from(vec![b'x'; 16 * 1024])).await.is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
            }
            count.store(usize::MAX, Ordering::SeqCst);
        });
        async { Response::new(body) }
    })
    .await;
    let proxy = Proxy::open(&upstream).start().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        sent.store(0, Ordering::SeqCst);
        let mut client = Client::of(version, proxy.address).await;
        let mut body = client.get("/x").await.unwrap().into_body();
        assert!(next_data(&mut body).await.unwrap().is_ok());
        drop((body, client));
        let gone = until("the upstream stops", async || sent.load(Ordering::SeqCst) == usize::MAX);
        tokio::time::timeout(PATIENCE, gone).await.unwrap();
    }
}
