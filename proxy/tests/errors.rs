//! Every error, from its real cause: the response for a program, and the page for a person.

use std::time::{Duration, Instant};

use dev_idp::{Endpoint, Fault, Lie};
use http::Request;
use serde_json::json;

use crate::support::{Answer, Browser, HOST, Proxy, Upstream, path_of, until, wire};

const LOGIN: &str = "/api/v1/auth/login";
const CALLBACK: &str = "/api/v1/auth/callback";

/// A code, its status and its message.
type Row = (&'static str, u16, &'static str);

const UNAUTHENTICATED: Row = ("unauthenticated", 401, "Authentication required");
const INVALID_STATE: Row = ("invalid_state", 400, "Invalid OAuth state");
const TOKEN_EXCHANGE_FAILED: Row = ("token_exchange_failed", 502, "Token exchange failed");
const USER_INFO_FAILED: Row = ("user_info_failed", 502, "Failed to get user info");
const NOT_ALLOWED: Row = ("not_allowed", 403, "You are not authorized");
const SIGN_IN_CANCELLED: Row = ("sign_in_cancelled", 403, "Sign-in was cancelled");
const PROVIDER_ERROR: Row = ("provider_error", 502, "The identity provider reported an error");
const PROVIDER_UNREACHABLE: Row = ("provider_unreachable", 502, "The identity provider cannot be reached");
const SIGN_IN_LOOP: Row = ("sign_in_loop", 429, "Your browser does not send the session cookie back");
const CROSS_SITE: Row = ("cross_site", 403, "Cross-site request refused");

/// The response for a program: exactly this object.
fn assert_json(answer: &Answer, (code, status, message): Row) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.json(), json!({ "error": code, "message": message }));
    assert_eq!(answer.header("content-type"), "application/json");
    assert_own_headers(answer);
}

/// The page for a person: the same message, and every link on it.
fn assert_page(answer: &Answer, (code, status, message): Row, ways_on: &[&str]) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    let page = answer.text();
    assert!(page.contains(&format!("<p class=\"lead\">{message}</p>")), "{code}: {page}");
    assert!(page.contains(&format!("<dd id=\"code\">{code}</dd>")), "{code}: {page}");
    for id in ways_on {
        assert!(page.contains(&format!("id=\"{id}\"")), "{code} has no way on {id}: {page}");
    }
    let policy = answer.header("content-security-policy");
    assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe-inline"), "{policy}");
    assert_own_headers(answer);
}

fn assert_own_headers(answer: &Answer) {
    assert_eq!(answer.header("cache-control"), "no-store", "{answer:?}");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("referrer-policy"), "same-origin");
}

/// The callback refuses `user`, for a program and for a person, and deletes the attempt's cookie both times.
async fn assert_refused(proxy: &Proxy, user: &str, row: Row) {
    let mut program = Browser::of(proxy);
    let callback = program.approved("/deep?x=1", user).await;
    assert_json(&program.fetch(&callback).await, row);
    assert_eq!(program.attempts(), [""; 0], "{row:?} leaves the attempt's cookie");
    assert_eq!(program.cookie("session_token"), None, "{row:?} signs in");

    let mut person = Browser::of(proxy);
    let callback = person.approved("/deep?x=1", user).await;
    assert_page(&person.open(&callback).await, row, &["sign-in-as-someone-else"]);
    assert_eq!(person.attempts(), [""; 0]);
    assert_eq!(person.cookie("session_token"), None);
}

#[tokio::test]
async fn a_code_that_is_not_redeemed_is_token_exchange_failed() {
    let upstream = Upstream::start().await;
    for kind in ["github", "entra", "oidc"] {
        let proxy = Proxy::with_sign_in(kind, &upstream).await.start().await;
        for fault in [Fault::Status(400), Fault::Status(500), Fault::Malformed, Fault::Huge(4), Fault::Cut] {
            proxy.idp().control().fail(Endpoint::Token, fault);
            assert_refused(&proxy, "ann", TOKEN_EXCHANGE_FAILED).await;
        }
        proxy.logs("OAuth token exchange failed: ").await;
        proxy.idp().control().clear(Endpoint::Token);
        proxy.signed_in_as("ann").await;
    }
}

#[tokio::test]
async fn an_id_token_that_does_not_verify_is_token_exchange_failed() {
    let upstream = Upstream::start().await;
    for kind in ["oidc", "entra"] {
        let proxy = Proxy::with_sign_in(kind, &upstream).await.start().await;
        let missing = ["sub", "exp", "iat", "iss", "aud", "nonce"].map(|claim| Lie::MissingClaim(claim.into()));
        let lies = [
            Lie::WrongNonce,
            Lie::WrongAudience,
            Lie::WrongAuthorizedParty,
            Lie::WrongIssuer,
            Lie::Expired,
            Lie::NotYetValid,
            Lie::WrongAccessTokenHash,
            Lie::AlgNone,
            Lie::HmacWithPublicKey,
            Lie::UnknownKey,
            Lie::ForgedSignature,
            Lie::NoIdToken,
            Lie::NoAccessToken,
            Lie::TokenType("mac".into()),
        ];
        for lie in lies.into_iter().chain(missing) {
            proxy.idp().control().lie(lie.clone());
            let mut browser = Browser::of(&proxy);
            let callback = browser.approved("/", "ann").await;
            let answer = browser.fetch(&callback).await;
            assert_eq!(answer.status, 502, "{kind} {lie:?}: {answer:?}");
            assert_json(&answer, TOKEN_EXCHANGE_FAILED);
            assert_eq!(browser.cookies(), [""; 0], "{kind} {lie:?}");
            proxy.idp().control().honest();
        }
        proxy.logs("OAuth token exchange failed: ID token: ").await;
        proxy.signed_in_as("ann").await;
    }
}

#[tokio::test]
async fn a_provider_that_does_not_say_who_it_is_is_user_info_failed() {
    let upstream = Upstream::start().await;
    for (kind, endpoint, user) in [
        ("github", Endpoint::User, "ann"),
        ("github", Endpoint::Emails, "ann"),
        ("entra", Endpoint::GraphMe, "ann"),
        ("oidc", Endpoint::UserInfo, "bob"),
    ] {
        let proxy = Proxy::with_sign_in(kind, &upstream).await.start().await;
        for fault in [Fault::Status(500), Fault::Malformed, Fault::Huge(4), Fault::Cut] {
            proxy.idp().control().fail(endpoint, fault);
            assert_refused(&proxy, user, USER_INFO_FAILED).await;
        }
        proxy.logs("Failed to get user info: ").await;
        if kind == "oidc" {
            proxy.idp().control().reset();
            proxy.idp().control().lie(Lie::OtherSubAtUserInfo);
            assert_refused(&proxy, user, USER_INFO_FAILED).await;
        }
    }
}

#[tokio::test]
async fn a_user_on_no_list_is_not_allowed_and_the_log_says_who() {
    let upstream = Upstream::start().await;
    for kind in ["github", "entra", "oidc"] {
        let plan = Proxy::with_sign_in(kind, &upstream).await.env("OAUTH_ALLOWED_USERS", "nobody@example.com");
        let proxy = plan.start().await;
        assert_refused(&proxy, "ann", NOT_ALLOWED).await;
        proxy.logs("User not allowed: ann@example.com\"").await;
        let mut ann = Browser::of(&proxy);
        let page = ann.sign_in("ann").await.text();
        assert!(page.contains("<bdi>ann@example.com</bdi>"), "{page}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn cancelling_at_the_provider_is_sign_in_cancelled() {
    let upstream = Upstream::start().await;
    for kind in ["github", "entra", "oidc"] {
        let proxy = Proxy::with_sign_in(kind, &upstream).await.start().await;
        let mut browser = Browser::of(&proxy);
        let callback = proxy.idp().deny(&browser.begin("/x").await).unwrap();
        assert_json(&browser.fetch(&path_of(&callback)).await, SIGN_IN_CANCELLED);
        assert_eq!(browser.cookies(), [""; 0]);
        let callback = proxy.idp().deny(&browser.begin("/x").await).unwrap();
        let answer = browser.open(&path_of(&callback)).await;
        assert_page(&answer, SIGN_IN_CANCELLED, &["try-again", "sign-in-as-someone-else"]);
        assert_eq!(browser.cookies(), [""; 0]);
    }
}

#[tokio::test]
async fn any_other_error_of_the_provider_is_provider_error_and_unescaped_nowhere() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    for error in ["server_error", "temporarily_unavailable", "invalid_scope", "<script>alert(1)</script>"] {
        proxy.idp().control().lie(Lie::ErrorAtCallback(error.into()));
        let mut browser = Browser::of(&proxy);
        let callback = browser.approved("/", "ann").await;
        assert_json(&browser.fetch(&callback).await, PROVIDER_ERROR);
        assert_eq!(browser.cookies(), [""; 0]);
        let callback = browser.approved("/", "ann").await;
        let hostile = format!("{callback}&error_description=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E%0Aforged");
        let answer = browser.open(&hostile).await;
        assert_page(&answer, PROVIDER_ERROR, &["try-again", "sign-in-as-someone-else"]);
        assert!(!answer.text().contains("<script") && !answer.text().contains("<img src=x"), "{}", answer.text());
        assert_eq!(browser.cookies(), [""; 0]);
        proxy.idp().control().honest();
    }
    assert!(!proxy.log().lines().any(|line| line.starts_with("forged")));
    assert_eq!(proxy.idp().control().requests(Endpoint::Token), 0, "an error needs no token");
}

#[tokio::test]
async fn without_discovery_the_proxy_starts_and_login_is_provider_unreachable_until_it_comes() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("oidc", &upstream).await;
    plan.idp().control().fail(Endpoint::Discovery, Fault::Status(503));
    let proxy = plan.start_alone().await;
    assert_json(&proxy.get(LOGIN).await, PROVIDER_UNREACHABLE);
    let answer = Browser::of(&proxy).open("/api/v1/auth/login?rd=/deep%3Fx").await;
    assert_page(&answer, PROVIDER_UNREACHABLE, &["try-again"]);
    assert!(answer.text().contains("href=\"/api/v1/auth/login?rd=/deep%3Fx\""), "trying again forgets where to");
    let answer = Browser::of(&proxy).open("/api/v1/auth/login?rd=//evil.example").await;
    assert!(!answer.text().contains("evil"), "{}", answer.text());
    let ready = proxy.admin("/readyz").await;
    assert_eq!(ready.status, 200, "a provider that is away leaves the proxy ready");
    assert!(ready.text().contains("provider:"), "{}", ready.text());
    assert_eq!(proxy.get("/api/v1/auth/status").await.json(), json!({ "enabled": true }));
    assert_eq!(proxy.get("/x").await.code(), "unauthenticated");
    proxy.idp().control().clear(Endpoint::Discovery);
    until("login works", async || proxy.get(LOGIN).await.status == 302).await;
    proxy.signed_in_as("ann").await;
    assert!(!proxy.admin("/readyz").await.text().contains("provider:"));
}

#[tokio::test]
async fn login_waits_a_little_for_discovery_and_hurries_it() {
    let upstream = Upstream::start().await;
    for kind in ["oidc", "entra"] {
        let plan = Proxy::with_sign_in(kind, &upstream).await;
        plan.idp().control().fail(Endpoint::Discovery, Fault::Status(503));
        let proxy = plan.start_alone().await;
        let control = proxy.idp().control();
        // By now the next retry would be many seconds away if nobody wanted to sign in.
        control.arrived(Endpoint::Discovery, 3).await;
        let began = Instant::now();
        assert_json(&proxy.get(LOGIN).await, PROVIDER_UNREACHABLE);
        assert!((2..6).contains(&began.elapsed().as_secs()), "{kind}: {:?}", began.elapsed());
        // Many anonymous requests do not make us retry more often.
        let (before, began) = (control.requests(Endpoint::Discovery), Instant::now());
        let logins = (0..40).map(|_| proxy.get(LOGIN));
        assert!(futures_util::future::join_all(logins).await.iter().all(|answer| answer.status == 502));
        let most = began.elapsed().as_secs() + 2;
        let asked = control.requests(Endpoint::Discovery) - before;
        assert!(asked >= 1 && asked <= most, "{kind}: asked {asked} times in {:?}", began.elapsed());
        control.clear(Endpoint::Discovery);
        assert_eq!(proxy.get(LOGIN).await.status, 302, "{kind}: the first login after an outage");
    }
}

#[tokio::test]
async fn starting_lasts_until_the_provider_has_been_tried_and_five_seconds_at_most() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("oidc", &upstream).await;
    let control = plan.idp().control();
    control.fail(Endpoint::Discovery, Fault::Slow(Duration::from_secs(2)));
    let began = Instant::now();
    let proxy = plan.start_alone().await;
    assert!(began.elapsed() >= Duration::from_secs(2), "ready before the provider was tried");
    assert_eq!(proxy.get(LOGIN).await.status, 302);
    let plan = Proxy::with_sign_in("oidc", &upstream).await;
    plan.idp().control().fail(Endpoint::Discovery, Fault::Hold);
    let began = Instant::now();
    let proxy = plan.start_alone().await;
    assert!((5..9).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(proxy.admin("/readyz").await.status, 200);
    proxy.idp().control().clear(Endpoint::Discovery);
}

#[tokio::test]
async fn an_issuer_where_nobody_listens_is_provider_unreachable() {
    let upstream = Upstream::start().await;
    // Bound and never listening: no other program can take the port, and connections to it are refused.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let dead = format!("http://{}", socket.local_addr().unwrap());
    let plan = Proxy::with_sign_in("oidc", &upstream).await.env("OAUTH_ISSUER_URL", dead);
    let proxy = plan.start_alone().await;
    assert_json(&proxy.get(LOGIN).await, PROVIDER_UNREACHABLE);
}

#[tokio::test]
async fn a_state_that_is_not_this_browsers_is_invalid_state_before_the_code_is_redeemed() {
    let upstream = Upstream::start().await;
    for kind in ["github", "entra", "oidc"] {
        let proxy = Proxy::with_sign_in(kind, &upstream).await.start().await;
        // No cookie, or another user's (login CSRF).
        let mut mallory = Browser::of(&proxy);
        let callback = mallory.approved("/", "ann").await;
        let mut victim = Browser::of(&proxy);
        assert_json(&victim.fetch(&callback).await, INVALID_STATE);
        let page = Browser::of(&proxy).open(&callback).await;
        assert_page(&page, INVALID_STATE, &["try-again", "sign-in-as-someone-else"]);
        assert!(page.text().contains("<p>Your browser sent no cookie with it. Allow cookies"), "{}", page.text());
        let mut with_cookies = Browser::of(&proxy);
        with_cookies.set_cookie("theme", "dark");
        let page = with_cookies.open(&callback).await.text();
        assert!(!page.contains("sent no cookie") && page.contains("more than ten minutes ago"), "{page}");
        victim.begin("/").await;
        assert_json(&victim.fetch(&callback).await, INVALID_STATE);
        // The cookie of one attempt under the name of another.
        let (name, own) = (mallory.attempts().remove(0), victim.attempts().remove(0));
        let sealed = victim.cookie(&own).unwrap().to_owned();
        victim.set_cookie(&name, &sealed);
        assert_json(&victim.fetch(&callback).await, INVALID_STATE);
        assert_eq!(victim.cookie(&name), None, "the attempt's cookie is deleted whatever the answer");
        // An invalid state, a foreign one, or two of them; neither code nor error.
        let state = callback.split("state=").nth(1).unwrap().split('&').next().unwrap().to_owned();
        let mut changed = state.clone();
        changed.pop();
        let queries = [
            "code=x".to_owned(),
            "code=x&state=".to_owned(),
            "code=x&state=%3Cscript%3E".to_owned(),
            format!("code=x&state={changed}"),
            format!("code=x&state={state}x"),
            format!("code=x&state={state}&state={state}"),
            format!("code=x&code=y&state={state}"),
            format!("code=&state={state}"),
            format!("state={state}"),
        ];
        let jar: Vec<_> = mallory
            .cookies()
            .into_iter()
            .map(|name| (name.to_owned(), mallory.cookie(name).unwrap().to_owned()))
            .collect();
        for query in queries {
            let mut browser = Browser::of(&proxy);
            jar.iter().for_each(|(name, value)| browser.set_cookie(name, value));
            assert_json(&browser.fetch(&format!("{CALLBACK}?{query}")).await, INVALID_STATE);
            let page = browser.open(&format!("{CALLBACK}?{query}")).await;
            assert_page(&page, INVALID_STATE, &["try-again"]);
            assert!(!page.text().contains("<script"), "{}", page.text());
        }
        assert_json(&proxy.get(CALLBACK).await, INVALID_STATE);
        assert_eq!(
            proxy.idp().control().requests(Endpoint::Token),
            0,
            "{kind}: a code was redeemed before the state was checked"
        );
        // The attempt is still valid in its own browser, once.
        assert_eq!(mallory.open(&callback).await.status, 302);
        mallory.drop_cookie("session_token");
        assert_json(&mallory.fetch(&callback).await, INVALID_STATE);
        assert_eq!(proxy.idp().control().requests(Endpoint::Token), 1);
    }
}

#[tokio::test]
async fn a_callback_of_another_issuer_is_invalid_state_before_the_code_is_redeemed() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::with_sign_in("oidc", &upstream).await.start().await;
    for lie in [Lie::WrongIssAtCallback, Lie::NoIssAtCallback, Lie::WrongState, Lie::NoState] {
        proxy.idp().control().lie(lie);
        let mut browser = Browser::of(&proxy);
        let callback = browser.approved("/", "ann").await;
        assert_json(&browser.fetch(&callback).await, INVALID_STATE);
        proxy.idp().control().honest();
    }
    // The mix-up check applies to errors too.
    proxy.idp().control().lie(Lie::WrongIssAtCallback);
    let mut browser = Browser::of(&proxy);
    let callback = path_of(&proxy.idp().deny(&browser.begin("/").await).unwrap());
    assert_json(&browser.fetch(&callback).await, INVALID_STATE);
    proxy.idp().control().honest();
    let mut browser = Browser::of(&proxy);
    let callback = browser.approved("/", "ann").await;
    assert_json(&browser.fetch(&format!("{callback}&iss=http%3A%2F%2Fevil.example")).await, INVALID_STATE);
    assert_eq!(proxy.idp().control().requests(Endpoint::Token), 0);
}

#[tokio::test]
async fn a_stale_callback_of_a_user_who_is_signed_in_leads_home_and_changes_nothing() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let mut ann = Browser::of(&proxy);
    let used = ann.approved("/x", "ann").await;
    assert_eq!(ann.open(&used).await.status, 302);
    let token = ann.cookie("session_token").unwrap().to_owned();
    let mut mallory = Browser::of(&proxy);
    let foreign = mallory.approved("/", "eve").await;
    let redeemed = proxy.idp().control().requests(Endpoint::Token);
    for stale in [used.as_str(), &foreign, CALLBACK, "/api/v1/auth/callback?code=x&state=y"] {
        let answer = ann.open(stale).await;
        assert_eq!((answer.status.as_u16(), answer.location()), (302, "/".to_owned()), "{stale}");
        assert_eq!(ann.cookie("session_token"), Some(token.as_str()));
    }
    assert_eq!(proxy.idp().control().requests(Endpoint::Token), redeemed);
    assert_eq!(ann.get("/api/v1/auth/me").await.json()["email"], "ann@example.com");
}

#[tokio::test]
async fn the_fifth_return_without_the_session_cookie_is_sign_in_loop() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let mut forgetful = Browser::of(&proxy);
    for _ in 0..5 {
        assert_eq!(forgetful.sign_in("ann").await.status, 302);
        forgetful.drop_cookie("session_token");
    }
    let answer = forgetful.fetch(LOGIN).await;
    assert_json(&answer, SIGN_IN_LOOP);
    assert_eq!(answer.header("retry-after"), "60");
    let page = forgetful.open(LOGIN).await;
    assert_page(&page, SIGN_IN_LOOP, &["try-again"]);
    assert!(page.text().contains("cookie") && page.text().contains("COOKIE_DOMAIN"), "the page says why");
    assert!(Browser::of(&proxy).open(LOGIN).await.status == 302, "other browsers go on");
}

#[tokio::test]
async fn tabs_that_are_merely_open_are_no_loop() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let mut browser = Browser::of(&proxy);
    browser.sign_in("ann").await;
    browser.post("/api/v1/auth/logout").await;
    browser.sign_in("ann").await;
    browser.drop_cookie("session_token");
    for _ in 0..12 {
        browser.begin("/").await;
    }
    // Nor may a user keep the session and sign in again as another.
    let mut ann = Browser::of(&proxy);
    for _ in 0..7 {
        assert_eq!(ann.sign_in("ann").await.status, 302);
    }
}

#[tokio::test]
async fn an_unsafe_method_of_another_site_is_cross_site() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let public = format!("http://{HOST}");
    let cases: [(&[(&str, &str)], bool); 12] = [
        (&[], true),
        (&[("sec-fetch-site", "same-origin")], true),
        (&[("sec-fetch-site", "none")], true),
        (&[("sec-fetch-site", "cross-site")], false),
        (&[("sec-fetch-site", "same-site")], false),
        (&[("sec-fetch-site", "anything")], false),
        (&[("origin", &public)], true),
        (&[("origin", "http://evil.example")], false),
        (&[("origin", "https://app.localhost")], false),
        (&[("origin", "null")], false),
        (&[("sec-fetch-site", "same-origin"), ("origin", "http://evil.example")], true),
        (&[("sec-fetch-site", "cross-site"), ("origin", &public)], false),
    ];
    for (headers, passes) in cases {
        let mut ann = proxy.signed_in_as("ann").await;
        let post =
            headers.iter().fold(Request::post("/api/v1/auth/logout"), |post, (name, value)| post.header(*name, *value));
        let answer = ann.send(post).await;
        if passes {
            assert_eq!(answer.status, 200, "{headers:?}");
        } else {
            assert_json(&answer, CROSS_SITE);
            assert_eq!(ann.get("/x").await.status, 200, "{headers:?} has ended the session");
        }
    }
    let form =
        Request::post("/api/v1/auth/logout").header("accept", "text/html").header("sec-fetch-site", "cross-site");
    assert_page(&proxy.send(form).await, CROSS_SITE, &["start"]);
    for method in ["PUT", "PATCH", "DELETE"] {
        let request = Request::builder().method(method).uri("/api/v1/auth/me").header("sec-fetch-site", "cross-site");
        assert_json(&proxy.send(request).await, CROSS_SITE);
    }
}

#[tokio::test]
async fn the_plain_refusals_have_their_codes_and_pages() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let open = Proxy::open(&upstream).start().await;
    let rows: [(&Proxy, &str, &str, Row); 3] = [
        (&proxy, "GET", "/api/v1/auth/nothing", ("not_found", 404, "Not found")),
        (&proxy, "DELETE", "/api/v1/auth/me", ("method_not_allowed", 405, "Method not allowed")),
        (&open, "GET", "/api/v1/auth/me", ("auth_disabled", 404, "Authentication is disabled")),
    ];
    for (proxy, method, path, row) in rows {
        let request = || Request::builder().method(method).uri(path);
        assert_json(&proxy.send(request()).await, row);
        assert_page(&proxy.send(request().header("accept", "text/html")).await, row, &["start"]);
    }
    let mut me = proxy.get("/api/v1/auth/me").await;
    assert_eq!(me.json()["login_url"], LOGIN);
    assert_eq!((me.code(), me.status.as_u16()), (UNAUTHENTICATED.0.to_owned(), 401));
    assert_eq!(me.json()["message"], UNAUTHENTICATED.2);
    assert_own_headers(&me);
    me = proxy.send(Request::post("/x").header("accept", "text/html")).await;
    assert_page(&me, UNAUTHENTICATED, &["sign-in"]);
    let bad = proxy.raw("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await;
    assert!(bad.starts_with("HTTP/1.1 400 ") && bad.contains("\"error\":\"bad_request\""), "{bad}");
}

#[tokio::test]
async fn an_upstream_that_is_away_or_silent_has_its_codes() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let upstream = Upstream::start().await;
    let away =
        Proxy::open(&upstream).env("UPSTREAM_URL", format!("http://{}", socket.local_addr().unwrap())).start().await;
    let silent = Upstream::raw(|mut stream| async move {
        wire::read_until(&mut stream, "\r\n\r\n").await;
        std::future::pending::<()>().await;
    })
    .await;
    let slow = Proxy::open(&silent).env("TIMEOUT_FIRST_BYTE", "1s").start().await;
    for (proxy, row) in [
        (&away, ("upstream_unreachable", 502, "The application cannot be reached")),
        (&slow, ("upstream_timeout", 504, "The application took too long to answer")),
    ] {
        assert_json(&proxy.get("/x").await, row);
        assert_page(&Browser::of(proxy).open("/x").await, row, &["try-again"]);
    }
}

#[tokio::test]
async fn nothing_of_the_request_stands_unescaped_on_a_page() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let open = Proxy::open(&upstream).start().await;
    let hostile = "%3Cscript%3Ealert(1)%3C/script%3E%22%27";
    for (proxy, path) in [
        (&proxy, format!("/api/v1/auth/{hostile}")),
        (&proxy, format!("/api/v1/auth/sign-in?rd=/{hostile}")),
        (&proxy, format!("/api/v1/auth/callback?code={hostile}&state={hostile}&error={hostile}")),
        (&open, format!("/api/v1/auth/{hostile}?{hostile}")),
    ] {
        let request = Request::get(&path).header("accept", "text/html").header("x-request-id", "<script>\"'");
        let page = proxy.send(request).await.text();
        assert!(page.starts_with("<!doctype html>"), "{page}");
        assert!(!page.contains("<script") && !page.contains("onerror"), "{path}: {page}");
    }
}

#[tokio::test]
async fn a_name_that_its_owner_chose_is_text_on_the_page_and_one_line_in_the_log() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::with_sign_in("github", &upstream).await.env("OAUTH_ALLOWED_USERS", "nobody").start().await;
    let mut user = dev_idp::User::new("hostile");
    let github = user.github.as_mut().unwrap();
    github.login = "<script>alert(1)</script>\nUser not allowed: ann".into();
    github.emails.clear();
    proxy.idp().put_user(user);
    let answer = Browser::of(&proxy).sign_in("hostile").await;
    assert_page(&answer, NOT_ALLOWED, &["sign-in-as-someone-else"]);
    assert!(!answer.text().contains("<script"), "{}", answer.text());
    proxy.logs("User not allowed: <script>").await;
    let log = proxy.log();
    let line = log.lines().find(|line| line.contains("User not allowed: <script>")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert!(!line["message"].as_str().unwrap().contains('\n'), "{line}");
}
