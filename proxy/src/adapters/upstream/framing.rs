//! The end of an HTTP/1.1 response's body (RFC 9112 §6, §7).

use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The longest line with a chunk's size, extensions included, in bytes.
const SIZE_LINE_MOST: usize = 4096;
/// The limit for all extensions of a body together, in bytes: they carry nothing, and cost time.
const EXTENSIONS_MOST: usize = 16 * 1024;
/// The limit for trailers, in bytes.
const TRAILERS_MOST: usize = 16 * 1024;
/// The most trailer fields.
const TRAILER_FIELDS_MOST: usize = 64;

/// Why a response cannot be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the upstream's answer is malformed: {0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// Decodes a body from received bytes.
#[derive(Debug)]
pub(super) struct Decoder(State);

#[derive(Debug)]
enum State {
    /// This many bytes are left.
    Length(u64),
    /// The body ends when the connection closes.
    UntilClosed,
    /// A chunk size comes next; `extensions` bytes of extensions have come so far.
    Size { extensions: usize },
    /// `left` bytes of a chunk are left.
    Chunk { left: u64, extensions: usize },
    /// The line break after a chunk comes next.
    ChunkEnd { extensions: usize },
    /// Trailers come next, or the empty line in their place.
    Trailers,
    /// The body has ended.
    Ended,
}

/// The next part of a body.
#[derive(Debug)]
pub(super) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    /// More bytes are needed.
    Wanting,
    /// The body has ended.
    End,
}

impl Decoder {
    pub(super) const fn length(length: u64) -> Self {
        Self(if length == 0 { State::Ended } else { State::Length(length) })
    }

    pub(super) const fn chunked() -> Self {
        Self(State::Size { extensions: 0 })
    }

    pub(super) const fn until_closed() -> Self {
        Self(State::UntilClosed)
    }

    /// How many bytes are left, if that is known.
    pub(super) const fn left(&self) -> Option<u64> {
        match self.0 {
            State::Length(left) => Some(left),
            State::Ended => Some(0),
            State::UntilClosed
            | State::Size { .. }
            | State::Chunk { .. }
            | State::ChunkEnd { .. }
            | State::Trailers => None,
        }
    }

    pub(super) const fn has_ended(&self) -> bool {
        matches!(self.0, State::Ended)
    }

    /// Notes that this many bytes of those that are [left](Self::left) went another way.
    pub(super) const fn pass(&mut self, bytes: u64) {
        if let State::Length(left) = &mut self.0 {
            *left = left.saturating_sub(bytes);
            if *left == 0 {
                self.0 = State::Ended;
            }
        }
    }

    /// Whether the body ends with the connection.
    pub(super) const fn ends_with_connection(&self) -> bool {
        matches!(self.0, State::UntilClosed)
    }

    /// Takes the next piece from `input`.
    pub(super) fn take(&mut self, input: &mut BytesMut) -> Result<Piece, Malformed> {
        loop {
            match &mut self.0 {
                State::Ended => return Ok(Piece::End),
                State::UntilClosed if input.is_empty() => return Ok(Piece::Wanting),
                State::UntilClosed => return Ok(Piece::Data(input.split().freeze())),
                State::Length(left) => {
                    let Some(data) = up_to(*left, input) else { return Ok(Piece::Wanting) };
                    *left -= data.len() as u64;
                    if *left == 0 {
                        self.0 = State::Ended;
                    }
                    return Ok(Piece::Data(data));
                }
                State::Size { extensions } => {
                    let Some(line) = line(input)? else { return Ok(Piece::Wanting) };
                    let (left, rest) = chunk_size(&line)?;
                    let extensions = *extensions + rest;
                    if extensions > EXTENSIONS_MOST {
                        return Err(Malformed("its chunks have too long extensions"));
                    }
                    self.0 = if left == 0 { State::Trailers } else { State::Chunk { left, extensions } };
                }
                State::Chunk { left, extensions } => {
                    let Some(data) = up_to(*left, input) else { return Ok(Piece::Wanting) };
                    *left -= data.len() as u64;
                    if *left == 0 {
                        self.0 = State::ChunkEnd { extensions: *extensions };
                    }
                    return Ok(Piece::Data(data));
                }
                State::ChunkEnd { extensions } => match input.get(..2) {
                    None if input.first().is_none_or(|b| *b == b'\r') => return Ok(Piece::Wanting),
                    Some(b"\r\n") => {
                        let _line_break = input.split_to(2);
                        self.0 = State::Size { extensions: *extensions };
                    }
                    None | Some(_) => return Err(Malformed("a chunk is longer than it says")),
                },
                State::Trailers => {
                    let Some(trailers) = trailers(input)? else { return Ok(Piece::Wanting) };
                    self.0 = State::Ended;
                    return Ok(if trailers.is_empty() { Piece::End } else { Piece::Trailers(trailers) });
                }
            }
        }
    }
}

fn up_to(left: u64, input: &mut BytesMut) -> Option<Bytes> {
    let here = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
    (here > 0).then(|| input.split_to(here).freeze())
}

/// Takes a whole line, without its line break.
fn line(input: &mut BytesMut) -> Result<Option<BytesMut>, Malformed> {
    match memchr::memchr(b'\n', input.get(..input.len().min(SIZE_LINE_MOST)).unwrap_or_default()) {
        None if input.len() >= SIZE_LINE_MOST => Err(Malformed("the size of a chunk takes too long a line")),
        None => Ok(None),
        Some(at) => {
            let mut line = input.split_to(at + 1);
            // Some recipients accept a bare line feed as the end of a line and others do not: never forward what two may parse differently.
            if !line.ends_with(b"\r\n") {
                return Err(Malformed("the size of a chunk ends in a bare line feed"));
            }
            line.truncate(line.len() - 2);
            Ok(Some(line))
        }
    }
}

/// Parses a chunk's size, and counts the bytes after it.
fn chunk_size(line: &[u8]) -> Result<(u64, usize), Malformed> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (size, rest) = line.split_at(digits);
    let extends = matches!(rest.trim_ascii_start().first(), None | Some(b';'));
    if !(1..=16).contains(&digits) || !extends || rest.contains(&b'\r') {
        return Err(Malformed("the size of a chunk is no number"));
    }
    let size = std::str::from_utf8(size).ok().and_then(|size| u64::from_str_radix(size, 16).ok());
    Ok((size.ok_or(Malformed("the size of a chunk is no number"))?, rest.len()))
}

/// Parses the trailers and the empty line after them; `None` while they are incomplete.
fn trailers(input: &mut BytesMut) -> Result<Option<HeaderMap>, Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; TRAILER_FIELDS_MOST];
    let (length, trailers) = match httparse::parse_headers(input, &mut fields) {
        Ok(httparse::Status::Partial) if input.len() <= TRAILERS_MOST => return Ok(None),
        Ok(httparse::Status::Complete((length, fields))) if length <= TRAILERS_MOST => {
            let mut trailers = HeaderMap::with_capacity(fields.len());
            for field in fields {
                let name = HeaderName::from_bytes(field.name.as_bytes());
                let value = HeaderValue::from_bytes(field.value);
                let (Ok(name), Ok(value)) = (name, value) else { return Err(Malformed("a trailer is no field")) };
                trailers.append(name, value);
            }
            (length, trailers)
        }
        Ok(httparse::Status::Partial | httparse::Status::Complete(_)) | Err(httparse::Error::TooManyHeaders) => {
            return Err(Malformed("its trailers are too long"));
        }
        Err(_) => return Err(Malformed("a trailer is no field")),
    };
    let _taken = input.split_to(length);
    Ok(Some(trailers))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Read = (Vec<u8>, Vec<String>, Vec<u8>);

    /// Decodes a body that arrives in pieces of the given sizes: returns its bytes, its trailers, and the rest.
    fn read(mut decoder: Decoder, text: &[u8], sizes: &[usize]) -> Result<Read, Malformed> {
        let (mut data, mut trailers, mut input, mut rest) = (Vec::new(), Vec::new(), BytesMut::new(), text);
        let mut sizes = sizes.iter().cycle();
        loop {
            match decoder.take(&mut input)? {
                Piece::Data(piece) => {
                    assert!(!piece.is_empty());
                    data.extend_from_slice(&piece);
                }
                Piece::Trailers(fields) => trailers.extend(fields.iter().map(|(name, _)| name.to_string())),
                Piece::End => return Ok((data, trailers, [&input[..], rest].concat())),
                Piece::Wanting if rest.is_empty() => return Err(Malformed("cut")),
                Piece::Wanting => {
                    let (now, later) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                    input.extend_from_slice(now);
                    rest = later;
                }
            }
        }
    }

    fn chunked(text: &str) -> Result<Read, Malformed> {
        read(Decoder::chunked(), text.as_bytes(), &[usize::MAX])
    }

    #[test]
    fn a_length_takes_so_many_bytes_and_no_more() {
        let (data, _, rest) = read(Decoder::length(5), b"hello more", &[usize::MAX]).unwrap();
        assert_eq!((&data[..], &rest[..]), (&b"hello"[..], &b" more"[..]));
        assert!(read(Decoder::length(5), b"hell", &[usize::MAX]).is_err());
    }

    #[test]
    fn chunks_end_with_an_empty_one() {
        let (data, trailers, rest) =
            chunked("5\r\nhello\r\n00A;x=\"y\"\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\nnext").unwrap();
        assert_eq!((&data[..], &rest[..]), (&b"hello0123456789"[..], &b"next"[..]));
        assert_eq!(trailers, ["x-sum"]);
        assert_eq!(chunked("0\r\n\r\nnext").unwrap().2, b"next");
    }

    #[test]
    fn chunks_with_two_readings_are_refused() {
        for text in [
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhell\r\n0\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "-5\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "\r\nhello\r\n0\r\n\r\n",
            "5 5\r\nhello\r\n0\r\n\r\n",
            "5\r;x\r\nhello\r\n0\r\n\r\n",
            "g\r\nhello\r\n0\r\n\r\n",
            "ffffffffffffffff0\r\nhello\r\n0\r\n\r\n",
            "00000000000000005\r\nhello\r\n0\r\n\r\n",
            "5\r\nhello\r\n0\r\nbad trailer\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r",
            "5\r\nhello\r\n0\r\n",
            "5\r\nhello\r\n",
        ] {
            assert!(chunked(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn lines_extensions_and_trailers_are_bounded() {
        assert!(chunked(&format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(SIZE_LINE_MOST))).is_err());
        let extended = format!("1;{}\r\nx\r\n", "x".repeat(1000));
        assert!(chunked(&format!("{}0\r\n\r\n", extended.repeat(10))).is_ok());
        assert!(chunked(&format!("{}0\r\n\r\n", extended.repeat(20))).is_err());
        assert!(chunked(&format!("0\r\nX: {}\r\n\r\n", "x".repeat(TRAILERS_MOST))).is_err());
        assert!(chunked(&format!("0\r\n{}\r\n", "X: 1\r\n".repeat(TRAILER_FIELDS_MOST + 1))).is_err());
        // An endless line is not buffered.
        assert_eq!(chunked(&"1".repeat(SIZE_LINE_MOST)), Err(Malformed("the size of a chunk takes too long a line")));
    }

    proptest! {
        #[test]
        fn a_chunked_body_reads_the_same_however_it_comes(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
            sizes in proptest::collection::vec(1_usize..12, 1..10),
        ) {
            let mut text = Vec::new();
            for body in &bodies {
                text.extend_from_slice(format!("{:X}\r\n", body.len()).as_bytes());
                text.extend_from_slice(body);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\nX-End: 1\r\n\r\nrest");
            let (data, trailers, rest) = read(Decoder::chunked(), &text, &sizes).unwrap();
            prop_assert_eq!(data, bodies.concat());
            prop_assert_eq!(trailers, ["x-end"]);
            prop_assert_eq!(&rest[..], b"rest");
        }

        #[test]
        fn noise_ends_or_is_refused(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _outcome = read(Decoder::chunked(), &noise, &[7]);
        }
    }
}
