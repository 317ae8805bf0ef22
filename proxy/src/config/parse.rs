//! Parses raw values into settings; reports all errors at once.

mod client_auth;
mod identity;
mod impersonation;
pub(super) mod keys;
pub(super) mod network;
pub(super) mod people;
pub(super) mod provider;
mod redis;
mod routes;
pub(super) mod session;
mod tokens;
mod upstreams;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::options::{
    ALL, ASSERTION_GROUPS, AUDIT, AUDIT_FILE, HTTP_REDIRECT_ADDR, LIMIT_CONNECTIONS, LIMIT_HEADER_BYTES, LIMIT_MEMORY,
    LOG_FORMAT, LOG_LEVEL, OAUTH_BEARER_AUDIENCES, OAUTH_BEARER_GITHUB, OAUTH_CA_FILE, OAUTH_CLIENT_ID,
    OAUTH_CLIENT_SECRET, OAUTH_CLIENT_SECRET_FILE, OAUTH_ENABLED, OAUTH_PROVIDER, OAUTH_REDIRECT_URL,
    OAUTH_USERNAME_CLAIM, SHUTDOWN_DELAY, SHUTDOWN_TIMEOUT, TIMEOUT_BODY, TIMEOUT_FIRST_BYTE, TIMEOUT_HEADER,
    TIMEOUT_IDLE, UPSTREAM_IGNORE_CASE,
};
use super::reading::{Reading, Zero};
use super::words;
use crate::adapters::files;
use crate::adapters::telemetry::{LogFormat, LogSettings};
use crate::domain::identity::ProviderKind;
use crate::domain::policy::{AllowLists, AllowedGroups};
use crate::domain::rules::{Entry, Rule};
use crate::serve::settings::{Limits, Mode, Settings, Shutdown, SignInSettings, Timeouts};
use crate::serve::upstream_settings::IdentityChoice;

const DAY: Duration = Duration::from_secs(86_400);

/// Parses everything. `None` only if there are errors.
pub(super) fn settings(reading: &mut Reading, terminal: bool) -> Option<Settings> {
    let network = network::read(reading);
    let upstream = network::upstream(reading, network.as_ref());
    let timeouts = timeouts(reading);
    let usual = upstreams::Usual {
        connect: upstream.as_ref().map_or(Duration::from_secs(5), |upstream| upstream.connect_timeout),
        timeouts,
    };
    let (names, upstreams) = upstreams::read(reading, &usual, network.as_ref());
    let identity = identity::read(reading);
    let assertion_groups = reading.parsed(ASSERTION_GROUPS, words::switch);
    let chosen: Vec<&str> =
        upstreams.iter().map(|named| &named.identity).chain([&identity]).flat_map(claims_of).collect();
    let (mode, rules) = mode(reading, names, &chosen);
    let tls = keys::tls(reading);
    let client_auth = client_auth::read(reading, &rules);
    let trusted_proxies = network::trusted_proxies(reading);
    let proxy_protocol_from = network::proxy_protocol_from(reading);
    let limits = Limits {
        header_bytes: reading.number(LIMIT_HEADER_BYTES, 8192..=1 << 20),
        connections: reading.number(LIMIT_CONNECTIONS, 1..=1_000_000),
        memory: memory(reading),
    };
    let shutdown = shutdown(reading);
    let (log, audit_all) = (log(reading, terminal), audit_all(reading));
    let network = network?;
    let mode = mode?;
    if network.redirect.is_some() && tls.is_empty() && !is_public_by_https(&mode) {
        reading.fault(
            HTTP_REDIRECT_ADDR,
            "leads to https, but nothing speaks it: set TLS_CERT_FILE, or an https OAUTH_REDIRECT_URL",
        );
    }
    Some(Settings {
        listen: network.listen,
        admin: network.admin,
        redirect: network.redirect,
        ext_authz: network.ext_authz,
        tls,
        client_auth,
        mode,
        rules,
        upstream: upstream?,
        identity,
        assertion_groups: assertion_groups?,
        upstreams,
        trusted_proxies,
        proxy_protocol_from,
        limits,
        timeouts,
        shutdown,
        audit_all: audit_all?,
        log: log?,
    })
}

fn is_public_by_https(mode: &Mode) -> bool {
    match mode {
        Mode::SignIn(sign_in) => sign_in.public_origin.scheme() == "https",
        Mode::Open => false,
    }
}

/// The least memory that serves a few users.
const MEMORY_LEAST: usize = 16 * 1024 * 1024;

fn memory(reading: &mut Reading) -> Option<usize> {
    reading.parsed(LIMIT_MEMORY, |text| {
        text.parse()
            .ok()
            .filter(|bytes| *bytes == 0 || *bytes >= MEMORY_LEAST)
            .ok_or_else(|| format!("must be a whole number of bytes, from {MEMORY_LEAST}, or 0"))
    })
}

/// Whether sign-in is enabled, and the rules, which may name the provider.
fn mode(reading: &mut Reading, upstreams: Vec<upstreams::Named>, chosen: &[&str]) -> (Option<Mode>, Vec<Rule>) {
    let enabled = reading.parsed(OAUTH_ENABLED, words::switch);
    let ignores_case = reading.parsed(UPSTREAM_IGNORE_CASE, words::switch).unwrap_or_default();
    let provider = if enabled == Some(true) { provider::kind(reading) } else { None };
    let sections = tokens::sections(reading);
    let tokens: Vec<_> = sections.iter().map(|section| section.name.clone()).collect();
    let takes_tokens = enabled == Some(true)
        && (!tokens.is_empty() || reading.is_set(OAUTH_BEARER_AUDIENCES) || reading.differs(OAUTH_BEARER_GITHUB));
    let usernames = reading.is_set(OAUTH_USERNAME_CLAIM);
    let known = routes::Known { provider, tokens, takes_tokens, usernames, ignores_case, upstreams };
    let rules = routes::read(reading, &known);
    let acting = known.upstreams.iter().filter_map(|named| Some((named.name.as_str(), named.acts.as_ref()?)));
    let acting: Vec<_> = acting.collect();
    if enabled == Some(false) {
        impersonation::refuse_open_mode(reading, &acting);
    } else if let Some(kind) = known.provider {
        let vouchers = std::iter::once(kind.as_str()).chain(known.tokens.iter().map(String::as_str));
        impersonation::refuse_shared_names(reading, &acting, &rules, &vouchers.collect::<Vec<_>>());
    }
    (sign_in_or_open(reading, enabled, provider, sections, &rules, chosen), rules)
}

fn sign_in_or_open(
    reading: &mut Reading,
    enabled: Option<bool>,
    kind: Option<ProviderKind>,
    sections: Vec<tokens::Section>,
    rules: &[Rule],
    chosen: &[&str],
) -> Option<Mode> {
    let lifetime = session::lifetime(reading);
    let recheck = session::recheck(reading);
    let secrets = session::secrets(reading);
    let store = session::store(reading, lifetime);
    let assertion_keys = keys::assertion_keys(reading);
    if !enabled? {
        warn_of_open_mode(reading);
        tokens::warn_of_open_mode(reading, &sections);
        return Some(Mode::Open);
    }
    let id_token = !reading.id_tokens.is_empty();
    let redirect_url = provider::redirect_url(reading);
    let cookie = session::cookie(reading, redirect_url.as_ref());
    let people = people::read(reading, kind);
    // Entries that apply only to bearer tokens do not concern the provider.
    let is_of_provider = |entry: &&Entry| !sections.iter().any(|section| entry.provider() == Some(&section.name));
    let entries: Vec<&Entry> = rules.iter().flat_map(Rule::entries).filter(is_of_provider).collect();
    if let (Some(kind), Some(store)) = (kind, &store) {
        identity::judge_id_tokens(reading, kind, store);
    }
    let asked = provider::Asked { groups: groups(&people, &entries), claims: claims(&entries, chosen), id_token };
    let provider = provider::read(reading, kind, redirect_url.clone(), asked);
    let provider_roots = keys::roots(reading, OAUTH_CA_FILE);
    let way_out = provider::way_out(reading, provider.as_ref(), &sections);
    let others = tokens::OtherSettings {
        kind,
        provider: provider.as_ref(),
        roots: &provider_roots,
        way_out: way_out.as_ref(),
        lasts: lifetime.absolute,
        rules,
        chosen,
    };
    let (bearer, token_lists) = tokens::read(reading, sections, &others);
    let public_origin = provider::origin_of(&redirect_url?);
    Some(Mode::SignIn(Box::new(SignInSettings {
        provider: provider?,
        bearer,
        token_lists,
        provider_roots,
        way_out,
        public_origin,
        allow: people,
        store: store?,
        lifetime,
        recheck,
        secrets,
        cookie: cookie?,
        assertion_keys,
    })))
}

/// The groups that the lists or rules refer to.
fn groups(people: &AllowLists, entries: &[&Entry]) -> Option<AllowedGroups> {
    let named: Vec<&str> = entries.iter().filter_map(|entry| entry.group()).collect();
    let by_rules = (!named.is_empty()).then(|| AllowedGroups::parse(named));
    match (people.groups.clone(), by_rules) {
        (Some(listed), Some(named)) => Some(listed.and(named)),
        (listed, named) => listed.or(named),
    }
}

/// The claims in a table's fields.
fn claims_of(choice: &IdentityChoice) -> Vec<&str> {
    match choice {
        IdentityChoice::Table(table) => table.claims().collect(),
        IdentityChoice::Usual | IdentityChoice::Nothing => Vec::new(),
    }
}

/// The claims that rules and tables refer to, each once.
fn claims(entries: &[&Entry], chosen: &[&str]) -> Vec<String> {
    let named: BTreeSet<&str> =
        entries.iter().filter_map(|entry| entry.claim()).chain(chosen.iter().copied()).collect();
    named.into_iter().map(str::to_owned).collect()
}

fn warn_of_open_mode(reading: &mut Reading) {
    let secret = reading.is_set(OAUTH_CLIENT_SECRET) || reading.is_set(OAUTH_CLIENT_SECRET_FILE);
    let complete =
        secret && [OAUTH_PROVIDER, OAUTH_CLIENT_ID, OAUTH_REDIRECT_URL].into_iter().all(|knob| reading.is_set(knob));
    let any =
        ALL.iter().any(|knob| knob.variable.starts_with("OAUTH_") && *knob != OAUTH_ENABLED && reading.differs(*knob));
    if complete {
        reading.warn(
            "OPEN MODE: NOBODY SIGNS IN, AND EVERYBODY WHO REACHES THIS PORT REACHES THE UPSTREAM. The OAUTH_ settings are complete, \
             but OAUTH_ENABLED is not true: set OAUTH_ENABLED=true to use them",
        );
    } else if any {
        reading.warn("open mode: there are OAUTH_ settings, but OAUTH_ENABLED is not true, so nobody signs in");
    } else {
        reading
            .note("open mode: everything is forwarded without authentication; OAUTH_ENABLED=true lets people sign in");
    }
}

/// None of these can be turned off: each bounds a wait that a client or the upstream causes.
fn timeouts(reading: &mut Reading) -> Timeouts {
    let mut within = |knob, most| reading.duration(knob, Duration::from_millis(10)..=most, Zero::Refused);
    Timeouts {
        header: within(TIMEOUT_HEADER, Duration::from_secs(600)),
        idle: within(TIMEOUT_IDLE, DAY),
        first_byte: within(TIMEOUT_FIRST_BYTE, DAY),
        body: within(TIMEOUT_BODY, DAY),
    }
}

fn shutdown(reading: &mut Reading) -> Shutdown {
    let mut within = |knob, most| reading.duration(knob, Duration::from_millis(1)..=most, Zero::Allowed);
    Shutdown {
        delay: within(SHUTDOWN_DELAY, Duration::from_secs(600)),
        timeout: within(SHUTDOWN_TIMEOUT, Duration::from_secs(3600)),
    }
}

fn audit_all(reading: &mut Reading) -> Option<bool> {
    match reading.text(AUDIT).map(|text| text.to_ascii_lowercase()).as_deref() {
        Some("default") => Some(false),
        Some("all") => Some(true),
        Some(_) | None => {
            reading.fault(AUDIT, "must be `default` or `all`");
            None
        }
    }
}

fn log(reading: &mut Reading, terminal: bool) -> Option<LogSettings> {
    let filter = reading.parsed(LOG_LEVEL, log_filter);
    let format = match reading.text(LOG_FORMAT).map(|text| text.to_ascii_lowercase()).as_deref() {
        None if terminal => LogFormat::Text,
        None | Some("json") => LogFormat::Json,
        Some("text") => LogFormat::Text,
        Some(_) => {
            reading.fault(LOG_FORMAT, "must be `text` or `json`");
            return None;
        }
    };
    Some(LogSettings { filter: filter?, format, audit_file: audit_file(reading) })
}

fn audit_file(reading: &mut Reading) -> Option<PathBuf> {
    let path = reading.path(AUDIT_FILE)?;
    if reading.starts
        && let Err(error) = files::can_append(&path)
    {
        reading.fault(AUDIT_FILE, format!("cannot append to the file {}: {error}", path.display()));
    }
    Some(path)
}

/// The filter accepts any word as a module's name: a misspelled level would silence everything.
fn log_filter(text: &str) -> Result<String, String> {
    let is_level = |word: &str| {
        ["error", "warn", "info", "debug", "trace", "off"].iter().any(|level| word.eq_ignore_ascii_case(level))
    };
    let directives = text.split(',').map(str::trim);
    let sound = directives.filter(|part| !part.is_empty()).all(|part| is_level(part) || part.contains('='));
    if sound && EnvFilter::try_new(text).is_ok() {
        Ok(text.to_owned())
    } else {
        Err("must be error, warn, info, debug or trace, or a filter such as `info,sidegate=debug`".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::adapters::providers::{ProviderSettings, Tenants};
    use crate::adapters::stores::StoreSettings;
    use crate::config::trial::{self, faults, github, sign_in, warnings};

    const ENTRA: &[(&str, &str)] = &[("OAUTH_PROVIDER", "azure"), ("OAUTH_ALLOWED_USERS", "@example.com")];
    const OIDC: &[(&str, &str)] = &[
        ("OAUTH_PROVIDER", "oidc"),
        ("OAUTH_ISSUER_URL", "https://id.example.com"),
        ("OAUTH_ALLOWED_USERS", "@example.com"),
    ];

    fn entra(more: &[(&str, &str)]) -> Result<crate::config::Loaded, crate::config::Faults> {
        github(&[ENTRA, more].concat())
    }

    fn oidc(more: &[(&str, &str)]) -> Result<crate::config::Loaded, crate::config::Faults> {
        github(&[OIDC, more].concat())
    }

    fn scopes(outcome: Result<crate::config::Loaded, crate::config::Faults>) -> String {
        let (ProviderSettings::Github { client, .. }
        | ProviderSettings::Entra { client, .. }
        | ProviderSettings::Oidc { client, .. }) = sign_in(outcome).provider;
        client.scopes.join(" ")
    }

    #[test]
    fn a_sound_configuration_has_nothing_to_be_warned_of() {
        let loaded = github(&[]).unwrap();
        assert_eq!((loaded.warnings, loaded.notes), (Vec::<String>::new(), Vec::new()));
        let settings = sign_in(github(&[]));
        assert_eq!(settings.public_origin.as_str(), "https://app.example.com/");
        assert!(settings.cookie.secure && settings.cookie.domain.is_none() && settings.secrets.is_empty());
        assert_eq!(entra(&[("OAUTH_TENANT_ID", "contoso.com")]).unwrap().warnings, Vec::<String>::new());
        assert_eq!(oidc(&[]).unwrap().warnings, Vec::<String>::new());
    }

    #[test]
    fn open_mode_beside_complete_sign_in_settings_cannot_be_missed() {
        for enabled in ["", "false", "No", "0", "off"] {
            assert!(warnings(github(&[("OAUTH_ENABLED", enabled)])).starts_with("OPEN MODE"), "{enabled}");
        }
        assert!(warnings(github(&[("OAUTH_ENABLED", ""), ("OAUTH_CLIENT_ID", "")])).starts_with("open mode"));
        assert_eq!(warnings(trial::env(&[])), "");
        assert!(faults(github(&[("OAUTH_ENABLED", "ture")])).starts_with("OAUTH_ENABLED: must be `true` or `false`"));
        sign_in(github(&[("OAUTH_ENABLED", "Yes")]));
    }

    #[test]
    fn an_allow_list_that_is_set_and_empty_is_a_fault() {
        for name in ["OAUTH_ALLOWED_USERS", "OAUTH_ALLOWED_GROUPS", "OAUTH_ALLOWED_USERS_FILE"] {
            for value in ["", " "] {
                assert!(
                    faults(github(&[(name, value)])).starts_with(&format!("{name}: is set and empty")),
                    "{name}={value:?}"
                );
            }
        }
        assert!(faults(github(&[("OAUTH_ALLOWED_USERS", " , ")])).contains("`*` for everyone"));
    }

    #[test]
    fn without_a_list_everyone_passes_and_a_warning_says_so() {
        let bare: Vec<_> = trial::GITHUB.iter().copied().filter(|(name, _)| *name != "OAUTH_ALLOWED_USERS").collect();
        let loaded = trial::env(&[&bare]).unwrap();
        assert!(loaded.warnings.join("\n").contains("OAUTH_ALLOWED_USERS is not set: everyone"));
        assert!(sign_in(Ok(loaded)).allow.admits_everyone());
        assert_eq!(warnings(github(&[("OAUTH_ALLOWED_USERS", "*")])), "", "who writes `*` means it");
        assert!(warnings(github(&[("OAUTH_ALLOWED_USERS", "*,ann")])).contains("change nothing"));
    }

    #[test]
    fn users_of_the_list_and_of_the_file_add_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let file = ("OAUTH_ALLOWED_USERS_FILE", path.to_str().unwrap());
        let users = |text: &str| {
            fs::write(&path, text).unwrap();
            sign_in(github(&[file])).allow.users.unwrap()
        };
        let listed = sign_in(github(&[("OAUTH_ALLOWED_USERS", "ann,bob,@example.com")])).allow.users.unwrap();
        assert_eq!(users("\u{feff}# who\r\n\r\nbob # on call\r\n  @example.com"), listed);
        assert_eq!(users(""), sign_in(github(&[])).allow.users.unwrap());
        fs::write(&path, "bob, carl\na@b@c\n").unwrap();
        let text = faults(github(&[file]));
        assert!(text.contains("line 1: one entry a line") && text.contains("a@b@c"), "{text}");
        fs::write(&path, "# nobody\n").unwrap();
        let bare: Vec<_> = trial::GITHUB.iter().copied().filter(|(name, _)| *name != "OAUTH_ALLOWED_USERS").collect();
        let alone = trial::env(&[&bare, &[file]]).unwrap();
        assert!(alone.warnings.join("\n").contains("lets nobody in"));
        assert!(!sign_in(Ok(alone)).allow.admits_everyone(), "an emptied file lets nobody in");
        fs::remove_file(&path).unwrap();
        assert!(faults(github(&[file])).contains("cannot read the file"));
    }

    #[test]
    fn entries_that_can_never_match_are_reported() {
        assert!(warnings(oidc(&[("OAUTH_ALLOWED_USERS", "ann,id:7")])).contains("1 of its entries are usernames"));
        assert_eq!(warnings(oidc(&[("OAUTH_ALLOWED_USERS", "ann"), ("OAUTH_USERNAME_CLAIM", "login")])), "");
        assert!(
            warnings(entra(&[("OAUTH_ALLOWED_USERS", "ann"), ("OAUTH_TENANT_ID", "contoso.com")]))
                .contains("no Entra user")
        );
        assert!(
            faults(github(&[("OAUTH_ALLOWED_USERS", "*@example.com")]))
                .contains("OAUTH_ALLOWED_USERS: `*@example.com`")
        );
        for bad in ["a/b/c", "group:acme", "*", "acme corp"] {
            assert!(
                faults(github(&[("OAUTH_ALLOWED_GROUPS", bad)])).contains("OAUTH_ALLOWED_GROUPS: entry 1"),
                "{bad}"
            );
        }
    }

    #[test]
    fn scopes_are_the_providers_and_what_the_rules_need_is_added_and_reported() {
        assert_eq!(scopes(github(&[])), "read:user user:email");
        assert_eq!(scopes(github(&[("OAUTH_SCOPES", "read:user, user repo")])), "read:user user repo");
        let with_groups = || github(&[("OAUTH_ALLOWED_GROUPS", "acme/platform")]);
        assert_eq!(scopes(with_groups()), "read:user user:email read:org");
        assert!(with_groups().unwrap().notes.join("\n").contains("`read:org` is asked for too"));
        assert_eq!(scopes(entra(&[])), "openid profile email User.Read");
        assert_eq!(scopes(oidc(&[("OAUTH_SCOPES", "email email")])), "email openid");
        assert!(faults(oidc(&[("OAUTH_SCOPES", "a\"b")])).starts_with("OAUTH_SCOPES"));
    }

    #[test]
    fn the_redirect_url_is_the_callback_and_nothing_else() {
        for bad in [
            "https://app.example.com",
            "https://app.example.com/api/v1/auth/callback/",
            "https://app.example.com/api/v1/auth/callback?x=1",
            "https://app.example.com/api/v1/auth/callback#x",
            "https://app.example.com/x/../api/v1/auth/callback",
            "https://ann:canary@app.example.com/api/v1/auth/callback",
            "ftp://app.example.com/api/v1/auth/callback",
            "app.example.com/api/v1/auth/callback",
            "https:///api/v1/auth/callback",
        ] {
            let text = faults(github(&[("OAUTH_REDIRECT_URL", bad)]));
            assert!(text.starts_with("OAUTH_REDIRECT_URL: ") && !text.contains("canary"), "{bad}: {text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
        let on = |url: &str| warnings(github(&[("OAUTH_REDIRECT_URL", url)]));
        assert_eq!(on("http://localhost:8080/api/v1/auth/callback"), "");
        assert!(on("http://app.example.com/api/v1/auth/callback").contains("in the clear"));
        let local = sign_in(github(&[("OAUTH_REDIRECT_URL", "http://localhost:8080/api/v1/auth/callback")]));
        assert_eq!(local.public_origin.as_str(), "http://localhost:8080/");
        assert!(!local.cookie.secure);
    }

    #[test]
    fn what_belongs_to_another_provider_is_never_silently_ignored() {
        assert!(
            faults(github(&[("OAUTH_USERNAME_CLAIM", "login")]))
                .starts_with("OAUTH_USERNAME_CLAIM: is for OAUTH_PROVIDER=oidc")
        );
        assert!(
            faults(oidc(&[("OAUTH_TENANT_ID", "contoso.com")]))
                .starts_with("OAUTH_TENANT_ID: is for OAUTH_PROVIDER=entra")
        );
        assert!(warnings(github(&[("OAUTH_ISSUER_URL", "https://id.example.com")])).contains("OAUTH_ISSUER_URL"));
    }

    #[test]
    fn a_github_of_ones_own_needs_both_addresses() {
        let web = ("OAUTH_GITHUB_URL", "https://github.example.com");
        assert!(faults(github(&[web])).starts_with("OAUTH_GITHUB_API_URL: "));
        assert!(
            faults(github(&[web, ("OAUTH_GITHUB_API_URL", "https://api.github.com/")]))
                .starts_with("OAUTH_GITHUB_API_URL: ")
        );
        sign_in(github(&[web, ("OAUTH_GITHUB_API_URL", "https://github.example.com/api/v3")]));
        assert!(
            faults(github(&[
                ("OAUTH_GITHUB_URL", "http://github.example.com"),
                ("OAUTH_GITHUB_API_URL", "http://localhost:1")
            ]))
            .contains("must be https")
        );
    }

    #[test]
    fn oidc_needs_its_issuer_and_entra_should_name_its_tenant() {
        assert!(faults(oidc(&[("OAUTH_ISSUER_URL", "")])).starts_with("OAUTH_ISSUER_URL: is not set"));
        assert!(
            faults(oidc(&[("OAUTH_ISSUER_URL", "https://x.example/.well-known/openid-configuration")]))
                .contains("the issuer itself")
        );
        assert!(warnings(entra(&[])).contains("OAUTH_TENANT_ID names no tenant"));
        assert!(faults(entra(&[("OAUTH_TENANT_ID", "common,contoso.com")])).contains("mixes"));
        let ProviderSettings::Entra { tenants, wants_groups, .. } =
            sign_in(entra(&[("OAUTH_ALLOWED_GROUPS", "Admins")])).provider
        else {
            panic!("another provider");
        };
        assert!(tenants == Tenants::Common && wants_groups);
    }

    #[test]
    fn session_secrets_are_long_and_rotate() {
        let good = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
        let hex = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
        assert_eq!(sign_in(github(&[("SESSION_SECRET", &format!("{good},{hex}"))])).secrets.len(), 2);
        for bad in [&good[..20], "short", "not base64 at all!", &hex[2..], &format!("{good},x"), ","] {
            let text = faults(github(&[("SESSION_SECRET", bad)]));
            assert!(
                text.starts_with("SESSION_SECRET: ") && text.contains("openssl rand -base64 32") && !text.contains(bad),
                "{text}"
            );
        }
        assert!(warnings(github(&[("SESSION_SECRET", &"00".repeat(32))])).contains("can be guessed"));
    }

    #[test]
    fn cookies_are_what_browsers_take() {
        let http = ("OAUTH_REDIRECT_URL", "http://localhost:8080/api/v1/auth/callback");
        let plain = ("OAUTH_REDIRECT_URL", "http://app.example.com/api/v1/auth/callback");
        assert!(warnings(github(&[("COOKIE_SECURE", "false")])).contains("COOKIE_SECURE is false"));
        assert!(
            warnings(github(&[plain, ("COOKIE_SECURE", "true")])).contains("will not send the session cookie back")
        );
        assert_eq!(warnings(github(&[http, ("COOKIE_SECURE", "true")])), "");
        sign_in(github(&[("COOKIE_NAME", "__Host-session")]));
        for env in [
            [("COOKIE_NAME", "__host-session"), http],
            [("COOKIE_NAME", "__Host-session"), ("COOKIE_DOMAIN", "example.com")],
            [("COOKIE_NAME", "__Secure-session"), http],
            [("COOKIE_NAME", "a b"), http],
        ] {
            assert!(faults(github(&env)).starts_with("COOKIE_NAME: "));
        }
        assert_eq!(sign_in(github(&[("COOKIE_DOMAIN", ".example.com")])).cookie.domain.as_deref(), Some("example.com"));
    }

    #[test]
    fn stores_of_a_later_version_are_not_taken_for_memory() {
        for store in ["disk", "other"] {
            assert!(faults(trial::env(&[&[("SESSION_STORE", store)]])).starts_with("SESSION_STORE: "), "{store}");
        }
    }

    #[test]
    fn sessions_in_cookies_need_a_secret_and_have_no_idle_limit() {
        let secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTAxMjM0NTY3ODk=";
        let jwt = ("SESSION_STORE", "jwt");
        let store = sign_in(github(&[jwt, ("SESSION_SECRET", secret)])).store;
        assert!(store == StoreSettings::Jwt { bytes: 128 << 20 });
        let text = faults(github(&[jwt]));
        assert!(text.starts_with("SESSION_SECRET: ") && text.contains("openssl rand -base64 32"), "{text}");
        let text = faults(github(&[jwt, ("SESSION_SECRET", secret), ("SESSION_IDLE_TTL", "30m")]));
        assert!(text.starts_with("SESSION_IDLE_TTL: ") && text.ends_with("for example 0"), "{text}");
    }

    #[test]
    fn listeners_and_upstream_do_not_meet() {
        let on = |env: &[(&str, &str)]| faults(trial::env(&[env]));
        assert!(on(&[("LISTEN_ADDR", "0.0.0.0:9091")]).starts_with("ADMIN_ADDR: is the same port"));
        for taken in ["0.0.0.0:8080", "127.0.0.1:9091"] {
            assert!(
                on(&[("HTTP_REDIRECT_ADDR", taken)]).starts_with("HTTP_REDIRECT_ADDR: is the same port"),
                "{taken}"
            );
        }
        for taken in [":9091", "0.0.0.0:8080"] {
            assert!(on(&[("EXT_AUTHZ_ADDR", taken)]).starts_with("EXT_AUTHZ_ADDR: is the same port"), "{taken}");
        }
        let loops = on(&[("EXT_AUTHZ_ADDR", ":9001"), ("UPSTREAM_URL", "http://127.0.0.1:9001")]);
        assert!(loops.contains("anyone who reaches that is believed"), "{loops}");
        assert!(on(&[("HTTP_REDIRECT_ADDR", ":8082")]).contains("nothing speaks it: set TLS_CERT_FILE"));
        assert!(on(&[("UPSTREAM_URL", "http://localhost:8080")]).contains("loop"));
        assert!(on(&[("UPSTREAM_URL", "http://127.0.0.1:9091")]).contains("admin"));
        assert!(trial::env(&[&[("LISTEN_ADDR", "127.0.0.1:0"), ("ADMIN_ADDR", "127.0.0.1:0")]]).is_ok());
    }

    #[test]
    fn waits_have_bounds_and_only_some_can_be_off() {
        for (name, bad) in [
            ("TIMEOUT_HEADER", "0"),
            ("TIMEOUT_IDLE", "0s"),
            ("TIMEOUT_CONNECT", "11m"),
            ("TIMEOUT_FIRST_BYTE", "25h"),
            ("TIMEOUT_BODY", "60"),
            ("SESSION_TTL", "0"),
            ("SESSION_TTL", "401d"),
            ("SESSION_MEMORY_BYTES", "1048575"),
            ("SHUTDOWN_TIMEOUT", "2h"),
            ("LIMIT_HEADER_BYTES", "8191"),
            ("LIMIT_CONNECTIONS", "-1"),
        ] {
            let text = faults(trial::env(&[&[(name, bad)]]));
            assert!(text.starts_with(&format!("{name}: ")) && text.lines().count() == 1, "{text}");
        }
        let off =
            trial::env(&[&[("SESSION_IDLE_TTL", "0"), ("SHUTDOWN_DELAY", "0"), ("SHUTDOWN_TIMEOUT", "0s")]]).unwrap();
        assert!(off.settings.shutdown.timeout.is_zero());
    }

    #[test]
    fn a_level_with_a_typing_error_would_silence_the_log() {
        for good in ["info", "DEBUG", "info,sidegate=debug", "off"] {
            assert!(log_filter(good).is_ok(), "{good}");
        }
        for bad in ["inof", "info,sidegate", "sidegate=loud"] {
            assert!(log_filter(bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn trusting_everybody_is_reported() {
        assert!(warnings(trial::env(&[&[("TRUSTED_PROXIES", "0.0.0.0/0")]])).contains("whole internet"));
        let wide = warnings(trial::env(&[&[("TRUSTED_PROXIES", "10.0.0.0/8,203.0.113.7/3")]]));
        assert!(wide.contains("TRUSTED_PROXIES: entry 2 means 192.0.0.0/3: write that, or one address"), "{wide}");
        assert!(wide.contains("TRUSTED_PROXIES names much of the internet"), "{wide}");
        let own = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,192.0.2.7,fc00::/7,fd00::/8,::1";
        assert_eq!(warnings(trial::env(&[&[("TRUSTED_PROXIES", own), ("PROXY_PROTOCOL_FROM", own)]])), "");
        assert!(faults(trial::env(&[&[("TRUSTED_PROXIES", "10.0.0.0/8,proxy")]])).contains("entry 2"));
        assert!(
            warnings(trial::env(&[&[("PROXY_PROTOCOL_FROM", "::/0")]])).contains("PROXY_PROTOCOL_FROM names the whole")
        );
        assert!(faults(trial::env(&[&[("PROXY_PROTOCOL_FROM", "proxy")]])).starts_with("PROXY_PROTOCOL_FROM: entry 1"));
    }
}
