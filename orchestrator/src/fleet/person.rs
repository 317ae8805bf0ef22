//! The identity that requests to a cluster impersonate.

use http::{HeaderMap, HeaderName, HeaderValue};

const USER: HeaderName = HeaderName::from_static("impersonate-user");
const GROUP: HeaderName = HeaderName::from_static("impersonate-group");
/// Names reserved for Kubernetes: no signed-in user may have one.
const RESERVED: &str = "system:";
/// The longest name, in bytes, and the most groups that are sent.
const NAME_MOST: usize = 256;
const GROUPS_MOST: usize = 200;

/// A person as clusters know them: checked names with the operator's prefix.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Person {
    user: String,
    groups: Vec<String>,
}

/// Who views: the program itself, or a person.
#[derive(Clone, Debug, Default)]
pub enum Viewer {
    /// The program itself, without permission checks: for numbers that name nothing.
    #[default]
    Program,
    /// A person; or why there is no valid identity.
    Person(Result<Person, String>),
}

/// How a cluster is watched and accessed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchOptions {
    /// Whether requests impersonate the user.
    pub as_person: bool,
    /// The only namespaces that are watched, if the credentials allow no more; empty means all.
    pub namespaces: Vec<String>,
}

/// Why a person cannot be impersonated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAPerson {
    /// There is no name.
    #[error(
        "the sign-in gives no name of the kind that ORCHESTRATOR_IMPERSONATE_USER wants, so that the cluster cannot be asked as that person"
    )]
    Empty,
    /// A name reserved for Kubernetes.
    #[error("names that begin with `system:` are Kubernetes' own: nobody may act by one")]
    Reserved,
    /// A name that cannot be sent.
    #[error("the name holds characters that cannot be sent to a cluster, or is too long")]
    Unfit,
}

impl Person {
    /// A person with this name and these groups; each gets the prefix. Reserved groups, and those that cannot be sent, are left out.
    ///
    /// # Errors
    /// Why the person cannot be impersonated.
    pub fn new(user: &str, groups: &[String], prefix: &str) -> Result<Self, NotAPerson> {
        let user = checked(user)?;
        let groups = groups.iter().filter_map(|group| match checked(group) {
            Ok(group) => Some(format!("{prefix}{group}")),
            Err(reason) => {
                tracing::warn!(%reason, "a group is left out of what clusters are asked as");
                None
            }
        });
        Ok(Self { user: format!("{prefix}{user}"), groups: groups.take(GROUPS_MOST).collect() })
    }

    /// The name in clusters.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The impersonation header fields for this person.
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        // Both were checked before.
        if let Ok(user) = HeaderValue::from_bytes(self.user.as_bytes()) {
            headers.insert(USER, user);
        }
        for group in self.groups.iter().filter_map(|group| HeaderValue::from_bytes(group.as_bytes()).ok()) {
            headers.append(GROUP, group);
        }
        headers
    }
}

/// Trims a name before checking it: a server that trims must not see another prefix than we do.
fn checked(name: &str) -> Result<&str, NotAPerson> {
    let name = name.trim();
    if name.is_empty() {
        return Err(NotAPerson::Empty);
    }
    if name.get(..RESERVED.len()).is_some_and(|start| start.eq_ignore_ascii_case(RESERVED)) {
        return Err(NotAPerson::Reserved);
    }
    if name.len() > NAME_MOST || name.chars().any(char::is_control) {
        return Err(NotAPerson::Unfit);
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_own_names_and_empty_ones_are_nobody() {
        for (user, reason) in [
            ("", NotAPerson::Empty),
            (" \t", NotAPerson::Empty),
            ("system:admin", NotAPerson::Reserved),
            ("  system:masters", NotAPerson::Reserved),
            ("System:node", NotAPerson::Reserved),
            ("a\nb", NotAPerson::Unfit),
            (&"a".repeat(257), NotAPerson::Unfit),
        ] {
            assert_eq!(Person::new(user, &[], ""), Err(reason), "{user:?}");
            assert_eq!(Person::new(user, &[], "flux:"), Err(reason), "{user:?}");
        }
    }

    #[test]
    fn user_and_groups_get_the_prefix_and_reserved_groups_are_left_out() {
        let groups = ["acme/ops".to_owned(), "system:masters".into(), String::new(), " dev ".into()];
        let headers = Person::new(" ann ", &groups, "flux:").unwrap().headers();
        assert_eq!(headers.get_all(USER).iter().collect::<Vec<_>>(), ["flux:ann"]);
        assert_eq!(headers.get_all(GROUP).iter().collect::<Vec<_>>(), ["flux:acme/ops", "flux:dev"]);
    }
}
