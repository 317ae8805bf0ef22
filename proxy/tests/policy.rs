//! Access: lists of users and groups at each provider, verified emails only, and files that change.

use dev_idp::users::{ADMIN_ROLE, CONTOSO, FABRIKAM, PLATFORM_GROUP, STAFF_GROUP};
use dev_idp::{Endpoint, Fault, Lie};

use crate::support::{Browser, Proxy, Upstream, until};

/// The email that `me` reports for `user`, if allowed in.
async fn email_of(proxy: &Proxy, user: &str) -> Option<String> {
    let mut browser = Browser::of(proxy);
    let answer = browser.sign_in(user).await;
    if answer.status == 302 {
        assert_eq!(browser.get("/x").await.text(), "hello from upstream");
        let me = browser.get("/api/v1/auth/me").await.json();
        return Some(me["email"].as_str().unwrap().to_owned());
    }
    assert_eq!(answer.status, 403, "{answer:?}\n{}", proxy.log());
    assert_eq!(browser.cookie("session_token"), None);
    None
}

async fn is_allowed(proxy: &Proxy, user: &str) -> bool {
    email_of(proxy, user).await.is_some()
}

#[tokio::test]
async fn an_entry_names_an_email_a_domain_an_id_or_a_username() {
    let upstream = Upstream::start().await;
    let cases: [(&str, &str, bool); 34] = [
        ("github", "ann@example.com", true),
        ("github", "ANN@Example.COM", true),
        ("github", "bob@example.com,ann@example.com", true),
        ("github", "ann@home.example", false),
        ("github", "unverified-ann@example.com", false),
        ("github", "@example.com", true),
        ("github", "@EXAMPLE.com", true),
        ("github", "@ample.com", false),
        ("github", "@sub.example.com", false),
        ("github", "@com", false),
        ("github", "id:1001", true),
        ("github", "1001", false),
        ("github", "id:100", false),
        ("github", "id:ann", false),
        ("github", "ann", true),
        ("github", "Ann", true),
        ("github", "an", false),
        ("github", "Ann Example", false),
        ("github", "example.com", false),
        ("github", "*", true),
        ("github", "bob", false),
        ("entra", "ann@example.com", true),
        ("entra", "@example.com", true),
        ("entra", "id:0b1ec700-0000-4000-8000-000000001001", true),
        ("entra", "ann", false),
        ("entra", "@contoso.example", false),
        ("entra", "*", true),
        ("oidc", "ann@example.com", true),
        ("oidc", "@example.com", true),
        ("oidc", "id:oidc-ann", true),
        ("oidc", "oidc-ann", false),
        // Users can edit their own `preferred_username`.
        ("oidc", "ann", false),
        ("oidc", "*", true),
        ("oidc", "bob@example.com", false),
    ];
    for (kind, list, admitted) in cases {
        let proxy = Proxy::with_sign_in(kind, &upstream).await.env("OAUTH_ALLOWED_USERS", list).start().await;
        assert_eq!(is_allowed(&proxy, "ann").await, admitted, "{kind}: {list}");
    }
}

#[tokio::test]
async fn without_a_list_everyone_passes_and_the_log_warns() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    assert!(is_allowed(&proxy, "ann").await && is_allowed(&proxy, "eve").await);
    proxy.logs("OAUTH_ALLOWED_USERS is not set: everyone").await;
}

#[tokio::test]
async fn a_configured_claim_is_a_username_to_the_letter() {
    let upstream = Upstream::start().await;
    for (list, admitted) in [("ann", true), ("Ann", false), ("bob", false)] {
        let plan = Proxy::with_sign_in("oidc", &upstream).await.env("OAUTH_USERNAME_CLAIM", "preferred_username");
        let proxy = plan.env("OAUTH_ALLOWED_USERS", list).start().await;
        assert_eq!(is_allowed(&proxy, "ann").await, admitted, "{list}");
    }
}

#[tokio::test]
async fn an_email_that_nobody_vouches_for_never_counts() {
    let upstream = Upstream::start().await;
    for kind in ["github", "oidc"] {
        let plan = Proxy::with_sign_in(kind, &upstream).await;
        let proxy = plan.env("OAUTH_ALLOWED_USERS", "eve@evil.example,@evil.example").start().await;
        assert!(!is_allowed(&proxy, "eve").await, "{kind}");
        let plan = Proxy::with_sign_in(kind, &upstream).await;
        let id = if kind == "github" { "id:1004" } else { "id:oidc-eve" };
        let proxy = plan.env("OAUTH_ALLOWED_USERS", id).start().await;
        assert_eq!(email_of(&proxy, "eve").await.as_deref(), Some(""), "{kind}: by id, and without an email");
        proxy.signed_in_as("eve").await.get("/x").await;
        assert!(
            !upstream.last().headers.contains_key("x-forwarded-email")
                || upstream.last().header("x-forwarded-email").is_empty()
        );
    }
}

#[tokio::test]
async fn with_an_open_tenant_an_address_written_by_an_administrator_never_counts() {
    let upstream = Upstream::start().await;
    for tenant in ["common", "organizations"] {
        let plan = Proxy::with_sign_in("entra", &upstream).await.env("OAUTH_TENANT_ID", tenant);
        let proxy = plan
            .env("OAUTH_ALLOWED_USERS", "ann@example.com,eve@evil.example,gus@partner.example,pat@outlook.example")
            .start()
            .await;
        proxy.logs("OAUTH_TENANT_ID").await;
        for user in ["mallory", "ann", "eve", "gus"] {
            assert!(!is_allowed(&proxy, user).await, "{tenant}: {user}");
        }
        if tenant == "common" {
            assert!(!is_allowed(&proxy, "pat").await, "a personal account has no vouched email");
        }
        let plan = Proxy::with_sign_in("entra", &upstream).await.env("OAUTH_TENANT_ID", tenant);
        let proxy =
            plan.env("OAUTH_ALLOWED_USERS", "@contoso.example,mallory@fabrikam.example,bob@example.com").start().await;
        assert_eq!(email_of(&proxy, "ann").await.as_deref(), Some("ann@contoso.example"), "the proven name counts");
        assert_eq!(email_of(&proxy, "mallory").await.as_deref(), Some("mallory@fabrikam.example"));
        assert_eq!(
            email_of(&proxy, "bob").await.as_deref(),
            Some("bob@example.com"),
            "its domain is proven (xms_edov)"
        );
        assert!(!is_allowed(&proxy, "gus").await, "a guest's name is made up");
    }
}

#[tokio::test]
async fn with_an_open_tenant_what_an_administrator_can_choose_never_counts() {
    let upstream = Upstream::start().await;
    let any = async |tenant: &str| {
        let plan = Proxy::with_sign_in("entra", &upstream).await.env("OAUTH_TENANT_ID", tenant);
        let mut mallory = plan.idp().users().into_iter().find(|user| user.id == "mallory").unwrap();
        let entra = mallory.entra.as_mut().unwrap();
        entra.groups = vec!["Admins".to_owned(), PLATFORM_GROUP.to_owned()];
        entra.roles = vec![ADMIN_ROLE.to_owned()];
        plan.idp().put_user(mallory);
        plan.idp().control().lie(Lie::Claim("department".into(), "finance".into()));
        plan
    };
    let both = format!("{CONTOSO},{FABRIKAM}");
    for (tenant, named) in [("common", false), ("organizations", false), (both.as_str(), true)] {
        for (group, counts) in [(ADMIN_ROLE, named), ("Admins", named), (PLATFORM_GROUP, true)] {
            let proxy = any(tenant).await.env("OAUTH_ALLOWED_GROUPS", group).start().await;
            assert_eq!(is_allowed(&proxy, "mallory").await, counts, "{tenant}: {group}");
            if counts {
                let mut mallory = proxy.signed_in_as("mallory").await;
                assert_eq!(mallory.get("/x").await.status, 200);
                let groups = upstream.last().header("x-forwarded-groups");
                assert_eq!(groups.contains(ADMIN_ROLE) && groups.contains("Admins"), named, "{tenant}: {groups}");
            }
        }
        let tid = format!("tid={FABRIKAM}");
        for (claim, counts) in [("department=finance", named), (tid.as_str(), true)] {
            let rules = format!("[[routes]]\npath = \"/**\"\nallow = [\"claim:{claim}\"]\n");
            let plan = any(tenant).await.env("OAUTH_ALLOWED_USERS", "nobody@example.com");
            let proxy = plan.file("SIDEGATE_CONFIG", "sidegate.toml", &rules).start().await;
            assert_eq!(is_allowed(&proxy, "mallory").await, counts, "{tenant}: {claim}");
        }
    }
}

#[tokio::test]
async fn a_personal_accounts_user_principal_name_is_no_username_for_the_upstream() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::with_sign_in("entra", &upstream).await.env("OAUTH_TENANT_ID", "common").start().await;
    for (user, named) in [("pat", "00000000-0000-0000-9a7b-000000001007"), ("ann", "ann@contoso.example")] {
        let mut browser = proxy.signed_in_as(user).await;
        assert_eq!(browser.get("/x").await.status, 200);
        assert_eq!(upstream.last().header("x-forwarded-user"), named);
    }
    let mut pat = proxy.signed_in_as("pat").await;
    assert_eq!(pat.get("/api/v1/auth/me").await.json()["username"], "pat@outlook.example", "it is displayed");
}

#[tokio::test]
async fn a_tenant_that_is_not_named_is_not_allowed() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("entra", &upstream).await;
    let other = "07e20000-0000-4000-8000-000000000000";
    let proxy = plan.env("OAUTH_TENANT_ID", format!("{CONTOSO},{other}")).start().await;
    assert_eq!(email_of(&proxy, "ann").await.as_deref(), Some("ann@example.com"));
    for user in ["mallory", "eve"] {
        assert!(!is_allowed(&proxy, user).await, "{user} of another tenant");
    }
    proxy.logs("User not allowed: mallory@fabrikam.example").await;
    let plan = Proxy::with_sign_in("entra", &upstream).await;
    let proxy = plan.env("OAUTH_TENANT_ID", format!("{CONTOSO},{FABRIKAM}")).start().await;
    assert!(is_allowed(&proxy, "ann").await && is_allowed(&proxy, "mallory").await);
}

#[tokio::test]
async fn groups_are_those_of_each_provider() {
    let upstream = Upstream::start().await;
    let cases: [(&str, &str, &str, bool); 27] = [
        ("github", "acme", "ann", true),
        ("github", "ACME", "ann", true),
        ("github", "acme/platform", "ann", true),
        ("github", "Acme/Platform", "ann", true),
        ("github", "acme/other", "ann", false),
        ("github", "acm", "ann", false),
        // Invited, but not yet a member.
        ("github", "acme", "bob", false),
        ("github", "acme,acme/platform", "bob", false),
        // On the third page.
        ("github", "acme", "carol", true),
        ("github", "acme/platform", "carol", true),
        ("github", "org-230", "carol", true),
        ("github", "acme", "eve", false),
        ("entra", PLATFORM_GROUP, "ann", true),
        ("entra", "9A7F0000-0000-4000-8000-000000000001", "ann", true),
        ("entra", STAFF_GROUP, "bob", true),
        ("entra", PLATFORM_GROUP, "bob", false),
        ("entra", ADMIN_ROLE, "ann", true),
        ("entra", ADMIN_ROLE, "bob", false),
        ("entra", "sidegate.admin", "ann", false),
        // Too many groups for the token: read from Graph, to the last page.
        ("entra", PLATFORM_GROUP, "carol", true),
        ("entra", STAFF_GROUP, "carol", false),
        ("oidc", "acme/platform", "ann", true),
        ("oidc", "Acme/Platform", "ann", false),
        ("oidc", "acme/platform", "carol", true),
        ("oidc", "staff", "bob", true),
        ("oidc", "acme", "bob", false),
        ("oidc", "acme", "eve", false),
    ];
    for (kind, list, user, admitted) in cases {
        let proxy = Proxy::with_sign_in(kind, &upstream).await.env("OAUTH_ALLOWED_GROUPS", list).start().await;
        assert_eq!(is_allowed(&proxy, user).await, admitted, "{kind}: {user} in {list}\n{}", proxy.log());
    }
}

#[tokio::test]
async fn a_group_list_that_cannot_be_read_makes_nobody_a_member_and_the_log_says_why() {
    let upstream = Upstream::start().await;
    for (kind, list, user, endpoint) in [
        ("github", "acme", "ann", Endpoint::Memberships),
        ("github", "acme/platform", "ann", Endpoint::Teams),
        ("entra", PLATFORM_GROUP, "carol", Endpoint::GraphGroups),
    ] {
        let plan = Proxy::with_sign_in(kind, &upstream).await.env("OAUTH_ALLOWED_GROUPS", list);
        let proxy = plan.start().await;
        for fault in [Fault::Status(403), Fault::Status(500), Fault::Malformed] {
            proxy.idp().control().fail(endpoint, fault.clone());
            assert!(!is_allowed(&proxy, user).await, "{kind} {endpoint:?} {fault:?}");
        }
        proxy.logs("cannot be read").await;
        proxy.idp().control().clear(endpoint);
        assert!(is_allowed(&proxy, user).await, "{kind}");
    }
}

#[tokio::test]
async fn lists_add_up() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("github", &upstream).await.env("OAUTH_ALLOWED_USERS", "id:1004");
    let plan = plan.env("OAUTH_ALLOWED_GROUPS", "acme/platform");
    let proxy = plan.file("OAUTH_ALLOWED_USERS_FILE", "users", "bob@example.com\n").start().await;
    for (user, admitted) in [("ann", true), ("bob", true), ("eve", true), ("carol", true), ("zoe", false)] {
        assert_eq!(is_allowed(&proxy, user).await, admitted, "{user}");
    }
}

#[tokio::test]
async fn a_user_removed_from_the_file_loses_access_at_the_next_reload() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("github", &upstream).await;
    let text = "# people\r\n\r\nann@example.com # Ann\r\nbob\r\n";
    let proxy = plan.file("OAUTH_ALLOWED_USERS_FILE", "users", text).start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    let mut bob = proxy.signed_in_as("bob").await;
    assert!(!is_allowed(&proxy, "eve").await);
    let file = proxy.folder().join("users");

    std::fs::write(&file, "bob\n").unwrap();
    until("ann is off the list", async || ann.get("/x").await.status == 403).await;
    let reached = upstream.received().len();
    for path in ["/x", "/api/v1/auth/me", "/api/v1/auth/session"] {
        let answer = ann.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (403, "not_allowed"), "{path}");
    }
    let page = ann.open("/x").await;
    assert_eq!(page.status, 403, "a person gets a page, not a redirect that goes round in circles");
    for way_on in ["id=\"sign-in-as-someone-else\"", "id=\"sign-out\"", "ann@example.com"] {
        assert!(page.text().contains(way_on), "{}", page.text());
    }
    assert_eq!(upstream.received().len(), reached, "a user who is not allowed reached the upstream");
    assert_eq!(bob.get("/x").await.status, 200);
    proxy.logs("User not allowed: ann@example.com").await;

    std::fs::write(&file, "ann@example.com\neve\n").unwrap();
    until("ann is back on the list, with the session that she had", async || ann.get("/x").await.status == 200).await;
    assert_eq!(bob.get("/x").await.status, 403);
}

#[tokio::test]
async fn an_emptied_file_lets_nobody_in_and_a_deleted_one_leaves_the_last_good_list() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("github", &upstream).await;
    let proxy = plan.file("OAUTH_ALLOWED_USERS_FILE", "users", "ann\nbob\n").start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    let file = proxy.folder().join("users");

    std::fs::remove_file(&file).unwrap();
    until("readyz reports it", async || proxy.admin("/readyz").await.text().contains("OAUTH_ALLOWED_USERS_FILE")).await;
    assert_eq!(proxy.admin("/readyz").await.status, 200);
    until("the log has an error about the file", async || {
        proxy.log().lines().any(|line| line.contains("\"ERROR\"") && line.contains("OAUTH_ALLOWED_USERS_FILE"))
    })
    .await;
    assert_eq!(ann.get("/x").await.status, 200);
    assert!(is_allowed(&proxy, "bob").await && !is_allowed(&proxy, "eve").await);

    std::fs::write(&file, "ann\nmalformed@@entry\n").unwrap();
    proxy.logs("malformed@@entry").await;
    assert!(is_allowed(&proxy, "bob").await, "a list with a fault leaves the last good one too");

    std::fs::write(&file, "\n# nobody\n").unwrap();
    until("nobody is let in", async || ann.get("/x").await.status == 403).await;
    assert!(!is_allowed(&proxy, "bob").await && !is_allowed(&proxy, "ann").await);
    assert!(!proxy.admin("/readyz").await.text().contains("OAUTH_ALLOWED_USERS_FILE"));
}

#[tokio::test]
async fn an_address_with_two_at_signs_never_counts() {
    let upstream = Upstream::start().await;
    for kind in ["github", "entra", "oidc"] {
        let plan = Proxy::with_sign_in(kind, &upstream).await;
        let proxy = plan.env("OAUTH_ALLOWED_USERS", "@example.com,@evil.example,id:777").start().await;
        let mut user = dev_idp::User::new("twice");
        let address = "ann@example.com@evil.example";
        user.github.as_mut().unwrap().emails[0].address = address.into();
        user.oidc.as_mut().unwrap().email = Some(address.into());
        user.entra.as_mut().unwrap().mail = Some(address.into());
        proxy.idp().put_user(user);
        assert!(!is_allowed(&proxy, "twice").await, "{kind}");
    }
}

#[tokio::test]
async fn a_group_may_have_any_name_and_a_person_too() {
    let upstream = Upstream::start().await;
    for (kind, group) in [("github", "acme"), ("oidc", "<b>staff</b>"), ("entra", "Zürich, 100%")] {
        // A list is split at commas: a name with a comma goes into the file's array.
        let plan = Proxy::with_sign_in(kind, &upstream).await;
        let plan = plan.file("SIDEGATE_CONFIG", "sidegate.toml", &format!("oauth_allowed_groups = [{group:?}]\n"));
        let proxy = plan.start().await;
        let mut zoe = proxy.signed_in_as("zoe").await;
        assert_eq!(zoe.get("/api/v1/auth/me").await.json()["name"], "Zoë <b>, 100%", "{kind}");
    }
}
