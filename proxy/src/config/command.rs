//! The command line, and the sources of a configuration.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches};

use super::options::{ALL, Fallback, Kind, Knob};
use super::words;
use crate::run::explain::{Asked, DescribedUser};
use crate::run::operator::{Task, Who};
use crate::run::simulate;

/// The requested command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Serve requests.
    Serve,
    /// Report whether the configuration is valid, and exit.
    Check {
        /// Whether to print it, with the source of each value.
        print: bool,
    },
    /// Explain who may do what, and why, and exit.
    Explain(Box<Asked>),
    /// Report what a new configuration would change, and exit.
    Simulate(simulate::Asked),
    /// Ask the running `sidegate` whether it is ready, and exit.
    Health,
    /// List or end users' sessions, and exit.
    Sessions(Box<Task>),
}

/// The sources of a configuration, without the files. It contains secrets, and cannot be printed.
#[derive(Clone)]
pub struct Sources {
    /// Values of flags, by variable.
    pub(super) flags: BTreeMap<&'static str, String>,
    /// The environment.
    pub(super) env: BTreeMap<OsString, OsString>,
    /// Whether log lines go to a terminal.
    pub(super) terminal: bool,
}

impl Sources {
    /// Reads this process's command line and environment, which no other code does.
    ///
    /// # Errors
    /// The message of clap, also for `--help` and `--version`: its `exit` prints it and exits with the right code.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn from_process() -> Result<(Command, Self), clap::Error> {
        Self::read(std::env::args_os(), std::env::vars_os(), std::io::stderr().is_terminal())
    }

    /// Reads a command line (the program's name first) beside an environment.
    ///
    /// # Errors
    /// The message of clap, also for `--help` and `--version`.
    pub fn read(
        args: impl IntoIterator<Item = OsString>,
        env: impl IntoIterator<Item = (OsString, OsString)>,
        terminal: bool,
    ) -> Result<(Command, Self), clap::Error> {
        let matches = command_line().try_get_matches_from(args)?;
        let (command, deepest) = match matches.subcommand() {
            Some(("check", inner)) => (Command::Check { print: inner.get_flag("print") }, inner),
            Some(("explain", inner)) => (Command::Explain(Box::new(asked(inner))), inner),
            Some(("simulate", inner)) => {
                let asked = simulate::Asked {
                    audit: inner.get_one::<PathBuf>("audit").cloned(),
                    sessions: inner.get_flag("live-sessions"),
                    json: inner.get_flag("json"),
                };
                (Command::Simulate(asked), inner)
            }
            Some(("health", inner)) => (Command::Health, inner),
            Some(("sessions", inner)) => sessions(inner).unwrap_or((Command::Serve, &matches)),
            Some(_) | None => (Command::Serve, &matches),
        };
        let given = |knob: &Knob| {
            knob.flag()?;
            Some((knob.variable, deepest.get_one::<String>(knob.variable)?.clone()))
        };
        let flags = ALL.iter().filter_map(given).collect();
        Ok((command, Self { flags, env: env.into_iter().collect(), terminal }))
    }
}

/// The question for `explain`.
fn asked(matches: &ArgMatches) -> Asked {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let texts = |name: &str| matches.get_many::<String>(name).into_iter().flatten().cloned().collect();
    let describes_user = ["who-user", "who-email", "who-id"].iter().any(|name| matches.contains_id(name));
    let who = describes_user.then(|| DescribedUser {
        user: text("who-user"),
        email: text("who-email"),
        id: text("who-id"),
        groups: texts("who-groups"),
        provider: text("who-provider"),
        claims: texts("who-claim"),
        signed_in: matches.get_one::<Duration>("who-signed-in").copied().unwrap_or_default(),
    });
    Asked {
        who,
        host: text("ask-host"),
        method: text("ask-method").unwrap_or_else(|| "GET".to_owned()),
        path: text("ask-path").unwrap_or_else(|| "/".to_owned()),
        from: matches.get_one::<IpAddr>("ask-from").copied().unwrap_or(NOWHERE),
        certificate: texts("ask-cert"),
        json: matches.get_flag("json"),
    }
}

/// An address of no real network (RFC 5737), the default caller.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn explain_command() -> clap::Command {
    let arg = |id: &'static str, long: &'static str, value: &'static str, help: &'static str| {
        Arg::new(id).long(long).value_name(value).help(help)
    };
    clap::Command::new("explain")
        .about("Say whether a request would be let in, by which rule and why: exit code 0 or 1")
        .after_help("Without --user, --email and --id it is asked by nobody who is known.")
        .arg(arg("who-user", "user", "NAME", "The username, or an email, as in the lists"))
        .arg(arg("who-email", "email", "EMAIL", "The email that the provider vouches for"))
        .arg(arg("who-id", "id", "ID", "The provider's id"))
        .arg(arg("who-groups", "groups", "LIST", "The groups, with commas between them").value_delimiter(','))
        .arg(arg("who-provider", "provider", "NAME", "The provider, where there are several"))
        .arg(arg("who-claim", "claim", "NAME=VALUE", "A claim; may be given several times").action(ArgAction::Append))
        .arg(
            arg("who-signed-in", "signed-in", "DURATION", "How long ago the person signed in [default: just now]")
                .value_parser(words::duration),
        )
        .arg(arg("ask-host", "host", "HOST", "The host that is asked for [default: the public one]"))
        .arg(arg("ask-method", "method", "METHOD", "The method [default: GET]"))
        .arg(arg("ask-path", "path", "PATH", "The path as it stands in the request [default: /]"))
        .arg(
            arg("ask-from", "from", "ADDRESS", "The caller's address [default: 192.0.2.1, which is nobody's]")
                .value_parser(clap::value_parser!(IpAddr)),
        )
        .arg(
            arg("ask-cert", "cert", "NAME", "A name of the client certificate (CN=laptop-7, DNS=…, URI=…, EMAIL=…, any); may be given several times")
                .action(ArgAction::Append),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("The answer as one JSON object"))
}

fn simulate_command() -> clap::Command {
    let switch = |id: &'static str, long: &'static str, help: &'static str| {
        Arg::new(id).long(long).action(ArgAction::SetTrue).help(help)
    };
    clap::Command::new("simulate")
        .about("Say who would lose or gain access under this configuration: exit code 1 where anything changes, else 0")
        .after_help("Name the new configuration with --config. The log is the AUDIT_FILE of a sidegate with AUDIT=all, or its standard error with LOG_FORMAT=json.")
        .arg(
            Arg::new("audit")
                .long("audit")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help("The audit log whose decisions are made again; - is standard input"),
        )
        .arg(switch("live-sessions", "sessions", "Look at the sessions that live, on a store that is shared (SESSION_STORE=redis)"))
        .arg(switch("json", "json", "The answer as one JSON object"))
}

/// The chosen sessions command; clap ensures that there is one.
fn sessions(matches: &ArgMatches) -> Option<(Command, &ArgMatches)> {
    let (name, inner) = matches.subcommand()?;
    let who = inner.get_one::<Who>("user").cloned();
    let task = match (name, who) {
        ("revoke", Some(who)) => Task::Revoke { who },
        ("list", who) => Task::List { who, json: inner.get_flag("json") },
        _ => return None,
    };
    Some((Command::Sessions(Box::new(task)), inner))
}

fn sessions_command() -> clap::Command {
    let user = Arg::new("user")
        .long("user")
        .value_name("USER")
        .help("Whose: an email, `id:` and the provider's id, or a username, as in OAUTH_ALLOWED_USERS");
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue).help("One JSON object a line");
    clap::Command::new("sessions")
        .about("See where people are signed in, or end their sessions, on a store that is shared (SESSION_STORE=redis)")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            clap::Command::new("list")
                .about("List live sessions, in no order; `@example.com` is everybody of a domain")
                .arg(user.clone().value_parser(Who::any))
                .arg(json),
        )
        .subcommand(
            clap::Command::new("revoke")
                .about("End all sessions of one person, on all replicas")
                .arg(user.required(true).value_parser(Who::one)),
        )
}

/// The command line, with every option's variable and default in its help.
#[must_use]
pub fn command_line() -> clap::Command {
    clap::Command::new("sidegate")
        .bin_name("sidegate")
        .version(env!("CARGO_PKG_VERSION"))
        .about("An authentication reverse proxy: people sign in with GitHub, Entra ID or OpenID Connect, and only then reach your application.")
        .after_help(after_help())
        .subcommand(
            clap::Command::new("check").about("Say whether the configuration is valid, without starting").arg(
                Arg::new("print")
                    .long("print")
                    .action(ArgAction::SetTrue)
                    .help("Print it too, with where each value comes from; secrets as ***"),
            ),
        )
        .subcommand(explain_command())
        .subcommand(simulate_command())
        .subcommand(clap::Command::new("health").about("Ask the running sidegate whether it is ready: exit code 0 or 1"))
        .subcommand(sessions_command())
        .args(ALL.iter().filter_map(arg))
}

fn arg(knob: &Knob) -> Option<Arg> {
    let value = match knob.kind {
        Kind::Word => "WORD",
        Kind::Switch => "true|false",
        Kind::List | Kind::Scopes => "LIST",
        Kind::Duration => "DURATION",
        Kind::Bytes => "BYTES",
        Kind::Count => "NUMBER",
        Kind::File => "FILE",
        Kind::Files => "FILES",
        Kind::Url => "URL",
        Kind::Address => "IP:PORT",
        Kind::Listener => "IP:PORT|unix:/PATH|systemd",
        Kind::Secret => "SECRET",
    };
    let arg = Arg::new(knob.variable).long(knob.flag()?).value_name(value).global(true);
    Some(arg.help_heading(knob.section).help(describe(knob)))
}

fn describe(knob: &Knob) -> String {
    let default = match knob.fallback {
        Fallback::Is(text) | Fallback::Otherwise(text) => text,
    };
    format!("{}\n[variable: {}] [default: {default}]", knob.help(), knob.variable)
}

fn after_help() -> String {
    let mut text = "Secrets, which never stand on a command line:\n".to_owned();
    for knob in ALL.iter().filter(|knob| knob.kind == Kind::Secret) {
        text.push_str(&format!("  {}\n      {}\n", knob.variable, describe(knob).replace('\n', "\n      ")));
    }
    text.push_str(
        "\nA flag wins over its variable, the variable over the file, the file over the default. An empty variable counts as unset. \
         Durations read 500ms, 90s, 15m, 24h.",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<(Command, Sources), clap::Error> {
        Sources::read(args.iter().map(OsString::from), [], false)
    }

    #[test]
    fn the_command_line_is_sound() {
        command_line().debug_assert();
    }

    #[test]
    fn flags_stand_before_and_behind_a_command() {
        for args in [["sidegate", "--session-ttl", "1h", "check"], ["sidegate", "check", "--session-ttl", "1h"]] {
            let (command, sources) = read(&args).ok().unwrap();
            assert_eq!(command, Command::Check { print: false });
            assert_eq!(sources.flags.get("SESSION_TTL").unwrap(), "1h");
        }
        assert_eq!(read(&["sidegate"]).ok().unwrap().0, Command::Serve);
        assert_eq!(read(&["sidegate", "health"]).ok().unwrap().0, Command::Health);
    }

    #[test]
    fn a_question_is_read_whole_and_nobody_asks_without_a_name() {
        let asked = |args: &[&str]| match read(&[&["sidegate", "explain"], args].concat()) {
            Ok((Command::Explain(asked), _)) => Ok(*asked),
            Ok((other, _)) => panic!("{other:?}"),
            Err(error) => Err(error.exit_code()),
        };
        let nobody = asked(&["--path", "/x?y", "--host", "a.example", "--method", "POST", "--from", "::1"]).unwrap();
        assert_eq!(nobody.who, None);
        assert_eq!((nobody.path.as_str(), nobody.method.as_str(), nobody.json), ("/x?y", "POST", false));
        let args =
            ["--user", "ann", "--groups", "a,b", "--claim", "x=y", "--claim", "z=1", "--signed-in", "20m", "--json"];
        let ann = asked(&args).unwrap();
        let who = ann.who.unwrap();
        assert_eq!(
            (who.groups, who.claims, who.signed_in),
            (vec!["a".to_owned(), "b".to_owned()], vec!["x=y".to_owned(), "z=1".to_owned()], Duration::from_secs(1200),)
        );
        assert!(ann.json && ann.path == "/" && ann.method == "GET");
        for wrong in [["--signed-in", "soon"], ["--from", "here"], ["--paths", "/"]] {
            assert_eq!(asked(&wrong), Err(2), "{wrong:?}");
        }
    }

    #[test]
    fn sessions_are_listed_of_anybody_and_revoked_of_one_person() {
        let task = |args: &[&str]| match read(&[&["sidegate", "sessions"], args].concat()) {
            Ok((Command::Sessions(task), _)) => Ok(*task),
            Ok((other, _)) => panic!("{other:?}"),
            Err(error) => Err(error.exit_code()),
        };
        let who = |text| Who::any(text).unwrap();
        assert_eq!(task(&["list"]), Ok(Task::List { who: None, json: false }));
        let some = Task::List { who: Some(who("@example.com")), json: true };
        assert_eq!(task(&["list", "--json", "--user", "@example.com", "--session-ttl", "1h"]), Ok(some));
        assert_eq!(task(&["revoke", "--user", "id:7"]), Ok(Task::Revoke { who: who("id:7") }));
        for wrong in [&[][..], &["revoke"], &["revoke", "--user", "@example.com"], &["revoke", "--user", "*"], &["end"]]
        {
            assert_eq!(task(wrong), Err(2), "{wrong:?}");
        }
        let (_, sources) = read(&["sidegate", "sessions", "list", "--session-ttl", "1h"]).ok().unwrap();
        assert_eq!(sources.flags.get("SESSION_TTL").unwrap(), "1h");
    }

    #[test]
    fn help_shows_every_option_with_its_variable_and_default() {
        let help = read(&["sidegate", "--help"]).err().unwrap().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for knob in ALL {
            let (Fallback::Is(default) | Fallback::Otherwise(default)) = knob.fallback;
            assert!(help.contains(&format!("[variable: {}] [default: {default}]", knob.variable)), "{}", knob.variable);
        }
    }

    #[test]
    fn an_unknown_flag_is_reported_without_its_value() {
        for args in [&["sidegate", "--oauth-client-secret=canary"][..], &["sidegate", "--no-such-flag", "canary"]] {
            let error = read(args).err().unwrap();
            assert_eq!(error.exit_code(), 2);
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }
}
