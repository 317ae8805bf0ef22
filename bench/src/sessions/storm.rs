//! Measures sign-ins per second, and the proxy's cost of a sign-in.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::task::JoinSet;

use crate::cpu::Processes;
use crate::nginx;
use crate::options::{Protocol, SessionOptions};
use crate::sidegate::{CONNECTIONS, Setup, Sidegate, Store};

/// Several tasks sign people in one after the other, each person with a new browser.
pub(super) async fn run(out: &mut impl Write, options: &SessionOptions) -> anyhow::Result<()> {
    let program = crate::program(options.sidegate.as_deref())?;
    let folder = tempfile::tempdir().context("no temporary folder could be made")?;
    // No request reaches the upstream.
    let (upstream, store) = (nginx::free_port()?, Store::Memory);
    let setup = Setup {
        upstream,
        threads: 2,
        folder: folder.path(),
        rules: 0,
        people: 1,
        store,
        session_memory: None,
        connections: CONNECTIONS,
        anew: false,
        certificate: None,
        protocol: Protocol::Http1,
    };
    let proxy = Sidegate::start("sidegate".to_owned(), &program, setup).await?;
    let cpu = Processes::of(&[proxy.pid()]);
    let limit = Duration::from_secs(options.seconds);
    let (proxy, began, before) = (Arc::new(proxy), Instant::now(), cpu.used()?);
    let mut places = JoinSet::new();
    for _ in 0..options.people {
        let proxy = Arc::clone(&proxy);
        places.spawn(async move {
            let mut waits = Vec::new();
            while began.elapsed() < limit {
                let from = Instant::now();
                proxy.sign_in().await?;
                waits.push(from.elapsed());
            }
            anyhow::Ok(waits)
        });
    }
    let mut waits = Vec::new();
    while let Some(ended) = places.join_next().await {
        waits.extend(ended??);
    }
    let (elapsed, used) = (began.elapsed(), cpu.used()?.since(&before));
    waits.sort_unstable();
    let wait = |part: usize| waits.get(waits.len() * part / 100).copied().unwrap_or_default().as_secs_f64() * 1e3;
    writeln!(
        out,
        "  {} at a time: {:.0} sign-ins/s, {:.2} ms of the proxy's CPU time each; one takes {:.1} ms (median), {:.1} ms (p99)",
        options.people,
        waits.len() as f64 / elapsed.as_secs_f64(),
        used.as_secs_f64() * 1e3 / waits.len().max(1) as f64,
        wait(50),
        wait(99),
    )?;
    Ok(())
}
