//! Envoy's external authorization over gRPC (`EXT_AUTHZ_ADDR`), requested from the real program by a gRPC client.

use std::time::{Duration, Instant};

use http::Request;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use crate::support::envoy::{self, CheckRequest, Envoy, HEALTH, HealthRequest, HealthResponse, asking};
use crate::support::h2::{self, H2};
use crate::support::proxy::Plan;
use crate::support::{HOST, PATIENCE, Proxy, RULES, Upstream, until};

const PAGE: &str = "text/html,application/xhtml+xml,*/*;q=0.8";

/// The header fields that every request gets.
const IDS: [&str; 2] = ["x-request-id", "traceparent"];

/// GitHub with `ann` and `bob` on the list, these rules, and an address for Envoy.
async fn with_rules(rules: &str, upstream: &Upstream) -> Plan {
    Proxy::with_sign_in("github", upstream)
        .await
        .env("OAUTH_ALLOWED_USERS", "ann,bob")
        .env("EXT_AUTHZ_ADDR", "127.0.0.1:0")
        .file("SIDEGATE_CONFIG", "sidegate.toml", rules)
}

#[tokio::test]
async fn a_user_who_is_signed_out_is_redirected_to_the_sign_in_or_refused() {
    let upstream = Upstream::start().await;
    let proxy = with_rules(RULES, &upstream).await.start().await;
    let envoy = Envoy::of(&proxy).await;
    let page = envoy.check(asking("/x?y=1", &[("accept", PAGE)])).await;
    assert_eq!(page.status(), 302, "{page:?}");
    assert_eq!(page.header("location"), format!("http://{HOST}/api/v1/auth/login?rd=%2Fx%3Fy%3D1"));
    assert_eq!(page.header("cache-control"), "no-store");
    let fetch = envoy.check(asking("/x", &[("accept", "application/json")])).await;
    assert_eq!((fetch.status(), fetch.header("content-type").as_str()), (401, "application/json"), "{fetch:?}");
    let body: serde_json::Value = serde_json::from_str(fetch.body()).unwrap();
    assert_eq!(body["error"], "unauthenticated");
    assert_eq!(body["login_url"], format!("http://{HOST}/api/v1/auth/login"));
    assert!(!fetch.sets("location") && !fetch.sets("content-length"), "{fetch:?}");
    let head = envoy.check(asking("/x", &[]).by("HEAD")).await;
    assert_eq!((head.status(), head.body()), (401, ""));
    let closed = envoy.check(asking("/closed/x", &[("accept", PAGE)])).await;
    assert_eq!(closed.status(), 403, "{closed:?}");
    assert!(closed.header("content-type").starts_with("text/html") && closed.body().contains("<html"), "{closed:?}");
    assert!(closed.header("content-security-policy").contains("frame-ancestors 'none'"));
    let planted = envoy.check(asking("/x", &[("cookie", "session_token=nonsense")])).await;
    assert_eq!(planted.status(), 401);
    assert!(upstream.received().is_empty(), "nothing is forwarded");
    let metrics = proxy.admin("/metrics").await.text();
    assert!(metrics.contains(r#"code="unauthenticated""#) && metrics.contains("rule=\"closed\""), "{metrics}");
}

#[tokio::test]
async fn a_user_who_is_let_in_is_identified_and_the_identity_headers_of_the_request_are_removed() {
    let upstream = Upstream::start().await;
    let proxy = with_rules(RULES, &upstream).await.env("AUDIT", "all").start().await;
    let envoy = Envoy::of(&proxy).await;
    let mut ann = proxy.signed_in_as("ann").await;
    let cookie = format!("a=1; {}; b=2", ann.cookie_header());
    let sent = [
        ("cookie", cookie.as_str()),
        ("x-forwarded-user", "root"),
        ("x_forwarded_user", "root"),
        ("x-forwarded.email", "root@example.com"),
        ("x-auth-request-user", "root"),
        ("x-auth-request-anything", "root"),
        ("remote-user", "root"),
        ("x-webauth-user", "root"),
        ("x_user", "root"),
        ("x.email", "root@example.com"),
        ("x-remote_group", "root"),
        ("x-sidegate-assertion", "a.b.c"),
        ("x-original-url", "/closed/x"),
        ("x-real-ip", "10.9.9.9"),
        ("forwarded", "for=10.9.9.9"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-proto", "https"),
        ("x-envoy-external-address", "192.0.2.7"),
        ("authorization", "Basic YTpi"),
        ("upgrade-insecure-requests", "1"),
        ("x-request-id", "r-1"),
        ("te", "trailers"),
        ("x-own", "kept"),
    ];
    let answer = envoy.check(asking("/team/x", &sent)).await;
    let received = answer.applied(&sent);
    let has = |name: &str| received.get(name).map(String::as_str);
    assert_eq!(has("x-forwarded-user"), Some("ann"));
    assert_eq!(has("x-auth-request-user"), Some("ann"));
    assert_eq!(has("x-forwarded-email"), Some("ann@example.com"));
    assert_eq!(has("x-forwarded-provider"), Some("github"));
    assert!(has("x-forwarded-groups").unwrap().contains("acme/platform"));
    assert_eq!(has("cookie"), Some("a=1; b=2"));
    for name in [
        "x_forwarded_user",
        "x-forwarded.email",
        "x-auth-request-anything",
        "remote-user",
        "x-webauth-user",
        "x_user",
        "x.email",
        "x-remote_group",
        "x-original-url",
        "x-real-ip",
        "forwarded",
        "x-forwarded-host",
    ] {
        assert!(answer.removes(name) && has(name).is_none(), "{name} is left: {answer:?}");
    }
    for name in ["x-forwarded-for", "x-forwarded-proto", "x-envoy-external-address", "authorization", "x-own", "te"] {
        assert!(!answer.removes(name) && !answer.sets(name), "{name} is Envoy's or the client's own");
    }
    assert!(!answer.removes("x-forwarded-user"), "what is set is not removed after it");
    assert!(answer.ok.as_ref().unwrap().response_headers_to_add.is_empty());

    // Exactly the header fields that the application gets with a forwarded request.
    ann.send(Request::get("/team/x")).await;
    let forwarded = upstream.last();
    for name in ["user", "email", "preferred-username", "groups", "user-id", "name", "provider"] {
        let name = format!("x-forwarded-{name}");
        assert_eq!(has(&name), Some(forwarded.header(&name).as_str()), "{name}");
    }
    assert_eq!(has("x-sidegate-assertion"), Some(forwarded.header("x-sidegate-assertion").as_str()));

    // With our cookies only, nothing is left of the field.
    let only = ann.cookie_header();
    let answer = envoy.check(asking("/x", &[("cookie", &only)])).await;
    assert!(answer.removes("cookie") && !answer.sets("cookie"), "{answer:?}");
    let log = proxy.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let decided: Vec<_> = lines.filter(|line| line["decision"] == "permit" && line["path"] == "/team/x").collect();
    assert_eq!(decided.len(), 2, "one audit line for each way, of the same kind");
    assert_eq!((&decided[0]["client"], &decided[1]["client"]), (&json!("192.0.2.7"), &json!("127.0.0.1")));
    for name in ["event", "rule", "reason", "host", "method", "username"] {
        assert_eq!(decided[0][name], decided[1][name], "{name}");
    }
    assert_eq!(decided[0]["request_id"], "r-1");
}

#[tokio::test]
async fn every_request_is_judged_as_one_that_is_forwarded() {
    let upstream = Upstream::start().await;
    let proxy = with_rules(RULES, &upstream).await.start().await;
    let envoy = Envoy::of(&proxy).await;
    let mut ann = proxy.signed_in_as("ann").await;
    let mut bob = proxy.signed_in_as("bob").await;
    for path in [
        "/",
        "/assets/a.css",
        "/assets/../closed",
        "/assets/..%2fclosed",
        "/assets//a",
        "/closed/x",
        "/team/x?y=1",
        "/assets/a;b",
        "/Assets/a",
        "/assets/a%00",
        "/assets/%61",
    ] {
        for method in ["GET", "POST", "PURGE"] {
            let asked = |cookie: &str| asking(path, &[("cookie", cookie)]).by(method);
            let forwarded = || Request::builder().method(method).uri(path);
            let nobody = (envoy.check(asked("a=b")).await.status(), proxy.send(forwarded()).await.status.as_u16());
            assert_eq!(nobody.0, nobody.1, "nobody: {method} {path}");
            for browser in [&mut ann, &mut bob] {
                let asked = envoy.check(asked(&browser.cookie_header())).await.status();
                assert_eq!(asked, browser.send(forwarded()).await.status.as_u16(), "{method} {path}");
            }
        }
    }
    let nobody = [("x-forwarded-user", "root"), ("x-sidegate-assertion", "a.b.c")];
    let open = envoy.check(asking("/assets/x", &nobody)).await;
    let received = open.applied(&nobody);
    assert!(received.keys().all(|name| IDS.contains(&name.as_str())), "on a public path nobody is nobody: {open:?}");
    let cookie = ann.cookie_header();
    let known = envoy.check(asking("/assets/x", &[("cookie", &cookie)])).await;
    assert_eq!(known.header("x-forwarded-user"), "ann", "a live session gives its identity on a public path too");
    let origin = |origin| {
        let fields =
            [("cookie", cookie.as_str()), ("upgrade", "websocket"), ("connection", "Upgrade"), ("origin", origin)];
        asking("/x", &fields)
    };
    assert_eq!(envoy.check(origin("http://evil.example")).await.status(), 403);
    let own = envoy.check(origin("http://app.localhost")).await;
    assert_eq!(own.status(), 200);
    assert!(!own.removes("upgrade") && !own.removes("connection"), "a WebSocket stays one");
}

#[tokio::test]
async fn a_session_that_has_ended_lets_nobody_in() {
    let upstream = Upstream::start().await;
    let proxy = with_rules(RULES, &upstream).await.start().await;
    let envoy = Envoy::of(&proxy).await;
    let mut ann = proxy.signed_in_as("ann").await;
    let cookie = ann.cookie_header();
    assert_eq!(envoy.check(asking("/x", &[("cookie", &cookie)])).await.status(), 200);
    ann.send(Request::post("/api/v1/auth/logout")).await;
    assert_eq!(envoy.check(asking("/x", &[("cookie", &cookie)])).await.status(), 401);
    let carol = proxy.signed_in_as("bob").await.cookie_header();
    let twice = format!("{carol}; session_token={}", proxy.signed_in_as("ann").await.cookie("session_token").unwrap());
    let tossed = envoy.check(asking("/x", &[("cookie", &twice), ("accept", "application/json")])).await;
    assert_eq!(tossed.status(), 401);
    assert!(!tossed.all("set-cookie").is_empty(), "both are to go: {tossed:?}");
}

#[tokio::test]
async fn hosts_methods_networks_and_tables_count_as_everywhere() {
    let upstream = Upstream::start().await;
    let rules = r#"
[[routes]]
host = "a.example"
path = "/p/**"
methods = ["GET"]
allow = "public"

[[routes]]
path = "/inner/**"
from = ["203.0.113.0/24"]
allow = "public"

[identity]
"X-WEBAUTH-USER" = "username"
"X-Remote-Group" = { value = "groups", as = "repeated" }
"#;
    let proxy = with_rules(rules, &upstream).await.env("TRUSTED_PROXIES", "10.0.0.0/8");
    let proxy = proxy.env("OAUTH_ALLOWED_GROUPS", "acme,acme/platform").start().await;
    let envoy = Envoy::of(&proxy).await;
    for (asked, status) in [
        (asking("/p/x", &[]).at("a.example"), 200),
        (asking("/p/x", &[]).at("A.example:8443"), 200),
        (asking("/p/x", &[]).at("a.example").by("HEAD"), 200),
        (asking("/p/x", &[]).at("a.example").by("POST"), 401),
        (asking("/p/x", &[]), 401),
        // Only from a trusted proxy, and then both hosts must be allowed.
        (asking("/p/x", &[("x-forwarded-host", "a.example")]), 401),
        (asking("/p/x", &[("x-forwarded-host", "b.example")]).at("a.example"), 200),
        (asking("/p/x", &[("x-forwarded-host", "b.example")]).at("a.example").from("10.0.0.1"), 401),
        // The client is the peer of Envoy's connection, or the client behind trusted proxies.
        (asking("/inner/x", &[]).from("203.0.113.9"), 200),
        (asking("/inner/x", &[]).from("::ffff:203.0.113.9"), 200),
        (asking("/inner/x", &[("x-forwarded-for", "203.0.113.9")]), 401),
        (asking("/inner/x", &[("x-forwarded-for", "203.0.113.9, 192.0.2.7")]), 401),
        (asking("/inner/x", &[("x-forwarded-for", "203.0.113.9")]).from("10.0.0.1"), 200),
        (asking("/inner/x", &[("x-forwarded-for", "203.0.113.9, 10.0.0.1")]).from("10.0.0.1"), 200),
        (asking("/inner/x", &[("x-forwarded-for", "203.0.113.9, 192.0.2.1, 10.0.0.1")]).from("10.0.0.1"), 401),
        (asking("/inner/x", &[]).from("10.0.0.1"), 401),
    ] {
        let shown = format!("{asked:?}");
        assert_eq!(envoy.check(asked).await.status(), status, "{shown}");
    }
    let overriding = [("x-http-method-override", "DELETE"), ("x_http_method", "DELETE")];
    let answer = envoy.check(asking("/p/x", &overriding).at("a.example")).await;
    let received = answer.applied(&overriding);
    assert!(
        received.keys().all(|name| IDS.contains(&name.as_str())),
        "rules name methods, so overrides go: {answer:?}"
    );
    let cookie = proxy.signed_in_as("ann").await.cookie_header();
    let sent = [("cookie", cookie.as_str()), ("x-remote_group", "root"), ("x-forwarded-user", "root")];
    let answer = envoy.check(asking("/x", &sent)).await;
    let received = answer.applied(&sent);
    assert_eq!(received.get("x-webauth-user").map(String::as_str), Some("ann"), "a table takes the place of the usual");
    assert!(
        !received.contains_key("x-forwarded-user") && !received.contains_key("x-auth-request-user"),
        "{received:?}"
    );
    assert!(!received.contains_key("x-remote_group") && received["x-remote-group"].contains(','), "{received:?}");
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_application_gets_the_one_host_that_was_judged() {
    const HOST_FIELD: &str = "x-forwarded-host";
    let upstream = Upstream::start().await;
    let rules = "[[routes]]\nhost = \"a.example\"\nallow = \"public\"\n";
    let proxy = with_rules(rules, &upstream).await.env("TRUSTED_PROXIES", "10.0.0.0/8").start().await;
    let envoy = Envoy::of(&proxy).await;
    let asked = |fields: &[(&str, &str)]| asking("/x", &[]).at("a.example").from("10.0.0.1").raw(fields);
    // Many applications read the first entry.
    let list = envoy.check(asked(&[(HOST_FIELD, "secret.example, a.example")])).await;
    assert_eq!(list.header(HOST_FIELD), "a.example", "{list:?}");
    let merged = asking("/x", &[(HOST_FIELD, "secret.example,a.example")]).at("a.example").from("10.0.0.1");
    assert_eq!(envoy.check(merged).await.header(HOST_FIELD), "a.example");
    let two = envoy.check(asked(&[(HOST_FIELD, "secret.example"), (HOST_FIELD, "a.example")])).await;
    assert_eq!(two.header(HOST_FIELD), "a.example", "{two:?}");
    for unusable in ["a b", "secret.example, ", "secret.example, u@a.example"] {
        let answer = envoy.check(asked(&[(HOST_FIELD, unusable)])).await;
        assert!(answer.status() == 200 && answer.removes(HOST_FIELD), "`Host` was judged: {unusable:?}: {answer:?}");
    }
    let one = envoy.check(asked(&[(HOST_FIELD, "a.example:8443")])).await;
    assert!(one.status() == 200 && !one.sets(HOST_FIELD) && !one.removes(HOST_FIELD), "{one:?}");
    assert_eq!(envoy.check(asked(&[(HOST_FIELD, "a.example, secret.example")])).await.status(), 401);
}

#[tokio::test]
async fn the_application_gets_the_ids_that_the_log_has() {
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let upstream = Upstream::start().await;
    let proxy = with_rules(RULES, &upstream).await.env("AUDIT", "all").start().await;
    let envoy = Envoy::of(&proxy).await;
    for fields in [
        &[][..],
        &[("x-request-id", "a b"), ("traceparent", "00-nonsense")],
        &[("x-request-id", "r-1"), ("x-request-id", "r-2"), ("traceparent", good), ("traceparent", good)],
    ] {
        let answer = envoy.check(asking("/assets/x", &[]).raw(fields)).await;
        let (id, trace) = (answer.header("x-request-id"), answer.header("traceparent"));
        assert_eq!((id.len(), trace.len()), (32, good.len()), "{fields:?}: {answer:?}");
        assert!(IDS.iter().all(|name| !answer.removes(name)), "Envoy removes after it sets: {answer:?}");
        proxy.logs(&format!("\"request_id\":\"{id}\"")).await;
    }
    let answer = envoy.check(asking("/assets/x", &[("x-request-id", "r-3"), ("traceparent", good)])).await;
    assert!(IDS.iter().all(|name| !answer.removes(name) && !answer.sets(name)), "its own are kept: {answer:?}");
    proxy.logs("\"request_id\":\"r-3\"").await;
}

#[tokio::test]
async fn a_path_of_too_many_readings_has_an_audit_line() {
    let upstream = Upstream::start().await;
    let proxy = with_rules(RULES, &upstream).await.env("AUDIT", "all").start().await;
    let path = format!("/{}", "a;b//%2e%2e%5c%252f;d/./x%23y%3fz%00.%20/".repeat(3));
    assert_eq!(Envoy::of(&proxy).await.check(asking(&path, &[("x-request-id", "r-1")])).await.status(), 403);
    until("it has a line", async || !proxy.decisions().is_empty()).await;
    let line = &proxy.decisions()[0];
    assert_eq!((&line["decision"], &line["code"]), (&json!("refuse"), &json!("not_described")));
    assert_eq!((&line["client"], &line["request_id"]), (&json!("192.0.2.7"), &json!("r-1")));
}

#[tokio::test]
async fn a_token_that_is_used_goes_no_further() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("oidc", &upstream).await.env("OAUTH_BEARER_AUDIENCES", "https://api.example");
    let proxy = plan.env("EXT_AUTHZ_ADDR", "127.0.0.1:0").start().await;
    let envoy = Envoy::of(&proxy).await;
    let token = proxy.idp().access_token(&json!({ "aud": "https://api.example", "sub": "ann" })).unwrap();
    let sent = format!("Bearer {token}");
    let answer = envoy.check(asking("/x", &[("authorization", &sent)])).await;
    assert_eq!(answer.status(), 200, "{answer:?}\n{}", proxy.log());
    assert!(answer.removes("authorization") && answer.sets("x-sidegate-assertion"), "{answer:?}");
    for (bad, status) in [("Bearer x.y.z", 401), ("Bearer", 401)] {
        let answer = envoy.check(asking("/x", &[("authorization", bad)])).await;
        assert_eq!(answer.status(), status, "{bad}");
        assert_eq!(answer.header("www-authenticate"), "Bearer error=\"invalid_token\"", "{answer:?}");
    }
    let plain = envoy.check(asking("/x", &[("accept", "application/json")])).await;
    assert!(plain.header("www-authenticate").starts_with("Bearer resource_metadata="), "{plain:?}");
    // Two fields that Envoy has merged, and the same as received.
    let merged = envoy.check(asking("/x", &[("authorization", &format!("Basic YTpi,{sent}"))])).await;
    assert_eq!(merged.status(), 403, "{merged:?}");
    proxy.logs("encode_raw_headers").await;
    let several = asking("/x", &[]).raw(&[("authorization", "Basic YTpi"), ("authorization", &sent)]);
    assert_eq!(envoy.check(several).await.status(), 401);
    let raw = envoy.check(asking("/x", &[]).raw(&[("authorization", &sent)])).await;
    assert!(raw.status() == 200 && raw.removes("authorization"), "{raw:?}");
}

#[tokio::test]
async fn fields_as_they_came_are_read_as_well() {
    let upstream = Upstream::start().await;
    let proxy = with_rules(RULES, &upstream).await.start().await;
    let envoy = Envoy::of(&proxy).await;
    let cookie = proxy.signed_in_as("ann").await.cookie_header();
    let answer = envoy
        .check(asking("/x", &[]).raw(&[("cookie", "a=1"), ("cookie", &cookie), ("x-forwarded-user", "root")]))
        .await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!((answer.header("cookie").as_str(), answer.header("x-forwarded-user").as_str()), ("a=1", "ann"));
    let hidden = envoy.check(asking("/assets/x", &[("cookie", &format!("a=1,{cookie}"))])).await;
    assert_eq!(hidden.status(), 403, "a cookie of ours that cannot be taken out");
    let both = asking("/x", &[("cookie", &cookie)]).with(|http| {
        http.header_map = Some(envoy::HeaderMap {
            headers: vec![envoy::HeaderValue { key: "a".into(), value: "b".into(), raw_value: Vec::new() }],
        });
    });
    assert_eq!(envoy.check(both).await.status(), 403);
    proxy.logs("both as `headers` and as `header_map`").await;
}

#[tokio::test]
async fn what_is_missing_or_odd_is_refused_with_the_reason_in_the_log() {
    let upstream = Upstream::start().await;
    let proxy = with_rules(RULES, &upstream).await.start().await;
    let envoy = Envoy::of(&proxy).await;
    let cookie = proxy.signed_in_as("ann").await.cookie_header();
    let asked = || asking("/assets/x", &[("cookie", &cookie)]);
    let path = |path: &str| {
        let path = path.to_owned();
        asked().with(|http| {
            http.headers.insert(":path".into(), path.clone());
            http.path = path;
        })
    };
    let nothing = || CheckRequest { attributes: None };
    let mut no_source = asked();
    no_source.attributes.as_mut().unwrap().source = None;
    let mut no_request = asked();
    no_request.attributes.as_mut().unwrap().request = None;
    let mut port = asked();
    let source = port.attributes.as_mut().unwrap().source.as_mut().unwrap();
    source.address.as_mut().unwrap().socket_address.as_mut().unwrap().port_value = 70_000;
    let more = |name: &'static str, value: &'static str| {
        asked().with(|http| drop(http.headers.insert(name.into(), value.into())))
    };
    for (asked, reason) in [
        (nothing(), "socket_address is missing"),
        (no_source, "socket_address is missing"),
        (asked().from("not an address"), "socket_address cannot be read"),
        (port, "socket_address cannot be read"),
        (no_request, "attributes.request.http is missing"),
        (asked().with(|http| http.method.clear()), "http.method is missing"),
        (asked().with(|http| http.host.clear()), "http.host is missing"),
        (asked().with(|http| http.path.clear()), "http.path is missing"),
        (asked().by("GET /"), "http.method cannot be read"),
        (asked().by("trace"), "TRACE and CONNECT"),
        (asked().by("CONNECT"), "TRACE and CONNECT"),
        (asked().at("a b"), "http.host cannot be read"),
        (asked().at("a/b"), "http.host cannot be read"),
        (asked().at("user@a"), "http.host cannot be read"),
        (asked().with(|http| http.scheme = "gopher".into()), "http.scheme cannot be read"),
        (asked().with(|http| http.query = "x".into()), "differ in its query"),
        (asked().with(|http| http.fragment = "x".into()), "differ in its query"),
        (asked().with(|http| http.body = "x".into()), "with_request_body"),
        (asked().with(|http| http.raw_body = vec![0]), "with_request_body"),
        (path("assets/x"), "http.path cannot be read"),
        (path("http://a/assets/x"), "http.path cannot be read"),
        (path("*"), "which is for OPTIONS only"),
        (path("/assets/x#y"), "http.path cannot be read"),
        (path("/assets/\u{e4}\u{0}"), "http.path cannot be read"),
        (path("/api/v1/auth/login"), "one of Sidegate's own"),
        (path("/assets/..%2fapi/v1/auth/me"), "one of Sidegate's own"),
        (more(":path", "/closed/x"), "differ in its path"),
        (more(":method", "POST"), "differ in its method"),
        (more(":authority", "other.example"), "differ in its host"),
        (more(":scheme", "https"), "differ in its scheme"),
        (more("host", "other.example"), "differ in its host"),
        (more(":protocol", "websocket"), "a header field of attributes.request.http cannot be read"),
        (more("X-Upper", "1"), "a header field of attributes.request.http cannot be read"),
        (more("a b", "1"), "a header field of attributes.request.http cannot be read"),
        (more("x", "a\r\nb"), "a header field of attributes.request.http cannot be read"),
        (asked().with(|http| drop(http.headers.insert("x".into(), "1".repeat(70_000)))), "LIMIT_HEADER_BYTES"),
        (asked().raw(&[(":path", "/assets/x")]), "is there more than once"),
    ] {
        let shown = format!("{asked:?}").chars().take(300).collect::<String>();
        let answer = envoy.check(asked).await;
        assert_eq!(answer.status(), 403, "{reason}: {shown}");
        assert!(answer.body().contains("not_described"), "{answer:?}");
        assert!(!answer.body().contains(reason), "the reason is for the log");
        proxy.logs(reason).await;
    }
    assert_eq!(envoy.check(asked().with(|http| http.scheme.clear())).await.status(), 200, "not all versions name one");
    assert!(!proxy.log().contains(cookie.split_once('=').unwrap().1), "no token stands in the log");
}

#[tokio::test]
async fn in_open_mode_nobody_is_let_in_here() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).env("EXT_AUTHZ_ADDR", "127.0.0.1:0").start().await;
    let answer = Envoy::of(&proxy).await.check(asking("/x", &[])).await;
    assert_eq!(answer.status(), 404);
    assert!(answer.body().contains("auth_disabled"), "{answer:?}");
}

#[tokio::test]
async fn other_calls_and_what_is_no_call_are_refused() {
    let upstream = Upstream::start().await;
    let proxy = with_rules(RULES, &upstream).await.start().await;
    let envoy = Envoy::of(&proxy).await;
    let of = |service: &str| HealthRequest { service: service.to_owned() };
    for service in ["", "envoy.service.auth.v3.Authorization"] {
        assert_eq!(envoy.call::<_, HealthResponse>(HEALTH, of(service)).await.unwrap().status, 1, "{service}");
    }
    let unknown = envoy.call::<_, HealthResponse>(HEALTH, of("other")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    for path in ["/grpc.health.v1.Health/Watch", "/envoy.service.auth.v2.Authorization/Check", "/api/v1/auth/status"] {
        let other = envoy.call::<_, HealthResponse>(path, of("")).await.unwrap_err();
        assert_eq!(other.code(), Code::Unimplemented, "{path}");
    }
    let huge = asking("/x", &[]).with(|http| drop(http.headers.insert("x".into(), "1".repeat(3 << 20))));
    assert_eq!(envoy.try_check(huge).await.unwrap_err().code(), Code::ResourceExhausted);
    proxy.logs("a call to EXT_AUTHZ_ADDR failed").await;
    let plain = crate::support::wire::raw(
        envoy::address(&proxy),
        format!("GET /x HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"),
    );
    let plain = plain.await;
    assert!(plain.starts_with("HTTP/1.1 415") && plain.contains("speaks gRPC"), "{plain}");
    // The other listener does not serve it.
    let other = proxy.send(Request::post(envoy::CHECK).header("content-type", "application/grpc")).await;
    assert_eq!(other.status, 401);
    // A malformed message ends the call, not the connection.
    let nonsense = HealthRequest { service: "\u{1}\u{2}\u{3}".repeat(100) };
    let outcome = envoy.call::<_, envoy::CheckResponse>(envoy::CHECK, nonsense).await;
    assert!(outcome.is_err() || outcome.unwrap().status() == 403);
    assert_eq!(envoy.check(asking("/assets/x", &[])).await.status(), 200, "the connection goes on");
}

#[tokio::test]
async fn a_peer_that_stalls_holds_nothing_up() {
    let upstream = Upstream::start().await;
    let proxy = with_rules(RULES, &upstream).await.env("TIMEOUT_HEADER", "1s").env("TIMEOUT_IDLE", "1s").start().await;
    let at = envoy::address(&proxy);
    // No bytes, half a preface, and a call without a message.
    let mut silent = TcpStream::connect(at).await.unwrap();
    let mut half = TcpStream::connect(at).await.unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    let stalled = H2::connect(at, 65_535).await;
    let call = [("content-type", "application/grpc"), ("te", "trailers")];
    stalled.send(&h2::frame(h2::HEADERS, h2::END_HEADERS, 1, &h2::request("POST", envoy::CHECK, &call))).await;
    stalled.send(&h2::frame(h2::DATA, 0, 1, &[0, 0, 0, 1])).await;
    let began = Instant::now();
    for stream in [&mut silent, &mut half] {
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it stays open");
    }
    until("the call is answered", async || !stalled.received().answered.is_empty()).await;
    until("the connection is closed", async || stalled.received().closed).await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    proxy.logs("the message did not come within TIMEOUT_HEADER").await;
    let envoy = Envoy::of(&proxy).await;
    assert_eq!(envoy.check(asking("/assets/x", &[])).await.status(), 200);
}

#[tokio::test]
async fn many_connections_to_one_listener_block_neither_it_nor_the_other_one() {
    let upstream = Upstream::start().await;
    // Enough files for some hundred connections, of which these clients get an eighth.
    let proxy = with_rules(RULES, &upstream).await.under("ulimit -n 512").start().await;
    let at = envoy::address(&proxy);
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(TcpStream::connect(at).await.unwrap());
    }
    assert_eq!(proxy.get("/assets/x").await.status, 200, "the other listener has places of its own");
    let began = Instant::now();
    let envoy = Envoy::of(&proxy).await;
    assert_eq!(envoy.check(asking("/assets/x", &[])).await.status(), 200, "who is silent makes room");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_reload_counts_at_once_and_a_drain_ends_what_is_open() {
    let upstream = Upstream::start().await;
    let mut proxy = with_rules(RULES, &upstream).await.env("SHUTDOWN_DELAY", "1s").start().await;
    let envoy = Envoy::of(&proxy).await;
    assert_eq!(envoy.check(asking("/assets/x", &[])).await.status(), 200);
    std::fs::write(proxy.folder().join("sidegate.toml"), RULES.replace("/assets/", "/other/")).unwrap();
    proxy.signal("HUP");
    until("the new rules count", async || envoy.check(asking("/assets/x", &[])).await.status() == 401).await;
    assert_eq!(envoy.check(asking("/other/x", &[])).await.status(), 200);
    proxy.signal("TERM");
    let health = || envoy.call::<_, HealthResponse>(HEALTH, HealthRequest { service: String::new() });
    until("it says that it is on its way out", async || health().await.is_ok_and(|health| health.status == 2)).await;
    assert_eq!(envoy.check(asking("/other/x", &[])).await.status(), 200, "until it stops, it answers");
    assert!(proxy.ended().await.success(), "an open connection with nothing in flight does not hold it");
    assert!(envoy.try_check(asking("/other/x", &[])).await.is_err());
}
