//! Raw words into settings; all faults at once.

pub(super) mod keys;
pub(super) mod network;
pub(super) mod people;
pub(super) mod provider;
pub(super) mod session;

use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::options::*;
use super::reading::{Reading, Zero};
use super::words;
use crate::adapters::telemetry::{LogFormat, LogSettings};
use crate::serve::settings::{Limits, Mode, Settings, Shutdown, SignInSettings, Timeouts};

const DAY: Duration = Duration::from_secs(86_400);

/// Everything. `None` only where there are faults.
pub(super) fn settings(reading: &mut Reading, terminal: bool) -> Option<Settings> {
    let network = network::read(reading);
    let upstream = network::upstream(reading, network.as_ref());
    let mode = mode(reading);
    let tls = keys::tls(reading);
    let trusted_proxies = network::trusted_proxies(reading);
    let limits = Limits {
        header_bytes: reading.number(LIMIT_HEADER_BYTES, 8192..=1 << 20),
        connections: reading.number(LIMIT_CONNECTIONS, 1..=1_000_000),
    };
    let timeouts = timeouts(reading);
    let shutdown = shutdown(reading);
    let log = log(reading, terminal);
    let network = network?;
    Some(Settings {
        listen: network.listen,
        admin: network.admin,
        tls,
        mode: mode?,
        upstream: upstream?,
        trusted_proxies,
        limits,
        timeouts,
        shutdown,
        log: log?,
    })
}

fn mode(reading: &mut Reading) -> Option<Mode> {
    let lifetime = session::lifetime(reading);
    let secrets = session::secrets(reading);
    session::store(reading);
    let assertion_keys = keys::assertion_keys(reading);
    if !reading.parsed(OAUTH_ENABLED, words::switch)? {
        warn_of_open_mode(reading);
        return Some(Mode::Open);
    }
    let kind = provider::kind(reading);
    let redirect_url = provider::redirect_url(reading);
    let cookie = session::cookie(reading, redirect_url.as_ref());
    let people = people::read(reading, kind);
    let provider = provider::read(reading, kind, redirect_url.clone(), people.groups.as_ref());
    let provider_roots = keys::roots(reading, OAUTH_CA_FILE);
    let public_origin = provider::origin_of(&redirect_url?);
    Some(Mode::SignIn(Box::new(SignInSettings {
        provider: provider?,
        provider_roots,
        public_origin,
        allow: people,
        lifetime,
        secrets,
        cookie: cookie?,
        assertion_keys,
    })))
}

fn warn_of_open_mode(reading: &mut Reading) {
    let secret = reading.is_set(OAUTH_CLIENT_SECRET) || reading.is_set(OAUTH_CLIENT_SECRET_FILE);
    let complete =
        secret && [OAUTH_PROVIDER, OAUTH_CLIENT_ID, OAUTH_REDIRECT_URL].into_iter().all(|knob| reading.is_set(knob));
    let any =
        ALL.iter().any(|knob| knob.variable.starts_with("OAUTH_") && *knob != OAUTH_ENABLED && reading.is_set(*knob));
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

/// None of these can be off: each bounds a wait that a client or the upstream causes.
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
    Some(LogSettings { filter: filter?, format })
}

/// The filter takes any word for the name of a module: a level with a typing error would silence everything.
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
