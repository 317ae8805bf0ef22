//! Canonical paths, and safe places to return to.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use url::Url;

/// A request's path as the most eager upstream would read it: decoded once, backslashes as slashes, slashes merged, dot segments gone.
#[derive(Debug, PartialEq, Eq)]
pub struct CanonicalPath<'a> {
    raw: &'a str,
    text: Cow<'a, str>,
    altered: bool,
}

impl<'a> CanonicalPath<'a> {
    /// Reads a raw path, as it stands in the request line.
    #[must_use]
    pub fn of(raw: &'a str) -> Self {
        if is_plain(raw) {
            return Self { raw, text: Cow::Borrowed(raw), altered: false };
        }
        let text = normalise(raw);
        let altered = text != raw;
        Self { raw, text: Cow::Owned(text), altered }
    }

    /// Whether the raw path was written in another way: such a path never matches a rule that opens it.
    #[must_use]
    pub const fn is_altered(&self) -> bool {
        self.altered
    }

    /// What stands behind `prefix` and a slash; empty for `prefix` itself; `None` elsewhere. `prefix` has no slash at its end.
    /// A raw path that only leads out of it (`{prefix}/..%2fx`) counts as below: an upstream may read it either way.
    #[must_use]
    pub fn below(&self, prefix: &str) -> Option<&str> {
        below(&self.text, prefix).or_else(|| below(self.raw, prefix))
    }
}

fn below<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let rest = text.strip_prefix(prefix)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

fn is_plain(raw: &str) -> bool {
    let bytes = raw.as_bytes();
    // Every byte is looked at: without a way out the processor looks at many at once.
    let odd_sign = bytes.iter().fold(false, |odd, b| odd | !b.is_ascii_graphic() | (*b == b'%') | (*b == b'\\'));
    let pairs = bytes.iter().zip(bytes.iter().skip(1));
    let odd_segment = pairs.fold(false, |odd, (a, b)| odd | ((*a == b'/') & ((*b == b'/') | (*b == b'.'))));
    bytes.first() == Some(&b'/') && !odd_sign && !odd_segment
}

fn normalise(raw: &str) -> String {
    let decoded = percent_decode_str(raw).decode_utf8_lossy().replace('\\', "/");
    let mut kept: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            name => kept.push(name),
        }
    }
    let mut text = String::with_capacity(decoded.len() + 1);
    for segment in &kept {
        text.push('/');
        text.push_str(segment);
    }
    let ends_in_slash = decoded.ends_with('/') || decoded.ends_with("/.") || decoded.ends_with("/..");
    if text.is_empty() || ends_in_slash {
        text.push('/');
    }
    text
}

/// Where all of the proxy's own endpoints are.
pub const AUTH_PREFIX: &str = "/api/v1/auth";

/// The longest `rd` that is followed, in bytes.
const RETURN_LIMIT: usize = 2048;

/// A path on the public origin where a browser may safely be sent: never another host's, never one of our own endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnTo(String);

impl ReturnTo {
    /// `/`, where everything unsafe leads.
    #[must_use]
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// Reads an `rd` parameter, by the rules by which browsers read a URL (WHATWG URL), so that both come to the same place.
    /// An absolute URL of the public origin counts as its path; whatever is not safe is `/`.
    #[must_use]
    pub fn parse(rd: &str, public_origin: &Url) -> Self {
        Self::checked(rd, public_origin).unwrap_or_else(Self::root)
    }

    fn checked(rd: &str, public_origin: &Url) -> Option<Self> {
        // Browsers drop tabs and line breaks inside a URL and read `\` as `/`: `/\t/evil.example` would leave the origin.
        let odd = |c: char| c.is_control() || c == '\\';
        if rd.is_empty() || rd.len() > RETURN_LIMIT || rd.contains(odd) || rd.starts_with("//") {
            return None;
        }
        let target = public_origin.join(rd).ok().filter(|_| rd.starts_with('/') || rd.contains("://"))?;
        if target.origin() != public_origin.origin() || !target.username().is_empty() || target.password().is_some() {
            return None;
        }
        let mut text = target.path().to_owned();
        // `/.//evil.example` has the path `//evil.example`, which as a redirect names another host.
        if text.starts_with("//") || CanonicalPath::of(&text).below(AUTH_PREFIX).is_some() {
            return None;
        }
        if let Some(query) = target.query() {
            text = format!("{text}?{query}");
        }
        if let Some(fragment) = target.fragment() {
            text = format!("{text}#{fragment}");
        }
        // Browsers drop a login cookie of over 4096 bytes, and with it the sign-in.
        (text.len() <= RETURN_LIMIT).then_some(Self(text))
    }

    /// The path, with query and fragment, for a `Location` header: printable ASCII only.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn returns(rd: &str) -> String {
        ReturnTo::parse(rd, &Url::parse("https://app.example.com/").unwrap()).as_str().to_owned()
    }

    #[test]
    fn a_path_on_this_origin_is_kept() {
        for good in ["/", "/a/b?x=1&y=%2F", "/a#top", "/a//b", "/api/v1/clusters", "/api/v1/authors"] {
            assert_eq!(returns(good), good);
        }
        assert_eq!(returns("https://app.example.com/x?y"), "/x?y");
        assert_eq!(returns("https://APP.example.com:443/x"), "/x");
        assert_eq!(returns("/caf\u{e9}"), "/caf%C3%A9");
    }

    #[test]
    fn other_places_are_the_root() {
        let long = format!("/{}", "a".repeat(RETURN_LIMIT));
        let long_when_encoded = format!("/{}", "\u{e9}".repeat(RETURN_LIMIT / 3));
        for bad in [
            "",
            "//evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "https://evil.example/",
            "http://app.example.com/",
            "https://app.example.com:8443/",
            "https://app.example.com@evil.example/",
            "https://u:p@app.example.com/",
            "javascript:alert(1)",
            "/\t/evil.example",
            "/\n/evil.example",
            "/.//evil.example",
            "/..//evil.example",
            "/%2e%2e//evil.example",
            "///evil.example",
            "evil",
            "?x",
            "mailto:a@b",
            "/a\u{0}",
            "data:text/html,x",
            &long,
            &long_when_encoded,
        ] {
            assert_eq!(returns(bad), "/", "{bad:?}");
        }
    }

    #[test]
    fn our_own_endpoints_are_no_place_to_return_to() {
        for bad in [
            "/api/v1/auth",
            "/api/v1/auth/login?rd=/",
            "/api/v1/./auth/logout",
            "/api/v1/%61uth/login",
            "/api//v1/auth/x",
        ] {
            assert_eq!(returns(bad), "/", "{bad:?}");
        }
    }

    #[test]
    fn paths_under_other_spellings_are_seen_through() {
        for (raw, canonical) in [
            ("/api/v1/auth/me", "me"),
            ("/api/v1/%61uth/me", "me"),
            ("//api/v1/auth/me", "me"),
            ("/x/../api/v1/auth/me", "me"),
            ("/api/v1/auth%2fme", "me"),
            ("/api\\v1/auth/me", "me"),
            ("/api/v1/auth/x/%2e%2e/me", "me"),
            ("/api/v1/auth/..%2fx", "..%2fx"),
            ("/api/v1/auth", ""),
        ] {
            let path = CanonicalPath::of(raw);
            assert_eq!(path.below(AUTH_PREFIX), Some(canonical), "{raw}");
            assert_eq!(path.is_altered(), !["/api/v1/auth/me", "/api/v1/auth"].contains(&raw), "{raw}");
        }
        assert_eq!(CanonicalPath::of("/api/v1/authors").below(AUTH_PREFIX), None);
        assert_eq!(CanonicalPath::of("*").below(AUTH_PREFIX), None);
    }

    proptest::proptest! {
        #[test]
        fn no_return_leaves_the_origin(rd in "[/\\\\.:@?#%a-c\t\r\n ]{0,24}") {
            let base = Url::parse("https://app.example.com/").unwrap();
            let safe = ReturnTo::parse(&rd, &base);
            proptest::prop_assert!(safe.as_str().starts_with('/'));
            proptest::prop_assert!(safe.as_str().bytes().all(|b| b.is_ascii_graphic()));
            proptest::prop_assert_eq!(base.join(safe.as_str()).unwrap().origin(), base.origin());
        }

        #[test]
        fn a_canonical_path_is_canonical(raw in "/[/\\\\.%25eEfF0-2a]{0,24}") {
            let once = CanonicalPath::of(&raw);
            proptest::prop_assert!(once.text.starts_with('/'));
            proptest::prop_assert!(!once.text.contains("//"));
        }
    }
}
