//! Sends a request: its head, and its body as it arrives, framed again.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::BoxError;
use super::head::{self, Fields as _, RequestFraming, RequestHead, Text};
use crate::adapters::net::{Alarm, SMALL, write_pieces};

/// Why a request could not be sent.
pub(super) enum NotSent {
    /// The request's own body broke off, or does not have its declared length.
    Body(BoxError),
    /// The connection failed.
    Connection(io::Error),
}

/// The unsent rest of a request.
pub(super) struct Upload<B> {
    /// Framing and small pieces, and how much of them was written.
    text: Vec<u8>,
    written: usize,
    /// A large piece after the text, and the line break after it.
    data: Bytes,
    tail: &'static [u8],
    /// `None` once the body has ended.
    body: Option<B>,
    framing: RequestFraming,
    /// Since when the upstream accepts no bytes.
    stuck: Option<Instant>,
    /// Whether neither the client nor the upstream has made us wait.
    never_waited: bool,
}

impl<B> Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Begins with the head; `text` is a buffer to reuse.
    pub(super) fn begin(mut text: Vec<u8>, head: &impl RequestHead, framing: RequestFraming, body: B) -> Self {
        text.clear();
        head::write(&mut text, head, framing);
        let has_body = !matches!(framing, RequestFraming::Absent | RequestFraming::Length(0));
        let body = has_body.then_some(body);
        Self { text, written: 0, data: Bytes::new(), tail: b"", body, framing, stuck: None, never_waited: true }
    }

    /// Since when the upstream accepts no bytes; `None` if we wait for the client, or for neither.
    pub(super) const fn stuck_since(&self) -> Option<Instant> {
        self.stuck
    }

    /// Whether everything was sent without waiting.
    pub(super) const fn never_waited(&self) -> bool {
        self.never_waited
    }

    /// Returns the buffer for reuse.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.text
    }

    /// Sends what is available. Ready once everything was sent.
    pub(super) fn poll<W>(&mut self, cx: &mut Context<'_>, stream: &mut W) -> Poll<Result<(), NotSent>>
    where
        W: AsyncWrite + Unpin,
    {
        loop {
            self.gather(cx).map_err(NotSent::Body)?;
            let all_here = self.body.is_none();
            let moved = if !self.is_written() {
                self.poll_write(cx, Pin::new(&mut *stream))
            } else if all_here {
                Pin::new(&mut *stream).poll_flush(cx).map_ok(|()| 0)
            } else {
                // The body pauses. Over TLS the socket may not have taken all that was written, and nothing else would write the rest of it.
                self.never_waited = false;
                match Pin::new(&mut *stream).poll_flush(cx).map_err(NotSent::Connection)? {
                    Poll::Ready(()) => self.stuck = None,
                    Poll::Pending => {
                        let _since = self.stuck.get_or_insert_with(Instant::now);
                    }
                }
                return Poll::Pending;
            };
            if moved.is_pending() {
                self.never_waited = false;
                let _since = self.stuck.get_or_insert_with(Instant::now);
            }
            match ready!(moved).map_err(NotSent::Connection)? {
                0 if self.is_written() => return Poll::Ready(Ok(())),
                0 => return Poll::Ready(Err(NotSent::Connection(io::ErrorKind::WriteZero.into()))),
                moved => self.advance(moved),
            }
        }
    }

    fn poll_write<W: AsyncWrite>(&self, cx: &mut Context<'_>, stream: Pin<&mut W>) -> Poll<io::Result<usize>> {
        let text = self.text.get(self.written..).unwrap_or_default();
        if self.data.is_empty() && self.tail.is_empty() {
            return stream.poll_write(cx, text);
        }
        write_pieces(stream, cx, &[IoSlice::new(text), IoSlice::new(&self.data), IoSlice::new(self.tail)])
    }

    /// Reads available data from the body, until there is enough to write.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<(), BoxError> {
        while self.data.is_empty() && self.tail.is_empty() && self.text.len() < SMALL {
            let Some(body) = &mut self.body else { break };
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Err(error))) => return Err(error.into()),
                Poll::Ready(None) => self.end(None)?,
                Poll::Ready(Some(Ok(frame))) => {
                    let ends = body.is_end_stream();
                    match frame.into_data().map_err(Frame::into_trailers) {
                        Ok(data) => self.queue(data)?,
                        Err(Ok(trailers)) => self.end(Some(&trailers))?,
                        // Neither: a frame type that HTTP/1.1 does not have.
                        Err(Err(_)) => {}
                    }
                    // End the body at once, so that a small body and its end are sent together; never before a large piece that is still
                    // unsent.
                    if ends && self.body.is_some() && self.data.is_empty() {
                        self.end(None)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn queue(&mut self, data: Bytes) -> Result<(), BoxError> {
        // An empty chunk would end the body.
        if data.is_empty() {
            return Ok(());
        }
        let mut tail: &'static [u8] = b"";
        match &mut self.framing {
            RequestFraming::Chunked => {
                self.text.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                tail = b"\r\n";
            }
            RequestFraming::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or("it is longer than it says")?;
            }
            RequestFraming::Absent => return Err("there is one where none was told".into()),
        }
        if self.text.len() + data.len() <= SMALL {
            self.text.extend_from_slice(&data);
            self.text.extend_from_slice(tail);
        } else {
            (self.data, self.tail) = (data, tail);
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), BoxError> {
        self.body = None;
        match self.framing {
            RequestFraming::Length(0) | RequestFraming::Absent => {}
            RequestFraming::Length(_) => return Err("it is shorter than it says".into()),
            RequestFraming::Chunked => write_end(&mut self.text, trailers),
        }
        Ok(())
    }

    const fn is_written(&self) -> bool {
        self.text.is_empty() && self.data.is_empty() && self.tail.is_empty()
    }

    fn advance(&mut self, written: usize) {
        self.stuck = None;
        let of_text = written.min(self.text.len() - self.written);
        self.written += of_text;
        if self.written == self.text.len() {
            self.text.clear();
            self.written = 0;
        }
        let of_data = (written - of_text).min(self.data.len());
        let _written = self.data.split_to(of_data);
        let of_tail = written - of_text - of_data;
        self.tail = self.tail.get(of_tail..).unwrap_or_default();
    }
}

fn write_end(text: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    text.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        Text(text).field(name, value);
    }
    text.extend_from_slice(b"\r\n");
}

/// Sends the rest of a request that was answered before all of it was sent. Stops if the upstream accepts no bytes for `limit`.
pub(super) async fn finish<B, W>(mut upload: Upload<B>, mut stream: W, limit: Duration)
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
    W: AsyncWrite + Unpin,
{
    let mut alarm = Alarm::new();
    let ended = std::future::poll_fn(|cx| {
        if let Poll::Ready(outcome) = upload.poll(cx, &mut stream) {
            return Poll::Ready(Some(outcome));
        }
        let Some(since) = upload.stuck_since() else { return Poll::Pending };
        alarm.poll(cx, since + limit).map(|()| None)
    });
    match ended.await {
        Some(Ok(())) => {}
        Some(Err(NotSent::Body(error))) => tracing::debug!("the rest of an answered request broke off: {error}"),
        Some(Err(NotSent::Connection(error))) => tracing::debug!("the upstream left the rest of a request: {error}"),
        None => tracing::debug!("the upstream took nothing of the rest of a request (TIMEOUT_BODY)"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::task::Waker;

    use http::header::{HeaderName, HeaderValue};
    use http::{HeaderMap, Method, StatusCode};

    use super::*;
    use crate::adapters::upstream::Fields;

    struct Head;

    impl RequestHead for Head {
        fn receive_interim(&self, _: StatusCode, _: HeaderMap) {}

        fn method(&self) -> &Method {
            &Method::POST
        }

        fn target(&self) -> &str {
            "/x"
        }

        fn write_fields(&self, fields: &mut impl Fields) {
            fields.field(&http::header::HOST, &HeaderValue::from_static("a"));
        }
    }

    struct Frames(VecDeque<Frame<Bytes>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    /// Accepts only a few bytes at a time.
    struct Narrow(Vec<u8>, usize);

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let taken = buf.len().min(self.1);
            self.0.extend_from_slice(&buf[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// The bytes sent after the head; `None` if the request broke off.
    async fn sent(framing: RequestFraming, frames: Vec<Frame<Bytes>>, at_once: usize) -> Option<String> {
        let mut upload = Upload::begin(Vec::new(), &Head, framing, Frames(frames.into()));
        let mut stream = Narrow(Vec::new(), at_once);
        std::future::poll_fn(|cx| upload.poll(cx, &mut stream)).await.ok()?;
        let text = String::from_utf8(stream.0).unwrap();
        Some(text.strip_prefix("POST /x HTTP/1.1\r\nhost: a\r\n").unwrap().to_owned())
    }

    fn data(text: &str) -> Frame<Bytes> {
        Frame::data(Bytes::from(text.to_owned()))
    }

    #[tokio::test]
    async fn a_body_is_framed_again() {
        let large = "y".repeat(3 * SMALL);
        let trailers = HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_static("1"))]);
        for at_once in [1, 7, usize::MAX] {
            let none = sent(RequestFraming::Absent, vec![], at_once).await.unwrap();
            assert_eq!(none, "\r\n");
            let length =
                sent(RequestFraming::Length(5), vec![data("he"), data(""), data("llo")], at_once).await.unwrap();
            assert_eq!(length, "content-length: 5\r\n\r\nhello");
            let frames = vec![data("hello"), data(""), data(&large), Frame::trailers(trailers.clone())];
            let chunked = sent(RequestFraming::Chunked, frames, at_once).await.unwrap();
            assert_eq!(
                chunked,
                format!("transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n3000\r\n{large}\r\n0\r\nx-sum: 1\r\n\r\n")
            );
        }
    }

    /// One frame, and then a pause.
    struct Pausing(Option<Frame<Bytes>>);

    impl Body for Pausing {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.take() {
                Some(frame) => Poll::Ready(Some(Ok(frame))),
                None => Poll::Pending,
            }
        }
    }

    /// Accepts everything, and passes it on only when it is flushed and `open`: as TLS does while its socket is full.
    #[derive(Default)]
    struct Holding {
        held: Vec<u8>,
        passed: Vec<u8>,
        open: bool,
    }

    impl AsyncWrite for Holding {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.held.extend_from_slice(buf);
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if !self.open {
                return Poll::Pending;
            }
            let Self { held, passed, .. } = &mut *self;
            passed.append(held);
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_came_before_a_pause_of_the_body_is_passed_on_during_it() {
        let mut upload = Upload::begin(Vec::new(), &Head, RequestFraming::Chunked, Pausing(Some(data("hello"))));
        let (mut stream, mut cx) = (Holding::default(), Context::from_waker(Waker::noop()));
        assert!(upload.poll(&mut cx, &mut stream).is_pending());
        assert!(upload.stuck_since().is_some(), "the upstream is waited for");
        stream.open = true;
        assert!(upload.poll(&mut cx, &mut stream).is_pending());
        assert!(upload.stuck_since().is_none(), "only the client is waited for");
        assert!(stream.held.is_empty() && stream.passed.ends_with(b"\r\n\r\n5\r\nhello\r\n"));
    }

    #[tokio::test]
    async fn a_body_that_is_not_as_long_as_it_says_ends_nothing_well() {
        assert!(sent(RequestFraming::Length(5), vec![data("hell")], usize::MAX).await.is_none());
        assert!(sent(RequestFraming::Length(5), vec![data("hello!")], usize::MAX).await.is_none());
        assert!(sent(RequestFraming::Length(5), vec![data("hello"), data("!")], usize::MAX).await.is_none());
    }
}
