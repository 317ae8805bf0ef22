//! Authorization codes, access tokens and refresh tokens, each bound to the request that it was issued for.

use std::collections::VecDeque;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use url::form_urlencoded;

use crate::dialect::Dialect;

/// The lifetime of a code, in seconds.
pub(crate) const CODE_LIFETIME: u64 = 60;
/// The lifetime of an access token of Entra or OpenID Connect, and of every ID token, in seconds.
pub(crate) const TOKEN_LIFETIME: u64 = 3600;
/// The lifetime of a GitHub App's access token, in seconds, if it expires.
pub(crate) const GITHUB_TOKEN_LIFETIME: u64 = 8 * 3600;
/// The lifetime of its refresh token, in seconds: six months.
pub(crate) const GITHUB_REFRESH_LIFETIME: u64 = 15_897_600;
/// How many codes, access tokens and refresh tokens are kept, each; the oldest is dropped first.
const REMEMBERED: usize = 4096;

/// What a user consented to.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    /// Identifies everything issued for one consent, so that it can be revoked at once.
    pub(crate) id: String,
    pub(crate) dialect: Dialect,
    pub(crate) user: String,
    pub(crate) scopes: Vec<String>,
    pub(crate) nonce: Option<String>,
    /// When the person signed in, if the client requested it (`max_age`, OpenID Connect Core §3.1.2.1).
    pub(crate) auth_time: Option<u64>,
}

impl Grant {
    pub(crate) fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|granted| granted == scope)
    }
}

/// What a token request must match to redeem a code.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    /// The redirect URL that the code was sent to.
    pub(crate) redirect_url: String,
    /// Whether the authorization request contained it; if so, the token request must too.
    pub(crate) named: bool,
    /// The PKCE challenge (`S256`).
    pub(crate) challenge: Option<String>,
}

/// Why a code or a refresh token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the code or refresh token is unknown, or was issued to another client")]
    Unknown,
    #[error("the code or refresh token was used before")]
    Spent,
    #[error("the code is older than 60 seconds")]
    Expired,
    #[error("redirect_uri is not the one that the code was sent to")]
    RedirectUrl,
    #[error("code_verifier does not fit the code_challenge of the authorization request")]
    Verifier,
    #[error("the code is of another tenant: redeem it where it was issued")]
    Tenant,
}

struct Code {
    grant: Grant,
    binding: Binding,
    issued: u64,
    spent: bool,
}

struct Access {
    grant: Grant,
    expires: Option<u64>,
}

struct Refresh {
    grant: Grant,
    spent: bool,
}

/// All issued codes and tokens.
#[derive(Default)]
pub(crate) struct Grants {
    codes: Remembered<Code>,
    access: Remembered<Access>,
    refresh: Remembered<Refresh>,
}

impl Grants {
    pub(crate) fn issue_code(&mut self, grant: Grant, binding: Binding, now: u64) -> String {
        let code = random(24);
        self.codes.put(code.clone(), Code { grant, binding, issued: now, spent: false });
        code
    }

    /// Redeems `code`. A wrong attempt uses it up too, so that nobody can try twice.
    ///
    /// # Errors
    ///
    /// If the code is not valid. Reuse of a code revokes every token that it led to (RFC 6749 §4.1.2).
    pub(crate) fn redeem(
        &mut self,
        dialect: &Dialect,
        code: &str,
        redirect_url: Option<&str>,
        verifier: Option<&str>,
        now: u64,
    ) -> Result<Grant, Refusal> {
        let known = self.codes.find(code).ok_or(Refusal::Unknown)?;
        if !known.grant.dialect.same_provider(dialect) {
            return Err(Refusal::Unknown);
        }
        if std::mem::replace(&mut known.spent, true) {
            let id = known.grant.id.clone();
            self.revoke(&id);
            return Err(Refusal::Spent);
        }
        if !known.grant.dialect.shares_tenant(dialect) {
            return Err(Refusal::Tenant);
        }
        if now > known.issued.saturating_add(CODE_LIFETIME) {
            return Err(Refusal::Expired);
        }
        let same_url = match redirect_url {
            Some(url) => url == known.binding.redirect_url,
            None => !known.binding.named,
        };
        if !same_url {
            return Err(Refusal::RedirectUrl);
        }
        // A verifier without a challenge is refused as well: this lets a client notice that an attacker removed its challenge from
        // the authorization request (RFC 9700 §4.8.2).
        if verifier.map(s256) != known.binding.challenge {
            return Err(Refusal::Verifier);
        }
        Ok(known.grant.clone())
    }

    pub(crate) fn issue_access(&mut self, prefix: &str, grant: Grant, expires: Option<u64>) -> String {
        let token = format!("{prefix}{}", random(27));
        self.access.put(token.clone(), Access { grant, expires });
        token
    }

    pub(crate) fn access(&mut self, token: &str, now: u64) -> Option<Grant> {
        let known = self.access.find(token)?;
        known.expires.is_none_or(|expires| now < expires).then(|| known.grant.clone())
    }

    pub(crate) fn issue_refresh(&mut self, prefix: &str, grant: Grant) -> String {
        let token = format!("{prefix}{}", random(32));
        self.refresh.put(token.clone(), Refresh { grant, spent: false });
        token
    }

    /// Uses up a refresh token: every use issues a new one. (Entra itself accepts an old one for a while; here a client that loses a
    /// new one is noticed at every provider.) At GitHub it also ends the access tokens issued before.
    ///
    /// # Errors
    ///
    /// If it is not valid. Reuse revokes the whole grant (RFC 9700 §4.14.2): it means that the token was copied.
    pub(crate) fn refresh(&mut self, dialect: &Dialect, token: &str) -> Result<Grant, Refusal> {
        let known = self.refresh.find(token).ok_or(Refusal::Unknown)?;
        if !known.grant.dialect.same_provider(dialect) {
            return Err(Refusal::Unknown);
        }
        if known.spent {
            let id = known.grant.id.clone();
            self.revoke(&id);
            return Err(Refusal::Spent);
        }
        known.spent = true;
        let grant = known.grant.clone();
        if grant.dialect == Dialect::GitHub {
            self.access.drop_where(|access| access.grant.id == grant.id);
        }
        Ok(grant)
    }

    /// The latest grant of `user`.
    pub(crate) fn newest(&self, user: &str) -> Option<&Grant> {
        let mut access = self.access.0.iter().rev();
        access.find(|(_, access)| access.grant.user == user).map(|(_, access)| &access.grant)
    }

    /// Revokes every token of every grant of `user`.
    pub(crate) fn revoke_user(&mut self, user: &str) {
        self.codes.drop_where(|code| code.grant.user == user);
        self.access.drop_where(|access| access.grant.user == user);
        self.refresh.drop_where(|refresh| refresh.grant.user == user);
    }

    fn revoke(&mut self, id: &str) {
        self.access.drop_where(|access| access.grant.id == id);
        self.refresh.drop_where(|refresh| refresh.grant.id == id);
    }
}

/// `count` random bytes in base64url, from the system's generator.
pub(crate) fn random(count: usize) -> String {
    let mut bytes = vec![0; count];
    // aws-lc's generator aborts the process instead of failing, so there is no error to return.
    let filled = aws_lc_rs::rand::fill(&mut bytes);
    debug_assert!(filled.is_ok(), "the system's random generator answers");
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The `S256` challenge of a verifier (RFC 7636 §4.2).
pub(crate) fn s256(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()))
}

/// Returns true if `challenge` can be an `S256` challenge: 32 bytes in base64url.
pub(crate) fn is_challenge(challenge: &str) -> bool {
    URL_SAFE_NO_PAD.decode(challenge).is_ok_and(|bytes| bytes.len() == 32)
}

/// Decodes the form encoding that RFC 6749 §2.3.1 applies to Basic credentials.
pub(crate) fn form_decode(text: &str) -> String {
    let pair = format!("v={}", text.replace('&', "%26"));
    form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

/// A map that drops its oldest entry when it is full. Lookup is a linear scan: it is small.
struct Remembered<T>(VecDeque<(String, T)>);

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Remembered<T> {
    fn put(&mut self, key: String, value: T) {
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((key, value));
    }

    fn find(&mut self, key: &str) -> Option<&mut T> {
        self.0.iter_mut().rev().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    fn drop_where(&mut self, gone: impl Fn(&T) -> bool) {
        self.0.retain(|(_, value)| !gone(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Tenant;
    use crate::users::{CONTOSO, FABRIKAM};

    const URL: &str = "http://localhost:8080/cb";
    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

    fn grant() -> Grant {
        Grant {
            id: random(8),
            dialect: Dialect::Oidc,
            user: "ann".into(),
            scopes: vec![],
            nonce: None,
            auth_time: None,
        }
    }

    fn binding() -> Binding {
        Binding { redirect_url: URL.into(), named: true, challenge: Some(s256(VERIFIER)) }
    }

    #[test]
    fn the_challenge_is_that_of_rfc_7636_appendix_b() {
        assert_eq!(s256(VERIFIER), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn a_code_lives_sixty_seconds() {
        let mut grants = Grants::default();
        let code = grants.issue_code(grant(), binding(), 1000);
        let late = grants.issue_code(grant(), binding(), 1000);
        assert!(grants.redeem(&Dialect::Oidc, &code, Some(URL), Some(VERIFIER), 1060).is_ok());
        let refused = grants.redeem(&Dialect::Oidc, &late, Some(URL), Some(VERIFIER), 1061);
        assert_eq!(refused.unwrap_err(), Refusal::Expired);
    }

    #[test]
    fn a_code_used_twice_revokes_what_it_led_to() {
        let mut grants = Grants::default();
        let code = grants.issue_code(grant(), binding(), 0);
        let redeemed = grants.redeem(&Dialect::Oidc, &code, Some(URL), Some(VERIFIER), 0).unwrap();
        let token = grants.issue_access("", redeemed, None);
        assert!(grants.access(&token, 0).is_some());
        let refused = grants.redeem(&Dialect::Oidc, &code, Some(URL), Some(VERIFIER), 0);
        assert_eq!(refused.unwrap_err(), Refusal::Spent);
        assert!(grants.access(&token, 0).is_none());
    }

    #[test]
    fn a_wrong_attempt_spends_the_code() {
        let mut grants = Grants::default();
        let code = grants.issue_code(grant(), binding(), 0);
        let wrong = grants.redeem(&Dialect::Oidc, &code, Some(URL), Some("wrong"), 0);
        assert_eq!(wrong.unwrap_err(), Refusal::Verifier);
        let right = grants.redeem(&Dialect::Oidc, &code, Some(URL), Some(VERIFIER), 0);
        assert_eq!(right.unwrap_err(), Refusal::Spent);
    }

    #[test]
    fn a_verifier_without_a_challenge_is_refused() {
        let mut grants = Grants::default();
        let code = grants.issue_code(grant(), Binding { challenge: None, ..binding() }, 0);
        let refused = grants.redeem(&Dialect::Oidc, &code, Some(URL), Some(VERIFIER), 0);
        assert_eq!(refused.unwrap_err(), Refusal::Verifier);
    }

    #[test]
    fn a_code_is_of_use_at_its_own_provider_only() {
        let mut grants = Grants::default();
        let code = grants.issue_code(grant(), binding(), 0);
        let refused = grants.redeem(&Dialect::GitHub, &code, Some(URL), Some(VERIFIER), 0);
        assert_eq!(refused.unwrap_err(), Refusal::Unknown);
    }

    #[test]
    fn a_code_of_one_tenant_is_refused_at_another_but_not_at_one_for_all() {
        let entra = |segment: &str| Dialect::Entra(Tenant::parse(segment).unwrap());
        for (issued, at, refusal) in [
            (CONTOSO, CONTOSO, None),
            (CONTOSO, FABRIKAM, Some(Refusal::Tenant)),
            (CONTOSO, "consumers", Some(Refusal::Tenant)),
            (CONTOSO, "organizations", None),
            ("common", FABRIKAM, None),
        ] {
            let mut grants = Grants::default();
            let code = grants.issue_code(Grant { dialect: entra(issued), ..grant() }, binding(), 0);
            let redeemed = grants.redeem(&entra(at), &code, Some(URL), Some(VERIFIER), 0);
            assert_eq!(redeemed.err(), refusal, "{issued} at {at}");
        }
    }

    #[test]
    fn a_refresh_ends_the_old_access_token_at_github_only() {
        for (dialect, stays) in [(Dialect::GitHub, false), (Dialect::Oidc, true)] {
            let mut grants = Grants::default();
            let granted = Grant { dialect: dialect.clone(), ..grant() };
            let access = grants.issue_access("", granted.clone(), None);
            let others = grants.issue_access("", Grant { dialect: dialect.clone(), ..grant() }, None);
            let refresh = grants.issue_refresh("", granted);
            assert!(grants.refresh(&dialect, &refresh).is_ok());
            assert_eq!(grants.access(&access, 0).is_some(), stays, "{dialect:?}");
            assert!(grants.access(&others, 0).is_some(), "{dialect:?}: another consent's goes on");
        }
    }

    #[test]
    fn the_oldest_entry_is_forgotten_first() {
        let mut grants = Grants::default();
        let first = grants.issue_access("", grant(), None);
        let second = grants.issue_access("", grant(), None);
        for _ in 0..REMEMBERED - 1 {
            grants.issue_access("", grant(), None);
        }
        assert!(grants.access(&first, 0).is_none());
        assert!(grants.access(&second, 0).is_some());
    }

    #[test]
    fn basic_credentials_are_form_decoded() {
        assert_eq!(form_decode("a%20b+c%3A&d"), "a b c:&d");
    }
}
