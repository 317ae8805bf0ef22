//! Measures the proxy, signed in, beside nginx `proxy_pass` (and others, on request): one interleaved run over the same upstream.
//!
//! ```text
//! load (64 kept-alive connections) -> sidegate | nginx proxy_pass -> nginx `return 200`
//! ```
//!
//! The contenders take turns, so that a slow spell of the machine falls on all of them; each round gives one ratio, and the median
//! of the ratios is the result.

mod cpu;
mod http;
mod lineup;
mod load;
mod memory;
mod nginx;
mod options;
mod peers;
mod people;
mod plots;
mod redis;
mod report;
mod rest;
mod sessions;
mod sidegate;
mod svg;
mod table;
mod tails;
mod websockets;
mod wire;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use crate::lineup::Lineup;
use crate::options::{Instead, Options};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = tokio::select! {
        outcome = measure(&options) => outcome,
        // Started processes are stopped on drop.
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(options: &Options) -> anyhow::Result<()> {
    match &options.instead {
        None => run(options).await,
        Some(Instead::Table(options)) => table::run(options).await,
        Some(Instead::Plots(options)) => plots::run(options).await,
        Some(Instead::Tails(turns)) => tails::run(turns).await,
        Some(Instead::Rest(options)) => rest::run(options).await,
        Some(Instead::Sessions(options)) => sessions::run(options).await,
        Some(Instead::Hold(options)) => sessions::hold(options),
        Some(Instead::Websockets(options)) => websockets::run(options).await,
    }
}

async fn run(options: &Options) -> anyhow::Result<()> {
    options.check()?;
    let nginx_version = nginx::version()?;
    let mut lineup = Lineup::start(options).await?;
    let mut out = std::io::stdout().lock();
    report::heading(&mut out, options, &nginx_version)?;
    let others = lineup.measure(options, |number, contender, round| report::line(&mut out, number, contender, round));
    let others = others.await?;
    report::others(&mut out, others)?;
    report::verdict(&mut out, &lineup.contenders())?;
    Ok(())
}

/// The given program, or the one beside this program.
fn program(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    let own = std::env::current_exe().context("where this program lies is unknown: name the proxy with --sidegate")?;
    Ok(own.parent().unwrap_or_else(|| Path::new(".")).join("sidegate"))
}
