//! GitHub: sign-in, its odd token answers, and the resources of a user.

use dev_idp::DevIdp;
use url::{Url, form_urlencoded};

use crate::client::{CALLBACK, VERIFIER, authorize_url, code, get, get_as, idp, param, post, redeem};

const SCOPES: &str = "read:user user:email read:org";

fn authorize(idp: &DevIdp, changes: &[(&str, &str)]) -> String {
    authorize_url(&format!("{}/login/oauth/authorize", idp.origin()), SCOPES, changes)
}

fn token_endpoint(idp: &DevIdp) -> String {
    format!("{}/login/oauth/access_token", idp.origin())
}

async fn token_of(idp: &DevIdp, user: &str) -> String {
    let code = code(idp, &authorize(idp, &[("response_type", "")]), user);
    let answer = redeem(&token_endpoint(idp), &code, &[("grant_type", "")]).await;
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn ann_signs_in_and_her_primary_verified_address_is_known() {
    let idp = idp().await;
    let code = code(&idp, &authorize(&idp, &[]), "ann");
    let answer = redeem(&token_endpoint(&idp), &code, &[]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["token_type"], "bearer");
    assert_eq!(answer.json()["scope"], "read:user,user:email,read:org");
    let token = answer.json()["access_token"].as_str().unwrap().to_owned();

    for api in [idp.origin(), format!("{}/api/v3", idp.origin())] {
        let user = get_as(&format!("{api}/user"), &token).await;
        assert_eq!(user.json()["login"], "ann");
        assert_eq!(user.json()["id"], 1001);
        assert_eq!(user.header("x-oauth-scopes"), Some("read:user, user:email, read:org"));
        let emails = get_as(&format!("{api}/user/emails"), &token).await.json();
        let emails = emails.as_array().unwrap();
        let primary = emails.iter().find(|email| email["primary"] == true).unwrap();
        assert_eq!(primary["email"], "ann@example.com");
        assert_eq!(primary["verified"], true);
        assert_eq!(emails.iter().filter(|email| email["verified"] == true).count(), 2);
        assert_eq!(emails.len(), 3);
        assert_eq!(get_as(&format!("{api}/user/orgs"), &token).await.json()[0]["login"], "acme");
        let team = &get_as(&format!("{api}/user/teams"), &token).await.json()[0];
        assert_eq!((team["slug"].as_str(), team["organization"]["login"].as_str()), (Some("platform"), Some("acme")));
    }
}

#[tokio::test]
async fn a_refused_code_is_an_error_at_status_200() {
    let idp = idp().await;
    let endpoint = token_endpoint(&idp);
    let error = async |code: &str, changes: &[(&str, &str)]| {
        let answer = redeem(&endpoint, code, changes).await;
        assert_eq!(answer.status, 200);
        assert!(answer.json()["error_uri"].is_string() && answer.json()["error_description"].is_string());
        answer.json()["error"].as_str().unwrap().to_owned()
    };
    let fresh = || code(&idp, &authorize(&idp, &[]), "ann");
    assert_eq!(error("unknown", &[]).await, "bad_verification_code");
    assert_eq!(error(&fresh(), &[("client_secret", "wrong")]).await, "incorrect_client_credentials");
    assert_eq!(error(&fresh(), &[("client_id", "wrong")]).await, "incorrect_client_credentials");
    assert_eq!(error(&fresh(), &[("redirect_uri", "http://localhost:8080/x")]).await, "redirect_uri_mismatch");
    assert_eq!(error(&fresh(), &[("code_verifier", "")]).await, "bad_verification_code");
    assert_eq!(error(&fresh(), &[("code_verifier", "wrong")]).await, "bad_verification_code");
    let used = fresh();
    assert_eq!(redeem(&endpoint, &used, &[]).await.json()["token_type"], "bearer");
    assert_eq!(error(&used, &[]).await, "bad_verification_code");
}

#[tokio::test]
async fn without_asking_for_json_the_answer_is_a_form() {
    let idp = idp().await;
    let code = code(&idp, &authorize(&idp, &[]), "ann");
    let fields = [("code", code.as_str()), ("redirect_uri", CALLBACK), ("code_verifier", VERIFIER)];
    // sidegate-dev:sidegate-dev-secret
    let basic = ("Authorization", "Basic c2lkZWdhdGUtZGV2OnNpZGVnYXRlLWRldi1zZWNyZXQ=");
    let answer = post(&token_endpoint(&idp), &fields, &[basic]).await;
    assert!(answer.header("content-type").unwrap().starts_with("application/x-www-form-urlencoded"));
    let form: Vec<_> = form_urlencoded::parse(answer.body.as_bytes()).into_owned().collect();
    assert!(form.iter().any(|(name, value)| name == "access_token" && value.starts_with("gho_")), "{form:?}");
}

#[tokio::test]
async fn the_api_wants_a_user_agent_a_good_token_and_the_scope() {
    let idp = idp().await;
    let user = format!("{}/user", idp.origin());
    let token = token_of(&idp, "ann").await;
    let bearer = format!("Bearer {token}");
    assert_eq!(get(&user, &[("Authorization", &bearer)]).await.status, 403);
    let bad = get_as(&user, "nonsense").await;
    assert_eq!((bad.status, bad.json()["message"].as_str()), (401, Some("Bad credentials")));

    let bare = code(&idp, &authorize(&idp, &[("scope", "read:user")]), "ann");
    let bare = redeem(&token_endpoint(&idp), &bare, &[]).await.json();
    let bare = bare["access_token"].as_str().unwrap();
    assert_eq!(get_as(&user, bare).await.status, 200);
    for path in ["emails", "orgs", "teams", "memberships/orgs"] {
        assert_eq!(get_as(&format!("{user}/{path}"), bare).await.status, 403, "{path}");
        assert_eq!(get_as(&format!("{user}/{path}"), &token).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_pending_membership_is_listed_apart() {
    let idp = idp().await;
    let token = token_of(&idp, "bob").await;
    let memberships = format!("{}/user/memberships/orgs", idp.origin());
    assert_eq!(get_as(&format!("{memberships}?state=active"), &token).await.json().as_array().unwrap().len(), 0);
    let pending = get_as(&format!("{memberships}?state=pending"), &token).await.json();
    assert_eq!((&pending[0]["state"], &pending[0]["organization"]["login"]), (&"pending".into(), &"acme".into()));
    assert_eq!(get_as(&memberships, &token).await.json().as_array().unwrap().len(), 1);
    assert_eq!(get_as(&format!("{}/user/orgs", idp.origin()), &token).await.json().as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn carols_organisations_take_three_pages_and_acme_is_on_the_last() {
    let idp = idp().await;
    let token = token_of(&idp, "carol").await;
    let mut next = Some(format!("{}/api/v3/user/memberships/orgs?state=active&per_page=100", idp.origin()));
    let mut pages = Vec::new();
    while let Some(url) = next {
        let answer = get_as(&url, &token).await;
        pages.push(answer.json().as_array().unwrap().clone());
        let link = answer.header("link").unwrap_or_default().to_owned();
        let target = link.split(", ").find(|part| part.ends_with("rel=\"next\""));
        next = target.map(|part| part[1..].split('>').next().unwrap().to_owned());
    }
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, dev_idp::users::CAROLS_GROUPS - 200]);
    assert_eq!(pages[2].last().unwrap()["organization"]["login"], "acme");
}

#[tokio::test]
async fn eves_address_is_primary_but_not_verified() {
    let idp = idp().await;
    let token = token_of(&idp, "eve").await;
    let emails = get_as(&format!("{}/user/emails", idp.origin()), &token).await.json();
    assert_eq!(emails[0]["primary"], true);
    assert_eq!(emails[0]["verified"], false);
}

#[tokio::test]
async fn an_apps_tokens_end_and_its_refresh_tokens_rotate() {
    let idp = idp().await;
    idp.control().expiring_github_tokens();
    let code = code(&idp, &authorize(&idp, &[]), "ann");
    let answer = redeem(&token_endpoint(&idp), &code, &[]).await.json();
    assert_eq!((&answer["expires_in"], &answer["refresh_token_expires_in"]), (&28_800.into(), &15_897_600.into()));
    let old = answer["access_token"].as_str().unwrap();
    assert!(old.starts_with("ghu_"));
    let first = answer["refresh_token"].as_str().unwrap().to_owned();
    let renew = async |token: &str| {
        redeem(&token_endpoint(&idp), "", &[("grant_type", "refresh_token"), ("refresh_token", token)]).await
    };
    let renewed = renew(&first).await.json();
    assert!(renewed["refresh_token"].as_str().unwrap().starts_with("ghr_") && renewed["refresh_token"] != *first);
    let user = format!("{}/user", idp.origin());
    assert_eq!(get_as(&user, old).await.status, 401, "a refresh ends the old access token");
    assert_eq!(get_as(&user, renewed["access_token"].as_str().unwrap()).await.status, 200);
    let again = renew(&first).await;
    assert_eq!((again.status, again.json()["error"].as_str()), (200, Some("bad_refresh_token")));
    assert_eq!(renew(renewed["refresh_token"].as_str().unwrap()).await.json()["error"], "bad_refresh_token");
    assert_eq!(idp.control().refreshes(), 3);
}

#[tokio::test]
async fn a_cancelled_sign_in_comes_back_as_access_denied() {
    let idp = idp().await;
    let callback = Url::parse(&idp.deny(&authorize(&idp, &[])).unwrap()).unwrap();
    assert_eq!(param(&callback, "error").as_deref(), Some("access_denied"));
    assert_eq!(param(&callback, "state").as_deref(), Some("st/a te"));
    assert_eq!(param(&callback, "code"), None);
    assert_eq!(param(&callback, "iss"), None);
}
