//! The command line.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::load::Shape;

/// Measures the proxy, signed in, beside nginx `proxy_pass`, and prints the ratios.
#[derive(Clone, Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    /// What to measure instead.
    #[command(subcommand)]
    pub(crate) instead: Option<Instead>,
    #[command(flatten)]
    pub(crate) turns: Turns,
    /// Kept-alive connections, each with one request at a time.
    #[arg(long, default_value_t = 64, value_parser = RangedU64ValueParser::<usize>::new().range(1..=4096))]
    pub(crate) connections: usize,
    /// What is spoken with the proxy: `http1` is in the clear, `tls` is HTTP/1.1 over TLS, `http2` is over TLS.
    #[arg(long, value_enum, default_value = "http1")]
    pub(crate) protocol: Protocol,
    /// Requests at a time on each connection, with `--protocol http2`.
    #[arg(long, default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=100))]
    pub(crate) streams: usize,
    /// Requests a second in all, evenly spaced; without it as many as are answered.
    #[arg(long, value_name = "NUMBER", value_parser = RangedU64ValueParser::<u32>::new().range(1..=1_000_000))]
    pub(crate) rate: Option<u32>,
    /// A connection for each request.
    #[arg(long)]
    pub(crate) fresh_connections: bool,
    /// One more client for every ten, that takes an answer of 4 MiB a few bytes at a time and is not counted. Not with HTTP/2.
    #[arg(long)]
    pub(crate) slow_clients: bool,
    /// The size of an answer's body in bytes.
    #[arg(long, default_value_t = 1024, value_parser = RangedU64ValueParser::<usize>::new().range(0..=67_108_864))]
    pub(crate) body: usize,
    /// A second build of the proxy, measured in the same run: what did a change bring?
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) against: Option<PathBuf>,
    /// The proxy once more for each of these numbers of rules, of which the last decides: what do rules cost?
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', value_parser = RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    pub(crate) rules: Vec<usize>,
    /// How many people are signed in; their sessions are used in turn, so that each request is of another one.
    #[arg(long, default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    pub(crate) people: usize,
    /// Measures the first request of each of these people after they have signed in, who are others in each round, and nothing more.
    #[arg(long)]
    pub(crate) first_requests: bool,
    /// Where the proxy keeps its sessions.
    #[arg(long, value_enum, default_value = "memory")]
    pub(crate) store: Store,
    /// What the sessions in the proxy's memory may take together (`SESSION_MEMORY_BYTES`); without it the proxy's own limit, 128 MiB.
    #[arg(long, value_name = "BYTES", value_parser = RangedU64ValueParser::<u64>::new().range(1_048_576..))]
    pub(crate) session_memory: Option<u64>,
}

/// Who is measured, and how often.
#[derive(Args, Clone)]
pub(crate) struct Turns {
    /// How many times each contender is measured, in turns; the ratios' median is the result.
    #[arg(long, default_value_t = 9, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    pub(crate) rounds: usize,
    /// How many seconds a contender is measured in each round.
    #[arg(long, default_value_t = 4, value_parser = RangedU64ValueParser::<u64>::new().range(1..=600))]
    pub(crate) seconds: u64,
    /// Worker threads of the proxy, and worker processes of nginx: so many processors may each of them use.
    #[arg(long, default_value_t = 2, value_parser = RangedU64ValueParser::<usize>::new().range(1..=256))]
    pub(crate) threads: usize,
    /// The proxy's program; without it the one beside this program.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) sidegate: Option<PathBuf>,
    /// Other proxies as well, those that are installed: oauth2-proxy and Apache with mod_auth_openidc, signed in, and Caddy and HAProxy, which
    /// pass requests on and no more. `scripts/bench-peers` installs them.
    #[arg(long)]
    pub(crate) peers: bool,
}

/// What is spoken with a contender.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// HTTP/1.1 in the clear.
    Http1,
    /// HTTP/1.1 over TLS.
    Tls,
    /// HTTP/2 over TLS.
    Http2,
}

/// Where sessions are kept.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Store {
    Memory,
    Jwt,
    Redis,
}

/// What else can be measured.
#[derive(Clone, Subcommand)]
pub(crate) enum Instead {
    /// Measures every row of the table in docs/performance.md, one after the other, and prints it in Markdown.
    Table(TableOptions),
    /// Measures CPU per request against connections, sessions, rules and the size of a body, and draws it.
    Plots(PlotOptions),
    /// Measures tails: p50, p99 and p99.9 at half load, with slow clients, and of a light client beside busy ones.
    Tails(Turns),
    /// Holds kept-alive connections at rest after their first request: what one takes of the memory of the proxy and of nginx.
    Rest(RestOptions),
    /// Measures sessions: what one takes of memory, what looking one up costs, and how many people sign in a second.
    Sessions(SessionOptions),
    /// Holds idle WebSockets open: what one takes of the proxy's memory, and how soon all are closed when their session ends.
    Websockets(WebsocketOptions),
    /// Holds sessions in memory, and prints what each takes.
    #[command(hide = true)]
    Hold(HoldOptions),
}

/// How sessions are measured.
#[derive(Args, Clone)]
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
#[derive(Args, Clone)]
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
#[derive(Args, Clone)]
pub(crate) struct HoldOptions {
    /// How many sessions.
    pub(crate) sessions: u64,
    /// The bytes of the provider's tokens in each.
    pub(crate) tokens: usize,
}

/// Which rows of the table are measured.
#[derive(Args, Clone)]
pub(crate) struct TableOptions {
    #[command(flatten)]
    pub(crate) turns: Turns,
    /// Only rows whose names hold this text.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) only: String,
}

/// Which pictures are drawn, and where they are written.
#[derive(Args, Clone)]
pub(crate) struct PlotOptions {
    #[command(flatten)]
    pub(crate) turns: Turns,
    /// Only pictures whose names hold this text: connections, sessions, rules, body.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) only: String,
    /// The folder for the pictures.
    #[arg(long, value_name = "FOLDER", default_value = "docs/performance")]
    pub(crate) folder: PathBuf,
}

/// How many connections are at rest.
#[derive(Args, Clone)]
pub(crate) struct RestOptions {
    /// How many: one number or several. As many at most as open files allow: the proxy counts two for each.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,50000", value_parser = RangedU64ValueParser::<usize>::new().range(200..=200_000))]
    pub(crate) connections: Vec<usize>,
    /// Worker threads of the proxy, and worker processes of nginx.
    #[arg(long, default_value_t = 2, value_parser = RangedU64ValueParser::<usize>::new().range(1..=256))]
    pub(crate) threads: usize,
    /// The proxy's program; without it the one beside this program.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) sidegate: Option<PathBuf>,
}

impl Options {
    /// The form of the load.
    pub(crate) const fn shape(&self) -> Shape {
        Shape {
            connections: self.connections,
            streams: self.streams,
            rate: self.rate,
            fresh: self.fresh_connections,
            slow: self.slow_clients,
            requests: if self.first_requests { Some(self.people) } else { None },
            measured: Duration::from_secs(self.turns.seconds),
        }
    }

    /// Builds options for a run with these turns; `options` is written as on the command line.
    pub(crate) fn of_a_run(options: &str, turns: &Turns) -> anyhow::Result<Self> {
        let options = Self::try_parse_from(["bench"].into_iter().chain(options.split_ascii_whitespace()))?;
        let options = Self { turns: turns.clone(), ..options };
        options.check()?;
        Ok(options)
    }

    /// Rejects combinations that are not possible.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let is_http2 = self.protocol == Protocol::Http2;
        ensure!(self.streams == 1 || is_http2, "--streams {}: only with --protocol http2", self.streams);
        ensure!(self.streams == 1 || !self.fresh_connections, "--streams and --fresh-connections do not go together");
        ensure!(!(self.first_requests && self.slow_clients), "--first-requests and --slow-clients do not go together");
        ensure!(!(self.slow_clients && is_http2), "--slow-clients: not with --protocol http2");
        Ok(())
    }
}

impl Display for Protocol {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 => "HTTP/1.1",
            Self::Tls => "HTTP/1.1 over TLS",
            Self::Http2 => "HTTP/2 over TLS",
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn turns() -> Turns {
        Options::try_parse_from(["bench"]).unwrap().turns
    }

    #[test]
    fn what_cannot_go_together_is_refused() {
        for options in
            ["--streams 2", "--protocol http2 --streams 2 --fresh-connections", "--protocol http2 --slow-clients"]
        {
            assert!(Options::of_a_run(options, &turns()).is_err(), "{options}");
        }
        assert!(Options::of_a_run("--protocol http2 --streams 8 --rate 3000", &turns()).is_ok());
    }
}
