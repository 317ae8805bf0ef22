//! Extractors for bodies, parameters and paths; each answers invalid input with an error in JSON.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::IntoResponse as _;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use crate::fleet::{ClusterId, Kind};

/// The longest body, in bytes: a kubeconfig of 256 KiB fits, escaped.
pub(super) const BODY_MOST: usize = 512 * 1024;
/// How long a body may take to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MOST: u32 = 500;

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

/// An optional JSON body.
pub(super) struct BodyIfAny<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        parse(&bytes(request, state).await?).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for BodyIfAny<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = bytes(request, state).await?;
        if bytes.is_empty() { Ok(Self(T::default())) } else { parse(&bytes).map(Self) }
    }
}

async fn bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    let read = tokio::time::timeout(BODY_PATIENCE, Bytes::from_request(request, state));
    let rejection = match read.await {
        Ok(Ok(bytes)) => return Ok(bytes),
        Ok(Err(rejection)) => rejection.into_response(),
        Err(_) => return Err(ApiError::TooSlow),
    };
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return Err(ApiError::TooLarge);
    }
    Err(ApiError::BadRequest("the body broke off".into()))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| {
        // The parser's own message may quote the body, which may hold a kubeconfig.
        let (line, column) = (error.line(), error.column());
        ApiError::BadRequest(format!(
            "the body is not the JSON that belongs here (line {line}, column {column}); see /api/v1/openapi.json"
        ))
    })
}

/// The query parameters.
pub(super) struct Parameters<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let read = Query::<T>::try_from_uri(&parts.uri);
        read.map(|Query(parameters)| Self(parameters)).map_err(|rejection| ApiError::BadRequest(rejection.body_text()))
    }
}

/// The cluster in the path.
pub(super) struct InCluster(pub(super) ClusterId);

impl<S: Send + Sync> FromRequestParts<S> for InCluster {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(id) = path::<String, S>(parts, state).await?;
        cluster(&id).map(Self)
    }
}

/// The object in the path.
#[derive(Clone)]
pub(super) struct AtObject {
    pub(super) cluster: ClusterId,
    pub(super) kind: Kind,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl<S: Send + Sync> FromRequestParts<S> for AtObject {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path((id, kind, namespace, name)) = path::<(String, String, String, String), S>(parts, state).await?;
        let kind = kind.parse().map_err(|error: <Kind as FromStr>::Err| ApiError::NotFound(error.to_string()))?;
        // These become part of a path at the cluster's API: only names that Kubernetes allows are accepted.
        if !(is_name(&namespace) && is_name(&name)) {
            return Err(ApiError::NotFound("that is no name that Kubernetes allows".into()));
        }
        Ok(Self { cluster: cluster(&id)?, kind, namespace, name })
    }
}

async fn path<T: DeserializeOwned + Send, S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<Path<T>, ApiError> {
    Path::from_request_parts(parts, state)
        .await
        .map_err(|_| ApiError::NotFound("there is nothing at this address".into()))
}

pub(super) fn cluster(id: &str) -> Result<ClusterId, ApiError> {
    id.parse().map_err(|_| ApiError::NotFound("there is no such cluster".into()))
}

/// Checks for an RFC 1123 subdomain, as Kubernetes names objects.
pub(super) fn is_name(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
        && text.split('.').all(|label| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-'))
}

/// Treats an empty parameter as missing.
pub(super) fn given(value: Option<String>) -> Option<String> {
    value.filter(|value| !value.is_empty())
}

/// Parses a parameter.
pub(super) fn read<T: FromStr<Err: Display>>(name: &str, value: Option<String>) -> Result<Option<T>, ApiError> {
    let parsed = given(value).map(|value| value.parse());
    parsed.transpose().map_err(|error| ApiError::BadRequest(format!("{name}: {error}")))
}

/// The requested page of a list: limit and offset.
pub(super) fn page(limit: Option<String>, offset: Option<String>) -> Result<(u32, u32), ApiError> {
    let limit = read("limit", limit)?.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MOST).contains(&limit) {
        return Err(ApiError::BadRequest(format!("limit: from 1 to {LIMIT_MOST}")));
    }
    let offset: u32 = read("offset", offset)?.unwrap_or_default();
    Ok((limit, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_kubernetes_allows_is_a_name() {
        for good in ["a", "flux-system", "podinfo.v1", "0"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "..", ".", "a..b", "-a", "a-", "A", "a/b", "a b", "a%2f", "ü", &"a".repeat(254)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_page_is_bounded() {
        let page = |limit: &str, offset: &str| page(Some(limit.into()), Some(offset.into())).ok();
        assert_eq!(page("", ""), Some((LIMIT_DEFAULT, 0)));
        assert_eq!(page("500", "7"), Some((LIMIT_MOST, 7)));
        for (limit, offset) in [("0", ""), ("501", ""), ("-1", ""), ("x", ""), ("1", "-1"), ("1", "99999999999")] {
            assert_eq!(page(limit, offset), None, "{limit} {offset}");
        }
    }
}
