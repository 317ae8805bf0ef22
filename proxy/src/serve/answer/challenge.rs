//! The `WWW-Authenticate` challenge for a refused bearer token (RFC 6750 §3, RFC 9470).

use std::time::Duration;

use http::HeaderValue;

use crate::domain::paths::METADATA;

/// The value of `WWW-Authenticate` for a request without credentials: where to find the accepted issuers (RFC 9728 §5.1).
pub(crate) fn hint(origin: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("Bearer resource_metadata=\"{origin}{METADATA}\"")).ok()
}

/// What is wrong with a bearer token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// There is not exactly one, or its syntax is invalid.
    Malformed(&'static str),
    /// It is not valid here.
    Invalid,
    /// It does not prove a sign-in as recent as a rule requires.
    TooOld { max_age: Duration },
    /// Its validity cannot be checked now.
    Unknown,
}

impl Challenge {
    /// What is wrong, for the log; the audit line of the token says more.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Malformed(why) => why,
            Self::Invalid => "the bearer token is not accepted",
            Self::TooOld { .. } => {
                "the bearer token does not say that its owner signed in as lately as the rule asks for"
            }
            Self::Unknown => "whether the bearer token counts cannot be found out now",
        }
    }

    /// The value of `WWW-Authenticate`; `None`: another token would not help.
    pub(crate) fn header(self) -> Option<HeaderValue> {
        match self {
            Self::Malformed(_) => Some(HeaderValue::from_static("Bearer error=\"invalid_request\"")),
            Self::Invalid => Some(HeaderValue::from_static("Bearer error=\"invalid_token\"")),
            Self::TooOld { max_age } => {
                let seconds = max_age.as_secs();
                let text = format!("Bearer error=\"insufficient_user_authentication\", max_age=\"{seconds}\"");
                HeaderValue::from_str(&text).ok()
            }
            Self::Unknown => None,
        }
    }
}
