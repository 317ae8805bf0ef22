//! What stays open on behalf of a session (WebSockets, event streams, long answers, uploads) ends when the session does; on behalf of nobody,
//! when nobody may pass any more.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::ports::LoadedSession;
use crate::serve::clock;
use crate::serve::guard::{Activity, End, Watch};
use crate::serve::site::House;

/// How often the session is looked at: what is open is closed well within 5 s of its session's end.
const LOOK_EVERY: Duration = Duration::from_secs(2);

impl Watch for House {
    fn end(self: Arc<Self>, session: Option<Arc<LoadedSession>>, activity: Arc<Activity>) -> End {
        Box::pin(ended(self, session, activity))
    }
}

/// Ends when the session has, on whichever replica, or when the settings of the moment no longer admit its user. It follows a session that
/// is renewed. `activity` tells of use by the client, without which the session may go idle although something is open. Without a session it
/// ends when a reload has let people sign in.
pub(crate) async fn ended(house: Arc<House>, session: Option<Arc<LoadedSession>>, activity: Arc<Activity>) {
    let Some(mut session) = session else {
        while house.site().policy.admit_anyone::<Arc<LoadedSession>>().is_some() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        return;
    };
    let mut used = false;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let site = house.site();
        // In open mode whatever is open may stay so.
        let Some(sign_in) = &site.sign_in else { continue };
        let now = clock::now();
        used |= activity.take();
        match sign_in.store.follow(&session, used, now).await {
            Ok(Some(current)) => (session, used) = (current, false),
            Ok(None) => return,
            // Nothing is closed because the store is away, but for what is known without it.
            Err(_) if session.is_live(Duration::ZERO, now) => {}
            Err(_) => return,
        }
        if !sign_in.vouches_for(&session) || site.policy.admit(Arc::clone(&session)).is_err() {
            return;
        }
        if session.is_due(now) {
            sign_in.renewing.remind(&session, now);
        }
    }
}

/// A client's side of a tunnel, which notes when bytes come.
pub(crate) struct Heard<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Heard<S> {
    pub(crate) const fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.note();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
