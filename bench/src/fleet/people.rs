//! Measures many people, with impersonation in every cluster.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;
use tokio::task::JoinSet;

use super::Options;
use super::figures::Figures;
use super::processes::{Orchestrator, Simulator};
use super::signer::{AUDIENCE, ISSUER, Signer};

/// The time limit for a list, in milliseconds.
const LIST_MOST_MS: f64 = 200.0;
/// How long the people view: longer than a cluster's answers are cached.
const LOAD_TIME: Duration = Duration::from_secs(80);
/// The pause of a person between two pages.
const READING: Duration = Duration::from_secs(2);
const GROUPS: [&str; 10] =
    ["acme/a", "acme/b", "acme/c", "acme/d", "acme/e", "acme/f", "acme/g", "acme/h", "acme/i", "acme/j"];
const LISTS: [&str; 3] =
    ["/api/v1/resources?limit=50", "/api/v1/resources?limit=50&status=failed", "/api/v1/clusters?limit=100"];

/// Measures, prints, and returns whether lists are within their limit.
pub(crate) async fn measure(program: &Path, options: &Options) -> anyhow::Result<bool> {
    let arguments = [
        ("--objects", options.objects.to_string()),
        ("--pace", options.pace.to_string()),
        ("--people", options.people.to_string()),
    ];
    let simulator = Simulator::start(program, options.clusters, &arguments)?;
    let folder = tempfile::tempdir().context("no temporary folder could be made")?;
    let signer = Signer::new()?;
    let keys = folder.path().join("jwks.json");
    std::fs::write(&keys, signer.jwks().to_string())?;
    let settings = [
        ("ORCHESTRATOR_IMPERSONATE", "true".into()),
        ("ORCHESTRATOR_ASSERTION_JWKS", keys.into_os_string()),
        ("ORCHESTRATOR_ASSERTION_ISSUER", ISSUER.into()),
        ("ORCHESTRATOR_ASSERTION_AUDIENCE", AUDIENCE.into()),
    ];
    let mut orchestrator = Orchestrator::start(program, folder.path(), &settings).await?;
    orchestrator.asker = signer.line("everybody", &[])?;
    for registration in &simulator.registrations {
        orchestrator.post("/api/v1/clusters", registration).await?;
    }
    orchestrator.until_all_are_seen(options.clusters * options.objects).await?;

    let people: Vec<String> = (0..options.people)
        .map(|number| signer.line(&format!("person-{number:02}"), &GROUPS))
        .collect::<anyhow::Result<_>>()?;
    let (resident, cpu) = (orchestrator.memory("VmRSS")?, orchestrator.cpu()?);
    // One after another: this measures the access reviews, not fifty people at once.
    let mut first = Figures::default();
    for person in &people {
        let asked = Instant::now();
        let list: serde_json::Value = serde_json::from_slice(&orchestrator.get_as(LISTS[0], person).await?)?;
        first.add_ms(asked.elapsed());
        let (seen, all) = (list["total"].as_u64().unwrap_or_default(), options.clusters * options.objects);
        // Each sees a twentieth of the namespaces.
        ensure!(seen > 0 && seen < all as u64 / 2, "a person sees {seen} objects of {all}: {}", json!(list["total"]));
    }
    let cold = orchestrator.cpu()?.saturating_sub(cpu);
    let so_far = orchestrator.cpu()?;
    let begun = Instant::now();
    let orchestrator = Arc::new(orchestrator);
    let mut readers = JoinSet::new();
    for (number, person) in people.iter().enumerate() {
        readers.spawn(read_lists(Arc::clone(&orchestrator), person.clone(), number, begun));
    }
    let mut lists = Figures::default();
    while let Some(taken) = readers.join_next().await {
        taken??.into_iter().for_each(|time| lists.add_ms(time));
    }
    let spent = orchestrator.cpu()?.saturating_sub(so_far);

    println!("\n{} people, each of whom may see one namespace of each cluster", options.people);
    println!("{:>8.1} ms   a person's first list: median (greatest {:.1})", first.median(), first.greatest());
    println!(
        "{:>8.1} ms   CPU time of a first list, with all questions to the clusters",
        cold.as_secs_f64() * 1000.0 / people.len() as f64
    );
    println!("{:>8.1} ms   a list while all of them look for {} s: median", lists.median(), LOAD_TIME.as_secs());
    println!("{:>8.1} ms   99 of 100 lists (greatest {:.1}, {} lists)", lists.at(0.99), lists.greatest(), lists.len());
    println!("{:>8.1} ms   CPU time of a list then", spent.as_secs_f64() * 1000.0 / lists.len().max(1) as f64);
    println!("{:>8.1} MiB  resident before, {:.1} after", resident, orchestrator.memory("VmRSS")?);
    let within = first.median() < LIST_MOST_MS && lists.at(0.99) < LIST_MOST_MS;
    if !within {
        println!("a list takes longer than {LIST_MOST_MS} ms");
    }
    Ok(within)
}

/// Requests lists again and again, as a person does.
async fn read_lists(
    orchestrator: Arc<Orchestrator>,
    person: String,
    number: usize,
    begun: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let mut taken = Vec::new();
    tokio::time::sleep(READING.mul_f64(number as f64 / 50.0)).await;
    for path in LISTS.iter().cycle() {
        if begun.elapsed() > LOAD_TIME {
            break;
        }
        let asked = Instant::now();
        orchestrator.get_as(path, &person).await?;
        taken.push(asked.elapsed());
        tokio::time::sleep(READING).await;
    }
    Ok(taken)
}
