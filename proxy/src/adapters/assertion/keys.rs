//! The keys that sign assertions: read from PEM, derived from the session secrets, or random.

use std::sync::Arc;

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::adapters::seal::{self, CryptoFailure};
use crate::domain::secret::Secret;

/// The keys that sign assertions: the first signs, all are published.
#[derive(Clone)]
pub struct SigningKeys {
    pub(super) first: Arc<SigningKey>,
    others: Vec<Arc<SigningKey>>,
}

pub(super) struct SigningKey {
    pub(super) pair: EcdsaKeyPair,
    pub(super) jwk: Jwk,
}

/// A public key in the format of RFC 7517 and RFC 7518 §6.2.
#[derive(Clone, Serialize)]
pub(super) struct Jwk {
    kty: &'static str,
    crv: &'static str,
    x: String,
    y: String,
    #[serde(rename = "use")]
    usage: &'static str,
    alg: &'static str,
    pub(super) kid: String,
}

/// Why a key cannot sign assertions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// The text has no private key.
    #[error("there is no private key in it: an EC P-256 private key in PEM is wanted; {HOW_TO_MAKE}")]
    Missing,
    /// The key is encrypted with a passphrase.
    #[error(
        "the private key is encrypted: write it without a passphrase, `openssl pkey -in old.pem -out assertion.pem`"
    )]
    Encrypted,
    /// The text is not PEM.
    #[error("it is not readable as PEM: {0}")]
    NotPem(String),
    /// A key of another kind.
    #[error("a key in it is no EC P-256 private key; {HOW_TO_MAKE}")]
    NotP256,
    /// The cryptographic library failed.
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
}

const HOW_TO_MAKE: &str =
    "make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out assertion.pem`";

impl SigningKeys {
    /// Reads keys from PEM, PKCS#8 (`PRIVATE KEY`) or SEC 1 (`EC PRIVATE KEY`); a text may hold several.
    ///
    /// # Errors
    /// [`BadKey`] for a text that has no such key, or an unusable one.
    pub fn from_pem(texts: &[Secret]) -> Result<Self, BadKey> {
        let mut keys = Vec::new();
        for text in texts {
            let before = keys.len();
            read_pem(text.expose(), &mut keys)?;
            if keys.len() == before {
                return Err(BadKey::Missing);
            }
        }
        Self::of(keys).ok_or(BadKey::Missing)
    }

    /// Derives keys from the session secrets, so that replicas with the same secrets sign alike. Keeps the order of `secrets`, which
    /// rotate.
    ///
    /// # Errors
    /// [`BadKey::Missing`] if there is no secret.
    pub fn derived<S: AsRef<[u8]>>(secrets: &[S]) -> Result<Self, BadKey> {
        let keys = secrets.iter().map(|secret| SigningKey::derive(secret.as_ref())).collect::<Result<_, _>>()?;
        Self::of(keys).ok_or(BadKey::Missing)
    }

    /// A key for this process only. Keep a clone of it across reloads.
    ///
    /// # Errors
    /// [`CryptoFailure`] if the system has no random generator.
    pub fn random() -> Result<Self, CryptoFailure> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        Ok(Self { first: Arc::new(SigningKey::new(pair)?), others: Vec::new() })
    }

    /// The first key signs. Duplicates are published once.
    fn of(keys: Vec<SigningKey>) -> Option<Self> {
        let mut keys = keys.into_iter().map(Arc::new);
        let first = keys.next()?;
        let mut others: Vec<Arc<SigningKey>> = Vec::new();
        for key in keys {
            if std::iter::once(&first).chain(&others).all(|known| known.jwk.kid != key.jwk.kid) {
                others.push(key);
            }
        }
        Some(Self { first, others })
    }

    pub(super) fn jwks(&self) -> Bytes {
        let keys: Vec<&Jwk> = std::iter::once(&self.first).chain(&self.others).map(|key| &key.jwk).collect();
        Bytes::from(serde_json::json!({ "keys": keys }).to_string())
    }
}

fn read_pem(text: &str, keys: &mut Vec<SigningKey>) -> Result<(), BadKey> {
    if text.contains("ENCRYPTED") {
        return Err(BadKey::Encrypted);
    }
    // Other sections are skipped (`openssl ecparam` writes its parameters first).
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
        let (kind, der) = section.map_err(|error| BadKey::NotPem(error.to_string()))?;
        let der = Zeroizing::new(der);
        if matches!(kind, SectionKind::PrivateKey | SectionKind::EcPrivateKey) {
            let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, &der);
            keys.push(SigningKey::new(pair.map_err(|_| BadKey::NotP256)?)?);
        } else if matches!(kind, SectionKind::RsaPrivateKey) {
            return Err(BadKey::NotP256);
        }
    }
    Ok(())
}

impl SigningKey {
    fn new(pair: EcdsaKeyPair) -> Result<Self, CryptoFailure> {
        let jwk = Jwk::of(pair.public_key().as_ref())?;
        Ok(Self { pair, jwk })
    }

    /// The first number derived from `secret` that is a private key of the curve, nearly always the very first (rejection sampling: all
    /// keys are equally likely).
    fn derive(secret: &[u8]) -> Result<Self, CryptoFailure> {
        for attempt in 0..=u8::MAX {
            let scalar = seal::derive(secret, &[b"assertion\0", &[attempt]])?;
            if let Ok(private) = PrivateKey::from_private_key(&ECDH_P256, scalar.as_ref()) {
                let public = private.compute_public_key()?;
                let pair = EcdsaKeyPair::from_private_key_and_public_key(
                    &ECDSA_P256_SHA256_FIXED_SIGNING,
                    scalar.as_ref(),
                    public.as_ref(),
                );
                return Self::new(pair.map_err(|_| CryptoFailure)?);
            }
        }
        Err(CryptoFailure)
    }
}

impl Jwk {
    /// `point` is uncompressed (SEC 1 §2.3.3): a 4, then x, then y.
    fn of(point: &[u8]) -> Result<Self, CryptoFailure> {
        let (Some(x), Some(y), 65) = (point.get(1..33), point.get(33..65), point.len()) else {
            return Err(CryptoFailure);
        };
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        // RFC 7638 §3: the required members in this order, without white space.
        let thumbprint = digest(&SHA256, format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#).as_bytes());
        let kid = URL_SAFE_NO_PAD.encode(thumbprint);
        Ok(Self { kty: "EC", crv: "P-256", x, y, usage: "sig", alg: "ES256", kid })
    }
}
