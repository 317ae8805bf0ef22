//! What is wrong with a callback, for the log and for the page.

use thiserror::Error;

/// Why a callback is refused as `invalid_state`. The text is for the log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum BadCallback {
    /// Its state is unknown or stale, or of another browser.
    #[error("no sign-in that this browser has begun within ten minutes fits the callback")]
    NoSignIn,
    /// A state is valid once.
    #[error("this sign-in has come back before")]
    Used,
    /// It has no state.
    #[error("the callback has no `state`, or an empty one")]
    NoState,
    /// It has no answer of the provider.
    #[error("the callback has neither a `code` nor an `error`")]
    NoAnswer,
    /// Two parsers could take different values of this parameter.
    #[error("the callback has `{0}` more than once")]
    Repeated(&'static str),
    /// It names another issuer, or none (RFC 9207): both issuers, as the provider's adapter shows them.
    #[error("the issuer (`iss`) of the callback is not the provider's: {0}")]
    Issuer(String),
}

impl BadCallback {
    /// The title of the page.
    pub(super) const fn title(&self) -> &'static str {
        match self {
            Self::NoSignIn | Self::Used => "This sign-in is no longer valid",
            Self::NoState | Self::NoAnswer | Self::Repeated(_) | Self::Issuer(_) => "Sign-in did not work",
        }
    }

    /// The explanation on the page; `cookies`: whether the browser has sent any.
    pub(super) const fn explain(&self, cookies: bool) -> &'static str {
        match self {
            Self::NoSignIn if cookies => STALE,
            Self::NoSignIn => NO_COOKIES,
            Self::Used => "It has been used before.",
            Self::NoState => NO_STATE,
            Self::NoAnswer => NO_ANSWER,
            Self::Repeated(_) => REPEATED,
            Self::Issuer(_) => OTHER_ISSUER,
        }
    }
}

const STALE: &str = "It was started more than ten minutes ago, in another browser, or before this site was restarted or changed; or it has been \
     used before.";
const NO_COOKIES: &str = "Your browser sent no cookie with it. Allow cookies for this site, and try again. If they are allowed, the sign-in was started more \
     than ten minutes ago, in another browser, or it has been used before.";
const NO_STATE: &str = "The address that your browser was sent back to does not say which sign-in it belongs to. If this happens again, give the code and \
     the request id to the operator of this site.";
const NO_ANSWER: &str = "Your browser came back without an answer of the sign-in service. If this happens again, give the code and the request id to the \
     operator of this site.";
const REPEATED: &str = "The answer with which your browser came back holds a part of it twice, so it is not clear which one counts. If this happens \
     again, give the code and the request id to the operator of this site: the log says which part.";
const OTHER_ISSUER: &str = "The answer with which your browser came back does not come from the sign-in service that was asked, or does not say so. If this \
     happens again, give the code and the request id to the operator of this site: the log has the reason.";
