//! The command line: serve, or ask how the running one is.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use orchestrator::api::App;
use orchestrator::config::{AssertionSettings, Cli, Command, DemoApi, Settings};
use orchestrator::demo::{self, Demo};
use orchestrator::entrance::{Assertion, Entrance, Expected, Hosts};
use orchestrator::fleet::{Fleet, Tuning};
use orchestrator::serve::{self, Limits};
use orchestrator::store::Store;
use orchestrator::{health, routes, start, upkeep};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// What is logged. Not what the client of Kubernetes has to say: it quotes whatever a cluster answers, at any length; the
/// fleet says what matters of it.
const LOGGED: &str = "info,kube_client=off,kube_runtime=off";
/// How long actions that are under way are waited for when all requests have ended.
const LAST_ACTIONS: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::read();
    let outcome = match cli.command {
        Some(Command::Health) => match Settings::parse_listen(&cli.raw) {
            Ok(listen) => health::ask(listen).await,
            Err(faults) => return fail(&faults, 2),
        },
        Some(Command::DemoApi(options)) => simulate_only(options).await,
        None => match Settings::parse(&cli.raw) {
            Ok(settings) => run(settings).await,
            Err(faults) => return fail(&faults, 2),
        },
    };
    outcome.map_or_else(|error| fail(&format!("{error:#}"), 1), |()| ExitCode::SUCCESS)
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(LOGGED))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    // Before listening: a signal that comes between would end the program without a drain.
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let listener = serve::bind(settings.listen).await?;
    let store = Store::open(&settings.database, &settings.keys).await?;
    let fleet = Fleet::start(Tuning::default());
    let impersonate = settings.impersonation.as_ref().is_some_and(|impersonation| impersonation.everywhere);
    start::load(&store, &fleet, settings.in_cluster, impersonate)
        .await
        .context("cannot read the registered clusters")?;
    let _demo = if settings.demo { Some(simulate(&store, &fleet, impersonate).await?) } else { None };
    if settings.in_cluster {
        tokio::spawn(start::register_here(store.clone(), fleet.clone(), impersonate, Duration::from_secs(2)));
    }
    tokio::spawn(upkeep::run(store.clone()));
    let ending = CancellationToken::new();
    let addr = listener.local_addr()?;
    let entrance = entrance(settings.hosts, settings.assertion, addr);
    let app =
        App::new(fleet, store.clone(), ending.clone(), settings.in_cluster).with_impersonation(settings.impersonation);
    tracing::info!("the orchestrator listens on http://{addr}");
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("ending: requests in flight may finish");
        ending.cancel();
    };
    serve::run(listener, routes(app.clone(), entrance), Limits::default(), stop).await;
    // An action goes on where its caller went away; it has seconds at most.
    if tokio::time::timeout(LAST_ACTIONS, app.rest()).await.is_err() {
        tracing::warn!("an action was still under way at the end");
    }
    store.close().await;
    Ok(())
}

fn entrance(hosts: Hosts, assertion: Option<AssertionSettings>, addr: SocketAddr) -> Entrance {
    if hosts.is_every() {
        tracing::warn!(
            "ORCHESTRATOR_HOSTS is *: a page whose name is pointed at this address can read and change everything"
        );
    }
    let hosts = hosts.with_own(addr.ip());
    let assertion = assertion.map(|AssertionSettings { keys, issuer, audience }| {
        Assertion::new(keys, Expected { issuer, audience, hosts: hosts.clone(), port: addr.port() })
    });
    Entrance::new(hosts, assertion)
}

/// The simulated clusters live as long as what is given back.
async fn simulate(store: &Store, fleet: &Fleet, impersonate: bool) -> anyhow::Result<Demo> {
    let demo = Demo::start(demo::Options::default()).await.context("cannot simulate clusters")?;
    for (name, kubeconfig) in demo.kubeconfigs() {
        start::register_simulated(store, fleet, &name, kubeconfig, impersonate)
            .await
            .context("cannot register a simulated cluster")?;
    }
    Ok(demo)
}

/// Simulated clusters in a program of their own, for measurements, until it is ended.
async fn simulate_only(options: DemoApi) -> anyhow::Result<()> {
    let demo = Demo::start(demo::Options {
        clusters: (0..options.clusters).map(|number| format!("cluster-{number:03}")).collect(),
        objects: Some(options.objects),
        pace: Duration::from_millis(options.pace),
        ..demo::Options::default()
    })
    .await
    .context("cannot simulate clusters")?;
    let mut out = std::io::stdout();
    for (name, kubeconfig) in demo.kubeconfigs() {
        writeln!(out, "{}", serde_json::json!({"name": name, "kubeconfig": kubeconfig.expose()}))?;
    }
    out.flush()?;
    tokio::signal::ctrl_c().await.context("cannot listen for SIGINT")
}

fn fail(reason: &dyn std::fmt::Display, code: u8) -> ExitCode {
    // Where standard error is closed there is nobody to tell; the exit code still says it.
    let _ = writeln!(std::io::stderr(), "orchestrator: {reason}");
    ExitCode::from(code)
}
