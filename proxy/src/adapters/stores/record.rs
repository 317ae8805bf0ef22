//! The stored format of a session: compact, with the version of the format in front.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::domain::claims::Claims;
use crate::domain::grant::SealedGrant;
use crate::domain::identity::{Email, Identity, ProviderKind, Username};
use crate::domain::session::{Authority, Device, Session};
use crate::domain::time::Timestamp;

/// The first byte of a record. Any other field, order or type needs another version: [`SessionRecord`] never changes under this one.
const VERSION: u8 = 1;

/// The first byte of a record with [`More`] after the fields of version 1. A session without any of that is written as version 1, so that
/// an earlier Sidegate can read it.
const VERSION_WITH_MORE: u8 = 2;

/// The size of a record beside its texts and its grant: the version, four timestamps, the authority, the device's address, lengths.
const BESIDE: usize = 96;

/// Why a record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A later or an earlier Sidegate wrote it.
    #[error(
        "the session was written as version {0}, and this Sidegate reads versions up to {VERSION_WITH_MORE}: its owner signs in again"
    )]
    Version(u8),
    /// It does not have this version's format.
    #[error("the session's record is damaged: its owner signs in again")]
    Damaged,
}

/// The written fields, in this order, by postcard (a varint before each text, no names).
#[derive(Serialize, Deserialize)]
struct SessionRecord<'a> {
    provider: u8,
    id: &'a str,
    email: Option<&'a str>,
    name: &'a str,
    username: &'a str,
    username_vouched: bool,
    #[serde(borrow)]
    groups: Vec<&'a str>,
    authority: [u8; 8],
    created_at: u64,
    /// Milliseconds after `created_at`, which take a shorter varint than a timestamp.
    lasts: u64,
    address: IpAddr,
    browser: &'a str,
    provider_session: Option<&'a str>,
    grant: Option<&'a [u8]>,
    /// Milliseconds after `created_at`.
    renew_after: Option<u64>,
}

/// Further fields that rules use.
#[derive(Serialize, Deserialize)]
struct More<'a> {
    /// Milliseconds since the Unix epoch.
    auth_time: Option<u64>,
    #[serde(borrow)]
    claims: Vec<(&'a str, Vec<&'a str>)>,
}

impl<'a> More<'a> {
    fn of(session: &'a Session) -> Option<Self> {
        let claims: Vec<_> = session
            .identity
            .claims
            .iter()
            .map(|(name, texts)| (name, texts.iter().map(String::as_str).collect()))
            .collect();
        let auth_time = session.auth_time.map(Timestamp::millis);
        (auth_time.is_some() || !claims.is_empty()).then_some(Self { auth_time, claims })
    }

    fn read(self, session: &mut Session) {
        let mut claims = Claims::default();
        for (name, texts) in self.claims {
            claims.set(name, texts.into_iter().map(str::to_owned).collect());
        }
        session.identity.claims = claims;
        session.auth_time = self.auth_time.map(Timestamp::from_millis);
    }
}

/// Encodes a session.
#[must_use]
pub fn pack(session: &Session) -> Zeroizing<Vec<u8>> {
    let identity = &session.identity;
    let written = SessionRecord {
        provider: number(identity.provider),
        id: &identity.id,
        email: identity.email.as_ref().map(Email::as_str),
        name: &identity.name,
        username: identity.username.as_str(),
        username_vouched: matches!(identity.username, Username::Vouched(_)),
        groups: identity.groups.iter().map(String::as_str).collect(),
        authority: session.authority.0,
        created_at: session.created_at.millis(),
        lasts: after(session, session.expires_at),
        address: session.device.address,
        browser: &session.device.browser,
        provider_session: session.provider_session.as_deref(),
        grant: session.grant.as_ref().map(|grant| &*grant.0),
        renew_after: session.renew_at.map(|renew_at| after(session, renew_at)),
    };
    // Allocate everything at the start: a growing buffer would leave names behind in freed memory.
    let more = More::of(session);
    let mut record = Zeroizing::new(Vec::with_capacity(room(&written, more.as_ref())));
    record.push(if more.is_some() { VERSION_WITH_MORE } else { VERSION });
    // A growing writer does not fail; if it did, the record would be unreadable, and its owner would sign in again.
    if let Ok(whole) = postcard::to_extend(&written, std::mem::take(&mut *record)) {
        *record = whole;
    }
    if let Some(more) = more
        && let Ok(whole) = postcard::to_extend(&more, std::mem::take(&mut *record))
    {
        *record = whole;
    }
    record
}

/// Decodes the output of [`pack`].
///
/// # Errors
/// [`Unreadable`] for any other bytes.
pub fn unpack(record: &[u8]) -> Result<Session, Unreadable> {
    let (version, rest) = record.split_first().ok_or(Unreadable::Damaged)?;
    if !matches!(*version, VERSION | VERSION_WITH_MORE) {
        return Err(Unreadable::Version(*version));
    }
    let damaged = |_: postcard::Error| Unreadable::Damaged;
    let (written, rest) = postcard::take_from_bytes::<SessionRecord<'_>>(rest).map_err(damaged)?;
    let mut session = written.read()?;
    let rest = if *version == VERSION_WITH_MORE {
        let (more, rest) = postcard::take_from_bytes::<More<'_>>(rest).map_err(damaged)?;
        more.read(&mut session);
        rest
    } else {
        rest
    };
    if rest.is_empty() { Ok(session) } else { Err(Unreadable::Damaged) }
}

impl SessionRecord<'_> {
    fn read(self) -> Result<Session, Unreadable> {
        let created_at = Timestamp::from_millis(self.created_at);
        let moment = |after: u64| self.created_at.checked_add(after).map(Timestamp::from_millis);
        let renew_at = match self.renew_after {
            Some(after) => Some(moment(after).ok_or(Unreadable::Damaged)?),
            None => None,
        };
        if self.id.is_empty() {
            return Err(Unreadable::Damaged);
        }
        let email = self.email.map(Email::parse).transpose().map_err(|_| Unreadable::Damaged)?;
        let username = self.username.to_owned();
        Ok(Session {
            identity: Identity {
                provider: provider(self.provider).ok_or(Unreadable::Damaged)?,
                id: self.id.to_owned(),
                email,
                name: self.name.to_owned(),
                username: if self.username_vouched {
                    Username::Vouched(username)
                } else {
                    Username::Displayed(username)
                },
                groups: self.groups.into_iter().map(str::to_owned).collect(),
                claims: Claims::default(),
            },
            authority: Authority(self.authority),
            created_at,
            expires_at: moment(self.lasts).ok_or(Unreadable::Damaged)?,
            device: Device::new(self.address, self.browser),
            provider_session: self.provider_session.map(str::to_owned),
            grant: self.grant.map(|grant| SealedGrant(grant.into())),
            renew_at,
            auth_time: None,
        })
    }
}

const fn number(provider: ProviderKind) -> u8 {
    match provider {
        ProviderKind::Github => 1,
        ProviderKind::Entra => 2,
        ProviderKind::Oidc => 3,
    }
}

const fn provider(number: u8) -> Option<ProviderKind> {
    match number {
        1 => Some(ProviderKind::Github),
        2 => Some(ProviderKind::Entra),
        3 => Some(ProviderKind::Oidc),
        _ => None,
    }
}

fn after(session: &Session, moment: Timestamp) -> u64 {
    moment.millis().saturating_sub(session.created_at.millis())
}

/// An upper bound of the bytes that both take.
fn room(written: &SessionRecord<'_>, more: Option<&More<'_>>) -> usize {
    const LENGTH: usize = 5;
    let texts = [written.id, written.name, written.username, written.browser]
        .into_iter()
        .chain(written.email)
        .chain(written.provider_session)
        .chain(written.groups.iter().copied());
    let claims = more.iter().flat_map(|more| &more.claims);
    let claims: usize = claims
        .map(|(name, texts)| 2 * LENGTH + name.len() + texts.iter().map(|text| LENGTH + text.len()).sum::<usize>())
        .sum();
    BESIDE + claims + texts.map(|text| LENGTH + text.len()).sum::<usize>() + written.grant.map_or(0, <[u8]>::len)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn session() -> Session {
        let identity = Identity {
            provider: ProviderKind::Entra,
            id: "8f0c2f0e-6a3b-4a53-9d86-4f1c9d2b7e11".into(),
            email: Some(Email::parse("ann@example.com").unwrap()),
            name: "Ann Example".into(),
            username: Username::Vouched("ann@example.com".into()),
            groups: vec!["a".into(), String::new(), "\u{e9}".into()],
            claims: crate::domain::claims::Claims::default(),
        };
        let device = Device::new([192, 0, 2, 1].into(), "Firefox");
        let begun = Session::begin(
            identity,
            Authority([7; 8]),
            device,
            Duration::from_secs(86_400),
            Timestamp::from_secs(1000),
        );
        Session {
            provider_session: Some("sid".into()),
            grant: Some(SealedGrant(vec![9; 300].into())),
            renew_at: Some(Timestamp::from_secs(1900)),
            ..begun
        }
    }

    #[test]
    fn a_session_comes_back_as_it_was() {
        let whole = session();
        assert_eq!(unpack(&pack(&whole)).unwrap(), whole);
        let bare = Session { provider_session: None, grant: None, renew_at: None, ..session() };
        let record = pack(&bare);
        assert_eq!(unpack(&record).unwrap(), bare);
        assert!(record.len() < 150, "{} bytes", record.len());
    }

    fn with_more() -> Session {
        let mut claims = Claims::default();
        claims.set("department", vec!["finance".into()]);
        claims.set("roles", vec!["a".into(), "b".repeat(300)]);
        let identity = Identity { claims, ..session().identity };
        Session { identity, auth_time: Some(Timestamp::from_secs(990)), ..session() }
    }

    #[test]
    fn what_rules_look_at_comes_back_and_a_session_without_it_is_written_as_before() {
        let whole = with_more();
        let record = pack(&whole);
        assert_eq!((record[0], unpack(&record).unwrap()), (VERSION_WITH_MORE, whole.clone()));
        let only_time = Session { identity: session().identity, ..whole };
        assert_eq!(unpack(&pack(&only_time)).unwrap(), only_time);
        assert_eq!(pack(&session())[0], VERSION);
        for len in 1..record.len() {
            assert_eq!(unpack(&record[..len]), Err(Unreadable::Damaged), "cut to {len}");
        }
        assert_eq!(unpack(&[record.as_slice(), &[0]].concat()), Err(Unreadable::Damaged));
    }

    #[test]
    fn another_version_is_distinguished_from_damage() {
        let mut record = pack(&session()).to_vec();
        record[0] = VERSION_WITH_MORE + 1;
        assert_eq!(unpack(&record), Err(Unreadable::Version(VERSION_WITH_MORE + 1)));
        assert_eq!(unpack(&[0]), Err(Unreadable::Version(0)));
        assert_eq!(unpack(&[]), Err(Unreadable::Damaged));
    }

    #[test]
    fn this_versions_bytes_stay_readable() {
        let bare = Session { grant: None, provider_session: None, renew_at: None, ..session() };
        let identity = Identity { id: "1".into(), email: None, name: String::new(), groups: vec![], ..bare.identity };
        let record = pack(&Session { identity, ..bare });
        let expected: &[&[u8]] = &[
            &[VERSION, 2, 1, b'1', 0, 0, 15],
            b"ann@example.com",
            &[1, 0, 7, 7, 7, 7, 7, 7, 7, 7, 0xc0, 0x84, 0x3d, 0x80, 0xb8, 0x99, 0x29, 0, 192, 0, 2, 1, 7],
            b"Firefox",
            &[0, 0, 0],
        ];
        assert_eq!(*record, expected.concat(), "a changed writing needs a new VERSION");
    }

    #[test]
    fn a_record_with_a_piece_missing_or_too_much_is_damaged() {
        let record = pack(&session());
        for len in 1..record.len() {
            assert_eq!(unpack(&record[..len]), Err(Unreadable::Damaged), "cut to {len}");
        }
        assert_eq!(unpack(&[record.as_slice(), &[0]].concat()), Err(Unreadable::Damaged));
    }

    #[test]
    fn the_buffer_of_a_record_has_room_from_the_start() {
        let many = (0..2000).map(|n| format!("group-{n}")).collect();
        let identity = Identity { groups: many, ..session().identity };
        let farthest = Timestamp::from_millis(u64::MAX);
        let device = Device::new([0xffff_u16; 8].into(), "b");
        let long =
            Session { identity, device, created_at: Timestamp::from_millis(1), expires_at: farthest, ..session() };
        for session in [session(), Session { renew_at: Some(farthest), ..long }, with_more()] {
            let record = pack(&session);
            let (written, rest) = postcard::take_from_bytes(&record[1..]).unwrap();
            let more = (record[0] == VERSION_WITH_MORE).then(|| postcard::from_bytes(rest).unwrap());
            let room = room(&written, more.as_ref());
            assert!(record.len() <= room && record.capacity() == room);
        }
    }

    #[test]
    fn somebody_without_an_id_is_nobody() {
        let identity = Identity { id: String::new(), ..session().identity };
        assert_eq!(unpack(&pack(&Session { identity, ..session() })), Err(Unreadable::Damaged));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = unpack(&bytes);
            let versioned = [&[VERSION], bytes.as_slice()].concat();
            if let Ok(session) = unpack(&versioned) {
                prop_assert_eq!(unpack(&pack(&session)), Ok(session));
            }
        }

        #[test]
        fn a_flipped_byte_never_panics(at in 1_usize..400, to in any::<u8>()) {
            let mut record = pack(&session()).to_vec();
            let at = at % record.len();
            record[at] = to;
            if let Ok(session) = unpack(&record) {
                prop_assert_eq!(unpack(&pack(&session)), Ok(session));
            }
        }

        #[test]
        fn any_session_comes_back(
            id in ".{1,40}", name in ".{0,40}", groups in proptest::collection::vec(".{0,20}", 0..20),
            grant in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..500)), address in any::<std::net::IpAddr>(),
            created in 0_u64..=u64::MAX / 2, lasts in 0_u64..=u64::MAX / 2, renew in proptest::option::of(0_u64..=u64::MAX / 2),
        ) {
            let identity = Identity { id, name, groups, ..session().identity };
            let session = Session {
                identity,
                created_at: Timestamp::from_millis(created),
                expires_at: Timestamp::from_millis(created + lasts),
                renew_at: renew.map(|after| Timestamp::from_millis(created + after)),
                device: Device::new(address, "b"),
                grant: grant.map(|bytes| SealedGrant(bytes.into())),
                ..session()
            };
            prop_assert_eq!(unpack(&pack(&session)), Ok(session));
        }
    }
}
