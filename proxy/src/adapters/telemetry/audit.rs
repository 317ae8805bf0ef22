//! Audit events: who signed in, who signed out, who was refused. Target `sidegate::audit`, level `info`.
//!
//! Operators search for the exact messages; a test pins them.

use std::net::IpAddr;

use tracing::info;

use super::Clean;
use crate::domain::identity::{Identity, ProviderKind};
use crate::domain::principal::{Principal, Proof};
use crate::domain::rules::NO_RULE;
use crate::domain::time::Timestamp;

pub(super) const TARGET: &str = "sidegate::audit";

/// Where an event came from.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The client's address, as far as it can be trusted.
    pub client: IpAddr,
    /// The `X-Request-Id` of the request.
    pub request_id: &'a str,
}

/// Sign-in is enabled: `OAuth enabled with provider: github`.
pub fn enabled(provider: ProviderKind) {
    let provider = provider.as_str();
    info!(target: TARGET, event = "enabled", provider, "OAuth enabled with provider: {provider}");
}

/// A reload disabled sign-in.
pub fn disabled() {
    info!(target: TARGET, event = "disabled", "OAuth disabled: everything is forwarded without authentication");
}

/// A user signed in.
pub fn signed_in(identity: &Identity, origin: Origin<'_>) {
    log_event("signed_in", identity, origin, "Signed in");
}

/// A user signed out.
pub fn signed_out(identity: &Identity, origin: Origin<'_>) {
    log_event("signed_out", identity, origin, "Signed out");
}

/// A user's sessions were ended other than by a sign-out in them; `reason` is ours or the provider's, `origin` is `None` if no request
/// asked for it.
pub fn sessions_ended(identity: &Identity, count: usize, reason: &str, origin: Option<Origin<'_>>) {
    info!(
        target: TARGET,
        event = "sessions_ended",
        provider = identity.provider.as_str(),
        id = %Clean(&identity.id),
        user = %Clean(identity.principal()),
        email = %Clean(identity.email_str()),
        count,
        reason = %Clean(reason),
        client = origin.map(|origin| display(origin.client)),
        request_id = origin.map(|origin| display(Clean(origin.request_id))),
        "Sessions ended: {}",
        Clean(identity.principal()),
    );
}

fn log_event(event: &'static str, identity: &Identity, origin: Origin<'_>, what: &'static str) {
    info!(
        target: TARGET,
        event,
        provider = identity.provider.as_str(),
        id = %Clean(&identity.id),
        user = %Clean(identity.principal()),
        email = %Clean(identity.email_str()),
        client = %origin.client,
        request_id = %Clean(origin.request_id),
        "{what}: {}",
        Clean(identity.principal()),
    );
}

/// The provider signed in an account of a kind that is not allowed (another tenant's); `who` is the name or id that it gives.
pub fn account_not_allowed(who: &str, provider: ProviderKind, reason: &str, origin: Origin<'_>) {
    info!(
        target: TARGET,
        event = "not_allowed",
        provider = provider.as_str(),
        reason = %Clean(reason),
        client = %origin.client,
        request_id = %Clean(origin.request_id),
        "User not allowed: {}",
        Clean(who),
    );
}

/// The rule that decided, and why.
#[derive(Clone, Copy, Debug)]
pub struct Verdict<'a> {
    /// The rule's name, or its number.
    pub rule: &'a str,
    /// The reason.
    pub reason: &'a str,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The host in `Host`.
    pub host: &'a str,
    /// The requested host as reported by a trusted proxy.
    pub forwarded_host: Option<&'a str>,
    /// The method.
    pub method: &'a str,
    /// The path, without its query.
    pub path: &'a str,
}

/// The rules refused a user, or a request without one: `User not allowed: ann@example.com`. `asked` is `None` if this was about the
/// session itself.
pub fn denied(name: &str, who: Option<&Principal<'_>>, asked: Option<Asked<'_>>, by: Verdict<'_>, origin: Origin<'_>) {
    let name = Clean(if name.is_empty() { "(nobody is signed in)" } else { name });
    decision("not_allowed", false, who, asked, by, origin, format_args!("User not allowed: {name}"));
}

/// A request was decided on, with `AUDIT=all`.
pub fn decided(permitted: bool, who: Option<&Principal<'_>>, asked: Asked<'_>, by: Verdict<'_>, origin: Origin<'_>) {
    let what = if permitted { "Permitted" } else { "Refused" };
    let (method, path) = (Clean(asked.method), Clean(asked.path));
    decision("decision", permitted, who, Some(asked), by, origin, format_args!("{what}: {method} {path}"));
}

/// A request was refused before any rule was evaluated, with `AUDIT=all`; `code` is the response's code. From it `sidegate simulate`
/// knows that no rule would change the outcome.
pub fn refused_before_rules(code: &'static str, reason: &str, asked: Asked<'_>, origin: Origin<'_>) {
    let (method, path) = (Clean(asked.method), Clean(asked.path));
    info!(
        target: TARGET,
        event = "decision",
        decision = "refuse",
        rule = NO_RULE,
        reason = %Clean(reason),
        code,
        method = %method,
        host = %Clean(asked.host),
        forwarded_host = asked.forwarded_host.map(|host| display(Clean(host))),
        path = %path,
        client = %origin.client,
        request_id = %Clean(origin.request_id),
        "Refused: {method} {path}",
    );
}

/// Logs every input of a decision, so that `sidegate simulate` can repeat it under other rules.
fn decision(
    event: &'static str,
    permitted: bool,
    who: Option<&Principal<'_>>,
    asked: Option<Asked<'_>>,
    by: Verdict<'_>,
    origin: Origin<'_>,
    message: std::fmt::Arguments<'_>,
) {
    let identity = who.map(|who| who.identity);
    info!(
        target: TARGET,
        event,
        decision = if permitted { "permit" } else { "refuse" },
        rule = %Clean(by.rule),
        reason = %Clean(by.reason),
        method = asked.map(|asked| display(Clean(asked.method))),
        host = asked.map(|asked| display(Clean(asked.host))),
        forwarded_host = asked.and_then(|asked| asked.forwarded_host).map(|host| display(Clean(host))),
        path = asked.map(|asked| display(Clean(asked.path))),
        provider = who.map(|who| display(Clean(who.provider))),
        by = who.map(|who| match who.by {
            Proof::Session => "session",
            Proof::Bearer => "bearer",
        }),
        id = identity.map(|identity| display(Clean(&identity.id))),
        username = identity.and_then(|identity| identity.username.vouched()).map(|username| display(Clean(username))),
        email = identity.and_then(|identity| identity.email.as_ref()).map(|email| display(Clean(email.as_str()))),
        groups = identity.map(|identity| &identity.groups).filter(|groups| !groups.is_empty()).map(ascii_json),
        claims = who.map(|who| who.claims).filter(|claims| !claims.is_empty()).map(ascii_json),
        certificate = who.and_then(|who| who.certificate).map(|certificate| ascii_json(certificate.names())),
        signed_in_at = who.and_then(|who| who.proved_at).map(Timestamp::rfc3339_millis),
        client = %origin.client,
        request_id = %Clean(origin.request_id),
        "{message}",
    );
}

/// A bearer token was not accepted, or not for this; `outcome` is one of a few words. Of the token only names that it claims are
/// logged.
pub fn token_refused(outcome: &'static str, reason: &str, origin: Origin<'_>) {
    info!(
        target: TARGET,
        event = "token_refused",
        outcome,
        reason = %Clean(reason),
        client = %origin.client,
        request_id = %Clean(origin.request_id),
        "Bearer token refused: {}",
        Clean(reason),
    );
}

/// Equivalent JSON in visible ASCII only, which is safe to print as it is.
fn ascii_json(value: &(impl serde::Serialize + ?Sized)) -> String {
    let json = serde_json::to_string(value).unwrap_or_default();
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() && !c.is_ascii_control() {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    text
}

/// An authorization code was not redeemed, or the ID token did not verify: `OAuth token exchange failed: …`.
pub fn token_exchange_failed(provider: ProviderKind, reason: &str, origin: Origin<'_>) {
    info!(
        target: TARGET,
        event = "token_exchange_failed",
        provider = provider.as_str(),
        client = %origin.client,
        request_id = %Clean(origin.request_id),
        "OAuth token exchange failed: {}",
        Clean(reason),
    );
}

/// The provider did not identify the user: `Failed to get user info: …`.
pub fn user_info_failed(provider: ProviderKind, reason: &str, origin: Origin<'_>) {
    info!(
        target: TARGET,
        event = "user_info_failed",
        provider = provider.as_str(),
        client = %origin.client,
        request_id = %Clean(origin.request_id),
        "Failed to get user info: {}",
        Clean(reason),
    );
}

/// A sign-in or a request was refused for any other reason; `code` is the response's code.
pub fn refused(code: &'static str, reason: &str, origin: Origin<'_>) {
    info!(
        target: TARGET,
        event = "refused",
        code,
        reason = %Clean(reason),
        client = %origin.client,
        request_id = %Clean(origin.request_id),
        "Refused: {code}",
    );
}

#[cfg(test)]
mod tests {
    use super::super::tests::logged;
    use super::*;
    use crate::domain::identity::{Email, Username};
    use crate::domain::principal::Proof;

    const ORIGIN: Origin<'static> =
        Origin { client: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), request_id: "r-1" };

    fn ann() -> Identity {
        Identity {
            provider: ProviderKind::Github,
            id: "7".into(),
            email: Some(Email::parse("ann@example.com").unwrap()),
            name: "Ann".into(),
            username: Username::Vouched("ann\u{1b}[2K".into()),
            groups: Vec::new(),
            claims: crate::domain::claims::Claims::default(),
        }
    }

    #[test]
    fn operators_find_the_lines_they_search_for() {
        let ann = ann();
        let principal = Principal {
            identity: &ann,
            provider: "github",
            by: Proof::Session,
            proved_at: None,
            claims: &ann.claims,
            certificate: None,
        };
        let lines = logged("info", || {
            enabled(ProviderKind::Github);
            token_exchange_failed(ProviderKind::Github, "bad_verification_code", ORIGIN);
            user_info_failed(ProviderKind::Entra, "status 500", ORIGIN);
            denied("eve@example.com", Some(&principal), None, Verdict { rule: "-", reason: "on no list" }, ORIGIN);
            token_refused("invalid", "ci: it has expired", ORIGIN);
        });
        let messages: Vec<&str> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
        assert_eq!(
            messages,
            [
                "OAuth enabled with provider: github",
                "OAuth token exchange failed: bad_verification_code",
                "Failed to get user info: status 500",
                "User not allowed: eve@example.com",
                "Bearer token refused: ci: it has expired",
            ]
        );
        assert!(lines.iter().all(|line| line["target"] == "sidegate::audit" && line["level"] == "INFO"));
    }

    #[test]
    fn a_decision_says_all_that_it_was_made_of_and_is_printed_safely() {
        let mut claims = crate::domain::claims::Claims::default();
        claims.set("roles", vec!["a\u{202e}".into()]);
        let ann = Identity { groups: vec!["a,b".into(), "d\u{e9}\u{1f600}".into()], claims, ..ann() };
        let who = Principal {
            identity: &ann,
            provider: "corp",
            by: Proof::Bearer,
            proved_at: Some(Timestamp::from_millis(1_767_323_045_090)),
            claims: &ann.claims,
            certificate: None,
        };
        let asked = Asked { host: "a.example", forwarded_host: None, method: "GET", path: "/x\u{1b}" };
        let by = Verdict { rule: "admin", reason: "because" };
        let lines = logged("info", || {
            decided(true, Some(&who), asked, by, ORIGIN);
            decided(false, None, asked, by, ORIGIN);
        });
        let line = &lines[0];
        assert_eq!((&line["decision"], &line["event"]), (&"permit".into(), &"decision".into()));
        assert_eq!(line["path"], r"/x\u{1b}");
        assert_eq!((&line["provider"], &line["by"]), (&"corp".into(), &"bearer".into()));
        let groups = line["groups"].as_str().unwrap();
        assert!(groups.is_ascii(), "{groups}");
        assert_eq!(serde_json::from_str::<Vec<String>>(groups).unwrap(), ann.groups);
        let claims = line["claims"].as_str().unwrap();
        assert!(claims.is_ascii() && claims.contains(r"\u202e"), "{claims}");
        assert_eq!(line["signed_in_at"], "2026-01-02T03:04:05.090Z");
        assert_eq!(Timestamp::parse(line["signed_in_at"].as_str().unwrap()), who.proved_at, "it is read back whole");
        assert_eq!(lines[1]["decision"], "refuse");
        assert!(lines[1].get("groups").is_none() && lines[1].get("id").is_none(), "{}", lines[1]);
    }

    #[test]
    fn an_event_says_who_and_from_where() {
        let lines = logged("warn,sidegate::audit=info", || {
            signed_in(&ann(), ORIGIN);
            signed_out(&ann(), ORIGIN);
            sessions_ended(&ann(), 3, "revoked", Some(ORIGIN));
            sessions_ended(&ann(), 1, "revoked", None);
            refused("cross_site", "Origin \"https://evil.example\"\n", ORIGIN);
        });
        assert_eq!(lines[0]["event"], "signed_in");
        assert_eq!(lines[0]["user"], r"ann\u{1b}[2K");
        assert_eq!(lines[0]["email"], "ann@example.com");
        assert_eq!(lines[0]["provider"], "github");
        assert_eq!(lines[0]["client"], "192.0.2.1");
        assert_eq!(lines[0]["request_id"], "r-1");
        assert_eq!(lines[1]["event"], "signed_out");
        assert_eq!(lines[2]["message"], r"Sessions ended: ann\u{1b}[2K");
        assert_eq!((&lines[2]["count"], &lines[2]["reason"]), (&3.into(), &"revoked".into()));
        assert_eq!((&lines[2]["client"], &lines[2]["request_id"]), (&"192.0.2.1".into(), &"r-1".into()));
        assert!(lines[3].get("client").is_none() && lines[3].get("request_id").is_none());
        assert_eq!(lines[4]["code"], "cross_site");
        assert_eq!(lines[4]["reason"], "Origin \"https://evil.example\"\\n");
    }
}
