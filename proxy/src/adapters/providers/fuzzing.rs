//! Fuzz targets for providers: unsigned tokens are never accepted, and no response causes a panic.

use jsonwebtoken::Algorithm;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use url::Url;

use super::claims::TokenClaims;
use super::discovery::{Document, Issuer, Place, may_sign, tenant_of};
use super::github_api::{Address, Membership, Team, User};
use super::id_token::{Expected, verify};
use super::jwks::{KeySet, Sent};
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;

/// A JWK set in the first line, and a token after it: the private keys are unknown, so no token verifies.
pub(crate) fn tokens(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (keys, token) = text.split_once('\n').unwrap_or(("{\"keys\":[]}", text));
    let keys = serde_json::from_str::<Sent>(keys).map(KeySet::from).unwrap_or_default();
    let (issuer, access_token) = (Issuer::Exactly("https://idp.example".to_owned()), Secret::new("access"));
    let now = Timestamp::from_secs(1_800_000_000);
    let expected =
        Expected { issuer: &issuer, client_id: "client", nonce: Some("n"), access_token: &access_token, now };
    assert!(verify(token, &keys, &expected).is_err(), "a token that nobody signed was believed");
}

/// A response's body, parsed as every kind of provider response.
pub(crate) fn provider_answers(bytes: &[u8]) {
    if let (Some(document), Ok(configured)) = (read::<Document>(bytes), Url::parse("https://idp.example")) {
        if let Ok(issuer) = document.check(&Place::Issuer(configured)) {
            assert!(issuer.sends(&document.issuer), "a document speaks for another issuer");
            assert!(document.issuer.trim_end_matches('/') == "https://idp.example", "{}", document.issuer);
        }
        let _ = (document.takes_secret_in_form_only(), document.end_session_endpoint());
    }
    if let Some(keys) = read::<Sent>(bytes).map(KeySet::from) {
        let _ = (
            keys.is_empty(),
            keys.candidates(None, Algorithm::RS256).is_ok(),
            keys.candidates(Some("1"), Algorithm::ES256).is_ok(),
        );
    }
    let _ =
        (read::<User>(bytes), read::<Vec<Address>>(bytes), read::<Vec<Membership>>(bytes), read::<Vec<Team>>(bytes));
    if let Some(claims) = read::<Map<String, Value>>(bytes).map(TokenClaims::from) {
        for name in ["sub", "groups", "exp", "email", "email_verified", "tid", "iss"] {
            let _ = (
                claims.text(name),
                claims.list(name),
                claims.is_true(name),
                claims.seconds(name),
                claims.left_out(name),
            );
        }
        let _ = claims.unverified_email("email");
        let _ = may_sign("https://login.example/{tenantid}/v2.0", &claims);
        let _ = claims.text("iss").and_then(|issuer| tenant_of("https://login.example", issuer));
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}
