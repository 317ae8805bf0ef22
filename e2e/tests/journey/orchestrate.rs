//! Managing clusters through the proxy: register, reconcile, see changes and who made them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use orchestrator::demo::{Binding, Demo, Options};
use orchestrator::fleet::Kind;
use serde_json::json;

use crate::browser::Browser;
use crate::stack::{Provider, Stack};

const ANN: &str = "[data-user=ann]";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_registers_a_cluster_reconciles_an_object_and_stands_in_the_log() {
    let Some(browser) = Browser::open().await else { return };
    let harbour = simulated("harbour").await;
    let stack = Stack::start(Provider::GitHub);

    browser.goto(&stack.origin).await;
    browser.click(ANN).await;
    assert_eq!(browser.sees("#who").await, "Ann Example");
    assert_eq!(browser.sees("#summary").await, "No clusters yet");

    browser.click("main button.primary").await;
    browser.fill("dialog [name=name]", "harbour").await;
    browser.fill("dialog [name=kubeconfig]", "no kubeconfig at all").await;
    browser.click("dialog button.primary").await;
    let reason = browser.sees("dialog [role=alert] .refusal").await;
    assert!(reason.to_ascii_lowercase().contains("kubeconfig"), "{reason}");
    browser.picture("orchestrator-refused").await;
    browser.fill("dialog [name=kubeconfig]", harbour.kubeconfig("harbour").expose()).await;
    browser.click("dialog button.primary").await;
    browser.reads("h1", "harbour").await;
    browser.reads(".facts", "Reached").await;
    browser.sees(".tree a.node").await;
    browser.picture("orchestrator-cluster").await;
    let cluster = browser.url().await;

    // By keyboard alone: search, down to the row, open it.
    browser.press("/").await;
    browser.sees("main input[type=search]:focus").await;
    browser.press("shop-backend").await;
    browser.reads(".objects tbody tr:only-child", "shop-backend").await;
    browser.press(DOWN).await;
    browser.sees(".objects a:focus").await;
    browser.press(ENTER).await;
    browser.sees("#object-status[data-status=ready]").await;
    assert_eq!(browser.sees("h1").await, "shop-backend");

    browser.click("#reconcile").await;
    browser.reads(".said", "Reconciled at").await;
    browser.picture("orchestrator-object").await;

    // What it applied, and the log of a container.
    browser.click("#look-at-applied").await;
    browser.reads("section[aria-labelledby=applied] [role=status]", "4 ready").await;
    browser.click(".containers button").await;
    browser.reads(".containers pre", "served GET /healthz").await;
    browser.picture("orchestrator-applied").await;

    // Its controller reports something new, and the page updates by itself.
    harbour.cluster("harbour").unwrap().change(Kind::Kustomization, "shop", "shop-backend", |object| {
        object["status"]["conditions"] = json!([{
            "type": "Ready", "status": "False", "reason": "BuildFailed", "message": "the anchor is lost",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]);
    });
    browser.sees("#object-status[data-status=failed]").await;
    browser.reads("#object-status", "the anchor is lost").await;

    // What its controller reports before the next request is written is not the end of that request.
    let world = harbour.cluster("harbour").unwrap();
    // From the top of the page, where nothing lies over its buttons.
    browser.goto(&browser.url().await).await;
    browser.reads("#object-status", "the anchor is lost").await;
    world.faults().hold_changes(true);
    browser.click("#reconcile").await;
    let waits = Instant::now();
    while world.faults().held_changes() == 0 {
        assert!(waits.elapsed() < Duration::from_secs(10), "the request does not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.change(Kind::Kustomization, "shop", "shop-backend", |object| {
        object["status"]["conditions"][0]["message"] = "the anchor is still lost".into();
    });
    browser.reads("#object-status", "still lost").await;
    let said = browser.sees(".said").await;
    assert!(said.contains("Asking Flux"), "{said}");
    world.faults().hold_changes(false);
    browser.reads(".said", "Reconciled at").await;

    // The orchestrator begins with what failed for 30 s, and ends what it has begun; the proxy waits 60 s.
    browser.goto(&cluster).await;
    browser.sees("#reconcile-failed").await;
    browser.record_deadlines().await;
    browser.click("#reconcile-failed").await;
    browser.reads(".said", "Asked Flux to look at").await;
    let deadline = browser.longest_deadline().await;
    assert!((40_000..60_000).contains(&deadline), "{deadline} ms");

    browser.click("a[href='/activity']").await;
    let log = browser.reads("#feed", "registered the cluster").await;
    assert!(log.contains("ann reconciled Kustomization shop/shop-backend on harbour"), "{log}");
    assert!(log.contains("ann tried to register the cluster harbour"), "{log}");
    browser.picture("orchestrator-activity").await;

    browser.click("#sign-out").await;
    browser.sees("main[data-page=signed-out]").await;
    assert_eq!(browser.session().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_person_sees_and_does_what_the_cluster_lets_them_and_stands_in_the_log() {
    let Some(browser) = Browser::open().await else { return };
    let harbour = simulated("harbour").await;
    let world = harbour.cluster("harbour").unwrap();
    let bind = |subject: &str, verbs: &[&'static str]| {
        let (namespace, verbs) = (Some("shop".to_owned()), verbs.to_vec());
        world.bind(Binding { subject: subject.to_owned(), namespace, verbs, resources: vec!["*"] });
    };
    bind("flux:ann", &["get", "list", "patch"]);
    bind("flux:bob", &["get", "list"]);
    let stack = Stack::deciding_by_person();

    browser.goto(&stack.origin).await;
    browser.click(ANN).await;
    browser.click("main button.primary").await;
    browser.fill("dialog [name=name]", "harbour").await;
    browser.fill("dialog [name=kubeconfig]", harbour.kubeconfig("harbour").expose()).await;
    browser.click("dialog button.primary").await;
    browser.reads("h1", "harbour").await;
    browser.reads(".facts", "each person's own").await;
    let cluster = browser.url().await;
    let object = format!("{cluster}/Kustomization/shop/shop-backend");
    browser.goto(&object).await;
    browser.click("#reconcile").await;
    browser.reads(".said", "Reconciled at").await;

    // Updates fail while the cluster's page is open: each appears within a second of the cluster's event, by the page's own clock.
    // The median of three counts, since this machine may be busy.
    let mut took = Vec::new();
    browser.goto(&cluster).await;
    browser.sees(".tree a.node").await;
    for (kind, name) in
        [(Kind::Kustomization, "shop-backend"), (Kind::Kustomization, "shop-frontend"), (Kind::GitRepository, "shop")]
    {
        let words = format!("path not found for {name}");
        browser.record_when("section[aria-labelledby=attention]", &words).await;
        let changed = now();
        world.change(kind, "shop", name, |object| {
            object["metadata"]["generation"] = 3.into();
            object["status"]["conditions"] = json!([{
                "type": "Ready", "status": "False", "reason": "ArtifactFailed", "message": words,
                "observedGeneration": 3, "lastTransitionTime": "2026-01-01T00:00:00Z",
            }]);
        });
        took.push(browser.noted().await - changed);
    }
    took.sort_unstable_by(f64::total_cmp);
    assert!(took[1] < 1000.0, "failed updates took {took:?} ms to be seen");
    browser.picture("orchestrator-attention").await;

    // A dry run of the cluster's manifests, as ann.
    browser.goto(&object).await;
    browser.click("#compare-applied").await;
    browser.reads("section[aria-labelledby=comparison] [role=status]", "1 same").await;
    browser.picture("orchestrator-comparison").await;

    browser.click("#sign-out").await;
    browser.sees("main[data-page=signed-out]").await;
    // The provider would sign ann in again by itself: it must be made to ask.
    let path = object.trim_start_matches(&stack.origin);
    browser.goto(&format!("{}/api/v1/auth/login?prompt=select_account&rd={path}", stack.origin)).await;
    browser.click("[data-user=bob]").await;
    browser.click("#suspend").await;
    browser.reads(".said.refusal", "User \"flux:bob\" cannot patch resource \"kustomizations\"").await;
    browser.picture("orchestrator-refusal-of-a-cluster").await;
    browser.click("a[href='/activity']").await;
    let log = browser.reads("#feed", "bob tried to suspend Kustomization shop/shop-backend").await;
    assert!(log.contains("ann reconciled Kustomization shop/shop-backend on harbour"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_page_scrolls_sideways_on_a_phone() {
    let Some(browser) = Browser::open().await else { return };
    let harbour = simulated("harbour").await;
    let stack = Stack::start(Provider::GitHub);

    browser.resize_to_phone();
    browser.goto(&format!("{}/settings", stack.origin)).await;
    browser.click(ANN).await;
    browser.click("main section p > button").await;
    browser.fill("dialog [name=name]", "harbour").await;
    browser.fill("dialog [name=kubeconfig]", harbour.kubeconfig("harbour").expose()).await;
    browser.picture("phone-register").await;
    browser.click("dialog button.primary").await;
    browser.reads("h1", "harbour").await;
    let cluster = browser.url().await;

    let object = format!("{cluster}/Kustomization/flux-system/flux-system");
    let pages = ["/", "/resources", "/activity", "/settings"].map(|page| format!("{}{page}", stack.origin));
    for (number, page) in pages.into_iter().chain([cluster, object]).enumerate() {
        browser.goto(&page).await;
        browser.sees("main:not([aria-busy]) h1").await;
        assert_eq!(browser.beyond_the_side().await, 0, "{page}");
        browser.picture(&format!("phone-{number}")).await;
    }
}

/// By this machine's clock, which the browser's pages use too.
#[expect(clippy::disallowed_methods, reason = "a page cannot be told the time")]
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() * 1000.0
}

/// A cluster without spontaneous changes.
async fn simulated(name: &str) -> Demo {
    let options = Options { clusters: vec![name.to_owned()], pace: Duration::ZERO, ..Options::default() };
    Demo::start(options).await.unwrap()
}

// As WebDriver names them (https://www.w3.org/TR/webdriver2/#keyboard-actions).
const DOWN: &str = "\u{e015}";
const ENTER: &str = "\u{e007}";
