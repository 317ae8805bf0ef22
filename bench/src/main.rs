//! Measures the proxy, signed in, beside nginx `proxy_pass` (and HAProxy, where it is asked for): one interleaved run over the same upstream.
//!
//! ```text
//! load (64 kept-alive connections) -> sidegate | nginx proxy_pass -> nginx `return 200`
//! ```
//!
//! The contenders take turns, so that a slow spell of the machine falls on all of them; each round gives one ratio, and the median
//! of the ratios is the result.

mod cpu;
mod haproxy;
mod http;
mod load;
mod nginx;
mod options;
mod redis;
mod report;
mod sessions;
mod sidegate;
mod websockets;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::Parser;

use crate::cpu::Processes;
use crate::haproxy::Haproxy;
use crate::load::Target;
use crate::nginx::Nginx;
use crate::options::{Instead, Options, Store};
use crate::redis::RedisServer;
use crate::report::{Contender, Round};
use crate::sidegate::{CONNECTIONS, Setup, Sidegate};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = tokio::select! {
        outcome = measure(&options) => outcome,
        // What was started is stopped as it is dropped.
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
        Some(Instead::Sessions(options)) => sessions::run(options).await,
        Some(Instead::Hold(options)) => sessions::hold(options),
        Some(Instead::Websockets(options)) => websockets::run(options).await,
    }
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let nginx_version = nginx::version()?;
    let folder = tempfile::tempdir().context("no temporary folder could be made")?;
    let upstream = Nginx::upstream(folder.path(), options.body)?;
    let proxy = Nginx::proxy(folder.path(), upstream.port(), options.threads)?;
    let mut sidegates = Vec::new();
    let redis = match options.store {
        Store::Redis => {
            Some(RedisServer::start().await?.context("there is no redis-server: apt-get install redis-server")?)
        }
        Store::Memory | Store::Jwt => None,
    };
    let store = match (options.store, &redis) {
        (Store::Jwt, _) => sidegate::Store::Jwt,
        (Store::Redis, Some(redis)) => sidegate::Store::Redis(redis.url()),
        (Store::Memory | Store::Redis, _) => sidegate::Store::Memory,
    };
    let start = |name: String, program: PathBuf, rules| {
        let (threads, folder, people, store) = (options.threads, folder.path(), options.people, store.clone());
        let setup =
            Setup { upstream: upstream.port(), threads, folder, rules, people, store, connections: CONNECTIONS };
        async move { Sidegate::start(name, &program, setup).await }
    };
    for (name, program) in programs(options)? {
        sidegates.push(start(name.to_owned(), program, 0).await?);
    }
    for rules in &options.rules {
        sidegates.push(start(format!("{rules} rules"), program(options.sidegate.as_deref())?, *rules).await?);
    }
    let mut contenders: Vec<(Contender, Target, Processes)> = Vec::new();
    for sidegate in &sidegates {
        let target = Target::new(sidegate.port(), sidegate.cookies(), options.body);
        contenders.push((Contender::new(sidegate.name()), target, Processes::of(&[sidegate.pid()])));
    }
    let cookies = sidegates.first().map(Sidegate::cookies).unwrap_or_default();
    let haproxy =
        if options.peers { Haproxy::start(folder.path(), upstream.port(), options.threads).await? } else { None };
    if let Some((port, pid)) = haproxy.as_ref().and_then(|haproxy| Some((haproxy.port(), haproxy.pid()?))) {
        let target = Target::new(port, cookies, options.body);
        contenders.push((Contender::new("haproxy"), target, Processes::of(&[pid])));
    } else if options.peers {
        eprintln!("bench: HAProxy does not take part: apt-get install haproxy");
    }
    let workers = Processes::of(&proxy.workers(options.threads).await?);
    contenders.push((Contender::new("nginx"), Target::new(proxy.port(), cookies, options.body), workers));

    let mut out = std::io::stdout().lock();
    report::heading(&mut out, options, &nginx_version)?;
    let (own, began) = (cpu::tree()?, Instant::now());
    let before = cpu::of_the_machine()?.saturating_sub(own.ticks()?);
    for number in 1..=options.rounds {
        for (contender, target, processes) in &mut contenders {
            let sample = load::run(target, processes, options).await.with_context(|| format!("round {number}"))?;
            let round = Round::of(sample);
            report::line(&mut out, number, contender, &round)?;
            contender.rounds.push(round);
        }
        out.flush()?;
    }
    let others = cpu::of_the_machine()?.saturating_sub(own.ticks()?).saturating_sub(before);
    report::others(&mut out, others, began.elapsed())?;
    let contenders: Vec<Contender> = contenders.into_iter().map(|(contender, ..)| contender).collect();
    report::verdict(&mut out, &contenders)?;
    Ok(())
}

/// The proxies to measure, the first of them beside all that follow.
fn programs(options: &Options) -> anyhow::Result<Vec<(&'static str, PathBuf)>> {
    let program = program(options.sidegate.as_deref())?;
    Ok([("sidegate", Some(program)), ("other", options.against.clone())]
        .into_iter()
        .filter_map(|(name, program)| Some((name, program?)))
        .collect())
}

/// The proxy that was named, or the one beside this program.
fn program(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    let own = std::env::current_exe().context("where this program lies is unknown: name the proxy with --sidegate")?;
    Ok(own.parent().unwrap_or_else(|| Path::new(".")).join("sidegate"))
}
