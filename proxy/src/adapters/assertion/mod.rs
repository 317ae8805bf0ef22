//! The signed identity for upstreams, and its JWK set.

mod keys;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::HeaderValue;
use serde::Serialize;
use url::Url;

pub use self::keys::{BadKey, SigningKeys};
use crate::domain::time::Timestamp;
use crate::ports::{IssuedAssertion, LoadedSession, Signed};

/// How long an assertion is valid, in seconds.
const LIFETIME: u64 = 300;
/// How long an assertion is reused before a new one is signed, so that upstreams always have some minutes to check it.
pub const REUSE: Duration = Duration::from_secs(60);
/// How much the claims usually take as JSON, in bytes.
const BODY: usize = 512;
/// The length of a signature in base64url, in bytes.
const SIGNATURE: usize = 86;

/// Signs a user's identity for the upstream: an ES256 JWT with `iss` (the public origin), `aud` (the upstream), `sub` (the provider's
/// stable id), `iat`, `exp`, `provider`, and unless empty `email`, `name`, `preferred_username` and `groups`.
pub struct Assertions {
    signer: u64,
    keys: SigningKeys,
    /// The JOSE header in base64url, the same in every assertion.
    head: String,
    issuer: String,
    audience: String,
    jwks: Bytes,
    hasher: RandomState,
}

#[derive(Serialize)]
struct AssertionClaims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    iat: u64,
    exp: u64,
    provider: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    email: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    preferred_username: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    groups: &'a [String],
}

/// Whether what was signed at `issued_at` is still sent. After the clock is set back, an assertion from the future must not be used.
#[must_use]
pub fn is_fresh(issued_at: Timestamp, now: Timestamp) -> bool {
    now.since(issued_at) < REUSE && issued_at.since(now) < REUSE
}

/// A unique number for each signer, by which a session detects an assertion from before a reload.
fn next_signer() -> u64 {
    static SIGNERS: AtomicU64 = AtomicU64::new(0);
    SIGNERS.fetch_add(1, Ordering::Relaxed)
}

/// An assertion could not be signed. This is our fault: respond with 500, and never forward without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the identity assertion could not be signed")]
pub struct SigningFailed;

impl Assertions {
    /// Signs with `keys` as `issuer` (the public origin; its `iss` has no trailing slash) for `audience` (the upstream's origin).
    #[must_use]
    pub fn new(keys: SigningKeys, issuer: &Url, audience: String) -> Self {
        Self {
            signer: next_signer(),
            head: URL_SAFE_NO_PAD.encode(format!(r#"{{"typ":"JWT","alg":"ES256","kid":"{}"}}"#, keys.first.jwk.kid)),
            issuer: issuer.as_str().trim_end_matches('/').to_owned(),
            audience,
            jwks: keys.jwks(),
            keys,
            hasher: RandomState::new(),
        }
    }

    /// The signer's number, unique in this process.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.signer
    }

    /// A signer with the same keys for another upstream.
    #[must_use]
    pub fn for_audience(&self, audience: String) -> Self {
        Self {
            signer: next_signer(),
            head: self.head.clone(),
            issuer: self.issuer.clone(),
            audience,
            jwks: self.jwks.clone(),
            keys: self.keys.clone(),
            hasher: RandomState::new(),
        }
    }

    /// The upstream that the assertions are for.
    #[must_use]
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// The session's assertion as a header field value, signed at most once a minute. Concurrent requests may each sign one.
    ///
    /// # Errors
    /// [`SigningFailed`], which a working machine never returns.
    pub fn header(&self, session: &LoadedSession, now: Timestamp) -> Result<HeaderValue, SigningFailed> {
        if let Some(issued) = session.assertion().load().as_deref()
            && self.is_fresh(&issued.signed, now)
        {
            return Ok(issued.value.clone());
        }
        let groups = &session.session().identity.groups;
        let issued = match session.signed().filter(|before| self.is_fresh(before, now)) {
            Some(before) => self.again(session, groups, &before)?,
            None => None,
        };
        let issued = match issued {
            Some(issued) => issued,
            None => self.issue(session, now, groups)?,
        };
        let value = issued.value.clone();
        session.assertion().store(Some(Arc::new(issued)));
        Ok(value)
    }

    fn is_fresh(&self, signed: &Signed, now: Timestamp) -> bool {
        signed.signer == self.signer && is_fresh(signed.issued_at, now)
    }

    /// The public keys as a JWK set (RFC 7517 §5), JSON.
    #[must_use]
    pub const fn jwks(&self) -> &Bytes {
        &self.jwks
    }

    /// An assertion as a header field value, signed now, with only these groups.
    ///
    /// # Errors
    /// [`SigningFailed`], which a working machine never returns.
    pub fn sign(
        &self,
        session: &LoadedSession,
        now: Timestamp,
        groups: &[String],
    ) -> Result<HeaderValue, SigningFailed> {
        self.issue(session, now, groups).map(|issued| issued.value)
    }

    fn issue(
        &self,
        session: &LoadedSession,
        now: Timestamp,
        groups: &[String],
    ) -> Result<IssuedAssertion, SigningFailed> {
        let text = self.text(session, now, groups)?;
        let signature = self.keys.first.pair.sign(&SystemRandom::new(), text.as_bytes()).map_err(|_| SigningFailed)?;
        let signature = signature.as_ref().try_into().map_err(|_| SigningFailed)?;
        let signed = Signed { issued_at: now, signer: self.signer, of: self.hasher.hash_one(text.as_str()), signature };
        Ok(IssuedAssertion { value: whole(text, &signature)?, signed })
    }

    /// Rebuilds the assertion that was signed before; `None` if its content would differ now.
    fn again(
        &self,
        session: &LoadedSession,
        groups: &[String],
        before: &Signed,
    ) -> Result<Option<IssuedAssertion>, SigningFailed> {
        let text = self.text(session, before.issued_at, groups)?;
        if self.hasher.hash_one(text.as_str()) != before.of {
            return Ok(None);
        }
        Ok(Some(IssuedAssertion { value: whole(text, &before.signature)?, signed: *before }))
    }

    /// The signed text: the JOSE header and the claims.
    fn text(&self, session: &LoadedSession, issued_at: Timestamp, groups: &[String]) -> Result<String, SigningFailed> {
        // An assertion does not outlive its session; rounded up, so that a session in its last second still gets a valid one.
        let session_end = session.session().expires_at.millis().div_ceil(1000);
        let exp = session_end.min(issued_at.secs().saturating_add(LIFETIME));
        let claims = self.claims(session, groups, issued_at.secs(), exp);
        let mut body = Vec::with_capacity(BODY);
        serde_json::to_writer(&mut body, &claims).map_err(|_| SigningFailed)?;

        let mut text = String::with_capacity(self.head.len() + body.len().div_ceil(3) * 4 + SIGNATURE + 2);
        text.push_str(&self.head);
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(body, &mut text);
        Ok(text)
    }

    fn claims<'a>(
        &'a self,
        session: &'a LoadedSession,
        groups: &'a [String],
        iat: u64,
        exp: u64,
    ) -> AssertionClaims<'a> {
        let identity = &session.session().identity;
        AssertionClaims {
            iss: &self.issuer,
            aud: &self.audience,
            sub: &identity.id,
            iat,
            exp,
            provider: session.provider(),
            email: identity.email_str(),
            name: &identity.name,
            preferred_username: identity.username.as_str(),
            groups,
        }
    }
}

/// Joins the signed text and its signature to a header field value.
fn whole(mut text: String, signature: &[u8; 64]) -> Result<HeaderValue, SigningFailed> {
    text.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut text);
    let mut value = HeaderValue::from_maybe_shared(Bytes::from(text)).map_err(|_| SigningFailed)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsDer as _, EcPrivateKeyRfc5915Der};
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
    use base64::engine::general_purpose::STANDARD;
    use jsonwebtoken::jwk::{Jwk as PublicJwk, JwkSet, ThumbprintHash};
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
    use serde_json::Value;

    use super::*;
    use crate::domain::identity::{Email, Identity, ProviderKind, Username};
    use crate::domain::secret::Secret;
    use crate::domain::session::{Authority, Device, Session, SessionKey};

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn assertions(keys: SigningKeys) -> Assertions {
        Assertions::new(keys, &"https://app.example.com/".parse().unwrap(), "http://127.0.0.1:8081".into())
    }

    fn ann() -> Identity {
        Identity {
            provider: ProviderKind::Entra,
            id: "oid-1".into(),
            email: Some(Email::parse("ann@example.com").unwrap()),
            name: "Ann Zo\u{eb}".into(),
            username: Username::Vouched("ann".into()),
            groups: vec!["a,b".into(), "c".into()],
            claims: crate::domain::claims::Claims::default(),
        }
    }

    fn loaded(identity: Identity, absolute: Duration) -> LoadedSession {
        let device = Device::new([192, 0, 2, 1].into(), "");
        let session = Session::begin(identity, Authority([0; 8]), device, absolute, NOW);
        LoadedSession::new(SessionKey([0; 32]), session, NOW)
    }

    fn session() -> LoadedSession {
        loaded(ann(), Duration::from_secs(86400))
    }

    fn jwk_set(assertions: &Assertions) -> Vec<PublicJwk> {
        serde_json::from_slice::<JwkSet>(assertions.jwks()).unwrap().keys
    }

    fn verified(token: &HeaderValue, by: &Assertions) -> Option<Value> {
        let token = token.to_str().unwrap();
        let header = decode_header(token).unwrap();
        assert_eq!(header.alg, Algorithm::ES256);
        let kid = header.kid.unwrap();
        let key = jwk_set(by).into_iter().find(|jwk| jwk.common.key_id.as_deref() == Some(&kid))?;
        let mut rules = Validation::new(Algorithm::ES256);
        rules.set_audience(&["http://127.0.0.1:8081"]);
        rules.set_issuer(&["https://app.example.com"]);
        rules.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
        // The test's clock differs from the machine's.
        rules.validate_exp = false;
        Some(decode::<Value>(token, &DecodingKey::from_jwk(&key).unwrap(), &rules).unwrap().claims)
    }

    fn pem(label: &str, der: &[u8]) -> Secret {
        Secret::new(format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der)))
    }

    fn pkcs8(pair: &EcdsaKeyPair) -> Secret {
        pem("PRIVATE KEY", pair.to_pkcs8v1().unwrap().as_ref())
    }

    fn sec1(pair: &EcdsaKeyPair) -> Secret {
        let der: EcPrivateKeyRfc5915Der<'_> = pair.private_key().as_der().unwrap();
        pem("EC PRIVATE KEY", der.as_ref())
    }

    fn p256() -> EcdsaKeyPair {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()
    }

    #[test]
    fn an_assertion_says_who_it_is_and_verifies_against_the_jwk_set() {
        let assertions = assertions(SigningKeys::random().unwrap());
        let value = assertions.header(&session(), NOW).unwrap();
        assert!(value.is_sensitive());
        let expected = serde_json::json!({
            "iss": "https://app.example.com",
            "aud": "http://127.0.0.1:8081",
            "sub": "oid-1",
            "iat": NOW.secs(),
            "exp": NOW.secs() + 300,
            "provider": "entra",
            "email": "ann@example.com",
            "name": "Ann Zo\u{eb}",
            "preferred_username": "ann",
            "groups": ["a,b", "c"],
        });
        assert_eq!(verified(&value, &assertions).unwrap(), expected);
    }

    #[test]
    fn what_there_is_nothing_to_say_of_is_left_out() {
        let nobody = Identity {
            email: None,
            name: String::new(),
            username: Username::Displayed(String::new()),
            groups: Vec::new(),
            ..ann()
        };
        let assertions = assertions(SigningKeys::random().unwrap());
        let value = assertions.header(&loaded(nobody, Duration::from_secs(86400)), NOW).unwrap();
        let claims = verified(&value, &assertions).unwrap();
        let mut names: Vec<&str> = claims.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["aud", "exp", "iat", "iss", "provider", "sub"]);
    }

    #[test]
    fn a_session_is_signed_for_once_a_minute_at_most() {
        let assertions = assertions(SigningKeys::random().unwrap());
        let session = session();
        let at = |millis: u64| {
            assertions
                .header(&session, Timestamp::from_millis(NOW.millis() + millis))
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        };
        let first = at(0);
        assert_eq!(at(1), first);
        assert_eq!(at(59_999), first);
        let second = at(60_000);
        assert_ne!(second, first);
        assert_eq!(at(59_999), second, "a request that began a little earlier is content with the newer one");
        assert_ne!(at(0), second, "one from the future is not used when the clock was set back");
    }

    #[test]
    fn a_session_that_is_made_ready_again_sends_what_was_signed_before() {
        let assertions = assertions(SigningKeys::random().unwrap());
        let first = session();
        let sent = assertions.header(&first, NOW).unwrap();
        let again = |session: LoadedSession| session.with_signed(first.signed().map(Box::new));
        let secs = |secs: u64| Timestamp::from_millis(NOW.millis() + secs * 1000);
        let same = again(session());
        assert_eq!(assertions.header(&same, secs(59)).unwrap(), sent);
        assert!(sent.is_sensitive() && verified(&sent, &assertions).is_some());
        assert_ne!(assertions.header(&again(session()), secs(60)).unwrap(), sent, "it is too old");
        // An assertion with other content is signed again, whatever signature was kept.
        let other = Identity { groups: vec!["c".into()], ..ann() };
        let other = again(loaded(other, Duration::from_secs(86400)));
        assert_eq!(verified(&assertions.header(&other, secs(1)).unwrap(), &assertions).unwrap()["groups"][0], "c");
        let shorter = again(loaded(ann(), Duration::from_secs(100)));
        assert!(verified(&assertions.header(&shorter, secs(1)).unwrap(), &assertions).is_some());
    }

    #[test]
    fn another_signer_signs_again() {
        let keys = SigningKeys::random().unwrap();
        let (before, after) = (assertions(keys.clone()), assertions(keys));
        let session = session();
        let old = before.header(&session, NOW).unwrap();
        let new = after.header(&session, NOW).unwrap();
        assert_ne!(old, new);
        assert_eq!(after.header(&session, NOW).unwrap(), new);
        assert_eq!(before.jwks(), after.jwks());
    }

    #[test]
    fn an_assertion_does_not_outlive_its_session() {
        let assertions = assertions(SigningKeys::random().unwrap());
        let value = assertions.header(&loaded(ann(), Duration::from_millis(1_500)), NOW).unwrap();
        assert_eq!(verified(&value, &assertions).unwrap()["exp"], NOW.secs() + 2);
    }

    #[test]
    fn a_jwk_says_what_it_is_for_and_is_named_by_its_thumbprint() {
        let assertions = assertions(SigningKeys::random().unwrap());
        let text = std::str::from_utf8(assertions.jwks()).unwrap();
        assert!(text.contains(r#""use":"sig""#) && text.contains(r#""alg":"ES256""#), "{text}");
        assert!(!text.contains(r#""d":"#), "{text}");
        let keys = jwk_set(&assertions);
        assert_eq!(keys.len(), 1);
        assert_eq!(
            keys[0].common.key_id.as_deref(),
            Some(keys[0].thumbprint(ThumbprintHash::SHA256).unwrap().as_str())
        );
    }

    #[test]
    fn keys_from_files_sign_by_the_first_and_all_are_published() {
        let (first, second) = (p256(), p256());
        let old = assertions(SigningKeys::from_pem(&[sec1(&second)]).unwrap());
        let new = assertions(SigningKeys::from_pem(&[pkcs8(&first), sec1(&second), pkcs8(&second)]).unwrap());
        assert_eq!(jwk_set(&new).len(), 2, "one key in two encodings is one key");
        let token = old.header(&session(), NOW).unwrap();
        assert!(verified(&token, &new).is_some(), "what was signed before the rotation still verifies");
        let token = new.header(&session(), NOW).unwrap();
        assert!(verified(&token, &new).is_some());
        assert!(verified(&token, &old).is_none(), "the first key signs");
    }

    #[test]
    fn one_text_may_hold_several_keys_and_the_curves_parameters() {
        let parameters = pem("EC PARAMETERS", &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]);
        let text = format!("{}{}{}", parameters.expose(), sec1(&p256()).expose(), pkcs8(&p256()).expose());
        assert_eq!(jwk_set(&assertions(SigningKeys::from_pem(&[Secret::new(text)]).unwrap())).len(), 2);
    }

    #[test]
    fn a_bad_key_is_named_for_what_it_is() {
        let bad = |text: Secret| SigningKeys::from_pem(&[text]).err().unwrap();
        assert_eq!(bad(Secret::new("")), BadKey::Missing);
        assert_eq!(bad(pem("CERTIFICATE", b"x")), BadKey::Missing);
        assert_eq!(bad(pem("ENCRYPTED PRIVATE KEY", b"x")), BadKey::Encrypted);
        assert_eq!(bad(Secret::new("-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n")), BadKey::Encrypted);
        assert!(matches!(bad(Secret::new("-----BEGIN PRIVATE KEY-----\n!!!\n")), BadKey::NotPem(_)));
        assert_eq!(bad(pem("PRIVATE KEY", b"x")), BadKey::NotP256);
        assert_eq!(bad(pem("RSA PRIVATE KEY", b"x")), BadKey::NotP256);
        let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        assert_eq!(bad(pkcs8(&p384)), BadKey::NotP256);
        assert_eq!(bad(sec1(&p384)), BadKey::NotP256);
        assert!(matches!(SigningKeys::from_pem(&[pkcs8(&p256()), Secret::new("")]), Err(BadKey::Missing)));
        assert!(matches!(SigningKeys::from_pem(&[]), Err(BadKey::Missing)));
    }

    #[test]
    fn replicas_that_share_a_secret_sign_alike() {
        let (old, new) = ([1_u8; 32], [2_u8; 32]);
        let one = assertions(SigningKeys::derived(&[new, old]).unwrap());
        let two = assertions(SigningKeys::derived(&[new, old]).unwrap());
        assert_eq!(one.jwks(), two.jwks());
        assert_eq!(jwk_set(&one).len(), 2);
        assert!(verified(&one.header(&session(), NOW).unwrap(), &two).is_some());

        let before = assertions(SigningKeys::derived(&[old]).unwrap());
        assert!(verified(&before.header(&session(), NOW).unwrap(), &one).is_some());
        assert!(verified(&one.header(&session(), NOW).unwrap(), &before).is_none());
        assert!(matches!(SigningKeys::derived::<[u8; 32]>(&[]), Err(BadKey::Missing)));
    }

    #[test]
    fn a_derived_key_stays_the_same_from_version_to_version() {
        let keys = SigningKeys::derived(&[[7_u8; 32]]).unwrap();
        // Computed independently (HKDF, the curve and RFC 7638 written out in Python).
        assert_eq!(keys.first.jwk.kid, "gPeqWeFPVEMghbb5Pwu61k0Xy7wK0-jiBgaJ-60Meeg");
    }
}
