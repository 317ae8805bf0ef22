//! Authenticated encryption of kubeconfigs, bound to their cluster, with key rotation.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// The length of a key, in bytes.
pub const KEY_LEN: usize = 32;

/// A key as configured. It cannot be printed.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY_LEN]>);

impl Key {
    /// Takes exactly [`KEY_LEN`] bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        <[u8; KEY_LEN]>::try_from(bytes).ok().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// Generates a random key.
    ///
    /// # Errors
    /// [`SealError::Crypto`] where the system has no randomness.
    pub fn random() -> Result<Self, SealError> {
        random().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_slice()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// The first byte of a sealed value, to distinguish later formats.
const VERSION: u8 = 1;
const ID_LEN: usize = 8;
const HEAD_LEN: usize = 1 + ID_LEN;

/// Seals with AES-256-GCM: base64 of `version (1 byte) | key id (8) | nonce (12, random) | ciphertext and tag`.
///
/// Random nonces are safe for 2^32 texts per key (NIST SP 800-38D §8.3), far more than clusters are ever registered.
pub(super) struct Sealer {
    first: Cipher,
    others: Vec<Cipher>,
}

struct Cipher {
    head: [u8; HEAD_LEN],
    key: LessSafeKey,
}

/// Why a kubeconfig could not be sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// None of our keys sealed it, or it was changed, or belongs to another cluster.
    #[error(
        "none of the keys in ENCRYPTION_KEY opens it: add the key that it was sealed under (after a comma), or register the \
         cluster again"
    )]
    Closed,
    /// The cryptographic library or the system's random generator failed, which never happens on a sound machine.
    #[error("the cryptographic library or the system's random generator failed: mistrust this machine")]
    Crypto,
}

/// An opened value.
pub(super) struct Opened {
    pub(super) text: Secret,
    /// Whether a key other than the first opened it: it should be sealed again.
    pub(super) by_older_key: bool,
}

impl Sealer {
    /// Seals with `first`, and opens what it or one of `others` sealed.
    pub(super) fn new(first: &Key, others: &[Key]) -> Result<Self, SealError> {
        let others = others.iter().map(Cipher::new).collect::<Result<_, _>>()?;
        Ok(Self { first: Cipher::new(first)?, others })
    }

    /// Seals `text` for `cluster` only: one row's value cannot be used in another.
    pub(super) fn seal(&self, cluster: &str, text: &Secret) -> Result<String, SealError> {
        let nonce = random::<NONCE_LEN>()?;
        // Allocates the full size first: a buffer that grows would leave plaintext in freed memory.
        let mut body = Zeroizing::new(Vec::with_capacity(text.expose().len() + MAX_TAG_LEN));
        body.extend_from_slice(text.expose().as_bytes());
        let aad = aad(&self.first.head, cluster);
        self.first
            .key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut *body)
            .map_err(|_| SealError::Crypto)?;
        Ok(STANDARD.encode([self.first.head.as_slice(), &nonce, &body].concat()))
    }

    /// Opens what [`Sealer::seal`] made for the same `cluster`.
    pub(super) fn open(&self, cluster: &str, sealed: &str) -> Result<Opened, SealError> {
        let sealed = STANDARD.decode(sealed).map_err(|_| SealError::Closed)?;
        let (head, rest) = sealed.split_first_chunk::<HEAD_LEN>().ok_or(SealError::Closed)?;
        let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>().ok_or(SealError::Closed)?;
        let ciphers = std::iter::once((&self.first, false)).chain(self.others.iter().map(|cipher| (cipher, true)));
        for (cipher, by_older_key) in ciphers.filter(|(cipher, _)| cipher.head == *head) {
            let mut body = Zeroizing::new(body.to_vec());
            let nonce = Nonce::assume_unique_for_key(*nonce);
            if let Ok(text) = cipher.key.open_in_place(nonce, aad(head, cluster), &mut body) {
                let text = std::str::from_utf8(text).map_err(|_| SealError::Closed)?;
                return Ok(Opened { text: Secret::new(text.to_owned()), by_older_key });
            }
        }
        Err(SealError::Closed)
    }
}

impl Cipher {
    fn new(key: &Key) -> Result<Self, SealError> {
        // The hash of a key identifies it; 64 bits of it reveal nothing useful about the key.
        let hash = digest(&SHA256, &[b"orchestrator key id\0", key.bytes()].concat());
        let mut head = [VERSION; HEAD_LEN];
        head.iter_mut().skip(1).zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
        let key = UnboundKey::new(&AES_256_GCM, key.bytes()).map_err(|_| SealError::Crypto)?;
        Ok(Self { head, key: LessSafeKey::new(key) })
    }
}

/// The head has a fixed length, so the split between head and cluster is unambiguous.
fn aad(head: &[u8; HEAD_LEN], cluster: &str) -> Aad<Vec<u8>> {
    Aad::from([head.as_slice(), b"cluster\0", cluster.as_bytes()].concat())
}

/// Random bytes from the system's generator.
pub(super) fn random<const N: usize>() -> Result<[u8; N], SealError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| SealError::Crypto)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key::new(&[byte; KEY_LEN]).unwrap()
    }

    fn sealer(first: u8, others: &[u8]) -> Sealer {
        Sealer::new(&key(first), &others.iter().map(|byte| key(*byte)).collect::<Vec<_>>()).unwrap()
    }

    fn text() -> Secret {
        Secret::new("apiVersion: v1".into())
    }

    #[test]
    fn what_is_sealed_opens_for_its_cluster_only() {
        let sealed = sealer(1, &[]).seal("a", &text()).unwrap();
        let opened = sealer(1, &[]).open("a", &sealed).unwrap();
        assert_eq!((opened.text.expose(), opened.by_older_key), (text().expose(), false));
        assert_eq!(sealer(1, &[]).open("b", &sealed).err(), Some(SealError::Closed));
    }

    #[test]
    fn an_older_key_still_opens_and_says_so_and_a_removed_one_does_not() {
        let sealed = sealer(1, &[]).seal("a", &text()).unwrap();
        assert!(sealer(2, &[1]).open("a", &sealed).unwrap().by_older_key);
        assert_eq!(sealer(2, &[]).open("a", &sealed).err(), Some(SealError::Closed));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let sealer = sealer(1, &[]);
        let sealed = STANDARD.decode(sealer.seal("a", &text()).unwrap()).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut forged = sealed.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(sealer.open("a", &STANDARD.encode(&forged)).is_err(), "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert!(sealer.open("a", &STANDARD.encode(&sealed[..len])).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn the_same_text_is_never_sealed_alike() {
        let sealer = sealer(1, &[]);
        assert_ne!(sealer.seal("a", &text()).unwrap(), sealer.seal("a", &text()).unwrap());
    }
}
