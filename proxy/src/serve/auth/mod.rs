//! The proxy's own endpoints, all under `/api/v1/auth`; never forwarded.

mod account;
mod admission;
mod backchannel;
pub(crate) mod bearer;
pub(crate) mod ending;
mod login;
mod logout;
pub(crate) mod session;
mod sessions;
mod visits;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::body::Incoming;

use crate::adapters::stores::is_public_id;
use crate::domain::path::AUTH_PREFIX;
use crate::serve::answer::pages;
use crate::serve::answer::rejection::Rejection;
use crate::serve::answer::reply;
use crate::serve::app::SignIn;
use crate::serve::body::Body;
use crate::serve::exchange::{Exchange, Refused};
use crate::serve::request::headers;

pub(crate) use self::admission::{admit, admit_blindly, admit_session};

/// Answers a request to one of our endpoints.
pub(crate) async fn answer(exchange: &Exchange, body: Incoming) -> Result<Response<Body>, Refused> {
    let response = dispatch(exchange, body).await?;
    exchange.app.metrics.answered(response.status());
    Ok(response)
}

async fn dispatch(exchange: &Exchange, body: Incoming) -> Result<Response<Body>, Refused> {
    let method = exchange.head.method.clone();
    let path = exchange.head.uri.path().strip_prefix(AUTH_PREFIX).unwrap_or_default();
    let endpoint = Endpoint::named(path.strip_prefix('/').unwrap_or_default());
    let Some(sign_in) = &exchange.snapshot.sign_in else {
        return match endpoint {
            Some(endpoint @ Endpoint::Status) => endpoint.check(&method).map(|()| status(false)),
            Some(_) | None => Err(Rejection::AuthDisabled.into()),
        };
    };
    refuse_cross_site(&exchange.head.headers, &method, sign_in)?;
    let there = |endpoint: &Endpoint| {
        !matches!(endpoint, Endpoint::BackchannelLogout) || backchannel::is_spoken_by(sign_in.provider.kind())
    };
    let endpoint = endpoint.filter(there).ok_or(Rejection::NotFound)?;
    endpoint.check(&method)?;
    // What nobody may ever see must not use up a sign-in, nor make the browser follow its redirect to the provider.
    if matches!(endpoint, Endpoint::Login | Endpoint::Callback) && headers::is_prefetch(&exchange.head.headers) {
        return Err(Rejection::Prefetch.into());
    }
    match endpoint {
        Endpoint::Status => Ok(status(true)),
        Endpoint::Login => login::begin(exchange, sign_in).await,
        Endpoint::Callback => login::callback(exchange, sign_in).await,
        Endpoint::Me => account::me(exchange, sign_in).await,
        Endpoint::Session => account::session(exchange, sign_in).await,
        Endpoint::Logout => logout::logout(exchange, sign_in).await,
        Endpoint::BackchannelLogout => backchannel::logout(exchange, sign_in, body).await,
        Endpoint::Sessions if method == Method::DELETE => sessions::end_others(exchange, sign_in, false).await,
        Endpoint::Sessions => sessions::list(exchange, sign_in).await,
        Endpoint::EndOthers => sessions::end_others(exchange, sign_in, true).await,
        Endpoint::OneSession(id) => sessions::end_one(exchange, sign_in, &id, false).await,
        Endpoint::EndSession(id) => sessions::end_one(exchange, sign_in, &id, true).await,
        Endpoint::SignIn => Ok(account::sign_in_page(exchange, sign_in)),
        Endpoint::SignedOut => Ok(logout::signed_out_page(sign_in)),
        Endpoint::Jwks => Ok(account::jwks(sign_in)),
        Endpoint::Asset(name) => asset(&name),
    }
}

enum Endpoint {
    Status,
    Login,
    Callback,
    Me,
    Session,
    Logout,
    BackchannelLogout,
    Sessions,
    EndOthers,
    OneSession(String),
    EndSession(String),
    SignIn,
    SignedOut,
    Jwks,
    Asset(String),
}

impl Endpoint {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "status" => Self::Status,
            "login" => Self::Login,
            "callback" => Self::Callback,
            "me" => Self::Me,
            "session" => Self::Session,
            "logout" => Self::Logout,
            "sign-in" => Self::SignIn,
            "signed-out" => Self::SignedOut,
            "jwks" => Self::Jwks,
            "backchannel-logout" => Self::BackchannelLogout,
            "sessions" => Self::Sessions,
            "sessions/end-others" => Self::EndOthers,
            other => match other.split_once('/')? {
                ("assets", name) => Self::Asset(Some(name).filter(|name| pages::asset(name).is_some())?.to_owned()),
                ("sessions", rest) => {
                    let (id, ends) = rest.strip_suffix("/end").map_or((rest, false), |id| (id, true));
                    let id = Some(id).filter(|id| is_public_id(id))?.to_owned();
                    if ends { Self::EndSession(id) } else { Self::OneSession(id) }
                }
                _ => return None,
            },
        })
    }

    fn check(&self, method: &Method) -> Result<(), Refused> {
        let allowed = self.methods();
        let fits = allowed.split(", ").any(|allowed| allowed == method.as_str());
        if fits { Ok(()) } else { Err(Rejection::MethodNotAllowed(allowed).into()) }
    }

    /// Its methods, as `Allow` names them.
    const fn methods(&self) -> &'static str {
        match self {
            Self::Logout | Self::BackchannelLogout | Self::EndOthers | Self::EndSession(_) => "POST",
            Self::Sessions => "GET, HEAD, DELETE",
            Self::OneSession(_) => "DELETE",
            Self::Status
            | Self::Login
            | Self::Callback
            | Self::Me
            | Self::Session
            | Self::SignIn
            | Self::SignedOut
            | Self::Jwks
            | Self::Asset(_) => "GET, HEAD",
        }
    }
}

/// An unsafe method must come from our own pages: the browser says so in `Sec-Fetch-Site`, older ones in `Origin`.
fn refuse_cross_site(headers: &HeaderMap, method: &Method, sign_in: &SignIn) -> Result<(), Rejection> {
    if method.is_safe() {
        return Ok(());
    }
    let ours = match headers.get("sec-fetch-site") {
        Some(site) => matches!(site.as_bytes(), b"same-origin" | b"none"),
        None => headers::is_same_origin(headers, &sign_in.origin_text),
    };
    if ours { Ok(()) } else { Err(Rejection::CrossSite) }
}

fn status(enabled: bool) -> Response<Body> {
    reply::json(StatusCode::OK, &serde_json::json!({ "enabled": enabled }))
}

fn asset(name: &str) -> Result<Response<Body>, Refused> {
    let asset = pages::asset(name).ok_or(Rejection::NotFound)?;
    let mut response = reply::bare(StatusCode::OK, Body::text(asset.body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    Ok(response)
}
