//! `verify` (forward-auth), as requested by a proxy in front. With real proxies: `forward_auth`.

use http::Request;
use serde_json::Value;

use crate::support::proxy::Plan;
use crate::support::{Answer, Browser, HOST, Proxy, RULES, Upstream, until};

const VERIFY: &str = "/api/v1/auth/verify";
const PAGE: &str = "text/html,application/xhtml+xml,*/*;q=0.8";

/// GitHub with `ann` and `bob` on the list, these rules, and a trusted proxy in front.
async fn with_rules(rules: &str, upstream: &Upstream) -> Plan {
    Proxy::with_sign_in("github", upstream)
        .await
        .env("OAUTH_ALLOWED_USERS", "ann,bob")
        .env("TRUSTED_PROXIES", "127.0.0.1")
        .file("SIDEGATE_CONFIG", "sidegate.toml", rules)
}

fn asking(at: &str, fields: &[(&str, &str)]) -> http::request::Builder {
    fields.iter().fold(Request::get(at), |request, (name, value)| request.header(*name, *value))
}

async fn ask(proxy: &Proxy, fields: &[(&str, &str)]) -> u16 {
    proxy.send(asking(VERIFY, fields)).await.status.as_u16()
}

/// `GET` of a path, as nginx describes it.
fn get(path: &str) -> [(&str, &str); 2] {
    [("x-original-uri", path), ("x-original-method", "GET")]
}

fn identity(answer: &Answer) -> [String; 6] {
    ["user", "email", "preferred-username", "groups", "user-id"]
        .map(|name| {
            assert!(
                answer.headers.contains_key(format!("x-auth-request-{name}")),
                "{name} is always there: {answer:?}"
            );
            answer.header(&format!("x-auth-request-{name}"))
        })
        .into_iter()
        .chain([answer.header("x-sidegate-assertion")])
        .collect::<Vec<_>>()
        .try_into()
        .unwrap()
}

#[tokio::test]
async fn a_described_request_is_judged_as_one_that_is_forwarded() {
    let upstream = Upstream::start().await;
    let proxy = with_rules(RULES, &upstream).await.env("AUDIT", "all").start().await;
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
        for method in ["GET", "POST", "delete"] {
            let described = || asking(VERIFY, &[("x-original-uri", path), ("x-original-method", method)]);
            let forwarded = || Request::builder().method(method).uri(path);
            let nobody = (proxy.send(described()).await.status, proxy.send(forwarded()).await.status);
            assert_eq!(nobody.0, nobody.1, "nobody: {method} {path}");
            for browser in [&mut ann, &mut bob] {
                let signed_in = (browser.send(described()).await.status, browser.send(forwarded()).await.status);
                assert_eq!(signed_in.0, signed_in.1, "{method} {path}");
            }
        }
    }
    let log = proxy.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let decided =
        lines.filter(|line| line["path"] == "/team/x" && line["method"] == "POST" && line["decision"] == "permit");
    let decided: Vec<Value> = decided.collect();
    assert_eq!(decided.len(), 2, "one line for each way, of the same kind");
    for name in ["event", "rule", "reason", "host", "username"] {
        assert_eq!(decided[0][name], decided[1][name], "{name}");
    }
    let metrics = proxy.admin("/metrics").await.text();
    assert!(metrics.contains("sidegate_rule_permits_total{rule=\"team\"} 6"), "{metrics}");
}

#[tokio::test]
async fn the_answer_says_who_it_is_and_always_all_of_it() {
    let upstream = Upstream::start().await;
    let proxy = with_rules(RULES, &upstream).await.env("OAUTH_ALLOWED_GROUPS", "acme").start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    let answer = ann.send(asking(VERIFY, &get("/x"))).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, ""));
    let [user, email, username, groups, id, assertion] = identity(&answer);
    assert_eq!((user.as_str(), email.as_str(), username.as_str()), ("ann", "ann@example.com", "ann"));
    assert!(groups.contains("acme/platform") && !id.is_empty(), "{answer:?}");
    assert_eq!(assertion.split('.').count(), 3);
    assert_eq!(answer.header("cache-control"), "no-store");
    let head = ann.send(asking(VERIFY, &get("/x")).method("HEAD")).await;
    assert_eq!((head.status.as_u16(), identity(&head)[0].as_str()), (200, "ann"));
    // Forged identity fields are ignored, and a request without a session stays anonymous.
    let forged =
        asking(VERIFY, &get("/assets/x")).header("x-auth-request-user", "root").header("x-forwarded-user", "root");
    let nobody = proxy.send(forged).await;
    assert_eq!((nobody.status.as_u16(), identity(&nobody).concat()), (200, String::new()));
    let seen = ann.send(asking(VERIFY, &get("/assets/x"))).await;
    assert_eq!(identity(&seen)[0], "ann", "a live session gives its identity on a public path too");
}

#[tokio::test]
async fn each_kind_of_description_is_read() {
    let upstream = Upstream::start().await;
    let rules = "[[routes]]\nhost = \"a.example\"\npath = \"/p/**\"\nmethods = [\"GET\"]\nallow = \"public\"";
    let proxy = with_rules(rules, &upstream).await.start().await;
    let host = ("host", "a.example");
    for (fields, status) in [
        (&[host, ("x-original-uri", "/p/x?y"), ("x-original-method", "GET")][..], 200),
        (&[host, ("x-original-uri", "/p/x?y"), ("x-original-method", "HEAD")], 200),
        (&[host, ("x-original-uri", "/p/x?y"), ("x-original-method", "POST")], 401),
        (&[host, ("x-original-uri", "/q"), ("x-original-method", "GET")], 401),
        (&[("x-original-uri", "/p/x"), ("x-original-method", "GET")], 401),
        (&[("x-original-url", "https://a.example/p/x?y"), ("x-original-method", "GET")], 200),
        (&[("x-original-url", "http://A.example.:8443/p/x"), ("x-original-method", "GET")], 200),
        (&[("x-original-url", "https://b.example/p/x"), ("x-original-method", "GET")], 401),
        (&[("x-original-url", "https://a.example"), ("x-original-method", "GET")], 401),
        (&[("x-forwarded-uri", "/p/x"), ("x-forwarded-method", "GET"), ("x-forwarded-host", "a.example")], 200),
        (&[("x-forwarded-uri", "/p/x"), ("x-forwarded-method", "PUT"), ("x-forwarded-host", "a.example")], 401),
        (&[host, ("x-forwarded-uri", "/p/x"), ("x-forwarded-method", "GET"), ("x-forwarded-host", "b.example")], 401),
        // Both hosts must be allowed, as for forwarded requests.
        (&[host, ("x-original-uri", "/p/x"), ("x-original-method", "GET"), ("x-forwarded-host", "b.example")], 401),
        // Two descriptions that agree.
        (
            &[
                host,
                ("x-original-uri", "/p/x"),
                ("x-original-method", "GET"),
                ("x-forwarded-uri", "/p/x"),
                ("x-forwarded-method", "GET"),
                ("x-forwarded-host", "a.example"),
            ],
            200,
        ),
    ] {
        assert_eq!(ask(&proxy, fields).await, status, "{fields:?}");
    }
    for (method, at, status) in [
        ("GET", "/p/x", 200),
        ("POST", "/p/x", 401),
        ("PURGE", "/p/x", 401),
        ("GET", "/p//x", 401),
        ("GET", "/p/..%2fq", 401),
        ("GET", "", 401),
        ("GET", "/p/x?y=/../../api/v1/auth", 200),
        ("GET", "/api/v1/auth/login", 403),
        ("GET", "/../login", 401),
        ("GET", "/../api/v1/auth/login", 403),
    ] {
        let request = Request::builder().method(method).uri(format!("{VERIFY}{at}")).header("host", "a.example");
        let answer = proxy.send(if at.is_empty() { asking(&format!("{VERIFY}/"), &[host]) } else { request }).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {at}: {answer:?}");
    }
    assert!(upstream.received().is_empty(), "nothing is forwarded");
}

#[tokio::test]
async fn a_description_that_cannot_be_relied_on_is_refused_with_the_reason_in_the_log() {
    let upstream = Upstream::start().await;
    let proxy = with_rules(RULES, &upstream).await.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    let mut refused = async |fields: &[(&str, &str)], reason: &str| {
        let answer = ann.send(asking(VERIFY, fields).header("accept", "application/json")).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (403, "not_described"), "{fields:?}: {answer:?}");
        proxy.logs(reason).await;
    };
    let good = get("/assets/x");
    for (more, reason) in [
        (&[("x-forwarded-uri", "/assets/y")][..], "differ in its path"),
        (&[("x-forwarded-uri", "/assets/x?")], "differ in its path"),
        (&[("x-original-url", "https://app.localhost/assets/y")], "differ in its path"),
        (&[("x-original-url", "https://evil.example/assets/x")], "differ in its host"),
        (&[("x-forwarded-method", "POST")], "differ in its method"),
        (&[("x-forwarded-method", "get")], "differ in its method"),
        (&[("x-original-uri", "/assets/x")], "X-Original-URI is there more than once"),
        (&[("x-original-method", "GET")], "X-Original-Method is there more than once"),
        (&[("x_original_uri", "/closed")], "in place of `-`"),
        (&[("x-original.method", "POST")], "in place of `-`"),
        (&[("x-forwarded_uri", "/closed")], "in place of `-`"),
        (&[("x_forwarded_user", "root")], "in place of `-`"),
        (&[("remote_user", "root")], "in place of `-`"),
        (&[("x_user", "root")], "in place of `-`"),
        (&[("x.email", "root@example.com")], "in place of `-`"),
        (&[("x-remote_group", "root")], "in place of `-`"),
        (&[("x-auth-request.user", "root")], "in place of `-`"),
        (&[("x-forwarded-host", "a b")], "X-Forwarded-Host cannot be read"),
    ] {
        refused(&[&good[..], more].concat(), reason).await;
    }
    for (fields, reason) in [
        (&[("x-original-uri", "assets/x"), ("x-original-method", "GET")][..], "X-Original-URI cannot be read"),
        (&[("x-original-uri", ""), ("x-original-method", "GET")], "X-Original-URI cannot be read"),
        (&[("x-original-uri", "/a#b"), ("x-original-method", "GET")], "X-Original-URI cannot be read"),
        (&[("x-original-uri", "http://h/a"), ("x-original-method", "GET")], "X-Original-URI cannot be read"),
        (&[("x-original-uri", "/a\u{e9}"), ("x-original-method", "GET")], "X-Original-URI cannot be read"),
        (&[("x-original-uri", "*"), ("x-original-method", "GET")], "OPTIONS only"),
        (&[("x-original-uri", "/a"), ("x-original-method", "G T")], "X-Original-Method cannot be read"),
        (&[("x-original-uri", "/a"), ("x-original-method", "TRACE")], "never passed on"),
        (&[("x-original-uri", "/a"), ("x-original-method", "connect")], "never passed on"),
        (&[("x-original-method", "GET")], "X-Original-URI is missing"),
        (&[("x-forwarded-method", "GET")], "X-Forwarded-Uri is missing"),
        (&[("x-original-url", "ftp://h/a"), ("x-original-method", "GET")], "X-Original-URL cannot be read"),
        (&[("x-original-url", "https://u@h/a"), ("x-original-method", "GET")], "X-Original-URL cannot be read"),
        (&[("x-original-url", "https:///a"), ("x-original-method", "GET")], "X-Original-URL cannot be read"),
        (&get("/api/v1/auth/login"), "one of Sidegate's own"),
        (&get("/x/..%2fapi/v1/auth/me"), "one of Sidegate's own"),
        (&get(&format!("/{}", "a;b//%2e%2e%5c%252f;d/./x%23y%3fz%00.%20/".repeat(3))), "more than 64 ways"),
    ] {
        refused(fields, reason).await;
    }
    // A path after `verify/` that headers contradict.
    let answer = ann.send(asking(&format!("{VERIFY}/assets/x"), &get("/assets/y"))).await;
    assert_eq!(answer.status.as_u16(), 403);
    let metrics = proxy.admin("/metrics").await.text();
    assert!(metrics.contains("code=\"not_described\"} 3"), "{metrics}");
}

#[tokio::test]
async fn a_path_of_too_many_readings_has_an_audit_line() {
    let upstream = Upstream::start().await;
    let proxy = with_rules(RULES, &upstream).await.env("AUDIT", "all").start().await;
    let path = format!("/{}", "a;b//%2e%2e%5c%252f;d/./x%23y%3fz%00.%20/".repeat(3));
    assert_eq!(ask(&proxy, &get(&path)).await, 403);
    until("it has a line", async || !proxy.decisions().is_empty()).await;
    let line = &proxy.decisions()[0];
    assert_eq!((&line["decision"], &line["code"]), (&"refuse".into(), &"not_described".into()));
    assert_eq!((&line["host"], &line["method"]), (&HOST.into(), &"GET".into()), "the described request's");
    assert!(line["reason"].as_str().unwrap().contains("more than 64 ways"), "{line}");
}

#[tokio::test]
async fn what_a_rule_looks_at_must_be_said() {
    let upstream = Upstream::start().await;
    let start = async |rule: &str| {
        with_rules(&format!("[[routes]]\n{rule}\nallow = \"public\""), &upstream).await.start().await
    };
    let proxy = start("path = \"/assets/**\"").await;
    assert_eq!(ask(&proxy, &[("x-original-uri", "/assets/x")]).await, 200, "no rule looks at the method");
    assert_eq!(ask(&proxy, &[("x-forwarded-uri", "/assets/x")]).await, 200);
    assert_eq!(ask(&proxy, &[("x-original-uri", "/x")]).await, 401);

    let proxy = start("methods = [\"GET\"]").await;
    assert_eq!((ask(&proxy, &[("x-original-uri", "/x")]).await, ask(&proxy, &get("/x")).await), (403, 200));
    proxy.logs("X-Original-Method is missing, and rules name methods").await;
    for name in ["x-http-method-override", "X_HTTP_Method", "x-method-override"] {
        assert_eq!(ask(&proxy, &[&get("/x")[..], &[(name, "DELETE")]].concat()).await, 403, "{name}");
    }

    let proxy = start("host = \"a.example\"").await;
    let forwarded = [("host", "a.example"), ("x-forwarded-uri", "/"), ("x-forwarded-method", "GET")];
    assert_eq!(ask(&proxy, &forwarded).await, 403);
    proxy.logs("X-Forwarded-Host is missing, and rules name hosts").await;
    assert_eq!(ask(&proxy, &[&forwarded[..], &[("x-forwarded-host", "a.example")]].concat()).await, 200);

    // The proxy's own address does not count as the client's.
    let proxy = start("from = [\"127.0.0.0/8\"]").await;
    assert_eq!(ask(&proxy, &get("/x")).await, 403);
    proxy.logs("X-Forwarded-For is missing, and rules name networks").await;
    for (hops, status) in
        [("198.51.100.1", 401), ("127.0.0.9", 200), ("nonsense", 403), ("127.0.0.9, 198.51.100.1", 401)]
    {
        assert_eq!(ask(&proxy, &[&get("/x")[..], &[("x-forwarded-for", hops)]].concat()).await, status, "{hops}");
    }
}

#[tokio::test]
async fn nobody_is_believed_whom_trusted_proxies_does_not_name() {
    let upstream = Upstream::start().await;
    let proxy = with_rules(RULES, &upstream).await.without("TRUSTED_PROXIES").start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    for fields in [&get("/assets/x")[..], &[("x-forwarded-uri", "/assets/x"), ("x-forwarded-method", "GET")], &[]] {
        assert_eq!(ann.send(asking(VERIFY, fields)).await.status.as_u16(), 403, "a rule lets nobody in: {fields:?}");
        assert_eq!(ask(&proxy, fields).await, 403, "{fields:?}");
    }
    assert_eq!(ann.get(&format!("{VERIFY}/assets/x")).await.status.as_u16(), 403);
    proxy.logs("TRUSTED_PROXIES does not name its sender").await;
    let posted = ann.post(&format!("{VERIFY}/assets/x")).await;
    assert_eq!((posted.status.as_u16(), posted.header("allow").as_str()), (405, "GET, HEAD"));
}

#[tokio::test]
async fn without_a_description_a_session_passes_only_where_every_rule_lets_it_in() {
    let upstream = Upstream::start().await;
    let status = async |rules: &str, user: Option<&str>| {
        let proxy = with_rules(rules, &upstream).await.start().await;
        match user {
            Some(user) => proxy.signed_in_as(user).await.get(VERIFY).await.status.as_u16(),
            None => proxy.get(VERIFY).await.status.as_u16(),
        }
    };
    let proxy = with_rules("", &upstream).await.env("AUDIT", "all").start().await;
    assert_eq!(proxy.signed_in_as("ann").await.get(VERIFY).await.status.as_u16(), 200);
    proxy.logs("Permitted: - (not described)").await;
    assert_eq!(proxy.get(VERIFY).await.status.as_u16(), 401);
    proxy.logs("Refused: - (not described)").await;
    let for_ann = "[[routes]]\nname = \"a\"\npath = \"/a\"\nallow = [\"ann\"]\n";
    for (rules, user, expected) in [
        ("", Some("ann"), 200),
        ("", None, 401),
        (for_ann, Some("ann"), 200),
        (for_ann, Some("bob"), 403),
        (for_ann, None, 401),
        (&format!("{for_ann}max_age = \"1h\""), Some("ann"), 200),
        (&format!("{for_ann}require = [\"group:acme/none\"]"), Some("ann"), 403),
        ("[[routes]]\npath = \"/p\"\nallow = \"public\"", None, 401),
        ("[[routes]]\npath = \"/p\"\nallow = \"public\"", Some("bob"), 200),
        ("[[routes]]\nallow = \"public\"", None, 401),
        ("[[routes]]\npath = \"/n\"\nallow = \"nobody\"", Some("ann"), 403),
        ("[[routes]]\npath = \"/n\"\nallow = \"nobody\"", None, 403),
        // A path without a rule falls to the lists, which do not name eve; a rule for all paths decides alone.
        ("[[routes]]\npath = \"/p\"\nallow = \"signed-in\"", Some("eve"), 403),
        ("[[routes]]\nallow = \"signed-in\"", Some("eve"), 200),
    ] {
        assert_eq!(status(rules, user).await, expected, "{rules:?} {user:?}");
    }
}

#[tokio::test]
async fn a_navigation_is_led_to_sign_in_on_the_public_origin_and_back_to_where_it_came_from() {
    let upstream = Upstream::start().await;
    let other = format!("grafana.{HOST}");
    let rules = format!(
        "[[routes]]\nhost = \"{other}\"\nallow = \"signed-in\"\n[[routes]]\npath = \"/closed\"\nallow = \"nobody\""
    );
    let proxy = with_rules(&rules, &upstream).await.env("COOKIE_DOMAIN", HOST).start().await;
    let url = format!("https://{other}/d/x?a=1&b=%2F");
    let to = |rd: &str| {
        format!(
            "http://{HOST}/api/v1/auth/login?rd={}",
            percent_encoding::utf8_percent_encode(rd, percent_encoding::NON_ALPHANUMERIC)
        )
    };
    let described = [("x-original-url", url.as_str()), ("x-original-method", "GET")];
    let navigation = [("accept", PAGE), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
    let both = [&described[..], &navigation].concat();
    let redirected = format!("{VERIFY}?on_fail=redirect");
    let away = proxy.send(asking(&redirected, &both)).await;
    assert_eq!((away.status.as_u16(), away.location()), (302, to(&url)));
    // A proxy that does not relay redirects gets the URL, and redirects itself.
    let refused = proxy.send(asking(VERIFY, &both)).await;
    assert_eq!((refused.status.as_u16(), refused.location()), (401, to(&url)));
    // Only proxies that relay the response use the path after `verify/`.
    let by_path = proxy.send(asking(&format!("{VERIFY}/d/x?a=1&b=%2F"), &navigation).header("host", &other)).await;
    assert_eq!((by_path.status.as_u16(), by_path.location()), (302, to(&url)));
    // Other requests get an error, and no redirect.
    for more in [
        &[("accept", "application/json")][..],
        &[("accept", PAGE), ("sec-fetch-mode", "cors")],
        &[("accept", PAGE), ("sec-purpose", "prefetch")],
        &[("accept", PAGE), ("upgrade", "websocket"), ("connection", "upgrade")],
    ] {
        let answer = proxy.send(asking(&redirected, &[&described[..], more].concat())).await;
        assert_eq!((answer.status.as_u16(), answer.location().as_str()), (401, ""), "{more:?}");
    }
    let json = proxy.send(asking(VERIFY, &described)).await;
    assert_eq!(json.json()["login_url"], format!("http://{HOST}/api/v1/auth/login"));
    let posted = [("x-original-url", url.as_str()), ("x-original-method", "POST"), navigation[0]];
    assert_eq!(proxy.send(asking(&redirected, &posted)).await.status.as_u16(), 401);
    // If signing in does not help, there is no redirect.
    let closed = [&get("/closed")[..], &navigation].concat();
    let page = proxy.send(asking(&redirected, &closed)).await;
    assert!(page.status.as_u16() == 403 && page.text().contains("it lets nobody in"), "{page:?}");
    // The complete flow.
    let mut ann = Browser::of(&proxy);
    let authorize = ann.open(&crate::support::path_of(&away.location())).await.location();
    let back = ann.follow_callback(&proxy.idp().approve(&authorize, "ann").unwrap()).await;
    assert_eq!(back.location(), url);
    assert_eq!(ann.send(asking(VERIFY, &described)).await.status.as_u16(), 200);
    // A host that no rule names is redirected to the public one.
    let elsewhere = [("x-original-url", "https://evil.example/x"), ("x-original-method", "GET")];
    let away = proxy.send(asking(&redirected, &[&elsewhere[..], &navigation].concat())).await;
    assert_eq!(away.location(), to("/x"));
}

#[tokio::test]
async fn an_old_sign_in_is_led_to_sign_in_again() {
    let upstream = Upstream::start().await;
    let rules = "[[routes]]\npath = \"/deploy\"\nallow = [\"ann\"]\nmax_age = \"1s\"";
    let proxy = with_rules(rules, &upstream).await.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    let at = format!("{VERIFY}?on_fail=redirect");
    let described = [&get("/deploy")[..], &[("accept", PAGE)]].concat();
    until("the sign-in is old", async || ann.send(asking(&at, &described)).await.status.as_u16() == 302).await;
    let away = ann.send(asking(&at, &described)).await.location();
    assert_eq!(away, format!("http://{HOST}/api/v1/auth/login?rd=%2Fdeploy&max_age=1"));
    assert_eq!(ann.get(VERIFY).await.status.as_u16(), 403, "blindly nobody passes whom some rule refuses");
}

#[tokio::test]
async fn a_websocket_needs_the_origin_of_its_own_host() {
    let upstream = Upstream::start().await;
    let other = format!("grafana.{HOST}");
    let rules = format!("[[routes]]\nhost = \"{other}\"\nallow = \"signed-in\"");
    let proxy = with_rules(&rules, &upstream).await.env("COOKIE_DOMAIN", HOST).start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    let (usual_port, other_port) = (format!("{HOST}:80"), format!("{HOST}:8443"));
    for (host, origin, status) in [
        (HOST, Some(format!("http://{HOST}")), 200),
        (HOST, Some(format!("http://{other_port}")), 403),
        (&usual_port, Some(format!("http://{HOST}")), 200),
        (&other_port, Some(format!("http://{other_port}")), 200),
        (&other_port, Some(format!("https://{other_port}")), 403),
        (&other_port, Some(format!("http://{HOST}")), 200),
        (&other_port, Some(format!("http://{HOST}:8444")), 403),
        (HOST, Some(format!("http://{other}")), 403),
        (HOST, Some("https://evil.example".to_owned()), 403),
        (HOST, Some("null".to_owned()), 403),
        (HOST, None, 200),
        (&other, Some(format!("http://{other}")), 200),
        (&other, Some(format!("http://{HOST}")), 403),
    ] {
        for mark in [("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="), ("upgrade", "websocket")] {
            let mut request = asking(VERIFY, &[&get("/ws")[..], &[("host", host), mark]].concat());
            if let Some(origin) = &origin {
                request = request.header("origin", origin);
            }
            assert_eq!(ann.send(request).await.status.as_u16(), status, "{host} {origin:?} {mark:?}");
        }
    }
    let script = asking(VERIFY, &get("/x")).header("origin", "https://evil.example");
    assert_eq!(ann.send(script).await.status.as_u16(), 200, "what is no WebSocket is the application's to judge");
}

#[tokio::test]
async fn without_a_description_a_websocket_needs_the_public_origin_or_that_of_its_host() {
    let upstream = Upstream::start().await;
    let (sibling, other) = (format!("evil.{HOST}"), format!("grafana.{HOST}"));
    let (ours, theirs) = (format!("http://{HOST}"), format!("http://{sibling}"));
    let (ours, theirs, other) = (ours.as_str(), theirs.as_str(), other.as_str());
    for is_trusted in [true, false] {
        let plan = with_rules("", &upstream).await.env("COOKIE_DOMAIN", HOST);
        let plan = if is_trusted { plan } else { plan.without("TRUSTED_PROXIES") };
        let proxy = plan.start().await;
        let mut ann = proxy.signed_in_as("ann").await;
        for (host, origin, status) in [
            (HOST, None, 200),
            (HOST, Some(ours), 200),
            (HOST, Some(theirs), 403),
            (HOST, Some("https://evil.example"), 403),
            (HOST, Some("null"), 403),
            // nginx asks under its own name for Sidegate, unless it is told otherwise.
            ("sidegate:8080", None, 200),
            ("sidegate:8080", Some(ours), 200),
            ("sidegate:8080", Some(theirs), 403),
            (other, Some("http://grafana.app.localhost"), 200),
            (other, Some("https://grafana.app.localhost"), 403),
            (other, Some(theirs), 403),
        ] {
            let mut request = asking(VERIFY, &[("host", host), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")]);
            if let Some(origin) = origin {
                request = request.header("origin", origin);
            }
            let answer = ann.send(request).await;
            assert_eq!(answer.status.as_u16(), status, "{host} {origin:?}, trusted: {is_trusted}");
            assert_eq!(answer.text().contains("cross_site"), status == 403, "{answer:?}");
        }
        let script = asking(VERIFY, &[("origin", theirs)]);
        assert_eq!(ann.send(script).await.status.as_u16(), 200, "what is no WebSocket is the application's to judge");
    }
}

#[tokio::test]
async fn two_sessions_are_none_and_go() {
    let upstream = Upstream::start().await;
    let proxy = with_rules(RULES, &upstream).await.start().await;
    let (ann, bob) = (proxy.signed_in_as("ann").await, proxy.signed_in_as("bob").await);
    let cookies = format!("{}; {}", ann.cookie_header(), bob.cookie_header());
    let answer = proxy.send(asking(VERIFY, &get("/x")).header("cookie", cookies)).await;
    assert_eq!(answer.status.as_u16(), 401);
    assert!(answer.set_cookies().iter().any(|set| set.starts_with("session_token=;") && set.contains("Max-Age=0")));
}

#[tokio::test]
async fn open_mode_has_nothing_to_verify() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).env("TRUSTED_PROXIES", "127.0.0.1").start().await;
    let answer = proxy.send(asking(VERIFY, &get("/x"))).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "auth_disabled"));
    assert_eq!(proxy.get("/api/v1/auth/verifyx").await.status.as_u16(), 404);
}

/// One instance for many hosts: sign-in is on the public one, and returns to the requested URL on the other host.
#[tokio::test]
async fn sign_in_and_sign_out_on_another_host_are_right() {
    let upstream = Upstream::start().await;
    let other = format!("grafana.{HOST}");
    let rules = format!("[[routes]]\nhost = \"{other}\"\nallow = \"signed-in\"");
    let proxy = with_rules(&rules, &upstream).await.env("COOKIE_DOMAIN", HOST).start().await;
    for (host, rd, leads) in [
        (other.as_str(), "/d/x?y=1", format!("https://{other}/d/x?y=1")),
        (&other, "", format!("https://{other}/")),
        (&other, "//evil.example/", format!("https://{other}/")),
        (&other, "https://evil.example/", format!("https://{other}/")),
        ("evil.example", "/d/x", "/d/x".to_owned()),
    ] {
        let query: String = url::form_urlencoded::byte_serialize(rd.as_bytes()).collect();
        let away = proxy.send(Request::get(format!("/api/v1/auth/login?rd={query}")).header("host", host)).await;
        let to = url::Url::parse(&away.location()).unwrap();
        assert_eq!(to.host_str(), Some(HOST), "{away:?}");
        let (_, rd) = to.query_pairs().find(|(name, _)| name == "rd").unwrap();
        assert_eq!(rd, leads, "{host}");
    }
    let mut ann = proxy.signed_in_as("ann").await;
    let token = ann.cookie("session_token").unwrap().to_owned();
    let logout = |site: &str| {
        Request::post("/api/v1/auth/logout").header("host", &other).header("sec-fetch-site", site.to_owned())
    };
    for site in ["same-site", "cross-site"] {
        assert_eq!(ann.send(logout(site)).await.status.as_u16(), 403, "{site}");
    }
    let evil = Request::post("/api/v1/auth/logout").header("host", &other).header("origin", "https://evil.example");
    assert_eq!(ann.send(evil).await.status.as_u16(), 403);
    let signed_out = ann.send(logout("same-origin")).await;
    assert_eq!(signed_out.status.as_u16(), 200);
    assert!(signed_out.set_cookies().iter().any(|set| set.contains(&format!("Domain={HOST}"))), "{signed_out:?}");
    assert_eq!(proxy.get_as(&token, "/x").await.status.as_u16(), 401);
}
