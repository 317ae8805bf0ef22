//! The names of keys and channels. They reveal no token, no user name and no address: sessions are named by the hash of their token, users
//! by a hash under a key derived from the session secret.

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::adapters::seal::{self, CryptoFailure};
use crate::domain::session::{Session, SessionKey, SessionSelector};

/// The names under a prefix.
pub(super) struct Names {
    prefix: String,
    /// The hash keys, one for each secret; the first is used for writing.
    keys: Vec<hmac::Key>,
}

impl Names {
    pub(super) fn new(prefix: &str, secrets: &[Zeroizing<Vec<u8>>]) -> Result<Self, CryptoFailure> {
        let key = |secret: &Zeroizing<Vec<u8>>| {
            let key = seal::derive(secret, &[b"redis\0", b"names"])?;
            Ok(hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()))
        };
        let keys = secrets.iter().map(key).collect::<Result<_, CryptoFailure>>()?;
        Ok(Self { prefix: prefix.to_owned(), keys })
    }

    /// The session itself: a hash with its sealed value and its last use. The braces keep all of a session's keys in one slot of a cluster.
    pub(super) fn session(&self, key: SessionKey) -> String {
        format!("{}s:{{{}}}", self.prefix, hex(&key.0))
    }

    /// The session's renewal lease.
    pub(super) fn lease(&self, key: SessionKey) -> String {
        format!("{}l:{{{}}}", self.prefix, hex(&key.0))
    }

    /// The pattern that all session keys match.
    pub(super) fn all_sessions(&self) -> String {
        format!("{}s:{{*}}", self.prefix)
    }

    /// The session of a key.
    pub(super) fn session_key(&self, name: &[u8]) -> Option<SessionKey> {
        let text = std::str::from_utf8(name).ok()?.strip_prefix(&self.prefix)?;
        read(text.strip_prefix("s:{")?.strip_suffix('}')?)
    }

    /// The lists that a session is on: its user's, and the provider session's.
    pub(super) fn lists(&self, session: &Session) -> Vec<String> {
        let person = SessionSelector::Person { authority: session.authority, id: &session.identity.id };
        let sid = session.provider_session.as_deref();
        let sid = sid.map(|sid| SessionSelector::ProviderSession { authority: session.authority, sid });
        [Some(person), sid]
            .into_iter()
            .flatten()
            .filter_map(|selector| self.list(selector).into_iter().next())
            .collect()
    }

    /// The names of the lists where such sessions may be, one for each secret, the first secret's first.
    pub(super) fn list(&self, selector: SessionSelector<'_>) -> Vec<String> {
        let (kind, authority, text): (&[u8], _, _) = match selector {
            SessionSelector::Person { authority, id } => (b"person\0", authority, id),
            SessionSelector::ProviderSession { authority, sid } => (b"sid\0", authority, sid),
        };
        self.hashed("i:", &[kind, authority.0.as_slice(), text.as_bytes()].concat())
    }

    /// The names of a value that may be used only once, one for each secret.
    pub(super) fn once(&self, what: &str) -> Vec<String> {
        self.hashed("o:", &[b"once\0", what.as_bytes()].concat())
    }

    /// The channel for news of ended and changed sessions.
    pub(super) fn news(&self) -> String {
        format!("{}news", self.prefix)
    }

    /// The channel for a replica's own pulses.
    pub(super) fn pulse(&self, replica: u64) -> String {
        format!("{}pulse:{replica:016x}", self.prefix)
    }

    fn hashed(&self, kind: &str, what: &[u8]) -> Vec<String> {
        let name = |key| format!("{}{kind}{}", self.prefix, hex(hmac::sign(key, what).as_ref()));
        self.keys.iter().map(name).collect()
    }
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Parses a session's key from its 64 digits.
pub(super) fn read(text: &str) -> Option<SessionKey> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut key = [0; 32];
    if text.len() != 64 {
        return None;
    }
    let (pairs, _) = text.as_bytes().as_chunks::<2>();
    for (to, [high, low]) in key.iter_mut().zip(pairs) {
        *to = digit(*high)? << 4 | digit(*low)?;
    }
    Some(SessionKey(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::session::Authority;

    fn names(secrets: &[u8]) -> Names {
        let secrets: Vec<_> = secrets.iter().map(|byte| Zeroizing::new(vec![*byte; 32])).collect();
        Names::new("sidegate:", &secrets).unwrap()
    }

    #[test]
    fn a_sessions_name_reads_back() {
        let (names, key) = (names(&[1]), SessionKey([0xa5; 32]));
        assert_eq!(names.session_key(names.session(key).as_bytes()), Some(key));
        for other in ["sidegate:news", "sidegate:s:{a5}", "other:s:{}", &names.lease(key)] {
            assert_eq!(names.session_key(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_persons_list_reveals_nothing_and_differs_by_secret_authority_and_kind() {
        let of = |secret, authority, id| {
            names(&[secret]).list(SessionSelector::Person { authority: Authority([authority; 8]), id }).remove(0)
        };
        let ann = of(1, 1, "ann");
        assert_eq!(ann, of(1, 1, "ann"));
        assert!(!ann.contains("ann"));
        for other in [of(2, 1, "ann"), of(1, 2, "ann"), of(1, 1, "bob")] {
            assert_ne!(ann, other);
        }
        let sid = SessionSelector::ProviderSession { authority: Authority([1; 8]), sid: "ann" };
        assert_ne!(ann, names(&[1]).list(sid).remove(0));
        assert_eq!(
            names(&[2, 1]).list(SessionSelector::Person { authority: Authority([1; 8]), id: "ann" }).get(1),
            Some(&ann)
        );
    }
}
