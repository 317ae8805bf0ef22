//! A provider's public keys (RFC 7517), and the choice of keys to verify a token with.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

/// More keys than any provider publishes.
const MOST_KEYS: usize = 200;
/// How many keys are tried for one token.
const MOST_TRIED: usize = 16;
/// The members of a key that are read. Others (certificates, extensions) are not needed, and may be malformed in a good key.
const MEMBERS: [&str; 11] = ["kty", "n", "e", "crv", "x", "y", "kid", "alg", "use", "key_ops", "issuer"];

/// Keys that verify signatures. Other published keys (other uses, unknown types, secrets) are left out.
#[derive(Default)]
pub(super) struct KeySet {
    keys: Vec<Key>,
}

/// One public key.
pub(super) struct Key {
    pub(super) id: Option<String>,
    algorithm: Option<KeyAlgorithm>,
    parameters: AlgorithmParameters,
    /// Entra's addition: the issuer whose tokens the key may sign, with `{tenantid}` for any tenant.
    pub(super) issuer: Option<String>,
    pub(super) decoding: DecodingKey,
}

/// Why there is no key for a token. Newer keys may include one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// No key has the token's key id.
    Unknown,
    /// The key with the token's key id is for other algorithms.
    Unsuitable,
}

impl NoKey {
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::Unknown => "it is signed with a key that the provider does not publish",
            Self::Unsuitable => "it names a key that is not for its algorithm",
        }
    }
}

/// A JWK set as received.
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
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys that may have signed a token: those with the key id `id` that suit `algorithm`, and those without an id. If several share
    /// the id, or the token has none, each is tried (OpenID Connect Core §10.1 requires ids, RFC 7517 §4.5 does not).
    pub(super) fn candidates(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Vec<&Key>, NoKey> {
        let (named, unnamed): (Vec<&Key>, Vec<&Key>) = self
            .keys
            .iter()
            .filter(|key| id.is_none_or(|id| key.id.as_deref().is_none_or(|known| known == id)))
            .partition(|key| key.id.is_some());
        let is_named = id.is_some() && !named.is_empty();
        let mut candidates: Vec<&Key> = named.into_iter().chain(unnamed).filter(|key| key.suits(algorithm)).collect();
        candidates.truncate(MOST_TRIED);
        match candidates.is_empty() {
            false => Ok(candidates),
            true if is_named => Err(NoKey::Unsuitable),
            true => Err(NoKey::Unknown),
        }
    }
}

impl Key {
    fn read(mut value: Value) -> Option<Self> {
        let absent = |value: &Value| value.is_null() || value.as_str() == Some("");
        value.as_object_mut()?.retain(|name, value| {
            let is_name = name != "kid" || value.is_string();
            MEMBERS.contains(&name.as_str()) && !absent(value) && is_name
        });
        let issuer = value.get("issuer").and_then(Value::as_str).map(ToOwned::to_owned);
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let signs = jwk.common.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature);
        let verifies =
            jwk.common.key_operations.as_ref().is_none_or(|purposes| purposes.contains(&KeyOperations::Verify));
        // With a symmetric key in a public set, anyone could sign.
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
        let found = |id, algorithm| keys.candidates(id, algorithm).map(|found| found.len());
        assert_eq!(found(Some("a"), Algorithm::RS256), Ok(1));
        for (id, algorithm) in
            [("a", Algorithm::RS512), ("a", Algorithm::PS256), ("a", Algorithm::HS256), ("ec", Algorithm::ES384)]
        {
            assert!(matches!(found(Some(id), algorithm), Err(NoKey::Unsuitable)), "{id} {algorithm:?}");
        }
        for id in ["enc", "ops", "hmac", "odd", "nobody"] {
            assert!(matches!(found(Some(id), Algorithm::RS256), Err(NoKey::Unknown)), "{id}");
        }
    }

    #[test]
    fn several_keys_of_one_name_or_of_none_are_all_candidates() {
        let found = |keys: &KeySet, id, algorithm| keys.candidates(id, algorithm).map(|found| found.len());
        let same = set(json!([rsa(json!({"kid": "a"})), rsa(json!({"kid": "a"})), rsa(json!({"kid": "b"}))]));
        assert_eq!(found(&same, Some("a"), Algorithm::RS256), Ok(2));
        assert_eq!(found(&same, None, Algorithm::RS256), Ok(3), "the token names none");
        assert_eq!(found(&same, None, Algorithm::ES256), Err(NoKey::Unknown));
        let unnamed =
            set(json!([rsa(json!({})), rsa(json!({"kid": null})), rsa(json!({"kid": ""})), rsa(json!({"kid": 7}))]));
        assert_eq!(found(&unnamed, Some("a"), Algorithm::RS256), Ok(4), "the keys have none");
        let many = set(Value::from(vec![rsa(json!({})); 60]));
        assert_eq!(found(&many, None, Algorithm::RS256), Ok(MOST_TRIED));
    }

    #[test]
    fn what_is_odd_beside_or_about_a_key_does_not_hide_it() {
        let keys = set(json!([
            7, null, {}, {"kty": 3}, {"kty": "strange", "kid": "a"},
            rsa(json!({"kid": "a", "alg": "RSA-OAEP"})),
            rsa(json!({"kid": "a", "alg": "XX999"})),
            rsa(json!({"kid": "a", "use": "tls"})),
            rsa(json!({"kid": "a", "use": "", "alg": null, "x5c": "no list", "x5t": 7, "ext": true})),
        ]));
        assert_eq!(keys.candidates(Some("a"), Algorithm::RS256).map(|found| found.len()), Ok(1));
    }
}
