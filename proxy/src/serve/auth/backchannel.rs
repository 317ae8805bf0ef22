//! Back-channel logout: the provider ends a person's sessions (OpenID Connect Back-Channel Logout 1.0).

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use zeroize::Zeroizing;

use crate::adapters::telemetry::{Clean, audit};
use crate::domain::identity::{Identified as _, ProviderKind};
use crate::domain::secret::Secret;
use crate::domain::session::SessionSelector;
use crate::ports::{LogoutToken, StoreUnavailable};
use crate::serve::answer::rejection::Rejection;
use crate::serve::answer::reply;
use crate::serve::app::SignIn;
use crate::serve::auth::ending::{self, Ended};
use crate::serve::body::Body;
use crate::serve::exchange::{Exchange, Refused};

/// The longest accepted form, in bytes.
const LONGEST: usize = 16 * 1024;

/// The time limit for the form.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether the provider sends logout tokens.
pub(super) fn is_spoken_by(provider: ProviderKind) -> bool {
    match provider {
        ProviderKind::Entra | ProviderKind::Oidc => true,
        ProviderKind::Github => false,
    }
}

/// `POST backchannel-logout`: ends the sessions that the token names. A sender without a valid token learns nothing.
pub(super) async fn logout(exchange: &Exchange, sign_in: &SignIn, body: Incoming) -> Result<Response<Body>, Refused> {
    let directory = sign_in.store.directory().ok_or(Rejection::Stateless)?;
    let refuse = |reason: &str| {
        audit::refused("invalid_request", reason, exchange.origin());
        Refused::from(Rejection::InvalidLogoutToken)
    };
    let form = read(&exchange.head.headers, body).await?;
    let token = logout_token(&form).ok_or_else(|| refuse("the form does not hold one `logout_token`"))?;
    let token = sign_in.provider.verify_logout(&token, exchange.now).await;
    let token = token.map_err(|reason| refuse(&format!("logout token: {reason}")))?;
    let selector = selector(&token, sign_in).ok_or_else(|| refuse("logout token: it names nobody"))?;
    let once = format!("logout token {:?} {}", sign_in.authority.0, token.id);
    if directory.has_come(&once, exchange.now).await? {
        return Err(refuse("logout token: it has come before"));
    }
    let ended = ending::end_all(&sign_in.store, directory, selector, None, exchange.now).await;
    log(&ended, exchange);
    if let Some(error) = ended.failure {
        return Err(StoreUnavailable::from(error).into());
    }
    // Only now: if the store failed before, the provider must be able to send the same token again.
    directory.note_coming(&once, token.expires_at, exchange.now).await?;
    Ok(reply::bare(StatusCode::OK, Body::empty()))
}

/// Logs what a token has ended, also where the store has not confirmed all of it: the same token ends no session twice.
fn log(ended: &Ended, exchange: &Exchange) {
    let (count, request_id) = (ended.count(), Clean(exchange.origin().request_id));
    match ended.one() {
        Some(one) => {
            let origin = Some(exchange.origin());
            audit::sessions_ended(one.identity(), count, "the provider signed the person out", origin);
        }
        None if count > 0 => tracing::info!(
            %request_id,
            count,
            "a logout token of the provider has ended sessions that look unused here, or that only another replica can read, by another SESSION_SECRET \
             or version"
        ),
        None if ended.failure.is_none() => {
            tracing::info!(%request_id, "a logout token of the provider named no session that is known here");
        }
        None => {}
    }
}

async fn read(headers: &HeaderMap, body: Incoming) -> Result<Zeroizing<Vec<u8>>, Rejection> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(Rejection::InvalidLogoutToken);
    }
    let read = tokio::time::timeout(PATIENCE, Limited::new(body, LONGEST).collect()).await;
    let read = read.map_err(|_| Rejection::RequestTimeout)?;
    read.map(|read| Zeroizing::new(read.to_bytes().to_vec())).map_err(|_| Rejection::InvalidLogoutToken)
}

/// The single token of a form; `None` if there is none, or more than one.
fn logout_token(form: &[u8]) -> Option<Secret> {
    let mut tokens = url::form_urlencoded::parse(form).filter(|(name, _)| name == "logout_token");
    match (tokens.next(), tokens.next()) {
        (Some((_, token)), None) if !token.is_empty() => Some(Secret::new(token)),
        (Some(_) | None, _) => None,
    }
}

/// The provider's session, if the token names one, else the person.
fn selector<'t>(token: &'t LogoutToken, sign_in: &SignIn) -> Option<SessionSelector<'t>> {
    let authority = sign_in.authority;
    match (&token.provider_session, &token.subject) {
        (Some(sid), _) => Some(SessionSelector::ProviderSession { authority, sid }),
        (None, Some(id)) => Some(SessionSelector::Person { authority, id }),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_holds_exactly_one_token() {
        let token = |form: &str| logout_token(form.as_bytes()).map(|token| token.expose().to_owned());
        assert_eq!(token("a=b&logout_token=x.y.z").as_deref(), Some("x.y.z"));
        for form in [
            "",
            "logout_token=",
            "logout_token",
            "a=b",
            "logout_token=a&logout_token=b",
            "logout_token=&logout_token=b",
        ] {
            assert_eq!(token(form), None, "{form}");
        }
    }
}
