//! The fleet against simulated clusters, over real connections: reached, watched through trouble, acted on.

use std::time::Duration;

use orchestrator::demo::{Demo, Options};
use orchestrator::fleet::{Connection, Fleet, FleetError, Kind, Tuning};

async fn demo() -> Demo {
    // Nothing happens by itself.
    Demo::start(Options { pace: Duration::ZERO, ..Options::default() }).await.unwrap()
}

fn connection(demo: &Demo, name: &str) -> Connection {
    Connection::Kubeconfig { kubeconfig: demo.kubeconfig(name), context: None }
}

#[tokio::test]
async fn a_check_tells_what_is_there() {
    let demo = demo().await;
    let fleet = Fleet::start(Tuning::default());
    let reached = fleet.check(&connection(&demo, "staging")).await.unwrap();
    assert!(reached.server.starts_with("http://127.0.0.1:") && reached.version.starts_with("v1."), "{reached:?}");
    assert_eq!((reached.context.as_deref(), reached.flux_kinds.as_slice()), (Some("staging"), &Kind::ALL[..]));
}

#[tokio::test]
async fn a_check_tells_why_there_is_nothing() {
    let demo = demo().await;
    let fleet = Fleet::start(Tuning::default());

    let text = demo.kubeconfig("staging").expose().replace("token: demo-", "token: demo-x");
    let wrong = Connection::Kubeconfig { kubeconfig: orchestrator::secret::Secret::new(text), context: None };
    let FleetError::Forbidden { reason } = fleet.check(&wrong).await.unwrap_err() else { panic!("let in") };
    assert!(reason.contains("credentials") && !reason.contains("demo-x"), "{reason}");

    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    drop(taken);
    let text = format!(
        "current-context: a\ncontexts: [{{name: a, context: {{cluster: c}}}}]\n\
         clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]\n"
    );
    let nobody = Connection::Kubeconfig { kubeconfig: orchestrator::secret::Secret::new(text), context: None };
    let error = fleet.check(&nobody).await.unwrap_err();
    assert_eq!(error, FleetError::Unreachable { reason: "nothing listens at the cluster's address".into() });
}
