//! Several upstreams: routing by rules, forwarding, and failing backends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use crate::http2_upstream::only_one;
use crate::support::client::{Client, full};
use crate::support::proxy::Plan;
use crate::support::wire::read_until;
use crate::support::{Proxy, Upstream, until};

/// The text of a configuration, with a rule for all of `/app/**` to the upstream `app`.
fn app(urls: &[String], more: &str) -> String {
    let urls: Vec<String> = urls.iter().map(|url| format!("{url:?}")).collect();
    format!(
        "[[upstreams]]\nname = \"app\"\nurls = [{}]\n{more}\n[[routes]]\npath = \"/app/**\"\nallow = \"signed-in\"\nupstream = \"app\"\n",
        urls.join(", ")
    )
}

fn url(upstream: &Upstream) -> String {
    format!("http://{}", upstream.address)
}

fn open(usual: &Upstream, file: &str) -> Plan {
    Proxy::open(usual).file("SIDEGATE_CONFIG", "sidegate.toml", file)
}

/// The head of a request; empty if the client closed.
async fn request_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return String::new() };
        head.push(byte);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// One line of the metrics.
async fn counted(proxy: &Proxy, line: &str) -> f64 {
    let text = proxy.admin("/metrics").await.text();
    let found = text.lines().find_map(|other| other.strip_prefix(line)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("{line} is not in\n{text}"))
}

#[tokio::test]
async fn a_rule_leads_to_the_upstream_that_it_names_and_log_and_metrics_name_it() {
    let (usual, named) = (Upstream::start().await, Upstream::start().await);
    let file = app(&[url(&named)], "strip_prefix = \"/app\"");
    let plan = Proxy::with_sign_in("github", &usual).await.file("SIDEGATE_CONFIG", "sidegate.toml", &file);
    let explained = plan.command().args(["explain", "--user", "ann", "--path", "/app/x", "--json"]).output().unwrap();
    let explained: Value = serde_json::from_slice(&explained.stdout).unwrap();
    assert_eq!((&explained["decision"], &explained["upstream"]), (&"permit".into(), &"app".into()));
    let printed = plan.command().args(["check", "--print"]).output().unwrap();
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(
        printed.contains("upstream app: urls [http://127.0.0.1:") && printed.contains("strip_prefix /app"),
        "{printed}"
    );
    assert!(printed.contains("path /app/** allow signed-in upstream app  (line 5)"), "{printed}");

    let proxy = plan.start().await;
    assert_eq!(proxy.get("/app/x").await.status.as_u16(), 401);
    assert_eq!((usual.connections(), named.connections()), (0, 0), "nobody who is not let in reaches any upstream");
    let mut ann = proxy.signed_in_as("ann").await;
    let forged =
        Request::get("/app/x?y=/app/z").header("x-forwarded-prefix", "/forged").header("x-forwarded-user", "root");
    assert_eq!(ann.send(forged).await.text(), "hello from upstream");
    let seen = named.last();
    assert_eq!((seen.uri.to_string().as_str(), seen.header("x-forwarded-prefix").as_str()), ("/x?y=/app/z", "/app"));
    assert_eq!(
        (seen.header("x-forwarded-user").as_str(), seen.header("x-forwarded-email").as_str()),
        ("ann", "ann@example.com")
    );
    assert_eq!(audience(&seen.header("x-sidegate-assertion")), "app");
    for (path, uri) in [("/app", "/"), ("/app?q=1", "/?q=1"), ("/app/", "/")] {
        ann.get(path).await;
        assert_eq!(named.last().uri, uri, "{path}");
    }
    assert_eq!(ann.get("/apple").await.status.as_u16(), 200);
    assert_eq!(usual.received().len(), 1, "no rule leads elsewhere");
    assert_eq!(usual.last().header("x-forwarded-prefix"), "");
    assert_eq!(audience(&usual.last().header("x-sidegate-assertion")), url(&usual));
    assert_eq!(counted(&proxy, "sidegate_upstream_requests_total{upstream=\"app\",code=\"2xx\"}").await, 4.0);
    assert_eq!(counted(&proxy, "sidegate_upstream_connections{upstream=\"app\"}").await, 1.0);
    // Both upstreams alternately: each one's assertion is cached with the session, and not signed again each time.
    let assertion = |upstream: &Upstream| upstream.last().header("x-sidegate-assertion");
    let before = (assertion(&named), assertion(&usual));
    for path in ["/app/x", "/x", "/app/x", "/x"] {
        ann.get(path).await;
    }
    assert_eq!((assertion(&named), assertion(&usual)), before);
}

fn audience(assertion: &str) -> String {
    let payload = assertion.split('.').nth(1).unwrap();
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap();
    serde_json::from_slice::<Value>(&payload).unwrap()["aud"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_the_upstream_reads_behind_a_prefix_is_judged_with_it() {
    let (usual, named) = (Upstream::start().await, Upstream::start().await);
    let section = format!("[[upstreams]]\nname = \"app\"\nurls = [\"{}\"]\nstrip_prefix = \"/app\"\n", url(&named));
    // Paths outside `/app/admin` go to the same upstream.
    let rules = "[[routes]]\npath = \"/app/admin/**\"\nallow = \"nobody\"\nupstream = \"app\"\n\
                 [[routes]]\nallow = \"signed-in\"\nupstream = \"app\"\n";
    let plan = Proxy::with_sign_in("github", &usual).await.file("SIDEGATE_CONFIG", "sidegate.toml", &(section + rules));
    let plan = plan.env("TRUSTED_PROXIES", "127.0.0.1");
    let asked = ["explain", "--user", "ann", "--path", "/app//h/admin/x", "--json"];
    let explained: Value = serde_json::from_slice(&plan.command().args(asked).output().unwrap().stdout).unwrap();
    assert_eq!((&explained["decision"], &explained["rule"]), (&json!("refuse"), &json!("2")), "{explained}");
    assert!(explained["reason"].as_str().unwrap().contains("`strip_prefix`"), "{explained}");
    let proxy = plan.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    assert_eq!(ann.fetch("/app/admin/x").await.status.as_u16(), 403);
    for path in
        ["/app/../admin/x", "/app/..%2fadmin/x", "/app/%2e%2e/admin/x", "/app/x/../../admin/x", "/app//../admin"]
    {
        let answer = ann.fetch(path).await;
        assert!([400, 403].contains(&answer.status.as_u16()), "{path}: {answer:?}");
    }
    assert_eq!(ann.fetch("/app//h/admin/x").await.status.as_u16(), 400);
    let described = Request::get("/api/v1/auth/verify").header("x-original-uri", "/app//h/admin/x");
    let described = described.header("x-original-method", "GET").header("cookie", ann.cookie_header());
    assert_eq!(proxy.send(described).await.status.as_u16(), 403);
    proxy.logs("without the `strip_prefix` of its upstream").await;
    let refusals = proxy.admin("/metrics").await.text();
    assert!(refusals.contains(r#"sidegate_rule_refusals_total{rule="2",reason="behind_prefix"} "#), "{refusals}");
    assert!(named.received().is_empty(), "{:?}", named.received());
    for (path, uri) in [("/app/api/a%2Fb", "/api/a%2Fb"), ("/app/%41", "/%41"), ("/app/a;b", "/a;b")] {
        assert_eq!(ann.fetch(path).await.status.as_u16(), 200, "{path}");
        assert_eq!(named.last().uri, uri);
    }
}

#[tokio::test]
async fn host_answers_and_bodies_are_as_the_section_says() {
    let usual = Upstream::start().await;
    let named = Upstream::answering(|_| {
        let answer = Response::builder().header("server", "old").header("x-powered-by", "it");
        answer.header("set-cookie", "a=1").body(Full::from("hello")).unwrap()
    })
    .await;
    let more = "host = \"upstream\"\nlimit_body = 10\n\
                response_headers = { set = { \"Server\" = \"new\", \"X-More\" = \"1\" }, remove = [\"X-Powered-By\"] }";
    let proxy = open(&usual, &app(&[url(&named)], more)).start().await;
    let answer = proxy.get("/app/x").await;
    assert_eq!((answer.header("server").as_str(), answer.header("x-more").as_str()), ("new", "1"));
    assert_eq!((answer.header("x-powered-by").as_str(), answer.header("set-cookie").as_str()), ("", "a=1"));
    let seen = named.last();
    assert_eq!(seen.header("host"), named.address.to_string());
    assert_eq!(seen.header("x-forwarded-host"), crate::support::HOST);
    assert_eq!(proxy.get("/x").await.header("x-more"), "", "another upstream");
    assert_eq!(usual.last().header("host"), crate::support::HOST);

    assert_eq!(proxy.send_body(Request::post("/app/x"), "0123456789").await.status.as_u16(), 200);
    let before = named.received().len();
    let answer = proxy.send_body(Request::post("/app/x"), "0123456789a").await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (413, "content_too_large"));
    let refused = proxy.raw(chunked(3)).await;
    assert!(refused.starts_with("HTTP/1.1 413") && refused.contains("content_too_large"), "{refused}");
    assert!(proxy.raw(chunked(2)).await.starts_with("HTTP/1.1 200"));
    assert_eq!(named.received().len(), before + 1, "what was too large was never whole there");
    assert_eq!(
        proxy.send_body(Request::post("/x"), "0123456789a").await.status.as_u16(),
        200,
        "the limit is that one's own"
    );
}

/// A request with a body of so many times four bytes, whose length is not declared.
fn chunked(size: usize) -> String {
    let chunks = "4\r\nabcd\r\n".repeat(size);
    format!(
        "POST /app/x HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{chunks}0\r\n\r\n",
        crate::support::HOST
    )
}

#[tokio::test]
async fn over_http2_a_body_that_is_too_large_is_no_fault_of_the_upstream_either() {
    let usual = Upstream::start().await;
    let named = Upstream::streaming(|request| async move {
        let read = request.into_body().collect().await;
        Response::new(full(read.map(|body| body.to_bytes()).unwrap_or_default()))
    })
    .await;
    let url = format!("h2c://{}", named.address);
    let proxy = open(&usual, &app(&[url], "limit_body = 10")).start().await;
    // On a new connection, and on one that was used before.
    for _ in 0..2 {
        let refused = proxy.raw(chunked(3)).await;
        assert!(refused.starts_with("HTTP/1.1 413") && refused.contains("content_too_large"), "{refused}");
        let readyz = proxy.admin("/readyz").await.text();
        assert!(!readyz.contains("upstream app"), "{readyz}");
    }
    let taken = proxy.raw(chunked(2)).await;
    assert!(taken.starts_with("HTTP/1.1 200") && taken.contains("abcdabcd"), "{taken}");
    assert!(!proxy.log().contains("the upstream broke off"), "{}", proxy.log());
    assert_eq!(named.connections(), 1);
}

/// A backend that answers with its name, optionally only after a notification.
async fn backend(name: &'static str, hold: Option<Arc<Notify>>) -> Upstream {
    Upstream::streaming(move |_| {
        let hold = hold.clone();
        async move {
            if let Some(hold) = hold {
                hold.notified().await;
            }
            Response::new(full(name))
        }
    })
    .await
}

#[tokio::test]
async fn the_backend_with_the_fewest_requests_under_way_is_asked() {
    let usual = Upstream::start().await;
    let release = Arc::new(Notify::new());
    let (slow, quick) = (backend("slow", Some(Arc::clone(&release))).await, backend("quick", None).await);
    let proxy = Arc::new(open(&usual, &app(&[url(&slow), url(&quick)], "")).start().await);
    // Two requests at once: one of them is held.
    let held = {
        let proxy = Arc::clone(&proxy);
        tokio::spawn(async move { tokio::join!(proxy.get("/app/1"), proxy.get("/app/2")) })
    };
    until("one is held", async || slow.connections() > 0).await;
    for _ in 0..8 {
        assert_eq!(proxy.get("/app/x").await.text(), "quick");
    }
    release.notify_waiters();
    release.notify_one();
    let (one, two) = held.await.unwrap();
    let mut both = [one.text(), two.text()];
    both.sort_unstable();
    assert_eq!(both, ["quick", "slow"]);
    release.notify_one();
}

/// A backend whose connections can be cut and whose port can be closed, like a killed process.
struct Killable {
    address: SocketAddr,
    killed: Arc<Notify>,
    is_dead: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Killable {
    async fn start() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap()).await
    }

    async fn at(address: SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(1024).unwrap();
        let address = listener.local_addr().unwrap();
        let (killed, is_dead, answered) =
            (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (kill, dead, count) = (Arc::clone(&killed), Arc::clone(&is_dead), Arc::clone(&answered));
        let accepting = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (kill, dead, count) = (Arc::clone(&kill), Arc::clone(&dead), Arc::clone(&count));
                tokio::spawn(async move {
                    let serve = async {
                        loop {
                            if request_head(&mut stream).await.is_empty() || dead.load(Ordering::SeqCst) {
                                return;
                            }
                            tokio::time::sleep(Duration::from_millis(2)).await;
                            if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
                                return;
                            }
                            count.fetch_add(1, Ordering::SeqCst);
                        }
                    };
                    tokio::select! {
                        () = serve => {}
                        () = kill.notified() => {}
                    }
                });
            }
        });
        Self { address, killed, is_dead, answered, accepting }
    }

    fn kill(&self) {
        self.is_dead.store(true, Ordering::SeqCst);
        self.accepting.abort();
        self.killed.notify_waiters();
    }
}

#[tokio::test]
async fn a_backend_that_is_killed_under_load_costs_no_request_that_may_be_repeated_and_comes_back() {
    let usual = Upstream::start().await;
    let (one, two) = (Killable::start().await, Killable::start().await);
    let urls = [format!("http://{}", one.address), format!("http://{}", two.address)];
    let proxy = open(&usual, &app(&urls, "")).start().await;
    let (stop, failed, done) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let (stop, failed, done, address) =
                (Arc::clone(&stop), Arc::clone(&failed), Arc::clone(&done), proxy.address);
            tokio::spawn(async move {
                let mut client = Client::http1(address).await;
                while !stop.load(Ordering::SeqCst) {
                    let answer = client.get("/app/x").await.unwrap();
                    let status = answer.status();
                    let _ = answer.into_body().collect().await.unwrap();
                    if status != StatusCode::OK {
                        failed.fetch_add(1, Ordering::SeqCst);
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    until("both are busy", async || {
        one.answered.load(Ordering::SeqCst) > 50 && two.answered.load(Ordering::SeqCst) > 50
    })
    .await;
    one.kill();
    let before = done.load(Ordering::SeqCst);
    until("it goes on", async || done.load(Ordering::SeqCst) > before + 300).await;
    assert!(proxy.admin("/readyz").await.text().contains("upstream app: http://127.0.0.1:"), "readyz names it");
    let again = Killable::at(one.address).await;
    until("it takes requests again", async || again.answered.load(Ordering::SeqCst) > 20).await;
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    let (failed, done) = (failed.load(Ordering::SeqCst), done.load(Ordering::SeqCst));
    println!("{done} requests, {failed} failed");
    assert_eq!(failed, 0, "of {done}");
    assert!(!proxy.admin("/readyz").await.text().contains("upstream app"));
    again.kill();
    two.kill();
}

#[tokio::test]
async fn a_request_that_may_not_be_repeated_is_sent_once_unless_it_never_was() {
    let usual = Upstream::start().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // Reads a request and closes the connection.
    let rude = Upstream::raw(move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            // The proxy also connects without a request, to find out whether it is back.
            if !request_head(&mut stream).await.is_empty() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    let gone = Upstream::start().await.address;
    let quick = backend("quick", None).await;
    let proxy = open(&usual, &app(&[url(&rude), url(&quick)], "")).start().await;
    let mut codes = Vec::new();
    for _ in 0..4 {
        codes.push(proxy.send_body(Request::post("/app/x"), "body").await.status.as_u16());
    }
    assert!(codes.contains(&502) && codes.contains(&200), "{codes:?}");
    assert_eq!(asked.load(Ordering::SeqCst), codes.iter().filter(|code| **code == 502).count());
    for _ in 0..4 {
        assert_eq!(proxy.get("/app/x").await.text(), "quick", "GET goes to the other one");
    }
    // One address refuses connections: a request that was never sent goes to the other, whatever its method.
    let proxy = open(&usual, &app(&[format!("http://{gone}"), url(&quick)], "")).start().await;
    for _ in 0..4 {
        assert_eq!(proxy.send_body(Request::post("/app/x"), "body").await.text(), "quick");
    }
}

#[tokio::test]
async fn a_backend_that_reports_itself_unhealthy_gets_no_requests_and_where_all_are_it_is_502() {
    let usual = Upstream::start().await;
    let is_unhealthy = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
    let start = |place: usize| {
        let is_unhealthy = Arc::clone(&is_unhealthy);
        Upstream::answering(move |seen| {
            let unhealthy = seen.uri.path() == "/healthz" && is_unhealthy[place].load(Ordering::SeqCst);
            let status = if unhealthy { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
            Response::builder().status(status).body(Full::from(place.to_string())).unwrap()
        })
    };
    let (zero, one) = (start(0).await, start(1).await);
    let proxy =
        open(&usual, &app(&[url(&zero), url(&one)], "health = \"/healthz\"\nhealth_every = \"1s\"")).start().await;
    let readyz = async || proxy.admin("/readyz").await.text();
    until("both are asked", async || !zero.received().is_empty() && !one.received().is_empty()).await;
    is_unhealthy[0].store(true, Ordering::SeqCst);
    until("it is known", async || readyz().await.contains("is unhealthy: it answers 503 to /healthz")).await;
    for _ in 0..6 {
        assert_eq!(proxy.get("/app/x").await.text(), "1");
    }
    is_unhealthy[1].store(true, Ordering::SeqCst);
    until("both are unhealthy", async || readyz().await.matches("is unhealthy").count() == 2).await;
    let answer = proxy.get("/app/x").await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (502, "upstream_unreachable"));
    proxy.logs("no backend of the upstream is well").await;
    is_unhealthy[0].store(false, Ordering::SeqCst);
    until("it is healthy again", async || proxy.get("/app/x").await.status.as_u16() == 200).await;
    assert_eq!(proxy.get("/app/x").await.text(), "0");
}

/// A certificate for `name`, with its key.
fn issued(name: &str) -> rcgen::CertifiedKey<rcgen::KeyPair> {
    rcgen::generate_simple_self_signed([name.to_owned()]).unwrap()
}

/// A gRPC-like server over TLS that offers `alpn`, and requires `client`'s certificate, if given.
async fn over_tls(server: &rcgen::CertifiedKey<rcgen::KeyPair>, alpn: &[&str], client: Option<&str>) -> SocketAddr {
    let key = rustls::pki_types::PrivateKeyDer::try_from(server.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = match client {
        None => config.with_no_client_auth(),
        Some(pem) => {
            use rustls::pki_types::pem::PemObject as _;
            let mut roots = rustls::RootCertStore::empty();
            roots.add(rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            config.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let mut config = config.with_single_cert(vec![server.cert.der().clone()], key).unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
                    // Servers refuse a request whose scheme is another than the connection's.
                    let version = match request.uri().scheme_str() {
                        Some(scheme) if request.version() == Version::HTTP_2 => format!("h2 {scheme} "),
                        _ => "h1 ".to_owned(),
                    };
                    let body = request.into_body().collect().await.unwrap();
                    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
                    let frames = vec![
                        Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(version))),
                        Ok(Frame::data(body.to_bytes())),
                        Ok(Frame::trailers(trailers)),
                    ];
                    let body = StreamBody::new(futures_util::stream::iter(frames));
                    let answer = Response::builder().header("trailer", "grpc-status").body(body);
                    Ok::<_, std::convert::Infallible>(answer.unwrap())
                });
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn https_offers_http2_so_that_trailers_pass_and_is_content_with_less() {
    let usual = Upstream::start().await;
    let server = issued("grpc.internal");
    let me = issued("sidegate");
    for (scheme, alpn, version) in [
        ("https", &["h2", "http/1.1"][..], "h2 https"),
        ("https", &["http/1.1"][..], "h1"),
        ("https", &[][..], "h1"),
        ("h2", &["h2"][..], "h2 https"),
    ] {
        let address = over_tls(&server, alpn, Some(&me.cert.pem())).await;
        let files = tempfile::tempdir().unwrap();
        for (name, text) in
            [("ca.pem", server.cert.pem()), ("me.crt", me.cert.pem()), ("me.key", me.signing_key.serialize_pem())]
        {
            std::fs::write(files.path().join(name), text).unwrap();
        }
        let folder = files.path().display().to_string();
        let more = format!(
            "ca_file = \"{folder}/ca.pem\"\nclient_cert_file = \"{folder}/me.crt\"\nclient_key_file = \"{folder}/me.key\"\nserver_name = \"grpc.internal\""
        );
        let proxy = open(&usual, &app(&[format!("{scheme}://{address}")], &more)).start().await;
        let mut client = Client::http2(proxy.address).await;
        for _ in 0..3 {
            let request = Request::post("/app/Service/Method")
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            let answer = client.send(request, full("ping")).await.unwrap();
            assert_eq!(answer.status(), 200, "{scheme} {alpn:?}");
            let body = answer.into_body().collect().await.unwrap();
            assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
            assert_eq!(body.to_bytes(), format!("{version} ping"), "{scheme} {alpn:?}");
        }
        assert_eq!(counted(&proxy, "sidegate_upstream_connections{upstream=\"app\"}").await, 1.0, "{scheme} {alpn:?}");
        // Without our client certificate the server refuses the connection.
        let without_certificate = more.replace("client_", "#client_");
        let plan = Proxy::open(&usual).file(
            "SIDEGATE_CONFIG",
            "s.toml",
            &app(&[format!("{scheme}://{address}")], &without_certificate),
        );
        let without_certificate = plan.start().await;
        assert_eq!(without_certificate.get("/app/x").await.code(), "upstream_unreachable");
    }
}

#[tokio::test]
async fn an_answer_on_an_open_connection_ends_an_outage_as_a_new_connection_does() {
    let usual = Upstream::start().await;
    let server = issued("app.internal");
    let behind = over_tls(&server, &["h2", "http/1.1"], None).await;
    // A WebSocket needs a connection of its own, and gets none.
    let (address, _taken) = only_one(behind).await;
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("ca.pem"), server.cert.pem()).unwrap();
    let more = format!("ca_file = \"{}/ca.pem\"\nserver_name = \"app.internal\"", files.path().display());
    let proxy = open(&usual, &app(&[format!("https://{address}")], &more)).start().await;
    let readyz = async || proxy.admin("/readyz").await.text();
    assert_eq!(proxy.get("/app/x").await.status.as_u16(), 200, "{}", proxy.log());
    for outages in 1..=2 {
        let websocket = Request::get("/app/ws")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(proxy.send(websocket).await.status.as_u16(), 502);
        assert!(readyz().await.contains("upstream app: "));
        until("each outage is logged", async || {
            proxy.log().matches("until it can be reached again").count() == outages
        })
        .await;
        until("it is over", async || {
            proxy.get("/app/x").await.status == StatusCode::OK && !readyz().await.contains("upstream app: ")
        })
        .await;
    }
}

#[tokio::test]
async fn a_reload_keeps_the_connections_of_what_did_not_change() {
    let usual = Upstream::start().await;
    let (one, two) = (Upstream::start().await, Upstream::start().await);
    let file = |urls: &[String], more: &str| app(urls, more);
    let proxy = open(&usual, &file(&[url(&one)], "")).start().await;
    assert_eq!(proxy.get("/app/x").await.status.as_u16(), 200);
    let path = proxy.folder().join("sidegate.toml");
    // Another prefix, and another backend beside it.
    std::fs::write(&path, file(&[url(&one), url(&two)], "strip_prefix = \"/app\"")).unwrap();
    until("the new one is there", async || {
        proxy.get("/app/x").await;
        !two.received().is_empty()
    })
    .await;
    proxy.get("/app/x").await;
    proxy.get("/app/x").await;
    assert_eq!((one.last().uri.path(), one.connections()), ("/x", 1), "its connection goes on");
    std::fs::write(&path, file(&[url(&two)], "")).unwrap();
    until("the old one is gone", async || {
        let before = one.received().len();
        proxy.get("/app/y").await;
        proxy.get("/app/y").await;
        one.received().len() == before && two.last().uri.path() == "/app/y"
    })
    .await;
    // An invalid configuration changes nothing.
    std::fs::write(&path, file(&["http://x/path".to_owned()], "")).unwrap();
    proxy.logs("upstreams.urls").await;
    assert_eq!(proxy.get("/app/x").await.status.as_u16(), 200);
}

#[tokio::test]
async fn a_websocket_and_a_name_and_a_socket_file_work_too() {
    let usual = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let head = request_head(&mut stream).await.to_ascii_lowercase();
                if head.contains("upgrade: websocket") {
                    stream
                        .write_all(
                            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
                        )
                        .await
                        .unwrap();
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).await.is_ok() {
                        stream.write_all(&byte).await.unwrap();
                    }
                } else {
                    let host = head.contains("host: localhost\r\n");
                    let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{host}", host.to_string().len());
                    stream.write_all(text.as_bytes()).await.unwrap();
                }
            });
        }
    });
    let socket = open(&usual, &app(&[format!("unix:{}", path.display())], "host = \"upstream\"")).start().await;
    assert_eq!(socket.get("/app/x").await.text(), "true");
    let mut stream = tokio::net::TcpStream::connect(socket.address).await.unwrap();
    let ask = format!(
        "GET /app/ws HTTP/1.1\r\nHost: {}\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        crate::support::HOST
    );
    stream.write_all(ask.as_bytes()).await.unwrap();
    assert!(read_until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 101"));
    stream.write_all(b"echo").await.unwrap();
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"echo");
    // A host name is resolved in the background, and stays usable.
    let named = Upstream::start().await;
    let proxy = open(&usual, &app(&[format!("http://localhost:{}", named.address.port())], "")).start().await;
    proxy.logs("has other addresses now").await;
    assert_eq!(proxy.get("/app/x").await.status.as_u16(), 200);
    // A name that does not resolve is not a configuration error; requests get 502.
    let proxy = open(&usual, &app(&["http://nowhere.invalid:1".to_owned()], "")).start().await;
    assert_eq!(proxy.get("/app/x").await.code(), "upstream_unreachable");
}
