//! Signing in and out, at each kind of provider, in several tabs, and from a deep link.

use crate::browser::Browser;
use crate::http;
use crate::stack::{Provider, Stack};

#[tokio::test]
async fn a_person_signs_in_with_github_and_out_and_is_asked_again() {
    signs_in_and_out(Provider::GitHub, "github").await;
}

#[tokio::test]
async fn a_person_signs_in_with_entra_and_out_and_is_asked_again() {
    signs_in_and_out(Provider::Entra, "entra").await;
}

#[tokio::test]
async fn a_person_signs_in_with_openid_connect_and_out_and_is_asked_again() {
    signs_in_and_out(Provider::Oidc, "oidc").await;
}

async fn signs_in_and_out(provider: Provider, name: &str) {
    let Some(browser) = Browser::open().await else { return };
    let stack = Stack::start(provider);
    let home = format!("{}/", stack.origin);

    browser.goto(&home).await;
    browser.sees(ANN).await;
    assert!(browser.url().await.starts_with(&stack.idp), "{}", browser.url().await);
    browser.picture(&format!("{name}-provider")).await;
    browser.click(ANN).await;
    assert_eq!(browser.sees("#who").await, "Ann Example");
    assert_eq!(browser.url().await, home);
    let session = browser.session().await.expect("the browser has a session");
    assert_eq!(http::visit(stack.port, "/", &session).status, 200);
    browser.picture(&format!("{name}-signed-in")).await;

    browser.click("#sign-out").await;
    browser.sees("main[data-page=signed-out]").await;
    assert_eq!(browser.url().await, format!("{}/api/v1/auth/signed-out", stack.origin));
    assert_eq!(browser.session().await, None);
    assert_eq!(http::visit(stack.port, "/", &session).status, 302, "the session is dead, not only its cookie cleared");
    browser.picture(&format!("{name}-signed-out")).await;

    // The provider has its own session, which this sign-out does not end: it shows its page only on request, ...
    browser.click("#sign-in-as-someone-else").await;
    browser.sees(ANN).await;
    // ... and, once it has forgotten her, always.
    browser.goto(&format!("{}/oidc/end_session", stack.idp)).await;
    browser.goto(&home).await;
    browser.sees(ANN).await;
}

#[tokio::test]
async fn two_tabs_that_sign_in_at_once_both_succeed() {
    let Some(browser) = Browser::open().await else { return };
    let stack = Stack::start(Provider::GitHub);

    browser.goto(&format!("{}/?tab=1", stack.origin)).await;
    browser.sees(ANN).await;
    let first = browser.new_tab().await;
    browser.goto(&format!("{}/?tab=2", stack.origin)).await;
    browser.sees(ANN).await;

    let second = browser.switch_to(first).await;
    browser.click(ANN).await;
    assert_eq!(browser.sees("#who").await, "Ann Example");
    assert_eq!(browser.url().await, format!("{}/?tab=1", stack.origin));
    let first = browser.switch_to(second).await;
    browser.click(ANN).await;
    assert_eq!(browser.sees("#who").await, "Ann Example");
    assert_eq!(browser.url().await, format!("{}/?tab=2", stack.origin));

    browser.switch_to(first).await;
    browser.goto(&stack.origin).await;
    assert_eq!(browser.sees("#who").await, "Ann Example");
}

#[tokio::test]
async fn a_deep_link_is_reached_after_sign_in() {
    let Some(browser) = Browser::open().await else { return };
    let stack = Stack::start(Provider::GitHub);
    let link = format!("{}/some/path?x=1&y=a%2Fb", stack.origin);

    browser.goto(&link).await;
    browser.click(ANN).await;
    // The orchestrator's own response: it has no such page.
    assert_eq!(browser.sees("#who").await, "Ann Example");
    assert_eq!((browser.url().await, browser.status().await), (link, 404));
}

#[tokio::test]
async fn a_request_by_another_name_of_the_host_is_redirected_to_the_public_one() {
    let Some(browser) = Browser::open().await else { return };
    let stack = Stack::start(Provider::GitHub);

    browser.goto(&format!("http://127.0.0.1:{}/?from=elsewhere", stack.port)).await;
    browser.click(ANN).await;
    assert_eq!(browser.sees("#who").await, "Ann Example");
    assert_eq!(browser.url().await, format!("{}/?from=elsewhere", stack.origin));
}

#[tokio::test]
async fn going_back_to_the_provider_and_on_again_changes_nothing() {
    let Some(browser) = Browser::open().await else { return };
    let stack = Stack::start(Provider::GitHub);
    let page = format!("{}/?page=1", stack.origin);

    browser.goto(&page).await;
    browser.click(ANN).await;
    browser.sees("#who").await;
    let session = browser.session().await;
    assert!(session.is_some());

    // The provider remembers ann, and redirects her to the callback with the state of the finished attempt.
    browser.back().await;
    assert_eq!(browser.sees("#who").await, "Ann Example");
    assert_eq!(browser.url().await, format!("{}/", stack.origin));
    assert_eq!(browser.session().await, session);
}

const ANN: &str = "[data-user=ann]";
