//! One exchange on a connection: sends a request and receives the head of its response. Both happen in the calling task, so that no other
//! task has to be woken.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Body;
use tokio::time::Instant;

use super::answer::{Answer, Tunnel};
use super::connection::{Connection, Inlet};
use super::head::{AnswerHead, RequestFraming, RequestHead};
use super::shelf::Shelf;
use super::upload::{self, NotSent, Upload};
use super::{BoxError, Failure};

/// How many interim responses may precede the final one, and the limit for all their heads together, in bytes.
const INTERIM_MOST: usize = 1000;
const INTERIM_BYTES: usize = 256 * 1024;

/// The time limits for the upstream.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// `TIMEOUT_FIRST_BYTE`: from the last byte of the request to the head of the response.
    pub first_byte: Duration,
    /// `TIMEOUT_BODY`: without accepting a byte of the request.
    pub body: Duration,
    /// The caller is woken once after this time, to do other work.
    pub look: Duration,
}

impl Connection {
    /// Sends a request, and waits for the head of its response. Once both have ended the connection goes back to `shelf`.
    pub(super) async fn ask<B>(
        mut self: Box<Self>,
        head: &impl RequestHead,
        framing: RequestFraming,
        body: B,
        patience: Patience,
        now: Instant,
        shelf: &Arc<Shelf>,
    ) -> Result<Response<Answer>, Failure<B>>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let mut upload = Upload::begin(std::mem::take(&mut self.buffer), head, framing, body);
        let mut wait = Wait { patience, seen: 0, interim: Interim::default(), began: now, sent: None, looked: false };
        let answer = std::future::poll_fn(|cx| self.poll_answer(cx, head, &mut upload, &mut wait)).await?;
        let arrived = Instant::now();
        let rest = if wait.sent.is_some() {
            self.buffer = upload.into_buffer();
            None
        } else {
            Some(upload)
        };
        let (mut response, ()) = Response::new(()).into_parts();
        response.status = answer.status;
        response.headers = answer.headers;
        if let Some(reason) = answer.reason {
            response.extensions.insert(reason);
        }
        let body = if answer.status == StatusCode::SWITCHING_PROTOCOLS {
            Answer::switched(Tunnel::new(self.inlet.stream, &self.inlet.input, self.held), arrived)
        } else if let Some(rest) = rest {
            // The response came early: a task sends the rest of the request, and the connection closes after both.
            let (reader, writer) = tokio::io::split(self.inlet.stream);
            tokio::spawn(upload::finish(rest, writer, patience.body));
            let inlet = Inlet { stream: reader, input: self.inlet.input, next: self.inlet.next };
            Answer::half(inlet, answer.body, self.held, arrived)
        } else {
            Answer::whole(self, answer.body, answer.keep_alive.then(|| Arc::clone(shelf)), arrived)
        };
        Ok(Response::from_parts(response, body))
    }

    fn poll_answer<B>(
        &mut self,
        cx: &mut Context<'_>,
        request: &impl RequestHead,
        upload: &mut Upload<B>,
        wait: &mut Wait,
    ) -> Poll<Result<AnswerHead, Failure<B>>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        if wait.sent.is_none() {
            match upload.poll(cx, &mut self.inlet.stream) {
                Poll::Pending => {}
                // Sent without waiting: saves reading the clock.
                Poll::Ready(Ok(())) if upload.never_waited() => wait.sent = Some(wait.began),
                Poll::Ready(Ok(())) => wait.sent = Some(Instant::now()),
                Poll::Ready(Err(NotSent::Body(error))) => return Poll::Ready(Err(Failure::Body(error))),
                Poll::Ready(Err(NotSent::Connection(error))) => return Poll::Ready(Err(Failure::Broken(error.into()))),
            }
        }
        loop {
            if !self.inlet.input.is_empty() {
                let came = self.inlet.input.len();
                let head = AnswerHead::take(&mut self.inlet.input, &mut wait.seen, request.method());
                let interim = match head.map_err(|malformed| Failure::Broken(malformed.into()))? {
                    Some(head) if !head.is_interim() => return Poll::Ready(Ok(head)),
                    head => head,
                };
                // Bytes have arrived that are no response yet. If an upstream sends without a pause, the alarm below is never polled.
                if let Some(limit) = wait.overdue() {
                    return Poll::Ready(Err(Failure::Silent(limit)));
                }
                if let Some(interim) = interim {
                    let counted = wait.interim.count(came - self.inlet.input.len());
                    counted.map_err(|why| Failure::Broken(why.into()))?;
                    request.receive_interim(interim.status, interim.headers);
                    continue;
                }
            }
            match self.inlet.poll_fill(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(self.cut(io::ErrorKind::UnexpectedEof.into(), wait))),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.cut(error, wait))),
            }
        }
        let limit = match (wait.sent, upload.stuck_since()) {
            (Some(sent), _) => Some((sent + wait.patience.first_byte, Failure::Silent(wait.patience.first_byte))),
            (None, Some(since)) => Some((since + wait.patience.body, Failure::TakesNothing(wait.patience.body))),
            // We wait for the client; its body has its own time limit.
            (None, None) => None,
        };
        // The alarm of a pooled connection is mostly set earlier already, from the request before.
        let look = wait.began + wait.patience.look;
        if !wait.looked && limit.as_ref().is_none_or(|(until, _)| look < *until) {
            ready!(self.alarm.poll(cx, look));
            wait.looked = true;
        }
        match limit {
            Some((until, failure)) => {
                ready!(self.alarm.poll(cx, until));
                Poll::Ready(Err(failure))
            }
            None => Poll::Pending,
        }
    }

    /// The error for a connection that ended before the head of the response was complete.
    fn cut<B>(&self, error: io::Error, wait: &Wait) -> Failure<B> {
        let closed = matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
        );
        if closed && wait.interim.number == 0 && self.inlet.input.is_empty() {
            Failure::Closed(error)
        } else {
            Failure::Broken(error.into())
        }
    }
}

/// The progress of waiting for a response.
struct Wait {
    patience: Patience,
    /// How many bytes were searched for the end of a head.
    seen: usize,
    interim: Interim,
    began: Instant,
    /// When the last byte of the request was sent.
    sent: Option<Instant>,
    /// Whether the caller was woken to do other work.
    looked: bool,
}

impl Wait {
    /// Returns `TIMEOUT_FIRST_BYTE` if it has passed.
    fn overdue(&self) -> Option<Duration> {
        let limit = self.patience.first_byte;
        self.sent.filter(|sent| sent.elapsed() >= limit).map(|_| limit)
    }
}

/// The interim responses so far.
#[derive(Default)]
struct Interim {
    number: usize,
    bytes: usize,
}

impl Interim {
    /// Counts one more, of `bytes` bytes.
    ///
    /// # Errors
    /// If that exceeds a limit.
    fn count(&mut self, bytes: usize) -> Result<(), &'static str> {
        self.number += 1;
        self.bytes += bytes;
        if self.number > INTERIM_MOST || self.bytes > INTERIM_BYTES {
            return Err("it sends interim answers (1xx) without end");
        }
        Ok(())
    }
}
