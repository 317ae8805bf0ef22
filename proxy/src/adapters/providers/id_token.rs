//! ID tokens: the checks of their signature, issuer, audience and times (OpenID Connect Core §3.1.3.7).

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, Header, Validation};
use serde_json::{Map, Value};

use super::claims::TokenClaims;
use super::discovery::Issuer;
use super::jwks::{KeySet, NoKey};
use super::quote::quote;
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;

/// The tolerated difference between the provider's clock and ours, in seconds.
pub(super) const LEEWAY: u64 = 60;
/// The longest `sub` (OpenID Connect Core §2).
pub(super) const LONGEST_SUBJECT: usize = 255;

/// Asymmetric algorithms only. Never `none`, and no HMAC, whose key could be a public one (RFC 8725 §2.1).
const ALGORITHMS: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// The required content of a token.
pub(super) struct Expected<'a> {
    pub(super) issuer: &'a Issuer,
    pub(super) client_id: &'a str,
    /// The sign-in's nonce; `None` for a token from a refresh, which has none (OpenID Connect Core §12.2).
    pub(super) nonce: Option<&'a str>,
    /// The access token from the same response, for `at_hash`.
    pub(super) access_token: &'a Secret,
    pub(super) now: Timestamp,
}

/// Why a token is rejected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Rejected {
    /// No known key verifies it. Newer keys may: a provider may replace a key, also under the same key id.
    #[error("{0}")]
    Key(&'static str),
    #[error("{0}")]
    Invalid(&'static str),
    #[error("{reason}: it says {found}, {expected} is expected")]
    Issuer { reason: &'static str, found: String, expected: String },
}

/// Checks a token's issuer; the error names both issuers.
pub(super) fn check_issuer(claims: &TokenClaims, issuer: &Issuer) -> Result<(), Rejected> {
    issuer.check(claims).map_err(|reason| Rejected::Issuer {
        reason,
        found: claims.text("iss").map_or_else(|| "nothing".to_owned(), quote),
        expected: issuer.shown(),
    })
}

/// A verified ID token.
pub(super) struct IdToken {
    pub(super) claims: TokenClaims,
    /// The issuer whose tokens the key may sign, if the provider limits that (Entra, with `{tenantid}` for any tenant).
    pub(super) key_issuer: Option<String>,
}

/// Verifies `token`: its signature, and its claims, times included, against `expected`.
pub(super) fn verify(token: &str, keys: &KeySet, expected: &Expected<'_>) -> Result<IdToken, Rejected> {
    let Signed { claims, header, key_issuer } = signed(token, keys)?;
    check_issuer(&claims, expected.issuer)?;
    check(&claims, header.alg, expected).map_err(Rejected::Invalid)?;
    Ok(IdToken { claims, key_issuer })
}

/// A token whose signature verifies, but whose claims are unchecked.
pub(super) struct Signed {
    pub(super) claims: TokenClaims,
    pub(super) header: Header,
    pub(super) key_issuer: Option<String>,
}

/// Verifies only the signature of `token`. The library would use the system's clock, so claims are checked here.
pub(super) fn signed(token: &str, keys: &KeySet) -> Result<Signed, Rejected> {
    let header = jsonwebtoken::decode_header(token)
        .map_err(|_| Rejected::Invalid("it is not a JWT signed with an algorithm that is known"))?;
    if !ALGORITHMS.contains(&header.alg) {
        return Err(Rejected::Invalid("its algorithm is not allowed: it must be signed with a key pair"));
    }
    if header.crit.is_some() {
        return Err(Rejected::Invalid("its header marks as critical what is not understood here"));
    }
    let candidates = keys.candidates(header.kid.as_deref(), header.alg).map_err(|none| Rejected::Key(none.reason()))?;
    let validation = signature_only(header.alg);
    let verified = candidates.iter().find_map(|key| {
        let token = jsonwebtoken::decode::<Map<String, Value>>(token, &key.decoding, &validation).ok()?;
        Some((token.claims, key.issuer.clone()))
    });
    let Some((claims, key_issuer)) = verified else {
        let is_named = header.kid.is_some() && candidates.iter().any(|key| key.id.is_some());
        return Err(Rejected::Key(if is_named { "its signature does not verify" } else { NoKey::Unknown.reason() }));
    };
    Ok(Signed { claims: TokenClaims::from(claims), header, key_issuer })
}

fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    validation
}

fn check(claims: &TokenClaims, algorithm: Algorithm, expected: &Expected<'_>) -> Result<(), &'static str> {
    let subject = claims.text("sub").ok_or("it has no subject")?;
    if subject.len() > LONGEST_SUBJECT {
        return Err("its subject is longer than 255 bytes");
    }
    check_audience(claims, expected.client_id)?;
    check_times(claims, expected.now.secs())?;
    if let Some(ours) = expected.nonce {
        // Compared in constant time; a token without a nonce is replayed or injected (OpenID Connect Core §15.5.2).
        let nonce = claims.text("nonce").ok_or("it has no nonce")?;
        if Secret::new(nonce) != Secret::new(ours) {
            return Err("its nonce is not this sign-in's");
        }
    }
    check_access_token(claims, algorithm, expected.access_token)
}

pub(super) fn check_audience(claims: &TokenClaims, client_id: &str) -> Result<(), &'static str> {
    let audiences: Vec<&Value> = match claims.value("aud") {
        Some(Value::Array(audiences)) => audiences.iter().collect(),
        Some(single) => vec![single],
        None => return Err("it has no audience"),
    };
    if !audiences.iter().any(|audience| audience.as_str() == Some(client_id)) {
        return Err("its audience is not the client id");
    }
    match claims.value("azp") {
        Some(party) if party.as_str() != Some(client_id) => Err("its authorized party is not the client id"),
        None if audiences.len() > 1 => Err("it has several audiences and no authorized party"),
        Some(_) | None => Ok(()),
    }
}

/// Checks a signed UserInfo response (OpenID Connect Core §5.3.2): its issuer, audience and times must be right if present, but may be
/// absent.
pub(super) fn check_userinfo(
    claims: &TokenClaims,
    issuer: &Issuer,
    client_id: &str,
    now: u64,
) -> Result<(), &'static str> {
    if claims.has("iss") {
        issuer.check(claims)?;
    }
    if claims.has("aud") {
        check_audience(claims, client_id)?;
    }
    let latest = now.saturating_add(LEEWAY);
    for name in ["iat", "nbf"] {
        if claims.has(name) && claims.seconds(name).is_none_or(|begins| begins > latest) {
            return Err("it is not valid yet; set this machine's clock, or the provider's");
        }
    }
    if claims.has("exp") && claims.seconds("exp").is_none_or(|expires| now >= expires.saturating_add(LEEWAY)) {
        return Err("it has expired; if it is fresh, set this machine's clock");
    }
    Ok(())
}

fn check_times(claims: &TokenClaims, now: u64) -> Result<(), &'static str> {
    let expires = claims.seconds("exp").ok_or("it has no time of expiry")?;
    let issued = claims.seconds("iat").ok_or("it has no time of issue")?;
    let soonest = match claims.has("nbf") {
        true => claims.seconds("nbf").ok_or("the time before which it is not valid is not a time")?,
        false => issued,
    };
    if now >= expires.saturating_add(LEEWAY) {
        return Err("it has expired; if it is fresh, set this machine's clock");
    }
    let latest = now.saturating_add(LEEWAY);
    if issued > latest || soonest > latest {
        return Err("it is not valid yet; set this machine's clock, or the provider's");
    }
    Ok(())
}

/// OpenID Connect Core §3.1.3.8: if present, `at_hash` must be the left half of the access token's hash.
fn check_access_token(claims: &TokenClaims, algorithm: Algorithm, access_token: &Secret) -> Result<(), &'static str> {
    let Some(claimed) = claims.value("at_hash") else { return Ok(()) };
    let hash = digest::digest(hash_of(algorithm), access_token.expose().as_bytes());
    let bytes = hash.as_ref();
    let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
    if claimed.as_str().map(|text| text.trim_end_matches('=')) == Some(URL_SAFE_NO_PAD.encode(half).as_str()) {
        Ok(())
    } else {
        Err("it belongs to another access token")
    }
}

fn hash_of(algorithm: Algorithm) -> &'static digest::Algorithm {
    if matches!(algorithm, Algorithm::RS256 | Algorithm::PS256 | Algorithm::ES256) {
        &digest::SHA256
    } else if matches!(algorithm, Algorithm::RS384 | Algorithm::PS384 | Algorithm::ES384) {
        &digest::SHA384
    } else {
        &digest::SHA512
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn honest() -> Value {
        json!({
            "iss": "https://idp.example", "sub": "s", "aud": "client", "nonce": "n",
            "iat": NOW, "exp": NOW + 300,
        })
    }

    fn judge(claims: Value) -> Result<(), String> {
        let claims: TokenClaims = serde_json::from_value(claims).unwrap();
        let issuer = Issuer::Exactly("https://idp.example".to_owned());
        let access_token = Secret::new("access");
        let expected = Expected {
            issuer: &issuer,
            client_id: "client",
            nonce: Some("n"),
            access_token: &access_token,
            now: Timestamp::from_secs(NOW),
        };
        check_issuer(&claims, &issuer).map_err(|rejected| rejected.to_string())?;
        check(&claims, Algorithm::RS256, &expected).map_err(str::to_owned)
    }

    fn with(changes: Value) -> Value {
        let mut claims = honest();
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    }

    #[test]
    fn claims_that_say_all_they_must_are_believed() {
        let half = URL_SAFE_NO_PAD.encode(&digest::digest(&digest::SHA256, b"access").as_ref()[..16]);
        for good in [
            json!({}),
            json!({"aud": ["client"]}),
            json!({"aud": ["client", "other"], "azp": "client"}),
            json!({"azp": "client"}),
            json!({"exp": NOW - 59}),
            json!({"iat": NOW + 60, "nbf": NOW + 60}),
            json!({"at_hash": half}),
            json!({"exp": (NOW + 5) as f64 + 0.5}),
        ] {
            assert_eq!(judge(with(good.clone())), Ok(()), "{good}");
        }
    }

    #[test]
    fn each_claim_that_is_wrong_is_refused() {
        for (bad, word) in [
            (json!({"sub": null}), "subject"),
            (json!({"sub": ""}), "subject"),
            (json!({"sub": 7}), "subject"),
            (json!({"sub": "s".repeat(256)}), "subject"),
            (json!({"iss": null}), "issuer"),
            (json!({"iss": "https://idp.example/"}), "it says https://idp.example/, https://idp.example is expected"),
            (json!({"iss": ["https://idp.example"]}), "issuer"),
            (json!({"aud": null}), "audience"),
            (json!({"aud": "other"}), "audience"),
            (json!({"aud": []}), "audience"),
            (json!({"aud": ["other"]}), "audience"),
            (json!({"aud": {"client": "client"}}), "audience"),
            (json!({"aud": ["client", "other"]}), "authorized party"),
            (json!({"aud": ["client", 7]}), "authorized party"),
            (json!({"azp": "other"}), "authorized party"),
            (json!({"azp": ["client"]}), "authorized party"),
            (json!({"exp": null}), "expiry"),
            (json!({"exp": "never"}), "expiry"),
            (json!({"exp": NOW - 60}), "expired"),
            (json!({"iat": null}), "issue"),
            (json!({"iat": NOW + 61}), "not valid yet"),
            (json!({"nbf": NOW + 61}), "not valid yet"),
            (json!({"nbf": "soon"}), "not a time"),
            (json!({"nonce": null}), "nonce"),
            (json!({"nonce": "m"}), "nonce"),
            (json!({"nonce": ["n"]}), "nonce"),
            (json!({"at_hash": "AAAA"}), "access token"),
            (json!({"at_hash": 7}), "access token"),
        ] {
            let refusal = judge(with(bad.clone())).expect_err(&bad.to_string());
            assert!(refusal.contains(word), "{bad}: {refusal}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 8, 3, |inner| prop::collection::vec(inner, 0..3).prop_map(Value::from))
    }

    proptest! {
        #[test]
        fn no_token_makes_it_panic(token in ".{0,200}", parts in prop::collection::vec("[A-Za-z0-9_-]{0,60}", 0..5)) {
            let issuer = Issuer::Exactly("https://idp.example".to_owned());
            let access_token = Secret::new("access");
            let expected = Expected {
                issuer: &issuer,
                client_id: "client",
                nonce: Some("n"),
                access_token: &access_token,
                now: Timestamp::from_secs(NOW),
            };
            prop_assert!(verify(&token, &KeySet::default(), &expected).is_err());
            prop_assert!(verify(&parts.join("."), &KeySet::default(), &expected).is_err());
        }

        #[test]
        fn no_claims_make_it_panic(
            values in prop::collection::vec(
                (prop::sample::select(vec!["iss", "sub", "aud", "azp", "exp", "iat", "nbf", "nonce", "at_hash"]), any_json()),
                1..6,
            ),
        ) {
            let mut claims = honest();
            for (name, value) in values {
                claims[name] = value;
            }
            let _verdict = judge(claims);
        }
    }
}
