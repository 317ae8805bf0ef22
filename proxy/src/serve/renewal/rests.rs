//! Pauses after failed renewals: of a session, and of the provider if it fails repeatedly.

use std::collections::HashMap;
use std::time::Duration;

use crate::domain::session::{Authority, SessionKey};
use crate::domain::time::Timestamp;

/// The longest pause.
const LONGEST: Duration = Duration::from_secs(300);
/// After this many failures without an answer in between, the provider itself is paused.
const PROVIDER_FAILURES: u32 = 4;
/// How many sessions' pauses are remembered; beyond that, expired pauses are dropped, and then all others.
const REMEMBERED: usize = 20_000;

/// Pauses after failures; each is longer than the last.
#[derive(Default)]
pub(super) struct Rests {
    sessions: HashMap<SessionKey, Pause>,
    provider: ProviderRest,
}

#[derive(Clone, Copy)]
struct Pause {
    failures: u32,
    until: Timestamp,
}

#[derive(Default)]
struct ProviderRest {
    authority: Option<Authority>,
    failures: u32,
    until: Option<Timestamp>,
    /// A request is in progress that probes whether the provider works again.
    probed: bool,
}

/// A pause that begins.
pub(super) struct Begun {
    /// When it ends.
    pub(super) until: Timestamp,
    /// Whether the provider has just begun to fail repeatedly, which is worth a log line.
    pub(super) is_news: bool,
}

impl Rests {
    /// Whether the provider may be asked about a session now; else until when not. After repeated failures, only one request at a
    /// time asks the provider.
    pub(super) fn ask(&mut self, key: SessionKey, authority: Authority, now: Timestamp) -> Result<(), Timestamp> {
        let provider = self.provider.of(authority);
        if let Some(until) = provider.until {
            if now < until {
                return Err(until);
            }
            if provider.probed {
                return Err(now + Duration::from_secs(1));
            }
        }
        if let Some(rest) = self.sessions.get(&key).filter(|rest| now < rest.until) {
            return Err(rest.until);
        }
        let provider = self.provider.of(authority);
        provider.probed = provider.until.is_some();
        Ok(())
    }

    /// The permitted request is done, or was not made after all.
    pub(super) fn ask_no_more(&mut self, authority: Authority) {
        self.provider.of(authority).probed = false;
    }

    /// Records a failure; `pause` is the first pause after it.
    pub(super) fn failed(
        &mut self,
        key: SessionKey,
        authority: Authority,
        pause: Duration,
        now: Timestamp,
        chance: f64,
    ) -> Begun {
        if self.sessions.len() >= REMEMBERED {
            self.sessions.retain(|_, rest| now < rest.until);
        }
        if self.sessions.len() >= REMEMBERED {
            self.sessions.clear();
        }
        let failures = self.sessions.get(&key).map_or(1, |rest| rest.failures.saturating_add(1));
        let until = now + grown(pause, failures, chance);
        self.sessions.insert(key, Pause { failures, until });
        let provider = self.provider.of(authority);
        provider.failures = provider.failures.saturating_add(1);
        if let Some(beyond) = provider.failures.checked_sub(PROVIDER_FAILURES) {
            provider.until = Some(now + grown(pause, beyond + 1, chance));
        }
        Begun { until, is_news: provider.failures == PROVIDER_FAILURES }
    }

    /// Records an answer of the provider; returns whether it had been paused.
    pub(super) fn succeeded(&mut self, key: SessionKey, authority: Authority) -> bool {
        self.sessions.remove(&key);
        let provider = self.provider.of(authority);
        provider.failures = 0;
        provider.until.take().is_some()
    }
}

impl ProviderRest {
    /// The state of this provider; another provider starts with a clean state.
    fn of(&mut self, authority: Authority) -> &mut Self {
        if self.authority != Some(authority) {
            *self = Self { authority: Some(authority), ..Self::default() };
        }
        self
    }
}

/// `pause`, doubled with each failure up to five minutes, and varied by up to a fifth.
fn grown(pause: Duration, failures: u32, chance: f64) -> Duration {
    let doubled = pause.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST);
    doubled.mul_f64(0.8 + 0.4 * chance.clamp(0.0, 1.0)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1000);
    const US: Authority = Authority([1; 8]);
    const PAUSE: Duration = Duration::from_secs(30);

    fn key(n: u8) -> SessionKey {
        SessionKey([n; 32])
    }

    #[test]
    fn pauses_double_up_to_five_minutes() {
        for chance in [0.0, 0.5, 1.0] {
            let mut rests = Rests::default();
            let mut last = Duration::ZERO;
            for turn in 0..12 {
                let begun = rests.failed(key(1), US, PAUSE, NOW, chance).until.since(NOW);
                assert!(begun >= last && begun <= LONGEST && begun >= PAUSE.mul_f64(0.8), "{turn}: {begun:?}");
                last = begun;
            }
            assert!(last >= LONGEST.mul_f64(0.8));
        }
    }

    #[test]
    fn a_session_that_failed_is_left_in_peace_and_the_others_are_not() {
        let mut rests = Rests::default();
        let until = rests.failed(key(1), US, PAUSE, NOW, 0.5).until;
        assert_eq!(rests.ask(key(1), US, NOW), Err(until));
        assert_eq!(rests.ask(key(2), US, NOW), Ok(()));
        assert_eq!(rests.ask(key(1), US, until), Ok(()));
    }

    #[test]
    fn a_provider_that_fails_again_and_again_is_left_in_peace_and_then_asked_by_one() {
        let mut rests = Rests::default();
        let news: Vec<bool> = (1..=5).map(|n| rests.failed(key(n), US, PAUSE, NOW, 0.5).is_news).collect();
        assert_eq!(news, [false, false, false, true, false]);
        let until = rests.ask(key(9), US, NOW).unwrap_err();
        assert!(until.since(NOW) >= PAUSE);
        assert_eq!(rests.ask(key(9), US, until), Ok(()));
        assert!(rests.ask(key(8), US, until).is_err(), "one asks at a time");
        rests.ask_no_more(US);
        assert_eq!(rests.ask(key(8), US, until), Ok(()));
        assert!(rests.succeeded(key(8), US), "which is news");
        assert_eq!(rests.ask(key(7), US, NOW), Ok(()));
        assert!(!rests.succeeded(key(7), US));
    }

    #[test]
    fn another_provider_starts_over() {
        let mut rests = Rests::default();
        for n in 1..=6 {
            rests.failed(key(n), US, PAUSE, NOW, 0.5);
        }
        assert!(rests.ask(key(9), US, NOW).is_err());
        assert_eq!(rests.ask(key(9), Authority([2; 8]), NOW), Ok(()));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut rests = Rests::default();
        for n in 0..REMEMBERED + 10 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_be_bytes());
            rests.failed(SessionKey(key), US, PAUSE, NOW, 0.5);
        }
        assert!(rests.sessions.len() <= REMEMBERED);
    }
}
