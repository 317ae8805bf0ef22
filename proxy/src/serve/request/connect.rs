//! WebSockets over HTTP/2: turns an extended `CONNECT` (RFC 8441) into the equivalent upgrade request, so that it is judged and
//! forwarded as one.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Version};
use hyper::ext::Protocol;

const WEBSOCKET: &str = "websocket";
static SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
static SEC_WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");

/// Appended to a key to compute the accept value (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The accept value by which an upstream confirms our key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expected(HeaderValue);

/// Turns the head of a WebSocket over HTTP/2 into a `GET` that asks for the upgrade, with a key of ours, since HTTP/2 has none. Returns
/// whether it was one; every other `CONNECT` stays unchanged, and is refused.
pub(crate) fn make_upgrade(head: &mut Parts) -> bool {
    let is_one = head.version == Version::HTTP_2
        && head.method == Method::CONNECT
        && head.extensions.get::<Protocol>().is_some_and(|protocol| protocol.as_str() == WEBSOCKET)
        // `:scheme` and `:path` are required (RFC 8441 §4).
        && head.uri.scheme().is_some()
        && head.uri.path().starts_with('/');
    if !is_one {
        return false;
    }
    let key = STANDARD.encode(fastrand::u128(..).to_be_bytes());
    let (Ok(accept), Ok(key)) = (HeaderValue::try_from(accept(key.as_bytes())), HeaderValue::try_from(key)) else {
        return false;
    };
    head.method = Method::GET;
    head.headers.insert(&SEC_WEBSOCKET_KEY, key);
    head.headers.remove(&SEC_WEBSOCKET_ACCEPT);
    head.extensions.insert(Expected(accept));
    true
}

/// Whether a request is a WebSocket over HTTP/2.
pub(crate) fn is_websocket(head: &Parts) -> bool {
    head.version == Version::HTTP_2 && head.extensions.get::<Expected>().is_some()
}

/// Whether an upstream's response accepts our key; a client's own key is checked by the client.
pub(crate) fn is_accepted(head: &Parts, answered: &HeaderMap) -> bool {
    let Some(Expected(expected)) = head.extensions.get() else { return true };
    let mut said = answered.get_all(&SEC_WEBSOCKET_ACCEPT).iter();
    said.next() == Some(expected) && said.next().is_none()
}

/// Removes from a response what concerns only us and the upstream.
pub(crate) fn strip_answer(answered: &mut HeaderMap) {
    answered.remove(&SEC_WEBSOCKET_ACCEPT);
}

fn accept(key: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat());
    STANDARD.encode(digest)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(method: Method, uri: &str, protocol: Option<&'static str>) -> Parts {
        let mut request = Request::builder().version(Version::HTTP_2).method(method).uri(uri).body(()).unwrap();
        if let Some(protocol) = protocol {
            request.extensions_mut().insert(Protocol::from_static(protocol));
        }
        request.into_parts().0
    }

    #[test]
    fn a_key_is_answered_as_the_standard_says() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn only_a_websocket_over_http_2_is_made_an_upgrade() {
        let mut good = head(Method::CONNECT, "https://a.example/ws?x", Some("websocket"));
        assert!(make_upgrade(&mut good) && is_websocket(&good) && good.method == Method::GET);
        let key = good.headers[&SEC_WEBSOCKET_KEY].clone();
        let answer = |text: String| HeaderMap::from_iter([(SEC_WEBSOCKET_ACCEPT.clone(), text.parse().unwrap())]);
        assert!(is_accepted(&good, &answer(accept(key.as_bytes()))));
        assert!(
            !is_accepted(&good, &answer("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".into()))
                && !is_accepted(&good, &HeaderMap::new())
        );
        for mut other in [
            head(Method::CONNECT, "a.example:443", None),
            head(Method::CONNECT, "https://a.example/ws", None),
            head(Method::CONNECT, "https://a.example/ws", Some("connect-udp")),
            head(Method::CONNECT, "https://a.example/ws", Some("WebSocket")),
            head(Method::CONNECT, "https://a.example", Some("websocket")),
            head(Method::GET, "https://a.example/ws", Some("websocket")),
        ] {
            let method = other.method.clone();
            let made = make_upgrade(&mut other);
            // A URL without a path has the path `/`.
            assert_eq!(made, other.uri.path() == "/" && method == Method::CONNECT, "{other:?}");
        }
    }
}
