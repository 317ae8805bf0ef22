//! Fuzz targets for upstream responses: heads and chunked bodies, which must parse the same however the bytes arrive.

use bytes::BytesMut;
use http::Method;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};

use super::framing::{Decoder, Piece};
use super::head::AnswerHead;

/// A response's bytes; the first one selects the request's method.
pub(crate) fn answers(bytes: &[u8]) {
    let Some((first, text)) = bytes.split_first() else { return };
    let method = if first % 4 == 0 { Method::HEAD } else { Method::GET };
    let at_once = head(&[text], &method);
    let (front, back) = text.split_at(text.len() * usize::from(*first) / 256);
    let in_two = head(&[front, back], &method);
    let shape = |read: &Result<Head, ()>| read.as_ref().ok().map(Option::is_some);
    assert_eq!(shape(&at_once), shape(&in_two), "it reads otherwise when it comes in two parts");
    if let (Ok(Some((head, rest))), Ok(Some((other, other_rest)))) = (at_once, in_two) {
        assert_eq!((head.status, &head.headers, head.keep_alive), (other.status, &other.headers, other.keep_alive));
        assert_eq!(rest, other_rest);
        assert!(head.headers.get_all(CONTENT_LENGTH).iter().count() <= 1, "two lengths");
        let coded = head.headers.contains_key(TRANSFER_ENCODING);
        assert!(!(coded && head.headers.contains_key(CONTENT_LENGTH)), "a coding and a length");
        if method == Method::HEAD || head.status.is_informational() {
            assert!(head.body.has_ended(), "a body where there is none");
        }
        let read = body(head.body, &rest, rest.len());
        assert!(read.data.len() <= rest.len());
    }
}

/// The bytes of a chunked body; the first one selects the size of the pieces in which they arrive.
pub(crate) fn chunks(bytes: &[u8]) {
    let Some((first, text)) = bytes.split_first() else { return };
    let at_once = body(Decoder::chunked(), text, text.len());
    let in_pieces = body(Decoder::chunked(), text, usize::from(*first) % 17 + 1);
    assert_eq!(at_once, in_pieces, "it reads otherwise when it comes in pieces");
    assert!(at_once.data.len() <= text.len());
}

type Head = Option<(AnswerHead, Vec<u8>)>;

/// Parses the head that arrives in these parts, and returns what follows it.
fn head(parts: &[&[u8]], asked: &Method) -> Result<Head, ()> {
    let (mut input, mut seen, mut found) = (BytesMut::new(), 0, None);
    for part in parts {
        input.extend_from_slice(part);
        if found.is_none() {
            found = AnswerHead::take(&mut input, &mut seen, asked).map_err(drop)?;
        }
    }
    Ok(found.map(|head| (head, input.to_vec())))
}

#[derive(Debug, PartialEq, Eq)]
struct Body {
    data: Vec<u8>,
    trailers: usize,
    outcome: Result<bool, &'static str>,
}

fn body(mut decoder: Decoder, text: &[u8], piece: usize) -> Body {
    let (mut input, mut read) = (BytesMut::new(), Body { data: Vec::new(), trailers: 0, outcome: Ok(false) });
    for part in text.chunks(piece.max(1)) {
        input.extend_from_slice(part);
        loop {
            match decoder.take(&mut input) {
                Ok(Piece::Data(data)) => {
                    assert!(!data.is_empty(), "an empty piece would be asked for without end");
                    read.data.extend_from_slice(&data);
                }
                Ok(Piece::Trailers(trailers)) => read.trailers = trailers.len(),
                Ok(Piece::Wanting) => break,
                Ok(Piece::End) => {
                    read.outcome = Ok(true);
                    return read;
                }
                Err(malformed) => {
                    read.outcome = Err(malformed.0);
                    return read;
                }
            }
        }
    }
    read
}
