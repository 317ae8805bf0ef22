//! Which hosts are answered to, and whose word on who is asking counts.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use axum::Router;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use orchestrator::entrance::{Assertion, Entrance, Expected, Hosts, Source};
use orchestrator::routes;
use orchestrator::serve::Limits;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::support::{Answer, Orchestrator, app};

const ISSUER: &str = "https://flux.example.com";
const AUDIENCE: &str = "http://orchestrator:8081";

async fn with(entrance: Entrance) -> Orchestrator {
    Orchestrator::start_with(routes(app().await, entrance), Limits::default()).await
}

async fn listing(hosts: &str) -> Orchestrator {
    with(Entrance::new(Hosts::parse(hosts).unwrap(), None)).await
}

/// One request, of which every byte but the end is given.
async fn raw(orchestrator: &Orchestrator, head: &str) -> Answer {
    let mut stream = orchestrator.connect().await;
    stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).await.unwrap();
    Answer::read(&mut stream).await
}

#[tokio::test]
async fn a_name_that_a_stranger_pointed_at_us_reaches_nothing_by_any_method() {
    let orchestrator = listing("").await;
    for target in [
        "GET /",
        "GET /api/v1/whoami",
        "GET /api/v1/events",
        "GET /metrics",
        "GET /nothing",
        "HEAD /",
        "GET /assets/x/style.css",
        "POST /api/v1/clusters",
        "DELETE /api/v1/clusters/x",
        "OPTIONS /api/v1/clusters",
        "GET /api/v1/clusters/healthz",
        "GET //healthz",
        "GET /api/v1/openapi.json",
    ] {
        for host in ["evil.example", "evil.example:8081", "192.0.2.7", "localhost.evil.example", "ann@localhost", ""] {
            let answer =
                raw(&orchestrator, &format!("{target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n")).await;
            assert_eq!(answer.status(), 421, "{target} {host}");
            if !target.starts_with("HEAD") {
                assert!(
                    answer.body.contains("ORCHESTRATOR_HOSTS") && answer.json()["error"] == "wrong_host",
                    "{target}"
                );
            }
        }
    }
    for host in ["localhost", "127.0.0.1:8081", "[::1]:8081", "LocalHost:1"] {
        assert_eq!(raw(&orchestrator, &format!("GET / HTTP/1.1\r\nHost: {host}\r\n")).await.status(), 200, "{host}");
    }
}

#[tokio::test]
async fn a_request_names_one_host_and_its_target_no_other() {
    let orchestrator = listing("flux.example.com").await;
    for (head, status) in [
        ("GET / HTTP/1.1\r\nHost: flux.example.com\r\n", 200),
        ("GET http://flux.example.com/ HTTP/1.1\r\nHost: flux.example.com\r\n", 200),
        ("GET http://evil.example/ HTTP/1.1\r\nHost: flux.example.com\r\n", 421),
        ("GET http://flux.example.com/ HTTP/1.1\r\nHost: evil.example\r\n", 421),
        ("GET / HTTP/1.1\r\nHost: flux.example.com\r\nHost: evil.example\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: flux.example.com\r\n", 421),
        ("GET / HTTP/1.1\r\n", 400),
        ("GET / HTTP/1.0\r\n", 400),
    ] {
        assert_eq!(raw(&orchestrator, head).await.status(), status, "{head}");
    }
}

#[tokio::test]
async fn probes_are_answered_under_any_name_and_say_nothing() {
    let orchestrator = listing("").await;
    for head in ["GET /healthz HTTP/1.1\r\nHost: 10.1.2.3:8081\r\n", "GET /readyz HTTP/1.0\r\n"] {
        let answer = raw(&orchestrator, head).await;
        assert_eq!(answer.status(), 200, "{head}");
        assert!(answer.body.len() < 10, "{}", answer.body);
    }
}

pub(crate) struct Signer {
    kid: &'static str,
    pair: EcdsaKeyPair,
}

impl Signer {
    pub(crate) fn new(kid: &'static str) -> Self {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref()).unwrap();
        Self { kid, pair }
    }

    fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.kid,
               "x": BASE64.encode(&point[1..33]), "y": BASE64.encode(&point[33..65])})
    }

    fn sign_with(&self, head: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", BASE64.encode(head.to_string()), BASE64.encode(claims.to_string()));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64.encode(signature.as_ref()))
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_with(&json!({"typ": "JWT", "alg": "ES256", "kid": self.kid}), claims)
    }
}

#[expect(clippy::disallowed_methods, reason = "an assertion is of this moment")]
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn ann() -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "583231", "iat": now(), "exp": now() + 300, "provider": "github",
           "email": "ann@example.com", "name": "Ann", "preferred_username": "ann", "groups": ["acme/ops"]})
}

fn but(name: &str, value: Value) -> Value {
    let mut claims = ann();
    claims[name] = value;
    claims
}

fn verifying(source: &str) -> Entrance {
    let hosts = Hosts::parse("flux.example.com").unwrap();
    let expected =
        Expected { issuer: Some(ISSUER.into()), audience: Some(AUDIENCE.into()), hosts: hosts.clone(), port: 8081 };
    Entrance::new(hosts, Some(Assertion::new(Source::parse(source, false).unwrap(), expected)))
}

fn set(signers: &[&Signer]) -> String {
    json!({"keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>()}).to_string()
}

pub(crate) fn in_file(signers: &[&Signer]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), set(signers)).unwrap();
    file
}

#[tokio::test]
async fn with_keys_the_signed_identity_counts_and_plain_headers_do_not() {
    let signer = Signer::new("one");
    let file = in_file(&[&signer]);
    let orchestrator = with(verifying(file.path().to_str().unwrap())).await;
    let forged = ["X-Forwarded-User: eve", "X-Forwarded-Groups: admins", "X-Forwarded-User-Id: 1"];
    let assertion = format!("X-Sidegate-Assertion: {}", signer.sign(&ann()));

    let lines: Vec<&str> = forged.into_iter().chain([assertion.as_str()]).collect();
    let whoami = orchestrator.ask("GET /api/v1/whoami", &lines).await.json();
    assert_eq!(
        (&whoami["user"], &whoami["user_id"], &whoami["groups"]),
        (&json!("ann"), &json!("583231"), &json!(["acme/ops"]))
    );
    assert!(!whoami.to_string().contains("eve") && !whoami.to_string().contains("admins"), "{whoami}");
    assert!(orchestrator.ask("GET /", &lines).await.body.contains("Ann"));

    // Whoever does not pass the proxy is nobody, and gets nothing.
    let whoami = orchestrator.ask("GET /api/v1/whoami", &forged).await.json();
    assert_eq!((&whoami["signed_in"], &whoami["headers"]), (&json!(false), &json!({})));
    for target in ["GET /", "GET /api/v1/clusters", "GET /api/v1/events", "POST /api/v1/clusters", "GET /metrics"] {
        let answer = orchestrator.ask(target, &forged).await;
        assert_eq!((answer.status(), &answer.json()["error"]), (401, &json!("unauthenticated")), "{target}");
    }
    assert_eq!(orchestrator.ask("GET /healthz", &[]).await.status(), 200);
}

#[tokio::test]
async fn an_assertion_counts_only_if_all_of_it_holds() {
    let (signer, other) = (Signer::new("one"), Signer::new("one"));
    let file = in_file(&[&signer]);
    let orchestrator = with(verifying(file.path().to_str().unwrap())).await;
    let good = signer.sign(&ann());
    let (signed, _) = good.rsplit_once('.').unwrap();
    let unnamed = signer.sign_with(&json!({"alg": "ES256"}), &ann());
    for (assertion, status) in [
        (good.clone(), 200),
        (unnamed, 200),
        (signer.sign(&but("aud", json!(["x", AUDIENCE]))), 200),
        (signer.sign(&but("exp", json!(now() - 60))), 401),
        (signer.sign(&but("nbf", json!(now() + 120))), 401),
        (signer.sign(&but("exp", Value::Null)), 401),
        (signer.sign(&but("iss", json!("https://evil.example"))), 401),
        (signer.sign(&but("aud", json!("http://elsewhere:8081"))), 401),
        (signer.sign(&but("aud", json!([]))), 401),
        (signer.sign(&but("sub", json!(""))), 401),
        (other.sign(&ann()), 401),
        (format!("{signed}."), 401),
        (format!("{signed}.{}", BASE64.encode([0; 64])), 401),
        (signer.sign_with(&json!({"alg": "none"}), &ann()), 401),
        (signer.sign_with(&json!({"alg": "HS256", "kid": "one"}), &ann()), 401),
        (signer.sign_with(&json!({"alg": "ES256", "kid": "two"}), &ann()), 401),
        ("x".to_owned(), 401),
    ] {
        let line = format!("X-Sidegate-Assertion: {assertion}");
        let answer = orchestrator.ask("GET /api/v1/clusters", &[&line]).await;
        assert_eq!(answer.status(), status, "{assertion} {}", answer.body);
        assert!(!answer.body.contains(signed), "the assertion is a credential");
    }
    let line = format!("X-Sidegate-Assertion: {good}");
    assert_eq!(orchestrator.ask("GET /api/v1/clusters", &[&line, &line]).await.status(), 401);
}

#[tokio::test]
async fn without_settings_the_issuer_is_on_a_host_of_ours_and_the_audience_is_our_own_address() {
    let signer = Signer::new("one");
    let file = in_file(&[&signer]);
    let hosts = Hosts::parse("flux.example.com").unwrap();
    let source = Source::parse(file.path().to_str().unwrap(), false).unwrap();
    let expected = Expected { issuer: None, audience: None, hosts: hosts.clone(), port: 8081 };
    let orchestrator = with(Entrance::new(hosts, Some(Assertion::new(source, expected)))).await;
    let mut claims = ann();
    for (issuer, audience, status) in [
        (ISSUER, "http://127.0.0.1:8081", 200),
        ("http://localhost:8080", "http://localhost:8081", 200),
        ("https://evil.example", "http://127.0.0.1:8081", 401),
        (ISSUER, "http://127.0.0.1:9000", 401),
        (ISSUER, "http://elsewhere:8081", 401),
        (ISSUER, "https://flux.example.com:8081", 401),
    ] {
        (claims["iss"], claims["aud"]) = (issuer.into(), audience.into());
        let line = format!("X-Sidegate-Assertion: {}", signer.sign(&claims));
        assert_eq!(orchestrator.ask("GET /api/v1/clusters", &[&line]).await.status(), status, "{issuer} {audience}");
    }
}

#[tokio::test]
async fn without_an_issuer_the_port_of_a_listed_host_counts_as_well() {
    let signer = Signer::new("one");
    let file = in_file(&[&signer]);
    let hosts = Hosts::parse("flux.example.com:8443,any.example.com").unwrap();
    let source = Source::parse(file.path().to_str().unwrap(), false).unwrap();
    let expected = Expected { issuer: None, audience: Some(AUDIENCE.into()), hosts: hosts.clone(), port: 8081 };
    let orchestrator = with(Entrance::new(hosts, Some(Assertion::new(source, expected)))).await;
    for (issuer, status) in [
        ("https://flux.example.com:8443", 200),
        ("https://flux.example.com", 401),
        ("https://flux.example.com:9443", 401),
        ("https://any.example.com", 200),
        ("https://any.example.com:9443", 200),
        ("https://evil.example:8443", 401),
    ] {
        let line = format!("X-Sidegate-Assertion: {}", signer.sign(&but("iss", json!(issuer))));
        assert_eq!(orchestrator.ask("GET /api/v1/clusters", &[&line]).await.status(), status, "{issuer}");
    }
}

#[tokio::test]
async fn an_oidc_username_that_users_may_choose_names_nobody() {
    let signer = Signer::new("one");
    let file = in_file(&[&signer]);
    let orchestrator = with(verifying(file.path().to_str().unwrap())).await;
    for (provider, email, user) in
        [("oidc", "ann@example.com", "ann@example.com"), ("oidc", "", "583231"), ("entra", "", "ann")]
    {
        let mut claims = but("provider", json!(provider));
        claims["email"] = email.into();
        let line = format!("X-Sidegate-Assertion: {}", signer.sign(&claims));
        assert_eq!(orchestrator.ask("GET /api/v1/whoami", &[&line]).await.json()["user"], user, "{provider} {email}");
    }
}

#[tokio::test]
async fn keys_behind_a_url_are_waited_for_and_read_again_as_they_change() {
    let (first, second) = (Signer::new("one"), Signer::new("two"));
    let served: Arc<Mutex<Option<String>>> = Arc::default();
    let shown = Arc::clone(&served);
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let proxy = Orchestrator::start_with(
        Router::new().route(
            "/api/v1/auth/jwks",
            get(move || {
                *count.lock().unwrap() += 1;
                let set = shown.lock().unwrap().clone();
                async move { set.ok_or(axum::http::StatusCode::BAD_GATEWAY) }
            }),
        ),
        Limits::default(),
    )
    .await;
    let orchestrator = with(verifying(&format!("http://{}/api/v1/auth/jwks", proxy.addr))).await;
    let ask = async |signer: &Signer| {
        let line = format!("X-Sidegate-Assertion: {}", signer.sign(&ann()));
        orchestrator.ask("GET /api/v1/clusters", &[&line]).await.status()
    };
    assert_eq!(ask(&first).await, 503, "without keys nobody is refused for good");
    *served.lock().unwrap() = Some(set(&[&first]));
    // Not each request asks the proxy.
    let until = async |signer: &Signer| {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while ask(signer).await != 200 {
            assert!(std::time::Instant::now() < deadline);
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    until(&first).await;
    *served.lock().unwrap() = Some(set(&[&second, &first]));
    until(&second).await;
    assert!(*asked.lock().unwrap() < 8, "asked {} times", asked.lock().unwrap());
    // What was read counts on while the proxy is away.
    *served.lock().unwrap() = None;
    assert_eq!(ask(&second).await, 200);
    assert_eq!(ask(&Signer::new("three")).await, 401);
}

#[test]
fn keys_come_from_a_file_or_over_a_connection_that_nobody_else_can_speak_on() {
    for good in
        ["/run/jwks.json", "jwks.json", "https://flux.example.com/x", "http://127.0.0.1:8080/x", "http://localhost/x"]
    {
        assert!(Source::parse(good, false).is_ok(), "{good}");
    }
    for bad in ["http://sidegate:8080/x", "ftp://x/y", "https://ann:x@flux.example.com/x", "http://"] {
        assert!(Source::parse(bad, false).is_err(), "{bad}");
    }
    assert!(Source::parse("http://sidegate:8080/x", true).is_ok());
}
