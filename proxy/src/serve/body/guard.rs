//! Aborts a long response or upload whose session has ended.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::adapters::telemetry::Clean;
use crate::serve::body::activity::Activity;
use crate::serve::request::headers::RequestId;
use crate::serve::watch::streams::End;

/// A response longer than this, in bytes, or of unknown length may take long.
const LONG: u64 = 256 * 1024;

/// Nothing is checked before this age: most bodies have ended by then.
pub(crate) const FRESH: Duration = Duration::from_secs(1);

/// Something open that knows when it must be closed.
pub(crate) trait Ending: Send + Sync {
    /// Ends when it must be closed. `activity` reports use by the client.
    fn end(&self, activity: Arc<Activity>) -> End;
}

/// Aborts what is open for a session, or without one, once it must be closed. For its first moments it costs only the memory of
/// what it holds.
pub(crate) struct Guard {
    began: Instant,
    /// Whether it is certain from the start to last long.
    lasts: bool,
    /// The id of the request, for the log.
    request_id: RequestId,
    state: State,
}

enum State {
    Fresh(Box<dyn Ending>),
    Watched(End, Arc<Activity>),
}

impl Guard {
    /// For what was opened at `began`; `length`, in bytes, decides whether it is certain to last (`None`: unknown).
    pub(crate) fn of(open: impl Ending + 'static, began: Instant, length: Option<u64>, request_id: &RequestId) -> Self {
        let lasts = length.is_none_or(|length| length > LONG);
        Self { began, lasts, request_id: request_id.clone(), state: State::Fresh(Box::new(open)) }
    }

    /// The id of the request, for the log.
    pub(crate) fn request_id(&self) -> Clean<'_> {
        Clean(self.request_id.as_str())
    }

    /// The end itself, for an event stream over HTTP/2: nothing polls its body while its reader takes nothing.
    pub(crate) fn into_end(self) -> End {
        match self.state {
            State::Fresh(open) => open.end(Arc::default()),
            State::Watched(end, _) => end,
        }
    }

    /// When to poll again at the latest, if nothing comes meanwhile; `None`: it wakes the task itself.
    pub(crate) fn wakes_at(&self) -> Option<Instant> {
        match &self.state {
            State::Fresh(..) if !self.lasts => Some(self.began + FRESH),
            State::Fresh(..) | State::Watched(..) => None,
        }
    }

    /// The client has sent something: this counts as use of its session.
    pub(crate) fn note_activity(&self) {
        if let State::Watched(_, activity) = &self.state {
            activity.note();
        }
    }

    /// Ready once it must be closed. `waits`: whether the body is pending now.
    pub(crate) fn poll(&mut self, waits: bool, cx: &mut Context<'_>) -> Poll<()> {
        if let State::Fresh(open) = &self.state {
            if !(self.lasts && waits) && self.began.elapsed() < FRESH {
                return Poll::Pending;
            }
            let activity = Arc::new(Activity::default());
            let end = open.end(Arc::clone(&activity));
            self.state = State::Watched(end, activity);
        }
        match &mut self.state {
            State::Watched(end, _) => end.as_mut().poll(cx),
            State::Fresh(..) => Poll::Pending,
        }
    }
}
