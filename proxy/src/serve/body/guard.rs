//! What breaks off an answer or an upload that is under way for long.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::serve::body::activity::Activity;

/// An answer that is longer than this, in bytes, or of unknown length may be under way for long.
const LONG: u64 = 256 * 1024;

/// Nothing is looked after before this age: most has ended by then.
pub(crate) const FRESH: Duration = Duration::from_secs(1);

/// Something that is open, and knows when it may stay so no longer.
pub(crate) trait Ending: Send + Sync {
    /// Ends when it may stay open no longer. `activity` tells of use by the client.
    fn end(&self, activity: Arc<Activity>) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Breaks off what is open on behalf of a session, or of nobody, once that may stay open no longer. Until it has lasted a while it costs
/// nothing but the memory of whom it is for.
pub(crate) struct Guard {
    began: Instant,
    /// Whether it is known from the start that it will last.
    lasts: bool,
    state: State,
}

enum State {
    Fresh(Box<dyn Ending>),
    Watched(Pin<Box<dyn Future<Output = ()> + Send>>, Arc<Activity>),
}

impl Guard {
    /// For what was opened at `began`; `length`, in bytes, tells whether it lasts for sure (`None`: it is not known).
    pub(crate) fn of(open: impl Ending + 'static, began: Instant, length: Option<u64>) -> Self {
        let lasts = length.is_none_or(|length| length > LONG);
        Self { began, lasts, state: State::Fresh(Box::new(open)) }
    }

    /// When to look again at the latest, where nothing comes meanwhile; `None`: it sees to that itself.
    pub(crate) fn wakes_at(&self) -> Option<Instant> {
        match &self.state {
            State::Fresh(..) if !self.lasts => Some(self.began + FRESH),
            State::Fresh(..) | State::Watched(..) => None,
        }
    }

    /// The client has sent something: while it does, its session is in use.
    pub(crate) fn hears(&self) {
        if let State::Watched(_, activity) = &self.state {
            activity.note();
        }
    }

    /// Ready once the end has come. `waits`: whether it keeps us waiting at this moment.
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
