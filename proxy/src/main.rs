//! The command line: serve, check, explain, simulate, health, sessions; exit codes: 0 done, 1 failed, 2 wrong configuration.

#![warn(clippy::print_stderr, reason = "what is said goes through the queue of the log")]

use std::process::ExitCode;
use std::time::Duration;

use sidegate::adapters::telemetry::{self, Clean, LogSettings};
use sidegate::config::reload::{self, Hangup};
use sidegate::config::{self, Command, Faults, Loaded, Sources};
use sidegate::run::operator::{self, Task};
use sidegate::run::{self, Running, admin, explain, simulate};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A request takes some twenty small pieces of memory and gives them back on the same thread, which is what this one is quick at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a wrong configuration ends with.
const WRONG_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    telemetry::install_log_hooks();
    let code = match Sources::from_process() {
        Ok((command, sources)) => execute(command, sources),
        Err(error) => usage(&error),
    };
    telemetry::flush();
    ExitCode::from(code)
}

/// What clap has to say: what is wrong with the command line, or the help that was asked for.
fn usage(error: &clap::Error) -> u8 {
    if error.use_stderr() {
        telemetry::say(&error.render().to_string());
    } else {
        // Whoever asked for help and went away has it.
        let _ = error.print();
    }
    u8::try_from(error.exit_code()).unwrap_or(WRONG_CONFIGURATION)
}

fn execute(command: Command, sources: Sources) -> u8 {
    let outcome = match command {
        Command::Serve => config::load_to_serve(&sources).map(|loaded| serve(sources, loaded).map(|()| 0)),
        Command::Check { print } => config::load_to_serve(&sources).map(|loaded| check(loaded, print)),
        Command::Explain(asked) => config::load(&sources).map(|loaded| explanation(&asked, loaded)),
        Command::Simulate(asked) => config::load(&sources).map(|loaded| simulation(&asked, loaded)),
        Command::Health => config::admin_address(&sources).map(|admin| health(admin).map(|()| 0)),
        Command::Sessions(task) => config::load(&sources).map(|loaded| sessions(&task, loaded).map(|()| 0)),
    };
    match outcome {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            telemetry::say(&format!("sidegate: {error:#}"));
            1
        }
        Err(faults) => {
            telemetry::say(&format!("sidegate: the configuration is wrong:\n{faults}"));
            WRONG_CONFIGURATION
        }
    }
}

fn serve(sources: Sources, loaded: Loaded) -> anyhow::Result<()> {
    telemetry::init_logging(&loaded.settings.log)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(sources, loaded))?;
    // What is cut off is cut off: a blocked look-up must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(())
}

async fn run(sources: Sources, loaded: Loaded) -> anyhow::Result<()> {
    let hangup = Hangup::install_handler();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let Loaded { settings, warnings, notes, files, .. } = loaded;
    log_notes_and_warnings(&warnings, &notes);
    let running = run::start(settings).await?;
    tokio::select! {
        () = reload::watch(hangup, sources, files, |outcome| apply(&running, outcome)) => {}
        () = ended(&mut terminate, &mut interrupt) => {}
    }
    tokio::select! {
        _ = running.drain() => {}
        () = asked_again(&mut terminate, &mut interrupt) => tracing::warn!("a second signal: what is in flight is cut off"),
    }
    Ok(())
}

async fn ended(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// A second signal, in earnest: Ctrl-C reaches a whole group of processes, and whoever started us may pass it on once more.
async fn asked_again(terminate: &mut Signal, interrupt: &mut Signal) {
    let echo = async {
        loop {
            ended(terminate, interrupt).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), echo).await;
    ended(terminate, interrupt).await;
}

/// Returns whether the new configuration is now the active one.
fn apply(running: &Running, outcome: Result<Loaded, Faults>) -> bool {
    // Whatever comes of it: `logrotate` has renamed the file, and waits for us to let go of it.
    telemetry::reopen_audit_file();
    match outcome {
        Ok(loaded) => {
            log_notes_and_warnings(&loaded.warnings, &loaded.notes);
            let changes = if loaded.changes.is_empty() { "nothing".to_owned() } else { loaded.changes.join(", ") };
            match running.reload(loaded.settings) {
                Ok(()) if loaded.stale.is_empty() => {
                    tracing::info!("the configuration was read again; changed: {}", Clean(&changes));
                    true
                }
                Ok(()) => {
                    let stale = loaded.stale.join("; ");
                    tracing::error!("the configuration was read again, but for what could not be read: {stale}");
                    running.note_bad_configuration(&stale);
                    true
                }
                Err(error) => {
                    tracing::error!("the new configuration cannot be used, the old one stays: {error:#}");
                    false
                }
            }
        }
        Err(faults) => {
            tracing::error!("the new configuration is wrong, the old one stays: {}", one_line(&faults));
            running.note_bad_configuration(&one_line(&faults));
            false
        }
    }
}

fn one_line(faults: &Faults) -> String {
    faults.to_string().lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

fn log_notes_and_warnings(warnings: &[String], notes: &[String]) {
    for note in notes {
        tracing::info!("{note}");
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

/// The exit code: what a start would refuse is as wrong as what was found while reading.
fn check(loaded: Loaded, print: bool) -> anyhow::Result<u8> {
    if print {
        let mut out = telemetry::Output(std::io::stdout());
        for line in &loaded.effective {
            std::io::Write::write_all(&mut out, format!("{line}\n").as_bytes())?;
        }
    }
    for note in &loaded.notes {
        telemetry::say(&format!("note: {note}"));
    }
    for warning in &loaded.warnings {
        telemetry::say(&format!("warning: {warning}"));
    }
    for advice in &loaded.advice {
        telemetry::say(&format!("advice: {advice}"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let rehearsed = {
        // Nothing runs in it: what a start would connect to is not connected to.
        let _inside = runtime.enter();
        run::rehearse(loaded.settings)
    };
    runtime.shutdown_background();
    if let Err(error) = rehearsed {
        telemetry::say(&format!("sidegate: the configuration is wrong:\n{error:#}"));
        return Ok(WRONG_CONFIGURATION);
    }
    telemetry::say("the configuration is valid");
    Ok(0)
}

/// The exit code: 0 where it is let in, 1 where not, 2 where it cannot be asked.
fn explanation(asked: &explain::Asked, loaded: Loaded) -> anyhow::Result<u8> {
    match explain::run(asked, loaded.settings, &mut telemetry::Output(std::io::stdout())) {
        Ok(is_let_in) => Ok(u8::from(!is_let_in)),
        // Not 1, which says that it is not let in.
        Err(error) => {
            telemetry::say(&format!("sidegate: {error:#}"));
            Ok(WRONG_CONFIGURATION)
        }
    }
}

/// The exit code: 0 where nothing changes, 1 where something does, 2 where it cannot be asked.
fn simulation(asked: &simulate::Asked, loaded: Loaded) -> anyhow::Result<u8> {
    let filter = "warn".to_owned();
    telemetry::init_logging(&LogSettings { filter, audit_file: None, ..loaded.settings.log.clone() })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(simulate::run(asked, loaded.settings, &mut telemetry::Output(std::io::stdout())));
    runtime.shutdown_timeout(Duration::from_millis(100));
    match outcome {
        Ok(changes) => Ok(u8::from(changes)),
        // Not 1, which says that something changes.
        Err(error) => {
            telemetry::say(&format!("sidegate: {error:#}"));
            Ok(WRONG_CONFIGURATION)
        }
    }
}

fn health(admin: std::net::SocketAddr) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(admin::ask_readiness(admin)).map_err(anyhow::Error::msg)
}

/// What is found goes to standard output; a sentence on it, warnings and audit lines go to standard error (audit lines to their file too).
fn sessions(task: &Task, loaded: Loaded) -> anyhow::Result<()> {
    let filter = "warn,sidegate::audit=info".to_owned();
    telemetry::init_logging(&LogSettings { filter, ..loaded.settings.log.clone() })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(operator::run(task, loaded.settings, &mut telemetry::Output(std::io::stdout())));
    runtime.shutdown_timeout(Duration::from_millis(100));
    telemetry::say(&outcome?);
    Ok(())
}
