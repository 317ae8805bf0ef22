//! Counts how often this thread's runtime has asked the kernel for news. What the kernel held at that time is known to every socket of the
//! runtime; what has come since is not.

use std::cell::Cell;

thread_local! {
    static TURN: Cell<u64> = const { Cell::new(0) };
}

/// A number of the last time that the kernel was asked; always 0 on a thread that does not count.
pub(crate) fn turn() -> u64 {
    TURN.get()
}

/// For a runtime's `on_thread_unpark`: the kernel has been asked.
pub(crate) fn next_turn() {
    TURN.set(TURN.get() + 1);
}
