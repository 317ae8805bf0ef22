//! The names of identity fields that operators configure for any upstream: no client may set them, for any upstream.

use http::{HeaderMap, HeaderName};

/// Names that no client may set; all characters but letters and digits are read as `-`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ChosenNames {
    names: Vec<String>,
    /// Whether all names that begin with `impersonate-` are among them.
    impersonation: bool,
}

impl ChosenNames {
    pub(crate) fn new<'n>(names: impl Iterator<Item = &'n HeaderName>, impersonation: bool) -> Self {
        let mut names: Vec<String> = names.map(|name| folded(name.as_str())).collect();
        names.sort_unstable();
        names.dedup();
        Self { names, impersonation }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.names.is_empty() && !self.impersonation
    }

    /// Removes these fields, in any spelling.
    pub(crate) fn strip(&self, headers: &mut HeaderMap) {
        let is_one = |name: &&HeaderName| {
            let name = folded(name.as_str());
            self.names.binary_search(&name).is_ok() || (self.impersonation && name.starts_with("impersonate-"))
        };
        let doomed: Vec<HeaderName> = headers.keys().filter(is_one).cloned().collect();
        for name in doomed {
            headers.remove(name);
        }
    }
}

/// A name as read by servers that pass header fields as variables: they replace all other characters by one.
fn folded(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_names_go_in_any_spelling_and_no_others() {
        let names = [HeaderName::from_static("x-webauth_team")];
        let chosen = ChosenNames::new(names.iter(), true);
        let sent = ["x-webauth-team", "x.webauth.team", "x_webauth_team", "impersonate-user", "impersonate_extra-a"];
        let kept = ["x-webauth-teams", "impersonate", "authorization"];
        let mut headers: HeaderMap = sent
            .iter()
            .chain(&kept)
            .map(|name| (HeaderName::from_bytes(name.as_bytes()).unwrap(), "x".parse().unwrap()))
            .collect();
        chosen.strip(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "impersonate", "x-webauth-teams"]);
    }
}
