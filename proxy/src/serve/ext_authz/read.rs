//! Turns Envoy's description of a request into the head to judge: read in one way, or not at all.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Uri, Version};

use super::message::{CheckRequest, HttpRequest, Peer};
use crate::domain::caller::{self, Scheme};
use crate::serve::request::description::{self, BadDescription};
use crate::serve::request::headers;

/// A request described by Envoy.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) head: Parts,
    /// The peer of Envoy's own connection.
    pub(super) source: SocketAddr,
    pub(super) scheme: Scheme,
    /// Whether fields of one name were joined by commas, so that some cannot be separated again.
    pub(super) merged: bool,
}

/// The name in errors for a field that could not be read.
const A_FIELD: &str = "a header field of attributes.request.http";

/// Reads the description in a check.
///
/// # Errors
/// [`BadDescription`]: something is missing, invalid, or contradictory.
pub(super) fn read(check: CheckRequest, header_bytes: usize) -> Result<Described, BadDescription> {
    let attributes = check.attributes.unwrap_or_default();
    let source = source(attributes.source)?;
    let missing = |what| BadDescription::Missing(what, "nothing else says what is asked for");
    let http = attributes.request.and_then(|request| request.http).ok_or(missing("attributes.request.http"))?;
    if !http.body.is_empty() || !http.raw_body.is_empty() {
        return Err(BadDescription::Body);
    }
    for (text, name) in [(&http.method, "http.method"), (&http.host, "http.host"), (&http.path, "http.path")] {
        if text.is_empty() {
            return Err(missing(name));
        }
    }
    let method = Method::from_bytes(http.method.as_bytes()).map_err(|_| BadDescription::Unreadable("http.method"))?;
    let target = description::target(&http.path, "http.path")?;
    description::check_passes(&method, &target)?;
    if !headers::is_host(&http.host) {
        return Err(BadDescription::Unreadable("http.host"));
    }
    let host = HeaderValue::from_str(&http.host).map_err(|_| BadDescription::Unreadable("http.host"))?;
    // Both exist for older versions, and are always empty: the path includes its query.
    if !http.query.is_empty() || !http.fragment.is_empty() {
        return Err(BadDescription::Differs("query"));
    }
    let scheme = match http.scheme.as_str() {
        "https" => Scheme::Https,
        // Some versions send none over HTTP/1.
        "http" | "" => Scheme::Http,
        _ => return Err(BadDescription::Unreadable("http.scheme")),
    };
    let (mut fields, merged) = fields(&http, &method, &target, header_bytes)?;
    if fields.get(HOST).is_some_and(|said| !said.as_bytes().eq_ignore_ascii_case(http.host.as_bytes())) {
        return Err(BadDescription::Differs("host"));
    }
    fields.insert(HOST, host);
    drop_own_hop(&mut fields, source.ip());
    let mut head = http::Request::new(()).into_parts().0;
    (head.method, head.uri, head.headers, head.version) = (method, Uri::from(target), fields, Version::HTTP_2);
    Ok(Described { head, source, scheme, merged })
}

fn source(peer: Option<Peer>) -> Result<SocketAddr, BadDescription> {
    const SOURCE: &str = "attributes.source.address.socket_address";
    let socket = peer.and_then(|peer| peer.address).and_then(|address| address.socket_address);
    let socket = socket.ok_or(BadDescription::Missing(SOURCE, "it says who is calling"))?;
    let ip = socket.address.parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified());
    let ip = ip.ok_or(BadDescription::Unreadable(SOURCE))?;
    let port = u16::try_from(socket.port_value).map_err(|_| BadDescription::Unreadable(SOURCE))?;
    Ok(SocketAddr::new(ip, port))
}

/// The header fields, each value as received, and whether those of one name were joined.
fn fields(
    http: &HttpRequest,
    method: &Method,
    target: &PathAndQuery,
    most: usize,
) -> Result<(HeaderMap, bool), BadDescription> {
    let raw = http.header_map.as_ref().map(|map| map.headers.as_slice()).unwrap_or_default();
    if !raw.is_empty() && !http.headers.is_empty() {
        return Err(BadDescription::TwoMaps);
    }
    let merged = raw.is_empty();
    let mut said: Vec<(&str, Bytes)> = Vec::with_capacity(raw.len() + http.headers.len());
    for field in raw {
        let value = match (field.value.is_empty(), field.raw_value.is_empty()) {
            (true, _) => field.raw_value.clone(),
            (false, true) => Bytes::copy_from_slice(field.value.as_bytes()),
            (false, false) if field.value.as_bytes() == field.raw_value => field.raw_value.clone(),
            (false, false) => return Err(BadDescription::Differs("header fields")),
        };
        said.push((&field.key, value));
    }
    said.extend(http.headers.iter().map(|entry| (entry.key.as_str(), Bytes::copy_from_slice(entry.value.as_bytes()))));
    if said.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > most {
        return Err(BadDescription::TooLarge);
    }
    let mut fields = HeaderMap::with_capacity(said.len());
    let mut pseudo: Vec<&str> = Vec::new();
    for (name, value) in said {
        if name.starts_with(':') {
            if pseudo.contains(&name) {
                return Err(BadDescription::Twice(A_FIELD));
            }
            pseudo.push(name);
            check_pseudo(name, &value, http, method, target)?;
            continue;
        }
        let is_lower = !name.bytes().any(|b| b.is_ascii_uppercase());
        let name = HeaderName::from_bytes(name.as_bytes()).ok().filter(|_| is_lower);
        let name = name.ok_or(BadDescription::Unreadable(A_FIELD))?;
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| BadDescription::Unreadable(A_FIELD))?;
        if merged && fields.contains_key(&name) {
            return Err(BadDescription::Twice(A_FIELD));
        }
        fields.try_append(name, value).map_err(|_| BadDescription::TooLarge)?;
    }
    Ok((fields, merged))
}

/// Checks that Envoy's pseudo-header fields agree with the described request line.
fn check_pseudo(
    name: &str,
    value: &[u8],
    http: &HttpRequest,
    method: &Method,
    target: &PathAndQuery,
) -> Result<(), BadDescription> {
    let (own, what) = match name {
        ":method" => (method.as_str(), "method"),
        ":path" => (target.as_str(), "path"),
        ":authority" => (http.host.as_str(), "host"),
        ":scheme" => (http.scheme.as_str(), "scheme"),
        _ => return Err(BadDescription::Unreadable(A_FIELD)),
    };
    // A description may omit the scheme in either place.
    let agrees = own.as_bytes() == value || (what == "scheme" && (own.is_empty() || value.is_empty()));
    if agrees { Ok(()) } else { Err(BadDescription::Differs(what)) }
}

/// Removes the source that Envoy itself appends to `X-Forwarded-For` (`use_remote_address`): it is not a separate hop.
fn drop_own_hop(fields: &mut HeaderMap, source: IpAddr) {
    const X_FORWARDED_FOR: &str = "x-forwarded-for";
    let Some(last) = fields.get_all(X_FORWARDED_FOR).iter().next_back() else { return };
    let Ok(text) = last.to_str() else { return };
    let (before, hop) = text.rsplit_once(',').map_or((None, text), |(before, hop)| (Some(before), hop));
    if caller::hop(hop.trim()) != Some(source.to_canonical()) {
        return;
    }
    let mut values: Vec<HeaderValue> = fields.get_all(X_FORWARDED_FOR).iter().cloned().collect();
    values.pop();
    values.extend(before.and_then(|before| HeaderValue::from_str(before).ok()));
    fields.remove(X_FORWARDED_FOR);
    for value in values {
        fields.append(X_FORWARDED_FOR, value);
    }
}

/// Refuses a request whose joined fields hide a cookie or a token of ours that must be removed: `a=1,session_token=…`.
///
/// # Errors
/// [`BadDescription::Merged`] with the field.
pub(super) fn check_merged(
    fields: &HeaderMap,
    is_our_cookie: impl Fn(&[u8]) -> bool,
    is_bearer: impl Fn(&HeaderValue) -> bool,
) -> Result<(), BadDescription> {
    let behind_comma = |value: &HeaderValue, is_one: &dyn Fn(&[u8]) -> bool| {
        value.as_bytes().split(|b| *b == b',').skip(1).any(|part| is_one(part.trim_ascii()))
    };
    let name_of = |part: &[u8]| part.split(|b| *b == b'=').next().unwrap_or_default().trim_ascii().to_vec();
    if fields.get_all(COOKIE).iter().any(|value| behind_comma(value, &|part| is_our_cookie(&name_of(part)))) {
        return Err(BadDescription::Merged("Cookie"));
    }
    let is_token = |part: &[u8]| HeaderValue::from_bytes(part).is_ok_and(|part| is_bearer(&part));
    if fields.get_all(AUTHORIZATION).iter().any(|value| behind_comma(value, &is_token)) {
        return Err(BadDescription::Merged("Authorization"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::message::{Address, AttributeContext, Entry, Request, SocketAddress};
    use super::*;

    fn check(http: HttpRequest) -> CheckRequest {
        let address = SocketAddress { address: "192.0.2.7".into(), port_value: 40_000 };
        let source = Peer { address: Some(Address { socket_address: Some(address) }) };
        let request = Request { http: Some(http) };
        CheckRequest { attributes: Some(AttributeContext { source: Some(source), request: Some(request) }) }
    }

    fn asked(fields: &[(&str, &str)]) -> HttpRequest {
        HttpRequest {
            method: "GET".into(),
            path: "/a?b".into(),
            host: "a.example".into(),
            headers: fields.iter().map(|(key, value)| Entry { key: (*key).into(), value: (*value).into() }).collect(),
            ..HttpRequest::default()
        }
    }

    fn hops(said: &[&str]) -> Vec<String> {
        let mut fields: HeaderMap = said
            .iter()
            .map(|value| (HeaderName::from_static("x-forwarded-for"), HeaderValue::from_str(value).unwrap()))
            .collect();
        drop_own_hop(&mut fields, "10.0.0.1".parse().unwrap());
        fields.values().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_hop_that_envoy_added_itself_is_none_of_the_list() {
        assert_eq!(hops(&["203.0.113.9, 10.0.0.1"]), ["203.0.113.9"]);
        assert_eq!(hops(&["203.0.113.9", "10.0.0.1"]), ["203.0.113.9"]);
        assert_eq!(hops(&["203.0.113.9,10.0.0.1, 10.0.0.1"]), ["203.0.113.9,10.0.0.1"]);
        assert_eq!(hops(&["203.0.113.9, 10.0.0.2"]), ["203.0.113.9, 10.0.0.2"]);
        assert!(hops(&["10.0.0.1"]).is_empty() && hops(&[]).is_empty());
    }

    #[test]
    fn what_was_made_one_hides_neither_cookie_nor_token() {
        let verdict = |name: &'static str, value: &'static str| {
            let fields = HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))]);
            let bearer = |value: &HeaderValue| value.as_bytes().to_ascii_lowercase().starts_with(b"bearer ");
            check_merged(&fields, |name| name == b"session_token", bearer)
        };
        for cookie in ["a=1,session_token=x", "a=1 , session_token = x; b=2", "a=1, session_token"] {
            assert_eq!(verdict("cookie", cookie), Err(BadDescription::Merged("Cookie")), "{cookie}");
        }
        for cookie in ["session_token=x; a=1", "a=1,b=2", "session_token=a,b"] {
            assert_eq!(verdict("cookie", cookie), Ok(()), "{cookie}");
        }
        assert!(verdict("authorization", "Basic x, Bearer y").is_err());
        assert!(verdict("authorization", "Digest username=\"a\", realm=\"b\"").is_ok());
    }

    #[test]
    fn the_request_line_is_said_in_one_way() {
        let reading = |fields: &[(&str, &str)]| read(check(asked(fields)), 1000).map(|described| described.head);
        let good =
            [(":method", "GET"), (":path", "/a?b"), (":authority", "a.example"), (":scheme", "https"), ("x", "1")];
        let head = reading(&good).unwrap();
        assert_eq!((head.method.as_str(), head.uri.to_string().as_str()), ("GET", "/a?b"));
        assert_eq!(head.headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["x", "host"]);
        for (name, value) in [
            (":method", "POST"),
            (":path", "/a"),
            (":authority", "b.example"),
            (":protocol", "websocket"),
            ("host", "b.example"),
            ("X-Upper", "1"),
            ("a b", "1"),
            ("", "1"),
            ("x", "a\nb"),
        ] {
            assert!(reading(&[(name, value)]).is_err(), "{name}: {value:?}");
        }
        assert!(matches!(reading(&[("x", "1"), ("x", "2")]), Err(BadDescription::Twice(_))));
        assert!(matches!(reading(&[("x", &"1".repeat(1000))]), Err(BadDescription::TooLarge)));
    }

    proptest::proptest! {
        #[test]
        fn what_is_judged_is_what_is_said_to_the_letter(path in "[/a-c%.?#*;\\\\ é]{0,10}", host in "[a-z.:/@\\[\\]]{0,8}") {
            let http = HttpRequest { path: path.clone(), host: host.clone(), ..asked(&[]) };
            if let Ok(described) = read(check(http), 1000) {
                proptest::prop_assert_eq!(described.head.uri.to_string(), path);
                proptest::prop_assert_eq!(described.head.headers[HOST].as_bytes(), host.as_bytes());
            }
        }
    }
}
