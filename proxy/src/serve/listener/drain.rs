//! The end of serving, as connections are notified of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use tokio_util::sync::CancellationToken;

/// Notifies every connection that serving ends.
#[derive(Clone, Default)]
pub(crate) struct Drain {
    token: CancellationToken,
    begun: Arc<AtomicBool>,
}

impl Drain {
    pub(crate) fn begin(&self) {
        self.begun.store(true, Ordering::Release);
        self.token.cancel();
    }

    /// Ends once the drain begins. One task may poll it as often as it likes: after the first poll that costs one load, whereas the token
    /// itself would take a lock shared by all connections.
    pub(crate) fn begun(&self) -> impl Future<Output = ()> {
        let mut cancelled = Box::pin(self.token.clone().cancelled_owned());
        let begun = Arc::clone(&self.begun);
        let mut registered = false;
        std::future::poll_fn(move |cx| {
            if registered && !begun.load(Ordering::Acquire) {
                return Poll::Pending;
            }
            registered = true;
            cancelled.as_mut().poll(cx)
        })
    }
}
