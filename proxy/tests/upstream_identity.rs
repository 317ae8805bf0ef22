//! Configurable identity headers: which fields each upstream gets, and that clients cannot forge them.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use http::{HeaderMap, Request, Version};
use serde_json::Value;

use crate::support::client::{Client, full};
use crate::support::envoy::{Envoy, asking};
use crate::support::{Proxy, Upstream, until};

const FILE: &str = r#"
[identity]
"X-Usual-User" = "user"

[[upstreams]]
name = "grafana"
urls = ["GRAFANA"]
assertion_groups = false
[upstreams.identity]
"X-WEBAUTH-USER" = "username"
"X-Team" = { value = "groups", as = "repeated", prefix = "corp:", only = ["acme/*"] }
"X-All-Groups" = { value = "groups", separator = "|" }
"X-Department" = "claim:department"
"X-Token" = "assertion"

[[upstreams]]
name = "blind"
urls = ["BLIND"]
identity = "none"

[[routes]]
path = "/grafana/**"
allow = "signed-in"
upstream = "grafana"
[[routes]]
path = "/blind/**"
allow = "signed-in"
upstream = "blind"
[[routes]]
path = "/open/**"
allow = "public"
upstream = "grafana"
[[routes]]
allow = "signed-in"
"#;

const USUAL: [&str; 8] = [
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-preferred-username",
    "x-forwarded-groups",
    "x-forwarded-user-id",
    "x-forwarded-name",
    "x-forwarded-provider",
    "x-sidegate-assertion",
];

fn all(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

fn claims(token: &str) -> Value {
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&payload).unwrap()
}

#[tokio::test]
async fn each_upstream_gets_the_headers_of_its_table_and_no_client_can_forge_them() {
    let (usual, grafana, blind) = (Upstream::start().await, Upstream::start().await, Upstream::start().await);
    let file = FILE
        .replace("GRAFANA", &format!("http://{}", grafana.address))
        .replace("BLIND", &format!("http://{}", blind.address));
    // GitHub's groups are requested if a list names one.
    let plan = Proxy::with_sign_in("github", &usual)
        .await
        .env("OAUTH_ALLOWED_GROUPS", "acme,acme/platform")
        .env("OAUTH_ALLOWED_USERS", "*");
    let proxy = plan.file("SIDEGATE_CONFIG", "sidegate.toml", &file).start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    let names = ["X-Webauth-User", "x_team", "x.all.groups", "X-Department", "x-token", "X-USUAL_USER", "x-usual-user"];
    let forging = |path: &str| names.iter().fold(Request::get(path), |request, name| request.header(*name, "forged"));

    assert_eq!(ann.send(forging("/grafana/x")).await.status.as_u16(), 200);
    let seen = grafana.last().headers;
    assert_eq!(all(&seen, "x-webauth-user"), ["ann"]);
    let groups = all(&seen, "x-all-groups");
    assert_eq!(groups.len(), 1, "{seen:?}");
    assert!(
        groups[0].split('|').any(|group| group == "acme") && groups[0].split('|').any(|group| group == "acme/platform"),
        "{groups:?}"
    );
    let teams = all(&seen, "x-team");
    assert!(!teams.is_empty() && teams.iter().all(|team| team.starts_with("corp:acme/")), "{teams:?}");
    assert!(all(&seen, "x-department").is_empty(), "nothing empty is sent");
    let token = claims(&all(&seen, "x-token")[0]);
    assert_eq!((&token["aud"], &token["groups"]), (&"grafana".into(), &Value::Null));
    for name in USUAL {
        assert!(all(&seen, name).is_empty(), "{name}");
    }
    assert!(!seen.iter().any(|(_, value)| value == "forged"), "{seen:?}");

    ann.send(forging("/blind/x")).await;
    let seen = blind.last().headers;
    assert!(!seen.iter().any(|(_, value)| value == "forged"), "{seen:?}");
    assert!(USUAL.iter().chain(&names).all(|name| all(&seen, name).is_empty()), "{seen:?}");

    ann.send(forging("/x")).await;
    let seen = usual.last().headers;
    assert_eq!(all(&seen, "x-usual-user"), ["ann"]);
    assert!(USUAL.iter().all(|name| all(&seen, name).is_empty()), "{seen:?}");
    assert!(!seen.iter().any(|(_, value)| value == "forged"), "{seen:?}");

    // On a public rule without a session no identity is sent, and none can be forged.
    assert_eq!(proxy.send(forging("/open/x")).await.status.as_u16(), 200);
    let seen = grafana.last().headers;
    assert!(names.iter().all(|name| all(&seen, name).is_empty()), "{seen:?}");
    assert_eq!(ann.get("/open/x").await.status.as_u16(), 200);
    assert_eq!(all(&grafana.last().headers, "x-webauth-user"), ["ann"], "but a live session still is");
}

const WITH_ID_TOKEN: &str = r#"
[[upstreams]]
name = "app"
urls = ["APP"]
[upstreams.identity]
"Authorization" = { value = "id_token", prefix = "Bearer " }
"X-Id-Token" = "id_token"
"X-User" = "user"

[[upstreams]]
name = "h2"
urls = ["H2"]
[upstreams.identity]
"X-Id-Token" = "id_token"

[[routes]]
path = "/app/**"
allow = "signed-in"
upstream = "app"
[[routes]]
path = "/h2/**"
allow = "signed-in"
upstream = "h2"
[[routes]]
allow = "signed-in"
"#;

#[tokio::test]
async fn an_id_token_goes_where_a_table_says_so_and_nowhere_else() {
    let (usual, app) = (Upstream::start().await, Upstream::start().await);
    let over_http2 = Arc::new(Mutex::new(HeaderMap::new()));
    let kept = Arc::clone(&over_http2);
    let http2 = Upstream::streaming(move |request| {
        request.headers().clone_into(&mut kept.lock().unwrap());
        async { http::Response::new(full("")) }
    })
    .await;
    let file = WITH_ID_TOKEN
        .replace("APP", &format!("http://{}", app.address))
        .replace("H2", &format!("h2c://{}", http2.address));
    for kind in ["oidc", "entra"] {
        let plan = Proxy::with_sign_in(kind, &usual).await;
        plan.idp().control().token_lifetime(std::time::Duration::from_secs(2));
        let proxy = plan
            .env("OAUTH_SCOPES", "openid,profile,email,offline_access")
            .env("LOG_LEVEL", "trace")
            .file("SIDEGATE_CONFIG", "sidegate.toml", &file)
            .start()
            .await;
        let mut ann = proxy.signed_in_as("ann").await;
        let forging = |path: &str| Request::get(path).header("x_id-token", "forged").header("authorization", "forged");
        assert_eq!(ann.send(forging("/app/x")).await.status.as_u16(), 200);
        let seen = app.last().headers;
        let first = all(&seen, "x-id-token");
        assert_eq!(first.len(), 1, "{kind}: {seen:?}");
        assert_eq!(all(&seen, "authorization"), [format!("Bearer {}", first[0])], "{kind}");
        assert_eq!(claims(&first[0])["aud"], "sidegate-dev", "{kind}");
        assert!(!all(&seen, "x-user").is_empty() && !seen.iter().any(|(_, value)| value == "forged"), "{seen:?}");

        assert_eq!(ann.send(forging("/h2/x")).await.status.as_u16(), 200);
        assert_eq!(all(&over_http2.lock().unwrap(), "x-id-token").len(), 1, "{kind}");

        assert_eq!(ann.send(forging("/x")).await.status.as_u16(), 200);
        let seen = usual.last().headers;
        assert!(all(&seen, "x-id-token").is_empty() && all(&seen, "authorization").is_empty(), "{kind}: {seen:?}");

        // It is renewed with the other tokens.
        until("a new ID token is sent", async || {
            assert_eq!(ann.get("/app/x").await.status.as_u16(), 200);
            all(&app.last().headers, "x-id-token") != first
        })
        .await;
        for never in ["eyJ", first[0].split('.').nth(1).unwrap()] {
            assert!(!proxy.log().contains(never), "{kind}: a token is in the log");
        }
    }
}

#[tokio::test]
async fn where_there_is_no_id_token_its_field_is_not_sent() {
    let (usual, app) = (Upstream::start().await, Upstream::start().await);
    let file = "[identity]\n\"X-Id-Token\" = \"id_token\"\n\"X-User\" = \"user\"\n[[routes]]\nallow = \"signed-in\"\n";
    let plan = Proxy::with_sign_in("github", &usual).await.env("UPSTREAM_URL", format!("http://{}", app.address));
    let proxy = plan.file("SIDEGATE_CONFIG", "sidegate.toml", file).start().await;
    proxy.logs("GitHub gives none").await;
    let mut ann = proxy.signed_in_as("ann").await;
    let forged = Request::get("/x").header("x-id-token", "forged");
    assert_eq!(ann.send(forged).await.status.as_u16(), 200);
    let seen = app.last().headers;
    assert!(all(&seen, "x-id-token").is_empty(), "{seen:?}");
    assert_eq!(all(&seen, "x-user"), ["ann"]);
}

#[tokio::test]
async fn envoy_gets_the_id_token_where_the_table_says_so() {
    let upstream = Upstream::start().await;
    let file = "[identity]\n\"X-Id-Token\" = \"id_token\"\n[[routes]]\nallow = \"signed-in\"\n";
    let plan = Proxy::with_sign_in("oidc", &upstream).await.env("EXT_AUTHZ_ADDR", "127.0.0.1:0");
    let proxy = plan.file("SIDEGATE_CONFIG", "sidegate.toml", file).start().await;
    let envoy = Envoy::of(&proxy).await;
    let cookie = proxy.signed_in_as("ann").await.cookie_header();
    let let_in = envoy.check(asking("/x", &[("cookie", &cookie), ("x-id-token", "forged")])).await;
    assert_eq!(claims(&let_in.header("x-id-token"))["aud"], "sidegate-dev", "{let_in:?}");
}

#[tokio::test]
async fn trailers_cannot_say_it_either() {
    let (usual, named) = (Upstream::start().await, Upstream::start().await);
    let file = format!(
        "[[upstreams]]\nname = \"app\"\nurls = [\"http://{}\"]\n[upstreams.identity]\n\"X-Team\" = \"user\"\n[[routes]]\npath = \"/app/**\"\nupstream = \"app\"",
        named.address
    );
    let proxy = Proxy::open(&usual).file("SIDEGATE_CONFIG", "s.toml", &file).start().await;
    for (path, upstream) in [("/app/x", &named), ("/x", &usual)] {
        let text = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: x-team, x-sum\r\n\r\n2\r\nhi\r\n0\r\nx_team: root\r\nX-Team: root\r\nx-sum: 1\r\n\r\n"
        );
        assert!(proxy.raw(text).await.starts_with("HTTP/1.1 200"));
        let trailers = upstream.last().trailers.unwrap();
        assert_eq!(trailers.keys().map(http::HeaderName::as_str).collect::<Vec<_>>(), ["x-sum"], "{path}");
    }
    let mut client = Client::of(Version::HTTP_2, proxy.address).await;
    let answer = client.send(Request::post("/app/x").header("x-team", "root"), full("x")).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(all(&named.last().headers, "x-team").is_empty());
}

#[tokio::test]
async fn the_assertion_names_no_groups_where_that_is_said() {
    let usual = Upstream::start().await;
    let plan = Proxy::with_sign_in("github", &usual)
        .await
        .env("OAUTH_ALLOWED_GROUPS", "acme,acme/platform")
        .env("ASSERTION_GROUPS", "false");
    let proxy = plan.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    assert_eq!(ann.get("/x").await.status.as_u16(), 200);
    let seen = usual.last();
    let token = claims(&seen.header("x-sidegate-assertion"));
    assert_eq!((&token["aud"], &token["groups"]), (&format!("http://{}", usual.address).into(), &Value::Null));
    assert!(seen.header("x-forwarded-groups").contains("acme"), "the plain field is another thing");
    assert_eq!(seen.header("x-forwarded-user"), "ann");
}
