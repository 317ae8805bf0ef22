//! GitHub.

use dev_idp::users::CAROLS_GROUPS;
use dev_idp::{Endpoint, Fault, Lie};

use super::*;
use crate::domain::identity::{ProviderKind, Username};
use crate::ports::Prompt;

pub(super) fn settings(origin: &str) -> ProviderSettings {
    with(origin, "", &["read:user", "user:email", "read:org"], &["Acme", "acme/Platform"])
}

fn with(origin: &str, api: &str, scopes: &[&str], groups: &[&str]) -> ProviderSettings {
    ProviderSettings::Github {
        client: client(scopes),
        web: url(origin),
        api: url(&format!("{origin}{api}")),
        groups: groups.iter().map(ToString::to_string).collect(),
    }
}

#[tokio::test]
async fn ann_is_who_github_says_also_at_an_enterprise_server() {
    for api in ["", "/api/v3", "/api/v3/"] {
        let bench =
            Bench::with(|origin| with(origin, api, &["read:user", "user:email", "read:org"], &["acme/platform"])).await;
        let who = bench.sign_in("ann").await.unwrap();
        assert_eq!(who.provider, ProviderKind::Github);
        assert_eq!((who.id.as_str(), who.email_str(), who.name.as_str()), ("1001", "ann@example.com", "Ann Example"));
        assert_eq!(who.username, Username::Vouched("ann".into()));
        assert_eq!(who.groups, ["acme/platform", "acme"]);
        let asked = bench.control().last(Endpoint::User).unwrap();
        assert!(asked.target.ends_with("/user") && asked.header("x-github-api-version") == Some("2022-11-28"));
        assert!(asked.header("user-agent").unwrap().starts_with("sidegate/"));
    }
}

#[tokio::test]
async fn the_browser_is_sent_with_a_challenge_and_no_nonce() {
    let bench = Bench::with(settings).await;
    let address = bench.provider.authorization_url(&attempt(), Some(Prompt::SelectAccount)).unwrap();
    assert_eq!(address.path(), "/login/oauth/authorize");
    assert_eq!(parameter(&address, "code_challenge_method").as_deref(), Some("S256"));
    assert_eq!(parameter(&address, "prompt").as_deref(), Some("select_account"));
    assert_eq!(parameter(&address, "nonce"), None);
}

#[tokio::test]
async fn all_pages_count_and_what_the_rules_name_comes_first() {
    let bench = Bench::with(settings).await;
    let who = bench.sign_in("carol").await.unwrap();
    assert_eq!(who.groups.len(), 2 * CAROLS_GROUPS);
    assert_eq!(who.groups[..2], ["acme", "acme/platform"]);
    assert_eq!(bench.control().requests(Endpoint::Memberships), 3);
    assert_eq!(bench.control().requests(Endpoint::Teams), 3);
}

#[tokio::test]
async fn a_pending_invitation_makes_nobody_a_member() {
    let bench = Bench::with(settings).await;
    let mut bob = bench.idp.users().into_iter().find(|user| user.id == "bob").unwrap();
    bob.github.as_mut().unwrap().teams = vec![dev_idp::users::Team { org: "acme".into(), slug: "platform".into() }];
    bench.idp.put_user(bob);
    assert!(bench.sign_in("bob").await.unwrap().groups.is_empty());
}

#[tokio::test]
async fn groups_are_read_only_where_a_rule_asks_for_them() {
    let bench = Bench::with(|origin| with(origin, "", &["read:user", "user:email"], &[])).await;
    assert!(bench.sign_in("ann").await.unwrap().groups.is_empty());
    assert_eq!(bench.control().requests(Endpoint::Memberships), 0);
    let bench = Bench::with(|origin| with(origin, "", &["read:user", "user:email", "read:org"], &["acme"])).await;
    assert_eq!(bench.sign_in("ann").await.unwrap().groups, ["acme"]);
    assert_eq!(bench.control().requests(Endpoint::Teams), 0);
}

#[tokio::test]
async fn an_unverified_or_unreadable_address_is_none() {
    let bench = Bench::with(settings).await;
    assert_eq!(bench.sign_in("eve").await.unwrap().email, None);
    let bench = Bench::with(|origin| with(origin, "", &["read:user"], &[])).await;
    assert_eq!(bench.sign_in("ann").await.unwrap().email, None);
}

#[tokio::test]
async fn groups_that_cannot_be_read_are_nobodys() {
    let bench = Bench::with(settings).await;
    for (fault, outcome) in bench.through_faults(Endpoint::Memberships, "ann").await {
        assert!(outcome.unwrap().groups.is_empty(), "{fault:?}");
    }
    for (fault, outcome) in bench.through_faults(Endpoint::Teams, "ann").await {
        assert_eq!(outcome.unwrap().groups, ["acme"], "{fault:?}");
    }
    let unscoped = Bench::with(|origin| with(origin, "", &["read:user", "user:email"], &["acme"])).await;
    assert!(unscoped.sign_in("ann").await.unwrap().groups.is_empty());
}

#[tokio::test]
async fn every_fault_of_an_endpoint_is_reported_for_what_it_is() {
    let bench = Bench::with(settings).await;
    for (fault, outcome) in bench.through_faults(Endpoint::Token, "ann").await {
        let reason = exchange_reason(outcome);
        assert!(reason.contains(words_of(&fault)), "{fault:?}: {reason}");
        assert_no_secret(&reason);
    }
    for endpoint in [Endpoint::User, Endpoint::Emails] {
        for (fault, outcome) in bench.through_faults(endpoint, "ann").await {
            let reason = user_reason(outcome);
            assert!(reason.contains(words_of(&fault)), "{endpoint:?} {fault:?}: {reason}");
            assert_no_secret(&reason);
        }
    }
    bench.control().fail(Endpoint::User, Fault::Status(401));
    assert!(user_reason(bench.sign_in("ann").await).contains("answered 401"));
}

#[tokio::test]
async fn an_error_at_status_200_is_an_error() {
    let bench = Bench::with(settings).await;
    let reason = exchange_reason(bench.provider.sign_in(&Secret::new("n0such"), &attempt(), bench.now).await);
    assert!(reason.contains("bad_verification_code") && !reason.contains("n0such"), "{reason}");
    for (lie, word) in [(Lie::NoAccessToken, "not a token response"), (Lie::TokenType("mac".into()), "bearer")] {
        bench.control().lie(lie);
        assert!(exchange_reason(bench.sign_in("ann").await).contains(word));
        bench.control().honest();
    }
}

#[tokio::test]
async fn a_callbacks_issuer_is_githubs_where_it_is_sent() {
    let bench = Bench::with(settings).await;
    let web = bench.idp.origin();
    for good in [None, Some(web.clone()), Some(format!("{web}/login/oauth"))] {
        assert!(bench.provider.check_issuer(good.as_deref()).is_ok(), "{good:?}");
    }
    for bad in ["https://evil.example", "", "https://evil.example/login/oauth"] {
        assert!(matches!(bench.provider.check_issuer(Some(bad)), Err(SignInError::Issuer(_))), "{bad}");
    }
}
