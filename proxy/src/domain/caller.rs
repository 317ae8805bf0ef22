//! Finds a request's client from its connection and the hops that can be trusted.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// Stands for the address of a peer that has none because it connected over a Unix socket. No connection has it, no network of a rule
/// contains it, and no header field can claim it.
pub const NO_ADDRESS: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// How a request was sent.
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

    /// The default port of URLs with this scheme.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The networks of trusted proxies: for their `X-Forwarded-*` header fields (`TRUSTED_PROXIES`), or for their PROXY protocol headers
/// (`PROXY_PROTOCOL_FROM`). Empty: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    /// Whether peers that connect over a Unix socket are trusted.
    by_socket_file: bool,
}

impl TrustedProxies {
    /// Trusts these networks.
    #[must_use]
    pub const fn new(networks: Vec<IpNet>) -> Self {
        Self { networks, by_socket_file: false }
    }

    /// The same, with peers over a Unix socket trusted or not.
    #[must_use]
    pub fn with_socket_files(self, trusted: bool) -> Self {
        Self { by_socket_file: trusted, ..self }
    }

    /// Whether `address` is a trusted proxy's.
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        if address == NO_ADDRESS {
            return self.by_socket_file;
        }
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Whether one of these networks overlaps with that one.
    #[must_use]
    pub fn overlap(&self, other: &IpNet) -> bool {
        self.networks.iter().any(|network| network.contains(other) || other.contains(network))
    }
}

/// The peer of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address, as the kernel gives it.
    pub address: SocketAddr,
    /// Whether the connection has TLS.
    pub scheme: Scheme,
}

/// The sender of a request, and how far its forwarding header fields are trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The peer of our connection.
    pub peer: IpAddr,
    /// Whether the peer is one of the trusted proxies.
    pub trusted: bool,
    /// The client: the nearest hop that is not a trusted proxy.
    pub client: IpAddr,
    /// The scheme of the client's own request.
    pub scheme: Scheme,
    /// How many hops are trusted: the peer, and each trusted address from the right of `X-Forwarded-For`.
    pub hops: usize,
}

impl Caller {
    /// Determines the caller from the connection and, only if the peer is trusted, from its header fields: `forwarded_for` and
    /// `forwarded_proto` are all values of `X-Forwarded-For` and `X-Forwarded-Proto` in order.
    #[must_use]
    pub fn judge<'a>(
        peer: Peer,
        proxies: &TrustedProxies,
        forwarded_for: impl DoubleEndedIterator<Item = &'a str>,
        forwarded_proto: impl IntoIterator<Item = &'a str, IntoIter: DoubleEndedIterator>,
    ) -> Self {
        let address = peer.address.ip().to_canonical();
        if !proxies.contain(address) {
            return Self { peer: address, trusted: false, client: address, scheme: peer.scheme, hops: 0 };
        }
        let (client, hops) = first_untrusted(address, proxies, forwarded_for);
        let scheme = match entry(forwarded_proto.into_iter(), hops) {
            Some(proto) if proto.eq_ignore_ascii_case("https") => Scheme::Https,
            Some(proto) if proto.eq_ignore_ascii_case("http") => Scheme::Http,
            Some(_) | None => peer.scheme,
        };
        Self { peer: address, trusted: true, client, scheme, hops }
    }
}

/// The entry of the farthest trusted hop in a list to which each hop appends one: as far from the right as hops are trusted, or the first
/// if there are fewer. Entries to the left of it come from untrusted senders.
#[must_use]
pub fn entry<'a>(values: impl DoubleEndedIterator<Item = &'a str>, hops: usize) -> Option<&'a str> {
    values.rev().flat_map(|value| value.rsplit(',')).map(str::trim).take(hops).last()
}

/// Walks the hops from the nearest on: each trusted one vouches for the next. Text that is no address ends the walk, since entries beyond
/// it come from untrusted senders. Returns the client, and how many hops are trusted.
fn first_untrusted<'a>(
    peer: IpAddr,
    proxies: &TrustedProxies,
    forwarded_for: impl DoubleEndedIterator<Item = &'a str>,
) -> (IpAddr, usize) {
    let (mut client, mut trusted) = (peer, 1);
    for hop in forwarded_for.rev().flat_map(|value| value.rsplit(',')) {
        let Some(address) = self::hop(hop.trim()) else { break };
        client = address;
        if !proxies.contain(address) {
            break;
        }
        trusted += 1;
    }
    (client, trusted)
}

/// Whether the nearest hop names its caller: the last entry of all `X-Forwarded-For` values is an address.
#[must_use]
pub fn names_caller<'a>(forwarded_for: impl DoubleEndedIterator<Item = &'a str>) -> bool {
    entry(forwarded_for, 1).is_some_and(|text| hop(text).is_some())
}

/// The address of one hop: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
#[must_use]
pub fn hop(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    bare.parse::<IpAddr>()
        .ok()
        .or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .map(|address| address.to_canonical())
        .filter(|address| *address != NO_ADDRESS)
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
    fn a_caller_on_a_socket_file_is_trusted_only_where_that_is_configured() {
        let networks: Vec<IpNet> = ["::/0", "0.0.0.0/0"].map(|network| network.parse().unwrap()).into();
        let peer = Peer { address: SocketAddr::new(NO_ADDRESS, 0), scheme: Scheme::Http };
        let judged = |proxies: &TrustedProxies, hops: &[&str]| Caller::judge(peer, proxies, hops.iter().copied(), None);
        let everybody = TrustedProxies::new(networks);
        let caller = judged(&everybody, &["198.51.100.1"]);
        assert!(!caller.trusted && caller.client == NO_ADDRESS, "not by any network");
        let only = TrustedProxies::default().with_socket_files(true);
        assert_eq!(judged(&only, &["203.0.113.9, 198.51.100.1"]).client.to_string(), "198.51.100.1");
        assert_eq!(judged(&only, &[]).client, NO_ADDRESS);
        assert_eq!(judged(&only, &["198.51.100.1, ::"]).client, NO_ADDRESS, "nobody can claim to be one of them");
        assert_eq!(judge("10.0.0.1", &["::"], None).client.to_string(), "10.0.0.1");
    }

    #[test]
    fn an_address_mapped_into_ipv6_is_the_same_address() {
        assert!(judge("::ffff:10.0.0.1", &[], None).trusted);
        assert_eq!(judge("10.0.0.1", &["::ffff:10.1.1.1, ::ffff:10.0.0.2"], None).client.to_string(), "10.1.1.1");
    }

    #[test]
    fn a_trusted_peer_names_the_scheme() {
        assert_eq!(judge("10.0.0.1", &[], Some("HTTPS")).scheme, Scheme::Https);
        assert_eq!(judge("10.0.0.1", &[], Some("gopher")).scheme, Scheme::Http);
    }

    #[test]
    fn of_a_list_the_entry_of_the_farthest_trusted_hop_counts() {
        let scheme = |hops: &[&str], proto: &str| judge("10.0.0.1", hops, Some(proto)).scheme;
        assert_eq!(scheme(&["198.51.100.1, 10.0.0.2"], "https,http"), Scheme::Https);
        assert_eq!(scheme(&["198.51.100.1, 10.0.0.2"], "https, http, http"), Scheme::Http, "the first is a stranger's");
        assert_eq!(scheme(&["198.51.100.1"], "https,http"), Scheme::Http, "only the peer is trusted");
        assert_eq!(scheme(&["198.51.100.1, 10.0.0.3, 10.0.0.2"], "https,http"), Scheme::Https, "fewer: the first");
        assert_eq!(scheme(&["198.51.100.1, 10.0.0.2"], ",http"), Scheme::Http, "none: the connection's own");
        let picked = |values: &[&'static str], hops| entry(values.iter().copied(), hops);
        assert_eq!(picked(&["a, b", "c"], 2), Some("b"), "fields make one list");
        assert_eq!(picked(&["a"], 5), Some("a"));
        assert_eq!(picked(&[], 1), None);
    }

    /// The cases of oauth2-proxy's tests for addresses behind trusted proxies. At text that is no address it gives up; here the nearest hop
    /// that a trusted one vouches for counts: it is a trusted proxy's own, never one that an untrusted sender wrote.
    #[test]
    fn chains_from_the_tests_of_another_proxy() {
        let networks = ["192.0.2.0/24", "2001:db8:1::/48"].map(|network| network.parse().unwrap());
        let proxies = TrustedProxies::new(networks.into());
        let client = |peer: &str, values: &[&str]| {
            let peer = Peer { address: peer.parse().unwrap(), scheme: Scheme::Http };
            Caller::judge(peer, &proxies, values.iter().copied(), None).client.to_string()
        };
        for (why, values, expected) in [
            ("a forged entry at the left", &["10.0.0.5, 198.51.100.23"][..], "198.51.100.23"),
            ("trusted hops between", &["198.51.100.23, 192.0.2.20, 192.0.2.21"], "198.51.100.23"),
            ("all are trusted", &["192.0.2.30, 192.0.2.20"], "192.0.2.30"),
            ("several fields", &["10.0.0.5", "198.51.100.23, 192.0.2.20", "192.0.2.21"], "198.51.100.23"),
            ("blanks and ports", &[" 198.51.100.23:1234 ,\t192.0.2.20:443 "], "198.51.100.23"),
            ("IPv6", &["2001:db8:2::23, 2001:db8:1::20"], "2001:db8:2::23"),
            ("IPv6 with ports", &[" [2001:db8:2::23]:1234 , [2001:db8:1::20]:443, 192.0.2.20"], "2001:db8:2::23"),
            ("the first that is not trusted", &["10.0.0.5, 198.51.100.22, 198.51.100.23, 192.0.2.20"], "198.51.100.23"),
            ("nonsense beyond it", &["invalid, 198.51.100.23, 192.0.2.20"], "198.51.100.23"),
            ("no field", &[], "192.0.2.10"),
            ("an empty field", &[""], "192.0.2.10"),
            ("blanks only", &[" \t"], "192.0.2.10"),
            ("nonsense at the right", &["10.0.0.5, invalid"], "192.0.2.10"),
            ("nonsense between", &["10.0.0.5, invalid, 192.0.2.20"], "192.0.2.20"),
            ("nonsense behind trusted hops", &["invalid, 192.0.2.20"], "192.0.2.20"),
            ("an empty entry between", &["10.0.0.5,,192.0.2.20"], "192.0.2.20"),
            ("an empty last field", &["10.0.0.5", ""], "192.0.2.10"),
            ("four numbers that are no address", &["10000.10000.10000.10000"], "192.0.2.10"),
        ] {
            assert_eq!(client("192.0.2.10:443", values), expected, "{why}");
        }
        assert_eq!(client("[2001:db8:1::10]:443", &["[2001:db8:2::23]:1234, 2001:db8:1::20"]), "2001:db8:2::23");
        assert_eq!(client("[2001:470::1]:48290", &["127.0.0.1"]), "2001:470::1", "a stranger is not asked");
    }
}
