//! A plain HTTP/1.1 client, and a raw one for tests of framing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::PATIENCE;

/// A response, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub trailers: Option<HeaderMap>,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The single value of a header field; empty if it is missing.
    pub fn header(&self, name: &str) -> String {
        let values: Vec<_> = self.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        assert!(values.len() <= 1, "{name} is there {} times", values.len());
        values.first().map(ToString::to_string).unwrap_or_default()
    }

    pub fn location(&self) -> String {
        self.header("location")
    }

    pub fn set_cookies(&self) -> Vec<String> {
        self.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    /// The error code, if the response is a JSON error.
    pub fn code(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }
}

/// Sends one request on a new connection.
pub async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    try_send(address, request).await.unwrap()
}

/// The same, but the connection may close before the response.
pub async fn try_send(address: SocketAddr, request: Request<Full<Bytes>>) -> std::io::Result<Answer> {
    let broken = |error: hyper::Error| std::io::Error::other(error);
    let exchange = async {
        let stream = TcpStream::connect(address).await?;
        exchange(stream, request).await.map_err(broken)
    };
    tokio::time::timeout(PATIENCE, exchange).await.expect("no answer in time")
}

/// Sends one request on a stream, and reads the response.
pub async fn exchange(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> hyper::Result<Answer> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?;
    Ok(Answer { status: head.status, headers: head.headers, trailers: body.trailers().cloned(), body: body.to_bytes() })
}

/// Sends raw bytes, and reads until the other side closes.
pub async fn raw(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The other side may have refused and closed before everything was sent.
    let _ = stream.write_all(bytes.as_ref()).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("the connection was not closed in time");
    if let Err(error) = read {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads from a stream until `end` has arrived.
pub async fn read_until(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut read = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&read).contains(end) {
            let byte = stream.read_u8().await.unwrap_or_else(|error| {
                panic!("{error} before {end:?} came, after {:?}", String::from_utf8_lossy(&read))
            });
            read.push(byte);
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("it did not come in time");
    String::from_utf8_lossy(&read).into_owned()
}

/// Sends a text and reads it back at the same time: neither side has to hold all of it.
pub async fn echoes(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), text: impl AsRef<[u8]>) {
    let text = text.as_ref();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut back = vec![0; text.len()];
    let both = async { tokio::join!(writer.write_all(text), reader.read_exact(&mut back)) };
    let (sent, read) = tokio::time::timeout(PATIENCE, both).await.expect("no echo in time");
    sent.unwrap();
    read.unwrap();
    assert_eq!(back, text);
}

/// How long it takes until an idle stream is closed.
pub async fn closed(stream: &mut (impl AsyncRead + Unpin)) -> Duration {
    let began = Instant::now();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it stays open");
    assert!(rest.is_empty(), "{rest:?}");
    began.elapsed()
}
