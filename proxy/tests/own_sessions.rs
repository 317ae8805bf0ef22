//! Users list their own sessions and end them: as JSON for programs, as a page with forms for browsers.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use serde_json::Value;
use sidegate::adapters::stores::jwt::JwtStore;
use sidegate::domain::session::{Session, SessionToken};
use sidegate::domain::time::Timestamp;
use sidegate::ports::{Sessions as _, StoreTerms};
use zeroize::Zeroizing;

use crate::support::redis::is_installed;
use crate::support::{Answer, Browser, HOST, Proxy, Redis, Upstream};

const SESSIONS: &str = "/api/v1/auth/sessions";
const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const HTML: &str = "text/html,application/xhtml+xml,*/*;q=0.8";
const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:142.0) Gecko/20100101 Firefox/142.0";

/// A signed-in browser with this `User-Agent`.
async fn signed_in<'p>(proxy: &'p Proxy, user: &str, user_agent: &str) -> Browser<'p> {
    let mut browser = Browser::of(proxy);
    let callback = browser.approved("/", user).await;
    let answer = browser.send(Request::get(callback).header("user-agent", user_agent)).await;
    assert_eq!(answer.status, 302, "{answer:?}");
    browser
}

async fn list(browser: &mut Browser<'_>) -> Vec<Value> {
    let answer = browser.fetch(SESSIONS).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["sessions"].as_array().unwrap().clone()
}

/// The id of the browser's own session.
async fn own_id(browser: &mut Browser<'_>) -> String {
    let own: Vec<_> = list(browser).await.into_iter().filter(|session| session["current"] == true).collect();
    assert_eq!(own.len(), 1, "{own:?}");
    own[0]["id"].as_str().unwrap().to_owned()
}

/// A form's post, as a browser sends it.
fn form(path: &str) -> http::request::Builder {
    Request::post(path)
        .header("accept", HTML)
        .header("content-type", "application/x-www-form-urlencoded")
        .header("sec-fetch-site", "same-origin")
}

fn clears_the_cookie(answer: &Answer) -> bool {
    answer.set_cookies().iter().any(|set| set.starts_with("session_token=;") && set.contains("Max-Age=0"))
}

#[tokio::test]
async fn a_person_sees_their_own_sessions_and_which_is_this_one() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let mut first = signed_in(&proxy, "ann", FIREFOX).await;
    let mut second = signed_in(&proxy, "ann", "curl/8.5.0").await;
    let mut bob = signed_in(&proxy, "bob", "").await;
    let sessions = list(&mut second).await;
    assert_eq!(sessions.len(), 2, "{sessions:?}");
    for session in &sessions {
        let names: Vec<&str> = session.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, ["address", "browser", "created_at", "current", "expires_at", "id", "last_seen"]);
        assert_eq!(session["address"], "127.0.0.1");
        for name in ["created_at", "last_seen", "expires_at"] {
            let text = session[name].as_str().unwrap();
            assert!(text.len() == 20 && text.ends_with('Z'), "{text} is not RFC 3339");
        }
        let token_free = session.to_string();
        for browser in [&first, &second] {
            assert!(!token_free.contains(browser.cookie("session_token").unwrap()));
        }
    }
    let of = |current: bool| sessions.iter().find(|session| session["current"] == current).unwrap();
    assert_eq!((&of(true)["browser"], &of(false)["browser"]), (&"curl/8.5.0".into(), &"Firefox on Linux".into()));
    assert_eq!(own_id(&mut first).await, of(false)["id"].as_str().unwrap(), "an id is the same for each client");
    assert_eq!(own_id(&mut first).await.len(), 32);
    let bobs = list(&mut bob).await;
    assert_eq!((bobs.len(), &bobs[0]["browser"], &bobs[0]["current"]), (1, &"".into(), &true.into()));
    let nobody = proxy.get(SESSIONS).await;
    assert_eq!((nobody.status.as_u16(), nobody.code().as_str()), (401, "unauthenticated"));
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_person_ends_one_of_their_own_sessions_and_nobody_elses() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let mut here = signed_in(&proxy, "ann", FIREFOX).await;
    let mut there = signed_in(&proxy, "ann", FIREFOX).await;
    let mut bob = signed_in(&proxy, "bob", FIREFOX).await;
    let (here_id, there_id, bobs_id) = (own_id(&mut here).await, own_id(&mut there).await, own_id(&mut bob).await);
    let unknown = "0".repeat(32);
    for id in [bobs_id.as_str(), &unknown, "end-others/x", &there_id.to_uppercase(), &there_id[1..], ""] {
        let answer = here.send(Request::delete(format!("{SESSIONS}/{id}"))).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "not_found"), "{id}");
        let answer = here.send(Request::post(format!("{SESSIONS}/{id}/end"))).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "not_found"), "{id}");
    }
    assert_eq!(bob.get("/x").await.status, 200);
    let answer = here.send(Request::delete(format!("{SESSIONS}/{there_id}"))).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, r#"{"message":"Session ended"}"#));
    assert!(answer.set_cookies().is_empty(), "{answer:?}");
    assert_eq!(there.get("/x").await.status, 401, "it has ended");
    assert_eq!(here.get("/x").await.status, 200);
    assert_eq!(list(&mut here).await.len(), 1);
    proxy.logs("Sessions ended: ann").await;
    let again = here.send(Request::delete(format!("{SESSIONS}/{there_id}"))).await;
    assert_eq!(again.code(), "not_found");
    let answer = here.send(Request::delete(format!("{SESSIONS}/{here_id}"))).await;
    assert_eq!(answer.status, 200);
    assert!(clears_the_cookie(&answer), "{answer:?}");
    assert_eq!(here.get("/x").await.status, 401);
    proxy.logs("Signed out: ann").await;
    let nobody = proxy.send(Request::delete(format!("{SESSIONS}/{bobs_id}"))).await;
    assert_eq!((nobody.status.as_u16(), nobody.code().as_str()), (401, "unauthenticated"));
    assert_eq!(bob.get("/x").await.status, 200);
}

#[tokio::test]
async fn a_person_ends_all_their_other_sessions() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let mut here = signed_in(&proxy, "ann", FIREFOX).await;
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(signed_in(&proxy, "ann", FIREFOX).await);
    }
    let mut bob = signed_in(&proxy, "bob", FIREFOX).await;
    let answer = here.send(Request::delete(SESSIONS)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), serde_json::json!({ "message": "Other sessions ended", "ended": 20 }));
    for other in &mut others {
        assert_eq!(other.get("/x").await.status, 401);
    }
    assert_eq!((here.get("/x").await.status, bob.get("/x").await.status.as_u16()), (http::StatusCode::OK, 200));
    assert_eq!(here.send(Request::delete(SESSIONS)).await.json()["ended"], 0);
    assert_eq!(proxy.send(Request::delete(SESSIONS)).await.status, 401);
}

#[tokio::test]
async fn the_page_has_a_button_for_each_session_that_posts() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let mut here = signed_in(&proxy, "ann", FIREFOX).await;
    let mut there = signed_in(&proxy, "ann", "<script>alert(1)</script>").await;
    let (here_id, there_id) = (own_id(&mut here).await, own_id(&mut there).await);
    let page = here.open(SESSIONS).await;
    assert_eq!((page.status.as_u16(), page.header("content-type").as_str()), (200, "text/html; charset=utf-8"));
    assert_eq!(page.header("cache-control"), "no-store");
    let policy = page.header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("form-action 'self'"), "{policy}");
    let text = page.text();
    assert!(text.contains("Firefox on Linux") && text.contains("ann@example.com"), "{text}");
    assert!(text.contains("&#60;script&#62;") && !text.contains("<script"), "{text}");
    for id in [&here_id, &there_id] {
        assert!(text.contains(&format!("<form method=\"post\" action=\"{SESSIONS}/{id}/end\">")), "{text}");
    }
    let answer = here.send_body(form(&format!("{SESSIONS}/{there_id}/end")), "").await;
    assert_eq!((answer.status.as_u16(), answer.location().as_str()), (303, SESSIONS));
    assert_eq!(there.get("/x").await.status, 401);
    // A button pressed twice, or on an old page, leads to the list, which no longer shows the session.
    let answer = here.send_body(form(&format!("{SESSIONS}/{there_id}/end")), "").await;
    assert_eq!((answer.status.as_u16(), answer.location().as_str()), (303, SESSIONS));
    let text = here.open(SESSIONS).await.text();
    assert!(!text.contains(&there_id) && !text.contains("end-others"), "{text}");
    let mut there = signed_in(&proxy, "ann", FIREFOX).await;
    assert!(here.open(SESSIONS).await.text().contains(&format!("action=\"{SESSIONS}/end-others\"")));
    let answer = here.send_body(form(&format!("{SESSIONS}/end-others")), "").await;
    assert_eq!((answer.status.as_u16(), answer.location().as_str()), (303, SESSIONS));
    assert_eq!(there.get("/x").await.status, 401);
    let answer = here.send_body(form(&format!("{SESSIONS}/{here_id}/end")), "").await;
    assert_eq!((answer.status.as_u16(), answer.location().as_str()), (303, "/api/v1/auth/signed-out"));
    assert!(clears_the_cookie(&answer), "{answer:?}");
    let answer = here.open(SESSIONS).await;
    assert_eq!((answer.status.as_u16(), answer.location().as_str()), (302, "/api/v1/auth/login?rd=%2F"));
}

#[tokio::test]
async fn no_other_site_may_end_a_session() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let mut ann = signed_in(&proxy, "ann", FIREFOX).await;
    let mut other = signed_in(&proxy, "ann", FIREFOX).await;
    let id = own_id(&mut ann).await;
    let requests = [
        ("DELETE", SESSIONS.to_owned()),
        ("DELETE", format!("{SESSIONS}/{id}")),
        ("POST", format!("{SESSIONS}/{id}/end")),
        ("POST", format!("{SESSIONS}/end-others")),
    ];
    for (method, path) in requests {
        for (name, value) in [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("origin", "http://evil.localhost"),
            ("origin", "null"),
        ] {
            let request = Request::builder().method(method).uri(&path).header(name, value);
            let answer = ann.send(request).await;
            assert_eq!(
                (answer.status.as_u16(), answer.code().as_str()),
                (403, "cross_site"),
                "{method} {path} {value}"
            );
        }
    }
    assert_eq!(other.get("/x").await.status, 200);
    let ours = Request::delete(SESSIONS).header("origin", format!("http://{HOST}"));
    assert_eq!(ann.send(ours).await.json()["ended"], 1);
}

#[tokio::test]
async fn each_has_its_methods_names_them_to_others_and_is_not_there_in_open_mode() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let open = Proxy::open(&upstream).start().await;
    let mut ann = signed_in(&proxy, "ann", FIREFOX).await;
    let id = "0".repeat(32);
    for (path, allow) in [
        (SESSIONS.to_owned(), "GET, HEAD, DELETE"),
        (format!("{SESSIONS}/{id}"), "DELETE"),
        (format!("{SESSIONS}/{id}/end"), "POST"),
        (format!("{SESSIONS}/end-others"), "POST"),
    ] {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"] {
            let request = || Request::builder().method(method).uri(&path);
            let answer = open.send(request()).await;
            assert_eq!(answer.status, 404, "{method} {path}");
            if method != "HEAD" {
                assert_eq!(answer.code(), "auth_disabled", "{method} {path}");
            }
            if allow.split(", ").any(|allowed| allowed == method) {
                continue;
            }
            let answer = ann.send(request()).await;
            assert_eq!((answer.status.as_u16(), answer.header("allow").as_str()), (405, allow), "{method} {path}");
        }
    }
    for accept in ["application/json", HTML] {
        let ask = |method: &str| Request::builder().method(method).uri(SESSIONS).header("accept", accept);
        let (get, head) = (ann.send(ask("GET")).await, ann.send(ask("HEAD")).await);
        assert_eq!((get.status, head.status.as_u16()), (http::StatusCode::OK, 200));
        assert_eq!(get.header("content-type"), head.header("content-type"));
        assert!(head.body.is_empty() && !get.body.is_empty());
    }
    for path in ["sessions/", "sessions//end", "sessions/end-others/", "sessions/x", "session/x"] {
        let answer = ann.get(&format!("/api/v1/auth/{path}")).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "not_found"), "{path}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_user_who_is_no_longer_allowed_is_refused_here_too() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("github", &upstream).await;
    let proxy = plan.file("OAUTH_ALLOWED_USERS_FILE", "allowed", "ann@example.com\n").start().await;
    let mut ann = signed_in(&proxy, "ann", FIREFOX).await;
    std::fs::write(proxy.folder().join("allowed"), "bob@example.com\n").unwrap();
    proxy.logs("the configuration was read again").await;
    let answer = ann.fetch(SESSIONS).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (403, "not_allowed"));
    assert_eq!(ann.send(Request::delete(SESSIONS)).await.status, 403);
}

#[tokio::test]
async fn where_sessions_are_in_browsers_only_others_are_neither_listed_nor_ended_and_it_says_so() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("oidc", &upstream).await.env("SESSION_STORE", "jwt");
    let proxy = plan.env("SESSION_SECRET", SECRET).start().await;
    let mut here = signed_in(&proxy, "ann", FIREFOX).await;
    let mut there = signed_in(&proxy, "ann", FIREFOX).await;
    let (id, other) = (own_id(&mut here).await, own_id(&mut there).await);
    assert_eq!(list(&mut here).await.len(), 1);
    let page = here.open(SESSIONS).await.text();
    assert!(page.contains("keeps sessions in the browser only") && !page.contains("end-others"), "{page}");
    for (method, path) in [
        ("DELETE", SESSIONS.to_owned()),
        ("DELETE", format!("{SESSIONS}/{other}")),
        ("POST", format!("{SESSIONS}/end-others")),
        ("POST", "/api/v1/auth/backchannel-logout".to_owned()),
    ] {
        let answer = here.send(Request::builder().method(method).uri(&path)).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (501, "sessions_not_kept"), "{method} {path}");
        assert!(answer.json()["message"].as_str().unwrap().contains("in browsers only"), "{answer:?}");
    }
    assert_eq!(there.get("/x").await.status, 200);
    let answer = there.post("/api/v1/auth/logout?everywhere=true").await;
    assert!(answer.json()["logout_url"].as_str().unwrap().starts_with(&proxy.idp().origin()), "{answer:?}");
    assert_eq!(there.get("/x").await.status, 401);
    let answer = here.send(Request::delete(format!("{SESSIONS}/{id}"))).await;
    assert_eq!(answer.status, 200);
    assert!(clears_the_cookie(&answer), "{answer:?}");
    assert_eq!(here.get("/x").await.status, 401);
}

#[tokio::test]
async fn what_has_ended_here_has_its_audit_line_though_the_store_has_not_confirmed_it() {
    if !is_installed() {
        return;
    }
    let (master, upstream) = (Redis::start().await, Upstream::start().await);
    let _replica = master.replica().await;
    let plan = Proxy::with_sign_in("github", &upstream).await.env("SESSION_STORE", "redis");
    let plan = plan.env("SESSION_REDIS_URL", master.url()).env("SESSION_SECRET", SECRET);
    let proxy = plan.start().await;
    let mut here = signed_in(&proxy, "ann", FIREFOX).await;
    let mut there = signed_in(&proxy, "ann", FIREFOX).await;
    let mut third = signed_in(&proxy, "ann", FIREFOX).await;
    let (here_id, there_id) = (own_id(&mut here).await, own_id(&mut there).await);
    // What is written now is never known to be on the replica.
    master.ask(&["ACL", "SETUSER", "default", "-wait"]).await.unwrap();
    let answer = here.send(Request::delete(format!("{SESSIONS}/{there_id}"))).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "session_store_unavailable"), "{answer:?}");
    assert_eq!(there.get("/x").await.status, 401, "it has ended here");
    proxy.logs("the person ended it").await;
    let answer = here.send(Request::delete(SESSIONS)).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "session_store_unavailable"), "{answer:?}");
    assert_eq!(third.get("/x").await.status, 401, "it has ended here");
    proxy.logs("the person ended all others").await;
    assert_eq!(here.get("/x").await.status, 200);
    let answer = here.send(Request::delete(format!("{SESSIONS}/{here_id}"))).await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after").as_str()), (503, "2"), "{answer:?}");
    assert_eq!(answer.json()["message"], "The session store did not confirm that you are signed out");
    assert!(clears_the_cookie(&answer), "{answer:?}");
    proxy.logs("Signed out: ann").await;
    let metrics = proxy.admin("/metrics").await.text();
    assert!(metrics.contains("sidegate_sign_outs_total 1\n"), "{metrics}");
}

#[tokio::test]
async fn where_no_more_ended_sessions_are_remembered_the_answer_says_that_ones_own_was_not_ended() {
    /// How many of one person are remembered.
    const SHARE: usize = 12_500;
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("github", &upstream).await.env("SESSION_STORE", "jwt");
    let proxy = plan.env("SESSION_SECRET", SECRET).start().await;
    let mut ann = signed_in(&proxy, "ann", FIREFOX).await;
    let secrets = vec![Zeroizing::new(STANDARD.decode(SECRET).unwrap())];
    let terms = StoreTerms { idle: Duration::ZERO, secrets, cookie_beside: 80 };
    let (store, ever) = (JwtStore::new(1 << 20, &terms).unwrap(), Timestamp::from_secs(0));
    let mine = SessionToken::parse(ann.cookie("session_token").unwrap()).unwrap();
    let mine = store.load(&mine, ever).await.unwrap().unwrap();
    // As if she had signed in and out so often.
    for some in (0..SHARE).collect::<Vec<_>>().chunks(25) {
        let mut cookies = Vec::new();
        for number in some {
            let earlier = 1000 * (u64::try_from(*number).unwrap() + 1);
            let created_at = Timestamp::from_millis(mine.session().created_at.millis() - earlier);
            let token = store.begin(Session { created_at, ..mine.session().clone() }, ever).await.unwrap();
            cookies.push(format!("session_token={}", token.expose()));
        }
        let request = Request::post("/api/v1/auth/logout").header("cookie", cookies.join("; "));
        assert_eq!(proxy.send(request).await.status, 200);
    }
    let (id, token) = (own_id(&mut ann).await, ann.cookie("session_token").unwrap().to_owned());
    let answer = ann.send(Request::delete(format!("{SESSIONS}/{id}"))).await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after").as_str()), (503, "60"), "{answer:?}");
    assert_eq!(answer.json()["message"], "The session store could not end every session");
    assert!(clears_the_cookie(&answer), "{answer:?}");
    assert_eq!(proxy.get_as(&token, "/x").await.status, 200, "a copy of the cookie is valid, as the log says");
    proxy.logs("a logout did not end every session, and a copy of its cookie is valid until it expires").await;
    let metrics = proxy.admin("/metrics").await.text();
    assert!(metrics.contains(&format!("sidegate_sign_outs_total {SHARE}\n")), "nobody was signed out: {metrics}");
}
