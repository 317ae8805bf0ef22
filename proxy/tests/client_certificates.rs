//! Client certificates in rules: each applies to its own connection only, together with a signed-in user.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Version;
use rcgen::{CertificateParams, DnType, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::proxy::Plan;
use crate::support::{HOST, PATIENCE, Proxy, Upstream, until};
use crate::tls::Issued;

/// A certificate authority for client certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A client certificate, and its key.
#[derive(Clone)]
struct Shown {
    chain: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn signs(&self, name: &str) -> Shown {
        self.signs_until(name, rcgen::date_time_ymd(4000, 1, 1))
    }

    fn signs_until(&self, name: &str, end: time::OffsetDateTime) -> Shown {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![SanType::DnsName(format!("{name}.example.com").try_into().unwrap())];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = end;
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Shown { chain: certificate.pem(), key: key.serialize_pem() }
    }
}

const RULES: &str = r#"
[[routes]]
path = "/laptop/**"
allow = "signed-in"
require = ["cert:CN=laptop-7"]
[[routes]]
path = "/dns/**"
allow = "signed-in"
require = ["cert:DNS=Laptop-7.example.com"]
[[routes]]
path = "/any/**"
allow = "signed-in"
require = ["cert:any"]
[[routes]]
path = "/by/**"
allow = ["cert:CN=laptop-7"]
[[routes]]
path = "/open/**"
allow = "public"
[[routes]]
allow = "signed-in"
"#;

/// A proxy over TLS that requests certificates of this authority, and the cookie of a signed-in user.
async fn start(
    upstream: &Upstream,
    server: &Issued,
    authority: &Authority,
    change: impl FnOnce(Plan) -> Plan,
) -> (Proxy, String) {
    let plan = Proxy::with_sign_in("github", upstream)
        .await
        .env("SESSION_STORE", "jwt")
        .env("SESSION_SECRET", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff");
    // Sessions are kept in cookies, so that a sign-in at a replica without TLS is valid here.
    let replica = plan.twin().start().await;
    let ann = replica.signed_in_as("ann").await;
    let cookie = ann.cookie_header();
    let plan = plan.twin().file("TLS_CLIENT_CA_FILE", "clients.pem", &authority.pem);
    let plan = server.shown_by(plan).file("SIDEGATE_CONFIG", "sidegate.toml", RULES);
    (change(plan).start().await, cookie)
}

fn client(server: &Issued, shown: Option<&Shown>) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(server.der()).unwrap();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match shown {
        None => config.with_no_client_auth(),
        Some(Shown { chain, key }) => {
            let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()];
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
        }
    })
}

/// One connection; `front` is sent first on it.
async fn connect(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    front: &str,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(front.as_bytes()).await?;
    let name = ServerName::try_from(HOST).unwrap();
    tokio_rustls::TlsConnector::from(Arc::clone(config)).connect(name, stream).await
}

/// The status of a request with these lines; `None` if there was no response.
async fn asked(stream: &mut tokio_rustls::client::TlsStream<TcpStream>, path: &str, lines: &str) -> Option<u16> {
    let text = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{lines}\r\n");
    stream.write_all(text.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    let mut byte = [0; 1];
    while !answer.ends_with(b"\r\n\r\n") {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut byte)).await.expect("no answer in time").ok()?;
        if read == 0 {
            return None;
        }
        answer.push(byte[0]);
    }
    let head = String::from_utf8(answer).unwrap().to_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    head.split(' ').nth(1).map(|status| status.parse().unwrap())
}

async fn once(proxy: &Proxy, config: &Arc<ClientConfig>, path: &str, lines: &str) -> Option<u16> {
    let mut stream = connect(proxy.address, config, "").await.ok()?;
    asked(&mut stream, path, lines).await
}

#[tokio::test]
async fn a_connection_without_a_good_certificate_is_refused_where_one_is_required() {
    let (upstream, server) = (Upstream::start().await, Issued::new());
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (proxy, cookie) = start(&upstream, &server, &ours, |plan| plan).await;
    let lines = format!("Cookie: {cookie}\r\n");
    let good = client(&server, Some(&ours.signs("laptop-7")));
    assert_eq!(once(&proxy, &good, "/laptop/x", &lines).await, Some(200));
    let ended = ours.signs_until("laptop-7", rcgen::date_time_ymd(2020, 1, 1));
    for shown in [None, Some(&theirs.signs("laptop-7")), Some(&ended)] {
        for path in ["/x", "/open/x", "/api/v1/auth/status"] {
            assert_eq!(once(&proxy, &client(&server, shown), path, &lines).await, None);
        }
    }
    assert_eq!(upstream.received().len(), 1);
}

#[tokio::test]
async fn rules_ask_for_the_certificate_of_this_very_connection_beside_a_person() {
    let (upstream, server) = (Upstream::start().await, Issued::new());
    let authority = Authority::new("ours");
    let (proxy, cookie) =
        start(&upstream, &server, &authority, |plan| plan.env("TLS_CLIENT_AUTH", "optional").env("AUDIT", "all")).await;
    let lines = format!("Cookie: {cookie}\r\n");
    let nobody = client(&server, None);
    let (seven, eight) =
        (client(&server, Some(&authority.signs("laptop-7"))), client(&server, Some(&authority.signs("laptop-8"))));
    for (config, path, lines, status) in [
        (&seven, "/laptop/x", lines.as_str(), 200),
        (&seven, "/dns/x", &lines, 200),
        (&seven, "/any/x", &lines, 200),
        (&seven, "/by/x", &lines, 200),
        (&eight, "/laptop/x", &lines, 403),
        (&eight, "/dns/x", &lines, 403),
        (&eight, "/any/x", &lines, 200),
        (&eight, "/by/x", &lines, 403),
        (&nobody, "/laptop/x", &lines, 403),
        (&nobody, "/any/x", &lines, 403),
        (&nobody, "/by/x", &lines, 403),
        (&nobody, "/x", &lines, 200),
        (&nobody, "/open/x", "", 200),
        // A certificate is not a sign-in.
        (&seven, "/laptop/x", "", 401),
        (&seven, "/by/x", "", 401),
        (&seven, "/x", "", 401),
        (&seven, "/open/x", "", 200),
    ] {
        assert_eq!(once(&proxy, config, path, lines).await, Some(status), "{path} {lines}");
    }
    // No header field can claim a certificate.
    let forged = format!(
        "{lines}X-Forwarded-Client-Cert: Subject=\"CN=laptop-7\"\r\nX-SSL-Client-S-DN: CN=laptop-7\r\nSSL-Client-Cert: CN=laptop-7\r\nX-Client-Cert: CN=laptop-7\r\n"
    );
    assert_eq!(once(&proxy, &nobody, "/laptop/x", &forged).await, Some(403));
    assert_eq!(once(&proxy, &eight, "/laptop/x", &forged).await, Some(403));
    // A connection's certificate does not apply to another, and stays the same from request to request.
    let mut first = connect(proxy.address, &seven, "").await.unwrap();
    let mut second = connect(proxy.address, &nobody, "").await.unwrap();
    for _ in 0..3 {
        assert_eq!(asked(&mut first, "/laptop/x", &lines).await, Some(200));
        assert_eq!(asked(&mut second, "/laptop/x", &lines).await, Some(403));
    }
    // The log shows what the decision was based on.
    proxy.logs(r#"\"any\",\"CN=laptop-7\",\"DNS=laptop-7.example.com\""#).await;
}

#[tokio::test]
async fn what_stands_in_front_shows_its_own_certificate_and_nobody_elses() {
    let (upstream, server) = (Upstream::start().await, Issued::new());
    let authority = Authority::new("ours");
    let seven = client(&server, Some(&authority.signs("laptop-7")));
    // Behind a trusted proxy, and with one that only requests certificates.
    let (proxy, cookie) = start(&upstream, &server, &authority, |plan| plan.env("TRUSTED_PROXIES", "127.0.0.1")).await;
    let lines = format!("Cookie: {cookie}\r\n");
    assert_eq!(once(&proxy, &seven, "/x", &lines).await, Some(200));
    assert_eq!(once(&proxy, &seven, "/laptop/x", &format!("{lines}X-Forwarded-For: 192.0.2.7\r\n")).await, Some(403));
    let described =
        format!("{lines}X-Original-URI: /laptop/x\r\nX-Original-Method: GET\r\nX-Forwarded-For: 192.0.2.7\r\n");
    assert_eq!(once(&proxy, &seven, "/api/v1/auth/verify", &described).await, Some(403));
    let described = described.replace("/laptop/x", "/x");
    assert_eq!(once(&proxy, &seven, "/api/v1/auth/verify", &described).await, Some(200));
    // A load balancer that opens connections for others.
    let (proxy, cookie) =
        start(&upstream, &server, &authority, |plan| plan.env("PROXY_PROTOCOL_FROM", "127.0.0.1")).await;
    let lines = format!("Cookie: {cookie}\r\n");
    for front in ["PROXY TCP4 192.0.2.7 192.0.2.2 40000 443\r\n", "PROXY UNKNOWN\r\n"] {
        for (path, status) in [("/x", 200), ("/laptop/x", 403), ("/any/x", 403)] {
            let mut stream = connect(proxy.address, &seven, front).await.unwrap();
            assert_eq!(asked(&mut stream, path, &lines).await, Some(status), "{front} {path}");
        }
    }
}

#[tokio::test]
async fn the_authorities_are_read_again_and_no_session_of_tls_outlives_them() {
    let (upstream, server) = (Upstream::start().await, Issued::new());
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (proxy, cookie) = start(&upstream, &server, &old, |plan| plan).await;
    let lines = format!("Cookie: {cookie}\r\n");
    // Each keeps its data for resumption.
    let (of_old, of_new) =
        (client(&server, Some(&old.signs("laptop-7"))), client(&server, Some(&new.signs("laptop-7"))));
    for _ in 0..3 {
        assert_eq!(once(&proxy, &of_old, "/laptop/x", &lines).await, Some(200));
    }
    assert_eq!(once(&proxy, &of_new, "/laptop/x", &lines).await, None);
    std::fs::write(proxy.folder().join("clients.pem"), &new.pem).unwrap();
    until("the new authority counts", async || once(&proxy, &of_new, "/laptop/x", &lines).await == Some(200)).await;
    assert_eq!(once(&proxy, &of_old, "/laptop/x", &lines).await, None);
    // An unreadable file leaves the old certificates in force.
    std::fs::write(proxy.folder().join("clients.pem"), "none").unwrap();
    proxy.logs("TLS_CLIENT_CA_FILE").await;
    assert_eq!(once(&proxy, &of_new, "/laptop/x", &lines).await, Some(200));
    assert_eq!(once(&proxy, &of_old, "/laptop/x", &lines).await, None);
}

#[tokio::test]
async fn a_certificate_that_ends_counts_no_more_on_its_open_connection() {
    let (upstream, server) = (Upstream::start().await, Issued::new());
    let authority = Authority::new("ours");
    let (proxy, cookie) = start(&upstream, &server, &authority, |plan| plan).await;
    let lines = format!("Cookie: {cookie}\r\n");
    #[expect(clippy::disallowed_methods, reason = "a test makes up moments")]
    let soon = time::OffsetDateTime::now_utc() + Duration::from_secs(4);
    let config = client(&server, Some(&authority.signs_until("laptop-7", soon)));
    let mut stream = connect(proxy.address, &config, "").await.unwrap();
    assert_eq!(asked(&mut stream, "/laptop/x", &lines).await, Some(200));
    until("it has ended", async || asked(&mut stream, "/laptop/x", &lines).await == Some(403)).await;
    assert_eq!(asked(&mut stream, "/x", &lines).await, Some(200), "the connection goes on");
}

/// One response: status, `Location`, and the cookies that it sets.
async fn walked(proxy: &Proxy, config: &Arc<ClientConfig>, path: &str, cookies: &str) -> (u16, String, Vec<String>) {
    let stream = connect(proxy.address, config, "").await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(path)
        .header("host", HOST)
        .header("cookie", cookies)
        .body(http_body_util::Full::<bytes::Bytes>::default())
        .unwrap();
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
    let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
    let location = answer.headers().get("location").map(text).unwrap_or_default();
    let set = answer.headers().get_all("set-cookie").iter().map(text);
    let set = set.filter_map(|cookie| cookie.split(';').next().map(str::to_owned)).collect();
    (answer.status().as_u16(), location, set)
}

#[tokio::test]
async fn a_session_begins_by_a_certificate_only_over_its_own_connection() {
    let (upstream, server) = (Upstream::start().await, Issued::new());
    let authority = Authority::new("ours");
    let origin = format!("https://{HOST}");
    let plan = Proxy::with_sign_in_at(&origin, "github", &upstream).await.env("OAUTH_ALLOWED_USERS", "bob");
    let plan = server.shown_by(plan).file("TLS_CLIENT_CA_FILE", "clients.pem", &authority.pem);
    let rules = "[[routes]]\npath = \"/by/**\"\nallow = [\"cert:CN=laptop-7\"]\n";
    let proxy = plan.file("SIDEGATE_CONFIG", "sidegate.toml", rules).start().await;
    for (name, status, by, elsewhere) in [("laptop-7", 302, 200, 403), ("laptop-8", 403, 302, 302)] {
        let config = client(&server, Some(&authority.signs(name)));
        let (begun, location, attempt) = walked(&proxy, &config, "/api/v1/auth/login", "").await;
        assert_eq!(begun, 302);
        let back = proxy.idp().approve(&location, "ann").expect("the provider refuses");
        let path = back.strip_prefix(&origin).unwrap();
        let (ended, _, set) = walked(&proxy, &config, path, &attempt.join("; ")).await;
        assert_eq!(ended, status, "{name}: {}", proxy.log());
        let session = set.iter().find(|cookie| cookie.starts_with("session_token=") && cookie.len() > 20);
        assert_eq!(session.is_some(), status == 302, "{set:?}");
        let cookie = session.cloned().unwrap_or_default();
        let page = format!("Cookie: {cookie}\r\nAccept: text/html\r\n");
        assert_eq!(once(&proxy, &config, "/by/x", &page).await, Some(by), "{name}");
        assert_eq!(once(&proxy, &config, "/x", &page).await, Some(elsewhere), "{name}");
    }
}

#[tokio::test]
async fn over_http2_it_is_the_connections_too() {
    let (upstream, server) = (Upstream::start().await, Issued::new());
    let authority = Authority::new("ours");
    let (proxy, cookie) = start(&upstream, &server, &authority, |plan| plan).await;
    for (name, status) in [("laptop-7", 200), ("laptop-8", 403)] {
        let mut config = client(&server, Some(&authority.signs(name)));
        Arc::get_mut(&mut config).unwrap().alpn_protocols = vec![b"h2".to_vec()];
        let stream = connect(proxy.address, &config, "").await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get(format!("https://{HOST}/laptop/x"))
            .header("cookie", &cookie)
            .body(http_body_util::Full::<bytes::Bytes>::default())
            .unwrap();
        let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (status, Version::HTTP_2), "{name}");
    }
}

#[tokio::test]
async fn explain_asks_with_a_certificate() {
    let upstream = Upstream::start().await;
    let (server, authority) = (Issued::new(), Authority::new("ours"));
    let plan = Proxy::with_sign_in("github", &upstream).await.file("TLS_CLIENT_CA_FILE", "clients.pem", &authority.pem);
    let plan = server.shown_by(plan).file("SIDEGATE_CONFIG", "sidegate.toml", RULES);
    for (certificate, path, code) in [
        (&["--cert", "CN=laptop-7"][..], "/laptop/x", 0),
        (&["--cert", "CN=laptop-8", "--cert", "CN=laptop-7"], "/by/x", 0),
        (&["--cert", "DNS=laptop-7.EXAMPLE.com"], "/dns/x", 0),
        (&["--cert", "any"], "/any/x", 0),
        (&["--cert", "CN=laptop-8"], "/laptop/x", 1),
        (&[], "/any/x", 1),
        (&["--cert", "laptop-7"], "/laptop/x", 0),
        (&["--cert", "O=acme"], "/x", 2),
    ] {
        let output =
            plan.command().args(["explain", "--user", "ann", "--path", path]).args(certificate).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{certificate:?} {path}: {output:?}");
    }
}
