//! Parameters of a query or a form, without duplicates.

use url::form_urlencoded;

/// The parameters of a request, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// Parses `application/x-www-form-urlencoded`.
    ///
    /// # Errors
    ///
    /// The name of a duplicate: RFC 6749 §3.1 forbids it, and a provider and its client must never use different ones.
    pub(crate) fn parse(encoded: &[u8]) -> Result<Self, String> {
        let mut params: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(encoded) {
            if params.iter().any(|(known, _)| *known == name) {
                return Err(format!("the parameter \"{name}\" is given twice"));
            }
            params.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(params))
    }

    /// The value of `name`; an empty one counts as absent (RFC 6749 §3.1).
    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// All parameters except those that the page's own buttons add.
    pub(crate) fn of_request(&self) -> impl Iterator<Item = &(String, String)> {
        self.0.iter().filter(|(name, _)| name != "user" && name != "cancel")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_given_twice_is_refused_also_when_encoded() {
        assert!(Params::parse(b"state=a&st%61te=b").unwrap_err().contains("\"state\""));
    }

    #[test]
    fn an_empty_parameter_is_an_absent_one() {
        let params = Params::parse(b"nonce=&scope=a+b%20c").unwrap();
        assert_eq!(params.find("nonce"), None);
        assert_eq!(params.find("scope"), Some("a b c"));
    }
}
