//! An identity, and how long it stays valid.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::grant::SealedGrant;
use super::identity::{Identified, Identity, ProviderKind};
use super::principal::{Known, Principal, Proof};
use super::secret::Secret;
use super::time::Timestamp;

/// The longest accepted session cookie, in bytes: the most that browsers store of one cookie (RFC 6265bis §5.6 limits it to 4096).
const TOKEN_LIMIT: usize = 4096;

/// The content of the `session_token` cookie: its holder is treated as the user. It cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionToken(Secret);

impl SessionToken {
    /// Parses a cookie's value; `None` if no store could have issued it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let ours = |b: u8| b.is_ascii_alphanumeric() | (b == b'-') | (b == b'_') | (b == b'.');
        // Checks all bytes: without an early exit the processor compares many at once.
        let fits = !text.is_empty() && text.len() <= TOKEN_LIMIT && text.bytes().fold(true, |fits, b| fits & ours(b));
        fits.then(|| Self(Secret::new(text)))
    }

    /// A new token of 256 random bits.
    #[must_use]
    pub fn from_random(random: [u8; 32]) -> Self {
        use base64::Engine as _;
        Self(Secret::new(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random)))
    }

    /// The token itself, for the cookie and for the store's hash.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

/// The limits of a session's validity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// From the sign-in, whatever happens.
    pub absolute: Duration,
    /// From the last request; zero: no idle limit.
    pub idle: Duration,
}

/// The key of a session in stores: a hash of its token, which reveals nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey(pub [u8; 32]);

/// Identifies who vouched for a session, and to whom: a hash of the provider's kind and address, our client id there, and our public
/// origin. If these differ now, the session no longer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Authority(pub [u8; 8]);

/// Where a session was begun, so that users can distinguish their sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The client's address at the sign-in.
    pub address: IpAddr,
    /// The browser's `User-Agent`, at most [`Device::BROWSER_MOST`] bytes; may be empty.
    pub browser: String,
}

impl Device {
    /// The most that is kept of a browser's name, in bytes.
    pub const BROWSER_MOST: usize = 160;

    /// A device, with its browser's name shortened to that limit, without control characters.
    #[must_use]
    pub fn new(address: IpAddr, browser: &str) -> Self {
        if browser.len() <= Self::BROWSER_MOST && browser.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Self { address, browser: browser.to_owned() };
        }
        let mut kept: String = browser.chars().filter(|c| !c.is_control()).take(Self::BROWSER_MOST).collect();
        while kept.len() > Self::BROWSER_MOST {
            kept.pop();
        }
        Self { address, browser: kept }
    }
}

/// Selects sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionSelector<'a> {
    /// All of a user.
    Person {
        /// Who vouches for the user.
        authority: Authority,
        /// The provider's stable id.
        id: &'a str,
    },
    /// Those that belong to one session at the provider.
    ProviderSession {
        /// Who vouches for it.
        authority: Authority,
        /// Its id (`sid`).
        sid: &'a str,
    },
}

/// An identity, and how long it stays valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The session's user.
    pub identity: Identity,
    /// Who vouched for it.
    pub authority: Authority,
    /// When the user signed in.
    pub created_at: Timestamp,
    /// When the session ends at the latest; renewals do not extend it.
    pub expires_at: Timestamp,
    /// Where it was begun.
    pub device: Device,
    /// The provider's session id (`sid`), if it sends one.
    pub provider_session: Option<String>,
    /// The provider's grant for renewals.
    pub grant: Option<SealedGrant>,
    /// When to renew from the provider; `None`: it cannot be renewed.
    pub renew_at: Option<Timestamp>,
    /// When the user authenticated at the provider (`auth_time`), if it says so.
    pub auth_time: Option<Timestamp>,
}

impl Session {
    /// A session that begins now, without renewal.
    #[must_use]
    pub fn begin(identity: Identity, authority: Authority, device: Device, absolute: Duration, now: Timestamp) -> Self {
        Self {
            identity,
            authority,
            created_at: now,
            expires_at: now + absolute,
            device,
            provider_session: None,
            grant: None,
            renew_at: None,
            auth_time: None,
        }
    }

    /// Whether the session is valid at `now`, if it was last used at `last_seen`.
    #[must_use]
    pub fn is_live(&self, last_seen: Timestamp, idle: Duration, now: Timestamp) -> bool {
        now < self.expires_at && (idle.is_zero() || now.since(last_seen) < idle)
    }

    /// Whether it belongs to that selection.
    #[must_use]
    pub fn is(&self, selector: SessionSelector<'_>) -> bool {
        match selector {
            SessionSelector::Person { authority, id } => self.authority == authority && self.identity.id == id,
            SessionSelector::ProviderSession { authority, sid } => {
                self.authority == authority && self.provider_session.as_deref() == Some(sid)
            }
        }
    }
}

/// When a user who signed in at `signed_in_at` last authenticated. GitHub does not report that, and asks for no password again: for it the
/// sign-in here counts.
#[must_use]
pub const fn proved_at(
    provider: ProviderKind,
    signed_in_at: Timestamp,
    auth_time: Option<Timestamp>,
) -> Option<Timestamp> {
    match provider {
        ProviderKind::Github => Some(signed_in_at),
        ProviderKind::Entra | ProviderKind::Oidc => auth_time,
    }
}

impl Known for Session {
    fn principal(&self) -> Principal<'_> {
        let proved_at = proved_at(self.identity.provider, self.created_at, self.auth_time);
        Principal {
            identity: &self.identity,
            provider: self.identity.provider.as_str(),
            by: Proof::Session,
            proved_at,
            claims: &self.identity.claims,
            certificate: None,
        }
    }
}

impl Identified for Session {
    fn identity(&self) -> &Identity {
        &self.identity
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::identity::Username;

    fn session(lifetime: Lifetime) -> Session {
        let identity = Identity {
            provider: ProviderKind::Github,
            id: "1".into(),
            email: None,
            name: String::new(),
            username: Username::Vouched("ann".into()),
            groups: Vec::new(),
            claims: crate::domain::claims::Claims::default(),
        };
        let device = Device::new([192, 0, 2, 1].into(), "");
        Session::begin(identity, Authority([0; 8]), device, lifetime.absolute, Timestamp::from_secs(1000))
    }

    #[test]
    fn a_session_ends_at_its_absolute_lifetime_however_busy() {
        let session = session(Lifetime { absolute: Duration::from_secs(60), idle: Duration::ZERO });
        let at = |secs| session.is_live(Timestamp::from_secs(secs), Duration::ZERO, Timestamp::from_secs(secs));
        assert!(at(1059));
        assert!(!at(1060));
    }

    #[test]
    fn an_idle_session_ends_before_that() {
        let session = session(Lifetime { absolute: Duration::from_secs(600), idle: Duration::from_secs(30) });
        let at = |now| session.is_live(Timestamp::from_secs(1100), Duration::from_secs(30), Timestamp::from_secs(now));
        assert!(at(1129));
        assert!(!at(1130));
    }

    #[test]
    fn a_browsers_name_is_cut_between_characters() {
        let device = Device::new([192, 0, 2, 1].into(), &format!("a\r\nb{}", "\u{20ac}".repeat(200)));
        assert!(device.browser.starts_with("ab\u{20ac}") && device.browser.len() <= Device::BROWSER_MOST);
    }

    #[test]
    fn a_token_has_256_bits_and_only_cookie_safe_bytes() {
        let token = SessionToken::from_random([0xff; 32]);
        assert_eq!(token.expose().len(), 43);
        assert!(SessionToken::parse(token.expose()).is_some());
        for bad in ["", "a b", "a;b", "a\"b", "a\r\nb", "ä", &"a".repeat(TOKEN_LIMIT + 1)] {
            assert!(SessionToken::parse(bad).is_none(), "{bad:?} was taken");
        }
    }
}
