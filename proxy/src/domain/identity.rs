//! Who someone is, as a provider vouches for it.

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
    /// All there are.
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

/// An email address that the provider vouches for: exactly one `@`, something on both sides, no white space or control characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Email(String);

/// Text that is not an email address we would compare with an allow list.
#[derive(Debug, thiserror::Error)]
#[error("not an email address: it must have exactly one `@`, with text on both sides and no white space")]
pub struct NotAnEmail;

impl Email {
    /// Takes `text` as an address.
    ///
    /// # Errors
    /// [`NotAnEmail`] for other than one `@`: two would let `a@evil.example@example.com` end in a domain that is allowed.
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

    /// The part behind the `@`.
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

/// What a provider calls the person, and whether the policy may believe it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Username {
    /// Unique at the provider and not its owner's to edit: a GitHub login, an Entra UPN, the claim named by `OAUTH_USERNAME_CLAIM`.
    Vouched(String),
    /// For display only: anybody may have chosen it.
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

    /// The name where the policy and the upstream may rely on it; never empty.
    #[must_use]
    pub fn vouched(&self) -> Option<&str> {
        match self {
            Self::Vouched(name) if !name.is_empty() => Some(name),
            Self::Vouched(_) | Self::Displayed(_) => None,
        }
    }
}

/// Who someone is: what the policy judges and what the upstream is told.
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
    /// The provider's name for the person; may be empty.
    pub username: Username,
    /// Groups in the provider's own terms; empty where no rule asks for them and the provider does not send them.
    pub groups: Vec<String>,
    /// The claims that rules name.
    #[serde(default)]
    pub claims: Claims,
}

impl Identity {
    /// The one name that the upstream knows the person by: the username where the policy may use it, else the vouched email, else the id.
    #[must_use]
    pub fn principal(&self) -> &str {
        self.username.vouched().or_else(|| self.email.as_ref().map(Email::as_str)).unwrap_or(&self.id)
    }

    /// The vouched address, or nothing.
    #[must_use]
    pub fn email_str(&self) -> &str {
        self.email.as_ref().map_or("", Email::as_str)
    }
}

/// Something that knows whose it is.
pub trait Identified {
    /// Whose it is.
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
