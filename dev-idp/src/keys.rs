//! The RSA keys for signing ID tokens, and their public keys as a JWK set.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::grants::random;

/// How many retired keys stay in the JWK set.
const RETIRED: usize = 4;

/// What happens to the current key when a new one replaces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OldKey {
    /// It stays in the JWK set: tokens that it signed still verify.
    Keep,
    /// It is removed from the JWK set.
    Drop,
    /// It is removed from the JWK set, and the new key takes its `kid`.
    Replace,
}

/// One RSA-2048 key.
pub(crate) struct Key {
    pub(crate) kid: String,
    pub(crate) pair: KeyPair,
}

impl Key {
    pub(crate) fn generate() -> Result<Self, Unspecified> {
        Ok(Self { kid: random(12), pair: KeyPair::generate(KeySize::Rsa2048)? })
    }

    /// The public key as PEM, which a verifier that takes the algorithm from the token's header would use as an HMAC secret.
    pub(crate) fn public_pem(&self) -> Result<String, Unspecified> {
        let body = STANDARD.encode(self.pair.public_key().as_der()?.as_ref());
        Ok(format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"))
    }

    /// The public key as a JWK.
    pub(crate) fn jwk(&self) -> Value {
        let public = RsaPublicKeyComponents::<Vec<u8>>::from(self.pair.public_key());
        json!({
            "kty": "RSA",
            "use": "sig",
            "kid": self.kid,
            "n": URL_SAFE_NO_PAD.encode(public.n),
            "e": URL_SAFE_NO_PAD.encode(public.e),
        })
    }
}

/// The current key, first, and the retired ones that are still published.
pub(crate) struct Keys {
    ring: Mutex<Ring>,
}

struct Ring {
    current: Arc<Key>,
    retired: Vec<Arc<Key>>,
}

impl Keys {
    /// Every provider of a process starts with the same key: creating one is slow enough to matter in a test suite that starts
    /// hundreds.
    pub(crate) fn generate() -> Result<Self, Unspecified> {
        static FIRST: OnceLock<Arc<Key>> = OnceLock::new();
        let current = match FIRST.get() {
            Some(key) => Arc::clone(key),
            None => {
                let fresh = Arc::new(Key::generate()?);
                Arc::clone(FIRST.get_or_init(|| fresh))
            }
        };
        Ok(Self { ring: Mutex::new(Ring { current, retired: Vec::new() }) })
    }

    pub(crate) fn current(&self) -> Arc<Key> {
        Arc::clone(&self.locked().current)
    }

    pub(crate) fn rotate(&self, old: OldKey) -> Result<(), Unspecified> {
        let mut fresh = Key::generate()?;
        let mut ring = self.locked();
        if old == OldKey::Replace {
            fresh.kid.clone_from(&ring.current.kid);
        }
        let fresh = Arc::new(fresh);
        let previous = std::mem::replace(&mut ring.current, fresh);
        match old {
            OldKey::Keep => {
                ring.retired.insert(0, previous);
                ring.retired.truncate(RETIRED);
            }
            OldKey::Drop | OldKey::Replace => ring.retired.clear(),
        }
        Ok(())
    }

    /// Every published key as a JWK, the current one first.
    pub(crate) fn published(&self) -> Vec<Value> {
        let ring = self.locked();
        std::iter::once(&ring.current).chain(&ring.retired).map(|key| key.jwk()).collect()
    }

    fn locked(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
