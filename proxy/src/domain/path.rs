//! Safe redirect targets after a sign-in.

use serde::{Deserialize, Serialize};
use url::Url;

use crate::domain::paths::AUTH_PREFIX;
use crate::domain::readings::Readings;

/// The longest accepted `rd`, in bytes.
const RETURN_LIMIT: usize = 2048;

/// A path on the public origin that a browser may safely be sent to: never another host's, never one of our own endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnTo(String);

impl ReturnTo {
    /// `/`, the substitute for everything unsafe.
    #[must_use]
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// Parses an `rd` parameter like a browser (WHATWG URL), so that both get the same target. An absolute URL of the public origin counts
    /// as its path; anything unsafe becomes `/`.
    #[must_use]
    pub fn parse(rd: &str, public_origin: &Url) -> Self {
        Self::checked(rd, public_origin).unwrap_or_else(Self::root)
    }

    /// The same for an instance that serves several hosts: `rd` may also be on any `https` host that `is_ours` accepts.
    #[must_use]
    pub fn parse_among(rd: &str, public_origin: &Url, is_ours: impl Fn(&str) -> bool) -> Self {
        Self::checked(rd, public_origin).or_else(|| Self::elsewhere(rd, is_ours)).unwrap_or_else(Self::root)
    }

    fn elsewhere(rd: &str, is_ours: impl Fn(&str) -> bool) -> Option<Self> {
        let odd = |c: char| c.is_control() || c == '\\';
        // Only URLs with a plain host: a browser that parses the URL differently would go to another host.
        if rd.len() > RETURN_LIMIT || rd.contains(odd) || !rd.starts_with("https://") || rd.starts_with("https:///") {
            return None;
        }
        let target = Url::parse(rd).ok()?;
        let plain = target.port().is_none() && target.username().is_empty() && target.password().is_none();
        if !plain || !target.domain().is_some_and(is_ours) {
            return None;
        }
        // Our own endpoints are no valid targets there either.
        Self::checked(target.path(), &target)?;
        let text = String::from(target);
        (text.len() <= RETURN_LIMIT).then_some(Self(text))
    }

    fn checked(rd: &str, public_origin: &Url) -> Option<Self> {
        // Browsers drop tabs and line breaks in a URL and read `\` as `/`: `/\t/evil.example` would leave the origin.
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

    /// The cases of oauth2-proxy's tests for redirects, with the one public origin here as the allowed domain.
    #[test]
    fn redirects_from_the_tests_of_another_proxy() {
        for (rd, to) in [
            ("", "/"),
            ("/redirect", "/redirect"),
            ("//redirect", "/"),
            ("https://app.example.com/redirect", "/redirect"),
            ("http://app.example.com/redirect", "/"),
            ("https://baz.app.example.com/redirect", "/"),
            ("https://app.example.com.evil.corp/redirect", "/"),
            ("https://evil.corp/redirect?rd=app.example.com", "/"),
            ("https://evil.corp:3838/redirect", "/"),
            ("https://app.example.com:3838/redirect", "/"),
            ("/\\evil.com", "/"),
            ("/ /evil.com", "/%20/evil.com"),
            ("/ \\evil.com", "/"),
            ("/\t/evil.com", "/"),
            ("/\t\\evil.com", "/"),
            ("/\u{b}/evil.com", "/"),
            ("/\u{b}\\evil.com", "/"),
            ("/\n/evil.com", "/"),
            ("/\n\\evil.com", "/"),
            ("/\r/evil.com", "/"),
            ("/\r\\evil.com", "/"),
            ("/\t/\t\\evil.com", "/"),
            ("/\t\t/\t/evil.com", "/"),
            ("/\t\t\\\t/evil.com", "/"),
            ("/\t\t/\t\t\\evil.com", "/"),
            ("/./\\evil.com", "/"),
            ("/./../../\\evil.com", "/"),
            ("app.example.com/redirect", "/"),
        ] {
            assert_eq!(returns(rd), to, "{rd:?}");
        }
    }

    /// The rest of those cases, with several allowed domains: here only hosts that a rule names exactly, with https and its default port;
    /// no subdomains or similar names.
    #[test]
    fn redirects_to_other_hosts_from_the_tests_of_another_proxy() {
        let ours = ["foo.bar", "baz.bar.foo", "port.bar", "www.whitelisteddomain.tld", "foo.wildcard.bar"];
        let origin = Url::parse("https://app.example.com/").unwrap();
        let returns = |rd: &str| ReturnTo::parse_among(rd, &origin, |host| ours.contains(&host)).as_str().to_owned();
        for kept in [
            "/redirect",
            "https://foo.bar/redirect",
            "https://baz.bar.foo/redirect",
            "https://foo.wildcard.bar/redirect",
            "https://www.whitelisteddomain.tld/a?b=c#d",
        ] {
            assert_eq!(returns(kept), kept);
        }
        for elsewhere in [
            "",
            "//redirect",
            "//foo.bar/redirect",
            "http://foo.bar/redirect",
            "http://baz.foo.bar/redirect",
            "https://baz.foo.bar/redirect",
            "http://baz.bar.foo/redirect",
            "https://bar.foo/redirect",
            "https://wildcard.bar/redirect",
            "http://foo.bar.evil.corp/redirect",
            "https://foo.bar.evil.corp/redirect",
            "https://evilfoo.bar/redirect",
            "http://evil.corp/redirect?rd=foo.bar",
            "https://evil.corp/redirect?rd=foo.bar",
            "https://evil.corp:3838/redirect",
            "https://foo.bar:3838/redirect",
            "https://baz.bar.foo:3838/redirect",
            "https://port.bar:8080/redirect",
            "https://foo.bar@evil.corp/redirect",
            "https://ann@foo.bar/redirect",
            "https://evil.corp\\@foo.bar/redirect",
            "https:/foo.bar/redirect",
            "https:foo.bar/redirect",
            "https:///foo.bar/redirect",
            "https://foo.bar/api/v1/auth/logout",
            "foo.bar/redirect",
            "proxy.wildcard.bar/redirect",
        ] {
            assert_eq!(returns(elsewhere), "/", "{elsewhere}");
        }
    }

    /// The open redirects of oauth2-proxy's tests, as they are and decoded once: each leads to a path here.
    #[test]
    fn open_redirects_from_the_tests_of_another_proxy_lead_nowhere_else() {
        let base = Url::parse("https://app.example.com/").unwrap();
        for raw in [
            r"%19Jav%09asc%09ript:https%20://a.example/%250Aconfirm%25281%2529",
            r".a.example",
            r"/%09/javascript:alert(1)",
            r"/%2f%2fa.example",
            r"/%5ca.example",
            r"/%5cjavascript:alert(1);",
            r"//%09/a.example",
            r"//%5ca.example",
            r"//%5cjavascript:alert(1);",
            r"///%5ca.example",
            r"////%5ca.example",
            r"/////a.example/",
            r"////a.example/",
            r"////a.example/%2e%2e%2f",
            r"////a.example/%2f..",
            r"///\;@a.example",
            r"///a.example/",
            r"///a.example/%2e%2e%2f",
            r"///a.example/%2f..",
            r"//;@a.example",
            r"//a.example/",
            r"//a.example/%2e%2e%2f",
            r"//a.example/%2f..",
            r"//google%00.com",
            r"//https:///a.example/%2e%2e",
            r"//https://a.example//",
            r"//javascript:alert(1);",
            r"//localdomain%E3%80%82pw",
            r"/ReceiveAutoRedirect/false?desiredLocationUrl=http://xssposed.org",
            r"/\/a.example/",
            r"/http://%67%6f%6f%67%6c%65%2e%63%6f%6d",
            r"/https:/%5ca.example/",
            r"/https://%5ca.example",
            r"/https:///a.example/%2f%2e%2e",
            r"/https://a.example/",
            r"/https://a.example/%2e%2e%2f",
            r"/https://a.example/%2f..",
            r"/x:1/:///%01javascript:alert(document.cookie)/",
            r"<>javascript:alert(1);",
            r"Javas%26%2399;ript:alert(1)",
            r"\152\141\166\141\163\143\162\151\160\164\072alert(1)",
            r"\u006A\u0061\u0076\u0061\u0073\u0063\u0072\u0069\u0070\u0074\u003aalert(1)",
            r"data:text/html;base64,PHNjcmlwdD5hbGVydCgiWFNTIik8L3NjcmlwdD4=",
            r"http://%67%6f%6f%67%6c%65%2e%63%6f%6d",
            r"http://b.example",
            r"http://00330.3856078",
            r"http://0xd8.0x3a.0xd6.0xce",
            r"http://0xd83ad6ce",
            r"http://3H6k7lIAiqjfNeN@b.example",
            r"http://3H6k7lIAiqjfNeN@00330.3856078",
            r"http://3H6k7lIAiqjfNeN@0xd8.0x3a.0xd6.0xce",
            r"http://3H6k7lIAiqjfNeN@0xd83ad6ce",
            r"http://3H6k7lIAiqjfNeN@[::b.example]",
            r"http://;@a.example",
            r"http://XY>.7d8T\205pZM@00330.0x3a.54990",
            r"http://XY>.7d8T\205pZM@0xd8.072.54990",
            r"http://XY>.7d8T\205pZM@0xd8.3856078",
            r"http://XY>.7d8T\205pZM@3627734734",
            r"http://XY>.7d8T\205pZM@[::ffff:b.example]",
            r"http://[::ffff:b.example]",
            r"http://a.example@00330.3856078",
            r"http://a.example@0xd8.0x3a.0xd6.0xce",
            r"http://a.example@0xd83ad6ce",
            r"http:b.example",
            r"http:00330.3856078",
            r"http:0xd8.0x3a.0xd6.0xce",
            r"http:0xd83ad6ce",
            r"http:3H6k7lIAiqjfNeN@b.example",
            r"http:3H6k7lIAiqjfNeN@00330.3856078",
            r"http:3H6k7lIAiqjfNeN@0xd8.0x3a.0xd6.0xce",
            r"http:3H6k7lIAiqjfNeN@0xd83ad6ce",
            r"http:3H6k7lIAiqjfNeN@[::b.example]",
            r"http:XY>.7d8T\205pZM@b.example",
            r"http:XY>.7d8T\205pZM@00330.3856078",
            r"http:XY>.7d8T\205pZM@0xd8.0x3a.0xd6.0xce",
            r"http:XY>.7d8T\205pZM@0xd83ad6ce",
            r"http:XY>.7d8T\205pZM@[::b.example]",
            r"http:[::b.example]",
            r"http:a.example@00330.0x3a.54990",
            r"http:a.example@0xd8.072.54990",
            r"http:a.example@0xd8.3856078",
            r"http:a.example@3627734734",
            r"https://%5ca.example",
            r"https:///a.example/%2f%2e%2e",
            r"https://a.example/",
            r"https://a.example/%2f%2e%2e",
            r"https://a.example//",
            r"jaVAscript://a.example//%0d%0aalert(1);//",
            r"java%09script:alert(1)",
            r"java%0d%0ascript%0d%0a:alert(0)",
            r"javascripT://anything%0D%0A%0D%0Awindow.alert(document.cookie)",
            r"javascript://a.example?%a0alert%281%29",
            r"javascript:alert(1)",
        ] {
            let decoded = percent_encoding::percent_decode_str(raw).decode_utf8_lossy();
            for rd in [raw, &*decoded] {
                let to = returns(rd);
                assert!(to.starts_with('/') && !to.starts_with("//") && !to.contains('\\'), "{rd:?}: {to}");
                assert_eq!(base.join(&to).unwrap().origin(), base.origin(), "{rd:?}: {to}");
            }
        }
    }

    #[test]
    fn another_host_of_ours_is_a_place_to_return_to_and_no_other() {
        let base = Url::parse("https://app.example.com/").unwrap();
        let returns = |rd: &str| ReturnTo::parse_among(rd, &base, |host| host == "grafana.example.com").0;
        for good in ["https://grafana.example.com/", "https://grafana.example.com/d/x?y=1#z", "/x"] {
            assert_eq!(returns(good), good);
        }
        assert_eq!(returns("https://GRAFANA.example.com:443"), "https://grafana.example.com/");
        for bad in [
            "http://grafana.example.com/",
            "https://grafana.example.com:8443/",
            "https://u@grafana.example.com/",
            "https://u:p@grafana.example.com/",
            "https://grafana.example.com.evil.example/",
            "https://evil.example/?grafana.example.com",
            "https://evil.example\\@grafana.example.com/",
            "https:///grafana.example.com/",
            "https:grafana.example.com/",
            "//grafana.example.com/",
            "https://grafana.example.com/\t",
            "https://grafana.example.com/api/v1/auth/logout",
            "https://grafana.example.com/api/v1/%61uth/login",
            "https://grafana.example.com//evil.example/api",
            "https://other.example.com/",
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
