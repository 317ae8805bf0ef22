//! Against a certified third-party OpenID Connect provider (npm's `oidc-provider`): sign-in, step-up by `max_age` and `auth_time`,
//! and bearer tokens.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use url::Url;

use crate::support::proxy::Plan;
use crate::support::{Answer, Browser, HOST, Proxy, Upstream, path_of, wire};

const API: &str = "https://app.example.com";

/// The provider; it ends with the test.
struct Peer {
    child: Child,
    issuer: Url,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Peer {
    /// Starts it; `None`, with a message, if it is not installed. That fails where `CI` is set.
    #[expect(clippy::disallowed_methods, reason = "whether it is CI is for the environment to say")]
    fn start() -> Option<Self> {
        let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let installed = here.join("../target/oidc-provider");
        let runs =
            Command::new("node").arg("--version").stdout(Stdio::null()).status().is_ok_and(|code| code.success());
        if !runs || !installed.join("installed").exists() {
            let reason = "node, or npm's oidc-provider, is missing: run scripts/install-test-tools";
            assert!(std::env::var_os("CI").is_none(), "{reason}");
            eprintln!("SKIPPED the tests with oidc-provider: {reason}");
            return None;
        }
        // Node looks for modules beside the file itself.
        std::fs::copy(here.join("tests/oidc_provider/server.js"), installed.join("server.js")).unwrap();
        let mut command = Command::new("node");
        command.arg(installed.join("server.js")).args([&format!("http://{HOST}/api/v1/auth/callback"), API]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let issuer = line.trim().strip_prefix("issuer ").unwrap_or_else(|| panic!("it says {line:?}"));
        Some(Self { child, issuer: Url::parse(issuer).unwrap() })
    }

    fn issuer(&self) -> &str {
        self.issuer.as_str().trim_end_matches('/')
    }

    fn address(&self) -> SocketAddr {
        self.issuer.socket_addrs(|| None).unwrap()[0]
    }

    /// A token from the client credentials grant: for `resource`, or an opaque one.
    async fn robot_token(&self, resource: Option<&str>) -> String {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if let Some(resource) = resource {
            form.append_pair("resource", resource).append_pair("scope", "read");
        }
        self.token("robot:robot-secret", form.finish()).await
    }

    /// A user's access token for the API, from a program on their machine.
    async fn persons_token(&self, person: &mut Person, user: &str) -> String {
        // RFC 7636, appendix B.
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let redirect = "https://tool.example/callback";
        let mut authorize = self.issuer.join("/auth").unwrap();
        authorize.query_pairs_mut().extend_pairs([
            ("client_id", "tool"),
            ("response_type", "code"),
            ("redirect_uri", redirect),
            ("scope", "openid read"),
            ("resource", API),
            ("state", "s"),
            ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
            ("code_challenge_method", "S256"),
        ]);
        authorize.query_pairs_mut().finish();
        let (back, _) = person.sign_in(authorize, user).await;
        let code =
            back.query_pairs().find(|(name, _)| name == "code").unwrap_or_else(|| panic!("{back}")).1.into_owned();
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code").append_pair("code", &code);
        form.append_pair("redirect_uri", redirect).append_pair("code_verifier", verifier).append_pair("resource", API);
        self.token("tool:tool-secret", form.finish()).await
    }

    async fn token(&self, client: &str, form: String) -> String {
        let request = Request::post("/token")
            .header("host", self.issuer.authority())
            .header("authorization", format!("Basic {}", STANDARD.encode(client)))
            .header("content-type", "application/x-www-form-urlencoded");
        let answer = wire::send(self.address(), request.body(Full::from(form)).unwrap()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }
}

/// A user's browser at the provider.
struct Person {
    provider: Url,
    address: SocketAddr,
    cookies: Vec<(String, String)>,
}

impl Person {
    fn of(peer: &Peer) -> Self {
        Self { provider: peer.issuer.clone(), address: peer.address(), cookies: Vec::new() }
    }

    /// Opens a URL of the provider and follows redirects, fills in its forms, until it leads elsewhere. Returns that URL, and how
    /// many forms were shown.
    async fn sign_in(&mut self, mut url: Url, user: &str) -> (Url, usize) {
        let mut forms = 0;
        for _ in 0..20 {
            if url.origin() != self.provider.origin() {
                return (url, forms);
            }
            let mut answer = self.send(Request::get(path_of(url.as_str())), Bytes::new()).await;
            if answer.status == 200 {
                forms += 1;
                assert!(answer.text().contains("name=\"login\""), "{}", answer.text());
                let form = format!("prompt=login&login={user}&password=x");
                let post = Request::post(url.path()).header("content-type", "application/x-www-form-urlencoded");
                answer = self.send(post, form.into()).await;
            }
            assert!(answer.status.is_redirection(), "{url}: {answer:?}");
            url = url.join(&answer.location()).unwrap();
        }
        panic!("it goes round and round: {url}")
    }

    async fn send(&mut self, request: http::request::Builder, body: Bytes) -> Answer {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = request.header("host", self.provider.authority()).header("cookie", cookies.join("; "));
        let answer = wire::send(self.address, request.body(Full::new(body)).unwrap()).await;
        for cookie in answer.set_cookies() {
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.retain(|(known, _)| known != name);
            if !value.is_empty() {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        answer
    }
}

async fn plan(peer: &Peer, upstream: &Upstream, rules: &str) -> Plan {
    Proxy::with_sign_in("oidc", upstream)
        .await
        .env("OAUTH_ISSUER_URL", peer.issuer())
        .env("OAUTH_CLIENT_ID", "sidegate")
        .env("OAUTH_CLIENT_SECRET", "sidegate-secret")
        .env("OAUTH_BEARER_AUDIENCES", API)
        .env("OAUTH_ALLOWED_USERS", "@example.com,id:robot")
        .file("SIDEGATE_CONFIG", "sidegate.toml", rules)
}

#[tokio::test]
async fn people_sign_in_and_step_up_by_the_time_that_the_provider_vouches_for() {
    let Some(peer) = Peer::start() else { return };
    let upstream = Upstream::start().await;
    let rules =
        "[[routes]]\nname = \"deploy\"\npath = \"/deploy/**\"\nallow = [\"ann@example.com\"]\nmax_age = \"15m\"\n";
    let proxy = plan(&peer, &upstream, rules).await.start().await;
    let (mut browser, mut person) = (Browser::of(&proxy), Person::of(&peer));

    let authorize = Url::parse(&browser.begin("/x?y=1").await).unwrap();
    let (callback, forms) = person.sign_in(authorize, "ann").await;
    assert_eq!(forms, 1);
    let back = browser.follow_callback(callback.as_str()).await;
    assert_eq!((back.status.as_u16(), back.location().as_str()), (302, "/x?y=1"), "{}", proxy.log());
    assert_eq!(
        browser.get("/api/v1/auth/me").await.json(),
        json!({ "id": "ann", "email": "ann@example.com", "name": "ann", "username": "ann", "provider": "oidc" })
    );

    // Without a request it sends no `auth_time`, which counts as long ago. It remembers her, and redirects her back at once.
    assert_eq!(browser.fetch("/deploy/x").await.json()["login_url"], "/api/v1/auth/login?max_age=900");
    let authorize = Url::parse(&browser.begin("/x").await).unwrap();
    let (callback, forms) = person.sign_in(authorize, "ann").await;
    assert_eq!(forms, 0, "the provider remembers her");
    assert_eq!(browser.follow_callback(callback.as_str()).await.status, 302);
    assert_eq!(browser.fetch("/deploy/x").await.status, 401, "another session is no other sign-in");

    let away = browser.open("/deploy/x").await;
    assert_eq!(away.location(), "/api/v1/auth/login?rd=%2Fdeploy%2Fx&max_age=900");
    let authorize = Url::parse(&browser.open(&away.location()).await.location()).unwrap();
    assert!(authorize.query().unwrap().contains("max_age=900"), "{authorize}");
    let (callback, forms) = person.sign_in(authorize, "ann").await;
    assert_eq!(forms, 1, "she is asked again");
    let back = browser.follow_callback(callback.as_str()).await;
    assert_eq!((back.status.as_u16(), back.location().as_str()), (302, "/deploy/x"), "{}", proxy.log());
    assert_eq!(browser.get("/deploy/x").await.status, 200);
    // A page with the same requirement does not prompt her again.
    assert_eq!(browser.open("/deploy/y").await.status, 200);
}

#[tokio::test]
async fn bearer_tokens_of_programs_and_people_count_under_the_same_rules() {
    let Some(peer) = Peer::start() else { return };
    let upstream = Upstream::start().await;
    let rules = "[[routes]]\nname = \"deploy\"\npath = \"/deploy/**\"\nallow = \"listed\"\nmax_age = \"15m\"\n";
    let proxy = plan(&peer, &upstream, rules).await.start().await;
    let ask = async |token: &str, path: &str| {
        proxy.send(Request::get(path).header("authorization", format!("Bearer {token}"))).await
    };

    let robot = peer.robot_token(Some(API)).await;
    assert_eq!(ask(&robot, "/x").await.status, 200, "{}", proxy.log());
    let seen = upstream.last();
    assert_eq!((seen.header("x-forwarded-user-id"), seen.header("authorization")), ("robot".into(), String::new()));
    // The token has no `auth_time`: no user signed in.
    let stale = ask(&robot, "/deploy/x").await;
    let challenge = "Bearer error=\"insufficient_user_authentication\", max_age=\"900\"";
    assert_eq!((stale.status.as_u16(), stale.header("www-authenticate").as_str()), (401, challenge));

    for (what, token) in [
        ("an opaque token", peer.robot_token(None).await),
        ("another API's", peer.robot_token(Some("https://other.example.com")).await),
        ("another signature", format!("{}A", &robot[..robot.len() - 2])),
    ] {
        let refused = ask(&token, "/x").await;
        let refusal = (refused.status.as_u16(), refused.header("www-authenticate"));
        assert_eq!(refusal, (401, "Bearer error=\"invalid_token\"".to_owned()), "{what}");
    }

    let mut person = Person::of(&peer);
    let anns = peer.persons_token(&mut person, "ann").await;
    let claims = URL_SAFE_NO_PAD.decode(anns.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert!(claims["auth_time"].is_u64(), "{claims}");
    // It does not contain her email, and no list names her id.
    assert_eq!(ask(&anns, "/x").await.status, 403, "{claims}");
    let wider = plan(&peer, &upstream, rules).await.env("OAUTH_ALLOWED_USERS", "id:ann").start().await;
    for path in ["/x", "/deploy/x"] {
        let request = Request::get(path).header("authorization", format!("Bearer {anns}"));
        assert_eq!(wider.send(request).await.status, 200, "{path}: {}", wider.log());
    }
    assert_eq!(upstream.last().header("x-forwarded-user-id"), "ann");
}
