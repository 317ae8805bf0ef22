//! What a message may not say beyond this hop: hop-by-hop fields, and whatever speaks of who somebody is or how the request came.

use http::header::{CONNECTION, COOKIE, FORWARDED, HeaderMap, HeaderName, HeaderValue, TE};

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
pub(super) const FORWARDED_TRUTH: [&str; 4] =
    ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"];

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
pub(super) fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
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

#[cfg(test)]
mod tests {
    use http::Version;

    use super::super::tests::head;
    use super::*;

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
}
