//! Removes what must not pass this hop: hop-by-hop fields, and fields about identity or the request's route.

use std::net::IpAddr;

use http::StatusCode;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, Entry, FORWARDED, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
};

use crate::domain::caller::NO_ADDRESS;
use crate::serve::request::credentials;

/// Names that no client may set, not even a trusted proxy: upstreams believe them.
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

/// Further names that applications believe and that the proxies in `deploy/forward-auth` remove, some of them in this spelling only. In a
/// request that we forward they are the application's own.
const REMOVED_IN_FRONT: [&str; 3] = ["x-user", "x-email", "x-remote-group"];

/// Names that some servers use in place of the request's own path or host. A request judged by its own would be answered by
/// theirs. All of `X-Original-…` and `X-Rewrite-…` as well.
const REROUTING: [&str; 3] = ["x-override-url", "x-http-host-override", "x-host"];
const REROUTING_PREFIXES: [&str; 2] = ["x-original-", "x-rewrite-"];

/// Names in which proxies send the client's address, other than `X-Forwarded-For`. A proxy that does not know one passes on what its
/// client made up, so they are never believed.
const CLIENT_ADDRESS: [&str; 10] = [
    "x-real-ip",
    "true-client-ip",
    "x-client-ip",
    "client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "fastly-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-proxyuser-ip",
];

/// The four fields that a trusted proxy may set, in this exact spelling.
pub(super) const FORWARDED_TRUTH: [&str; 4] =
    ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"];

/// Hop-by-hop fields (RFC 9110 §7.6.1): removed in both directions.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(name, "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade")
}

/// Whether `name` is an identity field. All other characters are read as `-`, since servers that pass header fields as variables
/// (CGI, WSGI, FastCGI) write `_` for `-`, and some for any such character.
fn is_identity(name: &str) -> bool {
    matches!(name.as_bytes().first(), Some(b'x' | b'r'))
        && (IDENTITY.iter().any(|known| same_folded(name, known)) || starts_folded(name, "x-auth-request-"))
}

/// Whether `name` is `Forwarded` or `X-Forwarded-…` in any spelling.
fn is_forwarding(name: &str) -> bool {
    starts_folded(name, "x-forwarded-") || same_folded(name, FORWARDED.as_str())
}

/// Whether `name` could make the upstream answer another path or host than the judged one.
fn is_rerouting(name: &str) -> bool {
    REROUTING_PREFIXES.iter().any(|prefix| starts_folded(name, prefix))
        || REROUTING.iter().any(|known| same_folded(name, known))
}

/// Whether `name` is a client address field other than `X-Forwarded-For`.
fn is_client_address(name: &str) -> bool {
    CLIENT_ADDRESS.iter().any(|known| same_folded(name, known))
}

/// Whether `name` is reserved for proxies but spelled so that only some servers recognize it: `X_Forwarded_User`.
pub(crate) fn is_odd_spelling(name: &str) -> bool {
    name.bytes().any(|b| !b.is_ascii_alphanumeric() && b != b'-')
        && (is_identity(name)
            || is_forwarding(name)
            || is_rerouting(name)
            || is_client_address(name)
            || REMOVED_IN_FRONT.iter().any(|known| same_folded(name, known)))
}

fn same_folded(name: &str, known: &str) -> bool {
    name.len() == known.len() && starts_folded(name, known)
}

fn starts_folded(name: &str, prefix: &str) -> bool {
    let folded = |b: u8| if b.is_ascii_alphanumeric() { b.to_ascii_lowercase() } else { b'-' };
    name.len() >= prefix.len() && name.bytes().zip(prefix.bytes()).all(|(b, known)| folded(b) == known)
}

/// Removes what a client may not set, what ends at this hop and, unless a trusted proxy sent it, all forwarding fields. Also removes
/// what `Connection` lists; this never affects the fields that we set, since they are set afterwards.
pub(crate) fn strip_request(headers: &mut HeaderMap, trusted: bool) {
    let keeps_forwarded = trusted && is_only_account(headers);
    let true_of_proxies = |name: &str| FORWARDED_TRUTH.contains(&name) || (keeps_forwarded && name == "forwarded");
    let forwards = |name: &str| is_forwarding(name) && !(trusted && true_of_proxies(name));
    let addresses = |name: &str| is_client_address(name) && !(trusted && CLIENT_ADDRESS.contains(&name));
    // Dispatches on the first letter, since most names match none.
    let is_doomed = |name: &str| match name.as_bytes().first() {
        Some(b'x') => is_identity(name) || forwards(name) || (!trusted && is_rerouting(name)) || addresses(name),
        Some(b'r') => is_identity(name),
        Some(b'f') => forwards(name) || addresses(name),
        Some(b'p') => name.starts_with("proxy-") && name != "proxy-status",
        Some(b'c' | b't') => is_hop_by_hop(name) || addresses(name),
        Some(b'k' | b'u') => is_hop_by_hop(name),
        Some(b'h') => name == "http2-settings",
        Some(_) | None => false,
    };
    let doomed = names(headers, |name| name != "connection" && is_doomed(name));
    let takes_trailers = doomed.contains(&TE) && lists(headers, &TE, "trailers");
    remove_hop(headers, &doomed);
    // This value of `TE` holds for our own hop too: we forward trailers.
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Whether `Forwarded` (RFC 7239) is all that a trusted proxy says of how the request came, and names no host. A proxy that knows only
/// `X-Forwarded-…` passes on what its client made up, and an upstream that reads it first would answer another host than the judged one.
fn is_only_account(headers: &HeaderMap) -> bool {
    let names_host = |value: &HeaderValue| value.as_bytes().to_ascii_lowercase().windows(4).any(|part| part == b"host");
    headers.contains_key(FORWARDED)
        && !FORWARDED_TRUTH.iter().any(|name| headers.contains_key(*name))
        && !headers.get_all(FORWARDED).iter().any(names_host)
}

/// Normalizes what only a trusted proxy may send, before it is forwarded: removes fields that could select another path or host, and
/// sets the proxy's other client address fields to the address derived from `X-Forwarded-For`.
pub(crate) fn normalize_trusted(headers: &mut HeaderMap, client: IpAddr) {
    remove_all(headers, is_rerouting);
    let address_fields: Vec<HeaderName> =
        headers.keys().filter(|name| is_client_address(name.as_str())).cloned().collect();
    if client == NO_ADDRESS {
        remove_all(headers, is_client_address);
    } else if let Some(value) =
        (!address_fields.is_empty()).then(|| HeaderValue::from_str(&client.to_string()).ok()).flatten()
    {
        for name in address_fields {
            headers.insert(name, value.clone());
        }
    }
}

/// Removes what a proxy in front knows in its usual spelling only.
pub(crate) fn strip_odd_spellings(headers: &mut HeaderMap) {
    remove_all(headers, is_odd_spelling);
}

/// Removes fields that could make a server use another method than the request's, in any spelling.
pub(crate) fn strip_method_overrides(headers: &mut HeaderMap) {
    remove_all(headers, is_method_override);
}

/// Whether `name` could make a server use another method than the request's.
pub(crate) fn is_method_override(name: &str) -> bool {
    const OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];
    OVERRIDES.iter().any(|known| same_folded(name, known))
}

/// The matching names.
fn names(headers: &HeaderMap, is_meant: impl Fn(&str) -> bool) -> Vec<HeaderName> {
    let mut names = Vec::new();
    for name in headers.keys() {
        if is_meant(name.as_str()) {
            names.push(name.clone());
        }
    }
    names
}

/// Removes the matching names and, if present, `Connection` with the fields that it lists.
fn remove_hop(headers: &mut HeaderMap, doomed: &[HeaderName]) {
    strip_connection(headers);
    for name in doomed {
        headers.remove(name);
    }
}

fn remove_all(headers: &mut HeaderMap, is_doomed: impl Fn(&str) -> bool) {
    for name in names(headers, is_doomed) {
        headers.remove(name);
    }
}

/// Whether a header field lists `token`, ignoring case.
pub(super) fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// What `Connection` never removes: all fields that frame or route a message, that a decision reads, or that we write. Otherwise a
/// client behind a trusted proxy could hide where a request comes from.
const KEPT: [&str; 20] = [
    "host",
    "cookie",
    "set-cookie",
    "origin",
    "referer",
    "authorization",
    "www-authenticate",
    "accept",
    "forwarded",
    "purpose",
    "trailer",
    "expect",
    "location",
    "traceparent",
    "tracestate",
    "x-request-id",
    "x-purpose",
    "x-moz",
    "x-sidegate-assertion",
    "user-agent",
];
const KEPT_PREFIXES: [&str; 5] = ["content-", "sec-", "x-forwarded-", "x-original-", "access-control-"];

fn is_kept(name: &str) -> bool {
    KEPT.contains(&name)
        || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || CLIENT_ADDRESS.contains(&name)
}

/// Removes `Connection` with the fields that it lists, except those in [`KEPT`].
fn strip_connection(headers: &mut HeaderMap) {
    let Entry::Occupied(connection) = headers.entry(CONNECTION) else { return };
    // The usual values list no other field.
    let plain = |value: &HeaderValue| matches!(value.as_bytes(), b"keep-alive" | b"close" | b"Keep-Alive" | b"Close");
    let is_listed = |name: &HeaderName| !is_kept(name.as_str());
    let listed = if connection.iter().all(plain) {
        Vec::new()
    } else {
        let values = connection.iter().filter_map(|value| value.to_str().ok());
        let names = values.flat_map(|value| value.split(','));
        names.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok()).filter(is_listed).collect()
    };
    connection.remove();
    for name in listed {
        headers.remove(name);
    }
}

/// Removes hop-by-hop fields from a response.
pub(crate) fn strip_response(headers: &mut HeaderMap) {
    let doomed = names(headers, |name| name != "connection" && is_hop_by_hop(name));
    remove_hop(headers, &doomed);
}

/// Removes a length that the response's status forbids (RFC 9110 §8.6, §15.3.6): HTTP/2 clients reset the stream for one.
pub(crate) fn strip_forbidden(headers: &mut HeaderMap, status: StatusCode) {
    if status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT) {
        headers.remove(CONTENT_LENGTH);
        headers.remove(TRAILER);
    }
}

/// Removes from trailers what is forbidden there (RFC 9110 §6.5.1) or what a client may not set, whatever the rules and upstreams: a server
/// may read a trailer as a header field.
pub(crate) fn strip_trailers(trailers: &mut HeaderMap) {
    let doomed = |text: &str| {
        is_identity(text)
            || is_forwarding(text)
            || is_hop_by_hop(text)
            || is_rerouting(text)
            || is_client_address(text)
            || is_method_override(text)
            || credentials::names_somebody(text)
            || matches!(
                text,
                "content-length" | "host" | "trailer" | "cookie" | "set-cookie" | "authorization" | "content-encoding"
            )
    };
    remove_all(trailers, doomed);
}

/// Joins `Cookie` fields, which HTTP/2 may split (RFC 9113 §8.2.3), so that every reader sees the same one.
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
    fn what_proxies_in_front_remove_goes_in_every_other_spelling() {
        for name in REMOVED_IN_FRONT {
            for spelling in [name.replace('-', "_"), name.replace('-', "."), name.replacen('-', "_", 1)] {
                let mut headers = head(Version::HTTP_11, "/", &[(&spelling, "root"), (name, "1")]).headers;
                strip_odd_spellings(&mut headers);
                assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), [name], "{spelling}");
            }
        }
        for other in ["x_users", "x_use", "user_agent", "x_own"] {
            assert!(!is_odd_spelling(other), "{other}");
        }
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
        assert_eq!(left(true), ["x-forwarded-for"]);
    }

    #[test]
    fn forwarded_passes_as_the_only_account_of_a_trusted_proxy_that_names_no_host() {
        for (value, beside, trusted, passes) in [
            ("for=192.0.2.1;proto=https", "accept", true, true),
            ("for=192.0.2.1;proto=https", "accept", false, false),
            ("for=192.0.2.1", "x-forwarded-for", true, false),
            ("for=192.0.2.1", "x-forwarded-proto", true, false),
            ("for=192.0.2.1;Host=admin.example.com", "accept", true, false),
            ("host=\"admin.example.com\"", "accept", true, false),
        ] {
            let mut headers = head(Version::HTTP_11, "/", &[("forwarded", value), (beside, "https")]).headers;
            strip_request(&mut headers, trusted);
            assert_eq!(headers.contains_key(FORWARDED), passes, "{value} beside {beside}");
        }
        let mut headers =
            head(Version::HTTP_11, "/", &[("forwarded", "for=192.0.2.1"), ("forwarded", "host=x")]).headers;
        strip_request(&mut headers, true);
        assert!(headers.is_empty());
    }

    #[test]
    fn what_leads_elsewhere_never_reaches_the_upstream_and_addresses_are_true() {
        let client = "203.0.113.7".parse().unwrap();
        let left = |name: &str, trusted| {
            let mut headers = head(Version::HTTP_11, "/", &[(name, "10.9.9.9"), (name, "/admin")]).headers;
            strip_request(&mut headers, trusted);
            if trusted {
                normalize_trusted(&mut headers, client);
            }
            headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let more = ["x-original-url", "x-original-uri", "x-original-host", "x-original-forwarded-for", "x-rewrite-url"];
        for name in REROUTING.into_iter().chain(more) {
            for spelling in [name.to_owned(), name.replace('-', "_"), name.replace('-', ".")] {
                assert!(left(&spelling, false).is_empty() && left(&spelling, true).is_empty(), "{spelling}");
            }
        }
        for name in CLIENT_ADDRESS {
            assert!(left(name, false).is_empty(), "{name}");
            assert_eq!(left(name, true), ["203.0.113.7"], "{name}");
            for spelling in [name.replace('-', "_"), name.replace('-', ".")] {
                assert!(left(&spelling, false).is_empty() && left(&spelling, true).is_empty(), "{spelling}");
            }
        }
    }

    #[test]
    fn trailers_lose_what_headers_lose_for_some_rules_and_upstreams_in_any_spelling() {
        let methods = ["x-http-method-override", "x-http-method", "x-method-override"];
        let people = ["x-remote-group", "x-remote-extra-a", "impersonate-user", "impersonate-extra-scopes"];
        for name in methods.into_iter().chain(people) {
            for spelling in [name.to_owned(), name.replace('-', "_"), name.replacen('-', ".", 1)] {
                let sent = [(spelling.as_str(), "a"), (spelling.as_str(), "b"), ("x-sum", "1")];
                let mut trailers = head(Version::HTTP_11, "/", &sent).headers;
                strip_trailers(&mut trailers);
                assert_eq!(trailers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-sum"], "{spelling}");
            }
        }
        let kept = [("x-remotely", "1"), ("impersonate", "1"), ("x-http-methods", "1"), ("grpc-status", "0")];
        let mut trailers = head(Version::HTTP_11, "/", &kept).headers;
        strip_trailers(&mut trailers);
        assert_eq!(trailers.len(), kept.len());
    }

    #[test]
    fn connection_names_away_nothing_that_is_read_or_written_here() {
        let kept = [
            "origin",
            "sec-fetch-site",
            "sec-websocket-key",
            "x-forwarded-for",
            "content-length",
            "content-type",
            "x-real-ip",
        ];
        for name in KEPT.into_iter().filter(|name| *name != "x-sidegate-assertion").chain(kept) {
            let mut headers = head(Version::HTTP_11, "/", &[(name, "1"), ("connection", name), ("x-hop", "1")]).headers;
            headers.append(CONNECTION, HeaderValue::from_static("close, X-Hop"));
            strip_request(&mut headers, true);
            assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), [name]);
        }
    }
}
