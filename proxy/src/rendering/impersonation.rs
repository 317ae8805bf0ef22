//! The identity as a Kubernetes API server takes it: the header fields of impersonation, and which names must not be impersonated.
//!
//! The server takes these fields literally: a percent-encoded name would be another name there. So a name is sent unchanged, in
//! UTF-8, or not at all; only blanks at its ends are cut before the check, as recipients of header fields do (RFC 9110 §5.5).

use http::{HeaderName, HeaderValue};

use crate::domain::identity::Identity;

const USER: HeaderName = HeaderName::from_static("impersonate-user");
const GROUP: HeaderName = HeaderName::from_static("impersonate-group");
const UID: HeaderName = HeaderName::from_static("impersonate-uid");
const EXTRA_PROVIDER: HeaderName = HeaderName::from_static("impersonate-extra-provider");
const EXTRA_EMAIL: HeaderName = HeaderName::from_static("impersonate-extra-email");

/// The prefix of Kubernetes' own names. Kubernetes is case-sensitive; we refuse every case.
const RESERVED: &str = "system:";

/// Zero-width characters that are not blanks (Unicode's `White_Space`), but that some languages' `trim` cuts.
const UNSEEN: [char; 4] = ['\u{180e}', '\u{200b}', '\u{2060}', '\u{feff}'];

/// The longest name, in bytes.
const LONGEST: usize = 1024;

/// The placeholder for the provider's name in a prefix.
pub const PROVIDER_PLACE: &str = "{provider}";

/// How an upstream impersonates people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impersonation {
    /// `impersonate_user`: which name of a person is used there.
    pub user: ImpersonatedName,
    /// `prefix`: text before users and groups; may contain [`PROVIDER_PLACE`].
    pub prefix: String,
}

/// Which name of a person becomes the user name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImpersonatedName {
    /// The username, where the policy may use it.
    #[default]
    Username,
    /// The vouched email.
    Email,
    /// The provider's stable id.
    Id,
}

impl ImpersonatedName {
    /// The configuration keyword.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Username => "username",
            Self::Email => "email",
            Self::Id => "id",
        }
    }

    /// The chosen name; never falls back to another one.
    fn of(self, who: &Identity) -> &str {
        match self {
            Self::Username => who.username.vouched().unwrap_or_default(),
            Self::Email => who.email_str(),
            Self::Id => &who.id,
        }
    }
}

/// Why a name is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAPerson {
    /// The identity has no vouched name of that kind.
    #[error("nobody vouches for a name of the kind that `impersonate_user` wants")]
    Empty,
    /// The name is one of Kubernetes' own.
    #[error("names that begin with `system:` are Kubernetes' own: nobody who signs in is one of them")]
    Reserved,
    /// The name is no valid header value.
    #[error("the name holds control characters, or is longer than 1,024 bytes")]
    Unfit,
}

/// A person, ready to be impersonated.
#[derive(Debug, PartialEq, Eq)]
pub struct Impersonated {
    /// The header fields.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// The omitted groups, each with the reason.
    pub left_out: Vec<(String, NotAPerson)>,
}

impl Impersonation {
    /// The header fields to impersonate a person whom `provider` vouches for.
    ///
    /// # Errors
    /// [`NotAPerson`]: the user name is refused. A group with a refused name is omitted.
    pub fn impersonate(&self, who: &Identity, provider: &str) -> Result<Impersonated, NotAPerson> {
        let prefix = self.prefix.replace(PROVIDER_PLACE, provider);
        let (user, id) = (named(self.user.of(who), &prefix)?, named(&who.id, "")?);
        let (mut fields, mut left_out) = (vec![(USER, user)], Vec::new());
        for group in &who.groups {
            match named(group, &prefix).and_then(|value| in_pieces(group).map(|()| value)) {
                Ok(value) if !fields.contains(&(GROUP, value.clone())) => fields.push((GROUP, value)),
                Ok(_) => {}
                Err(why) => left_out.push((group.clone(), why)),
            }
        }
        fields.push((UID, id));
        let extras = [(EXTRA_PROVIDER, provider), (EXTRA_EMAIL, who.email_str())];
        fields.extend(extras.into_iter().filter_map(|(name, text)| Some((name, fit(text).ok()?))));
        Ok(Impersonated { fields, left_out })
    }
}

/// A name with its prefix. It must not be Kubernetes' own, with or without the prefix.
fn named(name: &str, prefix: &str) -> Result<HeaderValue, NotAPerson> {
    let name = name.trim();
    fit(name)?;
    fit(&format!("{prefix}{name}"))
}

/// An intermediary may split a group that contains commas before the API server reads it.
fn in_pieces(group: &str) -> Result<(), NotAPerson> {
    if group.split(',').any(is_reserved) { Err(NotAPerson::Reserved) } else { Ok(()) }
}

/// Whether a name is one of Kubernetes' own, or is for a reader that trims more from its start than others.
fn is_reserved(name: &str) -> bool {
    let name = name.trim_start_matches(|c: char| c.is_whitespace() || UNSEEN.contains(&c));
    name.get(..RESERVED.len()).is_some_and(|start| start.eq_ignore_ascii_case(RESERVED))
}

/// Checks and returns exactly what is sent: the name without blanks at its ends.
fn fit(name: &str) -> Result<HeaderValue, NotAPerson> {
    let name = name.trim();
    if name.is_empty() {
        return Err(NotAPerson::Empty);
    }
    if is_reserved(name) {
        return Err(NotAPerson::Reserved);
    }
    if name.len() > LONGEST || name.chars().any(char::is_control) {
        return Err(NotAPerson::Unfit);
    }
    HeaderValue::from_bytes(name.as_bytes()).map_err(|_| NotAPerson::Unfit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::claims::Claims;
    use crate::domain::identity::{Email, ProviderKind, Username};

    fn person(username: Username, groups: &[&str]) -> Identity {
        Identity {
            provider: ProviderKind::Oidc,
            id: "7".into(),
            email: Some(Email::parse("ann@example.com").unwrap()),
            name: "Ann".into(),
            username,
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            claims: Claims::default(),
        }
    }

    fn ann(groups: &[&str]) -> Identity {
        person(Username::Vouched("ann".into()), groups)
    }

    fn by(user: ImpersonatedName, prefix: &str) -> Impersonation {
        Impersonation { user, prefix: prefix.to_owned() }
    }

    fn header_lines(impersonation: &Impersonation, who: &Identity) -> Vec<String> {
        let impersonated = impersonation.impersonate(who, "corp").unwrap();
        let text = |(name, value): &(HeaderName, HeaderValue)| {
            format!("{name}: {}", std::str::from_utf8(value.as_bytes()).unwrap())
        };
        impersonated.fields.iter().map(text).collect()
    }

    #[test]
    fn a_person_is_named_once_with_each_group_once() {
        assert_eq!(
            header_lines(&by(ImpersonatedName::Username, ""), &ann(&["acme/sre", "dev", "dev"])),
            [
                "impersonate-user: ann",
                "impersonate-group: acme/sre",
                "impersonate-group: dev",
                "impersonate-uid: 7",
                "impersonate-extra-provider: corp",
                "impersonate-extra-email: ann@example.com",
            ]
        );
        let with_prefix = header_lines(&by(ImpersonatedName::Id, "{provider}:"), &ann(&["dev"]));
        assert_eq!(with_prefix[..3], ["impersonate-user: corp:7", "impersonate-group: corp:dev", "impersonate-uid: 7"]);
        assert_eq!(
            header_lines(&by(ImpersonatedName::Email, "x:"), &ann(&[]))[0],
            "impersonate-user: x:ann@example.com"
        );
    }

    #[test]
    fn a_name_goes_as_it_is_since_an_encoded_one_would_be_anothers() {
        let names = ["Zo\u{eb}", "zo%C3%AB", "100%", "a b", "a,b", "a=b\"c\\", "\u{200b}ann"];
        for name in names {
            let who = person(Username::Vouched(name.into()), &[name]);
            let lines = header_lines(&by(ImpersonatedName::Username, ""), &who);
            assert_eq!(lines[..2], [format!("impersonate-user: {name}"), format!("impersonate-group: {name}")]);
        }
    }

    #[test]
    fn blanks_at_the_ends_are_cut_before_a_name_is_checked_and_sent() {
        // All blanks of Unicode.
        let blanks: String = ('\0'..=char::MAX).filter(|c| c.is_whitespace()).collect();
        assert_eq!(blanks.chars().count(), 25);
        let long = "a".repeat(LONGEST);
        for name in ["ann", "a b", "Zo\u{eb}", &long] {
            for blanks in blanks.chars().map(String::from).chain([blanks.clone()]) {
                let around = format!("{blanks}{name}{blanks}");
                let who = Identity {
                    id: format!("{blanks}7{blanks}"),
                    ..person(Username::Vouched(around.clone()), &[&around, name, &format!("dev{blanks}")])
                };
                assert_eq!(
                    header_lines(&by(ImpersonatedName::Username, ""), &who)[..4],
                    [
                        format!("impersonate-user: {name}"),
                        format!("impersonate-group: {name}"),
                        "impersonate-group: dev".to_owned(),
                        "impersonate-uid: 7".to_owned(),
                    ],
                    "{blanks:?}"
                );
            }
        }
        let who = person(Username::Vouched(" ann\t".into()), &["dev "]);
        assert_eq!(
            header_lines(&by(ImpersonatedName::Username, "corp:"), &who)[..2],
            ["impersonate-user: corp:ann", "impersonate-group: corp:dev"]
        );
    }

    #[test]
    fn kubernetes_own_names_and_what_cannot_be_said_are_nobody_with_a_prefix_too() {
        let long = "a".repeat(LONGEST + 1);
        for (name, why) in [
            ("", NotAPerson::Empty),
            (" \t\u{3000}", NotAPerson::Empty),
            ("system:admin", NotAPerson::Reserved),
            (" system:admin", NotAPerson::Reserved),
            ("\u{a0}system:masters ", NotAPerson::Reserved),
            ("\nsystem:masters", NotAPerson::Reserved),
            ("System:node", NotAPerson::Reserved),
            ("SYSTEM:masters", NotAPerson::Reserved),
            ("system:", NotAPerson::Reserved),
            ("\u{85}\u{1680}\u{2007}\u{2028}\u{202f}\u{205f}system:x", NotAPerson::Reserved),
            ("\u{feff}system:x", NotAPerson::Reserved),
            (" \u{200b} \u{2060}\u{180e}System:x", NotAPerson::Reserved),
            ("\u{0}system:x", NotAPerson::Unfit),
            ("a\r\nImpersonate-Group: system:masters", NotAPerson::Unfit),
            ("a\tb", NotAPerson::Unfit),
            ("a\u{7f}", NotAPerson::Unfit),
            ("a\u{85}b", NotAPerson::Unfit),
            (&long, NotAPerson::Unfit),
        ] {
            for prefix in ["", "corp:"] {
                let rule = by(ImpersonatedName::Username, prefix);
                let who = person(Username::Vouched(name.into()), &[]);
                assert_eq!(rule.impersonate(&who, "corp"), Err(why), "{name:?}");
                // As a group it is omitted, and nothing else is.
                let impersonated = rule.impersonate(&ann(&["dev", name]), "corp").unwrap();
                assert_eq!(impersonated.left_out, [(name.to_owned(), why)]);
                assert_eq!(impersonated.fields.iter().filter(|(name, _)| name == GROUP).count(), 1, "{name:?}");
            }
        }
        for fine in ["system", "systems:x", "my-system:x", "sys\u{200b}tem:x"] {
            assert!(
                by(ImpersonatedName::Username, "")
                    .impersonate(&person(Username::Vouched(fine.into()), &[]), "p")
                    .is_ok()
            );
        }
    }

    #[test]
    fn no_prefix_completes_a_name_of_kubernetes_own() {
        let rule = by(ImpersonatedName::Username, "sys");
        let impersonated = rule.impersonate(&person(Username::Vouched("tem:admin".into()), &[]), "corp");
        assert_eq!(impersonated, Err(NotAPerson::Reserved));
        let impersonated = rule.impersonate(&ann(&["tem:masters"]), "corp").unwrap();
        assert_eq!(impersonated.left_out, [("tem:masters".to_owned(), NotAPerson::Reserved)]);
    }

    #[test]
    fn a_group_that_would_fall_into_pieces_hides_none_of_kubernetes_own() {
        let groups = ["dev, system:masters", "dev,System:masters,x", "dev,\u{feff}system:x", "cn=admins,ou=groups"];
        let impersonated = by(ImpersonatedName::Username, "corp:").impersonate(&ann(&groups), "corp").unwrap();
        let left_out: Vec<&str> = impersonated.left_out.iter().map(|(group, _)| group.as_str()).collect();
        assert_eq!(left_out, groups[..3]);
    }

    #[test]
    fn no_other_name_takes_the_place_of_the_one_that_is_wanted() {
        let chosen = person(Username::Displayed("admin".into()), &[]);
        assert_eq!(by(ImpersonatedName::Username, "").impersonate(&chosen, "corp"), Err(NotAPerson::Empty));
        let without_email = Identity { email: None, ..ann(&[]) };
        assert_eq!(by(ImpersonatedName::Email, "").impersonate(&without_email, "corp"), Err(NotAPerson::Empty));
        let lines = header_lines(&by(ImpersonatedName::Id, ""), &Identity { email: None, ..chosen });
        assert_eq!(lines, ["impersonate-user: 7", "impersonate-uid: 7", "impersonate-extra-provider: corp"]);
    }
}
