//! What a connection tells of its caller, and which hop to believe.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// How a request travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that a URL of this scheme means when it names none.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Networks whose `X-Forwarded-*` headers are believed (`TRUSTED_PROXIES`). Empty: nobody's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Trusts these networks.
    #[must_use]
    pub const fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether `address` may speak for others.
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// The far end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address, as the kernel gives it.
    pub address: SocketAddr,
    /// Whether the connection has TLS.
    pub scheme: Scheme,
}

/// Who sent a request, and how far its forwarding headers are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The far end of our connection.
    pub peer: IpAddr,
    /// Whether the peer is one of the trusted proxies.
    pub trusted: bool,
    /// The nearest hop that no trusted proxy speaks for: the client.
    pub client: IpAddr,
    /// How the client's own request travelled.
    pub scheme: Scheme,
}

impl Caller {
    /// Judges a request by its connection and, only where the peer is trusted, by what the peer says of it:
    /// `forwarded_for` is every `X-Forwarded-For` value in order, `forwarded_proto` the `X-Forwarded-Proto` value.
    #[must_use]
    pub fn judge<'a>(
        peer: Peer,
        proxies: &TrustedProxies,
        forwarded_for: impl DoubleEndedIterator<Item = &'a str>,
        forwarded_proto: Option<&str>,
    ) -> Self {
        let address = peer.address.ip().to_canonical();
        if !proxies.contain(address) {
            return Self { peer: address, trusted: false, client: address, scheme: peer.scheme };
        }
        let scheme = match forwarded_proto.map(str::trim) {
            Some(proto) if proto.eq_ignore_ascii_case("https") => Scheme::Https,
            Some(proto) if proto.eq_ignore_ascii_case("http") => Scheme::Http,
            Some(_) | None => peer.scheme,
        };
        let client = first_untrusted(address, proxies, forwarded_for);
        Self { peer: address, trusted: true, client, scheme }
    }
}

/// Reads the hops from the nearest on: each trusted one vouches for the next. Text that is no address ends the walk,
/// since what stands behind it was written by somebody whom nobody vouches for.
fn first_untrusted<'a>(
    peer: IpAddr,
    proxies: &TrustedProxies,
    forwarded_for: impl DoubleEndedIterator<Item = &'a str>,
) -> IpAddr {
    let mut client = peer;
    for hop in forwarded_for.rev().flat_map(|value| value.rsplit(',')) {
        let Some(address) = parse_hop(hop.trim()) else { break };
        client = address;
        if !proxies.contain(address) {
            break;
        }
    }
    client
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    bare.parse::<IpAddr>()
        .ok()
        .or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(peer: &str, hops: &[&str], proto: Option<&str>) -> Caller {
        let proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        let peer = Peer { address: SocketAddr::new(peer.parse().unwrap(), 1234), scheme: Scheme::Http };
        Caller::judge(peer, &proxies, hops.iter().copied(), proto)
    }

    #[test]
    fn nobody_is_believed_who_is_not_trusted() {
        let caller = judge("192.0.2.9", &["198.51.100.1"], Some("https"));
        assert_eq!(caller.client.to_string(), "192.0.2.9");
        assert_eq!(caller.scheme, Scheme::Http);
        assert!(!caller.trusted);
    }

    #[test]
    fn the_client_is_the_nearest_hop_that_nobody_trusted_vouches_for() {
        let client = |hops: &[&str]| judge("10.0.0.1", hops, None).client.to_string();
        assert_eq!(client(&["203.0.113.66, 198.51.100.1, 10.0.0.2"]), "198.51.100.1");
        assert_eq!(client(&["203.0.113.66", "198.51.100.1"]), "198.51.100.1", "the last header counts first");
        assert_eq!(client(&["198.51.100.1, unknown, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(client(&["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(client(&["198.51.100.1:80"]), "198.51.100.1");
        assert_eq!(client(&[]), "10.0.0.1");
    }

    #[test]
    fn an_address_mapped_into_ipv6_is_the_same_address() {
        assert!(judge("::ffff:10.0.0.1", &[], None).trusted);
        assert_eq!(judge("10.0.0.1", &["::ffff:10.1.1.1, ::ffff:10.0.0.2"], None).client.to_string(), "10.1.1.1");
    }

    #[test]
    fn a_trusted_peer_tells_the_scheme() {
        assert_eq!(judge("10.0.0.1", &[], Some("HTTPS")).scheme, Scheme::Https);
        assert_eq!(judge("10.0.0.1", &[], Some("gopher")).scheme, Scheme::Http);
    }
}
