//! How one upstream learns the identity: by the usual fields, those of a table, or not at all.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use crate::adapters::assertion::{Assertions, SigningFailed, is_fresh};
use crate::adapters::grants::GrantSealer;
use crate::adapters::telemetry::Clean;
use crate::domain::identity::Identified as _;
use crate::domain::time::Timestamp;
use crate::ports::{LoadedSession, UpstreamIdentity};
use crate::rendering::{Impersonated, Impersonation, NotAPerson, ReadyFields, X_SIDEGATE_ASSERTION};
use crate::serve::log_limit::LogLimit;
use crate::serve::upstream_settings::IdentityChoice;

/// Makes the identity header fields for one upstream.
pub(crate) struct IdentityFieldsBuilder {
    choice: IdentityChoice,
    /// Whether the assertion names groups.
    groups: bool,
    /// How the upstream impersonates people.
    impersonation: Option<Impersonation>,
    assertions: Assertions,
    /// Opens sealed grants, which hold the provider's tokens.
    grants: Arc<GrantSealer>,
    /// When an omitted group was last logged.
    left_out_limit: LogLimit,
}

/// Why an identity cannot be passed to an upstream.
pub(crate) enum IdentityFieldsError {
    /// The assertion could not be signed.
    Unsigned(SigningFailed),
    /// The upstream cannot impersonate this user name.
    NotAPerson(NotAPerson),
}

impl IdentityFieldsBuilder {
    pub(crate) const fn new(
        choice: IdentityChoice,
        groups: bool,
        impersonation: Option<Impersonation>,
        assertions: Assertions,
        grants: Arc<GrantSealer>,
    ) -> Self {
        Self { choice, groups, impersonation, assertions, grants, left_out_limit: LogLimit::new() }
    }

    /// Whether the session's own ready fields are sent as well.
    pub(crate) fn has_usual_fields(&self) -> bool {
        self.choice == IdentityChoice::Usual
    }

    /// The fields for a session, ready-made: cached with it, and made again once a minute if they contain an assertion.
    pub(crate) fn build(
        &self,
        session: &LoadedSession,
        now: Timestamp,
    ) -> Result<Option<Arc<UpstreamIdentity>>, IdentityFieldsError> {
        let has_assertion = match &self.choice {
            IdentityChoice::Nothing if self.impersonation.is_none() => return Ok(None),
            IdentityChoice::Nothing => false,
            IdentityChoice::Usual => true,
            IdentityChoice::Table(table) => table.has_assertion(),
        };
        let upstream = self.assertions.number();
        let is_fresh = |made: &Arc<UpstreamIdentity>| !has_assertion || is_fresh(made.at, now);
        if let Some(made) = session.upstream_identities().for_upstream(upstream).filter(is_fresh) {
            return Ok(Some(made));
        }
        let identity = session.identity();
        let groups = match &self.choice {
            _ if !self.groups => Vec::new(),
            IdentityChoice::Table(table) => table.groups(identity),
            IdentityChoice::Usual | IdentityChoice::Nothing => identity.groups.clone(),
        };
        let assertion = has_assertion
            .then(|| self.assertions.sign(session, now, &groups))
            .transpose()
            .map_err(IdentityFieldsError::Unsigned)?;
        let mut fields = match &self.choice {
            IdentityChoice::Table(table) => table.header_fields(identity, session.provider(), assertion.as_ref()),
            IdentityChoice::Usual | IdentityChoice::Nothing => {
                assertion.into_iter().map(|value| (X_SIDEGATE_ASSERTION.clone(), value)).collect()
            }
        };
        if let Some(impersonation) = &self.impersonation {
            let Impersonated { fields: more, left_out } =
                impersonation.impersonate(identity, session.provider()).map_err(IdentityFieldsError::NotAPerson)?;
            fields.extend(more);
            self.log_left_out(&left_out, identity.principal(), now);
        }
        let made = Arc::new(UpstreamIdentity { upstream, at: now, fields: ReadyFields::new(&fields) });
        session.upstream_identities().keep(&made);
        Ok(Some(made))
    }

    /// The fields with the provider's ID token, if the table has such a field and the session a token. The token is opened for one request
    /// and not cached.
    pub(crate) fn id_token_fields(&self, session: &LoadedSession) -> Vec<(HeaderName, HeaderValue)> {
        let IdentityChoice::Table(table) = &self.choice else { return Vec::new() };
        if !table.has_id_token() {
            return Vec::new();
        }
        let sealed = session.session().grant.as_ref();
        let open = |sealed| self.grants.open(session.session().authority, &session.identity().id, sealed)?.id_token;
        sealed.and_then(open).map(|token| table.id_token_fields(&token).collect()).unwrap_or_default()
    }

    /// Logs that groups are omitted, at most once a minute.
    fn log_left_out(&self, left_out: &[(String, NotAPerson)], who: &str, now: Timestamp) {
        let Some((group, why)) = left_out.first() else { return };
        if self.left_out_limit.is_due(now) {
            let (user, group, groups) = (Clean(who), Clean(group), left_out.len());
            tracing::warn!(
                upstream = self.assertions.audience(), %user, %group, groups,
                "a group of somebody's is left out where the upstream acts as them: {why}; such groups are named once a minute at most"
            );
        }
    }
}
