//! Microsoft Entra ID.

use dev_idp::users::{
    ADMIN_ROLE, CAROLS_GROUPS, CONSUMERS, CONTOSO, CONTOSO_DOMAIN, FABRIKAM, FABRIKAM_DOMAIN, PLATFORM_GROUP,
    STAFF_GROUP,
};
use dev_idp::{Endpoint, Lie};
use serde_json::json;

use super::super::Tenants;
use super::*;
use crate::domain::identity::{ProviderKind, Username};
use crate::ports::Omission;

pub(super) fn contoso(origin: &str) -> ProviderSettings {
    settings(origin, named(&[CONTOSO]))
}

fn named(names: &[&str]) -> Tenants {
    Tenants::Named(names.iter().map(ToString::to_string).collect())
}

pub(super) fn settings(origin: &str, tenants: Tenants) -> ProviderSettings {
    ProviderSettings::Entra {
        client: client(&["openid", "profile", "email"]),
        authority: url(origin),
        graph: url(origin),
        tenants,
        wants_groups: true,
        claims: Vec::new(),
    }
}

/// The same, where rules name claims: one that administrators can choose, and one that Microsoft sets.
pub(super) fn settings_with_claims(origin: &str, tenants: Tenants) -> ProviderSettings {
    let mut settings = settings(origin, tenants);
    let ProviderSettings::Entra { claims, .. } = &mut settings else { panic!("it is Entra") };
    claims.extend(["department".to_owned(), "oid".to_owned()]);
    settings
}

async fn bench(tenants: Tenants) -> Bench {
    Bench::with(|origin| settings(origin, tenants)).await
}

#[tokio::test]
async fn ann_is_who_contoso_says() {
    let who = bench(named(&[CONTOSO])).await.sign_in("ann").await.unwrap();
    assert_eq!(who.provider, ProviderKind::Entra);
    assert_eq!(who.id, "0b1ec700-0000-4000-8000-000000001001");
    assert_eq!(who.username, Username::Vouched("ann@contoso.example".into()));
    assert_eq!(who.email_str(), "ann@example.com");
    assert_eq!(who.name, "Ann Example");
    assert_eq!(who.groups, [PLATFORM_GROUP, STAFF_GROUP, ADMIN_ROLE]);
}

/// The outcome for each user: the vouched address, or `None` if the tenant may not sign in.
async fn outcomes(tenants: Tenants) -> Vec<(&'static str, Option<String>)> {
    let bench = bench(tenants).await;
    let mut outcomes = Vec::new();
    for user in ["ann", "bob", "eve", "gus", "pat", "mallory", "zoe"] {
        // One tenant's address does not offer another's users: they come through `common`, as an attacker's browser may.
        let common = connect(&settings(&bench.idp.origin(), Tenants::Common), &[], None).unwrap();
        common.refresh(bench.now).await;
        let attempt = attempt();
        let address = common.authorization_url(&attempt, None).unwrap();
        let callback = url(&bench.idp.approve(address.as_str(), user).unwrap());
        let code = Secret::new(parameter(&callback, "code").unwrap());
        outcomes.push(match bench.provider.sign_in(&code, &attempt, bench.now).await {
            Ok(who) => (user, Some(who.identity.email_str().to_owned())),
            Err(SignInError::NotAllowed { reason, .. }) => {
                assert!(reason.contains("OAUTH_TENANT_ID"), "{reason}");
                (user, None)
            }
            Err(other) => panic!("{user}: {other:?}"),
        });
    }
    outcomes
}

fn expect(rows: [(&'static str, Option<&str>); 7]) -> Vec<(&'static str, Option<String>)> {
    rows.into_iter().map(|(user, email)| (user, email.map(ToOwned::to_owned))).collect()
}

#[tokio::test]
async fn a_named_tenants_administrators_are_believed_and_no_others_come_in() {
    let contoso = expect([
        ("ann", Some("ann@example.com")),
        ("bob", Some("bob@example.com")),
        ("eve", None),
        ("gus", Some("gus@partner.example")),
        ("pat", None),
        ("mallory", None),
        ("zoe", Some("zoe@example.com")),
    ]);
    for tenants in
        [named(&[CONTOSO]), named(&[CONTOSO_DOMAIN]), named(&[CONTOSO, "c0117050-0000-4000-8000-000000000000"])]
    {
        assert_eq!(outcomes(tenants.clone()).await, contoso, "{tenants:?}");
    }
}

#[tokio::test]
async fn several_tenants_may_be_named_by_id_or_domain() {
    let both = expect([
        ("ann", Some("ann@example.com")),
        ("bob", Some("bob@example.com")),
        ("eve", Some("eve@evil.example")),
        ("gus", Some("gus@partner.example")),
        ("pat", None),
        ("mallory", Some("ann@example.com")),
        ("zoe", Some("zoe@example.com")),
    ]);
    for tenants in [named(&[CONTOSO, FABRIKAM]), named(&[CONTOSO_DOMAIN, FABRIKAM_DOMAIN])] {
        assert_eq!(outcomes(tenants.clone()).await, both, "{tenants:?}");
    }
    let personal = outcomes(named(&[CONTOSO, CONSUMERS])).await;
    assert_eq!(personal[4], ("pat", Some("pat@outlook.example".to_owned())));
    assert_eq!(personal[5], ("mallory", None));
}

#[tokio::test]
async fn with_any_tenant_only_proven_domains_count() {
    let rows = [
        ("ann", Some("ann@contoso.example")),
        // `xms_edov`.
        ("bob", Some("bob@example.com")),
        ("eve", Some("eve@fabrikam.example")),
        ("gus", Some("")),
        ("pat", Some("")),
        ("mallory", Some("mallory@fabrikam.example")),
        ("zoe", Some("zoë@contoso.example")),
    ];
    assert_eq!(outcomes(Tenants::Common).await, expect(rows));
    let mut organizations = rows;
    organizations[4].1 = None;
    assert_eq!(outcomes(Tenants::Organizations).await, expect(organizations));
    let consumers = rows.map(|(user, email)| (user, email.filter(|_| user == "pat")));
    assert_eq!(outcomes(Tenants::Consumers).await, expect(consumers));
}

/// A user of another tenant, whose administrator has made an app role, a group's name and a department to the operator's liking.
fn chosen_by_an_administrator() -> dev_idp::User {
    let mut user = dev_idp::User::new("mallory");
    let entra = user.entra.as_mut().unwrap();
    FABRIKAM.clone_into(&mut entra.tid);
    "mallory@fabrikam.example".clone_into(&mut entra.upn);
    entra.groups = vec!["Admins".to_owned(), PLATFORM_GROUP.to_owned()];
    // A role may look like a group's id.
    entra.roles = vec![ADMIN_ROLE.to_owned(), STAFF_GROUP.to_owned()];
    user
}

#[tokio::test]
async fn app_roles_group_names_and_claims_count_only_for_a_named_tenant() {
    const WHY: &str = "roles, group names and claims count only for a tenant that OAUTH_TENANT_ID names";
    for (tenants, named) in [
        (named(&[CONTOSO, FABRIKAM]), true),
        (named(&[FABRIKAM_DOMAIN, CONTOSO_DOMAIN]), true),
        (Tenants::Common, false),
        (Tenants::Organizations, false),
    ] {
        let bench = Bench::with(|origin| settings_with_claims(origin, tenants.clone())).await;
        bench.idp.put_user(chosen_by_an_administrator());
        bench.control().lie(Lie::Claim("department".into(), json!("finance")));
        let signed_in = bench.signed_in("mallory").await.unwrap();
        let who = signed_in.identity;
        let groups = ["Admins", PLATFORM_GROUP, ADMIN_ROLE, STAFF_GROUP];
        assert_eq!(who.groups, if named { &groups[..] } else { &groups[1..2] }, "{tenants:?}");
        assert_eq!(who.claims.hold("department", "finance"), named, "{tenants:?}");
        assert!(who.claims.hold("tid", FABRIKAM) && who.claims.hold("oid", &who.id), "{tenants:?}");
        let said = signed_in.omitted.iter().filter(|omitted| omitted.reason.ends_with(WHY));
        let said: Vec<&str> = said.map(|omitted| omitted.reason.as_str()).collect();
        if named {
            assert!(said.is_empty(), "{said:?}");
        } else {
            assert_eq!(said.len(), 2, "{said:?}");
            assert!(
                said[0].contains("app roles and group names of") && said[1].contains("`department` of"),
                "{said:?}"
            );
        }
        // Of users without them nothing is said.
        bench.control().honest();
        let omitted = bench.signed_in("bob").await.unwrap().omitted;
        assert!(!omitted.iter().any(|omitted| omitted.reason.ends_with(WHY)), "{omitted:?}");
    }
}

#[tokio::test]
async fn app_roles_that_do_not_count_are_said_where_nothing_names_a_group_too() {
    let bench = Bench::with(|origin| {
        let mut settings = settings(origin, Tenants::Common);
        let ProviderSettings::Entra { wants_groups, .. } = &mut settings else { panic!("it is Entra") };
        *wants_groups = false;
        settings
    })
    .await;
    let signed_in = bench.signed_in("ann").await.unwrap();
    let said = signed_in.omitted.iter().filter(|omitted| omitted.what == Omission::UnnamedTenant);
    assert_eq!(said.count(), 1, "{:?}", signed_in.omitted);
    assert_eq!(signed_in.identity.groups, [PLATFORM_GROUP, STAFF_GROUP]);
}

#[tokio::test]
async fn what_a_token_says_under_the_name_of_the_proof_is_not_kept() {
    const PROOF: &str = "sidegate:email_proven_by";
    for tenants in [Tenants::Common, named(&[CONTOSO])] {
        let bench = Bench::with(|origin| {
            let mut settings = settings(origin, tenants.clone());
            let ProviderSettings::Entra { claims, .. } = &mut settings else { panic!("it is Entra") };
            claims.push(PROOF.to_owned());
            settings
        })
        .await;
        bench.control().lie(Lie::Claim(PROOF.into(), json!("xms_edov")));
        let who = bench.sign_in("ann").await.unwrap();
        assert!(who.claims.texts(PROOF).is_empty(), "{tenants:?}: {:?}", who.claims);
        let who = bench.sign_in("bob").await.unwrap();
        assert_eq!(who.claims.hold(PROOF, "xms_edov"), tenants == Tenants::Common, "{:?}", who.claims);
    }
}

#[tokio::test]
async fn a_personal_accounts_user_principal_name_is_only_displayed() {
    for tenants in [Tenants::Common, Tenants::Consumers, named(&[CONTOSO, CONSUMERS])] {
        let who = bench(tenants.clone()).await.sign_in("pat").await.unwrap();
        assert_eq!(who.username, Username::Displayed("pat@outlook.example".into()), "{tenants:?}");
    }
    // A guest's is in a domain of the tenant that invited the guest.
    let who = bench(Tenants::Common).await.sign_in("gus").await.unwrap();
    assert!(who.username.vouched().is_some_and(|name| name.ends_with("#EXT#@contoso.onmicrosoft.example")));
}

#[tokio::test]
async fn a_domain_that_nobody_has_is_reported_and_lets_nobody_in() {
    let bench = bench(named(&[CONTOSO_DOMAIN, "nobody.example"])).await;
    let trouble = bench.provider.trouble().unwrap();
    assert!(trouble.contains("nobody.example in OAUTH_TENANT_ID") && trouble.contains("400"), "{trouble}");
    assert_eq!(bench.provider.refresh(bench.now).await.as_secs(), 2);
    bench.sign_in("ann").await.unwrap();
    assert!(matches!(bench.sign_in("eve").await, Err(SignInError::Unreachable(_))));
}

#[tokio::test]
async fn an_id_token_that_lies_is_refused_with_the_reason() {
    let bench = bench(Tenants::Common).await;
    for (lie, word) in [
        (Lie::WrongNonce, "nonce"),
        (Lie::WrongAudience, "audience"),
        (Lie::WrongAuthorizedParty, "authorized party"),
        (Lie::WrongIssuer, "issuer"),
        (Lie::Expired, "expired"),
        (Lie::NotYetValid, "not valid yet"),
        (Lie::WrongAccessTokenHash, "access token"),
        (Lie::MissingClaim("oid".into()), "object id"),
        (Lie::MissingClaim("tid".into()), "tenant"),
        (Lie::MissingClaim("sub".into()), "subject"),
        (Lie::MissingClaim("nonce".into()), "nonce"),
        (Lie::Claim("tid".into(), json!(FABRIKAM)), "issuer"),
        (Lie::Claim("tid".into(), json!("common")), "GUID"),
        (Lie::Claim("tid".into(), json!("../..")), "GUID"),
        (Lie::AlgNone, "algorithm"),
        (Lie::HmacWithPublicKey, "algorithm"),
        (Lie::UnknownKey, "does not publish"),
        (Lie::ForgedSignature, "signature"),
        (Lie::NoIdToken, "no ID token"),
        (Lie::NoAccessToken, "not a token response"),
        (Lie::TokenType("mac".into()), "bearer"),
    ] {
        bench.control().lie(lie.clone());
        let reason = exchange_reason(bench.sign_in("ann").await);
        assert!(reason.contains(word), "{lie:?}: {reason}");
        assert_no_secret(&reason);
        bench.control().honest();
    }
    bench.control().lie(Lie::ManyAudiences);
    bench.sign_in("ann").await.unwrap();
}

#[tokio::test]
async fn graph_must_speak_of_the_tokens_account() {
    let bench = bench(named(&[CONTOSO])).await;
    bench.control().lie(Lie::Claim("oid".into(), json!("0b1ec700-0000-4000-8000-000000001002")));
    assert!(user_reason(bench.sign_in("ann").await).contains("another account"));
}

#[tokio::test]
async fn groups_that_do_not_fit_in_the_token_come_from_graph() {
    let bench = bench(named(&[CONTOSO])).await;
    let who = bench.sign_in("carol").await.unwrap();
    assert_eq!(who.groups.len(), CAROLS_GROUPS);
    assert!(who.groups.iter().any(|group| group == PLATFORM_GROUP));

    let mut many = dev_idp::User::new("many");
    let ids = (0..2100).map(|n| format!("6a09b000-0000-4000-8000-{n:012}"));
    many.entra.as_mut().unwrap().groups = ids.collect();
    bench.idp.put_user(many);
    assert_eq!(bench.sign_in("many").await.unwrap().groups.len(), 2100);

    bench.control().reset();
    bench.control().lie(Lie::HasGroups);
    assert_eq!(bench.sign_in("ann").await.unwrap().groups, [PLATFORM_GROUP, STAFF_GROUP, ADMIN_ROLE]);
    assert_eq!(bench.control().requests(Endpoint::GraphGroups), 1);
}

#[tokio::test]
async fn groups_that_cannot_be_read_are_nobodys_and_roles_stay() {
    let bench = bench(named(&[CONTOSO])).await;
    let mut user = dev_idp::User::new("many");
    let entra = user.entra.as_mut().unwrap();
    entra.groups = (0..300).map(|n| format!("6a09b000-0000-4000-8000-{n:012}")).collect();
    entra.roles = vec![ADMIN_ROLE.to_owned()];
    bench.idp.put_user(user);
    for (fault, outcome) in bench.through_faults(Endpoint::GraphGroups, "many").await {
        assert_eq!(outcome.unwrap().groups, [ADMIN_ROLE], "{fault:?}");
    }
}

#[tokio::test]
async fn groups_that_no_rule_asks_for_are_not_read_from_graph() {
    let bench = Bench::with(|origin| match contoso(origin) {
        ProviderSettings::Entra { client, authority, graph, tenants, .. } => {
            ProviderSettings::Entra { client, authority, graph, tenants, wants_groups: false, claims: Vec::new() }
        }
        other @ (ProviderSettings::Github { .. } | ProviderSettings::Oidc { .. }) => other,
    })
    .await;
    assert!(bench.sign_in("carol").await.unwrap().groups.is_empty());
    assert_eq!(bench.control().requests(Endpoint::GraphGroups), 0);
    assert_eq!(bench.sign_in("bob").await.unwrap().groups, [STAFF_GROUP]);
}

#[tokio::test]
async fn every_fault_of_an_endpoint_is_reported_for_what_it_is() {
    let bench = bench(named(&[CONTOSO])).await;
    for (fault, outcome) in bench.through_faults(Endpoint::Token, "ann").await {
        let reason = exchange_reason(outcome);
        assert!(reason.contains(words_of(&fault)), "{fault:?}: {reason}");
        assert_no_secret(&reason);
    }
    for (fault, outcome) in bench.through_faults(Endpoint::GraphMe, "ann").await {
        let reason = user_reason(outcome);
        assert!(reason.contains(words_of(&fault)), "{fault:?}: {reason}");
        assert_no_secret(&reason);
    }
}

#[tokio::test]
async fn a_callbacks_issuer_is_one_of_entras_tenants() {
    let bench = bench(Tenants::Common).await;
    let origin = bench.idp.origin();
    assert!(bench.provider.check_issuer(None).is_ok());
    assert!(bench.provider.check_issuer(Some(&format!("{origin}/{CONTOSO}/v2.0"))).is_ok());
    for bad in ["https://another-issuer.invalid".to_owned(), format!("{origin}/common/v2.0"), origin] {
        assert!(matches!(bench.provider.check_issuer(Some(&bad)), Err(SignInError::Issuer(_))), "{bad}");
    }
}
