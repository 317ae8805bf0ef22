//! Works around the HTTP/1.1 parser where it refuses more than it must, or gives no reason.

/// The longest request line that is examined, in bytes.
const LINE_MOST: usize = 16 * 1024;

/// Percent-encodes the characters of a target that the parser refuses, in bytes that begin with a request line, as browsers do
/// (`"`, `<` and `>` in a query; `<`, `>` and `` ` `` in a path). Other proxies pass these, and servers read both forms the same.
/// `None`: nothing to change.
pub(crate) fn encode_signs(bytes: &[u8]) -> Option<Vec<u8>> {
    let end = memchr::memchr(b'\n', bytes.get(..bytes.len().min(LINE_MOST))?)?;
    let (line, rest) = bytes.split_at_checked(end)?;
    if memchr::memchr3(b'"', b'<', b'>', line).is_none() && memchr::memchr(b'`', line).is_none() {
        return None;
    }
    let mut words = line.split(|b| *b == b' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() || !version.starts_with(b"HTTP/1.") || !matches!(target.first(), Some(b'/')) {
        return None;
    }
    let mut encoded = Vec::with_capacity(bytes.len() + 32);
    encoded.extend_from_slice(method);
    encoded.push(b' ');
    let mut in_query = false;
    for sign in target {
        in_query |= *sign == b'?';
        match sign {
            b'<' => encoded.extend_from_slice(b"%3C"),
            b'>' => encoded.extend_from_slice(b"%3E"),
            b'"' if in_query => encoded.extend_from_slice(b"%22"),
            b'`' if !in_query => encoded.extend_from_slice(b"%60"),
            other => encoded.push(*other),
        }
    }
    encoded.push(b' ');
    encoded.extend_from_slice(version);
    encoded.extend_from_slice(rest);
    Some(encoded)
}

/// The parser's own refusal, an empty response that begins with `head`, with a body that gives the reason.
pub(crate) fn explain_refusal(head: &[u8]) -> Option<Vec<u8>> {
    let (status, message) = match head.get(..12)? {
        b"HTTP/1.1 400" | b"HTTP/1.0 400" => (
            "400 Bad Request",
            "The request is not well-formed: its request line or a header field holds what may not stand there. In a path or query, \
             percent-encode blanks, quotes, angle brackets and what is not UTF-8.",
        ),
        b"HTTP/1.1 414" | b"HTTP/1.0 414" => ("414 URI Too Long", "The request's target is too long."),
        b"HTTP/1.1 431" | b"HTTP/1.0 431" => (
            "431 Request Header Fields Too Large",
            "The request's head is too large, or has too many header fields (LIMIT_HEADER_BYTES).",
        ),
        _ => return None,
    };
    let body = serde_json::json!({ "error": "bad_request", "message": message }).to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
         x-content-type-options: nosniff\r\nreferrer-policy: same-origin\r\n\r\n",
        body.len()
    );
    Some([head, body].concat().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_parser_refuses_is_encoded() {
        let encoded = |target: &str| {
            let text = format!("GET {target} HTTP/1.1\r\nX: \"<`>\"\r\n\r\nbody<>");
            encode_signs(text.as_bytes()).map(|bytes| {
                let text = String::from_utf8(bytes).unwrap();
                assert!(text.ends_with(" HTTP/1.1\r\nX: \"<`>\"\r\n\r\nbody<>"), "{text}");
                text.split(' ').nth(1).unwrap().to_owned()
            })
        };
        assert_eq!(encoded("/a?q=\"x\"<b>").as_deref(), Some("/a?q=%22x%22%3Cb%3E"));
        assert_eq!(encoded("/<a>`\"{}|^?`{}|^").as_deref(), Some("/%3Ca%3E%60\"{}|^?`{}|^"));
        for untouched in ["/a?q=x", "/a%22?x=%3C", "http://h/?\"", "*", "<"] {
            assert_eq!(encoded(untouched), None, "{untouched}");
        }
        for no_request in
            ["GET /<", "GET /< HTTP/1.1", "PRI * HTTP/2.0\r\n\r\nSM<\r\n", "GET /< x HTTP/1.1\r\n", "<\r\n"]
        {
            assert_eq!(encode_signs(no_request.as_bytes()), None, "{no_request}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_encoded_can_be_read(target in "/[!-~]{0,40}") {
            let text = format!("GET {target} HTTP/1.1\r\n\r\n");
            let read = encode_signs(text.as_bytes()).unwrap_or_else(|| text.into_bytes());
            let line = String::from_utf8(read).unwrap();
            let target = line.split(' ').nth(1).unwrap();
            proptest::prop_assert!(target.parse::<http::uri::PathAndQuery>().is_ok(), "{}", target);
        }
    }

    #[test]
    fn only_a_refusal_is_explained() {
        let answer = String::from_utf8(explain_refusal(b"HTTP/1.1 400 Bad Request\r\n").unwrap()).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("\"error\":\"bad_request\""), "{answer}");
        assert!(explain_refusal(b"HTTP/1.1 200 OK\r\n").is_none() && explain_refusal(b"HTTP").is_none());
    }
}
