//! TLS termination at the proxy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use crate::support::client::{Client as PlainClient, full, next_data, pieces};
use crate::support::proxy::Plan;
use crate::support::{HOST, PATIENCE, Proxy, Upstream, until};

/// A certificate for [`HOST`], and its key.
pub struct Issued {
    der: CertificateDer<'static>,
    chain: String,
    key: String,
}

impl Issued {
    /// Valid for centuries.
    pub fn new() -> Self {
        Self::until(rcgen::date_time_ymd(4000, 1, 1))
    }

    fn until(end: time::OffsetDateTime) -> Self {
        Self::of(HOST, end)
    }

    fn of(name: &str, end: time::OffsetDateTime) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        params.not_after = end;
        let certificate = params.self_signed(&key).unwrap();
        Self { der: certificate.der().clone(), chain: certificate.pem(), key: key.serialize_pem() }
    }

    /// A TLS connection that trusts this certificate and requests [`HOST`], over an open connection.
    pub async fn handshake<IO: AsyncRead + AsyncWrite + Unpin>(&self, stream: IO) -> TlsStream<IO> {
        Client::trusting(&[self]).handshake(HOST, stream).await
    }

    /// The certificate itself, for clients that trust it.
    pub fn der(&self) -> CertificateDer<'static> {
        self.der.clone()
    }

    /// Configures the proxy to use it.
    pub fn shown_by(&self, plan: Plan) -> Plan {
        plan.file("TLS_CERT_FILE", "tls.crt", &self.chain).file("TLS_KEY_FILE", "tls.key", &self.key)
    }
}

/// The client's trusted certificates and TLS settings.
struct Client {
    trusts: Vec<CertificateDer<'static>>,
    versions: Vec<&'static SupportedProtocolVersion>,
    alpn: Vec<&'static str>,
}

impl Client {
    fn trusting(trusts: &[&Issued]) -> Self {
        let trusts = trusts.iter().map(|issued| issued.der.clone()).collect();
        Self { trusts, versions: vec![&TLS13, &TLS12], alpn: Vec::new() }
    }

    async fn connect(&self, address: SocketAddr) -> TlsStream<TcpStream> {
        self.handshake(HOST, TcpStream::connect(address).await.unwrap()).await
    }

    async fn handshake<IO: AsyncRead + AsyncWrite + Unpin>(&self, name: &'static str, stream: IO) -> TlsStream<IO> {
        let mut roots = RootCertStore::empty();
        for root in &self.trusts {
            roots.add(root.clone()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let connecting =
            tokio_rustls::TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name).unwrap(), stream);
        tokio::time::timeout(PATIENCE, connecting).await.expect("no handshake in time").unwrap()
    }

    /// A connection that carries HTTP/1.1 requests one after another.
    async fn http1(&self, address: SocketAddr) -> http1::SendRequest<Full<Bytes>> {
        let (sender, connection) = http1::handshake(TokioIo::new(self.connect(address).await)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// A connection of the version that ALPN selects.
    async fn kept(&self, address: SocketAddr, http2: bool) -> PlainClient {
        let offer = if http2 { "h2" } else { "http/1.1" };
        let trusts = self.trusts.clone();
        let stream = Self { trusts, versions: self.versions.clone(), alpn: vec![offer] }.connect(address).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(offer.as_bytes()));
        if http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            PlainClient::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            PlainClient::Http1(sender)
        }
    }
}

/// `GET` on a kept-alive connection.
async fn get(sender: &mut http1::SendRequest<Full<Bytes>>, path: &str, cookie: &str) -> Response<Incoming> {
    sender.ready().await.unwrap();
    let request = Request::get(path).header("host", HOST).header("cookie", cookie).body(Full::default()).unwrap();
    tokio::time::timeout(PATIENCE, sender.send_request(request)).await.expect("no answer in time").unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn both_versions_of_tls_carry_http_and_the_upstream_gets_https() {
    let (upstream, issued) = (Upstream::start().await, Issued::new());
    let proxy = issued.shown_by(Proxy::open(&upstream)).start().await;
    for (versions, spoken) in [
        (vec![&TLS12], ProtocolVersion::TLSv1_2),
        (vec![&TLS13], ProtocolVersion::TLSv1_3),
        (vec![&TLS12, &TLS13], ProtocolVersion::TLSv1_3),
    ] {
        let client = Client { versions, ..Client::trusting(&[&issued]) };
        let stream = client.connect(proxy.address).await;
        assert_eq!(stream.get_ref().1.protocol_version(), Some(spoken));
        let mut sender = client.http1(proxy.address).await;
        assert_eq!(text(get(&mut sender, "/x", "a=b").await).await, "hello from upstream");
        let received = upstream.last();
        assert_eq!(received.header("x-forwarded-proto"), "https");
        assert_eq!(received.header("x-forwarded-port"), "443");
    }
}

#[tokio::test]
async fn http2_is_agreed_on_by_alpn_and_http1_without_it() {
    let (upstream, issued) = (Upstream::start().await, Issued::new());
    let proxy = issued.shown_by(Proxy::open(&upstream)).start().await;
    for (alpn, agreed) in [
        (vec!["h2", "http/1.1"], Some(&b"h2"[..])),
        (vec!["http/1.1", "h2"], Some(b"h2")),
        (vec!["http/1.1"], Some(b"http/1.1")),
        (vec![], None),
    ] {
        let stream = Client { alpn, ..Client::trusting(&[&issued]) }.connect(proxy.address).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
    }
    let stream = Client { alpn: vec!["h2"], ..Client::trusting(&[&issued]) }.connect(proxy.address).await;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("https://{HOST}/x")).body(Full::<Bytes>::default()).unwrap();
    let response = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
    assert_eq!((response.status(), response.version()), (http::StatusCode::OK, http::Version::HTTP_2));
    assert_eq!(text(response).await, "hello from upstream");
    assert_eq!(upstream.last().header("x-forwarded-proto"), "https");
}

#[tokio::test]
async fn each_host_has_its_own_certificate_and_another_one_after_a_reload() {
    let upstream = Upstream::start().await;
    let (one, two) = (Issued::new(), Issued::of("*.other.example", rcgen::date_time_ymd(4000, 1, 1)));
    let plan = two.shown_by(Proxy::open(&upstream)).file("TLS_CERT_FILE", "one.crt", &one.chain);
    let plan = plan.file("TLS_KEY_FILE", "one.key", &one.key);
    let at = |name: &str| plan.folder().join(name).to_str().unwrap().to_owned();
    let (certificates, keys) = (["one.crt", "tls.crt"].map(at).join(","), ["one.key", "tls.key"].map(at).join(","));
    let proxy = plan.env("TLS_CERT_FILE", certificates).env("TLS_KEY_FILE", keys).start().await;
    let shown = async |trusted: &Issued, name: &'static str| {
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        let stream = Client::trusting(&[trusted]).handshake(name, stream).await;
        stream.get_ref().1.peer_certificates().unwrap()[0] == trusted.der
    };
    assert!(shown(&one, HOST).await);
    assert!(shown(&two, "a.other.example").await);
    let newer = Issued::of("*.other.example", rcgen::date_time_ymd(4001, 1, 1));
    std::fs::write(proxy.folder().join("tls.crt"), &newer.chain).unwrap();
    std::fs::write(proxy.folder().join("tls.key"), &newer.key).unwrap();
    proxy.signal("HUP");
    proxy.logs("the configuration was read again").await;
    assert!(shown(&newer, "a.other.example").await);
    assert!(shown(&one, HOST).await);
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_not_waited_for() {
    let (upstream, issued) = (Upstream::start().await, Issued::new());
    let proxy = issued.shown_by(Proxy::open(&upstream)).env("TIMEOUT_HEADER", "1s").start().await;
    // No bytes at all, and the start of a ClientHello.
    for start in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let began = Instant::now();
        assert_eq!(proxy.raw(start).await, "");
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(5), "{took:?}");
    }
    // Handshake and head share the time limit.
    let mut stream = Client::trusting(&[&issued]).connect(proxy.address).await;
    let began = Instant::now();
    let _ = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 64])).await.expect("it was not closed");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn plain_http_where_tls_ends_gets_an_answer_that_says_so() {
    let (upstream, issued) = (Upstream::start().await, Issued::new());
    let proxy = issued.shown_by(Proxy::open(&upstream)).env("TIMEOUT_HEADER", "1s").start().await;
    let long = "a".repeat(100_000);
    for request in [
        format!("GET /x HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        format!("GET /x HTTP/1.0\r\nHost: {HOST}\r\nAccept: text/html\r\n\r\n"),
        format!("post /{long} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        format!("POST /x HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100000\r\n\r\n{long}"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ] {
        let answer = proxy.raw(&request).await;
        let start = &request[..20];
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{start}: {answer}");
        assert!(answer.to_lowercase().contains("connection: close\r\n"), "{start}: {answer}");
        assert!(answer.contains("This port speaks HTTPS"), "{start}: {answer}");
    }
    let answer = proxy.raw(format!("HEAD /x HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    // Bytes that are neither HTTP nor TLS get no response, and an endless head times out.
    assert!(!proxy.raw("\x01\x02\x03\x04\x05\r\n\r\n").await.contains("HTTP/"));
    let began = Instant::now();
    let answer = proxy.raw("GET /x HTTP/1.1\r\nHost: a").await;
    assert!(began.elapsed() < Duration::from_secs(8), "{answer}");
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_key_that_is_missing_or_anothers_stops_the_start_and_the_fault_names_the_file() {
    let upstream = Upstream::start().await;
    let (issued, other) = (Issued::new(), Issued::new());
    let plan = |chain: &str, key: &str| {
        Proxy::open(&upstream).file("TLS_CERT_FILE", "tls.crt", chain).file("TLS_KEY_FILE", "tls.key", key)
    };
    for (plan, variable, says) in [
        (plan(&issued.chain, &other.key), "TLS_KEY_FILE: ", "TLS_CERT_FILE"),
        (plan(&issued.chain, ""), "TLS_KEY_FILE: ", "tls.key"),
        (plan(&issued.chain, "x").env("TLS_KEY_FILE", "/nowhere/tls.key"), "TLS_KEY_FILE: ", "/nowhere/tls.key"),
        (plan("", &issued.key), "TLS_CERT_FILE: ", "tls.crt"),
        (plan(&issued.chain, &issued.key).without("TLS_KEY_FILE"), "TLS_KEY_FILE: ", "TLS needs both"),
        (plan(&issued.chain, &issued.key).without("TLS_CERT_FILE"), "TLS_CERT_FILE: ", "TLS needs both"),
    ] {
        let output = plan.command().output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        let faults: Vec<&str> = said.lines().skip(1).collect();
        assert!(faults.len() == 1 && faults[0].starts_with(variable) && faults[0].contains(says), "{said}");
        assert!(!said.contains("PRIVATE KEY-----\n"), "{said}");
    }
}

#[tokio::test]
async fn a_sign_in_over_tls_is_asserted_in_the_name_of_the_https_origin() {
    let (upstream, issued) = (Upstream::start().await, Issued::new());
    let callback = format!("https://{HOST}/api/v1/auth/callback");
    let plan = Proxy::with_sign_in("oidc", &upstream).await.env("OAUTH_REDIRECT_URL", &callback);
    let proxy = issued.shown_by(plan).start().await;
    proxy.idp().allow_redirect(&callback).unwrap();
    let mut sender = Client::trusting(&[&issued]).http1(proxy.address).await;
    let mut jar = BTreeMap::new();
    let mut keep = |response: &Response<Incoming>| {
        for set in response.headers().get_all("set-cookie") {
            let set = set.to_str().unwrap();
            assert!(set.contains("; Secure"), "{set}");
            let (name, value) = set.split(';').next().unwrap().split_once('=').unwrap();
            jar.insert(name.to_owned(), value.to_owned());
        }
        jar.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    };
    let location = |response: &Response<Incoming>| response.headers()["location"].to_str().unwrap().to_owned();
    let answer = get(&mut sender, "/api/v1/auth/login", "").await;
    assert_eq!(answer.status(), 302);
    let cookies = keep(&answer);
    assert!(cookies.contains("__Host-"), "{cookies}");
    let back = proxy.idp().approve(&location(&answer), "ann").expect("the provider refuses");
    let path = back.strip_prefix(&format!("https://{HOST}")).unwrap();
    let answer = get(&mut sender, path, &cookies).await;
    assert_eq!((answer.status().as_u16(), location(&answer).as_str()), (302, "/"), "{}", proxy.log());
    let cookies = keep(&answer);
    assert_eq!(get(&mut sender, "/x", &cookies).await.status(), 200);
    let assertion = upstream.last().header("x-sidegate-assertion");
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(assertion.split('.').nth(1).unwrap()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["iss"], format!("https://{HOST}"));
    assert_eq!(claims["aud"], format!("http://{}", upstream.address));
    assert_eq!(upstream.last().header("x-forwarded-proto"), "https");
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "a certificate that ends soon needs the time of day")]
async fn a_certificate_that_expires_soon_is_reported_in_readyz_and_in_the_log() {
    let upstream = Upstream::start().await;
    let soon = Issued::until(time::OffsetDateTime::now_utc() + time::Duration::hours(3 * 24 + 1));
    let proxy = soon.shown_by(Proxy::open(&upstream)).start().await;
    let ready = proxy.admin("/readyz").await;
    assert_eq!((ready.status.as_u16(), ready.text().as_str()), (200, "ready\ncertificate: expires in 3 days\n"));
    proxy.logs("the certificate expires in 3 days").await;
    assert!(proxy.admin("/metrics").await.text().contains("\nsidegate_certificate_expiry_timestamp_seconds "));
    // After renewal the warning is gone.
    let renewed = Issued::new();
    renewed.replaces(&proxy);
    until("readyz is content", async || proxy.admin("/readyz").await.text() == "ready\n").await;
}

impl Issued {
    /// Replaces the files that the proxy was started with, one after the other, as tools do.
    fn replaces(&self, proxy: &Proxy) {
        for (name, text) in [("tls.key", &self.key), ("tls.crt", &self.chain)] {
            let next = proxy.folder().join(format!("{name}.next"));
            std::fs::write(&next, text).unwrap();
            std::fs::rename(next, proxy.folder().join(name)).unwrap();
        }
    }
}

async fn shown(client: &Client, address: SocketAddr) -> CertificateDer<'static> {
    let stream = client.connect(address).await;
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_and_no_connection_is_dropped_for_it() {
    let (upstream, old, new) = (Upstream::start().await, Issued::new(), Issued::new());
    let proxy = old.shown_by(Proxy::open(&upstream)).start().await;
    let client = Client::trusting(&[&old, &new]);
    let mut kept = client.http1(proxy.address).await;
    assert_eq!(text(get(&mut kept, "/before", "a=b").await).await, "hello from upstream");
    assert!(shown(&client, proxy.address).await == old.der);

    new.replaces(&proxy);
    until("the new certificate is shown", async || shown(&client, proxy.address).await == new.der).await;
    assert_eq!(text(get(&mut kept, "/after", "a=b").await).await, "hello from upstream");

    // Half a renewal: the old pair stays in use.
    std::fs::write(proxy.folder().join("tls.key"), &old.key).unwrap();
    until("readyz reports it", async || {
        proxy.admin("/readyz").await.text().contains("\nconfiguration: last reload failed: ")
    })
    .await;
    assert!(proxy.admin("/readyz").await.text().contains("TLS_KEY_FILE"));
    assert!(shown(&client, proxy.address).await == new.der);
    old.replaces(&proxy);
    until("the other half has come", async || shown(&client, proxy.address).await == old.der).await;
    until("readyz is content", async || proxy.admin("/readyz").await.text() == "ready\n").await;
    assert_eq!(text(get(&mut kept, "/at-last", "a=b").await).await, "hello from upstream");
}

/// The progress of a certificate swap.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Swap {
    Before,
    Done,
}

/// Sends requests on one connection until several have succeeded after the swap.
async fn goes_on_sending(mut client: PlainClient, begun: Arc<Semaphore>, swap: watch::Receiver<Swap>) {
    let (mut sent, mut after) = (0, 0);
    while after < 5 {
        after += usize::from(*swap.borrow() == Swap::Done);
        let answer = client.get("/quick").await.expect("the connection is broken");
        assert_eq!((answer.status().as_u16(), text(answer).await.as_str()), (200, "quick"));
        sent += 1;
        if sent == 3 {
            begun.add_permits(1);
        }
    }
}

/// Reads half a response before the swap, and the other half after it.
async fn awaits_its_answer(mut client: PlainClient, begun: Arc<Semaphore>, mut swap: watch::Receiver<Swap>) {
    let mut answer = client.get("/slow").await.expect("the connection is broken").into_body();
    assert_eq!(next_data(&mut answer).await.unwrap().unwrap(), "first, ");
    begun.add_permits(1);
    swap.wait_for(|swap| *swap == Swap::Done).await.unwrap();
    let rest = answer.collect().await.expect("the answer is cut off").to_bytes();
    assert_eq!(rest, "last");
    // The connection remains usable.
    assert_eq!(text(client.get("/quick").await.unwrap()).await, "quick");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_swapped_under_a_hundred_connections_in_flight_breaks_none() {
    const CONNECTIONS: usize = 100;
    let (set, swap) = watch::channel(Swap::Before);
    let seen = swap.clone();
    let upstream = Upstream::streaming(move |request| {
        let mut swap = seen.clone();
        async move {
            if request.uri().path() != "/slow" {
                return Response::new(full("quick"));
            }
            let (mut sender, body) = pieces();
            tokio::spawn(async move {
                sender.send_data("first, ".into()).await.unwrap();
                swap.wait_for(|swap| *swap == Swap::Done).await.unwrap();
                sender.send_data("last".into()).await.unwrap();
            });
            Response::new(body)
        }
    })
    .await;
    for by_signal in [false, true] {
        set.send_replace(Swap::Before);
        let (old, new) = (Issued::new(), Issued::new());
        let proxy = old.shown_by(Proxy::open(&upstream)).start().await;
        let client = Client::trusting(&[&old, &new]);
        let begun = Arc::new(Semaphore::new(0));
        let mut clients = JoinSet::new();
        for number in 0..CONNECTIONS {
            let client = client.kept(proxy.address, number % 2 == 0).await;
            let (begun, swap) = (Arc::clone(&begun), swap.clone());
            if number % 4 < 2 {
                clients.spawn(awaits_its_answer(client, begun, swap));
            } else {
                clients.spawn(goes_on_sending(client, begun, swap));
            }
        }
        let all = begun.acquire_many(CONNECTIONS.try_into().unwrap());
        let all = tokio::time::timeout(PATIENCE, all).await.expect("not all are in flight").unwrap();
        assert!(shown(&client, proxy.address).await == old.der);
        new.replaces(&proxy);
        if by_signal {
            proxy.signal("HUP");
        }
        until("new connections see the new one", async || shown(&client, proxy.address).await == new.der).await;
        assert_eq!(clients.try_join_next().map(|ended| ended.unwrap()), None, "all are still in flight");
        set.send_replace(Swap::Done);
        drop(all);
        let ended = async { while clients.join_next().await.transpose().unwrap().is_some() {} };
        tokio::time::timeout(PATIENCE, ended).await.expect("not all have ended");
    }
}
