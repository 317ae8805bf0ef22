//! Back-channel logout: the provider ends a user's sessions.

use std::time::{Duration, Instant};

use dev_idp::Lie;
use http::Request;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::redis::is_installed;
use crate::support::{Answer, HOST, PATIENCE, Plan, Proxy, Redis, Upstream, until};

const PATH: &str = "/api/v1/auth/backchannel-logout";
const FORM: &str = "application/x-www-form-urlencoded";

async fn oidc(upstream: &Upstream) -> Proxy {
    Proxy::with_sign_in("oidc", upstream).await.start().await
}

/// The plan of a proxy that shares its sessions with other replicas.
async fn with_redis(upstream: &Upstream, redis: &Redis) -> Plan {
    Proxy::with_sign_in("oidc", upstream)
        .await
        .env("SESSION_STORE", "redis")
        .env("SESSION_REDIS_URL", redis.url())
        .env("SESSION_SECRET", "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTAxMjM0NTY3ODk=")
}

fn form(token: &str) -> String {
    url::form_urlencoded::Serializer::new(String::new()).append_pair("logout_token", token).finish()
}

/// Posts as the provider's server does: no cookie, no `Origin`.
async fn post(proxy: &Proxy, body: impl Into<String>) -> Answer {
    proxy.send_body(Request::post(PATH).header("content-type", FORM), body.into()).await
}

fn refused(answer: &Answer) -> bool {
    answer.status == 400 && answer.code() == "invalid_request" && answer.header("cache-control") == "no-store"
}

#[tokio::test]
async fn a_token_ends_the_session_at_the_provider_that_it_names_and_no_other() {
    let upstream = Upstream::start().await;
    let proxy = oidc(&upstream).await;
    let mut earlier = proxy.signed_in_as("ann").await;
    let mut newest = proxy.signed_in_as("ann").await;
    let mut bob = proxy.signed_in_as("bob").await;
    let answer = post(&proxy, form(&proxy.idp().logout_token("ann").unwrap())).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, ""), "{}", proxy.log());
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(newest.get("/x").await.status, 401);
    assert_eq!(earlier.get("/x").await.status, 200);
    assert_eq!(bob.get("/x").await.status, 200);
    proxy.logs("the provider signed the person out").await;
}

#[tokio::test]
async fn a_token_without_a_session_ends_all_of_the_person() {
    let upstream = Upstream::start().await;
    let proxy = oidc(&upstream).await;
    let mut anns = [proxy.signed_in_as("ann").await, proxy.signed_in_as("ann").await];
    let mut bob = proxy.signed_in_as("bob").await;
    proxy.idp().control().lie(Lie::MissingClaim("sid".into()));
    let token = proxy.idp().logout_token("ann").unwrap();
    proxy.idp().control().honest();
    assert_eq!(post(&proxy, form(&token)).await.status, 200);
    for ann in &mut anns {
        assert_eq!(ann.get("/x").await.status, 401);
    }
    assert_eq!(bob.get("/x").await.status, 200);
    // A replay does not end sessions that began later.
    let mut again = proxy.signed_in_as("ann").await;
    let answer = post(&proxy, form(&token)).await;
    assert!(refused(&answer), "{answer:?}");
    assert_eq!(again.get("/x").await.status, 200);
}

#[tokio::test]
async fn a_token_that_does_not_verify_ends_nothing() {
    let upstream = Upstream::start().await;
    let proxy = oidc(&upstream).await;
    let mut ann = proxy.signed_in_as("ann").await;
    for lie in [
        Lie::WrongIssuer,
        Lie::WrongAudience,
        Lie::Expired,
        Lie::MissingClaim("jti".into()),
        Lie::MissingClaim("iat".into()),
        Lie::MissingClaim("events".into()),
        Lie::Claim("nonce".into(), json!("n")),
        Lie::AlgNone,
        Lie::ForgedSignature,
    ] {
        proxy.idp().control().lie(lie.clone());
        let token = proxy.idp().logout_token("ann").unwrap();
        proxy.idp().control().honest();
        let answer = post(&proxy, form(&token)).await;
        assert!(refused(&answer), "{lie:?}: {answer:?}");
        assert_eq!(ann.get("/x").await.status, 200, "{lie:?}");
        assert!(!proxy.log().contains(&token), "the log shows a token");
    }
    let answer = post(&proxy, form(&proxy.idp().logout_token("ann").unwrap())).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn only_a_form_with_one_token_is_read_and_only_so_far() {
    let upstream = Upstream::start().await;
    let proxy = oidc(&upstream).await;
    let mut ann = proxy.signed_in_as("ann").await;
    let good = form(&proxy.idp().logout_token("ann").unwrap());
    for body in [
        String::new(),
        "logout_token=".to_owned(),
        "x=y".to_owned(),
        format!("{good}&logout_token=x"),
        format!("{good}&x={}", "y".repeat(16 * 1024)),
    ] {
        let answer = post(&proxy, body.as_str()).await;
        assert!(refused(&answer), "{answer:?}");
    }
    for kind in ["application/json", "text/plain", "multipart/form-data; boundary=x", ""] {
        let request = Request::post(PATH).header("content-type", kind);
        assert!(refused(&proxy.send_body(request, good.clone()).await), "{kind}");
    }
    for (name, value) in [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")] {
        let request = Request::post(PATH).header("content-type", FORM).header(name, value);
        assert_eq!(proxy.send_body(request, good.clone()).await.code(), "cross_site");
    }
    assert_eq!(ann.get("/x").await.status, 200);
    let request = Request::post(PATH).header("content-type", "Application/X-WWW-Form-Urlencoded; charset=utf-8");
    assert_eq!(proxy.send_body(request, good).await.status, 200);
    assert_eq!(ann.get("/x").await.status, 401);
}

#[tokio::test]
async fn a_form_that_does_not_come_is_not_waited_for() {
    let upstream = Upstream::start().await;
    let proxy = oidc(&upstream).await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let head =
        format!("POST {PATH} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {FORM}\r\nContent-Length: 100\r\n\r\nlogout_");
    stream.write_all(head.as_bytes()).await.unwrap();
    let began = Instant::now();
    let mut answer = vec![0; 12];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("no answer in time").unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 408");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[tokio::test]
async fn it_is_there_for_providers_that_send_such_tokens_by_post_alone() {
    let upstream = Upstream::start().await;
    let github = Proxy::start(&upstream).await;
    let open = Proxy::open(&upstream).start().await;
    for (proxy, code) in [(&github, "not_found"), (&open, "auth_disabled")] {
        for method in ["GET", "POST"] {
            let answer = proxy.send(Request::builder().method(method).uri(PATH)).await;
            assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, code), "{method}");
        }
    }
    for kind in ["oidc", "entra"] {
        let proxy = Proxy::with_sign_in(kind, &upstream).await.start().await;
        for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
            let answer = proxy.send(Request::builder().method(method).uri(PATH)).await;
            assert_eq!((answer.status.as_u16(), answer.header("allow").as_str()), (405, "POST"), "{kind} {method}");
        }
        assert!(refused(&post(&proxy, "x=y").await));
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn on_a_shared_store_a_token_counts_once_over_all_replicas_and_ends_the_session_on_all() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let plan = with_redis(&upstream, &redis).await;
    let twin = plan.twin();
    let (one, two) = (plan.start().await, twin.start().await);
    let mut ann = one.signed_in_as("ann").await;
    let session = ann.cookie("session_token").unwrap().to_owned();
    let elsewhere = two.signed_in_as("ann").await;
    let list =
        async || two.get_as(&session, "/api/v1/auth/sessions").await.json()["sessions"].as_array().map_or(0, Vec::len);
    assert_eq!(list().await, 2, "what one replica began, another lists");
    // The newest sign-in is on the other replica.
    let token = form(&two.idp().logout_token("ann").unwrap());
    assert_eq!(post(&one, token.clone()).await.status, 200);
    let dead = elsewhere.cookie("session_token").unwrap();
    let began = Instant::now();
    until("it has ended on the other replica", async || two.get_as(dead, "/x").await.status == 401).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(refused(&post(&two, token).await), "it has come to another replica before");
    assert_eq!(ann.get("/x").await.status, 200);
    assert_eq!(list().await, 1);
}

#[tokio::test]
async fn a_token_that_could_not_be_followed_may_be_sent_again() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let proxy = with_redis(&upstream, &redis).await.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    let token = form(&proxy.idp().logout_token("ann").unwrap());
    // Redis answers reads, and blocks writes.
    redis.ask(&["CLIENT", "PAUSE", "60000", "WRITE"]).await.unwrap();
    assert_eq!(post(&proxy, token.clone()).await.code(), "session_store_unavailable");
    redis.ask(&["CLIENT", "UNPAUSE"]).await.unwrap();
    // With the writes of its own that failed meanwhile the store may count as away for a moment.
    until("the store is back", async || !proxy.admin("/readyz").await.text().contains("store: 127.0.0.1")).await;
    assert_eq!(post(&proxy, token.clone()).await.status, 200);
    assert_eq!(ann.get("/x").await.status, 401);
    assert!(refused(&post(&proxy, token).await), "it has come before");
}

#[tokio::test]
async fn what_a_token_has_ended_here_has_its_audit_line_though_the_store_has_not_confirmed_it() {
    const LINE: &str = "the provider signed the person out";
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let proxy = with_redis(&upstream, &redis).await.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    let token = form(&proxy.idp().logout_token("ann").unwrap());
    redis.ask(&["ACL", "SETUSER", "default", "-unlink"]).await.unwrap();
    assert_eq!(post(&proxy, token.clone()).await.code(), "session_store_unavailable");
    assert_eq!(ann.get("/x").await.status, 401);
    proxy.logs(LINE).await;
    redis.ask(&["ACL", "SETUSER", "default", "+unlink"]).await.unwrap();
    until("the store confirms it", async || !proxy.admin("/readyz").await.text().contains("store:")).await;
    assert_eq!(post(&proxy, token).await.status, 200);
    assert_eq!(proxy.log().matches(LINE).count(), 1, "nothing was left for the second try: {}", proxy.log());
}
