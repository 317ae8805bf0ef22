//! Forward-auth behind real proxies, with the configurations in `deploy/forward-auth`: exactly those who are allowed get through.

use http::Request;
use tokio::io::AsyncWriteExt as _;

use crate::support::front::{APP, AUTH, App, Front, Kind, Visitor, shipped};
use crate::support::wire::read_until;
use crate::support::{Proxy, Upstream};

/// Sidegate with the settings that we ship, behind `kind`, and an application beside it. Nothing is forwarded to `upstream`.
struct Site {
    upstream: Upstream,
    sidegate: Proxy,
    app: App,
}

impl Site {
    async fn start() -> Self {
        let upstream = Upstream::start().await;
        let settings = std::fs::read_to_string(shipped().join("sidegate.toml")).unwrap();
        // And a rule that names a method.
        let app = "[[routes]]\nname = \"app\"";
        let orders = format!(
            "[[routes]]\nname = \"orders\"\nhost = \"{APP}\"\npath = \"/orders/**\"\nmethods = [\"POST\"]\n\
             allow = [\"group:acme/platform\"]\n\n"
        );
        assert!(settings.contains(app));
        let settings = settings.replacen(app, &(orders + app), 1);
        let plan = Proxy::with_sign_in_at(&format!("https://{AUTH}"), "github", &upstream).await;
        let sidegate = plan.file("SIDEGATE_CONFIG", "sidegate.toml", &settings).start().await;
        Self { upstream, sidegate, app: App::start().await }
    }

    async fn behind(&self, kind: Kind) -> Front {
        Front::start(kind, self.sidegate.address, self.app.address).await
    }
}

/// Header fields with which a client could forge its request's description, or its identity.
const DESCRIBING: [(&str, &str); 12] = [
    ("x-original-uri", "/assets/a.css"),
    ("x-original-url", "https://app.example.com/assets/a.css"),
    ("x-original-method", "GET"),
    ("x-forwarded-uri", "/assets/a.css"),
    ("x-forwarded-method", "GET"),
    ("x-forwarded-host", "app.example.com"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-for", "127.0.0.1"),
    ("x-rewrite-url", "/assets/a.css"),
    ("x_original_uri", "/assets/a.css"),
    ("x_forwarded_uri", "/assets/a.css"),
    ("forwarded", "for=127.0.0.1;host=app.example.com"),
];
const IDENTIFYING: [&str; 16] = [
    "x-auth-request-user",
    "x-auth-request-email",
    "x-auth-request-groups",
    "x-auth-request-preferred-username",
    "x-auth-request-user-id",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-preferred-username",
    "x-forwarded-user-id",
    "x-forwarded-name",
    "x-sidegate-assertion",
    "remote-user",
    "x-remote-user",
    "x-webauth-user",
    "x_forwarded_user",
];

const OVERRIDING: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

/// A request with all of these fields.
fn hostile(path: &str) -> http::request::Builder {
    let request = DESCRIBING.iter().fold(Request::get(path), |request, (name, value)| request.header(*name, *value));
    IDENTIFYING.iter().fold(request, |request, name| request.header(*name, "forged-root"))
}

/// The whole test, the same for each proxy.
async fn walk(kind: Kind) {
    if !kind.is_installed() {
        return;
    }
    let site = Site::start().await;
    let front = site.behind(kind).await;
    let (sidegate, app) = (&site.sidegate, &site.app);

    // Signed out.
    let mut nobody = Visitor::of(&front);
    let away = nobody.open(APP, "/x?y=1&z=%2F").await;
    let rd = "https%3A%2F%2Fapp%2Eexample%2Ecom%2Fx%3Fy%3D1%26z%3D%252F";
    assert_eq!(
        (away.status.as_u16(), away.location()),
        (302, format!("https://{AUTH}/api/v1/auth/login?rd={rd}")),
        "{away:?}"
    );
    let refused = nobody.get(APP, "/x").await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (401, "unauthenticated"));
    assert_eq!(refused.json()["login_url"], format!("https://{AUTH}/api/v1/auth/login"));
    assert_eq!(nobody.send(APP, Request::post("/x"), "body").await.status.as_u16(), 401);
    for path in ["/assets/../x", "/assets/..%2fx", "/assets/%2e%2e/x", "/assets//x", "/assets/;x", "/x/../assets/y"] {
        assert_eq!(nobody.get(APP, path).await.status.as_u16(), 401, "{path}");
    }
    for path in ["/api/v1/auth/verify", "/api/v1/auth/verify/assets/x", "/api/v1/auth/./verify", "/api/v1/%61uth/me"] {
        let status = nobody.get(APP, path).await.status.as_u16();
        assert!([403, 404].contains(&status), "{path}: {status}");
    }
    assert!(app.heads().is_empty(), "{:?}", app.heads());

    // A public path.
    assert_eq!(nobody.get(APP, "/assets/a.css").await.text(), "app: ");
    for name in ["x-forwarded-user", "x-sidegate-assertion"] {
        assert!(app.field(name).unwrap_or_default().is_empty(), "{}", app.last());
    }

    // Signed in.
    let mut ann = Visitor::of(&front);
    assert_eq!(ann.sign_in(sidegate, "/x?y=1", "ann").await, format!("https://{APP}/x?y=1"));
    ann.set_cookie(APP, "theme", "dark");
    assert_eq!(ann.open(APP, "/x?y=1").await.text(), "app: ");
    assert!(app.last().starts_with("get /x?y=1 http/1.1\r\n"), "{}", app.last());
    assert_eq!(app.field("x-forwarded-user").as_deref(), Some("ann"));
    assert_eq!(app.field("x-forwarded-email").as_deref(), Some("ann@example.com"));
    assert!(app.field("x-forwarded-groups").unwrap().contains("acme/platform"));
    assert_eq!(app.field("x-sidegate-assertion").unwrap().split('.').count(), 3);
    assert_eq!(app.field("cookie").as_deref(), Some("theme=dark"), "the session cookie stays here");
    assert_eq!(app.field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(app.field("x-forwarded-proto").as_deref(), Some("https"));
    let long = "x".repeat(200_000);
    assert_eq!(ann.send(APP, Request::post("/upload"), &long).await.text(), format!("app: {long}"));
    assert_eq!(ann.get(APP, "/team/x").await.status.as_u16(), 200);
    for name in OVERRIDING {
        let answer = ann.send(APP, Request::post("/orders/1").header(name, "GET"), "").await;
        assert_eq!(answer.status.as_u16(), 200, "{name} is dropped before Sidegate is asked");
        assert_eq!(app.field(name), None, "{}", app.last());
    }
    assert_eq!(ann.get(APP, "/api/v1/auth/me").await.json()["username"], "ann", "our endpoints are on its host too");

    // Denied.
    let mut bob = Visitor::of(&front);
    bob.sign_in(sidegate, "/", "bob").await;
    let before = app.heads().len();
    assert_eq!(bob.get(APP, "/team/x").await.status.as_u16(), 403);
    assert_eq!(bob.open(APP, "/team/x").await.status.as_u16(), 403);
    assert_eq!(bob.get(APP, "/assets/../team/x").await.status.as_u16(), 403);
    for name in OVERRIDING {
        assert_eq!(bob.send(APP, Request::post("/orders/1").header(name, "GET"), "").await.status.as_u16(), 403);
    }

    // A client that sends all these fields itself.
    for (is_bob, path) in [(false, "/x"), (false, "/team/x"), (true, "/team/x")] {
        let visitor = if is_bob { &mut bob } else { &mut nobody };
        let status = visitor.send(APP, hostile(path), "").await.status.as_u16();
        assert!([401, 403].contains(&status), "{path}: {status}");
        for (name, value) in DESCRIBING {
            let status = visitor.send(APP, Request::get(path).header(name, value), "").await.status.as_u16();
            assert!([401, 403].contains(&status), "{path} with {name}: {status}");
        }
        let status = visitor.send(APP, hostile(path).method("POST").header("x-http-method-override", "GET"), "").await;
        assert!([401, 403].contains(&status.status.as_u16()), "{path}");
    }
    assert_eq!(app.heads().len(), before, "{:?}", app.heads().last());
    for (visitor, user) in [(&mut nobody, ""), (&mut bob, "bob")] {
        let answer = visitor.send(APP, hostile("/assets/a.css"), "").await;
        assert_eq!(answer.status.as_u16(), 200, "{answer:?}");
        assert!(!app.last().contains("forged-root"), "{}", app.last());
        assert_eq!(app.field("x-forwarded-user").unwrap_or_default(), user);
        for name in ["x-original-uri", "x-original-url", "x-rewrite-url", "x_original_uri", "x-forwarded-uri"] {
            assert_eq!(app.field(name), None, "{}", app.last());
        }
    }

    // WebSockets.
    assert!(nobody.websocket(&format!("https://{APP}")).await.1.starts_with("HTTP/1.1 401"));
    assert!(bob.websocket("https://evil.example").await.1.starts_with("HTTP/1.1 403"));
    assert!(bob.websocket(&format!("https://{AUTH}")).await.1.starts_with("HTTP/1.1 403"));
    let (mut stream, head) = bob.websocket(&format!("https://{APP}")).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    read_until(&mut stream, "welcome").await;
    stream.write_all(b"hello").await.unwrap();
    read_until(&mut stream, "hello").await;

    // A session that ends.
    let before = app.heads().len();
    let token = bob.cookies(APP);
    let signed_out =
        bob.send(APP, Request::post("/api/v1/auth/logout").header("sec-fetch-site", "same-origin"), "").await;
    assert_eq!((signed_out.status.as_u16(), bob.cookies(APP).as_str()), (200, ""), "{signed_out:?}");
    for (name, value) in token.split("; ").filter_map(|pair| pair.split_once('=')) {
        bob.set_cookie("example.com", name, value);
    }
    assert_eq!(bob.get(APP, "/x").await.status.as_u16(), 401, "a copy of the cookie is worth nothing");
    assert_eq!(app.heads().len(), before);
    assert!(site.upstream.received().is_empty(), "nothing is forwarded");
}

#[tokio::test]
async fn nginx_lets_in_whom_sidegate_lets_in() {
    walk(Kind::Nginx).await;
}

#[tokio::test]
async fn haproxy_lets_in_whom_sidegate_lets_in() {
    walk(Kind::Haproxy).await;
}

#[tokio::test]
#[ignore = "Caddy is built by scripts/forward-auth-test"]
async fn caddy_lets_in_whom_sidegate_lets_in() {
    assert!(Kind::Caddy.is_installed(), "caddy is missing: run scripts/forward-auth-test");
    walk(Kind::Caddy).await;
}

/// The lines of a configuration that describe the request to Sidegate, or remove a client's description.
fn describing_lines() -> Vec<String> {
    let shipped = std::fs::read_to_string(shipped().join("nginx/sidegate.conf")).unwrap();
    let asks = shipped.split("location = /sidegate-verify {").nth(1).unwrap().split('}').next().unwrap();
    let lines = asks.lines().filter(|line| line.contains("proxy_set_header") && !line.contains("Connection"));
    let lines: Vec<String> = lines.filter(|line| !line.contains("Content-Length")).map(str::to_owned).collect();
    assert_eq!(lines.len(), 12, "{lines:?}");
    lines
}

/// nginx passes on all client fields that it does not set: a missing line must not open anything. If the line sets a field, everyone
/// is refused without it, so that the mistake is noticed.
#[tokio::test]
async fn an_nginx_that_forgets_a_line_opens_nothing() {
    if !Kind::Nginx.is_installed() {
        return;
    }
    let site = Site::start().await;
    let whole = site.behind(Kind::Nginx).await;
    let mut bob = Visitor::of(&whole);
    bob.sign_in(&site.sidegate, "/", "bob").await;
    let cookies = bob.cookies(APP);
    drop(whole);
    for line in describing_lines() {
        let front = Front::start_changed(Kind::Nginx, site.sidegate.address, site.app.address, |_, text| {
            text.replacen(&format!("{line}\n"), "", 1)
        })
        .await;
        let before = site.app.heads().len();
        for signed_in in [false, true] {
            let mut visitor = Visitor::of(&front);
            if signed_in {
                let (name, value) = cookies.split_once('=').unwrap();
                visitor.set_cookie("example.com", name, value);
            }
            for (name, value) in DESCRIBING.iter().filter(|(name, _)| !sets(&line, name)) {
                let status = visitor.send(APP, Request::get("/team/x").header(*name, *value), "").await.status.as_u16();
                assert!([401, 403, 500].contains(&status), "without {line:?}, with {name}: {status}");
            }
            for path in ["/team/x", "/assets/../team/x"] {
                let status = visitor.get(APP, path).await.status.as_u16();
                assert!([401, 403].contains(&status), "without {line:?}: {path}: {status}");
            }
            // Without its description of the path everyone is refused, even where all are allowed.
            if sets(&line, "x-original-uri") {
                assert_eq!(visitor.get(APP, "/assets/a.css").await.status.as_u16(), 403);
                site.sidegate.logs("X-Original-URI is missing").await;
            }
        }
        assert_eq!(site.app.heads().len(), before, "without {line:?}");
    }
}

/// Returns true if a line sets that field: without the line, the client's own value is passed on.
fn sets(line: &str, name: &str) -> bool {
    line.to_lowercase().contains(&format!("{name} $"))
}

#[tokio::test]
async fn without_sidegate_nobody_gets_in() {
    for kind in [Kind::Nginx, Kind::Haproxy].into_iter().filter(|kind| kind.is_installed()) {
        let site = Site::start().await;
        let nobody_there = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let front = Front::start(kind, nobody_there, site.app.address).await;
        let mut visitor = Visitor::of(&front);
        for path in ["/x", "/assets/a.css"] {
            let status = visitor.get(APP, path).await.status.as_u16();
            assert!((500..=503).contains(&status), "{kind:?}: {status}");
        }
        assert!(site.app.heads().is_empty());
    }
}
