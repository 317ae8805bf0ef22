//! The forwarding header fields: read from trusted proxies, and written for the upstream.

use std::borrow::Cow;
use std::io::Write as _;
use std::net::IpAddr;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::host::{X_FORWARDED_HOST, host_value, trusted_value};
use super::strip::FORWARDED_TRUTH;
use crate::adapters::upstream::Fields;
use crate::domain::caller::{Caller, NO_ADDRESS, Peer, TrustedProxies};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// The sender of the request, from its connection and any trusted proxy.
pub(crate) fn caller(headers: &HeaderMap, peer: Peer, proxies: &TrustedProxies) -> Caller {
    if !proxies.contain(peer.address.ip()) {
        return Caller::judge(peer, proxies, std::iter::empty(), None);
    }
    let texts = |name| headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default());
    Caller::judge(peer, proxies, texts(&X_FORWARDED_FOR), texts(&X_FORWARDED_PROTO))
}

/// The forwarding fields for the upstream: appended to those of a trusted proxy, else written from scratch.
pub(crate) struct Forwarded<'h> {
    /// The value of `X-Forwarded-For`, followed by the port.
    text: Vec<u8>,
    hops: usize,
    proto: &'static str,
    host: Option<Cow<'h, HeaderValue>>,
}

impl<'h> Forwarded<'h> {
    /// Reads a head that was stripped: the forwarding fields left in it come from a trusted proxy.
    pub(crate) fn of(headers: &'h HeaderMap, caller: &Caller) -> Self {
        let host = host_value(headers, caller);
        let mut text = Vec::with_capacity(64);
        if caller.trusted {
            for said in headers.get_all(&X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()) {
                text.extend_from_slice(said.as_bytes());
                text.extend_from_slice(b", ");
            }
        }
        if caller.peer != NO_ADDRESS {
            push_address(&mut text, caller.peer);
        } else if text.is_empty() {
            // RFC 7239 §6.2: the token for a client without a known address.
            text.extend_from_slice(b"unknown");
        } else {
            while let Some(rest) = text.strip_suffix(b", ") {
                text.truncate(rest.len());
            }
        }
        let hops = text.len();
        let port = trusted_value(headers, &X_FORWARDED_PORT, caller)
            .and_then(|port| port.parse().ok().filter(|port| *port > 0));
        let (host, named) = host.unzip();
        let port = port.or(named.flatten()).unwrap_or_else(|| caller.scheme.default_port());
        push_number(&mut text, port);
        Self { text, hops, proto: caller.scheme.as_str(), host }
    }

    /// Writes the fields.
    pub(crate) fn write_fields(&self, fields: &mut impl Fields) {
        // Addresses, and text that came as a header value.
        let (hops, port) = self.text.split_at_checked(self.hops).unwrap_or_default();
        fields.text(&X_FORWARDED_FOR, hops);
        fields.text(&X_FORWARDED_PROTO, self.proto.as_bytes());
        if let Some(host) = &self.host {
            fields.field(&X_FORWARDED_HOST, host);
        }
        fields.text(&X_FORWARDED_PORT, port);
    }
}

/// Whether [`Forwarded::write_fields`] writes this field.
pub(crate) fn is_rewritten(name: &HeaderName) -> bool {
    let text = name.as_str();
    text.starts_with("x-forwarded-") && FORWARDED_TRUTH.contains(&text)
}

/// Formats like `Display`, without its cost for IPv4.
fn push_address(text: &mut Vec<u8>, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        let _infallible = write!(text, "{address}");
        return;
    };
    let mut signs = FromBehind::new();
    for (place, octet) in address.octets().into_iter().enumerate().rev() {
        signs.number(u16::from(octet));
        if place > 0 {
            signs.sign(b'.');
        }
    }
    text.extend_from_slice(signs.as_slice());
}

/// Formats like `Display`, without its cost.
fn push_number(text: &mut Vec<u8>, number: u16) {
    let mut signs = FromBehind::new();
    signs.number(number);
    text.extend_from_slice(signs.as_slice());
}

/// A short text, written from its end; the longest is an IPv4 address.
struct FromBehind {
    signs: [u8; 15],
    from: usize,
}

impl FromBehind {
    const fn new() -> Self {
        Self { signs: [0; 15], from: 15 }
    }

    fn sign(&mut self, sign: u8) {
        self.from = self.from.saturating_sub(1);
        if let Some(place) = self.signs.get_mut(self.from) {
            *place = sign;
        }
    }

    fn number(&mut self, mut number: u16) {
        let room = self.signs.get_mut(..self.from).unwrap_or_default();
        for place in room.iter_mut().rev() {
            *place = b'0' + (number % 10) as u8;
            self.from -= 1;
            number /= 10;
            if number == 0 {
                break;
            }
        }
    }

    fn as_slice(&self) -> &[u8] {
        self.signs.get(self.from..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use http::Version;

    use super::super::tests::head;
    use super::*;
    use crate::domain::caller::Scheme;

    fn caller(trusted: bool) -> Caller {
        let peer = "192.0.2.9".parse().unwrap();
        Caller { peer, trusted, client: peer, scheme: Scheme::Http, hops: usize::from(trusted) }
    }

    #[test]
    fn numbers_and_addresses_are_written_as_always() {
        for number in 0..=u16::MAX {
            let mut text = Vec::new();
            push_number(&mut text, number);
            assert_eq!(text, number.to_string().as_bytes());
        }
        for address in ["0.0.0.0", "10.0.200.99", "255.255.255.255", "2001:db8::1"] {
            let mut text = Vec::new();
            push_address(&mut text, address.parse().unwrap());
            assert_eq!(text, address.as_bytes());
        }
    }

    #[test]
    fn forwarded_headers_tell_the_truth() {
        let written = |headers: &HeaderMap, caller: &Caller| {
            let mut written = HeaderMap::new();
            Forwarded::of(headers, caller).write_fields(&mut written);
            written
        };
        let headers = head(Version::HTTP_11, "/", &[("host", "app.example:8080")]).headers;
        let headers = written(&headers, &caller(false));
        assert_eq!(headers["x-forwarded-for"], "192.0.2.9");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "app.example:8080");
        assert_eq!(headers["x-forwarded-port"], "8080");
        let headers = head(
            Version::HTTP_11,
            "/",
            &[("host", "inner"), ("x-forwarded-host", "app.example"), ("x-forwarded-for", "1.2.3.4")],
        )
        .headers;
        assert!(headers.keys().filter(|name| is_rewritten(name)).count() == 2);
        let headers = written(&headers, &Caller { scheme: Scheme::Https, ..caller(true) });
        assert_eq!(headers["x-forwarded-for"], "1.2.3.4, 192.0.2.9");
        assert_eq!(headers["x-forwarded-host"], "app.example");
        assert_eq!(headers["x-forwarded-port"], "443");
        let lists =
            [("x-forwarded-host", "evil, a.example, b"), ("x-forwarded-port", "1, 8443, 80"), ("host", "inner")];
        let headers = written(&head(Version::HTTP_11, "/", &lists).headers, &Caller { hops: 2, ..caller(true) });
        assert!(headers["x-forwarded-host"] == "a.example" && headers["x-forwarded-port"] == "8443", "{headers:?}");
        let nonsense = [("x-forwarded-host", "a b"), ("x-forwarded-port", "99999"), ("host", "inner:81")];
        let headers = written(&head(Version::HTTP_11, "/", &nonsense).headers, &caller(true));
        assert!(headers["x-forwarded-host"] == "inner:81" && headers["x-forwarded-port"] == "81", "{headers:?}");
    }
}
