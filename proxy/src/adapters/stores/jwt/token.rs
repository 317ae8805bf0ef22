//! The signed session in a cookie: a private JWT (RFC 7519) that only Sidegate writes and reads.

use std::net::IpAddr;

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::adapters::seal::{self, CryptoFailure};
use crate::domain::claims::Claims as RuleClaims;
use crate::domain::identity::{Email, Identity, ProviderKind, Username};
use crate::domain::session::{Authority, Device, Session};
use crate::domain::time::Timestamp;

/// The version of the claims. A claim with another meaning needs another version.
const VERSION: u8 = 1;

/// The lengths in bytes of a key's id, and of the nonce that distinguishes sessions of the same second.
const KEY_ID_LEN: usize = 6;
const NONCE_LEN: usize = 12;

/// Signs sessions with the first of the secrets, verifies with all.
pub(super) struct KeyRing {
    first: Key,
    others: Vec<Key>,
}

/// A key and its JOSE header.
struct Key {
    /// The header as encoded in a token, with the dot after it.
    head: String,
    key: hmac::Key,
}

/// The claims. `u` says whether the username is vouched for.
#[derive(Serialize, Deserialize)]
struct SessionClaims {
    v: u8,
    jti: String,
    iat: u64,
    exp: u64,
    /// The issuer: the provider's kind, and [`Authority`] in base64url.
    idp: ProviderKind,
    iss: String,
    sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    email: Option<Email>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    preferred_username: String,
    #[serde(default)]
    u: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    ip: IpAddr,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    ua: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    auth_time: Option<u64>,
    /// The provider's claims that rules refer to.
    #[serde(default, skip_serializing_if = "RuleClaims::is_empty")]
    theirs: RuleClaims,
}

/// Why a token is no valid session of ours: its holder signs in again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Rejected {
    /// None of our secrets has signed it as a session.
    #[error("no SESSION_SECRET of ours has signed it")]
    NotOurs,
    /// We have signed it, but cannot read it.
    #[error("it is written in another version than {VERSION}")]
    Version,
}

impl KeyRing {
    /// Signs with the first of `secrets`, verifies with all.
    ///
    /// # Errors
    /// If there is no secret, or the cryptographic library fails.
    pub(super) fn new<S: AsRef<[u8]>>(secrets: &[S]) -> Result<Self, String> {
        let mut keys = secrets.iter().map(|secret| Key::derive(secret.as_ref()));
        let first = keys.next().ok_or("SESSION_SECRET: has no secret to sign with")?;
        let others = keys.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        Ok(Self { first: first.map_err(|error| error.to_string())?, others })
    }

    /// Whether everything that `older` verifies is verified here too.
    pub(super) fn covers(&self, older: &Self) -> bool {
        older.keys().all(|old| self.keys().any(|key| key.head == old.head))
    }

    /// Signs a session, without the provider's grant.
    ///
    /// # Errors
    /// [`CryptoFailure`], which a working machine never returns.
    pub(super) fn sign(&self, session: &Session) -> Result<String, CryptoFailure> {
        let claims = Zeroizing::new(serde_json::to_vec(&SessionClaims::of(session)?).map_err(|_| CryptoFailure)?);
        let mut token = self.first.head.clone();
        URL_SAFE_NO_PAD.encode_string(claims.as_slice(), &mut token);
        let signature = hmac::sign(&self.first.key, token.as_bytes());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// Verifies a token and returns its session, which may have expired.
    ///
    /// The header must be byte for byte what we write with one of our keys, so that no other algorithm, key or purpose is ever
    /// considered (RFC 8725 §3.1, §3.11). The signature is compared in constant time.
    ///
    /// # Errors
    /// [`Rejected`], for anything that we have not signed as a session.
    pub(super) fn verify(&self, token: &str) -> Result<Session, Rejected> {
        let (signed, signature) = token.rsplit_once('.').ok_or(Rejected::NotOurs)?;
        let (key, claims) = self
            .keys()
            .find_map(|key| Some((key, signed.strip_prefix(key.head.as_str())?)))
            .ok_or(Rejected::NotOurs)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Rejected::NotOurs)?;
        hmac::verify(&key.key, signed.as_bytes(), &signature).map_err(|_| Rejected::NotOurs)?;
        // From here on the content is our own.
        let claims = Zeroizing::new(URL_SAFE_NO_PAD.decode(claims).map_err(|_| Rejected::Version)?);
        let claims: SessionClaims = serde_json::from_slice(&claims).map_err(|_| Rejected::Version)?;
        claims.session().ok_or(Rejected::Version)
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

impl Key {
    fn derive(secret: &[u8]) -> Result<Self, CryptoFailure> {
        let key = seal::derive(secret, &[b"session jwt\0key"])?;
        let id = seal::derive(secret, &[b"session jwt\0id"])?;
        let id = URL_SAFE_NO_PAD.encode(id.get(..KEY_ID_LEN).unwrap_or_default());
        // The type distinguishes a session from any other JWT that may ever be signed here (RFC 8725 §3.11).
        let head = format!(r#"{{"alg":"HS256","typ":"sidegate-session+jwt","kid":"{id}"}}"#);
        Ok(Self { head: format!("{}.", URL_SAFE_NO_PAD.encode(head)), key: hmac::Key::new(HMAC_SHA256, key.as_ref()) })
    }
}

impl SessionClaims {
    fn of(session: &Session) -> Result<Self, CryptoFailure> {
        let Identity { provider, id, email, name, username, groups, claims } = session.identity.clone();
        Ok(Self {
            v: VERSION,
            jti: URL_SAFE_NO_PAD.encode(seal::random::<NONCE_LEN>()?),
            iat: session.created_at.secs(),
            exp: session.expires_at.secs(),
            idp: provider,
            iss: URL_SAFE_NO_PAD.encode(session.authority.0),
            sub: id,
            email,
            name,
            preferred_username: username.as_str().to_owned(),
            u: matches!(username, Username::Vouched(_)),
            groups,
            ip: session.device.address,
            ua: session.device.browser.clone(),
            auth_time: session.auth_time.map(Timestamp::secs),
            theirs: claims,
        })
    }

    fn session(self) -> Option<Session> {
        let mut authority = [0; 8];
        let length = URL_SAFE_NO_PAD.decode_slice(&self.iss, &mut authority).ok()?;
        let is_whole = self.v == VERSION && !self.sub.is_empty() && length == authority.len();
        let vouched = if self.u { Username::Vouched } else { Username::Displayed };
        let identity = Identity {
            provider: self.idp,
            id: self.sub,
            email: self.email,
            name: self.name,
            username: vouched(self.preferred_username),
            groups: self.groups,
            claims: self.theirs,
        };
        is_whole.then(|| Session {
            identity,
            authority: Authority(authority),
            created_at: Timestamp::from_secs(self.iat),
            expires_at: Timestamp::from_secs(self.exp),
            device: Device::new(self.ip, &self.ua),
            provider_session: None,
            grant: None,
            renew_at: None,
            auth_time: self.auth_time.map(Timestamp::from_secs),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::grant::SealedGrant;

    const OLD: [u8; 32] = [1; 32];
    const NEW: [u8; 32] = [2; 32];

    fn ring(secrets: &[[u8; 32]]) -> KeyRing {
        KeyRing::new(secrets).unwrap()
    }

    fn session() -> Session {
        let identity = Identity {
            provider: ProviderKind::Oidc,
            id: "1".into(),
            email: Some(Email::parse("ann@example.com").unwrap()),
            name: "Ann \"\u{e9}\"".into(),
            username: Username::Vouched("ann".into()),
            groups: vec!["a".into(), "b,c".into()],
            claims: crate::domain::claims::Claims::default(),
        };
        let device = Device::new([192, 0, 2, 1].into(), "Firefox");
        Session::begin(identity, Authority([7; 8]), device, Duration::from_secs(3600), Timestamp::from_secs(1000))
    }

    /// A token with the given header and claims, signed with the key of `secret`.
    fn forged(secret: [u8; 32], head: &str, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims));
        let signature = hmac::sign(&Key::derive(&secret).unwrap().key, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn head_and_claims(token: &str) -> (String, String) {
        let text = |part: &str| String::from_utf8(URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
        let mut parts = token.split('.');
        (text(parts.next().unwrap()), text(parts.next().unwrap()))
    }

    #[test]
    fn a_session_comes_back_as_it_was() {
        let ring = ring(&[NEW]);
        assert_eq!(ring.verify(&ring.sign(&session()).unwrap()).unwrap(), session());
        let displayed = Identity { username: Username::Displayed("ann".into()), email: None, ..session().identity };
        let other = Session { identity: displayed, ..session() };
        assert_eq!(ring.verify(&ring.sign(&other).unwrap()).unwrap(), other);
    }

    #[test]
    fn what_the_provider_granted_is_not_in_it() {
        let ring = ring(&[NEW]);
        let grant = Some(SealedGrant(b"granted".to_vec().into()));
        let rich =
            Session { grant, renew_at: Some(session().created_at), provider_session: Some("sid".into()), ..session() };
        let token = ring.sign(&rich).unwrap();
        assert_eq!(ring.verify(&token).unwrap(), session());
        let (_, claims) = head_and_claims(&token);
        assert!(!claims.contains("sid") && !claims.contains("grant"), "{claims}");
    }

    #[test]
    fn no_two_tokens_are_the_same() {
        let ring = ring(&[NEW]);
        assert_ne!(ring.sign(&session()).unwrap(), ring.sign(&session()).unwrap());
    }

    #[test]
    fn a_rotated_secret_still_verifies_and_a_removed_one_does_not() {
        let token = ring(&[OLD]).sign(&session()).unwrap();
        assert!(ring(&[NEW, OLD]).verify(&token).is_ok());
        assert_eq!(ring(&[NEW]).verify(&token), Err(Rejected::NotOurs));
        assert!(ring(&[NEW]).verify(&ring(&[NEW, OLD]).sign(&session()).unwrap()).is_ok(), "the first signs");
        assert!(ring(&[NEW, OLD]).covers(&ring(&[OLD])) && !ring(&[NEW]).covers(&ring(&[NEW, OLD])));
        assert!(KeyRing::new::<[u8; 32]>(&[]).is_err());
    }

    #[test]
    fn another_header_is_never_looked_at() {
        let ring = ring(&[NEW]);
        let (head, claims) = head_and_claims(&ring.sign(&session()).unwrap());
        assert!(ring.verify(&forged(NEW, &head, &claims)).is_ok());
        let kid = head.split('"').nth(11).unwrap();
        for other in [
            r#"{"alg":"none","typ":"sidegate-session+jwt"}"#.to_owned(),
            head.replace("HS256", "none"),
            head.replace("HS256", "HS512"),
            head.replace("HS256", "RS256"),
            head.replace("sidegate-session+jwt", "JWT"),
            head.replace(kid, "AAAAAAAA"),
            head.replace('}', r#","crit":[]}"#),
            format!(" {head}"),
            String::new(),
        ] {
            let token = forged(NEW, &other, &claims);
            assert_eq!(ring.verify(&token), Err(Rejected::NotOurs), "{other}");
            let unsigned = format!("{}.", token.rsplit_once('.').unwrap().0);
            assert_eq!(ring.verify(&unsigned), Err(Rejected::NotOurs), "{other}, unsigned");
        }
        assert_eq!(ring.verify(&forged(OLD, &head, &claims)), Err(Rejected::NotOurs), "another key under our id");
    }

    #[test]
    fn an_assertion_or_a_sealed_cookie_is_no_session() {
        let ring = ring(&[NEW]);
        let (_, claims) = head_and_claims(&ring.sign(&session()).unwrap());
        let sealer = seal::Sealer::new(&[NEW], "session").unwrap();
        assert!(ring.verify(&sealer.seal(b"session_token", claims.as_bytes()).unwrap()).is_err());
        let other_purpose = hmac::Key::new(HMAC_SHA256, seal::derive(&NEW, &[b"other\0key"]).unwrap().as_ref());
        let token = ring.sign(&session()).unwrap();
        let signed = token.rsplit_once('.').unwrap().0;
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&other_purpose, signed.as_bytes()));
        assert_eq!(ring.verify(&format!("{signed}.{signature}")), Err(Rejected::NotOurs));
    }

    #[test]
    fn another_version_means_to_sign_in_again() {
        let ring = ring(&[NEW]);
        let (head, claims) = head_and_claims(&ring.sign(&session()).unwrap());
        for other in [
            claims.replace(r#""v":1"#, r#""v":2"#),
            claims.replace(r#""v":1"#, r#""v":"1""#),
            claims.replace(r#""sub":"1""#, r#""sub":"""#),
            claims.replace(r#""iss":""#, r#""iss":"A"#),
            claims.replace("oidc", "another"),
            claims.replace("ann@example.com", "ann"),
            "null".to_owned(),
            String::new(),
        ] {
            assert_ne!(other, claims);
            assert_eq!(ring.verify(&forged(NEW, &head, &other)), Err(Rejected::Version), "{other}");
        }
    }

    #[test]
    fn a_cut_or_changed_token_is_refused() {
        let ring = ring(&[NEW]);
        let token = ring.sign(&session()).unwrap();
        for len in 0..token.len() {
            assert_eq!(ring.verify(&token[..len]), Err(Rejected::NotOurs), "cut to {len}");
        }
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            // The last character of the signature has unused bits; a decoder that ignored them would accept two spellings of one token.
            assert_eq!(ring.verify(&changed), Err(Rejected::NotOurs), "changed at {at}");
        }
        assert!(ring.verify(&format!("{token}=")).is_err() && ring.verify(&format!("{token}.")).is_err());
    }

    proptest! {
        #[test]
        fn no_other_text_verifies(text in ".{0,200}", claims in ".{0,100}", tail in "[A-Za-z0-9_.-]{0,100}") {
            let ring = ring(&[NEW, OLD]);
            prop_assert!(ring.verify(&text).is_err());
            let headed = [ring.first.head.as_str(), &tail].concat();
            prop_assert!(ring.verify(&headed).is_err());
            let (head, _) = head_and_claims(&ring.sign(&session()).unwrap());
            // Signed with our key, but not in our format: it is read or refused, without a panic.
            prop_assert_eq!(ring.verify(&forged(NEW, &head, &claims)), Err(Rejected::Version));
        }

        #[test]
        fn any_session_comes_back(
            id in ".{1,40}", name in ".{0,40}", username in ".{0,20}",
            groups in proptest::collection::vec(".{0,20}", 0..20), address in any::<IpAddr>(), begun in 0_u64..1 << 40,
        ) {
            let username = Username::Displayed(username);
            let identity = Identity { id, name, username, groups, ..session().identity };
            let device = Device::new(address, "b");
            let lifetime = Duration::from_secs(60);
            let session = Session::begin(identity, Authority([9; 8]), device, lifetime, Timestamp::from_secs(begun));
            let ring = ring(&[NEW]);
            prop_assert_eq!(ring.verify(&ring.sign(&session).unwrap()).unwrap(), session);
        }
    }
}
