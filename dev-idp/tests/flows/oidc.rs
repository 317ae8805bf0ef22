//! OpenID Connect: discovery, the code flow with PKCE and `iss`, UserInfo, refresh tokens, sign-out.

use std::time::Duration;

use dev_idp::DevIdp;
use serde_json::Value;
use url::Url;

use crate::client::{CALLBACK, VERIFIER, authorize_url, code, get, get_as, idp, param, post, redeem, verified};

const SCOPES: &str = "openid profile email";

fn authorize(idp: &DevIdp, changes: &[(&str, &str)]) -> String {
    authorize_url(&format!("{}/oidc/authorize", idp.origin()), SCOPES, changes)
}

fn token_endpoint(idp: &DevIdp) -> String {
    format!("{}/oidc/token", idp.origin())
}

async fn tokens(idp: &DevIdp, user: &str, changes: &[(&str, &str)]) -> Value {
    let code = code(idp, &authorize(idp, changes), user);
    let answer = redeem(&token_endpoint(idp), &code, &[]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

fn error_at_callback(idp: &DevIdp, changes: &[(&str, &str)]) -> Option<String> {
    let location = idp.approve(&authorize(idp, changes), "ann").unwrap();
    assert!(location.starts_with(CALLBACK));
    param(&Url::parse(&location).unwrap(), "error")
}

#[tokio::test]
async fn the_flow_follows_discovery_from_end_to_end() {
    let idp = idp().await;
    let issuer = format!("{}/oidc", idp.origin());
    let config = get(&format!("{issuer}/.well-known/openid-configuration"), &[]).await.json();
    assert_eq!(config["issuer"], issuer);
    assert_eq!(config["authorization_response_iss_parameter_supported"], true);
    let url = authorize_url(config["authorization_endpoint"].as_str().unwrap(), SCOPES, &[]);
    let callback = Url::parse(&idp.approve(&url, "ann").unwrap()).unwrap();
    assert_eq!(param(&callback, "iss").as_deref(), Some(issuer.as_str()));
    let code = param(&callback, "code").unwrap();
    let answer = redeem(config["token_endpoint"].as_str().unwrap(), &code, &[]).await.json();
    assert_eq!(answer["token_type"], "Bearer");
    assert_eq!(answer.get("refresh_token"), None);
    let id_token = answer["id_token"].as_str().unwrap();
    let claims = verified(id_token, config["jwks_uri"].as_str().unwrap()).await.unwrap();
    assert_eq!(claims["iss"], issuer);
    assert_eq!(claims["sub"], "oidc-ann");
    assert_eq!(claims["nonce"], "n-1");
    assert_eq!(claims["email_verified"], true);
    assert_eq!(claims["groups"], serde_json::json!(["acme", "acme/platform"]));
    let userinfo =
        get_as(config["userinfo_endpoint"].as_str().unwrap(), answer["access_token"].as_str().unwrap()).await;
    assert_eq!(userinfo.json()["sub"], "oidc-ann");
    assert_eq!(userinfo.json()["email"], "ann@example.com");
}

#[tokio::test]
async fn the_documents_name_the_loopback_host_that_was_asked() {
    let idp = idp().await;
    let port = idp.addr().port();
    let named = format!("http://localhost:{port}/oidc");
    let config = get(&format!("{named}/.well-known/openid-configuration"), &[]).await.json();
    assert_eq!(config["issuer"], named);
    let callback = idp.approve(&authorize_url(&format!("{named}/authorize"), SCOPES, &[]), "ann").unwrap();
    assert_eq!(param(&Url::parse(&callback).unwrap(), "iss").as_deref(), Some(named.as_str()));
}

#[tokio::test]
async fn bobs_claims_are_at_userinfo_only() {
    let idp = idp().await;
    let answer = tokens(&idp, "bob", &[]).await;
    let jwks = format!("{}/oidc/jwks", idp.origin());
    let claims = verified(answer["id_token"].as_str().unwrap(), &jwks).await.unwrap();
    assert_eq!(claims["sub"], "oidc-bob");
    assert_eq!(claims.get("email"), None);
    let userinfo = format!("{}/oidc/userinfo", idp.origin());
    let more = get_as(&userinfo, answer["access_token"].as_str().unwrap()).await.json();
    assert_eq!((&more["sub"], &more["email"]), (&"oidc-bob".into(), &"bob@example.com".into()));
    assert_eq!(get(&userinfo, &[]).await.status, 401);
}

#[tokio::test]
async fn zoes_claims_pass_unharmed() {
    let idp = idp().await;
    let answer = tokens(&idp, "zoe", &[]).await;
    let jwks = format!("{}/oidc/jwks", idp.origin());
    let claims = verified(answer["id_token"].as_str().unwrap(), &jwks).await.unwrap();
    assert_eq!(claims["name"], "Zoë <b>, 100%");
    assert_eq!(claims["preferred_username"], "zoë, 100%");
    assert_eq!(claims["groups"][0], "Zürich, 100%");
}

#[tokio::test]
async fn a_code_is_bound_to_its_verifier_its_url_and_its_minute() {
    let idp = idp().await;
    let error = async |changes: &[(&str, &str)], late: u64| {
        let code = code(&idp, &authorize(&idp, &[]), "ann");
        idp.advance_clock(Duration::from_secs(late));
        let answer = redeem(&token_endpoint(&idp), &code, changes).await;
        (answer.status, answer.json()["error"].as_str().map(str::to_owned))
    };
    let refused = (400, Some("invalid_grant".to_owned()));
    assert_eq!(error(&[("code_verifier", "wrong")], 0).await, refused);
    assert_eq!(error(&[("code_verifier", "")], 0).await, refused);
    assert_eq!(error(&[("redirect_uri", "http://localhost:8080/x")], 0).await, refused);
    assert_eq!(error(&[], 62).await, refused);
    assert_eq!(error(&[], 0).await, (200, None));
    let invalid = (400, Some("invalid_request".to_owned()));
    assert_eq!(error(&[("redirect_uri", "")], 0).await, invalid);
}

#[tokio::test]
async fn a_code_used_twice_kills_the_token_of_the_first_use() {
    let idp = idp().await;
    let code = code(&idp, &authorize(&idp, &[]), "ann");
    let first = redeem(&token_endpoint(&idp), &code, &[]).await.json();
    let token = first["access_token"].as_str().unwrap();
    let userinfo = format!("{}/oidc/userinfo", idp.origin());
    assert_eq!(get_as(&userinfo, token).await.status, 200);
    assert_eq!(redeem(&token_endpoint(&idp), &code, &[]).await.json()["error"], "invalid_grant");
    assert_eq!(get_as(&userinfo, token).await.status, 401);
}

#[tokio::test]
async fn a_code_of_one_provider_is_of_no_use_at_another() {
    let idp = idp().await;
    let code = code(&idp, &authorize(&idp, &[]), "ann");
    let answer = redeem(&format!("{}/login/oauth/access_token", idp.origin()), &code, &[]).await;
    assert_eq!(answer.json()["error"], "bad_verification_code");
    assert_eq!(redeem(&token_endpoint(&idp), &code, &[]).await.status, 200);
}

#[tokio::test]
async fn plain_challenges_and_odd_requests_come_back_as_errors() {
    let idp = idp().await;
    let invalid = Some("invalid_request".to_owned());
    assert_eq!(error_at_callback(&idp, &[("code_challenge_method", "plain")]), invalid);
    assert_eq!(error_at_callback(&idp, &[("code_challenge_method", "")]), invalid);
    assert_eq!(error_at_callback(&idp, &[("code_challenge", "short")]), invalid);
    assert_eq!(error_at_callback(&idp, &[("response_type", "token")]), Some("unsupported_response_type".to_owned()));
    assert_eq!(error_at_callback(&idp, &[("scope", "profile")]), Some("invalid_scope".to_owned()));
    assert_eq!(error_at_callback(&idp, &[]), None);
}

#[tokio::test]
async fn nobody_is_sent_to_an_unregistered_url() {
    let idp = idp().await;
    for url in [
        "http://localhost:8080/api/v1/auth/callback/",
        "http://evil.example/",
        "HTTP://localhost:8080/api/v1/auth/callback",
    ] {
        let asked = authorize(&idp, &[("redirect_uri", url)]);
        assert!(idp.approve(&asked, "ann").is_err(), "{url}");
        let answer = get(&asked, &[]).await;
        assert_eq!((answer.status, answer.header("location")), (400, None));
    }
    let wrong_client = get(&authorize(&idp, &[("client_id", "other")]), &[]).await;
    assert_eq!((wrong_client.status, wrong_client.header("location")), (400, None));
    let mine = "http://127.0.0.1:7/api/v1/auth/callback";
    idp.allow_redirect(mine).unwrap();
    assert!(idp.approve(&authorize(&idp, &[("redirect_uri", mine)]), "ann").unwrap().starts_with(mine));
}

#[tokio::test]
async fn refresh_tokens_rotate_and_a_copied_one_ends_the_grant() {
    let idp = idp().await;
    let answer = tokens(&idp, "ann", &[("scope", "openid offline_access")]).await;
    let first = answer["refresh_token"].as_str().unwrap().to_owned();
    let renew = async |token: &str| {
        let fields = [
            ("grant_type", "refresh_token"),
            ("refresh_token", token),
            ("client_id", "sidegate-dev"),
            ("client_secret", "sidegate-dev-secret"),
        ];
        post(&token_endpoint(&idp), &fields, &[]).await
    };
    let renewed = renew(&first).await.json();
    let second = renewed["refresh_token"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    assert!(renewed["id_token"].is_string());
    assert_eq!(renew(&first).await.json()["error"], "invalid_grant");
    assert_eq!(renew(&second).await.json()["error"], "invalid_grant");
}

#[tokio::test]
async fn a_user_who_is_gone_has_no_live_tokens() {
    let idp = idp().await;
    let answer = tokens(&idp, "ann", &[]).await;
    let userinfo = format!("{}/oidc/userinfo", idp.origin());
    let token = answer["access_token"].as_str().unwrap();
    assert_eq!(get_as(&userinfo, token).await.status, 200);
    idp.remove_user("ann");
    assert_eq!(get_as(&userinfo, token).await.status, 401);
    assert!(idp.approve(&authorize(&idp, &[]), "ann").is_err());
}

#[tokio::test]
async fn a_user_of_the_tests_own_can_sign_in() {
    let idp = idp().await;
    let mut dan = dev_idp::User::new("dan");
    dan.oidc.as_mut().unwrap().email_verified = None;
    idp.put_user(dan);
    let answer = tokens(&idp, "dan", &[]).await;
    let jwks = format!("{}/oidc/jwks", idp.origin());
    let claims = verified(answer["id_token"].as_str().unwrap(), &jwks).await.unwrap();
    assert_eq!(claims["email"], "dan@example.com");
    assert_eq!(claims.get("email_verified"), None);
}

#[tokio::test]
async fn a_client_that_authenticates_twice_or_not_at_all_is_refused() {
    let idp = idp().await;
    let basic = ("Authorization", "Basic c2lkZWdhdGUtZGV2OnNpZGVnYXRlLWRldi1zZWNyZXQ=");
    let code = code(&idp, &authorize(&idp, &[]), "ann");
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
        ("client_secret", "sidegate-dev-secret"),
    ];
    assert_eq!(post(&token_endpoint(&idp), &fields, &[basic]).await.json()["error"], "invalid_request");
    assert_eq!(post(&token_endpoint(&idp), &fields[..4], &[]).await.status, 401);
    assert_eq!(post(&token_endpoint(&idp), &fields[..4], &[basic]).await.status, 200);
}

#[tokio::test]
async fn signing_out_goes_back_to_the_clients_origin_only() {
    let idp = idp().await;
    let end = format!("{}/oidc/end_session", idp.origin());
    let back = get(&format!("{end}?post_logout_redirect_uri=http://localhost:8080/bye&state=s"), &[]).await;
    assert_eq!((back.status, back.location().as_str()), (302, "http://localhost:8080/bye?state=s"));
    assert!(back.header("set-cookie").unwrap().contains("Max-Age=0"));
    let away = get(&format!("{end}?post_logout_redirect_uri=http://evil.example/"), &[]).await;
    assert_eq!((away.status, away.header("location")), (400, None));
    assert_eq!(get(&end, &[]).await.status, 200);
    assert_eq!(get(&format!("{end}?client_id=other"), &[]).await.status, 400);
}

#[tokio::test]
async fn a_logout_token_names_the_sign_in_that_is_over() {
    let idp = idp().await;
    let answer = tokens(&idp, "ann", &[]).await;
    let jwks = format!("{}/oidc/jwks", idp.origin());
    let id_token = verified(answer["id_token"].as_str().unwrap(), &jwks).await.unwrap();
    let token = idp.logout_token("ann").unwrap();
    let logout = verified(&token, &jwks).await.unwrap();
    assert!(logout["sid"].is_string() && logout["sid"] == id_token["sid"] && logout["sub"] == id_token["sub"]);
    assert!(logout["jti"].is_string() && logout.get("nonce").is_none());
    assert!(logout["events"]["http://schemas.openid.net/event/backchannel-logout"].is_object());
    assert_eq!(jsonwebtoken::decode_header(&token).unwrap().typ.as_deref(), Some("logout+jwt"));
    assert!(idp.logout_token("nobody").is_none());
}

#[tokio::test]
async fn a_client_gets_a_token_for_itself_for_the_audience_that_it_names() {
    let idp = idp().await;
    let secret = [("client_id", "sidegate-dev"), ("client_secret", "sidegate-dev-secret")];
    let ask = async |more: &[(&str, &str)]| {
        let fields = [&[("grant_type", "client_credentials")], more].concat();
        post(&token_endpoint(&idp), &fields, &[]).await
    };
    let answer = ask(&[&secret[..], &[("audience", "sidegate-dev")]].concat()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let token = answer.json()["access_token"].as_str().unwrap().to_owned();
    let claims = verified(&token, &format!("{}/oidc/jwks", idp.origin())).await.unwrap();
    assert_eq!((&claims["sub"], &claims["iss"]), (&"sidegate-dev".into(), &format!("{}/oidc", idp.origin()).into()));
    assert_eq!(ask(&[("audience", "x")]).await.status, 401, "without the secret");
    assert_eq!(ask(&secret).await.status, 400, "for nobody");
    let made = idp.access_token(&serde_json::json!({ "aud": "sidegate-dev", "sub": "robot", "iss": "x" })).unwrap();
    let claims = verified(&made, &format!("{}/oidc/jwks", idp.origin())).await.unwrap();
    assert_eq!((&claims["sub"], &claims["iss"]), (&"robot".into(), &"x".into()), "what is named stands");
    assert_eq!(idp.access_token(&serde_json::json!([])), None);
}
