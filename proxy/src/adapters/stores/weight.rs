//! The memory that a ready session takes.

use crate::domain::grant::SealedGrant;
use crate::domain::identity::Identity;
use crate::ports::LoadedSession;

/// The overhead beside its texts: the session, its ready header fields and a signed assertion.
const BESIDE: usize = 1792;

/// What a general cache needs for each entry.
const CACHE: u32 = 448;

/// The overhead of each text.
const TEXT: usize = 32;

/// An upper estimate for a ready session, in bytes. Each text is stored twice, in the session and in its ready fields, and the assertion
/// contains most of them once more, in base64.
pub(super) fn of(session: &LoadedSession) -> u32 {
    let Identity { id, name, username, email: _, groups, claims, provider: _ } = &session.session().identity;
    let email = session.session().identity.email_str();
    let identity: usize = [id.as_str(), name.as_str(), username.as_str(), email].map(str::len).iter().sum();
    let groups: usize = groups.iter().map(|group| TEXT + group.len()).sum();
    let grant = session.session().grant.as_ref().map_or(0, |SealedGrant(bytes)| bytes.len());
    let claims: usize = claims
        .iter()
        .map(|(name, texts)| TEXT + name.len() + texts.iter().map(|text| TEXT + text.len()).sum::<usize>())
        .sum();
    let bytes = BESIDE + 4 * (identity + groups) + claims + grant;
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The same in a general cache.
pub(super) fn in_cache(session: &LoadedSession) -> u32 {
    of(session).saturating_add(CACHE)
}
