//! Hop-by-hop, forwarded and identity headers: strip theirs, set ours.

use std::fmt::Write as _;
use std::net::IpAddr;

use bytes::Bytes;
use http::header::{
    ACCEPT, CONNECTION, COOKIE, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use http::request::Parts;
use http::{Method, Version};

use crate::domain::caller::{Caller, Peer, Scheme, TrustedProxies};
use crate::ports::IdentityHeaders;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
static X_FORWARDED_USER: HeaderName = HeaderName::from_static("x-forwarded-user");
static X_FORWARDED_EMAIL: HeaderName = HeaderName::from_static("x-forwarded-email");
static X_FORWARDED_PREFERRED_USERNAME: HeaderName = HeaderName::from_static("x-forwarded-preferred-username");
static X_FORWARDED_GROUPS: HeaderName = HeaderName::from_static("x-forwarded-groups");
static X_FORWARDED_USER_ID: HeaderName = HeaderName::from_static("x-forwarded-user-id");
static X_FORWARDED_NAME: HeaderName = HeaderName::from_static("x-forwarded-name");
static X_FORWARDED_PROVIDER: HeaderName = HeaderName::from_static("x-forwarded-provider");
static X_SIDEGATE_ASSERTION: HeaderName = HeaderName::from_static("x-sidegate-assertion");
static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
static SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// What tells that a browser looks ahead rather than shows a page.
static PURPOSES: [HeaderName; 4] = [
    HeaderName::from_static("sec-purpose"),
    HeaderName::from_static("purpose"),
    HeaderName::from_static("x-purpose"),
    HeaderName::from_static("x-moz"),
];

/// Names that a client may never supply, whoever it is: an upstream believes them.
const IDENTITY: [&str; 16] = [
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-preferred-username",
    "x-forwarded-groups",
    "x-forwarded-user-id",
    "x-forwarded-name",
    "x-forwarded-provider",
    "x-sidegate-assertion",
    "remote-user",
    "remote-email",
    "remote-groups",
    "remote-name",
    "x-remote-user",
    "x-webauth-user",
    "x-forwarded-access-token",
    "x-forwarded-prefix",
];

/// The four that a trusted proxy may set, in their one right spelling.
const FORWARDED_TRUTH: [&str; 4] = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"];

/// Hop-by-hop fields (RFC 9110 §7.6.1): they end here, in both directions.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(name, "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade")
}

/// Whether `name` speaks of somebody's identity. Every sign is read as `-`, since servers that hand headers on as variables
/// (CGI, WSGI, FastCGI) write `_` for `-`, and some for any sign.
fn is_identity(name: &str) -> bool {
    matches!(name.as_bytes().first(), Some(b'x' | b'r'))
        && (IDENTITY.iter().any(|known| same_folded(name, known)) || starts_folded(name, "x-auth-request-"))
}

/// Whether `name` is `Forwarded` or `X-Forwarded-…` in any spelling.
fn is_forwarding(name: &str) -> bool {
    starts_folded(name, "x-forwarded-") || same_folded(name, FORWARDED.as_str())
}

fn same_folded(name: &str, known: &str) -> bool {
    name.len() == known.len() && starts_folded(name, known)
}

fn starts_folded(name: &str, prefix: &str) -> bool {
    let folded = |b: u8| if b.is_ascii_alphanumeric() { b.to_ascii_lowercase() } else { b'-' };
    name.len() >= prefix.len() && name.bytes().zip(prefix.bytes()).all(|(b, known)| folded(b) == known)
}

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
}

/// Checks what two readers could read differently, and makes `Host` the one name of the host.
pub(crate) fn check(head: &mut Parts) -> Result<(), Malformed> {
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (codings.next().is_some() || !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
    {
        return Err(Malformed::TransferEncoding);
    }
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

/// A host, and a port where one is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HostPort<'h> {
    host: &'h [u8],
    port: Option<u16>,
}

/// Reads `host`, `host:port`, `[address]` or `[address]:port` (RFC 3986 §3.2.2), of the signs that names and addresses are made of.
fn authority(text: &[u8]) -> Result<HostPort<'_>, Malformed> {
    let bracketed = text.first() == Some(&b'[');
    let end = if bracketed {
        text.iter().position(|b| *b == b']').map(|at| at + 1)
    } else {
        Some(text.iter().position(|b| *b == b':').unwrap_or(text.len()))
    };
    let (host, rest) = end.and_then(|end| text.split_at_checked(end)).ok_or(Malformed::HostSyntax)?;
    let fits = match host {
        [b'[', address @ .., b']'] => {
            !address.is_empty() && address.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'))
        }
        name => !name.is_empty() && name.iter().all(is_in_names),
    };
    let port = match rest {
        [] => Ok(None),
        [b':', digits @ ..] => port_number(digits).map(Some).ok_or(Malformed::HostSyntax),
        _ => Err(Malformed::HostSyntax),
    };
    if fits { port.map(|port| HostPort { host, port }) } else { Err(Malformed::HostSyntax) }
}

/// The signs that names of hosts and IPv4 addresses are made of.
const fn is_in_names(sign: &u8) -> bool {
    matches!(sign, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~')
}

fn port_number(digits: &[u8]) -> Option<u16> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

fn same_port(a: HostPort<'_>, b: HostPort<'_>, scheme: Option<&str>) -> bool {
    let default = if scheme == Some("https") { 443 } else { 80 };
    a.port.unwrap_or(default) == b.port.unwrap_or(default)
}

/// Who sent the request, as its connection and any trusted proxy tell.
pub(crate) fn caller(headers: &HeaderMap, peer: Peer, proxies: &TrustedProxies) -> Caller {
    if !proxies.contain(peer.address.ip()) {
        return Caller::judge(peer, proxies, std::iter::empty(), None);
    }
    let texts = headers.get_all(&X_FORWARDED_FOR).iter().map(|value| value.to_str().unwrap_or_default());
    let proto = headers.get(&X_FORWARDED_PROTO).and_then(|value| value.to_str().ok());
    Caller::judge(peer, proxies, texts, proto)
}

/// The host that the client asked for, as a trusted proxy tells or as `Host` has it.
pub(crate) fn host<'a>(headers: &'a HeaderMap, caller: &Caller) -> Option<&'a str> {
    host_value(headers, caller)?.0.to_str().ok().map(str::trim)
}

fn host_value<'a>(headers: &'a HeaderMap, caller: &Caller) -> Option<(&'a HeaderValue, HostPort<'a>)> {
    let forwarded = caller.trusted.then(|| headers.get(&X_FORWARDED_HOST)).flatten();
    let value = forwarded.or_else(|| headers.get(HOST))?;
    Some((value, authority(value.as_bytes().trim_ascii()).ok()?))
}

/// Takes out what a client may not supply, what ends at this hop, and, unless a trusted proxy sent it, all forwarding headers.
/// `listed` is what `Connection` names; it never reaches what we set, since we set it afterwards.
pub(crate) fn strip_request(headers: &mut HeaderMap, trusted: bool) {
    let takes_trailers = lists(headers, &TE, "trailers");
    strip_listed(headers);
    headers.remove(CONNECTION);
    let true_of_proxies = |name: &str| FORWARDED_TRUTH.contains(&name) || name == "forwarded";
    let forwards = |name: &str| is_forwarding(name) && !(trusted && true_of_proxies(name));
    // By its first letter, since most names are none of ours.
    remove_all(headers, |name| match name.as_bytes().first() {
        Some(b'x') => is_identity(name) || forwards(name),
        Some(b'r') => is_identity(name),
        Some(b'f') => forwards(name),
        Some(b'p') => name.starts_with("proxy-") && name != "proxy-status",
        Some(b'c' | b'k' | b't' | b'u') => is_hop_by_hop(name),
        Some(b'h') => name == "http2-settings",
        Some(_) | None => false,
    });
    // Of `TE` only this is true of our own hop as well: we pass trailers on.
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

fn remove_all(headers: &mut HeaderMap, doomed: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| doomed(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Whether a header lists `token`, case aside.
fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// What `Connection` cannot take away, whoever lists it.
const KEPT: [&str; 6] = ["host", "content-length", "cookie", "trailer", "x-request-id", "traceparent"];

/// Removes what `Connection` lists, but for the fields that frame or route the message, which are never a hop's own.
fn strip_listed(headers: &mut HeaderMap) {
    // What nearly every request and answer says names no other field.
    let plain = |value: &HeaderValue| matches!(value.as_bytes(), b"keep-alive" | b"close" | b"Keep-Alive" | b"Close");
    if headers.get_all(CONNECTION).iter().all(plain) {
        return;
    }
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .filter(|name| !KEPT.contains(&name.as_str()))
        .collect();
    for name in listed {
        headers.remove(name);
    }
}

/// Takes out of an answer what ends at this hop.
pub(crate) fn strip_response(headers: &mut HeaderMap) {
    strip_listed(headers);
    headers.remove(CONNECTION);
    remove_all(headers, is_hop_by_hop);
}

/// Takes out of trailers what may not stand there (RFC 9110 §6.5.1) or what a client may not say.
pub(crate) fn strip_trailers(trailers: &mut HeaderMap) {
    let doomed = |text: &str| {
        is_identity(text)
            || is_forwarding(text)
            || is_hop_by_hop(text)
            || matches!(
                text,
                "content-length" | "host" | "trailer" | "cookie" | "set-cookie" | "authorization" | "content-encoding"
            )
    };
    remove_all(trailers, doomed);
}

/// Joins `Cookie` fields, which HTTP/2 may split (RFC 9113 §8.2.3), so that everyone reads the same one.
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let mut fields = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (fields.next(), fields.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for field in std::iter::once(second).chain(fields) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(field.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, value);
    }
}

/// How a request came to us, for the upstream: appended to what a trusted proxy says, else written anew.
pub(crate) struct Forwarded<'h> {
    hops: HeaderValue,
    proto: HeaderValue,
    host: Option<&'h HeaderValue>,
    port: HeaderValue,
}

impl<'h> Forwarded<'h> {
    /// Reads it off a head that was stripped: what it still says of this came from a trusted proxy.
    pub(crate) fn of(headers: &'h HeaderMap, caller: &Caller) -> Self {
        let own = host_value(headers, caller).filter(|(value, _)| !value.is_empty());
        let mut hops = String::with_capacity(64);
        let mut told = None;
        if caller.trusted {
            for said in headers.get_all(&X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()) {
                hops.push_str(said);
                hops.push_str(", ");
            }
            told = headers.get(&X_FORWARDED_PORT).and_then(|value| value.to_str().ok()?.trim().parse::<u16>().ok());
        }
        push_address(&mut hops, caller.peer);
        let port = told.or(own.as_ref().and_then(|(_, authority)| authority.port));
        Self {
            hops: value_of(hops),
            proto: HeaderValue::from_static(caller.scheme.as_str()),
            host: own.map(|(value, _)| value),
            port: port_value(port.unwrap_or_else(|| caller.scheme.default_port())),
        }
    }

    /// Says it, field by field.
    pub(crate) fn tell(&self, mut say: impl FnMut(&HeaderName, &HeaderValue)) {
        say(&X_FORWARDED_FOR, &self.hops);
        say(&X_FORWARDED_PROTO, &self.proto);
        if let Some(host) = self.host {
            say(&X_FORWARDED_HOST, host);
        }
        say(&X_FORWARDED_PORT, &self.port);
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
        for (unit, least) in [(100, 100), (10, 10), (1, 0)] {
            if octet >= least {
                text.push(char::from(b'0' + octet / unit % 10));
            }
        }
    }
}

fn port_value(port: u16) -> HeaderValue {
    match port {
        80 => HeaderValue::from_static("80"),
        443 => HeaderValue::from_static("443"),
        other => HeaderValue::from(other),
    }
}

/// Tells the upstream who it is.
pub(crate) fn tell_identity(
    identity: &IdentityHeaders,
    assertion: &HeaderValue,
    mut say: impl FnMut(&HeaderName, &HeaderValue),
) {
    say(&X_FORWARDED_USER, &identity.user);
    say(&X_FORWARDED_EMAIL, &identity.email);
    say(&X_FORWARDED_PREFERRED_USERNAME, &identity.preferred_username);
    say(&X_FORWARDED_GROUPS, &identity.groups);
    say(&X_FORWARDED_USER_ID, &identity.user_id);
    say(&X_FORWARDED_NAME, &identity.name);
    say(&X_FORWARDED_PROVIDER, &identity.provider);
    say(&X_SIDEGATE_ASSERTION, assertion);
}

/// Keeps a well-formed `X-Request-Id` and `traceparent`, else makes them; gives the request id.
pub(crate) fn identify(headers: &mut HeaderMap) -> HeaderValue {
    let well_formed = |value: &HeaderValue| {
        let bytes = value.as_bytes();
        (1..=128).contains(&bytes.len())
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'/' | b'+' | b'='))
    };
    let single = |name: &HeaderName| headers.get_all(name).iter().nth(1).is_none();
    let kept = headers.get(&X_REQUEST_ID).filter(|value| well_formed(value) && single(&X_REQUEST_ID)).cloned();
    let traced = headers.get(&TRACEPARENT).is_some_and(is_traceparent) && single(&TRACEPARENT);
    let id = kept.unwrap_or_else(|| {
        let mut text = String::with_capacity(32);
        push_hex(&mut text, fastrand::u128(1..).to_be_bytes());
        let made = value_of(text);
        headers.insert(&X_REQUEST_ID, made.clone());
        made
    });
    if !traced {
        let mut text = String::with_capacity(55);
        text.push_str("00-");
        push_hex(&mut text, fastrand::u128(1..).to_be_bytes());
        text.push('-');
        push_hex(&mut text, fastrand::u64(1..).to_be_bytes());
        text.push_str("-01");
        headers.insert(&TRACEPARENT, value_of(text));
    }
    id
}

/// Text that we made of signs that a header may hold.
fn value_of(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

fn push_hex<const N: usize>(text: &mut String, bytes: [u8; N]) {
    let digit = |value: u8| char::from(value + if value < 10 { b'0' } else { b'a' - 10 });
    text.extend(bytes.into_iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
}

/// W3C Trace Context §3.2: version 00, lower-case hexadecimal, ids that are not all zero.
fn is_traceparent(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    let parts: Vec<&str> = text.split('-').collect();
    let [version, trace, parent, flags] = parts.as_slice() else { return false };
    let hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let some = |part: &str| part.bytes().any(|b| b != b'0');
    hex(version, 2)
        && *version == "00"
        && hex(trace, 32)
        && some(trace)
        && hex(parent, 16)
        && some(parent)
        && hex(flags, 2)
}

/// Whether the request asks to become a WebSocket (RFC 6455 §4.1). Other upgrades, `h2c` above all, do not pass.
pub(crate) fn is_websocket(head: &Parts) -> bool {
    let alone = head.headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    head.version == Version::HTTP_11
        && head.method == Method::GET
        && alone
        && lists(&head.headers, &CONNECTION, "upgrade")
}

/// Whether a browser asks for a page to show: only then is it led to the sign-in.
pub(crate) fn is_navigation(head: &Parts) -> bool {
    let says = |name: &HeaderName, expected: &str| {
        head.headers.get(name).is_none_or(|value| value.as_bytes() == expected.as_bytes())
    };
    let prefetch = || {
        PURPOSES
            .iter()
            .filter_map(|name| head.headers.get(name))
            .any(|value| value.to_str().is_ok_and(|text| text.contains("prefetch") || text.contains("preview")))
    };
    (head.method == Method::GET || head.method == Method::HEAD)
        && says(&SEC_FETCH_MODE, "navigate")
        && says(&SEC_FETCH_DEST, "document")
        && quality(&head.headers, "text/html").is_some_and(|q| q > 0)
        && !prefetch()
        && !head.headers.contains_key(UPGRADE)
}

/// Whether the client would rather have a page than JSON: it names `text/html`, and no less than JSON.
pub(crate) fn prefers_html(headers: &HeaderMap) -> bool {
    let html = quality(headers, "text/html").unwrap_or(0);
    html > 0 && html >= quality(headers, "application/json").unwrap_or(0)
}

/// The quality in thousandths at which `Accept` names a media type (RFC 9110 §12.5.1); wildcards do not name it.
fn quality(headers: &HeaderMap, media_type: &str) -> Option<u16> {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).find_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case(media_type) {
            return None;
        }
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        Some(weight.map_or(1000, |q| match q.parse::<f32>() {
            Ok(q) if q >= 1.0 => 1000,
            Ok(q) if q > 0.0 => 500,
            Ok(_) | Err(_) => 0,
        }))
    })
}

/// Whether the request's `Origin`, where it has one, is `origin` (scheme, host and port as browsers write them).
pub(crate) fn is_same_origin(headers: &HeaderMap, origin: &str) -> bool {
    let mut said = headers.get_all(ORIGIN).iter();
    match (said.next(), said.next()) {
        (None, _) => true,
        (Some(one), None) => one.as_bytes().eq_ignore_ascii_case(origin.as_bytes()),
        (Some(_), Some(_)) => false,
    }
}

/// The origin that a browser would name for this request: for open mode, where no public origin is known.
pub(crate) fn own_origin(headers: &HeaderMap, caller: &Caller) -> Option<String> {
    let host = host(headers, caller)?;
    let default = match caller.scheme {
        Scheme::Http => ":80",
        Scheme::Https => ":443",
    };
    Some(format!("{}://{}", caller.scheme.as_str(), host.strip_suffix(default).unwrap_or(host)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn head(version: Version, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().version(version).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn caller(trusted: bool) -> Caller {
        let peer = "192.0.2.9".parse().unwrap();
        Caller { peer, trusted, client: peer, scheme: Scheme::Http }
    }

    #[test]
    fn a_client_never_supplies_an_identity_header_in_any_spelling() {
        for name in IDENTITY.into_iter().chain(["x-auth-request-user", "x-auth-request-anything"]) {
            for spelling in [
                name.to_owned(),
                name.replace('-', "_"),
                name.replace('-', "."),
                name.replacen('-', "_", 1),
                name.replace('-', "~"),
            ] {
                for trusted in [false, true] {
                    let mut headers = head(
                        Version::HTTP_11,
                        "/",
                        &[(&spelling, "root"), (&spelling, "2"), ("connection", &spelling), ("kept", "1")],
                    )
                    .headers;
                    strip_request(&mut headers, trusted);
                    assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["kept"], "{spelling}");
                }
            }
        }
        assert!(!is_identity("x-remote-users") && !is_identity("remote-addr") && !is_identity("xremote-user"));
    }

    #[test]
    fn forwarding_headers_pass_only_from_a_trusted_peer_and_in_their_right_spelling() {
        let sent = [
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x_forwarded_for", "1.2.3.4"),
            ("x-forwarded.host", "evil"),
            ("x-forwarded-ssl", "on"),
        ];
        let left = |trusted| {
            let mut headers = head(Version::HTTP_11, "/", &sent).headers;
            strip_request(&mut headers, trusted);
            headers.keys().map(|name| name.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert!(left(false).is_empty());
        assert_eq!(left(true), ["forwarded", "x-forwarded-for"]);
    }

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
    fn only_one_plain_chunked_is_understood() {
        for bad in ["gzip, chunked", "chunked, chunked", "identity", "xchunked", ""] {
            let mut bad = head(Version::HTTP_11, "/", &[("host", "a"), ("transfer-encoding", bad)]);
            assert_eq!(check(&mut bad), Err(Malformed::TransferEncoding));
        }
        let mut good = head(Version::HTTP_11, "/", &[("host", "a"), ("transfer-encoding", "Chunked")]);
        assert_eq!(check(&mut good), Ok(()));
    }

    #[test]
    fn forwarded_headers_tell_the_truth() {
        let told = |headers: &HeaderMap, caller: &Caller| {
            let mut told = HeaderMap::new();
            Forwarded::of(headers, caller).tell(|name, value| {
                told.append(name, value.clone());
            });
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
    }

    #[test]
    fn request_ids_are_kept_if_well_formed_and_else_made() {
        let made = |id: &str, trace: &str| {
            let mut headers = head(Version::HTTP_11, "/", &[("x-request-id", id), ("traceparent", trace)]).headers;
            let said = identify(&mut headers);
            assert_eq!(said, headers["x-request-id"]);
            (headers["x-request-id"].clone(), headers["traceparent"].clone())
        };
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(made("abc-1", good), (HeaderValue::from_static("abc-1"), HeaderValue::from_static(good)));
        let (id, trace) = made("a b", "00-00000000000000000000000000000000-00f067aa0ba902b7-01");
        assert_eq!(id.len(), 32);
        assert!(is_traceparent(&trace) && trace != good);
    }

    #[test]
    fn a_navigation_is_a_browser_that_asks_for_a_page() {
        let page = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
        let asks = |headers: &[(&str, &str)]| is_navigation(&head(Version::HTTP_11, "/", headers));
        assert!(asks(&[page]));
        assert!(asks(&[page, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")]));
        for other in [
            &[("accept", "*/*")][..],
            &[],
            &[("accept", "text/html;q=0")],
            &[page, ("sec-fetch-mode", "cors")],
            &[page, ("sec-fetch-dest", "iframe")],
            &[page, ("sec-purpose", "prefetch;prerender")],
            &[page, ("purpose", "prefetch")],
            &[page, ("upgrade", "websocket")],
        ] {
            assert!(!asks(other), "{other:?}");
        }
    }

    #[test]
    fn json_is_the_answer_unless_html_is_named_no_less() {
        let prefers = |accept: &str| prefers_html(&head(Version::HTTP_11, "/", &[("accept", accept)]).headers);
        assert!(prefers("text/html"));
        assert!(prefers("text/html, application/json;q=0.9"));
        assert!(!prefers("application/json, text/html;q=0.9"));
        assert!(!prefers("*/*"));
    }
}
