//! Plain HTTP on a TLS port: sends an explanation, instead of just closing the connection.

use std::io;

use http::Method;
use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest};
use tokio::net::{TcpStream, UnixStream};

/// How much of a request is read before it is answered, in bytes.
const HEAD_MOST: usize = 16 * 1024;
/// How many of the remaining bytes are read and dropped: closing a socket with unread bytes discards its response.
const REST_MOST: u64 = 256 * 1024;

const SENTENCE: &str =
    "This port speaks HTTPS, and the request came as plain HTTP: write https:// in front of the address.\n";

/// Whether a connection begins like plain HTTP of any version: with a letter. A TLS record begins with its type, 22.
pub(crate) async fn begins(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    Ok(stream.peek(&mut first).await? == 1 && first.iter().all(u8::is_ascii_alphabetic))
}

/// The same for a connection through a socket file.
pub(crate) async fn begins_by_file(stream: &UnixStream) -> io::Result<bool> {
    let mut first = [0];
    // The runtime has no `peek` for it.
    let peek = || Ok(rustix::net::recv(stream, &mut first[..], RecvFlags::PEEK)?.0);
    Ok(stream.async_io(Interest::READABLE, peek).await? == 1 && first.iter().all(u8::is_ascii_alphabetic))
}

/// Reads a head and responds 400. The caller limits how long this may take.
pub(crate) async fn refuse(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    let ends =
        |head: &[u8]| head.windows(4).any(|four| four == b"\r\n\r\n") || head.windows(2).any(|two| two == b"\n\n");
    while head.len() < HEAD_MOST && !ends(&head) && stream.read_buf(&mut head).await? > 0 {}
    let is_head = head.starts_with(Method::HEAD.as_str().as_bytes());
    let length = SENTENCE.len();
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\n\
         cache-control: no-store\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n{}",
        if is_head { "" } else { SENTENCE },
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(REST_MOST), &mut tokio::io::sink()).await?;
    Ok(())
}
