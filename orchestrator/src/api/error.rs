//! Every error of the API, and exactly what the caller sees.

use std::borrow::Cow;
use std::error::Error as _;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::fleet::FleetError;
use crate::store::StoreError;

/// A refusal as programs read it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Refusal {
    /// A word for programs.
    #[schema(value_type = String, example = "not_found")]
    error: &'static str,
    /// A sentence for people.
    #[schema(value_type = String)]
    message: Cow<'static, str>,
}

/// Why a request fails.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// A parameter or a body that cannot be read.
    BadRequest(String),
    /// Not found.
    NotFound(String),
    /// The resource does not support the method.
    MethodNotAllowed,
    /// The body is not JSON.
    NotJson,
    /// The request names a host that we do not serve.
    WrongHost(String),
    /// No valid signed assertion, and why.
    Unauthenticated(&'static str),
    /// The keys that verify assertions are not available.
    KeysUnavailable,
    /// The request comes from another site's page.
    CrossSite,
    /// The body is too long.
    TooLarge,
    /// The body did not come in time.
    TooSlow,
    /// The request is well-formed but invalid.
    Invalid(String),
    /// Too many event streams are open.
    TooManyStreams,
    /// The fleet failed or refused.
    Fleet(FleetError),
    /// The store failed or refused.
    Store(StoreError),
    /// An internal error.
    Internal,
}

impl ApiError {
    /// Maps each error to its response.
    fn answer(&self) -> (StatusCode, &'static str, Cow<'static, str>) {
        match self {
            Self::BadRequest(reason) => (StatusCode::BAD_REQUEST, "bad_request", reason.clone().into()),
            Self::NotFound(reason) => (StatusCode::NOT_FOUND, "not_found", reason.clone().into()),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "This address does not know the method; see /api/v1/openapi.json".into(),
            ),
            Self::NotJson => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "The body must be JSON, with Content-Type: application/json".into(),
            ),
            Self::WrongHost(host) => (
                StatusCode::MISDIRECTED_REQUEST,
                "wrong_host",
                format!(
                    "The orchestrator does not answer to the host `{host}`: add the host that people open to ORCHESTRATOR_HOSTS"
                )
                .into(),
            ),
            Self::Unauthenticated(reason) => (StatusCode::UNAUTHORIZED, "unauthenticated", (*reason).into()),
            Self::KeysUnavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "keys_unavailable",
                "The keys of ORCHESTRATOR_ASSERTION_JWKS cannot be read, so that nobody can be known; the log says why".into(),
            ),
            Self::CrossSite => {
                (StatusCode::FORBIDDEN, "cross_site", "A page of another site may change nothing here".into())
            }
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large", "The body is longer than 512 KiB".into()),
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, "too_slow", "The body did not arrive in time".into()),
            Self::Invalid(reason) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid", reason.clone().into()),
            Self::TooManyStreams => (
                StatusCode::SERVICE_UNAVAILABLE,
                "too_many_streams",
                "Too many event streams are open: close other windows, or try again later".into(),
            ),
            Self::Fleet(error) => {
                let (status, code) = match error {
                    FleetError::NotFound { .. } => (StatusCode::NOT_FOUND, "not_found"),
                    FleetError::Unreachable { .. } => (StatusCode::BAD_GATEWAY, "cluster_unreachable"),
                    FleetError::Forbidden { .. } => (StatusCode::FORBIDDEN, "cluster_forbids"),
                    FleetError::Conflict { .. } => (StatusCode::CONFLICT, "conflict"),
                    FleetError::Invalid { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
                };
                (status, code, error.to_string().into())
            }
            Self::Store(error) => match error {
                StoreError::NameTaken => (StatusCode::CONFLICT, "name_taken", "Another cluster has this name".into()),
                StoreError::TooManyClusters => (StatusCode::CONFLICT, "too_many_clusters", error.to_string().into()),
                StoreError::InClusterTaken(_) => (StatusCode::CONFLICT, "conflict", error.to_string().into()),
                StoreError::NotFound => (StatusCode::NOT_FOUND, "not_found", "It is not there, or no longer".into()),
                StoreError::TimedOut | StoreError::Database(_) | StoreError::UnknownValue(_) => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "store_unavailable",
                    "The orchestrator's database does not answer; nothing was changed without a record of it".into(),
                ),
                StoreError::Seal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string().into()),
            },
            Self::Internal => {
                (StatusCode::INTERNAL_SERVER_ERROR, "internal", "The orchestrator failed; its log says more".into())
            }
        }
    }

    /// The message for people.
    pub(super) fn message(&self) -> String {
        sentence(&self.answer().2)
    }
}

impl From<FleetError> for ApiError {
    fn from(error: FleetError) -> Self {
        Self::Fleet(error)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, error, message) = self.answer();
        if let Self::Store(failure) = &self
            && status.is_server_error()
        {
            let source = failure.source().map(ToString::to_string).unwrap_or_default();
            tracing::error!(error = %failure, source, "the store did not do what it was asked to");
        }
        let mut response = (status, Json(Refusal { error, message: sentence(&message).into() })).into_response();
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

/// Errors start in lower case, to follow a colon; sentences do not.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
