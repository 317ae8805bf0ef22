//! Allow lists: users and groups, as operators name them.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::identity::{Email, Identity, ProviderKind};

/// Whom the operator admits. The lists add up: one entry in any of them is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowLists {
    /// `OAUTH_ALLOWED_USERS`, with the file's entries; `None` if neither is set.
    pub users: Option<AllowedUsers>,
    /// `OAUTH_ALLOWED_GROUPS`; `None` if it is not set.
    pub groups: Option<AllowedGroups>,
}

impl AllowLists {
    /// Whether no list limits access: everyone who signs in at the provider is admitted.
    #[must_use]
    pub fn admits_everyone(&self) -> bool {
        (self.users.is_none() && self.groups.is_none()) || self.users.as_ref().is_some_and(|users| users.everyone)
    }

    /// Whether a list names that user. Without lists, nobody is named.
    #[must_use]
    pub fn lists(&self, who: &Identity) -> bool {
        self.users.as_ref().is_some_and(|users| users.lists(who))
            || self.groups.as_ref().is_some_and(|groups| groups.lists(who))
    }

    /// Whether a list names that user, or no list limits access.
    #[must_use]
    pub fn admits(&self, who: &Identity) -> bool {
        self.admits_everyone() || self.lists(who)
    }
}

/// A list of users: by vouched email, by the email's domain, by id, by username.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedUsers {
    everyone: bool,
    emails: BTreeSet<String>,
    domains: BTreeSet<String>,
    ids: BTreeSet<String>,
    /// Those that are GUIDs, in lower case.
    folded_ids: BTreeSet<String>,
    usernames: BTreeSet<String>,
    folded_usernames: BTreeSet<String>,
}

/// Why an entry could never match, or not as intended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// An address with other than one `@`.
    #[error("`{0}` is not an email address (`ann@example.com`) or a domain (`@example.com`)")]
    Address(String),
    /// `id:` without an id, or in capitals.
    #[error("`{0}` is no id: write `id:`, in small letters, and the provider's stable id, such as `id:583231`")]
    Id(String),
    /// `group:` belongs to another list.
    #[error("`{0}` is a group: name it in OAUTH_ALLOWED_GROUPS, without `group:`")]
    Group(String),
    /// An entry of a rule.
    #[error("`{0}` is an entry of a rule: write it in the file, below [[routes]], as `allow = [\"{0}\"]`")]
    OfRule(String),
    /// Wildcards other than a single `*` would be compared literally.
    #[error("`{0}` is not a pattern that is understood: `*` alone is everyone, `@example.com` is a domain")]
    Pattern(String),
}

impl AllowedUsers {
    /// Parses a list's entries.
    ///
    /// # Errors
    /// All invalid entries, not only the first.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, Vec<BadEntry>> {
        let mut list = Self::default();
        let faults: Vec<BadEntry> = entries.into_iter().filter_map(|entry| list.add(entry.trim()).err()).collect();
        if faults.is_empty() { Ok(list) } else { Err(faults) }
    }

    fn add(&mut self, entry: &str) -> Result<(), BadEntry> {
        if entry.is_empty() {
            return Ok(());
        }
        // Such an entry would count as an email or a username, which nobody has.
        let prefix = entry.split_once(':').map(|(prefix, _)| prefix.trim_end().to_ascii_lowercase());
        match prefix.as_deref() {
            Some("claim" | "cert" | "provider") => return Err(BadEntry::OfRule(entry.to_owned())),
            Some("group") => return Err(BadEntry::Group(entry.to_owned())),
            Some("id") if !entry.starts_with("id:") => return Err(BadEntry::Id(entry.to_owned())),
            Some(_) | None => {}
        }
        if entry == "*" {
            self.everyone = true;
        } else if entry.contains('*') {
            return Err(BadEntry::Pattern(entry.to_owned()));
        } else if let Some(id) = entry.strip_prefix("id:") {
            if id.trim().is_empty() {
                return Err(BadEntry::Id(entry.to_owned()));
            }
            let id = id.trim();
            self.ids.insert(id.to_owned());
            if is_guid(id) {
                self.folded_ids.insert(id.to_ascii_lowercase());
            }
        } else if let Some(domain) = entry.strip_prefix('@') {
            // `@.example.com` would be meant for all subdomains, and match none.
            if domain.is_empty() || domain.starts_with('.') || domain.contains(|c: char| c == '@' || c.is_whitespace())
            {
                return Err(BadEntry::Address(entry.to_owned()));
            }
            self.domains.insert(domain.to_ascii_lowercase());
        } else if entry.contains('@') {
            let email = Email::parse(entry).map_err(|_| BadEntry::Address(entry.to_owned()))?;
            self.emails.insert(email.as_str().to_ascii_lowercase());
        } else {
            self.usernames.insert(entry.to_owned());
            self.folded_usernames.insert(entry.to_ascii_lowercase());
        }
        Ok(())
    }

    /// The number of entries, without `*`.
    #[must_use]
    pub fn len(&self) -> usize {
        self.emails.len() + self.domains.len() + self.ids.len() + self.usernames.len()
    }

    /// Whether it has no entries, except perhaps `*`.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Merges both lists.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.everyone |= other.everyone;
        self.emails.extend(other.emails);
        self.domains.extend(other.domains);
        self.ids.extend(other.ids);
        self.folded_ids.extend(other.folded_ids);
        self.usernames.extend(other.usernames);
        self.folded_usernames.extend(other.folded_usernames);
        self
    }

    /// Whether an entry names that user.
    #[must_use]
    pub fn lists(&self, who: &Identity) -> bool {
        self.everyone || self.lists_id_of(who) || self.lists_email_of(who) || self.lists_username_of(who)
    }

    /// Entra's ids are GUIDs, which are unique ignoring case.
    fn lists_id_of(&self, who: &Identity) -> bool {
        self.ids.contains(&who.id)
            || (who.provider == ProviderKind::Entra && self.folded_ids.contains(&*folded(&who.id)))
    }

    fn lists_email_of(&self, who: &Identity) -> bool {
        let Some(email) = &who.email else { return false };
        self.emails.contains(&*folded(email.as_str()))
            || (!self.domains.is_empty() && self.domains.contains(&*folded(email.domain())))
    }

    /// GitHub logins and Entra UPNs are unique ignoring case; another provider may have both `ann` and `Ann`.
    fn lists_username_of(&self, who: &Identity) -> bool {
        let Some(name) = who.username.vouched() else { return false };
        match who.provider {
            ProviderKind::Github | ProviderKind::Entra => self.folded_usernames.contains(&*folded(name)),
            ProviderKind::Oidc => self.usernames.contains(name),
        }
    }
}

/// A list of groups in the provider's terms: GitHub `org` or `org/team`, an Entra group id or app role, an OpenID Connect group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedGroups {
    exact: BTreeSet<String>,
    folded: BTreeSet<String>,
}

impl AllowedGroups {
    /// Parses a list's entries.
    #[must_use]
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Self {
        let exact: BTreeSet<String> =
            entries.into_iter().map(str::trim).filter(|entry| !entry.is_empty()).map(str::to_owned).collect();
        let folded = exact.iter().map(|entry| entry.to_ascii_lowercase()).collect();
        Self { exact, folded }
    }

    /// Merges both lists.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.exact.extend(other.exact);
        self.folded.extend(other.folded);
        self
    }

    /// The groups, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.exact.iter().map(String::as_str)
    }

    /// Whether one of the user's groups is on the list. GitHub's organisations and teams, and GUIDs, are unique ignoring case; an app role
    /// or another provider's group need not be.
    #[must_use]
    pub fn lists(&self, who: &Identity) -> bool {
        who.groups.iter().any(|group| {
            let folds = who.provider == ProviderKind::Github || is_guid(group);
            if folds { self.folded.contains(&*folded(group)) } else { self.exact.contains(group) }
        })
    }
}

/// The name in lower case; most already are.
fn folded(name: &str) -> Cow<'_, str> {
    // Without an early exit the processor compares many bytes at once.
    if name.bytes().fold(false, |found, b| found | b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::identity::Username;

    fn ann(provider: ProviderKind) -> Identity {
        Identity {
            provider,
            id: "42".into(),
            email: Some(Email::parse("Ann@Example.com").unwrap()),
            name: "Ann".into(),
            username: Username::Vouched("Ann".into()),
            groups: vec!["Acme/Platform".into(), "ABCDEF01-2345-6789-abcd-ef0123456789".into()],
            claims: crate::domain::claims::Claims::default(),
        }
    }

    fn users(list: &str, who: &Identity) -> bool {
        let lists = AllowLists { users: Some(AllowedUsers::parse(list.split(',')).unwrap()), groups: None };
        lists.admits(who)
    }

    fn groups(list: &str, who: &Identity) -> bool {
        let lists = AllowLists { users: None, groups: Some(AllowedGroups::parse(list.split(','))) };
        lists.admits(who)
    }

    #[test]
    fn an_entry_with_an_at_sign_is_compared_with_the_vouched_email() {
        let who = ann(ProviderKind::Oidc);
        assert!(users("ann@EXAMPLE.com", &who));
        assert!(users("@example.COM", &who));
        assert!(!users("@ample.com", &who));
        assert!(!users("@sub.example.com", &who));
        assert!(!users("ann@example.com", &Identity { email: None, ..who }));
    }

    #[test]
    fn a_domain_never_matches_a_username_or_an_id() {
        let who = Identity {
            email: None,
            id: "x@example.com".into(),
            username: Username::Vouched("x@example.com".into()),
            ..ann(ProviderKind::Entra)
        };
        assert!(!users("@example.com,x@example.com", &who));
    }

    #[test]
    fn usernames_count_only_where_the_provider_vouches_for_them() {
        let who = ann(ProviderKind::Oidc);
        assert!(users("Ann", &who));
        assert!(!users("ann", &who), "another provider may have both ann and Ann");
        assert!(users("ann", &ann(ProviderKind::Github)), "GitHub logins know no case");
        assert!(!users("Ann", &Identity { username: Username::Displayed("Ann".into()), ..who }));
    }

    #[test]
    fn ids_are_compared_to_the_letter_and_only_behind_their_prefix() {
        assert!(users("id:42", &ann(ProviderKind::Github)));
        assert!(!users("42", &ann(ProviderKind::Github)));
        assert!(!users("id:4", &ann(ProviderKind::Github)));
    }

    #[test]
    fn object_ids_of_entra_know_no_case() {
        let guid = "72F988BF-86F1-41AF-91AB-2D7CD011DB47";
        for (kind, lists) in [(ProviderKind::Entra, true), (ProviderKind::Oidc, false)] {
            let who = Identity { id: guid.to_ascii_lowercase(), ..ann(kind) };
            assert_eq!(users(&format!("id:{guid}"), &who), lists, "{kind:?}");
            assert!(users(&format!("id:{}", who.id), &who));
        }
    }

    #[test]
    fn groups_fold_case_only_where_the_provider_does() {
        assert!(groups("acme/platform", &ann(ProviderKind::Github)));
        assert!(!groups("acme", &ann(ProviderKind::Github)));
        assert!(!groups("acme/platform", &ann(ProviderKind::Oidc)));
        assert!(groups("abcdef01-2345-6789-ABCD-EF0123456789", &ann(ProviderKind::Entra)));
    }

    #[test]
    fn lists_add_up_and_an_empty_list_lets_nobody_in() {
        let who = ann(ProviderKind::Github);
        let both = |list: &str| AllowLists {
            users: Some(AllowedUsers::parse(list.split(',')).unwrap()),
            groups: Some(AllowedGroups::parse(["acme/platform"])),
        };
        assert!(both("bob").admits(&who));
        assert!(!users("", &who));
        assert!(!groups("", &who));
        assert!(users("*", &who));
    }

    #[test]
    fn without_lists_everyone_who_signed_in_passes() {
        assert!(AllowLists::default().admits(&ann(ProviderKind::Github)));
    }

    /// The cases of oauth2-proxy's tests for lists of addresses and domains; a domain with a leading dot, which there means all subdomains,
    /// is an error here.
    #[test]
    fn addresses_and_domains_from_the_tests_of_another_proxy() {
        let passes = |email: &str, list: &[&str]| {
            let who = Identity { email: Email::parse(email).ok(), ..ann(ProviderKind::Oidc) };
            AllowedUsers::parse(list.iter().copied()).unwrap().lists(&who)
        };
        let two = ["xyzzy@example.com", "plugh@example.com", "@example0.com", "@example1.com"];
        let subdomains = ["@us.example.com", "@de.example.com", "@example.com"];
        let capitals = ["Foo.Bar@Example.Com", "@Frobozz.Com"];
        for (email, list, expected) in [
            ("xyzzy@example.com", &two[..], true),
            ("plugh@example.com", &two, true),
            ("xyzzy.plugh@example.com", &two, false),
            ("foo.bar@example0.com", &two, true),
            ("baz.quux@example1.com", &two, true),
            ("foo@bar.example0.com", &two, false),
            ("xyzzy@us.example.com", &subdomains, true),
            ("xyzzy@de.example.com", &subdomains, true),
            ("xyzzy@example.com", &subdomains, true),
            ("global@au.example.com", &subdomains, false),
            ("something@fooexample.com", &["@example.com"], false),
            ("something@evilhackmycompany.com", &["@mycompany.com"], false),
            ("something@ext.evilhackmycompany.com", &["@mycompany.com"], false),
            ("foo.bar@example.com", &[], false),
            ("foo.bar@example.com", &["foo.bar@example.com"], true),
            ("baz.quux@example.com", &["foo.bar@example.com"], false),
            ("foo.bar@example.com", &["@example.com"], true),
            ("foo.bar@example.com", &capitals, true),
            ("Foo.Bar@Example.Com", &capitals, true),
            ("foo.bar@frobozz.com", &capitals, true),
            ("foo.bar@Frobozz.Com", &capitals, true),
            ("foo.bar@example.com", &["   foo.bar@example.com   "], true),
            ("foo.bar@example.com", &["   foo.bar@example.com"], true),
            ("foo@evilcompany.com", &["@company.com"], false),
            ("attacker@evil.com@company.com", &["@company.com"], false),
            ("foo.bar@example.com", &["*"], true),
        ] {
            assert_eq!(passes(email, list), expected, "{email} {list:?}");
        }
        for list in ["@.example.com", "@*.example.com", "*.example.com"] {
            assert!(AllowedUsers::parse([list]).is_err(), "{list}");
        }
    }

    #[test]
    fn entries_that_could_never_match_are_faults() {
        let faults = AllowedUsers::parse(["a@b@c", "@", "id:", "group:x", "*@example.com", "@.example.com", "ann"]);
        assert_eq!(faults.unwrap_err().len(), 6);
        for (entry, says) in [
            ("provider:github/ann@example.com", "allow = [\"provider:github/ann@example.com\"]"),
            ("Provider:corp", "below [[routes]]"),
            ("claim:email=ann@example.com", "below [[routes]]"),
            ("cert:CN=laptop-7", "below [[routes]]"),
            ("Group:acme", "OAUTH_ALLOWED_GROUPS"),
            ("ID:7", "in small letters"),
            ("Id : 7", "in small letters"),
        ] {
            let faults = AllowedUsers::parse([entry]).unwrap_err();
            assert!(faults.len() == 1 && faults[0].to_string().contains(says), "{entry}: {faults:?}");
        }
        assert_eq!(AllowedUsers::parse(["id:provider:7", "system:serviceaccount:ci:deployer"]).unwrap().len(), 2);
    }
}
