//! `SESSION_STORE=jwt`: the cookie is the signed session.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::Request;
use sidegate::adapters::stores::jwt::JwtStore;
use sidegate::domain::session::{Session, SessionToken};
use sidegate::domain::time::Timestamp;
use sidegate::ports::{Sessions as _, StoreTerms};
use zeroize::Zeroizing;

use crate::support::{Answer, Browser, Plan, Proxy, Upstream, until};

const LOGOUT: &str = "/api/v1/auth/logout";
const SECRET: &str = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTAxMjM0NTY3ODk=";
const OTHER_SECRET: &str = "b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXItMDEyMzQ1Njc4OQ==";

async fn plan(upstream: &Upstream) -> Plan {
    Proxy::with_sign_in("github", upstream).await.env("SESSION_STORE", "jwt").env("SESSION_SECRET", SECRET)
}

/// Another replica of `first`.
async fn replica(first: &Proxy, upstream: &Upstream) -> Plan {
    let origin = first.idp().origin();
    plan(upstream).await.env("OAUTH_GITHUB_URL", &origin).env("OAUTH_GITHUB_API_URL", &origin)
}

fn token(browser: &Browser<'_>) -> String {
    browser.cookie("session_token").unwrap().to_owned()
}

async fn with_token(proxy: &Proxy, token: &str) -> Answer {
    proxy.send(Request::get("/x").header("cookie", format!("session_token={token}"))).await
}

#[tokio::test]
async fn the_cookie_is_the_session_on_every_replica_and_after_a_restart() {
    let upstream = Upstream::start().await;
    let proxy = plan(&upstream).await.start().await;
    let mut ann = Browser::of(&proxy);
    let answer = ann.sign_in("ann").await;
    let set = answer.set_cookies().into_iter().find(|set| set.starts_with("session_token=")).unwrap();
    for attribute in ["HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=86400"] {
        assert!(set.split("; ").any(|part| part == attribute), "{attribute} is missing in {set}");
    }
    assert!(set.len() < 4096);
    for _ in 0..2 {
        assert_eq!(ann.get("/x").await.status, 200);
        assert_eq!(upstream.last().header("x-forwarded-user"), "ann");
    }
    let other = replica(&proxy, &upstream).await.start().await;
    assert_eq!(with_token(&other, &token(&ann)).await.status, 200);
    assert_eq!(upstream.last().header("x-forwarded-email"), "ann@example.com");
}

#[tokio::test]
async fn nobody_else_can_write_one() {
    let upstream = Upstream::start().await;
    let proxy = plan(&upstream).await.start().await;
    let ann = proxy.signed_in_as("ann").await;
    let token = token(&ann);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let (head, claims) = signed.split_once('.').unwrap();
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    let bobs = URL_SAFE_NO_PAD.encode(text.replace("ann", "bob"));
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"sidegate-session+jwt"}"#);
    for forged in [
        format!("{head}.{bobs}.{signature}"),
        format!("{none}.{claims}."),
        format!("{none}.{claims}.{signature}"),
        format!("{head}.{claims}."),
        signed.to_owned(),
        token[..token.len() - 1].to_owned(),
    ] {
        assert_eq!(with_token(&proxy, &forged).await.status, 401, "{forged}");
    }
    assert_eq!(with_token(&proxy, &token).await.status, 200);
    // The same secret with another provider: that provider has not authenticated her.
    let elsewhere = plan(&upstream).await.start().await;
    assert_eq!(with_token(&elsewhere, &token).await.status, 401);
    let otherwise = replica(&proxy, &upstream).await.env("SESSION_SECRET", OTHER_SECRET).start().await;
    assert_eq!(with_token(&otherwise, &token).await.status, 401);
}

#[tokio::test]
async fn a_logout_holds_on_this_replica_and_in_this_browser_and_a_copy_lasts_elsewhere() {
    let upstream = Upstream::start().await;
    let proxy = plan(&upstream).await.start().await;
    let other = replica(&proxy, &upstream).await.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    let copy = token(&ann);
    assert_eq!(with_token(&other, &copy).await.status, 200);
    assert_eq!(ann.post(LOGOUT).await.status, 200);
    assert!(ann.cookie("session_token").is_none());
    assert_eq!(with_token(&proxy, &copy).await.status, 401);
    assert_eq!(with_token(&other, &copy).await.status, 200, "the README says so");
    let mut bob = proxy.signed_in_as("bob").await;
    assert_eq!(bob.get("/x").await.status, 200);
}

#[tokio::test]
async fn logouts_with_made_up_cookies_take_no_room_from_real_ones() {
    let upstream = Upstream::start().await;
    let proxy = plan(&upstream).await.start().await;
    let ann = proxy.signed_in_as("ann").await;
    for round in 0..20 {
        let made_up: Vec<_> = (0..200).map(|n| format!("session_token={round}x{n}")).collect();
        let answer = proxy.send(Request::post(LOGOUT).header("cookie", made_up.join("; "))).await;
        assert_eq!(answer.status, 200, "nobody was signed in, and nobody is");
    }
    assert_eq!(with_token(&proxy, &token(&ann)).await.status, 200);
    // After more made-up cookies than are checked elsewhere.
    let made_up: String = (0..100).map(|n| format!("session_token={n}; ")).collect();
    let cookie = format!("{made_up}session_token={}", token(&ann));
    assert_eq!(proxy.send(Request::post(LOGOUT).header("cookie", cookie)).await.status, 200);
    assert_eq!(with_token(&proxy, &token(&ann)).await.status, 401);
}

#[tokio::test]
async fn whoever_has_used_up_their_share_of_ended_sessions_is_refused_sign_outs_and_signs_in_all_the_same() {
    const SHARE: usize = 12_500;
    let upstream = Upstream::start().await;
    let proxy = plan(&upstream).await.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    let secrets = vec![Zeroizing::new(STANDARD.decode(SECRET).unwrap())];
    let terms = StoreTerms { idle: std::time::Duration::ZERO, secrets, cookie_beside: 80 };
    let store = JwtStore::new(1 << 20, &terms).unwrap();
    let ever = Timestamp::from_secs(0);
    let mine = store.load(&SessionToken::parse(&token(&ann)).unwrap(), ever).await.unwrap().unwrap();
    // As if she had signed in so often.
    let earlier = async |millis: u64| {
        let created_at = Timestamp::from_millis(mine.session().created_at.millis() - millis);
        let token = store.begin(Session { created_at, ..mine.session().clone() }, ever).await.unwrap();
        token.expose().to_owned()
    };
    for some in (0..SHARE).collect::<Vec<_>>().chunks(25) {
        let mut cookies = Vec::new();
        for number in some {
            let number = u64::try_from(*number).unwrap();
            cookies.push(format!("session_token={}", earlier(1000 * (number + 1)).await));
        }
        let answer = proxy.send(Request::post(LOGOUT).header("cookie", cookies.join("; "))).await;
        assert_eq!(answer.status, 200);
    }
    let old = earlier(90_500).await;
    assert_eq!(with_token(&proxy, &old).await.status, 200);
    ann.set_cookie("session_token", &old);
    let refused = ann.post(LOGOUT).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (503, "session_store_unavailable"));
    assert_eq!(refused.header("retry-after"), "60");
    let form = Request::post(LOGOUT).header("accept", "text/html,*/*;q=0.8");
    let page = proxy.send(form.header("cookie", format!("session_token={old}"))).await;
    assert_eq!(page.status, 503);
    let text = page.text();
    assert!(text.contains("nothing goes on trying") && !text.contains("it is being ended"), "{text}");
    proxy.logs("a logout did not end every session, and a copy of its cookie is valid until it expires").await;
    let metrics = proxy.admin("/metrics").await.text();
    assert!(metrics.contains(&format!("sidegate_sign_outs_total {SHARE}\n")), "nobody else was signed out: {metrics}");
    for _ in 0..2 {
        ann.set_cookie("session_token", &old);
        ann.sign_in("ann").await;
        assert_ne!(token(&ann), old);
        assert_eq!(ann.get("/x").await.status, 200);
    }
    assert_eq!(with_token(&proxy, &old).await.status, 200, "a copy is valid until it expires, as the log says");
    let line = "a session that a sign-in replaces is not ended, and a copy of its cookie is valid until it expires: \
                the store remembers 12500 ended sessions of this person";
    proxy.logs(line).await;
    assert_eq!(proxy.log().matches(line).count(), 1, "once a minute at most");
}

#[tokio::test]
async fn a_session_is_of_one_public_origin_and_one_client_id_but_of_any_client_secret() {
    let upstream = Upstream::start().await;
    let proxy = plan(&upstream).await.start().await;
    let ann = token(&proxy.signed_in_as("ann").await);
    for (name, value, status) in [
        ("OAUTH_CLIENT_ID", "another-client", 401),
        ("OAUTH_REDIRECT_URL", "http://app.localhost:81/api/v1/auth/callback", 401),
        ("OAUTH_REDIRECT_URL", "http://other.localhost/api/v1/auth/callback", 401),
        ("OAUTH_REDIRECT_URL", "https://app.localhost/api/v1/auth/callback", 401),
        ("OAUTH_CLIENT_SECRET", "another-secret", 200),
        ("COOKIE_NAME", "session_token", 200),
    ] {
        let other = replica(&proxy, &upstream).await.env(name, value).start_alone().await;
        let answer = other.get_as(&ann, "/api/v1/auth/me").await;
        assert_eq!(answer.status, status, "{name}={value}");
    }
}

#[tokio::test]
async fn a_user_with_more_groups_than_a_cookie_holds_is_refused_at_the_sign_in() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("entra", &upstream).await.env("SESSION_STORE", "jwt").env("SESSION_SECRET", SECRET);
    let proxy = plan.env("OAUTH_ALLOWED_GROUPS", "none").env("OAUTH_ALLOWED_USERS", "*").start().await;
    let mut carol = Browser::of(&proxy);
    let callback = carol.approved("/x", "carol").await;
    let answer = carol.open(&callback).await;
    assert_eq!(answer.status, 500);
    assert!(answer.text().contains("Your session does not fit into a cookie"), "{}", answer.text());
    assert!(carol.cookie("session_token").is_none());
    assert_eq!(carol.get("/x").await.status, 401);
    proxy.logs("too many groups? Keep sessions in `redis` instead").await;
    let mut ann = proxy.signed_in_as("ann").await;
    assert_eq!(ann.get("/x").await.status, 200);
    assert!(!upstream.last().header("x-forwarded-groups").is_empty());
}

#[tokio::test]
async fn secrets_rotate_and_one_that_is_taken_away_ends_its_sessions() {
    let upstream = Upstream::start().await;
    let plan = plan(&upstream).await.without("SESSION_SECRET").file("SESSION_SECRET_FILE", "secret", SECRET);
    let proxy = plan.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    assert_eq!(ann.get("/x").await.status, 200);
    let turn = async |secrets: String| {
        let before = proxy.log().len();
        std::fs::write(proxy.folder().join("secret"), secrets).unwrap();
        proxy.signal("HUP");
        until("it is reloaded", async || proxy.log().get(before..).is_some_and(|log| log.contains("was read again")))
            .await;
    };
    turn(format!("{OTHER_SECRET},{SECRET}")).await;
    assert_eq!(ann.get("/x").await.status, 200);
    let mut bob = proxy.signed_in_as("bob").await;
    assert_eq!(bob.get("/x").await.status, 200);
    turn(OTHER_SECRET.to_owned()).await;
    assert_eq!(ann.get("/x").await.status, 401, "nobody vouches for her any more");
    assert_eq!(bob.get("/x").await.status, 200);
}
