//! All the ways in which common servers interpret a request's path.

#[cfg(test)]
mod recorded;
mod steps;

use std::collections::VecDeque;

use thiserror::Error;

use self::steps::Step;

/// The most readings of a path.
const READINGS_LIMIT: usize = 64;

/// How often a path is percent-decoded at most: once by a server, and once more by one behind it.
const DECODES_LIMIT: u8 = 2;

/// The most bytes that are processed for one path, so that a long path from a stranger takes a few milliseconds at most.
pub(super) const WORK_LIMIT: usize = 1 << 20;

/// All the ways in which common servers interpret a request's path: a rule must hold for each of them.
///
/// They result from applying or skipping, in any order, each of the [steps](Step) in which servers differ. Bytes that are not UTF-8 appear
/// percent-encoded in a reading (`%FF`), so that readings are text and stay distinct.
#[derive(Debug)]
pub struct Readings<'a> {
    written: &'a str,
    /// The only other reading of a plain path that ends in a slash, without an allocation.
    without_slash: Option<&'a str>,
    others: Vec<String>,
    openable: bool,
}

/// A path has too many readings to check each of them, or is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "the path can be read in more than {READINGS_LIMIT} ways, or is too long to find out; write it without needless encoding"
)]
pub struct TooManyReadings;

impl<'a> Readings<'a> {
    /// Reads the path of a request line, without its query.
    ///
    /// # Errors
    ///
    /// [`TooManyReadings`]: rules cannot be applied to such a path.
    pub fn of(raw: &'a str) -> Result<Self, TooManyReadings> {
        let mut work = WORK_LIMIT;
        Self::within(raw, &mut work)
    }

    /// The same for one of several paths: `work` is the number of bytes that may still be processed for all of them.
    pub(super) fn within(raw: &'a str, work: &mut usize) -> Result<Self, TooManyReadings> {
        if is_plain(raw) {
            let without_slash = raw.strip_suffix('/').filter(|rest| !rest.is_empty());
            return Ok(Self { written: raw, without_slash, others: Vec::new(), openable: true });
        }
        let others = explore(raw, &Step::ALL, work)?;
        Ok(Self { written: raw, without_slash: None, others, openable: is_openable(raw) })
    }

    /// The readings, each once; the first is the path as written.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.written).chain(self.without_slash).chain(self.others.iter().map(String::as_str))
    }

    /// The path as written in the request line.
    #[must_use]
    pub const fn as_written(&self) -> &'a str {
        self.written
    }

    /// Whether a `"public"` rule may open the path. That excludes any path with a segment of only dots or blanks, a doubled slash, a
    /// backslash, a `;`, or an encoded dot, slash, backslash, percent sign, `;` or control character, or that is not UTF-8 once decoded,
    /// whatever its readings.
    #[must_use]
    pub const fn may_be_opened(&self) -> bool {
        self.openable
    }

    /// The part of the path as written after `prefix` and a slash; empty for `prefix` itself; `None` elsewhere. `prefix` has no trailing
    /// slash.
    #[must_use]
    pub fn below(&self, prefix: &str) -> Option<&'a str> {
        below(self.written, prefix)
    }

    /// Whether some reading is `prefix` or below it.
    #[must_use]
    pub fn may_be_below(&self, prefix: &str) -> bool {
        self.iter().any(|reading| below(reading, prefix).is_some())
    }

    /// Whether every server reads the path as written, except for a trailing slash.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let without_slash = self.written.strip_suffix('/');
        self.openable && self.others.iter().all(|reading| Some(reading.as_str()) == without_slash)
    }
}

/// A character as servers that ignore case compare it: lower case. Characters of which only one case maps to a letter (`İ`, `ı`, the Kelvin
/// sign, `ſ`) become that letter, since Go and Java treat them as equal.
#[must_use]
pub fn without_case(c: char) -> char {
    let mut upper = c.to_uppercase();
    let upper = upper.next().filter(|_| upper.next().is_none()).unwrap_or(c);
    upper.to_lowercase().next().unwrap_or(upper)
}

fn below<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let rest = text.strip_prefix(prefix)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

/// Whether no step changes the path, except for a trailing slash. True of nearly every path.
fn is_plain(raw: &str) -> bool {
    let bytes = raw.as_bytes();
    // Checks all bytes: without an early exit the processor compares many at once.
    let odd_sign = bytes.iter().fold(false, |odd, b| {
        let cuts = (*b == b';') | (*b == b'#') | (*b == b'?');
        odd | !b.is_ascii_graphic() | (*b == b'%') | (*b == b'\\') | cuts
    });
    let pairs = bytes.iter().zip(bytes.iter().skip(1));
    let odd_segment = pairs.fold(false, |odd, (a, b)| odd | ((*b == b'/') & ((*a == b'/') | (*a == b'.'))));
    bytes.first() == Some(&b'/') && bytes.last() != Some(&b'.') && !odd_sign && !odd_segment
}

fn is_openable(raw: &str) -> bool {
    let odd = |c: char| c.is_control() || c == '\\' || c == ';';
    if !raw.starts_with('/') || raw.contains("//") || raw.contains(odd) {
        return false;
    }
    let mut rest = raw.as_bytes();
    let mut decoded = Vec::with_capacity(rest.len());
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            decoded.push(first);
            continue;
        }
        // A stray percent sign could form an encoding with its neighbours in a second decoding.
        let Some((byte, after)) = steps::encoded_byte(rest) else { return false };
        if byte.is_ascii_control() || matches!(byte, b'.' | b'/' | b'\\' | b'%' | b';') {
            return false;
        }
        decoded.push(byte);
        rest = after;
    }
    // Bytes that are not UTF-8 may hide a slash in an overlong form. On Windows, a segment of only dots and blanks vanishes.
    let vanishes = |segment: &str| !segment.is_empty() && segment.trim_end_matches(['.', ' ']).is_empty();
    std::str::from_utf8(&decoded).is_ok_and(|text| !text.contains(char::is_control) && !text.split('/').any(vanishes))
}

/// A text that was reached, and the fewest decodings to get there.
struct Reached {
    text: Vec<u8>,
    decodes: u8,
}

/// The readings of a path by `steps`, except for the path as written. Takes the bytes that it processes from `work`.
fn explore(raw: &str, steps: &[Step], work: &mut usize) -> Result<Vec<String>, TooManyReadings> {
    let mut reached = vec![Reached { text: raw.as_bytes().to_vec(), decodes: 0 }];
    let mut open = VecDeque::from([0]);
    while let Some(at) = open.pop_front() {
        for step in steps {
            let Some(from) = reached.get(at) else { continue };
            let decodes = from.decodes + u8::from(step.decodes());
            if decodes > DECODES_LIMIT {
                continue;
            }
            let Some(text) = step.take(&from.text) else { continue };
            *work = work.checked_sub(text.len().max(from.text.len())).ok_or(TooManyReadings)?;
            match reached.iter().position(|other| other.text == text) {
                None => {
                    open.push_back(reached.len());
                    reached.push(Reached { text, decodes });
                }
                // Reached before, but now with fewer decodings, so that more are left.
                Some(known) => {
                    if let Some(known_at) = reached.get_mut(known).filter(|other| decodes < other.decodes) {
                        known_at.decodes = decodes;
                        open.push_back(known);
                    }
                }
            }
            if reached.len() > READINGS_LIMIT {
                return Err(TooManyReadings);
            }
        }
    }
    let mut readings: Vec<String> = Vec::with_capacity(reached.len());
    for text in reached.into_iter().skip(1).map(|found| readable(found.text)) {
        if text != raw && !readings.contains(&text) {
            readings.push(text);
        }
    }
    Ok(readings)
}

/// The bytes as text, with those that are not UTF-8 percent-encoded.
fn readable(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| {
        let mut text = String::new();
        for chunk in error.as_bytes().utf8_chunks() {
            text.push_str(chunk.valid());
            for byte in chunk.invalid() {
                text.push_str(&format!("%{byte:02X}"));
            }
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn all(raw: &str) -> Vec<String> {
        Readings::of(raw).unwrap().iter().map(str::to_owned).collect()
    }

    /// The same as [`all`], without the fast way.
    fn explored(raw: &str) -> Vec<String> {
        let (mut all, mut work) = (vec![raw.to_owned()], WORK_LIMIT);
        all.extend(explore(raw, &Step::ALL, &mut work).unwrap());
        all
    }

    #[test]
    fn a_plain_path_has_one_reading_or_two_with_a_slash_at_its_end() {
        for plain in ["/", "/a", "/.well-known/x", "/a/b.css", "/a..b/c", "/~ann/@x:y,z=1&b+c!$'()*", "/index.html"] {
            assert!(is_plain(plain), "{plain}");
            assert_eq!(all(plain), [plain]);
            assert!(Readings::of(plain).unwrap().is_plain());
        }
        assert!(is_plain("/a/b/"));
        assert_eq!(all("/a/b/"), ["/a/b/", "/a/b"]);
    }

    #[test]
    fn the_fast_way_says_what_the_long_one_says() {
        for plain in ["/", "/a", "/a/", "/.well-known/x", "/a..b/c", "/a/b/"] {
            assert_eq!(all(plain), explored(plain), "{plain}");
        }
    }

    #[test]
    fn each_step_is_taken_and_left() {
        for (raw, reading) in [
            ("/%61dmin", "/admin"),
            ("/%2561dmin", "/admin"),
            ("/public/../admin", "/admin"),
            ("/public/./../admin", "/admin"),
            ("/public/%2e%2e/admin", "/admin"),
            ("/public/..%2fadmin", "/admin"),
            ("/public/%252e%252e%252fadmin", "/admin"),
            ("/public/x%2fy/%2e%2e/%2e%2e/admin", "/admin"),
            ("/public/x%2fy/%2e%2e/%2e%2e/%2561dmin", "/admin"),
            ("/public/x/%2e%2e/%2e%2e/%25%36%31dmin", "/admin"),
            ("//admin", "/admin"),
            ("/public//../admin", "/admin"),
            ("/public//../admin", "/public/admin"),
            ("/\\admin", "/admin"),
            ("/public\\..\\admin", "/admin"),
            ("/public/..%5cadmin", "/admin"),
            ("/public/..;x=y/admin", "/admin"),
            ("/admin;x", "/admin"),
            ("/public/..%3b/admin", "/admin"),
            ("/admin%00.png", "/admin"),
            ("/admin%23/public", "/admin"),
            ("/admin%3fx", "/admin"),
            ("/admin/", "/admin"),
            ("/admin.", "/admin"),
            ("/admin%20", "/admin"),
            ("/admin%20./x", "/admin/x"),
            ("/public/..%20/admin", "/admin"),
            ("/public/.%c0%ae/admin", "/admin"),
            ("/public%c0%afadmin", "/public/admin"),
            ("/public/..%e0%80%afadmin", "/admin"),
            ("/public/%f0%80%80%ae./admin", "/admin"),
            ("//public/admin", "/admin"),
            ("/%2fhost/admin", "/admin"),
            ("///host/admin", "/admin"),
            ("///host/admin", "/host/admin"),
            ("/\\/\\host/admin", "/admin"),
            ("/%u0061dmin", "/admin"),
            ("/public/%U002e%u002e%u002fadmin", "/admin"),
            ("/%u00e9%ud800%u00", "/\u{e9}%ud800%u00"),
            ("/caf%C3%A9", "/caf\u{e9}"),
            ("/caf%E9", "/caf%E9"),
            ("/x%zz", "/x%zz"),
        ] {
            let readings = all(raw);
            assert!(readings.iter().any(|r| r == reading), "{raw} is not read as {reading}: {readings:?}");
            assert_eq!(readings[0], raw);
        }
    }

    #[test]
    fn what_a_public_rule_may_open() {
        for open in [
            "/",
            "/a/b/",
            "/public/a%20b",
            "/caf%C3%A9",
            "/caf\u{e9}",
            "/%7Eann",
            "/a%3fb",
            "/.well-known/x",
            "/a..b",
            "/a...",
        ] {
            assert!(Readings::of(open).unwrap().may_be_opened(), "{open}");
        }
        for closed in [
            "/a/../b",
            "/a/..",
            "/...",
            "/a/%20/b",
            "/a/..%20/b",
            "/./a",
            "/a//b",
            "//a",
            "/a\\b",
            "/a%2eb",
            "/a%2Fb",
            "/a%5cb",
            "/a%25b",
            "/a%00b",
            "/a;b",
            "/a%3bb",
            "/a%0ab",
            "/a%",
            "/a%zz",
            "/%%32%65",
            "/a%ff",
            "/a%c0%ae",
            "/%C2%85",
            "/\u{85}",
            "*",
            "",
            "a",
        ] {
            assert!(!Readings::of(closed).unwrap().may_be_opened(), "{closed}");
        }
    }

    #[test]
    fn nothing_stands_below_a_prefix_but_what_a_slash_parts_from_it() {
        let path = |raw| Readings::of(raw).unwrap();
        assert_eq!(path("/api/v1/auth/me").below("/api/v1/auth"), Some("me"));
        assert_eq!(path("/api/v1/auth").below("/api/v1/auth"), Some(""));
        assert_eq!(path("/api/v1/authors").below("/api/v1/auth"), None);
        assert!(!path("/api/v1/authors").may_be_below("/api/v1/auth"));
        assert!(path("/api/v1/x/../auth/me").may_be_below("/api/v1/auth"));
        assert!(!path("/api/v1/auth/me;x").is_plain());
        assert!(!path("/api/v1/%61uth").is_plain());
    }

    #[test]
    fn case_counts_for_nothing_without_case() {
        let fold = |text: &str| text.chars().map(without_case).collect::<String>();
        assert_eq!(fold("/ADM\u{130}n/\u{131}\u{212a}\u{17f}\u{c9}\u{df}"), "/admin/iks\u{e9}\u{df}");
    }

    #[test]
    fn a_path_of_too_many_readings_is_an_error() {
        let hostile = "/a;b//%2e%2e\\c%5c%252f;d/./x%23y%3fz%00.%20/";
        assert_eq!(Readings::of(hostile).unwrap_err(), TooManyReadings);
    }

    #[test]
    fn a_hostile_path_takes_bounded_time() {
        let pieces = [
            "/..",
            "//",
            "%2e",
            "%252f",
            "\\",
            ";",
            "%",
            "%25",
            "%c0%af",
            "/a",
            ".",
            "%20",
            "#",
            "%00",
            "/%2e%2e;/",
            "%2525",
        ];
        for piece in pieces {
            let raw = format!("/{}", piece.repeat((64 << 10) / piece.len()));
            let begun = Instant::now();
            let _ = Readings::of(&raw);
            // A millisecond or two if optimised, which tests are not.
            assert!(begun.elapsed() < Duration::from_secs(2), "{piece}: {:?}", begun.elapsed());
        }
    }

    #[test]
    fn several_paths_share_what_may_be_processed() {
        let raw = "/a;b/%41";
        let mut work = WORK_LIMIT;
        Readings::within(raw, &mut work).unwrap();
        let taken = WORK_LIMIT - work;
        assert!(taken > raw.len(), "{taken}");
        let mut left = 2 * taken;
        for _ in 0..2 {
            assert_eq!(Readings::within(raw, &mut left).unwrap().iter().collect::<Vec<_>>(), all(raw));
        }
        assert_eq!(Readings::within(raw, &mut left).unwrap_err(), TooManyReadings);
        assert!(Readings::within("/a/b", &mut left).is_ok(), "a plain path takes nothing");
    }

    fn odd_path() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/", "//", ".", "..", "a", "b", "%2e", "%2F", "%5C", "\\", ";", "%3b", "%25", "%252e", "%20", "%00", "#",
            "%3F", "%c0", "%af", "%E9", "\u{e9}", "%",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(raw in ".{0,60}") {
            if let Ok(readings) = Readings::of(&raw) {
                prop_assert_eq!(readings.iter().next(), Some(raw.as_str()));
            }
        }

        #[test]
        fn readings_are_distinct_few_and_paths(raw in odd_path()) {
            if let Ok(readings) = Readings::of(&raw) {
                let all: Vec<&str> = readings.iter().collect();
                let distinct: std::collections::HashSet<&&str> = all.iter().collect();
                prop_assert_eq!(distinct.len(), all.len());
                prop_assert!(all.len() <= READINGS_LIMIT);
                prop_assert!(all.iter().all(|reading| reading.starts_with('/')), "{all:?}");
            }
        }

        // Any step from a reading leads to a reading.
        #[test]
        fn readings_are_closed_under_every_step(raw in odd_path()) {
            if let Ok(readings) = Readings::of(&raw) {
                let all: Vec<&str> = readings.iter().collect();
                for reading in &all {
                    for step in Step::ALL.iter().filter(|step| !step.decodes()) {
                        // A byte that is not UTF-8 is encoded in the text, where a step cannot detect it.
                        if let Some(next) = step.take(reading.as_bytes()).map(readable) {
                            prop_assert!(all.contains(&next.as_str()), "{raw}: {reading} leads to {next} by {step:?}");
                        }
                    }
                }
            }
        }

        // A plain path is its only reading; a path that a rule may open has no reading with other segments.
        #[test]
        fn what_may_be_opened_keeps_its_segments(raw in odd_path()) {
            if let Ok(readings) = Readings::of(&raw) && readings.may_be_opened() {
                let depth = raw.matches('/').count();
                for reading in readings.iter() {
                    prop_assert!(!reading.contains("/../"), "{raw}: {reading}");
                    prop_assert!(reading.matches('/').count() <= depth, "{raw}: {reading}");
                }
            }
        }

        #[test]
        fn the_fast_way_is_right_for_all_it_takes(raw in "/[a-z./]{0,12}") {
            prop_assert_eq!(all(&raw), explored(&raw));
            prop_assert!(!is_plain(&raw) || is_openable(&raw));
        }
    }
}
