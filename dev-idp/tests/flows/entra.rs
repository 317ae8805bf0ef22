//! Entra: tenants and their issuers, the ID token, and Graph.

use dev_idp::users::{ADMIN_ROLE, CAROLS_GROUPS, CONSUMERS, CONTOSO, FABRIKAM, PLATFORM_GROUP};
use dev_idp::{DevIdp, OldKey};
use serde_json::Value;

use crate::client::{authorize_url, code, get, get_as, idp, redeem, verified};

const SCOPES: &str = "openid profile email User.Read";

fn authorize(idp: &DevIdp, tenant: &str) -> String {
    authorize_url(&format!("{}/{tenant}/oauth2/v2.0/authorize", idp.origin()), SCOPES, &[])
}

async fn tokens(idp: &DevIdp, tenant: &str, user: &str) -> Value {
    let code = code(idp, &authorize(idp, tenant), user);
    let answer = redeem(&format!("{}/{tenant}/oauth2/v2.0/token", idp.origin()), &code, &[]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

async fn claims(idp: &DevIdp, tenant: &str, user: &str) -> Value {
    let tokens = tokens(idp, tenant, user).await;
    let keys = format!("{}/{tenant}/discovery/v2.0/keys", idp.origin());
    verified(tokens["id_token"].as_str().unwrap(), &keys).await.unwrap()
}

#[tokio::test]
async fn the_issuer_is_a_template_where_tenants_share_the_authority() {
    let idp = idp().await;
    let origin = idp.origin();
    for (tenant, issuer) in [
        ("common", "{tenantid}"),
        ("organizations", "{tenantid}"),
        ("consumers", CONSUMERS),
        (CONTOSO, CONTOSO),
        ("contoso.onmicrosoft.example", CONTOSO),
    ] {
        let answer = get(&format!("{origin}/{tenant}/v2.0/.well-known/openid-configuration"), &[]).await;
        assert_eq!(answer.json()["issuer"], format!("{origin}/{issuer}/v2.0"));
        assert_eq!(answer.json()["token_endpoint"], format!("{origin}/{tenant}/oauth2/v2.0/token"));
    }
    let unknown = get(&format!("{origin}/nowhere/v2.0/.well-known/openid-configuration"), &[]).await;
    assert_eq!((unknown.status, unknown.json()["error"].as_str()), (400, Some("invalid_tenant")));
}

#[tokio::test]
async fn anns_id_token_verifies_and_says_who_she_is() {
    let idp = idp().await;
    let claims = claims(&idp, "common", "ann").await;
    assert_eq!(claims["iss"], format!("{}/{CONTOSO}/v2.0", idp.origin()));
    assert_eq!(claims["tid"], CONTOSO);
    assert_eq!(claims["ver"], "2.0");
    assert_eq!(claims["nonce"], "n-1");
    assert_eq!(claims["email"], "ann@example.com");
    assert_eq!(claims["preferred_username"], "ann@contoso.example");
    assert_eq!(claims["name"], "Ann Example");
    assert!(claims["oid"].is_string() && claims["sub"].is_string() && claims["oid"] != claims["sub"]);
    assert!(claims["groups"].as_array().unwrap().contains(&PLATFORM_GROUP.into()));
    assert_eq!(claims["roles"], serde_json::json!([ADMIN_ROLE]));
}

#[tokio::test]
async fn each_account_belongs_to_its_tenant() {
    let idp = idp().await;
    assert_eq!(claims(&idp, "common", "pat").await["tid"], CONSUMERS);
    assert_eq!(claims(&idp, "common", "eve").await["tid"], FABRIKAM);
    let gus = claims(&idp, CONTOSO, "gus").await;
    assert!(gus["preferred_username"].as_str().unwrap().contains("#EXT#"));
    assert_eq!(claims(&idp, "organizations", "mallory").await["email"], "ann@example.com");
    assert!(idp.approve(&authorize(&idp, "organizations"), "pat").is_err());
    assert!(idp.approve(&authorize(&idp, CONTOSO), "eve").is_err());
}

#[tokio::test]
async fn carols_groups_are_only_at_graph_over_several_pages() {
    let idp = idp().await;
    let tokens = tokens(&idp, CONTOSO, "carol").await;
    let keys = format!("{}/{CONTOSO}/discovery/v2.0/keys", idp.origin());
    let claims = verified(tokens["id_token"].as_str().unwrap(), &keys).await.unwrap();
    assert_eq!(claims["groups"], Value::Null);
    assert_eq!(claims["_claim_names"]["groups"], "src1");
    assert!(claims["_claim_sources"]["src1"]["endpoint"].is_string());

    let access = tokens["access_token"].as_str().unwrap();
    for (path, roles) in [("transitiveMemberOf", 1), ("transitiveMemberOf/microsoft.graph.group", 0)] {
        let mut next = Some(format!("{}/v1.0/me/{path}?$select=id", idp.origin()));
        let mut ids = Vec::new();
        let mut pages = 0;
        while let Some(url) = next {
            let page = get_as(&url, access).await.json();
            pages += 1;
            for item in page["value"].as_array().unwrap() {
                assert_eq!(item.get("displayName"), None);
                ids.push(item["id"].as_str().unwrap().to_owned());
            }
            next = page["@odata.nextLink"].as_str().map(str::to_owned);
        }
        assert_eq!((ids.len(), pages), (CAROLS_GROUPS + roles, 3));
        assert_eq!(ids.last().map(String::as_str), Some(PLATFORM_GROUP));
    }
}

#[tokio::test]
async fn graph_returns_the_selected_fields_of_the_user() {
    let idp = idp().await;
    let token = tokens(&idp, "common", "ann").await;
    let token = token["access_token"].as_str().unwrap();
    let me = format!("{}/v1.0/me", idp.origin());
    let all = get_as(&me, token).await.json();
    assert_eq!((&all["mail"], &all["userPrincipalName"]), (&"ann@example.com".into(), &"ann@contoso.example".into()));
    let some = get_as(&format!("{me}?$select=id,userPrincipalName"), token).await.json();
    assert_eq!(some["id"], all["id"]);
    assert_eq!(some.get("mail"), None);
    let refused = get(&me, &[]).await;
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (401, Some("InvalidAuthenticationToken")));
}

#[tokio::test]
async fn graph_wants_the_scope_user_read() {
    let idp = idp().await;
    let endpoint = format!("{}/common/oauth2/v2.0/authorize", idp.origin());
    let code = code(&idp, &authorize_url(&endpoint, "openid profile email", &[]), "ann");
    let answer = redeem(&format!("{}/common/oauth2/v2.0/token", idp.origin()), &code, &[]).await.json();
    let token = answer["access_token"].as_str().unwrap();
    assert_eq!(get_as(&format!("{}/v1.0/me", idp.origin()), token).await.status, 403);
    assert_eq!(get_as(&format!("{}/v1.0/me/transitiveMemberOf", idp.origin()), token).await.status, 403);
}

#[tokio::test]
async fn a_used_code_and_a_wrong_secret_have_entras_own_errors() {
    let idp = idp().await;
    let endpoint = format!("{}/common/oauth2/v2.0/token", idp.origin());
    let first = code(&idp, &authorize(&idp, "common"), "ann");
    let wrong = redeem(&endpoint, &first, &[("client_secret", "wrong")]).await;
    assert_eq!((wrong.status, wrong.json()["error"].as_str()), (401, Some("invalid_client")));
    assert_eq!(wrong.json()["error_codes"][0], 7_000_215);
    assert_eq!(redeem(&endpoint, &first, &[]).await.status, 200);
    let again = redeem(&endpoint, &first, &[]).await;
    assert_eq!((again.status, again.json()["error"].as_str()), (400, Some("invalid_grant")));
    assert!(again.json()["error_description"].as_str().unwrap().starts_with("AADSTS54005: "));
}

#[tokio::test]
async fn a_code_of_one_tenant_is_refused_at_another() {
    let idp = idp().await;
    let at = |tenant: &str| format!("{}/{tenant}/oauth2/v2.0/token", idp.origin());
    let contosos = code(&idp, &authorize(&idp, CONTOSO), "ann");
    let refused = redeem(&at(FABRIKAM), &contosos, &[]).await;
    assert_eq!((refused.status, refused.json()["error"].as_str()), (400, Some("invalid_grant")));
    assert!(refused.json()["error_description"].as_str().unwrap().starts_with("AADSTS700005: "));
    let contosos = code(&idp, &authorize(&idp, CONTOSO), "ann");
    assert_eq!(redeem(&at("organizations"), &contosos, &[]).await.status, 200);
}

#[tokio::test]
async fn refresh_tokens_rotate_and_a_copied_one_ends_the_grant() {
    let idp = idp().await;
    let endpoint = format!("{}/common/oauth2/v2.0/token", idp.origin());
    let asked =
        authorize_url(&format!("{}/common/oauth2/v2.0/authorize", idp.origin()), "openid profile offline_access", &[]);
    idp.control().token_lifetime(std::time::Duration::from_secs(5));
    let answer = redeem(&endpoint, &code(&idp, &asked, "ann"), &[]).await.json();
    assert_eq!(answer["expires_in"], 5);
    let renew = async |token: &Value| {
        let token = token.as_str().unwrap();
        redeem(&endpoint, "", &[("grant_type", "refresh_token"), ("refresh_token", token)]).await.json()
    };
    let renewed = renew(&answer["refresh_token"]).await;
    assert_ne!(renewed["refresh_token"], answer["refresh_token"]);
    let spent = renew(&answer["refresh_token"]).await;
    assert_eq!((spent["error"].as_str(), &spent["error_codes"][0]), (Some("invalid_grant"), &54_005.into()));
    assert_eq!(renew(&renewed["refresh_token"]).await["error"], "invalid_grant");
}

#[tokio::test]
async fn after_a_rotation_old_tokens_verify_only_if_the_old_key_was_kept() {
    let idp = idp().await;
    let keys = format!("{}/common/discovery/v2.0/keys", idp.origin());
    let old = tokens(&idp, "common", "ann").await["id_token"].as_str().unwrap().to_owned();
    idp.rotate_key(OldKey::Keep).unwrap();
    let new = tokens(&idp, "common", "ann").await["id_token"].as_str().unwrap().to_owned();
    assert!(verified(&old, &keys).await.is_ok());
    assert!(verified(&new, &keys).await.is_ok());
    idp.rotate_key(OldKey::Drop).unwrap();
    assert!(verified(&old, &keys).await.is_err());
    assert!(verified(&new, &keys).await.is_err());
    assert_eq!(get(&keys, &[]).await.json()["keys"].as_array().unwrap().len(), 1);
}
