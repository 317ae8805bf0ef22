//! What the provider granted at a sign-in, for asking it again.

use super::secret::Secret;
use super::time::Timestamp;

/// The tokens of a sign-in. They are held open only while they are used: a session carries them sealed.
#[derive(Clone)]
pub struct Grant {
    /// The access token.
    pub access: Secret,
    /// Until when it lasts; `None`: for ever, or not told.
    pub access_expires_at: Option<Timestamp>,
    /// The refresh token.
    pub refresh: Option<Secret>,
    /// The ID token, which tells the provider whose session a logout is about.
    pub id_token: Option<Secret>,
    /// The claims that UserInfo has told so far. Where it tells one of them no more, that is gone; a claim that it never told stands as
    /// the ID token had it.
    pub told_by_userinfo: Vec<String>,
}

/// A grant, sealed: nobody reads it but who has the session secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealedGrant(pub Box<[u8]>);
