//! Data about a user that does not count here: collected during a read, and logged.

use std::sync::{Mutex, PoisonError};

use super::claims::TokenClaims;
use super::discovery::is_guid;
use super::tenants::is_set_by_microsoft;
use crate::adapters::telemetry::Clean;
use crate::adapters::telemetry::audit::Origin;
use crate::ports::{Omission, Omitted};

/// Why what the administrators of an Entra tenant choose does not count.
pub(super) const ONLY_NAMED: &str = "roles, group names and claims count only for a tenant that OAUTH_TENANT_ID names";

/// What one read omits.
#[derive(Default)]
pub(super) struct Omissions(Mutex<Vec<Omitted>>);

impl Omissions {
    /// Notes an omission, once.
    pub(super) fn note(&self, what: Omission, reason: String) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let omitted = Omitted { what, reason };
        if !all.contains(&omitted) {
            all.push(omitted);
        }
    }

    /// Notes what of the groups in the claim `name` is in no form that counts.
    pub(super) fn note_groups(&self, id: &str, claims: &TokenClaims, name: &str) {
        if let Some(why) = claims.left_out(name) {
            let reason = format!("Not all groups of {id} were taken, so no rule for those lets them in: {why}");
            self.note(Omission::GroupsOfAnotherForm, reason);
        }
    }

    /// Notes what of the claim `name`, which a rule refers to, is in no form that counts.
    pub(super) fn note_claim(&self, id: &str, claims: &TokenClaims, name: &str) {
        if let Some(why) = claims.left_out(name) {
            let reason = format!("Not all of a claim of {id} was taken, so no rule for the rest lets them in: {why}");
            self.note(Omission::ClaimOfAnotherForm, reason);
        }
    }

    /// Notes what does not count of an Entra token's groups and app roles, which upstreams receive too, and of the claims that rules refer
    /// to. What is in another form is noted if some list or rule names groups. `named`: the operator named its tenant.
    pub(super) fn note_entra(
        &self,
        id: &str,
        claims: &TokenClaims,
        named: bool,
        wants_groups: bool,
        of_rules: &[String],
    ) {
        if wants_groups {
            self.note_groups(id, claims, "groups");
            if named {
                self.note_groups(id, claims, "roles");
            }
        }
        let names = || claims.list("groups").iter().any(|group| !is_guid(group));
        if !named && (claims.has("roles") || names()) {
            let reason = format!("The app roles and group names of {id} do not count: {ONLY_NAMED}");
            self.note(Omission::UnnamedTenant, reason);
        }
        for name in of_rules {
            if named || is_set_by_microsoft(name) {
                self.note_claim(id, claims, name);
            } else if claims.has(name) {
                self.note(Omission::UnnamedTenant, format!("The claim `{name}` of {id} does not count: {ONLY_NAMED}"));
            }
        }
    }

    /// Returns all omissions.
    pub(super) fn into_all(self) -> Vec<Omitted> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs all omissions of a read that no request asked for.
    pub(super) fn log(self) {
        log(&self.into_all(), None);
    }
}

/// Logs omissions, with the request of the sign-in if there is one.
pub fn log(all: &[Omitted], origin: Option<Origin<'_>>) {
    let client = origin.map(|origin| tracing::field::display(origin.client));
    let request_id = origin.map(|origin| tracing::field::display(Clean(origin.request_id)));
    for Omitted { what, reason } in all {
        // What nobody who is trusted vouches for concerns only its owner; unreadable data concerns the operator.
        if matches!(what, Omission::Email | Omission::UnnamedTenant) {
            tracing::info!(client, request_id, "{reason}");
        } else {
            tracing::warn!(client, request_id, "{reason}");
        }
    }
}
