//! The one host of a request, and the one length of its body: what two parsers could read differently is refused.

use std::borrow::Cow;

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Uri, Version};
use url::Url;

use crate::domain::caller::{self, Caller};
use crate::domain::readings::TooManyReadings;

pub(super) static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Why a request's framing or target is refused (RFC 9112 §3.2, §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("there must be exactly one Host header")]
    Host,
    #[error("the Host header is not a host")]
    HostSyntax,
    #[error("the request's target names another host than its Host header")]
    HostMismatch,
    #[error("the only transfer coding understood is a single `chunked`")]
    TransferEncoding,
    #[error(transparent)]
    Path(TooManyReadings),
    #[error("the target must be a path; `*` is for OPTIONS only")]
    Target,
    #[error("servers read the path differently, and the rules lead the readings to different upstreams")]
    Upstreams,
    #[error(
        "without its `strip_prefix` the upstream could read a path that the rules do not let in, or that leads elsewhere"
    )]
    BehindPrefix,
}

/// Checks what two parsers could read differently, and makes `Host` the only name of the host.
pub(crate) fn check(head: &mut Parts) -> Result<(), Malformed> {
    if let Some(coding) = head.headers.get(TRANSFER_ENCODING)
        && (!coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked")
            || head.headers.get_all(TRANSFER_ENCODING).iter().nth(1).is_some())
    {
        return Err(Malformed::TransferEncoding);
    }
    check_target(head)?;
    let mut hosts = head.headers.get_all(HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Malformed::Host);
    }
    match (host, head.uri.authority()) {
        (Some(host), None) => authority(host.as_bytes()).map(drop),
        (Some(host), Some(target)) => {
            let host = authority(host.as_bytes())?;
            let target = authority(target.as_str().as_bytes())?;
            let same = host.host.eq_ignore_ascii_case(target.host) && same_port(host, target, head.uri.scheme_str());
            if same { Ok(()) } else { Err(Malformed::HostMismatch) }
        }
        (None, Some(target)) => {
            if head.version < Version::HTTP_2 && head.version > Version::HTTP_10 {
                return Err(Malformed::Host);
            }
            authority(target.as_str().as_bytes())?;
            let host = HeaderValue::from_str(target.as_str()).map_err(|_| Malformed::HostSyntax)?;
            head.headers.insert(HOST, host);
            Ok(())
        }
        (None, None) if head.version == Version::HTTP_10 => Ok(()),
        (None, None) => Err(Malformed::Host),
    }
}

/// Refuses a target without a path (RFC 9112 §3.2), and gives one that has only a query (`http://host?x`) the path `/`: servers would
/// read a bare `?x` in different ways (RFC 9110 §4.2.3).
fn check_target(head: &mut Parts) -> Result<(), Malformed> {
    if head.uri.path() == "*" && head.method != Method::OPTIONS {
        return Err(Malformed::Target);
    }
    if head.method != Method::CONNECT && head.uri.scheme().is_none() && head.uri.authority().is_some() {
        return Err(Malformed::Target);
    }
    let bare = head.uri.path_and_query().map(PathAndQuery::as_str).filter(|text| text.starts_with('?'));
    if let Some(bare) = bare {
        let whole = PathAndQuery::try_from(format!("/{bare}")).map_err(|_| Malformed::Target)?;
        let mut parts = head.uri.clone().into_parts();
        parts.path_and_query = Some(whole);
        head.uri = Uri::from_parts(parts).map_err(|_| Malformed::Target)?;
    }
    Ok(())
}

/// A host with an optional port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HostPort<'h> {
    host: &'h [u8],
    port: Option<u16>,
}

/// Parses `host`, `host:port`, `[address]` or `[address]:port` (RFC 3986 §3.2.2), of the characters of names and addresses.
fn authority(text: &[u8]) -> Result<HostPort<'_>, Malformed> {
    let end = if text.first() == Some(&b'[') {
        text.iter().position(|b| *b == b']').map(|at| at + 1)
    } else {
        Some(text.iter().position(|b| !is_in_names(b)).unwrap_or(text.len()))
    };
    let (host, rest) = end.and_then(|end| text.split_at_checked(end)).ok_or(Malformed::HostSyntax)?;
    let fits = match host {
        [b'[', address @ .., b']'] => {
            !address.is_empty() && address.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'))
        }
        name => !name.is_empty(),
    };
    let port = match rest {
        [] => Ok(None),
        [b':', digits @ ..] => port_number(digits).map(Some).ok_or(Malformed::HostSyntax),
        _ => Err(Malformed::HostSyntax),
    };
    if fits { port.map(|port| HostPort { host, port }) } else { Err(Malformed::HostSyntax) }
}

/// Characters of host names and IPv4 addresses.
const fn is_in_names(sign: &u8) -> bool {
    matches!(sign, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~')
}

fn port_number(digits: &[u8]) -> Option<u16> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0_u16, |number, digit| number.checked_mul(10)?.checked_add(u16::from(digit - b'0')))
    };
    plain.then(|| number(digits)).flatten()
}

fn same_port(a: HostPort<'_>, b: HostPort<'_>, scheme: Option<&str>) -> bool {
    let default = if scheme == Some("https") { 443 } else { 80 };
    a.port.unwrap_or(default) == b.port.unwrap_or(default)
}

/// The name or address in a host field, without its port; `None` if it is not well-formed.
pub(crate) fn host_name(text: &[u8]) -> Option<&str> {
    std::str::from_utf8(authority(text).ok()?.host).ok()
}

/// The host that the client requested, from a trusted proxy or from `Host`.
pub(crate) fn host<'a>(headers: &'a HeaderMap, caller: &Caller) -> Option<&'a str> {
    match trusted_host(headers, caller) {
        Some((host, _)) => Some(host),
        None => headers.get(HOST)?.to_str().ok().map(str::trim),
    }
}

/// The same as a header value, and its port, if any. `Host` has passed [`check`].
pub(super) fn host_value<'a>(headers: &'a HeaderMap, caller: &Caller) -> Option<(Cow<'a, HeaderValue>, Option<u16>)> {
    if let Some((host, port)) = trusted_host(headers, caller) {
        return Some((Cow::Owned(HeaderValue::from_str(host).ok()?), port));
    }
    let host = headers.get(HOST)?;
    Some((Cow::Borrowed(host), host.as_bytes().rsplit(|b| *b == b':').next().and_then(port_number)))
}

/// The host named by trusted proxies, if valid, and its port.
fn trusted_host<'a>(headers: &'a HeaderMap, caller: &Caller) -> Option<(&'a str, Option<u16>)> {
    let host = trusted_value(headers, &X_FORWARDED_HOST, caller)?;
    Some((host, authority(host.as_bytes()).ok()?.port))
}

/// The host in the `X-Forwarded-Host` of trusted proxies, if any.
///
/// # Errors
/// [`Malformed::HostSyntax`]: the value is not a host.
pub(crate) fn forwarded_host<'a>(headers: &'a HeaderMap, caller: &Caller) -> Result<Option<&'a str>, Malformed> {
    match trusted_value(headers, &X_FORWARDED_HOST, caller) {
        Some(text) => authority(text.as_bytes()).map(|_| Some(text)),
        None => Ok(None),
    }
}

/// Replaces the `X-Forwarded-Host` of trusted proxies by the one host that was judged, and removes it if it is unusable: applications read
/// different entries of a list, and only one of them was judged.
pub(crate) fn normalize_forwarded_host(headers: &mut HeaderMap, caller: &Caller) {
    let judged = trusted_host(headers, caller).and_then(|(host, _)| HeaderValue::from_str(host).ok());
    headers.remove(&X_FORWARDED_HOST);
    if let Some(host) = judged {
        headers.insert(&X_FORWARDED_HOST, host);
    }
}

/// Whether `host` names a port, and not that of `origin`.
pub(crate) fn names_other_port(host: &str, origin: &Url) -> bool {
    let port = authority(host.as_bytes()).ok().and_then(|host| host.port);
    port.is_some_and(|port| origin.port_or_known_default() != Some(port))
}

/// Whether `text` is a host, with or without a port.
pub(crate) fn is_host(text: &str) -> bool {
    authority(text.as_bytes()).is_ok()
}

/// The value from trusted proxies of a field that may be a list.
pub(super) fn trusted_value<'a>(headers: &'a HeaderMap, name: &HeaderName, caller: &Caller) -> Option<&'a str> {
    if !caller.trusted {
        return None;
    }
    caller::entry(headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default()), caller.hops)
}

/// The origin that a browser would send for this request: for open mode, which has no public origin.
pub(crate) fn own_origin(headers: &HeaderMap, caller: &Caller) -> Option<String> {
    host(headers, caller).map(|host| origin_of(caller.scheme.as_str(), host))
}

/// The origin that a browser would send for a page of `host`, which may have a port, by `http` or `https`. Where people sign in, every host
/// has the scheme of the public origin: the connection's may be that of a balancer which ends TLS and is not trusted, and no page by http
/// may speak for a host by https.
pub(crate) fn origin_of(scheme: &str, host: &str) -> String {
    let default = if scheme == "https" { ":443" } else { ":80" };
    format!("{scheme}://{}", host.strip_suffix(default).unwrap_or(host))
}

#[cfg(test)]
mod tests {
    use super::super::tests::head;
    use super::*;
    use crate::domain::caller::Scheme;

    #[test]
    fn one_host_and_the_same_everywhere() {
        let verdict = |version, uri: &str, headers: &[(&str, &str)]| check(&mut head(version, uri, headers));
        let one = Version::HTTP_11;
        assert_eq!(verdict(one, "/", &[("host", "a.example")]), Ok(()));
        assert_eq!(verdict(one, "/", &[]), Err(Malformed::Host));
        assert_eq!(verdict(Version::HTTP_10, "/", &[]), Ok(()));
        assert_eq!(verdict(one, "/", &[("host", "a"), ("host", "a")]), Err(Malformed::Host));
        assert_eq!(verdict(one, "http://b/", &[("host", "a")]), Err(Malformed::HostMismatch));
        assert_eq!(verdict(one, "http://a/", &[("host", "A:80")]), Ok(()));
        assert_eq!(verdict(one, "http://a/", &[]), Err(Malformed::Host));
        assert_eq!(verdict(Version::HTTP_2, "http://a/", &[("host", "b")]), Err(Malformed::HostMismatch));
        for bad in ["", "a b", "u@a", "a,b", "a/b", "a:x"] {
            assert_eq!(verdict(one, "/", &[("host", bad)]), Err(Malformed::HostSyntax), "{bad:?}");
        }
        let mut from_authority = head(Version::HTTP_2, "https://a.example:8443/x", &[]);
        check(&mut from_authority).unwrap();
        assert_eq!(from_authority.headers[HOST], "a.example:8443");
    }

    #[test]
    fn a_target_is_a_path() {
        let target = |method: &str, uri: &str, version| {
            let mut head = head(version, uri, &[("host", "a")]);
            head.method = method.parse().unwrap();
            check(&mut head).map(|()| head.uri.path_and_query().unwrap().as_str().to_owned())
        };
        for version in [Version::HTTP_11, Version::HTTP_2] {
            assert_eq!(target("GET", "http://a?x", version).as_deref(), Ok("/?x"));
            assert_eq!(target("GET", "http://a", version).as_deref(), Ok("/"));
            assert_eq!(target("OPTIONS", "*", version).as_deref(), Ok("*"));
            for method in ["GET", "HEAD", "POST", "options"] {
                assert_eq!(target(method, "*", version), Err(Malformed::Target), "{method}");
            }
        }
        assert_eq!(target("GET", "a:80", Version::HTTP_11), Err(Malformed::Target));
    }

    #[test]
    fn of_a_list_of_hosts_the_one_that_the_farthest_trusted_proxy_names_counts() {
        let peer = "192.0.2.9".parse().unwrap();
        let caller = |hops| Caller { peer, trusted: hops > 0, client: peer, scheme: Scheme::Http, hops };
        let forwarded = |hops: usize, said: &str| {
            let headers = head(Version::HTTP_11, "/", &[("host", "inner:81"), ("x-forwarded-host", said)]).headers;
            let (value, port) = host_value(&headers, &caller(hops)).unwrap();
            assert_eq!(host(&headers, &caller(hops)), value.to_str().ok());
            (value.to_str().unwrap().to_owned(), port)
        };
        assert_eq!(forwarded(0, "evil"), ("inner:81".into(), Some(81)));
        assert_eq!(forwarded(1, "a, b:82"), ("b:82".into(), Some(82)));
        assert_eq!(forwarded(2, "evil, a , b"), ("a".into(), None));
        assert_eq!(forwarded(3, "a, b"), ("a".into(), None));
        for unusable in ["a b", "", ",", "a, ", "u@a"] {
            assert_eq!(forwarded(1, unusable), ("inner:81".into(), Some(81)), "{unusable:?}");
        }
    }

    #[test]
    fn of_the_hosts_of_trusted_proxies_the_application_gets_the_one_that_was_judged() {
        let peer = "192.0.2.9".parse().unwrap();
        let caller = |hops| Caller { peer, trusted: hops > 0, client: peer, scheme: Scheme::Http, hops };
        let left = |hops: usize, said: &[&str]| {
            let fields: Vec<(&str, &str)> =
                [("host", "inner")].into_iter().chain(said.iter().map(|said| ("x-forwarded-host", *said))).collect();
            let mut headers = head(Version::HTTP_11, "/", &fields).headers;
            normalize_forwarded_host(&mut headers, &caller(hops));
            assert_eq!(headers[HOST], "inner");
            headers.get_all(&X_FORWARDED_HOST).iter().map(|host| host.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        for (hops, said, host) in [
            (1, &["a.example:82"][..], Some("a.example:82")),
            (1, &["evil, a.example"], Some("a.example")),
            (1, &["evil", "a.example"], Some("a.example")),
            (2, &["evil, a.example", "b"], Some("a.example")),
            (1, &[], None),
            (1, &["a b"], None),
            (1, &["a.example, "], None),
            (1, &["a.example", "u@a"], None),
            (0, &["a.example"], None),
        ] {
            assert_eq!(left(hops, said), Vec::from_iter(host), "{hops} {said:?}");
        }
    }

    #[test]
    fn another_port_is_one_that_is_named_and_not_the_origins() {
        for (host, origin, other) in [
            ("a.example", "https://a.example", false),
            ("a.example", "https://a.example:8443", false),
            ("a.example:443", "https://a.example", false),
            ("a.example:8443", "https://a.example:8443", false),
            ("a.example:8443", "https://a.example", true),
            ("a.example:443", "https://a.example:8443", true),
            ("a.example:80", "https://a.example", true),
            ("[::1]:8080", "http://[::1]", true),
            ("", "https://a.example", false),
        ] {
            assert_eq!(names_other_port(host, &origin.parse().unwrap()), other, "{host} {origin}");
        }
    }

    #[test]
    fn an_origin_has_no_port_where_that_is_the_schemes() {
        for (scheme, host, origin) in [
            ("https", "a.example", "https://a.example"),
            ("https", "a.example:443", "https://a.example"),
            ("https", "a.example:80", "https://a.example:80"),
            ("http", "a.example:80", "http://a.example"),
            ("http", "[::1]:8080", "http://[::1]:8080"),
        ] {
            assert_eq!(origin_of(scheme, host), origin);
        }
    }

    #[test]
    fn only_one_plain_chunked_is_understood() {
        for bad in ["gzip, chunked", "chunked, chunked", "identity", "xchunked", ""] {
            let mut bad = head(Version::HTTP_11, "/", &[("host", "a"), ("transfer-encoding", bad)]);
            assert_eq!(check(&mut bad), Err(Malformed::TransferEncoding));
        }
        let mut good = head(Version::HTTP_11, "/", &[("host", "a"), ("transfer-encoding", "Chunked")]);
        assert_eq!(check(&mut good), Ok(()));
    }
}
