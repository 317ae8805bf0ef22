//! Being refused, and how to continue from there.

use crate::browser::Browser;
use crate::stack::{Provider, Stack};

#[tokio::test]
async fn a_user_who_is_not_on_the_list_is_refused_and_may_sign_in_as_another_user() {
    let Some(browser) = Browser::open().await else { return };
    let stack = Stack::start(Provider::GitHub);

    browser.goto(&stack.origin).await;
    browser.click("[data-user=eve]").await;
    let page = browser.sees("main[data-code=not_allowed]").await;
    assert!(page.contains("You are not authorized"), "{page}");
    assert_eq!(browser.status().await, 403);
    assert_eq!(browser.session().await, None, "who is refused gets no session");
    browser.picture("denied").await;

    // The provider would sign eve in again by itself: it must be made to ask.
    browser.click("#sign-in-as-someone-else").await;
    browser.click("[data-user=ann]").await;
    assert_eq!(browser.sees("#who").await, "Ann Example");
}

#[tokio::test]
async fn a_user_who_cancels_at_the_provider_sees_that_and_may_try_again() {
    let Some(browser) = Browser::open().await else { return };
    let stack = Stack::start(Provider::GitHub);

    browser.goto(&stack.origin).await;
    browser.click("[data-action=cancel]").await;
    let page = browser.sees("main[data-code=sign_in_cancelled]").await;
    assert!(page.contains("Sign-in was cancelled"), "{page}");
    assert_eq!(browser.status().await, 403);
    browser.picture("cancelled").await;

    browser.click("#try-again").await;
    browser.click("[data-user=ann]").await;
    assert_eq!(browser.sees("#who").await, "Ann Example");
}
