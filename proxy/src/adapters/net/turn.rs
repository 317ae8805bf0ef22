//! Counts how often this thread's runtime has polled the kernel for events. Its sockets know what had arrived by then, and not what has
//! arrived since.

use std::cell::Cell;

thread_local! {
    static TURN: Cell<u64> = const { Cell::new(0) };
}

/// The number of the last poll; always 0 on a thread whose runtime does not call [`next_turn`].
pub(crate) fn turn() -> u64 {
    TURN.get()
}

/// Counts a poll; for a runtime's `on_thread_unpark`.
pub(crate) fn next_turn() {
    TURN.set(TURN.get() + 1);
}
