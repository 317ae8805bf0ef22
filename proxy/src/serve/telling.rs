//! Who somebody is, as one upstream is told: the usual fields, those of a table, or nothing.

use std::sync::Arc;

use http::HeaderName;

use crate::adapters::assertion::{Assertions, REUSE, SigningFailed};
use crate::domain::identity::Identified as _;
use crate::domain::time::Timestamp;
use crate::ports::{LoadedSession, ReadyFields, Told};
use crate::serve::upstream_settings::IdentityChoice;

/// The name of the assertion among the usual fields.
pub(crate) static X_SIDEGATE_ASSERTION: HeaderName = HeaderName::from_static("x-sidegate-assertion");

/// How one upstream is told.
pub(crate) struct Telling {
    choice: IdentityChoice,
    /// Whether the assertion names groups.
    groups: bool,
    assertions: Assertions,
}

impl Telling {
    pub(crate) const fn new(choice: IdentityChoice, groups: bool, assertions: Assertions) -> Self {
        Self { choice, groups, assertions }
    }

    /// Whether the session's own ready fields are told as well.
    pub(crate) fn has_usual_fields(&self) -> bool {
        self.choice == IdentityChoice::Usual
    }

    /// What is told of a session, ready-made: kept with it, and made anew once a minute where an assertion is among it.
    pub(crate) fn tell(&self, session: &LoadedSession, now: Timestamp) -> Result<Option<Arc<Told>>, SigningFailed> {
        let has_assertion = match &self.choice {
            IdentityChoice::Nothing => return Ok(None),
            IdentityChoice::Usual => true,
            IdentityChoice::Table(table) => table.has_assertion(),
        };
        let by = self.assertions.number();
        let is_fresh = |told: &Arc<Told>| !has_assertion || (now.since(told.at) < REUSE && told.at.since(now) < REUSE);
        if let Some(told) = session.tellings().by(by).filter(is_fresh) {
            return Ok(Some(told));
        }
        let identity = session.identity();
        let groups = match &self.choice {
            _ if !self.groups => Vec::new(),
            IdentityChoice::Table(table) => table.groups(identity),
            IdentityChoice::Usual | IdentityChoice::Nothing => identity.groups.clone(),
        };
        let assertion = has_assertion.then(|| self.assertions.sign(session, now, &groups)).transpose()?;
        let fields = match &self.choice {
            IdentityChoice::Table(table) => table.tell(identity, session.provider(), assertion.as_ref()),
            IdentityChoice::Usual | IdentityChoice::Nothing => {
                assertion.into_iter().map(|value| (X_SIDEGATE_ASSERTION.clone(), value)).collect()
            }
        };
        let told = Arc::new(Told { by, at: now, fields: ReadyFields::new(&fields) });
        session.tellings().keep(&told);
        Ok(Some(told))
    }
}
