//! Interim responses (1xx) for an HTTP/1.1 client, which hyper's server cannot send: they are written between its messages.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use http::{HeaderMap, StatusCode};

/// The most bytes that may wait for a slow client; more are dropped, as any interim response may be.
const WAITING_MOST: usize = 64 * 1024;

/// The interim responses to a connection's current request. Added by the request, written by the connection, both in one task.
pub(crate) struct Interim {
    waiting: Mutex<Vec<u8>>,
    some_wait: AtomicBool,
    /// Whether all that hyper wrote was taken: only then are the next bytes not inside another message.
    between: AtomicBool,
}

impl Interim {
    pub(crate) const fn new() -> Self {
        Self { waiting: Mutex::new(Vec::new()), some_wait: AtomicBool::new(false), between: AtomicBool::new(true) }
    }

    /// Adds an interim response, to be written before the final one.
    pub(crate) fn add(&self, status: StatusCode, headers: &HeaderMap) {
        let mut text =
            format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or_default()).into_bytes();
        for (name, value) in headers {
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            text.extend_from_slice(value.as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"\r\n");
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() + text.len() <= WAITING_MOST {
            waiting.extend_from_slice(&text);
            self.some_wait.store(true, Ordering::Relaxed);
        }
    }

    /// The final response comes next: drops what can no longer be written before it.
    pub(crate) fn end(&self) {
        if self.some_wait.load(Ordering::Relaxed) && !self.is_between() {
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
            self.some_wait.store(false, Ordering::Relaxed);
        }
    }

    /// Takes what can be written now.
    pub(crate) fn take(&self) -> Option<Vec<u8>> {
        if !self.some_wait.load(Ordering::Relaxed) || !self.is_between() {
            return None;
        }
        self.some_wait.store(false, Ordering::Relaxed);
        Some(std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Hyper has written part of a message, or (`true`) has flushed all its messages.
    pub(crate) fn set_between(&self, between: bool) {
        self.between.store(between, Ordering::Relaxed);
    }

    pub(crate) fn is_between(&self) -> bool {
        self.between.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interim_answer_never_stands_inside_another_message_nor_behind_the_answer() {
        let interim = Interim::new();
        let add = || interim.add(StatusCode::EARLY_HINTS, &HeaderMap::new());
        add();
        assert_eq!(interim.take().as_deref(), Some(&b"HTTP/1.1 103 Early Hints\r\n\r\n"[..]));
        assert_eq!(interim.take(), None);
        interim.set_between(false);
        add();
        assert_eq!(interim.take(), None, "the message before it is still being written");
        interim.end();
        interim.set_between(true);
        assert_eq!(interim.take(), None, "the answer has been made meanwhile");
        add();
        interim.end();
        assert!(interim.take().is_some(), "there is still room before the answer");
    }

    #[test]
    fn what_waits_is_bounded() {
        let interim = Interim::new();
        for _ in 0..10_000 {
            interim.add(StatusCode::PROCESSING, &HeaderMap::new());
        }
        assert!(interim.take().is_some_and(|text| text.len() <= WAITING_MOST && text.ends_with(b"\r\n\r\n")));
    }
}
