//! The usual header fields of an identity, and header fields that are sent repeatedly.

use http::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::domain::identity::Identity;

/// The name of the assertion among the usual identity fields.
pub static X_SIDEGATE_ASSERTION: HeaderName = HeaderName::from_static("x-sidegate-assertion");

/// Header fields that are sent repeatedly, as the text that HTTP/1.1 writes, made once.
pub struct ReadyFields(Box<[u8]>);

impl ReadyFields {
    /// Makes the text of the fields.
    #[must_use]
    pub fn new(fields: &[(HeaderName, HeaderValue)]) -> Self {
        let length = fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        let mut text = Vec::with_capacity(length);
        for (name, value) in fields {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                text.extend_from_slice(part);
            }
        }
        Self(text.into())
    }

    /// The fields of an identity that `provider` vouches for; a field without a value is empty. User is the username where the policy may
    /// use it, else the vouched email, else the id; the preferred username may be for display only.
    #[must_use]
    pub fn of(identity: &Identity, provider: &str) -> Self {
        // Written at once: sessions are made ready by the thousand. What is encoded is printable ASCII, so always a valid value.
        let mut text = String::with_capacity(512);
        let push = |text: &mut String, name: &str, value: &str| {
            text.push_str(name);
            push_encoded(text, value, TEXT);
            text.push_str("\r\n");
        };
        push(&mut text, "x-forwarded-user: ", identity.principal());
        push(&mut text, "x-forwarded-email: ", identity.email_str());
        push(&mut text, "x-forwarded-preferred-username: ", identity.username.as_str());
        text.push_str("x-forwarded-groups: ");
        push_list(&mut text, &identity.groups);
        text.push_str("\r\n");
        push(&mut text, "x-forwarded-user-id: ", &identity.id);
        push(&mut text, "x-forwarded-name: ", &identity.name);
        push(&mut text, "x-forwarded-provider: ", provider);
        Self(text.as_bytes().into())
    }

    /// The identity fields for proxies that only ask (forward-auth), to copy to the request that they forward. `None`: no identity; all
    /// fields are empty, so that a proxy that copies them overwrites what a client has sent.
    #[must_use]
    pub fn for_asking_proxies(identity: Option<&Identity>) -> [(HeaderName, HeaderValue); 5] {
        let text =
            |text: fn(&Identity) -> &str| value(&identity.map(|who| encode(text(who), TEXT)).unwrap_or_default());
        [
            ("x-auth-request-user", text(Identity::principal)),
            ("x-auth-request-email", text(Identity::email_str)),
            ("x-auth-request-preferred-username", text(|who| who.username.as_str())),
            ("x-auth-request-groups", value(&identity.map(|who| list(&who.groups)).unwrap_or_default())),
            ("x-auth-request-user-id", text(|who| &who.id)),
        ]
        .map(|(name, value)| (HeaderName::from_static(name), value))
    }

    /// Each field, for HTTP/2: marked sensitive, since it describes a person, so that HPACK does not index it.
    pub fn iter(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let lines = self.0.split(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\r"));
        lines.filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let (name, value) = line.split_at_checked(colon)?;
            let mut value = HeaderValue::from_bytes(value.strip_prefix(b": ")?).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::from_bytes(name).ok()?, value))
        })
    }

    /// All fields as HTTP/1.1 writes them, each with its CRLF.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.0
    }
}

/// What is percent-encoded in an identity header: `%`, control characters and (by the crate) all bytes beyond ASCII.
pub(super) const TEXT: &AsciiSet = &CONTROLS.add(b'%');
/// In a list item also the comma, which separates items.
pub(super) const ITEM: &AsciiSet = &TEXT.add(b',');

/// Encodes a value of an identity, or ([`ITEM`]) an item of a list.
pub(super) fn encode(text: &str, set: &'static AsciiSet) -> String {
    let mut encoded = String::with_capacity(text.len());
    push_encoded(&mut encoded, text, set);
    encoded
}

/// The same, behind what is written already. Spaces at either end are encoded too: recipients of header fields strip them (RFC 9110
/// §5.5), and `ann ` would become `ann`, another person.
fn push_encoded(written: &mut String, text: &str, set: &'static AsciiSet) {
    let from_start = text.trim_start_matches(' ');
    let inner = from_start.trim_end_matches(' ');
    let push_spaces = |written: &mut String, number: usize| (0..number).for_each(|_| written.push_str("%20"));
    push_spaces(written, text.len() - from_start.len());
    written.extend(utf8_percent_encode(inner, set));
    push_spaces(written, from_start.len() - inner.len());
}

/// Joins items by commas.
fn list(items: &[String]) -> String {
    let mut written = String::new();
    push_list(&mut written, items);
    written
}

/// The same, behind what is written already.
fn push_list(written: &mut String, items: &[String]) {
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            written.push(',');
        }
        push_encoded(written, item, ITEM);
    }
}

/// Encoded text is printable ASCII, so it is always a valid header value.
pub(super) fn value(encoded: &str) -> HeaderValue {
    HeaderValue::from_str(encoded).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::identity::{ProviderKind, Username};

    #[test]
    fn identity_headers_are_percent_encoded() {
        let ready = ReadyFields::of(
            &Identity {
                provider: ProviderKind::Oidc,
                id: "a\r\nX-Forwarded-User: root".into(),
                email: None,
                name: "Zo\u{eb} <b>, 100%".into(),
                username: Username::Displayed("zoe".into()),
                groups: vec!["a,b".into(), "c d".into(), "\u{7f}".into()],
                claims: crate::domain::claims::Claims::default(),
            },
            "oidc",
        );
        let text = "x-forwarded-user: a%0D%0AX-Forwarded-User: root\r\n\
                    x-forwarded-email: \r\n\
                    x-forwarded-preferred-username: zoe\r\n\
                    x-forwarded-groups: a%2Cb,c d,%7F\r\n\
                    x-forwarded-user-id: a%0D%0AX-Forwarded-User: root\r\n\
                    x-forwarded-name: Zo%C3%AB <b>, 100%25\r\n\
                    x-forwarded-provider: oidc\r\n";
        assert_eq!(std::str::from_utf8(ready.text()).unwrap(), text);
        let fields = ready.iter().map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap()));
        assert_eq!(fields.collect::<String>(), text);
    }

    #[test]
    fn blanks_at_either_end_are_encoded() {
        for (text, encoded) in [
            ("ann ", "ann%20"),
            ("  ann b  ", "%20%20ann b%20%20"),
            ("\tann\t", "%09ann%09"),
            (" \t ", "%20%09%20"),
            ("  ", "%20%20"),
            (" ", "%20"),
            ("", ""),
            ("\u{a0}ann", "%C2%A0ann"),
        ] {
            assert_eq!(encode(text, TEXT), encoded, "{text:?}");
            assert_eq!(encode(text, ITEM), encoded, "{text:?}");
        }
        let groups = vec![" ops".into(), "ops ".into(), "a b".into()];
        let name = "Ann ".into();
        let (provider, username) = (ProviderKind::Oidc, Username::Displayed(" ann".into()));
        let ready = ReadyFields::of(
            &Identity {
                provider,
                id: "1 ".into(),
                email: None,
                name,
                username,
                groups,
                claims: crate::domain::claims::Claims::default(),
            },
            "oidc",
        );
        let text = std::str::from_utf8(ready.text()).unwrap();
        assert!(text.contains("x-forwarded-groups: %20ops,ops%20,a b\r\n"), "{text}");
        assert!(
            text.contains("-user-id: 1%20\r\n") && text.contains("-name: Ann%20\r\n") && text.contains(": %20ann\r\n"),
            "{text}"
        );
    }
}
