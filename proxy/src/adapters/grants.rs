//! Seals and opens the provider's grants in sessions.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::adapters::seal::{CryptoFailure, SealError, Sealer};
use crate::domain::grant::{Grant, SealedGrant};
use crate::domain::secret::Secret;
use crate::domain::session::Authority;
use crate::domain::time::Timestamp;

/// The longest grant that is kept, in bytes; a session with a longer one is not renewed.
const LONGEST: usize = 32 * 1024;

/// Seals grants, bound to their user.
pub struct GrantSealer(Sealer);

/// The stored format of a grant.
#[derive(Serialize, Deserialize)]
struct GrantRecord<'a> {
    #[serde(borrow)]
    access: Cow<'a, str>,
    access_expires_at: Option<Timestamp>,
    #[serde(borrow)]
    refresh: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id_token: Option<Cow<'a, str>>,
    #[serde(default)]
    told_by_userinfo: Vec<String>,
}

impl GrantSealer {
    /// Seals with the first of `secrets`, opens with all.
    ///
    /// # Errors
    /// If there is no secret.
    pub fn new<S: AsRef<[u8]>>(secrets: &[S]) -> Result<Self, SealError> {
        Sealer::new(secrets, "grant").map(Self)
    }

    /// Seals `grant` for the user `id`; `None`: it is too long to be kept.
    ///
    /// # Errors
    /// [`CryptoFailure`], which a working machine never returns.
    pub fn seal(&self, authority: Authority, id: &str, grant: &Grant) -> Result<Option<SealedGrant>, CryptoFailure> {
        let written = GrantRecord {
            access: grant.access.expose().into(),
            access_expires_at: grant.access_expires_at,
            refresh: grant.refresh.as_ref().map(|token| token.expose().into()),
            id_token: grant.id_token.as_ref().map(|token| token.expose().into()),
            told_by_userinfo: grant.supplied_by_userinfo.clone(),
        };
        let Ok(text) = serde_json::to_vec(&written).map(Zeroizing::new) else { return Ok(None) };
        if text.len() > LONGEST {
            return Ok(None);
        }
        let sealed = self.0.seal_bytes(&context(authority, id), &text)?;
        Ok(Some(SealedGrant(sealed.into_boxed_slice())))
    }

    /// Opens the grant of the user `id`; `None` if no secret of ours sealed it, or for another user.
    #[must_use]
    pub fn open(&self, authority: Authority, id: &str, sealed: &SealedGrant) -> Option<Grant> {
        let text = self.0.open_bytes(&context(authority, id), &sealed.0)?;
        let written: GrantRecord<'_> = serde_json::from_slice(&text).ok()?;
        Some(Grant {
            access: Secret::new(written.access),
            access_expires_at: written.access_expires_at,
            refresh: written.refresh.map(Secret::new),
            id_token: written.id_token.map(Secret::new),
            supplied_by_userinfo: written.told_by_userinfo,
        })
    }
}

fn context(authority: Authority, id: &str) -> Vec<u8> {
    [authority.0.as_slice(), id.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant() -> Grant {
        Grant {
            // A token may have any visible character (RFC 6749 appendix A.12).
            access: Secret::new("access\"\\"),
            access_expires_at: Some(Timestamp::from_secs(9)),
            refresh: Some(Secret::new("refresh")),
            id_token: None,
            supplied_by_userinfo: vec!["groups".to_owned()],
        }
    }

    #[test]
    fn a_grant_opens_for_its_person_only() {
        let (sealer, authority) = (GrantSealer::new(&[[7; 32]]).unwrap(), Authority([1; 8]));
        let sealed = sealer.seal(authority, "ann", &grant()).unwrap().unwrap();
        let opened = sealer.open(authority, "ann", &sealed).unwrap();
        assert!(opened.access == grant().access && opened.refresh == Some(Secret::new("refresh")));
        assert_eq!(opened.access_expires_at, Some(Timestamp::from_secs(9)));
        assert_eq!(opened.supplied_by_userinfo, ["groups"]);
        assert!(sealer.open(authority, "bob", &sealed).is_none());
        assert!(sealer.open(Authority([2; 8]), "ann", &sealed).is_none());
        assert!(!sealed.0.windows(6).any(|bytes| bytes == b"access"), "nothing in the clear");
    }

    #[test]
    fn a_grant_that_is_too_long_is_not_kept() {
        let sealer = GrantSealer::new(&[[7; 32]]).unwrap();
        let long = Grant { access: Secret::new("a".repeat(LONGEST)), ..grant() };
        assert!(sealer.seal(Authority([1; 8]), "ann", &long).unwrap().is_none());
    }
}
