//! Lists a person's own sessions, and ends them.

use std::sync::Arc;

use http::header::SET_COOKIE;
use http::{Response, StatusCode};
use serde_json::json;

use super::account::current;
use crate::adapters::stores::public_id;
use crate::adapters::telemetry::audit;
use crate::domain::browser;
use crate::domain::identity::Identified as _;
use crate::domain::paths;
use crate::domain::session::SessionSelector;
use crate::domain::time::Timestamp;
use crate::ports::{EndError, LoadedSession, StoreUnavailable};
use crate::serve::answer::pages::{self, SessionRow, SessionsPage};
use crate::serve::answer::rejection::Rejection;
use crate::serve::answer::reply;
use crate::serve::app::SignIn;
use crate::serve::auth::ending;
use crate::serve::body::Body;
use crate::serve::exchange::{Exchange, Refused};
use crate::serve::request::headers;

/// The most sessions in a list: the newest.
const LISTED: usize = 100;

/// `GET sessions`: the person's live sessions, newest first; HTML for browsers, JSON for programs.
pub(super) async fn list(exchange: &Exchange, sign_in: &SignIn) -> Result<Response<Body>, Refused> {
    let mine = current(exchange, sign_in).await?;
    let (all, more) = of_person(sign_in, &mine, exchange.now).await?;
    let rows: Vec<SessionRow> = all.iter().map(|session| row(session, session.key() == mine.key(), exchange)).collect();
    if headers::prefers_html(&exchange.head.headers) {
        let page = SessionsPage {
            site: Some(&sign_in.host_text),
            who: super::admission::name(mine.identity()),
            sessions: &rows,
            only: more.then_some(LISTED),
            stateless: sign_in.store.directory().is_none(),
        };
        return Ok(reply::html(StatusCode::OK, pages::sessions(&page)));
    }
    let sessions: Vec<_> = all.iter().zip(&rows).map(|(session, row)| fields(session, row)).collect();
    Ok(reply::json(StatusCode::OK, &json!({ "sessions": sessions })))
}

/// The newest sessions of a person, this one included, and whether there are more.
async fn of_person(
    sign_in: &SignIn,
    mine: &Arc<LoadedSession>,
    now: Timestamp,
) -> Result<(Vec<Arc<LoadedSession>>, bool), StoreUnavailable> {
    let mut all = match sign_in.store.directory() {
        Some(directory) => directory.of(person(mine), now).await?,
        None => Vec::new(),
    };
    all.retain(|session| session.key() != mine.key());
    let more = all.len() >= LISTED;
    all.truncate(LISTED.saturating_sub(1));
    all.push(Arc::clone(mine));
    all.sort_by_key(|session| std::cmp::Reverse(session.session().created_at));
    Ok((all, more))
}

fn person(session: &LoadedSession) -> SessionSelector<'_> {
    SessionSelector::Person { authority: session.session().authority, id: &session.identity().id }
}

fn row(session: &LoadedSession, is_current: bool, exchange: &Exchange) -> SessionRow {
    let device = &session.session().device;
    SessionRow {
        id: public_id(session.key()),
        browser: browser::in_words(&device.browser).unwrap_or_else(|| device.browser.clone()),
        address: device.address.to_canonical().to_string(),
        created: session.session().created_at.in_words(),
        last_seen: session.last_seen().ago(exchange.now),
        is_current,
    }
}

fn fields(session: &LoadedSession, row: &SessionRow) -> serde_json::Value {
    json!({
        "id": row.id,
        "created_at": session.session().created_at.rfc3339(),
        "last_seen": session.last_seen().rfc3339(),
        "expires_at": session.session().expires_at.rfc3339(),
        "address": row.address,
        "browser": row.browser,
        "current": row.is_current,
    })
}

/// `DELETE sessions/{id}`, and `POST sessions/{id}/end` for forms: ends one of the person's own. Other people's ids are answered like
/// unknown ones.
pub(super) async fn end_one(
    exchange: &Exchange,
    sign_in: &SignIn,
    id: &str,
    by_form: bool,
) -> Result<Response<Body>, Refused> {
    let mine = current(exchange, sign_in).await?;
    let for_people = by_form && headers::prefers_html(&exchange.head.headers);
    let is_current = public_id(mine.key()) == id;
    let session = if is_current {
        Some(Arc::clone(&mine))
    } else {
        let directory = sign_in.store.directory().ok_or(Rejection::Stateless)?;
        let all = directory.of(person(&mine), exchange.now).await?;
        all.into_iter().find(|session| public_id(session.key()) == id)
    };
    let cleared = if is_current { sign_in.cookies.clear_session() } else { &[] };
    let Some(session) = session else {
        // A button pressed twice, or on an old page: the list no longer shows that session.
        return if for_people { Ok(see(paths::SESSIONS)) } else { Err(Rejection::NotFound.into()) };
    };
    let failure = sign_in.store.end(&session).await.err();
    // Where it goes on being tried, it has ended here.
    if failure.as_ref().is_none_or(EndError::is_retried) {
        note_end(exchange, &mine, is_current);
    }
    if let Some(error) = failure {
        // The words of a sign-out are about this browser.
        let why =
            if is_current { ending::refuse_sign_out(&error, exchange) } else { StoreUnavailable::from(error).into() };
        return Err(Refused(why, cleared.to_vec()));
    }
    let mut response = if for_people {
        see(if is_current { paths::SIGNED_OUT } else { paths::SESSIONS })
    } else {
        reply::json(StatusCode::OK, &json!({ "message": "Session ended" }))
    };
    for cookie in cleared {
        response.headers_mut().append(SET_COOKIE, cookie.clone());
    }
    Ok(response)
}

fn note_end(exchange: &Exchange, mine: &LoadedSession, is_current: bool) {
    if is_current {
        audit::signed_out(mine.identity(), exchange.origin());
        exchange.app.metrics.sign_outs.inc();
    } else {
        audit::sessions_ended(mine.identity(), 1, "the person ended it", Some(exchange.origin()));
    }
}

/// `DELETE sessions`, and `POST sessions/end-others` for forms: ends all the person's sessions except this one.
pub(super) async fn end_others(
    exchange: &Exchange,
    sign_in: &SignIn,
    by_form: bool,
) -> Result<Response<Body>, Refused> {
    let mine = current(exchange, sign_in).await?;
    let directory = sign_in.store.directory().ok_or(Rejection::Stateless)?;
    let ended = ending::end_all(&sign_in.store, directory, person(&mine), Some(mine.key()), exchange.now).await;
    let count = ended.count();
    if count > 0 {
        audit::sessions_ended(mine.identity(), count, "the person ended all others", Some(exchange.origin()));
    }
    if let Some(error) = ended.failure {
        return Err(StoreUnavailable::from(error).into());
    }
    if by_form && headers::prefers_html(&exchange.head.headers) {
        return Ok(see(paths::SESSIONS));
    }
    Ok(reply::json(StatusCode::OK, &json!({ "message": "Other sessions ended", "ended": count })))
}

fn see(path: &str) -> Response<Body> {
    reply::redirect(StatusCode::SEE_OTHER, path)
}
