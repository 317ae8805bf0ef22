//! The one HTTP/2 connection that all requests to an HTTP/2 upstream share.

use std::error::Error as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue};
use http::{HeaderMap, Request, Response, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::Instant;

use super::answer::Answer;
use super::ask::Patience;
use super::connect::Forgiving;
use super::head::{RequestFraming, RequestHead};
use super::{BoxError, Failure, Restart};
use crate::adapters::net::Alarm;
use crate::adapters::telemetry::Held;

/// How much of one response an HTTP/2 upstream may send ahead of its reader, in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;

/// The same for all responses together: the protocol's maximum (RFC 9113 §6.9.1). All requests share the one connection, so unread
/// responses must never use up its window; each is bounded by its own.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// How much of an HTTP/2 request's body is buffered when the upstream is slow to read it, in bytes.
const SEND_BUFFER: usize = 64 * 1024;

/// How much of a body is kept until its response begins, in bytes and pieces, to be sent again if the upstream has not processed the
/// request: enough for most gRPC calls.
const KEPT_MOST: usize = 16 * 1024;
const KEPT_PIECES: usize = 32;

/// A permit to send requests on the connection.
pub(super) struct Shared<B> {
    sender: http2::SendRequest<Tracked<B>>,
    /// Whether a request has found the connection closing or closed, which its own task may not have noticed yet.
    is_dying: Arc<AtomicBool>,
}

impl<B> Clone for Shared<B> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), is_dying: Arc::clone(&self.is_dying) }
    }
}

impl<B> Shared<B>
where
    B: Body<Data = Bytes> + Restart + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Starts HTTP/2 on a new connection, which a task of its own drives.
    pub(super) async fn begin(stream: Forgiving, held: Held) -> Result<Self, hyper::Error> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(20))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(async move {
            let _held = held;
            let ended = connection.await;
            tracing::trace!(error = ended.err().map(tracing::field::display), "an upstream connection ended");
        });
        Ok(Self { sender, is_dying: Arc::default() })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed() || self.is_dying.load(Ordering::Acquire)
    }

    /// Sends a request, and waits for the head of its response.
    pub(super) async fn ask(
        mut self,
        head: &impl RequestHead,
        framing: RequestFraming,
        body: B,
        patience: Patience,
    ) -> Result<Response<Answer>, Failure<B>> {
        let progress = Arc::new(Progress::begin(framing == RequestFraming::Absent));
        let body = Arc::new(Mutex::new(Kept { body: Some(body), taken: Some(Vec::new()), bytes: 0 }));
        let request = request(head, framing, Tracked { body: Arc::clone(&body), progress: Arc::clone(&progress) });
        let mut sending = std::pin::pin!(self.sender.try_send_request(request));
        let (mut alarm, look, mut looked) = (Alarm::new(), Instant::now() + patience.look, false);
        let waiting = std::future::poll_fn(|cx| {
            if let Poll::Ready(outcome) = sending.as_mut().poll(cx) {
                return Poll::Ready(Ok(outcome));
            }
            let limit = if progress.is_done() { patience.first_byte } else { patience.body };
            let until = progress.last_moved() + limit;
            if !looked && look < until {
                ready!(alarm.poll(cx, look));
                looked = true;
            }
            ready!(alarm.poll(cx, until));
            Poll::Ready(Err(()))
        });
        match waiting.await {
            Ok(Ok(answer)) => {
                lock(&body).taken = None;
                Ok(answer.map(|body| Answer::multiplexed(body, Instant::now())))
            }
            Ok(Err(mut failure)) => {
                let is_unsent = failure.take_message().is_some();
                let error = failure.into_error();
                let refusal = Refusal::of(&error);
                if refusal.is_some_and(Refusal::ends_connection) {
                    self.is_dying.store(true, Ordering::Release);
                }
                let is_unprocessed = is_unsent || refusal.is_some_and(Refusal::is_unprocessed);
                match if is_unprocessed { lock(&body).take_whole() } else { None } {
                    Some(body) => Err(Failure::Unsent(body)),
                    None => Err(of(error, refusal, &progress)),
                }
            }
            Err(()) if progress.is_done() => Err(Failure::Silent(patience.first_byte)),
            Err(()) if progress.waits_for_client() => Err(Failure::Body("it moved no byte".into())),
            Err(()) => Err(Failure::TakesNothing(patience.body)),
        }
    }
}

/// The ways in which HTTP/2 leaves a request without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// The stream was refused: the server has not processed it, and the connection stays open (RFC 9113 §8.7).
    Stream,
    /// The server closes the connection and has not processed this stream: its number is above the last one in GOAWAY (RFC 9113 §6.8). The
    /// library gives this error to no other stream.
    GoingAway,
    /// The connection is gone; it is unknown whether the request was processed.
    Gone,
}

impl Refusal {
    fn of(error: &hyper::Error) -> Option<Self> {
        let cause = error.source()?;
        if let Some(error) = cause.downcast_ref::<h2::Error>().filter(|error| error.is_remote()) {
            return match error.reason() {
                _ if error.is_go_away() => Some(Self::GoingAway),
                Some(h2::Reason::REFUSED_STREAM) => Some(Self::Stream),
                Some(_) | None => None,
            };
        }
        cause.is::<std::io::Error>().then_some(Self::Gone)
    }

    const fn is_unprocessed(self) -> bool {
        matches!(self, Self::Stream | Self::GoingAway)
    }

    const fn ends_connection(self) -> bool {
        matches!(self, Self::GoingAway | Self::Gone)
    }
}

fn of<B>(error: hyper::Error, refusal: Option<Refusal>, progress: &Progress) -> Failure<B> {
    if error.is_user() && !progress.is_done() {
        return Failure::Body(error.into());
    }
    let closed = error.is_incomplete_message() || error.is_canceled() || refusal == Some(Refusal::Gone);
    if closed {
        // The cause is more specific than "connection error".
        let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        return Failure::Closed(std::io::Error::other(why));
    }
    Failure::Broken(error.into())
}

fn lock<B>(body: &Mutex<Kept<B>>) -> MutexGuard<'_, Kept<B>> {
    body.lock().unwrap_or_else(PoisonError::into_inner)
}

fn request<B>(head: &impl RequestHead, framing: RequestFraming, body: B) -> Request<B> {
    let mut headers = HeaderMap::with_capacity(32);
    head.write_fields(&mut headers);
    if let RequestFraming::Length(length) = framing {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let host = headers.remove(HOST);
    let authority = host.as_ref().and_then(|host| host.to_str().ok()).filter(|host| !host.is_empty());
    let uri = Uri::builder().scheme("http").authority(authority.unwrap_or("localhost")).path_and_query(head.target());
    let mut request = Request::new(body);
    *request.method_mut() = head.method().clone();
    *request.uri_mut() = uri.build().unwrap_or_default();
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    request
}

/// A request's body, and the part already taken of it, so that it can be sent again from the start.
struct Kept<B> {
    /// `None`: it was taken to be sent again.
    body: Option<B>,
    /// `None`: more was sent than is kept, or the response has begun.
    taken: Option<Vec<Bytes>>,
    bytes: usize,
}

impl<B: Restart> Kept<B> {
    fn take_whole(&mut self) -> Option<B> {
        let taken = self.taken.take()?;
        let body = self.body.take()?;
        Some(if taken.is_empty() { body } else { body.restart(taken) })
    }
}

impl<B> Kept<B> {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(taken) = &mut self.taken else { return };
        match frame.data_ref() {
            Some(data) if self.bytes + data.len() <= KEPT_MOST && taken.len() < KEPT_PIECES => {
                self.bytes += data.len();
                taken.push(data.clone());
            }
            Some(_) | None => self.taken = None,
        }
    }
}

/// A request's body that is being sent, and its progress. The task that waits for the response shares both.
struct Tracked<B> {
    body: Arc<Mutex<Kept<B>>>,
    progress: Arc<Progress>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Tracked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut kept = lock(&self.body);
        let Some(body) = kept.body.as_mut() else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
            self.progress.waits_for_client.store(true, Ordering::Relaxed);
            return Poll::Pending;
        };
        self.progress.moved();
        if frame.is_none() || body.is_end_stream() {
            self.progress.done.store(true, Ordering::Release);
        }
        if let Some(Ok(frame)) = &frame {
            kept.keep(frame);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.body).body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.body).body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

/// The progress of a request's body; read by the task that waits for the response.
struct Progress {
    began: Instant,
    last_moved: AtomicU64,
    waits_for_client: AtomicBool,
    done: AtomicBool,
}

impl Progress {
    fn begin(done: bool) -> Self {
        Self {
            began: Instant::now(),
            last_moved: AtomicU64::new(0),
            waits_for_client: AtomicBool::new(false),
            done: AtomicBool::new(done),
        }
    }

    fn moved(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_moved.store(millis, Ordering::Relaxed);
        self.waits_for_client.store(false, Ordering::Relaxed);
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    fn last_moved(&self) -> Instant {
        self.began + Duration::from_millis(self.last_moved.load(Ordering::Relaxed))
    }

    fn waits_for_client(&self) -> bool {
        self.waits_for_client.load(Ordering::Relaxed)
    }
}
