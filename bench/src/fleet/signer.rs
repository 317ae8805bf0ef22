//! A signing key like the proxy's, and assertions signed with it.

use anyhow::anyhow;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://flux.example.com";
pub(crate) const AUDIENCE: &str = "http://orchestrator:8081";

/// Signs assertions.
pub(crate) struct Signer(EcdsaKeyPair);

impl Signer {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let failed = |_| anyhow!("no key could be made");
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        let document = document.map_err(failed)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref());
        pair.map(Self).map_err(|_| anyhow!("the key could not be read"))
    }

    /// The public key, as a JWK set.
    pub(crate) fn jwks(&self) -> Value {
        let point = self.0.public_key().as_ref();
        let part = |range| BASE64.encode(point.get::<std::ops::Range<usize>>(range).unwrap_or_default());
        json!({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "bench",
                         "x": part(1..33), "y": part(33..65)}]})
    }

    /// The header line with a person's assertion, valid for an hour.
    #[expect(clippy::disallowed_methods, reason = "an assertion holds for a time of the day")]
    pub(crate) fn line(&self, person: &str, groups: &[&str]) -> anyhow::Result<String> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let head = json!({"typ": "JWT", "alg": "ES256", "kid": "bench"});
        let claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": person, "iat": now, "exp": now + 3600, "provider": "github",
            "email": format!("{person}@example.com"), "name": person, "preferred_username": person, "groups": groups,
        });
        let signed = format!("{}.{}", BASE64.encode(head.to_string()), BASE64.encode(claims.to_string()));
        let signature =
            self.0.sign(&SystemRandom::new(), signed.as_bytes()).map_err(|_| anyhow!("nothing is signed"))?;
        Ok(format!("X-Sidegate-Assertion: {signed}.{}", BASE64.encode(signature.as_ref())))
    }
}
