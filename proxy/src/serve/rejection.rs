//! Every way we say no, and exactly what the caller sees.

use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, SET_COOKIE};
use http::{Response, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::domain::path::AUTH_PREFIX;
use crate::ports::{SignInError, StoreUnavailable};
use crate::serve::auth::pages::{self, Action, MessagePage};
use crate::serve::body::Body;
use crate::serve::headers::Malformed;

/// A request that is not answered as it asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// No live session.
    Unauthenticated,
    /// The callback's state is unknown, stale or missing, or its issuer is another's.
    InvalidState,
    /// The code was not redeemed, or the ID token does not verify.
    TokenExchangeFailed,
    /// The provider did not say who it is.
    UserInfoFailed,
    /// Signed in, and not on the lists. Whom the page names.
    NotAllowed(String),
    /// The person pressed "cancel" at the provider.
    SignInCancelled,
    /// Any other error that the provider sends to the callback.
    ProviderError,
    /// The provider cannot be reached.
    ProviderUnreachable,
    /// The browser comes back again and again without the session cookie that it was given.
    SignInLoop,
    /// `login` on a host that is not the public origin's, twice: the host asked for, and the right one.
    WrongHost { asked: String, public: String },
    /// Framing or target that two readers could read differently.
    Malformed(Malformed),
    /// Nothing is there.
    NotFound,
    /// Something is there, for other methods.
    MethodNotAllowed(&'static str),
    /// Open mode has no sign-in.
    AuthDisabled,
    /// Another site sent the browser here to change something.
    CrossSite,
    /// The store did not answer.
    StoreUnavailable,
    /// The client sent its body too slowly.
    RequestTimeout,
    /// The upstream did not answer, or broke off before its answer's head.
    UpstreamUnreachable,
    /// The upstream took too long.
    UpstreamTimeout,
    /// Our own fault: no random bytes, no signature.
    Internal,
}

/// What a caller is told, beside the status.
struct Answer {
    status: StatusCode,
    code: &'static str,
    message: &'static str,
}

impl Rejection {
    /// The one table from error to answer.
    const fn answer(&self) -> Answer {
        let (status, code, message) = match self {
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated", "Authentication required"),
            Self::InvalidState => (StatusCode::BAD_REQUEST, "invalid_state", "Invalid OAuth state"),
            Self::TokenExchangeFailed => (StatusCode::BAD_GATEWAY, "token_exchange_failed", "Token exchange failed"),
            Self::UserInfoFailed => (StatusCode::BAD_GATEWAY, "user_info_failed", "Failed to get user info"),
            Self::NotAllowed(_) => (StatusCode::FORBIDDEN, "not_allowed", "You are not authorized"),
            Self::SignInCancelled => (StatusCode::FORBIDDEN, "sign_in_cancelled", "Sign-in was cancelled"),
            Self::ProviderError => (StatusCode::BAD_GATEWAY, "provider_error", "The identity provider reported an error"),
            Self::ProviderUnreachable => {
                (StatusCode::BAD_GATEWAY, "provider_unreachable", "The identity provider cannot be reached")
            }
            Self::SignInLoop => (StatusCode::TOO_MANY_REQUESTS, "sign_in_loop", "Your browser does not send the session cookie back"),
            Self::WrongHost { .. } => (StatusCode::BAD_REQUEST, "bad_request", "Sign-in works only on the public address"),
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, "bad_request", "Bad request"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found", "Not found"),
            Self::MethodNotAllowed(_) => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed"),
            Self::AuthDisabled => (StatusCode::NOT_FOUND, "auth_disabled", "Authentication is disabled"),
            Self::CrossSite => (StatusCode::FORBIDDEN, "cross_site", "Cross-site request refused"),
            Self::StoreUnavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "session_store_unavailable", "The session store is unavailable")
            }
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "request_timeout", "The request's body took too long"),
            Self::UpstreamUnreachable => (StatusCode::BAD_GATEWAY, "upstream_unreachable", "The application cannot be reached"),
            Self::UpstreamTimeout => (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", "The application took too long to answer"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "Something went wrong in the proxy"),
        };
        Answer { status, code, message }
    }

    /// The code, for the log and the metrics.
    pub(crate) const fn code(&self) -> &'static str {
        self.answer().code
    }

    /// The answer for one caller.
    pub(crate) fn respond(&self, asker: &Asker, cookies: Vec<HeaderValue>) -> Response<Body> {
        let answer = self.answer();
        let mut response = match self {
            Self::Unauthenticated if asker.navigates => redirect(StatusCode::FOUND, &asker.login_url()),
            _ if asker.html => self.page(&answer, asker),
            _ => json(answer.status, &self.json(&answer, asker)),
        };
        let headers = response.headers_mut();
        for cookie in cookies {
            headers.append(SET_COOKIE, cookie);
        }
        match self {
            Self::MethodNotAllowed(allowed) => {
                headers.insert(ALLOW, HeaderValue::from_static(allowed));
            }
            Self::SignInLoop => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("60"));
            }
            Self::StoreUnavailable => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("2"));
            }
            // Whoever frames a request oddly may have put another one behind it.
            Self::Malformed(_) if asker.http1 => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }

    fn json(&self, answer: &Answer, asker: &Asker) -> serde_json::Value {
        let mut body = serde_json::json!({ "error": answer.code, "message": answer.message });
        if let (Self::Unauthenticated, Some(fields)) = (self, body.as_object_mut()) {
            fields.insert("login_url".into(), asker.login_url_plain().into());
        }
        body
    }

    fn page(&self, answer: &Answer, asker: &Asker) -> Response<Body> {
        let again = Action { id: "try-again", label: "Try again", href: asker.login_url_plain() };
        let other = Action {
            id: "sign-in-as-someone-else",
            label: "Sign in as someone else",
            href: format!("{AUTH_PREFIX}/login?prompt=select_account"),
        };
        let home = Action { id: "home", label: "Go to the start page", href: "/".into() };
        let (detail, who, actions) = match self {
            Self::NotAllowed(who) => (Some(NOT_LISTED.to_owned()), Some(who.clone()), vec![other]),
            Self::SignInLoop => (Some(LOOP.to_owned()), None, vec![again]),
            Self::WrongHost { asked, public } => (Some(wrong_host(asked, public)), None, Vec::new()),
            Self::SignInCancelled | Self::InvalidState => (None, None, vec![again, other]),
            Self::TokenExchangeFailed | Self::UserInfoFailed | Self::ProviderError | Self::ProviderUnreachable => {
                (Some(TRY_LATER.to_owned()), None, vec![again, other])
            }
            Self::Unauthenticated => (None, None, vec![again]),
            Self::Malformed(fault) => (Some(format!("{fault}.")), None, vec![home]),
            Self::NotFound
            | Self::MethodNotAllowed(_)
            | Self::AuthDisabled
            | Self::CrossSite
            | Self::StoreUnavailable
            | Self::RequestTimeout
            | Self::UpstreamUnreachable
            | Self::UpstreamTimeout
            | Self::Internal => (None, None, vec![home]),
        };
        let page = MessagePage {
            title: answer.message.to_owned(),
            detail,
            code: answer.code,
            who,
            request_id: asker.request_id.to_str().unwrap_or_default().to_owned(),
            actions,
            sign_out: matches!(self, Self::NotAllowed(_)) && asker.has_session,
        };
        html(answer.status, pages::message(&page))
    }
}

const NOT_LISTED: &str = "You signed in, but this account is not on the list of people who may use this application. \
     Ask whoever runs it to add you, or sign in with another account.";
const LOOP: &str = "You signed in several times within a minute, and each time your browser came back without the session cookie. \
     Check that cookies are allowed for this site, and that its address in the browser begins with the public address that the proxy \
     was given (https where it says https). Then try again in a minute.";
const TRY_LATER: &str = "This is usually over in a moment. If it stays, give the code and the request id below to whoever runs this \
     application: the proxy's log has the reason.";

fn wrong_host(asked: &str, public: &str) -> String {
    format!(
        "This request came for {asked}, but sign-in works on {public} only. Open {public} instead. If you did, something between \
         your browser and the proxy changes the Host header: it must pass the original on, or be named in TRUSTED_PROXIES and send \
         X-Forwarded-Host."
    )
}

impl From<StoreUnavailable> for Rejection {
    fn from(error: StoreUnavailable) -> Self {
        tracing::error!("{error}");
        Self::StoreUnavailable
    }
}

impl From<&SignInError> for Rejection {
    fn from(error: &SignInError) -> Self {
        match error {
            SignInError::Unreachable(_) => Self::ProviderUnreachable,
            SignInError::Issuer(_) => Self::InvalidState,
            SignInError::TokenExchange(_) => Self::TokenExchangeFailed,
            SignInError::UserInfo(_) => Self::UserInfoFailed,
            SignInError::NotAllowed { who, .. } => Self::NotAllowed(who.clone()),
        }
    }
}

/// What the answer depends on, of the request.
pub(crate) struct Asker {
    /// Whether pages are preferred to JSON.
    pub(crate) html: bool,
    /// Whether a browser asks for a page to show.
    pub(crate) navigates: bool,
    /// Whether the connection speaks HTTP/1.
    pub(crate) http1: bool,
    /// Whether a session came with it, so that signing out makes sense.
    pub(crate) has_session: bool,
    /// Path and query asked for.
    pub(crate) target: String,
    /// For support.
    pub(crate) request_id: HeaderValue,
}

impl Asker {
    fn login_url(&self) -> String {
        // Beyond this the place is lost rather than the cookie that would have to hold it.
        if self.target.len() > 2048 || self.target.starts_with(AUTH_PREFIX) {
            return self.login_url_plain();
        }
        format!("{AUTH_PREFIX}/login?rd={}", utf8_percent_encode(&self.target, NON_ALPHANUMERIC))
    }

    fn login_url_plain(&self) -> String {
        format!("{AUTH_PREFIX}/login")
    }
}

/// A redirect; never 307 or 308, which would repeat a method and its body elsewhere.
pub(crate) fn redirect(status: StatusCode, to: &str) -> Response<Body> {
    let mut response = bare(status, Body::empty());
    if let Ok(location) = HeaderValue::from_str(to) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    let mut response = bare(status, Body::text(body.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A page for people.
pub(crate) fn html(status: StatusCode, page: String) -> Response<Body> {
    let mut response = bare(status, Body::text(page));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(http::header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(pages::CONTENT_SECURITY_POLICY));
    headers.insert(http::header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    response
}

/// An answer of our own, with the headers that all of them carry.
pub(crate) fn bare(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(HeaderName::from_static("referrer-policy"), HeaderValue::from_static("same-origin"));
    response
}
