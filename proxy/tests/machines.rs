//! Machines: bearer tokens under the same rules as sessions, with the real program and a real issuer; forged ones are always refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dev_idp::{DevIdp, Endpoint, Fault, Lie, OldKey, Options};
use http::Request;
use http_body_util::Full;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::lasting::endless;
use crate::support::client::{full, next_data};
use crate::support::proxy::Plan;
use crate::support::{Answer, Client, HOST, Proxy, Upstream, until, wire};

const API: &str = "https://app.example.com";
const METADATA: &str = "/.well-known/oauth-protected-resource";

/// Every user of the provider is on the list; `/open/**` is public, `/wiki/**` for everyone signed in, `/money/**` for a claim.
const RULES: &str = r#"
[[routes]]
path = "/open/**"
allow = "public"

[[routes]]
path = "/wiki/**"
allow = "signed-in"

[[routes]]
name = "money"
path = "/money/**"
allow = ["claim:department=finance"]

[[routes]]
name = "deploy"
path = "/deploy/**"
allow = "signed-in"
max_age = "15m"
"#;

/// A proxy whose provider's tokens are accepted for [`API`].
async fn with_audience(upstream: &Upstream) -> Plan {
    Proxy::with_sign_in("oidc", upstream).await.env("OAUTH_BEARER_AUDIENCES", API).file(
        "SIDEGATE_CONFIG",
        "sidegate.toml",
        RULES,
    )
}

/// A proxy with sign-in by GitHub, `ann` on the list, and these sections and rules.
async fn with_sections(text: &str, upstream: &Upstream) -> Plan {
    Proxy::with_sign_in("github", upstream).await.env("OAUTH_ALLOWED_USERS", "ann").file(
        "SIDEGATE_CONFIG",
        "sidegate.toml",
        text,
    )
}

async fn issuer() -> DevIdp {
    DevIdp::start(Options::default()).await.unwrap()
}

fn section(name: &str, issuer: &DevIdp, more: &str) -> String {
    format!("[[tokens]]\nname = \"{name}\"\nissuer = \"{}/oidc\"\naudiences = [\"{API}\"]\n{more}\n", issuer.origin())
}

fn minted(issuer: &DevIdp, more: Value) -> String {
    let mut claims = json!({ "aud": API, "sub": "robot" });
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    issuer.access_token(&claims).unwrap()
}

async fn ask(proxy: &Proxy, token: &str, path: &str) -> Answer {
    proxy.send(Request::get(path).header("authorization", format!("Bearer {token}"))).await
}

fn refused(answer: &Answer) -> (u16, String) {
    (answer.status.as_u16(), answer.header("www-authenticate"))
}

fn invalid() -> (u16, String) {
    (401, "Bearer error=\"invalid_token\"".to_owned())
}

#[expect(clippy::disallowed_methods, reason = "a test makes up moments")]
fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn a_token_is_as_good_as_a_session_and_is_taken_out() {
    let upstream = Upstream::start().await;
    let proxy = with_audience(&upstream).await.start().await;
    let token = minted(
        proxy.idp(),
        json!({ "email": "robot@example.com", "email_verified": true, "groups": ["ops"], "name": "Robot", "preferred_username": "root" }),
    );
    let sent =
        Request::get("/x").header("authorization", format!("bearer  {token}")).header("x-forwarded-user", "root");
    assert_eq!(proxy.send(sent).await.status.as_u16(), 200);
    let seen = upstream.last();
    for (name, value) in [
        ("authorization", ""),
        ("x-forwarded-user", "robot@example.com"),
        ("x-forwarded-user-id", "robot"),
        ("x-forwarded-email", "robot@example.com"),
        ("x-forwarded-groups", "ops"),
        ("x-forwarded-name", "Robot"),
        ("x-forwarded-provider", "oidc"),
    ] {
        assert_eq!(seen.header(name), value, "{name}");
    }
    let assertion = seen.header("x-sidegate-assertion");
    let claims = URL_SAFE_NO_PAD.decode(assertion.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!((&claims["sub"], &claims["provider"]), (&json!("robot"), &json!("oidc")));
    // Public paths get the identity too, and the token is not forwarded.
    assert_eq!(ask(&proxy, &token, "/open/x").await.status.as_u16(), 200);
    assert_eq!(
        (upstream.last().header("x-forwarded-user-id"), upstream.last().header("authorization")),
        ("robot".into(), String::new())
    );
    let me = ask(&proxy, &token, "/api/v1/auth/me").await.json();
    assert_eq!(
        me,
        json!({ "id": "robot", "email": "robot@example.com", "name": "Robot", "username": "root", "provider": "oidc" })
    );
    assert_eq!(ask(&proxy, &token, "/api/v1/auth/session").await.json()["groups"], json!(["ops"]));
    assert_eq!(ask(&proxy, &token, "/api/v1/auth/sessions").await.status.as_u16(), 401, "a token has no sessions");
    // Other schemes are not handled.
    let basic = Request::get("/open/x").header("authorization", "Basic YTpi");
    assert_eq!(proxy.send(basic).await.status.as_u16(), 200);
    assert_eq!(
        (upstream.last().header("authorization"), upstream.last().header("x-forwarded-user")),
        ("Basic YTpi".into(), String::new())
    );
    assert!(!proxy.log().contains(&token) && !proxy.log().contains(token.split('.').next_back().unwrap()));
}

#[tokio::test]
async fn a_bad_token_is_refused_beside_a_session_on_a_public_path_and_for_a_browser() {
    let upstream = Upstream::start().await;
    let proxy = with_audience(&upstream).await.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    assert_eq!(ann.get("/x").await.status.as_u16(), 200);
    let before = upstream.received().len();
    let cookie = ann.cookie_header();
    for path in ["/x", "/open/x", "/api/v1/auth/me", "/api/v1/auth/session"] {
        let request = Request::get(path).header("authorization", "Bearer a.b.c").header("cookie", &cookie);
        let answer = proxy.send(request).await;
        assert_eq!((refused(&answer), answer.code().as_str()), (invalid(), "unauthenticated"), "{path}");
    }
    let navigation = Request::get("/x")
        .header("authorization", "Bearer a.b.c")
        .header("accept", "text/html")
        .header("sec-fetch-mode", "navigate")
        .header("sec-fetch-dest", "document");
    let answer = proxy.send(navigation).await;
    assert_eq!((refused(&answer), answer.location()), (invalid(), String::new()));
    let malformed = (400, "Bearer error=\"invalid_request\"".to_owned());
    for fields in [&["Bearer"] as &[&str], &["Bearer a b"], &["Basic YTpi", "Bearer a"], &["Bearer a", "Bearer a"]] {
        let request =
            fields.iter().fold(Request::get("/open/x"), |request, field| request.header("authorization", *field));
        let answer = proxy.send(request).await;
        assert_eq!((refused(&answer), answer.code().as_str()), (malformed.clone(), "invalid_request"), "{fields:?}");
    }
    assert_eq!(upstream.received().len(), before, "nothing of it reached the upstream");
    until("each refusal is logged", async || {
        let log = proxy.log();
        let refusals =
            |outcome: &str| log.lines().filter(|line| line.contains("token_refused") && line.contains(outcome)).count();
        refusals("\"invalid\"") == 5 && refusals("\"malformed\"") == 4
    })
    .await;
    let metrics = proxy.admin("/metrics").await.text();
    assert!(metrics.contains("sidegate_bearer_tokens_total{outcome=\"malformed\"} 4"), "{metrics}");
}

#[tokio::test]
async fn forged_tokens_get_in_nowhere() {
    let upstream = Upstream::start().await;
    let proxy = with_audience(&upstream).await.start().await;
    let control = proxy.idp().control();
    assert_eq!(ask(&proxy, &minted(proxy.idp(), json!({})), "/x").await.status.as_u16(), 200);
    let before = upstream.received().len();
    for lie in [
        Lie::AlgNone,
        Lie::HmacWithPublicKey,
        Lie::UnknownKey,
        Lie::ForgedSignature,
        Lie::WrongIssuer,
        Lie::WrongAudience,
        Lie::Expired,
        Lie::NotYetValid,
        Lie::Kind("logout+jwt".into()),
        Lie::MissingClaim("exp".into()),
        Lie::MissingClaim("sub".into()),
        Lie::MissingClaim("aud".into()),
        Lie::Claim("exp".into(), json!(1e300)),
        Lie::Claim("exp".into(), json!("4000000000")),
        Lie::Claim("cnf".into(), json!({ "jkt": "x" })),
        Lie::Claim("nonce".into(), json!("n")),
        Lie::Claim("aud".into(), json!("sidegate-dev")),
        Lie::Claim("aud".into(), json!([API, "sidegate-dev"])),
    ] {
        control.lie(lie.clone());
        let answer = ask(&proxy, &minted(proxy.idp(), json!({})), "/open/x").await;
        assert_eq!(refused(&answer), invalid(), "{lie:?}");
        control.honest();
    }
    assert_eq!(upstream.received().len(), before);
    // The user's own ID token is not accepted.
    let logout = proxy.idp().logout_token("ann").unwrap();
    assert_eq!(refused(&ask(&proxy, &logout, "/x").await), invalid());
}

#[tokio::test]
async fn a_request_without_a_token_learns_whose_token_it_needs() {
    let upstream = Upstream::start().await;
    let proxy = with_audience(&upstream).await.start().await;
    let hint = format!("Bearer resource_metadata=\"http://{HOST}{METADATA}\"");
    assert_eq!(refused(&proxy.get("/x").await), (401, hint));
    let answer = proxy.get(METADATA).await;
    assert_eq!(answer.status.as_u16(), 200);
    let issuer = format!("{}/oidc", proxy.idp().origin());
    assert_eq!(
        answer.json(),
        json!({ "resource": format!("http://{HOST}"), "authorization_servers": [issuer], "bearer_methods_supported": ["header"] })
    );
    assert_eq!(proxy.send(Request::post(METADATA)).await.status.as_u16(), 405);
    // A navigation is redirected to sign in, without a challenge.
    let away = proxy.send(Request::get("/x").header("accept", "text/html")).await;
    assert_eq!(refused(&away), (302, String::new()));
}

#[tokio::test]
async fn where_no_tokens_are_accepted_authorization_is_the_upstreams() {
    let upstream = Upstream::start().await;
    let proxy = with_sections("[[routes]]\npath = \"/**\"\nallow = \"public\"", &upstream).await.start().await;
    assert_eq!(ask(&proxy, "a.b.c", "/x").await.status.as_u16(), 200);
    assert_eq!(upstream.last().header("authorization"), "Bearer a.b.c");
    assert_eq!(proxy.get(METADATA).await.text(), "hello from upstream");
    let closed = Proxy::start(&upstream).await;
    assert_eq!(refused(&closed.get("/x").await), (401, String::new()));
}

#[tokio::test]
async fn rules_see_the_claims_that_they_name_and_max_age_asks_for_auth_time() {
    let upstream = Upstream::start().await;
    let proxy = with_audience(&upstream).await.start().await;
    for (claim, status) in [
        (json!("finance"), 200),
        (json!(["ops", "finance"]), 200),
        (json!("Finance"), 403),
        (json!(7), 403),
        (json!({ "name": "finance" }), 403),
        (json!(null), 403),
    ] {
        let answer = ask(&proxy, &minted(proxy.idp(), json!({ "department": claim })), "/money/x").await;
        assert_eq!(answer.status.as_u16(), status, "{claim}");
    }
    proxy.logs("User not allowed: robot").await;
    let challenge = (401, "Bearer error=\"insufficient_user_authentication\", max_age=\"900\"".to_owned());
    for old in [json!({}), json!({ "auth_time": now() - 901 }), json!({ "auth_time": "now" })] {
        let answer = ask(&proxy, &minted(proxy.idp(), old.clone()), "/deploy/x").await;
        assert_eq!(refused(&answer), challenge, "{old}");
    }
    assert_eq!(
        ask(&proxy, &minted(proxy.idp(), json!({ "auth_time": now() - 60 })), "/deploy/x").await.status.as_u16(),
        200
    );
}

#[tokio::test]
async fn a_section_without_lists_is_let_in_by_rules_only_and_explain_agrees() {
    let upstream = Upstream::start().await;
    let ci = issuer().await;
    let rules = "[[routes]]\nname = \"ci\"\npath = \"/ci/**\"\nallow = [\"provider:ci/id:robot\"]";
    let listed = "username_claim = \"login\"\nallowed_users = [\"deployer\"]";
    for (more, login, path, status) in [
        ("", "x", "/ci/x", 200),
        ("", "ann", "/x", 403),
        (listed, "deployer", "/x", 200),
        (listed, "ann", "/x", 403),
        (listed, "ann", "/ci/x", 200),
    ] {
        let plan = with_sections(&format!("{}{rules}", section("ci", &ci, more)), &upstream).await;
        let args = ["explain", "--provider", "ci", "--id", "robot", "--user", login, "--path", path];
        assert_eq!(
            plan.command().args(args).output().unwrap().status.code(),
            Some(i32::from(status != 200)),
            "{login} {path}"
        );
        let proxy = plan.start().await;
        let answer = ask(&proxy, &minted(&ci, json!({ "login": login })), path).await;
        assert_eq!(answer.status.as_u16(), status, "{more} {login} {path}: {answer:?}");
    }
    let seen = upstream.last();
    assert_eq!((seen.header("x-forwarded-provider"), seen.header("x-forwarded-user")), ("ci".into(), "ann".into()));
}

#[tokio::test]
async fn while_the_issuer_is_away_nobody_gets_in_and_the_answer_says_come_again() {
    let upstream = Upstream::start().await;
    let ci = issuer().await;
    ci.control().fail(Endpoint::Discovery, Fault::Status(500));
    let rules = "[[routes]]\npath = \"/**\"\nallow = \"signed-in\"";
    let proxy = with_sections(&format!("{}{rules}", section("ci", &ci, "")), &upstream).await.start().await;
    let token = minted(&ci, json!({}));
    let answer = ask(&proxy, &token, "/x").await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "issuer_unreachable"), "{answer:?}");
    assert!(!answer.header("retry-after").is_empty());
    assert!(
        proxy.admin("/readyz").await.text().contains("tokens: ci: discovery"),
        "{}",
        proxy.admin("/readyz").await.text()
    );
    for _ in 0..30 {
        assert_eq!(ask(&proxy, &token, "/x").await.status.as_u16(), 503);
    }
    assert!(ci.control().requests(Endpoint::Discovery) < 10, "an issuer that fails is not hammered");
    ci.control().clear(Endpoint::Discovery);
    until("the issuer is reached again", async || ask(&proxy, &token, "/x").await.status == 200).await;
    assert!(!proxy.admin("/readyz").await.text().contains("tokens:"));
    // Its keys are now cached: an outage does no harm.
    ci.control().fail(Endpoint::Discovery, Fault::Status(500));
    assert_eq!(ask(&proxy, &minted(&ci, json!({ "jti": "other" })), "/x").await.status.as_u16(), 200);
}

#[tokio::test]
async fn newer_keys_are_fetched_when_a_token_names_one_and_forged_names_fetch_few() {
    let upstream = Upstream::start().await;
    let ci = issuer().await;
    let rules = "[[routes]]\npath = \"/**\"\nallow = \"signed-in\"";
    let proxy = with_sections(&format!("{}{rules}", section("ci", &ci, "")), &upstream).await.start().await;
    assert_eq!(ask(&proxy, &minted(&ci, json!({})), "/x").await.status.as_u16(), 200);
    ci.rotate_key(OldKey::Drop).unwrap();
    assert_eq!(ask(&proxy, &minted(&ci, json!({})), "/x").await.status.as_u16(), 200, "a new key");
    let before = ci.control().requests(Endpoint::Jwks);
    ci.control().lie(Lie::UnknownKey);
    for _ in 0..5 {
        assert_eq!(refused(&ask(&proxy, &minted(&ci, json!({})), "/x").await), invalid());
    }
    assert!(ci.control().requests(Endpoint::Jwks) <= before + 1);
}

#[tokio::test]
async fn the_refusal_of_a_token_says_which_of_its_claims_do_not_count() {
    let upstream = Upstream::start().await;
    let ci = issuer().await;
    let rules = "[[routes]]\npath = \"/**\"\nallow = [\"provider:ci/claim:level=3\"]";
    let more = "username_claim = \"account\"";
    let proxy = with_sections(&format!("{}{rules}", section("ci", &ci, more)), &upstream).await.start().await;
    let odd = json!({ "email": "a@example.com", "groups": { "a": 1 }, "level": 3, "account": 7 });
    let odd = minted(&ci, odd);
    for _ in 0..3 {
        assert_eq!(ask(&proxy, &odd, "/x").await.status.as_u16(), 403);
        assert_eq!(ask(&proxy, &odd, "/api/v1/auth/me").await.status.as_u16(), 403);
    }
    let reason = "no email of this token counts; usernames take no part: `username_claim` names no text claim of this token; \
                  no groups of this token are known; in a form that does not count: groups, a claim\"";
    until("each refusal has its audit line", async || proxy.log().matches(reason).count() == 6).await;
    for line in [
        "The email of a token of robot does not count: the provider sent a@example.com without `email_verified`",
        "The username of a token of robot does not count: `account`, which `username_claim` names, is a number, not text",
        "Not all groups of a token of robot were taken, so no rule for those lets them in: `groups` is an object",
        "Not all of a claim of a token of robot was taken, so no rule for the rest lets them in: `level` is a number",
    ] {
        proxy.logs(line).await;
        assert_eq!(proxy.log().matches(line).count(), 1, "once a minute at most: {line}");
    }
    assert!(!proxy.log().contains("a line of the sign-in"), "{}", proxy.log());
}

/// A cluster's signing key, as the API server has it.
struct Cluster(EcdsaKeyPair, &'static str);

impl Cluster {
    fn new(kid: &'static str) -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(), kid)
    }

    /// As `kubectl get --raw /openid/v1/jwks` prints it.
    fn jwks(&self) -> String {
        let (point, b64) = (self.0.public_key().as_ref(), |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes));
        let key = json!({ "use": "sig", "kty": "EC", "alg": "ES256", "crv": "P-256", "kid": self.1, "x": b64(&point[1..33]), "y": b64(&point[33..]) });
        json!({ "keys": [key] }).to_string()
    }

    /// As the kubelet projects it into a pod.
    fn token(&self, account: &str) -> String {
        let claims = json!({
            "aud": ["sidegate"], "iss": "https://kubernetes.default.svc.cluster.local",
            "iat": now(), "nbf": now(), "exp": now() + 600, "jti": "5ca1ab1e",
            "sub": format!("system:serviceaccount:ci:{account}"),
            "kubernetes.io": { "namespace": "ci", "node": { "name": "n1" }, "pod": { "name": "p-1" }, "serviceaccount": { "name": account } },
        });
        let b64 = |text: String| URL_SAFE_NO_PAD.encode(text);
        let text = format!("{}.{}", b64(json!({ "alg": "ES256", "kid": self.1 }).to_string()), b64(claims.to_string()));
        let signature = self.0.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

#[tokio::test]
async fn a_kubernetes_service_account_is_known_by_the_clusters_keys_in_a_file_that_may_change() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.json");
    let (old, new) = (Cluster::new("old"), Cluster::new("new"));
    std::fs::write(&keys, old.jwks()).unwrap();
    let text = format!(
        "[[tokens]]\nname = \"cluster\"\nissuer = \"https://kubernetes.default.svc.cluster.local\"\naudiences = [\"sidegate\"]\n\
         jwks_file = \"{}\"\n[[routes]]\npath = \"/**\"\nallow = [\"provider:cluster/id:system:serviceaccount:ci:deployer\", \
         \"provider:cluster/claim:kubernetes.io.serviceaccount.name=reader\"]",
        keys.display()
    );
    let proxy = with_sections(&text, &upstream).await.start().await;
    let (deployer, reader, other) = (old.token("deployer"), old.token("reader"), old.token("other"));
    assert_eq!(ask(&proxy, &deployer, "/x").await.status.as_u16(), 200);
    assert_eq!(upstream.last().header("x-forwarded-user"), "system:serviceaccount:ci:deployer");
    assert_eq!(ask(&proxy, &reader, "/x").await.status.as_u16(), 200);
    assert_eq!(ask(&proxy, &other, "/x").await.status.as_u16(), 403);
    assert_eq!(refused(&ask(&proxy, &new.token("deployer"), "/x").await), invalid());
    // A broken file changes nothing, and is reported.
    std::fs::write(&keys, "{").unwrap();
    proxy.logs("is not a JWK set").await;
    assert_eq!(ask(&proxy, &deployer, "/x").await.status.as_u16(), 200);
    assert!(proxy.admin("/readyz").await.text().contains("is not a JWK set"));
    std::fs::remove_file(&keys).unwrap();
    proxy.logs("the old one stays in force").await;
    assert_eq!(ask(&proxy, &deployer, "/x").await.status.as_u16(), 200);
    // Other keys: cached results are no longer valid.
    std::fs::write(&keys, new.jwks()).unwrap();
    until("the new key counts", async || ask(&proxy, &new.token("deployer"), "/x").await.status == 200).await;
    assert_eq!(refused(&ask(&proxy, &deployer, "/x").await), invalid());
}

#[tokio::test]
async fn a_reload_to_other_settings_forgets_what_was_verified() {
    let upstream = Upstream::start().await;
    let ci = issuer().await;
    let text = |audience: &str| {
        format!("{}[[routes]]\npath = \"/**\"\nallow = \"signed-in\"", section("ci", &ci, "").replace(API, audience))
    };
    let proxy = with_sections(&text(API), &upstream).await.start().await;
    let token = minted(&ci, json!({}));
    for _ in 0..3 {
        assert_eq!(ask(&proxy, &token, "/x").await.status.as_u16(), 200);
    }
    let metrics = proxy.admin("/metrics").await.text();
    assert!(metrics.contains("sidegate_bearer_tokens_total{outcome=\"verified\"} 1"), "{metrics}");
    assert!(metrics.contains("sidegate_bearer_tokens_total{outcome=\"remembered\"} 2"), "{metrics}");
    std::fs::write(proxy.folder().join("sidegate.toml"), text("other")).unwrap();
    proxy.signal("HUP");
    proxy.logs("the configuration was read again").await;
    assert_eq!(refused(&ask(&proxy, &token, "/x").await), invalid());
}

/// Opens a stream with a token, and returns how long it lasts.
async fn lasts(proxy: &Proxy, token: &str, then: impl AsyncFnOnce()) -> Duration {
    let mut client = Client::http1(proxy.address).await;
    let request = Request::get("/events").header("authorization", format!("Bearer {token}"));
    let answer = client.send(request, full("")).await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut body = answer.into_body();
    assert_eq!(next_data(&mut body).await.unwrap().unwrap(), "data: tick\n\n");
    then().await;
    let began = Instant::now();
    crate::lasting::wait_until_aborted(&mut body).await;
    began.elapsed()
}

#[tokio::test]
async fn a_stream_ends_with_its_token_and_when_its_section_or_rule_goes() {
    let upstream = endless().await;
    let ci = issuer().await;
    let text =
        |name: &str, allow: &str| format!("{}[[routes]]\npath = \"/**\"\nallow = {allow}", section(name, &ci, ""));
    let rules = "[\"provider:ci\"]";
    let proxy = with_sections(&text("ci", rules), &upstream).await.start().await;
    let expiring = minted(&ci, json!({ "exp": now() + 4 }));
    let took = lasts(&proxy, &expiring, async || {}).await;
    assert!(took > Duration::from_secs(2) && took < Duration::from_secs(9), "{took:?}");
    let reload = async |text: String| {
        let reloads = proxy.log().matches("the configuration was read again").count();
        std::fs::write(proxy.folder().join("sidegate.toml"), text).unwrap();
        proxy.signal("HUP");
        until("it is read", async || proxy.log().matches("the configuration was read again").count() > reloads).await;
    };
    let token = minted(&ci, json!({}));
    let took = lasts(&proxy, &token, async || reload(text("ci", "[\"ann\"]")).await).await;
    assert!(took < Duration::from_secs(5), "a rule that lets it in no more: {took:?}");
    reload(text("ci", rules)).await;
    let took = lasts(&proxy, &token, async || reload(text("other", "\"signed-in\"")).await).await;
    assert!(took < Duration::from_secs(5), "a section that is gone: {took:?}");
}

/// A token that GitHub's application received for `user`.
async fn github_token(idp: &DevIdp, user: &str, scopes: &str) -> String {
    let callback = format!("http://{HOST}/api/v1/auth/callback");
    let query = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("client_id", "sidegate-dev"),
            ("redirect_uri", &callback),
            ("scope", scopes),
            ("state", "s"),
            ("response_type", "code"),
        ])
        .finish();
    let back = idp.approve(&format!("{}/login/oauth/authorize?{query}", idp.origin()), user).unwrap();
    let back = url::Url::parse(&back).unwrap();
    let code = back.query_pairs().find(|(name, _)| name == "code").unwrap().1.into_owned();
    let form = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("client_id", "sidegate-dev"),
            ("client_secret", "sidegate-dev-secret"),
            ("code", &code),
            ("redirect_uri", &callback),
        ])
        .finish();
    let request = Request::post("/login/oauth/access_token")
        .header("host", idp.addr().to_string())
        .header("accept", "application/json")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::from(form))
        .unwrap();
    let answer = wire::send(idp.addr(), request).await.json();
    answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[tokio::test]
async fn githubs_tokens_count_where_github_says_that_they_are_this_applications() {
    let upstream = Upstream::start().await;
    let plan = with_sections("[[routes]]\npath = \"/team/**\"\nallow = [\"group:acme/platform\"]", &upstream).await;
    let proxy = plan.env("OAUTH_BEARER_GITHUB", "true").start().await;
    let idp = proxy.idp();
    let (ann, bob) =
        (github_token(idp, "ann", "read:user user:email read:org").await, github_token(idp, "bob", "read:user").await);
    assert_eq!(ask(&proxy, &ann, "/x").await.status.as_u16(), 200);
    let seen = upstream.last();
    assert_eq!(
        (seen.header("x-forwarded-user"), seen.header("x-forwarded-provider"), seen.header("authorization")),
        ("ann".into(), "github".into(), String::new())
    );
    assert_eq!(ask(&proxy, &ann, "/team/x").await.status.as_u16(), 200);
    assert_eq!(ask(&proxy, &bob, "/x").await.status.as_u16(), 403);
    assert_eq!(idp.control().requests(Endpoint::CheckToken), 2, "it is remembered");
    assert_eq!(
        proxy.get(METADATA).await.json()["authorization_servers"],
        json!([format!("{}/login/oauth", idp.origin())])
    );
    // Tokens of others, and made-up ones, are refused, and GitHub is asked about each once.
    for _ in 0..3 {
        assert_eq!(refused(&ask(&proxy, "gho_16C7e42F292c6912E7710c838347Ae178B4a", "/x").await), invalid());
    }
    assert_eq!(idp.control().requests(Endpoint::CheckToken), 3);
    idp.control().lie(Lie::OfApplication("another".into()));
    let other = github_token(idp, "ann", "read:user").await;
    assert_eq!(refused(&ask(&proxy, &other, "/x").await), invalid());
    idp.control().honest();
    let fresh = github_token(idp, "ann", "read:user").await;
    idp.control().fail(Endpoint::CheckToken, Fault::Status(500));
    assert_eq!(ask(&proxy, &fresh, "/x").await.status.as_u16(), 503);
    idp.control().clear(Endpoint::CheckToken);
    assert_eq!(ask(&proxy, &fresh, "/x").await.status.as_u16(), 200);
    assert!(!proxy.log().contains(&ann) && !proxy.log().contains(&fresh));
}

/// An issuer behind TLS at `https://localhost:{port}`, and its CA certificate in PEM.
async fn issuer_behind_tls() -> (DevIdp, String) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = authority.self_signed(&authority_key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &rcgen::Issuer::new(authority, authority_key)).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let issuer = DevIdp::start(Options { public_url: Some(origin), ..Options::default() }).await.unwrap();
    let (acceptor, target) = (TlsAcceptor::from(Arc::new(config)), issuer.addr());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut within = acceptor.accept(stream).await?;
                let mut behind = TcpStream::connect(target).await?;
                tokio::io::copy_bidirectional(&mut within, &mut behind).await
            });
        }
    });
    (issuer, root.pem())
}

#[tokio::test]
async fn a_sections_ca_file_vouches_for_its_issuer_and_for_nobody_elses() {
    let (upstream, folder) = (Upstream::start().await, tempfile::tempdir().unwrap());
    let ((ours, root), (_, other_root)) = (issuer_behind_tls().await, issuer_behind_tls().await);
    let (ours_ca, other_ca) = (folder.path().join("ours.pem"), folder.path().join("other.pem"));
    std::fs::write(&ours_ca, &root).unwrap();
    std::fs::write(&other_ca, &other_root).unwrap();
    let rules = "[[routes]]\npath = \"/**\"\nallow = [\"provider:ci/id:robot\"]";
    let token = minted(&ours, json!({}));
    let ca_file = |path: &std::path::Path| format!("ca_file = \"{}\"", path.display());

    let proxy = with_sections(&format!("{}{rules}", section("ci", &ours, &ca_file(&ours_ca))), &upstream).await;
    let proxy = proxy.start().await;
    assert_eq!(ask(&proxy, &token, "/x").await.status.as_u16(), 200, "{}", proxy.log());
    assert_eq!(upstream.last().header("x-forwarded-user-id"), "robot");
    // A root certificate of one section is not valid for another, nor is the provider's.
    for more in [String::new(), ca_file(&other_ca)] {
        let proxy = with_sections(&format!("{}{rules}", section("ci", &ours, &more)), &upstream).await.start().await;
        let answer = ask(&proxy, &token, "/x").await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "issuer_unreachable"), "{more}");
        let ready = proxy.admin("/readyz").await.text();
        assert!(ready.contains("tokens: ci: ") && ready.contains("certificate"), "{more}: {ready}");
    }
}
