//! The output: each measurement, and the ratios at the end.

use std::fs;
use std::io::{self, Write};
use std::time::Duration;

use crate::load::Sample;
use crate::options::Options;

/// The goal for CPU time per request, as a ratio to nginx.
const GOAL: f64 = 1.00;

/// One contender.
pub(crate) struct Contender {
    name: String,
    pub(crate) rounds: Vec<Round>,
}

impl Contender {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), rounds: Vec::new() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn median(&self, figure: fn(&Round) -> f64) -> f64 {
        Spread::of(self.rounds.iter().map(figure)).median
    }
}

/// The result of one measurement.
pub(crate) struct Round {
    requests_per_second: f64,
    p50: f64,
    p99: f64,
    p999: f64,
    cpu: f64,
    /// The same by the kernel's ticks, which are coarser.
    ticks: f64,
}

impl Round {
    #[expect(clippy::cast_precision_loss, reason = "a count of requests is far below 2^52")]
    pub(crate) fn of(mut sample: Sample) -> Self {
        sample.latencies.sort_unstable();
        let count = sample.latencies.len();
        let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
        let rank = |per_mille: usize| sample.latencies.get((count * per_mille / 1000).min(count - 1)).copied();
        Self {
            requests_per_second: count as f64 / sample.took.as_secs_f64(),
            p50: micros(rank(500).unwrap_or_default()),
            p99: micros(rank(990).unwrap_or_default()),
            p999: micros(rank(999).unwrap_or_default()),
            cpu: micros(sample.cpu) / count as f64,
            ticks: micros(sample.ticks) / count as f64,
        }
    }
}

pub(crate) type Figure = (&'static str, fn(&Round) -> f64);

pub(crate) const CPU: fn(&Round) -> f64 = |round| round.cpu;
pub(crate) const REQUESTS: fn(&Round) -> f64 = |round| round.requests_per_second;
/// The figures for tails.
pub(crate) const TAILS: [Figure; 3] =
    [("p50", |round| round.p50), ("p99", |round| round.p99), ("p99.9", |round| round.p999)];

const FIGURES: [Figure; 6] = [
    ("CPU per request", |round| round.cpu),
    ("the same in ticks", |round| round.ticks),
    ("requests/s", |round| round.requests_per_second),
    ("p50", |round| round.p50),
    ("p99", |round| round.p99),
    ("p99.9", |round| round.p999),
];

/// The number of processors, their model, and the version of nginx.
pub(crate) fn machine(nginx: &str) -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':')).map(|(_, name)| name);
    format!("{cores} cores ({}), {nginx}", model.unwrap_or(" unknown").trim())
}

pub(crate) fn heading(out: &mut impl Write, options: &Options, nginx: &str) -> io::Result<()> {
    writeln!(out, "{}", machine(nginx))?;
    writeln!(
        out,
        "{} rounds of {} s each, {}, {} connections{}{}, {} bytes of body, {} threads; {} signed in to sidegate in turn, sessions in {}\n",
        options.turns.rounds,
        options.turns.seconds,
        options.protocol,
        options.connections,
        if options.streams > 1 { format!(" with {} requests at a time", options.streams) } else { String::new() },
        if options.fresh_connections { ", each for one request" } else { "" },
        options.body,
        options.turns.threads,
        options.people,
        options.store
    )?;
    writeln!(out, "round               requests/s    p50 us    p99 us  p99.9 us  CPU us/request")
}

pub(crate) fn line(out: &mut impl Write, number: usize, contender: &Contender, round: &Round) -> io::Result<()> {
    let Round { requests_per_second, p50, p99, p999, cpu, .. } = round;
    writeln!(
        out,
        "{number:>3}  {:<12} {requests_per_second:>12.0} {p50:>9.0} {p99:>9.0} {p999:>9.0} {cpu:>15.2}",
        contender.name
    )
}

/// The share of the processors that other programs used meanwhile: results from a busy machine mean little.
pub(crate) fn others(out: &mut impl Write, share: f64) -> io::Result<()> {
    writeln!(out, "\nother programs used {:.0} % of the machine", share * 100.0)
}

/// The medians, and the first contender's ratios to each of the others, round by round.
pub(crate) fn verdict(out: &mut impl Write, contenders: &[&Contender]) -> io::Result<()> {
    writeln!(out, "\nmedian              requests/s    p50 us    p99 us  p99.9 us  CPU us/request")?;
    for contender in contenders {
        let [cpu, _, requests_per_second, p50, p99, p999] = FIGURES.map(|(_, figure)| contender.median(figure));
        writeln!(
            out,
            "     {:<12} {requests_per_second:>12.0} {p50:>9.0} {p99:>9.0} {p999:>9.0} {cpu:>15.2}",
            contender.name
        )?;
    }
    let Some((first, others)) = contenders.split_first() else { return Ok(()) };
    for other in others {
        writeln!(out, "\n{} / {:<14} median     min     max", first.name, other.name)?;
        for (name, figure) in FIGURES {
            let Spread { median, min, max } = ratios(first, other, figure);
            writeln!(out, "  {name:<22} {median:>8.3} {min:>7.3} {max:>7.3}")?;
        }
    }
    if let Some(nginx) = others.last() {
        let ratio = ratios(first, nginx, |round| round.cpu).median;
        let outcome = if ratio <= GOAL { "reached" } else { "missed" };
        writeln!(out, "\ngoal, CPU per request at most {GOAL:.2} times nginx's: {outcome} ({ratio:.3})")?;
    }
    Ok(())
}

/// The ratios between two contenders, round by round.
pub(crate) fn ratios(one: &Contender, other: &Contender, figure: fn(&Round) -> f64) -> Spread {
    Spread::of(one.rounds.iter().zip(&other.rounds).map(|(one, other)| figure(one) / figure(other)))
}

pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        Self { median: f64::midpoint(at(last / 2), at(values.len() / 2)), min: at(0), max: at(last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two() {
        assert!((Spread::of([3.0, 1.0, 2.0].into_iter()).median - 2.0).abs() < 1e-9);
        assert!((Spread::of([4.0, 1.0, 2.0, 3.0].into_iter()).median - 2.5).abs() < 1e-9);
    }

    #[test]
    fn time_is_shared_out_over_the_requests() {
        let latencies = (1..=100).rev().map(Duration::from_micros).collect();
        let sample = Sample {
            latencies,
            took: Duration::from_millis(500),
            cpu: Duration::from_micros(2500),
            ticks: Duration::from_micros(2000),
        };
        let round = Round::of(sample);
        assert!((round.cpu - 25.0).abs() < 1e-9 && (round.requests_per_second - 200.0).abs() < 1e-9);
        assert!(
            (round.p50 - 51.0).abs() < 1e-9 && (round.p99 - 100.0).abs() < 1e-9 && (round.p999 - 100.0).abs() < 1e-9
        );
    }
}
