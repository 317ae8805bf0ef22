//! A client certificate of a connection: the names that rules can refer to.

use super::time::Timestamp;

/// The name that every certificate has, for rules that require no particular one.
pub const ANY: &str = "any";

/// The content of a client certificate that was verified against a trusted authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    names: Vec<String>,
    not_after: Timestamp,
}

impl ClientCertificate {
    /// A certificate with these names and this expiry.
    #[must_use]
    pub fn new(names: impl IntoIterator<Item = CertificateName>, not_after: Timestamp) -> Self {
        let names = std::iter::once(ANY.to_owned()).chain(names.into_iter().map(|CertificateName(name)| name));
        Self { names: names.collect(), not_after }
    }

    /// All names in the format of rules, including [`ANY`].
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether it has not expired.
    #[must_use]
    pub fn is_valid(&self, now: Timestamp) -> bool {
        now <= self.not_after
    }
}

/// A name of a certificate in the format of rules after `cert:`: `any`, or its kind and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateName(String);

/// The kinds of names in a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind {
    /// The subject's Common Name.
    CommonName,
    /// A DNS name of the subject alternative names.
    Dns,
    /// A URI of the subject alternative names.
    Uri,
    /// An email address of the subject alternative names.
    Email,
}

impl NameKind {
    const ALL: [Self; 4] = [Self::CommonName, Self::Dns, Self::Uri, Self::Email];

    const fn as_str(self) -> &'static str {
        match self {
            Self::CommonName => "CN",
            Self::Dns => "DNS",
            Self::Uri => "URI",
            Self::Email => "EMAIL",
        }
    }
}

impl CertificateName {
    /// A name of that kind; `None` if the text is not valid.
    #[must_use]
    pub fn new(kind: NameKind, text: &str) -> Option<Self> {
        let fits = !text.is_empty() && !text.contains(char::is_control);
        // Only host names are compared without case.
        let text = if kind == NameKind::Dns { text.to_ascii_lowercase() } else { text.to_owned() };
        fits.then(|| Self(format!("{}={text}", kind.as_str())))
    }

    /// Parses the text after `cert:`; a name without a kind is a Common Name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == ANY {
            return Some(Self(ANY.to_owned()));
        }
        let Some((kind, text)) = text.split_once('=') else {
            let is_slip = text.eq_ignore_ascii_case(ANY);
            return Self::new(NameKind::CommonName, text).filter(|_| !is_slip);
        };
        Self::new(NameKind::ALL.into_iter().find(|known| known.as_str() == kind)?, text)
    }

    /// The name in the format of rules.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_its_kind_and_is_compared_to_the_letter() {
        for (text, name) in [
            ("any", Some("any")),
            ("CN=laptop-7", Some("CN=laptop-7")),
            ("CN=a=b, c", Some("CN=a=b, c")),
            ("DNS=Laptop-7.Example.com", Some("DNS=laptop-7.example.com")),
            ("URI=spiffe://Example.org/x", Some("URI=spiffe://Example.org/x")),
            ("EMAIL=Ann@example.com", Some("EMAIL=Ann@example.com")),
            ("", None),
            ("laptop-7", Some("CN=laptop-7")),
            ("cn=laptop-7", None),
            ("O=acme", None),
            ("CN=", None),
            ("CN=a\nb", None),
            ("Any", None),
        ] {
            assert_eq!(CertificateName::parse(text).as_ref().map(CertificateName::as_str), name, "{text:?}");
        }
    }

    #[test]
    fn a_certificate_ends() {
        let certificate = ClientCertificate::new(CertificateName::parse("CN=a"), Timestamp::from_secs(10));
        assert_eq!(certificate.names(), ["any", "CN=a"]);
        assert!(certificate.is_valid(Timestamp::from_secs(10)) && !certificate.is_valid(Timestamp::from_secs(11)));
    }
}
