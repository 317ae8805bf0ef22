//! Where our own endpoints are, and safe places to return to.

use serde::{Deserialize, Serialize};
use url::Url;

use crate::domain::readings::Readings;

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
        if text.starts_with("//") || Readings::of(&text).map_or(true, |path| path.may_be_below(AUTH_PREFIX)) {
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

    proptest::proptest! {
        #[test]
        fn no_return_leaves_the_origin(rd in "[/\\\\.:@?#%a-c\t\r\n ]{0,24}") {
            let base = Url::parse("https://app.example.com/").unwrap();
            let safe = ReturnTo::parse(&rd, &base);
            proptest::prop_assert!(safe.as_str().starts_with('/'));
            proptest::prop_assert!(safe.as_str().bytes().all(|b| b.is_ascii_graphic()));
            proptest::prop_assert_eq!(base.join(safe.as_str()).unwrap().origin(), base.origin());
        }
    }
}
