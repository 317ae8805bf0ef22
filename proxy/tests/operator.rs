//! `sidegate sessions`: operators list and end sessions on a shared store, and they end on every replica.

use std::process::Output;
use std::time::{Duration, Instant};

use http::{Request, Version};
use serde_json::Value;

use crate::lasting::{endless, keeps_arriving, open, wait_until_aborted};
use crate::support::redis::is_installed;
use crate::support::{Plan, Proxy, Redis, Upstream, until};

const SECRET: &str = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTAxMjM0NTY3ODk=";

async fn at(redis: &Redis, kind: &str, upstream: &Upstream) -> Plan {
    Proxy::with_sign_in(kind, upstream)
        .await
        .env("SESSION_STORE", "redis")
        .env("SESSION_REDIS_URL", redis.url())
        .env("SESSION_SECRET", SECRET)
}

/// Runs `sidegate sessions …` beside the replicas.
async fn sessions(plan: &Plan, arguments: &[&str]) -> Output {
    let mut command = plan.command();
    command.arg("sessions").args(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn streams(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn an_operator_lists_sessions_and_revokes_those_of_one_person_on_all_replicas() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let plan = at(&redis, "github", &upstream).await;
    let (by_hand, twin) = (plan.twin(), plan.twin());
    let (one, two) = (plan.start().await, twin.start().await);
    let mut anns = [one.signed_in_as("ann").await, two.signed_in_as("ann").await, two.signed_in_as("ann").await];
    let mut bob = one.signed_in_as("bob").await;

    let output = sessions(&by_hand, &["list"]).await;
    let (table, sentence) = streams(&output);
    assert_eq!(output.status.code(), Some(0), "{table}{sentence}");
    assert_eq!((table.lines().count(), sentence.trim()), (5, "4 sessions"), "{table}");
    assert_eq!(table.lines().filter(|line| line.contains("  ann  ")).count(), 3, "{table}");

    let listed = async |arguments: &[&str]| {
        let output = sessions(&by_hand, &[&["list", "--json"], arguments].concat()).await;
        let (lines, sentence) = streams(&output);
        assert_eq!(output.status.code(), Some(0), "{sentence}");
        for browser in anns.iter().chain([&bob]) {
            assert!(!lines.contains(browser.cookie("session_token").unwrap()), "a token is printed");
        }
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    assert_eq!(listed(&[]).await.len(), 4);
    assert_eq!(listed(&["--user", "@example.com"]).await.len(), 4);
    assert_eq!(listed(&["--user", "carol"]).await.len(), 0);
    let bobs = listed(&["--user", "bob"]).await;
    assert_eq!((bobs.len(), &bobs[0]["user"], &bobs[0]["email"]), (1, &"bob".into(), &"bob@example.com".into()));
    let own = one.get_as(bob.cookie("session_token").unwrap(), "/api/v1/auth/sessions").await.json();
    assert_eq!(own["sessions"][0]["id"], bobs[0]["id"], "people and operators name a session alike");

    for wrong in [&["revoke"][..], &["revoke", "--user", "@example.com"], &["revoke", "--user", "*"], &[]] {
        let output = sessions(&by_hand, wrong).await;
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {:?}", streams(&output));
    }
    for ann in &mut anns {
        assert_eq!(ann.get("/x").await.status, 200);
    }
    let output = sessions(&by_hand, &["revoke", "--user", "ann@example.com"]).await;
    let (nothing, sentence) = streams(&output);
    assert_eq!((output.status.code(), nothing.as_str()), (Some(0), ""), "{sentence}");
    assert!(sentence.contains("3 sessions were ended") && sentence.contains("Sessions ended: ann"), "{sentence}");
    let began = Instant::now();
    for ann in &mut anns {
        until("it has ended", async || ann.get("/x").await.status == 401).await;
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(bob.get("/x").await.status, 200);
    let output = sessions(&by_hand, &["revoke", "--user", "ann@example.com"]).await;
    assert_eq!(output.status.code(), Some(0));
    assert!(streams(&output).1.contains("no session of ann@example.com"), "{:?}", streams(&output));
}

#[tokio::test]
async fn sessions_of_another_deployment_on_the_same_store_are_left_out_and_that_is_said() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let (ours, theirs) = (at(&redis, "github", &upstream).await, at(&redis, "oidc", &upstream).await);
    let by_hand = ours.twin();
    let (ours, theirs) = (ours.start().await, theirs.start().await);
    let (mut ann, mut namesake) = (ours.signed_in_as("ann").await, theirs.signed_in_as("ann").await);
    let left_out = "; 1 more is of another provider, client id or public origin, and left out";

    let (table, sentence) = streams(&sessions(&by_hand, &["list"]).await);
    assert_eq!((table.lines().count(), sentence.trim()), (2, format!("1 session{left_out}").as_str()), "{table}");
    for ended in ["1 session was ended", "no session of ann@example.com"] {
        let output = sessions(&by_hand, &["revoke", "--user", "ann@example.com"]).await;
        let sentence = streams(&output).1;
        assert_eq!(output.status.code(), Some(0), "{sentence}");
        assert!(sentence.contains(ended) && sentence.contains(left_out), "{sentence}");
    }
    until("it has ended", async || ann.get("/x").await.status == 401).await;
    assert_eq!(namesake.get("/x").await.status, 200, "another person, whatever they are called");
}

#[tokio::test]
async fn an_end_that_the_store_does_not_confirm_to_an_operator_has_no_audit_line() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let plan = at(&redis, "github", &upstream).await;
    let by_hand = plan.twin();
    let proxy = plan.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    redis.ask(&["ACL", "SETUSER", "default", "-unlink"]).await.unwrap();
    let output = sessions(&by_hand, &["revoke", "--user", "ann"]).await;
    let sentence = streams(&output).1;
    assert_eq!(output.status.code(), Some(1), "{sentence}");
    assert!(sentence.contains("did not confirm") && !sentence.contains("Sessions ended"), "{sentence}");
    assert_eq!(ann.get("/x").await.status, 200, "what tried it again has ended with the command");
    redis.ask(&["ACL", "SETUSER", "default", "+unlink"]).await.unwrap();
    let output = sessions(&by_hand, &["revoke", "--user", "ann"]).await;
    assert!(streams(&output).1.contains("Sessions ended: ann"), "{:?}", streams(&output));
    until("it has ended", async || ann.get("/x").await.status == 401).await;
}

#[tokio::test]
async fn where_no_other_process_finds_sessions_the_command_says_what_to_do_instead() {
    let upstream = Upstream::start().await;
    let memory = Proxy::with_sign_in("github", &upstream).await;
    let jwt = memory.twin().env("SESSION_STORE", "jwt").env("SESSION_SECRET", SECRET);
    for (plan, says) in [
        (memory.twin(), "SESSION_STORE is `memory`"),
        (jwt, "SESSION_STORE is `jwt`"),
        (Proxy::open(&upstream), "OAUTH_ENABLED is off"),
    ] {
        for task in [&["list"][..], &["revoke", "--user", "ann"]] {
            let output = sessions(&plan, task).await;
            assert_eq!(output.status.code(), Some(1), "{:?}", streams(&output));
            assert!(streams(&output).1.contains(says), "{:?}", streams(&output));
        }
    }
    let wrong = sessions(&memory.env("SESSION_TTL", "1x"), &["list"]).await;
    assert_eq!(wrong.status.code(), Some(2), "{:?}", streams(&wrong));
}

#[tokio::test]
async fn a_store_that_is_away_is_said_and_a_logout_that_it_does_not_confirm_is_503_with_the_cookie_cleared() {
    if !is_installed() {
        return;
    }
    let (mut redis, upstream) = (Redis::start().await, Upstream::start().await);
    let plan = at(&redis, "oidc", &upstream).await;
    let by_hand = plan.twin();
    let proxy = plan.start().await;
    let mut browsers = Vec::new();
    for _ in 0..3 {
        browsers.push(proxy.signed_in_as("ann").await);
    }
    let token = proxy.idp().logout_token("ann").unwrap();
    redis.kill();
    for (browser, path) in browsers.iter_mut().zip(["logout", "logout?everywhere=true", "logout"]) {
        let page = path == "logout";
        let accept = if page { "text/html" } else { "application/json" };
        let request = Request::post(format!("/api/v1/auth/{path}")).header("accept", accept);
        let answer = browser.send(request).await;
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(!answer.header("retry-after").is_empty());
        assert!(answer.set_cookies().iter().any(|set| set.starts_with("session_token=;")), "{answer:?}");
        if page {
            assert!(answer.text().contains("You are signed out in this browser only"), "{answer:?}");
        } else {
            assert_eq!(answer.code(), "session_store_unavailable");
        }
    }
    let form = url::form_urlencoded::Serializer::new(String::new()).append_pair("logout_token", &token).finish();
    let request =
        Request::post("/api/v1/auth/backchannel-logout").header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(proxy.send_body(request, form).await.code(), "session_store_unavailable");
    let output = sessions(&by_hand, &["list"]).await;
    assert_eq!(output.status.code(), Some(1), "{:?}", streams(&output));
}

#[tokio::test]
async fn streams_end_with_a_session_that_ended_on_another_replica_or_by_an_operator() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, endless().await);
    let plan = at(&redis, "github", &upstream).await;
    let (by_hand, twin) = (plan.twin(), plan.twin());
    let (one, two) = (plan.start().await, twin.start().await);
    let (ann, bob, carol) =
        (two.signed_in_as("ann").await, two.signed_in_as("bob").await, two.signed_in_as("carol").await);
    let (_one, mut anns) = open(&ann, &one, Version::HTTP_11, "/events").await;
    let (_two, mut bobs) = open(&bob, &one, Version::HTTP_2, "/events").await;
    let (_three, mut carols) = open(&carol, &one, Version::HTTP_11, "/events").await;
    let began = Instant::now();
    let logout = Request::post("/api/v1/auth/logout").header("cookie", ann.cookie_header());
    assert_eq!(two.send(logout).await.status, 200);
    wait_until_aborted(&mut anns).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let output = sessions(&by_hand, &["revoke", "--user", "bob"]).await;
    assert_eq!(output.status.code(), Some(0), "{:?}", streams(&output));
    let took = wait_until_aborted(&mut bobs).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    keeps_arriving(&mut carols).await;
}
