//! Authenticated encryption bound to a purpose, with key rotation.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

/// The longest sealed text that is written or read, in bytes.
const TEXT_LIMIT: usize = 8 * 1024;
/// The first byte of sealed data, to distinguish later formats.
const VERSION: u8 = 1;
const KEY_ID_LEN: usize = 4;
/// Version and key id.
const HEAD_LEN: usize = 1 + KEY_ID_LEN;

/// Seals data that only we may read and write: AES-256-GCM-SIV with a separate key for each secret and purpose.
///
/// The format is `version (1 byte) | key id (4) | nonce (12, random) | ciphertext and tag`, as text in base64url. The sessions of many
/// replicas over years approach the 2^32 messages for which random nonces are safe in AES-GCM (NIST SP 800-38D §8.3); with SIV a repeated
/// nonce reveals only whether two texts are equal (RFC 8452 §9).
pub struct Sealer {
    first: Key,
    others: Vec<Key>,
}

struct Key {
    id: [u8; KEY_ID_LEN],
    cipher: LessSafeKey,
}

/// Why sealing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// No secret was given.
    #[error("there is no secret to seal with: give at least one")]
    NoSecret,
    /// The sealed text would be longer than [`Sealer::open`] accepts.
    #[error("the text to seal is too long: sealed, it would exceed {TEXT_LIMIT} bytes")]
    TooLong,
    /// The cryptographic library failed, which a working machine never sees.
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
}

/// The cryptographic library or the system's random generator failed: this machine cannot keep secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cryptographic library or the system's random generator failed: restart, and mistrust the machine if it comes again"
)]
pub struct CryptoFailure;

impl From<aws_lc_rs::error::Unspecified> for CryptoFailure {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self
    }
}

impl Sealer {
    /// Seals with the first of `secrets` and opens with all, so that secrets can be rotated. Data sealed for one `purpose` never opens
    /// for another.
    ///
    /// # Errors
    /// [`SealError::NoSecret`] if `secrets` is empty.
    pub fn new<S: AsRef<[u8]>>(secrets: &[S], purpose: &'static str) -> Result<Self, SealError> {
        let (first, others) = secrets.split_first().ok_or(SealError::NoSecret)?;
        let others = others.iter().map(|secret| Key::derive(secret.as_ref(), purpose)).collect::<Result<_, _>>()?;
        Ok(Self { first: Key::derive(first.as_ref(), purpose)?, others })
    }

    /// Whether all that `older` opens can be opened here too.
    #[must_use]
    pub fn covers(&self, older: &Self) -> bool {
        older.keys().all(|old| self.keys().any(|key| key.id == old.id))
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Seals `plaintext` as text that opens only with the same `context` (a cookie's name, so that one cookie never passes for
    /// another).
    ///
    /// # Errors
    /// [`SealError::TooLong`] beyond about 6,100 bytes.
    pub fn seal(&self, context: &[u8], plaintext: &[u8]) -> Result<String, SealError> {
        let sealed_len = HEAD_LEN + NONCE_LEN + plaintext.len() + MAX_TAG_LEN;
        if base64::encoded_len(sealed_len, false).is_none_or(|len| len > TEXT_LIMIT) {
            return Err(SealError::TooLong);
        }
        Ok(URL_SAFE_NO_PAD.encode(self.seal_bytes(context, plaintext)?))
    }

    /// Seals `plaintext` of any length; it opens only with the same `context`.
    ///
    /// # Errors
    /// [`CryptoFailure`], which a working machine never returns.
    pub fn seal_bytes(&self, context: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, CryptoFailure> {
        let nonce = random::<NONCE_LEN>()?;
        let head = self.first.head();
        // Allocate everything at the start: a growing buffer would leave plaintext behind in freed memory.
        let mut sealed = Vec::with_capacity(HEAD_LEN + NONCE_LEN + plaintext.len() + MAX_TAG_LEN);
        sealed.extend_from_slice(&head);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plaintext);
        let (_, body) = sealed.split_at_mut(HEAD_LEN + NONCE_LEN);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.first.cipher.seal_in_place_separate_tag(nonce, aad(head, context), body)?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Opens `text`; `None` for anything that was not sealed with one of our secrets for this purpose and `context`.
    #[must_use]
    pub fn open(&self, context: &[u8], text: &str) -> Option<Zeroizing<Vec<u8>>> {
        if text.len() > TEXT_LIMIT {
            return None;
        }
        self.open_bytes(context, &URL_SAFE_NO_PAD.decode(text).ok()?)
    }

    /// Opens the output of [`Sealer::seal_bytes`]; `None` for anything else.
    #[must_use]
    pub fn open_bytes(&self, context: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (head, rest) = sealed.split_first_chunk::<HEAD_LEN>()?;
        let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>()?;
        let fitting = self.keys().filter(|key| key.head() == *head);
        // Two secrets may share a key id by chance.
        for key in fitting {
            let mut body = Zeroizing::new(body.to_vec());
            let nonce = Nonce::assume_unique_for_key(*nonce);
            if let Ok(plaintext) = key.cipher.open_in_place(nonce, aad(*head, context), &mut body) {
                let len = plaintext.len();
                body.truncate(len);
                return Some(body);
            }
        }
        None
    }
}

impl Key {
    fn derive(secret: &[u8], purpose: &str) -> Result<Self, CryptoFailure> {
        let root = root(secret);
        let info = [b"seal\0", purpose.as_bytes(), b"\0key"];
        let cipher = UnboundKey::from(root.expand(&info, &AES_256_GCM_SIV)?);
        let mut id = [0; KEY_ID_LEN];
        root.expand(&[b"seal\0", purpose.as_bytes(), b"\0id"], Bytes(KEY_ID_LEN))?.fill(&mut id)?;
        Ok(Self { id, cipher: LessSafeKey::new(cipher) })
    }

    const fn head(&self) -> [u8; HEAD_LEN] {
        let [a, b, c, d] = self.id;
        [VERSION, a, b, c, d]
    }
}

/// The additional data. The head has a fixed length, so head and context cannot be confused.
fn aad(head: [u8; HEAD_LEN], context: &[u8]) -> Aad<Vec<u8>> {
    Aad::from([head.as_slice(), context].concat())
}

/// Random bytes from the system's generator.
///
/// # Errors
/// [`CryptoFailure`] if the generator fails; respond with 500, or do not start.
pub fn random<const N: usize>() -> Result<[u8; N], CryptoFailure> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)?;
    Ok(bytes)
}

/// A random secret for this process only, used if none is configured.
///
/// # Errors
/// As [`random`].
pub fn random_secret() -> Result<Zeroizing<[u8; 32]>, CryptoFailure> {
    random().map(Zeroizing::new)
}

/// Derives 32 bytes from `secret` for one purpose (HKDF-SHA256, RFC 5869), which reveal nothing of it. `parts` are joined as they are:
/// the caller makes them unambiguous.
///
/// # Errors
/// [`CryptoFailure`], which a working machine never returns.
pub(super) fn derive(secret: &[u8], parts: &[&[u8]]) -> Result<Zeroizing<[u8; 32]>, CryptoFailure> {
    let mut bytes = Zeroizing::new([0; 32]);
    root(secret).expand(parts, Bytes(32))?.fill(bytes.as_mut())?;
    Ok(bytes)
}

fn root(secret: &[u8]) -> Prk {
    Salt::new(HKDF_SHA256, b"sidegate").extract(secret)
}

struct Bytes(usize);

impl KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OLD: [u8; 32] = [1; 32];
    const NEW: [u8; 32] = [2; 32];

    fn sealer(secrets: &[[u8; 32]]) -> Sealer {
        Sealer::new(secrets, "login").unwrap()
    }

    fn opened(sealer: &Sealer, context: &[u8], text: &str) -> Option<Vec<u8>> {
        sealer.open(context, text).map(|plaintext| plaintext.to_vec())
    }

    #[test]
    fn what_is_sealed_opens_for_its_context_only() {
        let sealer = sealer(&[NEW]);
        let text = sealer.seal(b"cookie-a", b"attempt").unwrap();
        assert_eq!(opened(&sealer, b"cookie-a", &text).unwrap(), b"attempt");
        assert!(sealer.open(b"cookie-b", &text).is_none());
        assert!(sealer.open(b"", &text).is_none());
    }

    #[test]
    fn what_is_sealed_opens_for_its_purpose_only() {
        let text = sealer(&[NEW]).seal(b"c", b"attempt").unwrap();
        assert!(Sealer::new(&[NEW], "session").unwrap().open(b"c", &text).is_none());
        // Even if the key id is made to match.
        let other = Sealer::new(&[NEW], "session").unwrap();
        let mut sealed = URL_SAFE_NO_PAD.decode(&text).unwrap();
        sealed[..HEAD_LEN].copy_from_slice(&other.first.head());
        assert!(other.open(b"c", &URL_SAFE_NO_PAD.encode(sealed)).is_none());
    }

    #[test]
    fn a_rotated_secret_still_opens_and_a_removed_one_does_not() {
        let text = sealer(&[OLD]).seal(b"c", b"attempt").unwrap();
        assert_eq!(opened(&sealer(&[NEW, OLD]), b"c", &text).unwrap(), b"attempt");
        assert!(sealer(&[NEW]).open(b"c", &text).is_none());
        let text = sealer(&[NEW, OLD]).seal(b"c", b"attempt").unwrap();
        assert_eq!(opened(&sealer(&[NEW]), b"c", &text).unwrap(), b"attempt", "the first secret seals");
    }

    #[test]
    fn the_same_text_is_never_sealed_alike() {
        let sealer = sealer(&[NEW]);
        assert_ne!(sealer.seal(b"c", b"attempt").unwrap(), sealer.seal(b"c", b"attempt").unwrap());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let sealer = sealer(&[NEW]);
        let sealed = URL_SAFE_NO_PAD.decode(sealer.seal(b"c", b"attempt").unwrap()).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut forged = sealed.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(sealer.open(b"c", &URL_SAFE_NO_PAD.encode(forged)).is_none(), "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert!(sealer.open(b"c", &URL_SAFE_NO_PAD.encode(&sealed[..len])).is_none(), "cut to {len}");
        }
    }

    #[test]
    fn what_can_be_sealed_can_be_opened() {
        let sealer = sealer(&[NEW]);
        let longest = (0..TEXT_LIMIT).rev().find(|len| sealer.seal(b"c", &vec![7; *len]).is_ok()).unwrap();
        assert!(longest > 6000);
        let text = sealer.seal(b"c", &vec![7; longest]).unwrap();
        assert_eq!(sealer.open(b"c", &text).unwrap().len(), longest);
        assert_eq!(sealer.seal(b"c", &vec![7; longest + 1]), Err(SealError::TooLong));
    }

    #[test]
    fn nothing_is_sealed_without_a_secret() {
        assert!(matches!(Sealer::new::<[u8; 32]>(&[], "login"), Err(SealError::NoSecret)));
    }

    #[test]
    fn random_secrets_differ() {
        assert_ne!(*random_secret().unwrap(), *random_secret().unwrap());
    }

    proptest! {
        #[test]
        fn no_other_text_opens(text in ".{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let sealer = sealer(&[NEW, OLD]);
            prop_assert!(sealer.open(b"c", &text).is_none());
            prop_assert!(sealer.open(b"c", &URL_SAFE_NO_PAD.encode(&bytes)).is_none());
            let headed = [sealer.first.head().as_slice(), &bytes].concat();
            prop_assert!(sealer.open(b"c", &URL_SAFE_NO_PAD.encode(headed)).is_none());
        }

        #[test]
        fn any_plaintext_comes_back(plaintext in proptest::collection::vec(any::<u8>(), 0..1000), context in ".{0,40}") {
            let sealer = sealer(&[NEW]);
            let text = sealer.seal(context.as_bytes(), &plaintext).unwrap();
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            prop_assert_eq!(opened(&sealer, context.as_bytes(), &text), Some(plaintext));
        }
    }
}
