//! Measures the cost of a session lookup in each store.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use sidegate::adapters::stores::{self, StoreSettings};
use sidegate::adapters::telemetry::Metrics;
use sidegate::domain::session::SessionToken;
use sidegate::ports::{Sessions, StoreTerms};
use zeroize::Zeroizing;

use super::people::{NOW, People};
use crate::redis::RedisServer;

/// Sessions in use, which are looked up repeatedly.
const BUSY: usize = 64;
/// How often.
const LOOK_UPS: usize = 1_000_000;
/// Sessions that are looked up for the first time, and tokens of no session.
const FIRST: usize = 20_000;

const MEMORY: u64 = 1 << 30;

/// Prints the cost of a lookup in each store. With several replicas, one begins a session and another looks it up.
pub(super) async fn run(out: &mut impl Write) -> anyhow::Result<()> {
    let memory = open(&StoreSettings::Memory { bytes: MEMORY })?;
    measure(out, "memory", &memory, &memory).await?;
    let jwt = StoreSettings::Jwt { bytes: MEMORY };
    measure(out, "jwt", &open(&jwt)?, &open(&jwt)?).await?;
    let Some(server) = RedisServer::start().await? else {
        writeln!(out, "  redis    not measured: there is no redis-server (apt-get install redis-server)")?;
        return Ok(());
    };
    let redis = StoreSettings::Redis(Box::new(server.settings(MEMORY)));
    let (ours, theirs) = (open(&redis)?, open(&redis)?);
    while ours.trouble().or_else(|| theirs.trouble()).is_some() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    measure(out, "redis", &ours, &theirs).await
}

fn open(settings: &StoreSettings) -> anyhow::Result<Arc<dyn Sessions>> {
    stores::open(settings, &terms(), &Metrics::new(&[], &[]).store).map_err(anyhow::Error::msg)
}

fn terms() -> StoreTerms {
    StoreTerms { idle: Duration::ZERO, secrets: vec![Zeroizing::new(vec![7; 32])], cookie_beside: 100 }
}

async fn measure(
    out: &mut impl Write,
    name: &str,
    beginner: &Arc<dyn Sessions>,
    store: &Arc<dyn Sessions>,
) -> anyhow::Result<()> {
    let people = People::new(0)?;
    let mut tokens = Vec::with_capacity(FIRST);
    for number in 0..FIRST as u64 {
        tokens.push(beginner.begin(people.session(number)?, NOW).await?);
    }
    let began = Instant::now();
    for token in &tokens {
        ensure!(store.load(token, NOW).await?.is_some(), "a session is not there");
    }
    let first = each(began, FIRST);
    let busy: Vec<&SessionToken> = tokens.iter().rev().take(BUSY).collect();
    let began = Instant::now();
    for token in busy.iter().cycle().take(LOOK_UPS) {
        ensure!(store.hot(token, NOW).is_some(), "a session is not held ready");
    }
    let hit = each(began, LOOK_UPS);
    let unknown: Vec<SessionToken> = tokens.iter().filter_map(forged).collect();
    let began = Instant::now();
    for token in &unknown {
        ensure!(store.load(token, NOW).await?.is_none(), "a session is there that nobody began");
    }
    let miss = each(began, FIRST);
    writeln!(out, "  {name:<8} in use: {hit:>6.2} us   first use: {first:>7.2} us   no such session: {miss:>7.2} us")?;
    Ok(())
}

/// Microseconds per repetition.
fn each(began: Instant, times: usize) -> f64 {
    began.elapsed().as_secs_f64() * 1e6 / times as f64
}

/// A well-formed token of no session: one with a changed end.
fn forged(token: &SessionToken) -> Option<SessionToken> {
    const END: &str = "00000000";
    let text = token.expose();
    let front = text.get(..text.len().checked_sub(END.len())?)?;
    SessionToken::parse(&format!("{front}{END}"))
}
