//! All that is logged by a test, at every level, to be searched for what must not be there.

use std::cell::RefCell;
use std::io;
use std::sync::Once;

use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt, registry};

thread_local! {
    static LOGGED: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Keeps what is logged on this thread from now on: by all of a test, whose tasks share its thread.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // The other tests' threads pay for one look.
        let watched = dynamic_filter_fn(|_, _| LOGGED.with_borrow(Option::is_some));
        registry().with(fmt::layer().with_ansi(false).with_writer(|| Line).with_filter(watched)).init();
    });
    LOGGED.set(Some(Vec::new()));
}

/// What was kept so far.
pub(crate) fn text() -> String {
    LOGGED.with_borrow(|logged| String::from_utf8_lossy(logged.as_deref().unwrap_or_default()).into_owned())
}

struct Line;

impl io::Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LOGGED.with_borrow_mut(|logged| logged.as_mut().map(|logged| logged.extend_from_slice(line)));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
