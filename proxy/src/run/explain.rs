//! Tells operators who may do what, and why: by the same function that decides on requests.

use std::io::{self, Write};
use std::net::IpAddr;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::domain::certificate::{CertificateName, ClientCertificate};
use crate::domain::claims::Claims;
use crate::domain::identity::{Email, Identity, ProviderKind, Username};
use crate::domain::judge::{Ask, Refusal, Why, judge};
use crate::domain::paths::{AUTH_PREFIX, METADATA};
use crate::domain::principal::{Principal, Proof};
use crate::domain::readings::Readings;
use crate::domain::rules::{Openness, RuleId, Rules};
use crate::domain::time::Timestamp;
use crate::rendering::{ImpersonatedName, NotAPerson};
use crate::serve::clock;
use crate::serve::request::headers;
use crate::serve::settings::{Mode, Settings, SignInSettings};

/// Why a permit by a rule with `max_age` may be a refusal in truth.
const COUNTS_AUTH_TIME: &str =
    "the rule's `max_age` counts from the provider's `auth_time`; if the provider sends none, this is refused";

/// Why a permit for an upstream that acts as the person may be a refusal in truth.
const ACTS_BY_A_NAME: &str = "the upstream acts by a name (`impersonate_user`) that was not given; who has none is refused: add --user or --email";

/// Why a permit for an upstream that is told the person's id may be a refusal in truth.
const TELLS_THE_ID: &str =
    "the upstream is told the person's id, which was not given; one that begins with `system:` is refused: add --id";

/// An operator's question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The user; `None`: not signed in.
    pub who: Option<DescribedUser>,
    /// The host; `None`: the public one.
    pub host: Option<String>,
    /// The method.
    pub method: String,
    /// The path as in a request, with or without a query.
    pub path: String,
    /// The caller's address.
    pub from: IpAddr,
    /// The names of the connection's client certificate, in the format of rules; empty: it has none.
    pub certificate: Vec<String>,
    /// Whether to answer in JSON.
    pub json: bool,
}

/// A user, as described by an operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DescribedUser {
    /// The username, or an email.
    pub user: Option<String>,
    /// The vouched email.
    pub email: Option<String>,
    /// The provider's id.
    pub id: Option<String>,
    /// The groups.
    pub groups: Vec<String>,
    /// The name of the provider; `None`: the configured one.
    pub provider: Option<String>,
    /// Claims, each `NAME=VALUE`.
    pub claims: Vec<String>,
    /// How long ago the user signed in.
    pub signed_in: Duration,
}

/// The question is invalid.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongQuestion(String);

/// The answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// Whether the request is admitted.
    pub is_permit: bool,
    /// The rule that decides, with its line; `None`: no rule does.
    pub rule: Option<(String, usize)>,
    /// The reason.
    pub reason: String,
    /// The upstream of an admitted request; `None`: that of `UPSTREAM_URL`, or none.
    pub upstream: Option<String>,
    /// The path in all its readings.
    pub readings: Vec<String>,
    /// What the answer assumes.
    pub notes: Vec<&'static str>,
}

impl Explanation {
    /// As JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut answer = json!({
            "decision": if self.is_permit { "permit" } else { "refuse" },
            "rule": self.rule.as_ref().map(|(name, _)| name),
            "line": self.rule.as_ref().map(|(_, line)| line),
            "reason": self.reason,
            "readings": self.readings,
        });
        let note = (!self.notes.is_empty()).then(|| self.notes.join("; "));
        for (name, text) in [("upstream", self.upstream.as_deref()), ("note", note.as_deref())] {
            if let (Some(text), Some(answer)) = (text, answer.as_object_mut()) {
                answer.insert(name.to_owned(), text.into());
            }
        }
        answer
    }

    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}: {}", if self.is_permit { "permit" } else { "refuse" }, self.reason)?;
        match &self.rule {
            Some((name, line)) => writeln!(out, "rule:     {name} (line {line})")?,
            None => writeln!(out, "rule:     none")?,
        }
        if let Some(upstream) = &self.upstream {
            writeln!(out, "upstream: {upstream}")?;
        }
        for note in &self.notes {
            writeln!(out, "note:     {note}")?;
        }
        for (i, reading) in self.readings.iter().enumerate() {
            // A path may contain a terminal escape.
            let plain: String = reading
                .chars()
                .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
                .collect();
            writeln!(out, "{} {plain}", if i == 0 { "readings:" } else { "         " })?;
        }
        Ok(())
    }
}

/// Answers a question; returns whether the request is admitted.
///
/// # Errors
/// [`WrongQuestion`] if it is invalid; [`io::Error`] if the answer cannot be written.
pub fn run(asked: &Asked, settings: Settings, out: &mut dyn Write) -> Result<bool, anyhow::Error> {
    let answer = answer(asked, settings)?;
    if asked.json {
        writeln!(out, "{}", answer.json())?;
    } else {
        answer.write_text(out)?;
    }
    Ok(answer.is_permit)
}

/// The answer to a question.
///
/// # Errors
/// [`WrongQuestion`] if it is invalid.
pub fn answer(asked: &Asked, settings: Settings) -> Result<Explanation, WrongQuestion> {
    let basis = Basis::of(&settings);
    let (vouchers, public_host) = match &settings.mode {
        Mode::Open => (Vec::new(), None),
        Mode::SignIn(sign_in) => (Voucher::all(sign_in), sign_in.public_origin.host_str().map(str::to_owned)),
    };
    let now = clock::now();
    let who = match &asked.who {
        Some(described) if !vouchers.is_empty() => {
            let voucher = described.voucher(&vouchers)?;
            Some((described.identity(voucher)?, described.signed_in, voucher))
        }
        Some(_) | None => None,
    };
    let principal = who.as_ref().map(|(identity, ago, voucher)| Principal {
        identity,
        provider: &voucher.name,
        by: voucher.by,
        proved_at: Some(Timestamp::from_millis(
            now.millis().saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
        )),
        claims: &identity.claims,
        certificate: None,
    });
    let certificate = certificate(&asked.certificate)?;
    check(asked)?;
    let host = asked.host.clone().or(public_host).unwrap_or_default();
    let question = Question {
        host: &host,
        forwarded_host: None,
        method: &asked.method,
        path: path_of(&asked.path),
        from: asked.from,
        certificate: certificate.as_ref(),
    };
    let answer = basis.decide(&question, principal, now);
    let (Some((_, ago, voucher)), Some(principal), true) = (&who, principal, answer.is_permit) else {
        return Ok(answer);
    };
    let mut notes = match impersonate(&settings, answer.upstream.as_deref(), &principal) {
        Ok(notes) => notes,
        Err(why) => {
            let reason = format!("the upstream cannot act as this person: {why}");
            return Ok(Explanation { is_permit: false, reason, upstream: None, ..answer });
        }
    };
    // With GitHub the sign-in here counts, whose time is always known.
    let is_assumed = ago.is_zero() && voucher.kind != ProviderKind::Github;
    let without_time = Principal { proved_at: None, ..principal };
    if is_assumed && !basis.decide(&question, Some(without_time), now).is_permit {
        notes.push(COUNTS_AUTH_TIME);
    }
    Ok(Explanation { notes, ..answer })
}

/// Whether the upstream can act as that person, if it impersonates people; with notes where that depends on what was not given.
fn impersonate(
    settings: &Settings,
    upstream: Option<&str>,
    who: &Principal<'_>,
) -> Result<Vec<&'static str>, NotAPerson> {
    let named = settings.upstreams.iter().find(|named| Some(named.pool.name.as_str()) == upstream);
    let Some(acting) = named.and_then(|named| named.acting.as_ref()) else { return Ok(Vec::new()) };
    let mut identity = who.identity.clone();
    let mut notes = Vec::new();
    if identity.id.is_empty() {
        // Every provider gives an id, also to those whom the operator describes without one. That of a Kubernetes account begins so.
        identity.id = "id".to_owned();
        if who.by == Proof::Bearer || acting.impersonation.user == ImpersonatedName::Id {
            notes.push(TELLS_THE_ID);
        }
    }
    let may_have_one = match acting.impersonation.user {
        ImpersonatedName::Username => matches!(identity.username, Username::Vouched(_)),
        ImpersonatedName::Email => true,
        ImpersonatedName::Id => false,
    };
    match acting.impersonation.impersonate(&identity, who.provider) {
        Err(NotAPerson::Empty) if may_have_one => notes.push(ACTS_BY_A_NAME),
        outcome => drop(outcome?),
    }
    Ok(notes)
}

/// Refuses what no request can ask.
fn check(asked: &Asked) -> Result<(), WrongQuestion> {
    let wrong = |what: String| Err(WrongQuestion(what));
    if let Some(host) = asked.host.as_deref().filter(|host| !headers::is_host(host)) {
        return wrong(format!("--host: `{host}` is not the name of a host, such as `app.example.com`"));
    }
    let method = Method::from_bytes(asked.method.as_bytes());
    let Ok(method) = method else {
        return wrong(format!("--method: `{}` is not a method, such as `GET`", asked.method));
    };
    let is_whole_server = asked.path == "*" && method == Method::OPTIONS;
    if !asked.path.starts_with('/') && !is_whole_server {
        return wrong(format!("--path: `{}` does not begin with `/`", asked.path));
    }
    if asked.path.bytes().any(|b| b.is_ascii_control() || b == b' ') {
        return wrong("--path: blanks and control characters are percent-encoded in a request".to_owned());
    }
    Ok(())
}

/// The certificate described by an operator.
fn certificate(names: &[String]) -> Result<Option<ClientCertificate>, WrongQuestion> {
    if names.is_empty() {
        return Ok(None);
    }
    let read = |name: &String| {
        CertificateName::parse(name).ok_or_else(|| {
            WrongQuestion(format!("--cert: `{name}` is not `any`, `CN=…`, `DNS=…`, `URI=…` or `EMAIL=…`"))
        })
    };
    let names = names.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(ClientCertificate::new(names, Timestamp::from_millis(u64::MAX))))
}

/// What decides under a configuration: its rules, and whose sign-ins and tokens it accepts.
pub(super) struct Basis {
    pub(super) rules: Rules,
    /// The name of the provider; `None`: nobody signs in.
    pub(super) provider: Option<String>,
    /// The names of those whose bearer tokens are accepted; `None`: no token is looked at.
    pub(super) issuers: Option<Vec<String>>,
}

impl Basis {
    /// That of a configuration.
    pub(super) fn of(settings: &Settings) -> Self {
        let Mode::SignIn(sign_in) = &settings.mode else {
            return Self { rules: Rules::new(Openness::Open, settings.rules.clone()), provider: None, issuers: None };
        };
        let provider = sign_in.provider.kind().as_str().to_owned();
        let issuers = sign_in.bearer.as_ref().map(|bearer| {
            let github = bearer.github.iter().map(|_| provider.clone());
            bearer.issuers.iter().map(|issuer| issuer.name.clone()).chain(github).collect()
        });
        let rules = Rules::new(Openness::SignIn(Box::new(sign_in.allow.clone())), settings.rules.clone());
        Self { rules: rules.with_token_lists(sign_in.token_lists.clone()), provider: Some(provider), issuers }
    }

    /// Whether sessions or tokens like this one are accepted.
    pub(super) fn accepts(&self, who: &Principal<'_>) -> bool {
        match who.by {
            Proof::Session => self.provider.as_deref() == Some(who.provider),
            Proof::Bearer => self.issuers.iter().flatten().any(|name| name == who.provider),
        }
    }
}

/// The question in the form of a request.
pub(super) struct Question<'a> {
    pub(super) host: &'a str,
    pub(super) forwarded_host: Option<&'a str>,
    pub(super) method: &'a str,
    /// Without its query.
    pub(super) path: &'a str,
    pub(super) from: IpAddr,
    /// The connection's client certificate.
    pub(super) certificate: Option<&'a ClientCertificate>,
}

impl Basis {
    /// Decides as for a request.
    pub(super) fn decide(&self, asked: &Question<'_>, who: Option<Principal<'_>>, now: Timestamp) -> Explanation {
        let rules = &self.rules;
        let refused = |reason: &str, readings: Vec<String>| Explanation {
            is_permit: false,
            rule: None,
            reason: reason.to_owned(),
            upstream: None,
            readings,
            notes: Vec::new(),
        };
        if [Method::TRACE, Method::CONNECT].iter().any(|method| method.as_str().eq_ignore_ascii_case(asked.method)) {
            return refused("this method is never passed on", Vec::new());
        }
        let path = match Readings::of(asked.path) {
            Ok(path) => path,
            Err(too_many) => return refused(&too_many.to_string(), Vec::new()),
        };
        let readings: Vec<String> = path.iter().map(str::to_owned).collect();
        let is_metadata = asked.path == METADATA && self.issuers.is_some();
        if is_metadata || path.may_be_below(AUTH_PREFIX) {
            return if is_metadata || path.is_plain() {
                let reason = "Sidegate answers here itself, and no rule is about it".to_owned();
                Explanation { is_permit: true, rule: None, reason, upstream: None, readings, notes: Vec::new() }
            } else {
                refused("a server could read this path as one of Sidegate's own, so it is passed on to none", readings)
            };
        }
        let Question { host, forwarded_host, method, from, .. } = *asked;
        let ask = Ask { host, forwarded_host, method, path: &path, from, certificate: asked.certificate, now };
        let name_and_line =
            |id: Option<RuleId>| id.and_then(|id| rules.get(id)).map(|rule| (rule.name.clone(), rule.line));
        match judge(rules, &ask, who) {
            Ok(permit) => Explanation {
                is_permit: true,
                rule: name_and_line(permit.rule()),
                reason: permit.reason().as_str().to_owned(),
                upstream: permit.rule().and_then(|rule| rules.get(rule)?.upstream.clone()),
                readings,
                notes: Vec::new(),
            },
            Err(Refusal { rule, why }) => {
                let reason = if why == Why::Unauthenticated { why.code().to_owned() } else { why.to_string() };
                Explanation {
                    is_permit: false,
                    rule: name_and_line(rule),
                    reason,
                    upstream: None,
                    readings,
                    notes: Vec::new(),
                }
            }
        }
    }
}

/// The path of a request's target.
fn path_of(target: &str) -> &str {
    target.split_once(['?', '#']).map_or(target, |(path, _)| path)
}

/// A source of identities: the provider, or an issuer of bearer tokens.
struct Voucher {
    name: String,
    kind: ProviderKind,
    /// Whether lists and rules may trust its usernames.
    usernames: bool,
    by: Proof,
}

impl Voucher {
    /// The provider, and the sections of `[[tokens]]`.
    fn all(sign_in: &SignInSettings) -> Vec<Self> {
        let provider = Self {
            name: sign_in.provider.kind().as_str().to_owned(),
            kind: sign_in.provider.kind(),
            usernames: sign_in.provider.vouches_for_usernames(),
            by: Proof::Session,
        };
        let issuers = sign_in.bearer.iter().flat_map(|bearer| &bearer.issuers);
        let sections = issuers.filter(|issuer| issuer.name != provider.name).map(|issuer| Self {
            name: issuer.name.clone(),
            kind: ProviderKind::Oidc,
            usernames: issuer.names.username.is_some(),
            by: Proof::Bearer,
        });
        let sections: Vec<Self> = sections.collect();
        std::iter::once(provider).chain(sections).collect()
    }
}

impl DescribedUser {
    /// The user's source of identity: the named one, else the provider.
    fn voucher<'v>(&self, vouchers: &'v [Voucher]) -> Result<&'v Voucher, WrongQuestion> {
        let wanted = |voucher: &&Voucher| self.provider.as_deref().is_none_or(|name| name == voucher.name);
        vouchers.iter().find(wanted).ok_or_else(|| {
            let names: Vec<String> = vouchers.iter().map(|voucher| format!("`{}`", voucher.name)).collect();
            let known = match names.as_slice() {
                [one] => format!("the one there is, is {one}"),
                all => format!("there are {}", all.join(", ")),
            };
            WrongQuestion(format!(
                "--provider: `{}` is not known; {known}",
                self.provider.as_deref().unwrap_or_default()
            ))
        })
    }

    /// The user's identity.
    fn identity(&self, voucher: &Voucher) -> Result<Identity, WrongQuestion> {
        let wrong = |what: String| Err(WrongQuestion(what));
        // As in the lists: a name with an `@` is an email.
        let as_email = self.user.as_deref().filter(|user| user.contains('@'));
        let email = match self.email.as_deref().or(as_email) {
            Some(text) => match Email::parse(text) {
                Ok(email) => Some(email),
                Err(error) => return wrong(format!("--email: {error}")),
            },
            None => None,
        };
        let by_id = self.user.as_deref().and_then(|user| user.strip_prefix("id:"));
        let user = self.user.clone().filter(|_| by_id.is_none()).unwrap_or_default();
        let username = if voucher.usernames { Username::Vouched(user) } else { Username::Displayed(user) };
        let mut claims = Claims::default();
        for claim in &self.claims {
            let Some((name, text)) = claim.split_once('=').filter(|(name, _)| !name.is_empty()) else {
                return wrong(format!("--claim: `{claim}` is not NAME=VALUE"));
            };
            let texts = claims.texts(name).iter().cloned().chain([text.to_owned()]).collect();
            claims.set(name, texts);
        }
        Ok(Identity {
            provider: voucher.kind,
            id: self.id.as_deref().or(by_id).unwrap_or_default().to_owned(),
            email,
            name: String::new(),
            username,
            groups: self.groups.clone(),
            claims,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use http::Request;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::caller::{Caller, Peer, Scheme, TrustedProxies};
    use crate::domain::paths;
    use crate::domain::policy::{AllowLists, AllowedUsers};
    use crate::domain::rules::{Access, Entry, HostPattern, PathPattern, People, Rule};
    use crate::serve::request::description::Description;
    use crate::serve::request::{headers, question};

    fn voucher(kind: ProviderKind, usernames: bool) -> Voucher {
        Voucher { name: kind.as_str().to_owned(), kind, usernames, by: Proof::Session }
    }

    #[test]
    fn what_no_request_can_ask_is_no_question() {
        let asked = |host: Option<&str>, method: &str, path: &str| Asked {
            who: None,
            host: host.map(str::to_owned),
            method: method.to_owned(),
            path: path.to_owned(),
            from: "::1".parse().unwrap(),
            certificate: Vec::new(),
            json: false,
        };
        for (host, method, path, wrong) in [
            (None, "GET", "/x?y=z#f", None),
            (Some("App.Example.com:8443"), "PROPFIND", "/", None),
            (Some("[::1]:80"), "GET", "/a%20b", None),
            (None, "OPTIONS", "*", None),
            (Some("https://app.example.com/"), "GET", "/", Some("--host")),
            (Some("a b"), "GET", "/", Some("--host")),
            (Some(""), "GET", "/", Some("--host")),
            (None, "G T", "/", Some("--method")),
            (None, "", "/", Some("--method")),
            (None, "GET", "admin", Some("--path")),
            (None, "GET", "", Some("--path")),
            (None, "GET", "http://x/y", Some("--path")),
            (None, "GET", "*", Some("--path")),
            (None, "GET", "/a b", Some("--path")),
        ] {
            let found = check(&asked(host, method, path)).err().map(|wrong| wrong.to_string());
            let names = found.as_ref().zip(wrong).is_some_and(|(found, wrong)| found.starts_with(wrong));
            assert_eq!(
                (found.is_some(), names),
                (wrong.is_some(), wrong.is_some()),
                "{host:?} {method} {path}: {found:?}"
            );
        }
    }

    #[test]
    fn where_tokens_are_accepted_their_metadata_is_answered_by_sidegate_itself() {
        let closed = Rule {
            path: Some(PathPattern::parse("/.well-known/**").unwrap()),
            access: Access::Nobody,
            ..Rule::default()
        };
        let lists = AllowLists::default();
        let basis = |issuers| Basis {
            rules: Rules::new(Openness::SignIn(Box::new(lists.clone())), vec![closed.clone()]),
            provider: Some("github".into()),
            issuers,
        };
        let at = |basis: &Basis, path: &str| {
            let question = Question {
                host: "a.x",
                forwarded_host: None,
                method: "GET",
                path,
                from: "::1".parse().unwrap(),
                certificate: None,
            };
            basis.decide(&question, None, Timestamp::from_secs(1))
        };
        let tokens = basis(Some(vec!["ci".into()]));
        let answer = at(&tokens, METADATA);
        assert!(answer.is_permit && answer.rule.is_none() && answer.reason.contains("Sidegate answers here itself"));
        assert!(!at(&tokens, "/.well-known/oauth-protected-resource/x").is_permit);
        assert!(!at(&basis(None), METADATA).is_permit, "without tokens it is a path like any other");
    }

    fn some_rule() -> impl Strategy<Value = Rule> {
        let host = prop::sample::select(vec!["", "a.x", "*.x"]);
        let path = prop::sample::select(vec!["/**", "/a/**", "/a", "/*", "/b/*", "/**/c", "/A/*"]);
        let methods = prop::sample::select(vec![vec![], vec!["GET".to_owned()], vec!["DELETE".to_owned()]]);
        let people = People::new(vec![Entry::parse("ann").unwrap(), Entry::parse("group:acme/ops").unwrap()]);
        let access = prop::sample::select(vec![
            Access::Public,
            Access::SignedIn,
            Access::Listed,
            Access::Nobody,
            Access::People(Box::new(people)),
        ]);
        let max_age = prop::sample::select(vec![None, Some(Duration::from_secs(900))]);
        let from = prop::sample::select(vec![vec![], vec!["10.0.0.0/8".parse().unwrap()]]);
        (host, path, methods, access, max_age, from).prop_map(|(host, path, methods, access, max_age, from)| Rule {
            name: format!("{path}{host}"),
            host: HostPattern::parse(host).unwrap_or_default(),
            path: Some(PathPattern::parse(path).unwrap()),
            methods,
            access,
            max_age,
            from,
            ..Rule::default()
        })
    }

    fn described(user: &str, groups: &[&str], signed_in: u64) -> DescribedUser {
        DescribedUser {
            user: Some(user.to_owned()),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            signed_in: Duration::from_secs(signed_in),
            ..DescribedUser::default()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        // Fifty questions for each set of rules: 100,000 in all.
        #[test]
        fn what_is_explained_is_what_a_request_meets_here_and_behind_another_proxy(
            rules in prop::collection::vec(some_rule(), 0..8),
            questions in prop::collection::vec((
                prop::sample::select(vec!["a.x", "b.x:80", "c"]),
                prop::sample::select(vec!["GET", "HEAD", "DELETE", "delete", "POST"]),
                "/[abcAC./%25e;]{0,8}",
                prop::sample::select(vec!["10.0.0.1", "192.0.2.1"]),
                prop::sample::select(vec![None, Some(("ann", 60)), Some(("ops", 60)), Some(("ops", 5000)), Some(("zoe", 1))]),
            ), 50),
        ) {
            let lists = AllowLists { users: Some(AllowedUsers::parse(["ann"]).unwrap()), groups: None };
            let rules = Rules::new(Openness::SignIn(Box::new(lists)), rules);
            let basis = Basis { rules, provider: Some("github".into()), issuers: None };
            let rules = &basis.rules;
            let now = Timestamp::from_secs(1_000_000);
            let fronts = TrustedProxies::new(vec!["198.51.100.1/32".parse().unwrap()]);
            for (host, method, path, from, who) in questions {
                // Requests that are invalid in HTTP are never decided on.
                let Ok(request) = Request::builder().method(method).uri(&path).header("host", host).body(()) else { continue };
                let head = request.into_parts().0;
                let who = who.map(|(name, ago)| {
                    let groups: &[&str] = if name == "ops" { &["acme/ops"] } else { &[] };
                    let described = described(name, groups, ago);
                    (described.identity(&voucher(ProviderKind::Github, true)).unwrap(), described.signed_in)
                });
                let principal = who.as_ref().map(|(identity, ago)| Principal {
                    identity,
                    provider: "github",
                    by: Proof::Session,
                    proved_at: Some(Timestamp::from_secs(now.secs() - ago.as_secs())),
                    claims: &identity.claims,
                    certificate: None,
                });
                let asked =
                    Question { host, forwarded_host: None, method, path: path_of(&path), from: from.parse().unwrap(), certificate: None };
                let explained = basis.decide(&asked, principal, now);
                let peer = Peer { address: SocketAddr::new(from.parse().unwrap(), 1), scheme: Scheme::Http };
                let caller = Caller::judge(peer, &TrustedProxies::default(), std::iter::empty(), None);
                let Ok(readings) = Readings::of(head.uri.path()) else {
                    prop_assert!(!explained.is_permit);
                    continue;
                };
                let met = judge(rules, &question::ask(&head, &caller, rules, &readings, now), principal);
                prop_assert_eq!(met.is_ok(), explained.is_permit, "{} {}{}", method, host, path);
                let decided = met.map_or_else(|refusal| refusal.rule, |permit| permit.rule());
                let name = explained.rule.map(|(name, _)| name);
                prop_assert_eq!(decided.and_then(|id| rules.get(id)).map(|rule| rule.name.clone()), name.clone());

                // The same request as described by a proxy in front, in one of three ways.
                let asking = [
                    Request::get(paths::VERIFY)
                        .header("host", host)
                        .header("x-original-uri", &path)
                        .header("x-original-method", method),
                    Request::get(paths::VERIFY)
                        .header("host", "sidegate:8080")
                        .header("x-forwarded-uri", &path)
                        .header("x-forwarded-method", method)
                        .header("x-forwarded-host", host),
                    Request::builder().method(method).uri(format!("{}{path}", paths::VERIFY)).header("host", host),
                ];
                let front = Peer { address: SocketAddr::from(([198, 51, 100, 1], 1)), scheme: Scheme::Http };
                for asking in asking.into_iter().skip(path.len() % 3).take(1) {
                    let mut head = asking.header("x-forwarded-for", from).body(()).unwrap().into_parts().0;
                    let caller = headers::caller(&head.headers, front, &fronts);
                    let described = Description::read(&head, &caller, rules).unwrap().unwrap();
                    described.replace(&mut head);
                    let readings = Readings::of(head.uri.path()).unwrap();
                    let judged = judge(rules, &question::ask(&head, &caller, rules, &readings, now), principal);
                    prop_assert_eq!(judged.is_ok(), explained.is_permit, "verify: {} {}{}", method, host, path);
                    let decided = judged.map_or_else(|refusal| refusal.rule, |permit| permit.rule());
                    prop_assert_eq!(decided.and_then(|id| rules.get(id)).map(|rule| rule.name.clone()), name.clone());
                }
            }
        }
    }

    #[test]
    fn a_person_is_described_in_the_words_of_the_lists() {
        let described = DescribedUser {
            user: Some("ann@example.com".into()),
            claims: vec!["roles=a".into(), "roles=b=c".into()],
            ..DescribedUser::default()
        };
        let identity = described.identity(&voucher(ProviderKind::Oidc, false)).unwrap();
        assert_eq!(identity.email_str(), "ann@example.com");
        assert_eq!(identity.username.vouched(), None);
        assert_eq!(identity.claims.texts("roles"), ["a", "b=c"]);
        let by_id = DescribedUser { user: Some("id:7".into()), ..DescribedUser::default() };
        assert_eq!(by_id.identity(&voucher(ProviderKind::Github, true)).unwrap().id, "7");
        for wrong in [
            DescribedUser { email: Some("ann".into()), ..DescribedUser::default() },
            DescribedUser { claims: vec!["x".into()], ..DescribedUser::default() },
        ] {
            assert!(wrong.identity(&voucher(ProviderKind::Github, true)).is_err(), "{wrong:?}");
        }
        let strange = DescribedUser { provider: Some("corp".into()), ..DescribedUser::default() };
        let error = strange.voucher(&[voucher(ProviderKind::Github, true)]).err().unwrap();
        assert_eq!(error.to_string(), "--provider: `corp` is not known; the one there is, is `github`");
    }
}
