//! The command line: serve, or check the health of the running orchestrator.

#![warn(clippy::print_stderr, reason = "what is said goes through the queue of the log")]

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use orchestrator::api::App;
use orchestrator::config::{AssertionSettings, Cli, Command, DemoApi, Settings};
use orchestrator::demo::{self, Demo};
use orchestrator::entrance::{Assertion, Entrance, Expected, Hosts};
use orchestrator::fleet::{Connection, Fleet, Tuning};
use orchestrator::serve::{self, Limits};
use orchestrator::store::Store;
use orchestrator::{health, lines, routes, start, upkeep};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The log filter. The Kubernetes client is off: it quotes whatever a cluster answers, at any length; the fleet logs what
/// matters of it.
const LOGGED: &str = "info,kube_client=off,kube_runtime=off";
/// The first pause before the cluster that this runs in is tried again.
const FIRST_RETRY: Duration = Duration::from_secs(2);
/// How long to wait for actions in progress after all requests have ended.
const LAST_ACTIONS: Duration = Duration::from_secs(10);

/// The exit code for an invalid configuration.
const WRONG_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    lines::start();
    let code = match Cli::read() {
        Ok(cli) => execute(cli),
        Err(error) => usage(&error),
    };
    lines::flush();
    ExitCode::from(code)
}

/// Prints clap's message: an error in the command line, or the requested help.
fn usage(error: &clap::Error) -> u8 {
    if error.use_stderr() {
        lines::say(&error.render().to_string());
    } else {
        // Ignores a closed output: the user has seen the help.
        let _ = error.print();
    }
    u8::try_from(error.exit_code()).unwrap_or(WRONG_CONFIGURATION)
}

fn execute(cli: Cli) -> u8 {
    let outcome = match cli.command {
        Some(Command::Health) => Settings::parse_listen(&cli.raw).map(|listen| wait_for(health::ask(listen))),
        Some(Command::DemoApi(options)) => Ok(wait_for(simulate_only(options))),
        None => Settings::parse(&cli.raw).map(|settings| wait_for(run(settings))),
    };
    match outcome {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            lines::say(&format!("orchestrator: {error:#}"));
            1
        }
        Err(faults) => {
            lines::say(&format!("orchestrator: {faults}"));
            WRONG_CONFIGURATION
        }
    }
}

fn wait_for(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(work);
    // Does not wait longer: a blocked DNS look-up must not keep the process alive.
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(LOGGED))
        .with_writer(lines::LogLine::default)
        .with_ansi(io::stderr().is_terminal())
        .init();
    serve::raise_open_files();
    // Before listening: an earlier signal would end the program without draining.
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
        let (store, fleet) = (store.clone(), fleet.clone());
        tokio::spawn(start::register_here(store, fleet, Connection::InCluster, impersonate, FIRST_RETRY));
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
    // An action continues after its caller has disconnected; it takes seconds at most.
    if tokio::time::timeout(LAST_ACTIONS, app.wait_until_idle()).await.is_err() {
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

/// Starts the simulated clusters; they live as long as the returned value.
async fn simulate(store: &Store, fleet: &Fleet, impersonate: bool) -> anyhow::Result<Demo> {
    let demo = Demo::start(demo::Options::default()).await.context("cannot simulate clusters")?;
    for (name, kubeconfig) in demo.kubeconfigs() {
        start::register_simulated(store, fleet, &name, kubeconfig, impersonate)
            .await
            .context("cannot register a simulated cluster")?;
    }
    Ok(demo)
}

/// Prints the simulated clusters, one a line.
fn list(demo: &Demo) -> io::Result<()> {
    let mut out = io::stdout();
    for (name, kubeconfig) in demo.kubeconfigs() {
        writeln!(out, "{}", serde_json::json!({"name": name, "kubeconfig": kubeconfig.expose()}))?;
    }
    out.flush()
}

/// Runs simulated clusters in a process of their own, for measurements, until it is stopped.
async fn simulate_only(options: DemoApi) -> anyhow::Result<()> {
    let demo = Demo::start(demo::Options {
        clusters: (0..options.clusters).map(|number| format!("cluster-{number:03}")).collect(),
        objects: Some(options.objects),
        pace: Duration::from_millis(options.pace),
        ..demo::Options::default()
    })
    .await
    .context("cannot simulate clusters")?;
    if options.people > 0 {
        demo.allow_viewers(options.people);
    }
    match list(&demo) {
        // Whoever reads the list wants no more of it.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        listed => listed?,
    }
    tokio::signal::ctrl_c().await.context("cannot listen for SIGINT")
}
