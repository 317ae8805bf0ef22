//! How a proxy in front describes the request that it asks about (forward-auth): read in one way, or not at all.

use std::borrow::Cow;

use http::header::{HOST, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Uri};
use thiserror::Error;

use super::headers;
use crate::domain::caller::{self, Caller};
use crate::domain::paths::VERIFY;
use crate::domain::readings::TooManyReadings;
use crate::domain::rules::{HostName, Rules};

const X_ORIGINAL_URI: &str = "x-original-uri";
const X_ORIGINAL_URL: &str = "x-original-url";
const X_ORIGINAL_METHOD: &str = "x-original-method";
const X_FORWARDED_URI: &str = "x-forwarded-uri";
const X_FORWARDED_METHOD: &str = "x-forwarded-method";

/// The header fields that only describe a request: each at most once and in exactly this spelling.
const DESCRIBING: [&str; 5] = [X_ORIGINAL_URI, X_ORIGINAL_URL, X_ORIGINAL_METHOD, X_FORWARDED_URI, X_FORWARDED_METHOD];

/// Why a description is unusable.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum BadDescription {
    /// A field occurs twice.
    #[error("{0} is there more than once: the proxy in front must set it, and drop what its clients send")]
    Twice(&'static str),
    /// A field has a spelling that some servers take for the usual one and others do not.
    #[error("a header that tells who somebody is, or what is asked for, has `_` or another sign in place of `-`")]
    OddSpelling,
    /// A field has no valid value.
    #[error("{0} cannot be read")]
    Unreadable(&'static str),
    /// A field is missing that some rule needs.
    #[error("{0} is missing, and {1}: the proxy in front must set it")]
    Missing(&'static str, &'static str),
    /// Two descriptions differ: one of them may come from a client.
    #[error(
        "two descriptions of the request differ in its {0}: the proxy in front must drop the one that it does not set itself"
    )]
    Differs(&'static str),
    /// A method that is never forwarded.
    #[error("TRACE and CONNECT are never passed on")]
    Method,
    /// A header field names another method than the request's.
    #[error(
        "a header names another method, and rules name methods: the proxy in front must drop X-HTTP-Method-Override and its kin"
    )]
    MethodOverride,
    /// The path is one of ours.
    #[error(
        "the path is one of Sidegate's own, or can be read as one: the proxy in front must send it here, without asking"
    )]
    OwnPath,
    /// The path can be read in too many ways.
    #[error(transparent)]
    Path(#[from] TooManyReadings),
    /// The path's readings lead to different upstreams.
    #[error("servers read the path differently, and the rules lead the readings to different upstreams")]
    Upstreams,
    /// What the upstream would read behind its `strip_prefix` lies beyond the rule.
    #[error("without the `strip_prefix` of its upstream, the path can be read as one that the rule does not let in")]
    BehindPrefix,
    /// The header fields come in both of the forms that Envoy knows.
    #[error("the header fields come both as `headers` and as `header_map`")]
    TwoMaps,
    /// Fields of one name were merged, which hides parts that must be removed.
    #[error("{0} came more than once and was made one with commas: set `encode_raw_headers` in Envoy's ext_authz")]
    Merged(&'static str),
    /// The request's own body is included.
    #[error("the request's body comes along: leave `with_request_body` out of Envoy's ext_authz")]
    Body,
    /// Larger than a forwarded request may be.
    #[error("its header fields are larger than LIMIT_HEADER_BYTES")]
    TooLarge,
}

/// A request that another proxy received and asks about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Description {
    method: Method,
    target: PathAndQuery,
    /// Its host, if it differs from that of the asking request.
    host: Option<HeaderValue>,
}

impl Description {
    /// Reads what a request to [`VERIFY`] describes; `None`: nothing. Call it only if the caller is a trusted proxy: only those are
    /// believed. What a rule needs must be described: a proxy that omits it lets its clients supply it.
    ///
    /// # Errors
    /// [`BadDescription`]: there is a description, and it is unreliable.
    pub(crate) fn read(head: &Parts, caller: &Caller, rules: &Rules) -> Result<Option<Self>, BadDescription> {
        check_names(&head.headers)?;
        let all =
            [Reported::original(&head.headers)?, Reported::forwarded(&head.headers, caller)?, Reported::behind(head)?];
        let there = || all.iter().flatten();
        let Some(main) = there().find(|said| said.target.is_some()).or_else(|| there().next()) else { return Ok(None) };
        let target = main.target.clone().ok_or(BadDescription::Missing(main.names.target, "its method is said"))?;
        for other in there() {
            main.agrees_with(other)?;
        }
        let method = match &main.method {
            Some(method) => method.clone(),
            None if rules.names_methods() => {
                return Err(BadDescription::Missing(main.names.method, "rules name methods"));
            }
            None => Method::GET,
        };
        check_method(&method, &target, &head.headers, rules)?;
        if rules.names_hosts() && main.host.is_none() && (main.names.needs_host || !head.headers.contains_key(HOST)) {
            return Err(BadDescription::Missing(main.names.host, "rules name hosts"));
        }
        if rules.names_networks() && !names_caller(&head.headers) {
            return Err(BadDescription::Missing("X-Forwarded-For", "rules name networks"));
        }
        let host = main.host.as_deref().map(HeaderValue::from_str).transpose();
        let host = host.map_err(|_| BadDescription::Unreadable(main.names.host))?;
        Ok(Some(Self { method, target, host }))
    }

    /// Replaces the asking head by the described one. Removes the description, so that it is read only once.
    pub(crate) fn replace(self, head: &mut Parts) {
        head.method = self.method;
        head.uri = Uri::from(self.target);
        if let Some(host) = self.host {
            head.headers.insert(HOST, host);
        }
        for name in DESCRIBING {
            head.headers.remove(name);
        }
    }
}

/// Whether a path is the forward-auth endpoint: exactly this spelling, with or without a path after it.
pub(crate) fn is_asked_at(path: &str) -> bool {
    path.strip_prefix(VERIFY).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a path after [`VERIFY`] describes the request.
pub(crate) fn is_in_path(path: &str) -> bool {
    path.strip_prefix(VERIFY).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether a head contains a description, from any sender.
pub(crate) fn describes(head: &Parts) -> bool {
    is_in_path(head.uri.path()) || DESCRIBING.iter().any(|name| head.headers.contains_key(*name))
}

/// The header field names of one kind of description.
#[derive(Clone, Copy)]
struct Names {
    target: &'static str,
    method: &'static str,
    host: &'static str,
    /// Whether proxies that use this kind send a `Host` of their own when they ask.
    needs_host: bool,
}

const ORIGINAL: Names =
    Names { target: "X-Original-URI", method: "X-Original-Method", host: "Host", needs_host: false };
const FORWARDED: Names =
    Names { target: "X-Forwarded-Uri", method: "X-Forwarded-Method", host: "X-Forwarded-Host", needs_host: true };
const BEHIND: Names = Names { target: "the path", method: "the method", host: "Host", needs_host: false };

/// One kind of description, as read.
struct Reported<'h> {
    names: Names,
    target: Option<PathAndQuery>,
    method: Option<Method>,
    host: Option<Cow<'h, str>>,
}

impl<'h> Reported<'h> {
    fn of(
        names: Names,
        target: Option<PathAndQuery>,
        method: Option<Method>,
        host: Option<Cow<'h, str>>,
    ) -> Option<Self> {
        (target.is_some() || method.is_some()).then_some(Self { names, target, method, host })
    }

    /// `X-Original-URI` or `X-Original-URL`, and `X-Original-Method`.
    fn original(headers: &'h HeaderMap) -> Result<Option<Self>, BadDescription> {
        let uri =
            field(headers, X_ORIGINAL_URI, "X-Original-URI")?.map(|text| target(text, ORIGINAL.target)).transpose()?;
        let url = field(headers, X_ORIGINAL_URL, "X-Original-URL")?.map(absolute).transpose()?;
        let (host, target_of_url) = url.unzip();
        if let (Some(one), Some(other)) = (&uri, &target_of_url)
            && one != other
        {
            return Err(BadDescription::Differs("path"));
        }
        let own = headers.get(HOST).and_then(|host| host.to_str().ok());
        if let (Some(_), Some(one), Some(other)) = (&uri, host, own)
            && HostName::of(one) != HostName::of(other)
        {
            return Err(BadDescription::Differs("host"));
        }
        let method = method(headers, X_ORIGINAL_METHOD, ORIGINAL.method)?;
        Ok(Self::of(ORIGINAL, uri.or(target_of_url), method, host.map(Cow::Borrowed)))
    }

    /// `X-Forwarded-Uri`, `X-Forwarded-Method` and `X-Forwarded-Host`.
    fn forwarded(headers: &'h HeaderMap, caller: &Caller) -> Result<Option<Self>, BadDescription> {
        let uri = field(headers, X_FORWARDED_URI, FORWARDED.target)?
            .map(|text| target(text, FORWARDED.target))
            .transpose()?;
        let method = method(headers, X_FORWARDED_METHOD, FORWARDED.method)?;
        // Many proxies send this field with every request: an unreadable one is an error in any case.
        let host = headers::forwarded_host(headers, caller).map_err(|_| BadDescription::Unreadable(FORWARDED.host))?;
        Ok(Self::of(FORWARDED, uri, method, host.map(Cow::Borrowed)))
    }

    /// The path after [`VERIFY`], with the method of the asking request.
    fn behind(head: &'h Parts) -> Result<Option<Self>, BadDescription> {
        let whole = head.uri.path_and_query().map_or("", PathAndQuery::as_str);
        let Some(text) = whole.strip_prefix(VERIFY).filter(|rest| rest.starts_with('/')) else { return Ok(None) };
        Ok(Self::of(BEHIND, Some(target(text, BEHIND.target)?), Some(head.method.clone()), None))
    }

    fn agrees_with(&self, other: &Self) -> Result<(), BadDescription> {
        fn differ<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
            matches!((one, other), (Some(one), Some(other)) if one != other)
        }
        let hosts = [self, other].map(|said| said.host.as_deref().map(HostName::of));
        let [host, other_host] = &hosts;
        let by = [
            ("path", differ(self.target.as_ref(), other.target.as_ref())),
            ("method", differ(self.method.as_ref(), other.method.as_ref())),
            ("host", differ(host.as_ref(), other_host.as_ref())),
        ];
        by.into_iter().find(|(_, differs)| *differs).map_or(Ok(()), |(what, _)| Err(BadDescription::Differs(what)))
    }
}

/// Checks that each field with an identity or a description has its usual spelling: servers behind the proxy in front may read
/// another one as the same, and few proxies drop it.
fn check_names(headers: &HeaderMap) -> Result<(), BadDescription> {
    let odd = headers.keys().any(|name| headers::is_odd_spelling(name.as_str()));
    if odd { Err(BadDescription::OddSpelling) } else { Ok(()) }
}

/// The single value of a field.
fn field<'h>(headers: &'h HeaderMap, name: &str, shown: &'static str) -> Result<Option<&'h str>, BadDescription> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| BadDescription::Unreadable(shown)),
        (Some(_), Some(_)) => Err(BadDescription::Twice(shown)),
    }
}

/// A target as in the request line: a path with its query, or `*`.
pub(crate) fn target(text: &str, shown: &'static str) -> Result<PathAndQuery, BadDescription> {
    // Some readers drop a fragment, others take it as part of the path.
    let fits = (text.starts_with('/') || text == "*") && !text.contains('#');
    let read = PathAndQuery::try_from(text).ok().filter(|read| fits && read.as_str() == text);
    read.ok_or(BadDescription::Unreadable(shown))
}

/// An absolute URL, as host and target.
fn absolute(text: &str) -> Result<(&str, PathAndQuery), BadDescription> {
    const SHOWN: &str = "X-Original-URL";
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let rest = rest.ok_or(BadDescription::Unreadable(SHOWN))?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, behind) = rest.split_at_checked(end).ok_or(BadDescription::Unreadable(SHOWN))?;
    if !headers::is_host(host) {
        return Err(BadDescription::Unreadable(SHOWN));
    }
    Ok((host, target(if behind.is_empty() { "/" } else { behind }, SHOWN)?))
}

fn method(headers: &HeaderMap, name: &str, shown: &'static str) -> Result<Option<Method>, BadDescription> {
    let text = field(headers, name, shown)?;
    text.map(|text| Method::from_bytes(text.as_bytes())).transpose().map_err(|_| BadDescription::Unreadable(shown))
}

fn check_method(
    method: &Method,
    target: &PathAndQuery,
    headers: &HeaderMap,
    rules: &Rules,
) -> Result<(), BadDescription> {
    check_passes(method, target)?;
    let overridden = rules.names_methods() && headers.keys().any(|name| headers::is_method_override(name.as_str()));
    if overridden { Err(BadDescription::MethodOverride) } else { Ok(()) }
}

/// Checks whether a request of this method for this target may be forwarded at all.
pub(crate) fn check_passes(method: &Method, target: &PathAndQuery) -> Result<(), BadDescription> {
    if ["TRACE", "CONNECT"].iter().any(|name| method.as_str().eq_ignore_ascii_case(name)) {
        return Err(BadDescription::Method);
    }
    if target.as_str() == "*" && *method != Method::OPTIONS {
        return Err(BadDescription::Unreadable("the target `*`, which is for OPTIONS only,"));
    }
    Ok(())
}

fn names_caller(headers: &HeaderMap) -> bool {
    caller::names_caller(headers.get_all("x-forwarded-for").iter().map(|value| value.to_str().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use http::Request;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::caller::{Peer, Scheme, TrustedProxies};
    use crate::domain::rules::Openness;

    fn read(at: &str, fields: &[(&str, &str)]) -> Result<Option<Description>, BadDescription> {
        let mut request = Request::get(at).header("host", "a.example");
        for (name, value) in fields {
            request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let head = request.body(()).unwrap().into_parts().0;
        let front = Peer { address: SocketAddr::from(([127, 0, 0, 1], 1)), scheme: Scheme::Http };
        let fronts = TrustedProxies::new(vec!["127.0.0.0/8".parse().unwrap()]);
        let caller = headers::caller(&head.headers, front, &fronts);
        Description::read(&head, &caller, &Rules::new(Openness::Open, Vec::new()))
    }

    #[test]
    fn what_says_nothing_of_a_request_is_no_description() {
        for fields in [&[][..], &[("x-forwarded-host", "b.example"), ("x-forwarded-proto", "https")]] {
            assert_eq!(read(VERIFY, fields), Ok(None), "{fields:?}");
        }
        assert!(read(&format!("{VERIFY}/"), &[]).unwrap().is_some_and(|described| described.target.as_str() == "/"));
    }

    #[test]
    fn only_this_spelling_is_where_proxies_ask() {
        for path in [VERIFY, "/api/v1/auth/verify/", "/api/v1/auth/verify/a//b"] {
            assert!(is_asked_at(path), "{path}");
        }
        for path in ["/api/v1/auth/verifyx", "/api/v1/auth//verify", "/api/v1/auth/%76erify", "/api/v1/auth/Verify"] {
            assert!(!is_asked_at(path), "{path}");
        }
    }

    proptest! {
        // The result equals the description literally, and contradictory descriptions are refused.
        #[test]
        fn a_target_is_read_to_the_letter_or_not_at_all(one in "[/a-c%.?#*;\\\\ é]{0,10}", other in "[/a-c%.?#*;\\\\ é]{0,10}") {
            if let Ok(Some(described)) = read(VERIFY, &[("x-original-uri", &one)]) {
                prop_assert_eq!(described.target.as_str(), &one);
                prop_assert!(one.starts_with('/') && !one.contains('#'));
            }
            let both = read(VERIFY, &[("x-original-uri", &one), ("x-forwarded-uri", &other)]);
            prop_assert!(one == other || both.is_err());
            let url = read(VERIFY, &[("x-original-url", &format!("https://{one}"))]);
            prop_assert!(url.is_err() || !one.contains(['#', ' ', 'é']));
        }
    }
}
