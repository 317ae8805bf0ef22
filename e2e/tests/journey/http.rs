//! HTTP by hand, for requests without a browser: blocking, so that a destructor can send them too.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use crate::programs::PATIENCE;

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Requests a page as a browser does.
pub(crate) fn visit(port: u16, path: &str, cookie: &str) -> Answer {
    exchange(port, "GET", path, &format!("Accept: text/html\r\nCookie: {cookie}\r\n"), "").unwrap()
}

/// One request to `localhost`, with `fields` as lines.
pub(crate) fn exchange(port: u16, method: &str, path: &str, fields: &str, body: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost:{port}\r\n{fields}Content-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )?;
    let mut answer = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if answer.read_line(&mut head)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    let length =
        head.to_ascii_lowercase().lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = String::new();
    // Does not read to the end of the connection if the length is known: the browser's driver keeps it open.
    answer.take(length.unwrap_or(u64::MAX)).read_to_string(&mut body)?;
    Ok(Answer { status: head[9..12].parse().unwrap(), head, body })
}

/// Answers one request with this text, and closes.
pub(crate) fn answer(stream: TcpStream, body: &str) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        match reader.read_line(&mut head) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    let length = body.len();
    let _gone =
        write!(reader.into_inner(), "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
}
