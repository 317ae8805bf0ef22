//! What breaks off an answer that is under way for long.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

/// An answer that is longer than this, in bytes, or of unknown length may be under way for long.
const LONG: u64 = 256 * 1024;

/// An answer that never keeps us waiting is not looked after before this age: most have ended by then.
const FRESH: Duration = Duration::from_secs(1);

/// Breaks off an answer once something has ended: the session that it is for.
pub(crate) struct Guard {
    began: Instant,
    watches: bool,
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Guard {
    /// Whether an answer of `length` bytes (`None`: it is not known) needs one; ordinary answers do not.
    pub(crate) const fn is_needed(length: Option<u64>) -> bool {
        match length {
            Some(length) => length > LONG,
            None => true,
        }
    }

    /// For an answer that began just now. `end` is not asked before that has lasted a while.
    pub(crate) fn until(end: impl Future<Output = ()> + Send + 'static, began: Instant) -> Box<Self> {
        Box::new(Self { began, watches: false, end: Box::pin(end) })
    }

    /// Ready once the end has come. `waits`: whether the answer keeps us waiting at this moment.
    pub(crate) fn poll(&mut self, waits: bool, cx: &mut Context<'_>) -> Poll<()> {
        self.watches = self.watches || waits || self.began.elapsed() >= FRESH;
        if self.watches { self.end.as_mut().poll(cx) } else { Poll::Pending }
    }
}
