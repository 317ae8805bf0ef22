//! The steps in which servers differ when they interpret a path.

/// A transformation of paths that some servers do, and others do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Percent-decode everything.
    Decode,
    /// Percent-decode everything but slashes (Java's servers, and routers that match before decoding).
    DecodeButSlashes,
    /// Remove dot segments (RFC 3986 §5.2.4).
    DotSegments,
    /// Remove dot segments, with `%2e` as a dot (WHATWG URL).
    EncodedDotSegments,
    /// Merge slashes.
    Slashes,
    /// Treat a backslash as a slash.
    Backslashes,
    /// Cut each segment at `;` (Java's path parameters).
    Parameters,
    /// Cut the path at `?`.
    Query,
    /// Cut the path at `#`.
    Fragment,
    /// Cut the path at NUL, as a file system does.
    Nul,
    /// Drop a trailing slash of the path.
    SlashAtEnd,
    /// Drop trailing dots of each segment (Windows).
    DotsAtEnd,
    /// Drop trailing blanks of each segment (Windows).
    BlanksAtEnd,
    /// Decode overlong UTF-8 to the character that it hides.
    Overlong,
    /// Decode `%uXXXX` as a character (the `escape` of early JavaScript; Jetty if configured to be lenient).
    Unicode,
    /// Treat the text between two leading slashes and the next one as a host (RFC 3986 §4.2).
    Authority,
    /// The same, with any number of slashes before the host (WHATWG URL).
    AuthorityBehindSlashes,
}

impl Step {
    /// All of them.
    pub(super) const ALL: [Self; 17] = [
        Self::Decode,
        Self::DecodeButSlashes,
        Self::DotSegments,
        Self::EncodedDotSegments,
        Self::Slashes,
        Self::Backslashes,
        Self::Parameters,
        Self::Query,
        Self::Fragment,
        Self::Nul,
        Self::SlashAtEnd,
        Self::DotsAtEnd,
        Self::BlanksAtEnd,
        Self::Overlong,
        Self::Unicode,
        Self::Authority,
        Self::AuthorityBehindSlashes,
    ];

    /// Whether it removes one level of percent-encoding: that is limited.
    pub(super) const fn decodes(self) -> bool {
        matches!(self, Self::Decode | Self::DecodeButSlashes)
    }

    /// The path after this step; `None` if nothing changes.
    pub(super) fn take(self, path: &[u8]) -> Option<Vec<u8>> {
        let changed = match self {
            Self::Decode => path.contains(&b'%').then(|| decode(path, true))?,
            Self::DecodeButSlashes => path.contains(&b'%').then(|| decode(path, false))?,
            Self::DotSegments => without_dot_segments(path, |segment| segment)?,
            Self::EncodedDotSegments => path.contains(&b'%').then(|| without_encoded_dot_segments(path))??,
            Self::Slashes => merge_slashes(path)?,
            Self::Backslashes => {
                path.contains(&b'\\').then(|| path.iter().map(|b| if *b == b'\\' { b'/' } else { *b }).collect())?
            }
            Self::Parameters => path.contains(&b';').then(|| each_segment(path, |segment| cut(segment, b';')))?,
            Self::Query => path.contains(&b'?').then(|| cut(path, b'?').to_vec())?,
            Self::Fragment => path.contains(&b'#').then(|| cut(path, b'#').to_vec())?,
            Self::Nul => path.contains(&0).then(|| cut(path, 0).to_vec())?,
            Self::SlashAtEnd => path.strip_suffix(b"/").filter(|rest| !rest.is_empty())?.to_vec(),
            Self::DotsAtEnd => {
                path.contains(&b'.').then(|| each_segment(path, |segment| trim_end(segment, |b| b == b'.')))?
            }
            Self::BlanksAtEnd => {
                let blank = |b: u8| b == b' ' || (b'\t'..=b'\r').contains(&b);
                path.iter().any(|b| blank(*b)).then(|| each_segment(path, |segment| trim_end(segment, blank)))?
            }
            Self::Overlong => path.iter().any(|b| *b >= 0xc0).then(|| reveal_overlong(path))?,
            Self::Unicode => path.contains(&b'%').then(|| decode_unicode(path))?,
            Self::Authority => without_authority(path.strip_prefix(b"//")?),
            Self::AuthorityBehindSlashes => {
                let host = path.strip_prefix(b"//")?.iter().position(|b| *b != b'/')?;
                without_authority(path.get(host + 2..)?)
            }
        };
        (changed != path).then_some(changed)
    }
}

/// Decodes the two hexadecimal digits at the start; returns the byte, and the rest.
pub(super) fn encoded_byte(digits: &[u8]) -> Option<(u8, &[u8])> {
    let ([high, low], rest) = digits.split_first_chunk::<2>()?;
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    Some((value(*high)? << 4 | value(*low)?, rest))
}

fn decode(path: &[u8], slashes_too: bool) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match encoded_byte(after).filter(|(byte, _)| first == b'%' && (slashes_too || *byte != b'/')) {
            Some((byte, after)) => {
                decoded.push(byte);
                rest = after;
            }
            None => decoded.push(first),
        }
    }
    decoded
}

/// The text before the first `sign`.
fn cut(text: &[u8], sign: u8) -> &[u8] {
    text.split(|b| *b == sign).next().unwrap_or_default()
}

fn trim_end(mut text: &[u8], odd: impl Fn(u8) -> bool) -> &[u8] {
    while let Some((last, rest)) = text.split_last().filter(|(last, _)| odd(**last)) {
        let _ = last;
        text = rest;
    }
    text
}

fn each_segment(path: &[u8], change: impl for<'s> Fn(&'s [u8]) -> &'s [u8]) -> Vec<u8> {
    let mut changed = Vec::with_capacity(path.len());
    for (at, segment) in path.split(|b| *b == b'/').enumerate() {
        if at > 0 {
            changed.push(b'/');
        }
        changed.extend_from_slice(change(segment));
    }
    changed
}

fn merge_slashes(path: &[u8]) -> Option<Vec<u8>> {
    path.windows(2).any(|pair| pair == b"//").then(|| {
        let mut merged = path.to_vec();
        merged.dedup_by(|b, a| *a == b'/' && *b == b'/');
        merged
    })
}

/// Removes dot segments; `plain` gives a segment's effective text. Empty segments count: `/a//..` is `/a/`.
fn without_dot_segments<'p>(path: &'p [u8], plain: impl Fn(&'p [u8]) -> &'p [u8]) -> Option<Vec<u8>> {
    let rest = path.strip_prefix(b"/")?;
    let is_dots = |segment: &'p [u8]| matches!(plain(segment), b"." | b"..");
    if !rest.split(|b| *b == b'/').any(is_dots) {
        return None;
    }
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut ends_in_dots = false;
    for segment in rest.split(|b| *b == b'/') {
        ends_in_dots = is_dots(segment);
        match plain(segment) {
            b"." => {}
            b".." => {
                kept.pop();
            }
            _ => kept.push(segment),
        }
    }
    let mut left = Vec::with_capacity(path.len());
    for segment in &kept {
        left.push(b'/');
        left.extend_from_slice(segment);
    }
    if ends_in_dots || kept.is_empty() {
        left.push(b'/');
    }
    Some(left)
}

fn without_encoded_dot_segments(path: &[u8]) -> Option<Vec<u8>> {
    without_dot_segments(path, |segment| {
        let dot = |text: &'_ [u8]| text == b"." || text.eq_ignore_ascii_case(b"%2e");
        if dot(segment) {
            return b".";
        }
        let two = (1..segment.len()).any(|at| segment.split_at_checked(at).is_some_and(|(a, b)| dot(a) && dot(b)));
        if two && segment.len() <= 6 { b".." } else { segment }
    })
}

/// Replaces every overlong UTF-8 form, up to six bytes as in RFC 2279, by the character's shortest form.
fn reveal_overlong(path: &[u8]) -> Vec<u8> {
    let mut revealed = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match overlong(first, after) {
            Some((hidden, after)) => {
                revealed.extend_from_slice(hidden.encode_utf8(&mut [0; 4]).as_bytes());
                rest = after;
            }
            None => revealed.push(first),
        }
    }
    revealed
}

fn overlong(first: u8, after: &[u8]) -> Option<(char, &[u8])> {
    // How many bytes follow, the significant bits of the first one, and the smallest character that needs this length.
    let (more, bits, least) = match first {
        0xc0..=0xdf => (1, 0x1f, 0x80),
        0xe0..=0xef => (2, 0x0f, 0x800),
        0xf0..=0xf7 => (3, 0x07, 0x1_0000),
        0xf8..=0xfb => (4, 0x03, 0x20_0000),
        0xfc..=0xfd => (5, 0x01, 0x400_0000),
        _ => return None,
    };
    let (next, rest) = after.split_at_checked(more)?;
    let mut value = u32::from(first & bits);
    for byte in next {
        if byte & 0xc0 != 0x80 {
            return None;
        }
        value = value << 6 | u32::from(byte & 0x3f);
    }
    (value < least).then_some(())?;
    Some((char::from_u32(value)?, rest))
}

/// Decodes `%uXXXX`; half a surrogate pair stays as it is.
fn decode_unicode(path: &[u8]) -> Vec<u8> {
    let character = |after: &[u8]| {
        let (digits, _) = after.strip_prefix(b"u").or_else(|| after.strip_prefix(b"U"))?.split_first_chunk::<4>()?;
        let ((high, _), (low, _)) = (encoded_byte(digits)?, encoded_byte(digits.get(2..)?)?);
        char::from_u32(u32::from(high) << 8 | u32::from(low))
    };
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match character(after).filter(|_| first == b'%') {
            Some(character) => {
                decoded.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                rest = after.get(5..).unwrap_or_default();
            }
            None => decoded.push(first),
        }
    }
    decoded
}

/// The part after a host, which may be empty.
fn without_authority(behind_slashes: &[u8]) -> Vec<u8> {
    let at = behind_slashes.iter().position(|b| *b == b'/');
    at.and_then(|at| behind_slashes.get(at..)).unwrap_or(b"/").to_vec()
}
