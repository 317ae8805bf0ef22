//! Signing in and out, with each provider.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dev_idp::Endpoint;
use http::Request;
use sidegate::adapters::stores::redis::Layout;
use sidegate::domain::session::{Session, SessionToken};
use sidegate::domain::time::Timestamp;
use sidegate::ports::Sessions as _;
use zeroize::Zeroizing;

use crate::redis_store::store::{open_with, place};
use crate::support::redis::is_installed;
use crate::support::{Answer, Browser, HOST, Proxy, Redis, Upstream, path_of};

const LOGIN: &str = "/api/v1/auth/login";

/// The only `Set-Cookie` with this name prefix, in parts: name and value, then attributes in order.
fn set_cookie(answer: &Answer, name: &str) -> Vec<String> {
    let sets = answer.set_cookies();
    let mut sets = sets.iter().filter(|set| set.starts_with(name));
    let set = sets.next().unwrap_or_else(|| panic!("no {name} in {answer:?}"));
    assert!(sets.next().is_none(), "{name} is set twice: {answer:?}");
    set.split("; ").map(ToOwned::to_owned).collect()
}

fn query_of(address: &str) -> BTreeMap<String, String> {
    url::Url::parse(address).unwrap().query_pairs().into_owned().collect()
}

#[tokio::test]
async fn every_provider_signs_ann_in() {
    let upstream = Upstream::start().await;
    for kind in ["github", "entra", "oidc"] {
        let proxy = Proxy::with_sign_in(kind, &upstream).await.start().await;
        let mut ann = proxy.signed_in_as("ann").await;
        assert_eq!(ann.get("/x").await.text(), "hello from upstream");
        let me = ann.get("/api/v1/auth/me").await.json();
        assert_eq!(me["email"], "ann@example.com", "{kind}");
        assert_eq!(me["provider"], kind);
        assert_eq!(me.as_object().unwrap().len(), 5);
        let answer = ann.post("/api/v1/auth/logout").await;
        assert_eq!(answer.json()["message"], "Logged out successfully");
        assert_eq!(ann.get("/x").await.code(), "unauthenticated");
        proxy.logs(&format!("OAuth enabled with provider: {kind}")).await;
    }
}

#[tokio::test]
async fn a_copied_cookie_is_dead_after_logout() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let mut ann = proxy.signed_in_as("ann").await;
    let mut thief = Browser::of(&proxy);
    thief.set_cookie("session_token", ann.cookie("session_token").unwrap());
    assert_eq!(thief.get("/x").await.status, 200);
    ann.post("/api/v1/auth/logout").await;
    assert_eq!(thief.get("/x").await.status, 401);
    let answer = proxy.send(Request::post("/api/v1/auth/logout")).await;
    assert_eq!(answer.status, 200, "logout without a session");
}

#[tokio::test]
async fn the_browser_comes_back_to_the_path_that_it_asked_for_and_to_no_other_origin() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let absolute = format!("http://{HOST}/a?b=1");
    let (long, longer) = (format!("/{}", "a".repeat(2047)), format!("/{}", "a".repeat(2048)));
    for (rd, comes_to) in [
        ("/", "/"),
        ("/a/b?x=1&y=%2F%26", "/a/b?x=1&y=%2F%26"),
        ("/a#part", "/a#part"),
        ("/api/v1/clusters", "/api/v1/clusters"),
        ("/caf\u{e9}", "/caf%C3%A9"),
        (&absolute, "/a?b=1"),
        (&long, &long),
        (&longer, "/"),
        ("", "/"),
        ("//evil.example", "/"),
        ("///evil.example", "/"),
        ("/\\evil.example", "/"),
        ("\\\\evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("/\n/evil.example", "/"),
        ("/.//evil.example", "/"),
        ("/%2e%2e//evil.example", "/"),
        ("https://evil.example/", "/"),
        ("https://app.localhost/", "/"),
        ("http://app.localhost@evil.example/", "/"),
        ("http://app.localhost.evil.example/", "/"),
        ("http://app.localhost:81/", "/"),
        ("javascript:alert(1)", "/"),
        ("data:text/html,x", "/"),
        ("/a\r\nSet-Cookie: a=b", "/"),
        ("/a\0", "/"),
        ("relative", "/"),
        ("/api/v1/auth/logout", "/"),
        ("/api/v1/auth/login?rd=/x", "/"),
        ("/api/v1/%61uth/login", "/"),
        ("/api/v1/x/../auth/login", "/"),
    ] {
        let mut browser = Browser::of(&proxy);
        let callback = browser.approved(rd, "ann").await;
        let answer = browser.open(&callback).await;
        assert_eq!((answer.status.as_u16(), answer.location().as_str()), (302, comes_to), "{rd:?}");
    }
    // Browsers drop a cookie of over 4096 bytes, which would break the sign-in.
    for rd in [long, format!("/{}", "\u{e9}".repeat(1000)), format!("/?{}", "\"".repeat(2000))] {
        let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("rd", &rd).finish();
        let login = proxy.get(&format!("{LOGIN}?{query}")).await;
        assert!(login.set_cookies().iter().all(|set| set.len() <= 4096), "{login:?}");
    }
    let mut browser = Browser::of(&proxy);
    for query in ["rd=/a&rd=/b", "rd=/a&rd=/a", ""] {
        let authorize = browser.get(&format!("{LOGIN}?{query}")).await.location();
        let callback = proxy.idp().approve(&authorize, "ann").unwrap();
        assert_eq!(browser.open(&path_of(&callback)).await.location(), "/", "{query}");
    }
}

#[tokio::test]
async fn the_way_to_the_provider_has_a_state_pkce_and_where_it_exists_a_nonce() {
    let upstream = Upstream::start().await;
    for (kind, scope) in [
        ("github", "read:user user:email"),
        ("entra", "openid profile email User.Read"),
        ("oidc", "openid profile email"),
    ] {
        let proxy = Proxy::with_sign_in(kind, &upstream).await.start().await;
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let mut browser = Browser::of(&proxy);
            let query = query_of(&browser.begin("/secret-path").await);
            assert_eq!(query["response_type"], "code");
            assert_eq!(query["client_id"], "sidegate-dev");
            assert_eq!(query["redirect_uri"], format!("http://{HOST}/api/v1/auth/callback"));
            assert_eq!(query["scope"], scope);
            assert_eq!(query["code_challenge_method"], "S256");
            assert_eq!(query["code_challenge"].len(), 43, "a SHA-256 in base64url");
            let random = query["state"].split_once('.').unwrap().1;
            assert!(random.len() >= 43, "{random} has fewer than 256 bits");
            assert_eq!(query.contains_key("nonce"), kind != "github");
            assert!(!query.contains_key("prompt"));
            assert!(!query.values().any(|value| value.contains("secret")), "{query:?}");
            for name in ["state", "code_challenge", "nonce"] {
                assert!(query.get(name).is_none_or(|value| seen.insert(value.clone())), "{name} is there again");
            }
        }
    }
}

#[tokio::test]
async fn the_choice_of_accounts_is_passed_on_and_no_other_prompt() {
    let upstream = Upstream::start().await;
    for kind in ["github", "entra", "oidc"] {
        let proxy = Proxy::with_sign_in(kind, &upstream).await.start().await;
        for (prompt, passed) in [("select_account", true), ("none", false), ("consent", false), ("x%26y", false)] {
            let answer = proxy.get(&format!("{LOGIN}?prompt={prompt}")).await;
            let sent = query_of(&answer.location()).remove("prompt");
            assert_eq!(sent.as_deref(), passed.then_some("select_account"), "{kind}: {prompt}");
        }
    }
}

#[tokio::test]
async fn several_tabs_sign_in_at_once() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let mut ann = Browser::of(&proxy);
    let first = ann.approved("/first", "ann").await;
    let second = ann.approved("/second", "ann").await;
    let third = ann.approved("/third", "ann").await;
    for (callback, rd, left) in [(&second, "/second", 2), (&first, "/first", 1), (&third, "/third", 0)] {
        let answer = ann.open(callback).await;
        assert_eq!((answer.status.as_u16(), answer.location().as_str()), (302, rd));
        assert_eq!(ann.attempts().len(), left, "each callback deletes its own attempt's cookie");
        assert_eq!(ann.get("/x").await.status, 200);
    }
}

#[tokio::test]
async fn a_state_counts_once_of_twelve_callbacks_at_once_and_later() {
    let upstream = Upstream::start().await;
    for kind in ["github", "oidc"] {
        let proxy = Proxy::with_sign_in(kind, &upstream).await.start().await;
        let mut ann = Browser::of(&proxy);
        let callback = ann.approved("/deep", "ann").await;
        let cookies = ann.cookie_header();
        let request = || http::Request::get(&callback).header("cookie", &cookies);
        let answers = futures_util::future::join_all((0..12).map(|_| proxy.send(request()))).await;
        let let_in = answers.iter().filter(|answer| answer.status == 302).count();
        assert_eq!(let_in, 1, "{answers:?}");
        for answer in answers.iter().filter(|answer| answer.status != 302) {
            assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "invalid_state"));
            assert!(!answer.set_cookies().iter().any(|set| set.starts_with("session_token=")));
        }
        assert_eq!(proxy.send(request()).await.code(), "invalid_state", "nor later, with its cookie kept");
        // The provider got one request: a reused code is an error there, which the log would contain.
        assert!(!proxy.log().contains("OAuth token exchange failed"));
        // Opened again by a signed-in user, it changes nothing.
        let mut bob = proxy.signed_in_as("bob").await;
        for cookie in cookies.split("; ") {
            let (name, value) = cookie.split_once('=').unwrap();
            bob.set_cookie(name, value);
        }
        assert_eq!(bob.open(&callback).await.location(), "/");
        assert_eq!(bob.get("/api/v1/auth/me").await.json()["username"], "bob");
        if kind == "oidc" {
            continue;
        }
        // An attempt that the provider refused is used up too.
        let refused = ann.begin("/").await;
        let state = refused.split("state=").nth(1).unwrap().split('&').next().unwrap().to_owned();
        let path = format!("/api/v1/auth/callback?error=access_denied&state={state}");
        let cookies = ann.cookie_header();
        let twice = || http::Request::get(&path).header("cookie", &cookies);
        assert_eq!(proxy.send(twice()).await.code(), "sign_in_cancelled");
        assert_eq!(proxy.send(twice()).await.code(), "invalid_state");
    }
}

#[tokio::test]
async fn nine_session_cookies_are_a_conflict_and_a_logout_ends_all_of_them() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let ann = proxy.signed_in_as("ann").await;
    let eve = proxy.signed_in_as("eve").await;
    let (anns, eves) = (ann.cookie("session_token").unwrap(), eve.cookie("session_token").unwrap());
    let send = |method: &str, path: &str, cookies: Vec<String>| {
        let mut request = http::Request::builder().method(method).uri(path);
        for cookie in cookies {
            request = request.header("cookie", cookie);
        }
        proxy.send(request)
    };
    let planted = |count: usize| (0..count).map(|n| format!("session_token=planted-{n}"));
    // The attacker's own session first, junk, and the real one last; in one field or in several.
    let tossed: Vec<String> = std::iter::once(format!("session_token={eves}"))
        .chain(planted(7))
        .chain([format!("session_token={anns}")])
        .collect();
    for cookies in [tossed.clone(), vec![tossed.join("; ")], vec![tossed.join(";")]] {
        for path in ["/x", "/api/v1/auth/me", "/api/v1/auth/session"] {
            let answer = send("GET", path, cookies.clone()).await;
            assert_eq!(answer.status, 401, "{path}");
            assert!(
                answer.set_cookies().iter().any(|set| set.starts_with("session_token=;") && set.contains("Max-Age=0"))
            );
        }
    }
    assert!(upstream.received().is_empty());
    let login = send("GET", "/api/v1/auth/login", tossed.clone()).await;
    assert!(login.set_cookies().iter().any(|set| set.starts_with("session_token=;")), "{login:?}");
    // Eight are checked; duplicates count once, quoted or not.
    let fine: Vec<String> =
        planted(7).chain([format!("session_token={anns}"), format!("session_token=\"{anns}\"")]).collect();
    assert_eq!(send("GET", "/x", fine.clone()).await.status, 200);
    assert_eq!(send("GET", "/x", vec![fine.join("; "), fine.join("; ")]).await.status, 200);
    let logout = send("POST", "/api/v1/auth/logout", tossed).await;
    assert_eq!(logout.status, 200);
    for token in [anns, eves] {
        assert_eq!(proxy.get_as(token, "/x").await.status, 401);
    }
    // More than are ended at once: the response says so, and the cookie is cleared anyway.
    let many: Vec<String> = vec![planted(400).collect::<Vec<_>>().join("; ")];
    let logout = send("POST", "/api/v1/auth/logout", many).await;
    assert_eq!((logout.status.as_u16(), logout.code().as_str()), (503, "session_store_unavailable"));
    assert!(logout.set_cookies().iter().any(|set| set.starts_with("session_token=;")));
}

#[tokio::test]
async fn a_browser_keeps_at_most_eight_attempts_of_six_kilobytes() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let long = format!("/{}", "a".repeat(1800));
    for (rd, most) in [("/", 8), (long.as_str(), 2)] {
        let mut browser = Browser::of(&proxy);
        let (mut newest, mut begun) = (String::new(), Vec::new());
        for _ in 0..12 {
            newest = browser.approved(rd, "ann").await;
            begun.extend(browser.attempts().into_iter().filter(|name| !begun.contains(name)).collect::<Vec<_>>());
            let held: usize =
                browser.attempts().iter().map(|name| name.len() + browser.cookie(name).unwrap().len() + 1).sum();
            assert!(browser.attempts().len() <= 8 && held < 6 * 1024, "{} in {held} bytes", browser.attempts().len());
        }
        assert!(browser.attempts().len() >= most, "{} attempts are left", browser.attempts().len());
        let left = browser.attempts();
        assert_eq!(left, begun[12 - left.len()..], "the oldest go first, also within a second");
        assert_eq!(browser.open(&newest).await.status, 302, "the newest is kept");
    }
}

#[tokio::test]
async fn every_sign_in_makes_a_new_token_and_adopts_none() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let mut ann = Browser::of(&proxy);
    // Planted before the sign-in (session fixation).
    let planted = "A".repeat(43);
    ann.set_cookie("session_token", &planted);
    let mut seen = BTreeSet::from([planted.clone()]);
    for _ in 0..3 {
        assert_eq!(ann.sign_in("ann").await.status, 302);
        let token = ann.cookie("session_token").unwrap().to_owned();
        assert_eq!(token.len(), 43, "256 bits in base64url");
        assert!(seen.insert(token), "a token is used again");
    }
    let mut thief = Browser::of(&proxy);
    thief.set_cookie("session_token", &planted);
    assert_eq!(thief.get("/x").await.status, 401);
}

/// As if `token`'s owner had signed in two minutes earlier: the token of a session that is old enough for a sign-in to replace it.
async fn two_minutes_older(master: &Redis, secret: &str, token: &str) -> String {
    let secrets = vec![Zeroizing::new(STANDARD.decode(secret).unwrap())];
    let store = open_with(place(Layout::Single, &[master.port]), secrets).await;
    let token = SessionToken::parse(token).unwrap();
    let session = store.load(&token, Timestamp::from_secs(0)).await.unwrap().unwrap();
    let created_at = Timestamp::from_millis(session.session().created_at.millis() - 120_000);
    let older = Session { created_at, ..session.session().clone() };
    store.begin(older, created_at).await.unwrap().expose().to_owned()
}

#[tokio::test]
async fn a_sign_in_over_an_older_session_goes_on_while_no_replica_of_the_store_confirms_its_end() {
    const SECRET: &str = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTAxMjM0NTY3ODk=";
    if !is_installed() {
        return;
    }
    let (master, upstream) = (Redis::start().await, Upstream::start().await);
    let replica = master.replica().await;
    let plan = Proxy::with_sign_in("github", &upstream).await.env("SESSION_STORE", "redis");
    let plan = plan.env("SESSION_REDIS_URL", master.url()).env("SESSION_SECRET", SECRET);
    let plan = plan.env("SESSION_STORE_TIMEOUT", "1s");
    let proxy = plan.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    let old = two_minutes_older(&master, SECRET, ann.cookie("session_token").unwrap()).await;
    assert_eq!(proxy.get_as(&old, "/x").await.status, 200);
    ann.set_cookie("session_token", &old);
    replica.signal("STOP");
    let answer = ann.sign_in("ann").await;
    assert_eq!(answer.status, 302, "{answer:?}");
    assert_ne!(ann.cookie("session_token"), Some(old.as_str()));
    assert_eq!(ann.get("/x").await.status, 200);
    assert_eq!(proxy.get_as(&old, "/x").await.status, 401, "it has ended here");
    proxy.logs("the end of a session that a sign-in replaces is not confirmed yet").await;
    replica.signal("CONT");
    proxy.logs("a logout that had waited for the session store is confirmed").await;
    assert_eq!(proxy.get_as(&old, "/x").await.status, 401);
}

#[tokio::test]
async fn cookies_are_host_only_http_only_lax_and_last_as_long_as_what_they_hold() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::with_sign_in("github", &upstream).await.env("SESSION_TTL", "90m").start().await;
    let login = proxy.get(LOGIN).await;
    let attempt = set_cookie(&login, "sidegate_login_");
    assert_eq!(attempt[1..], ["HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=600"]);
    let mut ann = Browser::of(&proxy);
    let answer = ann.sign_in("ann").await;
    let session = set_cookie(&answer, "session_token=");
    assert_eq!(session[1..], ["HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=5400"]);
    let cleared = set_cookie(&answer, "sidegate_login_");
    assert!(cleared[0].ends_with('=') && cleared.contains(&"Max-Age=0".to_owned()), "{cleared:?}");
}

#[tokio::test]
async fn on_https_cookies_are_secure_and_those_of_attempts_belong_to_the_host() {
    let upstream = Upstream::start().await;
    let public = "https://app.example.com/api/v1/auth/callback";
    for (domain, expected) in [("", None), ("example.com", Some("Domain=example.com"))] {
        let plan = Proxy::with_sign_in("oidc", &upstream).await.env("OAUTH_REDIRECT_URL", public);
        let proxy = plan.env("COOKIE_NAME", "portal").env("COOKIE_DOMAIN", domain).start().await;
        proxy.idp().allow_redirect(public).unwrap();
        let request = |path: &str| Request::get(path).header("host", "app.example.com");
        let mut ann = Browser::of(&proxy);
        let login = ann.send(request(LOGIN)).await;
        let attempt = set_cookie(&login, "__Host-sidegate_login_");
        assert_eq!(attempt[1..], ["HttpOnly", "SameSite=Lax", "Secure", "Path=/", "Max-Age=600"]);
        let callback = proxy.idp().approve(&login.location(), "ann").unwrap();
        assert!(callback.starts_with(public), "{callback}");
        let answer = ann.send(request(&path_of(&callback))).await;
        assert_eq!(answer.status, 302, "{answer:?}");
        let session = set_cookie(&answer, "portal=");
        for part in ["HttpOnly", "SameSite=Lax", "Secure", "Path=/", "Max-Age=86400"] {
            assert!(session.contains(&part.to_owned()), "{session:?}");
        }
        assert_eq!(session.iter().map(String::as_str).find(|part| part.starts_with("Domain")), expected);
        let cleared = set_cookie(&answer, "__Host-sidegate_login_");
        assert!(cleared.contains(&"Secure".to_owned()) && cleared.contains(&"Max-Age=0".to_owned()), "{cleared:?}");
        assert_eq!(ann.send(request("/x")).await.text(), "hello from upstream");
        // Behind a TLS proxy the port of the public origin may be explicit.
        let spelled = Request::get(LOGIN).header("host", "APP.example.com:443");
        assert!(proxy.send(spelled).await.location().starts_with(&proxy.idp().origin()));
    }
}

#[tokio::test]
async fn login_on_another_host_is_sent_to_the_public_one_once_and_then_refused() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    for other in ["127.0.0.1:8080", "localhost", "app.localhost:8080", "www.app.localhost"] {
        let request = |path: &str| Request::get(path).header("host", other);
        let answer = proxy.send(request(&format!("{LOGIN}?rd=/a%3Fb%3D1%26c&prompt=select_account"))).await;
        assert_eq!(answer.status, 302);
        let to = answer.location();
        assert!(to.starts_with(&format!("http://{HOST}{LOGIN}?")), "{to}");
        assert_eq!(query_of(&to)["rd"], "/a?b=1&c");
        assert!(answer.set_cookies().is_empty(), "cookies of another host are of no use");
        // The sign-in continues there.
        let mut ann = Browser::of(&proxy);
        let there = ann.open(&path_of(&to)).await.location();
        assert!(there.starts_with(&proxy.idp().origin()), "{there}");
        assert_eq!(query_of(&there)["prompt"], "select_account");
        let callback = proxy.idp().approve(&there, "ann").unwrap();
        assert_eq!(ann.open(&path_of(&callback)).await.location(), "/a?b=1&c");
        // If it still comes as the other host, it gets an error, not a redirect loop.
        let refused = proxy.send(request(&path_of(&to)).header("accept", "text/html")).await;
        assert_eq!(refused.status, 400);
        let page = refused.text();
        assert!(page.contains(&format!("for {other},")) && page.contains(&format!("on {HOST} only")), "{page}");
        assert_eq!(proxy.send(request(&path_of(&to))).await.code(), "bad_request");
    }
    assert_eq!(proxy.idp().control().requests(Endpoint::Token), 4);
}

#[tokio::test]
async fn a_trusted_proxy_says_which_host_was_asked_for() {
    let upstream = Upstream::start().await;
    for (trusted, goes_on) in [("127.0.0.0/8", true), ("192.0.2.0/24", false)] {
        let proxy = Proxy::with_sign_in("github", &upstream).await.env("TRUSTED_PROXIES", trusted).start().await;
        let request = Request::get(LOGIN).header("host", "10.0.0.7:8080").header("x-forwarded-host", HOST);
        let to = proxy.send(request).await.location();
        assert_eq!(to.starts_with(&proxy.idp().origin()), goes_on, "{to}");
    }
}

#[tokio::test]
async fn a_key_of_the_provider_that_is_new_is_read_when_a_token_names_it() {
    let upstream = Upstream::start().await;
    for kind in ["oidc", "entra"] {
        let proxy = Proxy::with_sign_in(kind, &upstream).await.start().await;
        proxy.signed_in_as("ann").await;
        proxy.idp().rotate_key(dev_idp::OldKey::Drop).unwrap();
        proxy.signed_in_as("bob").await;
    }
}
