//! How a request came: read from whom we trust, and told to the upstream.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::host::{X_FORWARDED_HOST, host_value, told};
use super::strip::FORWARDED_TRUTH;
use crate::adapters::upstream::Fields;
use crate::domain::caller::{Caller, NO_ADDRESS, Peer, TrustedProxies};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// Who sent the request, as its connection and any trusted proxy tell.
pub(crate) fn caller(headers: &HeaderMap, peer: Peer, proxies: &TrustedProxies) -> Caller {
    if !proxies.contain(peer.address.ip()) {
        return Caller::judge(peer, proxies, std::iter::empty(), None);
    }
    let texts = |name| headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default());
    Caller::judge(peer, proxies, texts(&X_FORWARDED_FOR), texts(&X_FORWARDED_PROTO))
}

/// How a request came to us, for the upstream: appended to what a trusted proxy says, else written anew.
pub(crate) struct Forwarded<'h> {
    /// The hops, and behind them the port.
    text: String,
    hops: usize,
    proto: &'static str,
    host: Option<Cow<'h, HeaderValue>>,
}

impl<'h> Forwarded<'h> {
    /// Reads it off a head that was stripped: what it still says of this came from a trusted proxy.
    pub(crate) fn of(headers: &'h HeaderMap, caller: &Caller) -> Self {
        let host = host_value(headers, caller);
        let mut text = String::with_capacity(64);
        if caller.trusted {
            for said in headers.get_all(&X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()) {
                text.push_str(said);
                text.push_str(", ");
            }
        }
        if caller.peer != NO_ADDRESS {
            push_address(&mut text, caller.peer);
        } else if text.is_empty() {
            // The word of RFC 7239 §6.2 for somebody who has no address that could be told.
            text.push_str("unknown");
        } else {
            text.truncate(text.trim_end_matches(", ").len());
        }
        let hops = text.len();
        let port = told(headers, &X_FORWARDED_PORT, caller).and_then(|port| port.parse().ok().filter(|port| *port > 0));
        let (host, named) = host.unzip();
        let port = port.or(named.flatten()).unwrap_or_else(|| caller.scheme.default_port());
        push_number(&mut text, port);
        Self { text, hops, proto: caller.scheme.as_str(), host }
    }

    /// Says it, field by field.
    pub(crate) fn tell(&self, fields: &mut impl Fields) {
        // Addresses, and what came as a header's value.
        let (hops, port) = self.text.split_at_checked(self.hops).unwrap_or_default();
        fields.text(&X_FORWARDED_FOR, hops);
        fields.text(&X_FORWARDED_PROTO, self.proto);
        if let Some(host) = &self.host {
            fields.field(&X_FORWARDED_HOST, host);
        }
        fields.text(&X_FORWARDED_PORT, port);
    }
}

/// Whether [`Forwarded::tell`] says this field anew.
pub(crate) fn is_said_anew(name: &HeaderName) -> bool {
    let text = name.as_str();
    text.starts_with("x-forwarded-") && FORWARDED_TRUTH.contains(&text)
}

/// As `Display` writes it, without the cost of formatting for the usual kind.
fn push_address(text: &mut String, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        let _infallible = write!(text, "{address}");
        return;
    };
    for (place, octet) in address.octets().into_iter().enumerate() {
        if place > 0 {
            text.push('.');
        }
        push_number(text, u16::from(octet));
    }
}

/// As `Display` writes it, without the cost of formatting.
fn push_number(text: &mut String, number: u16) {
    let (mut digits, mut rest, mut first) = ([b'0'; 5], number, 4);
    for (place, digit) in digits.iter_mut().enumerate().rev() {
        *digit += u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
        first = place;
        if rest == 0 {
            break;
        }
    }
    text.push_str(std::str::from_utf8(digits.get(first..).unwrap_or_default()).unwrap_or_default());
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
            let mut text = String::new();
            push_number(&mut text, number);
            assert_eq!(text, number.to_string());
        }
        for address in ["0.0.0.0", "10.0.200.99", "255.255.255.255", "2001:db8::1"] {
            let mut text = String::new();
            push_address(&mut text, address.parse().unwrap());
            assert_eq!(text, address);
        }
    }

    #[test]
    fn forwarded_headers_tell_the_truth() {
        let told = |headers: &HeaderMap, caller: &Caller| {
            let mut told = HeaderMap::new();
            Forwarded::of(headers, caller).tell(&mut told);
            told
        };
        let headers = head(Version::HTTP_11, "/", &[("host", "app.example:8080")]).headers;
        let headers = told(&headers, &caller(false));
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
        assert!(headers.keys().filter(|name| is_said_anew(name)).count() == 2);
        let headers = told(&headers, &Caller { scheme: Scheme::Https, ..caller(true) });
        assert_eq!(headers["x-forwarded-for"], "1.2.3.4, 192.0.2.9");
        assert_eq!(headers["x-forwarded-host"], "app.example");
        assert_eq!(headers["x-forwarded-port"], "443");
        let lists =
            [("x-forwarded-host", "evil, a.example, b"), ("x-forwarded-port", "1, 8443, 80"), ("host", "inner")];
        let headers = told(&head(Version::HTTP_11, "/", &lists).headers, &Caller { hops: 2, ..caller(true) });
        assert!(headers["x-forwarded-host"] == "a.example" && headers["x-forwarded-port"] == "8443", "{headers:?}");
        let nonsense = [("x-forwarded-host", "a b"), ("x-forwarded-port", "99999"), ("host", "inner:81")];
        let headers = told(&head(Version::HTTP_11, "/", &nonsense).headers, &caller(true));
        assert!(headers["x-forwarded-host"] == "inner:81" && headers["x-forwarded-port"] == "81", "{headers:?}");
    }
}
