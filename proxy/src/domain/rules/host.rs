//! Host names, in requests and in rules.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use thiserror::Error;
use url::Host;

/// A host name in the form that rules compare: in lower case, without a port and without trailing dots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName<'a>(Cow<'a, str>);

impl<'a> HostName<'a> {
    /// Reads a `Host` header field, or its substitute.
    #[must_use]
    pub fn of(text: &'a str) -> Self {
        if let Some((address, _)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            // One address has many spellings.
            return Self(match address.parse::<Ipv6Addr>() {
                Ok(address) => Cow::Owned(in_brackets(address)),
                Err(_) => Cow::Owned(text.to_ascii_lowercase()),
            });
        }
        let name = text.split_once(':').map_or(text, |(name, _)| name).trim_end_matches('.');
        if name.bytes().any(|b| b.is_ascii_uppercase()) {
            Self(Cow::Owned(name.to_ascii_lowercase()))
        } else {
            Self(Cow::Borrowed(name))
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The hosts that a rule applies to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostPattern {
    /// All.
    #[default]
    Every,
    /// One host.
    One(String),
    /// All with one or more labels before this name.
    Below(String),
}

/// Why a host cannot occur in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadHost {
    /// A URL, or a name with a path.
    #[error("is a URL: write the host's name alone, such as `app.example.com`")]
    Url,
    /// A `*` that is not the first label.
    #[error(
        "has a `*` that is not its whole first label: write `*.example.com` for all names below one, or leave `host` out for every host"
    )]
    Wildcard,
    /// Several hosts in one text.
    #[error("holds a comma, and a rule has one host: write a second rule for the other one")]
    Several,
    /// Neither a name nor an address.
    #[error("is not the name of a host, such as `app.example.com` or `*.example.com`")]
    Name,
}

impl HostPattern {
    /// Reads `app.example.com` or `*.example.com`.
    ///
    /// # Errors
    /// [`BadHost`]: no request could have that host.
    pub fn parse(text: &str) -> Result<Self, BadHost> {
        if text.contains('/') {
            return Err(BadHost::Url);
        }
        if text.contains(',') {
            return Err(BadHost::Several);
        }
        let (below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        if name.contains('*') {
            return Err(BadHost::Wildcard);
        }
        let name = match name.rsplit_once(':') {
            Some((name, port)) if !port.is_empty() && !port.ends_with(']') && port.parse::<u16>().is_ok() => name,
            Some(_) | None => name,
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        match Host::parse(name) {
            Ok(Host::Domain(name)) if !is_name(&name) => Err(BadHost::Name),
            Ok(Host::Domain(name)) if below => Ok(Self::Below(name)),
            Ok(Host::Ipv6(address)) if !below => Ok(Self::One(in_brackets(address))),
            Ok(host) if !below => Ok(Self::One(host.to_string())),
            Ok(_) | Err(_) => Err(BadHost::Name),
        }
    }

    /// Whether the pattern matches that host.
    #[must_use]
    pub fn matches(&self, host: &HostName<'_>) -> bool {
        match self {
            Self::Every => true,
            Self::One(name) => name == host.as_str(),
            Self::Below(domain) => is_below(host.as_str(), domain),
        }
    }

    /// Whether some host matches both patterns.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// Whether it matches every host that `other` matches.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Every, _) => true,
            (_, Self::Every) | (Self::One(_), Self::Below(_)) => false,
            (Self::One(mine), Self::One(name)) => mine == name,
            (Self::Below(domain), Self::One(name)) => is_below(name, domain),
            (Self::Below(domain), Self::Below(other)) => domain == other || is_below(other, domain),
        }
    }
}

/// Whether a request can have the name: URLs allow more signs in theirs, and a `Host` field with one of these is refused.
fn is_name(name: &str) -> bool {
    let is_sign = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'~');
    name.split('.').all(|label| !label.is_empty() && label.bytes().all(is_sign))
}

/// The one spelling of an address by which hosts are compared.
fn in_brackets(address: Ipv6Addr) -> String {
    format!("[{address}]")
}

fn is_below(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).and_then(|front| front.strip_suffix('.')).is_some_and(|front| !front.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_port_and_a_dot_at_the_end_do_not_matter() {
        let one = HostPattern::parse("App.Example.com:8443").unwrap();
        for host in
            ["app.example.com", "APP.example.COM", "app.example.com:1", "app.example.com.", "app.example.com.:80"]
        {
            assert!(one.matches(&HostName::of(host)), "{host}");
        }
        for host in ["example.com", "x.app.example.com", "app.example.com.evil", "", "xapp.example.com"] {
            assert!(!one.matches(&HostName::of(host)), "{host}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_one_label_or_more_in_front() {
        let below = HostPattern::parse("*.example.com").unwrap();
        for (host, matches) in [
            ("a.example.com", true),
            ("b.a.example.com:80", true),
            ("A.EXAMPLE.COM.", true),
            ("example.com", false),
            (".example.com", false),
            ("xexample.com", false),
            ("a.example.com.evil.org", false),
        ] {
            assert_eq!(below.matches(&HostName::of(host)), matches, "{host}");
        }
    }

    #[test]
    fn addresses_are_hosts_in_any_spelling() {
        let six = HostPattern::parse("[::1]").unwrap();
        assert!(six.matches(&HostName::of("[0:0::1]:8080")) && !six.matches(&HostName::of("[::2]")));
        for (pattern, host) in [
            ("[::ffff:192.0.2.1]", "[::ffff:192.0.2.1]"),
            ("[::ffff:c000:201]", "[::FFFF:192.0.2.1]:80"),
            ("[::192.0.2.1]", "[::c000:201]"),
            ("[2001:db8:0:0:1::]", "[2001:db8::1:0:0:0]"),
        ] {
            assert!(HostPattern::parse(pattern).unwrap().matches(&HostName::of(host)), "{pattern} {host}");
        }
        assert!(HostPattern::parse("127.0.0.1:80").unwrap().matches(&HostName::of("127.0.0.1")));
        assert_eq!(
            HostPattern::parse("b\u{fc}cher.example").unwrap(),
            HostPattern::One("xn--bcher-kva.example".into())
        );
    }

    #[test]
    fn hosts_that_no_request_names_are_faults() {
        for (bad, why) in [
            ("https://a.example", BadHost::Url),
            ("a.example/x", BadHost::Url),
            ("*", BadHost::Wildcard),
            ("a.*.example", BadHost::Wildcard),
            ("*a.example", BadHost::Wildcard),
            ("", BadHost::Name),
            ("a b", BadHost::Name),
            ("a..example", BadHost::Name),
            (".example", BadHost::Name),
            ("*.127.0.0.1", BadHost::Name),
            ("a:b", BadHost::Name),
            ("app.example.com,www.example.com", BadHost::Several),
            ("*.a.example, *.b.example", BadHost::Several),
            ("{a,b}.example.com", BadHost::Several),
            ("(app).example.com", BadHost::Name),
            ("*.{app}.example.com", BadHost::Name),
            ("app+www.example.com", BadHost::Name),
            ("a%2cb.example.com", BadHost::Name),
            ("$host", BadHost::Name),
        ] {
            assert_eq!(HostPattern::parse(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn names_with_signs_that_a_request_may_have_are_hosts() {
        for good in
            ["my_app.example.com", "*.my_app.example.com", "a-b~c.example", "localhost", "app.example.com.", "1.a"]
        {
            assert!(HostPattern::parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn what_covers_what() {
        let pattern = |text: &str| HostPattern::parse(text).unwrap_or_default();
        for (wide, narrow, covers) in [
            ("*", "a.example", true),
            ("*.example", "a.example", true),
            ("*.example", "*.b.example", true),
            ("*.b.example", "*.example", false),
            ("*.example", "example", false),
            ("a.example", "*.example", false),
            ("a.example", "*", false),
            ("a.example", "A.example", true),
        ] {
            assert_eq!(pattern(wide).covers(&pattern(narrow)), covers, "{wide} {narrow}");
        }
    }
}
