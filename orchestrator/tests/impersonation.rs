//! Clusters that decide by person: what ann and bob see and do is what their bindings there let them.

use std::time::Duration;

use orchestrator::api::App;
use orchestrator::demo::{Binding, Demo, Options, World};
use orchestrator::entrance::{Assertion, Entrance, Expected, Hosts, Source};
use orchestrator::fleet::{
    ClusterId, Connection, Filter, Fleet, FleetError, HealthState, Kind, ObjectRef, Page, Person, Sort, Tuning, Viewer,
    WatchOptions,
};
use orchestrator::identity::{Impersonation, Naming};
use orchestrator::routes;
use orchestrator::serve::Limits;
use orchestrator::store::{Location, Store};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::entrance::{Signer, ann, in_file};
use crate::service::Service;

const SHOP: &str = "flux/kustomization/shop/shop-backend";
const ALL: Page = Page { limit: 1000, offset: 0, sort: Sort::Name };
const PATIENCE: Duration = Duration::from_secs(20);

/// The service of which every cluster decides by person, and the key that signs people in.
struct Trial {
    service: Service,
    signer: Signer,
    id: String,
    _keys: tempfile::NamedTempFile,
}

impl Trial {
    async fn start() -> Self {
        Self::with(Options { pace: Duration::ZERO, ..Options::default() }).await
    }

    async fn with(options: Options) -> Self {
        Self::deciding(options, true).await
    }

    /// `everywhere`: whether every cluster decides by person, or only those that are changed to it.
    async fn deciding(options: Options, everywhere: bool) -> Self {
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
        let impersonation = Impersonation { everywhere, prefix: "flux:".into(), by: Naming::Username };
        let store = Store::open(&Location::Memory, &[]).await.unwrap();
        let app = App::new(Fleet::start(Tuning::default()), store.clone(), CancellationToken::new(), false)
            .with_impersonation(Some(impersonation));
        let orchestrator = crate::support::Orchestrator::start_with(routes(app, entrance), Limits::default()).await;
        let line = assertion(&signer, &ann());
        let document = orchestrator.ask("GET /api/v1/openapi.json", &[&line]).await.json();
        let service = Service::of(orchestrator, store, Demo::start(options).await.unwrap(), document);
        let mut trial = Self { service, signer, id: String::new(), _keys: file };
        let name = trial.service.demo.kubeconfigs()[0].0.clone();
        let (status, cluster) = trial.ask(&ann(), "POST", "clusters", Some(trial.service.registration(&name))).await;
        assert_eq!((status, &cluster["impersonate"]), (201, &json!(everywhere)), "{cluster}");
        trial.id = cluster["id"].as_str().unwrap().to_owned();
        let path = format!("clusters/{}/health", trial.id);
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while trial.ask(&ann(), "GET", &path, None).await.1["state"] != "up" {
            assert!(std::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        trial
    }

    fn world(&self) -> &World {
        let name = self.service.demo.kubeconfigs()[0].0.clone();
        self.service.world(&name)
    }

    fn bind(&self, subject: &str, namespace: Option<&str>, verbs: &[&'static str]) {
        self.world().bind(Binding {
            subject: subject.into(),
            namespace: namespace.map(str::to_owned),
            verbs: verbs.to_vec(),
            resources: vec!["*"],
        });
    }

    async fn ask(&self, claims: &Value, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let line = assertion(&self.signer, claims);
        self.service.call(method, path, body.as_ref(), &[&line]).await
    }

    async fn seen(&self, claims: &Value) -> Vec<String> {
        let (status, list) = self.ask(claims, "GET", "resources?limit=500", None).await;
        assert_eq!(status, 200, "{list}");
        let items = list["items"].as_array().unwrap();
        assert_eq!(list["total"], items.len());
        items.iter().map(|item| item["namespace"].as_str().unwrap().to_owned()).collect()
    }
}

fn assertion(signer: &Signer, claims: &Value) -> String {
    format!("X-Sidegate-Assertion: {}", signer.sign(claims))
}

fn person(name: &str, groups: &[&str]) -> Value {
    let mut claims = ann();
    (claims["preferred_username"], claims["groups"]) = (name.into(), json!(groups));
    claims
}

#[tokio::test]
async fn two_people_see_and_do_what_their_bindings_let_them_and_both_stand_in_the_log() {
    let trial = Trial::start().await;
    let (ann, bob) = (person("ann", &[]), person("bob", &["acme/readers"]));
    trial.bind("flux:ann", Some("shop"), &["get", "list", "patch"]);
    trial.bind("flux:acme/readers", Some("shop"), &["get", "list"]);
    trial.bind("flux:acme/readers", Some("monitoring"), &["get", "list"]);

    let seen = trial.seen(&ann).await;
    assert!(seen.len() == 3 && seen.iter().all(|namespace| namespace == "shop"), "{seen:?}");
    let seen = trial.seen(&bob).await;
    assert!(
        seen.contains(&"monitoring".into()) && seen.contains(&"shop".into()) && !seen.contains(&"flux-system".into())
    );
    let (_, stats) = trial.ask(&ann, "GET", &format!("clusters/{}/flux/stats", trial.id), None).await;
    assert_eq!(stats["total"], 3);
    let (_, clusters) = trial.ask(&ann, "GET", "clusters", None).await;
    assert_eq!((&clusters["items"][0]["stats"]["total"], &clusters["items"][0]["hidden"]), (&json!(3), &Value::Null));
    let (_, tree) = trial.ask(&ann, "GET", &format!("clusters/{}/resources/tree", trial.id), None).await;
    let nodes = tree["nodes"].as_array().unwrap();
    assert!(nodes.iter().all(|node| node["namespace"] == "shop"), "{tree}");

    let object = format!("clusters/{}/{SHOP}", trial.id);
    assert_eq!(trial.ask(&ann, "GET", &object, None).await.0, 200);
    assert_eq!(trial.ask(&ann, "POST", &format!("{object}/reconcile"), None).await.0, 200);
    assert_eq!(trial.ask(&bob, "GET", &object, None).await.0, 200);
    let (status, refusal) = trial.ask(&bob, "POST", &format!("{object}/suspend"), None).await;
    assert_eq!((status, &refusal["error"]), (403, &json!("cluster_forbids")));
    let message = refusal["message"].as_str().unwrap();
    assert!(message.contains("User \"flux:bob\" cannot patch resource \"kustomizations\""), "{message}");
    assert_ne!(trial.world().object(Kind::Kustomization, "shop", "shop-backend").unwrap()["spec"]["suspend"], true);

    let (_, log) = trial.ask(&ann, "GET", "activities", None).await;
    let text = log.to_string();
    assert!(text.contains("\"ann\"") && text.contains("\"bob\""), "{text}");
}

#[tokio::test]
async fn what_was_applied_and_the_logs_of_pods_are_read_as_the_person() {
    let trial = Trial::start().await;
    let (ann, bob) = (person("ann", &[]), person("bob", &[]));
    trial.bind("flux:ann", Some("shop"), &["get", "list"]);
    trial.world().bind(Binding {
        subject: "flux:bob".into(),
        namespace: Some("shop".into()),
        verbs: vec!["get", "list"],
        resources: vec!["kustomizations", "deployments"],
    });
    let applied = format!("clusters/{}/{SHOP}/applied", trial.id);
    let deployment = |answer: &Value| {
        let mut items = answer["items"].as_array().unwrap().clone();
        items.retain(|item| item["kind"] == "Deployment");
        items.remove(0)
    };
    let (_, answer) = trial.ask(&ann, "GET", &applied, None).await;
    let seen = deployment(&answer);
    assert_eq!((&seen["status"], seen["pods"].as_array().unwrap().len()), (&json!("ready"), 2), "{answer}");
    let (_, answer) = trial.ask(&bob, "GET", &applied, None).await;
    let refused = deployment(&answer)["pods_fault"].to_string();
    assert!(refused.contains("flux:bob") && refused.contains("cannot list resource"), "{answer}");
    let service = answer["items"].as_array().unwrap().iter().find(|item| item["kind"] == "Service").unwrap();
    assert_eq!(service["status"], "unknown", "{service}");

    let pod = seen["pods"][0]["name"].as_str().unwrap();
    let log =
        format!("{applied}/log?workload_kind=Deployment&workload=backend&within=shop&pod={pod}&container=backend");
    assert_eq!(trial.ask(&ann, "GET", &log, None).await.0, 200);
    let (status, refusal) = trial.ask(&bob, "GET", &log, None).await;
    assert_eq!((status, &refusal["error"]), (403, &json!("cluster_forbids")), "{refusal}");
    // Flux's own controllers as well.
    let controllers = format!("clusters/{}/flux/controllers", trial.id);
    assert_eq!(trial.ask(&ann, "GET", &controllers, None).await.0, 403);
}

#[tokio::test]
async fn what_may_not_be_seen_cannot_be_distinguished_from_what_does_not_exist() {
    let trial = Trial::start().await;
    let ann = person("ann", &[]);
    trial.bind("flux:ann", Some("shop"), &["*"]);
    let mut answers = Vec::new();
    for name in ["apps", "nothing"] {
        let path = format!("clusters/{}/flux/kustomization/flux-system/{name}", trial.id);
        let (status, refusal) = trial.ask(&ann, "GET", &path, None).await;
        answers.push((status, refusal["message"].as_str().unwrap().replace(name, "")));
        let (status, _) = trial.ask(&ann, "GET", &format!("{path}/tree"), None).await;
        assert_eq!(status, 403, "{name}");
    }
    assert!(answers[0].0 == 403 && answers[0] == answers[1], "{answers:?}");
}

#[tokio::test]
async fn reconciling_what_may_not_be_seen_tells_as_little_as_reconciling_what_does_not_exist() {
    let trial = Trial::start().await;
    let ann = person("ann", &[]);
    trial.bind("flux:ann", Some("shop"), &["*"]);
    trial.bind("flux:ann", Some("cert-manager"), &["*"]);
    for with_source in [false, true] {
        let how = json!({"with_source": with_source});
        let mut answers = Vec::new();
        // Suspended, with a source, and not there.
        for name in ["tenants", "apps", "nothing"] {
            let path = format!("clusters/{}/flux/kustomization/flux-system/{name}/reconcile", trial.id);
            let (status, refusal) = trial.ask(&ann, "POST", &path, Some(how.clone())).await;
            answers.push((status, refusal["message"].as_str().unwrap().replace(name, "")));
        }
        assert!(answers[0].0 == 403 && answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        // What she may see is reconciled.
        let path = format!("clusters/{}/{SHOP}/reconcile", trial.id);
        let (status, answer) = trial.ask(&ann, "POST", &path, Some(how)).await;
        assert_eq!(status, 200, "{answer}");
    }
    // Her object may name any source: whether that is there is not told either.
    let mut answers = Vec::new();
    for name in ["flux-system", "nothing"] {
        trial.world().change(Kind::Kustomization, "shop", "shop-backend", |object| {
            object["spec"]["sourceRef"] = json!({"kind": "GitRepository", "name": name, "namespace": "flux-system"});
        });
        let path = format!("clusters/{}/{SHOP}", trial.id);
        let began = std::time::Instant::now();
        while trial.ask(&ann, "GET", &path, None).await.1["source"]["name"] != name {
            assert!(began.elapsed() < Duration::from_secs(10), "the orchestrator does not see it");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let how = Some(json!({"with_source": true}));
        let (status, refusal) = trial.ask(&ann, "POST", &format!("{path}/reconcile"), how).await;
        answers.push((status, refusal["message"].as_str().unwrap_or_default().to_owned()));
    }
    assert!(answers[0].0 == 403 && answers[0] == answers[1], "{answers:?}");
    // Her release names its chart. Where that comes from, only the hidden chart tells, whether it is suspended or not.
    let path = format!("clusters/{}/flux/helmrelease/cert-manager/cert-manager/reconcile", trial.id);
    let (status, refusal) = trial.ask(&ann, "POST", &path, Some(json!({"with_source": true}))).await;
    let message = refusal["message"].as_str().unwrap();
    assert!(status == 403 && message.contains("cannot get resource \"helmcharts\""), "{message}");
    let (_, log) = trial.ask(&ann, "GET", "activities", None).await;
    assert!(!log.to_string().contains("helmrepositories"), "{log}");
}

#[tokio::test]
async fn a_user_who_may_see_nothing_sees_that_and_why() {
    let trial = Trial::start().await;
    for (claims, reason) in [
        (person("eve", &[]), "flux:eve may list no object"),
        (person("system:admin", &["system:masters"]), "Kubernetes' own"),
        (person("", &[]), "gives no name"),
        (person("eve", &["system:masters"]), "flux:eve may list no object"),
    ] {
        assert!(trial.seen(&claims).await.is_empty());
        let (_, cluster) = trial.ask(&claims, "GET", &format!("clusters/{}", trial.id), None).await;
        let hidden = cluster["hidden"].as_str().unwrap_or_default();
        assert!(hidden.contains(reason), "{cluster}");
        let (status, _) = trial.ask(&claims, "POST", &format!("clusters/{}/{SHOP}/suspend", trial.id), None).await;
        assert_eq!(status, 403);
    }
}

#[tokio::test]
async fn an_answer_counts_for_a_minute_and_without_one_nothing_is_shown() {
    let trial = Trial::start().await;
    let (ann, bob) = (person("ann", &[]), person("bob", &[]));
    trial.bind("flux:ann", None, &["list"]);
    trial.bind("flux:bob", None, &["list"]);
    let all = trial.world().count();
    assert_eq!(trial.seen(&ann).await.len(), all);
    let asked = trial.world().faults().reviews();
    assert!(asked > 0);
    assert_eq!(trial.seen(&ann).await.len(), all);
    assert_eq!(trial.world().faults().reviews(), asked, "what was answered a moment ago was asked again");
    trial.world().faults().break_down(true);
    assert!(trial.seen(&bob).await.is_empty());
    let (_, cluster) = trial.ask(&bob, "GET", &format!("clusters/{}", trial.id), None).await;
    assert!(cluster["hidden"].as_str().unwrap().contains("does not say"), "{cluster}");
}

#[tokio::test]
async fn impersonation_cannot_be_switched_off_by_the_users_it_limits() {
    let trial = Trial::start().await;
    let path = format!("clusters/{}", trial.id);
    let (status, refusal) = trial.ask(&ann(), "PATCH", &path, Some(json!({"impersonate": false}))).await;
    assert_eq!(status, 422, "{refusal}");
    let name = trial.service.demo.kubeconfigs()[1].0.clone();
    let mut registration = trial.service.registration(&name);
    registration["impersonate"] = false.into();
    let (_, cluster) = trial.ask(&ann(), "POST", "clusters", Some(registration)).await;
    assert_eq!(cluster["impersonate"], true, "everywhere means everywhere");
}

#[tokio::test]
async fn a_slow_change_of_a_cluster_does_not_undo_one_that_was_made_meanwhile() {
    let trial = Trial::deciding(Options { pace: Duration::ZERO, ..Options::default() }, false).await;
    let path = format!("clusters/{}", trial.id);
    let mut changes = trial.service.registration(&trial.service.demo.kubeconfigs()[0].0);
    changes.as_object_mut().unwrap().remove("name");
    trial.world().faults().be_slow(Duration::from_millis(400));
    let claims = ann();
    let replacing = trial.ask(&claims, "PATCH", &path, Some(changes));
    let switching = async {
        // The other one is under way: what it asks the cluster takes more than a second.
        tokio::time::sleep(Duration::from_millis(200)).await;
        trial.ask(&ann(), "PATCH", &path, Some(json!({"impersonate": true, "name": "switched"}))).await
    };
    let (replaced, switched) = tokio::join!(replacing, switching);
    assert_eq!((replaced.0, switched.0), (200, 200), "{replaced:?} {switched:?}");
    let (_, cluster) = trial.ask(&ann(), "GET", &path, None).await;
    assert_eq!((&cluster["impersonate"], &cluster["name"]), (&json!(true), &json!("switched")), "{cluster}");
}

#[tokio::test]
async fn what_is_stored_and_not_in_force_is_brought_in_force_by_the_same_request() {
    let trial = Trial::deciding(Options { pace: Duration::ZERO, ..Options::default() }, false).await;
    let (path, ann) = (format!("clusters/{}", trial.id), person("ann", &[]));
    trial.bind("flux:ann", None, &["list"]);
    // As after changes that broke off between the database and the fleet.
    trial.service.store.impersonate(&trial.id).await.unwrap();
    let (status, cluster) = trial.ask(&ann, "PATCH", &path, Some(json!({"impersonate": true}))).await;
    assert_eq!((status, &cluster["impersonate"]), (200, &json!(true)), "{cluster}");

    trial.service.store.narrow(&trial.id, &["shop".to_owned()]).await.unwrap();
    let (status, cluster) = trial.ask(&ann, "PATCH", &path, Some(json!({"namespaces": ["shop"]}))).await;
    assert_eq!(status, 200, "{cluster}");
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let seen = trial.seen(&ann).await;
        if !seen.is_empty() && seen.iter().all(|namespace| namespace == "shop") {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{seen:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    trial.service.store.remove_cluster(&trial.id).await.unwrap();
    assert_eq!(trial.ask(&ann, "DELETE", &path, None).await.0, 404);
    assert!(trial.seen(&ann).await.is_empty(), "it is still watched");
}

/// A fleet whose one cluster decides by person, and that person.
struct Alone {
    demo: Demo,
    fleet: Fleet,
    id: ClusterId,
    ann: Viewer,
}

impl Alone {
    async fn start() -> Self {
        let demo = Demo::start(Options { pace: Duration::ZERO, ..Options::default() }).await.unwrap();
        let tuning = Tuning {
            probe: Duration::from_millis(200),
            patience: Duration::from_millis(500),
            retry: Duration::from_millis(50),
            ..Tuning::default()
        };
        let ann = Viewer::Person(Ok(Person::new("ann", &[], "").unwrap()));
        Self { demo, fleet: Fleet::start(tuning), id: ClusterId::from_bytes([1; 16]), ann }
    }

    /// Registers the cluster, or registers it anew.
    async fn add(&self, as_person: bool) {
        let connection = Connection::Kubeconfig { kubeconfig: self.demo.kubeconfig("staging"), context: None };
        let options = WatchOptions { as_person, namespaces: Vec::new() };
        self.fleet.add_with(self.id, "staging", &connection, &options).await;
        self.until(HealthState::Up).await;
    }

    async fn until(&self, state: HealthState) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while self.fleet.health(self.id).unwrap().state != state {
            assert!(std::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn world(&self) -> &World {
        self.demo.cluster("staging").unwrap()
    }
}

#[tokio::test]
async fn of_a_cluster_that_was_not_read_yet_it_is_said_of_every_object() {
    let trial = Alone::start().await;
    trial.world().faults().set_dead(true);
    let connection = Connection::Kubeconfig { kubeconfig: trial.demo.kubeconfig("staging"), context: None };
    let options = WatchOptions { as_person: true, namespaces: Vec::new() };
    trial.fleet.add_with(trial.id, "staging", &connection, &options).await;
    for name in ["shop-backend", "nothing"] {
        let read = trial.fleet.detail_for(&trial.ann, trial.id, Kind::Kustomization, "shop", name);
        let error = read.await.unwrap_err();
        let reason = "the cluster is still being read: try again in a moment".to_owned();
        let expected = FleetError::Unreachable { reason };
        assert_eq!(error, expected);
        let root = ObjectRef { kind: Kind::Kustomization, namespace: "shop".into(), name: name.into() };
        let views = trial.fleet.views(&trial.ann, Some(trial.id)).await;
        assert_eq!(trial.fleet.tree_seen(&views, trial.id, Some(&root)).unwrap_err(), expected);
    }
}

#[tokio::test]
async fn a_cluster_that_comes_while_people_wait_is_hidden_from_them() {
    let trial = Alone::start().await;
    // As of a request that still waits for another cluster.
    let views = trial.fleet.views(&trial.ann, None).await;
    let seen = || {
        let listed = trial.fleet.list_seen(&views, &Filter::default(), ALL).total;
        let counted = trial.fleet.stats_seen(&views, None).unwrap().total;
        let nodes = trial.fleet.tree_seen(&views, trial.id, None).unwrap().nodes.len();
        (listed, counted, nodes > 0)
    };
    trial.add(true).await;
    assert_eq!(trial.fleet.list(&Filter::default(), ALL).total, trial.world().count());
    assert_eq!(seen(), (0, 0, false));
    // One that does not decide by person is shown to everybody.
    trial.add(false).await;
    let count = trial.world().count();
    assert_eq!(seen(), (count, count as u64, true));
}

#[tokio::test]
async fn what_one_cluster_has_answered_shows_nothing_of_another_that_takes_its_place_while_people_wait() {
    let trial = Alone::start().await;
    trial.add(true).await;
    trial.world().bind(Binding { subject: "ann".into(), namespace: None, verbs: vec!["list"], resources: vec!["*"] });
    let views = trial.fleet.views(&trial.ann, None).await;
    let seen = || trial.fleet.list_seen(&views, &Filter::default(), ALL).total;
    assert_eq!(seen(), trial.world().count());
    trial.add(true).await;
    assert_eq!(seen(), 0);
}

#[tokio::test]
async fn a_cluster_that_is_down_keeps_nobody_waiting_and_shows_only_what_it_has_answered() {
    let trial = Alone::start().await;
    trial.add(true).await;
    for subject in ["ann", "bob"] {
        trial.world().bind(Binding {
            subject: subject.into(),
            namespace: None,
            verbs: vec!["list"],
            resources: vec!["*"],
        });
    }
    let bob = Viewer::Person(Ok(Person::new("bob", &[], "").unwrap()));
    assert_eq!(trial.fleet.views(&trial.ann, None).await.reason(trial.id), None);
    trial.world().faults().set_dead(true);
    trial.until(HealthState::Down).await;

    let begun = std::time::Instant::now();
    let (anns, bobs) = (trial.fleet.views(&trial.ann, None).await, trial.fleet.views(&bob, None).await);
    assert!(!trial.fleet.shows(&bob, trial.id, Kind::Kustomization, "shop").await);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let seen = |views| trial.fleet.list_seen(views, &Filter::default(), ALL).total;
    assert_eq!((seen(&anns), seen(&bobs)), (trial.world().count(), 0));
    let reason = bobs.reason(trial.id).unwrap();
    assert!(reason.contains("does not say") && reason.contains("did not answer"), "{reason}");
}

#[tokio::test]
async fn without_signed_identities_no_cluster_can_decide_by_person() {
    let service = Service::alone().await;
    let id = service.register("staging").await;
    let (status, refusal) = service.send("PATCH", &format!("clusters/{id}"), json!({"impersonate": true})).await;
    assert!(status == 422 && refusal.to_string().contains("ORCHESTRATOR_ASSERTION_JWKS"), "{refusal}");
}

#[tokio::test]
async fn events_carry_only_what_may_be_seen() {
    let trial = Trial::start().await;
    let ann = person("ann", &[]);
    trial.bind("flux:ann", Some("shop"), &["list"]);
    let line = assertion(&trial.signer, &ann);
    let mut events = trial.service.listen(&[&line]).await;
    events.line("retry: ").await.unwrap();
    for (namespace, name) in [("flux-system", "apps"), ("shop", "shop-backend")] {
        trial.world().change(Kind::Kustomization, namespace, name, |object| object["spec"]["suspend"] = json!(true));
    }
    // Told in their order: the first that comes is not the first that happened.
    let event = events.next("object", |_| true).await;
    assert_eq!(event["summary"]["name"], "shop-backend");
}

#[tokio::test]
async fn fifty_people_list_many_objects_in_time() {
    let trial = Trial::with(Options {
        pace: Duration::ZERO,
        objects: Some(1000),
        clusters: vec!["a".into()],
        ..Options::default()
    })
    .await;
    trial.bind("flux:team", Some("team-1"), &["list"]);
    let mut slowest = Duration::ZERO;
    for number in 0..50 {
        let claims = person(&format!("person-{number}"), &["team"]);
        assert!(!trial.seen(&claims).await.is_empty());
        let begun = std::time::Instant::now();
        assert!(trial.seen(&claims).await.iter().all(|namespace| namespace == "team-1"));
        slowest = slowest.max(begun.elapsed());
    }
    eprintln!("the slowest list of 50 people: {slowest:?}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

#[tokio::test]
async fn what_helm_installed_is_compared_as_the_person_and_its_secrets_are_not_shown() {
    let trial = Trial::start().await;
    let path = format!("clusters/{}/flux/helmrelease/podinfo/podinfo/comparison", trial.id);
    let (ann, bob) = (person("ann", &[]), person("bob", &[]));
    trial.bind("flux:ann", Some("podinfo"), &["get", "list", "patch"]);
    trial.bind("flux:bob", Some("podinfo"), &["get", "list"]);
    let (status, compared) = trial.ask(&ann, "GET", &path, None).await;
    assert_eq!(status, 200, "{compared}");
    let effects: Vec<(&str, &str)> = compared["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["kind"].as_str().unwrap(), item["effect"].as_str().unwrap()))
        .collect();
    let expected = [("Deployment", "different"), ("Secret", "unknown"), ("HelmRelease", "same"), ("Service", "same")];
    assert_eq!(effects, expected, "{compared}");
    let diff = compared["items"][0]["diff"].as_str().unwrap();
    assert!(diff.contains("-  replicas: 2\n+  replicas: 3\n"), "{diff}");
    assert!(!compared.to_string().contains("correct-horse"), "{compared}");
    assert!(compared["kept"][1].as_str().unwrap().contains("release 3 of podinfo"), "{compared}");

    // Bob may read, and not even rehearse a change.
    let (_, refused) = trial.ask(&bob, "GET", &path, None).await;
    let items = refused["items"].as_array().unwrap();
    assert!(items.iter().all(|item| item["effect"] == "unknown"), "{refused}");
    let deployment = items.iter().find(|item| item["kind"] == "Deployment").unwrap();
    assert!(deployment["message"].as_str().unwrap().contains("User \"flux:bob\" cannot patch"), "{deployment}");
    // Whoever may read no Secrets learns that from the cluster.
    trial.world().unbind("flux:bob");
    trial.world().bind(Binding {
        subject: "flux:bob".into(),
        namespace: Some("podinfo".into()),
        verbs: vec!["get", "list"],
        resources: vec!["helmreleases"],
    });
    let (_, refused) = trial.ask(&bob, "GET", &path, None).await;
    let reason = refused["reasons"][0].as_str().unwrap();
    assert!(reason.contains("cannot get resource \"secrets\""), "{refused}");
}
