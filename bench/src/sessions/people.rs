//! Generated people with data of realistic size.

use std::time::Duration;

use anyhow::Context;
use sidegate::adapters::grants::GrantSealer;
use sidegate::domain::claims::Claims;
use sidegate::domain::grant::Grant;
use sidegate::domain::identity::{Email, Identity, ProviderKind, Username};
use sidegate::domain::secret::Secret;
use sidegate::domain::session::{Authority, Device, Session};
use sidegate::domain::time::Timestamp;

/// The time of all sessions: far ahead, so that nothing has expired for a store with its own clock.
pub(super) const NOW: Timestamp = Timestamp::from_secs(4_000_000_000);

/// A typical `User-Agent`.
const BROWSER: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/148.0.0.0 Safari/537.36";

/// Generates people.
pub(super) struct People {
    sealer: GrantSealer,
    /// The size of the provider's tokens in each session, in bytes.
    tokens: usize,
}

impl People {
    pub(super) fn new(tokens: usize) -> anyhow::Result<Self> {
        Ok(Self { sealer: GrantSealer::new(&[[7; 32]])?, tokens })
    }

    /// The session of the person `number`.
    pub(super) fn session(&self, number: u64) -> anyhow::Result<Session> {
        let login = format!("user-{number:07}");
        let identity = Identity {
            provider: ProviderKind::Github,
            id: format!("{}", 10_000_000 + number),
            email: Some(Email::parse(&format!("{login}@example.com")).context("that is no address")?),
            name: format!("Firstname Lastname {number}"),
            username: Username::Vouched(login),
            claims: Claims::default(),
            groups: Vec::new(),
        };
        let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 | (u32::try_from(number & 0x00ff_ffff)?));
        let device = Device::new(address.into(), BROWSER);
        let mut session = Session::begin(identity, Authority([1; 8]), device, Duration::from_secs(86_400), NOW);
        if self.tokens > 0 {
            let grant = Grant {
                access: Secret::new("a".repeat(self.tokens / 2)),
                access_expires_at: Some(NOW + Duration::from_secs(3600)),
                refresh: Some(Secret::new("r".repeat(self.tokens - self.tokens / 2))),
                id_token: None,
                supplied_by_userinfo: Vec::new(),
            };
            session.grant = self.sealer.seal(session.authority, &session.identity.id, &grant)?;
            session.renew_at = Some(NOW + Duration::from_secs(3000));
        }
        Ok(session)
    }
}
