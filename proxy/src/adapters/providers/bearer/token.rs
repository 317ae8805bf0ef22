//! What a bearer token must say: for whom, by whom and when (RFC 7519, RFC 8725, RFC 9068), and what it must not.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::super::claims::TokenClaims;
use super::super::discovery::Issuer;
use super::super::id_token::LEEWAY;
use super::super::quote::quote;

/// The longest subject, in bytes: those of machines are longer than a person's.
const LONGEST_SUBJECT: usize = 1024;
/// What only ID tokens have (OpenID Connect Core §2, §3.1.3.6, §3.3.2.11).
const OF_ID_TOKENS: [&str; 3] = ["nonce", "at_hash", "c_hash"];

/// What a token must say.
pub(super) struct Expected<'a> {
    pub(super) audiences: &'a [String],
    /// The plain provider's client id.
    pub(super) client_id: Option<&'a str>,
    /// Whether an ID token is as good as an access token.
    pub(super) takes_id_tokens: bool,
    /// In seconds.
    pub(super) now: u64,
}

/// From when to when a token is good, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) issued: Option<u64>,
    pub(super) expires: u64,
}

/// The claims of something that looks like a JWT, of which nothing is known to be right; `None`: it is none.
pub(super) fn peek(token: &str) -> Option<TokenClaims> {
    let mut parts = token.split('.');
    let (Some(_), Some(body), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).ok()?).ok()
}

/// Whether the header calls it an access token, or says nothing of its kind (RFC 9068 §2.1, RFC 8725 §3.11).
pub(super) fn check_kind(kind: Option<&str>) -> Result<(), String> {
    let Some(kind) = kind else { return Ok(()) };
    let lower = kind.to_ascii_lowercase();
    // The prefix may be left out (RFC 7515 §4.1.9).
    match lower.strip_prefix("application/").unwrap_or(&lower) {
        "jwt" | "at+jwt" => Ok(()),
        _ => Err(format!("its header calls it {}, and no access token", quote(kind))),
    }
}

/// Everything that claims say, but for the signature and the issuer.
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

/// A token for something else is not to be used here (RFC 8725 §2.8).
fn check_use(claims: &TokenClaims, expected: &Expected<'_>) -> Result<(), String> {
    // Whoever holds it must prove more than that (RFC 7800 §3.1), and nobody asks here.
    if claims.names("cnf") {
        return Err("it is bound to a key of its holder (`cnf`), whose proof is not asked for here".to_owned());
    }
    if claims.names("events") {
        return Err("it tells of an event (`events`), and is no access token".to_owned());
    }
    // Keycloak's own word for what a token is.
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

/// Whether the issuer that is configured may be the token's, before what it publishes is known: a slash at the end is its own to spell.
pub(super) fn may_be_of(issuer: &Issuer, claims: &TokenClaims) -> bool {
    match issuer {
        Issuer::Exactly(name) => {
            claims.text("iss").is_some_and(|found| found.trim_end_matches('/') == name.trim_end_matches('/'))
        }
        Issuer::TenantOf { .. } => issuer.issues_version_1(claims) || issuer.check(claims).is_ok(),
    }
}
