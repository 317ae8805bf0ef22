//! The command line and the environment, raw and parsed.

mod database;
mod secrets;
mod typed;

use std::env::VarError;
use std::fmt;
use std::net::SocketAddr;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use crate::entrance::{Hosts, Source as KeySource};
use crate::identity::{Impersonation, Naming};
use crate::secret::Secret;
use crate::store::{Key, Location};
use secrets::Source;
use typed::{boolean, typed};

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

impl Cli {
    /// Reads the command line and the environment.
    ///
    /// # Errors
    /// What is wrong with the command line or the environment, or the help that it asks for.
    pub fn read() -> Result<Self, clap::Error> {
        let mut cli = Self::try_parse()?;
        // Not as an option: every user of the machine can read a command line.
        cli.raw.database_url = secret("DATABASE_URL")?;
        cli.raw.encryption_key = secret("ENCRYPTION_KEY")?;
        Ok(cli)
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
fn secret(name: &str) -> Result<Option<Secret>, clap::Error> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(Secret::new(value))),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => {
            let words = format!("{name}: not text in UTF-8; set it again, or unset it");
            Err(Cli::command().error(ErrorKind::InvalidUtf8, words))
        }
    }
}

/// What to do instead of serving.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Command {
    /// Ask the running orchestrator how it is: exit code 0, or 1 with the reason on standard error
    Health,
    /// Simulate Kubernetes clusters on loopback, and print their kubeconfigs, a JSON object a line
    #[command(hide = true)]
    DemoApi(DemoApi),
}

/// What is simulated.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct DemoApi {
    /// How many clusters
    #[arg(long, default_value_t = 3)]
    pub clusters: usize,
    /// How many objects each has
    #[arg(long, default_value_t = 200)]
    pub objects: usize,
    /// How long a step of their life takes, in milliseconds; 0: nothing happens by itself
    #[arg(long, default_value_t = 0)]
    pub pace: u64,
    /// How many people may see a namespace each, `person-00` and so on; `everybody` may see all
    #[arg(long, default_value_t = 0)]
    pub people: usize,
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
    /// The hosts that requests may name beside loopback ones, with commas: flux.example.com, *.example.com, 192.0.2.7, or the URL
    /// that people open; * is every host [default: loopback names]
    #[arg(long, global = true, env = "ORCHESTRATOR_HOSTS", value_name = "LIST")]
    pub hosts: Option<String>,
    /// Believe only an identity that the proxy has signed, by these keys: a file, or the URL of the proxy's /api/v1/auth/jwks
    #[arg(long, global = true, env = "ORCHESTRATOR_ASSERTION_JWKS", value_name = "PATH|URL")]
    pub assertion_jwks: Option<String>,
    /// Who has to have signed it: the proxy's public origin [default: any origin on a host of ORCHESTRATOR_HOSTS]
    #[arg(long, global = true, env = "ORCHESTRATOR_ASSERTION_ISSUER", value_name = "URL")]
    pub assertion_issuer: Option<String>,
    /// Whom it has to be for: the origin of the proxy's UPSTREAM_URL, or the upstream's name [default: a loopback address with
    /// the port that is listened on]
    #[arg(long, global = true, env = "ORCHESTRATOR_ASSERTION_AUDIENCE", value_name = "WORD")]
    pub assertion_audience: Option<String>,
    /// Act in every cluster as the person who clicks, so that the cluster's RBAC decides; needs ORCHESTRATOR_ASSERTION_JWKS
    /// [default: false, and a choice for each cluster]
    #[arg(
        long,
        global = true,
        env = "ORCHESTRATOR_IMPERSONATE",
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true",
        require_equals = true
    )]
    pub impersonate: Option<String>,
    /// What comes before the names of people and groups in clusters, such as flux: [default: nothing]
    #[arg(long, global = true, env = "ORCHESTRATOR_IMPERSONATE_PREFIX", value_name = "WORD")]
    pub impersonate_prefix: Option<String>,
    /// By what clusters know a person: username (GitHub, Entra), email or id [default: username]
    #[arg(long, global = true, env = "ORCHESTRATOR_IMPERSONATE_USER", value_name = "WORD")]
    pub impersonate_user: Option<String>,
    /// Show the cluster that this program runs in, by its pod's service account [default: false]
    #[arg(
        long,
        global = true,
        env = "IN_CLUSTER",
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true",
        require_equals = true
    )]
    pub in_cluster: Option<String>,
    /// Show three simulated clusters; without DATABASE_URL nothing is kept
    #[arg(long)]
    pub demo: bool,
    /// A file with the URL of the database, instead of the variable DATABASE_URL: postgres://… or sqlite:///path
    /// [default: sqlite://./data/orchestrator.db]
    #[arg(long, global = true, env = "DATABASE_URL_FILE", value_name = "PATH")]
    pub database_url_file: Option<String>,
    /// A file with the keys that seal kubeconfigs, instead of the variable ENCRYPTION_KEY: 32 bytes of base64 or hex, with
    /// commas between several; the first seals, all open [default: SQLite keeps one in a file beside it; PostgreSQL needs one]
    #[arg(long, global = true, env = "ENCRYPTION_KEY_FILE", value_name = "PATH")]
    pub encryption_key_file: Option<String>,
    /// The variable DATABASE_URL.
    #[arg(skip)]
    pub database_url: Option<Secret>,
    /// The variable ENCRYPTION_KEY.
    #[arg(skip)]
    pub encryption_key: Option<Secret>,
}

/// The settings of the orchestrator.
#[derive(Debug)]
pub struct Settings {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The hosts that requests may name.
    pub hosts: Hosts,
    /// Which signed identities are accepted; without this, the proxy's headers are trusted.
    pub assertion: Option<AssertionSettings>,
    /// How clusters are accessed as a person; without this, they cannot be.
    pub impersonation: Option<Impersonation>,
    /// Where the database is.
    pub database: Location,
    /// The keys that open what is sealed there; the first seals.
    pub keys: Vec<Key>,
    /// Whether the cluster that the program runs in may be shown.
    pub in_cluster: bool,
    /// Whether simulated clusters are shown.
    pub demo: bool,
}

/// Which signed identities are accepted.
#[derive(Debug)]
pub struct AssertionSettings {
    /// Where the keys are.
    pub keys: KeySource,
    /// The issuer, if it is fixed.
    pub issuer: Option<String>,
    /// The audience, if it is fixed.
    pub audience: Option<String>,
}

impl Settings {
    /// Parses the options.
    ///
    /// # Errors
    /// All faults at once, each with an example of a valid value.
    pub fn parse(raw: &Raw) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let listen = listen(raw, &mut faults);
        let hosts = hosts(raw, &mut faults);
        let assertion = assertion(raw, &hosts, &mut faults);
        let impersonation = impersonation(raw, assertion.is_some(), &mut faults);
        let in_cluster = boolean("IN_CLUSTER (--in-cluster)", raw.in_cluster.as_deref(), &mut faults);
        let (url, file) = (raw.database_url.as_ref(), raw.database_url_file.as_deref());
        let url = Source { name: "DATABASE_URL", value: url, file }.read(&mut faults);
        let database = database::location(url.as_ref(), raw.demo, &mut faults);
        let (key, file) = (raw.encryption_key.as_ref(), raw.encryption_key_file.as_deref());
        let key = Source { name: "ENCRYPTION_KEY", value: key, file }.read(&mut faults);
        let keys = database::keys(key.as_ref(), &mut faults);
        if faults.is_empty() && keys.is_empty() && matches!(database, Some(Location::Postgres(_))) {
            faults.push(
                "ENCRYPTION_KEY: must be set with PostgreSQL, since kubeconfigs lie there sealed under it; for example the \
                 output of `openssl rand -base64 32`"
                    .into(),
            );
        }
        match (listen, database) {
            (Some(listen), Some(database)) if faults.is_empty() => {
                Ok(Self { listen, hosts, assertion, impersonation, database, keys, in_cluster, demo: raw.demo })
            }
            (_, _) => Err(Faults(faults)),
        }
    }

    /// Parses only the address to listen on, for the `health` command.
    ///
    /// # Errors
    /// As [`Settings::parse`].
    pub fn parse_listen(raw: &Raw) -> Result<SocketAddr, Faults> {
        let mut faults = Vec::new();
        listen(raw, &mut faults).filter(|_| faults.is_empty()).ok_or(Faults(faults))
    }
}

fn listen(raw: &Raw, faults: &mut Vec<String>) -> Option<SocketAddr> {
    let before = faults.len();
    let listen = listen_addr(raw, faults);
    let behind_proxy = boolean("ORCHESTRATOR_BEHIND_PROXY (--behind-proxy)", raw.behind_proxy.as_deref(), faults);
    if let Some(addr) = listen
        && faults.len() == before
        && !behind_proxy
        && !addr.ip().to_canonical().is_loopback()
    {
        faults.push(format!(
            "ORCHESTRATOR_LISTEN_ADDR (--listen): {addr} can be reached by other machines, and the orchestrator lets everyone \
             in that reaches it. Listen on {LISTEN_DEFAULT}; or, where nothing but the proxy can reach the address (a \
             container network of their own), set ORCHESTRATOR_BEHIND_PROXY=true"
        ));
    }
    listen
}

fn hosts(raw: &Raw, faults: &mut Vec<String>) -> Hosts {
    Hosts::parse(raw.hosts.as_deref().unwrap_or_default()).unwrap_or_else(|bad| {
        faults.push(format!("ORCHESTRATOR_HOSTS (--hosts): {bad}"));
        Hosts::default()
    })
}

fn assertion(raw: &Raw, hosts: &Hosts, faults: &mut Vec<String>) -> Option<AssertionSettings> {
    let private = matches!(typed(raw.behind_proxy.as_deref()), Some("true" | "1"));
    let issuer = typed(raw.assertion_issuer.as_deref()).map(|issuer| issuer.trim_end_matches('/').to_owned());
    let audience = typed(raw.assertion_audience.as_deref()).map(str::to_owned);
    let Some(source) = typed(raw.assertion_jwks.as_deref()) else {
        if issuer.is_some() || audience.is_some() {
            faults.push(
                "ORCHESTRATOR_ASSERTION_JWKS (--assertion-jwks): missing, while ORCHESTRATOR_ASSERTION_ISSUER or \
                 ORCHESTRATOR_ASSERTION_AUDIENCE is set; for example http://127.0.0.1:8080/api/v1/auth/jwks"
                    .into(),
            );
        }
        return None;
    };
    if hosts.is_every() && issuer.is_none() {
        faults.push(
            "ORCHESTRATOR_ASSERTION_ISSUER (--assertion-issuer): needed where ORCHESTRATOR_HOSTS is *; the proxy's public \
             origin, for example https://flux.example.com"
                .into(),
        );
    }
    match KeySource::parse(source, private) {
        Ok(keys) => Some(AssertionSettings { keys, issuer, audience }),
        Err(bad) => {
            faults.push(format!("ORCHESTRATOR_ASSERTION_JWKS (--assertion-jwks): {bad}"));
            None
        }
    }
}

fn impersonation(raw: &Raw, signed: bool, faults: &mut Vec<String>) -> Option<Impersonation> {
    let everywhere = boolean("ORCHESTRATOR_IMPERSONATE (--impersonate)", raw.impersonate.as_deref(), faults);
    if everywhere && !signed && typed(raw.assertion_jwks.as_deref()).is_none() {
        faults.push(
            "ORCHESTRATOR_ASSERTION_JWKS (--assertion-jwks): needed with ORCHESTRATOR_IMPERSONATE, since anyone who can reach the \
             orchestrator could write plain headers; for example http://127.0.0.1:8080/api/v1/auth/jwks"
                .into(),
        );
    }
    // Whitespace inside it would be part of the names that RBAC has to repeat.
    let prefix = raw.impersonate_prefix.clone().unwrap_or_default();
    if prefix.chars().any(|char| char.is_whitespace() || char.is_control()) || prefix.starts_with("system:") {
        faults.push(
            "ORCHESTRATOR_IMPERSONATE_PREFIX (--impersonate-prefix): has blanks, or begins with Kubernetes' own `system:`; for \
             example flux:"
                .into(),
        );
    }
    let by = match typed(raw.impersonate_user.as_deref()) {
        None | Some("username") => Naming::Username,
        Some("email") => Naming::Email,
        Some("id") => Naming::Id,
        Some(_) => {
            faults.push("ORCHESTRATOR_IMPERSONATE_USER (--impersonate-user): none of username, email, id".into());
            Naming::Username
        }
    };
    signed.then_some(Impersonation { everywhere, prefix, by })
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
        let raw = Raw { listen: Some(listen.into()), behind_proxy: Some(behind_proxy.into()), ..Raw::default() };
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
    fn hosts_keys_and_impersonation_are_checked_together() {
        let word = |text: &str| Some(text.to_owned());
        let faults = |raw: &Raw| Settings::parse(raw).map_err(|faults| faults.to_string()).err().unwrap_or_default();
        let keys = Raw { assertion_jwks: word("http://127.0.0.1:8080/api/v1/auth/jwks"), ..Raw::default() };
        let impersonate = Raw { impersonate: word("true"), impersonate_prefix: word("flux:"), ..Raw::default() };
        for (raw, named) in [
            (Raw { hosts: word("a b"), ..Raw::default() }, "ORCHESTRATOR_HOSTS"),
            (Raw { assertion_jwks: word("http://sidegate:8080/x"), ..Raw::default() }, "ORCHESTRATOR_ASSERTION_JWKS"),
            (Raw { assertion_issuer: word("https://a"), ..Raw::default() }, "ORCHESTRATOR_ASSERTION_JWKS"),
            (
                Raw { hosts: word("*"), assertion_jwks: word("/jwks"), ..Raw::default() },
                "ORCHESTRATOR_ASSERTION_ISSUER",
            ),
            (impersonate, "ORCHESTRATOR_ASSERTION_JWKS"),
            (Raw { impersonate: word("perhaps"), ..Raw::default() }, "ORCHESTRATOR_IMPERSONATE"),
            (Raw { impersonate_prefix: word("system:"), ..Raw::default() }, "ORCHESTRATOR_IMPERSONATE_PREFIX"),
            (Raw { impersonate_user: word("name"), ..Raw::default() }, "ORCHESTRATOR_IMPERSONATE_USER"),
        ] {
            assert!(faults(&raw).contains(named), "{named}: {}", faults(&raw));
        }
        let settings =
            Settings::parse(&Raw { impersonate: word("true"), impersonate_prefix: word("flux:"), ..keys }).unwrap();
        let expected = Impersonation { everywhere: true, prefix: "flux:".into(), by: Naming::Username };
        assert_eq!(settings.impersonation, Some(expected));
        assert!(settings.assertion.is_some());
    }

    #[test]
    fn all_faults_are_reported_at_once_and_without_secrets() {
        let raw = Raw {
            listen: Some("8081".into()),
            behind_proxy: Some("perhaps".into()),
            in_cluster: Some("perhaps".into()),
            database_url: Some(Secret::new("mysql://hidden".into())),
            encryption_key: Some(Secret::new("hidden".into())),
            ..Raw::default()
        };
        let faults = Settings::parse(&raw).unwrap_err().to_string();
        for name in ["_LISTEN_ADDR", "_BEHIND_PROXY", "IN_CLUSTER", "DATABASE_URL", "ENCRYPTION_KEY"] {
            assert!(faults.contains(name), "{name}: {faults}");
        }
        assert!(!faults.contains("hidden"), "{faults}");
    }

    #[test]
    fn a_secret_comes_from_its_variable_or_from_a_file_but_not_from_both() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "postgres://db/orchestrator\r\n").unwrap();
        let mut raw = Raw {
            database_url_file: Some(file.path().to_str().unwrap().into()),
            encryption_key: Some(Secret::new("01".repeat(32))),
            ..Raw::default()
        };
        let settings = Settings::parse(&raw).unwrap();
        assert!(matches!(settings.database, Location::Postgres(url) if url.expose() == "postgres://db/orchestrator"));
        raw.database_url = Some(Secret::new("sqlite:a.db".into()));
        assert!(Settings::parse(&raw).unwrap_err().to_string().contains("keep one of them"));
        raw.database_url = None;
        raw.database_url_file = Some("/nowhere".into());
        assert!(Settings::parse(&raw).unwrap_err().to_string().contains("/nowhere"));
    }

    #[test]
    fn postgresql_needs_a_key_and_sqlite_does_not() {
        let with = |url: &str| Raw { database_url: Some(Secret::new(url.into())), ..Raw::default() };
        assert!(Settings::parse(&with("postgres://db/o")).unwrap_err().to_string().contains("ENCRYPTION_KEY"));
        assert!(Settings::parse(&with("sqlite:o.db")).unwrap().keys.is_empty());
    }

    #[test]
    fn the_compose_file_passes_on_every_setting_of_the_orchestrators_own() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/docker-compose.yml");
        let text = std::fs::read_to_string(path).unwrap();
        let (_, service) = text.split_once("\n  orchestrator:\n").unwrap();
        let (service, _) = service.split_once("\n    healthcheck:\n").unwrap();
        let lines = service.lines().filter_map(|line| line.strip_prefix("      - "));
        let given: Vec<&str> = lines.map(|line| line.split_once('=').map_or(line, |(name, _)| name)).collect();
        let command = Cli::command();
        let known: Vec<&str> = command.get_arguments().filter_map(|argument| argument.get_env()?.to_str()).collect();
        assert!(known.len() > 10, "{known:?}");
        for name in known.into_iter().filter(|name| name.starts_with("ORCHESTRATOR_")) {
            assert!(given.contains(&name), "{name} is not passed on");
        }
    }

    #[test]
    fn the_flags_are_well_formed() {
        Cli::command().debug_assert();
    }
}
