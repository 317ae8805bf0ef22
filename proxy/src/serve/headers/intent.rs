//! What a client is after: a page, JSON, a WebSocket; and whether it asks from our own pages.

use http::header::{ACCEPT, CONNECTION, HeaderMap, HeaderName, ORIGIN, UPGRADE};
use http::request::Parts;
use http::{Method, Version};

use super::strip::lists;

static SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
static SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// What tells that a browser looks ahead rather than shows a page.
static PURPOSES: [HeaderName; 4] = [
    HeaderName::from_static("sec-purpose"),
    HeaderName::from_static("purpose"),
    HeaderName::from_static("x-purpose"),
    HeaderName::from_static("x-moz"),
];

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
