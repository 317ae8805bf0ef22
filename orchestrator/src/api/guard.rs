//! Checks of requests that change something, so that no page of another site can send them (CSRF).
//!
//! Some browsers send the proxy's session cookie with top-level form posts of other sites, and in open mode there is no cookie
//! at all: so this application has checks of its own.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::Body as _;

use super::error::ApiError;
use crate::identity::received;

/// Refuses requests that may come from another site; adds `no-store` and `nosniff` to every response.
pub(super) async fn check(request: Request, next: Next) -> Result<Response, ApiError> {
    if !request.method().is_safe() {
        if !same_site(request.headers()) {
            return Err(ApiError::CrossSite);
        }
        // A form cannot send JSON; a script of another site may not without our permission (CORS).
        if !request.body().is_end_stream() && !is_json(request.headers()) {
            return Err(ApiError::NotJson);
        }
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.entry(header::X_CONTENT_TYPE_OPTIONS).or_insert(HeaderValue::from_static("nosniff"));
    Ok(response)
}

/// Checks `Sec-Fetch-Site`, or `Origin` for browsers that do not send it. Other programs send neither.
fn same_site(headers: &HeaderMap) -> bool {
    if headers.contains_key("Sec-Fetch-Site") {
        return matches!(received(headers, "Sec-Fetch-Site"), Some("same-origin" | "none"));
    }
    if !headers.contains_key(header::ORIGIN) {
        return true;
    }
    let origin = received(headers, "Origin").and_then(|origin| origin.parse::<Uri>().ok());
    let authority = origin.as_ref().and_then(|origin| origin.authority());
    authority.is_some_and(|authority| {
        received(headers, "Host").is_some_and(|host| authority.as_str().eq_ignore_ascii_case(host))
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let essence = received(headers, "Content-Type").and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(lines: &[(&'static str, &'static str)]) -> bool {
        same_site(&lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect())
    }

    #[test]
    fn a_request_from_another_sites_page_is_recognized_by_its_headers() {
        assert!(allowed(&[]));
        for site in ["same-origin", "none"] {
            assert!(allowed(&[("sec-fetch-site", site)]));
        }
        for site in ["cross-site", "same-site", ""] {
            assert!(!allowed(&[("sec-fetch-site", site)]), "{site}");
        }
    }

    #[test]
    fn without_that_word_the_origin_decides() {
        assert!(allowed(&[("origin", "https://flux.example.com"), ("host", "flux.example.com")]));
        for (origin, host) in [("https://evil.example", "flux.example.com"), ("null", "flux.example.com")] {
            assert!(!allowed(&[("origin", origin), ("host", host)]), "{origin}");
        }
        assert!(!allowed(&[("origin", "https://flux.example.com:444"), ("host", "flux.example.com")]));
    }
}
