//! Further claims of the provider about a user, for rules that refer to them.

use serde::{Deserialize, Serialize};

/// Further claims of the provider beside the identity: the strings of each claim that a rule refers to, and what the provider itself is judged
/// by again (Entra's tenant, which claim vouches for the username). A claim that is missing, or is
/// neither a string nor a list with strings, has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims(Vec<(String, Vec<String>)>);

impl Claims {
    /// Sets the strings of a claim; replaces earlier ones.
    pub fn set(&mut self, name: &str, texts: Vec<String>) {
        self.0.retain(|(known, _)| known != name);
        if !texts.is_empty() {
            self.0.push((name.to_owned(), texts));
        }
    }

    /// Whether the claim is that string, or a list with it.
    #[must_use]
    pub fn hold(&self, name: &str, text: &str) -> bool {
        self.texts(name).iter().any(|known| known == text)
    }

    /// The strings of a claim.
    #[must_use]
    pub fn texts(&self, name: &str) -> &[String] {
        self.0.iter().find(|(known, _)| known == name).map_or(&[], |(_, texts)| texts)
    }

    /// The claims with their strings.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.0.iter().map(|(name, texts)| (name.as_str(), texts.as_slice()))
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_compared_to_the_letter_and_a_missing_one_holds_nothing() {
        let mut claims = Claims::default();
        claims.set("department", vec!["Finance".into(), "ops".into()]);
        assert!(claims.hold("department", "ops") && claims.hold("department", "Finance"));
        assert!(!claims.hold("department", "finance") && !claims.hold("Department", "ops") && !claims.hold("x", ""));
        claims.set("department", Vec::new());
        assert!(claims.is_empty());
    }
}
