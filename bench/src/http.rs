//! As much of HTTP/1.1 as a load needs: requests as bytes, answers with a `Content-Length`.

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A head and the body after it.
pub(crate) struct Frame<'a> {
    pub(crate) status: u16,
    head: &'a str,
    /// Head and body together, in bytes.
    pub(crate) length: usize,
    /// The body alone.
    pub(crate) body: usize,
}

impl<'a> Frame<'a> {
    /// The frame that `bytes` begin with; `None` while its head is not complete.
    pub(crate) fn parse(bytes: &'a [u8]) -> anyhow::Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let head = std::str::from_utf8(bytes.get(..end).unwrap_or_default()).context("the head is no text")?;
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let frame = Frame { status: status.context("that is no HTTP/1.1 answer")?, head, length: 0, body: 0 };
        let Some(body) = frame.field("content-length").next() else {
            bail!("the answer has no Content-Length (status {})", frame.status)
        };
        let body = body.parse().context("a Content-Length that is no number")?;
        Ok(Some(Self { body, length: end + 4 + body, ..frame }))
    }

    /// The values of a header field.
    pub(crate) fn field<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'a str> + 'f {
        let lines = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        lines.filter(move |(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// What a browser sends with a navigation; `cookie` is a whole `Cookie` field value.
pub(crate) fn browser_request(port: u16, path: &str, cookie: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\n\
         Host: 127.0.0.1:{port}\r\n\
         Connection: keep-alive\r\n\
         Cache-Control: max-age=0\r\n\
         sec-ch-ua: \"Chromium\";v=\"148\", \"Not.A/Brand\";v=\"24\"\r\n\
         sec-ch-ua-mobile: ?0\r\n\
         sec-ch-ua-platform: \"Linux\"\r\n\
         Upgrade-Insecure-Requests: 1\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/148.0.0.0 Safari/537.36\r\n\
         Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8\r\n\
         Sec-Fetch-Site: same-origin\r\n\
         Sec-Fetch-Mode: navigate\r\n\
         Sec-Fetch-User: ?1\r\n\
         Sec-Fetch-Dest: document\r\n\
         Referer: http://127.0.0.1:{port}/\r\n\
         Accept-Encoding: gzip, deflate, br, zstd\r\n\
         Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
         Cookie: theme=dark; {cookie}\r\n\
         \r\n"
    )
    .into_bytes()
}

/// An answer that was read whole.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    /// `name=value` of each cookie that is set.
    pub(crate) cookies: Vec<String>,
}

/// One request on a connection of its own.
pub(crate) async fn get(port: u16, path: &str, cookie: &str) -> anyhow::Result<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(&browser_request(port, path, cookie)).await?;
    let mut bytes = Vec::new();
    loop {
        ensure!(stream.read_buf(&mut bytes).await? > 0, "the connection was closed before the answer was complete");
        if let Some(frame) = Frame::parse(&bytes)?.filter(|frame| bytes.len() >= frame.length) {
            let pair = |cookie: &str| cookie.split(';').next().unwrap_or_default().to_owned();
            return Ok(Answer {
                status: frame.status,
                location: frame.field("location").next().map(str::to_owned),
                cookies: frame.field("set-cookie").map(pair).collect(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_its_length_says() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nset-cookie: a=1\r\n\r\nhelloHTTP/1.1";
        assert!(Frame::parse(&answer[..20]).unwrap().is_none());
        let frame = Frame::parse(answer).unwrap().unwrap();
        assert_eq!((frame.status, frame.body, frame.length), (200, 5, answer.len() - 8));
        assert_eq!(frame.field("Set-Cookie").collect::<Vec<_>>(), ["a=1"]);
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        assert!(Frame::parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(Frame::parse(b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n").is_err());
    }
}
