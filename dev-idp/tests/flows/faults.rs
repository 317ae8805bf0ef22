//! Misbehaviour on demand: each fault and lie does what it says, and ends when it should.

use std::time::Duration;

use dev_idp::{DevIdp, Endpoint, Fault, Lie, Options};
use serde_json::{Value, json};
use url::Url;

use crate::client::{authorize_url, code, get, get_as, idp, param, redeem, send, verified};

const LIMIT: Duration = Duration::from_secs(20);

fn authorize(idp: &DevIdp) -> String {
    authorize_url(&format!("{}/oidc/authorize", idp.origin()), "openid email profile", &[])
}

async fn tokens(idp: &DevIdp) -> Value {
    let code = code(idp, &authorize(idp), "ann");
    redeem(&format!("{}/oidc/token", idp.origin()), &code, &[]).await.json()
}

/// The claims under `lie`, not verified.
async fn claims_under(idp: &DevIdp, lie: Lie) -> Value {
    let (_, claims) = parts(&id_token_under(idp, lie).await);
    claims
}

async fn id_token_under(idp: &DevIdp, lie: Lie) -> String {
    idp.control().lie(lie);
    let answer = tokens(idp).await;
    idp.control().honest();
    answer["id_token"].as_str().unwrap().to_owned()
}

fn parts(token: &str) -> (Value, Value) {
    use base64::Engine as _;
    let read = |part: &str| {
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    let mut parts = token.split('.');
    (read(parts.next().unwrap()), read(parts.next().unwrap()))
}

#[tokio::test]
async fn each_endpoint_fails_as_often_as_asked_and_then_works() {
    let idp = idp().await;
    let origin = idp.origin();
    let control = idp.control();
    for (endpoint, path, well) in [
        (Endpoint::Discovery, "/oidc/.well-known/openid-configuration", 200),
        (Endpoint::Discovery, "/common/v2.0/.well-known/openid-configuration", 200),
        (Endpoint::Jwks, "/oidc/jwks", 200),
        (Endpoint::Jwks, "/common/discovery/v2.0/keys", 200),
        (Endpoint::Authorize, "/login/oauth/authorize?client_id=sidegate-dev", 200),
        (Endpoint::Token, "/oidc/token", 405),
        (Endpoint::Token, "/login/oauth/access_token", 405),
        (Endpoint::UserInfo, "/oidc/userinfo", 401),
        (Endpoint::User, "/user", 403),
        (Endpoint::Emails, "/api/v3/user/emails", 403),
        (Endpoint::Orgs, "/user/orgs", 403),
        (Endpoint::Teams, "/user/teams", 403),
        (Endpoint::Memberships, "/user/memberships/orgs", 403),
        (Endpoint::GraphMe, "/v1.0/me", 401),
        (Endpoint::GraphGroups, "/v1.0/me/transitiveMemberOf/microsoft.graph.group", 401),
    ] {
        control.reset();
        control.fail_times(2, endpoint, Fault::Status(503));
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(get(&format!("{origin}{path}"), &[]).await.status);
        }
        assert_eq!(seen, [503, 503, well], "{path}");
        assert_eq!(control.requests(endpoint), 3, "{path}");
    }
}

#[tokio::test]
async fn bodies_break_in_each_way() {
    let idp = idp().await;
    let jwks = format!("{}/oidc/jwks", idp.origin());
    let control = idp.control();
    control.fail(Endpoint::Jwks, Fault::Malformed);
    let malformed = get(&jwks, &[]).await;
    assert_eq!((malformed.status, malformed.whole), (200, true));
    assert!(serde_json::from_str::<Value>(&malformed.body).is_err());
    control.fail(Endpoint::Jwks, Fault::Huge(3));
    let huge = get(&jwks, &[]).await;
    assert!(huge.whole && huge.body.len() > 3 << 20 && huge.json()["padding"].is_string());
    control.fail(Endpoint::Jwks, Fault::Cut);
    let cut = get(&jwks, &[]).await;
    assert_eq!((cut.status, cut.whole), (200, false));
    control.clear(Endpoint::Jwks);
    assert!(get(&jwks, &[]).await.json()["keys"].is_array());
}

#[tokio::test]
async fn a_slow_answer_is_late_and_a_held_one_waits_to_be_let_go() {
    let idp = idp().await;
    let jwks = format!("{}/oidc/jwks", idp.origin());
    let control = idp.control();
    control.fail(Endpoint::Jwks, Fault::Slow(Duration::from_millis(300)));
    let before = tokio::time::Instant::now();
    assert_eq!(get(&jwks, &[]).await.status, 200);
    assert!(before.elapsed() >= Duration::from_millis(300));

    control.reset();
    control.fail(Endpoint::Jwks, Fault::Hold);
    let held = tokio::spawn(async move { get(&jwks, &[]).await.status });
    tokio::time::timeout(LIMIT, control.arrived(Endpoint::Jwks, 1)).await.unwrap();
    assert!(!held.is_finished());
    control.clear(Endpoint::Jwks);
    assert_eq!(tokio::time::timeout(LIMIT, held).await.unwrap().unwrap(), 200);
}

#[tokio::test]
async fn the_last_request_is_captured_with_its_headers() {
    let idp = idp().await;
    let _answer = get(&format!("{}/user?x=1", idp.origin()), &[("User-Agent", "sidegate/1")]).await;
    let last = idp.control().last(Endpoint::User).unwrap();
    assert_eq!((last.method.as_str(), last.target.as_str()), ("GET", "/user?x=1"));
    assert_eq!(last.header("user-agent"), Some("sidegate/1"));
    assert_eq!(idp.control().last(Endpoint::Emails), None);
}

#[tokio::test]
async fn false_claims_are_issued_until_honest() {
    let idp = idp().await;
    let honest = parts(tokens(&idp).await["id_token"].as_str().unwrap()).1;
    assert_ne!(claims_under(&idp, Lie::WrongNonce).await["nonce"], honest["nonce"]);
    assert_ne!(claims_under(&idp, Lie::WrongAudience).await["aud"], honest["aud"]);
    assert_ne!(claims_under(&idp, Lie::WrongIssuer).await["iss"], honest["iss"]);
    assert_eq!(claims_under(&idp, Lie::WrongAuthorizedParty).await["azp"], "another-client");
    assert_eq!(claims_under(&idp, Lie::ManyAudiences).await["aud"][0], "sidegate-dev");
    assert_eq!(claims_under(&idp, Lie::MissingClaim("exp".into())).await.get("exp"), None);
    assert_eq!(claims_under(&idp, Lie::Claim("tid".into(), json!(7))).await["tid"], 7);
    assert_eq!(claims_under(&idp, Lie::EmailVerifiedAsText).await["email_verified"], "true");
    assert_eq!(claims_under(&idp, Lie::HasGroups).await["hasgroups"], true);
    assert_ne!(claims_under(&idp, Lie::WrongAccessTokenHash).await["at_hash"], Value::Null);
    let now = honest["iat"].as_u64().unwrap();
    assert!(claims_under(&idp, Lie::Expired).await["exp"].as_u64().unwrap() < now);
    assert!(claims_under(&idp, Lie::NotYetValid).await["nbf"].as_u64().unwrap() > now + 600);
    let again = parts(tokens(&idp).await["id_token"].as_str().unwrap()).1;
    assert_eq!((&again["nonce"], &again["aud"]), (&honest["nonce"], &honest["aud"]));
}

#[tokio::test]
async fn no_forged_signature_verifies() {
    let idp = idp().await;
    let jwks = format!("{}/oidc/jwks", idp.origin());
    for (lie, algorithm) in [
        (Lie::AlgNone, "none"),
        (Lie::HmacWithPublicKey, "HS256"),
        (Lie::UnknownKey, "RS256"),
        (Lie::ForgedSignature, "RS256"),
    ] {
        let token = id_token_under(&idp, lie.clone()).await;
        assert_eq!(parts(&token).0["alg"], algorithm, "{lie:?}");
        assert!(verified(&token, &jwks).await.is_err(), "{lie:?}");
    }
    assert!(verified(tokens(&idp).await["id_token"].as_str().unwrap(), &jwks).await.is_ok());
}

#[tokio::test]
async fn the_token_answer_and_userinfo_can_lie() {
    let idp = idp().await;
    let control = idp.control();
    control.lie(Lie::NoIdToken);
    assert_eq!(tokens(&idp).await.get("id_token"), None);
    control.lie(Lie::NoAccessToken);
    assert_eq!(tokens(&idp).await.get("access_token"), None);
    control.honest();
    control.lie(Lie::TokenType("mac".into()));
    control.lie(Lie::OtherSubAtUserInfo);
    control.lie(Lie::UserInfoClaim("email".into(), json!("x@y.example")));
    let answer = tokens(&idp).await;
    assert_eq!(answer["token_type"], "mac");
    let userinfo = format!("{}/oidc/userinfo", idp.origin());
    let claims = get_as(&userinfo, answer["access_token"].as_str().unwrap()).await.json();
    assert_ne!(claims["sub"], "oidc-ann");
    assert_eq!(claims["email"], "x@y.example");
}

#[tokio::test]
async fn the_callback_can_lie() {
    let idp = idp().await;
    let control = idp.control();
    let callback = |lie: Lie| {
        control.honest();
        control.lie(lie);
        Url::parse(&idp.approve(&authorize(&idp), "ann").unwrap()).unwrap()
    };
    assert_eq!(param(&callback(Lie::NoIssAtCallback), "iss"), None);
    let wrong = param(&callback(Lie::WrongIssAtCallback), "iss").unwrap();
    assert!(!wrong.starts_with(&idp.origin()));
    assert_eq!(param(&callback(Lie::WrongState), "state").as_deref(), Some("another-state"));
    assert_eq!(param(&callback(Lie::NoState), "state"), None);
    let failed = callback(Lie::ErrorAtCallback("server_error".into()));
    assert_eq!(param(&failed, "error").as_deref(), Some("server_error"));
    assert_eq!(param(&failed, "code"), None);
}

#[tokio::test]
async fn control_over_http_is_there_only_when_allowed() {
    let json = [("Content-Type", "application/json")];
    let closed = idp().await;
    let answer = send("POST", &format!("{}/_control/reset", closed.origin()), &json, "{}").await;
    assert_eq!(answer.status, 404);

    let open = DevIdp::start(Options { allow_control: true, ..Options::default() }).await.unwrap();
    let order =
        async |path: &str, body: &str| send("POST", &format!("{}/_control/{path}", open.origin()), &json, body).await;
    let fail = r#"{"endpoint":"jwks","fault":{"status":418},"times":1}"#;
    assert_eq!(order("fail", fail).await.status, 204);
    let jwks = format!("{}/oidc/jwks", open.origin());
    assert_eq!(get(&jwks, &[]).await.status, 418);
    assert_eq!(order("seen", r#"{"endpoint":"jwks"}"#).await.json()["requests"], 1);
    assert_eq!(order("lie", r#"{"lie":{"claim":["tid","x"]}}"#).await.status, 204);
    assert_eq!(parts(tokens(&open).await["id_token"].as_str().unwrap()).1["tid"], "x");
    assert_eq!(order("lie", r#"{"lie":"no_such_lie"}"#).await.status, 422);
    let before = get(&jwks, &[]).await.json();
    assert_eq!(order("rotate", r#"{"old":"drop"}"#).await.status, 204);
    assert_ne!(get(&jwks, &[]).await.json(), before);
    assert_eq!(order("advance", r#"{"seconds":61}"#).await.status, 204);
    assert_eq!(order("reset", "{}").await.status, 204);
    assert_eq!(order("tokens", r#"{"lifetime":7,"expiring_github":true}"#).await.status, 204);
    assert_eq!(tokens(&open).await["expires_in"], 7);
    assert_eq!(order("fail", r#"{"endpoint":"token","fault":{"refuse":"invalid_grant"},"times":1}"#).await.status, 204);
    assert_eq!(tokens(&open).await["error"], "invalid_grant");
    // A client that is notified: here the provider itself, which has no such place.
    let logout = format!(r#"{{"user":"ann","to":"{}/nowhere"}}"#, open.origin());
    let sent = order("logout-token", &logout).await.json();
    assert!(sent["status"] == 404 && sent["token"].is_string(), "{sent}");
    assert_eq!(order("logout-token", r#"{"user":"ann","to":"http://example.com/"}"#).await.status, 502);
    let userinfo = format!("{}/oidc/userinfo", open.origin());
    let token = tokens(&open).await["access_token"].as_str().unwrap().to_owned();
    assert_eq!(get_as(&userinfo, &token).await.status, 200);
    assert_eq!(order("revoke", r#"{"user":"ann"}"#).await.status, 204);
    assert_eq!(get_as(&userinfo, &token).await.status, 401);
    let form =
        send("POST", &format!("{}/_control/reset", open.origin()), &[("Content-Type", "text/plain")], "{}").await;
    assert_eq!(form.status, 415);
}

#[tokio::test]
async fn dropping_the_handle_closes_the_port_and_open_connections() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let idp = idp().await;
    let address = idp.addr();
    idp.control().fail(Endpoint::Jwks, Fault::Hold);
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /oidc/jwks HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    tokio::time::timeout(LIMIT, idp.control().arrived(Endpoint::Jwks, 1)).await.unwrap();
    drop(idp);
    let mut bytes = Vec::new();
    let _closed_or_reset = tokio::time::timeout(LIMIT, stream.read_to_end(&mut bytes)).await.unwrap();
    assert!(bytes.is_empty());
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}
