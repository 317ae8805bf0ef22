//! Every refusal, and exactly what the caller sees.

use std::borrow::Cow;
use std::time::Duration;

use http::header::{ALLOW, CONNECTION, HeaderValue, LOCATION, RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE};
use http::{Response, StatusCode};

use crate::adapters::telemetry::Clean;
use crate::domain::caller::Caller;
use crate::ports::{BeginError, SignInError, StoreUnavailable};
use crate::rendering::NotAPerson;
use crate::serve::answer::asker::{Asker, with_max_age};
use crate::serve::answer::bad_callback::BadCallback;
use crate::serve::answer::challenge::{self, Challenge};
use crate::serve::answer::denial::{Denial, WayOn};
use crate::serve::answer::grpc;
use crate::serve::answer::pages::{self, Action, MessagePage};
use crate::serve::answer::reply;
use crate::serve::body::Body;
use crate::serve::request::description::BadDescription;
use crate::serve::request::headers::Malformed;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// No live session.
    Unauthenticated,
    /// The callback fits no sign-in, is incomplete, or comes from another issuer.
    InvalidState(BadCallback),
    /// The code was not redeemed, or the ID token does not verify.
    TokenExchangeFailed,
    /// The provider did not return the user's identity.
    UserInfoFailed,
    /// Signed in at the provider, but not on the lists: the name that the page shows, and whether there is a session to end.
    NotAllowed { who: String, has_session: bool, denial: Box<Denial> },
    /// The upstream impersonates people, and the identity has no name that it may use.
    NotImpersonated { who: String, why: NotAPerson },
    /// A rule requires a more recent sign-in than the session's.
    StepUp { max_age: Duration },
    /// The person pressed "cancel" at the provider.
    SignInCancelled,
    /// Any other error that the provider returned to the callback.
    ProviderError,
    /// The provider cannot be reached.
    ProviderUnreachable,
    /// The browser returns repeatedly without the session cookie that it was given.
    SignInLoop,
    /// `login` on a host that is not the public origin's, twice: the requested host, and the right one.
    WrongHost { asked: String, public: String },
    /// Framing or a target that two parsers could read differently.
    Malformed(Malformed),
    /// A proxy in front does not reliably describe the request that it asks about.
    NotDescribed(BadDescription),
    /// A browser prefetches an endpoint that begins or ends a sign-in.
    Prefetch,
    /// Nothing exists at this path.
    NotFound,
    /// The resource exists, for other methods.
    MethodNotAllowed(&'static str),
    /// Open mode has no sign-in.
    AuthDisabled,
    /// A cross-site request that would change something.
    CrossSite,
    /// The store did not answer.
    StoreUnavailable,
    /// The store did not confirm that a session has ended; the cookie is deleted all the same.
    LogoutUnconfirmed,
    /// A session could not be ended, and nobody tries again; the cookie is deleted all the same.
    LogoutFailed,
    /// The client sent its body too slowly.
    RequestTimeout,
    /// The request's body is larger than its upstream accepts.
    ContentTooLarge,
    /// The upstream did not answer, or closed the connection before the head of its response.
    UpstreamUnreachable,
    /// The upstream took too long.
    UpstreamTimeout,
    /// The session does not fit into the cookie that holds it.
    SessionTooLarge,
    /// The posted logout token is invalid, or was used before.
    InvalidLogoutToken,
    /// Sessions are kept in cookies only: other sessions can be neither listed nor ended.
    Stateless,
    /// The request's bearer token does not admit it.
    Token(Challenge),
    /// A fault of the proxy itself: no random bytes, no signature.
    Internal,
}

/// Defines the codes and their list from one table.
macro_rules! codes {
    ($($code:ident = $text:literal),+ $(,)?) => {
        /// The name of a refusal, in answers, logs and metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Code {
            $($code),+
        }

        impl Code {
            const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$code => $text),+
                }
            }
        }

        /// All codes, for the metrics.
        pub(crate) const CODES: &[&str] = &[$(Code::$code.as_str()),+];
    };
}

codes! {
    Unauthenticated = "unauthenticated",
    InvalidState = "invalid_state",
    TokenExchangeFailed = "token_exchange_failed",
    UserInfoFailed = "user_info_failed",
    NotAllowed = "not_allowed",
    NotImpersonated = "not_impersonated",
    SignInCancelled = "sign_in_cancelled",
    ProviderError = "provider_error",
    ProviderUnreachable = "provider_unreachable",
    SignInLoop = "sign_in_loop",
    BadRequest = "bad_request",
    NotDescribed = "not_described",
    PrefetchRefused = "prefetch_refused",
    NotFound = "not_found",
    MethodNotAllowed = "method_not_allowed",
    AuthDisabled = "auth_disabled",
    CrossSite = "cross_site",
    SessionStoreUnavailable = "session_store_unavailable",
    SessionTooLarge = "session_too_large",
    SessionsNotKept = "sessions_not_kept",
    InvalidRequest = "invalid_request",
    IssuerUnreachable = "issuer_unreachable",
    RequestTimeout = "request_timeout",
    ContentTooLarge = "content_too_large",
    UpstreamUnreachable = "upstream_unreachable",
    UpstreamTimeout = "upstream_timeout",
    InternalError = "internal_error",
}

/// The answer to the caller.
struct ErrorAnswer {
    status: StatusCode,
    code: Code,
    message: &'static str,
}

impl Rejection {
    /// The only table from refusal to answer.
    const fn answer(&self) -> ErrorAnswer {
        let (status, code, message) = match self {
            Self::Unauthenticated
            | Self::StepUp { .. }
            | Self::Token(Challenge::Invalid | Challenge::TooOld { .. }) => {
                (StatusCode::UNAUTHORIZED, Code::Unauthenticated, "Authentication required")
            }
            Self::InvalidState(_) => (StatusCode::BAD_REQUEST, Code::InvalidState, "Invalid OAuth state"),
            Self::TokenExchangeFailed => (StatusCode::BAD_GATEWAY, Code::TokenExchangeFailed, "Token exchange failed"),
            Self::UserInfoFailed => (StatusCode::BAD_GATEWAY, Code::UserInfoFailed, "Failed to get user info"),
            Self::NotAllowed { .. } => (StatusCode::FORBIDDEN, Code::NotAllowed, "You are not authorized"),
            Self::NotImpersonated { why, .. } => (StatusCode::FORBIDDEN, Code::NotImpersonated, not_impersonated(*why)),
            Self::SignInCancelled => (StatusCode::FORBIDDEN, Code::SignInCancelled, "Sign-in was cancelled"),
            Self::ProviderError => {
                (StatusCode::BAD_GATEWAY, Code::ProviderError, "The identity provider reported an error")
            }
            Self::ProviderUnreachable => {
                (StatusCode::BAD_GATEWAY, Code::ProviderUnreachable, "The identity provider cannot be reached")
            }
            Self::SignInLoop => {
                (StatusCode::TOO_MANY_REQUESTS, Code::SignInLoop, "Your browser does not send the session cookie back")
            }
            Self::WrongHost { .. } => {
                (StatusCode::BAD_REQUEST, Code::BadRequest, "Sign-in works only on the public address")
            }
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, Code::BadRequest, "Bad request"),
            Self::NotDescribed(_) => {
                (StatusCode::FORBIDDEN, Code::NotDescribed, "The proxy in front does not say what is asked for")
            }
            Self::Prefetch => {
                (StatusCode::SERVICE_UNAVAILABLE, Code::PrefetchRefused, "Signing in is not fetched in advance")
            }
            Self::NotFound => (StatusCode::NOT_FOUND, Code::NotFound, "Not found"),
            Self::MethodNotAllowed(_) => (StatusCode::METHOD_NOT_ALLOWED, Code::MethodNotAllowed, "Method not allowed"),
            Self::AuthDisabled => (StatusCode::NOT_FOUND, Code::AuthDisabled, "Authentication is disabled"),
            Self::CrossSite => (StatusCode::FORBIDDEN, Code::CrossSite, "Cross-site request refused"),
            Self::StoreUnavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, Code::SessionStoreUnavailable, "The session store is unavailable")
            }
            Self::LogoutUnconfirmed => (
                StatusCode::SERVICE_UNAVAILABLE,
                Code::SessionStoreUnavailable,
                "The session store did not confirm that you are signed out",
            ),
            Self::LogoutFailed => (
                StatusCode::SERVICE_UNAVAILABLE,
                Code::SessionStoreUnavailable,
                "The session store could not end every session",
            ),
            Self::SessionTooLarge => {
                (StatusCode::INTERNAL_SERVER_ERROR, Code::SessionTooLarge, "Your session does not fit into a cookie")
            }
            Self::RequestTimeout => {
                (StatusCode::REQUEST_TIMEOUT, Code::RequestTimeout, "The request's body took too long")
            }
            Self::ContentTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                Code::ContentTooLarge,
                "The request is larger than the application takes",
            ),
            Self::UpstreamUnreachable => {
                (StatusCode::BAD_GATEWAY, Code::UpstreamUnreachable, "The application cannot be reached")
            }
            Self::UpstreamTimeout => {
                (StatusCode::GATEWAY_TIMEOUT, Code::UpstreamTimeout, "The application took too long to answer")
            }
            Self::InvalidLogoutToken => {
                (StatusCode::BAD_REQUEST, Code::InvalidRequest, "This is no logout token that counts")
            }
            Self::Token(Challenge::Malformed(_)) => {
                (StatusCode::BAD_REQUEST, Code::InvalidRequest, "The Authorization header is not one bearer token")
            }
            Self::Token(Challenge::Unknown) => {
                (StatusCode::SERVICE_UNAVAILABLE, Code::IssuerUnreachable, "The token cannot be verified at the moment")
            }
            Self::Stateless => (
                StatusCode::NOT_IMPLEMENTED,
                Code::SessionsNotKept,
                "This site keeps sessions in browsers only, so it cannot end one that is elsewhere",
            ),
            Self::Internal => {
                (StatusCode::INTERNAL_SERVER_ERROR, Code::InternalError, "Something went wrong in the proxy")
            }
        };
        ErrorAnswer { status, code, message }
    }

    /// The code, for the log and the metrics.
    pub(crate) const fn code(&self) -> &'static str {
        self.answer().code.as_str()
    }

    /// The reason, for the log.
    pub(crate) fn reason(&self) -> Cow<'static, str> {
        if let Self::Malformed(malformed) = self {
            malformed.to_string().into()
        } else if let Self::Token(challenge) = self {
            challenge.reason().into()
        } else if let Self::NotDescribed(why) = self {
            why.to_string().into()
        } else if let Self::NotImpersonated { who, why } = self {
            format!("{who} is not impersonated: {why}").into()
        } else if matches!(self, Self::CrossSite) {
            "Origin or Sec-Fetch-Site names another site".into()
        } else if let Self::InvalidState(bad) = self {
            bad.to_string().into()
        } else {
            self.answer().message.into()
        }
    }

    /// Whether a refusal that is the caller's own fault is logged by default: these are rare, and people ask about them.
    const fn is_logged_by_default(&self) -> bool {
        matches!(
            self,
            Self::Malformed(_)
                | Self::NotDescribed(_)
                | Self::NotImpersonated { .. }
                | Self::CrossSite
                | Self::InvalidState(_)
                | Self::SignInCancelled
                | Self::RequestTimeout
                | Self::InvalidLogoutToken
        )
    }

    /// Whether the operator, rather than the caller, must fix something.
    fn is_ours(&self) -> bool {
        // Upstream failures are logged where they occur, with the request's id.
        let is_logged_elsewhere = matches!(self, Self::UpstreamUnreachable | Self::UpstreamTimeout);
        let is_theirs = is_logged_elsewhere || matches!(self, Self::Stateless | Self::Prefetch);
        (self.answer().status.is_server_error() && !is_theirs)
            || matches!(self, Self::SignInLoop | Self::WrongHost { .. })
    }

    /// Logs it, at a level that depends on who is at fault.
    pub(crate) fn note(&self, asker: &Asker, caller: &Caller) {
        let (code, path, client) = (self.code(), Clean(asker.uri.path()), caller.client);
        let request_id = Clean(asker.request_id.as_str());
        let reason = self.reason();
        let reason = Clean(&reason);
        if self.is_ours() {
            tracing::warn!(code, %reason, %path, %client, %request_id, "request failed");
        } else if self.is_logged_by_default() {
            tracing::info!(code, %reason, %path, %client, %request_id, "request refused");
        } else {
            tracing::debug!(code, %reason, %path, %client, %request_id, "request refused");
        }
    }

    /// The response to one caller.
    pub(crate) fn respond(&self, asker: &Asker, cookies: Vec<HeaderValue>) -> Response<Body> {
        let answer = self.answer();
        let sign_in = (asker.navigates && matches!(self, Self::Unauthenticated | Self::StepUp { .. }))
            .then(|| asker.login_url(self.max_age()));
        let mut response = if let Some(to) = sign_in.as_ref().filter(|_| asker.is_redirected()) {
            reply::redirect(StatusCode::FOUND, to)
        } else if asker.html && !matches!(self, Self::Token(_)) {
            self.page(&answer, asker)
        } else {
            reply::json(answer.status, &self.json(&answer, asker))
        };
        let headers = response.headers_mut();
        // A proxy in front that accepts no redirect as an answer sends the browser there itself.
        if let Some(to) = sign_in.and_then(|to| HeaderValue::from_str(&to).ok()) {
            headers.insert(LOCATION, to);
        }
        for cookie in cookies {
            headers.append(SET_COOKIE, cookie);
        }
        if let Self::MethodNotAllowed(allowed) = self {
            headers.insert(ALLOW, HeaderValue::from_static(allowed));
        }
        if let Some(challenge) = self.challenge(asker) {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        if asker.grpc && asker.front.is_none() {
            grpc::add_status(headers, answer.status, answer.message);
        }
        // Behind a malformed request another one may be hidden (request smuggling).
        if asker.http1 && matches!(self, Self::Malformed(_)) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The `WWW-Authenticate` value for a bearer token, or for no token where tokens are accepted.
    fn challenge(&self, asker: &Asker) -> Option<HeaderValue> {
        if let Self::Token(challenge) = self {
            return challenge.header();
        }
        let sign_in = asker.snapshot.sign_in.as_ref().filter(|sign_in| sign_in.bearers.is_some())?;
        let brings_nothing = *self == Self::Unauthenticated && !asker.navigates;
        if brings_nothing { challenge::hint(&sign_in.origin_text) } else { None }
    }

    /// The maximum age of a sign-in that would be accepted.
    const fn max_age(&self) -> Option<Duration> {
        if let Self::StepUp { max_age } = self { Some(*max_age) } else { None }
    }

    /// `Retry-After`, in seconds.
    const fn retry_after(&self) -> Option<&'static str> {
        // A store without room has some again only when other sessions expire.
        if matches!(self, Self::SignInLoop | Self::LogoutFailed) {
            Some("60")
        } else if matches!(self, Self::StoreUnavailable | Self::LogoutUnconfirmed | Self::Token(Challenge::Unknown)) {
            Some("2")
        } else {
            None
        }
    }

    /// The user that the page shows as signed in.
    fn who(&self) -> Option<&str> {
        let (Self::NotAllowed { who, .. } | Self::NotImpersonated { who, .. }) = self else { return None };
        Some(who.as_str()).filter(|who| !who.is_empty())
    }

    fn json(&self, answer: &ErrorAnswer, asker: &Asker) -> serde_json::Value {
        let mut body = serde_json::json!({ "error": answer.code.as_str(), "message": answer.message });
        if let (Self::Unauthenticated | Self::StepUp { .. }, Some(fields)) = (self, body.as_object_mut()) {
            fields.insert("login_url".into(), with_max_age(asker.login_place(), '?', self.max_age()).into());
        }
        body
    }

    fn page(&self, answer: &ErrorAnswer, asker: &Asker) -> Response<Body> {
        let to = &asker.return_to();
        let (again, other) = (Action::TryAgain(to), Action::SignInAsSomeoneElse(to));
        let (wrong_host, denied);
        let (explanation, actions): (Option<&str>, &[Action<'_>]) = match self {
            Self::NotAllowed { has_session, denial, .. } => {
                denied = denial.explain();
                (
                    Some(&denied),
                    match (denial.way_on(), has_session) {
                        (WayOn::Ask, true) => &[other, Action::SignOut],
                        (WayOn::Ask, false) => &[other],
                        (WayOn::SignInAgain, _) => &[again, other],
                        (WayOn::None, _) => &[Action::Start],
                    },
                )
            }
            Self::NotImpersonated { .. } => (Some(NOT_IMPERSONATED), &[other]),
            Self::SignInLoop => (Some(LOOP), &[again, Action::Start]),
            Self::WrongHost { asked, public } => {
                wrong_host = explain_wrong_host(asked, public);
                (Some(&wrong_host), &[])
            }
            Self::InvalidState(bad) => (Some(bad.explain(asker.cookies)), &[again, other]),
            Self::SignInCancelled | Self::Prefetch => (None, &[again, other]),
            Self::SessionTooLarge => (Some(TOO_LARGE), &[other]),
            Self::TokenExchangeFailed | Self::UserInfoFailed | Self::ProviderError | Self::ProviderUnreachable => {
                (Some(TRY_LATER), &[again, other])
            }
            Self::Unauthenticated => (None, &[Action::SignIn(to)]),
            Self::StepUp { .. } => (Some(TOO_OLD), &[again]),
            Self::Malformed(Malformed::Host | Malformed::HostSyntax) => {
                (Some("There must be exactly one valid Host header."), &[])
            }
            Self::Malformed(Malformed::Path(_) | Malformed::Upstreams | Malformed::BehindPrefix) => {
                (Some("The address can be read in too many ways."), &[])
            }
            Self::NotDescribed(_) => (Some(NOT_DESCRIBED), &[]),
            Self::Malformed(Malformed::HostMismatch | Malformed::TransferEncoding | Malformed::Target) => (None, &[]),
            Self::StoreUnavailable | Self::UpstreamUnreachable | Self::UpstreamTimeout => (None, &[Action::Reload(to)]),
            Self::LogoutUnconfirmed => (Some(UNCONFIRMED), &[Action::Start]),
            Self::LogoutFailed => (Some(NOT_ENDED), &[Action::Start]),
            Self::NotFound
            | Self::MethodNotAllowed(_)
            | Self::AuthDisabled
            | Self::CrossSite
            | Self::RequestTimeout
            | Self::ContentTooLarge
            | Self::Stateless
            | Self::InvalidLogoutToken
            | Self::Token(_)
            | Self::Internal => (None, &[Action::Start]),
        };
        let page = MessagePage {
            site: asker.snapshot.sign_in.as_ref().map(|sign_in| sign_in.host_text.as_str()),
            code: answer.code.as_str(),
            title: self.title(),
            sentence: answer.message,
            explanation,
            checks: if matches!(self, Self::SignInLoop) { LOOP_CHECKS } else { &[] },
            signed_in_as: self.who(),
            request_id: Some(asker.request_id.as_str()),
            actions,
        };
        reply::html(answer.status, pages::message(&page))
    }

    const fn title(&self) -> &'static str {
        match self {
            Self::Unauthenticated => "Please sign in",
            Self::StepUp { .. } => "Please sign in again",
            Self::InvalidState(bad) => bad.title(),
            Self::TokenExchangeFailed | Self::UserInfoFailed | Self::ProviderError => "Sign-in did not work",
            Self::NotAllowed { .. } | Self::NotImpersonated { .. } => "You do not have access",
            Self::SignInCancelled | Self::Prefetch => "You did not sign in",
            Self::ProviderUnreachable => "Sign-in is not available",
            Self::SignInLoop => "Signing in goes round in circles",
            Self::WrongHost { .. } => "This is not the public address",
            Self::Malformed(_)
            | Self::NotDescribed(_)
            | Self::CrossSite
            | Self::InvalidLogoutToken
            | Self::Token(_) => "This request was refused",
            Self::NotFound | Self::MethodNotAllowed(_) | Self::AuthDisabled => "There is nothing here",
            Self::StoreUnavailable => "Please try again in a moment",
            Self::LogoutUnconfirmed | Self::LogoutFailed => "You are signed out in this browser only",
            Self::SessionTooLarge => "You could not be signed in",
            Self::RequestTimeout => "The request took too long",
            Self::ContentTooLarge => "The request is too large",
            Self::Stateless => "This cannot be done here",
            Self::UpstreamUnreachable | Self::UpstreamTimeout => "The application does not answer",
            Self::Internal => "Something went wrong",
        }
    }
}

const NOT_DESCRIBED: &str = "If it is an ordinary one, the operator of this site finds the reason in Sidegate's log.";
const NOT_IMPERSONATED: &str = "What is done there is done in your own name. Give the code and the request id to the operator of this site: the log has the reason.";
const TOO_OLD: &str = "What you asked for needs a sign-in that is not long ago.";
const LOOP: &str =
    "You signed in, but your browser did not send the session cookie back, so you were asked to sign in again.";
const LOOP_CHECKS: &[&str] = &[
    "Cookies are allowed for this site.",
    "The address bar shows the site's public address, with https where it has it, and not another name for the same site.",
    "For the operator of the site: COOKIE_DOMAIN and COOKIE_SECURE fit the address that people open.",
];
const UNCONFIRMED: &str = "This browser has forgotten your session, and it is being ended: this goes on by itself until the store answers. Until then, \
     anyone who has a copy of it could still use it.";
const NOT_ENDED: &str = "This browser has forgotten your session, but not every session could be ended, and nothing goes on trying: anyone who has a \
     copy of one can use it until it expires. Whoever still has its cookie, or signs in again, can try again later.";
const TOO_LARGE: &str = "You are probably in very many groups. Give the code and the request id to the operator of this site: the log says what to do.";
const TRY_LATER: &str = "This is often over in a moment. If it stays, give the code and the request id to the operator of this site: \
     the log has the reason.";

/// Why the user name is not impersonated, in the words of the page.
const fn not_impersonated(why: NotAPerson) -> &'static str {
    match why {
        NotAPerson::Empty => "Your sign-in gives no name that this cluster knows people by",
        NotAPerson::Reserved => "Your name is one of Kubernetes' own, which nobody may act by",
        NotAPerson::Unfit => "Your name cannot be passed on to this cluster",
    }
}

fn explain_wrong_host(asked: &str, public: &str) -> String {
    format!(
        "This request came for {asked}, but sign-in works on {public} only: open that address. If you did, something between your \
         browser and the proxy changes the Host header. It must pass the original on, or be named in TRUSTED_PROXIES and send \
         X-Forwarded-Host."
    )
}

impl From<BeginError> for Rejection {
    fn from(error: BeginError) -> Self {
        match error {
            BeginError::Unavailable(error) => error.into(),
            BeginError::TooLarge { .. } => {
                tracing::error!("nobody was signed in: {error}");
                Self::SessionTooLarge
            }
            BeginError::Internal(reason) => {
                tracing::error!("sign-in is not possible: {reason}");
                Self::Internal
            }
        }
    }
}

impl From<BadCallback> for Rejection {
    fn from(bad: BadCallback) -> Self {
        Self::InvalidState(bad)
    }
}

impl From<Malformed> for Rejection {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
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
            SignInError::Issuer(reason) => BadCallback::Issuer(reason.clone()).into(),
            SignInError::TokenExchange(_) => Self::TokenExchangeFailed,
            SignInError::UserInfo(_) => Self::UserInfoFailed,
            SignInError::NotAllowed { who, .. } => {
                let denial = Denial { rule: None, why: None, missing: Vec::new() };
                Self::NotAllowed { who: who.clone(), has_session: false, denial: Box::new(denial) }
            }
        }
    }
}
