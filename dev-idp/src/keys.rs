//! The RSA keys that sign ID tokens, and their public halves as a JWK set.

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

/// What becomes of the key in use when a new one takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OldKey {
    /// It stays in the JWK set: tokens that it signed still verify.
    Keep,
    /// It is gone from the JWK set.
    Drop,
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

    /// The public half as text, which a verifier that takes its algorithm from the token's header
    /// would use as an HMAC secret.
    pub(crate) fn public_pem(&self) -> Result<String, Unspecified> {
        let body = STANDARD.encode(self.pair.public_key().as_der()?.as_ref());
        Ok(format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"))
    }

    /// The public half as a JWK.
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

/// The key in use, first, and the retired ones that are still published.
pub(crate) struct Keys {
    ring: Mutex<Ring>,
}

struct Ring {
    current: Arc<Key>,
    retired: Vec<Arc<Key>>,
}

impl Keys {
    /// Every provider of a process starts with the same key: making one takes long enough to be
    /// felt in a test suite that starts hundreds.
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
        let fresh = Arc::new(Key::generate()?);
        let mut ring = self.locked();
        let previous = std::mem::replace(&mut ring.current, fresh);
        match old {
            OldKey::Keep => {
                ring.retired.insert(0, previous);
                ring.retired.truncate(RETIRED);
            }
            OldKey::Drop => ring.retired.clear(),
        }
        Ok(())
    }

    /// Every published key as a JWK, the one in use first.
    pub(crate) fn published(&self) -> Vec<Value> {
        let ring = self.locked();
        std::iter::once(&ring.current).chain(&ring.retired).map(|key| key.jwk()).collect()
    }

    fn locked(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
