//! What the upstream learns of the user and the connection: the truth, and only from us.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::Full;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::Value;

use crate::support::client::{full, pieces};
use crate::support::upstream::Received;
use crate::support::{Browser, Client, HOST, Proxy, Upstream};

/// The fields of every request, with any client.
const ALWAYS: [&str; 7] = [
    "host",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-request-id",
    "traceparent",
];

/// The identity fields that the upstream gets.
const IDENTITY: [&str; 8] = [
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-preferred-username",
    "x-forwarded-groups",
    "x-forwarded-user-id",
    "x-forwarded-name",
    "x-forwarded-provider",
    "x-sidegate-assertion",
];

/// Fields that other proxies' upstreams trust.
const FOREIGN: [&str; 11] = [
    "x-auth-request-user",
    "x-auth-request-email",
    "x-auth-request-anything",
    "remote-user",
    "remote-email",
    "remote-groups",
    "remote-name",
    "x-remote-user",
    "x-webauth-user",
    "x-forwarded-access-token",
    "x-forwarded-prefix",
];

/// The spellings of a name that an upstream may treat as equal.
fn spellings(name: &str) -> Vec<String> {
    let title = name.split('-').map(|word| word[..1].to_uppercase() + &word[1..]).collect::<Vec<_>>().join("-");
    vec![
        name.to_owned(),
        name.to_uppercase(),
        name.replace('-', "_"),
        name.to_uppercase().replace('-', "_"),
        name.replace('-', "."),
        name.replacen('-', "_", 1),
        title,
    ]
}

fn names(received: &Received) -> BTreeSet<&str> {
    received.headers.keys().map(HeaderName::as_str).collect()
}

fn expected<'a>(more: &[&'a str]) -> BTreeSet<&'a str> {
    ALWAYS.iter().chain(more).copied().collect()
}

/// A request with `lines` between the host and the end of the connection.
async fn send(proxy: &Proxy, lines: &str) {
    let request = format!("GET /what HTTP/1.1\r\nHost: {HOST}\r\n{lines}Connection: close\r\n\r\n");
    let answer = proxy.raw(request).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{lines:?}: {answer}");
}

/// Each forbidden name in each spelling, alone, twice, and listed in `Connection`.
fn forgeries() -> Vec<String> {
    let mut forgeries = Vec::new();
    for name in IDENTITY.iter().chain(&FOREIGN) {
        for spelling in spellings(name) {
            let line = format!("{spelling}: root\r\n");
            forgeries.push(line.clone());
            forgeries.push(format!("{line}{spelling}: admin\r\n"));
            forgeries.push(format!("Connection: {spelling}\r\n{line}"));
        }
    }
    forgeries
}

/// Sends all of them over one connection, to save time; returns what the upstream received of each.
async fn forge(proxy: &Proxy, upstream: &Upstream, cookie: &str) -> Vec<(String, Received)> {
    let before = upstream.received().len();
    let forgeries = forgeries();
    let cookie = if cookie.is_empty() { String::new() } else { format!("Cookie: {cookie}\r\n") };
    for lines in forgeries.chunks(30) {
        let mut bytes = String::new();
        for line in lines {
            bytes += &format!("GET /what HTTP/1.1\r\nHost: {HOST}\r\n{cookie}{line}X-Kept: yes\r\n\r\n");
        }
        bytes += &format!("GET /api/v1/auth/status HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        let answer = proxy.raw(bytes).await;
        assert_eq!(answer.matches("HTTP/1.1 200 ").count(), lines.len() + 1, "{answer}");
    }
    forgeries.into_iter().zip(upstream.received().into_iter().skip(before)).collect()
}

#[tokio::test]
async fn in_open_mode_no_client_can_supply_an_identity() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    let forged = forge(&proxy, &upstream, "").await;
    assert_eq!(forged.len(), 19 * 7 * 3);
    for (line, received) in forged {
        assert_eq!(names(&received), expected(&["x-kept"]), "{line:?}");
    }
}

#[tokio::test]
async fn on_a_protected_path_the_identity_is_ours_alone() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let cookie = proxy.signed_in_as("ann").await.cookie_header();
    let forged = forge(&proxy, &upstream, &cookie).await;
    assert_eq!(forged.len(), 19 * 7 * 3);
    let all: Vec<&str> = IDENTITY.into_iter().chain(["x-kept"]).collect();
    for (line, received) in forged {
        assert_eq!(names(&received), expected(&all), "{line:?}");
        assert_eq!(received.header("x-forwarded-user"), "ann", "{line:?}");
        for name in IDENTITY {
            assert_eq!(received.headers.get_all(name).iter().count(), 1, "{line:?}");
            assert_ne!(received.header(name), "root", "{line:?}");
        }
    }
}

#[tokio::test]
async fn over_http2_no_client_can_supply_an_identity() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    let mut client = Client::http2(proxy.address).await;
    for name in IDENTITY.iter().chain(&FOREIGN) {
        for spelling in [name.to_string(), name.replace('-', "_"), name.replace('-', ".")] {
            let request = Request::get("/what").header(&spelling, "root").header(&spelling, "admin");
            let answer = client.send(request, full("")).await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(names(&upstream.last()), expected(&[]), "{spelling}");
        }
    }
}

/// What the upstream receives from `user` at a provider.
async fn identity_sent(kind: &str, user: &str, set: &[(&str, &str)]) -> Received {
    let upstream = Upstream::start().await;
    let mut plan = Proxy::with_sign_in(kind, &upstream).await;
    for (name, value) in set {
        plan = plan.env(name, *value);
    }
    let proxy = plan.start().await;
    let answer = proxy.signed_in_as(user).await.get("/").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    upstream.last()
}

fn assert_identity(received: &Received, values: [&str; 7]) {
    for (name, value) in IDENTITY.iter().zip(values) {
        assert!(received.headers.contains_key(*name), "{name} is missing");
        assert_eq!(received.header(name), value, "{name}");
    }
}

#[tokio::test]
async fn a_github_users_whole_identity_is_sent() {
    let groups = [("OAUTH_ALLOWED_GROUPS", "acme,acme/platform")];
    let received = identity_sent("github", "ann", &groups).await;
    assert_identity(
        &received,
        ["ann", "ann@example.com", "ann", "acme,acme/platform", "1001", "Ann Example", "github"],
    );
}

#[tokio::test]
async fn percent_signs_and_what_is_not_ascii_are_encoded_and_in_groups_commas() {
    let received = identity_sent("oidc", "zoe", &[]).await;
    assert_identity(
        &received,
        [
            "zoe@example.com",
            "zoe@example.com",
            "zo%C3%AB, 100%25",
            "Z%C3%BCrich%2C 100%25,<b>staff</b>",
            &received.header("x-forwarded-user-id"),
            "Zo%C3%AB <b>, 100%25",
            "oidc",
        ],
    );
}

#[tokio::test]
async fn control_characters_in_a_name_are_encoded() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let mut user = dev_idp::users::User::new("tab");
    user.name = "a\tb\r\nX-Forwarded-User: root\u{7f}".into();
    proxy.idp().put_user(user);
    proxy.signed_in_as("tab").await.get("/").await;
    let received = upstream.last();
    assert_eq!(received.header("x-forwarded-user"), "tab");
    let name = received.header("x-forwarded-name");
    assert!(name.contains("%0D%0AX-Forwarded-User: root") && name.starts_with("a%09b"), "{name}");
}

#[tokio::test]
async fn without_a_vouched_email_the_principal_is_the_username_or_else_the_id() {
    let received = identity_sent("github", "eve", &[]).await;
    assert_identity(&received, ["eve", "", "eve", "", "1004", "Eve Evil", "github"]);

    let received = identity_sent("oidc", "eve", &[]).await;
    let id = received.header("x-forwarded-user-id");
    assert!(!id.is_empty());
    assert_identity(&received, [&id, "", "eve", "", &id, "Eve Evil", "oidc"]);
}

#[tokio::test]
async fn a_username_that_its_owner_may_edit_is_no_principal() {
    let received = identity_sent("oidc", "ann", &[]).await;
    assert_eq!(received.header("x-forwarded-user"), "ann@example.com");
    assert_eq!(received.header("x-forwarded-preferred-username"), "ann");
    let received = identity_sent("oidc", "ann", &[("OAUTH_USERNAME_CLAIM", "preferred_username")]).await;
    assert_eq!(received.header("x-forwarded-user"), "ann");
}

#[tokio::test]
async fn the_assertion_verifies_with_jwks_and_is_signed_once() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let mut ann = proxy.signed_in_as("ann").await;
    for _ in 0..10 {
        assert_eq!(ann.get("/").await.status, 200);
    }
    let assertions: BTreeSet<String> =
        upstream.received().iter().map(|received| received.header("x-sidegate-assertion")).collect();
    assert_eq!(assertions.len(), 1, "ten requests within a minute share one signature");
    let token = assertions.first().unwrap();

    let keys: JwkSet = serde_json::from_slice(&proxy.get("/api/v1/auth/jwks").await.body).unwrap();
    let key = keys.find(&decode_header(token).unwrap().kid.unwrap()).unwrap();
    let mut rules = Validation::new(Algorithm::ES256);
    rules.set_issuer(&[format!("http://{HOST}")]);
    rules.set_audience(&[format!("http://{}", upstream.address)]);
    rules.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
    let claims = decode::<Value>(token, &DecodingKey::from_jwk(key).unwrap(), &rules).unwrap().claims;
    assert_eq!(claims["sub"], "1001");
    assert_eq!(claims["email"], "ann@example.com");
    assert!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap() <= 300, "{claims}");
}

#[tokio::test]
async fn forwarding_headers_of_a_peer_that_is_not_trusted_are_replaced() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    let forwarded = |name: &str| upstream.last().header(name);
    for spelling in ["X-Forwarded-", "x_forwarded_", "X.Forwarded.", "x-forwarded_"] {
        let mut lines = "Forwarded: for=192.0.2.1;proto=https\r\n".to_owned();
        for (name, value) in
            [("For", "192.0.2.1"), ("Proto", "https"), ("Host", "evil.example"), ("Port", "1"), ("Server", "evil")]
        {
            lines += &format!("{spelling}{name}: {value}\r\n{spelling}{name}: {value}\r\n");
        }
        send(&proxy, &lines).await;
        assert_eq!(names(&upstream.last()), expected(&[]), "{spelling}");
        assert_eq!(forwarded("x-forwarded-for"), "127.0.0.1");
        assert_eq!(forwarded("x-forwarded-proto"), "http");
        assert_eq!(forwarded("x-forwarded-host"), HOST);
        assert_eq!(forwarded("x-forwarded-port"), "80");
    }
    proxy.raw("GET / HTTP/1.1\r\nHost: other.example:8443\r\nConnection: close, X-Forwarded-For, Host\r\n\r\n").await;
    assert_eq!(forwarded("x-forwarded-for"), "127.0.0.1");
    assert_eq!(forwarded("x-forwarded-host"), "other.example:8443");
    assert_eq!(forwarded("x-forwarded-port"), "8443");
    assert_eq!(forwarded("host"), "other.example:8443");
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_and_appended_to() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).env("TRUSTED_PROXIES", "127.0.0.1").start().await;
    let forwarded = |name: &str| upstream.last().header(name);
    send(
        &proxy,
        "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: pub.example\r\nX-Forwarded-Port: 444\r\nX_Forwarded_For: 192.0.2.66\r\n\
         X.Forwarded.Host: evil.example\r\nX-Forwarded-User: root\r\nX-Forwarded-Prefix: /x\r\n\
         Forwarded: host=evil.example;for=127.0.0.1;proto=https\r\n",
    )
    .await;
    // `Forwarded` does not pass beside them: a proxy that does not know it passes on its client's.
    assert_eq!(names(&upstream.last()), expected(&[]));
    assert_eq!(forwarded("x-forwarded-for"), "192.0.2.1, 192.0.2.2, 127.0.0.1");
    assert_eq!(forwarded("x-forwarded-proto"), "https");
    assert_eq!(forwarded("x-forwarded-host"), "pub.example");
    assert_eq!(forwarded("x-forwarded-port"), "444");
    send(&proxy, "X-Forwarded-Proto: https\r\n").await;
    assert_eq!(forwarded("x-forwarded-for"), "127.0.0.1");
    assert_eq!(forwarded("x-forwarded-host"), HOST);
    assert_eq!(forwarded("x-forwarded-port"), "443");
}

#[tokio::test]
async fn of_a_list_a_trusted_proxy_is_believed_as_far_as_hops_are_trusted() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).env("TRUSTED_PROXIES", "127.0.0.1,10.0.0.0/8").start().await;
    for (hops, host, proto, port, expected) in [
        ("198.51.100.1", "evil, pub.example", "https, http", "1, 80", ["pub.example", "http", "80"]),
        ("198.51.100.1, 10.0.0.2", "pub.example, inner", "https,http", "443,80", ["pub.example", "https", "443"]),
        (
            "198.51.100.1, 10.0.0.2",
            "evil, pub.example, inner",
            "http,https,http",
            "1,8443,80",
            ["pub.example", "https", "8443"],
        ),
        (
            "198.51.100.1, 10.0.0.3, 10.0.0.2",
            "pub.example, inner",
            "https,http",
            "443,80",
            ["pub.example", "https", "443"],
        ),
        ("198.51.100.1, 10.0.0.2", ", inner", "x,http", "0,80", [HOST, "http", "80"]),
        ("198.51.100.1", "a b", "gopher", "99999", [HOST, "http", "80"]),
    ] {
        let lines = format!(
            "X-Forwarded-For: {hops}\r\nX-Forwarded-Host: {host}\r\nX-Forwarded-Proto: {proto}\r\nX-Forwarded-Port: {port}\r\n"
        );
        send(&proxy, &lines).await;
        let forwarded =
            ["x-forwarded-host", "x-forwarded-proto", "x-forwarded-port"].map(|name| upstream.last().header(name));
        assert_eq!(forwarded, expected, "{lines}");
    }
}

#[tokio::test]
async fn behind_two_proxies_that_make_lists_sign_in_works() {
    let upstream = Upstream::start().await;
    let proxy =
        Proxy::with_sign_in("github", &upstream).await.env("TRUSTED_PROXIES", "127.0.0.1,10.0.0.0/8").start().await;
    let request = Request::get("/api/v1/auth/login?rd=/x")
        .header("host", "inner:8080")
        .header("accept", "text/html")
        .header("x-forwarded-for", "198.51.100.1, 10.0.0.2")
        .header("x-forwarded-proto", "http,http")
        .header("x-forwarded-host", format!("{HOST}, inner"));
    let answer = proxy.send(request).await;
    assert_eq!(answer.status, 302, "{answer:?}");
    assert!(answer.location().starts_with(&proxy.idp().origin()), "{}", answer.location());
}

#[tokio::test]
async fn nothing_that_is_read_or_written_here_can_be_named_away() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::with_sign_in("github", &upstream).await.env("TRUSTED_PROXIES", "127.0.0.1").start().await;
    for lines in [
        "Connection: close, origin, sec-fetch-site\r\nSec-Fetch-Site: cross-site\r\nOrigin: https://evil.example\r\n",
        "Connection: close, Sec-Fetch-Site\r\nSec-Fetch-Site: cross-site\r\n",
        "Connection: close\r\nConnection: Origin\r\nOrigin: https://evil.example\r\n",
    ] {
        let request = format!("POST /api/v1/auth/logout HTTP/1.1\r\nHost: {HOST}\r\n{lines}Content-Length: 0\r\n\r\n");
        let answer = proxy.raw(request).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{lines:?}: {answer}");
    }
    let proxy = Proxy::open(&upstream).env("TRUSTED_PROXIES", "127.0.0.1").start().await;
    let names = [
        ("X-Forwarded-For", "192.0.2.1"),
        ("Forwarded", "for=192.0.2.1"),
        ("Authorization", "Basic eA=="),
        ("Cookie", "a=1"),
        ("Origin", "https://app.example"),
        ("Sec-Fetch-Mode", "cors"),
        ("X-Request-Id", "abc"),
        ("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("Content-Type", "text/plain"),
    ];
    for (name, value) in names {
        send(&proxy, &format!("{name}: {value}\r\nConnection: {name}\r\n")).await;
        let forwarded = upstream.last().header(&name.to_ascii_lowercase());
        assert!(forwarded.starts_with(value), "{name}: {forwarded:?}");
    }
}

#[tokio::test]
async fn what_leads_to_another_path_is_dropped_and_the_clients_address_is_true() {
    let upstream = Upstream::start().await;
    let rerouting = [
        "X-Original-URL",
        "X-Original-Uri",
        "X-Original-Host",
        "X-Original-Method",
        "X-Rewrite-URL",
        "X-Override-URL",
        "X-HTTP-Host-Override",
        "x_original_url",
        "X.Rewrite.URL",
    ];
    let addresses =
        ["X-Real-IP", "True-Client-IP", "X-Client-IP", "CF-Connecting-IP", "Fastly-Client-IP", "X-Cluster-Client-IP"];
    let untrusting = Proxy::open(&upstream).start().await;
    let trusting = Proxy::open(&upstream).env("TRUSTED_PROXIES", "127.0.0.1").start().await;
    for name in rerouting {
        for proxy in [&untrusting, &trusting] {
            send(proxy, &format!("{name}: /admin\r\n")).await;
            assert_eq!(names(&upstream.last()), expected(&[]), "{name}");
        }
    }
    for name in addresses {
        for spelling in spellings(&name.to_ascii_lowercase()) {
            send(&untrusting, &format!("{spelling}: 192.0.2.66\r\n")).await;
            assert_eq!(names(&upstream.last()), expected(&[]), "{spelling}");
        }
        send(&trusting, &format!("{name}: 192.0.2.66\r\nX-Forwarded-For: 192.0.2.1\r\n")).await;
        assert_eq!(upstream.last().header(&name.to_ascii_lowercase()), "192.0.2.1", "{name}");
    }
}

#[tokio::test]
async fn blanks_at_either_end_of_a_value_are_encoded() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let mut user = dev_idp::users::User::new("blank");
    user.name = "  Ann B ".into();
    proxy.idp().put_user(user);
    proxy.signed_in_as("blank").await.get("/").await;
    assert_eq!(upstream.last().header("x-forwarded-name"), "%20%20Ann B%20");
}

#[tokio::test]
async fn a_well_formed_request_id_and_trace_are_kept_and_others_made() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    let forwarded = |name: &str| upstream.last().header(name);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    send(&proxy, &format!("X-Request-Id: Ab-1.2_3\r\nTraceparent: {trace}\r\n")).await;
    assert_eq!((forwarded("x-request-id"), forwarded("traceparent")), ("Ab-1.2_3".to_owned(), trace.to_owned()));

    let long = "a".repeat(129);
    for (id, trace) in [
        ("a b", "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),
        (long.as_str(), "00-00000000000000000000000000000000-b7ad6b7169203331-00"),
        ("<b>", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),
        ("a\r\nX-Request-Id: b", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-00"),
        ("", ""),
    ] {
        send(&proxy, &format!("X-Request-Id: {id}\r\nTraceparent: {trace}\r\n")).await;
        let (made_id, made_trace) = (forwarded("x-request-id"), forwarded("traceparent"));
        assert!(made_id.len() == 32 && made_id.bytes().all(|b| b.is_ascii_hexdigit()), "{id:?} became {made_id:?}");
        assert_ne!(made_trace, trace);
        assert_eq!((made_trace.len(), &made_trace[..3]), (55, "00-"), "{trace:?} became {made_trace:?}");
    }
}

fn forwarded_cookie(upstream: &Upstream) -> Option<Vec<u8>> {
    let received = upstream.last();
    assert!(received.headers.get_all("cookie").iter().count() <= 1);
    received.headers.get("cookie").map(|value| value.as_bytes().to_vec())
}

#[tokio::test]
async fn our_cookies_are_taken_out_and_the_rest_stays() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let mut ann = proxy.signed_in_as("ann").await;
    ann.begin("/").await;
    assert!(!ann.attempts().is_empty());
    let own = ann.cookie_header();
    for (sent, left) in [
        (own.clone(), None),
        (format!("a=1; {own}; b=\"2 3\""), Some("a=1; b=\"2 3\"")),
        (format!("{own};c;xsession_token=1;  session_token =junk"), Some("c; xsession_token=1")),
    ] {
        send(&proxy, &format!("Cookie: {sent}\r\n")).await;
        assert_eq!(forwarded_cookie(&upstream).as_deref(), left.map(str::as_bytes), "{sent}");
    }
    send(&proxy, &format!("Cookie: a=1\r\nCookie: {own}\r\nCookie: b=2\r\n")).await;
    assert_eq!(forwarded_cookie(&upstream).as_deref(), Some(&b"a=1; b=2"[..]));
}

#[tokio::test]
async fn another_cookie_that_is_not_utf8_signs_nobody_out() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let own = proxy.signed_in_as("ann").await.cookie_header();
    let mut bytes = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nCookie: name=Zo").into_bytes();
    bytes.push(0xeb);
    bytes.extend_from_slice(format!("; {own}\r\n\r\n").as_bytes());
    let answer = proxy.raw(bytes).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(forwarded_cookie(&upstream).as_deref(), Some(&b"name=Zo\xeb"[..]));
}

#[tokio::test]
async fn http2_cookie_fields_are_joined_before_anything_reads_them() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let ann = proxy.signed_in_as("ann").await;
    let mut client = Client::http2(proxy.address).await;
    let request = Request::get("/")
        .header("cookie", "a=1")
        .header("cookie", ann.cookie_header())
        .header("cookie", "b=2")
        .header("x-forwarded-user", "root");
    assert_eq!(client.send(request, full("")).await.unwrap().status(), 200);
    assert_eq!(forwarded_cookie(&upstream).as_deref(), Some(&b"a=1; b=2"[..]));
    assert_eq!(upstream.last().header("x-forwarded-user"), "ann");
}

#[tokio::test]
async fn an_upstream_cannot_set_our_cookies() {
    let upstream = Upstream::answering(|_| {
        let cookies = [
            "a=1; Path=/",
            "session_token=evil; Path=/",
            " session_token = evil",
            "sidegate_login_00=evil",
            "=session_token=evil; Path=/",
            " = session_token=evil",
            "==session_token=evil",
            "session_token",
            "=session_token",
            "session_token\t=evil",
            "\"session_token\"=evil",
            "=sidegate_login_00=evil",
            "=sidegate_visits=evil",
            "=c; Path=/",
            "b=2",
        ];
        let answer = cookies.iter().fold(Response::builder(), |answer, cookie| answer.header("set-cookie", *cookie));
        answer.body(Full::new(Bytes::from("ok"))).unwrap()
    })
    .await;
    let proxy = Proxy::start(&upstream).await;
    let mut ann: Browser<'_> = proxy.signed_in_as("ann").await;
    let token = ann.cookie("session_token").unwrap().to_owned();
    assert_eq!(ann.get("/").await.set_cookies(), ["a=1; Path=/", "=c; Path=/", "b=2"]);
    assert_eq!(ann.cookie("session_token"), Some(token.as_str()));
}

#[tokio::test]
async fn authorization_passes_untouched() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let mut ann = proxy.signed_in_as("ann").await;
    for value in ["Basic YTpi", "Bearer not.a.token", "Custom a=\"b, c\""] {
        ann.send(Request::get("/").header("authorization", value)).await;
        assert_eq!(upstream.last().header("authorization"), value);
    }
}

/// Trailer names that must not be forwarded, and one that may.
const TRAILERS: [&str; 19] = [
    "x-sum",
    "x-forwarded-user",
    "x_forwarded_email",
    "x.forwarded.groups",
    "x-sidegate-assertion",
    "x-auth-request-user",
    "remote-user",
    "x_remote_user",
    "x-remote-group",
    "impersonate-user",
    "x-http-method-override",
    "x-forwarded-for",
    "forwarded",
    "cookie",
    "authorization",
    "content-length",
    "transfer-encoding",
    "host",
    "connection",
];

#[tokio::test]
async fn trailers_pass_less_what_a_client_may_not_say() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    let fields: String = TRAILERS.iter().map(|name| format!("{name}: 42\r\n")).collect();
    let answer = proxy
        .raw(format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nTE: trailers\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\
             Trailer: {}\r\n\r\n3\r\nabc\r\n0\r\n{fields}\r\n",
            TRAILERS.join(", ")
        ))
        .await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let received = upstream.last();
    assert_eq!(received.body, "abc");
    let left: Vec<&str> = received.trailers.as_ref().unwrap().keys().map(HeaderName::as_str).collect();
    assert_eq!(left, ["x-sum"]);
}

#[tokio::test]
async fn over_http2_trailers_pass_less_what_a_client_may_not_say() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).start().await;
    let mut fields = HeaderMap::new();
    // HTTP/2 itself forbids connection-specific fields (RFC 9113 §8.2.2).
    let sent: Vec<&str> =
        TRAILERS.into_iter().filter(|name| !["connection", "transfer-encoding"].contains(name)).collect();
    for name in &sent {
        fields.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("42"));
    }
    // Without a length: over HTTP/1.1, trailers need chunks.
    let (mut sender, body) = pieces();
    tokio::spawn(async move {
        sender.send_data(Bytes::from("abc")).await.unwrap();
        sender.send_trailers(fields).await.unwrap();
    });
    let mut client = Client::http2(proxy.address).await;
    let answer = client.send(Request::post("/").header("trailer", sent.join(", ")), body).await.unwrap();
    assert_eq!(answer.status(), 200);
    let received = upstream.last();
    assert_eq!(received.body, "abc");
    let left: Vec<&str> = received.trailers.as_ref().unwrap().keys().map(HeaderName::as_str).collect();
    assert_eq!(left, ["x-sum"]);
}
