//! Measures tail latency: at half load, with slow clients, and for a light client while others are at their limit.

use std::io::Write;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};

use crate::cpu::{Others, Processes};
use crate::lineup::{Entrant, Lineup};
use crate::load::{self, Shape};
use crate::nginx;
use crate::options::{Options, Turns};
use crate::report::{self, REQUESTS, Round, Spread, TAILS};

/// The light client beside the busy ones: its connections, and its requests a second in total.
const LIGHT: usize = 16;
const LIGHT_RATE: u32 = 200;
/// How long the busy clients run before the light one starts.
const AHEAD: Duration = Duration::from_millis(600);

pub(crate) async fn run(turns: &Turns) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}\n", report::machine(&nginx::version()?))?;
    measure(&mut out, turns).await
}

/// Measures Sidegate and nginx only: both get half of what the slower of the two answers, and any peer answers much less.
pub(crate) async fn measure(out: &mut impl Write, turns: &Turns) -> anyhow::Result<()> {
    let turns = &Turns { peers: false, ..turns.clone() };
    writeln!(
        out,
        "| {} rounds of {} s | | sidegate ms | nginx ms | ratio: median | least | greatest | used by other programs |",
        turns.rounds, turns.seconds
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- | --- | --- |")?;
    let options = Options::of_a_run("", turns)?;
    let mut lineup = Lineup::start(&options).await?;
    // Both get the same rate: half of what the slower one answers.
    let mut limit = f64::INFINITY;
    for entrant in &lineup.entrants {
        limit = limit.min(REQUESTS(&entrant.round(options.shape()).await?));
    }
    let rate = (limit / 2.0) as u32;
    for (what, options) in
        [("", format!("--rate {rate}")), (", one slow client in ten", format!("--rate {rate} --slow-clients"))]
    {
        let options = Options::of_a_run(&options, turns)?;
        let others = lineup.measure(&options, |_, _, _| Ok(())).await?;
        print(out, &format!("half load ({rate} requests/s){what}"), &mut lineup, others)?;
    }
    drop(lineup);

    let busy = Options::of_a_run("--protocol http2 --connections 4 --streams 100", turns)?;
    let mut lineup = Lineup::start(&busy).await?;
    let watched = Others::watch()?;
    for _ in 0..turns.rounds {
        for entrant in &mut lineup.entrants {
            let round =
                beside_busy(entrant, busy.shape()).await.with_context(|| entrant.contender.name().to_owned())?;
            entrant.contender.rounds.push(round);
        }
    }
    let others = Others::share(watched.used()?);
    let what = format!("{LIGHT_RATE} requests/s by HTTP/1.1 beside 4 × 100 by HTTP/2 at their limit");
    print(out, &what, &mut lineup, others)
}

/// The light client's latencies. The busy ones run in a thread of their own, so that the two share only the proxy.
async fn beside_busy(entrant: &Entrant, busy: Shape) -> anyhow::Result<Round> {
    let target = entrant.target.clone();
    let light = target.by_http1()?;
    let load = Shape { measured: busy.measured + 2 * AHEAD, ..busy };
    let busy_load = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(load::run(&target, &Processes::of(&[]), load)).map(drop)
    });
    tokio::time::sleep(AHEAD).await;
    let shape = Shape { connections: LIGHT, streams: 1, rate: Some(LIGHT_RATE), ..busy };
    let sample = load::run(&light, &entrant.processes, shape).await;
    // The thread ends by itself soon; waiting for it here stops nothing else.
    busy_load.join().map_err(|_| anyhow!("the busy clients' thread has ended"))?.context("the busy clients")?;
    Ok(Round::of(sample?))
}

/// Prints the measured rows, and clears them.
fn print(out: &mut impl Write, what: &str, lineup: &mut Lineup, others: f64) -> anyhow::Result<()> {
    let others = others * 100.0;
    if let [sidegate, .., nginx] = lineup.contenders().as_slice() {
        for (name, figure) in TAILS {
            let Spread { median, min, max } = report::ratios(sidegate, nginx, figure);
            let [ours, theirs] = [sidegate, nginx].map(|contender| contender.median(figure) / 1e3);
            writeln!(
                out,
                "| {what} | {name} | {ours:.2} | {theirs:.2} | **{median:.2}** | {min:.2} | {max:.2} | {others:.0} % |"
            )?;
        }
    }
    for entrant in &mut lineup.entrants {
        entrant.contender.rounds.clear();
    }
    out.flush()?;
    Ok(())
}
