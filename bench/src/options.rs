//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::builder::RangedU64ValueParser;

/// Measures the proxy, signed in, beside nginx `proxy_pass`, and prints the ratios.
#[derive(Parser)]
#[command(name = "bench")]
pub(crate) struct Options {
    /// How many times each contender is measured, in turns; the ratios' median is the result.
    #[arg(long, default_value_t = 9, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    pub(crate) rounds: usize,
    /// How many seconds a contender is measured in each round.
    #[arg(long = "seconds", default_value_t = 4, value_parser = RangedU64ValueParser::<u64>::new().range(1..=600))]
    seconds: u64,
    /// Kept-alive connections, each with one request at a time.
    #[arg(long, default_value_t = 64, value_parser = RangedU64ValueParser::<usize>::new().range(1..=512))]
    pub(crate) connections: usize,
    /// The size of an answer's body in bytes.
    #[arg(long, default_value_t = 1024, value_parser = RangedU64ValueParser::<usize>::new().range(0..=524_288))]
    pub(crate) body: usize,
    /// Worker threads of the proxy, and worker processes of nginx.
    #[arg(long, default_value_t = 2, value_parser = RangedU64ValueParser::<usize>::new().range(1..=256))]
    pub(crate) threads: usize,
    /// The proxy's program; without it the one beside this program.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) sidegate: Option<PathBuf>,
    /// A second build of the proxy, measured in the same run: what did a change bring?
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) against: Option<PathBuf>,
}

impl Options {
    /// How long a contender is measured in each round.
    pub(crate) const fn measured(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}
