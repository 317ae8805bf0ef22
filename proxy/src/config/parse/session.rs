//! The lifetime of sessions, their sealing secrets, and their cookie.

use std::collections::HashSet;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use url::{Host, Url};

use super::redis;
use crate::adapters::stores::StoreSettings;
use crate::config::options::{
    COOKIE_DOMAIN, COOKIE_NAME, COOKIE_SECURE, SESSION_IDLE_TTL, SESSION_MEMORY_BYTES, SESSION_RECHECK,
    SESSION_REDIS_URL, SESSION_REDIS_URL_FILE, SESSION_SECRET, SESSION_SECRET_FILE, SESSION_STORE, SESSION_TTL,
};
use crate::config::reading::{Reading, Zero};
use crate::config::words;
use crate::domain::session::Lifetime;
use crate::serve::settings::{CookieSettings, SecretKey};

/// The longest time that browsers keep a cookie (RFC 6265bis §5.5).
const LONGEST: Duration = Duration::from_secs(400 * 86_400);
const KEY_BYTES: usize = 32;
/// Less would hold only a few hundred sessions.
const MEMORY: std::ops::RangeInclusive<usize> = 1 << 20..=1 << 40;

pub(super) fn lifetime(reading: &mut Reading) -> Lifetime {
    let second = Duration::from_secs(1);
    let absolute = reading.duration(SESSION_TTL, second..=LONGEST, Zero::Refused);
    let idle = reading.duration(SESSION_IDLE_TTL, second..=LONGEST, Zero::Allowed);
    if !absolute.is_zero() && idle > absolute {
        reading.warn("SESSION_IDLE_TTL is longer than SESSION_TTL, so it never ends a session");
    }
    Lifetime { absolute, idle }
}

/// How often identities are read again with an access token.
pub(super) fn recheck(reading: &mut Reading) -> Duration {
    reading.duration(SESSION_RECHECK, Duration::from_secs(1)..=Duration::from_secs(86_400), Zero::Allowed)
}

/// Where sessions are stored; `lifetime` is their lifetime there.
pub(super) fn store(reading: &mut Reading, lifetime: Lifetime) -> Option<StoreSettings> {
    let bytes = reading.number(SESSION_MEMORY_BYTES, MEMORY) as u64;
    match reading.text(SESSION_STORE).map(|text| text.to_ascii_lowercase()).as_deref() {
        Some("redis") => return redis::read(reading, bytes).map(|settings| StoreSettings::Redis(Box::new(settings))),
        Some("memory") => {
            warn_of_redis(reading);
            return Some(StoreSettings::Memory { bytes });
        }
        Some("jwt") => {
            warn_of_redis(reading);
            return jwt(reading, lifetime).then_some(StoreSettings::Jwt { bytes });
        }
        Some(_) | None => reading.fault(SESSION_STORE, "must be `memory`, `redis` or `jwt`"),
    }
    None
}

fn warn_of_redis(reading: &mut Reading) {
    if reading.is_set(SESSION_REDIS_URL) || reading.is_set(SESSION_REDIS_URL_FILE) {
        reading.warn("SESSION_REDIS_URL is set, but SESSION_STORE is not redis: it changes nothing");
    }
}

/// Whether sessions can be in cookies alone.
fn jwt(reading: &mut Reading, lifetime: Lifetime) -> bool {
    let has_secret = reading.is_set(SESSION_SECRET) || reading.is_set(SESSION_SECRET_FILE);
    if !has_secret {
        reading.required(
            SESSION_SECRET,
            "SESSION_STORE is jwt: session cookies are signed with it, alike on all replicas and over restarts",
        );
    }
    if !lifetime.idle.is_zero() {
        reading.fault_unlike(
            SESSION_IDLE_TTL,
            "cannot be kept with SESSION_STORE=jwt, where nobody notes when a session was used: turn it off, and take a shorter SESSION_TTL",
            "0",
        );
    }
    has_secret && lifetime.idle.is_zero()
}

/// The secrets, the one for sealing first.
pub(super) fn secrets(reading: &mut Reading) -> Vec<SecretKey> {
    let knob = if reading.is_set(SESSION_SECRET) { SESSION_SECRET } else { SESSION_SECRET_FILE };
    let Some(secret) = reading.trimmed_secret(SESSION_SECRET, SESSION_SECRET_FILE) else { return Vec::new() };
    let (mut keys, mut entries) = (Vec::new(), 0);
    for (i, text) in secret.expose().split(',').filter(|text| !text.trim().is_empty()).enumerate() {
        let n = i + 1;
        entries = n;
        match decode(text) {
            Some(key) if key.0.len() >= KEY_BYTES => {
                if key.0.iter().collect::<HashSet<_>>().len() < 8 {
                    reading.warn(format!(
                        "{}: entry {n} repeats itself and can be guessed: take {}",
                        knob.variable, knob.example
                    ));
                }
                keys.push(key);
            }
            Some(key) => {
                let has = key.0.len();
                reading.fault(knob, format!("entry {n} has {has} bytes, and needs at least {KEY_BYTES} random ones; `openssl rand -base64 32` makes them"));
            }
            None => reading.fault(
                knob,
                format!(
                    "entry {n} is neither base64 nor hex; `openssl rand -base64 32` makes one; commas separate several"
                ),
            ),
        }
    }
    if entries == 0 {
        reading.fault(knob, "holds no secret; `openssl rand -base64 32` makes one");
    }
    keys
}

/// Hex if possible, else base64 of either alphabet, padded or not. `openssl` wraps long lines with white space.
fn decode(text: &str) -> Option<SecretKey> {
    let text = zeroize::Zeroizing::new(text.split_whitespace().collect::<String>());
    if text.len().is_multiple_of(2) && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let pair = |pair: &[u8]| pair.iter().try_fold(0, |byte, b| Some(byte << 4 | digit(b)?));
        return text.as_bytes().chunks(2).map(pair).collect::<Option<_>>().map(SecretKey);
    }
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    [STANDARD, URL_SAFE]
        .iter()
        .find_map(|alphabet| GeneralPurpose::new(alphabet, config).decode(text.as_bytes()).ok())
        .map(SecretKey)
}

/// The session cookie for the public host.
pub(super) fn cookie(reading: &mut Reading, public: Option<&Url>) -> Option<CookieSettings> {
    let name = reading.parsed(COOKIE_NAME, cookie_name);
    let domain = public.and_then(|public| reading.parsed(COOKIE_DOMAIN, |text| cookie_domain(text, public)));
    let given = reading.parsed(COOKIE_SECURE, words::switch);
    let public = public?;
    let https = public.scheme() == "https";
    let secure = given.unwrap_or(https);
    if https && !secure {
        reading.warn(
            "COOKIE_SECURE is false though OAUTH_REDIRECT_URL is https: the session cookie also travels in the clear",
        );
    }
    if !https && secure && !public.host().is_some_and(|host| words::is_loopback(&host)) {
        reading.warn(
            "COOKIE_SECURE is true though OAUTH_REDIRECT_URL is http: browsers will not send the session cookie back",
        );
    }
    let name = name?;
    let has = |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    if has("__Host-") && (!secure || reading.is_set(COOKIE_DOMAIN)) {
        reading
            .fault(COOKIE_NAME, "begins with `__Host-`, which browsers take only over https and without COOKIE_DOMAIN");
    }
    if has("__Secure-") && !secure {
        reading.fault(COOKIE_NAME, "begins with `__Secure-`, which browsers take only over https");
    }
    if domain.is_some() {
        reading.warn(
            "COOKIE_DOMAIN is set: every host below it is sent the session cookie, and the operator of any of them can use it",
        );
    }
    Some(CookieSettings { name, domain, secure })
}

/// A token (RFC 6265 §4.1.1, RFC 9110 §5.6.2).
fn cookie_name(text: &str) -> Result<String, String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.len() <= 128 && text.bytes().all(token) {
        Ok(text.to_owned())
    } else {
        Err("must be at most 128 letters, digits, `-` and `_`".to_owned())
    }
}

/// Domains below which anyone may have a host: a cookie for one of them would be shared with strangers, and browsers reject it.
const SHARED: &[&str] = &[
    "appspot.com",
    "azurewebsites.net",
    "cloudapp.net",
    "cloudfront.net",
    "fly.dev",
    "github.io",
    "gitlab.io",
    "herokuapp.com",
    "netlify.app",
    "ngrok-free.app",
    "ngrok.io",
    "onrender.com",
    "pages.dev",
    "run.app",
    "vercel.app",
    "web.app",
    "workers.dev",
];

fn cookie_domain(text: &str, public: &Url) -> Result<String, String> {
    let domain = text.strip_prefix('.').unwrap_or(text).to_ascii_lowercase();
    match Host::parse(&domain) {
        Ok(Host::Domain(name)) if name == domain => {}
        Ok(Host::Ipv4(_) | Host::Ipv6(_)) => {
            return Err("is an address: browsers take only names; leave it unset".to_owned());
        }
        Ok(Host::Domain(_)) | Err(_) => return Err("is not a domain".to_owned()),
    }
    let labels: Vec<&str> = domain.split('.').collect();
    let registry = matches!(labels.as_slice(), [second, top] if top.len() == 2 && ["ac", "co", "com", "edu", "gov", "net", "org"].contains(second));
    if labels.len() < 2 || labels.contains(&"") || registry || SHARED.contains(&domain.as_str()) {
        return Err("is a domain that everybody shares, for which browsers take no cookie".to_owned());
    }
    let host = public.host_str().unwrap_or_default();
    if host == domain || host.strip_suffix(&domain).is_some_and(|front| front.ends_with('.')) {
        Ok(domain)
    } else {
        Err("is not the host of OAUTH_REDIRECT_URL, nor a domain above it: browsers would refuse the cookie".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_hex_or_base64_of_either_alphabet() {
        let bytes: Vec<u8> = (200..=255).collect();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let padded = base64::engine::general_purpose::STANDARD.encode(&bytes);
        let url_safe = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&bytes);
        assert!(padded.contains('/') && padded.ends_with('=') && url_safe.contains('_'));
        let wrapped = format!("{}\n{}", &padded[..64], &padded[64..]);
        for text in [hex.clone(), hex.to_uppercase(), padded.clone(), url_safe, wrapped] {
            assert!(decode(&text).is_some_and(|key| key.0 == bytes), "{text}");
        }
        assert!(decode("not a secret!").is_none());
        assert!(decode("é").is_none());
    }

    #[test]
    fn a_cookie_domain_is_the_public_host_or_above_it_and_nobody_elses() {
        let public = Url::parse("https://app.eu.example.com/x").unwrap();
        for good in ["example.com", ".example.com", "App.EU.example.com", "eu.example.com"] {
            assert!(cookie_domain(good, &public).is_ok(), "{good}");
        }
        for bad in [
            "com",
            "xample.com",
            "other.com",
            "b.app.eu.example.com",
            "127.0.0.1",
            "",
            "example.com:80",
            "a b",
            "example.com.",
        ] {
            assert!(cookie_domain(bad, &public).is_err(), "{bad:?} was taken");
        }
        assert!(cookie_domain("co.uk", &Url::parse("https://app.co.uk").unwrap()).is_err());
        assert!(cookie_domain("github.io", &Url::parse("https://ann.github.io").unwrap()).is_err());
        assert!(cookie_domain("localhost", &Url::parse("http://localhost").unwrap()).is_err());
    }

    #[test]
    fn a_cookie_name_is_a_token() {
        assert!(cookie_name("__Host-session").is_ok());
        for bad in ["a b", "a=b", "a;b", "a,b", "ä", "a\"b", &"a".repeat(129)] {
            assert!(cookie_name(bad).is_err(), "{bad:?} was taken");
        }
    }
}
