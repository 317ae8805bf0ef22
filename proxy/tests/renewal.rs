//! Session renewal: one token call however many requests race, no sign-out by a brief failure of the provider, and no session for
//! users whom the provider no longer knows.

use std::time::{Duration, Instant};

use dev_idp::users::{Membership, Team};
use dev_idp::{Endpoint, Fault, Lie};
use http::Request;

use crate::support::client::{full, next_data};
use crate::support::redis::is_installed;
use crate::support::{Browser, Client, PATIENCE, Plan, Proxy, Redis, Upstream, until};

const KINDS: [&str; 3] = ["github", "entra", "oidc"];
/// The lifetime of an access token at the start of most tests: renewal is due after a second.
const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(3600);

/// A proxy whose provider issues refresh tokens, and short-lived access tokens.
async fn refreshing(kind: &str, upstream: &Upstream) -> Plan {
    let plan = Proxy::with_sign_in(kind, upstream).await;
    let control = plan.idp().control();
    control.token_lifetime(SHORT);
    control.expiring_github_tokens();
    if kind == "github" { plan } else { plan.env("OAUTH_SCOPES", "openid,profile,email,offline_access") }
}

/// How many renewals had this outcome.
async fn count(proxy: &Proxy, outcome: &str) -> u64 {
    let line = format!("sidegate_session_renewals_total{{outcome=\"{outcome}\"}} ");
    let metrics = proxy.admin("/metrics").await.text();
    metrics.lines().find_map(|found| found.strip_prefix(&line)).unwrap().parse().unwrap()
}

/// Uses the session until `times` renewals have had this outcome.
async fn used_until(ann: &mut Browser<'_>, proxy: &Proxy, outcome: &str, times: u64) {
    until(&format!("{outcome} {times} times"), async || {
        assert_eq!(ann.get("/x").await.status, 200, "{}", proxy.log());
        count(proxy, outcome).await >= times
    })
    .await;
}

/// Leaves the session unused for this long.
async fn unused(lasting: Duration) {
    let began = Instant::now();
    until("a time passes", async || began.elapsed() >= lasting).await;
}

async fn reached(proxy: &Proxy, endpoint: Endpoint, count: u64) {
    tokio::time::timeout(PATIENCE, proxy.idp().control().arrived(endpoint, count)).await.expect("it was not asked");
}

/// Adds ann to the group in the rules, or removes her.
fn regroup(proxy: &Proxy, member: bool) {
    let mut ann = proxy.idp().users().into_iter().find(|user| user.id == "ann").unwrap();
    let github = ann.github.as_mut().unwrap();
    github.memberships = vec![Membership { org: if member { "acme" } else { "other" }.into(), active: true }];
    github.teams = Vec::<Team>::new();
    let group = if member { dev_idp::users::PLATFORM_GROUP } else { dev_idp::users::STAFF_GROUP };
    ann.entra.as_mut().unwrap().groups = vec![group.to_owned()];
    ann.oidc.as_mut().unwrap().groups = vec![if member { "acme" } else { "other" }.to_owned()];
    proxy.idp().put_user(ann);
}

/// The group of ann in a rule for this provider.
fn group(kind: &str) -> &'static str {
    if kind == "entra" { dev_idp::users::PLATFORM_GROUP } else { "acme" }
}

#[tokio::test]
async fn fifty_requests_at_once_on_a_session_that_is_due_cost_one_token_call() {
    let upstream = Upstream::start().await;
    for kind in KINDS {
        let proxy = refreshing(kind, &upstream).await.start().await;
        let mut ann = proxy.signed_in_as("ann").await;
        let control = proxy.idp().control();
        control.token_lifetime(LONG);
        control.fail(Endpoint::Token, Fault::Hold);
        unused(Duration::from_millis(1100)).await;
        let cookie = ann.cookie_header();
        let fifty = async || {
            let requests = (0..50).map(|_| proxy.send(Request::get("/x").header("cookie", &cookie)));
            let mut answered = 0;
            for answer in futures(requests).await {
                assert_eq!(answer.status, 200, "{kind}: {answer:?}");
                answered += 1;
            }
            answered
        };
        let asked = control.requests(Endpoint::Token);
        assert_eq!(fifty().await, 50, "{kind}: while the provider takes its time");
        control.clear(Endpoint::Token);
        used_until(&mut ann, &proxy, "renewed", 1).await;
        assert_eq!(fifty().await, 50, "{kind}: after it");
        // The sign-in itself made the first call.
        assert_eq!((asked, control.requests(Endpoint::Token), control.refreshes()), (1, 2, 1), "{kind}");
    }
}

/// Two replicas with a shared store, so that both renew the same session's tokens.
async fn replicas(redis: &Redis, upstream: &Upstream) -> (Proxy, Proxy) {
    let plan = refreshing("oidc", upstream).await.env("SESSION_STORE", "redis").env("SESSION_REDIS_URL", redis.url());
    let plan = plan.env("SESSION_SECRET", "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTAxMjM0NTY3ODk=");
    let twin = plan.twin();
    (plan.start().await, twin.start().await)
}

#[tokio::test]
async fn fifty_requests_at_once_on_two_replicas_cost_one_token_call() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let (one, two) = replicas(&redis, &upstream).await;
    let ann = one.signed_in_as("ann").await;
    let token = ann.cookie("session_token").unwrap().to_owned();
    assert_eq!(two.get_as(&token, "/x").await.status, 200);
    let control = one.idp().control();
    control.token_lifetime(LONG);
    control.fail(Endpoint::Token, Fault::Slow(Duration::from_millis(500)));
    unused(Duration::from_millis(1100)).await;
    let (mut answers, began) = (0, Instant::now());
    until("it is renewed", async || {
        let requests = (0..50).map(|n| if n % 2 == 0 { &one } else { &two }.get_as(&token, "/x"));
        for answer in futures(requests).await {
            assert_eq!(answer.status, 200, "{answer:?}");
            answers += 1;
        }
        count(&one, "renewed").await + count(&two, "renewed").await >= 1 && began.elapsed() > Duration::from_secs(4)
    })
    .await;
    println!("{answers} answers of 200 on two replicas, {} token call", control.refreshes());
    // The sign-in itself made the first call.
    assert_eq!((control.requests(Endpoint::Token), control.refreshes()), (2, 1));
    assert_eq!(count(&one, "renewed").await + count(&two, "renewed").await, 1);
}

#[tokio::test]
async fn a_renewal_on_one_replica_and_an_end_on_another_hold_on_both() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let (one, two) = replicas(&redis, &upstream).await;
    let mut ann = one.signed_in_as("ann").await;
    let token = ann.cookie("session_token").unwrap().to_owned();
    assert_eq!(two.get_as(&token, "/x").await.status, 200);
    // Tokens rotate on both replicas: reuse of an old one would make the provider revoke the grant.
    for _ in 0..2 {
        used_until(&mut ann, &one, "renewed", count(&one, "renewed").await + 1).await;
        let wanted = count(&two, "renewed").await + 1;
        until("the other replica renews it", async || {
            assert_eq!(two.get_as(&token, "/x").await.status, 200, "{}", two.log());
            count(&two, "renewed").await >= wanted
        })
        .await;
    }
    // A logout on one replica while the other renews.
    let control = one.idp().control();
    let asked = control.requests(Endpoint::Token);
    control.fail(Endpoint::Token, Fault::Hold);
    until("the other replica asks", async || {
        assert_eq!(two.get_as(&token, "/x").await.status, 200);
        control.requests(Endpoint::Token) > asked
    })
    .await;
    assert_eq!(ann.post("/api/v1/auth/logout").await.status, 200);
    control.clear(Endpoint::Token);
    until("the renewal has ended", async || count(&two, "ended_before").await == 1).await;
    for proxy in [&one, &two] {
        assert_eq!(proxy.get_as(&token, "/x").await.status, 401, "it came back by its renewal");
    }
}

#[tokio::test]
async fn a_token_that_was_rotated_is_saved_before_the_process_ends() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let (mut one, two) = replicas(&redis, &upstream).await;
    let ann = one.signed_in_as("ann").await;
    let token = ann.cookie("session_token").unwrap().to_owned();
    let control = one.idp().control();
    control.fail(Endpoint::Token, Fault::Slow(Duration::from_millis(1500)));
    unused(Duration::from_millis(1100)).await;
    assert_eq!(one.get_as(&token, "/x").await.status, 200);
    reached(&one, Endpoint::Token, 2).await;
    control.clear(Endpoint::Token);
    one.signal("TERM");
    assert!(one.ended().await.success());
    // If it were lost, the other replica would reuse the old one, and the session would end.
    until("the other replica renews it", async || {
        assert_eq!(two.get_as(&token, "/x").await.status, 200, "{}", two.log());
        count(&two, "renewed").await >= 1
    })
    .await;
}

/// Waits for all of them at once.
async fn futures<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = all.map(Box::pin).map(Some).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        for slot in &mut waiting {
            if let Some(future) = slot
                && let std::task::Poll::Ready(output) = future.as_mut().poll(context)
            {
                done.push(output);
                *slot = None;
            }
        }
        if waiting.iter().all(Option::is_none) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}

#[tokio::test]
async fn a_provider_that_fails_signs_nobody_out_and_is_asked_again_when_it_works() {
    let upstream = Upstream::start().await;
    for (kind, fault) in [("oidc", Fault::Status(500)), ("github", Fault::Malformed), ("entra", Fault::Status(503))] {
        let proxy = refreshing(kind, &upstream).await.start().await;
        let mut ann = proxy.signed_in_as("ann").await;
        proxy.idp().control().fail(Endpoint::Token, fault);
        used_until(&mut ann, &proxy, "put_off", 2).await;
        proxy.idp().control().clear(Endpoint::Token);
        used_until(&mut ann, &proxy, "renewed", 1).await;
        assert_eq!(count(&proxy, "ended").await, 0, "{kind}");
    }
}

#[tokio::test]
async fn a_user_whom_the_provider_no_longer_knows_is_signed_out_and_the_log_says_why() {
    let upstream = Upstream::start().await;
    for (kind, word) in [("oidc", "invalid_grant"), ("entra", "invalid_grant"), ("github", "bad_refresh_token")] {
        let proxy = refreshing(kind, &upstream).await.start().await;
        let mut ann = proxy.signed_in_as("ann").await;
        let mut bob = proxy.signed_in_as("bob").await;
        proxy.idp().remove_user("ann");
        until("the session ends", async || ann.get("/x").await.status == 401).await;
        assert_eq!(ann.get("/api/v1/auth/me").await.code(), "unauthenticated");
        proxy.logs("Sessions ended: ").await;
        let line = proxy.log().lines().find(|line| line.contains("Sessions ended: ")).unwrap().to_owned();
        assert!(line.contains(word) && line.contains("sidegate::audit"), "{kind}: {line}");
        assert_eq!(bob.get("/x").await.status, 200, "{kind}: another user's goes on");
    }
}

#[tokio::test]
async fn new_tokens_of_another_subject_end_the_session() {
    let upstream = Upstream::start().await;
    for (kind, claim) in [("oidc", "sub"), ("entra", "oid")] {
        let proxy = refreshing(kind, &upstream).await.start().await;
        let mut ann = proxy.signed_in_as("ann").await;
        proxy.idp().control().lie(Lie::Claim(claim.into(), "somebody-else".into()));
        until("the session ends", async || ann.get("/x").await.status == 401).await;
        proxy.logs("of another").await;
    }
}

#[tokio::test]
async fn rotated_tokens_are_kept_and_groups_count_as_they_are_at_the_provider() {
    let upstream = Upstream::start().await;
    for kind in KINDS {
        let plan = refreshing(kind, &upstream).await.env("OAUTH_ALLOWED_GROUPS", group(kind));
        let proxy = plan.start().await;
        let mut ann = proxy.signed_in_as("ann").await;
        // Reuse would make the provider revoke the grant, and end the session.
        used_until(&mut ann, &proxy, "renewed", 3).await;
        regroup(&proxy, false);
        until("she is out", async || ann.get("/x").await.status == 403).await;
        regroup(&proxy, true);
        until("she is back, with the session that she had", async || ann.get("/x").await.status == 200).await;
        assert!(proxy.idp().control().refreshes() >= 4, "{kind}");
    }
}

#[tokio::test]
async fn without_refresh_tokens_the_access_token_reads_again_every_session_recheck() {
    let upstream = Upstream::start().await;
    for kind in KINDS {
        let plan = Proxy::with_sign_in(kind, &upstream).await.env("OAUTH_ALLOWED_GROUPS", group(kind));
        let proxy = plan.env("SESSION_RECHECK", "1s").start().await;
        let mut ann = proxy.signed_in_as("ann").await;
        used_until(&mut ann, &proxy, "renewed", 2).await;
        regroup(&proxy, false);
        until("she is out", async || ann.get("/x").await.status == 403).await;
        assert_eq!(proxy.idp().control().refreshes(), 0, "{kind}");
        let off = Proxy::with_sign_in(kind, &upstream).await.env("SESSION_RECHECK", "0").start().await;
        let mut ann = off.signed_in_as("ann").await;
        let asked = off.idp().control().requests(Endpoint::User);
        unused(Duration::from_millis(1200)).await;
        assert_eq!(ann.get("/x").await.status, 200);
        assert_eq!((count(&off, "renewed").await, off.idp().control().requests(Endpoint::User)), (0, asked), "{kind}");
    }
}

#[tokio::test]
async fn tokens_that_are_too_long_to_be_kept_are_not_renewed_and_the_log_says_so() {
    let too_long = || Lie::TokenField("refresh_token".into(), "r".repeat(33 * 1024).into());
    let upstream = Upstream::start().await;
    // Those of the sign-in.
    let proxy = refreshing("oidc", &upstream).await.start().await;
    proxy.idp().control().lie(too_long());
    let mut ann = proxy.signed_in_as("ann").await;
    proxy.logs("tokens are too long to be kept (").await;
    assert!(proxy.log().contains("it is not renewed, and lasts until SESSION_TTL"), "{}", proxy.log());
    for _ in 0..3 {
        unused(Duration::from_millis(700)).await;
        assert_eq!(ann.get("/x").await.status, 200);
    }
    assert_eq!((count(&proxy, "unusable").await, count(&proxy, "renewed").await), (0, 0), "{}", proxy.log());
    assert!(!proxy.log().contains("cannot be opened by any SESSION_SECRET"), "{}", proxy.log());
    // Those of a renewal.
    let proxy = refreshing("oidc", &upstream).await.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    proxy.idp().control().lie(too_long());
    used_until(&mut ann, &proxy, "unusable", 1).await;
    proxy.logs("tokens are too long to be kept (").await;
    unused(Duration::from_millis(1500)).await;
    assert_eq!(ann.get("/x").await.status, 200);
    assert_eq!((count(&proxy, "unusable").await, count(&proxy, "renewed").await), (1, 0), "{}", proxy.log());
    assert_eq!(proxy.idp().control().refreshes(), 1);
}

#[tokio::test]
async fn a_logout_during_a_renewal_stays_a_logout() {
    let upstream = Upstream::start().await;
    let proxy = refreshing("oidc", &upstream).await.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    proxy.idp().control().fail(Endpoint::Token, Fault::Hold);
    unused(Duration::from_millis(1100)).await;
    let cookie = ann.cookie_header();
    let with_cookie = async || proxy.send(Request::get("/x").header("cookie", &cookie)).await.status.as_u16();
    assert_eq!(with_cookie().await, 200);
    reached(&proxy, Endpoint::Token, 2).await;
    assert_eq!(ann.post("/api/v1/auth/logout").await.status, 200);
    assert_eq!(with_cookie().await, 401);
    proxy.idp().control().clear(Endpoint::Token);
    until("the renewal has ended", async || count(&proxy, "ended_before").await == 1).await;
    assert_eq!(with_cookie().await, 401, "it came back by its renewal");
    assert_eq!(count(&proxy, "renewed").await, 0);
}

#[tokio::test]
async fn a_session_that_nobody_used_for_long_is_renewed_before_it_lets_a_request_in() {
    let upstream = Upstream::start().await;
    let proxy = refreshing("oidc", &upstream).await.env("SESSION_RECHECK", "1s").start().await;
    let (mut ann, mut bob) = (proxy.signed_in_as("ann").await, proxy.signed_in_as("bob").await);
    unused(Duration::from_millis(2400)).await;
    proxy.idp().remove_user("ann");
    let received = upstream.received().len();
    assert_eq!(ann.get("/x").await.status, 401, "she was let in once more");
    assert_eq!(upstream.received().len(), received);
    proxy.idp().control().fail(Endpoint::Token, Fault::Hold);
    let began = Instant::now();
    assert_eq!(bob.get("/x").await.status, 200, "a provider that does not answer signs nobody out");
    assert!(began.elapsed() >= Duration::from_secs(4) && began.elapsed() < Duration::from_secs(8), "{began:?}");
}

#[tokio::test]
async fn an_open_stream_has_its_session_renewed_and_ends_with_it() {
    let upstream = Upstream::streaming(|_| async {
        let (mut sender, body) = crate::support::client::pieces();
        tokio::spawn(async move {
            let _ = sender.send_data("data: hello\n\n".into()).await;
            std::future::pending::<()>().await;
        });
        http::Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
    })
    .await;
    let proxy = refreshing("oidc", &upstream).await.start().await;
    let ann = proxy.signed_in_as("ann").await;
    let mut client = Client::http1(proxy.address).await;
    let request = Request::get("/events").header("cookie", ann.cookie_header());
    let mut stream = client.send(request, full("")).await.unwrap().into_body();
    assert!(next_data(&mut stream).await.unwrap().unwrap().starts_with(b"data: hello"));
    until("it is renewed though nothing is asked", async || count(&proxy, "renewed").await >= 1).await;
    proxy.idp().remove_user("ann");
    let ended = next_data(&mut stream).await;
    assert!(ended.is_none_or(|piece| piece.is_err()), "the stream outlives the person");
    assert_eq!(count(&proxy, "ended").await, 1);
}

#[tokio::test]
async fn a_renewal_never_makes_a_session_last_longer() {
    let upstream = Upstream::start().await;
    let proxy = refreshing("oidc", &upstream).await.env("SESSION_TTL", "4s").start().await;
    let began = Instant::now();
    let mut ann = proxy.signed_in_as("ann").await;
    let ends = ann.get("/api/v1/auth/session").await.json()["expires_at"].clone();
    used_until(&mut ann, &proxy, "renewed", 1).await;
    assert_eq!(ann.get("/api/v1/auth/session").await.json()["expires_at"], ends);
    until("the session ends", async || ann.get("/x").await.status == 401).await;
    assert!(began.elapsed() < Duration::from_secs(8), "it ended too late, after {:?}", began.elapsed());
}
