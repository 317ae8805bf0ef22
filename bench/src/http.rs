//! The HTTP that a load needs: a browser's request, in HTTP/1.1 and HTTP/2, and responses with a `Content-Length`.

use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::wire::{Address, Wire};

/// How much of an unexpected response's body is shown, in bytes.
const SHOWN: usize = 200;
/// How long to wait for it.
const SHOWN_WITHIN: Duration = Duration::from_millis(500);

/// A response's head, and the length of the body after it.
pub(crate) struct Frame<'a> {
    pub(crate) status: u16,
    text: &'a str,
    /// The length of the head alone, in bytes, including the empty line.
    pub(crate) head: usize,
    /// The length of the body, if it is given.
    pub(crate) body: Option<usize>,
}

impl<'a> Frame<'a> {
    /// Parses the head at the start of `bytes`; `None` while it is not complete.
    pub(crate) fn parse(bytes: &'a [u8]) -> anyhow::Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let text = std::str::from_utf8(bytes.get(..end).unwrap_or_default()).context("the head is no text")?;
        let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let frame = Frame { status: status.context("that is no HTTP/1.1 answer")?, text, head: end + 4, body: None };
        let body = frame.field("content-length").next().map(str::parse).transpose();
        Ok(Some(Self { body: body.context("a Content-Length that is no number")?, ..frame }))
    }

    /// The length of head and body, in bytes.
    pub(crate) fn length(&self) -> anyhow::Result<usize> {
        Ok(self.head
            + self.body.with_context(|| format!("the answer has no Content-Length (status {})", self.status))?)
    }

    /// The values of a header field.
    pub(crate) fn field<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'a str> + 'f {
        let lines = self.text.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        lines.filter(move |(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// What a browser sends with a navigation, besides cookies and connection-specific fields.
const FIELDS: [(&str, &str); 14] = [
    ("Cache-Control", "max-age=0"),
    ("sec-ch-ua", "\"Chromium\";v=\"148\", \"Not.A/Brand\";v=\"24\""),
    ("sec-ch-ua-mobile", "?0"),
    ("sec-ch-ua-platform", "\"Linux\""),
    ("Upgrade-Insecure-Requests", "1"),
    (
        "User-Agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/148.0.0.0 Safari/537.36",
    ),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"),
    ("Sec-Fetch-Site", "same-origin"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-User", "?1"),
    ("Sec-Fetch-Dest", "document"),
    // The value is the origin.
    ("Referer", ""),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Accept-Language", "en-GB,en;q=0.9,de;q=0.8"),
];

fn fields(address: &Address) -> impl Iterator<Item = (&'static str, String)> {
    let referer = format!("{}/", address.origin());
    FIELDS
        .into_iter()
        .map(move |(name, value)| (name, if value.is_empty() { referer.clone() } else { value.to_owned() }))
}

/// A navigation over HTTP/1.1; `cookie` is a whole `Cookie` field value.
pub(crate) fn browser_request(address: &Address, path: &str, cookie: &str) -> Vec<u8> {
    let mut text = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: keep-alive\r\n", address.port);
    for (name, value) in fields(address) {
        text.extend([name, ": ", &value, "\r\n"]);
    }
    text.extend(["Cookie: theme=dark; ", cookie, "\r\n\r\n"]);
    text.into_bytes()
}

/// The same over HTTP/2, where browsers send each cookie as a separate field.
pub(crate) fn browser_request_2(address: &Address, path: &str, cookie: &str) -> anyhow::Result<::http::Request<()>> {
    let mut request = ::http::Request::get(format!("{}{path}", address.origin()));
    for (name, value) in fields(address) {
        request = request.header(name, value);
    }
    for cookie in ["theme=dark"].into_iter().chain(cookie.split("; ")) {
        request = request.header("cookie", cookie);
    }
    Ok(request.body(())?)
}

/// A completely read response.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    /// `name=value` of each cookie that the response sets.
    pub(crate) cookies: Vec<String>,
    pub(crate) body: String,
}

/// Sends one request on a new connection.
pub(crate) async fn get(address: &Address, path: &str, cookie: &str) -> anyhow::Result<Answer> {
    let mut wire = address.connect().await?;
    wire.write_all(&browser_request(address, path, cookie)).await?;
    wire.flush().await?;
    let mut bytes = Vec::new();
    loop {
        let closed = wire.read_buf(&mut bytes).await? == 0;
        let frame = Frame::parse(&bytes)?;
        ensure!(!closed || frame.is_some(), "the connection was closed before the answer was complete");
        let Some(frame) = frame else { continue };
        let complete = match frame.body {
            Some(body) => bytes.len() >= frame.head + body,
            // Chunked, up to the last empty chunk, or until the connection closes.
            None => closed || bytes.ends_with(b"\r\n0\r\n\r\n"),
        };
        ensure!(complete || !closed, "the connection was closed before the answer was complete");
        if complete {
            let pair = |cookie: &str| cookie.split(';').next().unwrap_or_default().to_owned();
            return Ok(Answer {
                status: frame.status,
                location: frame.field("location").next().map(str::to_owned),
                cookies: frame.field("set-cookie").map(pair).collect(),
                body: String::from_utf8_lossy(bytes.get(frame.head..).unwrap_or_default()).into_owned(),
            });
        }
    }
}

/// The error for a response that is not 200: its status, and the start of its body. `read` is the body so far.
pub(crate) async fn unexpected(status: u16, mut read: Vec<u8>, wire: &mut Wire) -> anyhow::Error {
    let more = async { while read.len() < SHOWN && wire.read_buf(&mut read).await.is_ok_and(|read| read > 0) {} };
    let _what_came_so_far_will_do = tokio::time::timeout(SHOWN_WITHIN, more).await;
    not_200(status, &read)
}

/// The same, once enough of the body has been read.
pub(crate) fn not_200(status: u16, body: &[u8]) -> anyhow::Error {
    let shown = String::from_utf8_lossy(body.get(..SHOWN).unwrap_or(body));
    anyhow::anyhow!("an answer was {status}, not 200: {shown:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Protocol;

    #[test]
    fn an_answer_ends_where_its_length_says() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nset-cookie: a=1\r\n\r\nhelloHTTP/1.1";
        assert!(Frame::parse(&answer[..20]).unwrap().is_none());
        let frame = Frame::parse(answer).unwrap().unwrap();
        assert_eq!((frame.status, frame.body, frame.length().unwrap()), (200, Some(5), answer.len() - 8));
        assert_eq!(frame.field("Set-Cookie").collect::<Vec<_>>(), ["a=1"]);
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        let chunked = Frame::parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap().unwrap();
        assert!(chunked.length().is_err());
        assert!(Frame::parse(b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n").is_err());
    }

    #[test]
    fn both_protocols_carry_the_same_request() {
        let address = Address::new(80, Protocol::Http1, None).unwrap();
        let one = String::from_utf8(browser_request(&address, "/a?b", "session_token=x")).unwrap();
        let two = browser_request_2(&address, "/a?b", "session_token=x").unwrap();
        for (name, value) in FIELDS.into_iter().filter(|(_, value)| !value.is_empty()) {
            assert!(one.contains(&format!("\r\n{name}: {value}\r\n")), "{name}");
            assert_eq!(two.headers()[name], value);
        }
        assert!(one.ends_with("Cookie: theme=dark; session_token=x\r\n\r\n"));
        let cookies: Vec<_> = two.headers().get_all("cookie").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(
            (two.uri().to_string().as_str(), cookies),
            ("http://127.0.0.1:80/a?b", vec!["theme=dark", "session_token=x"])
        );
    }

    #[test]
    fn a_refusal_is_shown_with_the_beginning_of_its_body() {
        let error = not_200(503, "no store\n".repeat(100).as_bytes()).to_string();
        assert!(error.starts_with("an answer was 503, not 200: \"no store\\nno store"), "{error}");
        assert!(error.len() < 300, "{error}");
    }
}
