//! Fuzz targets for a request's head: forwarding header fields and cookies.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::header::{COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use url::Url;

use crate::domain::caller::{Peer, Scheme, TrustedProxies};
use crate::domain::login::AttemptId;
use crate::serve::request::cookies::Cookies;
use crate::serve::request::headers::{self, Forwarded};
use crate::serve::settings::CookieSettings;

/// Header lines, from an untrusted client and from a trusted proxy.
pub(crate) fn forwarded(bytes: &[u8]) {
    let sent = lines(bytes);
    let stranger = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));
    let trusted = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    let proxies = TrustedProxies::new("10.0.0.0/8".parse::<ipnet::IpNet>().into_iter().collect());
    for address in [stranger, trusted] {
        let mut headers = sent.clone();
        let peer = Peer { address: SocketAddr::new(address, 1), scheme: Scheme::Http };
        let caller = headers::caller(&headers, peer, &proxies);
        if address == stranger {
            assert!(
                !caller.trusted && caller.client == stranger && caller.scheme == Scheme::Http,
                "a stranger was believed"
            );
        }
        headers::strip_request(&mut headers, caller.trusted);
        for name in headers.keys() {
            let plain: String =
                name.as_str().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
            assert!(caller.trusted || !plain.starts_with("x-forwarded-"), "{name} of a stranger passed");
            let identity =
                ["x-forwarded-user", "x-forwarded-email", "x-forwarded-groups", "remote-user", "x-sidegate-assertion"];
            assert!(!identity.contains(&plain.as_str()), "{name} passed");
        }
        let mut written = HeaderMap::new();
        Forwarded::of(&headers, &caller).write_fields(&mut written);
        let hops = written.get("x-forwarded-for").map(HeaderValue::as_bytes).unwrap_or_default();
        assert!(hops.ends_with(caller.peer.to_string().as_bytes()), "the last hop is not the peer");
        let _ = (headers::host(&headers, &caller).map(str::len), headers::own_origin(&headers, &caller));
    }
}

/// The text of a `Cookie` field, also used as an upstream's `Set-Cookie`.
pub(crate) fn cookies(bytes: &[u8]) {
    let Ok(origin) = Url::parse("https://app.example.com") else { return };
    let settings = CookieSettings { name: "session_token".to_owned(), domain: None, secure: true };
    let ours = Cookies::new(settings, &origin);
    let mut headers = HeaderMap::new();
    for line in bytes.split(|b| *b == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(COOKIE, value.clone());
            headers.append(SET_COOKIE, value);
        }
    }
    headers::join_cookies(&mut headers);
    assert!(headers.get_all(COOKIE).iter().count() <= 1);
    let tokens = ours.tokens(&headers).map_or(0, |tokens| tokens.len());
    let (to_end, all) = ours.tokens_to_end(&headers);
    assert!(tokens <= to_end.len() && (tokens == 0 || all), "what counts is not ended by a logout");
    if let Some(id) = AttemptId::parse("aaaaaaaaaaaaaaaaaaaaaa") {
        let _ = (ours.login(&headers, &id), ours.set_login(&headers, &id, "sealed"));
    }
    ours.strip_request(&mut headers);
    ours.strip_response(&mut headers);
    let is_ours = |name: &[u8]| {
        [&b"session_token"[..], b"__Host-sidegate_visits"].contains(&name)
            || name.starts_with(b"__Host-sidegate_login_")
    };
    let name = |pair: &[u8]| pair.split(|b| *b == b'=').next().unwrap_or_default().trim_ascii().to_vec();
    for value in headers.get_all(COOKIE) {
        assert!(
            !value.as_bytes().split(|b| *b == b';').any(|pair| is_ours(&name(pair))),
            "our cookie reaches the upstream"
        );
    }
    for value in headers.get_all(SET_COOKIE) {
        assert!(!is_ours(&name(value.as_bytes())), "an upstream sets our cookie");
    }
}

fn lines(bytes: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_static("app.example.com"));
    for line in bytes.split(|b| *b == b'\n').take(100) {
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let (name, value) = line.split_at(colon);
        let name = HeaderName::from_bytes(name);
        let value = HeaderValue::from_bytes(value.get(1..).unwrap_or_default().trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}
