//! Plain HTTP on a separate address: redirects every request to the same URL with https, and answers nothing else.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::serve::app::App;
use crate::serve::request::headers;

/// How many connections are served concurrently, each closed after one response. With so many the oldest makes room for the next.
const PLACES: usize = 256;
/// How much of a request is read, in bytes.
const HEAD_MOST: usize = 16 * 1024;
const FIELDS_MOST: usize = 100;
/// How many of the remaining bytes are read and dropped.
const REST_MOST: u64 = 256 * 1024;
/// How long the accept loop pauses when the system has no file descriptor left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Redirects until it is stopped.
pub(crate) async fn serve(listener: TcpListener, app: Arc<App>, stop: CancellationToken) {
    let mut open = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(EXHAUSTED_PAUSE).await;
            continue;
        };
        make_room(&mut open);
        let snapshot = app.snapshot();
        let (limit, port) = (snapshot.timeouts.header, snapshot.public_port());
        let connection = tokio::spawn(async move {
            if !matches!(tokio::time::timeout(limit, answer(stream, port)).await, Ok(Ok(()))) {
                tracing::debug!("a connection to HTTP_REDIRECT_ADDR ended before it was answered");
            }
        });
        open.push_back(connection.abort_handle());
    }
}

/// Closes the oldest connection if there are too many.
fn make_room(open: &mut VecDeque<AbortHandle>) {
    open.retain(|connection| !connection.is_finished());
    if open.len() >= PLACES
        && let Some(oldest) = open.pop_front()
    {
        oldest.abort();
    }
}

async fn answer(mut stream: TcpStream, port: Option<u16>) -> io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    while head.len() < HEAD_MOST && !head.windows(4).any(|four| four == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let answer = match location(&head, port) {
        Some(location) => format!(
            "HTTP/1.1 308 Permanent Redirect\r\nlocation: {location}\r\ncontent-length: 0\r\nx-content-type-options: nosniff\r\n\
             connection: close\r\n\r\n"
        ),
        None => {
            let body = "The request names no host or path that could be led to https.\n";
            format!(
                "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\
                 cache-control: no-store\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n{body}",
                body.len()
            )
        }
    };
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // Closing a socket with unread bytes discards its response.
    tokio::io::copy(&mut stream.take(REST_MOST), &mut tokio::io::sink()).await.map(drop)
}

/// The request's own URL with https; `None` if it names none that is well-formed.
fn location(head: &[u8], port: Option<u16>) -> Option<String> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MOST];
    let mut request = httparse::Request::new(&mut fields);
    if !request.parse(head).is_ok_and(|status| status.is_complete()) {
        return None;
    }
    let target = request.path.filter(|path| path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic()))?;
    let mut hosts = request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("host"));
    let (host, None) = (hosts.next()?, hosts.next()) else { return None };
    let name = headers::host_name(host.value)?;
    Some(match port {
        Some(port) => format!("https://{name}:{port}{target}"),
        None => format!("https://{name}{target}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_led_to_its_own_address_by_https() {
        let led = |text: &str, port| location(text.as_bytes(), port);
        let to = |target: &str, host: &str| led(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"), None);
        assert_eq!(to("/a/b?c=d", "app.example").as_deref(), Some("https://app.example/a/b?c=d"));
        assert_eq!(to("/", "app.example:8080").as_deref(), Some("https://app.example/"));
        assert_eq!(to("//evil.example", "[::1]:80").as_deref(), Some("https://[::1]//evil.example"));
        assert_eq!(led("HEAD / HTTP/1.0\r\nhost: a\r\n\r\n", Some(8443)).as_deref(), Some("https://a:8443/"));
        for (target, host) in
            [("/", ""), ("/", "a b"), ("/", "u@a"), ("/", "a/b"), ("*", "a"), ("http://b/", "a"), ("/\u{e4}", "a")]
        {
            assert_eq!(to(target, host), None, "{target} {host}");
        }
        for text in ["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "PRI\r\n\r\n", ""] {
            assert_eq!(led(text, None), None, "{text}");
        }
    }
}
