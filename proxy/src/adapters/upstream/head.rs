//! HTTP/1.1 message heads: a request's is written as text, a response's is read into values.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{Method, StatusCode};
use hyper::ext::ReasonPhrase;
use memchr::memmem::Finder;

use super::framing::{Decoder, Malformed};
use crate::rendering::ReadyFields;

/// The longest head of a response, in bytes.
const HEAD_MOST: usize = 256 * 1024;
/// The most header fields of a response. `HEAD_MOST` is what bounds a head; this only keeps the table of its fields small.
const FIELDS_MOST: usize = 500;
/// Heads with up to this many fields are parsed on the stack.
const FIELDS_FEW: usize = 100;
/// Capacity reserved up front: the map of a response's fields is reused to read the client's next request.
const FIELDS_USUAL: usize = 24;
/// A larger map is not kept for the next response.
const FIELDS_KEPT: usize = 128;

thread_local! {
    /// The emptied map of an answered request, reused for the fields of the next response.
    static SPARE: Cell<HeaderMap> = Cell::new(HeaderMap::new());
}

/// Gives back the map of a request's fields, so that a response needs no new one.
pub fn recycle(mut headers: HeaderMap) {
    if headers.capacity() <= FIELDS_KEPT {
        headers.clear();
        SPARE.set(headers);
    }
}

/// A request's head, which can be written more than once: a request may have to be sent twice.
pub trait RequestHead {
    /// The method.
    fn method(&self) -> &Method;

    /// Path and query.
    fn target(&self) -> &str;

    /// Writes every header field except those that frame the body.
    fn write_fields(&self, fields: &mut impl Fields);

    /// Receives an interim response to the request: any 1xx but `101`.
    fn receive_interim(&self, status: StatusCode, headers: HeaderMap);
}

/// A sink for header fields.
pub trait Fields {
    /// Adds one field.
    fn field(&mut self, name: &HeaderName, value: &HeaderValue);

    /// Adds one field whose value we built from characters that are valid in a value.
    fn text(&mut self, name: &HeaderName, text: &[u8]) {
        if let Ok(value) = HeaderValue::from_bytes(text) {
            self.field(name, &value);
        }
    }

    /// Adds several fields.
    fn ready(&mut self, fields: &ReadyFields) {
        for (name, value) in fields.iter() {
            self.field(&name, &value);
        }
    }
}

impl Fields for HeaderMap {
    fn field(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.append(name, value.clone());
    }
}

/// Writes fields as text.
pub(super) struct Text<'t>(pub(super) &'t mut Vec<u8>);

impl Text<'_> {
    fn line(&mut self, name: &HeaderName, value: &[u8]) {
        let name = name.as_str().as_bytes();
        self.0.extend_from_slice(name);
        self.0.extend_from_slice(b": ");
        self.0.extend_from_slice(value);
        self.0.extend_from_slice(b"\r\n");
    }
}

impl Fields for Text<'_> {
    fn field(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.line(name, value.as_bytes());
    }

    fn text(&mut self, name: &HeaderName, text: &[u8]) {
        // The value must hold no line break.
        debug_assert!(HeaderValue::from_bytes(text).is_ok(), "{name}");
        self.line(name, text);
    }

    fn ready(&mut self, fields: &ReadyFields) {
        self.0.extend_from_slice(fields.text());
    }
}

/// How a request's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestFraming {
    /// No body, and no field that mentions one.
    Absent,
    /// A body of this many bytes.
    Length(u64),
    /// A body of unknown length.
    Chunked,
}

/// Writes a request's head. The types of names and values exclude line breaks.
pub(super) fn write(text: &mut Vec<u8>, head: &impl RequestHead, framing: RequestFraming) {
    text.extend_from_slice(head.method().as_str().as_bytes());
    text.push(b' ');
    text.extend_from_slice(head.target().as_bytes());
    text.extend_from_slice(b" HTTP/1.1\r\n");
    head.write_fields(&mut Text(text));
    match framing {
        RequestFraming::Absent => text.extend_from_slice(b"\r\n"),
        RequestFraming::Length(length) => {
            text.extend_from_slice(format!("content-length: {length}\r\n\r\n").as_bytes())
        }
        RequestFraming::Chunked => text.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n"),
    }
}

/// A response's head.
#[derive(Debug)]
pub(super) struct AnswerHead {
    pub(super) status: StatusCode,
    /// `Some` if it is not the status's usual phrase.
    pub(super) reason: Option<ReasonPhrase>,
    pub(super) headers: HeaderMap,
    pub(super) body: Decoder,
    pub(super) keep_alive: bool,
}

impl AnswerHead {
    /// Whether another response follows (RFC 9110 §15.2). `101` is the last HTTP message on a connection.
    pub(super) fn is_interim(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }

    /// Takes the head from the start of `input`; `None` while it is incomplete. `seen` is how much of `input` was searched before, so
    /// that a head that arrives byte by byte is not searched repeatedly.
    pub(super) fn take(input: &mut BytesMut, seen: &mut usize, asked: &Method) -> Result<Option<Self>, Malformed> {
        let Some(end) = end_of_head(input, *seen) else {
            *seen = input.len();
            return if input.len() > HEAD_MOST { Err(Malformed("its head is too long")) } else { Ok(None) };
        };
        *seen = 0;
        if end > HEAD_MOST {
            return Err(Malformed("its head is too long"));
        }
        Self::parse(&input.split_to(end).freeze(), asked).map(Some)
    }

    fn parse(text: &Bytes, asked: &Method) -> Result<Self, Malformed> {
        let mut few = [const { MaybeUninit::uninit() }; FIELDS_FEW];
        let mut many;
        let parser = httparse::ParserConfig::default();
        let mut parsed = httparse::Response::new(&mut []);
        let mut outcome = parser.parse_response_with_uninit_headers(&mut parsed, text, &mut few);
        if outcome == Err(httparse::Error::TooManyHeaders) {
            many = vec![MaybeUninit::uninit(); FIELDS_MOST];
            parsed = httparse::Response::new(&mut []);
            outcome = parser.parse_response_with_uninit_headers(&mut parsed, text, &mut many);
        }
        match outcome {
            Ok(httparse::Status::Complete(length)) if length == text.len() => {}
            Err(httparse::Error::TooManyHeaders) => return Err(Malformed("its head has more than 500 fields")),
            Ok(_) | Err(_) => return Err(Malformed("its head is not HTTP/1.1")),
        }
        let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or(Malformed("its status is none"))?;
        let reason = parsed.reason.filter(|reason| Some(*reason) != status.canonical_reason());
        let reason = reason.and_then(|reason| ReasonPhrase::try_from(text.slice_ref(reason.as_bytes())).ok());
        let http11 = parsed.version == Some(1);

        let mut headers = SPARE.take();
        headers.reserve(parsed.headers.len().max(FIELDS_USUAL));
        let (mut coded, mut closes, mut stays) = (false, false, http11);
        // How many fields give the length, and the value of a plain one.
        let (mut lengths, mut plain) = (0_usize, None);
        for field in parsed.headers.iter() {
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed("a field has no name"))?;
            let value = HeaderValue::from_maybe_shared(text.slice_ref(field.value));
            let value = value.map_err(|_| Malformed("a field's value holds what it may not"))?;
            if name == CONNECTION {
                closes |= has_token(&value, "close");
                stays |= has_token(&value, "keep-alive");
            } else if name == TRANSFER_ENCODING {
                // We accept no other coding, and an HTTP/1.0 server knows none (RFC 9112 §6.1).
                if coded || !http11 || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed("its transfer coding is not a single `chunked`"));
                }
                coded = true;
            } else if name == CONTENT_LENGTH {
                lengths += 1;
                plain = number(value.as_bytes());
            }
            headers.append(name, value);
        }
        let length = match (lengths, plain) {
            (0, _) => None,
            (1, Some(length)) => Some(length),
            _ => Some(content_length(&mut headers)?),
        };
        if coded {
            // With both, recipients may disagree: the transfer coding counts (RFC 9112 §6.3).
            headers.remove(CONTENT_LENGTH);
        }
        let bodiless = *asked == Method::HEAD
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let body = match length {
            _ if bodiless => Decoder::length(0),
            _ if coded => Decoder::chunked(),
            Some(length) => Decoder::length(length),
            None => Decoder::until_closed(),
        };
        // If a server sends a body where none is allowed, its bytes would look like the next response.
        let tempts = *asked == Method::HEAD
            || (bodiless && coded)
            || (matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT)
                && length.is_some_and(|length| length > 0));
        Ok(Self { status, reason, headers, body, keep_alive: stays && !closes && !tempts })
    }
}

/// The end of the head at the start of `text`: after its first empty line.
fn end_of_head(text: &[u8], seen: usize) -> Option<usize> {
    static USUAL: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\n\r\n"));
    static BARE: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\n\n"));
    let from = seen.saturating_sub(3);
    let text = text.get(from..)?;
    let usual = USUAL.find(text).map(|at| at + 3);
    let before = usual.map_or(text, |end| text.get(..end).unwrap_or_default());
    let bare = BARE.find(before).map(|at| at + 2);
    bare.or(usual).map(|end| from + end)
}

/// The one length that all fields give (RFC 9110 §8.6); afterwards a single field holds it as a plain number.
fn content_length(headers: &mut HeaderMap) -> Result<u64, Malformed> {
    let mut said = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for item in value.as_bytes().split(|b| *b == b',') {
            let length = number(item.trim_ascii()).ok_or(Malformed("its Content-Length is no number"))?;
            if *said.get_or_insert(length) != length {
                return Err(Malformed("its Content-Length is two numbers"));
            }
        }
    }
    let length = said.ok_or(Malformed("its Content-Length is no number"))?;
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    Ok(length)
}

/// Parses a number of plain digits.
fn number(digits: &[u8]) -> Option<u64> {
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0_u64, |number, digit| {
            let unit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
            number.checked_mul(10)?.checked_add(unit)
        })
    };
    if digits.is_empty() { None } else { number(digits) }
}

fn has_token(value: &HeaderValue, token: &str) -> bool {
    value.as_bytes().split(|b| *b == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn take(text: &[u8], asked: &Method) -> Result<Option<AnswerHead>, Malformed> {
        AnswerHead::take(&mut BytesMut::from(text), &mut 0, asked)
    }

    fn head(fields: &str) -> AnswerHead {
        take(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes(), &Method::GET).unwrap().unwrap()
    }

    #[test]
    fn a_body_is_framed_by_what_the_head_says() {
        assert_eq!(head("Content-Length: 5\r\n").body.left(), Some(5));
        assert_eq!(head("Content-Length: 0\r\n").body.left(), Some(0));
        assert!(head("").body.ends_with_connection());
        let chunked = head("Transfer-Encoding: Chunked\r\n").body;
        assert!(chunked.left().is_none() && !chunked.ends_with_connection());
        for (status, method) in [("204 No Content", "GET"), ("304 Not Modified", "GET"), ("200 OK", "HEAD")] {
            let text = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n");
            let head = take(text.as_bytes(), &Method::from_bytes(method.as_bytes()).unwrap()).unwrap().unwrap();
            assert!(head.body.has_ended(), "{status} {method}");
        }
    }

    #[test]
    fn nothing_is_left_of_what_a_map_held_before() {
        let mut request = HeaderMap::new();
        for value in ["a", "b"] {
            request.append("cookie", HeaderValue::from_static(value));
        }
        recycle(request);
        let headers = head("X-A: 1\r\n").headers;
        assert_eq!(headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["x-a"]);
    }

    #[test]
    fn two_lengths_are_one_or_none() {
        for same in
            ["Content-Length: 5\r\nContent-Length: 5\r\n", "Content-Length: 5, 5\r\n", "Content-Length:  5 \r\n"]
        {
            let head = head(same);
            assert_eq!((head.body.left(), &head.headers["content-length"]), (Some(5), &"5".parse().unwrap()), "{same}");
            assert_eq!(head.headers.get_all("content-length").iter().count(), 1);
        }
        let both = head("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n");
        assert!(both.body.left().is_none() && !both.headers.contains_key("content-length"));
    }

    #[test]
    fn what_has_two_readings_is_refused() {
        for fields in [
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 5, 6\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 5x\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length:\r\n",
            "Content-Length: 5,\r\n",
            "Content-Length: 18446744073709551616\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: \r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding : chunked\r\n",
            "Content-Length : 5\r\n",
            " Content-Length: 5\r\n",
            "X: a\r\n b\r\n",
            "X: a\0b\r\n",
            "X: a\rb\r\n",
            "no colon\r\n",
            ": no name\r\n",
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            assert!(take(text.as_bytes(), &Method::GET).is_err(), "{fields:?}");
        }
        for text in [
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 099 No\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1  200 OK\r\n\r\n",
            "ICY 200 OK\r\n\r\n",
            "\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            "<html>\n\n",
        ] {
            assert!(take(text.as_bytes(), &Method::GET).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_connection_stays_unless_either_says_otherwise() {
        let stays = |text: &str| take(text.as_bytes(), &Method::GET).unwrap().unwrap().keep_alive;
        assert!(stays("HTTP/1.1 200 OK\r\n\r\n"));
        assert!(!stays("HTTP/1.1 200 OK\r\nConnection: keep-alive, CLOSE\r\n\r\n"));
        assert!(!stays("HTTP/1.1 200 OK\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n"));
        assert!(!stays("HTTP/1.0 200 OK\r\n\r\n"));
        assert!(stays("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n\r\n"));
    }

    #[test]
    fn a_connection_does_not_stay_where_a_body_may_follow_that_must_not() {
        let stays = |text: &str, method: Method| take(text.as_bytes(), &method).unwrap().unwrap().keep_alive;
        assert!(!stays("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Method::HEAD));
        assert!(!stays("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", Method::GET));
        assert!(!stays("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", Method::GET));
        assert!(!stays("HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", Method::GET));
        assert!(stays("HTTP/1.1 204 No Content\r\n\r\n", Method::GET));
        assert!(
            stays("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Method::GET),
            "the length that GET had"
        );
    }

    #[test]
    fn heads_are_bounded() {
        let mut long = BytesMut::from(&b"HTTP/1.1 200 OK\r\nX: "[..]);
        long.resize(HEAD_MOST + 1, b'x');
        assert!(AnswerHead::take(&mut long, &mut 0, &Method::GET).is_err());
        for fields in [FIELDS_FEW - 1, FIELDS_FEW, FIELDS_FEW + 1, FIELDS_MOST] {
            assert_eq!(head(&"X: 1\r\n".repeat(fields)).headers.len(), fields);
        }
        let many = "X: 1\r\n".repeat(FIELDS_MOST + 1);
        assert!(take(format!("HTTP/1.1 200 OK\r\n{many}\r\n").as_bytes(), &Method::GET).is_err());
    }

    #[test]
    fn only_an_unusual_reason_is_kept() {
        assert!(head("").reason.is_none());
        let odd = take(b"HTTP/1.1 200 Fine\r\n\r\n", &Method::GET).unwrap().unwrap();
        assert_eq!(odd.reason.unwrap().as_bytes(), b"Fine");
    }

    proptest! {
        #[test]
        fn a_head_ends_behind_its_first_empty_line(text in "[\r\na]{0,80}", seen in 0_usize..80) {
            let text = text.as_bytes();
            let ends = |at: usize| text[..at].ends_with(b"\n\n") || text[..at].ends_with(b"\n\r\n");
            prop_assert_eq!(end_of_head(text, 0), (0..=text.len()).find(|at| ends(*at)));
            // The part searched before holds no end.
            let seen = seen.min(text.len());
            if !(0..=seen).any(ends) {
                prop_assert_eq!(end_of_head(text, seen), end_of_head(text, 0));
            }
        }

        #[test]
        fn a_head_reads_the_same_however_it_comes(cuts in proptest::collection::vec(1_usize..20, 1..30)) {
            let text = b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\nX-A: 1\r\nX-A: 2\r\n\r\nabc";
            let (mut input, mut seen, mut rest) = (BytesMut::new(), 0, &text[..]);
            let mut cuts = cuts.into_iter().cycle();
            let head = loop {
                let (now, later) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                input.extend_from_slice(now);
                rest = later;
                if let Some(head) = AnswerHead::take(&mut input, &mut seen, &Method::GET).unwrap() {
                    break head;
                }
            };
            input.extend_from_slice(rest);
            prop_assert_eq!(head.status, 404);
            prop_assert_eq!(head.headers.get_all("x-a").iter().count(), 2);
            prop_assert_eq!(&input[..], b"abc");
        }

        #[test]
        fn noise_is_no_head_and_no_panic(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _outcome = take(&noise, &Method::GET);
            let _outcome = take(&[b"HTTP/1.1 200 OK\r\n", &noise[..], b"\r\n\r\n"].concat(), &Method::GET);
        }
    }
}
