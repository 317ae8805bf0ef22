//! Response bodies: JSON, and the broken ones that faults send.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use http_body::Frame;
use serde_json::Value;

const CHUNK: usize = 64 * 1024;
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// A JSON response that must not be cached.
pub(crate) fn json(status: StatusCode, value: &Value) -> Response {
    let headers = [(header::CONTENT_TYPE, JSON), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (status, headers, value.to_string()).into_response()
}

pub(crate) fn malformed() -> Response {
    ([(header::CONTENT_TYPE, JSON)], r#"{"access_token":"brok"#).into_response()
}

/// One JSON string of `mebibytes`, generated as it is sent.
pub(crate) fn huge(mebibytes: u32) -> Response {
    let parts = Parts {
        first: Some(Bytes::from_static(br#"{"padding":""#)),
        chunk: Bytes::from(vec![b'x'; CHUNK]),
        chunks: u64::from(mebibytes) * 16,
        flushed: true,
        last: Some(Ok(Bytes::from_static(br#""}"#))),
    };
    ([(header::CONTENT_TYPE, JSON)], Body::new(parts)).into_response()
}

/// Sends the start of a response, then breaks the connection.
pub(crate) fn cut() -> Response {
    let parts = Parts {
        first: Some(Bytes::from_static(br#"{"access_token":"#)),
        chunk: Bytes::new(),
        chunks: 0,
        flushed: false,
        last: Some(Err(io::Error::other("told to break off"))),
    };
    let headers = [(header::CONTENT_TYPE, JSON), (header::CONTENT_LENGTH, HeaderValue::from_static("4096"))];
    (headers, Body::new(parts)).into_response()
}

/// A first chunk, a repeated chunk, and a last one, which may be a failure.
struct Parts {
    first: Option<Bytes>,
    chunk: Bytes,
    chunks: u64,
    /// Whether the earlier chunks have left the server's buffer before the last one.
    flushed: bool,
    last: Option<Result<Bytes, io::Error>>,
}

impl http_body::Body for Parts {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let part = if let Some(first) = self.first.take() {
            Some(Ok(first))
        } else if let Some(left) = self.chunks.checked_sub(1) {
            self.chunks = left;
            Some(Ok(self.chunk.clone()))
        } else if !std::mem::replace(&mut self.flushed, true) {
            // The server flushes its buffer whenever a body is pending.
            context.waker().wake_by_ref();
            return Poll::Pending;
        } else {
            self.last.take()
        };
        Poll::Ready(part.map(|bytes| bytes.map(Frame::data)))
    }
}
