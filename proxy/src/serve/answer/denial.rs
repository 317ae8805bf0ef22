//! Why a person is not let in, as the page and the log say it.

use crate::domain::identity::ProviderKind;
use crate::domain::judge::Why;
use crate::ports::Omission;

/// Why a person is not let in, as the page shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denial {
    /// The rule's name; `None`: no rule is involved.
    pub(crate) rule: Option<String>,
    /// The reason; `None`: accounts of this kind may not sign in (e.g. another tenant's).
    pub(crate) why: Option<Why>,
    /// What the provider does not state about the person.
    pub(crate) missing: Vec<Missing>,
}

impl Denial {
    pub(super) fn explain(&self) -> String {
        let by = match (&self.why, &self.rule) {
            (None, _) => OTHER_ACCOUNTS.to_owned(),
            (Some(why), Some(rule)) => {
                format!("The rule \u{201c}{rule}\u{201d} does not let you in: {}.", in_short(why))
            }
            (Some(why), None) => without_a_rule(why).to_owned(),
        };
        let way_on = match self.way_on() {
            WayOn::Ask => Some(NOT_LISTED),
            WayOn::SignInAgain => Some(SIGN_IN_ANEW),
            WayOn::None => None,
        };
        // If the addresses could not be read, the page must not ask the person to verify one.
        let unreadable = self.missing.contains(&Missing::Omitted(Omission::EmailUnreadable));
        let shown = self.missing.iter().filter(|what| !(unreadable && **what == Missing::Email));
        let missing = shown.filter_map(|what| what.on_the_page());
        let more: String = way_on.into_iter().chain(missing).flat_map(|sentence| [" ", sentence]).collect();
        by + &more
    }

    pub(super) const fn way_on(&self) -> WayOn {
        match &self.why {
            None | Some(Why::NotListed | Why::NotNamed | Why::Lacks(_)) => WayOn::Ask,
            Some(Why::TooOld { .. } | Why::Unauthenticated) => WayOn::SignInAgain,
            Some(Why::Nobody | Why::ManyUpstreams | Why::BehindPrefix) => WayOn::None,
        }
    }
}

/// What a person who is not let in can do about it.
pub(super) enum WayOn {
    /// Ask the operator, or sign in with another account.
    Ask,
    /// Sign in again, with the password.
    SignInAgain,
    /// Nothing.
    None,
}

/// The reason after the rule's name: what the person may know, and the operator needs.
const fn in_short(why: &Why) -> &'static str {
    match why {
        Why::NotListed | Why::NotNamed => "your account is not on its list",
        Why::Lacks(_) => "your account lacks something that it requires",
        Why::TooOld { .. } => "your sign-in is too old for it, or the sign-in service does not say how old it is",
        Why::Unauthenticated => "nobody is signed in",
        Why::Nobody => "it lets nobody in",
        Why::ManyUpstreams | Why::BehindPrefix => "the address can be read in several ways",
    }
}

/// The reason where no rule is named.
const fn without_a_rule(why: &Why) -> &'static str {
    match why {
        Why::NotListed | Why::NotNamed => "No list of this site names your account.",
        Why::Lacks(_) => "Your account lacks something that is required.",
        Why::TooOld { .. } => {
            "What you asked for needs a sign-in that is not long ago, and the sign-in service does not say that yours is."
        }
        Why::Unauthenticated => "Nobody is signed in.",
        Why::Nobody => "Nobody is let in there.",
        Why::ManyUpstreams | Why::BehindPrefix => "The address can be read in several ways.",
    }
}

/// What a provider may not state about a person, so that no list can match them by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// No vouched email address.
    Email,
    /// No vouched username: none that its user cannot change.
    Username,
    /// No known groups.
    Groups,
    /// Something that the provider stated at this sign-in and that is ignored.
    Omitted(Omission),
}

impl Missing {
    /// The text for the operator about a user of that kind of provider.
    pub(crate) const fn in_the_log(self, kind: ProviderKind) -> &'static str {
        match self {
            Self::Email => "no email of this user counts: a line of the sign-in, or of a recheck, says why",
            Self::Username if matches!(kind, ProviderKind::Entra) => {
                "usernames take no part: a personal account's user principal name is only displayed"
            }
            Self::Username => "usernames take no part: OAUTH_USERNAME_CLAIM names no text claim of this user",
            Self::Groups => "no groups of this user are known",
            Self::Omitted(Omission::Email) => "an email does not count",
            Self::Omitted(Omission::EmailUnreadable) => {
                "the addresses could not be read (a line of the sign-in says why)"
            }
            Self::Omitted(Omission::UnnamedTenant) => {
                "roles, group names and claims count only for a tenant that OAUTH_TENANT_ID names"
            }
            Self::Omitted(Omission::GroupsOfAnotherForm) => {
                "some groups came in a form that is not understood (a line of the sign-in says which)"
            }
            Self::Omitted(Omission::UsernameOfAnotherForm) => {
                "the claim that is the username is not text (a line of the sign-in says what it is)"
            }
            Self::Omitted(Omission::ClaimOfAnotherForm) => {
                "a claim that a rule refers to came in a form that is not understood (a line of the sign-in says which)"
            }
            Self::Omitted(Omission::GroupsUnreadable) => {
                "the groups could not be read (a line of the sign-in says why)"
            }
            Self::Omitted(Omission::SingleSignOn) => {
                "GitHub left organisations with single sign-on out (a line of the sign-in says which)"
            }
        }
    }

    /// The text for the operator about a bearer token; `None`: [`Missing::of_another_form`] has it. `of_provider`: the plain provider
    /// issued it, rather than the issuer of a section.
    pub(crate) fn of_a_token(self, kind: ProviderKind, of_provider: bool) -> Option<&'static str> {
        match self {
            Self::Email => Some("no email of this token counts"),
            Self::Username if kind == ProviderKind::Entra => {
                Some("usernames take no part: no `upn` of this token counts")
            }
            Self::Username if of_provider => {
                Some("usernames take no part: OAUTH_USERNAME_CLAIM names no text claim of this token")
            }
            Self::Username => Some("usernames take no part: `username_claim` names no text claim of this token"),
            Self::Groups => Some("no groups of this token are known"),
            Self::Omitted(Omission::UnnamedTenant) => {
                Some("roles, group names and claims count only for a tenant that OAUTH_TENANT_ID names")
            }
            Self::Omitted(_) => None,
        }
    }

    /// What of a bearer token is in a form that does not count, unless [`Missing::of_a_token`] says so.
    pub(crate) const fn of_another_form(self) -> Option<&'static str> {
        match self {
            Self::Omitted(Omission::GroupsOfAnotherForm) => Some("groups"),
            Self::Omitted(Omission::ClaimOfAnotherForm) => Some("a claim"),
            Self::Email | Self::Username | Self::Groups | Self::Omitted(_) => None,
        }
    }

    /// The sentence for the person; `None`: there is nothing that they can do about it.
    const fn on_the_page(self) -> Option<&'static str> {
        match self {
            Self::Email | Self::Omitted(Omission::Email) => Some(UNVERIFIED),
            Self::Omitted(Omission::EmailUnreadable) => Some(EMAIL_UNREADABLE),
            Self::Omitted(Omission::GroupsOfAnotherForm) => Some(GROUPS_OF_ANOTHER_FORM),
            Self::Omitted(Omission::GroupsUnreadable) => Some(GROUPS_UNREADABLE),
            Self::Omitted(Omission::SingleSignOn) => Some(SINGLE_SIGN_ON),
            Self::Username
            | Self::Groups
            | Self::Omitted(Omission::UsernameOfAnotherForm | Omission::ClaimOfAnotherForm | Omission::UnnamedTenant) => {
                None
            }
        }
    }
}

const UNVERIFIED: &str = "The sign-in service vouches for no email address of this account, so a rule for your address cannot let \
     you in: verify your address there, and sign in again.";
const EMAIL_UNREADABLE: &str =
    "The sign-in service did not let your email addresses be read, so a rule for your address cannot let you in.";
const GROUPS_OF_ANOTHER_FORM: &str = "The sign-in service sent some of your groups in a form that is not understood here, so a rule for those cannot let you in.";
const GROUPS_UNREADABLE: &str =
    "The sign-in service did not let your groups be read, so a rule for a group cannot let you in.";
const SINGLE_SIGN_ON: &str = "GitHub left out organisations of yours that have single sign-on: sign in to them there, or authorize \
     this application for them, and sign in here again.";
const OTHER_ACCOUNTS: &str = "Accounts of your organisation, or of this kind, are not let in here.";
const NOT_LISTED: &str = "Ask the operator of this site to let you in, or sign in with another account.";
const SIGN_IN_ANEW: &str = "Sign out at the sign-in service, and sign in here again.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_username_at_entra_no_setting_is_named_that_is_not_for_entra() {
        let of_a_session = Missing::Username.in_the_log(ProviderKind::Entra);
        assert!(of_a_session.contains("a personal account's user principal name"), "{of_a_session}");
        let of_a_token = Missing::Username.of_a_token(ProviderKind::Entra, true).unwrap();
        assert!(of_a_token.contains("no `upn` of this token counts"), "{of_a_token}");
        for text in [of_a_session, of_a_token] {
            assert!(!text.contains("OAUTH_USERNAME_CLAIM"), "{text}");
        }
        assert!(Missing::Username.in_the_log(ProviderKind::Oidc).contains("OAUTH_USERNAME_CLAIM"));
    }
}
