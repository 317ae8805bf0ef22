//! Signing out everywhere: the user's other sessions, and the provider.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use url::Url;

use crate::support::redis::is_installed;
use crate::support::{Browser, HOST, Proxy, Redis, Upstream, wire};

const EVERYWHERE: &str = "/api/v1/auth/logout?everywhere=true";
const SIGNED_OUT: &str = "http://app.localhost/api/v1/auth/signed-out";
const HTML: &str = "text/html,application/xhtml+xml,*/*;q=0.8";

fn query(url: &str) -> BTreeMap<String, String> {
    Url::parse(url).unwrap().query_pairs().into_owned().collect()
}

fn form(path: &str) -> http::request::Builder {
    Request::post(path).header("accept", HTML).header("sec-fetch-site", "same-origin")
}

#[tokio::test]
async fn everywhere_ends_the_persons_other_sessions_and_names_the_place_to_sign_out_at_the_provider() {
    let upstream = Upstream::start().await;
    for kind in ["oidc", "entra", "github"] {
        let proxy = Proxy::with_sign_in(kind, &upstream).await.start().await;
        let mut here = proxy.signed_in_as("ann").await;
        let mut others = [proxy.signed_in_as("ann").await, proxy.signed_in_as("ann").await];
        let mut bob = proxy.signed_in_as("bob").await;
        let answer = here.post(EVERYWHERE).await;
        assert_eq!(answer.status, 200, "{kind}: {answer:?}");
        assert!(answer.set_cookies().iter().any(|set| set.starts_with("session_token=;")), "{answer:?}");
        let body = answer.json();
        assert_eq!(body["message"], "Logged out successfully");
        if kind == "github" {
            assert_eq!(answer.text(), r#"{"message":"Logged out successfully"}"#, "GitHub has no such place");
        } else {
            let place = body["logout_url"].as_str().unwrap();
            assert!(place.starts_with(&proxy.idp().origin()), "{place}");
            let parameters = query(place);
            assert_eq!(parameters["client_id"], "sidegate-dev");
            assert_eq!(parameters["post_logout_redirect_uri"], SIGNED_OUT);
            assert_eq!(parameters["id_token_hint"].split('.').count(), 3, "{place}");
            assert!(!proxy.log().contains(&parameters["id_token_hint"]), "the log shows the ID token");
            let url = Url::parse(place).unwrap();
            let path = format!("{}?{}", url.path(), url.query().unwrap());
            let request = Request::get(path).header("host", url.authority()).body(Full::<Bytes>::default()).unwrap();
            let answer = wire::send(proxy.idp().addr(), request).await;
            assert_eq!((answer.status.as_u16(), answer.location().as_str()), (302, SIGNED_OUT), "{kind}");
        }
        assert_eq!(here.get("/x").await.status, 401);
        for other in &mut others {
            assert_eq!(other.get("/x").await.status, 401, "{kind}: everywhere is everywhere");
        }
        assert_eq!(bob.get("/x").await.status, 200);
        proxy.logs("Sessions ended: ").await;
    }
}

#[tokio::test]
async fn a_form_is_led_to_the_provider_or_where_that_has_no_such_place_to_the_signed_out_page() {
    let upstream = Upstream::start().await;
    for kind in ["oidc", "github"] {
        let proxy = Proxy::with_sign_in(kind, &upstream).await.start().await;
        let mut ann = proxy.signed_in_as("ann").await;
        let answer = ann.send_body(form(EVERYWHERE), "").await;
        assert_eq!(answer.status, 303, "{answer:?}");
        if kind == "github" {
            assert_eq!(answer.location(), "/api/v1/auth/signed-out");
        } else {
            let place = answer.location();
            assert!(place.starts_with(&format!("{}/oidc/end_session?", proxy.idp().origin())), "{place}");
            assert!(query(&place).contains_key("id_token_hint"));
            assert_eq!(answer.header("cache-control"), "no-store");
        }
        assert_eq!(ann.get("/x").await.status, 401);
    }
}

#[tokio::test]
async fn nobodys_request_says_where_the_provider_leads_back_to() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::with_sign_in("oidc", &upstream).await.start().await;
    for more in ["&rd=https://evil.example/", "&rd=//evil.example", "&post_logout_redirect_uri=https://evil.example/"] {
        let mut nobody = Browser::of(&proxy);
        let answer = nobody.send_body(form(&format!("{EVERYWHERE}{more}")), "rd=https://evil.example/").await;
        let place = answer.location();
        let parameters = query(&place);
        assert!(place.starts_with(&proxy.idp().origin()) && !place.contains("evil"), "{place}");
        assert_eq!(parameters["post_logout_redirect_uri"], SIGNED_OUT);
        assert!(!parameters.contains_key("id_token_hint"), "there is no session to name");
    }
    let answer = proxy.send(Request::post(EVERYWHERE).header("origin", "https://evil.example")).await;
    assert_eq!(answer.code(), "cross_site");
}

#[tokio::test]
async fn a_plain_logout_stays_here_and_ends_one_session() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::with_sign_in("oidc", &upstream).await.start().await;
    let mut other = proxy.signed_in_as("ann").await;
    for path in ["logout", "logout?everywhere=false", "logout?everywhere", "logout?everywhere=1", "logout?x=everywhere"]
    {
        let mut here = proxy.signed_in_as("ann").await;
        let answer = here.post(&format!("/api/v1/auth/{path}")).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, r#"{"message":"Logged out successfully"}"#));
        assert_eq!(here.get("/x").await.status, 401);
    }
    assert_eq!(other.get("/x").await.status, 200);
}

#[tokio::test]
async fn where_the_other_sessions_are_not_found_the_answer_does_not_say_that_they_are_being_ended() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let plan = Proxy::with_sign_in("github", &upstream).await.env("SESSION_STORE", "redis");
    let plan = plan.env("SESSION_REDIS_URL", redis.url());
    let proxy = plan.env("SESSION_SECRET", "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTAxMjM0NTY3ODk=").start().await;
    let (mut here, mut other) = (proxy.signed_in_as("ann").await, proxy.signed_in_as("ann").await);
    // Lists of sessions cannot be read: the one at hand ends.
    redis.ask(&["ACL", "SETUSER", "default", "-zrevrangebyscore"]).await.unwrap();
    let answer = here.send_body(form(EVERYWHERE), "").await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after").as_str()), (503, "60"), "{answer:?}");
    assert!(answer.set_cookies().iter().any(|set| set.starts_with("session_token=;")), "{answer:?}");
    let text = answer.text();
    assert!(text.contains("nothing goes on trying") && !text.contains("goes on by itself"), "{text}");
    assert_eq!(other.get("/x").await.status, 200, "nobody tries again");
    proxy.logs("Signed out: ann").await;
    proxy.logs("a logout did not end every session").await;
}

#[tokio::test]
async fn where_the_store_confirms_no_end_the_answer_says_that_this_goes_on_by_itself() {
    if !is_installed() {
        return;
    }
    let (master, upstream) = (Redis::start().await, Upstream::start().await);
    let _replica = master.replica().await;
    let plan = Proxy::with_sign_in("github", &upstream).await.env("SESSION_STORE", "redis");
    let plan = plan.env("SESSION_REDIS_URL", master.url());
    let proxy = plan.env("SESSION_SECRET", "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTAxMjM0NTY3ODk=").start().await;
    let (mut here, mut other) = (proxy.signed_in_as("ann").await, proxy.signed_in_as("ann").await);
    // What is written now is never known to be on the replica.
    master.ask(&["ACL", "SETUSER", "default", "-wait"]).await.unwrap();
    let answer = here.send_body(form(EVERYWHERE), "").await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after").as_str()), (503, "2"), "{answer:?}");
    assert!(answer.text().contains("goes on by itself"), "{answer:?}");
    assert_eq!(other.get("/x").await.status, 401, "it has ended here");
    proxy.logs("the person signed out everywhere").await;
}

#[tokio::test]
async fn the_signed_out_page_leads_on_to_a_provider_that_has_a_place_to_sign_out() {
    let upstream = Upstream::start().await;
    for kind in ["oidc", "entra", "github"] {
        let proxy = Proxy::with_sign_in(kind, &upstream).await.start().await;
        let page = Browser::of(&proxy).open("/api/v1/auth/signed-out").await.text();
        let place =
            page.split_once("id=\"sign-out-at-provider\" href=\"").map(|(_, rest)| rest.split('"').next().unwrap());
        match place {
            None => assert_eq!(kind, "github", "{page}"),
            Some(place) => {
                let place = place.replace("&#38;", "&");
                assert!(place.starts_with(&proxy.idp().origin()), "{place}");
                assert_eq!(query(&place)["post_logout_redirect_uri"], SIGNED_OUT);
            }
        }
        assert!(page.contains("You are signed out"));
    }
    assert!(SIGNED_OUT.contains(HOST));
}
