//! A user's identity, as vouched for by a provider.

use serde::{Deserialize, Serialize};

use super::claims::Claims;

/// The kind of identity provider that vouched for an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// GitHub, at github.com or an Enterprise Server.
    Github,
    /// Microsoft Entra ID.
    Entra,
    /// Any OpenID Connect provider.
    Oidc,
}

impl ProviderKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Github, Self::Entra, Self::Oidc];

    /// The name that people configure and see: `github`, `entra` or `oidc`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Entra => "entra",
            Self::Oidc => "oidc",
        }
    }
}

/// An email address that the provider vouches for: exactly one `@`, with text on both sides, no white space or control characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Email(String);

/// The text is no email address that could be compared with an allow list.
#[derive(Debug, thiserror::Error)]
#[error("not an email address: it must have exactly one `@`, with text on both sides and no white space")]
pub struct NotAnEmail;

impl Email {
    /// Parses an address.
    ///
    /// # Errors
    /// [`NotAnEmail`] without exactly one `@`: with two, `a@evil.example@example.com` would end in an allowed domain.
    pub fn parse(text: &str) -> Result<Self, NotAnEmail> {
        let mut parts = text.split('@');
        let (Some(local), Some(domain), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NotAnEmail);
        };
        let odd = |c: char| c.is_whitespace() || c.is_control() || c == ',';
        if local.is_empty() || domain.is_empty() || text.len() > 320 || text.contains(odd) {
            return Err(NotAnEmail);
        }
        Ok(Self(text.to_owned()))
    }

    /// The address as the provider spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the `@`.
    #[must_use]
    pub fn domain(&self) -> &str {
        let at = self.0.bytes().position(|sign| sign == b'@');
        at.and_then(|at| self.0.get(at + 1..)).unwrap_or_default()
    }
}

impl TryFrom<String> for Email {
    type Error = NotAnEmail;

    fn try_from(text: String) -> Result<Self, NotAnEmail> {
        Self::parse(&text)
    }
}

impl From<Email> for String {
    fn from(email: Email) -> Self {
        email.0
    }
}

/// The user's name at the provider, and whether rules may trust it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Username {
    /// Unique at the provider and not changeable by its owner: a GitHub login, an Entra UPN, the claim named by `OAUTH_USERNAME_CLAIM`.
    Vouched(String),
    /// For display only: its owner may have chosen it freely.
    Displayed(String),
}

impl Username {
    /// The name, for display.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Vouched(name) | Self::Displayed(name) => name,
        }
    }

    /// The name, if rules and the upstream may rely on it; never empty.
    #[must_use]
    pub fn vouched(&self) -> Option<&str> {
        match self {
            Self::Vouched(name) if !name.is_empty() => Some(name),
            Self::Vouched(_) | Self::Displayed(_) => None,
        }
    }
}

/// A user's identity: rules decide by it, and the upstream receives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Who vouches for it.
    pub provider: ProviderKind,
    /// The provider's stable id; never empty.
    pub id: String,
    /// The vouched address, if there is one.
    pub email: Option<Email>,
    /// The display name; may be empty.
    pub name: String,
    /// The user's name at the provider; may be empty.
    pub username: Username,
    /// Groups in the provider's own terms; empty if no rule needs them and the provider does not send them.
    pub groups: Vec<String>,
    /// The claims that rules refer to.
    #[serde(default)]
    pub claims: Claims,
}

impl Identity {
    /// The user's single name for the upstream: the username if rules may trust it, else the vouched email, else the id.
    #[must_use]
    pub fn principal(&self) -> &str {
        self.username.vouched().or_else(|| self.email.as_ref().map(Email::as_str)).unwrap_or(&self.id)
    }

    /// The vouched address, or the empty string.
    #[must_use]
    pub fn email_str(&self) -> &str {
        self.email.as_ref().map_or("", Email::as_str)
    }
}

/// Something that belongs to a user.
pub trait Identified {
    /// The identity of that user.
    fn identity(&self) -> &Identity;
}

impl Identified for Identity {
    fn identity(&self) -> &Identity {
        self
    }
}

impl<T: Identified> Identified for &T {
    fn identity(&self) -> &Identity {
        (*self).identity()
    }
}

impl<T: Identified> Identified for std::sync::Arc<T> {
    fn identity(&self) -> &Identity {
        self.as_ref().identity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn someone(username: Username, email: Option<&str>) -> Identity {
        Identity {
            provider: ProviderKind::Oidc,
            id: "7".into(),
            email: email.map(|text| Email::parse(text).unwrap()),
            name: "Ann".into(),
            username,
            groups: Vec::new(),
            claims: crate::domain::claims::Claims::default(),
        }
    }

    #[test]
    fn an_address_has_exactly_one_at_sign() {
        for bad in
            ["", "ann", "@", "ann@", "@example.com", "a@b@example.com", "a b@example.com", "a@ex\nample.com", "a@b,c@d"]
        {
            assert!(Email::parse(bad).is_err(), "{bad:?} was taken");
        }
        assert_eq!(Email::parse("Ann@Example.com").unwrap().domain(), "Example.com");
    }

    #[test]
    fn the_principal_is_never_a_name_that_its_owner_may_edit() {
        let chosen = || Username::Displayed("admin".into());
        assert_eq!(someone(Username::Vouched("ann".into()), Some("ann@example.com")).principal(), "ann");
        assert_eq!(someone(chosen(), Some("ann@example.com")).principal(), "ann@example.com");
        assert_eq!(someone(chosen(), None).principal(), "7");
        assert_eq!(someone(Username::Vouched(String::new()), None).principal(), "7");
    }
}
