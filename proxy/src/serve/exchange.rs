//! One request on its way, and a refusal of it.

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
use crate::serve::request::headers::Trace;
use crate::serve::telling::Untold;

/// One request on its way: what every step looks at.
pub(crate) struct Exchange {
    pub(crate) head: Parts,
    /// Whether it asks for another protocol: noted at once, since that header ends at this hop.
    pub(crate) upgrades: bool,
    pub(crate) caller: Caller,
    /// The certificate that the caller has shown on this connection; `None`: none, or it is that of a proxy in front.
    pub(crate) certificate: Option<Arc<ClientCertificate>>,
    pub(crate) now: Timestamp,
    pub(crate) trace: Trace,
    pub(crate) app: Arc<App>,
    pub(crate) snapshot: Arc<Snapshot>,
}

impl Exchange {
    /// Where it came from, for the audit log.
    pub(crate) fn origin(&self) -> Origin<'_> {
        Origin { client: self.caller.client, request_id: self.trace.request_id.as_str() }
    }
}

/// A refusal, with the cookies that go with it.
pub(crate) struct Refused(pub(crate) Rejection, pub(crate) Vec<HeaderValue>);

impl<R: Into<Rejection>> From<R> for Refused {
    fn from(rejection: R) -> Self {
        Self(rejection.into(), Vec::new())
    }
}

/// The refusal of a request of somebody of whom an upstream cannot be told.
pub(crate) fn untold(why: Untold, session: &LoadedSession) -> Rejection {
    match why {
        Untold::Unsigned(error) => unsigned(error),
        Untold::NotAPerson(why) => Rejection::NotImpersonated { who: session.identity().principal().to_owned(), why },
    }
}

/// The refusal of a request whose assertion could not be signed: it goes nowhere without.
pub(crate) fn unsigned(error: SigningFailed) -> Rejection {
    tracing::error!("{error}: the request was not let in");
    Rejection::Internal
}
