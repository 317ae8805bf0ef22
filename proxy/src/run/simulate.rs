//! Shows operators what a new configuration would change: repeats the decisions of an audit log, and checks live sessions.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, BufRead, Read as _, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::Chars;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::adapters::telemetry::Clean;
use crate::domain::certificate::{ANY, CertificateName, ClientCertificate};
use crate::domain::claims::Claims;
use crate::domain::identity::{Email, Identity, ProviderKind, Username};
use crate::domain::principal::{Known as _, Principal, Proof};
use crate::domain::time::Timestamp;
use crate::run::explain::{Basis, Explanation, Question};
use crate::run::operator;
use crate::serve::clock;
use crate::serve::settings::Settings;

/// The longest accepted line, in bytes. A decision grows with its path and its user's groups.
const LINE_MOST: u64 = 1024 * 1024;
/// How many users, by rule, are listed. Further ones are only counted.
const CHANGES_MOST: usize = 100_000;
/// Why a token is refused on every path, public ones included.
const UNKNOWN_TOKEN: &str = "no section of [[tokens]] and no OAUTH_BEARER_ setting accepts such a token";

/// Where decisions are found.
const WHERE_DECISIONS_ARE: &str = "Decisions are written with AUDIT=all, to AUDIT_FILE or with LOG_FORMAT=json to standard error; without AUDIT=all, refusals only";

/// An operator's question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The path of the audit log; `-` is standard input.
    pub audit: Option<PathBuf>,
    /// Whether to check live sessions, in a shared store.
    pub sessions: bool,
    /// Whether to answer in JSON.
    pub json: bool,
}

/// The direction of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Lost,
    Gained,
}

/// A user, as named in the answer; empty: not signed in.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Who {
    provider: String,
    id: String,
    name: String,
}

impl Who {
    fn of(who: &Principal<'_>) -> Self {
        let identity = who.identity;
        let name = [identity.email_str(), identity.username.as_str()].into_iter().find(|name| !name.is_empty());
        Self {
            provider: who.provider.to_owned(),
            id: identity.id.clone(),
            name: name.unwrap_or(&identity.id).to_owned(),
        }
    }
}

/// What changes for one user by one rule.
struct Changed {
    line: Option<usize>,
    reason: String,
    times: u64,
    /// The first changed request; `None`: a session as such.
    example: Option<String>,
}

/// The results.
#[derive(Default)]
struct Findings {
    changes: BTreeMap<(Change, Who, Option<String>), Changed>,
    /// Changes beyond the limit.
    further: u64,
    decisions: u64,
    /// Those that were refused before any rule was evaluated, and would be again.
    before_rules: u64,
    sessions: u64,
    unreadable: u64,
}

/// A line of the audit log, reduced to the fields of a decision.
#[derive(Deserialize)]
struct Line {
    decision: Option<String>,
    code: Option<String>,
    method: Option<String>,
    host: Option<String>,
    forwarded_host: Option<String>,
    path: Option<String>,
    provider: Option<String>,
    by: Option<String>,
    id: Option<String>,
    username: Option<String>,
    email: Option<String>,
    groups: Option<String>,
    claims: Option<String>,
    signed_in_at: Option<String>,
    certificate: Option<String>,
    client: Option<IpAddr>,
    timestamp: Option<String>,
}

/// Answers the question; returns whether anything changes.
///
/// # Errors
/// If the question is invalid, the log cannot be read or has no decisions, the store does not respond, or the answer cannot be written.
pub async fn run(asked: &Asked, settings: Settings, out: &mut (dyn Write + Send)) -> anyhow::Result<bool> {
    if asked.audit.is_none() && !asked.sessions {
        bail!("simulate needs --audit FILE, --sessions, or both");
    }
    let basis = Basis::of(&settings);
    let mut found = Findings::default();
    if let Some(path) = &asked.audit {
        read_log(path, &basis, &mut found)?;
    }
    if asked.sessions {
        let now = clock::now();
        operator::each_session(settings, now, |session| found.session(&basis, &session.principal())).await?;
    }
    if asked.json {
        writeln!(out, "{}", found.json())?
    } else {
        found.write_text(out)?
    }
    Ok(!found.changes.is_empty())
}

fn read_log(path: &std::path::Path, basis: &Basis, found: &mut Findings) -> anyhow::Result<()> {
    let unread = || format!("--audit: {} cannot be read", path.display());
    let log: Box<dyn BufRead> = if path.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(io::BufReader::new(std::fs::File::open(path).with_context(unread)?))
    };
    found.log(basis, log).with_context(unread)?;
    match (found.decisions, found.unreadable) {
        (0, 0) => bail!("--audit: no decision is in it. {WHERE_DECISIONS_ARE}"),
        (0, unreadable) => bail!(
            "--audit: {unreadable} lines could not be read (they are no JSON, or lack a part of their decision), and no other line is a decision. {WHERE_DECISIONS_ARE}"
        ),
        (_, _) => Ok(()),
    }
}

impl Findings {
    /// Repeats the decisions of a log.
    fn log(&mut self, basis: &Basis, mut log: impl BufRead) -> io::Result<()> {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            if log.by_ref().take(LINE_MOST).read_until(b'\n', &mut bytes)? == 0 {
                return Ok(());
            }
            if bytes.len() as u64 == LINE_MOST && bytes.last() != Some(&b'\n') {
                // Skip the rest of a line that is too long for one of ours.
                log.skip_until(b'\n')?;
                self.unreadable += 1;
                continue;
            }
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            match serde_json::from_slice::<Line>(&bytes) {
                Ok(line) if line.decision.is_some() => {
                    if self.decide(basis, &line).is_none() {
                        self.unreadable += 1;
                    }
                }
                // Another kind of line.
                Ok(_) => {}
                Err(_) => self.unreadable += 1,
            }
        }
    }

    /// Repeats one decision; `None` if the line does not have all of its inputs.
    fn decide(&mut self, basis: &Basis, line: &Line) -> Option<()> {
        let was_permitted = match line.decision.as_deref()? {
            "permit" => true,
            "refuse" => false,
            _ => return None,
        };
        if line.code.is_some() {
            // No rule was evaluated: the token was invalid, or the store was unavailable.
            self.decisions += 1;
            self.before_rules += 1;
            return Some(());
        }
        let identity = match &line.provider {
            Some(provider) => Some((provider, line.identity(provider)?)),
            None => None,
        };
        let now = Timestamp::parse(line.timestamp.as_deref()?)?;
        let by = match line.by.as_deref() {
            Some("session") => Proof::Session,
            Some("bearer") => Proof::Bearer,
            None if identity.is_none() => Proof::Session,
            Some(_) | None => return None,
        };
        let certificate = match &line.certificate {
            Some(names) => Some(certificate(names)?),
            None => None,
        };
        let principal = identity.as_ref().map(|(provider, identity)| Principal {
            identity,
            provider,
            by,
            proved_at: line.signed_in_at.as_deref().and_then(Timestamp::parse),
            claims: &identity.claims,
            certificate: certificate.as_ref(),
        });
        let who = principal.as_ref().map(Who::of).unwrap_or_default();
        let Some(path) = &line.path else {
            // The decision was about a session as such.
            let principal = principal?;
            self.decisions += 1;
            self.session_was(basis, was_permitted, who, &principal);
            return Some(());
        };
        let (method, host) = (whole(line.method.as_deref()?)?, whole(line.host.as_deref()?)?);
        let path = whole(path).filter(|path| matches!(path.as_bytes(), [b'/', ..] | b"*"))?;
        let forwarded_host = match &line.forwarded_host {
            Some(host) => Some(whole(host)?),
            None => None,
        };
        let question = Question {
            host: &host,
            forwarded_host: forwarded_host.as_deref(),
            method: &method,
            path: &path,
            from: line.client?,
            certificate: certificate.as_ref(),
        };
        self.decisions += 1;
        let principal = principal.as_ref();
        let is_unknown_token =
            basis.issuers.is_some() && principal.is_some_and(|who| who.by == Proof::Bearer && !basis.accepts(who));
        let answer = if is_unknown_token {
            Explanation { reason: UNKNOWN_TOKEN.to_owned(), ..Explanation::default() }
        } else {
            basis.decide(&question, principal.filter(|who| basis.accepts(who)).copied(), now)
        };
        if answer.is_permit != was_permitted {
            self.note(answer, who, Some(format!("{method} {host}{path}")));
        }
        Some(())
    }

    /// Checks a live session.
    fn session(&mut self, basis: &Basis, principal: &Principal<'_>) {
        self.sessions += 1;
        self.session_was(basis, true, Who::of(principal), principal);
    }

    fn session_was(&mut self, basis: &Basis, was_permitted: bool, who: Who, principal: &Principal<'_>) {
        let is_permit = basis.accepts(principal) && basis.rules.could_let_in(principal);
        if is_permit != was_permitted {
            let reason =
                if is_permit { "a list or a rule names the person" } else { "no list and no rule names the person" };
            let answer = Explanation { is_permit, reason: reason.to_owned(), ..Explanation::default() };
            self.note(answer, who, None);
        }
    }

    fn note(&mut self, answer: Explanation, who: Who, example: Option<String>) {
        let change = if answer.is_permit { Change::Gained } else { Change::Lost };
        let (rule, line) = answer.rule.map_or((None, None), |(name, line)| (Some(name), Some(line)));
        let key = (change, who, rule);
        if self.changes.len() >= CHANGES_MOST && !self.changes.contains_key(&key) {
            self.further += 1;
            return;
        }
        let changed =
            self.changes.entry(key).or_insert(Changed { line, reason: answer.reason, times: 0, example: None });
        changed.times += 1;
        changed.example = changed.example.take().or(example);
    }

    fn json(&self) -> Value {
        let of = |wanted: Change| -> Vec<Value> {
            let changes = self.changes.iter().filter(|((change, ..), _)| *change == wanted);
            changes
                .map(|((_, who, rule), changed)| {
                    json!({
                        "person": (!who.name.is_empty()).then_some(&who.name),
                        "provider": (!who.provider.is_empty()).then_some(&who.provider),
                        "id": (!who.id.is_empty()).then_some(&who.id),
                        "rule": rule,
                        "line": changed.line,
                        "reason": changed.reason,
                        "times": changed.times,
                        "example": changed.example,
                    })
                })
                .collect()
        };
        json!({
            "lost": of(Change::Lost),
            "gained": of(Change::Gained),
            "decisions": self.decisions,
            "before_rules": self.before_rules,
            "sessions": self.sessions,
            "unreadable": self.unreadable,
            "further": self.further,
        })
    }

    fn write_text(&self, out: &mut (dyn Write + Send)) -> io::Result<()> {
        for ((change, who, rule), changed) in &self.changes {
            let what = match change {
                Change::Lost => "lost:  ",
                Change::Gained => "gained:",
            };
            let who = if who.name.is_empty() {
                "nobody signed in".to_owned()
            } else {
                format!("{} ({} id {})", Clean(&who.name), who.provider, Clean(&who.id))
            };
            let rule = match (rule, changed.line) {
                (Some(rule), Some(line)) => format!("rule {} (line {line})", Clean(rule)),
                (Some(rule), None) => format!("rule {}", Clean(rule)),
                (None, _) => "no rule".to_owned(),
            };
            let times = match (&changed.example, changed.times) {
                (None, _) => "every access".to_owned(),
                (Some(example), 1) => Clean(example).to_string(),
                (Some(example), times) => format!("{times} requests, the first {}", Clean(example)),
            };
            writeln!(out, "{what} {who}: {times}; {rule}: {}", Clean(&changed.reason))?;
        }
        let changes = self.changes.len() as u64 + self.further;
        let changes = if changes == 0 { "nothing changes".to_owned() } else { format!("{changes} changes") };
        write!(out, "{changes} over {} decisions and {} sessions", self.decisions, self.sessions)?;
        if self.before_rules > 0 {
            write!(out, "; refused before any rule was asked, and not asked again: {}", self.before_rules)?;
        }
        if self.unreadable > 0 {
            write!(out, "; {} lines could not be read, and are not in it", self.unreadable)?;
        }
        writeln!(out)
    }
}

/// A text of the log as it was before [`Clean`] escaped it; `None` if it was cut there, or holds an escape of another kind.
fn whole(text: &str) -> Option<Cow<'_, str>> {
    if text.ends_with('\u{2026}') {
        return None;
    }
    if !text.contains('\\') {
        return Some(Cow::Borrowed(text));
    }
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(if c == '\\' { unescaped(&mut chars)? } else { c });
    }
    Some(Cow::Owned(plain))
}

/// The character whose escape goes on after a backslash.
fn unescaped(chars: &mut Chars<'_>) -> Option<char> {
    match chars.next()? {
        '\\' => Some('\\'),
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        '0' => Some('\0'),
        'u' => {
            let (digits, rest) = chars.as_str().strip_prefix('{')?.split_once('}')?;
            *chars = rest.chars();
            char::from_u32(u32::from_str_radix(digits, 16).ok()?)
        }
        _ => None,
    }
}

/// The certificate in a line.
fn certificate(names: &str) -> Option<ClientCertificate> {
    let names: Vec<String> = serde_json::from_str(names).ok()?;
    let names = names.iter().filter(|name| *name != ANY).map(|name| CertificateName::parse(name));
    // Lines contain no expired certificate.
    Some(ClientCertificate::new(names.collect::<Option<Vec<_>>>()?, Timestamp::from_millis(u64::MAX)))
}

impl Line {
    fn identity(&self, provider: &str) -> Option<Identity> {
        // Rules use the name; sections of `[[tokens]]` are of this kind.
        let provider =
            ProviderKind::ALL.into_iter().find(|kind| kind.as_str() == provider).unwrap_or(ProviderKind::Oidc);
        let text = |text: &Option<String>| match text {
            Some(text) => whole(text).map(Cow::into_owned),
            None => Some(String::new()),
        };
        let email = match &self.email {
            Some(email) => Some(Email::parse(&whole(email)?).ok()?),
            None => None,
        };
        Some(Identity {
            provider,
            id: text(&self.id)?,
            email,
            name: String::new(),
            username: Username::Vouched(text(&self.username)?),
            groups: match &self.groups {
                Some(groups) => serde_json::from_str(groups).ok()?,
                None => Vec::new(),
            },
            claims: match &self.claims {
                Some(claims) => serde_json::from_str(claims).ok()?,
                None => Claims::default(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::policy::{AllowLists, AllowedUsers};
    use crate::domain::rules::{Access, Entry, Openness, PathPattern, People, Rule, Rules};

    fn basis() -> Basis {
        Basis { rules: rules(), provider: Some("github".into()), issuers: None }
    }

    fn rules() -> Rules {
        let lists = AllowLists { users: Some(AllowedUsers::parse(["ann", "bob"]).unwrap()), groups: None };
        let rule = |name: &str, path: &str, access| Rule {
            name: name.to_owned(),
            line: 7,
            path: Some(PathPattern::parse(path).unwrap()),
            access,
            max_age: None,
            ..Rule::default()
        };
        let admins = People::new(vec![Entry::parse("group:ops").unwrap(), Entry::parse("claim:role=admin").unwrap()]);
        let fresh = Rule { max_age: Some(Duration::from_secs(60)), ..rule("fresh", "/fresh", Access::Listed) };
        let rules = vec![
            rule("admin", "/admin/**", Access::People(Box::new(admins))),
            rule("open", "/open/**", Access::Public),
            fresh,
        ];
        Rules::new(Openness::SignIn(Box::new(lists)), rules)
    }

    fn line(decision: &str, path: &str, who: &str) -> String {
        format!(
            r#"{{"timestamp":"2026-01-01T00:10:00Z","event":"decision","decision":"{decision}","method":"GET","host":"a.example","path":"{path}","client":"192.0.2.1"{who}}}"#
        )
    }

    const ANN: &str = r#","provider":"github","by":"session","id":"1","username":"ann","email":"ann@example.com""#;
    const OPS: &str = r#","provider":"github","by":"session","id":"3","username":"zoe","groups":"[\"ops\"]""#;

    fn found(log: &str) -> Findings {
        found_by(&basis(), log)
    }

    fn found_by(basis: &Basis, log: &str) -> Findings {
        let mut found = Findings::default();
        found.log(basis, log.as_bytes()).unwrap();
        found
    }

    #[test]
    fn decisions_that_stay_as_they_are_change_nothing() {
        let log = [
            line("permit", "/", ANN),
            line("refuse", "/", ""),
            line("permit", "/open/x", ""),
            line("permit", "/admin/x", OPS),
            line("refuse", "/", OPS),
            r#"{"timestamp":"2026-01-01T00:10:00Z","event":"signed_in","provider":"github"}"#.to_owned(),
        ];
        let found = found(&log.join("\n"));
        assert_eq!((found.decisions, found.unreadable, found.changes.len()), (5, 0, 0));
    }

    #[test]
    fn losses_and_gains_are_listed_by_person_and_rule() {
        let ago = r#","signed_in_at":"2026-01-01T00:00:00Z""#;
        let log = [
            line("permit", "/admin/a", ANN),
            line("permit", "/admin/b", ANN),
            line("refuse", "/open/x", ""),
            line("refuse", "/admin/x", &format!(r#"{ANN},"claims":"[[\"role\",[\"admin\"]]]""#)),
            line("permit", "/fresh", &format!("{ANN}{ago}")),
            format!(r#"{{"timestamp":"2026-01-01T00:10:00Z","decision":"permit"{OPS},"client":"::1"}}"#),
            format!(r#"{{"timestamp":"2026-01-01T00:10:00Z","decision":"refuse"{ANN},"client":"::1"}}"#),
        ];
        let found = found(&log.join("\n"));
        assert_eq!((found.decisions, found.unreadable), (7, 0));
        let json = found.json();
        assert_eq!(json["lost"].as_array().unwrap().len(), 2, "{json:#}");
        let lost = &json["lost"][0];
        assert_eq!(
            (&lost["person"], &lost["rule"], &lost["line"]),
            (&json!("ann@example.com"), &json!("admin"), &json!(7))
        );
        assert_eq!((&lost["times"], &lost["example"]), (&json!(2), &json!("GET a.example/admin/a")));
        assert_eq!(json["lost"][1]["rule"], "fresh");
        let gained: Vec<_> = json["gained"].as_array().unwrap().iter().map(|one| &one["rule"]).collect();
        assert_eq!(gained, [&json!("open"), &Value::Null, &json!("admin")], "{json:#}");
        assert_eq!(json["gained"][0]["person"], Value::Null);
        let mut text = Vec::new();
        found.write_text(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("lost:   ann@example.com (github id 1): 2 requests, the first GET a.example/admin/a; rule admin (line 7): the rule's `allow` does not name this person"), "{text}");
        assert!(
            text.contains("gained: nobody signed in: GET a.example/open/x; rule open (line 7): the rule is public"),
            "{text}"
        );
        assert!(text.ends_with("5 changes over 7 decisions and 0 sessions\n"), "{text}");
    }

    #[test]
    fn what_was_refused_before_any_rule_was_asked_stays_so_and_is_counted() {
        let log = [line("refuse", "/open/x", r#","code":"unauthenticated""#), line("permit", "/", ANN)];
        let found = found(&log.join("\n"));
        assert_eq!((found.decisions, found.before_rules, found.changes.len()), (2, 1, 0));
        let mut text = Vec::new();
        found.write_text(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.contains("2 decisions")
                && text.ends_with("; refused before any rule was asked, and not asked again: 1\n"),
            "{text}"
        );
        assert_eq!(found.json()["before_rules"], 1);
    }

    #[test]
    fn whom_nobody_of_the_new_configuration_vouches_for_is_nobody() {
        let corp = ANN.replace("github", "corp");
        let log = [line("permit", "/", &corp), line("permit", "/open/x", &corp)];
        let json = found(&log.join("\n")).json();
        let lost = json["lost"].as_array().unwrap();
        assert_eq!(lost.len(), 1, "{json:#}");
        assert_eq!((&lost[0]["provider"], &lost[0]["reason"]), (&json!("corp"), &json!("unauthenticated")));
    }

    #[test]
    fn tokens_that_no_section_accepts_any_more_are_refused_on_every_path() {
        let bearer = |provider: &str| ANN.replace("github", provider).replace("session", "bearer");
        let log = ["ci", "github", "old"].map(|name| line("permit", "/open/x", &bearer(name)));
        let with = |issuers: Option<&[&str]>| {
            let issuers = issuers.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
            let json = found_by(&Basis { issuers, ..basis() }, &log.join("\n")).json();
            let lost = json["lost"].as_array().unwrap().clone();
            lost.iter().map(|lost| lost["provider"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(with(Some(&["ci", "github"])), ["old"]);
        assert_eq!(with(Some(&["ci"])), ["github", "old"], "its sessions are accepted, its tokens are not");
        assert!(with(None).is_empty(), "where no token is looked at, a public path stays one");
        let closed = line("permit", "/", &bearer("github"));
        assert_eq!(found(&closed).json()["lost"][0]["reason"], "unauthenticated");
    }

    #[test]
    fn what_cannot_be_read_back_is_counted_and_not_guessed() {
        let long = "x".repeat(2 * LINE_MOST as usize);
        let log = [
            "not JSON".to_owned(),
            line("permit", r"/a\\x", ANN),
            line("permit", "/a\u{2026}", ANN),
            line("maybe", "/", ANN),
            line("permit", "/", r#","provider":"github","id":"1""#),
            line("permit", "/", &format!(r#"{ANN},"groups":"ops""#)),
            r#"{"decision":"permit","timestamp":"soon","path":"/"}"#.to_owned(),
            long,
            line("permit", "/", ANN),
        ];
        let found = found(&log.join("\n"));
        assert_eq!((found.decisions, found.unreadable, found.changes.len()), (1, 8, 0));
    }

    #[test]
    fn a_text_that_was_escaped_is_judged_as_it_was() {
        let who = r#","provider":"github","by":"session","id":"1","username":"corp\\\\ann","email":"ann@example.com""#;
        let log = [line("refuse", "/", who), line("permit", r"/a\\\\b", ANN), line("permit", r"/admin/\\\\", ANN)];
        let found = found(&log.join("\n"));
        assert_eq!((found.decisions, found.unreadable), (3, 0));
        let json = found.json();
        assert_eq!((json["lost"].as_array().unwrap().len(), json["gained"].as_array().unwrap().len()), (1, 0));
        assert_eq!(
            (&json["lost"][0]["rule"], &json["lost"][0]["example"]),
            (&json!("admin"), &json!(r"GET a.example/admin/\"))
        );
        let line: Line = serde_json::from_str(&line("permit", "/", who)).unwrap();
        assert_eq!(line.identity("github").unwrap().username.vouched(), Some(r"corp\ann"));
    }

    #[test]
    fn an_escape_of_another_kind_is_not_guessed() {
        assert_eq!(whole(r"\\\n\r\t\0\u{202e}").as_deref(), Some("\\\n\r\t\0\u{202e}"));
        for text in [r"a\", r"a\x", r"a\u", r"a\u{", r"a\u{}", r"a\u{zz}", r"a\u{d800}", r"a\u{110000}", "a\u{2026}"] {
            assert_eq!(whole(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_the_log_has_of_a_text_is_read_back_as_it_was(text in proptest::collection::vec(proptest::char::any(), 0..256)) {
            // At its end this sign stands for what was cut.
            let text: String = text.into_iter().filter(|c| *c != '\u{2026}').collect();
            let logged = Clean(&text).to_string();
            let read = whole(&logged);
            proptest::prop_assert_eq!(read.as_deref(), Some(text.as_str()));
        }
    }

    #[test]
    fn a_sign_in_is_as_old_as_it_was_to_the_millisecond() {
        let log = [("permit", "400"), ("permit", "900"), ("refuse", "901")].map(|(decision, millis)| {
            let who = format!(r#"{ANN},"signed_in_at":"2026-01-01T00:09:00.900Z""#);
            line(decision, "/fresh", &who).replace("00:10:00Z", &format!("00:10:00.{millis}Z"))
        });
        let found = found(&log.join("\n"));
        assert_eq!((found.decisions, found.unreadable, found.changes.len()), (3, 0, 0), "{:#}", found.json());
    }

    #[test]
    fn sessions_that_nothing_names_any_more_lose_every_access() {
        let line: Line = serde_json::from_str(&line("permit", "/", OPS)).unwrap();
        let mut zoe = line.identity("github").unwrap();
        let mut found = Findings::default();
        for groups in [vec!["ops".to_owned()], Vec::new()] {
            zoe.groups = groups;
            let principal = Principal {
                identity: &zoe,
                provider: "github",
                by: Proof::Session,
                proved_at: None,
                claims: &zoe.claims,
                certificate: None,
            };
            found.session(&basis(), &principal);
        }
        assert_eq!((found.sessions, found.changes.len()), (2, 1));
        let mut text = Vec::new();
        found.write_text(&mut text).unwrap();
        assert!(
            String::from_utf8(text).unwrap().starts_with("lost:   zoe (github id 3): every access; no rule: no list")
        );
    }
}
