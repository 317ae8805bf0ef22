//! Measures the orchestrator with many clusters: how much memory and time it takes until all their objects are shown, and how long
//! its pages take then; compared with another build, if one is given; and with impersonation, where many people view.
//!
//! ```text
//! orchestrator demo-api (100 clusters, 20,000 objects) <- orchestrator <- questions
//! ```
//!
//! Each is a process of its own, so that memory and CPU time are those of the orchestrator alone.
#![expect(clippy::print_stdout, reason = "the figures are what it is for")]
#![expect(clippy::indexing_slicing, reason = "of JSON: reading what is not there gives null")]

mod builds;
mod figures;
mod pages;
mod people;
mod processes;
mod signer;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Measures the orchestrator with many simulated clusters.
#[derive(Parser)]
struct Options {
    /// How many clusters
    #[arg(long, default_value_t = 100)]
    clusters: usize,
    /// How many objects each has
    #[arg(long, default_value_t = 200)]
    objects: usize,
    /// How long a step of the clusters' life takes, in milliseconds; 0: nothing happens by itself
    #[arg(long, default_value_t = 0)]
    pace: u64,
    /// How long to watch what happens before measuring, in seconds
    #[arg(long, default_value_t = 5)]
    settle: u64,
    /// How often each build is started; the figures are medians
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How often to have everything read again in each round
    #[arg(long, default_value_t = 3)]
    resyncs: usize,
    /// How many people look where clusters decide by person; 0 leaves that part out
    #[arg(long, default_value_t = 50)]
    people: usize,
    /// The program; by default that of the release build
    #[arg(long)]
    program: Option<PathBuf>,
    /// Another build to compare with; what it simulates is what both are measured with
    #[arg(long)]
    before: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = tokio::select! {
        outcome = run(&options) => outcome,
        // Started processes are stopped on drop.
        () = interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn interrupted() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        },
        Err(_) => std::future::pending().await,
    }
}

/// Returns true if all results are within their limits.
async fn run(options: &Options) -> anyhow::Result<bool> {
    let beside = std::env::current_exe()?.with_file_name("orchestrator");
    let program = found(options.program.as_deref().unwrap_or(&beside))?;
    let before = options.before.as_deref().map(found).transpose()?;
    println!("{} clusters, {} objects", options.clusters, options.clusters * options.objects);
    let builds = builds::measure(&program, before.as_deref(), options).await?;
    let people = if options.people > 0 { people::measure(&program, options).await? } else { true };
    Ok(builds && people)
}

/// Makes the path absolute: the program is started in another folder.
fn found(program: &Path) -> anyhow::Result<PathBuf> {
    program.canonicalize().with_context(|| format!("there is no {}: build it first", program.display()))
}
