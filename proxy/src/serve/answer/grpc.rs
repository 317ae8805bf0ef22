//! The extra answer to a gRPC client: gRPC's own status.
//!
//! The HTTP status stays unchanged, since proxies, logs and limits use it. Clients that read it, as the protocol requires where no valid
//! `grpc-status` is present, and clients that read `grpc-status` first get the same code.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What is percent-encoded in a `grpc-message`: `%`, and (by the crate, with these) all that is not printable ASCII.
const MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

/// Whether a request is a gRPC call. gRPC-web, from browsers, gets the HTTP status only.
pub(super) fn is_call(headers: &HeaderMap) -> bool {
    let rest = headers.get(CONTENT_TYPE).and_then(|kind| kind.as_bytes().strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Adds gRPC's status and message to a refusal.
pub(super) fn add_status(headers: &mut HeaderMap, status: StatusCode, message: &str) {
    headers.insert(GRPC_STATUS, HeaderValue::from_static(code(status)));
    if let Ok(message) = HeaderValue::from_str(&utf8_percent_encode(message, MESSAGE).to_string()) {
        headers.insert(GRPC_MESSAGE, message);
    }
}

/// gRPC's code for an HTTP status, from "HTTP to gRPC Status Code Mapping" (grpc/doc/http-grpc-status-mapping.md).
fn code(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502..=504 => "14",
        _ => "2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_recognized_by_its_content_type() {
        for (kind, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=x", true),
            ("application/grpc-web", false),
            ("application/grpc-web-text+proto", false),
            ("application/grpcx", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_call(&headers), is, "{kind}");
        }
        assert!(!is_call(&HeaderMap::new()));
    }

    #[test]
    fn a_refusal_has_the_code_that_its_status_stands_for() {
        for (status, code) in [
            (400, "13"),
            (401, "16"),
            (403, "7"),
            (404, "12"),
            (405, "2"),
            (429, "14"),
            (500, "2"),
            (502, "14"),
            (503, "14"),
            (504, "14"),
        ] {
            let mut headers = HeaderMap::new();
            add_status(&mut headers, StatusCode::from_u16(status).unwrap(), "100 % no");
            assert_eq!(
                (&headers["grpc-status"], &headers["grpc-message"]),
                (&HeaderValue::from_static(code), &HeaderValue::from_static("100 %25 no"))
            );
        }
    }
}
