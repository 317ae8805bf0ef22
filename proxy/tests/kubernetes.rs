//! A real Kubernetes API server authorizes impersonated requests: `scripts/kubernetes-test` starts the server and runs this; without
//! it the test is skipped.

use std::io::Write as _;
use std::process::{Command, Stdio};

use http::Request;
use serde_json::{Value, json};

use crate::support::{Browser, Proxy, Upstream, until};

/// The server, with its admin account.
struct Server {
    url: String,
    authority: String,
}

impl Server {
    fn of_environment() -> Self {
        #[allow(clippy::disallowed_methods, reason = "the script says where the server is")]
        let variable =
            |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name}: run scripts/kubernetes-test"));
        Self { url: variable("KUBERNETES_TEST_SERVER"), authority: variable("KUBERNETES_TEST_CA") }
    }

    fn curl(&self, arguments: &[&str], body: &str) -> bool {
        let mut curl = Command::new("curl")
            .args(["-sf", "-o", "/dev/null", "--cacert", &self.authority, "-H", "Authorization: Bearer admin-token"])
            .args(["-H", "Content-Type: application/json"])
            .args(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        curl.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
        curl.wait().unwrap().success()
    }

    /// Creates an object there.
    fn make(&self, path: &str, object: &Value) {
        let made = self.curl(&["--data-binary", "@-", &format!("{}{path}", self.url)], &object.to_string());
        assert!(made, "{path}: {object}");
    }
}

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// The rights of our account: to impersonate these two people, with these groups and extras.
fn account() -> [(String, Value); 2] {
    let rule = |group: &str, resources: &[&str], names: &[&str]| {
        let mut rule = json!({ "apiGroups": [group], "resources": resources, "verbs": ["impersonate"] });
        if !names.is_empty() {
            rule["resourceNames"] = json!(names);
        }
        rule
    };
    let role = json!({
        "metadata": { "name": "sidegate" },
        "rules": [
            rule("", &["users"], &["corp:ann", "corp:bob"]),
            rule("", &["groups"], &["corp:acme", "corp:acme/platform"]),
            rule("authentication.k8s.io", &["uids", "userextras/email"], &[]),
            rule("authentication.k8s.io", &["userextras/provider"], &["github"]),
        ],
    });
    let binding = json!({
        "metadata": { "name": "sidegate" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "sidegate" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "sidegate" }],
    });
    [(format!("{RBAC}/clusterroles"), role), (format!("{RBAC}/clusterrolebindings"), binding)]
}

/// The rights of a person in a namespace of their own.
fn namespace(name: &str, user: &str) -> [(String, Value); 3] {
    let inside = format!("{RBAC}/namespaces/{name}");
    let role = json!({
        "metadata": { "name": "read" },
        "rules": [{ "apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"] }],
    });
    let binding = json!({
        "metadata": { "name": "read" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "read" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }],
    });
    [
        ("/api/v1/namespaces".to_owned(), json!({ "metadata": { "name": name } })),
        (format!("{inside}/roles"), role),
        (format!("{inside}/rolebindings"), binding),
    ]
}

async fn reads(person: &mut Browser<'_>, namespace: &str) -> u16 {
    person.get(&format!("/api/v1/namespaces/{namespace}/configmaps")).await.status.as_u16()
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: run scripts/kubernetes-test"]
async fn a_real_api_server_decides_by_person_and_no_client_is_another() {
    let server = Server::of_environment();
    let ready = format!("{}/readyz", server.url);
    until("the server is ready", async || server.curl(&[&ready], "")).await;
    let namespaces = [namespace("sidegate-ann", "corp:ann"), namespace("sidegate-bob", "corp:bob")];
    for (path, object) in account().into_iter().chain(namespaces.into_iter().flatten()) {
        server.make(&path, &object);
    }
    let usual = Upstream::start().await;
    let plan = Proxy::with_sign_in("github", &usual)
        .await
        .env("OAUTH_ALLOWED_GROUPS", "acme,acme/platform")
        .env("OAUTH_ALLOWED_USERS", "*");
    std::fs::write(plan.folder().join("token"), "sidegate-token\n").unwrap();
    let file = format!(
        "[[upstreams]]\nname = \"kube\"\nurls = [\"{}\"]\nca_file = \"{}\"\nhost = \"upstream\"\nidentity = \"none\"\nimpersonate = true\nprefix = \"corp:\"\ntoken_file = \"{}\"\n\n[[routes]]\nallow = \"signed-in\"\nupstream = \"kube\"\n",
        server.url,
        server.authority,
        plan.folder().join("token").display()
    );
    let proxy = plan.file("SIDEGATE_CONFIG", "sidegate.toml", &file).start().await;
    let (mut ann, mut bob) = (proxy.signed_in_as("ann").await, proxy.signed_in_as("bob").await);

    assert_eq!((reads(&mut ann, "sidegate-ann").await, reads(&mut ann, "sidegate-bob").await), (200, 403));
    assert_eq!((reads(&mut bob, "sidegate-ann").await, reads(&mut bob, "sidegate-bob").await), (403, 200));
    let forged = Request::get("/api/v1/namespaces/sidegate-bob/configmaps")
        .header("impersonate-user", "corp:bob")
        .header("impersonate-group", "system:masters")
        .header("authorization", "Bearer admin-token");
    assert_eq!(ann.send(forged).await.status.as_u16(), 403);

    let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" }).to_string();
    let request =
        Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews").header("content-type", "application/json");
    let answer = ann.send_body(request, review).await;
    assert_eq!(answer.status.as_u16(), 201, "{answer:?}");
    let who = &answer.json()["status"]["userInfo"];
    let me = ann.get("/api/v1/auth/me").await.json();
    assert_eq!((&who["username"], &who["uid"]), (&json!("corp:ann"), &me["id"]));
    assert_eq!(who["extra"], json!({ "provider": ["github"], "email": [me["email"]] }));
    let groups = who["groups"].as_array().unwrap();
    assert!(groups.contains(&json!("corp:acme")) && groups.contains(&json!("system:authenticated")), "{groups:?}");
    // With a token that the server does not know, no request is impersonated.
    std::fs::write(proxy.folder().join("token"), "another-token").unwrap();
    until("the server knows us no more", async || reads(&mut ann, "sidegate-ann").await == 401).await;
}
