//! The cluster that the program runs in: registered once it answers, however long after the start that is.

use std::time::{Duration, Instant};

use orchestrator::demo::{Demo, Options};
use orchestrator::fleet::{Connection, Fleet, HealthState, Tuning};
use orchestrator::start;
use orchestrator::store::{Location, Store};
use tokio::time::sleep;

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_cluster_that_does_not_answer_at_the_start_is_registered_when_it_does() {
    let demo = Demo::start(Options { pace: Duration::ZERO, ..Options::default() }).await.unwrap();
    let world = demo.cluster("staging").unwrap();
    world.faults().break_down(true);
    let store = Store::open(&Location::Memory, &[]).await.unwrap();
    let fleet = Fleet::start(Tuning::default());
    let here = Connection::Kubeconfig { kubeconfig: demo.kubeconfig("staging"), context: None };
    let retry = Duration::from_millis(20);
    let trying = tokio::spawn(start::register_here(store.clone(), fleet.clone(), here, false, retry));
    sleep(Duration::from_millis(200)).await;
    assert!(!trying.is_finished() && store.clusters().await.unwrap().is_empty());

    world.faults().break_down(false);
    tokio::time::timeout(PATIENCE, trying).await.unwrap().unwrap();
    let clusters = store.clusters().await.unwrap();
    assert_eq!(clusters.iter().map(|cluster| cluster.name.as_str()).collect::<Vec<_>>(), ["in-cluster"]);
    let id = clusters[0].id.parse().unwrap();
    let begun = Instant::now();
    while fleet.health(id).unwrap().state != HealthState::Up {
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_service_account_that_is_not_there_is_named_and_ends_nothing() {
    // No test runs in a pod.
    let fleet = Fleet::start(Tuning::default());
    let reason = fleet.check(&Connection::InCluster).await.unwrap_err().to_string();
    assert!(reason.contains("KUBERNETES_SERVICE_HOST") || reason.contains("serviceaccount"), "{reason}");
}
