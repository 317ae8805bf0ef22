//! The address of Redis, and its connection settings. No message quotes the URL: it may contain a password.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use url::Host as UrlHost;

use super::keys;
use crate::adapters::stores::redis::{Host, Layout, RedisPlace, RedisSettings};
use crate::config::options::{
    SESSION_CACHE_TTL, SESSION_REDIS_CA_FILE, SESSION_REDIS_PREFIX, SESSION_REDIS_SENTINEL_PASSWORD,
    SESSION_REDIS_SENTINEL_PASSWORD_FILE, SESSION_REDIS_URL, SESSION_REDIS_URL_FILE, SESSION_SECRET,
    SESSION_SECRET_FILE, SESSION_STORE_TIMEOUT,
};
use crate::config::reading::{Reading, Zero};
use crate::config::words;
use crate::domain::secret::Secret;

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// The settings of `SESSION_STORE=redis`; `None` only if there are errors.
pub(super) fn read(reading: &mut Reading, memory_bytes: u64) -> Option<RedisSettings> {
    let because = "SESSION_STORE is redis";
    let url = reading.trimmed_secret(SESSION_REDIS_URL, SESSION_REDIS_URL_FILE);
    let knob = if reading.is_set(SESSION_REDIS_URL_FILE) { SESSION_REDIS_URL_FILE } else { SESSION_REDIS_URL };
    if url.is_none() && !reading.is_set(SESSION_REDIS_URL) && !reading.is_set(SESSION_REDIS_URL_FILE) {
        reading.required(SESSION_REDIS_URL, because);
    }
    if !reading.is_set(SESSION_SECRET) && !reading.is_set(SESSION_SECRET_FILE) {
        reading.required(
            SESSION_SECRET,
            &format!("{because}: what the store holds is sealed with it, alike on all replicas"),
        );
    }
    let password = reading.secret(SESSION_REDIS_SENTINEL_PASSWORD, SESSION_REDIS_SENTINEL_PASSWORD_FILE);
    let place = url.and_then(|url| match place(url.expose(), password.clone()) {
        Ok(place) => Some(place),
        Err(problem) => {
            reading.fault(knob, problem);
            None
        }
    });
    if let Some(place) = &place {
        check_consistency(reading, place, password.is_some());
    }
    let roots = keys::roots(reading, SESSION_REDIS_CA_FILE);
    let prefix = reading.parsed(SESSION_REDIS_PREFIX, prefix);
    let within = |reading: &mut Reading, knob, least, most| reading.duration(knob, least..=most, Zero::Refused);
    let timeout = within(reading, SESSION_STORE_TIMEOUT, Duration::from_millis(10), Duration::from_secs(10));
    let cache_ttl = within(reading, SESSION_CACHE_TTL, Duration::from_secs(1), Duration::from_secs(300));
    Some(RedisSettings { place: place?, prefix: prefix?, roots, timeout, cache_ttl, memory_bytes })
}

fn check_consistency(reading: &mut Reading, place: &RedisPlace, sentinel_password: bool) {
    if sentinel_password && !matches!(place.layout, Layout::Sentinel { .. }) {
        reading.fault(SESSION_REDIS_SENTINEL_PASSWORD, "is for a redis-sentinel:// URL: remove it");
    }
    if reading.is_set(SESSION_REDIS_CA_FILE) && !place.tls {
        reading.fault(
            SESSION_REDIS_CA_FILE,
            "is for a URL with TLS: write rediss://, rediss-sentinel:// or rediss-cluster://",
        );
    }
    let here = |host: &Host| UrlHost::parse(&host.name).is_ok_and(|host| words::is_loopback(&host));
    if place.password.is_some() && !place.tls && !place.hosts.iter().all(here) {
        reading.note("SESSION_REDIS_URL: the password for Redis travels in the clear; rediss:// encrypts");
    }
}

/// `redis(s)://`, `redis(s)-sentinel://`, `redis(s)-cluster://`.
fn place(text: &str, sentinel_password: Option<Secret>) -> Result<RedisPlace, String> {
    let text = text.trim();
    let (scheme, rest) = text.split_once("://").ok_or("is not a URL: it begins with redis:// or rediss:// (TLS)")?;
    let (tls, kind) = match scheme.to_ascii_lowercase().as_str() {
        "redis" => (false, ""),
        "rediss" => (true, ""),
        "redis-sentinel" => (false, "sentinel"),
        "rediss-sentinel" => (true, "sentinel"),
        "redis-cluster" => (false, "cluster"),
        "rediss-cluster" => (true, "cluster"),
        "valkey" | "valkeys" => return Err("is written redis:// or rediss:// for Valkey too".to_owned()),
        _ => {
            return Err(
                "must begin with redis://, redis-sentinel:// or redis-cluster://, or with rediss for TLS".to_owned()
            );
        }
    };
    if rest.contains(['?', '#']) {
        return Err("must end with its path: no `?`, no `#` (in a password write %3F and %23)".to_owned());
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (Some(user), hosts),
        None => (None, authority),
    };
    let (user, password) = credentials(user)?;
    let port = if kind == "sentinel" { SENTINEL_PORT } else { REDIS_PORT };
    let hosts = hosts.split(',').map(|text| host(text, port)).collect::<Result<Vec<_>, _>>()?;
    let path: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let database = |text: Option<&&str>| match text {
        None => Ok(0),
        Some(text) => text
            .parse::<u16>()
            .map(i64::from)
            .map_err(|_| "names its database by a number, as in redis://host:6379/0".to_owned()),
    };
    let (layout, database) = match (kind, path.as_slice()) {
        ("sentinel", [master, rest @ ..]) if rest.len() <= 1 => {
            (Layout::Sentinel { master: decode(master)?, password: sentinel_password }, database(rest.first())?)
        }
        ("sentinel", _) => {
            return Err("names the master behind the sentinels: redis-sentinel://host:26379,host:26379/master-name/0"
                .to_owned());
        }
        ("cluster", []) | ("cluster", ["0"]) => (Layout::Cluster, 0),
        ("cluster", _) => return Err("must end after its hosts: a cluster has database 0 only".to_owned()),
        (_, path) if path.len() <= 1 => (Layout::Single, database(path.first())?),
        _ => return Err("must end with the number of its database, as in redis://host:6379/0".to_owned()),
    };
    if layout == Layout::Single && hosts.len() > 1 {
        return Err(
            "names several hosts: write redis-sentinel:// for sentinels, redis-cluster:// for a cluster".to_owned()
        );
    }
    Ok(RedisPlace { layout, hosts, tls, user, password, database })
}

fn credentials(text: Option<&str>) -> Result<(Option<String>, Option<Secret>), String> {
    let Some(text) = text else { return Ok((None, None)) };
    let (user, password) =
        text.split_once(':').ok_or("has a user without a password: write user:password@ or :password@")?;
    let user = Some(decode(user)?).filter(|user| !user.is_empty());
    let password = Some(decode(password)?).filter(|password| !password.is_empty());
    if user.is_some() && password.is_none() {
        return Err("has a user without a password: write user:password@".to_owned());
    }
    Ok((user, password.map(Secret::new)))
}

fn decode(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(|text| text.into_owned()).map_err(|_| "has a percent-encoded part that is not UTF-8".to_owned())
}

fn host(text: &str, port: u16) -> Result<Host, String> {
    let wrong = || {
        "names a host that is none: write host:port, with commas between several, and in user and password %3A for `:`, \
         %40 for `@`, %2F for `/`, %25 for `%`"
            .to_owned()
    };
    let (name, given) = match text.strip_prefix('[') {
        Some(rest) => {
            let (name, rest) = rest.split_once(']').ok_or_else(wrong)?;
            name.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            (name, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(wrong)?) })
        }
        None => {
            let (name, given) = text.split_once(':').map_or((text, None), |(name, given)| (name, Some(given)));
            UrlHost::parse(name).map_err(|_| wrong())?;
            (name, given)
        }
    };
    let port = match given {
        None => port,
        Some(given) => given.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?,
    };
    Ok(Host { name: name.to_owned(), port })
}

fn prefix(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b":._-/".contains(&b);
    // Braces would change a key's slot in a cluster, and `*?[` would match other programs' keys.
    if !text.is_empty() && text.len() <= 64 && text.bytes().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("must be at most 64 letters, digits, `:`, `.`, `_`, `-` and `/`".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::stores::StoreSettings;
    use crate::config::trial::{faults, github, sign_in};

    const SECRET: (&str, &str) = ("SESSION_SECRET", "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTAxMjM0NTY3ODk=");
    const REDIS: (&str, &str) = ("SESSION_STORE", "redis");

    fn with(more: &[(&str, &str)]) -> Result<crate::config::Loaded, crate::config::Faults> {
        github(&[&[REDIS, SECRET], more].concat())
    }

    fn read_as(url: &str) -> RedisPlace {
        match sign_in(with(&[("SESSION_REDIS_URL", url)])).store {
            StoreSettings::Redis(settings) => settings.place,
            StoreSettings::Memory { .. } | StoreSettings::Jwt { .. } => panic!("another store"),
        }
    }

    #[test]
    fn urls_name_one_server_sentinels_or_a_cluster() {
        let one = read_as("redis://localhost");
        assert_eq!((one.shown().as_str(), one.tls, one.database), ("localhost:6379", false, 0));
        let tls = read_as("rediss://ann:p%40ss%2F%3A@redis.example.com:6380/3");
        assert_eq!((tls.shown().as_str(), tls.tls, tls.database), ("redis.example.com:6380", true, 3));
        assert!(tls.user.as_deref() == Some("ann") && tls.password == Some(Secret::new("p@ss/:")));
        assert!(read_as("redis://:canary@[::1]:7000").password == Some(Secret::new("canary")));
        let sentinels = read_as("redis-sentinel://u:canary@a,b:26380,[::1]/mymaster/2");
        assert_eq!(sentinels.shown(), "mymaster (sentinels a:26379,b:26380,[::1]:26379)");
        assert_eq!(sentinels.database, 2);
        let cluster = read_as("rediss-cluster://a:1,b:2/");
        assert!(cluster.layout == Layout::Cluster && cluster.tls);
    }

    #[test]
    fn a_wrong_url_is_reported_without_a_word_of_it() {
        for bad in [
            "canary",
            "http://canary",
            "valkey://canary",
            "redis://canary@host",
            "redis://canary:@host",
            "redis://:canary@host/x",
            "redis://:canary@host/0/1",
            "redis://:can/ary@host",
            "redis://:canary@a,b",
            "redis://:canary@host:0",
            "redis://:canary@host:70000",
            "redis://:canary@ho st",
            "redis://:canary@[::1",
            "redis://:canary@host?canary",
            "redis://:%ff@host",
            "redis-sentinel://:canary@host",
            "redis-sentinel://:canary@host/a/b",
            "redis-cluster://:canary@host/1",
        ] {
            let text = faults(with(&[("SESSION_REDIS_URL", bad)]));
            assert!(text.starts_with("SESSION_REDIS_URL: ") && text.lines().count() == 1, "{bad}: {text}");
            assert!(!text.contains("canary"), "{bad}: {text}");
        }
    }

    #[test]
    fn all_that_redis_lacks_is_reported_at_once() {
        let text = faults(github(&[REDIS, ("SESSION_REDIS_PREFIX", "a{b}"), ("SESSION_STORE_TIMEOUT", "0")]));
        for name in ["SESSION_REDIS_URL", "SESSION_SECRET", "SESSION_REDIS_PREFIX", "SESSION_STORE_TIMEOUT"] {
            assert_eq!(text.lines().filter(|line| line.starts_with(&format!("{name}: "))).count(), 1, "{text}");
        }
        let plain = ("SESSION_REDIS_URL", "redis://localhost");
        let text = faults(with(&[plain, ("SESSION_REDIS_SENTINEL_PASSWORD", "canary")]));
        assert!(text.starts_with("SESSION_REDIS_SENTINEL_PASSWORD: ") && !text.contains("canary"), "{text}");
        let text = faults(with(&[plain, ("SESSION_REDIS_CA_FILE", "/nowhere/ca.pem")]));
        assert!(text.contains("write rediss://") && text.contains("cannot read"), "{text}");
    }

    #[test]
    fn a_password_in_the_clear_is_reported() {
        let notes = |url: &str| with(&[("SESSION_REDIS_URL", url)]).unwrap().notes.join("\n");
        assert!(notes("redis://:canary@redis.example.com").contains("travels in the clear"));
        for quiet in ["redis://redis.example.com", "redis://:canary@127.0.0.1", "rediss://:canary@redis.example.com"] {
            assert_eq!(notes(quiet), "", "{quiet}");
        }
    }
}
