//! The ids of a request and its trace.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::adapters::upstream::Fields;

static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The ids of a request and its trace: the client's if well-formed, else ours.
pub(crate) struct Trace {
    /// The request's id in the log and in our responses.
    pub(crate) request_id: RequestId,
    /// The `traceparent` with which we begin a trace; `None`: the head has the client's.
    parent: Option<[u8; 55]>,
}

/// A request's id.
#[derive(Clone)]
pub(crate) enum RequestId {
    /// The client's; it stays in the head.
    Theirs(HeaderValue),
    /// Ours, as hexadecimal digits.
    Ours([u8; 32]),
}

impl RequestId {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Theirs(value) => value.to_str().unwrap_or_default(),
            Self::Ours(digits) => std::str::from_utf8(digits).unwrap_or_default(),
        }
    }
}

impl Trace {
    /// Reads both ids from a head, and removes those that are not well-formed.
    pub(crate) fn of(headers: &mut HeaderMap) -> Self {
        let request_id = match only_good(headers, &X_REQUEST_ID, is_request_id) {
            Some(value) => RequestId::Theirs(value.clone()),
            None => RequestId::Ours(hex(fastrand::u128(1..).to_be_bytes())),
        };
        let parent = only_good(headers, &TRACEPARENT, is_traceparent).is_none().then(new_traceparent);
        Self { request_id, parent }
    }

    /// Writes the ids that the head does not have.
    pub(crate) fn write_fields(&self, fields: &mut impl Fields) {
        if let RequestId::Ours(digits) = &self.request_id {
            fields.text(&X_REQUEST_ID, digits);
        }
        if let Some(parent) = &self.parent {
            fields.text(&TRACEPARENT, parent);
        }
    }
}

/// The single valid value of a field; otherwise the field is removed.
fn only_good<'h>(
    headers: &'h mut HeaderMap,
    name: &HeaderName,
    is_good: fn(&HeaderValue) -> bool,
) -> Option<&'h HeaderValue> {
    if !is_good(headers.get(name)?) || headers.get_all(name).iter().nth(1).is_some() {
        headers.remove(name);
        return None;
    }
    headers.get(name)
}

fn is_request_id(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    let fits = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'/' | b'+' | b'=');
    (1..=128).contains(&bytes.len()) && bytes.iter().all(fits)
}

fn new_traceparent() -> [u8; 55] {
    let (trace, parent) =
        (hex::<16, 32>(fastrand::u128(1..).to_be_bytes()), hex::<8, 16>(fastrand::u64(1..).to_be_bytes()));
    let mut text = *b"00-                                -                -01";
    text[3..35].copy_from_slice(&trace);
    text[36..52].copy_from_slice(&parent);
    text
}

fn hex<const BYTES: usize, const DIGITS: usize>(number: [u8; BYTES]) -> [u8; DIGITS] {
    let digit = |value: u8| value + b'0' + u8::from(value > 9) * (b'a' - b'0' - 10);
    let mut digits = [0; DIGITS];
    for (pair, byte) in digits.as_chunks_mut().0.iter_mut().zip(number) {
        *pair = [digit(byte >> 4), digit(byte & 15)];
    }
    digits
}

/// W3C Trace Context §3.2: version 00, lower-case hexadecimal, ids that are not all zero.
fn is_traceparent(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    let parts: Vec<&str> = text.split('-').collect();
    let [version, trace, parent, flags] = parts.as_slice() else { return false };
    let hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let some = |part: &str| part.bytes().any(|b| b != b'0');
    hex(version, 2)
        && *version == "00"
        && hex(trace, 32)
        && some(trace)
        && hex(parent, 16)
        && some(parent)
        && hex(flags, 2)
}

#[cfg(test)]
mod tests {
    use http::Version;

    use super::super::tests::head;
    use super::*;

    #[test]
    fn request_ids_are_kept_if_well_formed_and_else_made() {
        let made = |id: &str, trace: &str| {
            let mut headers = head(Version::HTTP_11, "/", &[("x-request-id", id), ("traceparent", trace)]).headers;
            let said = Trace::of(&mut headers);
            said.write_fields(&mut headers);
            assert_eq!(said.request_id.as_str(), headers["x-request-id"]);
            assert_eq!(headers.len(), 2);
            (headers["x-request-id"].clone(), headers["traceparent"].clone())
        };
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(made("abc-1", good), (HeaderValue::from_static("abc-1"), HeaderValue::from_static(good)));
        let (id, trace) = made("a b", "00-00000000000000000000000000000000-00f067aa0ba902b7-01");
        assert!(id.len() == 32 && id.as_bytes().iter().all(u8::is_ascii_hexdigit));
        assert!(is_traceparent(&trace) && trace != good);
    }
}
