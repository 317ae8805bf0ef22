//! Sign-out: in this browser, everywhere, and at the provider.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use http::header::SET_COOKIE;
use http::{Response, StatusCode};
use serde_json::json;
use url::Url;

use crate::adapters::telemetry::audit;
use crate::domain::identity::Identified as _;
use crate::domain::paths;
use crate::domain::secret::Secret;
use crate::domain::session::SessionSelector;
use crate::ports::{Directory, EndError, LoadedSession, StoreUnavailable};
use crate::serve::answer::pages::{self, SignedOutPage};
use crate::serve::answer::reply;
use crate::serve::app::SignIn;
use crate::serve::auth::ending;
use crate::serve::body::Body;
use crate::serve::exchange::{Exchange, Refused};
use crate::serve::request::headers;

/// How many sessions of one request are ended concurrently.
const AT_ONCE: usize = 16;

/// `POST logout`: ends every session that the browser sent, and clears the cookie; a form gets a page, a program JSON. With
/// `?everywhere=true` it also ends the person's other sessions, and sends the browser to the provider's logout endpoint, if there
/// is one.
pub(super) async fn logout(exchange: &Exchange, sign_in: &SignIn) -> Result<Response<Body>, Refused> {
    let request = &exchange.head.headers;
    let everywhere = asks_everywhere(exchange.head.uri.query());
    let mut cleared = sign_in.cookies.clear_session().to_vec();
    cleared.push(sign_in.cookies.set_visits(""));
    let Named { sessions, mut failure } = end_named(exchange, sign_in).await;
    if everywhere && let Some(directory) = sign_in.store.directory() {
        failure = EndError::worse(failure, end_others(exchange, sign_in, directory, &sessions).await);
    }
    if let Some(error) = failure {
        return Err(Refused(ending::refuse_sign_out(&error, exchange), cleared));
    }
    let onward = if everywhere { provider_logout(sign_in, &sessions) } else { None };
    let mut response = if headers::prefers_html(request) {
        reply::redirect(StatusCode::SEE_OTHER, onward.as_ref().map_or(paths::SIGNED_OUT, Url::as_str))
    } else {
        let mut body = json!({ "message": "Logged out successfully" });
        if let (Some(onward), Some(fields)) = (onward, body.as_object_mut()) {
            fields.insert("logout_url".into(), onward.as_str().into());
        }
        reply::json(StatusCode::OK, &body)
    };
    for cookie in cleared {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    Ok(response)
}

/// Whether any `everywhere` parameter is `true`: if they differ, ending more is the safe reading.
fn asks_everywhere(query: Option<&str>) -> bool {
    url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .any(|(name, value)| name == "everywhere" && value == "true")
}

/// What became of the sessions whose cookies were sent.
struct Named {
    /// Those known to have been live.
    sessions: Vec<Arc<LoadedSession>>,
    /// Why not every end is confirmed.
    failure: Option<EndError>,
}

/// Ends the sessions of all cookies sent, live or not. If more were sent than can be ended, that is a failure: the real session may be
/// among the rest.
async fn end_named(exchange: &Exchange, sign_in: &SignIn) -> Named {
    let (store, now) = (&sign_in.store, exchange.now);
    let (tokens, are_all) = sign_in.cookies.tokens_to_end(&exchange.head.headers);
    let too_many = || StoreUnavailable("it came with more session cookies than are ended at once".to_owned());
    let (mut sessions, mut failure) = (Vec::new(), (!are_all).then(|| EndError::Unavailable(too_many())));
    let mut endings = stream::iter(tokens)
        .map(async |token| {
            let held = match store.hot(&token, now) {
                Some(held) => Some(held),
                None => store.load(&token, now).await.ok().flatten(),
            };
            let ended = match &held {
                Some(held) => store.end(held).await,
                None => store.end_unseen(&token).await,
            };
            (held, ended)
        })
        .buffered(AT_ONCE);
    while let Some((held, ended)) = endings.next().await {
        let error = ended.err();
        // Where it goes on being tried, it counts as ended here until it has. Else nobody is signed out by that.
        let has_ended = error.as_ref().is_none_or(EndError::is_retried);
        failure = EndError::worse(failure, error);
        let Some(session) = held else { continue };
        if has_ended {
            audit::signed_out(session.identity(), exchange.origin());
            exchange.app.metrics.sign_outs.inc();
        }
        sessions.push(session);
    }
    Named { sessions, failure }
}

async fn end_others(
    exchange: &Exchange,
    sign_in: &SignIn,
    directory: &dyn Directory,
    sessions: &[Arc<LoadedSession>],
) -> Option<EndError> {
    let mut failure = None;
    for session in sessions {
        let selector = SessionSelector::Person { authority: session.session().authority, id: &session.identity().id };
        let ended = ending::end_all(&sign_in.store, directory, selector, Some(session.key()), exchange.now).await;
        if ended.count() > 0 {
            let origin = Some(exchange.origin());
            audit::sessions_ended(session.identity(), ended.count(), "the person signed out everywhere", origin);
        }
        failure = EndError::worse(failure, ended.failure);
    }
    failure
}

/// The provider's logout URL, with the ID token as a hint of the session to end. The return URL is fixed: nothing in the
/// request can change it.
fn provider_logout(sign_in: &SignIn, sessions: &[Arc<LoadedSession>]) -> Option<Url> {
    let hint = match sessions {
        [session] if sign_in.vouches_for(session) => id_token(sign_in, session),
        [] | [_, ..] => None,
    };
    sign_in.provider.logout_url(hint.as_ref(), &way_back(sign_in))
}

fn id_token(sign_in: &SignIn, session: &LoadedSession) -> Option<Secret> {
    let sealed = session.session().grant.as_ref()?;
    sign_in.renewing.grants.open(sign_in.authority, &session.identity().id, sealed)?.id_token
}

fn way_back(sign_in: &SignIn) -> Url {
    let mut url = sign_in.public_origin.clone();
    url.set_path(paths::SIGNED_OUT);
    url
}

/// `GET signed-out`, with a link to sign out at the provider too, if supported. Not a form: `form-action` would block it.
pub(super) fn signed_out_page(sign_in: &SignIn) -> Response<Body> {
    let onward = sign_in.provider.logout_url(None, &way_back(sign_in));
    let page = SignedOutPage {
        site: Some(&sign_in.host_text),
        provider: pages::provider_name(sign_in.provider.kind()),
        provider_logout: onward.as_ref(),
    };
    reply::html(StatusCode::OK, pages::signed_out(&page))
}
