//! Measures sessions: memory, lookup cost, and sign-ins per second.

mod cost;
mod held;
mod people;
mod storm;

use std::io::Write;

pub(crate) use held::hold;

use crate::options::SessionOptions;

/// Runs all of it, and prints the figures.
pub(crate) async fn run(options: &SessionOptions) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "Memory of a session that nobody uses, in the store `memory`:")?;
    held::run(&mut out, options.sessions)?;
    writeln!(out, "\nLooking a session up:")?;
    cost::run(&mut out).await?;
    writeln!(out, "\nSigning in, through the proxy, with the development provider as GitHub:")?;
    storm::run(&mut out, options).await?;
    Ok(())
}
