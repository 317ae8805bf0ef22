//! Measures every row of the table in docs/performance.md, one after the other.

use std::fmt::Write as _;
use std::io::Write;

use crate::lineup::Lineup;
use crate::options::{Options, TableOptions};
use crate::report::{self, CPU, REQUESTS, Spread};
use crate::{nginx, rest, tails};

/// The name of each row, and the options that measure it.
const ROWS: [(&str, &str); 19] = [
    ("one session, 64 connections, at the limit", ""),
    ("the same at 3,000 requests/s", "--rate 3000"),
    ("1,000 sessions in turn (memory)", "--people 1000"),
    ("1,000 sessions in turn (jwt)", "--people 1000 --store jwt"),
    ("1,000 sessions in turn (redis)", "--people 1000 --store redis"),
    ("20,000 sessions in turn (memory)", "--people 20000"),
    ("20,000 sessions in turn (jwt)", "--people 20000 --store jwt"),
    ("20,000 sessions in turn (redis)", "--people 20000 --store redis"),
    ("the first request of each of 20,000 (memory)", "--people 20000 --first-requests"),
    ("the first request of each of 20,000 (jwt)", "--people 20000 --first-requests --store jwt"),
    ("the first request of each of 20,000 (redis)", "--people 20000 --first-requests --store redis"),
    ("one session, and others with 10 and with 1,000 rules", "--rules 10,1000"),
    ("HTTP/1.1 over TLS", "--protocol tls"),
    ("a TLS connection for each request", "--protocol tls --fresh-connections"),
    ("HTTP/2 over TLS, 32 connections with 8 requests at a time", "--protocol http2 --connections 32 --streams 8"),
    ("HTTP/2 over TLS, 64 connections with 1", "--protocol http2"),
    ("1 MiB answers", "--body 1048576"),
    ("1 MiB answers over TLS", "--protocol tls --body 1048576"),
    ("64 MiB answers, 4 connections", "--body 67108864 --connections 4"),
];
/// Idle connections, as many as any machine allows a process to open.
const AT_REST: &str = "connections at rest";
const TAILS: &str = "tails";

/// Measures the rows, and prints each as soon as it is ready.
pub(crate) async fn run(options: &TableOptions) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", report::machine(&nginx::version()?))?;
    writeln!(out, "CPU in us a request; {} rounds of {} s\n", options.turns.rounds, options.turns.seconds)?;
    writeln!(
        out,
        "| load | sidegate | nginx | ratio: median | least | greatest | requests/s: sidegate | nginx | others | used by other programs |"
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
    let chosen = |name: &str| name.contains(&options.only);
    for (name, row) in ROWS.into_iter().filter(|(name, _)| chosen(name)) {
        let row = Options::of_a_run(row, &options.turns)?;
        let mut lineup = Lineup::start(&row).await?;
        let others = lineup.measure(&row, |_, _, _| Ok(())).await?;
        writeln!(out, "| {name} | {} | {:.0} % |", figures(&lineup), others * 100.0)?;
        out.flush()?;
    }
    if chosen(AT_REST) {
        writeln!(out)?;
        rest::measure(&mut out, &[1000], options.turns.threads, options.turns.sidegate.as_deref()).await?;
    }
    if chosen(TAILS) {
        writeln!(out)?;
        tails::measure(&mut out, &options.turns).await?;
    }
    Ok(())
}

fn figures(lineup: &Lineup) -> String {
    let contenders = lineup.contenders();
    let [sidegate, others @ .., nginx] = contenders.as_slice() else { return String::new() };
    let Spread { median, min, max } = report::ratios(sidegate, nginx, CPU);
    let mut text =
        format!("{:.1} | {:.1} | **{median:.2}** | {min:.2} | {max:.2}", sidegate.median(CPU), nginx.median(CPU));
    let _infallible = write!(text, " | {:.0} | {:.0} | ", sidegate.median(REQUESTS), nginx.median(REQUESTS));
    for (number, other) in others.iter().enumerate() {
        let ratio = report::ratios(other, nginx, CPU).median;
        let comma = if number > 0 { ", " } else { "" };
        let _infallible = write!(text, "{comma}{} {:.1} ({ratio:.2})", other.name(), other.median(CPU));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_can_be_measured() {
        let turns = Options::of_a_run("", &turns()).unwrap().turns;
        for (name, row) in ROWS {
            assert!(Options::of_a_run(row, &turns).is_ok(), "{name}");
        }
    }

    fn turns() -> crate::options::Turns {
        use clap::Parser as _;
        Options::try_parse_from(["bench"]).unwrap().turns
    }
}
