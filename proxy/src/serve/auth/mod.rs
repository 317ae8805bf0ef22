//! The proxy's own endpoints, all under `/api/v1/auth`; never forwarded.

mod account;
mod admission;
mod backchannel;
pub(crate) mod bearer;
pub(crate) mod ending;
mod login;
mod logout;
mod omitted;
pub(crate) mod session;
mod sessions;
mod visits;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::body::Incoming;

use crate::adapters::stores::is_public_id;
use crate::domain::paths;
use crate::serve::answer::pages;
use crate::serve::answer::rejection::Rejection;
use crate::serve::answer::reply;
use crate::serve::app::SignIn;
use crate::serve::body::Body;
use crate::serve::exchange::{Exchange, Refused};
use crate::serve::request::headers;

pub(crate) use self::admission::{admit, admit_blindly, admit_session, refused_before_rules};

/// Answers a request to one of our endpoints.
pub(crate) async fn answer(exchange: &Exchange, body: Incoming) -> Result<Response<Body>, Refused> {
    let response = dispatch(exchange, body).await?;
    exchange.app.metrics.answered(response.status());
    Ok(response)
}

async fn dispatch(exchange: &Exchange, body: Incoming) -> Result<Response<Body>, Refused> {
    let method = exchange.head.method.clone();
    let endpoint = Endpoint::at(exchange.head.uri.path());
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
    // A prefetched page must not use up a sign-in, nor make the browser follow its redirect to the provider.
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
    fn at(path: &str) -> Option<Self> {
        Some(match path {
            paths::STATUS => Self::Status,
            paths::LOGIN => Self::Login,
            paths::CALLBACK => Self::Callback,
            paths::ME => Self::Me,
            paths::SESSION => Self::Session,
            paths::LOGOUT => Self::Logout,
            paths::SIGN_IN => Self::SignIn,
            paths::SIGNED_OUT => Self::SignedOut,
            paths::JWKS => Self::Jwks,
            paths::BACKCHANNEL_LOGOUT => Self::BackchannelLogout,
            paths::SESSIONS => Self::Sessions,
            paths::END_OTHERS => Self::EndOthers,
            other => {
                if let Some(name) = below(other, paths::ASSETS) {
                    return pages::asset(name).map(|_| Self::Asset(name.to_owned()));
                }
                let rest = below(other, paths::SESSIONS)?;
                let (id, ends) = rest.strip_suffix("/end").map_or((rest, false), |id| (id, true));
                let id = Some(id).filter(|id| is_public_id(id))?.to_owned();
                if ends { Self::EndSession(id) } else { Self::OneSession(id) }
            }
        })
    }

    fn check(&self, method: &Method) -> Result<(), Refused> {
        let allowed = self.methods();
        let fits = allowed.split(", ").any(|allowed| allowed == method.as_str());
        if fits { Ok(()) } else { Err(Rejection::MethodNotAllowed(allowed).into()) }
    }

    /// Its methods, as `Allow` lists them.
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

/// The part of a path below a folder.
fn below<'p>(path: &'p str, folder: &str) -> Option<&'p str> {
    path.strip_prefix(folder)?.strip_prefix('/')
}

/// An unsafe method must come from our own pages, according to `Sec-Fetch-Site`, or `Origin` from older browsers.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_leads_to_its_endpoint_and_nothing_near_it_does() {
        let id = "a1".repeat(16);
        for path in paths::ALL {
            let leads = Endpoint::at(path).is_some();
            // Assets are below this path, and forward-auth requests are dispatched before these.
            assert_eq!(leads, ![paths::ASSETS, paths::VERIFY].contains(path), "{path}");
            for near in [format!("{path}/"), format!("{path}x"), path.to_uppercase(), format!("/{path}")] {
                assert!(Endpoint::at(&near).is_none(), "{near}");
            }
        }
        assert!(matches!(Endpoint::at(&format!("{}/sidegate.css", paths::ASSETS)), Some(Endpoint::Asset(_))));
        for (path, is_one) in
            [(format!("{}/{id}", paths::SESSIONS), true), (format!("{}/{id}/end", paths::SESSIONS), false)]
        {
            assert_eq!(matches!(Endpoint::at(&path), Some(Endpoint::OneSession(_))), is_one, "{path}");
        }
        for none in ["", "/", "/api/v1/auth", "/api/v1/auth/", "/api/v1/auth/sessions/../me", "me"] {
            assert!(Endpoint::at(none).is_none(), "{none}");
        }
    }

    /// The templates must read like finished pages, so they contain literal paths.
    #[test]
    fn every_path_in_a_template_is_an_endpoints() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
        let mut found = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            for path in text.split(['"', '?']).filter(|part| part.starts_with(paths::AUTH_PREFIX)) {
                found += 1;
                let path = path.replace("{{ session.id }}", &"a1".repeat(16));
                assert!(Endpoint::at(&path).is_some(), "{path}");
            }
        }
        assert!(found > 8, "{found}");
    }
}
