//! Measures response times of pages.

use std::time::Instant;

use anyhow::Context;
use serde_json::Value;

use super::figures::Figures;
use super::processes::Orchestrator;

/// How often each page is requested in a round.
const TIMES: usize = 25;

/// A page, its response times, and its size.
pub(crate) struct Page {
    pub(crate) words: &'static str,
    pub(crate) took: Figures,
    pub(crate) kib: f64,
}

/// Requests every page, and adds to the earlier measurements.
pub(crate) async fn measure(orchestrator: &Orchestrator, pages: &mut Vec<Page>) -> anyhow::Result<()> {
    for (place, (words, path)) in paths(orchestrator).await?.into_iter().enumerate() {
        if pages.len() == place {
            pages.push(Page { words, took: Figures::default(), kib: 0.0 });
        }
        let page = pages.get_mut(place).context("the pages are the same in every round")?;
        for _ in 0..TIMES {
            let asked = Instant::now();
            page.kib = orchestrator.get(&path).await?.len() as f64 / 1024.0;
            page.took.add_ms(asked.elapsed());
        }
    }
    Ok(())
}

async fn paths(orchestrator: &Orchestrator) -> anyhow::Result<Vec<(&'static str, String)>> {
    let clusters = orchestrator.ask("/api/v1/clusters?limit=1").await?;
    let id = clusters["items"][0]["id"].as_str().context("a cluster without an id")?.to_owned();
    let one = orchestrator.ask(&format!("/api/v1/resources?cluster={id}&kind=Kustomization&limit=1")).await?;
    let text = |name: &str| one["items"][0][name].as_str().map(str::to_owned).unwrap_or_default();
    let object = format!("/api/v1/clusters/{id}/flux/Kustomization/{}/{}", text("namespace"), text("name"));
    Ok(vec![
        ("the document", "/".to_owned()),
        ("100 clusters", "/api/v1/clusters?limit=100".to_owned()),
        ("50 objects of all", "/api/v1/resources?limit=50".to_owned()),
        (
            "500 objects from the 15,000th on, by time",
            "/api/v1/resources?limit=500&offset=15000&sort=updated".to_owned(),
        ),
        ("a search", "/api/v1/resources?q=cluster-07%20revision&limit=50".to_owned()),
        ("a search that finds nothing", "/api/v1/resources?q=there-is-no-such-word&limit=50".to_owned()),
        ("50 objects of one cluster", format!("/api/v1/clusters/{id}/resources?limit=50")),
        ("the tree of one cluster", format!("/api/v1/clusters/{id}/resources/tree")),
        ("the numbers of one cluster", format!("/api/v1/clusters/{id}/flux/stats")),
        ("one object, read from its cluster", object.clone()),
        ("the tree of one object", format!("{object}/tree")),
        ("50 activities", "/api/v1/activities?limit=50".to_owned()),
        ("the metrics", "/metrics".to_owned()),
    ])
}

/// The ids of all clusters.
pub(crate) async fn ids(orchestrator: &Orchestrator) -> anyhow::Result<Vec<String>> {
    let all = orchestrator.ask("/api/v1/clusters?limit=500").await?;
    let items = all["items"].as_array().into_iter().flatten();
    Ok(items.filter_map(|one: &Value| one["id"].as_str().map(str::to_owned)).collect())
}
