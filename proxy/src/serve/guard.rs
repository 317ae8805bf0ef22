//! What breaks off an answer or an upload that is under way for long.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::ports::LoadedSession;

/// An answer that is longer than this, in bytes, or of unknown length may be under way for long.
const LONG: u64 = 256 * 1024;

/// Nothing is looked after before this age: most has ended by then.
pub(crate) const FRESH: Duration = Duration::from_secs(1);

/// Ends when what is open may stay open no longer.
pub(crate) type End = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Who knows when that is.
pub(crate) trait Watch: Send + Sync {
    /// The end of what is open on behalf of `session`, or of nobody. `activity` tells of use by the client.
    fn end(self: Arc<Self>, session: Option<Arc<LoadedSession>>, activity: Arc<Activity>) -> End;
}

/// Whether the client has sent anything since it was last asked.
#[derive(Default)]
pub(crate) struct Activity(AtomicBool);

impl Activity {
    pub(crate) fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
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
    Fresh(Arc<dyn Watch>, Option<Arc<LoadedSession>>),
    Watched(End, Arc<Activity>),
}

impl Guard {
    /// For what began at `began` on behalf of `session`; `length`, in bytes, tells whether it lasts for sure (`None`: it is not known).
    pub(crate) fn of(
        watch: Arc<dyn Watch>,
        session: Option<&Arc<LoadedSession>>,
        began: Instant,
        length: Option<u64>,
    ) -> Self {
        let lasts = length.is_none_or(|length| length > LONG);
        Self { began, lasts, state: State::Fresh(watch, session.cloned()) }
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
        if let State::Fresh(watch, session) = &self.state {
            if !(self.lasts && waits) && self.began.elapsed() < FRESH {
                return Poll::Pending;
            }
            let activity = Arc::new(Activity::default());
            let end = Arc::clone(watch).end(session.clone(), Arc::clone(&activity));
            self.state = State::Watched(end, activity);
        }
        match &mut self.state {
            State::Watched(end, _) => end.as_mut().poll(cx),
            State::Fresh(..) => Poll::Pending,
        }
    }
}
