//! The checks of a bearer token's claims: audience, issuer and times (RFC 7519, RFC 8725, RFC 9068), and claims it must not have.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::super::claims::TokenClaims;
use super::super::discovery::Issuer;
use super::super::id_token::LEEWAY;
use super::super::quote::quote;

/// The longest subject, in bytes: those of machines are longer than a user's.
const LONGEST_SUBJECT: usize = 1024;
/// Claims that only ID tokens have (OpenID Connect Core §2, §3.1.3.6, §3.3.2.11).
const OF_ID_TOKENS: [&str; 3] = ["nonce", "at_hash", "c_hash"];

/// The required content of a token.
pub(super) struct Expected<'a> {
    pub(super) audiences: &'a [String],
    /// The plain provider's client id.
    pub(super) client_id: Option<&'a str>,
    /// Whether ID tokens are accepted like access tokens.
    pub(super) takes_id_tokens: bool,
    /// In seconds.
    pub(super) now: u64,
}

/// A token's period of validity, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) issued: Option<u64>,
    pub(super) expires: u64,
}

/// The unverified claims of a token that looks like a JWT; `None` if it does not.
pub(super) fn peek(token: &str) -> Option<TokenClaims> {
    let mut parts = token.split('.');
    let (Some(_), Some(body), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).ok()?).ok()
}

/// Accepts a header type of an access token, or none (RFC 9068 §2.1, RFC 8725 §3.11).
pub(super) fn check_kind(kind: Option<&str>) -> Result<(), String> {
    let Some(kind) = kind else { return Ok(()) };
    let lower = kind.to_ascii_lowercase();
    // The prefix is optional (RFC 7515 §4.1.9).
    match lower.strip_prefix("application/").unwrap_or(&lower) {
        "jwt" | "at+jwt" => Ok(()),
        _ => Err(format!("its header calls it {}, and no access token", quote(kind))),
    }
}

/// Checks all claims but the issuer; the signature is checked elsewhere.
pub(super) fn check(claims: &TokenClaims, expected: &Expected<'_>) -> Result<Times, String> {
    let subject = claims.text("sub").ok_or("it has no subject")?;
    if subject.len() > LONGEST_SUBJECT {
        return Err(format!("its subject is longer than {LONGEST_SUBJECT} bytes"));
    }
    check_audience(claims, expected)?;
    check_use(claims, expected)?;
    check_times(claims, expected.now).map_err(str::to_owned)
}

fn check_audience(claims: &TokenClaims, expected: &Expected<'_>) -> Result<(), String> {
    let audiences = match claims.value("aud") {
        Some(Value::Array(audiences)) => audiences.as_slice(),
        Some(single) => std::slice::from_ref(single),
        None => return Err("it has no audience".to_owned()),
    };
    let is_accepted = |audience: &str| expected.audiences.iter().any(|accepted| accepted == audience);
    if !audiences.iter().filter_map(Value::as_str).any(is_accepted) {
        let found: Vec<String> = audiences.iter().take(5).filter_map(Value::as_str).map(quote).collect();
        return Err(format!("none of its audiences is accepted: {}", found.join(", ")));
    }
    let is_ours = |audience: &Value| expected.client_id.is_some_and(|id| audience.as_str() == Some(id));
    if audiences.iter().any(is_ours) && !expected.takes_id_tokens {
        return Err(
            "it is for the client id, as ID tokens are: they count only where OAUTH_BEARER_AUDIENCES has it".to_owned()
        );
    }
    Ok(())
}

/// Rejects tokens for other uses (RFC 8725 §2.8).
fn check_use(claims: &TokenClaims, expected: &Expected<'_>) -> Result<(), String> {
    // The holder of such a token must prove possession of a key (RFC 7800 §3.1), which is not checked here.
    if claims.names("cnf") {
        return Err("it is bound to a key of its holder (`cnf`), whose proof is not asked for here".to_owned());
    }
    if claims.names("events") {
        return Err("it tells of an event (`events`), and is no access token".to_owned());
    }
    // Keycloak's own claim for the kind of token.
    if let Some(kind) = claims.text("typ").filter(|kind| ["ID", "Refresh", "Offline", "Logout"].contains(kind))
        && !(kind == "ID" && expected.takes_id_tokens)
    {
        return Err(format!("its claim `typ` is {kind}: it is no access token"));
    }
    match OF_ID_TOKENS.into_iter().find(|name| claims.names(name)) {
        Some(name) if !expected.takes_id_tokens => {
            Err(format!("it has `{name}`, as ID tokens do, and is no access token"))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_times(claims: &TokenClaims, now: u64) -> Result<Times, &'static str> {
    let expires = claims.seconds("exp").ok_or("it has no time of expiry that is one")?;
    if now >= expires.saturating_add(LEEWAY) {
        return Err("it has expired; if it is fresh, set this machine's clock");
    }
    let latest = now.saturating_add(LEEWAY);
    for name in ["nbf", "iat"] {
        if claims.names(name) && claims.seconds(name).is_none_or(|begins| begins > latest) {
            return Err("it is not valid yet; set this machine's clock, or the issuer's");
        }
    }
    Ok(Times { issued: claims.seconds("iat"), expires })
}

/// Whether the configured issuer may be the token's, before discovery is read: the issuer may end in a slash or not.
pub(super) fn may_be_of(issuer: &Issuer, claims: &TokenClaims) -> bool {
    match issuer {
        Issuer::Exactly(name) => {
            claims.text("iss").is_some_and(|found| found.trim_end_matches('/') == name.trim_end_matches('/'))
        }
        Issuer::TenantOf { .. } => issuer.issues_version_1(claims) || issuer.check(claims).is_ok(),
    }
}
