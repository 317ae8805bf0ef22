//! Our cookies: names, attributes, reading and writing.

use std::collections::HashSet;

use bytes::BytesMut;
use cookie::{Cookie, SameSite};
use http::header::{COOKIE, Entry, HeaderMap, HeaderValue, SET_COOKIE};
use url::{Host, Url};

use crate::domain::login::{ATTEMPT_LIFETIME, AttemptId};
use crate::domain::session::SessionToken;
use crate::serve::settings::CookieSettings;

/// The most sign-ins that one browser may have in progress.
const ATTEMPTS_MOST: usize = 8;

/// The most bytes of a browser's login cookies, names included: more would push requests over common header limits.
const ATTEMPTS_BYTES: usize = 6 * 1024;

/// How many different session cookies of one request are examined.
const TOKENS_MOST: usize = 8;

/// How many different ones a logout ends: more than browsers keep for a site and its parent domains together.
const ENDED_MOST: usize = 256;

/// More different session cookies than are examined: most of them were planted, and all are ignored.
pub(crate) struct TooManyTokens;

/// The names and attributes of our cookies, for one public origin.
pub(crate) struct Cookies {
    session: CookieSettings,
    login_prefix: String,
    visits: String,
    clearing: Vec<HeaderValue>,
}

impl Cookies {
    pub(crate) fn new(session: CookieSettings, public_origin: &Url) -> Self {
        // The prefix keeps a sibling host from setting the cookie (RFC 6265bis §4.1.3.2).
        let guard = if session.secure && public_origin.scheme() == "https" { "__Host-" } else { "" };
        let clearing = clearing(&session, public_origin);
        Self {
            session,
            login_prefix: format!("{guard}sidegate_login_"),
            visits: format!("{guard}sidegate_visits"),
            clearing,
        }
    }

    /// Whether a cookie of that name is one of ours.
    pub(crate) fn is_ours(&self, name: &[u8]) -> bool {
        name == self.session.name.as_bytes()
            || name == self.visits.as_bytes()
            || name.starts_with(self.login_prefix.as_bytes())
    }

    /// The different session tokens that the browser sent, in order.
    ///
    /// # Errors
    /// [`TooManyTokens`]: a sibling host can plant cookies with deeper paths, which browsers send first. If only the first were examined,
    /// they could all be planted ones, and the real one would go unnoticed.
    pub(crate) fn tokens(&self, headers: &HeaderMap) -> Result<Vec<SessionToken>, TooManyTokens> {
        // Usually there is one.
        let mut found: Vec<SessionToken> = Vec::with_capacity(1);
        for text in values(headers, &self.session.name) {
            if found.iter().any(|token| token.expose() == text) {
                continue;
            }
            let Some(token) = SessionToken::parse(text) else { continue };
            if found.len() == TOKENS_MOST {
                return Err(TooManyTokens);
            }
            found.push(token);
        }
        Ok(found)
    }

    /// The same for a logout, which ends every session sent; and whether these are all.
    pub(crate) fn tokens_to_end(&self, headers: &HeaderMap) -> (Vec<SessionToken>, bool) {
        let (mut seen, mut tokens) = (HashSet::new(), Vec::new());
        for text in values(headers, &self.session.name).filter(|text| seen.insert(*text)) {
            let Some(token) = SessionToken::parse(text) else { continue };
            if tokens.len() == ENDED_MOST {
                return (tokens, false);
            }
            tokens.push(token);
        }
        (tokens, true)
    }

    /// The size of a session cookie without its value, in bytes, for any lifetime.
    pub(crate) fn beside_session(&self) -> usize {
        const LONGEST: u64 = 400 * 86_400;
        self.session_cookie("", LONGEST).len()
    }

    /// Sets the session cookie, for the rest of the session.
    pub(crate) fn set_session(&self, token: &SessionToken, seconds: u64) -> HeaderValue {
        self.session_cookie(token.expose(), seconds)
    }

    fn session_cookie(&self, text: &str, seconds: u64) -> HeaderValue {
        let cookie = self.plain(&self.session.name, text, seconds);
        match &self.session.domain {
            Some(domain) => value(&cookie.domain(domain.as_str())),
            None => value(&cookie),
        }
    }

    /// The domain of the session cookie; `None`: the public host only.
    pub(crate) fn domain(&self) -> Option<&str> {
        self.session.domain.as_deref()
    }

    /// Expires the session cookie for this host and every parent domain, including one planted there by another host.
    pub(crate) fn clear_session(&self) -> &[HeaderValue] {
        &self.clearing
    }

    /// The name of the login cookie of attempt `id`; its seal is bound to the name.
    pub(crate) fn login_name(&self, id: &AttemptId) -> String {
        format!("{}{}", self.login_prefix, id.as_str())
    }

    /// The sealed login cookie of attempt `id`.
    pub(crate) fn login<'h>(&self, headers: &'h HeaderMap, id: &AttemptId) -> Option<&'h str> {
        let name = self.login_name(id);
        values(headers, &name).next()
    }

    /// Sets the login cookie of attempt `id`, and expires the oldest ones beyond the limits.
    pub(crate) fn set_login(&self, headers: &HeaderMap, id: &AttemptId, sealed: &str) -> Vec<HeaderValue> {
        let name = self.login_name(id);
        let size = |name: &str, value: &str| name.len() + value.len() + 1;
        let mut others: Vec<(AttemptId, usize)> = pairs(headers)
            .filter_map(|(name, value)| {
                Some((AttemptId::parse(name.strip_prefix(&self.login_prefix)?)?, size(name, value)))
            })
            .filter(|(other, _)| other != id)
            .collect();
        others.sort_by(|(a, _), (b, _)| b.cmp(a));
        others.dedup_by(|(a, _), (b, _)| a == b);
        let mut answer = vec![value(&self.plain(&name, sealed, ATTEMPT_LIFETIME.as_secs()))];
        let mut total = size(&name, sealed);
        for (kept, (other, bytes)) in others.into_iter().enumerate() {
            total += bytes;
            if kept + 1 >= ATTEMPTS_MOST || total > ATTEMPTS_BYTES {
                answer.push(self.clear_login(&other));
            }
        }
        answer
    }

    /// Expires the login cookie of attempt `id`.
    pub(crate) fn clear_login(&self, id: &AttemptId) -> HeaderValue {
        value(&self.plain(&self.login_name(id), "", 0))
    }

    /// The name of the cookie that detects sign-in loops; its seal is bound to the name.
    pub(crate) fn visits_name(&self) -> &str {
        &self.visits
    }

    /// The sealed cookie that detects sign-in loops.
    pub(crate) fn visits<'h>(&self, headers: &'h HeaderMap) -> Option<&'h str> {
        values(headers, &self.visits).next()
    }

    /// Sets (or with empty text expires) the cookie that detects sign-in loops.
    pub(crate) fn set_visits(&self, sealed: &str) -> HeaderValue {
        value(&self.plain(&self.visits, sealed, if sealed.is_empty() { 0 } else { 120 }))
    }

    /// Removes our cookies from a request's `Cookie`; the rest stays as written.
    pub(crate) fn strip_request(&self, headers: &mut HeaderMap) {
        let Entry::Occupied(mut field) = headers.entry(COOKIE) else { return };
        let text = field.get();
        let (mut rest, mut found) = (BytesMut::with_capacity(text.len()), false);
        for pair in split(text.as_bytes()).map(<[u8]>::trim_ascii) {
            if self.is_ours(name_of(pair)) {
                found = true;
            } else if !pair.is_empty() {
                if !rest.is_empty() {
                    rest.extend_from_slice(b"; ");
                }
                rest.extend_from_slice(pair);
            }
        }
        if !found {
            return;
        }
        let gone = rest.is_empty();
        match HeaderValue::from_maybe_shared(rest.freeze()) {
            Ok(rest) if !gone => field.insert(rest),
            Ok(_) | Err(_) => field.remove(),
        };
    }

    /// Drops an upstream's `Set-Cookie` for our names: it could replace the session. A cookie without a name is matched by its value,
    /// which is all that browsers send back: `=session_token=x` returns as `session_token=x` (RFC 6265bis §5.6, §5.8.3).
    pub(crate) fn strip_response(&self, headers: &mut HeaderMap) {
        let ours = |value: &HeaderValue| {
            let pair = value.as_bytes().split(|b| *b == b';').next().unwrap_or_default();
            self.is_ours(plain_name(name_of(strip_nameless(pair))))
        };
        if !headers.get_all(SET_COOKIE).iter().any(ours) {
            return;
        }
        let kept: Vec<HeaderValue> = headers.get_all(SET_COOKIE).iter().filter(|value| !ours(value)).cloned().collect();
        headers.remove(SET_COOKIE);
        for value in kept {
            headers.append(SET_COOKIE, value);
        }
    }

    fn plain<'c>(&self, name: &'c str, value: &'c str, seconds: u64) -> Cookie<'c> {
        plain(name, value, seconds, self.session.secure)
    }
}

fn plain<'c>(name: &'c str, value: &'c str, seconds: u64, secure: bool) -> Cookie<'c> {
    let age = cookie::time::Duration::seconds(i64::try_from(seconds).unwrap_or(i64::MAX));
    let cookie = Cookie::build((name, value)).http_only(true).same_site(SameSite::Lax).path("/").max_age(age);
    if secure { cookie.secure(true).build() } else { cookie.build() }
}

trait WithDomain<'c> {
    fn domain(self, domain: &'c str) -> Self;
}

impl<'c> WithDomain<'c> for Cookie<'c> {
    fn domain(mut self, domain: &'c str) -> Self {
        self.set_domain(domain);
        self
    }
}

fn clearing(session: &CookieSettings, public_origin: &Url) -> Vec<HeaderValue> {
    let expired = || plain(&session.name, "", 0, session.secure);
    let mut answer = vec![value(&expired())];
    // A `__Host-` cookie has no domain, and none can be set for its name.
    if session.name.starts_with("__Host-") {
        return answer;
    }
    if let Some(Host::Domain(host)) = public_origin.host() {
        let mut rest = Some(host);
        while let Some(domain) = rest.filter(|domain| domain.contains('.')) {
            answer.push(value(&expired().domain(domain)));
            rest = domain.split_once('.').map(|(_, parent)| parent);
        }
    }
    answer
}

fn value(cookie: &Cookie<'_>) -> HeaderValue {
    HeaderValue::from_str(&cookie.to_string()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Each cookie's name and value, as sent, but without quotes around the value (RFC 6265 §5.2 keeps them, old clients add them).
fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    // Pair by pair: another application's cookie that is not UTF-8 must not hide ours.
    raw_pairs(headers).filter_map(|pair| read_pair(pair))
}

/// A pair without leading blanks and `=`, behind which a name of ours could hide.
fn strip_nameless(pair: &[u8]) -> &[u8] {
    let start = pair.iter().position(|b| *b > b' ' && *b != b'=' && *b != 0x7f).unwrap_or(pair.len());
    pair.get(start..).unwrap_or_default()
}

/// A name without the characters that browsers or servers strip at its ends: blanks, control characters, quotes.
fn plain_name(name: &[u8]) -> &[u8] {
    let odd = |b: &u8| *b <= b' ' || *b == 0x7f || *b == b'"';
    let start = name.iter().position(|b| !odd(b)).unwrap_or(name.len());
    let end = name.iter().rposition(|b| !odd(b)).map_or(start, |last| last + 1);
    name.get(start..end).unwrap_or_default()
}

fn raw_pairs(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(COOKIE).iter().flat_map(|field| split(field.as_bytes()))
}

/// A field's pairs, with their blanks.
fn split(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(field);
    std::iter::from_fn(move || {
        let text = rest?;
        let (pair, others) = match memchr::memchr(b';', text) {
            Some(end) => (text.get(..end)?, text.get(end + 1..)),
            None => (text, None),
        };
        rest = others;
        Some(pair)
    })
}

fn read_pair(pair: &[u8]) -> Option<(&str, &str)> {
    let name = pair.split(|b| *b == b'=').next()?;
    let value = pair.get(name.len() + 1..)?;
    Some((std::str::from_utf8(name).ok()?.trim(), read_value(value)?))
}

fn read_value(value: &[u8]) -> Option<&str> {
    let value = value.trim_ascii();
    let bare = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value);
    std::str::from_utf8(bare).ok()
}

/// The values of all cookies of one name. Others are skipped before they are parsed.
fn values<'h>(headers: &'h HeaderMap, wanted: &str) -> impl Iterator<Item = &'h str> {
    raw_pairs(headers).filter_map(move |pair| {
        let rest = pair.trim_ascii_start().strip_prefix(wanted.as_bytes())?;
        read_value(rest.trim_ascii_start().strip_prefix(b"=")?)
    })
}

fn name_of(pair: &[u8]) -> &[u8] {
    pair.split(|b| *b == b'=').next().unwrap_or_default().trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::login::{ATTEMPT_RANDOM, LoginAttempt};
    use crate::domain::path::ReturnTo;
    use crate::domain::time::Timestamp;

    fn cookies(origin: &str) -> Cookies {
        let origin = Url::parse(origin).unwrap();
        let secure = origin.scheme() == "https";
        Cookies::new(CookieSettings { name: "session_token".into(), domain: None, secure }, &origin)
    }

    fn sent(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_str(text).unwrap());
        headers
    }

    #[test]
    fn the_session_cookie_has_the_attributes_of_the_contract() {
        let token = SessionToken::from_random([1; 32]);
        let set = cookies("https://a.example").set_session(&token, 60);
        let text = set.to_str().unwrap();
        assert!(text.starts_with("session_token="));
        for attribute in ["HttpOnly", "SameSite=Lax", "Path=/", "Secure", "Max-Age=60"] {
            assert!(text.contains(attribute), "{attribute} is missing in {text}");
        }
        assert!(!text.contains("Domain"));
        assert!(!cookies("http://localhost").set_session(&token, 60).to_str().unwrap().contains("Secure"));
    }

    #[test]
    fn what_a_session_cookie_takes_beside_its_value_is_known() {
        let token = SessionToken::from_random([1; 32]);
        let cookies = cookies("https://a.example");
        let whole = cookies.set_session(&token, 400 * 86_400).len();
        assert_eq!(cookies.beside_session(), whole - token.expose().len());
        assert!(cookies.beside_session() > "session_token=; HttpOnly; SameSite=Lax; Secure; Path=/".len());
    }

    #[test]
    fn clearing_covers_the_host_and_each_parent_domain() {
        let own = cookies("https://app.eu.example.com");
        let texts: Vec<&str> = own.clear_session().iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(texts.len(), 4);
        for domain in ["Domain=app.eu.example.com", "Domain=eu.example.com", "Domain=example.com"] {
            assert!(texts.iter().any(|text| text.split("; ").any(|part| part == domain)), "{domain}");
        }
        assert!(texts.iter().all(|text| text.contains("Max-Age=0")));
        assert_eq!(cookies("http://127.0.0.1:8080").clear_session().len(), 1);
    }

    #[test]
    fn our_cookies_do_not_reach_the_upstream_and_the_rest_stays() {
        let own = cookies("http://localhost");
        let left = |text: &str| {
            let mut headers = sent(text);
            own.strip_request(&mut headers);
            headers.get(COOKIE).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(
            left("a=1; session_token=x; b=\"2 3\";c; sidegate_login_00=y").as_deref(),
            Some("a=1; b=\"2 3\"; c")
        );
        assert_eq!(left("session_token=x"), None);
        assert_eq!(left("a=1;  b=2").as_deref(), Some("a=1;  b=2"), "untouched where none is ours");
        assert_eq!(left(" session_token =x; xsession_token=1").as_deref(), Some("xsession_token=1"));
    }

    #[test]
    fn an_upstream_cannot_set_our_cookies() {
        let mut headers = HeaderMap::new();
        for text in ["a=1; Path=/", "session_token=evil; Path=/", " session_token=evil", "sidegate_login_aa=1"] {
            headers.append(SET_COOKIE, HeaderValue::from_str(text).unwrap());
        }
        cookies("http://localhost").strip_response(&mut headers);
        assert_eq!(headers.get_all(SET_COOKIE).iter().collect::<Vec<_>>(), ["a=1; Path=/"]);
    }

    #[test]
    fn different_tokens_are_seen_once_each() {
        let own = cookies("http://localhost");
        let count = |text: &str| own.tokens(&sent(text)).map_or(usize::MAX, |tokens| tokens.len());
        assert_eq!(count("session_token=a; x=1; session_token=b; session_token=a"), 2);
        assert_eq!(count("session_token=; session_token=\"a\""), 1);
        let different = |count: usize| (0..count).map(|n| format!("session_token={n};")).collect::<String>();
        assert_eq!(count(&different(TOKENS_MOST)), TOKENS_MOST);
        assert_eq!(count(&different(TOKENS_MOST + 1)), usize::MAX, "which of them are planted nobody knows");
        assert_eq!(count(&different(TOKENS_MOST).repeat(20)), TOKENS_MOST, "the same ones again are no others");
        assert_eq!(count(&format!("{}session_token=a b", "session_token=!;".repeat(20))), 0, "no store made these");
    }

    #[test]
    fn a_logout_gets_every_token_up_to_a_bound_and_an_error_beyond_it() {
        let own = cookies("http://localhost");
        let different = |count: usize| (0..count).map(|n| format!("session_token={n};")).collect::<String>();
        let (tokens, are_all) = own.tokens_to_end(&sent(&format!("{}session_token=\"0\"", different(ENDED_MOST))));
        assert!(tokens.len() == ENDED_MOST && are_all);
        let (tokens, are_all) = own.tokens_to_end(&sent(&different(ENDED_MOST + 1)));
        assert!(tokens.len() == ENDED_MOST && !are_all);
    }

    #[test]
    fn at_most_eight_sign_ins_and_six_kilobytes_the_oldest_goes_first() {
        let own = cookies("https://a.example");
        let attempt = |secs| LoginAttempt::begin(&[7; ATTEMPT_RANDOM], ReturnTo::root(), 0, Timestamp::from_secs(secs));
        let text = |count: u64, size: usize| {
            let cookie = |n| format!("{}={}", own.login_name(attempt(n).id()), "x".repeat(size));
            (1..=count).map(cookie).collect::<Vec<_>>().join("; ")
        };
        let expired = |count, size| {
            let set = own.set_login(&sent(&text(count, size)), attempt(100).id(), &"y".repeat(size));
            set.into_iter().skip(1).map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert!(expired(7, 300).is_empty());
        let gone = expired(8, 300);
        assert_eq!(gone.len(), 1);
        assert!(gone[0].starts_with(&own.login_name(attempt(1).id())) && gone[0].contains("Max-Age=0"));
        assert_eq!(expired(3, 2100).len(), 2);
        assert!(own.login_name(attempt(1).id()).starts_with("__Host-"));
    }
}
