//! The provider's grant from a sign-in, used for renewals.

use super::secret::Secret;
use super::time::Timestamp;

/// The tokens of a sign-in. They are unsealed only while they are used: a session holds them sealed.
#[derive(Clone)]
pub struct Grant {
    /// The access token.
    pub access: Secret,
    /// When it expires; `None`: never, or unknown.
    pub access_expires_at: Option<Timestamp>,
    /// The refresh token.
    pub refresh: Option<Secret>,
    /// The ID token, by which the provider identifies the session at a logout.
    pub id_token: Option<Secret>,
    /// The claims that UserInfo has supplied so far. If it stops supplying one of them, the value is removed; a claim that it never
    /// supplied keeps its value from the ID token.
    pub supplied_by_userinfo: Vec<String>,
}

/// A sealed grant: only the session secret opens it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealedGrant(pub Box<[u8]>);
