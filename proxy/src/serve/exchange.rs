//! One request in progress, and its refusal.

use std::sync::Arc;

use http::header::HeaderValue;
use http::request::Parts;

use crate::adapters::assertion::SigningFailed;
use crate::adapters::telemetry::audit::Origin;
use crate::domain::caller::Caller;
use crate::domain::certificate::ClientCertificate;
use crate::domain::identity::Identified as _;
use crate::domain::time::Timestamp;
use crate::ports::LoadedSession;
use crate::serve::answer::rejection::Rejection;
use crate::serve::app::{App, Snapshot};
use crate::serve::identity_fields::IdentityFieldsError;
use crate::serve::request::headers::Trace;

/// One request in progress: what every step uses.
pub(crate) struct Exchange {
    pub(crate) head: Parts,
    /// Whether it asks for a protocol upgrade: recorded here, since that header field ends at this hop.
    pub(crate) upgrades: bool,
    pub(crate) caller: Caller,
    /// The client certificate of this connection; `None`: none, or that of a proxy in front.
    pub(crate) certificate: Option<Arc<ClientCertificate>>,
    pub(crate) now: Timestamp,
    pub(crate) trace: Trace,
    pub(crate) app: Arc<App>,
    pub(crate) snapshot: Arc<Snapshot>,
}

impl Exchange {
    /// Its origin, for the audit log.
    pub(crate) fn origin(&self) -> Origin<'_> {
        Origin { client: self.caller.client, request_id: self.trace.request_id.as_str() }
    }
}

/// A refusal, with its cookies.
pub(crate) struct Refused(pub(crate) Rejection, pub(crate) Vec<HeaderValue>);

impl<R: Into<Rejection>> From<R> for Refused {
    fn from(rejection: R) -> Self {
        Self(rejection.into(), Vec::new())
    }
}

/// The refusal of a request whose identity cannot be passed to the upstream.
pub(crate) fn identity_not_passed(why: IdentityFieldsError, session: &LoadedSession) -> Rejection {
    match why {
        IdentityFieldsError::Unsigned(error) => unsigned(error),
        IdentityFieldsError::NotAPerson(why) => {
            Rejection::NotImpersonated { who: session.identity().principal().to_owned(), why }
        }
    }
}

/// The refusal of a request whose assertion could not be signed: it is not forwarded without one.
pub(crate) fn unsigned(error: SigningFailed) -> Rejection {
    tracing::error!("{error}: the request was not let in");
    Rejection::Internal
}
