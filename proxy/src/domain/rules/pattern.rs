//! Path patterns: `*` within a segment, `**` for whole segments, everything else literal.

use std::borrow::Cow;

use thiserror::Error;

use crate::domain::readings::without_case;

/// The paths that a rule applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    written: String,
    pieces: Vec<Piece>,
}

/// A piece of a pattern: it matches one segment of a path, or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Exactly that segment.
    Literal(String),
    /// `*`: any one segment.
    Any,
    /// A segment with `*` in it: the texts between the stars.
    Glob(Glob),
    /// `**`: any number of segments, or none.
    Deep,
}

/// The texts between the stars of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    first: String,
    between: Vec<String>,
    last: String,
}

/// Why a pattern could match no path, or not the intended ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadPattern {
    /// It does not begin with a slash.
    #[error("does not begin with `/`, so no path matches it")]
    NoSlash,
    /// `**` within a segment.
    #[error("has `**` within a segment: `**` stands for whole segments, so write `/**/` or, within a segment, `*`")]
    DeepWithin,
    /// A query or a fragment.
    #[error("holds `?` or `#`: a rule looks at the path alone")]
    Query,
    /// `.` or `..` as a segment.
    #[error("has a segment `.` or `..`, which no resource has: write the path that is meant")]
    Dots,
    /// Two slashes.
    #[error("has two slashes one after the other: write one")]
    TwoSlashes,
    /// A backslash or a control character.
    #[error("holds a backslash or a control character: segments are parted by `/`")]
    Odd,
    /// A percent sign that encodes nothing, or a character that needs no encoding.
    #[error("percent-encodes what needs no encoding, or encodes nothing: write the characters themselves")]
    Encoding,
}

impl PathPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`BadPattern`]: it could match no path, or not the intended ones.
    pub fn parse(text: &str) -> Result<Self, BadPattern> {
        let inner = text.strip_prefix('/').ok_or(BadPattern::NoSlash)?;
        if text.contains(['?', '#']) {
            return Err(BadPattern::Query);
        }
        if text.contains("//") {
            return Err(BadPattern::TwoSlashes);
        }
        if text.contains(|c: char| c == '\\' || c.is_control()) {
            return Err(BadPattern::Odd);
        }
        let plain = decode_what_must_be_encoded(inner);
        if plain.contains('%') {
            return Err(BadPattern::Encoding);
        }
        let mut pieces: Vec<Piece> = Vec::new();
        for segment in plain.split('/') {
            let piece = match segment {
                "." | ".." => return Err(BadPattern::Dots),
                "*" => Piece::Any,
                "**" => Piece::Deep,
                deep if deep.contains("**") => return Err(BadPattern::DeepWithin),
                glob if glob.contains('*') => Piece::Glob(Glob::of(glob)),
                literal => Piece::Literal(literal.to_owned()),
            };
            // `**/**` is equivalent to `**`.
            if piece != Piece::Deep || pieces.last() != Some(&Piece::Deep) {
                pieces.push(piece);
            }
        }
        Ok(Self { written: text.to_owned(), pieces })
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// Whether it seems to be a regular expression or a pattern of another program, whose signs count as themselves here.
    #[must_use]
    pub fn looks_like_another_syntax(&self) -> bool {
        let between =
            |open: char, close: char| self.written.split_once(open)?.1.split_once(close).map(|(inner, _)| inner);
        // With `**` the pattern is one of ours, and `.*` is any name that begins with a dot.
        let is_ours = self.pieces.contains(&Piece::Deep);
        // A `$` within a segment is no regular expression: OData has `/$metadata`.
        let is_foreign = |segment: &str| {
            (segment == ".*" && !is_ours) || segment == ".+" || segment.starts_with(':') || segment.ends_with('$')
        };
        self.written.split('/').any(is_foreign)
            || [('{', '}'), ('[', ']'), ('<', '>')].into_iter().any(|(open, close)| between(open, close).is_some())
            // Parentheses need no encoding, and stand in real paths: `/wiki/Mercury_(planet)`.
            || between('(', ')').is_some_and(|inner| inner.contains('|') || inner.starts_with("?:") || [".*", ".+"].contains(&inner))
    }

    /// Its pieces; ignoring case if `folds`.
    #[must_use]
    pub fn pieces(&self, folds: bool) -> Vec<Piece> {
        if folds { self.folded(fold) } else { self.pieces.clone() }
    }

    fn folded(&self, by: fn(&str) -> String) -> Vec<Piece> {
        self.pieces.iter().map(|piece| piece.folded(by)).collect()
    }

    /// Whether it matches a path letter by letter, ignoring case: `ß` is not `ss`, nor `ﬁ` `fi`, for which [`fold`] takes them. `path`,
    /// whose characters that must be encoded are decoded, is known to match by [`fold`].
    #[must_use]
    pub(super) fn matches_by_letters(&self, path: &str) -> bool {
        // In ASCII both ways are one.
        if path.is_ascii() && self.pieces.iter().all(Piece::is_ascii) {
            return true;
        }
        let Some(inner) = path.strip_prefix('/') else { return false };
        let segments: Vec<Piece> = inner.split('/').map(|segment| Piece::Literal(fold_letters(segment))).collect();
        covers(&self.folded(fold_letters), &segments)
    }

    /// Whether it can match only paths that are `prefix` or below it. `prefix` begins with a slash and does not end with one.
    #[must_use]
    pub fn is_below(&self, prefix: &str) -> bool {
        let mut pieces = self.pieces.iter();
        prefix.split('/').skip(1).all(|segment| matches!(pieces.next(), Some(Piece::Literal(text)) if text == segment))
    }

    /// Whether some path matches both. May return true in hard cases.
    #[must_use]
    pub fn overlaps(&self, folds: bool, other: &Self, other_folds: bool) -> bool {
        let folds = folds || other_folds;
        overlap(&self.pieces(folds), &other.pieces(folds))
    }

    /// Whether it matches every path that `other` matches. May return false in hard cases.
    #[must_use]
    pub fn covers(&self, folds: bool, other: &Self, other_folds: bool) -> bool {
        // Nearly all pairs of rules differ here already.
        if let (false, false, Some(Piece::Literal(mine)), Some(Piece::Literal(theirs))) =
            (folds, other_folds, self.pieces.first(), other.pieces.first())
            && mine != theirs
        {
            return false;
        }
        let (mine, theirs) = (self.pieces(folds), other.pieces(folds || other_folds));
        // If only the other one ignores case, it matches more than its letters.
        if other_folds && !folds && mine.iter().any(|piece| piece.has_letters()) {
            return false;
        }
        covers(&mine, &theirs)
    }
}

/// Computed with one row for each of `mine`: whether the pieces from there on cover those of `theirs` from each place on.
fn covers(mine: &[Piece], theirs: &[Piece]) -> bool {
    let places = theirs.len() + 1;
    // None of mine is left: it covers only an empty rest of theirs.
    let mut below: Vec<bool> = (0..places).map(|at| at == theirs.len()).collect();
    for piece in mine.iter().rev() {
        let mut row = vec![false; places];
        for at in (0..places).rev() {
            let (stays, moves) = (below.get(at) == Some(&true), below.get(at + 1) == Some(&true));
            let covered = match (piece, theirs.get(at)) {
                (Piece::Deep, Some(_)) => stays || row.get(at + 1) == Some(&true),
                (Piece::Deep, None) => stays,
                (_, None | Some(Piece::Deep)) => false,
                (Piece::Any, Some(_)) => moves,
                (Piece::Literal(_), Some(other)) => moves && piece == other,
                (Piece::Glob(glob), Some(Piece::Literal(text))) => moves && glob.matches(text),
                (Piece::Glob(_), Some(other)) => moves && piece == other,
            };
            if let Some(cell) = row.get_mut(at) {
                *cell = covered;
            }
        }
        below = row;
    }
    below.first() == Some(&true)
}

/// Computed with one row for each of `mine`: whether the pieces from there on and those of `theirs` from each place on match a common path.
fn overlap(mine: &[Piece], theirs: &[Piece]) -> bool {
    let places = theirs.len() + 1;
    let only_deep = |pieces: &[Piece]| pieces.iter().all(|piece| *piece == Piece::Deep);
    let mut below: Vec<bool> = (0..places).map(|at| only_deep(theirs.get(at..).unwrap_or_default())).collect();
    for piece in mine.iter().rev() {
        let mut row = vec![false; places];
        for at in (0..places).rev() {
            let (stays, moves) = (below.get(at) == Some(&true), below.get(at + 1) == Some(&true));
            let next = row.get(at + 1) == Some(&true);
            let both = match (piece, theirs.get(at)) {
                // It matches nothing, or takes a segment of the other pattern.
                (Piece::Deep, Some(_)) => stays || next,
                (Piece::Deep, None) => stays,
                (_, Some(Piece::Deep)) => next || stays,
                (_, None) => false,
                (Piece::Literal(mine), Some(Piece::Literal(theirs))) => moves && mine == theirs,
                (Piece::Literal(text), Some(Piece::Glob(glob))) | (Piece::Glob(glob), Some(Piece::Literal(text))) => {
                    moves && glob.matches(text)
                }
                (Piece::Any | Piece::Glob(_), Some(_)) | (Piece::Literal(_), Some(Piece::Any)) => moves,
            };
            if let Some(cell) = row.get_mut(at) {
                *cell = both;
            }
        }
        below = row;
    }
    below.first() == Some(&true)
}

impl Piece {
    fn folded(&self, by: fn(&str) -> String) -> Self {
        match self {
            Self::Literal(text) => Self::Literal(by(text)),
            Self::Glob(glob) => Self::Glob(Glob {
                first: by(&glob.first),
                between: glob.between.iter().map(|text| by(text)).collect(),
                last: by(&glob.last),
            }),
            Self::Any => Self::Any,
            Self::Deep => Self::Deep,
        }
    }

    fn is_ascii(&self) -> bool {
        match self {
            Self::Literal(text) => text.is_ascii(),
            Self::Glob(Glob { first, between, last }) => {
                first.is_ascii() && last.is_ascii() && between.iter().all(|text| text.is_ascii())
            }
            Self::Any | Self::Deep => true,
        }
    }

    fn has_letters(&self) -> bool {
        let has = |text: &str| text.chars().any(char::is_alphabetic);
        match self {
            Self::Literal(text) => has(text),
            Self::Glob(glob) => has(&glob.first) || has(&glob.last) || glob.between.iter().any(|text| has(text)),
            Self::Any | Self::Deep => false,
        }
    }
}

impl Glob {
    fn of(segment: &str) -> Self {
        let mut texts = segment.split('*').map(str::to_owned);
        let first = texts.next().unwrap_or_default();
        let last = texts.next_back().unwrap_or_default();
        Self { first, between: texts.collect(), last }
    }

    /// Whether the segment consists of these texts with anything between them.
    #[must_use]
    pub fn matches(&self, segment: &str) -> bool {
        let Some(mut rest) =
            segment.strip_prefix(self.first.as_str()).and_then(|rest| rest.strip_suffix(self.last.as_str()))
        else {
            return false;
        };
        for text in &self.between {
            match rest.find(text.as_str()) {
                Some(at) => rest = rest.get(at + text.len()..).unwrap_or_default(),
                None => return false,
            }
        }
        true
    }
}

/// Folds case in every alphabet: two names that some server considers equal must fold to one text. It makes equal what no server does
/// too: right for a rule that closes, not for one that opens.
#[must_use]
pub(super) fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    // The Turkish capital I with a dot is two characters in lower case, but a plain i in Go: Caddy takes `/adm%C4%B0n` for `/admin`.
    // A sigma is another letter at the end of a word: a pattern's text may end where the path's word goes on.
    text.to_uppercase().to_lowercase().replace("i\u{307}", "i").replace('\u{3c2}', "\u{3c3}")
}

/// Folds case one character to one.
fn fold_letters(text: &str) -> String {
    text.chars().map(without_case).collect()
}

/// Decodes characters that must be percent-encoded in a request's path (RFC 3986 §3.3), so that `/caf%C3%A9` matches a rule for `/café`.
/// Everything else stays encoded: whether it is decoded depends on the server.
#[must_use]
pub(super) fn decode_what_must_be_encoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let encoded =
            if first == b'%' { encoded_byte(behind).filter(|(byte, _)| must_be_encoded(*byte)) } else { None };
        let (byte, behind) = encoded.unwrap_or((first, behind));
        bytes.push(byte);
        rest = behind;
    }
    let mut plain = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        plain.push_str(chunk.valid());
        for byte in chunk.invalid() {
            plain.push_str(&format!("%{byte:02X}"));
        }
    }
    Cow::Owned(plain)
}

fn encoded_byte(text: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, rest) = text.split_at_checked(2)?;
    let value = |digit: &u8| char::from(*digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let (high, low) = (value(digits.first()?)?, value(digits.last()?)?);
    Some((high * 16 + low, rest))
}

const fn must_be_encoded(byte: u8) -> bool {
    byte >= 0x80 || matches!(byte, b' ' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' | b'[' | b']')
}

#[cfg(test)]
pub(super) mod reference {
    //! A plain implementation of pattern matching, for comparison with the compiled one.

    use super::*;

    pub(in crate::domain::rules) fn matches(pattern: &PathPattern, path: &str, folds: bool) -> bool {
        let path = decode_what_must_be_encoded(path);
        let path = if folds { fold(&path) } else { path.into_owned() };
        let Some(inner) = path.strip_prefix('/') else { return false };
        let segments: Vec<&str> = inner.split('/').collect();
        from(&pattern.pieces(folds), &segments)
    }

    fn from(pieces: &[Piece], segments: &[&str]) -> bool {
        match (pieces, segments) {
            ([], []) => true,
            ([Piece::Deep, rest @ ..], _) => (0..=segments.len()).any(|taken| from(rest, &segments[taken..])),
            ([piece, pieces @ ..], [segment, segments @ ..]) => {
                let fits = match piece {
                    Piece::Literal(text) => text == segment,
                    Piece::Any => true,
                    Piece::Glob(glob) => glob.matches(segment),
                    Piece::Deep => false,
                };
                fits && from(pieces, segments)
            }
            ([], _) | (_, []) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_in_its_segment_and_two_stand_for_whole_ones() {
        for (pattern, path, matches) in [
            ("/", "/", true),
            ("/", "/a", false),
            ("/a", "/a", true),
            ("/a", "/a/", false),
            ("/a", "/A", false),
            ("/a/", "/a/", true),
            ("/a/", "/a", false),
            ("/a/*", "/a/b", true),
            ("/a/*", "/a/b/c", false),
            ("/a/*", "/a", false),
            ("/a/*", "/a/", true),
            ("/a/*.css", "/a/x.css", true),
            ("/a/*.css", "/a/.css", true),
            ("/a/*.css", "/a/b/x.css", false),
            ("/a/*.css", "/a/x.css.js", false),
            ("/a/x*y*z", "/a/x1y2z", true),
            ("/a/x*y*z", "/a/xz", false),
            ("/a/x*y*z", "/a/xyz", true),
            ("/a*a", "/a", false),
            ("/a*a", "/aa", true),
            ("/**", "/", true),
            ("/**", "/a/b/c/", true),
            ("/reports/**", "/reports", true),
            ("/reports/**", "/reports/", true),
            ("/reports/**", "/reports/a/b", true),
            ("/reports/**", "/reportsx", false),
            ("/**/admin", "/admin", true),
            ("/**/admin", "/a/b/admin", true),
            ("/**/admin", "/admin/x", false),
            ("/a/**/b", "/a/b", true),
            ("/a/**/b", "/a/x/y/b", true),
            ("/a/**/b/**", "/a/x/b/c", true),
            ("/a/**/b/**", "/a/x/c", false),
            ("/a/**/**/b", "/a/b", true),
            ("/caf\u{e9}", "/caf%C3%A9", true),
            ("/caf%c3%a9", "/caf\u{e9}", true),
            ("/a b", "/a%20b", true),
            ("/a", "/%61", false),
        ] {
            let compiled = PathPattern::parse(pattern).unwrap();
            assert_eq!(reference::matches(&compiled, path, false), matches, "{pattern} {path}");
        }
    }

    #[test]
    fn without_case_every_alphabet_counts() {
        let pattern = PathPattern::parse("/Admin/\u{c9}*").unwrap();
        assert!(reference::matches(&pattern, "/ADMIN/\u{e9}x", true));
        assert!(!reference::matches(&pattern, "/ADMIN/\u{e9}x", false));
        assert_eq!(fold("\u{212a}"), "k", "the Kelvin sign");
        assert_eq!(fold("\u{17f}"), "s", "the long s");
        assert_eq!(fold("/adm\u{130}n/\u{131}"), "/admin/i", "the Turkish letters");
        let word = PathPattern::parse("/\u{3bb}\u{3bf}\u{3b3}\u{3bf}\u{3c2}*").unwrap();
        assert!(reference::matches(&word, "/\u{39b}\u{39f}\u{393}\u{39f}\u{3a3}\u{391}", true), "the sigmas");
    }

    #[test]
    fn letter_by_letter_no_character_is_two() {
        for (pattern, path, by_letters) in [
            ("/Files/**", "/files/x", true),
            ("/files/**", "/FILES/\u{fb01}.txt", true),
            ("/files/**", "/f\u{130}le\u{17f}/x", true),
            ("/files/**", "/\u{fb01}les/x", false),
            ("/files/**", "/fi\u{307}les/x", false),
            ("/stra\u{df}e", "/STRA\u{df}E", true),
            ("/stra\u{df}e", "/strasse", false),
            ("/strasse", "/stra\u{df}e", false),
            ("/*\u{df}/x", "/gro\u{df}/X", true),
            ("/*\u{df}/x", "/gross/x", false),
        ] {
            let compiled = PathPattern::parse(pattern).unwrap();
            assert!(reference::matches(&compiled, path, true), "{pattern} {path}");
            assert_eq!(compiled.matches_by_letters(path), by_letters, "{pattern} {path}");
        }
    }

    #[test]
    fn patterns_that_cannot_match_are_faults() {
        for (bad, why) in [
            ("", BadPattern::NoSlash),
            ("a", BadPattern::NoSlash),
            ("*", BadPattern::NoSlash),
            ("**", BadPattern::NoSlash),
            ("/a**", BadPattern::DeepWithin),
            ("/**.css", BadPattern::DeepWithin),
            ("/***", BadPattern::DeepWithin),
            ("/a?b", BadPattern::Query),
            ("/a#b", BadPattern::Query),
            ("/a/../b", BadPattern::Dots),
            ("/./a", BadPattern::Dots),
            ("//a", BadPattern::TwoSlashes),
            ("/a//**", BadPattern::TwoSlashes),
            ("/a\\b", BadPattern::Odd),
            ("/a\nb", BadPattern::Odd),
            ("/%61", BadPattern::Encoding),
            ("/a%2fb", BadPattern::Encoding),
            ("/100%", BadPattern::Encoding),
            ("/%ff", BadPattern::Encoding),
        ] {
            assert_eq!(PathPattern::parse(bad).map(|_| ()), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn patterns_of_other_programs_are_told_from_ours() {
        for foreign in [
            "/admin/.*",
            "/admin/(.*)",
            "/admin/.+",
            "/users/:id",
            "/users/:id/edit",
            "/users/{id}",
            "/users/{id}/**",
            "/users/<id>",
            "/admin/[^/]+",
            "/admin/[a-z]*",
            "/(admin|ops)/**",
            "/admin$",
            "/admin/.*$",
        ] {
            assert!(PathPattern::parse(foreign).unwrap().looks_like_another_syntax(), "{foreign}");
        }
        for ours in [
            "/",
            "/**",
            "/**/.*",
            "/.*/**",
            "/admin/*",
            "/a/x*y",
            "/.well-known/**",
            "/odata/$metadata",
            "/fhir/Patient/$everything",
            "/odata/Products(*)",
            "/_api/web/lists/getbytitle('x')/**",
            "/wiki/Mercury_(planet)",
            "/a:b/c",
            "/v1/projects/x:cancel",
            "/a]b[c",
            "/%7Bid%7D",
        ] {
            assert!(!PathPattern::parse(ours).unwrap().looks_like_another_syntax(), "{ours}");
        }
    }

    #[test]
    fn what_covers_what() {
        for (wide, narrow, covers) in [
            ("/**", "/a/b/*", true),
            ("/**", "/", true),
            ("/a/**", "/a", true),
            ("/a/**", "/a/b/**", true),
            ("/a/**", "/a/**", true),
            ("/a/**", "/b", false),
            ("/a/b/**", "/a/**", false),
            ("/*/b", "/a/b", true),
            ("/*/b", "/*/b", true),
            ("/*/b", "/a*/b", true),
            ("/a*/b", "/*/b", false),
            ("/a*/b", "/abc/b", true),
            ("/*", "/**", false),
            ("/**/b", "/a/**/b", true),
            ("/a/**/b", "/**/b", false),
            ("/a", "/a/", false),
        ] {
            let (wide, narrow) = (PathPattern::parse(wide).unwrap(), PathPattern::parse(narrow).unwrap());
            assert_eq!(wide.covers(false, &narrow, false), covers, "{wide:?} {narrow:?}");
        }
        let pattern = |text| PathPattern::parse(text).unwrap();
        assert!(pattern("/A/**").covers(true, &pattern("/a"), false));
        assert!(!pattern("/a/**").covers(false, &pattern("/a"), true), "the other one matches /A too");
        assert!(pattern("/**").covers(false, &pattern("/a"), true));
    }

    #[test]
    fn what_overlaps_what() {
        for (one, other, overlaps) in [
            ("/**/*.css", "/admin/**", true),
            ("/a/**", "/b/**", false),
            ("/a/**", "/a", true),
            ("/*/x", "/a/*", true),
            ("/*/x", "/a/y", false),
            ("/a/b", "/a", false),
            ("/**", "/", true),
            ("/a*", "/*b", true),
            ("/a*", "/b", false),
            ("/a/**/b", "/a/b/c", false),
            ("/a/**/c", "/a/b/c", true),
        ] {
            let (one, other) = (PathPattern::parse(one).unwrap(), PathPattern::parse(other).unwrap());
            assert_eq!(one.overlaps(false, &other, false), overlaps, "{one:?} {other:?}");
            assert_eq!(other.overlaps(false, &one, false), overlaps, "{other:?} {one:?}");
        }
    }

    #[test]
    fn a_pattern_may_lead_below_a_prefix_only() {
        let below = |text| PathPattern::parse(text).unwrap().is_below("/api/v1/auth");
        assert!(below("/api/v1/auth") && below("/api/v1/auth/**") && below("/api/v1/auth/me"));
        assert!(!below("/api/v1/**") && !below("/api/v1/authors") && !below("/**"));
    }
}
