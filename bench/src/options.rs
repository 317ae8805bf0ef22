//! The command line.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Measures the proxy, signed in, beside nginx `proxy_pass`, and prints the ratios.
#[derive(Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    /// What to measure instead.
    #[command(subcommand)]
    pub(crate) instead: Option<Instead>,
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
    /// Worker threads of the proxy, and worker processes of nginx: so many processors may each of them use.
    #[arg(long, default_value_t = 2, value_parser = RangedU64ValueParser::<usize>::new().range(1..=256))]
    pub(crate) threads: usize,
    /// The proxy's program; without it the one beside this program.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) sidegate: Option<PathBuf>,
    /// A second build of the proxy, measured in the same run: what did a change bring?
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) against: Option<PathBuf>,
    /// The proxy once more for each of these numbers of rules, of which the last decides: what do rules cost?
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', value_parser = RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    pub(crate) rules: Vec<usize>,
    /// HAProxy as well, passing requests on and no more, where it is installed.
    #[arg(long)]
    pub(crate) peers: bool,
    /// How many people are signed in; their sessions are used in turn, so that each request is of another one.
    #[arg(long, default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    pub(crate) people: usize,
    /// Where the proxy keeps its sessions.
    #[arg(long, value_enum, default_value = "memory")]
    pub(crate) store: Store,
}

/// Where sessions are kept.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Store {
    Memory,
    Jwt,
    Redis,
}

/// What else can be measured.
#[derive(Subcommand)]
pub(crate) enum Instead {
    /// Measures sessions: what one takes of memory, what looking one up costs, and how many people sign in a second.
    Sessions(SessionOptions),
    /// Holds idle WebSockets open: what one takes of the proxy's memory, and how soon all are closed when their session ends.
    Websockets(WebsocketOptions),
    /// Holds sessions in memory, and prints what each takes.
    #[command(hide = true)]
    Hold(HoldOptions),
}

/// How sessions are measured.
#[derive(Args)]
pub(crate) struct SessionOptions {
    /// How many sessions are held in memory at a time.
    #[arg(long, default_value_t = 1_000_000, value_parser = RangedU64ValueParser::<u64>::new().range(1000..=100_000_000))]
    pub(crate) sessions: u64,
    /// How many seconds people sign in.
    #[arg(long, default_value_t = 10, value_parser = RangedU64ValueParser::<u64>::new().range(1..=600))]
    pub(crate) seconds: u64,
    /// How many people sign in at a time.
    #[arg(long, default_value_t = 16, value_parser = RangedU64ValueParser::<usize>::new().range(1..=512))]
    pub(crate) people: usize,
    /// The proxy's program; without it the one beside this program.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) sidegate: Option<PathBuf>,
}

/// How many WebSockets are held.
#[derive(Args)]
pub(crate) struct WebsocketOptions {
    /// How many, or as many as open files allow: each takes two in the proxy, and two here.
    #[arg(long, default_value_t = 10_000, value_parser = RangedU64ValueParser::<usize>::new().range(1..=25_000))]
    pub(crate) websockets: usize,
    /// Worker threads of the proxy.
    #[arg(long, default_value_t = 2, value_parser = RangedU64ValueParser::<usize>::new().range(1..=256))]
    pub(crate) threads: usize,
    /// The proxy's program; without it the one beside this program.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) sidegate: Option<PathBuf>,
}

/// What is held.
#[derive(Args)]
pub(crate) struct HoldOptions {
    /// How many sessions.
    pub(crate) sessions: u64,
    /// The bytes of the provider's tokens in each.
    pub(crate) tokens: usize,
}

impl Options {
    /// How long a contender is measured in each round.
    pub(crate) const fn measured(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

impl Display for Store {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Jwt => "jwt",
            Self::Redis => "redis",
        })
    }
}
