//! ID tokens: times and audience, the lies that tests request, and the signature.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::{hmac, signature};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::claims::Claims;
use crate::control::Lie;
use crate::grants::{TOKEN_LIFETIME, random};
use crate::keys::Key;
use crate::provider::Provider;

/// Beyond any tolerance for clock skew.
const LONG: u64 = 2 * 3600;
/// The lifetime of a logout token, in seconds.
const LOGOUT_LIFETIME: u64 = 120;

/// Completes and signs `claims`, and applies the current lies.
pub(crate) fn issue(
    provider: &Provider,
    mut claims: Claims,
    nonce: Option<&str>,
    access_token: &str,
) -> Result<String, Unspecified> {
    let now = provider.clock.now();
    claims.insert("aud".to_owned(), json!(provider.client_id));
    claims.insert("iat".to_owned(), json!(now));
    claims.insert("nbf".to_owned(), json!(now));
    claims.insert("exp".to_owned(), json!(now.saturating_add(TOKEN_LIFETIME)));
    claims.insert("at_hash".to_owned(), json!(half_hash(access_token)));
    if let Some(nonce) = nonce {
        claims.insert("nonce".to_owned(), json!(nonce));
    }
    let lies = provider.control.lies();
    for lie in &lies {
        distort(&mut claims, lie, &provider.client_id, now);
    }
    sign(&provider.keys.current(), "JWT", &claims, &lies)
}

/// `email_verified` as text, the way some providers send it.
pub(crate) fn verified_as_text(claims: &mut Claims) {
    if let Some(verified) = claims.get("email_verified").and_then(Value::as_bool) {
        claims.insert("email_verified".to_owned(), json!(verified.to_string()));
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the other lies are told elsewhere")]
fn distort(claims: &mut Claims, lie: &Lie, client_id: &str, now: u64) {
    let mut say = |name: &str, value: Value| {
        claims.insert(name.to_owned(), value);
    };
    match lie {
        Lie::WrongNonce => say("nonce", json!("another-nonce")),
        Lie::WrongAudience => say("aud", json!("another-client")),
        Lie::ManyAudiences => {
            say("aud", json!([client_id, "another-client"]));
            say("azp", json!(client_id));
        }
        Lie::WrongAuthorizedParty => say("azp", json!("another-client")),
        Lie::WrongIssuer => say("iss", json!("https://another-issuer.invalid")),
        Lie::Expired => {
            say("iat", json!(now.saturating_sub(2 * LONG)));
            say("nbf", json!(now.saturating_sub(2 * LONG)));
            say("exp", json!(now.saturating_sub(LONG)));
        }
        Lie::NotYetValid => {
            say("iat", json!(now.saturating_add(LONG)));
            say("nbf", json!(now.saturating_add(LONG)));
            say("exp", json!(now.saturating_add(2 * LONG)));
        }
        Lie::WrongAccessTokenHash => say("at_hash", json!(half_hash("another-token"))),
        Lie::Claim(name, value) => say(name, value.clone()),
        Lie::MissingClaim(name) => {
            claims.remove(name);
        }
        Lie::HasGroups => {
            for name in ["groups", "_claim_names", "_claim_sources"] {
                claims.remove(name);
            }
            claims.insert("hasgroups".to_owned(), json!(true));
        }
        Lie::EmailVerifiedAsText => verified_as_text(claims),
        _ => {}
    }
}

/// Completes and signs the claims of a logout token; lies about claims and signatures apply too.
pub(crate) fn issue_logout(provider: &Provider, mut claims: Claims) -> Result<String, Unspecified> {
    let now = provider.clock.now();
    claims.insert("aud".to_owned(), json!(provider.client_id));
    claims.insert("iat".to_owned(), json!(now));
    claims.insert("exp".to_owned(), json!(now.saturating_add(LOGOUT_LIFETIME)));
    claims.insert("jti".to_owned(), json!(random(16)));
    claims.insert("events".to_owned(), json!({ "http://schemas.openid.net/event/backchannel-logout": {} }));
    let lies = provider.control.lies();
    for lie in &lies {
        distort(&mut claims, lie, &provider.client_id, now);
    }
    let kind = lies.iter().find_map(|lie| if let Lie::Kind(kind) = lie { Some(kind.as_str()) } else { None });
    sign(&provider.keys.current(), kind.unwrap_or("logout+jwt"), &claims, &lies)
}

/// Completes and signs the claims of an RFC 9068 access token; `claims` takes precedence, and lies about claims and signatures apply
/// too.
pub(crate) fn issue_access(provider: &Provider, origin: &str, mut claims: Claims) -> Result<String, Unspecified> {
    let now = provider.clock.now();
    for (name, value) in [
        ("iss", json!(format!("{origin}/oidc"))),
        ("sub", json!(provider.client_id)),
        ("iat", json!(now)),
        ("exp", json!(now.saturating_add(TOKEN_LIFETIME))),
        ("jti", json!(random(16))),
    ] {
        claims.entry(name).or_insert(value);
    }
    let lies = provider.control.lies();
    for lie in &lies {
        distort(&mut claims, lie, &provider.client_id, now);
    }
    let kind = lies.iter().find_map(|lie| if let Lie::Kind(kind) = lie { Some(kind.as_str()) } else { None });
    sign(&provider.keys.current(), kind.unwrap_or("at+jwt"), &claims, &lies)
}

/// Signs a UserInfo response; `forged`: with another key, under the `kid` of ours.
pub(crate) fn sign_userinfo(provider: &Provider, claims: Claims, forged: bool) -> Result<String, Unspecified> {
    let lies = if forged { &[Lie::ForgedSignature][..] } else { &[] };
    sign(&provider.keys.current(), "JWT", &claims, lies)
}

fn sign(key: &Key, kind: &str, claims: &Claims, lies: &[Lie]) -> Result<String, Unspecified> {
    if lies.contains(&Lie::AlgNone) {
        return Ok(format!("{}.", unsigned("none", kind, &key.kid, claims)));
    }
    if lies.contains(&Lie::HmacWithPublicKey) {
        let text = unsigned("HS256", kind, &key.kid, claims);
        let secret = hmac::Key::new(hmac::HMAC_SHA256, key.public_pem()?.as_bytes());
        let tag = hmac::sign(&secret, text.as_bytes());
        return Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(tag)));
    }
    if lies.contains(&Lie::UnknownKey) {
        let unknown_key = Key::generate()?;
        return rs256(&unknown_key, kind, &unknown_key.kid, claims);
    }
    if lies.contains(&Lie::ForgedSignature) {
        return rs256(&Key::generate()?, kind, &key.kid, claims);
    }
    rs256(key, kind, if lies.contains(&Lie::NoKeyNames) { "" } else { &key.kid }, claims)
}

fn rs256(key: &Key, kind: &str, kid: &str, claims: &Claims) -> Result<String, Unspecified> {
    let text = unsigned("RS256", kind, kid, claims);
    let mut seal = vec![0; key.pair.public_modulus_len()];
    let random = SystemRandom::new();
    key.pair.sign(&signature::RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut seal)?;
    Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(seal)))
}

fn unsigned(algorithm: &str, kind: &str, kid: &str, claims: &Claims) -> String {
    let header = match kid {
        "" => json!({ "typ": kind, "alg": algorithm }),
        kid => json!({ "typ": kind, "alg": algorithm, "kid": kid }),
    };
    let header = header.to_string();
    let body = Value::Object(claims.clone()).to_string();
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(body))
}

/// `at_hash` (OpenID Connect Core §3.1.3.6).
fn half_hash(token: &str) -> String {
    let hash = digest(&SHA256, token.as_bytes());
    URL_SAFE_NO_PAD.encode(hash.as_ref().iter().take(16).copied().collect::<Vec<u8>>())
}
