//! A client that keeps its connection, over HTTP/1.1 or HTTP/2, with bodies sent piece by piece.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Channel, Full, channel};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::{HOST, PATIENCE};

/// The body type, in both directions.
pub type Out = BoxBody<Bytes, Infallible>;

/// A complete body.
pub fn full(bytes: impl Into<Bytes>) -> Out {
    Full::new(bytes.into()).boxed()
}

/// A body that is sent piece by piece.
pub fn pieces() -> (channel::Sender<Bytes>, Out) {
    let (sender, body) = Channel::new(1);
    (sender, body.boxed())
}

/// One connection to the proxy.
pub enum Client {
    Http1(http1::SendRequest<Out>),
    Http2(http2::SendRequest<Out>),
}

impl Client {
    pub async fn http1(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self::Http1(sender)
    }

    pub async fn http2(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        // The connection's window is larger than those of all streams that a test leaves unread.
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(16 * 1024 * 1024)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self::Http2(sender)
    }

    /// A client for the version under test.
    pub async fn of(version: http::Version, address: SocketAddr) -> Self {
        if version == http::Version::HTTP_2 { Self::http2(address).await } else { Self::http1(address).await }
    }

    /// Sends a request for a path, and waits for the head of the response.
    pub async fn send(&mut self, request: http::request::Builder, body: Out) -> hyper::Result<Response<Incoming>> {
        tokio::time::timeout(PATIENCE, self.send_without_limit(request, body)).await.expect("no answer in time")
    }

    /// The same, without a time limit.
    pub async fn send_without_limit(
        &mut self,
        request: http::request::Builder,
        body: Out,
    ) -> hyper::Result<Response<Incoming>> {
        let mut request = request.body(body).unwrap();
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                request.headers_mut().insert("host", HOST.parse().unwrap());
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                let uri = format!("http://{HOST}{}", request.uri());
                *request.uri_mut() = uri.parse().unwrap();
                sender.send_request(request).await
            }
        }
    }

    /// `GET` without a body.
    pub async fn get(&mut self, path: &str) -> hyper::Result<Response<Incoming>> {
        self.send(Request::get(path), full("")).await
    }
}

/// The next data of a body; `None` at its end.
pub async fn next_data(body: &mut Incoming) -> Option<Result<Bytes, hyper::Error>> {
    let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("no frame in time")?;
    Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
}
