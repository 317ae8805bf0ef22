//! Measures the memory of a session: a separate process begins sessions, and compares its resident memory before and after.

use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sidegate::adapters::stores::memory::MemoryStore;
use sidegate::adapters::stores::record;
use sidegate::ports::Sessions as _;

use super::people::{NOW, People};
use crate::options::HoldOptions;

/// The size of an access token and a refresh token of Entra, in bytes.
const ENTRA: usize = 4000;

/// Sessions with tokens are fewer, since each is ten times as large.
const FEWER: u64 = 10;

/// Prints the memory of sessions without and with the provider's tokens.
pub(super) fn run(out: &mut impl Write, sessions: u64) -> anyhow::Result<()> {
    for (sessions, tokens) in [(sessions, 0), (sessions / FEWER, ENTRA)] {
        let own = std::env::current_exe()?;
        let arguments = ["hold".to_owned(), sessions.to_string(), tokens.to_string()];
        let output =
            Command::new(own).args(arguments).output().context("the process that holds sessions cannot be run")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        out.write_all(&output.stdout)?;
    }
    Ok(())
}

/// Holds sessions in memory, and prints the size of each.
pub(crate) fn hold(options: &HoldOptions) -> anyhow::Result<()> {
    let people = People::new(options.tokens)?;
    let store = MemoryStore::new(Duration::ZERO, 1 << 40);
    let record = record::pack(&people.session(0)?).len();
    let before = resident()?;
    let began = Instant::now();
    let mut begin = Duration::ZERO;
    for number in 0..options.sessions {
        let session = people.session(number)?;
        let from = Instant::now();
        // The session is stored by the call itself; the future only returns the result.
        drop(store.begin(session, NOW));
        begin += from.elapsed();
    }
    let taken = resident()?.saturating_sub(before);
    ensure!(store.held() == options.sessions, "only {} sessions are held", store.held());
    let sweep = Instant::now();
    store.sweep(NOW);
    writeln!(
        std::io::stdout(),
        "  {:>9} sessions, {:>4} bytes of tokens: {:>5} bytes each ({record} of them the record), {:.1} us to begin one, {:.2} ms for a sweep ({:.0} s in all)",
        options.sessions,
        options.tokens,
        taken / options.sessions,
        begin.as_secs_f64() * 1e6 / options.sessions as f64,
        sweep.elapsed().as_secs_f64() * 1e3,
        began.elapsed().as_secs_f64(),
    )?;
    Ok(())
}

/// The resident memory of this process, in bytes.
fn resident() -> anyhow::Result<u64> {
    const PAGE: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").context("there is no /proc: this needs Linux")?;
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    Ok(PAGE * pages.context("/proc/self/statm reads unlike proc(5)")?)
}
