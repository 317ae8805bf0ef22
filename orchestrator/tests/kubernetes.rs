//! A real Kubernetes API server, with Flux's kinds and no controllers: what is written here is what controllers would write.
//!
//! `scripts/kubernetes-test` starts the server and runs this; without it the test is left out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kube::config::{KubeConfigOptions, Kubeconfig};
use orchestrator::api::App;
use orchestrator::demo::{Demo, Options};
use orchestrator::entrance::{Assertion, Entrance, Expected, Hosts, Source};
use orchestrator::fleet::{Fleet, Kind, Tuning};
use orchestrator::identity::{Impersonation, Naming};
use orchestrator::routes;
use orchestrator::serve::Limits;
use orchestrator::store::{Location, Store};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::entrance::{Signer, ann, in_file};
use crate::service::Service;
use crate::support::Orchestrator;

const PATIENCE: Duration = Duration::from_secs(30);
const RBAC: &str = include_str!("../../deploy/kubernetes/sidecar/in-cluster/rbac.yaml");

/// The server, by the account that may do everything.
struct Server {
    url: String,
    authority: String,
    /// What stops and starts it.
    control: String,
    admin: kube::Client,
}

impl Server {
    async fn of_environment() -> Self {
        #[allow(clippy::disallowed_methods, reason = "the script says where the server is")]
        let variable =
            |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name}: run scripts/kubernetes-test"));
        let url = variable("KUBERNETES_TEST_SERVER");
        let authority = BASE64.encode(std::fs::read(variable("KUBERNETES_TEST_CA")).unwrap());
        let text = kubeconfig(&url, &authority, "admin-token");
        let config = Kubeconfig::from_yaml(&text).unwrap();
        let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        Self {
            url,
            authority,
            control: variable("KUBERNETES_TEST_CONTROL"),
            admin: kube::Client::try_from(config).unwrap(),
        }
    }

    /// Has the script stop or start the server, or have etcd forget what was.
    fn control(&self, what: &str) {
        let done = std::process::Command::new(&self.control).arg(what).status().unwrap();
        assert!(done.success(), "{what}");
    }

    async fn until_it_answers(&self) {
        let begun = Instant::now();
        while self.ask("GET", &collection(Kind::Bucket, "team"), None).await.is_err() {
            assert!(begun.elapsed() < 4 * PATIENCE, "the server does not come back");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn kubeconfig(&self, token: &str) -> String {
        kubeconfig(&self.url, &self.authority, token)
    }

    async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> kube::Result<Value> {
        let content_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = body.map(|body| serde_json::to_vec(body).unwrap()).unwrap_or_default();
        let request =
            http::Request::builder().method(method).uri(path).header("content-type", content_type).body(body).unwrap();
        self.admin.request(request).await
    }

    /// Makes something of which the answer is not read.
    async fn post_unread(&self, path: &str, object: &Value) {
        let request = http::Request::post(path).header("content-type", "application/json");
        let request = request.body(serde_json::to_vec(object).unwrap()).unwrap();
        self.admin.request_text(request).await.unwrap();
    }

    async fn make(&self, path: &str, object: &Value) {
        self.ask("POST", path, Some(object)).await.unwrap_or_else(|error| panic!("{path}: {error}: {object}"));
    }

    async fn change(&self, path: &str, patch: Value) -> Value {
        self.ask("PATCH", path, Some(&patch)).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// What an object's controller would say of it.
    async fn say(&self, kind: Kind, namespace: &str, name: &str, status: Value) {
        self.change(&format!("{}/status", path(kind, namespace, name)), json!({"status": status})).await;
    }
}

fn kubeconfig(url: &str, authority: &str, token: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nclusters:\n- name: c\n  \
         cluster: {{server: \"{url}\", certificate-authority-data: {authority}}}\nusers: [{{name: u, user: {{token: {token}}}}}]\n"
    )
}

fn version(kind: Kind) -> &'static str {
    if kind == Kind::HelmRelease {
        "v2"
    } else if matches!(kind, Kind::Alert | Kind::Provider) {
        "v1beta3"
    } else {
        "v1"
    }
}

fn plural(kind: Kind) -> String {
    let name = kind.name().to_lowercase();
    name.strip_suffix('y').map_or_else(|| format!("{name}s"), |stem| format!("{stem}ies"))
}

fn collection(kind: Kind, namespace: &str) -> String {
    format!("/apis/{}/{}/namespaces/{namespace}/{}", kind.group(), version(kind), plural(kind))
}

fn path(kind: Kind, namespace: &str, name: &str) -> String {
    format!("{}/{name}", collection(kind, namespace))
}

fn object(kind: Kind, namespace: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("{}/{}", kind.group(), version(kind)), "kind": kind.name(),
           "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

/// The definition of a kind, without a schema: what Flux's own would refuse gets in.
fn definition(kind: Kind) -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let singular = kind.name().to_lowercase();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{}.{}", plural(kind), kind.group()), "labels": {"app.kubernetes.io/version": "v2.7.2"}},
        "spec": {"group": kind.group(), "scope": "Namespaced",
                 "names": {"kind": kind.name(), "listKind": format!("{}List", kind.name()), "plural": plural(kind), "singular": singular},
                 "versions": [{"name": version(kind), "served": true, "storage": true, "schema": schema, "subresources": {"status": {}}}]},
    })
}

fn ready(generation: i64, status: &str, reason: &str, message: &str) -> Value {
    json!([{"type": "Ready", "status": status, "reason": reason, "message": message, "observedGeneration": generation,
            "lastTransitionTime": "2026-01-31T10:00:00Z"}])
}

async fn prepare(server: &Server) {
    for namespace in ["flux-system", "shop", "team"] {
        server.make("/api/v1/namespaces", &json!({"metadata": {"name": namespace}})).await;
    }
    for kind in Kind::ALL {
        server.make("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition(kind)).await;
    }
    let begun = Instant::now();
    for kind in Kind::ALL {
        while server.ask("GET", &collection(kind, "shop"), None).await.is_err() {
            assert!(begun.elapsed() < PATIENCE, "{kind} is not served");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    // The manifest that we hand out, for the account that the token is of.
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role: Value = RBAC
        .split("\n---\n")
        .map(|document| serde_saphyr::from_str::<Value>(document).unwrap())
        .find(|document| document["kind"] == "ClusterRole")
        .unwrap();
    server.make(&format!("{rbac}/clusterroles"), &role).await;
    let role = |kind: &str, name: &str, rules: Value| json!({"kind": kind, "metadata": {"name": name}, "rules": rules});
    let users = json!([{"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"], "resourceNames": ["flux:ann", "flux:bob"]}]);
    server.make(&format!("{rbac}/clusterroles"), &role("ClusterRole", "impersonate", users)).await;
    let view = json!([{"apiGroups": ["*"], "resources": ["kustomizations", "events"], "verbs": ["get", "list"]}]);
    server.make(&format!("{rbac}/clusterroles"), &role("ClusterRole", "look", view)).await;
    let work = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch", "patch"]}]);
    server.make(&format!("{rbac}/clusterroles"), &role("ClusterRole", "work", work)).await;
    let binding = |name: &str, role: &str, user: &str| {
        json!({"metadata": {"name": name}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
               "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]})
    };
    for role in ["flux-orchestrator", "impersonate"] {
        server.make(&format!("{rbac}/clusterrolebindings"), &binding(role, role, "orchestrator")).await;
    }
    let within = |namespace: &str| format!("{rbac}/namespaces/{namespace}/rolebindings");
    server.make(&within("shop"), &binding("ann", "work", "flux:ann")).await;
    server.make(&within("shop"), &binding("bob", "look", "flux:bob")).await;
    server.make(&within("shop"), &binding("narrow", "work", "narrow")).await;
}

/// The orchestrator, with the proxy's key; clusters decide by person where they are registered so.
struct Trial {
    server: Server,
    service: Service,
    signer: Signer,
    _keys: tempfile::NamedTempFile,
}

impl Trial {
    async fn start(server: Server) -> Self {
        let signer = Signer::new("one");
        let file = in_file(&[&signer]);
        let hosts = Hosts::default();
        let source = Source::parse(file.path().to_str().unwrap(), false).unwrap();
        let expected = Expected {
            issuer: Some("https://flux.example.com".into()),
            audience: Some("http://orchestrator:8081".into()),
            hosts: hosts.clone(),
            port: 8081,
        };
        let entrance = Entrance::new(hosts, Some(Assertion::new(source, expected)));
        let impersonation = Impersonation { everywhere: false, prefix: "flux:".into(), by: Naming::Username };
        let store = Store::open(&Location::Memory, &[]).await.unwrap();
        let app = App::new(Fleet::start(Tuning::default()), store.clone(), CancellationToken::new(), false);
        let app = app.with_impersonation(Some(impersonation));
        let orchestrator = Orchestrator::start_with(routes(app, entrance), Limits::default()).await;
        let line = format!("X-Sidegate-Assertion: {}", signer.sign(&ann()));
        let document = orchestrator.ask("GET /api/v1/openapi.json", &[&line]).await.json();
        let demo = Demo::start(Options { clusters: Vec::new(), ..Options::default() }).await.unwrap();
        Self { server, service: Service::of(orchestrator, store, demo, document), signer, _keys: file }
    }

    async fn as_of(&self, name: &str, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut claims = ann();
        (claims["preferred_username"], claims["groups"]) = (name.into(), json!([]));
        let line = format!("X-Sidegate-Assertion: {}", self.signer.sign(&claims));
        self.service.call(method, path, body.as_ref(), &[&line]).await
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.as_of("ann", "GET", path, None).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    async fn register(&self, name: &str, token: &str, more: Value) -> String {
        let mut body = json!({"name": name, "kubeconfig": self.server.kubeconfig(token)});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, cluster) = self.as_of("ann", "POST", "clusters", Some(body)).await;
        assert_eq!(status, 201, "{cluster}");
        let path = format!("clusters/{}", cluster["id"].as_str().unwrap());
        self.until(&format!("{path}/health"), |health| health["state"] == "up").await;
        path
    }

    /// Asks until the answer is as wanted; gives back how long that took.
    async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Duration {
        let begun = Instant::now();
        loop {
            let answer = self.get(path).await;
            if wanted(&answer) {
                return begun.elapsed();
            }
            assert!(begun.elapsed() < PATIENCE, "{path} stays {answer}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until_status(&self, cluster: &str, name: &str, status: &str) -> Duration {
        let path = format!("{cluster}/resources?q={name}");
        self.until(&path, |list| {
            list["items"].as_array().unwrap().iter().any(|item| item["name"] == name && item["status"] == status)
        })
        .await
    }
}

fn passed(what: &str) {
    #[allow(clippy::print_stdout, reason = "the script shows what held")]
    {
        println!("  ok: {what}");
    }
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: run scripts/kubernetes-test"]
async fn a_real_cluster_is_shown_as_it_is_and_decides_by_person() {
    let server = Server::of_environment().await;
    prepare(&server).await;
    let backend = (Kind::Kustomization, "shop", "backend");
    let spec =
        json!({"interval": "10m", "path": "./backend", "sourceRef": {"kind": "ExternalArtifact", "name": "rendered"}});
    server.make(&collection(backend.0, backend.1), &object(backend.0, backend.1, backend.2, spec)).await;
    let artifact = object(Kind::ExternalArtifact, "shop", "rendered", json!({}));
    server.make(&collection(Kind::ExternalArtifact, "shop"), &artifact).await;
    let entries = json!([{"id": "shop_backend_apps_Deployment", "v": "v1"}, {"id": "shop_backend__Service", "v": "v1"},
                         {"id": "shop_gone__ConfigMap", "v": "v1"}, {"id": "shop_backend__Secret", "v": "v1"}]);
    let past = |revision: &str, digest: &str| {
        json!({"digest": digest, "lastReconciled": "2026-01-31T10:00:00Z",
        "lastReconciledStatus": "ReconciliationSucceeded", "totalReconciliations": 1, "metadata": {"revision": revision}})
    };
    let revision = |letter: &str| format!("main@sha1:{}", letter.repeat(40));
    server
        .say(
            backend.0,
            backend.1,
            backend.2,
            json!({
                "observedGeneration": 1, "conditions": ready(1, "True", "ReconciliationSucceeded", "Applied revision"),
                "lastAppliedRevision": revision("b"), "inventory": {"entries": entries},
                "history": [past(&revision("b"), "sha256:2"), past(&revision("a"), "sha256:1")],
            }),
        )
        .await;
    let labels = json!({"app": "backend"});
    let pod = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "app", "image": "example.com/app:1"}]}});
    server
        .make(
            "/apis/apps/v1/namespaces/shop/deployments",
            &json!({"metadata": {"name": "backend"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod}}),
        )
        .await;
    server
        .make(
            "/api/v1/namespaces/shop/services",
            &json!({"metadata": {"name": "backend"}, "spec": {"ports": [{"port": 80}]}}),
        )
        .await;
    let trial = Trial::start(server).await;

    let plain = trial.register("plain", "orchestrator-token", json!({})).await;
    trial.until_status(&plain, "backend", "ready").await;
    passed("registered with the RBAC of the manifests; every kind is read");

    let server = &trial.server;
    server.change(&path(backend.0, backend.1, backend.2), json!({"spec": {"path": "./not-there"}})).await;
    server
        .say(
            backend.0,
            backend.1,
            backend.2,
            json!({"conditions": ready(2, "False", "ArtifactFailed", "path not found")}),
        )
        .await;
    let seen = server.ask("GET", &path(backend.0, backend.1, backend.2), None).await.unwrap();
    assert_eq!((&seen["metadata"]["generation"], &seen["status"]["observedGeneration"]), (&json!(2), &json!(1)));
    let took = trial.until_status(&plain, "backend", "failed").await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    passed(&format!(
        "a failed update is failed, {} ms after it was said, although status.observedGeneration is of before",
        took.as_millis()
    ));

    let detail = trial.get(&format!("{plain}/flux/kustomization/shop/backend")).await;
    assert_eq!(detail["history"].as_array().unwrap().len(), 2, "{detail}");
    assert_eq!(detail["difference"]["parts"][0]["name"], "manifests", "{detail}");
    let tree = trial.get(&format!("{plain}/flux/kustomization/shop/backend/tree")).await;
    let from_artifact = |edge: &Value| edge["from"].as_str().unwrap().contains("/ExternalArtifact/shop/rendered");
    assert!(tree["edges"].as_array().unwrap().iter().any(from_artifact), "{tree}");
    passed("history as it is, the last two revisions compared, an edge from the ExternalArtifact");

    let odd = object(Kind::Kustomization, "shop", "odd", json!({"dependsOn": "nothing"}));
    server.make(&collection(Kind::Kustomization, "shop"), &odd).await;
    trial
        .until(&format!("{plain}/resources?q=odd"), |list| {
            list["items"][0]["message"].as_str().is_some_and(|text| text.starts_with("unreadable: spec.dependsOn"))
        })
        .await;
    trial.until(&format!("{plain}/resources?q=backend&kind=Kustomization"), |list| list["total"] == 1).await;
    let mut deep = json!({});
    for _ in 0..300 {
        deep = json!({"deeper": deep});
    }
    let nested = object(Kind::HelmRelease, "shop", "deep", json!({"values": deep}));
    // What comes back is nested too deeply for a client to read.
    server.post_unread(&collection(Kind::HelmRelease, "shop"), &nested).await;
    trial.until(&format!("{plain}/resources?q=deep"), |list| list["total"] == 1).await;
    let page = trial.get(&format!("{plain}/flux/helmrelease/shop/deep")).await;
    assert!(page["yaml"].as_str().unwrap().contains("nested more than 128 deep"), "{page}");
    passed("an oddly shaped object is unreadable and hides no other; values nested 300 deep cost only the YAML");

    let act = format!("{plain}/flux/helmrelease/shop/deep/reconcile");
    for (how, annotation) in [("force", "forceAt"), ("reset", "resetAt")] {
        assert_eq!(trial.as_of("ann", "POST", &act, Some(json!({how: true}))).await.0, 200);
        let page = trial.get(&format!("{plain}/flux/helmrelease/shop/deep")).await;
        let annotations = &page["annotations"];
        let mark = &annotations[format!("reconcile.fluxcd.io/{annotation}")];
        assert!(mark.is_string() && *mark == annotations["reconcile.fluxcd.io/requestedAt"], "{annotations}");
    }
    let cluster = plain.rsplit('/').next().unwrap();
    let (_, asked) = trial.as_of("ann", "POST", "resources/reconcile", Some(json!({"cluster": cluster}))).await;
    assert_eq!((&asked["asked"], &asked["refused"], &asked["left"]), (&json!(1), &json!([]), &json!(0)), "{asked}");
    passed("a release is forced and reset by Flux's annotations, and all that failed is looked at again");

    let mut leaving = object(Kind::GitRepository, "team", "leaving", json!({}));
    leaving["metadata"]["finalizers"] = json!(["finalizers.fluxcd.io/x"]);
    server.make(&collection(Kind::GitRepository, "team"), &leaving).await;
    trial.until(&format!("{plain}/resources?q=leaving"), |list| list["total"] == 1).await;
    server.ask("DELETE", &path(Kind::GitRepository, "team", "leaving"), None).await.unwrap();
    trial.until_status(&plain, "leaving", "terminating").await;
    server.change(&path(Kind::GitRepository, "team", "leaving"), json!({"metadata": {"finalizers": []}})).await;
    trial.until(&format!("{plain}/resources?q=leaving"), |list| list["total"] == 0).await;
    passed("what is being deleted is terminating, and then gone");

    let many = (0..450).map(|number| object(Kind::Bucket, "team", &format!("bucket-{number:03}"), json!({})));
    for bucket in many {
        server.make(&collection(Kind::Bucket, "team"), &bucket).await;
    }
    let second = trial.register("again", "orchestrator-token", json!({})).await;
    trial.until(&format!("{second}/resources?kind=Bucket"), |list| list["total"] == 450).await;
    let listed = trial.get("clusters").await;
    assert!(listed["items"].as_array().unwrap().iter().any(|item| item["same_as"] == "plain"), "{listed}");
    passed("450 objects in pages of 200; the same cluster registered twice is said to be");

    let (status, _) =
        trial.as_of("ann", "POST", &format!("{plain}/flux/kustomization/shop/backend/reconcile"), None).await;
    let seen = server.ask("GET", &path(backend.0, backend.1, backend.2), None).await.unwrap();
    assert!(status == 200 && seen["metadata"]["annotations"]["reconcile.fluxcd.io/requestedAt"].is_string(), "{seen}");
    let applied = trial.get(&format!("{plain}/flux/kustomization/shop/backend/applied")).await;
    let statuses: BTreeMap<&str, &str> = applied["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["kind"].as_str().unwrap(), item["status"].as_str().unwrap()))
        .collect();
    assert_eq!(
        statuses,
        BTreeMap::from([
            ("ConfigMap", "unknown"),
            ("Deployment", "unknown"),
            ("Secret", "unknown"),
            ("Service", "unknown")
        ])
    );
    passed("an action writes Flux's annotation; what the account may not read of what was applied is unknown");

    let people = trial.register("people", "orchestrator-token", json!({"impersonate": true})).await;
    let seen_by = async |name: &str| {
        let (_, list) = trial.as_of(name, "GET", &format!("{people}/resources?limit=500"), None).await;
        let kinds: std::collections::BTreeSet<String> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| format!("{}/{}", item["kind"].as_str().unwrap(), item["namespace"].as_str().unwrap()))
            .collect();
        kinds.into_iter().collect::<Vec<_>>()
    };
    let all = seen_by("ann").await;
    assert!(all.contains(&"ExternalArtifact/shop".into()) && all.iter().all(|kind| kind.ends_with("/shop")), "{all:?}");
    assert_eq!(seen_by("bob").await, ["Kustomization/shop"]);
    assert!(seen_by("eve").await.is_empty());
    let act = format!("{people}/flux/kustomization/shop/backend/suspend");
    let (status, refusal) = trial.as_of("bob", "POST", &act, None).await;
    let message = refusal["message"].as_str().unwrap_or_default();
    assert!(status == 403 && message.contains("\"flux:bob\" cannot patch resource \"kustomizations\""), "{refusal}");
    let (status, refusal) = trial.as_of("eve", "POST", &act, None).await;
    assert!(
        status == 403 && refusal["message"].as_str().unwrap().contains("cannot impersonate resource \"users\""),
        "{refusal}"
    );
    assert_eq!(trial.as_of("ann", "POST", &act, None).await.0, 200);
    let seen = server.ask("GET", &path(backend.0, backend.1, backend.2), None).await.unwrap();
    assert_eq!(seen["spec"]["suspend"], true);
    let (_, cluster) = trial.as_of("eve", "GET", &people, None).await;
    assert!(cluster["hidden"].as_str().unwrap().contains("flux:eve"), "{cluster}");
    passed("ann sees and suspends in her namespace, bob gets the cluster's own refusal, eve may not even be acted for");
    let log = trial.get("activities?action=suspend").await;
    let actors: Vec<&str> =
        log["items"].as_array().unwrap().iter().map(|item| item["actor"].as_str().unwrap()).collect();
    assert!(["ann", "bob", "eve"].iter().all(|name| actors.contains(name)), "{log}");
    passed("all three stand in the activity log");

    let own = trial.get(&format!("{people}/flux/kustomization/shop/backend/applied")).await;
    let statuses: BTreeMap<&str, &str> = own["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["kind"].as_str().unwrap(), item["status"].as_str().unwrap()))
        .collect();
    assert_eq!(
        statuses,
        BTreeMap::from([
            ("ConfigMap", "missing"),
            ("Deployment", "progressing"),
            ("Secret", "unknown"),
            ("Service", "ready")
        ])
    );
    let (_, bobs) = trial.as_of("bob", "GET", &format!("{people}/flux/kustomization/shop/backend/applied"), None).await;
    assert!(bobs["items"].as_array().unwrap().iter().all(|item| item["status"] == "unknown"), "{bobs}");
    passed("the health of what was applied is what each may read: ann sees it, bob the refusals");

    compare(&trial, &plain, &people).await;

    let narrow = trial.register("narrow", "narrow-token", json!({"namespaces": ["shop"]})).await;
    trial.until(&format!("{narrow}/resources?kind=Kustomization"), |list| list["total"] == 2).await;
    let health = trial.get(&format!("{narrow}/health")).await;
    assert_eq!(health["reason"], Value::Null, "{health}");
    let whole = trial.register("whole", "narrow-token", json!({})).await;
    trial
        .until(&format!("{whole}/health"), |health| {
            health["reason"].as_str().is_some_and(|reason| reason.contains("Bucket") && reason.contains("403"))
        })
        .await;
    passed("credentials for one namespace suffice for it, and elsewhere each forbidden kind is named");

    let replaced = |token: &str| Some(json!({"kubeconfig": trial.server.kubeconfig(token)}));
    let (status, refusal) = trial.as_of("ann", "PATCH", &whole, replaced("no-such-token")).await;
    assert!(status == 403 && refusal.to_string().contains("401"), "{refusal}");
    assert_eq!(trial.as_of("ann", "PATCH", &whole, replaced("orchestrator-token")).await.0, 200);
    trial.until(&format!("{whole}/health"), |health| health["state"] == "up" && health["reason"] == Value::Null).await;
    trial.until(&format!("{whole}/resources?kind=Bucket"), |list| list["total"] == 450).await;
    passed("a token is replaced in place, once the new one has been found to work");

    go_away_and_come_back(&trial, &plain).await;
}

/// What the real server says to dry runs, and that nothing comes of them.
async fn compare(trial: &Trial, plain: &str, people: &str) {
    let server = &trial.server;
    let backend = path(Kind::Kustomization, "shop", "backend");
    let noted = object(
        Kind::Kustomization,
        "shop",
        "backend",
        json!({"interval": "5m", "path": "./not-there", "sourceRef": {"kind": "ExternalArtifact", "name": "rendered"}}),
    );
    let note = json!({"kubectl.kubernetes.io/last-applied-configuration": noted.to_string()});
    server.change(&backend, json!({"metadata": {"annotations": note}})).await;
    let before = server.ask("GET", &backend, None).await.unwrap();
    let compared = trial.get(&format!("{plain}/flux/kustomization/shop/backend/comparison")).await;
    let diff = compared["items"][0]["diff"].as_str().unwrap();
    assert!(diff.contains("-  interval: 10m\n+  interval: 5m\n"), "{compared}");
    assert_eq!(before["spec"], server.ask("GET", &backend, None).await.unwrap()["spec"]);
    let (_, bobs) =
        trial.as_of("bob", "GET", &format!("{people}/flux/kustomization/shop/backend/comparison"), None).await;
    assert_eq!(bobs["items"][0]["effect"], "unknown", "{bobs}");
    assert!(bobs["items"][0]["message"].as_str().unwrap().contains("\"flux:bob\" cannot patch"), "{bobs}");
    passed("what kubectl noted is compared by a dry run, which changes nothing; bob may not even do that");

    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "backend"}, "spec": {"replicas": 3}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "backend"}, "spec": {"ports": [{"port": 80}]}});
    let fresh = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "fresh"}, "data": {"a": "b"}});
    let manifest = format!("---\n{deployment}\n---\n{service}\n---\n{fresh}\n");
    let mut packing = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packing, json!({"manifest": manifest}).to_string().as_bytes()).unwrap();
    let release = BASE64.encode(BASE64.encode(packing.finish().unwrap()));
    let secret = json!({"metadata": {"name": "sh.helm.release.v1.web.v1"}, "type": "helm.sh/release.v1", "data": {"release": release}});
    server.make("/api/v1/namespaces/shop/secrets", &secret).await;
    server.make(&collection(Kind::HelmRelease, "shop"), &object(Kind::HelmRelease, "shop", "web", json!({}))).await;
    let history =
        json!([{"name": "web", "namespace": "shop", "version": 1, "status": "deployed", "chartVersion": "1.0.0"}]);
    server.say(Kind::HelmRelease, "shop", "web", json!({"history": history, "storageNamespace": "shop"})).await;
    trial.until(&format!("{people}/resources?q=web&kind=HelmRelease"), |list| list["total"] == 1).await;
    let compared = trial.get(&format!("{people}/flux/helmrelease/shop/web/comparison")).await;
    let of = |kind: &str| compared["items"].as_array().unwrap().iter().find(|item| item["kind"] == kind).unwrap();
    assert!(of("Deployment")["diff"].as_str().unwrap().contains("-  replicas: 1\n+  replicas: 3\n"), "{compared}");
    assert_eq!(of("Service")["effect"], "same", "{compared}");
    assert!(
        of("ConfigMap")["message"].as_str().unwrap().contains("cannot create resource \"configmaps\""),
        "{compared}"
    );
    let seen = server.ask("GET", "/apis/apps/v1/namespaces/shop/deployments/backend", None).await.unwrap();
    assert_eq!(seen["spec"]["replicas"], 1);
    passed(
        "what Helm recorded is compared as ann: a drift as a diff, the same as the same, and what she may not make in the cluster's words",
    );
}

/// An outage, and versions that the server has forgotten when it is back.
async fn go_away_and_come_back(trial: &Trial, plain: &str) {
    let server = &trial.server;
    let seen = server.ask("GET", &collection(Kind::Bucket, "team"), None).await.unwrap();
    let version = seen["metadata"]["resourceVersion"].as_str().unwrap();
    server.control("stop");
    trial.until(&format!("{plain}/health"), |health| health["state"] == "down").await;
    let health = trial.get(&format!("{plain}/health")).await;
    assert!(health["reason"].as_str().unwrap().contains("nothing listens at the cluster's address"), "{health}");
    assert_eq!(trial.get(&format!("{plain}/resources?kind=Bucket")).await["total"], 450);
    passed("an outage is reported in words, and what was known stays to be seen");

    server.control("compact");
    server.control("start");
    server.until_it_answers().await;
    for number in 0..5 {
        server.ask("DELETE", &path(Kind::Bucket, "team", &format!("bucket-{number:03}")), None).await.unwrap();
    }
    server.make(&collection(Kind::Bucket, "team"), &object(Kind::Bucket, "team", "late", json!({}))).await;
    // What the orchestrator's own watches are answered, which go on from then.
    let watch = format!("{}?watch=1&timeoutSeconds=2&resourceVersion={version}", collection(Kind::Bucket, "team"));
    let request = http::Request::get(watch).body(Vec::new()).unwrap();
    let answer = match server.admin.request_text(request).await {
        Ok(text) => text,
        Err(error) => error.to_string(),
    };
    assert!(answer.contains("too old resource version") || answer.contains("410"), "{answer}");
    trial.until(&format!("{plain}/health"), |health| health["state"] == "up").await;
    trial.until(&format!("{plain}/resources?kind=Bucket"), |list| list["total"] == 446).await;
    trial.until(&format!("{plain}/resources?q=late"), |list| list["total"] == 1).await;
    passed(
        "back with its versions compacted away (410 Gone), everything is read again: what went is gone, what came is there",
    );
}
