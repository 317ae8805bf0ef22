//! Detects sign-in loops: a browser that signs in repeatedly because its session cookie does not come back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::time::Timestamp;

/// Visits within this time are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// This visit is refused.
const MOST: usize = 5;

/// A browser's visits to `login`, kept in a sealed cookie.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Visits {
    /// Whether a callback has succeeded since the last visit.
    signed_in: bool,
    /// When it came to `login` without a session after a successful callback.
    returned: Vec<Timestamp>,
}

impl Visits {
    /// Records a successful callback.
    pub(crate) const fn note_sign_in(&mut self) {
        self.signed_in = true;
    }

    /// Records a visit to `login` without a session, and returns whether it is the fifth within a minute. Tabs that are merely open do not
    /// count, since no callback succeeded between their visits.
    pub(crate) fn note_visit(&mut self, now: Timestamp) -> bool {
        self.returned.retain(|at| now.since(*at) < WINDOW);
        if std::mem::take(&mut self.signed_in) {
            self.returned.push(now);
        }
        self.returned.len() >= MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loops(visits: &mut Visits, secs: u64) -> bool {
        visits.note_visit(Timestamp::from_secs(secs))
    }

    #[test]
    fn the_fifth_return_within_a_minute_is_a_loop() {
        let mut visits = Visits::default();
        assert!(!loops(&mut visits, 100));
        for second in 1..=4 {
            visits.note_sign_in();
            assert!(!loops(&mut visits, 100 + second));
        }
        visits.note_sign_in();
        assert!(loops(&mut visits, 106));
        assert!(loops(&mut visits, 107), "it stays a loop");
        assert!(!loops(&mut visits, 170), "for a minute");
    }

    #[test]
    fn open_tabs_are_no_loop() {
        let mut visits = Visits::default();
        visits.note_sign_in();
        for second in 0..20 {
            assert!(!loops(&mut visits, 100 + second));
        }
    }
}
