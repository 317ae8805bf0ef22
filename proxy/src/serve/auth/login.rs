//! Sign-in: the redirect to the provider, and the callback with a code.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header::{HeaderValue, SET_COOKIE, USER_AGENT};
use http::{HeaderMap, Response, StatusCode};

use super::admission;
use super::visits::Visits;
use crate::adapters::providers::log_omitted;
use crate::adapters::seal;
use crate::adapters::telemetry::audit::Origin;
use crate::adapters::telemetry::{Clean, audit};
use crate::domain::identity::Identified as _;
use crate::domain::judge::Why;
use crate::domain::login::{ATTEMPT_LIFETIME, ATTEMPT_RANDOM, AttemptId, LoginAttempt};
use crate::domain::path::ReturnTo;
use crate::domain::paths;
use crate::domain::principal::{Principal, Proof};
use crate::domain::rules::NO_RULE;
use crate::domain::secret::Secret;
use crate::domain::session::{Device, Session, proved_at};
use crate::domain::time::Timestamp;
use crate::ports::{EndError, LoadedSession, Prompt, SignInError, SignedIn, StoreUnavailable};
use crate::serve::answer::asker::MAX_AGE;
use crate::serve::answer::bad_callback::BadCallback;
use crate::serve::answer::query::{self, parameter};
use crate::serve::answer::rejection::Rejection;
use crate::serve::answer::reply;
use crate::serve::app::SignIn;
use crate::serve::auth::session::{self, Found};
use crate::serve::body::Body;
use crate::serve::exchange::{Exchange, Refused};
use crate::serve::log_limit::LogLimit;
use crate::serve::request::headers;

/// Marks a request for `login` that we redirected to the public origin.
const SENT_HERE: &str = "sent";

/// How long a sign-in waits for the provider's metadata.
const PROVIDER_WAIT: std::time::Duration = std::time::Duration::from_secs(3);

/// A replaced session is ended by a new sign-in if it is older than this: a younger one belongs to a sign-in in another tab.
const REPLACED_AFTER: Duration = Duration::from_secs(60);

/// When it was last logged that a replaced session stays valid.
static REPLACED_LIVES_ON: LogLimit = LogLimit::new();

/// `GET login?rd=/path`: redirects to the provider.
pub(super) async fn begin(exchange: &Exchange, sign_in: &SignIn) -> Result<Response<Body>, Refused> {
    let query = exchange.head.uri.query();
    let return_to = query::wanted(query, &exchange.snapshot);
    let wants_choice = parameter(query, "prompt").ok().flatten().as_deref() == Some("select_account");
    let max_age = max_age(query);
    if let Some(response) = send_to_public_origin(exchange, sign_in, &return_to, wants_choice, max_age)? {
        return Ok(response);
    }
    let cookies = &exchange.head.headers;
    let visits = note_visit(exchange, sign_in, cookies).await?;
    wait_for_provider(sign_in).await;
    let random = seal::random::<ATTEMPT_RANDOM>().map_err(|error| internal(&error))?;
    let turn = exchange.app.attempts.fetch_add(1, Ordering::Relaxed);
    let attempt = LoginAttempt::begin(&random, return_to, turn, exchange.now).within(max_age);
    let prompt = wants_choice.then_some(Prompt::SelectAccount);
    let to = sign_in.provider.authorization_url(&attempt, prompt).map_err(|error| {
        let request_id = Clean(exchange.origin().request_id);
        tracing::error!(%request_id, "sign-in is not possible: {}", Clean(&error.to_string()));
        Rejection::from(&error)
    })?;
    let sealed = seal_json(sign_in, &seal_of(sign_in, attempt.id()), &attempt)?;
    let mut response = reply::redirect(StatusCode::FOUND, to.as_str());
    append(&mut response, sign_in.cookies.set_login(cookies, attempt.id(), &sealed));
    append(&mut response, visits);
    Ok(response)
}

/// Right after a start or an outage the provider's metadata may still be loading: waits a little, and speeds it up.
async fn wait_for_provider(sign_in: &SignIn) {
    // On a timeout the next step reports the reason.
    let _late = tokio::time::timeout(PROVIDER_WAIT, sign_in.provider.ready()).await;
}

/// The maximum age of the sign-in, if a rule that requires one has sent the browser here.
fn max_age(query: Option<&str>) -> Option<Duration> {
    let text = parameter(query, MAX_AGE).ok().flatten()?;
    // The rule is judged again after the sign-in: changing this value gains nothing.
    text.parse().ok().map(Duration::from_secs)
}

/// On another host the callback would lack our cookies: redirects the browser to the public one, once.
fn send_to_public_origin(
    exchange: &Exchange,
    sign_in: &SignIn,
    return_to: &ReturnTo,
    wants_choice: bool,
    max_age: Option<Duration>,
) -> Result<Option<Response<Body>>, Refused> {
    let asked = headers::host(&exchange.head.headers, &exchange.caller).unwrap_or_default();
    if is_host(asked, sign_in) {
        return Ok(None);
    }
    if parameter(exchange.head.uri.query(), SENT_HERE).ok().flatten().is_some() {
        let (asked, public) = (asked.to_owned(), sign_in.host_text.clone());
        return Err(Rejection::WrongHost { asked, public }.into());
    }
    // A path belongs to the requested host.
    let return_to = exchange.snapshot.return_to_on(asked, return_to.as_str());
    let mut to = sign_in.public_origin.clone();
    to.set_path(paths::LOGIN);
    to.query_pairs_mut().append_pair("rd", return_to.as_str()).append_pair(SENT_HERE, "1");
    if wants_choice {
        to.query_pairs_mut().append_pair("prompt", "select_account");
    }
    if let Some(max_age) = max_age {
        to.query_pairs_mut().append_pair(MAX_AGE, &max_age.as_secs().to_string());
    }
    Ok(Some(reply::redirect(StatusCode::FOUND, to.as_str())))
}

/// Cookies ignore ports, but the return after sign-in does not: host and port must match.
fn is_host(asked: &str, sign_in: &SignIn) -> bool {
    let default = sign_in.public_origin.port_or_known_default().map(|port| format!(":{port}")).unwrap_or_default();
    asked.eq_ignore_ascii_case(&sign_in.host_text)
        || asked.strip_suffix(&default).is_some_and(|bare| bare.eq_ignore_ascii_case(&sign_in.host_text))
}

/// Counts visits without a session after successful callbacks; refuses the fifth within a minute.
async fn note_visit(exchange: &Exchange, sign_in: &SignIn, cookies: &HeaderMap) -> Result<Vec<HeaderValue>, Refused> {
    let conflict = match session::find(exchange, sign_in).await? {
        Found::Session(..) => return Ok(Vec::new()),
        Found::Conflict => sign_in.cookies.clear_session().to_vec(),
        Found::NoSession => Vec::new(),
    };
    let Some(mut visits) = read_visits(sign_in, cookies) else { return Ok(conflict) };
    if visits.note_visit(exchange.now) {
        tracing::warn!(
            client = %exchange.caller.client,
            request_id = %Clean(exchange.origin().request_id),
            "a browser signs in again and again because its session cookie does not come back: see COOKIE_DOMAIN and COOKIE_SECURE"
        );
        return Err(Rejection::SignInLoop.into());
    }
    Ok([write_visits(sign_in, &visits)?].into_iter().chain(conflict).collect())
}

fn read_visits(sign_in: &SignIn, cookies: &HeaderMap) -> Option<Visits> {
    let sealed = sign_in.cookies.visits(cookies)?;
    let opened = sign_in.sealer.open(sign_in.cookies.visits_name().as_bytes(), sealed)?;
    serde_json::from_slice(&opened).ok()
}

fn write_visits(sign_in: &SignIn, visits: &Visits) -> Result<HeaderValue, Refused> {
    let sealed = seal_json(sign_in, sign_in.cookies.visits_name().as_bytes(), visits)?;
    Ok(sign_in.cookies.set_visits(&sealed))
}

/// `GET callback?code&state`: the return from the provider. Every response deletes the attempt's cookie.
pub(super) async fn callback(exchange: &Exchange, sign_in: &SignIn) -> Result<Response<Body>, Refused> {
    let state = parameter(exchange.head.uri.query(), "state").ok().flatten();
    let id = state.as_deref().and_then(AttemptId::of_state);
    let cleared = id.as_ref().map(|id| sign_in.cookies.clear_login(id));
    match redeem(exchange, sign_in, state.as_deref(), id.as_ref()).await {
        Ok(mut response) => {
            append(&mut response, cleared);
            Ok(response)
        }
        Err(Refused(rejection, mut cookies)) => {
            exchange.app.metrics.sign_in(rejection.code());
            cookies.extend(cleared);
            Err(Refused(rejection, cookies))
        }
    }
}

/// The order matters for security: the state, the issuer, the provider's error, the code, the policy, and only then a session.
async fn redeem(
    exchange: &Exchange,
    sign_in: &SignIn,
    state: Option<&str>,
    id: Option<&AttemptId>,
) -> Result<Response<Body>, Refused> {
    let (cookies, query, now) = (&exchange.head.headers, exchange.head.uri.query(), exchange.now);
    let Some(attempt) = open_attempt(sign_in, cookies, state, id, now) else {
        return stale(exchange, sign_in, unfit(query)).await;
    };
    wait_for_provider(sign_in).await;
    let issuer = only(query, "iss").map_err(|bad| refuse(exchange, bad))?;
    sign_in.provider.check_issuer(issuer.as_deref()).map_err(|error| fail(&error, exchange, sign_in))?;
    let answer = ProviderAnswer::of(query).map_err(|bad| refuse(exchange, bad))?;
    // A state is valid once: of concurrent callbacks one goes on, and no other reaches the provider. An error redeems nothing, and
    // anyone can send one: it takes no room in a shared store.
    let (store, state) = (&sign_in.store, attempt.state());
    let is_first = match &answer {
        ProviderAnswer::Error(_) => store.take_state_here(state, now),
        ProviderAnswer::Code(_) => store.take_state(state, attempt.started_at + ATTEMPT_LIFETIME, now).await?,
    };
    if !is_first {
        return stale(exchange, sign_in, BadCallback::Used).await;
    }
    let code = match answer {
        ProviderAnswer::Code(code) => code,
        ProviderAnswer::Error(error) => return Err(refused_there(exchange, &error)),
    };
    let signed_in =
        sign_in.provider.sign_in(&code, &attempt, now).await.map_err(|error| fail(&error, exchange, sign_in))?;
    log_omitted(&signed_in.omitted, Some(exchange.origin()));
    admit(exchange, &signed_in, attempt.max_age)?;
    let set = start_session(exchange, sign_in, signed_in).await?;
    let mut response = reply::redirect(StatusCode::FOUND, attempt.return_to.as_str());
    append(&mut response, set);
    Ok(response)
}

/// The provider's answer to a sign-in.
enum ProviderAnswer {
    Code(Secret),
    Error(String),
}

impl ProviderAnswer {
    /// An error counts before a code.
    fn of(query: Option<&str>) -> Result<Self, BadCallback> {
        if let Some(error) = only(query, "error")? {
            return Ok(Self::Error(error));
        }
        let code = only(query, "code")?.filter(|code| !code.is_empty());
        code.map(|code| Self::Code(Secret::new(code))).ok_or(BadCallback::NoAnswer)
    }
}

/// A parameter of the callback that must not be repeated.
fn only(query: Option<&str>, name: &'static str) -> Result<Option<String>, BadCallback> {
    parameter(query, name).map_err(|_twice| BadCallback::Repeated(name))
}

/// Why no attempt fits the callback.
fn unfit(query: Option<&str>) -> BadCallback {
    match only(query, "state") {
        Ok(Some(state)) if !state.is_empty() => BadCallback::NoSignIn,
        Ok(_) => BadCallback::NoState,
        Err(bad) => bad,
    }
}

/// Logs the error that the provider sent to the callback.
fn refused_there(exchange: &Exchange, error: &str) -> Refused {
    let description = parameter(exchange.head.uri.query(), "error_description").ok().flatten().unwrap_or_default();
    let request_id = Clean(exchange.origin().request_id);
    let (code, description) = (Clean(error), Clean(&description));
    tracing::warn!(client = %exchange.caller.client, %request_id, "the provider sent an error to the callback: {code} {description}");
    if error == "access_denied" { Rejection::SignInCancelled.into() } else { Rejection::ProviderError.into() }
}

/// A callback opened again, from the history or by going back: an existing session stays.
async fn stale(exchange: &Exchange, sign_in: &SignIn, bad: BadCallback) -> Result<Response<Body>, Refused> {
    match session::find(exchange, sign_in).await? {
        Found::Session(..) => Ok(reply::redirect(StatusCode::FOUND, "/")),
        Found::NoSession | Found::Conflict => Err(refuse(exchange, bad)),
    }
}

/// Logs what is wrong with the callback in the words that operators search for.
fn refuse(exchange: &Exchange, bad: BadCallback) -> Refused {
    let request_id = Clean(exchange.origin().request_id);
    tracing::warn!(client = %exchange.caller.client, %request_id, "Invalid OAuth state: {bad}");
    Rejection::from(bad).into()
}

/// Whether a session may begin, and the person's authentication is as recent as required.
fn admit(exchange: &Exchange, signed_in: &SignedIn, max_age: Option<Duration>) -> Result<(), Refused> {
    let (snapshot, identity, origin) = (&exchange.snapshot, &signed_in.identity, exchange.origin());
    let who = Principal {
        identity,
        provider: identity.provider.as_str(),
        by: Proof::Session,
        proved_at: proved_at(identity.provider, exchange.now, signed_in.auth_time),
        claims: &identity.claims,
        certificate: admission::shown(exchange),
    };
    admission::admit_person(snapshot, &who, &signed_in.omitted, false, origin)?;
    let Some(max_age) = max_age else { return Ok(()) };
    // Otherwise a provider that does not ask for the password again would cause an endless redirect loop.
    if who.proved_at.is_none_or(|at| exchange.now.since(at) > max_age) {
        return Err(admission::denied(Some(&who), None, &[], NO_RULE, &Why::TooOld { max_age }, false, origin).into());
    }
    Ok(())
}

fn open_attempt(
    sign_in: &SignIn,
    cookies: &HeaderMap,
    state: Option<&str>,
    id: Option<&AttemptId>,
    now: Timestamp,
) -> Option<LoginAttempt> {
    let (state, id) = (state?, id?);
    let opened = sign_in.sealer.open(&seal_of(sign_in, id), sign_in.cookies.login(cookies, id)?)?;
    let attempt: LoginAttempt = serde_json::from_slice(&opened).ok()?;
    attempt.answers_to(state, now).then_some(attempt)
}

/// Issues a new token at each sign-in, so that one planted before is not valid after it (session fixation).
async fn start_session(
    exchange: &Exchange,
    sign_in: &SignIn,
    signed_in: SignedIn,
) -> Result<Vec<HeaderValue>, Refused> {
    let (cookies, now) = (&exchange.head.headers, exchange.now);
    let found = session::find(exchange, sign_in).await?;
    let browser = cookies.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let device = Device::new(exchange.caller.client, browser);
    let SignedIn { identity, grant, provider_session, auth_time, .. } = signed_in;
    let mut session = Session::begin(identity.clone(), sign_in.authority, device, sign_in.lifetime.absolute, now);
    session.provider_session = provider_session;
    session.auth_time = auth_time;
    sign_in.renewing.begin_with(&mut session, grant, now).map_err(|error| internal(&error))?;
    // The code is redeemed: had the old session ended before, a store that fails in between would leave the person with neither.
    let token = sign_in.store.begin(session, now).await?;
    if let Found::Session(old) = found
        && now.since(old.session().created_at) >= REPLACED_AFTER
    {
        end_replaced(exchange, sign_in, &old).await?;
    }
    audit::signed_in(&identity, exchange.origin());
    exchange.app.metrics.sign_in("succeeded");
    let mut visits = read_visits(sign_in, cookies).unwrap_or_default();
    visits.note_sign_in();
    Ok(vec![sign_in.cookies.set_session(&token, sign_in.lifetime.absolute.as_secs()), write_visits(sign_in, &visits)?])
}

/// Ends the session that a sign-in replaces. Where the store has no room to remember another ended one of its person, the sign-in goes on:
/// it lets in nobody whom the old session does not, and takes the old cookie's place. So it does where the store has not confirmed the end,
/// whether it is asked again or not: refusing it would only waste the code, and the old session has ended here.
async fn end_replaced(exchange: &Exchange, sign_in: &SignIn, old: &LoadedSession) -> Result<(), StoreUnavailable> {
    let ended = sign_in.store.end(old).await;
    let Origin { client, request_id } = exchange.origin();
    match ended {
        Ok(()) => Ok(()),
        Err(EndError::Unconfirmed(unavailable)) => {
            tracing::warn!(
                %client,
                request_id = %Clean(request_id),
                user = %Clean(old.identity().principal()),
                "the end of a session that a sign-in replaces is not confirmed yet, and is tried again: {unavailable}"
            );
            Ok(())
        }
        Err(EndError::Unavailable(unavailable)) if old.has_ended() => {
            tracing::warn!(
                %client,
                request_id = %Clean(request_id),
                user = %Clean(old.identity().principal()),
                "the end of a session that a sign-in replaces is not confirmed, and is not tried again: {unavailable}"
            );
            Ok(())
        }
        Err(EndError::Unavailable(unavailable)) => Err(unavailable),
        Err(EndError::NoRoomOfPerson(why)) => {
            if REPLACED_LIVES_ON.is_due(exchange.now) {
                tracing::warn!(
                    %client,
                    request_id = %Clean(request_id),
                    user = %Clean(old.identity().principal()),
                    "a session that a sign-in replaces is not ended, and a copy of its cookie is valid until it expires: {why}; \
                     told once a minute at most"
                );
            }
            Ok(())
        }
    }
}

/// Logs the reason in the words that operators search for; the person gets the code.
fn fail(error: &SignInError, exchange: &Exchange, sign_in: &SignIn) -> Refused {
    let (kind, origin) = (sign_in.provider.kind(), exchange.origin());
    match error {
        SignInError::TokenExchange(reason) => audit::token_exchange_failed(kind, reason, origin),
        SignInError::UserInfo(reason) => audit::user_info_failed(kind, reason, origin),
        SignInError::NotAllowed { who, reason } => audit::account_not_allowed(who, kind, reason, origin),
        SignInError::Unreachable(reason) => audit::refused("provider_unreachable", reason, origin),
        SignInError::Issuer(reason) => audit::refused("invalid_state", reason, origin),
    }
    Rejection::from(error).into()
}

/// What the seal of an attempt is bound to: its cookie, and the authority. Deployments that share a secret, and a reload that
/// changes the provider, accept no attempt of the other's.
fn seal_of(sign_in: &SignIn, id: &AttemptId) -> Vec<u8> {
    [sign_in.cookies.login_name(id).as_bytes(), b"\0", &sign_in.authority.0].concat()
}

fn seal_json(sign_in: &SignIn, name: &[u8], value: &impl serde::Serialize) -> Result<String, Refused> {
    let text = zeroize::Zeroizing::new(serde_json::to_vec(value).map_err(|error| internal(&error))?);
    sign_in.sealer.seal(name, &text).map_err(|error| internal(&error))
}

fn internal(error: &dyn std::error::Error) -> Refused {
    tracing::error!("sign-in is not possible: {error}");
    Rejection::Internal.into()
}

fn append(response: &mut Response<Body>, cookies: impl IntoIterator<Item = HeaderValue>) {
    for cookie in cookies {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
}
