//! Upstreams with impersonation: a recording server stands in for a Kubernetes API server, and no client can pose as another user.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dev_idp::{DevIdp, Options};
use http::{HeaderMap, Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::lasting;
use crate::support::client::{full, pieces};
use crate::support::proxy::Plan;
use crate::support::wire::read_until;
use crate::support::{Answer, Client, HOST, PATIENCE, Proxy, Upstream, until};

const API: &str = "https://api.example.com";

/// The impersonation fields, in spellings that servers treat as equal, with values that would matter.
const FORGED: [(&str, &str); 14] = [
    ("Impersonate-User", "root"),
    ("IMPERSONATE-USER", "root"),
    ("impersonate_user", "root"),
    ("impersonate.user", "root"),
    ("Impersonate-Group", "system:masters"),
    ("impersonate_group", "system:masters"),
    ("Impersonate-Uid", "0"),
    ("Impersonate-Extra-Scopes", "all"),
    ("Impersonate-Extra-Acme.com%2Fproject", "root"),
    ("impersonate-extra_provider", "root"),
    ("X-Remote-User", "root"),
    ("X-Remote-Group", "system:masters"),
    ("x_remote_extra-a", "root"),
    ("Authorization", "Basic cm9vdDpyb290"),
];

fn upstream(name: &str, url: &str, more: &str) -> String {
    format!(
        "[[upstreams]]\nname = \"{name}\"\nurls = [\"{url}\"]\nimpersonate = true\ntoken_file = \"FOLDER/token\"\n{more}\n"
    )
}

const RULE: &str = "[[routes]]\npath = \"/kube/**\"\nallow = \"signed-in\"\nupstream = \"kube\"\n";

/// A configuration in the folder of a plan, with the token `canary-1`.
fn with_file(plan: Plan, text: &str) -> Plan {
    let folder = plan.folder().to_str().unwrap().to_owned();
    std::fs::write(plan.folder().join("token"), "canary-1\n").unwrap();
    plan.file("SIDEGATE_CONFIG", "sidegate.toml", &text.replace("FOLDER", &folder))
}

/// Sign-in by GitHub, with groups, before this upstream.
async fn github(usual: &Upstream, kube: &Upstream, more: &str) -> Plan {
    let plan = Proxy::with_sign_in("github", usual)
        .await
        .env("OAUTH_ALLOWED_GROUPS", "acme,acme/platform")
        .env("OAUTH_ALLOWED_USERS", "*");
    with_file(plan, &format!("{}{RULE}", upstream("kube", &format!("http://{}", kube.address), more)))
}

/// Bearer tokens of an issuer beside it, so that a test can invent users; only its users reach the upstream.
async fn tokens(usual: &Upstream, kube: &str, more: &str) -> (Plan, DevIdp) {
    let issuer = DevIdp::start(Options::default()).await.unwrap();
    let text = format!(
        "[[tokens]]\nname = \"ci\"\nissuer = \"{}/oidc\"\naudiences = [\"{API}\"]\nusername_claim = \"login\"\n{}{RULE}require = [\"provider:ci\"]\n",
        issuer.origin(),
        upstream("kube", kube, more)
    );
    (with_file(Proxy::with_sign_in("github", usual).await, &text), issuer)
}

fn minted(issuer: &DevIdp, more: &Value) -> String {
    let mut claims = json!({ "aud": API, "sub": "robot" });
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    issuer.access_token(&claims).unwrap()
}

async fn ask(proxy: &Proxy, token: &str) -> Answer {
    proxy.send(Request::get("/kube/x").header("authorization", format!("Bearer {token}"))).await
}

fn all(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().map(|value| String::from_utf8(value.as_bytes().to_vec()).unwrap()).collect()
}

/// All impersonation fields that were received, with their values.
fn acted_as(headers: &HeaderMap) -> Vec<String> {
    let ours =
        |name: &str| name.starts_with("impersonate") || name.starts_with("x-remote") || name.starts_with("x_remote");
    let mut all: Vec<String> = headers
        .iter()
        .filter(|(name, _)| ours(name.as_str()))
        .map(|(name, value)| format!("{name}: {}", String::from_utf8(value.as_bytes().to_vec()).unwrap()))
        .collect();
    all.sort_unstable();
    all
}

#[tokio::test]
async fn an_upstream_impersonates_the_user_and_no_client_can_choose_whom() {
    let (usual, kube) = (Upstream::start().await, Upstream::start().await);
    let proxy = github(&usual, &kube, "prefix = \"corp:\"").await.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    assert_eq!(ann.get("/kube/x").await.status.as_u16(), 200);
    let honest = kube.last().headers;
    assert_eq!(all(&honest, "authorization"), ["Bearer canary-1"]);
    assert_eq!(all(&honest, "impersonate-user"), ["corp:ann"]);
    let groups = all(&honest, "impersonate-group");
    assert!(
        groups.contains(&"corp:acme".to_owned()) && groups.contains(&"corp:acme/platform".to_owned()),
        "{groups:?}"
    );
    assert_eq!(all(&honest, "impersonate-extra-provider"), ["github"]);
    assert_eq!(
        all(&honest, "impersonate-extra-email"),
        [ann.get("/api/v1/auth/me").await.json()["email"].as_str().unwrap()]
    );
    assert_eq!(all(&honest, "impersonate-uid"), [ann.get("/api/v1/auth/me").await.json()["id"].as_str().unwrap()]);
    assert_eq!(all(&honest, "x-forwarded-user"), ["ann"], "the usual fields are another matter");

    let forged = FORGED.iter().fold(Request::get("/kube/x"), |request, (name, value)| request.header(*name, *value));
    let listed = FORGED.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    assert_eq!(ann.send(forged.header("connection", listed)).await.status.as_u16(), 200);
    let seen = kube.last().headers;
    assert_eq!((acted_as(&seen), all(&seen, "authorization")), (acted_as(&honest), all(&honest, "authorization")));

    // Nor to another upstream.
    let forged = FORGED.iter().fold(Request::get("/x"), |request, (name, value)| request.header(*name, *value));
    assert_eq!(ann.send(forged).await.status.as_u16(), 200);
    let seen = usual.last().headers;
    assert!(acted_as(&seen).iter().all(|field| !field.starts_with("impersonate")), "{seen:?}");

    // No request reaches it without a sign-in, whatever it carries.
    let before = kube.received().len();
    let forged = FORGED.iter().fold(Request::get("/kube/x"), |request, (name, value)| request.header(*name, *value));
    assert_eq!(proxy.send(forged).await.status.as_u16(), 401);
    assert_eq!(kube.received().len(), before);
    assert!(!proxy.log().contains("canary-1"), "the token is in the log");
}

#[tokio::test]
async fn a_page_of_another_host_changes_nothing_in_the_persons_name() {
    let (usual, kube) = (Upstream::start().await, Upstream::start().await);
    let proxy = github(&usual, &kube, "").await.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    let sibling = format!("http://evil.{HOST}");
    let own = format!("http://{HOST}");
    for (method, name, value, status) in [
        ("POST", "sec-fetch-site", "same-site", 403),
        ("DELETE", "sec-fetch-site", "cross-site", 403),
        ("PATCH", "origin", sibling.as_str(), 403),
        ("PUT", "origin", "null", 403),
        ("POST", "sec-fetch-site", "same-origin", 200),
        ("POST", "origin", &own, 200),
        ("DELETE", "x-none", "1", 200),
        ("GET", "sec-fetch-site", "cross-site", 200),
    ] {
        let before = kube.received().len();
        let answer = ann.send(Request::builder().method(method).uri("/kube/x").header(name, value)).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {name}: {value}");
        assert_eq!(kube.received().len() - before, usize::from(status == 200), "{method} {name}: {value}");
        // At other upstreams the application decides.
        let request = Request::builder().method(method).uri("/x").header(name, value);
        assert_eq!(ann.send(request).await.status.as_u16(), 200, "{method} {name}: {value}");
    }
}

#[tokio::test]
async fn trailers_and_http2_are_no_way_round() {
    let (usual, kube) = (Upstream::start().await, Upstream::start().await);
    let proxy = github(&usual, &kube, "identity = \"none\"").await.start().await;
    let ann = proxy.signed_in_as("ann").await;
    let cookie = ann.cookie_header();
    let text = format!(
        "POST /kube/x HTTP/1.1\r\nHost: {HOST}\r\nCookie: {cookie}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: impersonate-user\r\n\r\n2\r\nhi\r\n0\r\nImpersonate-User: root\r\nimpersonate_group: system:masters\r\nX-Remote-Group: system:masters\r\nx_remote_extra-a: root\r\nAuthorization: Bearer x\r\nx-sum: 1\r\n\r\n"
    );
    assert!(proxy.raw(text).await.starts_with("HTTP/1.1 200"));
    let seen = kube.last();
    assert_eq!(all(&seen.headers, "impersonate-user"), ["ann"]);
    assert!(all(&seen.headers, "x-forwarded-user").is_empty(), "identity = none");
    let trailers = seen.trailers.unwrap();
    assert_eq!(trailers.keys().map(http::HeaderName::as_str).collect::<Vec<_>>(), ["x-sum"]);

    let mut client = Client::of(Version::HTTP_2, proxy.address).await;
    let forged = FORGED.iter().fold(Request::post("/kube/x").header("cookie", cookie), |request, (name, value)| {
        request.header(name.to_ascii_lowercase(), *value)
    });
    assert_eq!(client.send(forged, full("x")).await.unwrap().status(), 200);
    let acting = acted_as(&kube.last().headers);
    assert_eq!(acting, acted_as(&seen.headers));
}

#[tokio::test]
async fn a_bearer_token_is_judged_and_then_ours_takes_its_place() {
    let (usual, kube) = (Upstream::start().await, Upstream::start().await);
    let (plan, issuer) = tokens(&usual, &format!("http://{}", kube.address), "").await;
    let proxy = plan.start().await;
    let token = minted(&issuer, &json!({ "login": "ann", "groups": ["dev", "dev", "system:masters", " ops", "a,b"] }));
    assert_eq!(ask(&proxy, &token).await.status.as_u16(), 200);
    let seen = kube.last().headers;
    assert_eq!(all(&seen, "authorization"), ["Bearer canary-1"]);
    assert_eq!(
        acted_as(&seen),
        [
            "impersonate-extra-provider: ci",
            "impersonate-group: a,b",
            "impersonate-group: dev",
            "impersonate-group: ops",
            "impersonate-uid: robot",
            "impersonate-user: ann",
        ]
    );
    proxy.logs("is left out where the upstream acts as them").await;
    let left_out = || proxy.log().matches("is left out where the upstream acts as them").count();
    assert_eq!(left_out(), 1, "{}", proxy.log());
    for who in ["bob", "cid"] {
        let token = minted(&issuer, &json!({ "sub": who, "login": who, "groups": ["system:masters"] }));
        assert_eq!(ask(&proxy, &token).await.status.as_u16(), 200);
        assert!(all(&kube.last().headers, "impersonate-group").is_empty());
    }
    assert_eq!(left_out(), 1, "once a minute at most");
    // An invalid one gives no access.
    let before = kube.received().len();
    assert_eq!(ask(&proxy, "canary-1").await.status.as_u16(), 401);
    assert_eq!(kube.received().len(), before);
}

#[tokio::test]
async fn names_that_are_kubernetes_own_or_cannot_be_passed_on_are_refused_with_the_reason() {
    let usual = Upstream::start().await;
    for prefix in ["", "prefix = \"corp:\""] {
        let kube = Upstream::start().await;
        let (plan, issuer) = tokens(&usual, &format!("http://{}", kube.address), prefix).await;
        let proxy = plan.start().await;
        for (login, says) in [
            ("system:admin", "Kubernetes' own"),
            (" system:admin", "Kubernetes' own"),
            ("SYSTEM:masters", "Kubernetes' own"),
            ("system:serviceaccount:kube-system:x", "Kubernetes' own"),
            ("", "no name"),
            (" \t ", "no name"),
            ("\u{a0}system:admin", "Kubernetes' own"),
            ("\u{feff}system:admin", "Kubernetes' own"),
            ("a\u{0}b", "cannot be passed on"),
            ("a\r\nImpersonate-Group: system:masters", "cannot be passed on"),
        ] {
            let token = minted(&issuer, &json!({ "login": login, "email": "x@example.com", "email_verified": true }));
            let answer = ask(&proxy, &token).await;
            assert_eq!((answer.status.as_u16(), answer.code().as_str()), (403, "not_impersonated"), "{login:?}");
            let body = answer.json();
            assert!(body["message"].as_str().unwrap().contains(says), "{login:?}: {body}");
        }
        assert!(kube.received().is_empty(), "{:?}", kube.last());
        proxy.logs("is not impersonated: names that begin with").await;
        proxy.logs("is not impersonated: nobody vouches for a name").await;
        // Names beyond ASCII, and those that look encoded, are used verbatim; surrounding blanks are removed.
        for name in ["Zo\u{eb}", "zo%C3%AB", "a b", " ann ", "\u{3000}ann\u{a0}"] {
            let token = minted(&issuer, &json!({ "login": name }));
            assert_eq!(ask(&proxy, &token).await.status.as_u16(), 200, "{name}");
            let prefix = if prefix.is_empty() { "" } else { "corp:" };
            assert_eq!(all(&kube.last().headers, "impersonate-user"), [format!("{prefix}{}", name.trim())]);
        }
    }
}

#[tokio::test]
async fn the_wanted_name_never_has_another_one_in_its_place() {
    let (usual, kube) = (Upstream::start().await, Upstream::start().await);
    let (plan, issuer) = tokens(&usual, &format!("http://{}", kube.address), "impersonate_user = \"email\"").await;
    let proxy = plan.start().await;
    for claims in [
        json!({ "login": "ann" }),
        json!({ "login": "ann", "email": "ann@example.com" }),
        json!({ "login": "ann", "email": "ann@example.com", "email_verified": false }),
        json!({ "login": "ann", "email": "a@b@example.com", "email_verified": true }),
    ] {
        let answer = ask(&proxy, &minted(&issuer, &claims)).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (403, "not_impersonated"), "{claims}");
    }
    assert!(kube.received().is_empty());
    let vouched = minted(&issuer, &json!({ "login": "ann", "email": "ann@example.com", "email_verified": true }));
    assert_eq!(ask(&proxy, &vouched).await.status.as_u16(), 200);
    assert_eq!(all(&kube.last().headers, "impersonate-user"), ["ann@example.com"]);
}

#[tokio::test]
async fn the_token_is_read_again_and_without_one_nothing_goes_there() {
    let (usual, kube) = (Upstream::start().await, Upstream::start().await);
    let proxy = github(&usual, &kube, "").await.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    assert_eq!(ann.get("/kube/x").await.status.as_u16(), 200);
    let path = proxy.folder().join("token");
    std::fs::write(&path, "canary-2").unwrap();
    until("the new token is sent", async || {
        let status = ann.get("/kube/x").await.status.as_u16();
        status == 200 && all(&kube.last().headers, "authorization") == ["Bearer canary-2"]
    })
    .await;
    let fifo = |path: &std::path::Path| {
        std::fs::remove_file(path).unwrap();
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    type Spoil<'s> = &'s dyn Fn(&std::path::Path);
    let spoils: [(&str, Spoil<'_>); 4] = [
        ("is empty", &|path| std::fs::write(path, " \n").unwrap()),
        ("something else than one token", &|path| std::fs::write(path, "a b\r\nX: y").unwrap()),
        ("FIFO", &fifo),
        ("No such file", &|path| std::fs::remove_file(path).unwrap()),
    ];
    for (round, (says, spoil)) in spoils.into_iter().enumerate() {
        spoil(&path);
        until("nothing goes there", async || ann.get("/kube/x").await.status.as_u16() == 502).await;
        let before = kube.received().len();
        let answer = ann.get("/kube/x").await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (502, "upstream_unreachable"));
        assert_eq!(kube.received().len(), before, "{says}");
        proxy.logs(says).await;
        let ready = proxy.admin("/readyz").await;
        assert!(ready.status.as_u16() == 200 && ready.text().contains("upstream kube: token_file"), "{}", ready.text());
        assert_eq!(ann.get("/x").await.status.as_u16(), 200, "the others go on");
        let next = format!("canary-{}", round + 3);
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, &next).unwrap();
        until("it is back", async || ann.get("/kube/x").await.status.as_u16() == 200).await;
        assert_eq!(all(&kube.last().headers, "authorization"), [format!("Bearer {next}")]);
    }
    assert!(!proxy.log().contains("canary-"), "a token is in the log");
}

#[tokio::test]
async fn a_server_that_does_not_know_us_is_logged_once() {
    let usual = Upstream::start().await;
    let kube = Upstream::answering(|_| Response::builder().status(401).body(Full::default()).unwrap()).await;
    let proxy = github(&usual, &kube, "").await.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    for _ in 0..3 {
        assert_eq!(ann.get("/kube/x").await.status.as_u16(), 401);
    }
    proxy.logs("does not accept our credential").await;
    assert_eq!(proxy.log().matches("does not accept our credential").count(), 1);
}

#[tokio::test]
async fn an_exec_over_a_websocket_is_the_persons_and_ends_with_the_session() {
    let usual = Upstream::start().await;
    let heads = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = Arc::clone(&heads);
    let kube = Upstream::raw(move |mut stream| {
        let kept = Arc::clone(&kept);
        async move {
            let head = read_until(&mut stream, "\r\n\r\n").await;
            kept.lock().unwrap().push(head);
            let accepted = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\nwelcome";
            stream.write_all(accepted.as_bytes()).await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        }
    })
    .await;
    let proxy = github(&usual, &kube, "").await.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let head = format!(
        "GET /kube/api/v1/namespaces/x/pods/y/exec?command=sh HTTP/1.1\r\nHost: {HOST}\r\nCookie: {}\r\nConnection: Upgrade, Impersonate-User\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.Y2FuYXJ5, v5.channel.k8s.io\r\nImpersonate-User: root\r\nImpersonate-Group: system:masters\r\nAuthorization: Bearer x\r\n\r\n",
        ann.cookie_header()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(read_until(&mut stream, "welcome").await.starts_with("HTTP/1.1 101"));
    let head = heads.lock().unwrap()[0].to_lowercase();
    for line in [
        "impersonate-user: ann\r\n",
        "authorization: bearer canary-1\r\n",
        "sec-websocket-protocol: v5.channel.k8s.io\r\n",
        "upgrade: websocket\r\n",
    ] {
        assert_eq!(head.matches(line).count(), 1, "{line:?} in {head}");
    }
    for never in ["root", "system:masters", "y2fuyxj5", "bearer x"] {
        assert!(!head.contains(never), "{never} in {head}");
    }
    let began = Instant::now();
    ann.post("/api/v1/auth/logout").await;
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it stays open");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // Other upgrades are never requested: the request is forwarded as an ordinary one, without the upgrade.
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let bob = proxy.signed_in_as("bob").await;
    let head = format!(
        "POST /kube/exec HTTP/1.1\r\nHost: {HOST}\r\nCookie: {}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n",
        bob.cookie_header()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(read_until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 502"), "a 101 that nobody asked for");
    let head = heads.lock().unwrap()[1].to_lowercase();
    assert!(!head.contains("spdy") && head.contains("impersonate-user: bob\r\n"), "{head}");
}

#[tokio::test]
async fn a_watch_is_the_persons_and_ends_with_the_session() {
    let usual = Upstream::start().await;
    let seen = Arc::new(std::sync::Mutex::new(HeaderMap::new()));
    let kept = Arc::clone(&seen);
    let kube = Upstream::streaming(move |request| {
        *kept.lock().unwrap() = request.headers().clone();
        async move {
            let (mut sender, body) = pieces();
            tokio::spawn(async move {
                while sender.send_data("data: tick\n\n".into()).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
            Response::builder().header("content-type", "application/json").body(body).unwrap()
        }
    })
    .await;
    let proxy = github(&usual, &kube, "").await.start().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut ann = proxy.signed_in_as("ann").await;
        let (_client, mut body) = lasting::open(&ann, &proxy, version, "/kube/pods?watch=true").await;
        assert_eq!(all(&seen.lock().unwrap(), "impersonate-user"), ["ann"]);
        ann.post("/api/v1/auth/logout").await;
        assert!(lasting::wait_until_aborted(&mut body).await < Duration::from_secs(5));
    }
}

/// A server over TLS that offers HTTP/2 and accepts only clients with `client`'s certificate; it reports the version and the request.
async fn over_tls(server: &rcgen::CertifiedKey<rcgen::KeyPair>, client: &rcgen::CertifiedKey<rcgen::KeyPair>) -> u16 {
    let key = rustls::pki_types::PrivateKeyDer::try_from(server.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(client.cert.der().clone()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![server.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
                    let mut lines = acted_as(request.headers());
                    lines.extend(all(request.headers(), "authorization"));
                    lines.push(format!("{:?}", request.version()));
                    request.into_body().collect().await.unwrap();
                    Ok::<_, std::convert::Infallible>(Response::new(Full::<bytes::Bytes>::from(lines.join("\n"))))
                });
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn a_client_certificate_is_a_credential_too_and_http2_is_spoken_where_both_can() {
    let usual = Upstream::start().await;
    let issued = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let (server, me) = (issued("localhost"), issued("sidegate"));
    let port = over_tls(&server, &me).await;
    let (plan, issuer) = tokens(
        &usual,
        &format!("https://localhost:{port}"),
        "ca_file = \"FOLDER/ca.pem\"\nclient_cert_file = \"FOLDER/me.crt\"\nclient_key_file = \"FOLDER/me.key\"",
    )
    .await;
    for (name, text) in
        [("ca.pem", server.cert.pem()), ("me.crt", me.cert.pem()), ("me.key", me.signing_key.serialize_pem())]
    {
        std::fs::write(plan.folder().join(name), text).unwrap();
    }
    let path = plan.folder().join("sidegate.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let without_token: String =
        text.lines().filter(|line| !line.starts_with("token_file")).map(|line| format!("{line}\n")).collect();
    let proxy = plan.start().await;
    let sent = |login: &str| minted(&issuer, &json!({ "login": login, "groups": ["dev"] }));
    let forwarded = |login: &str, credential: &str| {
        format!(
            "impersonate-extra-provider: ci\nimpersonate-group: dev\nimpersonate-uid: robot\nimpersonate-user: {login}\n{credential}HTTP/2.0"
        )
    };
    assert_eq!(ask(&proxy, &sent("ann")).await.text(), forwarded("ann", "Bearer canary-1\n"));
    std::fs::write(&path, without_token).unwrap();
    until("the certificate alone does it", async || ask(&proxy, &sent("bob")).await.text() == forwarded("bob", ""))
        .await;
}

#[tokio::test]
async fn a_configuration_by_which_nobody_could_be_known_does_not_start() {
    let (usual, kube) = (Upstream::start().await, Upstream::start().await);
    let text = format!(
        "{}[[routes]]\nallow = \"public\"\nupstream = \"kube\"\n",
        upstream("kube", &format!("http://{}", kube.address), "prefix = \"system:\"")
    );
    let plan = with_file(Proxy::open(&usual), &text);
    let output = plan.command().output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{log}");
    for says in ["in open mode nobody is known", "is `public` and leads to", "begins with `system:`"] {
        assert!(log.contains(says), "{says}: {log}");
    }
    assert!(!log.contains("canary"), "{log}");
}
