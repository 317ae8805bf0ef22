//! The life of sessions: lifetimes, cookies, sign-out, reloads; and what must never be logged.

use std::time::{Duration, Instant};

use http::Request;

use crate::support::{Answer, Browser, HOST, Proxy, Upstream, until};

const LOGOUT: &str = "/api/v1/auth/logout";

/// The `Set-Cookie` lines that expire `name`, by their `Domain` (empty: host only).
fn expired(answer: &Answer, name: &str) -> Vec<String> {
    let cleared = answer.set_cookies().into_iter().filter(|set| set.starts_with(&format!("{name}=;")));
    let mut domains: Vec<String> = cleared
        .map(|set| {
            assert!(set.contains("Max-Age=0") && set.contains("Path=/"), "{set}");
            set.split("; ").find_map(|part| part.strip_prefix("Domain=")).unwrap_or_default().to_owned()
        })
        .collect();
    domains.sort();
    domains
}

#[tokio::test]
async fn a_session_ends_after_its_ttl_however_much_it_is_used() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::with_sign_in("github", &upstream).await.env("SESSION_TTL", "2s").start().await;
    let began = Instant::now();
    let mut ann = proxy.signed_in_as("ann").await;
    assert_eq!(ann.get("/x").await.status, 200);
    until("the session ends", async || ann.get("/x").await.status == 401).await;
    assert!(began.elapsed() >= Duration::from_secs(1), "it ended too early, after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(8), "it ended too late, after {:?}", began.elapsed());
    assert_eq!(ann.get("/api/v1/auth/me").await.code(), "unauthenticated");
}

#[tokio::test]
async fn a_session_that_is_not_used_ends_after_its_idle_ttl() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::with_sign_in("github", &upstream).await.env("SESSION_IDLE_TTL", "2s").start().await;
    let mut used = proxy.signed_in_as("ann").await;
    let mut idle = proxy.signed_in_as("bob").await;
    let began = Instant::now();
    // Used often, it lives beyond the idle timeout.
    until("a time passes", async || {
        assert_eq!(used.get("/x").await.status, 200, "a session in use ended after {:?}", began.elapsed());
        began.elapsed() > Duration::from_millis(3500)
    })
    .await;
    assert_eq!(idle.get("/x").await.status, 401);
}

#[tokio::test]
async fn two_different_live_sessions_sign_out_and_both_cookies_go() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let ann = proxy.signed_in_as("ann").await;
    let eve = proxy.signed_in_as("eve").await;
    let (ours, planted) = (ann.cookie("session_token").unwrap(), eve.cookie("session_token").unwrap());
    let reached = upstream.received().len();
    for cookie in [
        format!("session_token={ours}; session_token={planted}"),
        format!("session_token={planted}; a=b; session_token={ours}"),
    ] {
        for path in ["/x", "/api/v1/auth/me", "/api/v1/auth/session"] {
            let answer = proxy.send(Request::get(path).header("cookie", &cookie)).await;
            assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "unauthenticated"), "{path}");
            assert_eq!(expired(&answer, "session_token"), ["", HOST], "{path}");
        }
        let page = Request::get("/x").header("cookie", &cookie).header("accept", "text/html");
        let answer = proxy.send(page).await;
        assert_eq!(answer.status, 302);
        assert_eq!(expired(&answer, "session_token"), ["", HOST]);
        let login = proxy.send(Request::get("/api/v1/auth/login").header("cookie", &cookie)).await;
        assert_eq!(login.status, 302);
        assert_eq!(expired(&login, "session_token"), ["", HOST]);
    }
    assert_eq!(upstream.received().len(), reached);
    // Duplicates are not a conflict, in one field or in two.
    let twice = Request::get("/x").header("cookie", format!("session_token={ours}; session_token={ours}"));
    assert_eq!(proxy.send(twice).await.status, 200);
}

#[tokio::test]
async fn a_good_cookie_counts_beside_unreadable_ones() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let ann = proxy.signed_in_as("ann").await;
    let good = ann.cookie("session_token").unwrap();
    for bad in ["", "x", "a b", "\"quoted\"", &"A".repeat(43), &"z".repeat(5000)] {
        for cookie in
            [format!("session_token={bad}; session_token={good}"), format!("session_token={good}; session_token={bad}")]
        {
            let answer = proxy.send(Request::get("/x").header("cookie", &cookie)).await;
            assert_eq!(answer.status, 200, "beside {bad:?}");
        }
        let alone = proxy.send(Request::get("/x").header("cookie", format!("session_token={bad}"))).await;
        assert_eq!(alone.code(), "unauthenticated", "{bad:?} alone");
    }
    let other =
        proxy.send(Request::get("/x").header("cookie", format!("Session_Token={good}; xsession_token={good}"))).await;
    assert_eq!(other.status, 401, "names are compared to the letter");
}

#[tokio::test]
async fn logout_ends_every_session_that_came_along_and_clears_the_name_for_all_parents() {
    let upstream = Upstream::start().await;
    let public = "http://a.app.localhost/api/v1/auth/callback";
    let plan = Proxy::with_sign_in("github", &upstream).await.env("OAUTH_REDIRECT_URL", public);
    let proxy = plan.env("COOKIE_DOMAIN", "app.localhost").start().await;
    let request = |path: &str| Request::get(path).header("host", "a.app.localhost");
    proxy.idp().allow_redirect(public).unwrap();
    let mut tokens = Vec::new();
    for user in ["ann", "eve"] {
        let mut browser = Browser::of(&proxy);
        let authorize = browser.send(request("/api/v1/auth/login")).await.location();
        let callback = proxy.idp().approve(&authorize, user).unwrap();
        let answer = browser.send(request(callback.strip_prefix("http://a.app.localhost").unwrap())).await;
        let set = answer.set_cookies().into_iter().find(|set| set.starts_with("session_token=")).unwrap();
        assert!(set.contains("; Domain=app.localhost"), "{set}");
        tokens.push(browser.cookie("session_token").unwrap().to_owned());
    }
    let cookie = format!("session_token={}; session_token={}", tokens[0], tokens[1]);
    let answer = proxy.send(Request::post(LOGOUT).header("host", "a.app.localhost").header("cookie", cookie)).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, r#"{"message":"Logged out successfully"}"#));
    assert_eq!(expired(&answer, "session_token"), ["", "a.app.localhost", "app.localhost"]);
    for token in tokens {
        let answer = proxy.send(request("/x").header("cookie", format!("session_token={token}"))).await;
        assert_eq!(answer.status, 401, "a copied cookie outlives the logout");
    }
}

#[tokio::test]
async fn a_form_is_led_to_the_signed_out_page() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    for signed_in in [true, false] {
        let mut browser = if signed_in { proxy.signed_in_as("ann").await } else { Browser::of(&proxy) };
        let form = Request::post(LOGOUT)
            .header("accept", "text/html,application/xhtml+xml,*/*;q=0.8")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("sec-fetch-site", "same-origin");
        let answer = browser.send_body(form, "a=b").await;
        assert_eq!((answer.status.as_u16(), answer.location().as_str()), (303, "/api/v1/auth/signed-out"));
        assert_eq!(expired(&answer, "session_token"), ["", HOST]);
        assert_eq!(browser.open(&answer.location()).await.status, 200);
        assert_eq!(browser.get("/x").await.status, 401);
    }
}

#[tokio::test]
async fn sessions_and_sign_ins_under_way_survive_a_reload() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let mut ann = proxy.signed_in_as("ann").await;
    let mut bob = Browser::of(&proxy);
    let callback = bob.approved("/x", "bob").await;
    let keys = proxy.get("/api/v1/auth/jwks").await.text();
    for _ in 0..2 {
        let before = proxy.log().len();
        proxy.signal("HUP");
        until("it is reloaded", async || proxy.log().get(before..).is_some_and(|log| log.contains("was read again")))
            .await;
        assert_eq!(ann.get("/x").await.status, 200);
    }
    let answer = bob.open(&callback).await;
    assert_eq!((answer.status.as_u16(), answer.location().as_str()), (302, "/x"));
    assert_eq!(proxy.get("/api/v1/auth/jwks").await.text(), keys);
}

#[tokio::test]
async fn the_proxys_own_cookies_do_not_reach_the_upstream() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let mut ann = proxy.signed_in_as("ann").await;
    ann.begin("/").await;
    ann.set_cookie("theirs", "1");
    ann.get("/x").await;
    assert_eq!(upstream.last().header("cookie"), "theirs=1");
}

#[tokio::test]
async fn no_secret_reaches_the_log_a_page_or_the_upstream() {
    let upstream = Upstream::start().await;
    for kind in ["github", "entra", "oidc"] {
        let plan = Proxy::with_sign_in(kind, &upstream).await.env("LOG_LEVEL", "trace");
        let secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTAxMjM0NTY3ODk=";
        let proxy = plan.env("SESSION_SECRET", secret).start().await;
        let mut ann = Browser::of(&proxy);
        let callback = ann.approved("/x", "bob").await;
        let attempt = ann.attempts().remove(0);
        let sealed = ann.cookie(&attempt).unwrap().to_owned();
        assert_eq!(ann.open(&callback).await.status, 302);
        let token = ann.cookie("session_token").unwrap().to_owned();
        assert_eq!(ann.get("/x?y=1").await.status, 200);
        let assertion = upstream.last().header("x-sidegate-assertion");
        // Failures are the most likely to leak: a reused code, and a token in the wrong place.
        let mut replay = Browser::of(&proxy);
        replay.set_cookie(&attempt, &sealed);
        assert_eq!(replay.open(&callback).await.status, 400);
        let authorize = url::Url::parse(&replay.begin("/x").await).unwrap();
        let state = authorize.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned();
        let before = callback.split("state=").nth(1).unwrap().split('&').next().unwrap();
        let page = replay.open(&callback.replace(before, &state)).await;
        assert_eq!(page.status, 502);
        ann.post(LOGOUT).await;
        assert_eq!(ann.get("/x").await.status, 401);

        let query = callback.split_once('?').unwrap().1;
        let value = |name: &str| {
            url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).unwrap().1.into_owned()
        };
        let endpoint = if kind == "github" {
            dev_idp::Endpoint::User
        } else if kind == "entra" {
            dev_idp::Endpoint::GraphMe
        } else {
            dev_idp::Endpoint::UserInfo
        };
        let bearer = proxy.idp().control().last(endpoint).unwrap().header("authorization").unwrap().to_owned();
        let access = bearer.split_once(' ').unwrap().1.to_owned();
        let state = value("state");
        let secrets = [
            ("the session token", token),
            ("the code", value("code")),
            ("the state", state.split_once('.').unwrap().1.to_owned()),
            ("the attempt's cookie", sealed),
            ("the access token", access),
            ("the client secret", "sidegate-dev-secret".to_owned()),
            ("SESSION_SECRET", secret.to_owned()),
            ("the assertion", assertion),
        ];
        let log = proxy.log();
        assert!(log.contains("Signed in"), "the log shows the sign-in: {log}");
        for (what, secret) in secrets {
            assert!(secret.len() >= 8, "{what} is {secret:?}");
            assert!(!log.contains(&secret), "{kind}: the log shows {what}");
            assert!(!page.text().contains(&secret), "{kind}: a page shows {what}");
            if what != "the assertion" {
                let reached = format!("{:?}", upstream.received());
                assert!(!reached.contains(&secret), "{kind}: the upstream sees {what}");
            }
        }
    }
}
