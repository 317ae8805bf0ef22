//! Loads settings from their sources, with messages about them.

use std::net::SocketAddr;

use super::advice;
use super::command::Sources;
use super::faults::Faults;
use super::files::Files;
use super::parse::{self, network};
use super::raw::Raw;
use super::reading::Reading;
use crate::serve::settings::Settings;

/// A valid configuration.
pub struct Loaded {
    /// The settings for the floors below.
    pub settings: Settings,
    /// Possible mistakes: logged as warnings.
    pub warnings: Vec<String>,
    /// Added or derived values: logged for information.
    pub notes: Vec<String>,
    /// Suggestions that need no warning at each start.
    pub advice: Vec<String>,
    /// Each active setting and rule, with its source; secrets as `***`.
    pub effective: Vec<String>,
    /// Files that could not be read now, and keep their earlier content; none at the start, when that is an error.
    pub stale: Vec<String>,
    /// What differs from the active configuration: variables, and paths of files.
    pub changes: Vec<String>,
    /// Every file that was read, for [`super::reload::watch`].
    pub files: Files,
}

/// Loads a configuration.
///
/// # Errors
/// All errors in it.
pub fn load(sources: &Sources) -> Result<Loaded, Faults> {
    load_with(sources, &Files::default(), false)
}

/// The same, for a start: also checks the files that it writes to.
///
/// # Errors
/// All errors in it.
pub fn load_to_serve(sources: &Sources) -> Result<Loaded, Faults> {
    load_with(sources, &Files::default(), true)
}

/// The same for a reload while that of `in_force` is active: a file that cannot be read now keeps its content from there.
pub(super) fn load_over(sources: &Sources, in_force: &Files) -> Result<Loaded, Faults> {
    load_with(sources, in_force, false)
}

fn load_with(sources: &Sources, in_force: &Files, starts: bool) -> Result<Loaded, Faults> {
    let mut files = Files::over(in_force);
    let raw = Raw::read(sources, &mut files);
    if raw.lacks_file {
        return Err(Faults::new(raw.faults, files));
    }
    let mut effective = raw.effective();
    let config = raw.config_file();
    let mut reading = Reading::new(raw, files);
    reading.starts = starts;
    let settings = parse::settings(&mut reading, sources.terminal);
    let Reading { faults, mut warnings, notes, mut files, effective: beside, .. } = reading;
    warnings.extend(settings.iter().flat_map(advice::warnings));
    let advice = settings.as_ref().map(advice::on).unwrap_or_default();
    effective.extend(beside);
    effective.extend(settings.iter().flat_map(|settings| &settings.rules).map(advice::print));
    let stale = files.take_stale();
    let changes = files.changes(config.as_deref());
    match settings {
        Some(settings) if faults.is_empty() => {
            Ok(Loaded { settings, warnings, notes, advice, effective, stale, changes, files })
        }
        Some(_) | None => Err(Faults::new(faults, files)),
    }
}

/// Reads only `ADMIN_ADDR`, which is all that `sidegate health` needs: it works without the secrets.
///
/// # Errors
/// What is wrong with that address, or with the file that may contain it.
pub fn admin_address(sources: &Sources) -> Result<SocketAddr, Faults> {
    let mut files = Files::default();
    let mut raw = Raw::read(sources, &mut files);
    if raw.lacks_file {
        return Err(Faults::new(raw.faults, files));
    }
    raw.faults.clear();
    let mut reading = Reading::new(raw, files);
    let address = network::admin(&mut reading);
    address.ok_or_else(|| Faults::new(reading.faults, reading.files))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::adapters::telemetry::LogFormat;
    use crate::config::options::{ALL, Fallback, Kind, SIDEGATE_CONFIG};
    use crate::config::trial::{self, GITHUB, faults, github, sign_in, sources, warnings};
    use crate::serve::settings::Mode;

    #[test]
    fn a_flag_wins_over_its_variable_over_the_file_over_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sidegate.toml");
        fs::write(&path, "timeout_idle = \"1s\"\ntimeout_body = \"2s\"\ntimeout_header = \"3s\"").unwrap();
        let config = ["--config", path.to_str().unwrap(), "--timeout-idle", "5s"];
        let env = [("TIMEOUT_IDLE", "6s"), ("TIMEOUT_BODY", "7s"), ("TIMEOUT_HEADER", " ")];
        let loaded = load(&sources(&config, &[&env])).unwrap();
        let timeouts = loaded.settings.timeouts;
        assert_eq!(timeouts.idle, Duration::from_secs(5));
        assert_eq!(timeouts.body, Duration::from_secs(7));
        assert_eq!(timeouts.header, Duration::from_secs(3), "an empty variable is none");
        assert_eq!(timeouts.first_byte, Duration::from_secs(60));
        assert_eq!(loaded.files.paths().collect::<Vec<_>>(), [path.as_path()]);
    }

    #[test]
    fn all_faults_show_at_once_each_with_its_variable_and_an_example() {
        let text = faults(trial::env(&[&[
            ("OAUTH_ENABLED", "true"),
            ("OAUTH_CLIENT_ID", ""),
            ("SESSION_TTL", "1x"),
            ("LIMIT_CONNECTIONS", "0"),
            ("OAUTH_ALOWED_USERS", "ann"),
            ("LISTEN_ADDR", "nowhere"),
            ("OAUTH_REDIRECT_URL", "https://app.example.com/callback"),
        ]]));
        for name in [
            "OAUTH_PROVIDER",
            "OAUTH_CLIENT_ID",
            "OAUTH_CLIENT_SECRET",
            "OAUTH_REDIRECT_URL",
            "SESSION_TTL",
            "LIMIT_CONNECTIONS",
            "OAUTH_ALOWED_USERS",
            "LISTEN_ADDR",
        ] {
            assert_eq!(
                text.lines().filter(|line| line.starts_with(&format!("{name}: "))).count(),
                1,
                "{name} in\n{text}"
            );
        }
        assert_eq!(text.lines().count(), 8, "{text}");
        assert!(text.contains("; for example https://app.example.com/api/v1/auth/callback"), "{text}");
        assert!(text.contains("did you mean OAUTH_ALLOWED_USERS?"), "{text}");
    }

    #[test]
    fn an_unknown_key_or_section_of_the_file_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sidegate.toml");
        let load = |text: &str| {
            fs::write(&path, text).unwrap();
            faults(load(&sources(&["--config", path.to_str().unwrap()], &[])))
        };
        assert!(load("sesion_ttl = \"1h\"").contains("did you mean `session_ttl`?"));
        assert!(load("session-ttl = \"1h\"").contains("did you mean `session_ttl`?"));
        assert!(load("[[providers]]\nname = \"x\"").contains("providers"));
        assert!(load("[oauth]\nenabled = true").contains("unknown key"));
        assert!(load("sidegate_config = \"x\"").contains("unknown key"));
        assert!(load("session_ttl = [\"1h\"]").contains("takes one value"));
        assert!(load("trusted_proxies = [1]").contains("array of texts"));
        assert!(load("oauth_allowed_users = []\noauth_enabled = true").contains("OAUTH_ALLOWED_USERS ("));
        let syntax = load("session_ttl = \"1h\"\nsession_secret = canary\n");
        assert!(syntax.contains("line 2") && !syntax.contains("canary"), "{syntax}");
        let missing = faults(super::load(&sources(&["--config", "/nowhere/x.toml"], &[])));
        assert!(missing.contains("/nowhere/x.toml: No such file or directory"), "{missing}");
    }

    #[test]
    fn unknown_names_are_reported_and_those_of_other_programs_are_ignored() {
        let text =
            warnings(github(&[("OAUTH_WHATEVER", "1"), ("SESSION_MANAGER", "x"), ("SESSION_REFRESH_EVERY", "1m")]));
        assert!(text.contains("OAUTH_WHATEVER") && text.contains("SESSION_REFRESH_EVERY"), "{text}");
        assert!(!text.contains("SESSION_MANAGER"), "{text}");
    }

    #[test]
    fn no_fault_or_warning_shows_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let file = at("file", "canary\u{1}canary");
        let config =
            at("c.toml", "oauth_client_secret = \"canary\"\nsession_secret = [\"canary\", 1]\ntls_key_file = 1.5\n");
        let broken = at("broken.toml", "oauth_client_secret = \"canary\nsession_secret = canary");
        let trials: &[&[(&str, &str)]] = &[
            &[("OAUTH_CLIENT_SECRET", " canary"), ("SESSION_SECRET", "canary")],
            &[("OAUTH_CLIENT_SECRET", "canary\ncanary"), ("SESSION_SECRET", "Y2FuYXJ5,canary!")],
            &[("OAUTH_CLIENT_SECRET", "canary"), ("OAUTH_CLIENT_SECRET_FILE", &file)],
            &[("OAUTH_CLIENT_SECRET", ""), ("OAUTH_CLIENT_SECRET_FILE", &file), ("SESSION_SECRET_FILE", &file)],
            &[("SIDEGATE_CONFIG", &config), ("OAUTH_CLIENT_SECRET", "")],
            &[("SIDEGATE_CONFIG", &broken)],
            &[("ASSERTION_KEY_FILE", &file), ("TLS_KEY_FILE", &file), ("TLS_CERT_FILE", &file)],
            &[("UPSTREAM_URL", "http://canary:canary@app"), ("OAUTH_GITHUB_URL", "https://canary:canary@github.com")],
            &[
                ("OAUTH_CLIENT_SECRT", "canary"),
                ("OAUTH_UNKNOWN", "canary"),
                ("SESSION_REDIS_URL", "redis://:canary@r"),
            ],
            &[("SESSION_STORE", "redis"), ("SESSION_REDIS_URL", "redis://canary:canary@r/canary")],
            &[
                ("SESSION_TTL", "canary"),
                ("OAUTH_TENANT_ID", "canary"),
                ("COOKIE_DOMAIN", "canary"),
                ("LOG_LEVEL", "canary"),
            ],
        ];
        for trial in trials {
            let text = match github(trial) {
                Ok(loaded) => loaded.warnings.join("\n") + &loaded.notes.join("\n"),
                Err(faults) => format!("{faults}\n{faults:?}"),
            };
            assert!(!text.is_empty() && !text.contains("canary"), "{text}");
        }
    }

    #[test]
    fn a_secret_may_stand_in_a_file_whose_last_line_break_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let read = |content: &str| {
            fs::write(&path, content).unwrap();
            github(&[("OAUTH_CLIENT_SECRET", ""), ("OAUTH_CLIENT_SECRET_FILE", path.to_str().unwrap())])
        };
        for content in ["from file", "from file\n", "from file\r\n"] {
            let crate::adapters::providers::ProviderSettings::Github { client, .. } = sign_in(read(content)).provider
            else {
                panic!("another provider");
            };
            assert!(client.secret.expose() == "from file");
        }
        assert!(read("from file\n\n").is_err());
        assert!(faults(read("\n")).contains("is empty"));
        let both = faults(github(&[("OAUTH_CLIENT_SECRET_FILE", "/x")]));
        assert!(both.starts_with("OAUTH_CLIENT_SECRET: is given beside OAUTH_CLIENT_SECRET_FILE"), "{both}");
        let missing = faults(github(&[("OAUTH_CLIENT_SECRET", ""), ("OAUTH_CLIENT_SECRET_FILE", "/nowhere/secret")]));
        assert!(
            missing.contains("OAUTH_CLIENT_SECRET_FILE: cannot read the file /nowhere/secret: No such file"),
            "{missing}"
        );
        assert_eq!(missing.lines().count(), 1, "{missing}");
    }

    #[test]
    fn a_variable_that_is_not_text_is_a_fault_and_not_unset() {
        use std::os::unix::ffi::OsStringExt as _;
        let mut sources = sources(&[], &[GITHUB]);
        sources.env.insert("OAUTH_ALLOWED_USERS".into(), std::ffi::OsString::from_vec(vec![b'a', 0xff]));
        assert!(faults(load(&sources)).starts_with("OAUTH_ALLOWED_USERS: is not UTF-8 text"));
    }

    #[test]
    fn health_needs_only_the_admin_address() {
        let sources = sources(&[], &[&[("OAUTH_ENABLED", "true"), ("ADMIN_ADDR", ":9999"), ("SESSION_TLL", "1h")]]);
        assert_eq!(admin_address(&sources).unwrap().to_string(), "0.0.0.0:9999");
    }

    #[test]
    fn the_example_file_names_every_option_and_equals_the_defaults() {
        let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/sidegate.toml"));
        let text = fs::read_to_string(&path).unwrap();
        let table: toml::Table = toml::from_str(&text).unwrap();
        for knob in ALL.iter().filter(|knob| **knob != SIDEGATE_CONFIG) {
            let key = knob.key().unwrap();
            let written = table.get(&key).map(|value| match (value.as_str(), value.as_array()) {
                (Some(text), _) => text.to_owned(),
                (None, Some(items)) => items.iter().map(|item| item.as_str().unwrap()).collect::<Vec<_>>().join(","),
                (None, None) => value.to_string(),
            });
            match knob.fallback {
                Fallback::Is(default) => assert_eq!(written.as_deref(), Some(default), "{key}"),
                Fallback::Otherwise(_) => {
                    assert!(text.contains(&format!("\n#{key} = ")), "{key}");
                    assert_eq!(written, None, "{key}");
                }
            }
        }
        let loaded = load(&sources(&["--config", path.to_str().unwrap()], &[])).unwrap();
        assert!(matches!(loaded.settings.mode, Mode::Open));
        assert_eq!(loaded.warnings, Vec::<String>::new());
        let bare = trial::env(&[]).unwrap().settings;
        assert_eq!(loaded.settings.limits, bare.limits);
        assert_eq!(loaded.settings.timeouts, bare.timeouts);
        assert_eq!(loaded.settings.shutdown, bare.shutdown);
        assert_eq!(loaded.settings.upstream, bare.upstream);
        assert_eq!((loaded.settings.listen, loaded.settings.admin), (bare.listen, bare.admin));
        let with_file = load(&sources(&["--config", path.to_str().unwrap()], &[GITHUB])).unwrap();
        assert_eq!(with_file.warnings, github(&[]).unwrap().warnings);
    }

    #[test]
    fn the_commented_lines_of_the_example_file_are_right_too() {
        let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/sidegate.toml"));
        let text = fs::read_to_string(path).unwrap();
        for knob in ALL.iter().filter(|knob| matches!(knob.fallback, Fallback::Otherwise(_))) {
            let Some(key) = knob.key() else { continue };
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("#{key} = "))).unwrap();
            let value: toml::Table = toml::from_str(&format!("value = {line}")).unwrap();
            let is_list = matches!(knob.kind, Kind::List | Kind::Scopes | Kind::Files);
            assert_eq!(value.get("value").unwrap().is_array(), is_list, "{key}");
        }
    }

    #[test]
    fn the_env_example_knows_no_other_names_and_lacks_only_what_must_be_filled_in() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../.env.example");
        let text = fs::read_to_string(path).unwrap();
        let names = text.lines().filter_map(|line| line.strip_prefix('#').unwrap_or(line).split_once('='));
        for (name, _) in names.filter(|(name, _)| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')) {
            assert!(ALL.iter().any(|knob| knob.variable == name), "{name}");
        }
        let active: Vec<(&str, &str)> =
            text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')).collect();
        let text = faults(trial::env(&[&active]));
        let missing: Vec<&str> = text.lines().filter_map(|line| line.split(':').next()).collect();
        assert_eq!(missing, ["OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET"], "{text}");
    }

    #[test]
    fn log_lines_are_text_on_a_terminal_only() {
        let mut sources = sources(&[], &[]);
        assert_eq!(load(&sources).unwrap().settings.log.format, LogFormat::Json);
        sources.terminal = true;
        assert_eq!(load(&sources).unwrap().settings.log.format, LogFormat::Text);
    }
}
