//! What a session that is ready for requests takes of memory.

use crate::domain::grant::SealedGrant;
use crate::domain::identity::Identity;
use crate::ports::LoadedSession;

/// What it takes beside its texts: the session, its ready headers, a signed assertion and the cache's own share.
const BESIDE: usize = 2048;

/// What each text takes beside its bytes.
const TEXT: usize = 32;

/// Some more than a ready session takes, in bytes. Each text is held twice, in the session and in its ready fields, and the assertion
/// holds most of them once more, in base64.
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
