//! The identity as header values.

use http::HeaderValue;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::domain::identity::Identity;

/// The identity as header values, ready to be cloned into requests. Empty where there is nothing to say.
pub struct IdentityHeaders {
    /// Username where the policy may use it, else vouched email, else id.
    pub user: HeaderValue,
    /// The vouched email.
    pub email: HeaderValue,
    /// The username, also one for display only.
    pub preferred_username: HeaderValue,
    /// The groups, comma-separated.
    pub groups: HeaderValue,
    /// The provider's stable id.
    pub user_id: HeaderValue,
    /// The display name.
    pub name: HeaderValue,
    /// `github`, `entra` or `oidc`.
    pub provider: HeaderValue,
}

impl IdentityHeaders {
    /// Encodes an identity.
    #[must_use]
    pub fn of(identity: &Identity) -> Self {
        let groups: Vec<String> = identity.groups.iter().map(|group| encode(group, GROUP)).collect();
        Self {
            user: value(&encode(identity.principal(), TEXT)),
            email: value(&encode(identity.email_str(), TEXT)),
            preferred_username: value(&encode(identity.username.as_str(), TEXT)),
            groups: value(&groups.join(",")),
            user_id: value(&encode(&identity.id, TEXT)),
            name: value(&encode(&identity.name, TEXT)),
            provider: HeaderValue::from_static(identity.provider.as_str()),
        }
    }
}

/// What is percent-encoded in an identity header: `%`, control characters and (by the crate) all bytes beyond ASCII.
const TEXT: &AsciiSet = &CONTROLS.add(b'%');
/// In a group also the comma, which separates groups.
const GROUP: &AsciiSet = &TEXT.add(b',');

fn encode(text: &str, set: &'static AsciiSet) -> String {
    utf8_percent_encode(text, set).to_string()
}

/// Encoded text is printable ASCII, so it always is a header's value.
fn value(encoded: &str) -> HeaderValue {
    HeaderValue::from_str(encoded).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::identity::{ProviderKind, Username};

    #[test]
    fn identity_headers_are_percent_encoded() {
        let headers = IdentityHeaders::of(&Identity {
            provider: ProviderKind::Oidc,
            id: "a\r\nX-Forwarded-User: root".into(),
            email: None,
            name: "Zo\u{eb} <b>, 100%".into(),
            username: Username::Displayed("zoe".into()),
            groups: vec!["a,b".into(), "c d".into(), "\u{7f}".into()],
        });
        assert_eq!(headers.user, "a%0D%0AX-Forwarded-User: root");
        assert_eq!(headers.name, "Zo%C3%AB <b>, 100%25");
        assert_eq!(headers.groups, "a%2Cb,c d,%7F");
        assert_eq!(headers.email, "");
        assert_eq!(headers.preferred_username, "zoe");
    }
}
