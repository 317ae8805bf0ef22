//! The policy asked about a person; a refusal is written to the log.

use std::sync::Arc;

use crate::adapters::telemetry::audit::{self, Origin};
use crate::domain::identity::{Identified, Identity};
use crate::domain::policy::{Permit, Refusal};
use crate::ports::LoadedSession;
use crate::serve::rejection::{Missing, Rejection};
use crate::serve::site::Site;

/// Leave to pass for a live session, if the policy of the moment names its user.
pub(crate) fn admit(
    site: &Site,
    session: Arc<LoadedSession>,
    origin: Origin<'_>,
) -> Result<Permit<Arc<LoadedSession>>, Rejection> {
    let who = Arc::clone(&session);
    site.policy.admit(session).map_err(|why| refuse(who.identity(), why, true, origin))
}

/// Somebody whom the lists do not name: written to the log in the words that operators search for.
pub(super) fn refuse(who: &Identity, why: Refusal, has_session: bool, origin: Origin<'_>) -> Rejection {
    let name = name(who).to_owned();
    let missing = missing(who);
    audit::not_allowed(&name, who, &format!("{why}{}", in_the_log(&missing)), origin);
    Rejection::NotAllowed { who: name, has_session, missing }
}

/// What the lists could name this person by, and what the provider does not say of them: the commonest reason of a refusal.
fn missing(who: &Identity) -> Vec<Missing> {
    [
        (who.email.is_none(), Missing::Email),
        (who.username.vouched().is_none(), Missing::Username),
        (who.groups.is_empty(), Missing::Groups),
    ]
    .into_iter()
    .filter_map(|(missing, what)| missing.then_some(what))
    .collect()
}

fn in_the_log(missing: &[Missing]) -> String {
    missing.iter().map(|what| format!("; {}", what.in_the_log())).collect()
}

/// What a person knows themselves by: the vouched email, else the username, else the id.
pub(super) fn name(who: &Identity) -> &str {
    [who.email_str(), who.username.as_str(), who.id.as_str()]
        .into_iter()
        .find(|name| !name.is_empty())
        .unwrap_or_default()
}
