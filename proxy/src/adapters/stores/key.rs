//! The keys of sessions in stores, and their public ids.

use std::fmt::Write as _;
use std::hash::{BuildHasherDefault, Hasher};

use aws_lc_rs::digest::{SHA256, digest};

use crate::domain::session::{SessionKey, SessionToken};

/// The SHA-256 of a token, so that a reader of the store has no token. A token has 256 random bits, so no salt is needed.
pub(super) fn of(token: &SessionToken) -> SessionKey {
    let mut key = [0; 32];
    for (to, from) in key.iter_mut().zip(digest(&SHA256, token.expose().as_bytes()).as_ref()) {
        *to = *from;
    }
    SessionKey(key)
}

/// For tables of live sessions. Their keys are hashes of tokens that we generated, so nobody can choose colliding keys.
pub(super) type ByKey = BuildHasherDefault<KeyHasher>;

/// Uses a key's own bytes as its hash.
#[derive(Default)]
pub(super) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, key: &[u8]) {
        if let Some(first) = key.first_chunk() {
            self.0 = u64::from_ne_bytes(*first);
        }
    }

    /// Ignores the length, which is the same for all keys.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The session's id for users and operators: 32 hexadecimal digits, a further hash of its key, which gives no access to any store.
#[must_use]
pub fn public_id(key: SessionKey) -> String {
    let hash = digest(&SHA256, &[b"the public id of a session".as_slice(), &key.0].concat());
    hash.as_ref().iter().take(16).fold(String::with_capacity(32), |mut id, byte| {
        // Writing to memory does not fail.
        let _ = write!(id, "{byte:02x}");
        id
    })
}

/// Whether `text` could be the [`public_id`] of a session.
#[must_use]
pub fn is_public_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_id_shows_nothing_of_the_key_or_the_token() {
        let token = SessionToken::from_random([7; 32]);
        let key = of(&token);
        let id = public_id(key);
        assert!(is_public_id(&id));
        assert_ne!(id, public_id(of(&SessionToken::from_random([8; 32]))));
        let hex: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!hex.contains(&id) && !token.expose().contains(&id));
        for text in ["", "end-others", &id[1..], &format!("{id}0"), &id.replace(|c: char| c.is_ascii_hexdigit(), "A")] {
            assert!(!is_public_id(text), "{text}");
        }
    }
}
