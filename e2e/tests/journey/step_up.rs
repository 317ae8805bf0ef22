//! A sign-in that is too old for the requested page: the user signs in again, and returns.

use serde_json::json;

use crate::browser::Browser;
use crate::http;
use crate::stack::{Provider, Stack};

const RULES: &str = "[[routes]]\nname = \"settings\"\npath = \"/settings/**\"\nallow = \"listed\"\nmax_age = \"15m\"\n";
const ANN: &str = "[data-user=ann]";

#[tokio::test]
async fn a_user_who_signed_in_long_ago_signs_in_again_where_a_rule_asks_for_it_and_is_not_asked_again() {
    let Some(browser) = Browser::open().await else { return };
    let stack = Stack::with_rules(Provider::Oidc, RULES);
    let (home, settings) = (format!("{}/", stack.origin), format!("{}/settings/keys?x=1", stack.origin));

    // The provider reports an old `auth_time` for her.
    stack.provider_lies(Some(json!({ "claim": ["auth_time", 1_700_000_000] })));
    browser.goto(&home).await;
    browser.click(ANN).await;
    assert_eq!(browser.sees("#who").await, "Ann Example");
    let old = browser.session().await.expect("the browser has a session");
    stack.provider_lies(None);

    // Without a rule, her sign-in is recent enough.
    browser.goto(&home).await;
    assert_eq!(browser.sees("#who").await, "Ann Example");
    // A program gets an error, and no redirect.
    let refused = http::exchange(stack.port, "GET", "/settings/keys", &format!("Cookie: {old}\r\n"), "").unwrap();
    assert!(refused.status == 401 && refused.body.contains("login?max_age=900"), "{}", refused.body);

    // She is redirected to the provider, which asks although it remembers her, and back to the requested page.
    browser.goto(&settings).await;
    browser.sees(ANN).await;
    assert!(browser.url().await.starts_with(&stack.idp), "{}", browser.url().await);
    browser.click(ANN).await;
    // The orchestrator's own response: it has no such page.
    browser.sees("body").await;
    assert_eq!((browser.url().await, browser.status().await), (settings.clone(), 404));
    let new = browser.session().await.expect("the browser has a session");
    assert_ne!(new, old, "a new sign-in is a new session");

    // Within the allowed age no new sign-in is required, on this page and others.
    let other = format!("{}/settings/others", stack.origin);
    browser.goto(&other).await;
    assert_eq!((browser.url().await, browser.status().await), (other, 404));
    browser.goto(&settings).await;
    assert_eq!((browser.url().await, browser.status().await), (settings, 404));
    browser.goto(&home).await;
    assert_eq!(browser.sees("#who").await, "Ann Example");
}
