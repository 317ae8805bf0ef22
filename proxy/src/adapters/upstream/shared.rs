//! An HTTP/2 connection, which many requests to an upstream share.

use std::error::Error as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue};
use http::uri::Scheme;
use http::{HeaderMap, Request, Response, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::answer::Answer;
use super::ask::Patience;
use super::connect::Forgiving;
use super::head::{RequestFraming, RequestHead};
use super::progress::Progress;
use super::seat::{Seat, Streams, UNSEEN};
use super::unread::Unread;
use super::{BoxError, Failure, Restart};
use crate::adapters::net::Alarm;
use crate::adapters::telemetry::Held;

/// How much of one response an HTTP/2 upstream may send ahead of its reader, in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;

/// The same for all responses together: the protocol's maximum (RFC 9113 §6.9.1). Many requests share a connection, so unread
/// responses must never use up its window; each is bounded by its own.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// How much of an HTTP/2 request's body is buffered when the upstream is slow to read it, in bytes.
const SEND_BUFFER: usize = 64 * 1024;

/// How much of a body is kept until its response begins, in bytes and pieces, to be sent again if the upstream has not processed the
/// request: enough for most gRPC calls.
const KEPT_MOST: usize = 16 * 1024;
const KEPT_PIECES: usize = 32;

/// How long a new connection waits for the server's settings, and how often it looks: they say how many streams may be opened, and a server
/// sends them at once (RFC 9113 §3.4). The library tells nobody that they have come.
const SETTINGS_WAIT: Duration = Duration::from_secs(1);
const SETTINGS_LOOK: Duration = Duration::from_millis(1);

/// An open connection.
pub(super) struct Shared<B> {
    sender: http2::SendRequest<Tracked<B>>,
    /// That of the connection: servers compare it with what they see.
    scheme: Scheme,
    streams: Arc<Streams>,
    unread: Arc<Unread>,
    opened: Instant,
}

/// A permit to send one request on the connection.
pub(super) struct Stream<B> {
    sender: http2::SendRequest<Tracked<B>>,
    scheme: Scheme,
    seat: Seat,
    unread: Arc<Unread>,
}

impl<B> Clone for Shared<B> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            scheme: self.scheme.clone(),
            streams: Arc::clone(&self.streams),
            unread: Arc::clone(&self.unread),
            opened: self.opened,
        }
    }
}

impl<B> Shared<B>
where
    B: Body<Data = Bytes> + Restart + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Starts HTTP/2 on a new connection, which a task of its own drives. `freed` is told when a stream of a full connection has ended.
    pub(super) async fn begin(stream: Forgiving, held: Held, freed: &Arc<Notify>) -> Result<Self, BoxError> {
        let scheme = if stream.has_tls() { Scheme::HTTPS } else { Scheme::HTTP };
        let tasks = Tasks::default();
        let (sender, mut connection) = http2::Builder::new(tasks.clone())
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(20))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .initial_max_send_streams(UNSEEN)
            .handshake(TokioIo::new(stream))
            .await?;
        let opened = Instant::now();
        while connection.current_max_send_streams() == UNSEEN && opened.elapsed() < SETTINGS_WAIT {
            if let Ok(ended) = tokio::time::timeout(SETTINGS_LOOK, &mut connection).await {
                ended?;
                return Err("it closed the connection".into());
            }
        }
        let streams = Arc::new(Streams::new(connection.current_max_send_streams(), freed));
        let unread = Arc::new(Unread::new(Arc::clone(&streams), tasks.driver()));
        let counted = Arc::clone(&streams);
        tokio::spawn(async move {
            let _held = held;
            let mut polls = 0_u32;
            let ended = std::future::poll_fn(|cx| {
                let polled = Pin::new(&mut connection).poll(cx);
                polls = polls.wrapping_add(1);
                if counted.wants_limit(polls) {
                    counted.set_limit(connection.current_max_send_streams());
                }
                polled
            });
            let ended = ended.await;
            // Before the notice, so that who gets it finds the connection closed.
            drop(connection);
            counted.end();
            tracing::trace!(error = ended.err().map(tracing::field::display), "an upstream connection ended");
        });
        Ok(Self { sender, scheme, streams, unread, opened })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed() || self.streams.is_dying()
    }

    /// Whether it was opened at that time or later.
    pub(super) fn is_since(&self, time: Instant) -> bool {
        self.opened >= time
    }

    /// Whether it is open, and a response has come on it since that time.
    pub(super) fn has_answered_since(&self, time: Instant) -> bool {
        !self.is_closed() && self.streams.has_answered_since(time)
    }

    /// Whether it has had no stream for this long.
    pub(super) fn is_idle_for(&self, limit: Duration, now: Instant) -> bool {
        self.streams.are_idle_for(limit, now)
    }

    /// Takes a stream, if the server allows one more.
    pub(super) fn stream(&self) -> Option<Stream<B>> {
        let seat = Seat::of(&self.streams)?;
        let unread = Arc::clone(&self.unread);
        Some(Stream { sender: self.sender.clone(), scheme: self.scheme.clone(), seat, unread })
    }
}

/// Runs the library's tasks for one connection.
#[derive(Clone, Default)]
struct Tasks(Arc<OnceLock<AbortHandle>>);

impl Tasks {
    /// The first task, which the library begins while it opens the connection: it reads and writes, and the connection ends with it.
    fn driver(&self) -> Option<AbortHandle> {
        self.0.get().cloned()
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        let task = tokio::spawn(task);
        let _driver = self.0.get_or_init(|| task.abort_handle());
    }
}

impl<B> Stream<B>
where
    B: Body<Data = Bytes> + Restart + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Sends a request, and waits for the head of its response.
    pub(super) async fn ask(
        self,
        head: &impl RequestHead,
        framing: RequestFraming,
        body: B,
        patience: Patience,
    ) -> Result<Response<Answer>, Failure<B>> {
        let Self { mut sender, scheme, seat, unread } = self;
        let progress = Arc::new(Progress::begin(framing == RequestFraming::Absent, seat));
        let body = Arc::new(Mutex::new(Kept { body: Some(body), taken: Some(Vec::new()), bytes: 0, failed: None }));
        let tracked = Tracked { body: Arc::clone(&body), progress: Arc::clone(&progress) };
        let request = request(head, framing, scheme, tracked);
        let mut sending = std::pin::pin!(sender.try_send_request(request));
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
                let arrived = Instant::now();
                lock(&body).taken = None;
                progress.seat.note_answer(arrived);
                if !progress.is_gone() {
                    unread.watch(&progress, patience.body);
                }
                Ok(answer.map(|body| Answer::multiplexed(body, progress, arrived)))
            }
            Ok(Err(mut failure)) => {
                let is_unsent = failure.take_message().is_some();
                let error = failure.into_error();
                let refusal = Refusal::of(&error);
                if refusal.is_some_and(Refusal::ends_connection) {
                    progress.seat.mark_dying();
                }
                let mut kept = lock(&body);
                // The library has reset the stream then, and reports only that.
                if let Some(fault) = kept.failed.take() {
                    return Err(Failure::Body(fault));
                }
                let is_unprocessed = is_unsent || refusal.is_some_and(Refusal::is_unprocessed);
                match if is_unprocessed { kept.take_whole() } else { None } {
                    Some(body) => Err(Failure::Unsent(body)),
                    None => Err(of(error, refusal)),
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

fn of<B>(error: hyper::Error, refusal: Option<Refusal>) -> Failure<B> {
    // As its user's error the library counts only that a request was dropped together with its connection.
    let is_dropped = error.is_user() || error.is_canceled();
    let closed = error.is_incomplete_message() || is_dropped || refusal == Some(Refusal::Gone);
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

fn request<B>(head: &impl RequestHead, framing: RequestFraming, scheme: Scheme, body: B) -> Request<B> {
    let mut headers = HeaderMap::with_capacity(32);
    head.write_fields(&mut headers);
    if let RequestFraming::Length(length) = framing {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let host = headers.remove(HOST);
    let authority = host.as_ref().and_then(|host| host.to_str().ok()).filter(|host| !host.is_empty());
    let uri = Uri::builder().scheme(scheme).authority(authority.unwrap_or("localhost")).path_and_query(head.target());
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
    /// Why the body broke off: the library does not pass this error on.
    failed: Option<BoxError>,
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

impl<B> Drop for Tracked<B> {
    fn drop(&mut self) {
        // It is not always read to its end: it may be empty, end with trailers, or the upstream may want no more of it.
        self.progress.set_gone();
    }
}

impl<B> Body for Tracked<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let mut kept = lock(&self.body);
        let Some(body) = kept.body.as_mut() else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
            self.progress.set_waits_for_client();
            return Poll::Pending;
        };
        self.progress.moved();
        if frame.is_none() || body.is_end_stream() {
            self.progress.set_done();
        }
        Poll::Ready(frame.map(|frame| match frame {
            Ok(frame) => {
                kept.keep(&frame);
                Ok(frame)
            }
            Err(error) => {
                kept.failed = Some(error.into());
                // The stream is reset with it.
                Err(h2::Reason::CANCEL.into())
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.body).body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.body).body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}
