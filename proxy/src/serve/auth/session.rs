//! The session of a request: from its cookies to the store.

use std::sync::Arc;

use crate::adapters::telemetry::Clean;
use crate::adapters::telemetry::audit::Origin;
use crate::ports::{LoadedSession, StoreUnavailable};
use crate::serve::app::SignIn;
use crate::serve::exchange::Exchange;

/// The result of a lookup by cookies.
pub(crate) enum Found {
    /// No live session.
    NoSession,
    /// One live session.
    Session(Arc<LoadedSession>),
    /// Two live sessions, or more cookies than are examined: some were planted (cookie tossing). No session counts, and all cookies are
    /// to be cleared.
    Conflict,
}

/// Finds the session of a request. Unreadable cookies beside a valid one are ignored.
pub(crate) async fn find(exchange: &Exchange, sign_in: &SignIn) -> Result<Found, StoreUnavailable> {
    let now = exchange.now;
    let mut found = Found::NoSession;
    let Ok(tokens) = sign_in.cookies.tokens(&exchange.head.headers) else {
        let Origin { client, request_id } = exchange.origin();
        tracing::warn!(
            %client,
            request_id = %Clean(request_id),
            "a request has more session cookies than are looked at: none counts, since some may have been planted"
        );
        return Ok(Found::Conflict);
    };
    for token in tokens {
        let session = match sign_in.store.hot(&token, now) {
            Some(session) => Some(session),
            None => sign_in.store.load(&token, now).await?,
        };
        let session = match session.filter(|session| sign_in.vouches_for(session)) {
            // In a box, so that session renewal does not enlarge the future of every request.
            Some(session) if session.is_due(now) => Box::pin(sign_in.renewing.renew_for_request(session, now)).await,
            other => other,
        };
        found = match (session, found) {
            (None, found) => found,
            (Some(session), Found::NoSession) => Found::Session(session),
            (Some(_), Found::Session(_) | Found::Conflict) => {
                let Origin { client, request_id } = exchange.origin();
                tracing::warn!(
                    %client,
                    request_id = %Clean(request_id),
                    "a request has two live sessions: both are ignored, since one may have been planted"
                );
                return Ok(Found::Conflict);
            }
        };
    }
    Ok(found)
}
