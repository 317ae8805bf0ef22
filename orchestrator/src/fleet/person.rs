//! Who acts in a cluster, where the cluster is to decide by person.

use http::{HeaderMap, HeaderName, HeaderValue};

const USER: HeaderName = HeaderName::from_static("impersonate-user");
const GROUP: HeaderName = HeaderName::from_static("impersonate-group");
/// Kubernetes' own names: nobody who signs in is one of them.
const RESERVED: &str = "system:";
/// How long a name may be, in bytes, and how many groups are sent.
const NAME_MOST: usize = 256;
const GROUPS_MOST: usize = 200;

/// A person as clusters know them: names with the operator's prefix, checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Person {
    user: String,
    groups: Vec<String>,
}

/// Who looks: the program itself, or a person, who may be nobody.
#[derive(Clone, Debug, Default)]
pub enum Viewer {
    /// Nobody has to be asked: for numbers that name nothing.
    #[default]
    Program,
    /// A person; where they are nobody, the reason.
    Person(Result<Person, String>),
}

/// How a cluster is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// Whether what people see and do there is what the cluster lets them.
    pub as_person: bool,
    /// The only namespaces that are looked at, where the credentials suffice for no more; none means all.
    pub namespaces: Vec<String>,
}

/// Why a person is nobody in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAPerson {
    /// There is no name.
    #[error(
        "the sign-in gives no name of the kind that ORCHESTRATOR_IMPERSONATE_USER wants, so that the cluster cannot be asked as that person"
    )]
    Empty,
    /// A name of Kubernetes' own.
    #[error("names that begin with `system:` are Kubernetes' own: nobody may act by one")]
    Reserved,
    /// A name that cannot be sent.
    #[error("the name holds characters that cannot be sent to a cluster, or is too long")]
    Unfit,
}

impl Person {
    /// A person by this name and these groups; each gets the prefix. A group that is Kubernetes' own, or cannot be sent, is left
    /// out.
    ///
    /// # Errors
    /// Why there is no such person.
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

    /// The name that clusters know.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The fields that have a cluster act as this person.
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        // Both were found fit to be sent.
        if let Ok(user) = HeaderValue::from_bytes(self.user.as_bytes()) {
            headers.insert(USER, user);
        }
        for group in self.groups.iter().filter_map(|group| HeaderValue::from_bytes(group.as_bytes()).ok()) {
            headers.append(GROUP, group);
        }
        headers
    }
}

/// A name, trimmed first: what a server would trim must not begin otherwise for it than for us.
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
