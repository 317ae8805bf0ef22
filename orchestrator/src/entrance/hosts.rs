//! The hosts that requests may name.
//!
//! An attacker's page can point its own host name at a loopback address after it has loaded (DNS rebinding): the browser then
//! takes our responses for that page's own, and lets it read and change everything. Such a request still names the attacker's
//! host.

use std::net::IpAddr;

/// The hosts that we serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    named: Vec<Named>,
    every: bool,
    /// The address that we listen on, if it is a specific one: a rebound name does not match it.
    own: Option<IpAddr>,
}

/// One host of the setting.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    host: String,
    /// True for all hosts below it, without itself.
    below: bool,
    /// The port, if one is given.
    port: Option<u16>,
}

/// A list of hosts that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no host; for example flux.example.com, *.example.com, 192.0.2.7, or the URL that people open")]
pub struct BadHost(String);

impl Hosts {
    /// Parses a list with commas: names, `*.` and a domain, IP addresses, each with a port or without; URLs, of which only the
    /// host counts; `*` is every host. Loopback names are always included.
    ///
    /// # Errors
    /// The first entry that is none of these.
    pub fn parse(list: &str) -> Result<Self, BadHost> {
        let mut hosts = Self::default();
        for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            if entry == "*" {
                hosts.every = true;
                continue;
            }
            let named = if entry.contains("://") { of_url(entry) } else { of_host(entry) };
            hosts.named.push(named.ok_or_else(|| BadHost(entry.chars().take(100).collect()))?);
        }
        Ok(hosts)
    }

    /// Adds the address that we listen on.
    #[must_use]
    pub fn with_own(mut self, listen: IpAddr) -> Self {
        self.own = Some(listen.to_canonical()).filter(|ip| !ip.is_unspecified());
        self
    }

    /// Returns true if every host is served.
    #[must_use]
    pub fn is_every(&self) -> bool {
        self.every
    }

    /// Returns true if an address is ours: a loopback one, or the one that we listen on.
    pub(super) fn is_own(&self, host: &str) -> bool {
        let unlisted = Self { own: self.own, ..Self::default() };
        unlisted.lists(host)
    }

    /// Returns true if a request may name this host, with or without a port.
    #[must_use]
    pub fn lists(&self, authority: &str) -> bool {
        let Some((host, port)) = split(authority) else { return false };
        let ip = address(&host);
        self.every
            || ip.map_or_else(|| host == "localhost" || host.ends_with(".localhost"), |ip| ip.is_loopback())
            || ip.is_some_and(|ip| self.own == Some(ip))
            || self.named.iter().any(|named| named.is(&host, ip, port))
    }
}

impl Named {
    fn is(&self, host: &str, ip: Option<IpAddr>, port: Option<u16>) -> bool {
        if self.port.is_some() && self.port != port {
            return false;
        }
        if self.below {
            return ip.is_none()
                && host.strip_suffix(&self.host).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'));
        }
        self.host == host || ip.is_some_and(|ip| address(&self.host) == Some(ip))
    }
}

fn of_url(text: &str) -> Option<Named> {
    let url = url::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    let (host, _) = split(url.host_str()?)?;
    Some(Named { host, below: false, port: None })
}

fn of_host(text: &str) -> Option<Named> {
    let (below, text) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
    let (host, port) = split(text)?;
    (!below || address(&host).is_none()).then_some(Named { host, below, port })
}

/// Splits into the host, normalized for comparison, and the port: RFC 9110 §7.2, without forms that no browser sends.
fn split(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = if authority.starts_with('[') {
        let end = authority.find(']')? + 1;
        authority.split_at_checked(end)?
    } else {
        authority.split_at_checked(authority.find(':').unwrap_or(authority.len()))?
    };
    let port = match port.strip_prefix(':') {
        // A colon without a port is allowed, and means no port.
        Some("") => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
        Some(_) => return None,
        None if port.is_empty() => None,
        None => return None,
    };
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let good = if host.starts_with('[') { address(&host).is_some() } else { plain && !host.is_empty() };
    good.then_some((host, port))
}

fn address(host: &str) -> Option<IpAddr> {
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    inner
        .unwrap_or(host)
        .parse::<IpAddr>()
        .ok()
        .filter(|ip| ip.is_ipv6() == inner.is_some())
        .map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_names_count_by_themselves_and_no_other_does() {
        let hosts = Hosts::default();
        for own in
            ["localhost", "LOCALHOST:8081", "localhost.", "app.localhost:1", "127.0.0.1", "127.9.9.9:80", "[::1]:8081"]
        {
            assert!(hosts.lists(own), "{own}");
        }
        for strange in [
            "",
            "evil.example",
            "evil.example:8081",
            "localhost.evil.example",
            "notlocalhost",
            "127.0.0.1.evil.example",
            "192.0.2.7",
            "0.0.0.0",
            "[::]",
            "[::1",
            "::1",
            "ann@localhost",
            "localhost:80:80",
            "localhost:x",
            "localhost/",
            "localhost:99999",
            "localhost evil.example",
            ".localhost.evil",
            "127.1.evil.example",
        ] {
            assert!(!hosts.lists(strange), "{strange}");
        }
    }

    #[test]
    fn listed_hosts_count_as_they_are_listed() {
        let hosts =
            Hosts::parse("flux.example.com, *.dev.example.com,only.example.com:8443,192.0.2.7,[2001:db8::7]").unwrap();
        for own in [
            "flux.example.com",
            "Flux.Example.com.:444",
            "a.dev.example.com",
            "a.b.dev.example.com:1",
            "only.example.com:8443",
            "192.0.2.7:8081",
            "[2001:DB8:0::7]",
            "localhost",
        ] {
            assert!(hosts.lists(own), "{own}");
        }
        for strange in [
            "dev.example.com",
            "adev.example.com",
            ".dev.example.com",
            "only.example.com",
            "x.flux.example.com",
            "192.0.2.8",
        ] {
            assert!(!hosts.lists(strange), "{strange}");
        }
    }

    #[test]
    fn of_a_url_the_host_counts_and_every_host_is_a_star() {
        let hosts = Hosts::parse("https://flux.example.com:8443/api/v1/auth/callback").unwrap();
        assert!(hosts.lists("flux.example.com") && hosts.lists("flux.example.com:8443") && !hosts.lists("example.com"));
        assert!(Hosts::parse("*").unwrap().lists("evil.example"));
        assert!(Hosts::parse(" ,").unwrap() == Hosts::default());
        for bad in ["a b", "*x.example.com", "http://", "ftp://x", "*.192.0.2.7", "a/b", "*.*"] {
            assert!(Hosts::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_address_that_is_listened_on_is_a_host() {
        let hosts = Hosts::default().with_own("192.0.2.7".parse().unwrap());
        assert!(hosts.lists("192.0.2.7:8081") && !hosts.lists("192.0.2.8:8081"));
        assert!(!Hosts::default().with_own("0.0.0.0".parse().unwrap()).lists("0.0.0.0"));
    }
}
