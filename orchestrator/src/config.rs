//! The command line and the environment, as typed and as meant.

use std::fmt;
use std::net::SocketAddr;

use clap::{Parser, Subcommand};

const LISTEN_DEFAULT: &str = "127.0.0.1:8081";

/// Many Flux clusters in one place.
///
/// The orchestrator has no sign-in of its own: run it behind sidegate, which says who is asking.
#[derive(Debug, Parser)]
#[command(name = "orchestrator", version)]
pub struct Cli {
    /// What to do; without a command: serve.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The options, as typed.
    #[command(flatten)]
    pub raw: Raw,
}

/// What to do instead of serving.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Command {
    /// Ask the running orchestrator how it is: exit code 0, or 1 with the reason on standard error
    Health,
}

/// The options as typed; an empty one counts as unset.
#[derive(Debug, Default, clap::Args)]
pub struct Raw {
    /// The address to listen on [default: 127.0.0.1:8081]
    #[arg(long, global = true, env = "ORCHESTRATOR_LISTEN_ADDR", value_name = "IP:PORT")]
    pub listen: Option<String>,
    /// Say that only the proxy can reach the address, so that it need not be a loopback one [default: false]
    #[arg(
        long,
        global = true,
        env = "ORCHESTRATOR_BEHIND_PROXY",
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true",
        require_equals = true
    )]
    pub behind_proxy: Option<String>,
}

/// What the orchestrator runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
}

impl Settings {
    /// Reads the options as typed.
    ///
    /// # Errors
    /// All faults at once, each with a value that would be right.
    pub fn parse(raw: &Raw) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let listen = listen_addr(raw, &mut faults);
        let behind_proxy = behind_proxy(raw, &mut faults);
        if let Some(addr) = listen
            && faults.is_empty()
            && !behind_proxy
            && !addr.ip().to_canonical().is_loopback()
        {
            faults.push(format!(
                "ORCHESTRATOR_LISTEN_ADDR (--listen): {addr} can be reached by other machines, and the orchestrator \
                 lets everyone in that reaches it. Listen on {LISTEN_DEFAULT}; or, where nothing but the proxy can \
                 reach the address (a container network of their own), set ORCHESTRATOR_BEHIND_PROXY=true"
            ));
        }
        match listen {
            Some(listen) if faults.is_empty() => Ok(Self { listen }),
            Some(_) | None => Err(Faults(faults)),
        }
    }
}

fn listen_addr(raw: &Raw, faults: &mut Vec<String>) -> Option<SocketAddr> {
    let addr = typed(raw.listen.as_deref()).unwrap_or(LISTEN_DEFAULT).parse().ok();
    if addr.is_none() {
        faults.push(format!(
            "ORCHESTRATOR_LISTEN_ADDR (--listen): not an IP address with a port; for example {LISTEN_DEFAULT} or \
             [::1]:8081"
        ));
    }
    addr
}

fn behind_proxy(raw: &Raw, faults: &mut Vec<String>) -> bool {
    match typed(raw.behind_proxy.as_deref()) {
        Some("true" | "1") => true,
        None | Some("false" | "0") => false,
        Some(_) => {
            faults.push("ORCHESTRATOR_BEHIND_PROXY (--behind-proxy): neither true nor false; for example true".into());
            false
        }
    }
}

fn typed(value: Option<&str>) -> Option<&str> {
    value.map(str::trim).filter(|value| !value.is_empty())
}

/// Everything that is wrong with the options.
#[derive(Debug, PartialEq, Eq)]
pub struct Faults(Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration has faults:")?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl std::error::Error for Faults {}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(listen: &str, behind_proxy: &str) -> Result<Settings, String> {
        let raw = Raw { listen: Some(listen.into()), behind_proxy: Some(behind_proxy.into()) };
        Settings::parse(&raw).map_err(|faults| faults.to_string())
    }

    #[test]
    fn nothing_set_listens_on_loopback() {
        assert_eq!(Settings::parse(&Raw::default()).unwrap().listen, LISTEN_DEFAULT.parse().unwrap());
        assert_eq!(parse("", " ").unwrap().listen, LISTEN_DEFAULT.parse().unwrap());
    }

    #[test]
    fn an_address_open_to_others_needs_the_word_that_a_proxy_is_in_front() {
        for open in ["0.0.0.0:8081", "[::]:8081", "192.0.2.7:8081", "[::ffff:192.0.2.7]:8081"] {
            assert!(parse(open, "").unwrap_err().contains("ORCHESTRATOR_BEHIND_PROXY=true"), "{open}");
            assert!(parse(open, "false").is_err(), "{open}");
            assert_eq!(parse(open, "true").unwrap().listen, open.parse().unwrap());
        }
        for loopback in ["127.0.0.1:0", "127.9.9.9:8081", "[::1]:8081", "[::ffff:127.0.0.1]:8081"] {
            assert_eq!(parse(loopback, "").unwrap().listen, loopback.parse().unwrap());
        }
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let faults = parse("8081", "perhaps").unwrap_err();
        assert!(
            faults.contains("ORCHESTRATOR_LISTEN_ADDR") && faults.contains("ORCHESTRATOR_BEHIND_PROXY"),
            "{faults}"
        );
    }

    #[test]
    fn the_flags_are_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
