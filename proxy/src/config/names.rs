//! Unknown names of settings: typing errors, other programs' settings, and those of later versions.

use std::ffi::OsStr;

use super::options::ALL;

/// Sections of the file that a later version supports.
const LATER_SECTIONS: &[&str] = &["identity_headers", "providers"];

/// Settings that a later version supports, and the value, if any, that asks for what this version does anyway.
const LATER_SETTINGS: [(&str, Option<&str>); 10] = [
    ("OAUTH_ALLOWED_PARAMS", None),
    ("OAUTH_AUTHORIZE_PARAMS", None),
    ("OAUTH_CLIENT_AUTH", None),
    ("OAUTH_CLIENT_KEY_FILE", None),
    ("OAUTH_EMAIL_CLAIM", Some("email")),
    ("OAUTH_GROUPS_CLAIM", Some("groups")),
    ("OAUTH_NAME_CLAIM", Some("name")),
    ("OPERATORS", None),
    ("SESSION_BINDING", Some("off")),
    ("SESSION_PROOF_TTL", None),
];

/// Names that could be mistaken for variables of rules or upstreams, which are configured only in the file.
const TABLES: [(&str, &str); 4] = [
    ("ROUTES", "[[routes]]"),
    ("PUBLIC_PATHS", "[[routes]] with `allow = \"public\"`"),
    ("PUBLIC_ROUTES", "[[routes]] with `allow = \"public\"`"),
    ("ALLOWED_ROUTES", "[[routes]]"),
];

/// Prefixes of our names that other programs use too: an unknown name with one is a warning and no error.
const SHARED_FAMILIES: [&str; 8] =
    ["ASSERTION_", "COOKIE_", "LIMIT_", "SHUTDOWN_", "SIDEGATE_", "TIMEOUT_", "TRUSTED_", "UPSTREAM_"];

/// The shortest name that may be one of ours with typing errors: of shorter ones two letters are too much.
const LEAST_TYPED: usize = 8;

/// A message about a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Remark {
    /// An error that prevents the start.
    Fault(String),
    /// A warning.
    Warning(String),
}

/// Checks the name of a variable that is set to `value`: `None` if it is fine.
pub(super) fn judge_variable(name: &str, value: &OsStr) -> Option<Remark> {
    if ALL.iter().any(|knob| knob.variable == name) || is_anothers(name) {
        return None;
    }
    if let Some((_, harmless)) = LATER_SETTINGS.iter().find(|(later, _)| *later == name) {
        let value = value.to_str().map(str::trim);
        let asks_nothing = value.is_some_and(|value| value.is_empty() || Some(value) == *harmless);
        // Another program may have a variable of a name without our prefix.
        return Some(if asks_nothing || !has_our_prefix(name) {
            Remark::Warning(format!("{name} is not built into this version yet, so it changes nothing"))
        } else {
            // Who asks for bound sessions must not run unbound ones and believe otherwise.
            Remark::Fault("is not built into this version yet: remove it".to_owned())
        });
    }
    let ours = ALL.iter().map(|knob| knob.variable);
    if let Some(meant) = nearest(&name.to_ascii_uppercase(), ours.filter(|known| has_our_prefix(known))) {
        // `OAUTH2_…` are variables of other programs in the same environment.
        return Some(if name.starts_with("OAUTH2_") {
            Remark::Warning(format!("{name} is not known here; {meant} is"))
        } else {
            Remark::Fault(format!("is not known; did you mean {meant}?"))
        });
    }
    if let Some((_, table)) = TABLES.iter().find(|(variable, _)| *variable == name) {
        return Some(Remark::Warning(format!(
            "{name} is not known, so it changes nothing: rules stand in the file, as {table}"
        )));
    }
    let typed = name.to_ascii_uppercase();
    let meant = nearest(&typed, ALL.iter().map(|knob| knob.variable));
    // Who mistypes the first letter as well mistypes no other: `AWS_KEY_FILE` and `SSL_CERT_FILE` are two letters from ours.
    let is_near = name.len() >= LEAST_TYPED
        && meant.is_some_and(|meant| {
            typed.as_bytes().first() == meant.as_bytes().first() || one_edit_away(&typed, [meant].into_iter()).is_some()
        });
    if is_near || has_our_prefix(name) || SHARED_FAMILIES.iter().any(|family| name.starts_with(family)) {
        let hint = meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
        return Some(Remark::Warning(format!("{name} is not known, so it changes nothing{hint}")));
    }
    None
}

/// The message about an unknown key of the file.
pub(super) fn judge_key(key: &str) -> String {
    if LATER_SECTIONS.contains(&key) || LATER_SETTINGS.iter().any(|(later, _)| later.eq_ignore_ascii_case(key)) {
        return "is an unknown key: it is not built into this version yet; remove it".to_owned();
    }
    match nearest(&key.to_ascii_lowercase().replace('-', "_"), KEYS.iter().map(String::as_str)) {
        Some(meant) => format!("is an unknown key; did you mean `{meant}`?"),
        None => {
            "is an unknown key; keys are the variables of `sidegate --help` in lower case, on the top level".to_owned()
        }
    }
}

static KEYS: std::sync::LazyLock<Vec<String>> =
    std::sync::LazyLock::new(|| ALL.iter().filter_map(super::options::Knob::key).collect());

fn has_our_prefix(name: &str) -> bool {
    name.starts_with("OAUTH_") || name.starts_with("SESSION_")
}

/// Variables that desktops and Kubernetes' service links set.
fn is_anothers(name: &str) -> bool {
    name == "SESSION_MANAGER"
        || name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.contains("_PORT_")
}

/// The known name that is at most two typing errors away.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::osa_distance(name, known), known))
        .filter(|(edits, _)| *edits <= 2)
        .min()
        .map(|(_, known)| known)
}

/// The known name that is exactly one typing error away.
pub(super) fn one_edit_away<'a>(name: &str, mut known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known.find(|known| strsim::osa_distance(name, known) == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(name: &str) -> Option<Remark> {
        judge_variable(name, OsStr::new("x"))
    }

    fn fault(name: &str) -> Option<String> {
        match judge(name) {
            Some(Remark::Fault(text)) => Some(text),
            Some(Remark::Warning(_)) | None => None,
        }
    }

    #[test]
    fn a_name_two_letters_off_is_a_fault_that_names_the_right_one() {
        for (typed, meant) in [
            ("OAUTH_ALOWED_USERS", "OAUTH_ALLOWED_USERS"),
            ("OAUTH_ALLOWED_USER", "OAUTH_ALLOWED_USERS"),
            ("OAUTH_ALOWED_USER", "OAUTH_ALLOWED_USERS"),
            ("OAUTH_CLEINT_ID", "OAUTH_CLIENT_ID"),
            ("OUATH_ALLOWED_USERS", "OAUTH_ALLOWED_USERS"),
            ("oauth_enabled", "OAUTH_ENABLED"),
            ("SESSION_TLL", "SESSION_TTL"),
            ("SESSION_REDIS_URI", "SESSION_REDIS_URL"),
        ] {
            assert!(fault(typed).unwrap().contains(meant), "{typed}");
        }
    }

    #[test]
    fn further_off_is_a_warning_and_others_names_are_left_alone() {
        for name in ["OAUTH_SOMETHING_ELSE", "SESSION_NAME", "SESSION_REFRESH_EVERY", "OAUTH2_CLIENT_ID"] {
            assert!(matches!(judge(name), Some(Remark::Warning(_))), "{name}");
        }
        for name in [
            "SESSION_MANAGER",
            "SESSION_SERVICE_HOST",
            "SESSION_SERVICE_PORT_HTTP",
            "OAUTH_PORT",
            "OAUTH_PORT_80_TCP_ADDR",
            "PATH",
            "DEV_IDP_LISTEN_ADDR",
            "ORCHESTRATOR_LISTEN_ADDR",
            "OAUTH_ENABLED",
        ] {
            assert_eq!(judge(name), None, "{name}");
        }
    }

    #[test]
    fn a_name_that_seems_to_be_ours_is_never_passed_over_in_silence() {
        let warning = |name: &str| match judge(name) {
            Some(Remark::Warning(text)) => text,
            Some(Remark::Fault(text)) => panic!("{name} is a fault: {text}"),
            None => panic!("nothing is said of {name}"),
        };
        assert!(warning("ROUTES").contains("[[routes]]"));
        assert!(warning("PUBLIC_PATHS").contains("allow = \"public\""));
        assert!(warning("UPSTREAM_URLS").contains("did you mean UPSTREAM_URL?"));
        assert!(warning("TRUSTED_PROXY").contains("so it changes nothing"));
        assert!(warning("COOKIE_DOMAINS").contains("COOKIE_DOMAIN?"));
        for others in ["UPSTREAM_SERVICE_HOST", "LIMIT_PORT", "LOG_FILE", "TLS_DIR"] {
            assert_eq!(judge(others), None, "{others}");
        }
    }

    #[test]
    fn a_name_of_ours_with_typing_errors_is_reported_whatever_it_begins_with() {
        for (typed, meant) in [
            ("LISTEN_ADRR", "LISTEN_ADDR"),
            ("LISTENADDR", "LISTEN_ADDR"),
            ("ADMIN_ADDRS", "ADMIN_ADDR"),
            ("TLS_CLIENT_CA_FILES", "TLS_CLIENT_CA_FILE"),
            ("TLS_CLIENT_CA_FLIE", "TLS_CLIENT_CA_FILE"),
            ("TSL_CERT_FILE", "TLS_CERT_FILE"),
            ("TRUSTD_PROXIES", "TRUSTED_PROXIES"),
            ("PROXY_PROTOCOLS_FROM", "PROXY_PROTOCOL_FROM"),
            ("HTTP_REDIRECT_ADDRS", "HTTP_REDIRECT_ADDR"),
            ("UPSTRAEM_URL", "UPSTREAM_URL"),
            ("listen_addr", "LISTEN_ADDR"),
        ] {
            let Some(Remark::Warning(text)) = judge(typed) else { panic!("nothing is said of {typed}") };
            assert_eq!(text, format!("{typed} is not known, so it changes nothing; did you mean {meant}?"));
        }
    }

    #[test]
    fn usual_variables_of_other_programs_are_left_alone() {
        for others in [
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "NO_PROXY",
            "ALL_PROXY",
            "FTP_PROXY",
            "http_proxy",
            "https_proxy",
            "no_proxy",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
            "SSL_KEY_FILE",
            "AWS_KEY_FILE",
            "DNS_CERT_FILE",
            "CURL_CA_BUNDLE",
            "REQUESTS_CA_BUNDLE",
            "NODE_EXTRA_CA_CERTS",
            "LISTEN_FDS",
            "LISTEN_PID",
            "LISTEN_FDNAMES",
            "NOTIFY_SOCKET",
            "INVOCATION_ID",
            "JOURNAL_STREAM",
            "CREDENTIALS_DIRECTORY",
            "RUNTIME_DIRECTORY",
            "LOG_FILE",
            "LOG_LINES",
            "LOG_DIR",
            "LOG_PATH",
            "AUDIT_LOG",
            "TLS_DIR",
            "TLS_CERT",
            "TLS_CERT_DIR",
            "TLS_CA_FILE",
            "ADMIN_USER",
            "ADMIN_EMAIL",
            "ADMIN_PASSWORD",
            "ADMIN_TOKEN",
            "BIND_ADDR",
            "HTTP_ADDR",
            "VAULT_ADDR",
            "NOMAD_ADDR",
            "CONSUL_HTTP_ADDR",
            "DATABASE_URL",
            "REDIS_URL",
            "ENV_FILE",
            "ENCRYPTION_KEY_FILE",
            "COMPOSE_FILE",
            "COMPOSE_PROJECT_NAME",
            "KUBERNETES_SERVICE_HOST",
            "KUBERNETES_PORT_443_TCP_ADDR",
            "POD_IP",
            "POD_NAMESPACE",
            "AWS_REGION",
            "AZURE_CLIENT_ID",
            "AZURE_TENANT_ID",
            "AZURE_CLIENT_SECRET",
            "AZURE_FEDERATED_TOKEN_FILE",
            "ARM_CLIENT_ID",
            "GITHUB_TOKEN",
            "GITHUB_API_URL",
            "RUST_LOG",
            "RUST_BACKTRACE",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "HOSTNAME",
            "LANGUAGE",
            "COLORTERM",
            "TERM_PROGRAM",
            "XDG_RUNTIME_DIR",
            "XDG_SESSION_ID",
            "SSH_AUTH_SOCK",
            "DBUS_SESSION_BUS_ADDRESS",
            "DESKTOP_SESSION",
        ] {
            assert_eq!(judge(others), None, "{others}");
        }
    }

    #[test]
    fn what_a_later_version_supports_is_a_fault_unless_it_asks_for_nothing() {
        for (later, value) in [
            ("OAUTH_CLIENT_KEY_FILE", "/run/key.pem"),
            ("OAUTH_GROUPS_CLAIM", "realm_access.roles"),
            ("SESSION_BINDING", "require"),
            ("SESSION_BINDING", "offer"),
            ("SESSION_PROOF_TTL", "off"),
        ] {
            let text = "is not built into this version yet: remove it".to_owned();
            assert_eq!(judge_variable(later, OsStr::new(value)), Some(Remark::Fault(text)), "{later}={value}");
            assert!(judge_key(&later.to_ascii_lowercase()).contains("is not built into this version yet"), "{later}");
        }
        for (later, value) in
            [("SESSION_BINDING", " off"), ("SESSION_BINDING", " "), ("OAUTH_NAME_CLAIM", "name"), ("OPERATORS", "ann")]
        {
            let said = judge_variable(later, OsStr::new(value));
            let Some(Remark::Warning(text)) = said else { panic!("{later}={value}: {said:?}") };
            assert!(text.contains(later) && text.contains("so it changes nothing"), "{text}");
        }
        let fault = crate::config::trial::faults(crate::config::trial::github(&[("SESSION_BINDING", "require")]));
        assert!(fault.contains("SESSION_BINDING: is not built into this version yet: remove it"), "{fault}");
    }
}
