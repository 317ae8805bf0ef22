//! Logout tokens, by which a provider ends a user's sessions (OpenID Connect Back-Channel Logout 1.0 §2.4, §2.6).

use std::time::Duration;

use serde_json::Value;

use super::claims::TokenClaims;
use super::discovery::Issuer;
use super::id_token::{LEEWAY, LONGEST_SUBJECT, Rejected, Signed, check_audience, check_issuer, signed};
use super::jwks::KeySet;
use crate::domain::time::Timestamp;

/// The greatest age of a token, in seconds: its `jti` is remembered for that long.
const OLDEST: u64 = 300;
/// The longest accepted `jti` and `sid`, in bytes.
const LONGEST_NAME: usize = 255;
/// The event in the token.
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// The required content of a token.
pub(super) struct Expected<'a> {
    pub(super) issuer: &'a Issuer,
    pub(super) client_id: &'a str,
    pub(super) now: Timestamp,
}

/// A verified logout token.
pub(super) struct Verified {
    pub(super) claims: TokenClaims,
    /// The issuer whose tokens the key may sign, if the provider limits that.
    pub(super) key_issuer: Option<String>,
    pub(super) id: String,
    /// From then on the token is rejected for its age.
    pub(super) expires_at: Timestamp,
}

/// Verifies `token`.
pub(super) fn verify(token: &str, keys: &KeySet, expected: &Expected<'_>) -> Result<Verified, Rejected> {
    let Signed { claims, header, key_issuer } = signed(token, keys)?;
    // RFC 8725 §3.11: a token that declares another type is rejected. Not every provider declares this one.
    let kind = header.typ.as_deref().map(|kind| kind.to_ascii_lowercase());
    let kind = kind.as_deref().map(|kind| kind.strip_prefix("application/").unwrap_or(kind));
    if !matches!(kind, None | Some("logout+jwt" | "jwt")) {
        return Err(Rejected::Invalid("its type is not that of a logout token"));
    }
    check_issuer(&claims, expected.issuer)?;
    check(claims, key_issuer, expected).map_err(Rejected::Invalid)
}

fn check(claims: TokenClaims, key_issuer: Option<String>, expected: &Expected<'_>) -> Result<Verified, &'static str> {
    check_audience(&claims, expected.client_id)?;
    let issued = check_times(&claims, expected.now.secs())?;
    let event = claims.value("events").and_then(|events| events.get(EVENT));
    if !event.is_some_and(Value::is_object) {
        return Err("its events do not name a logout");
    }
    // With a nonce it would be an ID token disguised as a logout token (§4).
    if claims.names("nonce") {
        return Err("it has a nonce, which no logout token has");
    }
    let id = claims.text("jti").ok_or("it has no id (`jti`)")?.to_owned();
    if id.len() > LONGEST_NAME || claims.text("sid").is_some_and(|sid| sid.len() > LONGEST_NAME) {
        return Err("its id or its session's is longer than 255 bytes");
    }
    if claims.text("sub").is_some_and(|subject| subject.len() > LONGEST_SUBJECT) {
        return Err("its subject is longer than 255 bytes");
    }
    if claims.text("sub").is_none() && claims.text("sid").is_none() {
        return Err("it names neither a subject nor a session");
    }
    let expires_at = Timestamp::from_secs(issued) + Duration::from_secs(OLDEST + LEEWAY);
    Ok(Verified { claims, key_issuer, id, expires_at })
}

/// Returns the time of issue, which must not be in the future, or long ago, or after an expiry.
fn check_times(claims: &TokenClaims, now: u64) -> Result<u64, &'static str> {
    let issued = claims.seconds("iat").ok_or("it has no time of issue")?;
    if issued > now.saturating_add(LEEWAY) {
        return Err("it is issued in the future; set this machine's clock, or the provider's");
    }
    if now >= issued.saturating_add(OLDEST + LEEWAY) {
        return Err("it is older than five minutes; if it is fresh, set this machine's clock");
    }
    if claims.has("exp") {
        let expires = claims.seconds("exp").ok_or("its time of expiry is not a time")?;
        if now >= expires.saturating_add(LEEWAY) {
            return Err("it has expired; if it is fresh, set this machine's clock");
        }
    }
    Ok(issued)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn judge(changes: Value) -> Result<Verified, String> {
        let mut claims = json!({
            "iss": "https://idp.example", "sub": "s", "sid": "d", "aud": "client", "jti": "j",
            "iat": NOW, "exp": NOW + 120, "events": { EVENT: {} },
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let issuer = Issuer::Exactly("https://idp.example".to_owned());
        let expected = Expected { issuer: &issuer, client_id: "client", now: Timestamp::from_secs(NOW) };
        let claims: TokenClaims = serde_json::from_value(claims).unwrap();
        check_issuer(&claims, &issuer).map_err(|rejected| rejected.to_string())?;
        check(claims, None, &expected).map_err(str::to_owned)
    }

    #[test]
    fn a_token_that_says_all_it_must_is_believed_for_five_minutes() {
        for good in [
            json!({}),
            json!({"sub": null}),
            json!({"sid": null}),
            json!({"exp": null}),
            json!({"aud": ["client"]}),
            json!({"iat": NOW + 60}),
            json!({"iat": NOW - 359}),
            json!({"exp": NOW - 59}),
        ] {
            assert!(judge(good.clone()).is_ok(), "{good}");
        }
        assert_eq!(judge(json!({})).ok().unwrap().expires_at, Timestamp::from_secs(NOW + 360));
    }

    #[test]
    fn each_claim_that_is_wrong_is_refused() {
        for (bad, word) in [
            (json!({"iss": "https://evil.example"}), "issuer"),
            (json!({"iss": null}), "issuer"),
            (json!({"aud": "other"}), "audience"),
            (json!({"aud": null}), "audience"),
            (json!({"iat": null}), "issue"),
            (json!({"iat": NOW + 61}), "future"),
            (json!({"iat": NOW - 360}), "five minutes"),
            (json!({"exp": NOW - 60}), "expired"),
            (json!({"exp": "soon"}), "not a time"),
            (json!({"events": null}), "events"),
            (json!({"events": [EVENT]}), "events"),
            (json!({"events": {EVENT: true}}), "events"),
            (json!({"events": {"http://schemas.openid.net/event/other": {}}}), "events"),
            (json!({"nonce": "n"}), "nonce"),
            (json!({"nonce": null}), "nonce"),
            (json!({"jti": null}), "jti"),
            (json!({"jti": ""}), "jti"),
            (json!({"jti": "j".repeat(256)}), "longer"),
            (json!({"sid": "d".repeat(256)}), "longer"),
            (json!({"sub": "s".repeat(256)}), "longer"),
            (json!({"sub": null, "sid": null}), "neither"),
            (json!({"sub": 7, "sid": ""}), "neither"),
        ] {
            let refusal = judge(bad.clone()).err().unwrap_or_else(|| panic!("{bad} was taken"));
            assert!(refusal.contains(word), "{bad}: {refusal}");
        }
    }
}
