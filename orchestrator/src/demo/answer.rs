//! Builds the responses of the simulated API.

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use serde_json::{Value, json};

/// A JSON response with this status.
pub(super) fn json(status: StatusCode, value: &Value) -> Response<Body> {
    let mut answer = Response::new(Body::from(value.to_string()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}

/// An error response in Kubernetes' format.
pub(super) fn refusal(status: StatusCode, reason: &str, message: &str) -> Response<Body> {
    json(status, &failure(status.as_u16(), reason, message))
}

/// The `Status` object of an error.
pub(super) fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {},
        "status": "Failure", "reason": reason, "message": message, "code": code,
    })
}

/// The error for versions that are no longer available.
pub(super) fn gone() -> Value {
    failure(410, "Expired", "The resourceVersion for the provided watch is too old.")
}
