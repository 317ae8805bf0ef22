//! Measures one build, or two in turn, over the same simulated clusters.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;

use super::Options;
use super::figures::Figures;
use super::pages::{self, Page};
use super::processes::{Orchestrator, Simulator};

/// The time limit for reading everything again.
const RESYNC_TIME: Duration = Duration::from_secs(4);
/// The allowed ratio to the build before.
const MORE_MOST: f64 = 1.10;
/// Differences of pages faster than this, in milliseconds, are noise.
const NOISE_MS: f64 = 0.5;

/// What is measured of a build besides its pages, and the units.
const MEASURES: [(&str, &str, bool); 8] = [
    ("CPU time to the first full view", "ms", true),
    ("from the start to the first full view", "ms", false),
    ("resident at the first full view", "MiB", true),
    ("resident when it has settled", "MiB", true),
    ("resident after everything was read anew", "MiB", true),
    ("CPU time of reading everything anew", "ms", true),
    ("CPU time of all pages", "ms", true),
    ("greatest resident of all", "MiB", true),
];

struct Build {
    program: PathBuf,
    folder: TempDir,
    figures: [Figures; MEASURES.len()],
    pages: Vec<Page>,
}

/// Measures, prints, and returns whether the results are within their limits.
pub(crate) async fn measure(program: &Path, before: Option<&Path>, options: &Options) -> anyhow::Result<bool> {
    // The older build simulates, so that no objects appear that it cannot read.
    let arguments = [("--objects", options.objects.to_string()), ("--pace", options.pace.to_string())];
    let simulator = Simulator::start(before.unwrap_or(program), options.clusters, &arguments)?;
    let mut builds = Vec::new();
    for program in before.into_iter().chain([program]) {
        builds.push(Build::prepare(program, &simulator, options).await?);
    }
    for round in 0..options.rounds {
        // They take turns to start first: disturbances on the machine affect both.
        if round % 2 == 1 {
            builds.reverse();
        }
        for build in &mut builds {
            build.round(options).await?;
        }
        if round % 2 == 1 {
            builds.reverse();
        }
    }
    Ok(match builds.as_slice() {
        [before, now] => compared(before, now),
        [now] => alone(now),
        _ => false,
    })
}

impl Build {
    async fn prepare(program: &Path, simulator: &Simulator, options: &Options) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("no temporary folder could be made")?;
        let first = Orchestrator::start(program, folder.path(), &[]).await?;
        for registration in &simulator.registrations {
            first.post("/api/v1/clusters", registration).await?;
        }
        first.until_all_are_seen(options.clusters * options.objects).await?;
        Ok(Self { program: program.to_owned(), folder, figures: Default::default(), pages: Vec::new() })
    }

    /// What matters is a start with everything registered.
    async fn round(&mut self, options: &Options) -> anyhow::Result<()> {
        let total = options.clusters * options.objects;
        let begun = Instant::now();
        let orchestrator = Orchestrator::start(&self.program, self.folder.path(), &[]).await?;
        orchestrator.until_all_are_seen(total).await?;
        let whole = begun.elapsed();
        let cpu = |since: Duration| anyhow::Ok((orchestrator.cpu()?.saturating_sub(since)).as_secs_f64() * 1000.0);
        let (first, resident) = (cpu(Duration::ZERO)?, orchestrator.memory("VmRSS")?);
        sleep(Duration::from_secs(options.settle)).await;
        let idle = orchestrator.memory("VmRSS")?;
        let so_far = orchestrator.cpu()?;
        pages::measure(&orchestrator, &mut self.pages).await?;
        let (of_pages, so_far) = (cpu(so_far)?, orchestrator.cpu()?);
        for _ in 0..options.resyncs {
            resync(&orchestrator, options.clusters, total).await?;
        }
        let of_resyncs = cpu(so_far)? / options.resyncs.max(1) as f64;
        let (after, greatest) = (orchestrator.memory("VmRSS")?, orchestrator.memory("VmHWM")?);
        let measured = [first, whole.as_secs_f64() * 1000.0, resident, idle, after, of_resyncs, of_pages, greatest];
        self.figures.iter_mut().zip(measured).for_each(|(figures, figure)| figures.add(figure));
        Ok(())
    }
}

/// Has everything read again, and waits for it.
async fn resync(orchestrator: &Orchestrator, clusters: usize, total: usize) -> anyhow::Result<()> {
    let ids = pages::ids(orchestrator).await?;
    ensure!(ids.len() == clusters.min(500), "only {} clusters of {clusters} are listed", ids.len());
    for id in &ids {
        orchestrator.post(&format!("/api/v1/clusters/{id}/sync"), &json!({})).await?;
    }
    sleep(RESYNC_TIME).await;
    orchestrator.until_all_are_seen(total).await
}

fn alone(now: &Build) -> bool {
    println!("\n{:>12}", "median");
    for ((words, unit, _), figures) in MEASURES.iter().zip(&now.figures) {
        println!("{:>8.1} {unit:<3}  {words}", figures.median());
    }
    println!("\n{:>9} {:>11} {:>9}", "median", "greatest", "KiB");
    for Page { words, took, kib } in &now.pages {
        println!("{:>6.1} ms {:>8.1} ms {kib:>9.1}  {words}", took.median(), took.greatest());
    }
    true
}

fn compared(before: &Build, now: &Build) -> bool {
    let mut within = true;
    println!("\n{:>12} {:>12} {:>7}  medians of {}", "before", "now", "", now.figures.first().map_or(0, Figures::len));
    for (place, (words, unit, counts)) in MEASURES.iter().enumerate() {
        let median = |build: &Build| build.figures.get(place).map_or(0.0, Figures::median);
        let ratio = median(now) / median(before);
        let over = *counts && ratio > MORE_MOST;
        within &= !over;
        let verdict = if over { "  <- more than 10 % more" } else { "" };
        println!("{:>8.1} {unit:<3} {:>8.1} {unit:<3} {ratio:>7.2}  {words}{verdict}", median(before), median(now));
    }
    println!("\n{:>9} {:>9} {:>7} {:>11} {:>9}", "before", "now", "", "greatest", "KiB");
    for (old, new) in before.pages.iter().zip(&now.pages) {
        let (earlier, later) = (old.took.median(), new.took.median());
        let over = later > earlier * MORE_MOST + NOISE_MS;
        within &= !over;
        let verdict = if over { "  <- more than 10 % more" } else { "" };
        let (ratio, greatest) = (later / earlier, new.took.greatest());
        println!(
            "{earlier:>6.1} ms {later:>6.1} ms {ratio:>7.2} {greatest:>8.1} ms {:>9.1}  {}{verdict}",
            new.kib, new.words
        );
    }
    within
}
