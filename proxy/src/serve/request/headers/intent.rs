//! What a client wants: a page, JSON, a WebSocket; and whether its request comes from our own pages.

use http::header::{ACCEPT, CONNECTION, HeaderMap, HeaderName, ORIGIN, UPGRADE};
use http::request::Parts;
use http::{Method, Version};

use super::strip::lists;

static SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
static SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// The fields by which a browser marks a prefetch.
static PURPOSES: [HeaderName; 4] = [
    HeaderName::from_static("sec-purpose"),
    HeaderName::from_static("purpose"),
    HeaderName::from_static("x-purpose"),
    HeaderName::from_static("x-moz"),
];

/// Whether the request asks for a WebSocket upgrade (RFC 6455 §4.1). Other upgrades, above all `h2c`, are not forwarded.
pub(crate) fn is_websocket(head: &Parts) -> bool {
    let alone = head.headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    head.version == Version::HTTP_11
        && head.method == Method::GET
        && alone
        && lists(&head.headers, &CONNECTION, "upgrade")
}

/// Whether a `101` response switches to the requested WebSocket, and to nothing else.
pub(crate) fn switches_to_websocket(headers: &HeaderMap) -> bool {
    let mut said = headers.get_all(UPGRADE).iter();
    let websocket = said.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    websocket && said.next().is_none()
}

/// Whether a browser requests a page to show: only then is it redirected to the sign-in. A service worker that forwards a navigation
/// (`fetch(event.request)`) keeps its mode, but has no destination.
pub(crate) fn is_navigation(head: &Parts) -> bool {
    let says = |name: &HeaderName, expected: &[&str]| {
        head.headers.get(name).is_none_or(|value| expected.iter().any(|one| value.as_bytes() == one.as_bytes()))
    };
    (head.method == Method::GET || head.method == Method::HEAD)
        && says(&SEC_FETCH_MODE, &["navigate"])
        && says(&SEC_FETCH_DEST, &["document", "empty"])
        && quality(&head.headers, &["text/html"]).is_some_and(|q| q > 0)
        && !is_prefetch(&head.headers)
        && !head.headers.contains_key(UPGRADE)
}

/// Whether a browser only prefetches (prefetch, prerender, preview), and may never show the response.
pub(crate) fn is_prefetch(headers: &HeaderMap) -> bool {
    PURPOSES.iter().flat_map(|name| headers.get_all(name)).any(|value| {
        let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        ["prefetch", "prerender", "preview"].iter().any(|purpose| text.contains(purpose))
    })
}

/// Whether the client prefers HTML to JSON: it names `text/html`, with at least the quality of JSON.
pub(crate) fn prefers_html(headers: &HeaderMap) -> bool {
    let html = quality(headers, &["text/html"]).unwrap_or(0);
    html > 0 && html >= quality(headers, &["application/json", "application/*", "*/*", "*"]).unwrap_or(0)
}

/// The quality of a media type in `Accept`, in thousandths (RFC 9110 §12.5.1), from the first of `ranges` that it names; give the most
/// specific range first.
///
/// Parsed by hand: of the crates for this, `headers-accept` 0.3 takes an invalid weight for 1, `accept-header` 0.2 compares floats, and
/// both refuse a whole field for one odd member, such as the `*; q=.2` that every old Java client sends.
fn quality(headers: &HeaderMap, ranges: &[&str]) -> Option<u16> {
    ranges.iter().find_map(|range| {
        let fields = headers.get_all(ACCEPT).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        fields.filter_map(|field| split(&field, ',').filter_map(|member| weight(member, range)).max()).max()
    })
}

/// The weight of a member of `Accept`, in thousandths, if it is for this range.
fn weight(member: &str, range: &str) -> Option<u16> {
    let mut parts = split(member, ';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(range) {
        return None;
    }
    let weight = parts.find_map(|part| part.split_once('=').filter(|(name, _)| name.trim().eq_ignore_ascii_case("q")));
    Some(weight.map_or(1000, |(_, value)| thousandths(value.trim())))
}

/// A weight (RFC 9110 §12.4.2) in thousandths; an invalid one is 0. `.5` is accepted, and so are digits beyond the third.
fn thousandths(text: &str) -> u16 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return 0;
    }
    if whole.bytes().any(|digit| digit != b'0') {
        return 1000;
    }
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(3);
    digits.fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'))
}

/// The parts of a field's value; separators in quoted strings do not count.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |character| {
        let was_escaped = std::mem::take(&mut escaped);
        match character {
            '"' if !was_escaped => quoted = !quoted,
            '\\' if quoted && !was_escaped => escaped = true,
            _ => {}
        }
        character == separator && !quoted
    })
}

/// Whether the request's `Origin`, if present, is `origin` (scheme, host and port as browsers write them).
pub(crate) fn is_same_origin(headers: &HeaderMap, origin: &str) -> bool {
    let mut said = headers.get_all(ORIGIN).iter();
    match (said.next(), said.next()) {
        (None, _) => true,
        (Some(one), None) => one.as_bytes().eq_ignore_ascii_case(origin.as_bytes()),
        (Some(_), Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::head;
    use super::*;

    #[test]
    fn a_navigation_is_a_browser_that_asks_for_a_page() {
        let page = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
        let asks = |headers: &[(&str, &str)]| is_navigation(&head(Version::HTTP_11, "/", headers));
        assert!(asks(&[page]));
        assert!(asks(&[page, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")]));
        assert!(asks(&[page, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "empty")]), "a service worker");
        for other in [
            &[("accept", "*/*")][..],
            &[],
            &[("accept", "text/html;q=0")],
            &[page, ("sec-fetch-mode", "cors")],
            &[page, ("sec-fetch-dest", "iframe")],
            &[page, ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")],
            &[page, ("sec-purpose", "prefetch;prerender")],
            &[page, ("sec-purpose", "PREFETCH;anonymous-client-ip")],
            &[page, ("sec-purpose", "prerender")],
            &[page, ("purpose", "Prefetch")],
            &[page, ("x-moz", "prefetch")],
            &[page, ("upgrade", "websocket")],
        ] {
            assert!(!asks(other), "{other:?}");
        }
    }

    #[test]
    fn json_is_the_answer_unless_html_is_named_no_less() {
        let prefers = |accept: &str| prefers_html(&head(Version::HTTP_11, "/", &[("accept", accept)]).headers);
        for page in [
            "text/html",
            "TEXT/HTML",
            "text/html, application/json",
            "text/html, application/json;q=0.9",
            "text/html;q=0.501, application/json;q=0.5",
            "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "application/json;q=\"odd\", text/html;q=0.001",
            "application/json ; Q=0.1 , text/html ; Q=0.2",
            "text/html;q=.5, application/json;q=0",
            "text/html;charset=utf-8",
            ", ,text/html,,",
            "text/html;q=1.000",
        ] {
            assert!(prefers(page), "{page}");
        }
        for json in [
            "",
            "*/*",
            "text/*",
            "application/json",
            "application/json, text/html;q=0.9",
            "application/json;q=0.9, text/html;q=0.1",
            "application/json;q=0.501, text/html;q=0.5",
            "application/json;q=0.002, text/html;q=0.001",
            "text/html;q=0.5, */*;q=0.8",
            "text/html;q=0.5, application/*;q=0.6",
            "text/html;q=0",
            "text/html;q=0.000",
            "text/html;q=odd",
            "text/html;q=-1",
            "text/html;q=",
            "text/htmlx",
            "image/png;name=\"a, text/html\"",
            "image/png;name=\"a\\\", text/html\"",
        ] {
            assert!(!prefers(json), "{json}");
        }
        let mut several = head(Version::HTTP_11, "/", &[("accept", "application/json;q=0.3")]).headers;
        several.append(ACCEPT, http::HeaderValue::from_static("text/html;q=0.4"));
        assert!(prefers_html(&several), "several fields are one list");
    }

    proptest::proptest! {
        #[test]
        fn no_accept_makes_it_panic(text in "[ -~]{0,60}") {
            let _preference = prefers_html(&head(Version::HTTP_11, "/", &[("accept", &text)]).headers);
        }
    }
}
