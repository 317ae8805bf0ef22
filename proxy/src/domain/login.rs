//! One sign-in attempt: state, nonce, PKCE code verifier, and where to return.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::path::ReturnTo;
use super::secret::Secret;
use super::time::Timestamp;

/// How long a user may take at the provider.
pub const ATTEMPT_LIFETIME: Duration = Duration::from_secs(600);

/// How many random bytes one attempt needs.
pub const ATTEMPT_RANDOM: usize = 100;

/// One sign-in attempt. It is sealed in its own cookie, never stored on the server, and cannot be printed.
#[derive(Serialize, Deserialize)]
pub struct LoginAttempt {
    id: AttemptId,
    state: String,
    nonce: String,
    verifier: String,
    /// Where the user wanted to go.
    pub return_to: ReturnTo,
    /// When the attempt began.
    pub started_at: Timestamp,
    /// The greatest accepted age of the user's authentication; `None`: any age.
    #[serde(default)]
    pub max_age: Option<Duration>,
}

impl LoginAttempt {
    /// A new attempt, with 256 random bits each for state, nonce and code verifier (RFC 7636 §4.1, RFC 9700 §2.1).
    ///
    /// `turn` distinguishes attempts of one millisecond: it grows by one with each.
    #[must_use]
    pub fn begin(random: &[u8; ATTEMPT_RANDOM], return_to: ReturnTo, turn: u16, now: Timestamp) -> Self {
        let (for_id, rest) = random.split_at(4);
        let (for_state, rest) = rest.split_at(32);
        let (for_nonce, for_verifier) = rest.split_at(32);
        let id = AttemptId::new(for_id, turn, now);
        Self {
            state: format!("{}.{}", id.as_str(), URL_SAFE_NO_PAD.encode(for_state)),
            id,
            nonce: URL_SAFE_NO_PAD.encode(for_nonce),
            verifier: URL_SAFE_NO_PAD.encode(for_verifier),
            return_to,
            started_at: now,
            max_age: None,
        }
    }

    /// The same attempt, for a user who must authenticate again.
    #[must_use]
    pub const fn within(mut self, max_age: Option<Duration>) -> Self {
        self.max_age = max_age;
        self
    }

    /// Identifies the attempt among the browser's; public.
    #[must_use]
    pub const fn id(&self) -> &AttemptId {
        &self.id
    }

    /// The `state` parameter: `<id>.<256 random bits>`.
    #[must_use]
    pub fn state(&self) -> &str {
        &self.state
    }

    /// The `nonce` that the ID token must repeat (OpenID Connect Core §3.1.2.1).
    #[must_use]
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// The PKCE code verifier.
    #[must_use]
    pub fn verifier(&self) -> &str {
        &self.verifier
    }

    /// Whether the callback's `state` is this attempt's, and in time.
    #[must_use]
    pub fn answers_to(&self, state: &str, now: Timestamp) -> bool {
        now.since(self.started_at) < ATTEMPT_LIFETIME && Secret::new(state) == Secret::new(self.state.as_str())
    }
}

/// The id of an attempt in its cookie's name: hexadecimal digits, twelve of the time in milliseconds, four of the turn within one, eight
/// random. So ids sort by age, even those of many tabs that a browser opens at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttemptId(String);

impl AttemptId {
    const LENGTH: usize = 24;

    fn new(random: &[u8], turn: u16, now: Timestamp) -> Self {
        let chance = random.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Self(format!("{:012x}{turn:04x}{chance}", now.millis() & 0xffff_ffff_ffff))
    }

    /// Parses the id in a cookie's name or at the start of a `state`; `None` if it is not one of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (text.len() == Self::LENGTH && text.bytes().all(digit)).then(|| Self(text.to_owned()))
    }

    /// The id at the start of a `state` parameter.
    #[must_use]
    pub fn of_state(state: &str) -> Option<Self> {
        state.split_once('.').and_then(|(id, _)| Self::parse(id))
    }

    /// The id as used in the cookie's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(fill: u8, secs: u64) -> LoginAttempt {
        LoginAttempt::begin(&[fill; ATTEMPT_RANDOM], ReturnTo::root(), 0, Timestamp::from_secs(secs))
    }

    #[test]
    fn an_attempt_answers_to_its_own_state_for_ten_minutes() {
        let mine = attempt(1, 1000);
        let state = mine.state().to_owned();
        assert!(mine.answers_to(&state, Timestamp::from_secs(1599)));
        assert!(!mine.answers_to(&state, Timestamp::from_secs(1600)));
        assert!(!mine.answers_to(attempt(2, 1000).state(), Timestamp::from_secs(1001)));
        assert!(!mine.answers_to("", Timestamp::from_secs(1001)));
    }

    #[test]
    fn the_state_names_its_cookie_and_older_ones_sort_first() {
        let (old, new) = (attempt(9, 1000), attempt(1, 1001));
        assert_eq!(AttemptId::of_state(old.state()).as_ref(), Some(old.id()));
        assert!(old.id() < new.id());
        let at = |fill: u8, turn: u16, millis: u64| {
            LoginAttempt::begin(&[fill; ATTEMPT_RANDOM], ReturnTo::root(), turn, Timestamp::from_millis(millis))
        };
        assert!(at(9, 0, 1_000_001).id() < at(1, 0, 1_000_002).id(), "within a second");
        assert!(at(9, 1, 1_000_001).id() < at(1, 2, 1_000_001).id(), "within a millisecond");
        assert_eq!(AttemptId::parse(old.id().as_str()).as_ref(), Some(old.id()));
    }

    #[test]
    fn the_verifier_is_as_long_as_rfc_7636_asks() {
        assert!((43..=128).contains(&attempt(0xff, 1).verifier().len()));
    }
}
