//! Renewals: by refresh tokens that rotate, and by access tokens while they last.

use dev_idp::users::{ADMIN_ROLE, CONSUMERS, CONTOSO, FABRIKAM, Membership, PLATFORM_GROUP, STAFF_GROUP};
use dev_idp::{Endpoint, Fault, Lie, User};
use serde_json::json;

use super::super::Tenants;
use super::*;
use crate::domain::claims::Claims;
use crate::domain::grant::Grant;
use crate::domain::identity::Username;
use crate::ports::{RenewError, Renewed};

const KINDS: [&str; 3] = ["github", "entra", "oidc"];

/// A provider that issues refresh tokens.
async fn refreshing(kind: &str) -> Bench {
    let bench = Bench::with(|origin| with_scopes(kind, origin, &["offline_access"])).await;
    if kind == "github" {
        bench.control().expiring_github_tokens();
        bench.control().token_lifetime(Duration::from_secs(3600));
    }
    bench
}

/// A provider that issues none.
async fn plain(kind: &str) -> Bench {
    Bench::with(|origin| with_scopes(kind, origin, &[])).await
}

fn with_scopes(kind: &str, origin: &str, more: &[&str]) -> ProviderSettings {
    let mut settings = match kind {
        "github" => github::settings(origin),
        "entra" => entra::contoso(origin),
        _ => oidc::settings(origin),
    };
    let (ProviderSettings::Github { client, .. }
    | ProviderSettings::Entra { client, .. }
    | ProviderSettings::Oidc { client, .. }) = &mut settings;
    if kind != "github" {
        client.scopes.extend(more.iter().map(ToString::to_string));
    }
    settings
}

impl Bench {
    async fn granted(&self, user: &str) -> (Identity, Grant) {
        let signed_in = self.signed_in(user).await.unwrap();
        (signed_in.identity, signed_in.grant.unwrap())
    }

    async fn renew(&self, who: &Identity, grant: &Grant) -> Result<Renewed, RenewError> {
        self.provider.renew(who, grant, self.now).await
    }

    fn user(&self, id: &str) -> User {
        self.idp.users().into_iter().find(|user| user.id == id).unwrap()
    }

    /// Moves a user from all groups to one with another name.
    fn regroup(&self, id: &str) {
        let mut user = self.user(id);
        let github = user.github.as_mut().unwrap();
        github.memberships = vec![Membership { org: "other".into(), active: true }];
        github.teams.clear();
        user.entra.as_mut().unwrap().groups = vec![STAFF_GROUP.to_owned()];
        user.oidc.as_mut().unwrap().groups = vec!["other".to_owned()];
        self.idp.put_user(user);
    }
}

fn gone<T>(outcome: Result<T, RenewError>) -> String {
    match outcome.map(drop) {
        Err(RenewError::Gone(reason)) => reason,
        other => panic!("not gone: {other:?}"),
    }
}

fn not_now<T>(outcome: Result<T, RenewError>) -> String {
    match outcome.map(drop) {
        Err(RenewError::NotNow(reason)) => reason,
        other => panic!("not put off: {other:?}"),
    }
}

fn groups_now(kind: &str) -> Vec<&'static str> {
    match kind {
        "entra" => vec![STAFF_GROUP, ADMIN_ROLE],
        _ => vec!["other"],
    }
}

#[tokio::test]
async fn a_grant_is_what_the_provider_gave() {
    for kind in KINDS {
        let bench = refreshing(kind).await;
        let (_, grant) = bench.granted("ann").await;
        assert_eq!(grant.access_expires_at, Some(bench.now + Duration::from_secs(3600)), "{kind}");
        assert!(grant.refresh.is_some(), "{kind}");
        assert_eq!(grant.id_token.is_some(), kind != "github", "{kind}");
        let bench = plain(kind).await;
        let (_, grant) = bench.granted("ann").await;
        assert!(grant.refresh.is_none(), "{kind}");
        assert_eq!(grant.access_expires_at.is_some(), kind != "github", "{kind}");
    }
}

#[tokio::test]
async fn rotated_tokens_are_kept_over_three_renewals_and_groups_are_read_again() {
    for kind in KINDS {
        let bench = refreshing(kind).await;
        let (mut who, mut grant) = bench.granted("ann").await;
        for turn in 0..3 {
            if turn == 2 {
                bench.regroup("ann");
            }
            let renewed = bench.renew(&who, &grant).await.unwrap_or_else(|error| panic!("{kind} {turn}: {error}"));
            assert!(renewed.grant.refresh != grant.refresh && renewed.grant.access != grant.access, "{kind}");
            assert_eq!(renewed.grant.id_token.is_some(), kind != "github", "{kind}");
            (who, grant) = (renewed.identity.unwrap(), renewed.grant);
        }
        assert_eq!(who.groups, groups_now(kind), "{kind}");
        assert_eq!(bench.control().refreshes(), 3);
    }
}

#[tokio::test]
async fn a_refresh_token_that_is_not_replaced_goes_on() {
    // A provider that does not rotate sends none: the old one stays in use.
    let tokens: super::super::code_flow::Tokens = super::super::code_flow::Tokens::for_test("new");
    let before = Grant {
        access: Secret::new("old"),
        access_expires_at: None,
        refresh: Some(Secret::new("refresh")),
        id_token: Some(Secret::new("id")),
        supplied_by_userinfo: vec!["groups".to_owned()],
    };
    let grant = tokens.grant(Some(&before), now());
    assert!(grant.refresh == before.refresh && grant.id_token == before.id_token && grant.access == Secret::new("new"));
    assert_eq!(grant.supplied_by_userinfo, ["groups"]);
}

#[tokio::test]
async fn a_grant_that_was_revoked_or_spent_or_needs_the_person_is_gone() {
    for kind in KINDS {
        let bench = refreshing(kind).await;
        let (who, grant) = bench.granted("ann").await;
        let word = if kind == "github" { "bad_refresh_token" } else { "invalid_grant" };
        for error in [word, "interaction_required", "access_denied"] {
            bench.control().fail(Endpoint::Token, Fault::Refuse(error.to_owned()));
            let reason = gone(bench.renew(&who, &grant).await);
            assert!(reason.contains(error), "{kind}: {reason}");
            bench.control().clear(Endpoint::Token);
        }
        bench.renew(&who, &grant).await.unwrap().identity.unwrap();
        let reason = gone(bench.renew(&who, &grant).await);
        assert!(reason.contains(word) && reason.contains("used before"), "{kind}: {reason}");
        assert_no_secret(&reason);
        let (who, grant) = bench.granted("ann").await;
        bench.idp.remove_user("ann");
        assert!(gone(bench.renew(&who, &grant).await).contains(word), "{kind}");
    }
}

#[tokio::test]
async fn a_token_endpoint_that_fails_or_refuses_for_another_reason_puts_it_off() {
    for kind in KINDS {
        let bench = refreshing(kind).await;
        let (who, grant) = bench.granted("ann").await;
        let refusals = ["temporarily_unavailable", "invalid_client", "incorrect_client_credentials", "server_error"];
        let refusals = refusals.map(|error| Fault::Refuse(error.to_owned()));
        for fault in faults().into_iter().chain([Fault::Status(401), Fault::Status(429)]).chain(refusals) {
            bench.control().fail(Endpoint::Token, fault.clone());
            let reason = not_now(bench.renew(&who, &grant).await);
            assert_no_secret(&reason);
            bench.control().clear(Endpoint::Token);
        }
        bench.renew(&who, &grant).await.unwrap().identity.unwrap();
    }
}

#[tokio::test]
async fn tokens_that_were_issued_are_kept_though_nobody_says_whose_they_are() {
    for (kind, user, endpoint) in [
        ("github", "ann", Endpoint::User),
        ("github", "ann", Endpoint::Emails),
        ("github", "ann", Endpoint::Memberships),
        ("github", "ann", Endpoint::Teams),
        ("entra", "ann", Endpoint::GraphMe),
        ("entra", "carol", Endpoint::GraphGroups),
        ("oidc", "bob", Endpoint::UserInfo),
    ] {
        let bench = refreshing(kind).await;
        let (who, mut grant) = bench.granted(user).await;
        for fault in [Fault::Status(500), Fault::Malformed, Fault::Status(429), Fault::Cut] {
            bench.control().fail(endpoint, fault.clone());
            let renewed = bench.renew(&who, &grant).await.unwrap();
            let reason = renewed.identity.expect_err("somebody was read");
            assert_no_secret(&reason);
            assert!(renewed.grant.refresh != grant.refresh, "{kind} {endpoint:?}");
            grant = renewed.grant;
            bench.control().clear(endpoint);
        }
        assert_eq!(bench.renew(&who, &grant).await.unwrap().identity.unwrap(), who, "{kind} {endpoint:?}");
    }
}

#[tokio::test]
async fn an_id_token_of_another_subject_ends_it_and_one_that_does_not_verify_puts_it_off() {
    for (kind, claim) in [("oidc", "sub"), ("entra", "oid")] {
        let bench = refreshing(kind).await;
        let (who, mut grant) = bench.granted("ann").await;
        for lie in [
            Lie::WrongIssuer,
            Lie::WrongAudience,
            Lie::Expired,
            Lie::ForgedSignature,
            Lie::AlgNone,
            Lie::UnknownKey,
            Lie::WrongAccessTokenHash,
        ] {
            bench.control().lie(lie.clone());
            let renewed = bench.renew(&who, &grant).await.unwrap();
            assert!(renewed.identity.is_err_and(|reason| reason.contains("ID token")), "{lie:?}");
            grant = renewed.grant;
            bench.control().honest();
        }
        bench.control().lie(Lie::Claim(claim.into(), json!("somebody-else")));
        assert!(gone(bench.renew(&who, &grant).await).contains("another"), "{kind}");
        bench.control().honest();
        let (who, grant) = bench.granted("ann").await;
        bench.control().lie(Lie::NoIdToken);
        assert_eq!(bench.renew(&who, &grant).await.unwrap().identity.unwrap(), who, "{kind}: it may be left out");
    }
}

#[tokio::test]
async fn userinfo_or_graph_of_another_account_than_the_new_id_token_ends_it() {
    let bench = refreshing("oidc").await;
    let (who, grant) = bench.granted("bob").await;
    bench.control().lie(Lie::OtherSubAtUserInfo);
    assert!(gone(bench.renew(&who, &grant).await).contains("another subject"));
    let bench = refreshing("entra").await;
    let (who, grant) = bench.granted("ann").await;
    let bobs = "0b1ec700-0000-4000-8000-000000001002";
    bench.control().lie(Lie::Claim("oid".into(), json!(bobs)));
    let before = Identity { id: bobs.to_owned(), ..who };
    assert!(gone(bench.renew(&before, &grant).await).contains("another account"));
}

#[tokio::test]
async fn new_tokens_are_kept_though_something_else_is_in_the_place_of_the_id_token() {
    for kind in ["entra", "oidc"] {
        let bench = refreshing(kind).await;
        let (who, mut grant) = bench.granted("ann").await;
        for odd in [json!(7), json!({}), json!(["eyJ"]), json!(true)] {
            bench.control().lie(Lie::TokenField("id_token".into(), odd.clone()));
            let renewed = bench.renew(&who, &grant).await.unwrap();
            let reason = renewed.identity.expect_err("somebody was read");
            assert!(reason.contains("`id_token` is of another kind"), "{kind}, {odd}: {reason}");
            assert_no_secret(&reason);
            assert!(
                renewed.grant.refresh != grant.refresh && renewed.grant.id_token == grant.id_token,
                "{kind}, {odd}"
            );
            grant = renewed.grant;
            bench.control().honest();
        }
        assert_eq!(bench.renew(&who, &grant).await.unwrap().identity.unwrap(), who, "{kind}");
    }
}

#[tokio::test]
async fn a_tenant_that_may_not_come_in_any_more_ends_it() {
    let bench = refreshing("entra").await;
    let (who, grant) = bench.granted("ann").await;
    let mut settings = with_scopes("entra", &bench.idp.origin(), &["offline_access"]);
    let ProviderSettings::Entra { tenants, .. } = &mut settings else { panic!("it is Entra") };
    *tenants = Tenants::Named(vec![FABRIKAM.to_owned(), CONTOSO.to_owned()]);
    let both = connect(&settings, &[], None).unwrap();
    both.refresh(bench.now).await;
    let grant = both.renew(&who, &grant, bench.now).await.unwrap().grant;
    let ProviderSettings::Entra { tenants, .. } = &mut settings else { panic!("it is Entra") };
    *tenants = Tenants::Consumers;
    let others = connect(&settings, &[], None).unwrap();
    others.refresh(bench.now).await;
    assert!(gone(others.renew(&who, &grant, bench.now).await).contains("OAUTH_TENANT_ID"));
}

#[tokio::test]
async fn naming_a_tenant_makes_nobody_believe_the_administrators_of_another_whose_people_came_before() {
    let bench = Bench::with(|origin| entra::settings(origin, Tenants::Common)).await;
    // The administrator has written ann's address into `mail`.
    let (who, grant) = bench.granted("mallory").await;
    assert_eq!(who.email_str(), "mallory@fabrikam.example");
    let naming = async |tenant: &str| {
        let tenants = Tenants::Named(vec![tenant.to_owned()]);
        let provider = connect(&entra::settings(&bench.idp.origin(), tenants), &[], None).unwrap();
        provider.refresh(bench.now).await;
        provider
    };
    let (contoso, fabrikam) = (naming(CONTOSO).await, naming(FABRIKAM).await);
    assert!(!contoso.admits(&who) && fabrikam.admits(&who) && bench.provider.admits(&who));
    assert!(gone(contoso.renew(&who, &grant, bench.now).await).contains("OAUTH_TENANT_ID"));
    let believed = fabrikam.renew(&who, &grant, bench.now).await.unwrap().identity.unwrap();
    assert_eq!(believed.email_str(), "ann@example.com");
    // A session from before tenants were kept.
    let before = Identity { claims: Claims::default(), ..who };
    let renewed = contoso.renew(&before, &grant, bench.now).await.unwrap().identity.unwrap();
    assert_eq!(renewed.email_str(), "mallory@fabrikam.example");
}

#[tokio::test]
async fn what_administrators_choose_is_gone_from_a_session_whose_tenant_is_not_named_any_more() {
    let bench = Bench::with(|origin| {
        let mut settings = entra::settings_with_claims(origin, Tenants::Named(vec![CONTOSO.to_owned()]));
        let ProviderSettings::Entra { client, .. } = &mut settings else { panic!("it is Entra") };
        client.scopes.push("offline_access".to_owned());
        settings
    })
    .await;
    bench.control().lie(Lie::Claim("department".into(), json!("finance")));
    let (who, grant) = bench.granted("ann").await;
    assert!(who.groups == [PLATFORM_GROUP, STAFF_GROUP, ADMIN_ROLE] && who.claims.hold("department", "finance"));
    assert_eq!(who.email_str(), "ann@example.com", "`mail`, which is not the user principal name");
    let common = connect(&entra::settings_with_claims(&bench.idp.origin(), Tenants::Common), &[], None).unwrap();
    common.refresh(bench.now).await;
    // By Graph, by a new ID token, and if Graph refuses the token.
    let by_access = Grant { refresh: None, ..grant.clone() };
    let mut outcomes =
        vec![common.renew(&who, &by_access, bench.now).await, common.renew(&who, &grant, bench.now).await];
    bench.idp.revoke("ann");
    outcomes.push(common.renew(&who, &by_access, bench.now).await);
    for (outcome, email) in outcomes.into_iter().zip(["ann@contoso.example", "ann@contoso.example", ""]) {
        let now = outcome.unwrap().identity.unwrap();
        assert_eq!(now.groups, [PLATFORM_GROUP, STAFF_GROUP]);
        assert_eq!(now.email_str(), email);
        assert!(!now.claims.hold("department", "finance"), "{:?}", now.claims);
        assert!(now.claims.hold("tid", CONTOSO) && now.claims.hold("oid", &who.id), "{:?}", now.claims);
    }
    // A session from before tenants were kept does not say that its tenant is the one that is named.
    let before = Identity { claims: Claims::default(), ..who };
    let now = bench.renew(&before, &by_access).await.unwrap().identity.unwrap();
    assert_eq!(now.groups, [PLATFORM_GROUP, STAFF_GROUP]);
}

#[tokio::test]
async fn a_personal_accounts_user_principal_name_is_only_displayed_after_a_renewal_too() {
    let bench = Bench::with(|origin| entra::settings(origin, Tenants::Common)).await;
    let (who, grant) = bench.granted("pat").await;
    let displayed = Username::Displayed("pat@outlook.example".into());
    let vouched = Username::Vouched("pat@outlook.example".into());
    for username in [displayed.clone(), vouched] {
        let before = Identity { username, ..who.clone() };
        let now = bench.renew(&before, &grant).await.unwrap().identity.unwrap();
        assert_eq!((now.username, now.email), (displayed.clone(), None));
    }
    // If Graph refuses the token too, and whether the tenant is named or not.
    let tenants = Tenants::Named(vec![CONSUMERS.to_owned()]);
    let named = connect(&entra::settings(&bench.idp.origin(), tenants), &[], None).unwrap();
    bench.idp.revoke("pat");
    for provider in [&bench.provider, &named] {
        let before = Identity { username: Username::Vouched("pat@outlook.example".into()), ..who.clone() };
        let now = provider.renew(&before, &grant, bench.now).await.unwrap().identity.unwrap();
        assert_eq!((now.username, now.email), (displayed.clone(), None));
    }
}

#[tokio::test]
async fn an_address_of_a_proven_domain_stands_at_a_recheck_by_graph_also_that_of_a_personal_account() {
    let bench = Bench::with(|origin| entra::settings(origin, Tenants::Common)).await;
    let mut pat = bench.user("pat");
    pat.entra.as_mut().unwrap().edov = Some(true);
    bench.idp.put_user(pat);
    for (user, proven, by_graph) in
        [("bob", "bob@example.com", "bob@contoso.example"), ("pat", "pat@outlook.example", "")]
    {
        let (who, grant) = bench.granted(user).await;
        assert_eq!(who.email_str(), proven);
        assert_eq!(bench.renew(&who, &grant).await.unwrap().identity.unwrap(), who);
        // A session from before it was kept that the domain is proven: an administrator may have chosen the address.
        let mut before = who.clone();
        before.claims.set("sidegate:email_proven_by", Vec::new());
        assert_eq!(bench.renew(&before, &grant).await.unwrap().identity.unwrap().email_str(), by_graph);
        // If Graph refuses the token.
        bench.idp.revoke(user);
        assert_eq!(bench.renew(&who, &grant).await.unwrap().identity.unwrap(), who);
        assert_eq!(bench.renew(&before, &grant).await.unwrap().identity.unwrap().email, None);
    }
}

#[tokio::test]
async fn an_address_that_a_named_tenants_administrator_chose_takes_no_proof_over_from_another() {
    let bench = Bench::with(|origin| entra::settings(origin, Tenants::Common)).await;
    let (who, grant) = bench.granted("bob").await;
    assert_eq!(who.email_str(), "bob@example.com", "its domain is proven");
    let mut bob = bench.user("bob");
    bob.entra.as_mut().unwrap().mail = Some("ann@example.com".to_owned());
    bench.idp.put_user(bob);
    let tenants = Tenants::Named(vec![CONTOSO.to_owned()]);
    let named = connect(&entra::settings(&bench.idp.origin(), tenants), &[], None).unwrap();
    let chosen = named.renew(&who, &grant, bench.now).await.unwrap().identity.unwrap();
    assert_eq!(chosen.email_str(), "ann@example.com");
    let now = bench.renew(&chosen, &grant).await.unwrap().identity.unwrap();
    assert_eq!(now.email_str(), "bob@contoso.example");
}

#[tokio::test]
async fn without_a_refresh_token_the_access_token_reads_again() {
    for kind in KINDS {
        let bench = plain(kind).await;
        let (who, grant) = bench.granted("ann").await;
        let renewed = bench.renew(&who, &grant).await.unwrap();
        assert_eq!(renewed.identity.unwrap(), who, "{kind}");
        bench.regroup("ann");
        let renewed = bench.renew(&who, &renewed.grant).await.unwrap();
        assert_eq!(renewed.identity.unwrap().groups, groups_now(kind), "{kind}");
        assert!(renewed.grant.access == grant.access, "{kind}");
        assert_eq!(bench.control().refreshes(), 0);
    }
}

#[tokio::test]
async fn a_github_apps_access_token_reads_again_by_itself_until_its_last_hour() {
    let bench = refreshing("github").await;
    bench.control().token_lifetime(Duration::from_secs(8 * 3600));
    let (who, grant) = bench.granted("ann").await;
    bench.regroup("ann");
    let renewed = bench.renew(&who, &grant).await.unwrap();
    assert_eq!(renewed.identity.unwrap().groups, ["other"]);
    assert!(renewed.grant.refresh == grant.refresh && bench.control().refreshes() == 0);
    bench.idp.revoke("ann");
    assert!(gone(bench.renew(&who, &grant).await).contains("401"));
}

#[tokio::test]
async fn groups_that_userinfo_supplied_once_are_gone_when_it_supplies_none() {
    let bench = plain("oidc").await;
    let (who, grant) = bench.granted("ann").await;
    let renewed = bench.renew(&who, &grant).await.unwrap();
    let mut ann = bench.user("ann");
    ann.oidc.as_mut().unwrap().groups.clear();
    bench.idp.put_user(ann);
    let renewed = bench.renew(&renewed.identity.unwrap(), &renewed.grant).await.unwrap();
    assert!(renewed.identity.unwrap().groups.is_empty());
}

/// A provider of whose claims rules name one within an object, and the claim that is the username.
async fn with_nested_claims(username: Option<&str>) -> Bench {
    Bench::with(|origin| ProviderSettings::Oidc {
        client: client(&["openid", "profile", "email"]),
        issuer: url(&format!("{origin}/oidc")),
        username_claim: username.map(ToOwned::to_owned),
        wants_groups: true,
        claims: vec!["realm_access.roles".to_owned()],
    })
    .await
}

#[tokio::test]
async fn a_claim_within_an_object_that_userinfo_supplied_once_is_gone_when_it_supplies_none() {
    for taken_back in
        [json!(null), json!({}), json!({"roles": null}), json!({"roles": 7}), json!(["admin"]), json!("admin")]
    {
        let bench = with_nested_claims(None).await;
        bench.control().lie(Lie::UserInfoClaim("realm_access".into(), json!({"roles": ["admin"]})));
        let (who, grant) = bench.granted("ann").await;
        assert!(who.claims.hold("realm_access.roles", "admin"));
        let renewed = bench.renew(&who, &grant).await.unwrap();
        assert_eq!(renewed.identity.unwrap(), who);
        bench.control().honest();
        bench.control().lie(Lie::UserInfoClaim("realm_access".into(), taken_back.clone()));
        let now = bench.renew(&who, &renewed.grant).await.unwrap().identity.unwrap();
        assert!(now.claims.is_empty(), "{taken_back}: {:?}", now.claims);
    }
}

#[tokio::test]
async fn a_username_within_an_object_counts_and_is_gone_when_userinfo_supplies_none() {
    let bench = with_nested_claims(Some("account.login")).await;
    bench.control().lie(Lie::UserInfoClaim("account".into(), json!({"login": "ann"})));
    let (who, grant) = bench.granted("ann").await;
    assert_eq!(who.username.vouched(), Some("ann"));
    let renewed = bench.renew(&who, &grant).await.unwrap();
    assert_eq!(renewed.identity.unwrap(), who);
    bench.control().honest();
    let now = bench.renew(&who, &renewed.grant).await.unwrap().identity.unwrap();
    assert_eq!(now.username.vouched(), None);
}

#[tokio::test]
async fn a_claim_within_an_object_that_only_the_id_token_has_stands() {
    let bench = with_nested_claims(None).await;
    bench.control().lie(Lie::Claim("realm_access".into(), json!({"roles": ["admin"]})));
    bench.sign_in("ann").await.unwrap();
    assert_eq!(bench.control().requests(Endpoint::UserInfo), 0, "the ID token has all of it");
    let (who, grant) = bench.granted("ann").await;
    bench.control().honest();
    let now = bench.renew(&who, &grant).await.unwrap().identity.unwrap();
    assert!(now.claims.hold("realm_access.roles", "admin"));
}

#[tokio::test]
async fn the_case_of_an_address_is_no_other_address() {
    let bench = plain("oidc").await;
    // Groups make UserInfo be asked: its address is noted, but never verified there.
    bench.control().lie(Lie::MissingClaim("groups".into()));
    bench.control().lie(Lie::UserInfoClaim("email".into(), json!("Ann@Example.com")));
    bench.control().lie(Lie::UserInfoClaim("email_verified".into(), json!(null)));
    let (who, grant) = bench.granted("ann").await;
    assert_eq!(who.email_str(), "ann@example.com");
    assert_eq!(bench.renew(&who, &grant).await.unwrap().identity.unwrap(), who);
    bench.control().lie(Lie::UserInfoClaim("email".into(), json!("eve@example.com")));
    assert_eq!(bench.renew(&who, &grant).await.unwrap().identity.unwrap().email, None);
}

#[tokio::test]
async fn entras_groups_only_become_fewer_without_a_new_token() {
    let bench = plain("entra").await;
    let (who, grant) = bench.granted("bob").await;
    assert_eq!(who.groups, [STAFF_GROUP]);
    let mut bob = bench.user("bob");
    bob.entra.as_mut().unwrap().groups = vec![PLATFORM_GROUP.to_owned()];
    bench.idp.put_user(bob);
    assert!(bench.renew(&who, &grant).await.unwrap().identity.unwrap().groups.is_empty());
}

#[tokio::test]
async fn what_the_access_token_cannot_read_any_more_stands_but_at_github_a_revoked_one_ends_it() {
    for kind in KINDS {
        let bench = plain(kind).await;
        let (who, grant) = bench.granted("ann").await;
        bench.idp.revoke("ann");
        let outcome = bench.renew(&who, &grant).await;
        if kind == "github" {
            assert!(gone(outcome).contains("401"));
        } else {
            assert_eq!(outcome.unwrap().identity.unwrap(), who, "{kind}");
        }
    }
}

#[tokio::test]
async fn a_provider_that_fails_puts_reading_again_off() {
    for (kind, endpoint) in [
        ("github", Endpoint::User),
        ("github", Endpoint::Memberships),
        ("github", Endpoint::Teams),
        ("entra", Endpoint::GraphMe),
        ("entra", Endpoint::GraphGroups),
        ("oidc", Endpoint::UserInfo),
    ] {
        let bench = plain(kind).await;
        let (who, grant) = bench.granted("ann").await;
        for fault in faults().into_iter().chain([Fault::Status(429)]) {
            bench.control().fail(endpoint, fault.clone());
            assert_no_secret(&not_now(bench.renew(&who, &grant).await));
            bench.control().clear(endpoint);
        }
    }
}

#[tokio::test]
async fn the_access_tokens_person_must_be_the_same() {
    let bench = plain("oidc").await;
    let (who, grant) = bench.granted("ann").await;
    bench.control().lie(Lie::OtherSubAtUserInfo);
    assert!(gone(bench.renew(&who, &grant).await).contains("another subject"));
    bench.control().honest();
    bench.control().lie(Lie::UserInfoClaim("sub".into(), json!(null)));
    assert!(not_now(bench.renew(&who, &grant).await).contains("names no subject"));
    for kind in ["github", "entra"] {
        let bench = plain(kind).await;
        let (who, _) = bench.granted("ann").await;
        let (_, bobs) = bench.granted("bob").await;
        assert!(gone(bench.renew(&who, &bobs).await).contains("another account"), "{kind}");
    }
}
