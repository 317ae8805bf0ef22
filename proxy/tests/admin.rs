//! The admin listener: liveness, readiness, metrics, and their limits.

use std::collections::{BTreeMap, BTreeSet};

use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Proxy, Upstream, until, wire};

const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// Samples by their name and labels, and the families by their name.
struct Metrics {
    samples: BTreeMap<String, f64>,
    families: BTreeSet<String>,
}

/// Parses the OpenMetrics text format, line by line; no line may be left over.
async fn metrics(proxy: &Proxy) -> Metrics {
    let answer = proxy.admin("/metrics").await;
    assert_eq!(answer.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = answer.text();
    let body = text.strip_suffix("# EOF\n").unwrap_or_else(|| panic!("it has no end: {text}"));
    let (mut samples, mut types) = (BTreeMap::new(), BTreeMap::new());
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (keyword, name, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            match keyword {
                "TYPE" => assert!(types.insert(name, rest).is_none(), "{name} is there twice"),
                "HELP" | "UNIT" => assert!(!rest.is_empty()),
                _ => panic!("{line:?} is no comment of the format"),
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let bare = name.split('{').next().unwrap();
        assert!(bare.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{line}");
        assert!(name == bare || name.ends_with("\"}"), "{line}");
        let family = types.keys().rev().find(|family| {
            let suffix = bare.strip_prefix(**family).unwrap_or("?");
            match types[*family] {
                "counter" => suffix == "_total",
                "gauge" => suffix.is_empty(),
                "info" => suffix == "_info",
                "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
                other => panic!("{other} is no type that is expected here"),
            }
        });
        assert!(family.is_some(), "{line} belongs to no family");
        assert!(samples.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{name} is there twice");
    }
    let full = |(name, kind): (&&str, &&str)| match *kind {
        "counter" => format!("{name}_total"),
        "info" => format!("{name}_info"),
        _ => (*name).to_owned(),
    };
    let families = types.iter().map(full).collect();
    Metrics { samples, families }
}

impl Metrics {
    fn of(&self, name: &str) -> f64 {
        *self.samples.get(name).unwrap_or_else(|| panic!("{name} is not in {:?}", self.samples.keys()))
    }
}

#[tokio::test]
async fn it_answers_probes_and_nothing_else() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    for (path, text) in [("/livez", "ok\n"), ("/readyz", "ready\n")] {
        let answer = proxy.admin(path).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, text));
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    for path in ["/", "/livez/", "/metrics/x", "/api/v1/auth/status", "/debug"] {
        assert_eq!(proxy.admin(path).await.status, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let request =
            Request::builder().method(method).uri("/readyz").header("host", "a").body(Full::default()).unwrap();
        let answer = wire::send(proxy.admin, request).await;
        assert_eq!((answer.status.as_u16(), answer.header("allow").as_str()), (405, "GET, HEAD"), "{method}");
    }
    let head = Request::head("/livez").header("host", "a").body(Full::default()).unwrap();
    let answer = wire::send(proxy.admin, head).await;
    assert!(answer.status == 200 && answer.body.is_empty());
    // Nor does the public listener serve these paths.
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(proxy.get(path).await.text(), "hello from upstream", "{path}");
    }
    let answer =
        wire::raw(proxy.admin, format!("GET /livez HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(20_000))).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn silent_connections_end_and_do_not_keep_probes_or_requests_out() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    let mut silent = Vec::new();
    for _ in 0..70 {
        let mut stream = TcpStream::connect(proxy.admin).await.unwrap();
        stream.write_all(b"GET /readyz HTTP/1.1\r\n").await.unwrap();
        silent.push(stream);
    }
    assert_eq!(proxy.get("/x").await.text(), "hello from upstream");
    // It is served once the first connections have timed out.
    assert_eq!(proxy.admin("/livez").await.text(), "ok\n");
    let mut answer = [0; 256];
    let ended = silent[0].read(&mut answer);
    // Closed normally, or by a reset if sent bytes were unread: both count as closed.
    let _reset = tokio::time::timeout(std::time::Duration::from_secs(1), ended).await.expect("it is still open");
}

#[tokio::test]
async fn an_upstream_that_is_away_is_named_after_a_request_failed_until_one_does_not() {
    let upstream = Upstream::start().await;
    let address = {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        free.local_addr().unwrap()
    };
    let proxy = Proxy::open(&upstream).env("UPSTREAM_URL", format!("http://{address}")).start().await;
    assert_eq!(proxy.admin("/readyz").await.text(), "ready\n");
    assert_eq!(proxy.get("/x").await.status, 502);
    let ready = proxy.admin("/readyz").await;
    assert_eq!(ready.status, 200);
    let text = ready.text();
    assert!(text.starts_with("ready\nupstream: ") && text.contains(&address.to_string()), "{text}");
    assert!(metrics(&proxy).await.of("sidegate_upstream_connect_errors_total{upstream=\"default\"}") >= 1.0);

    let back = TcpListener::bind(address).await.unwrap();
    let serve = async {
        let (mut stream, _) = back.accept().await.unwrap();
        let _ = wire::read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nback").await.unwrap();
        stream
    };
    let (answer, _stream) = tokio::join!(proxy.get("/x"), serve);
    assert_eq!(answer.text(), "back");
    assert_eq!(proxy.admin("/readyz").await.text(), "ready\n");
}

#[tokio::test]
async fn a_provider_that_is_away_is_named_and_the_proxy_is_ready_all_the_same() {
    let upstream = Upstream::start().await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut plan = Proxy::open(&upstream);
    for (name, value) in [
        ("OAUTH_ENABLED", "true"),
        ("OAUTH_PROVIDER", "oidc"),
        ("OAUTH_CLIENT_ID", "client"),
        ("OAUTH_CLIENT_SECRET", "hush-hush"),
        ("OAUTH_REDIRECT_URL", "http://app.localhost/api/v1/auth/callback"),
        ("OAUTH_ISSUER_URL", &format!("http://{nobody}")),
    ] {
        plan = plan.env(name, value);
    }
    let proxy = plan.start().await;
    until("readyz names it", async || proxy.admin("/readyz").await.text().contains("\nprovider: ")).await;
    let ready = proxy.admin("/readyz").await;
    assert_eq!(ready.status, 200);
    assert!(ready.text().starts_with("ready\n") && ready.text().contains("cannot be reached"), "{}", ready.text());
    assert_eq!(proxy.get("/api/v1/auth/login").await.code(), "provider_unreachable");
}

#[tokio::test]
async fn counts_move_with_what_happens() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let forwarded = "sidegate_requests_total{outcome=\"forwarded\",code=\"2xx\"}";
    let refused = "sidegate_requests_total{outcome=\"refused\",code=\"unauthenticated\"}";
    let signed_in = "sidegate_sign_ins_total{outcome=\"succeeded\"}";
    let failed = "sidegate_sign_ins_total{outcome=\"invalid_state\"}";
    let names =
        [forwarded, refused, signed_in, failed, "sidegate_sign_outs_total", "sidegate_request_duration_seconds_count"];
    let now = async || {
        let metrics = metrics(&proxy).await;
        names.map(|name| metrics.of(name))
    };
    assert_eq!(now().await, [0.0; 6]);
    proxy.get("/x").await;
    assert_eq!(now().await, [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
    let mut ann = proxy.signed_in_as("ann").await;
    ann.get("/x").await;
    ann.get("/x").await;
    assert_eq!(now().await, [2.0, 1.0, 1.0, 0.0, 0.0, 2.0]);
    proxy.get("/api/v1/auth/callback?code=x&state=y").await;
    assert_eq!(now().await, [2.0, 1.0, 1.0, 1.0, 0.0, 2.0]);
    until("the session is counted", async || metrics(&proxy).await.of("sidegate_sessions_held") == 1.0).await;
    assert_eq!(metrics(&proxy).await.of("sidegate_connections{side=\"upstream\"}"), 1.0);
    ann.post("/api/v1/auth/logout").await;
    assert_eq!(now().await, [2.0, 1.0, 1.0, 1.0, 1.0, 2.0]);
    until("it is counted no more", async || metrics(&proxy).await.of("sidegate_sessions_held") == 0.0).await;
    let open = TcpStream::connect(proxy.address).await.unwrap();
    until("it is counted", async || metrics(&proxy).await.of("sidegate_connections{side=\"downstream\"}") == 1.0).await;
    drop(open);
    until("it is gone", async || metrics(&proxy).await.of("sidegate_connections{side=\"downstream\"}") == 0.0).await;
}

/// An alert on an unreachable store must not fire if there is no store.
#[tokio::test]
async fn where_there_is_no_shared_store_none_is_away() {
    let upstream = Upstream::start().await;
    for proxy in [Proxy::start(&upstream).await, Proxy::open(&upstream).start().await] {
        let metrics = metrics(&proxy).await;
        assert_eq!((metrics.of("sidegate_store_reachable"), metrics.of("sidegate_store_channel")), (1.0, 1.0));
    }
    let away = Proxy::with_sign_in("github", &upstream)
        .await
        .env("SESSION_STORE", "redis")
        .env("SESSION_REDIS_URL", "redis://127.0.0.1:1")
        .env("SESSION_SECRET", "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTAxMjM0NTY3ODk=");
    let proxy = away.start_alone().await;
    assert_eq!(metrics(&proxy).await.of("sidegate_store_reachable"), 0.0);
}

#[tokio::test]
async fn the_metrics_are_those_that_the_documentation_lists() {
    let upstream = Upstream::start().await;
    let issued = crate::tls::Issued::new();
    let named = "[[upstreams]]\nname = \"app\"\nurls = [\"http://127.0.0.1:1\"]";
    let plan = Proxy::open(&upstream).file("SIDEGATE_CONFIG", "sidegate.toml", named);
    let proxy = issued.shown_by(plan).start().await;
    proxy.signal("HUP");
    until("a reload", async || metrics(&proxy).await.of("sidegate_reloads_total{result=\"succeeded\"}") > 0.0).await;
    let table = OPERATIONS.split("## Metrics").nth(1).unwrap().split("\n\n").nth(1).unwrap();
    let listed: BTreeSet<String> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" |").next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect();
    assert_eq!(metrics(&proxy).await.families, listed);
}
