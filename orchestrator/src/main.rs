//! The command line: serve, or ask how the running one is.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use orchestrator::config::{Cli, Command, Settings};
use orchestrator::serve::{self, Limits};
use orchestrator::{health, routes};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::read();
    let outcome = match cli.command {
        Some(Command::Health) => match Settings::parse_listen(&cli.raw) {
            Ok(listen) => health::ask(listen).await,
            Err(faults) => return fail(&faults, 2),
        },
        None => match Settings::parse(&cli.raw) {
            Ok(settings) => run(settings).await,
            Err(faults) => return fail(&faults, 2),
        },
    };
    outcome.map_or_else(|error| fail(&format!("{error:#}"), 1), |()| ExitCode::SUCCESS)
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).init();
    // Before listening: a signal that comes between would end the program without a drain.
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let listener = serve::bind(settings.listen).await?;
    tracing::info!("the orchestrator listens on http://{}", listener.local_addr()?);
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("ending: requests in flight may finish");
    };
    serve::run(listener, routes(), Limits::default(), stop).await;
    Ok(())
}

fn fail(reason: &dyn std::fmt::Display, code: u8) -> ExitCode {
    // Where standard error is closed there is nobody to tell; the exit code still says it.
    let _ = writeln!(std::io::stderr(), "orchestrator: {reason}");
    ExitCode::from(code)
}
