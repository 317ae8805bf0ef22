//! Listen addresses, trusted proxies, and the upstream.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use url::{Host, Url};

use crate::adapters::upstream::{Trust, UpstreamAddress, UpstreamSettings};
use crate::config::options::{
    ADMIN_ADDR, EXT_AUTHZ_ADDR, HTTP_REDIRECT_ADDR, Knob, LISTEN_ADDR, PROXY_PROTOCOL_FROM, TIMEOUT_CONNECT,
    TRUSTED_PROXIES, UPSTREAM_CA_FILE, UPSTREAM_URL,
};
use crate::config::parse::keys;
use crate::config::reading::{Reading, Zero};
use crate::config::words;
use crate::domain::caller::TrustedProxies;
use crate::serve::settings::Listen;

/// The listen addresses.
pub(in crate::config) struct Listeners {
    pub(super) listen: Listen,
    pub(super) admin: SocketAddr,
    pub(super) redirect: Option<SocketAddr>,
    pub(super) ext_authz: Option<SocketAddr>,
}

pub(super) fn read(reading: &mut Reading) -> Option<Listeners> {
    let listen = reading.parsed(LISTEN_ADDR, listener);
    let admin = admin(reading);
    let redirect = reading.parsed(HTTP_REDIRECT_ADDR, words::address);
    let ext_authz = reading.parsed(EXT_AUTHZ_ADDR, words::private_address);
    let (listen, admin) = (listen?, admin?);
    let port = if let Listen::Address(address) = &listen { Some(*address) } else { None };
    if port.is_some_and(|port| conflict(port, admin)) {
        reading.fault(ADMIN_ADDR, "is the same port as LISTEN_ADDR: the admin listener needs one of its own");
    }
    if redirect.is_some_and(|redirect| conflict(redirect, admin) || port.is_some_and(|port| conflict(redirect, port))) {
        reading.fault(HTTP_REDIRECT_ADDR, "is the same port as LISTEN_ADDR or ADMIN_ADDR: it needs one of its own");
    }
    let others = [port, Some(admin), redirect];
    if ext_authz.is_some_and(|own| others.into_iter().flatten().any(|other| conflict(own, other))) {
        reading.fault(EXT_AUTHZ_ADDR, "is the same port as another listener's: it needs one of its own");
    }
    Some(Listeners { listen, admin, redirect, ext_authz })
}

/// Parses `ip:port` in its forms, `unix:/path`, `systemd`.
fn listener(text: &str) -> Result<Listen, String> {
    if text == "systemd" {
        return Ok(Listen::Systemd);
    }
    if let Some(path) = text.strip_prefix("unix:") {
        return socket_file(path).map(Listen::File);
    }
    let address = words::address(text).map(Listen::Address);
    address.map_err(|why| format!("{why}, or `unix:/path`, or `systemd`"))
}

/// The full path of a Unix socket.
fn socket_file(path: &str) -> Result<PathBuf, String> {
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.len() > 1 && path.starts_with('/') && !path.ends_with('/') && !path.contains('\0') {
        Ok(PathBuf::from(path))
    } else {
        Err("must name a socket file by its full path: `unix:/run/app.sock`".to_owned())
    }
}

fn conflict(one: SocketAddr, other: SocketAddr) -> bool {
    let same = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.port() != 0 && same
}

pub(in crate::config) fn admin(reading: &mut Reading) -> Option<SocketAddr> {
    reading.parsed(ADMIN_ADDR, words::address)
}

pub(super) fn trusted_proxies(reading: &mut Reading) -> TrustedProxies {
    networks(reading, TRUSTED_PROXIES, "any address, host and scheme")
}

/// The entry for peers that connect over a Unix socket.
const BY_SOCKET_FILE: &str = "unix:";

pub(super) fn proxy_protocol_from(reading: &mut Reading) -> TrustedProxies {
    networks(reading, PROXY_PROTOCOL_FROM, "any address")
}

fn networks(reading: &mut Reading, knob: Knob, claims: &str) -> TrustedProxies {
    let (mut networks, mut by_socket_file) = (Vec::new(), false);
    for (i, entry) in reading.list(knob).iter().enumerate() {
        if knob == TRUSTED_PROXIES && entry == BY_SOCKET_FILE {
            by_socket_file = true;
            continue;
        }
        match words::network(entry) {
            Some(network) => {
                if words::has_host_bits(entry) {
                    reading.warn(format!(
                        "{}: entry {} means {network}: write that, or one address",
                        knob.variable,
                        i + 1
                    ));
                }
                // No private network is larger than 10.0.0.0/8 and fc00::/7.
                let is_wide = match network {
                    IpNet::V4(network) => network.prefix_len() < 8,
                    IpNet::V6(network) => network.prefix_len() < 7,
                };
                if is_wide {
                    let what = if network.prefix_len() == 0 { "the whole internet" } else { "much of the internet" };
                    reading.warn(format!(
                        "{} names {what}: every client there can claim {claims}; name only the proxies in front",
                        knob.variable
                    ));
                }
                networks.push(network);
            }
            None => reading.fault(knob, format!("entry {} is neither a network nor an address", i + 1)),
        }
    }
    TrustedProxies::new(networks).with_socket_files(by_socket_file)
}

pub(super) fn upstream(reading: &mut Reading, own: Option<&Listeners>) -> Option<UpstreamSettings> {
    let connect_timeout =
        reading.duration(TIMEOUT_CONNECT, Duration::from_millis(10)..=Duration::from_secs(600), Zero::Refused);
    let roots = keys::roots(reading, UPSTREAM_CA_FILE);
    let address = reading.parsed(UPSTREAM_URL, upstream_address)?;
    if reading.is_set(UPSTREAM_CA_FILE) && !address.is_tls() {
        reading.warn("UPSTREAM_CA_FILE is not used, because UPSTREAM_URL is not https");
    }
    if let Some(problem) = own.and_then(|own| is_ourselves(&address, own)) {
        reading.fault(UPSTREAM_URL, problem);
    }
    Some(UpstreamSettings { address, roots, connect_timeout, trust: Trust::default() })
}

/// The error for an upstream that is one of our own listeners.
pub(super) fn is_ourselves(address: &UpstreamAddress, own: &Listeners) -> Option<&'static str> {
    let comes_back = match &own.listen {
        Listen::Address(own) => reaches(address, *own),
        Listen::File(own) => *address == UpstreamAddress::Unix(own.clone()),
        Listen::Systemd => false,
    };
    if comes_back {
        Some("is LISTEN_ADDR itself: every request would come back in a loop")
    } else if reaches(address, own.admin) {
        Some("is ADMIN_ADDR: the admin listener is not for users")
    } else if own.ext_authz.is_some_and(|ext_authz| reaches(address, ext_authz)) {
        Some("is EXT_AUTHZ_ADDR: anyone who reaches that is believed")
    } else {
        None
    }
}

/// `http://host:port`, `https://host:port`, `h2://host:port`, `h2c://host:port`, `unix:/path`.
pub(super) fn upstream_address(text: &str) -> Result<UpstreamAddress, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return socket_file(path).map(UpstreamAddress::Unix);
    }
    let h2c = text.strip_prefix("h2c://").map(|rest| format!("http://{rest}"));
    let h2 = text.strip_prefix("h2://").map(|rest| format!("https://{rest}"));
    let url = match Url::parse(h2c.as_deref().or(h2.as_deref()).unwrap_or(text)) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => url,
        Ok(_) | Err(_) => {
            return Err(
                "must be http://host:port, https://host:port, h2://host:port, h2c://host:port or unix:/path".to_owned()
            );
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a name or a password".to_owned());
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err("must end with its host and port: requests keep their own path".to_owned());
    }
    let host = match url.host() {
        Some(Host::Domain(name)) => name.to_owned(),
        Some(Host::Ipv4(ip)) => ip.to_string(),
        Some(Host::Ipv6(ip)) => ip.to_string(),
        None => return Err("names no host".to_owned()),
    };
    let port = url.port_or_known_default().filter(|port| *port != 0).ok_or("must name a port other than 0")?;
    Ok(match (h2c, url.scheme()) {
        (Some(_), _) => UpstreamAddress::H2c { host, port },
        (None, _) if h2.is_some() => UpstreamAddress::H2 { host, port },
        (None, "https") => UpstreamAddress::Https { host, port },
        (None, _) => UpstreamAddress::Http { host, port },
    })
}

/// Whether connecting to `address` reaches our own listener.
fn reaches(address: &UpstreamAddress, own: SocketAddr) -> bool {
    let Some((host, port)) = address.host_and_port() else { return false };
    if port != own.port() {
        return false;
    }
    match host.parse::<IpAddr>() {
        Ok(ip) => {
            ip == own.ip()
                || (own.ip().is_unspecified() && ip.is_loopback())
                || (ip.is_unspecified() && own.ip().is_loopback())
        }
        Err(_) => words::is_loopback(&Host::Domain(host)) && (own.ip().is_loopback() || own.ip().is_unspecified()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_has_four_forms() {
        for (text, origin) in [
            ("http://127.0.0.1:8081", "http://127.0.0.1:8081"),
            ("http://app/", "http://app"),
            ("https://app:8443", "https://app:8443"),
            ("h2c://[::1]:50051", "h2c://[::1]:50051"),
            ("h2://app", "h2://app"),
            ("unix:/run/app.sock", "unix:/run/app.sock"),
            ("unix:///run/app.sock", "unix:/run/app.sock"),
        ] {
            assert_eq!(upstream_address(text).unwrap().origin(), origin);
        }
        for bad in [
            "127.0.0.1:8081",
            "ftp://app",
            "http://app/path",
            "http://app/?q",
            "http://app/#f",
            "http://user:password@app",
            "http://app:0",
            "h2c://",
            "unix:app.sock",
            "unix:/",
        ] {
            assert!(upstream_address(bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn requests_come_by_a_port_a_socket_file_or_what_systemd_passes_on() {
        assert_eq!(listener("systemd"), Ok(Listen::Systemd));
        for text in ["unix:/run/sidegate.sock", "unix:///run/sidegate.sock"] {
            assert_eq!(listener(text), Ok(Listen::File("/run/sidegate.sock".into())), "{text}");
        }
        assert_eq!(listener(":80"), Ok(Listen::Address("0.0.0.0:80".parse().unwrap())));
        for bad in ["unix:", "unix:/", "unix:run/x", "unix:/run/", "systemd:x", "Systemd", "/run/x", "80"] {
            assert!(listener(bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn an_upstream_that_is_the_proxy_itself_is_known() {
        let at = |url: &str, own: &str| reaches(&upstream_address(url).unwrap(), own.parse().unwrap());
        assert!(at("http://127.0.0.1:8080", "0.0.0.0:8080"));
        assert!(at("http://localhost:8080", "127.0.0.1:8080"));
        assert!(at("https://[::1]:8080", "[::]:8080"));
        assert!(!at("http://127.0.0.1:8081", "0.0.0.0:8080"));
        assert!(!at("http://app:8080", "0.0.0.0:8080"));
        assert!(!at("http://127.0.0.2:8080", "127.0.0.1:8080"));
    }
}
