//! Parses single words: switches, durations, numbers, addresses, URLs. Error messages never quote the word.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use url::{Host, Url};

use crate::adapters::providers::is_safe;

/// `true` or `false`, as people write them.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("must be `true` or `false`".to_owned()),
    }
}

/// `500ms`, `90s`, `15m`, `24h`, `7d`, `1h30m`; `0` alone needs no unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let wrong = || "is not a duration: a number with its unit, ms, s, m, h or d".to_owned();
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let (number, behind) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?);
        let (unit, behind) = behind.split_at(behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len()));
        let millis: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let millis = number.parse::<u64>().ok().and_then(|n| n.checked_mul(millis)).ok_or_else(wrong)?;
        sum = sum.checked_add(Duration::from_millis(millis)).ok_or_else(wrong)?;
        rest = behind;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(sum) }
}

/// A duration in its largest whole unit.
pub(super) fn duration_text(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let whole = units.into_iter().find(|(unit, _)| millis >= *unit && millis.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{millis}ms"), |(unit, name)| format!("{}{name}", millis / unit))
}

/// `ip:port`, `[ip]:port`, `localhost:port`, `:port`.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let on = |ip: Ipv4Addr, port: &str| port.parse().ok().map(|port: u16| SocketAddr::new(IpAddr::V4(ip), port));
    text.parse()
        .ok()
        .or_else(|| on(Ipv4Addr::UNSPECIFIED, text.strip_prefix(':')?))
        .or_else(|| on(Ipv4Addr::LOCALHOST, text.strip_prefix("localhost:")?))
        .ok_or_else(|| "is not an address and a port: `ip:port`, `[ip]:port`, `localhost:port` or `:port`".to_owned())
}

/// The same for a listener that trusts every client: `:port` is loopback.
pub(super) fn private_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').and_then(|port| port.parse().ok());
    port.map_or_else(|| address(text), |port: u16| Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)))
}

/// A network, or one address.
pub(super) fn network(text: &str) -> Option<IpNet> {
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    // IPv4-mapped IPv6 addresses are compared as IPv4.
    Some(match network {
        IpNet::V6(six) if six.prefix_len() >= 96 => match six.addr().to_ipv4_mapped() {
            Some(four) => IpNet::V4(Ipv4Net::new(four, six.prefix_len() - 96).ok()?.trunc()),
            None => network.trunc(),
        },
        IpNet::V4(_) | IpNet::V6(_) => network.trunc(),
    })
}

/// Whether a network is written with an address within it, as `203.0.113.7/3`, which is all of `192.0.0.0/3`: one address may be meant.
pub(super) fn has_host_bits(text: &str) -> bool {
    text.parse::<IpNet>().is_ok_and(|network| network != network.trunc())
}

/// An `http` or `https` URL without parts that a setting must not have.
pub(super) fn web_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("is not a URL ({error})"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must begin with https:// or http://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a name or a password".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must end with its path: no `?`, no `#`".to_owned());
    }
    Ok(url)
}

/// A provider's URL: `https`, except on a loopback host.
pub(super) fn provider_url(text: &str) -> Result<Url, String> {
    let url = web_url(text)?;
    if !is_safe(&url) {
        return Err("must be https: secrets travel to it; only a loopback host may be http".to_owned());
    }
    Ok(url)
}

/// Whether a host is this machine itself.
pub(super) fn is_loopback<S: AsRef<str>>(host: &Host<S>) -> bool {
    match host {
        Host::Domain(name) => {
            let name = name.as_ref().trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => IpAddr::V6(*ip).to_canonical().is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_read_as_people_write_them() {
        for yes in ["true", "TRUE", "1", "yes", "On"] {
            assert_eq!(switch(yes), Ok(true));
        }
        for no in ["false", "0", "No", "off"] {
            assert_eq!(switch(no), Ok(false));
        }
        assert!(switch("ture").is_err());
    }

    #[test]
    fn durations_need_a_unit() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500),
            ("90s", 90_000),
            ("15m", 900_000),
            ("24h", 86_400_000),
            ("1h30m", 5_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in
            ["", "90", "s", "1.5h", "-1s", "1 h", "1w", "24H", "99999999999999999999s", "18446744073709551615d", "1ſ"]
        {
            assert!(duration(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn durations_are_said_in_their_largest_whole_unit() {
        for text in ["400d", "24m", "75s", "10ms", "90s"] {
            assert_eq!(duration_text(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn addresses_have_four_forms() {
        for (text, read) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::]:80", "[::]:80"),
            (":80", "0.0.0.0:80"),
            ("localhost:80", "127.0.0.1:80"),
        ] {
            assert_eq!(address(text).unwrap().to_string(), read);
        }
        for bad in ["80", "0.0.0.0", "example.com:80", ":", ":65536", "localhost", "http://127.0.0.1:80"] {
            assert!(address(bad).is_err(), "{bad:?} was taken");
        }
        for (text, read) in [(":80", "127.0.0.1:80"), ("0.0.0.0:80", "0.0.0.0:80"), ("[::1]:80", "[::1]:80")] {
            assert_eq!(private_address(text).unwrap().to_string(), read, "whoever reaches it is believed");
        }
        assert!(private_address(":").is_err() && private_address("80").is_err());
    }

    #[test]
    fn a_network_may_be_one_address_and_ipv6_may_wrap_ipv4() {
        for (text, read) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("fd00::1", "fd00::1/128"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ] {
            assert_eq!(network(text).unwrap().to_string(), read);
        }
        for (text, has) in [
            ("10.1.2.3/8", true),
            ("203.0.113.7/3", true),
            ("fd00::1/8", true),
            ("::ffff:10.1.0.0/104", true),
            ("10.0.0.0/8", false),
            ("192.0.2.7/32", false),
            ("192.0.2.7", false),
            ("fd00::/8", false),
            ("0.0.0.0/0", false),
        ] {
            assert_eq!(has_host_bits(text), has, "{text}");
        }
        assert!(network("10.0.0.0/33").is_none());
        assert!(network("example.com").is_none());
    }

    #[test]
    fn a_provider_is_https_except_on_loopback() {
        for good in [
            "https://github.com",
            "http://localhost:9400",
            "http://127.8.0.1",
            "http://[::1]:1",
            "http://[::ffff:127.0.0.1]:1",
        ] {
            assert!(provider_url(good).is_ok(), "{good}");
        }
        for bad in [
            "http://github.com",
            "http://localhost.example.com",
            "http://idp.localhost",
            "http://localhost.",
            "http://[::ffff:10.0.0.1]",
            "http://128.0.0.1",
            "ftp://localhost",
            "https://a:b@github.com",
            "https://github.com/?x",
            "https://github.com/#x",
            "github.com",
        ] {
            assert!(provider_url(bad).is_err(), "{bad} was taken");
        }
    }
}
