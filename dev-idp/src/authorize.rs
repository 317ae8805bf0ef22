//! The authorization endpoint of every provider: checks the request, lets a person pick a user, and redirects back with a code.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use url::Url;

use crate::control::Lie;
use crate::dialect::Dialect;
use crate::grants::{Binding, Grant, is_challenge, random};
use crate::pages;
use crate::params::Params;
use crate::provider::{Origin, Provider, locked};
use crate::users::User;

/// The cookie that remembers the picked user, like a provider's own session.
const REMEMBERED: &str = "dev_idp_user";
/// The longest scope or nonce that is kept, in bytes.
const LONGEST: usize = 2048;

/// A valid authorization request; errors can be sent to its redirect URL.
struct Asked {
    dialect: Dialect,
    origin: String,
    redirect_url: String,
    redirect_named: bool,
    state: Option<String>,
    scopes: Vec<String>,
    nonce: Option<String>,
    challenge: Option<String>,
    prompt: Prompt,
    /// Whether the client requests the time of the sign-in.
    wants_auth_time: bool,
    hint: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Prompt {
    /// Sign the remembered user in without asking.
    Remembered,
    /// Always ask.
    Always,
    /// Never ask.
    Never,
}

/// Why the request is stopped.
pub(crate) enum Stop {
    /// Shows an error page; does not redirect, because the redirect URL is not trusted (RFC 9700 §4.11.2).
    Page(String),
    /// Sends the error to the client, at its redirect URL.
    Redirect(String),
}

/// `GET {authorize}`: the page, or a redirect at once for a remembered user.
pub(crate) async fn ask(
    State(provider): State<Arc<Provider>>,
    Origin(origin): Origin,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let Some(dialect) = Dialect::of_authorize(uri.path()) else {
        return pages::error(StatusCode::BAD_REQUEST, UNKNOWN_TENANT);
    };
    let params = match Params::parse(uri.query().unwrap_or_default().as_bytes()) {
        Ok(params) => params,
        Err(fault) => return pages::error(StatusCode::BAD_REQUEST, &fault),
    };
    let asked = match parse(&provider, dialect, origin, &params) {
        Ok(asked) => asked,
        Err(stop) => return stopped(stop),
    };
    let remembered = remembered(&headers).and_then(|id| provider.user(&id)).filter(|user| asked.dialect.admits(user));
    match (asked.prompt, remembered) {
        (Prompt::Remembered | Prompt::Never, Some(user)) => found(&consent(&provider, &asked, &user)),
        (Prompt::Never, None) => found(&refuse(&provider, &asked, "login_required", "nobody is signed in")),
        (Prompt::Always, _) | (Prompt::Remembered, None) => {
            let users = locked(&provider.users);
            let users = users.list().iter().filter(|user| asked.dialect.admits(user)).cloned().collect();
            pages::pick(&pages::Picking {
                provider: asked.dialect.title(),
                client_id: &provider.client_id,
                scopes: &asked.scopes.join(" "),
                hint: asked.hint.as_deref(),
                action: format!("{}/decision", uri.path()),
                params: &params,
                users,
            })
        }
    }
}

/// `POST {authorize}/decision`: the person's choice on the page.
pub(crate) async fn decide(
    State(provider): State<Arc<Provider>>,
    Origin(origin): Origin,
    uri: Uri,
    body: Bytes,
) -> Response {
    let path = uri.path().strip_suffix("/decision").unwrap_or_default();
    let Some(dialect) = Dialect::of_authorize(path) else {
        return pages::error(StatusCode::BAD_REQUEST, UNKNOWN_TENANT);
    };
    let params = match Params::parse(&body) {
        Ok(params) => params,
        Err(fault) => return pages::error(StatusCode::BAD_REQUEST, &fault),
    };
    let choice = if params.find("cancel").is_some() { None } else { params.find("user") };
    let user = choice.map(str::to_owned);
    match decision(&provider, dialect, origin, &params, user.as_deref()) {
        Ok(location) => {
            let mut response = found(&location);
            if let Some(cookie) = user.as_deref().and_then(cookie) {
                response.headers_mut().insert(header::SET_COOKIE, cookie);
            }
            response
        }
        Err(stop) => stopped(stop),
    }
}

/// The URL to redirect to after `user` was picked, or, without one, after the request was cancelled.
pub(crate) fn decision(
    provider: &Provider,
    dialect: Dialect,
    origin: String,
    params: &Params,
    user: Option<&str>,
) -> Result<String, Stop> {
    let asked = parse(provider, dialect, origin, params)?;
    let Some(id) = user else {
        return Ok(refuse(provider, &asked, "access_denied", "The user has denied access."));
    };
    let user = provider.user(id).ok_or_else(|| {
        Stop::Page(format!("There is no demo user \"{id}\": pick one from the page, or add it to the users."))
    })?;
    if !asked.dialect.admits(&user) {
        return Err(Stop::Page(format!(
            "The demo user \"{id}\" has no account here: pick another, or sign in through another tenant or provider."
        )));
    }
    Ok(consent(provider, &asked, &user))
}

/// Deletes the cookie that remembers the user.
pub(crate) fn forget() -> (header::HeaderName, HeaderValue) {
    let cookie = "dev_idp_user=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax";
    (header::SET_COOKIE, HeaderValue::from_static(cookie))
}

const UNKNOWN_TENANT: &str =
    "AADSTS90002: there is no such tenant. Use common, organizations, consumers, or the id of a demo tenant.";

fn parse(provider: &Provider, dialect: Dialect, origin: String, params: &Params) -> Result<Asked, Stop> {
    // Client and redirect URL first: until both are valid there is nowhere to send an error.
    match params.find("client_id") {
        Some(id) if id == provider.client_id => {}
        Some(_) => {
            return Err(Stop::Page(
                "client_id is not the one this provider was started with (DEV_IDP_CLIENT_ID).".to_owned(),
            ));
        }
        None => return Err(Stop::Page("client_id is missing.".to_owned())),
    }
    let registered = locked(&provider.redirect_urls).clone();
    let named = params.find("redirect_uri");
    let redirect_url = match named {
        Some(url) if registered.iter().any(|known| known == url) => url.to_owned(),
        Some(_) => {
            return Err(Stop::Page(format!(
                "redirect_uri is not a registered one. Registered: {}. Add it with DEV_IDP_REDIRECT_URL.",
                registered.join(", ")
            )));
        }
        // GitHub falls back on the registered callback.
        None if dialect == Dialect::GitHub => registered.first().cloned().unwrap_or_default(),
        None => return Err(Stop::Page("redirect_uri is missing.".to_owned())),
    };
    let mut asked = Asked {
        scopes: scopes(&dialect, params.find("scope").unwrap_or_default()),
        dialect,
        origin,
        redirect_url,
        redirect_named: named.is_some(),
        state: params.find("state").map(str::to_owned),
        nonce: params.find("nonce").map(str::to_owned),
        challenge: None,
        prompt: Prompt::Remembered,
        wants_auth_time: params.find("max_age").is_some(),
        hint: params.find("login_hint").or_else(|| params.find("login")).map(str::to_owned),
    };
    match check(&mut asked, params) {
        Ok(()) => Ok(asked),
        Err((code, description)) => Err(Stop::Redirect(refuse(provider, &asked, code, description))),
    }
}

fn check(asked: &mut Asked, params: &Params) -> Result<(), (&'static str, &'static str)> {
    let response_type = params.find("response_type");
    if response_type != Some("code") && !(asked.dialect == Dialect::GitHub && response_type.is_none()) {
        return Err(("unsupported_response_type", "response_type must be code"));
    }
    if !matches!(params.find("response_mode"), None | Some("query")) {
        return Err(("invalid_request", "response_mode must be query"));
    }
    let too_long = |name| params.find(name).is_some_and(|value: &str| value.len() > LONGEST);
    if too_long("scope") || too_long("nonce") {
        return Err(("invalid_request", "scope and nonce may have 2048 bytes each"));
    }
    if asked.dialect != Dialect::GitHub && !asked.scopes.iter().any(|scope| scope == "openid") {
        return Err(("invalid_scope", "scope must contain openid"));
    }
    asked.challenge = match (params.find("code_challenge"), params.find("code_challenge_method")) {
        (None, None) => None,
        (Some(challenge), Some("S256")) if is_challenge(challenge) => Some(challenge.to_owned()),
        (Some(_), Some("S256")) => {
            return Err(("invalid_request", "code_challenge must be a SHA-256 in base64url without padding"));
        }
        // Without a method the challenge would be a plain one (RFC 7636 §4.3).
        (Some(_), _) => return Err(("invalid_request", "code_challenge_method must be S256")),
        (None, Some(_)) => return Err(("invalid_request", "code_challenge is missing")),
    };
    asked.prompt = match params.find("prompt") {
        // The time of the remembered sign-in is not stored: a client that requests it gets a new sign-in.
        None if asked.wants_auth_time => Prompt::Always,
        None => Prompt::Remembered,
        Some("none") => Prompt::Never,
        Some(words) if words.split(' ').all(|word| matches!(word, "login" | "select_account" | "consent")) => {
            Prompt::Always
        }
        Some(_) => return Err(("invalid_request", "prompt must be none, login, consent or select_account")),
    };
    Ok(())
}

/// GitHub takes commas and spaces between scopes, the others spaces.
fn scopes(dialect: &Dialect, list: &str) -> Vec<String> {
    let commas = *dialect == Dialect::GitHub;
    list.split(|c| c == ' ' || (commas && c == ',')).filter(|scope| !scope.is_empty()).map(str::to_owned).collect()
}

fn consent(provider: &Provider, asked: &Asked, user: &User) -> String {
    let lies = provider.control.lies();
    if let Some(error) = lies.iter().find_map(forced_error) {
        return refuse(provider, asked, error, "dev-idp was told to fail");
    }
    let grant = Grant {
        id: random(12),
        dialect: asked.dialect.clone(),
        user: user.id.clone(),
        scopes: asked.scopes.clone(),
        nonce: asked.nonce.clone(),
        auth_time: asked.wants_auth_time.then(|| provider.clock.now()),
    };
    let binding = Binding {
        redirect_url: asked.redirect_url.clone(),
        named: asked.redirect_named,
        challenge: asked.challenge.clone(),
    };
    let code = provider.grants().issue_code(grant, binding, provider.clock.now());
    callback(asked, &lies, &[("code", &code)])
}

fn refuse(provider: &Provider, asked: &Asked, error: &str, description: &str) -> String {
    let fields = [("error", error), ("error_description", description)];
    callback(asked, &provider.control.lies(), &fields)
}

fn callback(asked: &Asked, lies: &[Lie], fields: &[(&str, &str)]) -> String {
    // The registered URLs were parsed at startup.
    let Ok(mut url) = Url::parse(&asked.redirect_url) else {
        return asked.redirect_url.clone();
    };
    {
        let mut query = url.query_pairs_mut();
        query.extend_pairs(fields);
        if lies.contains(&Lie::WrongState) {
            query.append_pair("state", "another-state");
        } else if let Some(state) = asked.state.as_ref().filter(|_| !lies.contains(&Lie::NoState)) {
            query.append_pair("state", state);
        }
        // RFC 9207: errors carry the issuer too.
        if lies.contains(&Lie::WrongIssAtCallback) {
            query.append_pair("iss", "https://another-issuer.invalid");
        } else if asked.dialect == Dialect::Oidc && !lies.contains(&Lie::NoIssAtCallback) {
            query.append_pair("iss", &format!("{}/oidc", asked.origin));
        }
        if matches!(asked.dialect, Dialect::Entra(_)) {
            query.append_pair("session_state", "00000000-0000-4000-8000-5e5510000000");
        }
    }
    url.into()
}

fn forced_error(lie: &Lie) -> Option<&str> {
    if let Lie::ErrorAtCallback(code) = lie { Some(code) } else { None }
}

fn stopped(stop: Stop) -> Response {
    match stop {
        Stop::Page(message) => pages::error(StatusCode::BAD_REQUEST, &message),
        Stop::Redirect(location) => found(&location),
    }
}

fn found(location: &str) -> Response {
    match HeaderValue::from_str(location) {
        Ok(location) => {
            let no_store = HeaderValue::from_static("no-store");
            let no_referrer = HeaderValue::from_static("no-referrer");
            let headers = [
                (header::LOCATION, location),
                (header::CACHE_CONTROL, no_store),
                (header::REFERRER_POLICY, no_referrer),
            ];
            (StatusCode::FOUND, headers).into_response()
        }
        Err(_) => pages::error(StatusCode::BAD_REQUEST, "The redirect URL cannot be sent as a header."),
    }
}

fn cookie(user: &str) -> Option<HeaderValue> {
    let value: String = url::form_urlencoded::byte_serialize(user.as_bytes()).collect();
    HeaderValue::from_str(&format!("{REMEMBERED}={value}; Path=/; HttpOnly; SameSite=Lax")).ok()
}

fn remembered(headers: &HeaderMap) -> Option<String> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == REMEMBERED)
        .map(|(_, value)| crate::grants::form_decode(value))
}
