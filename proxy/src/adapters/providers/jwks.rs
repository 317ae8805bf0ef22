//! A provider's public keys (RFC 7517), and which of them a token may be verified with.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

/// More keys than any provider publishes.
const MOST_KEYS: usize = 200;

/// Keys that verify signatures. What a provider publishes beside them (other uses, unknown kinds, secrets) is left out.
#[derive(Default)]
pub(super) struct KeySet {
    keys: Vec<Key>,
}

/// One public key.
pub(super) struct Key {
    id: Option<String>,
    algorithm: Option<KeyAlgorithm>,
    parameters: AlgorithmParameters,
    /// Entra's addition: whose tokens the key may sign, with `{tenantid}` for any tenant's.
    pub(super) issuer: Option<String>,
    pub(super) decoding: DecodingKey,
}

/// Why there is no key for a token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// It is not among these keys: newer ones may have it.
    Unknown,
    /// Newer keys would not mend it.
    Unsuitable(&'static str),
}

/// A JWK set as it is sent.
#[derive(Deserialize)]
pub(super) struct Sent {
    keys: Vec<Value>,
}

impl From<Sent> for KeySet {
    fn from(sent: Sent) -> Self {
        Self { keys: sent.keys.into_iter().take(MOST_KEYS).filter_map(Key::read).collect() }
    }
}

impl KeySet {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The key named `id` that suits `algorithm`; for a token that names none, the only one that suits (OpenID Connect Core §10.1).
    pub(super) fn select(&self, id: Option<&str>, algorithm: Algorithm) -> Result<&Key, NoKey> {
        let suitable = |key: &&Key| key.suits(algorithm);
        let Some(id) = id else {
            let mut fitting = self.keys.iter().filter(suitable);
            return match (fitting.next(), fitting.next()) {
                (Some(key), None) => Ok(key),
                (None, _) => Err(NoKey::Unknown),
                (Some(_), Some(_)) => Err(NoKey::Unsuitable("names no key, and several would do")),
            };
        };
        let mut named = self.keys.iter().filter(|key| key.id.as_deref() == Some(id)).peekable();
        if named.peek().is_none() {
            return Err(NoKey::Unknown);
        }
        named.find(suitable).ok_or(NoKey::Unsuitable("names a key that is not for its algorithm"))
    }
}

impl Key {
    fn read(value: Value) -> Option<Self> {
        let issuer = value.get("issuer").and_then(Value::as_str).map(ToOwned::to_owned);
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let signs = jwk.common.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature);
        let verifies =
            jwk.common.key_operations.as_ref().is_none_or(|purposes| purposes.contains(&KeyOperations::Verify));
        // A symmetric key in a public set would let anybody who reads it sign.
        let public = matches!(
            jwk.algorithm,
            AlgorithmParameters::RSA(_) | AlgorithmParameters::EllipticCurve(_) | AlgorithmParameters::OctetKeyPair(_)
        );
        if !(signs && verifies && public) {
            return None;
        }
        Some(Self {
            decoding: DecodingKey::from_jwk(&jwk).ok()?,
            id: jwk.common.key_id,
            algorithm: jwk.common.key_algorithm,
            parameters: jwk.algorithm,
            issuer,
        })
    }

    /// Whether key type, curve and `alg` all fit: a key is never used for an algorithm that it was not published for (RFC 8725 §3.1).
    fn suits(&self, algorithm: Algorithm) -> bool {
        let family = algorithm.family();
        let kind = if matches!(self.parameters, AlgorithmParameters::RSA(_)) {
            family == AlgorithmFamily::Rsa
        } else if let AlgorithmParameters::EllipticCurve(key) = &self.parameters {
            (algorithm == Algorithm::ES256 && key.curve == EllipticCurve::P256)
                || (algorithm == Algorithm::ES384 && key.curve == EllipticCurve::P384)
        } else if let AlgorithmParameters::OctetKeyPair(key) = &self.parameters {
            family == AlgorithmFamily::Ed && key.curve == EllipticCurve::Ed25519
        } else {
            false
        };
        kind && self.algorithm.is_none_or(|only| only == KeyAlgorithm::from(algorithm))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(keys: Value) -> KeySet {
        serde_json::from_value::<Sent>(json!({ "keys": keys })).unwrap().into()
    }

    fn rsa(more: Value) -> Value {
        let mut key = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"});
        for (name, value) in more.as_object().unwrap() {
            key[name] = value.clone();
        }
        key
    }

    #[test]
    fn a_key_is_used_for_what_it_was_published_for() {
        let keys = set(json!([
            rsa(json!({"kid": "a", "alg": "RS256", "use": "sig"})),
            rsa(json!({"kid": "enc", "use": "enc"})),
            rsa(json!({"kid": "ops", "key_ops": ["encrypt"]})),
            {"kty": "oct", "kid": "hmac", "k": "AQAB"},
            {"kty": "EC", "crv": "P-256", "kid": "ec", "x": "AQAB", "y": "AQAB"},
            {"kty": "strange", "kid": "odd"},
        ]));
        assert!(keys.select(Some("a"), Algorithm::RS256).is_ok());
        for (id, algorithm) in
            [("a", Algorithm::RS512), ("a", Algorithm::PS256), ("a", Algorithm::HS256), ("ec", Algorithm::ES384)]
        {
            assert!(matches!(keys.select(Some(id), algorithm), Err(NoKey::Unsuitable(_))), "{id} {algorithm:?}");
        }
        for id in ["enc", "ops", "hmac", "odd", "nobody"] {
            assert!(matches!(keys.select(Some(id), Algorithm::RS256), Err(NoKey::Unknown)), "{id}");
        }
    }

    #[test]
    fn a_token_without_a_key_id_needs_exactly_one_suitable_key() {
        let one = set(json!([rsa(json!({"kid": "a"}))]));
        assert!(one.select(None, Algorithm::RS256).is_ok());
        assert!(matches!(one.select(None, Algorithm::ES256), Err(NoKey::Unknown)));
        let two = set(json!([rsa(json!({"kid": "a"})), rsa(json!({"kid": "b"}))]));
        assert!(matches!(two.select(None, Algorithm::RS256), Err(NoKey::Unsuitable(_))));
    }
}
