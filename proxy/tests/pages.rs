//! The proxy's own endpoints: exact bodies, methods and headers, and the pages for people.

use dev_idp::Endpoint;
use http::Request;
use serde_json::json;

use crate::support::{Answer, Browser, Proxy, Upstream};

/// Names and values.
type Headers = &'static [(&'static str, &'static str)];

const AUTH: &str = "/api/v1/auth";

/// Each endpoint, and its status for a signed-out client.
const READ: [(&str, u16); 11] = [
    ("status", 200),
    ("login", 302),
    ("callback", 400),
    ("me", 401),
    ("session", 401),
    ("sign-in", 200),
    ("signed-out", 200),
    ("jwks", 200),
    ("assets/sidegate.css", 200),
    ("assets/icon.svg", 200),
    ("assets/gate-closed.svg", 200),
];

async fn ask(proxy: &Proxy, method: &str, path: &str, accept: &str) -> Answer {
    proxy.send(Request::builder().method(method).uri(path).header("accept", accept)).await
}

#[tokio::test]
async fn status_says_exactly_whether_there_is_sign_in() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let open = Proxy::open(&upstream).start().await;
    for (proxy, body) in [(&proxy, r#"{"enabled":true}"#), (&open, r#"{"enabled":false}"#)] {
        for path in ["/api/v1/auth/status", "/api/v1/auth/status?x=1"] {
            let answer = proxy.get(path).await;
            assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, body));
            assert_eq!(answer.header("content-type"), "application/json");
            assert_eq!(answer.header("cache-control"), "no-store");
        }
    }
}

#[tokio::test]
async fn me_and_session_say_exactly_who_it_is() {
    let upstream = Upstream::start().await;
    for (kind, me) in [
        (
            "github",
            json!({ "id": "1001", "email": "ann@example.com", "name": "Ann Example", "username": "ann", "provider": "github" }),
        ),
        (
            "entra",
            json!({ "id": "0b1ec700-0000-4000-8000-000000001001", "email": "ann@example.com", "name": "Ann Example", "username": "ann@contoso.example", "provider": "entra" }),
        ),
        (
            "oidc",
            json!({ "id": "oidc-ann", "email": "ann@example.com", "name": "Ann Example", "username": "ann", "provider": "oidc" }),
        ),
    ] {
        let plan = Proxy::with_sign_in(kind, &upstream)
            .await
            .env("OAUTH_ALLOWED_USERS", "*")
            .env("OAUTH_ALLOWED_GROUPS", "acme");
        let proxy = plan.env("SESSION_TTL", "2h").start().await;
        let mut ann = proxy.signed_in_as("ann").await;
        let answer = ann.get("/api/v1/auth/me").await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, me.clone()), "{kind}");
        let answer = ann.get("/api/v1/auth/session").await;
        assert_eq!(answer.status, 200);
        let session = answer.json();
        for (name, value) in me.as_object().unwrap() {
            assert_eq!(&session[name], value);
        }
        assert_eq!(session.as_object().unwrap().len(), 8, "{session}");
        let groups = match kind {
            "github" => json!(["acme"]),
            "entra" => json!([dev_idp::users::PLATFORM_GROUP, dev_idp::users::STAFF_GROUP, dev_idp::users::ADMIN_ROLE]),
            _ => json!(["acme", "acme/platform"]),
        };
        assert_eq!(session["groups"], groups, "{kind}");
        let [from, to] = ["created_at", "expires_at"].map(|name| {
            let text = session[name].as_str().unwrap();
            assert!(text.len() == 20 && text.ends_with('Z') && text.as_bytes()[10] == b'T', "{text} is not RFC 3339");
            text.to_owned()
        });
        let hour = |text: &str| text[11..13].parse::<u32>().unwrap();
        assert_eq!((hour(&from) + 2) % 24, hour(&to), "{from} to {to} is not SESSION_TTL");
        assert_eq!(from[14..], to[14..]);
        for path in ["me", "session"] {
            let nobody = proxy.get(&format!("{AUTH}/{path}")).await;
            assert_eq!((nobody.status.as_u16(), nobody.code().as_str()), (401, "unauthenticated"));
        }
    }
}

#[tokio::test]
async fn every_endpoint_has_its_methods_and_names_them_to_others() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    for (path, status) in READ {
        let path = format!("{AUTH}/{path}");
        assert_eq!(proxy.get(&path).await.status, status, "{path}");
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"] {
            let answer = ask(&proxy, method, &path, "*/*").await;
            assert_eq!(
                (answer.status.as_u16(), answer.code().as_str()),
                (405, "method_not_allowed"),
                "{method} {path}"
            );
            assert_eq!(answer.header("allow"), "GET, HEAD");
        }
    }
    for method in ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let answer = ask(&proxy, method, "/api/v1/auth/logout", "*/*").await;
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.header("allow"), "POST");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    for (path, _) in READ {
        let path = format!("{AUTH}/{path}");
        for accept in ["*/*", "text/html"] {
            let (get, head) = (ask(&proxy, "GET", &path, accept).await, ask(&proxy, "HEAD", &path, accept).await);
            assert_eq!(get.status, head.status, "{path}");
            assert!(head.body.is_empty(), "{path}");
            for name in ["content-type", "cache-control", "content-security-policy"] {
                assert_eq!(get.header(name), head.header(name), "{path}");
            }
        }
    }
}

#[tokio::test]
async fn all_answers_carry_the_headers_that_protect_them() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let others = [("nothing", 404), ("", 404), ("logout", 405)];
    for (path, _) in READ.into_iter().chain(others) {
        for accept in ["*/*", "text/html"] {
            let answer = ask(&proxy, "GET", &format!("{AUTH}/{path}"), accept).await;
            let cached = answer.header("cache-control");
            assert_eq!(cached == "no-store", path != "jwks", "{path}: {cached}");
            assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
            assert_eq!(answer.header("referrer-policy"), "same-origin", "{path}");
            assert!(!answer.status.is_redirection() || matches!(answer.status.as_u16(), 302 | 303), "{answer:?}");
            if answer.header("content-type").starts_with("text/html") {
                let policy = answer.header("content-security-policy");
                assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
                assert!(!policy.contains("unsafe"), "{policy}");
                let page = answer.text();
                assert!(!page.contains("<script") && !page.contains("style=") && !page.contains(" onclick"), "{page}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_not_there_is_404_and_other_spellings_are_not_there() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let open = Proxy::open(&upstream).start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    for path in [
        "/api/v1/auth",
        "/api/v1/auth/",
        "/api/v1/auth/Status",
        "/api/v1/auth/status/",
        "/api/v1/auth/nothing",
        "/api/v1/auth/assets/",
        "/api/v1/auth/assets/other.css",
        "/api/v1/auth/assets/../status",
        "/api/v1/auth/assets/..%2f..%2fCargo.toml",
        "/api/v1/auth//status",
        "//api/v1/auth/status",
        "/api//v1/auth/status",
        "/api/v1/./auth/status",
        "/x/../api/v1/auth/status",
        "/api/v1/%61uth/status",
        "/api/v1/auth%2fstatus",
        "/api/v1\\auth\\status",
        "/api/v1/auth/status%00",
    ] {
        let answer = ann.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "not_found"), "{path}");
        let answer = open.get(path).await;
        assert_eq!(answer.status, 404, "{path} in open mode");
    }
    assert_eq!(upstream.connections(), 0, "nothing there is ever forwarded");
    for path in ["/api/v1/authors", "/api/v1/auth-status", "/API/V1/AUTH/status"] {
        assert_eq!(ann.get(path).await.text(), "hello from upstream", "{path} is the upstream's");
    }
}

#[tokio::test]
async fn in_open_mode_all_but_status_is_auth_disabled() {
    let upstream = Upstream::start().await;
    let open = Proxy::open(&upstream).start().await;
    for path in READ.map(|(path, _)| path).into_iter().filter(|path| *path != "status").chain(["nothing", "verify", ""])
    {
        for method in ["GET", "POST"] {
            let answer = ask(&open, method, &format!("{AUTH}/{path}"), "*/*").await;
            assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "auth_disabled"), "{method} {path}");
            assert_eq!(answer.header("cache-control"), "no-store");
        }
    }
    let answer = ask(&open, "POST", "/api/v1/auth/logout", "*/*").await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "auth_disabled"));
    let answer = ask(&open, "POST", "/api/v1/auth/status", "*/*").await;
    assert_eq!((answer.status.as_u16(), answer.header("allow").as_str()), (405, "GET, HEAD"));
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn jwks_is_a_jwk_set_of_public_keys() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let keys = proxy.get("/api/v1/auth/jwks").await.json();
    let key = &keys["keys"][0];
    assert_eq!(
        (key["kty"].as_str(), key["crv"].as_str(), key["alg"].as_str()),
        (Some("EC"), Some("P-256"), Some("ES256"))
    );
    assert!(key["kid"].is_string() && key["x"].is_string() && key["y"].is_string());
    assert!(key.get("d").is_none(), "the private key is public");
}

#[tokio::test]
async fn the_pages_lead_on_and_their_style_sheet_is_there() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let mut browser = Browser::of(&proxy);
    let page = browser.open("/api/v1/auth/sign-in?rd=/deep%3Fx%3D1%26y%3D2").await.text();
    assert!(page.contains("href=\"/api/v1/auth/login?rd=/deep%3Fx%3D1%26y%3D2\""), "{page}");
    assert!(page.contains("Continue with GitHub"), "{page}");
    for unsafe_rd in ["//evil.example", "https://evil.example/", "javascript:alert(1)", "/a&rd=/b"] {
        let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("rd", unsafe_rd).finish();
        let page = browser.open(&format!("/api/v1/auth/sign-in?{query}")).await.text();
        assert!(!page.contains("evil") && !page.contains("javascript") && !page.contains("&rd="), "{page}");
    }
    let page = browser.open("/api/v1/auth/signed-out").await.text();
    assert!(page.contains("href=\"/api/v1/auth/login?prompt=select_account\""), "{page}");
    for (asset, kind) in [("sidegate.css", "text/css; charset=utf-8"), ("icon.svg", "image/svg+xml")] {
        assert!(page.contains(&format!("/api/v1/auth/assets/{asset}")), "{page}");
        let answer = browser.get(&format!("/api/v1/auth/assets/{asset}")).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type").as_str()), (200, kind));
        assert!(!answer.body.is_empty());
    }
}

#[tokio::test]
async fn a_navigation_is_led_to_sign_in_and_nothing_else_is() {
    const HTML: (&str, &str) = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let cases: [(&str, Headers, bool); 27] = [
        ("GET", &[HTML], true),
        ("HEAD", &[HTML], true),
        ("GET", &[HTML, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")], true),
        ("GET", &[("accept", "application/json, text/html;q=0.5")], true),
        ("GET", &[], false),
        ("GET", &[("accept", "*/*")], false),
        ("GET", &[("accept", "text/*")], false),
        ("GET", &[("accept", "application/json")], false),
        ("GET", &[("accept", "text/html;q=0")], false),
        ("POST", &[HTML], false),
        ("PUT", &[HTML], false),
        ("DELETE", &[HTML], false),
        ("OPTIONS", &[HTML], false),
        ("GET", &[HTML, ("sec-fetch-mode", "cors")], false),
        ("GET", &[HTML, ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")], false),
        ("GET", &[HTML, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")], false),
        // A service worker's `fetch(event.request)`.
        ("GET", &[HTML, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "empty")], true),
        ("GET", &[HTML, ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")], false),
        ("GET", &[HTML, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "image")], false),
        ("GET", &[HTML, ("sec-purpose", "prefetch;prerender")], false),
        ("GET", &[HTML, ("sec-purpose", "PREFETCH;anonymous-client-ip")], false),
        ("GET", &[HTML, ("sec-purpose", "prerender")], false),
        ("GET", &[HTML, ("purpose", "Prefetch")], false),
        ("GET", &[HTML, ("purpose", "prefetch")], false),
        ("GET", &[HTML, ("x-moz", "prefetch")], false),
        ("GET", &[HTML, ("connection", "upgrade"), ("upgrade", "websocket")], false),
        ("GET", &[HTML, ("connection", "upgrade"), ("upgrade", "h2c")], false),
    ];
    for (method, headers, navigates) in cases {
        let request = Request::builder().method(method).uri("/a/b?x=1&y=%2F%26");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let answer = proxy.send(request).await;
        if navigates {
            assert_eq!(answer.status, 302, "{method} {headers:?}");
            let location = answer.location();
            let (path, query) = location.split_once('?').unwrap();
            assert_eq!(path, "/api/v1/auth/login");
            let parameters: Vec<_> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
            assert_eq!(parameters, [("rd".to_owned(), "/a/b?x=1&y=%2F%26".to_owned())]);
        } else {
            assert_eq!(answer.status, 401, "{method} {headers:?}");
            assert_eq!(answer.location(), "");
        }
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    let body = proxy.get("/a").await.json();
    let message = "Authentication required";
    assert_eq!(body, json!({ "error": "unauthenticated", "message": message, "login_url": "/api/v1/auth/login" }));
    assert_eq!(upstream.connections(), 0, "who is not let in does not reach the upstream");
}

#[tokio::test]
async fn requests_for_me_and_session_are_never_redirected_to_sign_in() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    for path in ["/api/v1/auth/me", "/api/v1/auth/session"] {
        let answer = Browser::of(&proxy).open(path).await;
        assert_eq!((answer.status.as_u16(), answer.location().as_str()), (401, ""), "{path}");
        assert!(answer.header("content-type").starts_with("text/html"), "{path}: {answer:?}");
        assert!(answer.text().contains("id=\"sign-in\""), "{path} has no way on: {}", answer.text());
        let answer = ask(&proxy, "GET", path, "application/json;q=0.9, text/html;q=0.1").await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("content-type").as_str()),
            (401, "application/json"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_client_gets_json_or_a_page_by_quality_to_the_thousandth() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    for (accept, kind) in [
        ("application/json;q=0.9, text/html;q=0.1", "application/json"),
        ("application/json;q=0.501, text/html;q=0.5", "application/json"),
        ("application/json;q=0.5, text/html;q=0.501", "text/html; charset=utf-8"),
        ("text/html;q=odd, application/json", "application/json"),
        ("*/*", "application/json"),
    ] {
        let answer = ask(&proxy, "GET", "/api/v1/auth/nothing", accept).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type").as_str()), (404, kind), "{accept}");
    }
}

#[tokio::test]
async fn a_prefetch_of_login_or_callback_is_503_and_changes_nothing() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let mut ann = Browser::of(&proxy);
    let callback = ann.approved("/x", "ann").await;
    let attempts = ann.attempts();
    for (name, value) in [
        ("sec-purpose", "prefetch"),
        ("sec-purpose", "prefetch;prerender"),
        ("sec-purpose", "Prefetch;anonymous-client-ip"),
        ("sec-purpose", "prerender"),
        ("purpose", "prefetch"),
        ("purpose", "PREFETCH"),
        ("x-moz", "prefetch"),
    ] {
        for path in ["/api/v1/auth/login?rd=/x", callback.as_str()] {
            for method in ["GET", "HEAD"] {
                let request =
                    Request::builder().method(method).uri(path).header(name, value).header("accept", "text/html");
                let answer = ann.send(request).await;
                assert_eq!(answer.status, 503, "{name}: {value}, {method} {path}");
                assert!(answer.set_cookies().is_empty(), "{answer:?}");
                assert_eq!(answer.location(), "");
            }
        }
    }
    assert_eq!(ann.attempts(), attempts);
    assert_eq!(proxy.idp().control().requests(Endpoint::Token), 0, "a code was redeemed");
    assert_eq!(ann.open(&callback).await.location(), "/x", "the attempt is still good");
}
