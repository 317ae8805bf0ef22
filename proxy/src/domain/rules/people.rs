//! Entries of rules: users, groups, claims and certificates, of any provider or of one.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::domain::certificate::CertificateName;
use crate::domain::policy::{AllowedGroups, AllowedUsers, BadEntry};
use crate::domain::principal::Principal;

/// One entry of a rule's `allow` or `require`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    written: String,
    provider: Option<String>,
    whom: Whom,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Whom {
    /// Every user of the provider.
    Everyone,
    /// A user, as in the allow lists.
    User(AllowedUsers),
    /// A group, as in the allow lists.
    Group(String, AllowedGroups),
    /// A claim with that value.
    Claim { name: String, text: String },
    /// A client certificate with that name, on the connection.
    Certificate(CertificateName),
}

/// Why an entry could never match, or not as intended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadRuleEntry {
    /// It is empty.
    #[error("an entry is empty")]
    Empty,
    /// As in the allow lists.
    #[error(transparent)]
    User(BadEntry),
    /// An unknown prefix.
    #[error("`{entry}` begins with a prefix that is not known{}; known are id:, group:, claim:, cert: and provider:", did_you_mean(.meant.as_ref()))]
    Prefix {
        /// The entry.
        entry: String,
        /// A similar known prefix.
        meant: Option<&'static str>,
    },
    /// `*` would be ambiguous here.
    #[error(
        "`*` is no entry of a rule: write `allow = \"signed-in\"` for everyone who has signed in, or `allow = \"public\"` for everyone"
    )]
    Everyone,
    /// One of the four words, in brackets.
    #[error(
        "`{entry}` in a list would be a user of that name: write `allow = \"{word}\"`, without brackets; a user of that very name is written with the provider, such as `provider:github/{entry}`"
    )]
    Word {
        /// The entry.
        entry: String,
        /// The word.
        word: &'static str,
    },
    /// `group:` without a group.
    #[error("`{0}` names no group: write `group:` and the group, such as `group:acme/platform`")]
    Group(String),
    /// `claim:` without a name or a value.
    #[error("`{0}` is not a claim with its value: write `claim:NAME=VALUE`, such as `claim:department=finance`")]
    Claim(String),
    /// `cert:` with an unknown kind, or without a name.
    #[error(
        "`{0}` is no name of a client certificate: write `cert:CN=laptop-7`, `cert:DNS=…`, `cert:URI=…`, `cert:EMAIL=…`, or `cert:any`"
    )]
    Certificate(String),
    /// `provider:` without a name.
    #[error("`{0}` names no provider: write `provider:NAME`, or `provider:NAME/` and an entry")]
    Provider(String),
}

fn did_you_mean(meant: Option<&&'static str>) -> String {
    meant.map(|meant| format!(" (did you mean `{meant}`?)")).unwrap_or_default()
}

/// The words that can replace a list.
pub const WORDS: [&str; 4] = ["public", "signed-in", "listed", "nobody"];

const PREFIXES: [&str; 5] = ["id:", "group:", "claim:", "cert:", "provider:"];

impl Entry {
    /// Parses an entry.
    ///
    /// # Errors
    /// [`BadRuleEntry`]: it could never match, or not as intended.
    pub fn parse(text: &str) -> Result<Self, BadRuleEntry> {
        let written = text.trim();
        let folded = written.to_ascii_lowercase().replace(['_', ' '], "-");
        if let Some(word) = WORDS.into_iter().find(|word| *word == folded) {
            return Err(BadRuleEntry::Word { entry: written.to_owned(), word });
        }
        let Some(rest) = written.strip_prefix("provider:") else {
            return Ok(Self { written: written.to_owned(), provider: None, whom: Whom::parse(written)? });
        };
        let (provider, inner) = rest.split_once('/').map_or((rest, None), |(provider, inner)| (provider, Some(inner)));
        if provider.is_empty() || inner == Some("") {
            return Err(BadRuleEntry::Provider(written.to_owned()));
        }
        let whom = inner.map_or(Ok(Whom::Everyone), Whom::parse)?;
        Ok(Self { written: written.to_owned(), provider: Some(provider.to_owned()), whom })
    }

    /// The entry as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// The provider that it names.
    #[must_use]
    pub fn provider(&self) -> Option<&str> {
        self.provider.as_deref()
    }

    /// The user that it names, as in the allow lists.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        let inner = || match self.provider {
            Some(_) => self.written.split_once('/').map(|(_, inner)| inner),
            None => Some(self.written.as_str()),
        };
        if let Whom::User(_) = &self.whom { inner() } else { None }
    }

    /// The group that it names.
    #[must_use]
    pub fn group(&self) -> Option<&str> {
        if let Whom::Group(name, _) = &self.whom { Some(name) } else { None }
    }

    /// The claim that it names.
    #[must_use]
    pub fn claim(&self) -> Option<&str> {
        if let Whom::Claim { name, .. } = &self.whom { Some(name) } else { None }
    }

    /// Whether it matches every user of that provider.
    #[must_use]
    pub fn is_everyone_of(&self, provider: &str) -> bool {
        self.whom == Whom::Everyone && self.provider() == Some(provider)
    }

    /// Whether it refers to a client certificate.
    #[must_use]
    pub const fn is_certificate(&self) -> bool {
        matches!(self.whom, Whom::Certificate(_))
    }

    /// Whether it matches that user.
    #[must_use]
    pub fn names(&self, who: &Principal<'_>) -> bool {
        if self.provider.as_deref().is_some_and(|provider| provider != who.provider) {
            return false;
        }
        match &self.whom {
            Whom::Everyone => true,
            Whom::User(users) => users.lists(who.identity),
            Whom::Group(_, groups) => groups.lists(who.identity),
            Whom::Claim { name, text } => who.claims.hold(name, text),
            Whom::Certificate(name) => shows(who, |shown| shown == name.as_str()),
        }
    }
}

impl Whom {
    fn parse(text: &str) -> Result<Self, BadRuleEntry> {
        let bad = |why: fn(String) -> BadRuleEntry| Err(why(text.to_owned()));
        match text {
            "" => return Err(BadRuleEntry::Empty),
            "*" => return Err(BadRuleEntry::Everyone),
            _ => {}
        }
        if let Some(group) = text.strip_prefix("group:") {
            let group = group.trim();
            let is_group = !group.is_empty() && group != "*";
            return if is_group {
                Ok(Self::Group(group.to_owned(), AllowedGroups::parse([group])))
            } else {
                bad(BadRuleEntry::Group)
            };
        }
        if let Some(claim) = text.strip_prefix("claim:") {
            return match claim.split_once('=') {
                Some((name, value)) if !name.trim().is_empty() && !value.is_empty() => {
                    Ok(Self::Claim { name: name.trim().to_owned(), text: value.to_owned() })
                }
                Some(_) | None => bad(BadRuleEntry::Claim),
            };
        }
        if let Some(name) = text.strip_prefix("cert:") {
            return match CertificateName::parse(name) {
                Some(name) => Ok(Self::Certificate(name)),
                None => bad(BadRuleEntry::Certificate),
            };
        }
        if text.starts_with("provider:") {
            return bad(BadRuleEntry::Provider);
        }
        if let Some((front, _)) = text.split_once(':')
            && !text.starts_with("id:")
        {
            let front = format!("{}:", front.trim().to_ascii_lowercase());
            let near = |known: &&&str| {
                front == **known
                    || (front.len() > 2 && (known.starts_with(front.trim_end_matches(':')) || one_edit(&front, known)))
            };
            let meant = PREFIXES.iter().find(near).copied();
            return Err(BadRuleEntry::Prefix { entry: text.to_owned(), meant });
        }
        AllowedUsers::parse([text])
            .map(Self::User)
            .map_err(|faults| faults.into_iter().next().map_or(BadRuleEntry::Empty, BadRuleEntry::User))
    }
}

/// Whether one added, removed or changed letter turns one text into the other, or two swapped ones.
fn one_edit(a: &str, b: &str) -> bool {
    let same_front = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let rest = |text: &str, skip: usize| text.as_bytes().get(same_front + skip..).unwrap_or_default().to_vec();
    let swapped = {
        let mut bytes = rest(a, 0);
        if bytes.len() >= 2 {
            bytes.swap(0, 1);
        }
        bytes
    };
    rest(a, 1) == rest(b, 1) || rest(a, 1) == rest(b, 0) || rest(a, 0) == rest(b, 1) || swapped == rest(b, 0)
}

/// A rule's `allow` as a list: matches if any entry does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct People {
    entries: Vec<Entry>,
    of_any: Names,
    of_one: BTreeMap<String, Names>,
}

/// The merged entries for one provider or for all, so that many cost as much as one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    everyone: bool,
    users: AllowedUsers,
    groups: Option<AllowedGroups>,
    claims: BTreeMap<String, BTreeSet<String>>,
    certificates: BTreeSet<String>,
}

impl People {
    /// Merges the entries.
    #[must_use]
    pub fn new(entries: Vec<Entry>) -> Self {
        let mut people = Self::default();
        for entry in &entries {
            let names = match &entry.provider {
                None => &mut people.of_any,
                Some(provider) => people.of_one.entry(provider.clone()).or_default(),
            };
            match &entry.whom {
                Whom::Everyone => names.everyone = true,
                Whom::User(users) => names.users = std::mem::take(&mut names.users).and(users.clone()),
                Whom::Group(_, groups) => {
                    names.groups = Some(names.groups.take().unwrap_or_default().and(groups.clone()));
                }
                Whom::Claim { name, text } => {
                    names.claims.entry(name.clone()).or_default().insert(text.clone());
                }
                Whom::Certificate(name) => {
                    names.certificates.insert(name.as_str().to_owned());
                }
            }
        }
        people.entries = entries;
        people
    }

    /// The entries, in the order of the file.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether an entry matches that user.
    #[must_use]
    pub fn lists(&self, who: &Principal<'_>) -> bool {
        self.of_any.lists(who) || self.of_one.get(who.provider).is_some_and(|names| names.lists(who))
    }
}

impl Names {
    fn lists(&self, who: &Principal<'_>) -> bool {
        self.everyone
            || self.users.lists(who.identity)
            || self.groups.as_ref().is_some_and(|groups| groups.lists(who.identity))
            || self.claims.iter().any(|(name, texts)| who.claims.texts(name).iter().any(|text| texts.contains(text)))
            || (!self.certificates.is_empty() && shows(who, |shown| self.certificates.contains(shown)))
    }
}

/// Whether one of these names is in the connection's client certificate.
fn shows(who: &Principal<'_>, is_one: impl Fn(&str) -> bool) -> bool {
    who.certificate.is_some_and(|certificate| certificate.names().iter().any(|name| is_one(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::claims::Claims;
    use crate::domain::identity::{Email, Identity, ProviderKind, Username};
    use crate::domain::principal::Proof;

    fn ann(provider: ProviderKind) -> Identity {
        Identity {
            provider,
            id: "42".into(),
            email: Some(Email::parse("Ann@Example.com").unwrap()),
            name: "Ann".into(),
            username: Username::Vouched("Ann".into()),
            groups: vec!["Acme/Platform".into()],
            claims: Claims::default(),
        }
    }

    #[test]
    fn entries_name_whom_they_say() {
        let mut claims = Claims::default();
        claims.set("department", vec!["finance".into()]);
        claims.set("roles", vec!["a".into(), "b=c".into()]);
        for (kind, entry, names) in [
            (ProviderKind::Github, "ann", true),
            (ProviderKind::Oidc, "ann", false),
            (ProviderKind::Oidc, "Ann", true),
            (ProviderKind::Oidc, "ANN@example.com", true),
            (ProviderKind::Oidc, "@example.com", true),
            (ProviderKind::Oidc, "@sub.example.com", false),
            (ProviderKind::Oidc, "id:42", true),
            (ProviderKind::Oidc, "id:4", false),
            (ProviderKind::Github, "group:acme/platform", true),
            (ProviderKind::Oidc, "group:acme/platform", false),
            (ProviderKind::Oidc, "group:Acme/Platform", true),
            (ProviderKind::Oidc, "Acme/Platform", false),
            (ProviderKind::Oidc, "provider:corp", true),
            (ProviderKind::Oidc, "provider:other", false),
            (ProviderKind::Oidc, "provider:corp/Ann", true),
            (ProviderKind::Oidc, "provider:corp/@example.com", true),
            (ProviderKind::Oidc, "provider:corp/group:Acme/Platform", true),
            (ProviderKind::Oidc, "provider:other/Ann", false),
            (ProviderKind::Oidc, "provider:corp/bob", false),
            (ProviderKind::Oidc, "claim:department=finance", true),
            (ProviderKind::Oidc, "claim:department=Finance", false),
            (ProviderKind::Oidc, "claim:department=fin", false),
            (ProviderKind::Oidc, "claim:roles=b=c", true),
            (ProviderKind::Oidc, "claim:roles=b", false),
            (ProviderKind::Oidc, "claim:missing=x", false),
            (ProviderKind::Oidc, "provider:corp/claim:roles=a", true),
            (ProviderKind::Oidc, "provider:other/claim:roles=a", false),
        ] {
            let identity = ann(kind);
            let who = Principal {
                certificate: None,
                identity: &identity,
                provider: "corp",
                by: Proof::Session,
                proved_at: None,
                claims: &claims,
            };
            let parsed = Entry::parse(entry).unwrap();
            assert_eq!(parsed.names(&who), names, "{entry}");
            assert_eq!(People::new(vec![Entry::parse("zoe").unwrap(), parsed]).lists(&who), names, "{entry} in a list");
        }
    }

    #[test]
    fn entries_that_could_never_match_are_faults() {
        for bad in [
            "",
            " ",
            "*",
            "public",
            "nobody",
            "signed-in",
            "listed",
            "Nobody",
            "PUBLIC",
            "Signed_In",
            "signed in",
            "group:",
            "group: ",
            "group:*",
            "claim:x",
            "claim:=y",
            "claim:x=",
            "provider:",
            "provider:/ann",
            "provider:corp/",
            "provider:corp/provider:x",
            "provider:corp/*",
            "provider:corp/",
            "a@b@c",
            "@",
            "id:",
            "*@example.com",
            "grp:acme",
            "Group:acme",
            "user:ann",
            "provider:corp/grp:x",
        ] {
            assert!(Entry::parse(bad).is_err(), "{bad:?} was taken");
        }
        let user = Entry::parse("Nobody").unwrap_err().to_string();
        assert!(user.contains("allow = \"nobody\"") && user.contains("`provider:github/Nobody`"), "{user}");
        assert_eq!(Entry::parse("provider:github/nobody").unwrap().user(), Some("nobody"));
        for (bad, meant) in
            [("gropu:x", "group:"), ("Group:x", "group:"), ("claims:a=b", "claim:"), ("prov:x", "provider:")]
        {
            assert!(Entry::parse(bad).unwrap_err().to_string().contains(&format!("did you mean `{meant}`?")), "{bad}");
        }
    }
}
