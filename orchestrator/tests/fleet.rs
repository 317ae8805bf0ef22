//! The fleet against simulated clusters, over real connections: reached, watched through trouble, acted on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use orchestrator::clock;
use orchestrator::demo::{DEMO_CLUSTERS, Demo, Options, World};
use orchestrator::fleet::{
    Action, Change, ClusterId, Connection, Filter, Fleet, FleetError, Health, HealthState, Kind, Listing, ObjectRef,
    ObjectSummary, Page, Relation, Sort, Status, Tuning,
};
use orchestrator::secret::Secret;
use rcgen::{CertifiedKey, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::Receiver;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

const PATIENCE: Duration = Duration::from_secs(20);
/// As soon as a change is to be seen.
const SOON: Duration = Duration::from_secs(1);
const ALL: Page = Page { limit: 1000, offset: 0, sort: Sort::Name };

/// A fleet with one simulated cluster, in which nothing happens by itself.
struct Trial {
    demo: Demo,
    fleet: Fleet,
    id: ClusterId,
}

impl Trial {
    async fn start() -> Self {
        let trial = Self::unconnected().await;
        trial.connect().await;
        trial
    }

    async fn unconnected() -> Self {
        let demo = Demo::start(Options { pace: Duration::ZERO, ..Options::default() }).await.unwrap();
        let tuning = Tuning {
            probe: Duration::from_millis(200),
            patience: Duration::from_secs(1),
            retry: Duration::from_millis(50),
            rediscover: Duration::from_millis(300),
        };
        Self { demo, fleet: Fleet::start(tuning), id: id(1) }
    }

    async fn connect(&self) {
        self.fleet.add(self.id, "one", &self.connection("staging")).await;
        self.until_up(self.id).await;
    }

    async fn until_up(&self, id: ClusterId) {
        self.until(|trial| trial.fleet.health(id).unwrap().state == HealthState::Up).await;
    }

    fn connection(&self, name: &str) -> Connection {
        Connection::Kubeconfig { kubeconfig: self.demo.kubeconfig(name), context: None }
    }

    fn world(&self) -> &Arc<World> {
        self.demo.cluster("staging").unwrap()
    }

    fn health(&self) -> Health {
        self.fleet.health(self.id).unwrap()
    }

    fn all(&self) -> Listing<ObjectSummary> {
        self.fleet.list(&Filter { cluster: Some(self.id), ..Filter::default() }, ALL)
    }

    fn find(&self, kind: Kind, name: &str) -> Option<ObjectSummary> {
        self.all().items.into_iter().find(|object| object.kind == kind && object.name == name)
    }

    fn message(&self, kind: Kind, name: &str) -> String {
        self.find(kind, name).map(|object| object.message).unwrap_or_default()
    }

    /// Has the controller of the Kustomization `apps` say something.
    fn say(&self, message: &str) {
        self.world().change(Kind::Kustomization, "flux-system", "apps", |object| {
            object["status"]["conditions"][0]["message"] = message.into();
        });
    }

    async fn act(&self, kind: Kind, namespace: &str, name: &str, action: Action) -> Result<ObjectSummary, FleetError> {
        self.fleet.act(self.id, kind, namespace, name, action).await
    }

    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut changes = self.fleet.subscribe();
        while !holds(self) {
            assert!(Instant::now() < deadline, "never came true; {:?}", self.fleet.healths());
            let _ = timeout(Duration::from_millis(20), changes.recv()).await;
        }
    }
}

fn id(number: u8) -> ClusterId {
    ClusterId::from_bytes([number; 16])
}

/// The next change of an object of this name.
async fn change_of(changes: &mut Receiver<Arc<Change>>, name: &str) -> (bool, ObjectSummary) {
    loop {
        let change = timeout(PATIENCE, changes.recv()).await.expect("no such change").unwrap();
        if let Change::Object { removed, summary, .. } = change.as_ref()
            && summary.name == name
        {
            return (*removed, summary.as_ref().clone());
        }
    }
}

#[tokio::test]
async fn a_check_returns_what_it_found() {
    let trial = Trial::unconnected().await;
    let reached = trial.fleet.check(&trial.connection("staging")).await.unwrap();
    assert!(reached.server.starts_with("http://127.0.0.1:") && reached.version.starts_with("v1."), "{reached:?}");
    assert_eq!((reached.context.as_deref(), reached.flux_kinds.as_slice()), (Some("staging"), &Kind::ALL[..]));
}

#[tokio::test]
async fn a_check_returns_why_it_failed() {
    let trial = Trial::unconnected().await;
    let text = trial.demo.kubeconfig("staging").expose().replace("token: demo-", "token: demo-x");
    let wrong = Connection::Kubeconfig { kubeconfig: Secret::new(text), context: None };
    let FleetError::Forbidden { reason } = trial.fleet.check(&wrong).await.unwrap_err() else { panic!("let in") };
    assert!(reason.contains("credentials") && !reason.contains("demo-x"), "{reason}");

    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    drop(taken);
    let text = format!(
        "current-context: a\ncontexts: [{{name: a, context: {{cluster: c}}}}]\n\
         clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]\n"
    );
    let nobody = Connection::Kubeconfig { kubeconfig: Secret::new(text), context: None };
    let error = trial.fleet.check(&nobody).await.unwrap_err();
    assert_eq!(error, FleetError::Unreachable { reason: "nothing listens at the cluster's address".into() });

    let broken = Connection::Kubeconfig { kubeconfig: Secret::new("hidden".into()), context: None };
    let FleetError::Invalid { reason } = trial.fleet.check(&broken).await.unwrap_err() else { panic!("taken") };
    assert!(reason.contains("not a kubeconfig") && !reason.contains("hidden"), "{reason}");
}

fn self_signed(name: &str) -> CertifiedKey<KeyPair> {
    rcgen::generate_simple_self_signed([name.to_owned()]).unwrap()
}

/// Answers TLS on a port of its own for a simulated cluster, to these clients only or to all; its address, and its certificate in PEM.
async fn with_tls(demo: &Demo, clients: Option<&CertifiedKey<KeyPair>>) -> (u16, String) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let certified = self_signed("localhost");
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let config = match clients {
        None => ServerConfig::builder().with_no_client_auth(),
        Some(client) => {
            let mut roots = RootCertStore::empty();
            roots.add(client.cert.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
            ServerConfig::builder().with_client_cert_verifier(verifier)
        }
    };
    let config = config.with_single_cert(vec![certified.cert.der().clone()], key);
    let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let text = demo.kubeconfig("staging");
    let behind = text.expose().split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, behind) = (acceptor.clone(), behind.clone());
            tokio::spawn(async move {
                if let Ok(mut front) = acceptor.accept(stream).await {
                    let mut back = TcpStream::connect(behind).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut front, &mut back).await;
                }
            });
        }
    });
    (port, certified.cert.pem())
}

/// The way to a simulated cluster through [`with_tls`]; `user` is more of the user's entry, line by line.
fn over_tls(demo: &Demo, port: u16, authority: &str, user: &str) -> Connection {
    let plain = demo.kubeconfig("staging");
    let (before, rest) = plain.expose().split_once("http://").unwrap();
    let (_, path) = rest.split_once('/').unwrap();
    let (path, after) = path.split_once('\n').unwrap();
    let authority = BASE64.encode(authority);
    let text = format!("{before}https://localhost:{port}/{path}\n    certificate-authority-data: {authority}\n{after}");
    let text = text.replace("    token: ", &format!("{user}    token: "));
    Connection::Kubeconfig { kubeconfig: Secret::new(text), context: None }
}

#[tokio::test]
async fn over_tls_the_clusters_certificate_has_to_be_the_one_of_the_kubeconfig() {
    let trial = Trial::unconnected().await;
    let (port, certificate) = with_tls(&trial.demo, None).await;
    let (_, other) = with_tls(&trial.demo, None).await;
    let connection = |certificate: &str| over_tls(&trial.demo, port, certificate, "");
    let reached = trial.fleet.check(&connection(&certificate)).await.unwrap();
    assert_eq!(reached.server, format!("https://localhost:{port}/clusters/staging"));
    let FleetError::Unreachable { reason } = trial.fleet.check(&connection(&other)).await.unwrap_err() else {
        panic!("another certificate was believed")
    };
    assert!(reason.contains("certificate"), "{reason}");

    trial.fleet.add(trial.id, "one", &connection(&certificate)).await;
    trial.until_up(trial.id).await;
    let mut changes = trial.fleet.subscribe();
    trial.say("over TLS");
    assert_eq!(change_of(&mut changes, "apps").await.1.message, "over TLS");
}

#[tokio::test]
async fn a_cluster_that_asks_for_a_client_certificate_is_shown_the_one_of_the_kubeconfig() {
    let trial = Trial::unconnected().await;
    let (ours, other) = (self_signed("ann"), self_signed("ann"));
    let (port, authority) = with_tls(&trial.demo, Some(&ours)).await;
    let user = |certificate: &str, key: &KeyPair| {
        let (certificate, key) = (BASE64.encode(certificate), BASE64.encode(key.serialize_pem()));
        format!("    client-certificate-data: {certificate}\n    client-key-data: {key}\n")
    };
    let check = async |user: &str| trial.fleet.check(&over_tls(&trial.demo, port, &authority, user)).await;
    let (certificate, key) = (ours.cert.pem(), &ours.signing_key);
    for refused in [String::new(), user(&other.cert.pem(), &other.signing_key)] {
        let outcome = check(&refused).await;
        let Err(FleetError::Forbidden { reason }) = outcome else { panic!("{outcome:?}") };
        assert!(reason.contains("client certificate"), "{reason}");
    }
    for unfit in [user(&certificate, &other.signing_key), user("no certificate", key)] {
        let Err(FleetError::Invalid { reason }) = check(&unfit).await else { panic!("taken: {unfit}") };
        assert!(reason.contains("client-certificate-data"), "{reason}");
    }

    let ours = user(&certificate, key);
    check(&ours).await.unwrap();
    trial.fleet.add(trial.id, "one", &over_tls(&trial.demo, port, &authority, &ours)).await;
    trial.until_up(trial.id).await;
    let mut changes = trial.fleet.subscribe();
    trial.say("known by a certificate");
    assert_eq!(change_of(&mut changes, "apps").await.1.message, "known by a certificate");
}

#[tokio::test]
async fn every_object_of_every_cluster_is_held_by_the_version_that_the_cluster_serves() {
    let trial = Trial::unconnected().await;
    for (number, name) in (1..).zip(DEMO_CLUSTERS) {
        trial.fleet.add(id(number), name, &trial.connection(name)).await;
    }
    let count: usize = DEMO_CLUSTERS.iter().map(|name| trial.demo.cluster(name).unwrap().count()).sum();
    trial.until(|trial| trial.fleet.healths().values().all(|health| health.state == HealthState::Up)).await;
    let all = trial.fleet.list(&Filter::default(), ALL);
    assert_eq!((all.total, all.items.len()), (count, count));
    let stats = trial.fleet.stats(None).unwrap();
    assert_eq!((stats.total, stats.by_status.total), (count as u64, count as u64));

    let version = |cluster: &str, kind: Kind| {
        let mut of = all.items.iter().filter(|object| object.cluster_name == cluster && object.kind == kind);
        of.next().unwrap().api_version.clone()
    };
    assert_eq!(version("production-eu", Kind::OciRepository), "source.toolkit.fluxcd.io/v1");
    assert_eq!(version("staging", Kind::OciRepository), "source.toolkit.fluxcd.io/v1beta2");
    assert_eq!(version("staging", Kind::HelmRelease), "helm.toolkit.fluxcd.io/v2");

    let health = trial.fleet.health(id(1)).unwrap();
    assert_eq!((health.version.as_deref(), health.flux_version.as_deref()), (Some("v1.34.1"), Some("v2.7.2")));
    assert!(health.latency_ms.is_some() && health.reason.is_none(), "{health:?}");
}

#[tokio::test]
async fn lists_are_narrowed_ordered_and_paged() {
    let trial = Trial::start().await;
    let list = |filter: Filter, page: Page| trial.fleet.list(&filter, page);
    let failed = list(Filter { status: Some(Status::Failed), ..Filter::default() }, ALL);
    let names: Vec<&str> = failed.items.iter().map(|object| object.name.as_str()).collect();
    assert_eq!(names, ["loki", "shop-frontend"]);
    let releases = list(Filter { kind: Some(Kind::HelmRelease), ..Filter::default() }, ALL);
    assert_eq!(releases.total, 5);
    let found = list(Filter { text: Some("SCHEMA  loki".into()), ..Filter::default() }, ALL);
    assert_eq!(found.items.iter().map(|object| object.name.as_str()).collect::<Vec<_>>(), ["loki"]);
    let shop = list(Filter { namespace: Some("shop".into()), ..Filter::default() }, ALL);
    assert!(shop.total == 3 && shop.items.iter().all(|object| object.namespace == "shop"), "{shop:?}");
    assert_eq!(list(Filter { cluster: Some(id(9)), ..Filter::default() }, ALL).total, 0);

    let by_status = list(Filter::default(), Page { sort: Sort::Status, ..ALL });
    assert!(by_status.items.is_sorted_by_key(|object| object.status));
    let updated = list(Filter::default(), Page { sort: Sort::Updated, ..ALL });
    assert!(updated.items.is_sorted_by_key(|object| std::cmp::Reverse(object.updated_at)));
    let whole = list(Filter::default(), ALL);
    let page = list(Filter::default(), Page { limit: 3, offset: 2, sort: Sort::Name });
    assert_eq!((page.total, page.items.as_slice()), (whole.total, &whole.items[2..5]));
    assert!(list(Filter::default(), Page { limit: 3, offset: 1000, sort: Sort::Name }).items.is_empty());
}

#[tokio::test]
async fn changes_reach_a_subscriber_within_a_second() {
    let trial = Trial::start().await;
    let mut changes = trial.fleet.subscribe();

    let begun = Instant::now();
    trial.say("something new");
    let (removed, summary) = change_of(&mut changes, "apps").await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_eq!((removed, summary.message.as_str(), summary.cluster), (false, "something new", id(1)));

    let object = trial.world().object(Kind::Bucket, "monitoring", "dashboards").unwrap();
    let begun = Instant::now();
    let mut copy = object.clone();
    copy["metadata"]["name"] = "copy".into();
    trial.world().create(Kind::Bucket, "monitoring", "copy", copy);
    assert!(!change_of(&mut changes, "copy").await.0);
    trial.world().delete(Kind::Bucket, "monitoring", "copy");
    assert!(change_of(&mut changes, "copy").await.0);
    assert!(begun.elapsed() < SOON * 2, "{:?}", begun.elapsed());
    assert_eq!(trial.find(Kind::Bucket, "copy"), None);
}

#[tokio::test]
async fn what_is_written_without_being_changed_is_no_change() {
    let trial = Trial::start().await;
    let mut changes = trial.fleet.subscribe();
    trial.world().change(Kind::Kustomization, "flux-system", "apps", |object| {
        object["metadata"]["labels"]["touched"] = "yes".into();
    });
    trial.say("now");
    assert_eq!(change_of(&mut changes, "apps").await.1.message, "now");
}

#[tokio::test]
async fn a_watch_goes_on_where_it_was_when_its_connection_is_dropped() {
    let trial = Trial::start().await;
    let lists = trial.world().faults().lists();
    for round in 0..3 {
        trial.world().faults().cut_watches();
        let message = format!("round {round}");
        trial.say(&message);
        trial.until(|trial| trial.message(Kind::Kustomization, "apps") == message).await;
    }
    assert_eq!(trial.world().faults().lists(), lists, "what was known already was read again");
    trial.until(|trial| trial.health().reason.is_none()).await;
}

#[tokio::test]
async fn a_watch_that_is_cut_in_the_middle_of_an_event_loses_nothing() {
    let trial = Trial::start().await;
    trial.world().faults().be_unreliable(true);
    trial.say("cut in half");
    let watches = trial.world().faults().watches();
    trial.until(|trial| trial.world().faults().watches() > watches).await;
    assert_ne!(trial.message(Kind::Kustomization, "apps"), "cut in half");
    trial.world().faults().be_unreliable(false);
    trial.until(|trial| trial.message(Kind::Kustomization, "apps") == "cut in half").await;
}

#[tokio::test]
async fn versions_that_are_gone_are_read_again_and_deleted_objects_are_removed() {
    let trial = Trial::start().await;
    let mut changes = trial.fleet.subscribe();
    let lists = trial.world().faults().lists();
    // No watch reports any of this.
    trial.world().faults().set_dead(true);
    trial.world().faults().cut_watches();
    trial.say("while away");
    trial.world().delete(Kind::HelmRelease, "podinfo", "podinfo");
    trial.world().forget();
    trial.world().faults().set_dead(false);
    trial.until(|trial| trial.message(Kind::Kustomization, "apps") == "while away").await;
    trial.until(|trial| trial.find(Kind::HelmRelease, "podinfo").is_none()).await;
    assert!(trial.world().faults().lists() > lists);
    assert!(change_of(&mut changes, "podinfo").await.0 || change_of(&mut changes, "podinfo").await.0);
}

#[tokio::test]
async fn a_cluster_that_was_restored_to_an_earlier_version_is_shown_as_it_is_now() {
    let trial = Trial::start().await;
    trial.world().restore();
    trial.say("as restored");
    trial.fleet.resync(trial.id).unwrap();
    trial.until(|trial| trial.message(Kind::Kustomization, "apps") == "as restored").await;
}

#[tokio::test]
async fn a_watch_that_may_not_begin_where_it_was_is_begun_anew_and_if_that_does_not_help_it_is_reported() {
    let trial = Trial::start().await;
    let faults = trial.world().faults();
    trial.until(|_| faults.watches() >= Kind::ALL.len()).await;
    faults.refuse_forgotten(true);
    trial.world().forget();
    let before = faults.watches();
    faults.cut_watches();
    trial.until(|_| faults.watches() >= before + Kind::ALL.len()).await;
    trial.say("once");
    trial.until(|trial| trial.message(Kind::Kustomization, "apps") == "once").await;

    trial.world().forget();
    faults.cut_watches();
    trial
        .until(|trial| {
            trial.world().forget();
            trial.health().reason.is_some_and(|reason| reason.contains("410"))
        })
        .await;
    trial.say("again and again");
    trial.until(|trial| trial.message(Kind::Kustomization, "apps") == "again and again").await;
    trial.until(|trial| trial.health().reason.is_none()).await;
}

#[tokio::test]
async fn what_has_not_been_read_is_not_said_to_be_absent() {
    let trial = Trial::unconnected().await;
    let (kind, namespace, name) = (Kind::Bucket, "monitoring", "dashboards");
    let root = ObjectRef { kind, namespace: namespace.into(), name: name.into() };
    let errors = async || {
        let acted = trial.act(kind, namespace, name, Action::Suspend).await.unwrap_err();
        [acted, trial.fleet.tree(trial.id, Some(&root)).unwrap_err()]
    };
    let unreachable = |error: &FleetError, words: &str| {
        assert!(matches!(error, FleetError::Unreachable { reason } if reason.contains(words)), "{error:?}");
    };
    trial.world().faults().set_dead(true);
    trial.fleet.add(trial.id, "one", &trial.connection("staging")).await;
    errors().await.iter().for_each(|error| unreachable(error, "still being read"));
    trial.until(|trial| trial.health().state == HealthState::Down).await;
    errors().await.iter().for_each(|error| unreachable(error, "did not answer"));

    trial.world().faults().hide(kind, true);
    trial.world().faults().set_dead(false);
    trial.until_up(trial.id).await;
    for error in errors().await {
        assert!(matches!(&error, FleetError::Forbidden { reason } if reason.contains("cannot list")), "{error:?}");
    }
    let error = trial.act(Kind::Kustomization, namespace, "nothing", Action::Suspend).await.unwrap_err();
    assert!(matches!(error, FleetError::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn what_went_with_its_kind_during_an_outage_is_reported_to_be_read_again() {
    let trial = Trial::start().await;
    trial.world().faults().break_down(true);
    trial.until(|trial| trial.health().state == HealthState::Down).await;
    Kind::ALL.iter().for_each(|kind| trial.world().serve(*kind, false));
    let mut changes = trial.fleet.subscribe();
    trial.world().faults().break_down(false);
    loop {
        let change = timeout(PATIENCE, changes.recv()).await.expect("nobody is told").unwrap();
        if let Change::Reloaded { cluster } = change.as_ref() {
            assert_eq!(*cluster, trial.id);
            break;
        }
    }
    assert_eq!(trial.all().total, 0);
}

#[tokio::test]
async fn a_slow_cluster_is_slow_for_itself_alone() {
    let trial = Trial::unconnected().await;
    trial.world().faults().be_slow(Duration::from_millis(400));
    trial.fleet.add(trial.id, "one", &trial.connection("staging")).await;
    let begun = Instant::now();
    trial.fleet.add(id(2), "two", &trial.connection("production-eu")).await;
    let is_up = |trial: &Trial, number| trial.fleet.health(id(number)).unwrap().state == HealthState::Up;
    trial.until(|trial| is_up(trial, 2)).await;
    assert!(begun.elapsed() < SOON && !is_up(&trial, 1), "{:?}", begun.elapsed());
    trial.until(|trial| is_up(trial, 1)).await;
    assert_eq!(trial.all().total, trial.world().count());
    assert!(trial.health().latency_ms.unwrap() >= 400);
}

#[tokio::test]
async fn a_dead_cluster_is_reported_and_affects_no_other() {
    let trial = Trial::start().await;
    trial.fleet.add(id(2), "two", &trial.connection("production-eu")).await;
    trial.until(|trial| trial.fleet.health(id(2)).unwrap().state == HealthState::Up).await;
    let known = trial.all().total;

    trial.world().faults().set_dead(true);
    trial.until(|trial| trial.health().state == HealthState::Down).await;
    assert_eq!(trial.health().reason.as_deref(), Some("the cluster did not answer within 1 s"));
    assert_eq!(trial.all().total, known, "what was known is still to be seen");
    let error = trial.act(Kind::Kustomization, "flux-system", "apps", Action::Suspend).await.unwrap_err();
    assert!(matches!(error, FleetError::Unreachable { .. }), "{error:?}");

    let mut changes = trial.fleet.subscribe();
    let begun = Instant::now();
    trial.demo.cluster("production-eu").unwrap().change(Kind::Kustomization, "flux-system", "apps", |object| {
        object["status"]["conditions"][0]["message"] = "alive".into();
    });
    assert_eq!(change_of(&mut changes, "apps").await.1.message, "alive");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());

    trial.world().faults().set_dead(false);
    trial.say("back again");
    trial.until(|trial| trial.message(Kind::Kustomization, "apps") == "back again").await;
    trial.until(|trial| trial.health().state == HealthState::Up && trial.health().reason.is_none()).await;
}

#[tokio::test]
async fn a_broken_cluster_says_what_is_wrong_and_recovers() {
    let trial = Trial::start().await;
    trial.world().faults().break_down(true);
    trial.until(|trial| trial.health().state == HealthState::Down).await;
    assert!(trial.health().reason.unwrap().contains("503"));
    trial.world().faults().break_down(false);
    trial.until(|trial| trial.health().state == HealthState::Up).await;
}

#[tokio::test]
async fn a_kind_that_is_not_installed_is_no_fault_and_is_found_when_it_comes() {
    let trial = Trial::unconnected().await;
    trial.world().serve(Kind::Bucket, false);
    trial.connect().await;
    assert_eq!((trial.find(Kind::Bucket, "dashboards"), trial.health().reason), (None, None));
    trial.world().serve(Kind::Bucket, true);
    trial.until(|trial| trial.find(Kind::Bucket, "dashboards").is_some()).await;
    trial.world().serve(Kind::Bucket, false);
    trial.until(|trial| trial.find(Kind::Bucket, "dashboards").is_none()).await;
}

#[tokio::test]
async fn a_kind_that_may_not_be_read_is_reported_and_the_others_are_there() {
    let trial = Trial::unconnected().await;
    trial.world().faults().hide(Kind::Bucket, true);
    trial.connect().await;
    let reason = trial.health().reason.unwrap();
    assert!(reason.starts_with("Bucket: the cluster does not allow it") && reason.contains("cannot list"), "{reason}");
    assert_eq!(trial.all().total, trial.world().count() - 1);
    trial.world().faults().hide(Kind::Bucket, false);
    trial.until(|trial| trial.find(Kind::Bucket, "dashboards").is_some()).await;
    trial.until(|trial| trial.health().reason.is_none()).await;
}

/// A cluster whose Kustomizations take two pages, each of which comes slowly.
async fn slow_with_pages() -> Trial {
    let mut trial = Trial::unconnected().await;
    let options = Options { pace: Duration::ZERO, objects: Some(600), ..Options::default() };
    trial.demo = Demo::start(options).await.unwrap();
    trial.world().faults().be_slow(Duration::from_millis(100));
    trial.fleet.add(trial.id, "one", &trial.connection("staging")).await;
    trial
}

#[tokio::test]
async fn a_list_whose_next_page_is_gone_is_started_again() {
    let trial = slow_with_pages().await;
    // The kinds are listed once each at least; more than that means that one was started again.
    trial
        .until(|trial| {
            trial.world().forget();
            trial.world().faults().lists() > Kind::ALL.len()
        })
        .await;
    trial.world().faults().be_slow(Duration::ZERO);
    trial.until_up(trial.id).await;
    assert_eq!((trial.all().total, trial.health().reason), (600, None));
}

#[tokio::test]
async fn a_list_whose_next_page_is_gone_again_and_again_is_reported() {
    let trial = slow_with_pages().await;
    trial
        .until(|trial| {
            trial.world().forget();
            // Of this kind alone there are two pages: the others fail when their watch begins.
            let words = "Kustomization: the cluster has forgotten that version (410)";
            trial.health().reason.is_some_and(|reason| reason.contains(words))
        })
        .await;
    trial.world().faults().be_slow(Duration::ZERO);
    trial.until(|trial| trial.all().total == 600 && trial.health().reason.is_none()).await;
}

#[tokio::test]
async fn a_resync_reads_everything_again() {
    let trial = Trial::start().await;
    let lists = trial.world().faults().lists();
    trial.fleet.resync(trial.id).unwrap();
    trial.until(|trial| trial.world().faults().lists() >= lists + Kind::ALL.len()).await;
}

#[tokio::test]
async fn a_reconciliation_is_asked_for_and_seen_to_its_end() {
    let trial = Trial::start().await;
    let mut changes = trial.fleet.subscribe();
    let now = Action::Reconcile { with_source: false };
    let summary = trial.act(Kind::Kustomization, "flux-system", "apps", now).await.unwrap();
    assert_eq!((summary.name.as_str(), summary.status), ("apps", Status::Progressing));
    while change_of(&mut changes, "apps").await.1.status != Status::Ready {}
    let object = trial.world().object(Kind::Kustomization, "flux-system", "apps").unwrap();
    let requested = &object["metadata"]["annotations"]["reconcile.fluxcd.io/requestedAt"];
    assert!(requested.is_string() && *requested == object["status"]["lastHandledReconcileAt"], "{object}");
    assert!(object["metadata"]["managedFields"].to_string().contains(r#""manager":"flux-orchestrator""#));
    let source = trial.world().object(Kind::GitRepository, "flux-system", "flux-system").unwrap();
    assert!(source["status"]["lastHandledReconcileAt"].is_null(), "nobody asked for the source");
}

#[tokio::test]
async fn with_its_source_means_each_source_before_what_comes_from_it() {
    let trial = Trial::start().await;
    let with_source = Action::Reconcile { with_source: true };
    trial.act(Kind::HelmRelease, "cert-manager", "cert-manager", with_source).await.unwrap();
    let handled = |kind, namespace, name| {
        let object = trial.world().object(kind, namespace, name).unwrap();
        object["metadata"]["annotations"]["reconcile.fluxcd.io/requestedAt"].as_str().unwrap().to_owned()
    };
    let repository = handled(Kind::HelmRepository, "flux-system", "jetstack");
    let chart = handled(Kind::HelmChart, "flux-system", "cert-manager-cert-manager");
    let release = handled(Kind::HelmRelease, "cert-manager", "cert-manager");
    // As moments: written, half a second is longer ago than 545 milliseconds only by its digits.
    let moments = [&repository, &chart, &release].map(|text| clock::parse(text).unwrap());
    assert!(moments.is_sorted_by(|before, after| before < after), "{moments:?}");
    // The one before was done, not only asked for, when the next one was asked.
    let object = trial.world().object(Kind::HelmRepository, "flux-system", "jetstack").unwrap();
    assert_eq!(object["status"]["lastHandledReconcileAt"], repository);
}

#[tokio::test]
async fn a_source_whose_controller_takes_no_requests_is_neither_asked_nor_waited_for() {
    let trial = Trial::start().await;
    trial.world().change(Kind::Kustomization, "flux-system", "apps", |object| {
        object["spec"]["sourceRef"] =
            json!({"kind": "ExternalArtifact", "name": "shop-rendered", "namespace": "flux-system"});
    });
    let from = |trial: &Trial| trial.find(Kind::Kustomization, "apps").unwrap().source.unwrap().kind;
    trial.until(|trial| from(trial) == Kind::ExternalArtifact).await;
    let asked = Instant::now();
    let with_source = Action::Reconcile { with_source: true };
    trial.act(Kind::Kustomization, "flux-system", "apps", with_source).await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(3), "it was waited for");
    let source = trial.world().object(Kind::ExternalArtifact, "flux-system", "shop-rendered").unwrap();
    assert!(source["metadata"]["annotations"]["reconcile.fluxcd.io/requestedAt"].is_null(), "{source}");
}

#[tokio::test]
async fn what_is_suspended_rests_until_it_is_resumed() {
    let trial = Trial::start().await;
    let (kind, namespace, name) = (Kind::HelmRelease, "podinfo", "podinfo");
    let summary = trial.act(kind, namespace, name, Action::Suspend).await.unwrap();
    assert_eq!((summary.status, summary.suspended), (Status::Suspended, true));
    assert_eq!(trial.world().object(kind, namespace, name).unwrap()["spec"]["suspend"], true);

    let now = Action::Reconcile { with_source: false };
    let FleetError::Invalid { reason } = trial.act(kind, namespace, name, now).await.unwrap_err() else {
        panic!("reconciled although suspended")
    };
    assert!(reason.contains("resume it"), "{reason}");

    let summary = trial.act(kind, namespace, name, Action::Resume).await.unwrap();
    assert_eq!((summary.status, summary.suspended), (Status::Progressing, false));
    trial.until(|trial| trial.find(kind, name).unwrap().status == Status::Ready).await;
}

#[tokio::test]
async fn what_the_cluster_refuses_is_said_plainly() {
    let trial = Trial::start().await;
    let suspend = || trial.act(Kind::Kustomization, "flux-system", "apps", Action::Suspend);

    trial.world().faults().forbid_changes(true);
    let FleetError::Forbidden { reason } = suspend().await.unwrap_err() else { panic!("allowed") };
    assert!(reason.contains("does not allow it") && reason.contains("cannot patch"), "{reason}");
    trial.world().faults().forbid_changes(false);

    trial.world().faults().conflict(true);
    let error = suspend().await.unwrap_err();
    assert!(matches!(&error, FleetError::Conflict { reason } if reason.contains("modified")), "{error:?}");
    trial.world().faults().conflict(false);

    let error = trial.act(Kind::Kustomization, "flux-system", "gone", Action::Suspend).await.unwrap_err();
    assert_eq!(error.to_string(), "Kustomization flux-system/gone is not there");
    let error = trial.fleet.act(id(9), Kind::Bucket, "a", "b", Action::Resume).await.unwrap_err();
    assert!(matches!(error, FleetError::NotFound { .. }), "{error:?}");
    assert!(trial.find(Kind::Kustomization, "apps").unwrap().status != Status::Suspended);
}

#[tokio::test]
async fn an_object_is_shown_in_full_without_what_is_not_for_people() {
    let trial = Trial::start().await;
    trial
        .act(Kind::HelmRelease, "cert-manager", "cert-manager", Action::Reconcile { with_source: false })
        .await
        .unwrap();
    trial.until(|trial| trial.find(Kind::HelmRelease, "cert-manager").unwrap().status == Status::Ready).await;
    let read = |kind, namespace: &'static str, name: &'static str| trial.fleet.detail(trial.id, kind, namespace, name);

    let release = read(Kind::HelmRelease, "cert-manager", "cert-manager").await.unwrap();
    assert_eq!(release.conditions[0].r#type, "Ready");
    let event = release.events.first().expect("no event");
    assert_eq!((event.r#type.as_str(), event.source.as_str(), event.count), ("Normal", "helm-controller", 1));
    assert!(release.yaml.contains("kind: HelmRelease") && release.yaml.contains("replicaCount: 2"), "{}", release.yaml);
    for hidden in ["managedFields", "correct-horse", "last-applied-configuration"] {
        assert!(!release.yaml.contains(hidden), "{hidden}");
    }
    assert!(!release.annotations.keys().any(|name| name.contains("last-applied")), "{:?}", release.annotations);
    assert_eq!(release.inventory[0].name, "sh.helm.release.v1.cert-manager.v3");
    assert_eq!(release.summary.revision.as_deref(), Some("1.18.2"));

    let shop = read(Kind::Kustomization, "shop", "shop-backend").await.unwrap();
    let applied: Vec<&str> = shop.inventory.iter().map(|entry| entry.kind.as_str()).collect();
    assert_eq!(applied, ["Deployment", "Service", "ConfigMap", "HorizontalPodAutoscaler"]);
    assert_eq!(shop.labels["kustomize.toolkit.fluxcd.io/name"], "flux-system");

    let error = read(Kind::Kustomization, "shop", "../../secrets").await.unwrap_err();
    assert!(matches!(error, FleetError::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn a_tree_leads_from_the_source_to_what_was_applied() {
    let trial = Trial::start().await;
    let root = |kind, namespace: &str, name: &str| ObjectRef { kind, namespace: namespace.into(), name: name.into() };
    let tree = trial.fleet.tree(trial.id, Some(&root(Kind::HelmRelease, "cert-manager", "cert-manager"))).unwrap();
    let has = |from: &str, to: &str, relation: Relation| {
        tree.edges.iter().any(|edge| edge.from.ends_with(from) && edge.to.ends_with(to) && edge.relation == relation)
    };
    let chart = "HelmChart/flux-system/cert-manager-cert-manager";
    let release = "HelmRelease/cert-manager/cert-manager";
    assert!(has("HelmRepository/flux-system/jetstack", chart, Relation::Source), "{:?}", tree.edges);
    assert!(has(chart, release, Relation::Chart));
    assert!(has("Kustomization/flux-system/infra-controllers", release, Relation::Applies));
    assert!(has(release, "Secret/cert-manager/sh.helm.release.v1.cert-manager.v3", Relation::Applies));
    assert!(has("GitRepository/flux-system/flux-system", "flux-system/infra-controllers", Relation::Source));
    assert!(!tree.nodes.iter().any(|node| node.name == "loki"), "nothing leads there");
    let ids: Vec<&str> = tree.nodes.iter().map(|node| node.id.as_str()).collect();
    assert!(tree.edges.iter().all(|edge| ids.contains(&edge.from.as_str()) && ids.contains(&edge.to.as_str())));

    let whole = trial.fleet.tree(trial.id, None).unwrap();
    let flux = whole.nodes.iter().filter(|node| node.flux).count();
    assert_eq!((flux, whole.truncated), (trial.world().count(), false));
    assert!(whole.nodes.iter().any(|node| !node.flux && node.kind == "Namespace"));
    let nowhere = trial.fleet.tree(trial.id, Some(&root(Kind::Bucket, "a", "b")));
    assert!(matches!(nowhere, Err(FleetError::NotFound { .. })), "{nowhere:?}");
}

#[tokio::test]
async fn clusters_come_are_renamed_and_go() {
    let trial = Trial::start().await;
    trial.until(|trial| trial.world().faults().watches() >= Kind::ALL.len()).await;
    let mut changes = trial.fleet.subscribe();
    trial.fleet.rename(trial.id, "other").unwrap();
    assert_eq!(trial.find(Kind::Kustomization, "apps").unwrap().cluster_name, "other");
    trial.fleet.remove(trial.id).unwrap();
    assert_eq!(trial.all().total, 0);
    assert!(matches!(trial.fleet.health(trial.id), Err(FleetError::NotFound { .. })));
    loop {
        if let Change::ClusterRemoved { cluster } = timeout(PATIENCE, changes.recv()).await.unwrap().unwrap().as_ref() {
            assert_eq!(*cluster, trial.id);
            break;
        }
    }
    // Nobody asks it any more.
    trial.world().faults().cut_watches();
    let lists = (trial.world().faults().lists(), trial.world().faults().watches());
    trial.fleet.add(id(3), "three", &trial.connection("production-us")).await;
    trial.until_up(id(3)).await;
    assert_eq!((trial.world().faults().lists(), trial.world().faults().watches()), lists);
}

#[tokio::test]
async fn a_kubeconfig_that_cannot_be_used_makes_a_cluster_that_says_why() {
    let trial = Trial::unconnected().await;
    let broken = Connection::Kubeconfig { kubeconfig: Secret::new("hidden: [".into()), context: None };
    trial.fleet.add(trial.id, "one", &broken).await;
    let health = trial.health();
    assert_eq!(health.state, HealthState::Down);
    let reason = health.reason.unwrap();
    assert!(reason.contains("not a kubeconfig") && !reason.contains("hidden"), "{reason}");
}

/// Of the simulated Kustomization `apps`: what its controller would say of a change that it cannot make.
fn break_it(trial: &Trial) {
    trial.world().change(Kind::Kustomization, "flux-system", "apps", |object| {
        object["spec"]["path"] = "./not-there".into();
        object["metadata"]["generation"] = 3.into();
        object["status"]["conditions"] = json!([
            {"type": "Reconciling", "status": "True", "reason": "ProgressingWithRetry", "message": "retrying", "observedGeneration": 3},
            {"type": "Ready", "status": "False", "reason": "ArtifactFailed", "message": "path not found: ./not-there",
             "observedGeneration": 3},
        ]);
    });
}

#[tokio::test]
async fn an_update_that_fails_is_failed_within_a_second_although_the_whole_status_is_of_before() {
    let trial = Trial::start().await;
    let mut changes = trial.fleet.subscribe();
    let begun = Instant::now();
    break_it(&trial);
    let (_, summary) = change_of(&mut changes, "apps").await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_eq!((summary.status, summary.message.as_str()), (Status::Failed, "path not found: ./not-there"));
    let failed = trial.fleet.list(&Filter { status: Some(Status::Failed), ..Filter::default() }, ALL);
    assert!(failed.items.iter().any(|object| object.name == "apps"), "{failed:?}");
}

#[tokio::test]
async fn what_is_being_deleted_says_so() {
    let trial = Trial::start().await;
    let mut changes = trial.fleet.subscribe();
    trial.world().change(Kind::Kustomization, "flux-system", "apps", |object| {
        object["metadata"]["deletionTimestamp"] = "2026-01-31T10:00:00Z".into();
    });
    assert_eq!(change_of(&mut changes, "apps").await.1.status, Status::Terminating);
    assert_eq!(trial.fleet.stats(None).unwrap().by_status.terminating, 1);
}

#[tokio::test]
async fn one_oddly_shaped_object_hides_nothing_of_its_kind() {
    let trial = Trial::unconnected().await;
    for (name, spec) in [("odd", json!({"dependsOn": "x"})), ("odder", json!(["x"]))] {
        let object = json!({"metadata": {"name": name, "namespace": "flux-system"}, "spec": spec});
        trial.world().create(Kind::Kustomization, "flux-system", name, object);
    }
    trial.connect().await;
    assert_eq!((trial.all().total, trial.health().reason), (trial.world().count(), None));
    let odd = trial.find(Kind::Kustomization, "odd").unwrap();
    assert!(odd.message.starts_with("unreadable: spec.dependsOn"), "{}", odd.message);
    assert!(trial.message(Kind::Kustomization, "odder").starts_with("unreadable: spec "));
    trial.fleet.detail(trial.id, Kind::Kustomization, "flux-system", "odd").await.unwrap();
}

#[tokio::test]
async fn values_that_are_nested_very_deeply_cost_only_the_yaml() {
    let trial = Trial::start().await;
    let mut values = json!({"end": 1});
    for _ in 0..150 {
        values = json!({ "a": values });
    }
    trial.world().change(Kind::HelmRelease, "podinfo", "podinfo", |object| object["spec"]["values"] = values.clone());
    let detail = trial.fleet.detail(trial.id, Kind::HelmRelease, "podinfo", "podinfo").await.unwrap();
    assert!(detail.yaml.contains("not shown") && !detail.conditions.is_empty(), "{}", detail.yaml);
    trial.fleet.resync(trial.id).unwrap();
    trial.until_up(trial.id).await;
    assert!(trial.find(Kind::HelmRelease, "podinfo").is_some());
}

#[tokio::test]
async fn an_object_that_goes_while_its_page_is_read_does_not_come_back() {
    let trial = Trial::start().await;
    let mut changes = trial.fleet.subscribe();
    // So that the watch reports the deletion before the events are there.
    trial.world().faults().be_slow(Duration::from_millis(400));
    let (fleet, id) = (trial.fleet.clone(), trial.id);
    let reading = tokio::spawn(async move { fleet.detail(id, Kind::HelmRelease, "podinfo", "podinfo").await });
    // The object is read after 400 ms, its events after 800.
    tokio::time::sleep(Duration::from_millis(550)).await;
    trial.world().faults().be_slow(Duration::ZERO);
    trial.world().delete(Kind::HelmRelease, "podinfo", "podinfo");
    assert!(change_of(&mut changes, "podinfo").await.0);
    let _ = reading.await.unwrap();
    assert!(trial.find(Kind::HelmRelease, "podinfo").is_none(), "a ghost");
}

#[tokio::test]
async fn events_that_may_not_be_read_are_not_said_to_be_none() {
    let trial = Trial::start().await;
    let read = || trial.fleet.detail(trial.id, Kind::Kustomization, "flux-system", "apps");
    assert_eq!(read().await.unwrap().events_fault, None);
    trial.world().faults().hide_events(true);
    let fault = read().await.unwrap().events_fault.unwrap();
    assert!(fault.contains("events is forbidden"), "{fault}");
}

#[tokio::test]
async fn every_kind_that_may_not_be_read_is_named() {
    let trial = Trial::unconnected().await;
    trial.world().faults().hide(Kind::Bucket, true);
    trial.world().faults().hide(Kind::HelmChart, true);
    trial.connect().await;
    let reason = trial.health().reason.unwrap();
    assert!(reason.contains("Bucket: ") && reason.contains("HelmChart: "), "{reason}");
}

#[tokio::test]
async fn a_kustomization_has_a_history_and_no_secret_that_nobody_applied() {
    let trial = Trial::start().await;
    trial.act(Kind::Kustomization, "flux-system", "apps", Action::Reconcile { with_source: false }).await.unwrap();
    trial.until(|trial| trial.find(Kind::Kustomization, "apps").unwrap().status == Status::Ready).await;
    let detail = trial.fleet.detail(trial.id, Kind::Kustomization, "flux-system", "apps").await.unwrap();
    assert!(
        detail.history[0].outcome == "ReconciliationSucceeded" && detail.history[0].times > 0,
        "{:?}",
        detail.history
    );
    assert!(!detail.inventory.iter().any(|entry| entry.kind == "Secret"), "{:?}", detail.inventory);
    let release = trial.fleet.detail(trial.id, Kind::HelmRelease, "podinfo", "podinfo").await.unwrap();
    assert_eq!((release.history[0].number, release.history[0].revision.as_str()), (3, "6.9.2"));
}

#[tokio::test]
async fn a_tree_that_is_too_large_shows_flux_and_each_branch_by_itself() {
    let mut trial = Trial::unconnected().await;
    let options = Options { pace: Duration::ZERO, objects: Some(750), ..Options::default() };
    trial.demo = Demo::start(options).await.unwrap();
    trial.connect().await;
    // 300 Kustomizations that applied 20 objects each.
    let whole = trial.fleet.tree(trial.id, None).unwrap();
    assert!(whole.truncated && whole.nodes.len() == 750 && whole.nodes.iter().all(|node| node.flux));
    let branch = whole.nodes.iter().find(|node| node.kind == "Kustomization").unwrap();
    assert_eq!(branch.hidden, 20);
    let root = ObjectRef { kind: Kind::Kustomization, namespace: branch.namespace.clone(), name: branch.name.clone() };
    let own = trial.fleet.tree(trial.id, Some(&root)).unwrap();
    assert!(
        own.nodes.iter().filter(|node| !node.flux).count() == 20
            && own.nodes.iter().all(|node| node.hidden == 0 || node.id != branch.id)
    );
}

#[tokio::test]
async fn the_demo_lives() {
    let demo = Demo::start(Options { pace: Duration::from_millis(5), ..Options::default() }).await.unwrap();
    let fleet = Fleet::start(Tuning::default());
    let mut changes = fleet.subscribe();
    let (name, kubeconfig) = demo.kubeconfigs().remove(0);
    fleet.add(id(1), &name, &Connection::Kubeconfig { kubeconfig, context: None }).await;
    let mut seen = std::collections::BTreeSet::new();
    while !(seen.contains("progressing") && seen.contains("ready")) {
        let change = timeout(PATIENCE, changes.recv()).await.expect("nothing happens").unwrap();
        if let Change::Object { summary, .. } = change.as_ref() {
            seen.insert(summary.status.word());
        }
    }
    // Changes are sent for kinds that are read while others still are.
    let deadline = Instant::now() + PATIENCE;
    while json!(fleet.health(id(1)).unwrap())["state"] != "up" {
        assert!(Instant::now() < deadline, "{:?}", fleet.healths());
        let _ = timeout(Duration::from_millis(20), changes.recv()).await;
    }
}
