//! Test cases of other proxies, run against the real program: what they open without a sign-in, and to whom.

use http::Request;

use crate::support::{HOST, Plan, Proxy, Upstream};

/// `POST` below `/public` is open, as in oauth2-proxy's tests.
const OPENED: &str = r#"
[[routes]]
name = "public"
path = "/public/**"
methods = ["POST"]
allow = "public"

[[routes]]
name = "exactly"
path = "/exactly"
allow = "public"
"#;

/// Which of these targets are open (`true`), and which need a session, however another server may read them.
const TARGETS: [(&str, bool); 37] = [
    ("/public/%2e%2e/protected/change", false),
    ("/public/.%2E/protected/change", false),
    ("/public%2f..%2fprotected/change", false),
    ("/public/../protected/change", false),
    ("/public/./file", false),
    ("/public/..;/protected/change", false),
    ("/public/%2e%2e;/protected/change", false),
    ("/public/%2e%2e%3b/protected/change", false),
    ("/public/..;version=1/protected/change", false),
    ("/public/.;/..;/protected/change", false),
    ("/public/a/..;/..;/protected/change", false),
    ("//protected/public", false),
    ("/%2fprotected/public", false),
    ("//exactly", false),
    ("/%2fexactly", false),
    ("/public//file", false),
    ("/public/%2ffile", false),
    ("/public/file;version=1", false),
    ("/public/file%3bversion=1", false),
    ("/public%23fragment", false),
    ("/public%3fquery", false),
    ("/public/%00", false),
    ("/public\\file", false),
    ("/exactly/", false),
    ("/exactly/more", false),
    ("/wrong/denied", false),
    ("/protected/change", false),
    ("/public/file", true),
    ("/public/file?next=/../protected;v=1&tag=%23", true),
    ("/public/", true),
    ("/public/a%20b", true),
    ("/public/%66ile", true),
    // oauth2-proxy requires a session; here every reading (with `#`, cut at it) is below `/public`.
    ("/public/file%23suffix", true),
    ("/public/secret%23/endpoint", true),
    ("/public/legit/endpoint", true),
    ("/exactly", true),
    ("/exactly?q", true),
];

async fn with_rules(rules: &str, upstream: &Upstream) -> Plan {
    let plan = Proxy::with_sign_in("github", upstream).await.env("OAUTH_ALLOWED_USERS", "ann");
    plan.file("SIDEGATE_CONFIG", "sidegate.toml", rules)
}

#[tokio::test]
async fn targets_that_another_proxy_opens_or_not_are_opened_here_or_not() {
    let upstream = Upstream::start().await;
    let proxy = with_rules(OPENED, &upstream).await.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    assert_eq!(ann.get("/").await.status, 200);
    let cookie = format!("cookie: {}\r\n", ann.cookie_header());
    let ask = async |target: &str, cookie: &str| {
        let before = upstream.received().len();
        let head =
            format!("POST {target} HTTP/1.1\r\nhost: {HOST}\r\n{cookie}content-length: 0\r\nconnection: close\r\n\r\n");
        let answer = proxy.raw(head).await;
        let arrived = upstream.received().get(before).map(|received| received.uri.to_string());
        (answer.split(' ').nth(1).unwrap_or_default().to_owned(), arrived)
    };
    for (target, open) in TARGETS {
        let (status, arrived) = ask(target, "").await;
        let expected = if open { ("200", Some(target.to_owned())) } else { ("401", None) };
        assert_eq!((status.as_str(), arrived), expected, "{target} without a session");
        let (status, arrived) = ask(target, &cookie).await;
        assert_eq!((status.as_str(), arrived), ("200", Some(target.to_owned())), "{target} with a session");
    }
    // A method that the rule does not name.
    for request in [Request::get("/public/file"), Request::patch("/public/file")] {
        assert_eq!(proxy.send(request).await.status, 401);
    }
}

/// Access by the client's address, like oauth2-proxy's `trusted-ip`.
#[tokio::test]
async fn callers_that_another_proxy_lets_in_by_their_address_are_let_in_here_or_not() {
    let upstream = Upstream::start().await;
    let rules = |from: &str| format!("[[routes]]\nname = \"from\"\nfrom = [{from}]\nallow = \"public\"\n");
    let loopback = "\"127.0.0.0/8\", \"::1\"";
    let ten = "\"10.0.0.0/8\"";
    let proxies = "127.0.0.1,192.0.2.0/24,2001:db8:1::/48";
    for (why, from, proxies, fields, open) in [
        ("the peer itself", loopback, "", &[][..], true),
        ("the peer, whatever it says", loopback, "", &["x-forwarded-for: 12.34.56.78"], true),
        ("a stranger who claims another address", ten, "", &["x-forwarded-for: 10.0.0.5"], false),
        ("a stranger who claims it by another name", ten, "", &["x-real-ip: 10.0.0.5"], false),
        ("loopback behind a trusted proxy", loopback, proxies, &["x-forwarded-for: 127.0.0.1"], true),
        ("the same in IPv6", loopback, proxies, &["x-forwarded-for: ::1"], true),
        ("a stranger behind a trusted proxy", loopback, proxies, &["x-forwarded-for: 12.34.56.78"], false),
        ("the same in IPv6", loopback, proxies, &["x-forwarded-for: ::2"], false),
        ("another field", ten, proxies, &["x-real-ip: 10.0.0.5"], false),
        ("nonsense", ten, proxies, &["x-forwarded-for: adsfljk29242as!!"], false),
        ("a forged entry at the left", ten, proxies, &["x-forwarded-for: 10.0.0.5, 198.51.100.23"], false),
        (
            "a forged field",
            ten,
            proxies,
            &["x-forwarded-for: 10.0.0.5", "x-forwarded-for: 198.51.100.23, 192.0.2.20"],
            false,
        ),
        (
            "several proxies",
            ten,
            proxies,
            &["x-forwarded-for:  10.0.0.5:1234 , 192.0.2.20", "x-forwarded-for: 192.0.2.21:443"],
            true,
        ),
        (
            "IPv6 behind IPv6",
            "\"2001:db8:2::/48\"",
            proxies,
            &["x-forwarded-for: [2001:db8:2::23]:1234, 2001:db8:1::20"],
            true,
        ),
        ("nonsense between", ten, proxies, &["x-forwarded-for: 10.0.0.5, invalid, 192.0.2.20"], false),
        ("no field", ten, proxies, &[], false),
        ("all of the chain is trusted", "\"192.0.2.30\"", proxies, &["x-forwarded-for: 192.0.2.30, 192.0.2.20"], true),
    ] {
        let mut plan = with_rules(&rules(from), &upstream).await;
        if !proxies.is_empty() {
            plan = plan.env("TRUSTED_PROXIES", proxies);
        }
        let proxy = plan.start().await;
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let answer = proxy.raw(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n{fields}connection: close\r\n\r\n")).await;
        let expected = if open { "HTTP/1.1 200" } else { "HTTP/1.1 401" };
        assert!(answer.starts_with(expected), "{why}: {answer}");
    }
}
