//! Log lines about what of a refused bearer token does not count.

use crate::adapters::providers::log_omitted;
use crate::domain::time::Timestamp;
use crate::ports::{LoadedSession, Omission, Omitted};
use crate::serve::exchange::Exchange;
use crate::serve::log_limit::LogLimit;

/// When each kind was last logged.
struct Limits {
    email: LogLimit,
    email_unreadable: LogLimit,
    unnamed_tenant: LogLimit,
    groups_of_another_form: LogLimit,
    groups_unreadable: LogLimit,
    username_of_another_form: LogLimit,
    claim_of_another_form: LogLimit,
    single_sign_on: LogLimit,
}

static LIMITS: Limits = Limits::new();

impl Limits {
    const fn new() -> Self {
        Self {
            email: LogLimit::new(),
            email_unreadable: LogLimit::new(),
            unnamed_tenant: LogLimit::new(),
            groups_of_another_form: LogLimit::new(),
            groups_unreadable: LogLimit::new(),
            username_of_another_form: LogLimit::new(),
            claim_of_another_form: LogLimit::new(),
            single_sign_on: LogLimit::new(),
        }
    }

    const fn of(&self, what: Omission) -> &LogLimit {
        match what {
            Omission::Email => &self.email,
            Omission::EmailUnreadable => &self.email_unreadable,
            Omission::UnnamedTenant => &self.unnamed_tenant,
            Omission::GroupsOfAnotherForm => &self.groups_of_another_form,
            Omission::GroupsUnreadable => &self.groups_unreadable,
            Omission::UsernameOfAnotherForm => &self.username_of_another_form,
            Omission::ClaimOfAnotherForm => &self.claim_of_another_form,
            Omission::SingleSignOn => &self.single_sign_on,
        }
    }

    /// Those whose kind was not logged within the last minute, all of a kind together.
    fn due(&self, all: &[Omitted], now: Timestamp) -> Vec<Omitted> {
        let mut kinds: Vec<Omission> = Vec::new();
        for Omitted { what, .. } in all {
            if !kinds.contains(what) {
                kinds.push(*what);
            }
        }
        kinds.retain(|what| self.of(*what).is_due(now));
        all.iter().filter(|omitted| kinds.contains(&omitted.what)).cloned().collect()
    }
}

/// Logs why some of a refused bearer token does not count, since it has no sign-in that could: each kind once a minute at most, because
/// whoever has a token may send it as often as they like.
pub(super) fn log(exchange: &Exchange, token: &LoadedSession) {
    log_omitted(&LIMITS.due(token.omitted(), exchange.now), Some(exchange.origin()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn omitted(what: Omission, reason: &str) -> Omitted {
        Omitted { what, reason: reason.into() }
    }

    #[test]
    fn each_kind_is_logged_once_a_minute_and_then_all_that_a_token_has_of_it() {
        let limits = Limits::new();
        let groups = omitted(Omission::GroupsOfAnotherForm, "groups");
        let claims = ["level", "rank"].map(|name| omitted(Omission::ClaimOfAnotherForm, name));
        let all = [claims.as_slice(), std::slice::from_ref(&groups)].concat();
        let due = |all: &[Omitted], secs| limits.due(all, Timestamp::from_secs(secs));
        assert_eq!(due(&claims, 100), claims);
        assert_eq!(due(&all, 130), [groups], "another kind has its own minute");
        assert!(due(&all, 159).is_empty());
        assert_eq!(due(&all, 160), claims);
        assert!(due(&[], 300).is_empty());
    }
}
