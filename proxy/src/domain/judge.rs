//! The decision: a permit by a rule, or a refusal with its reason. Nothing is forwarded without a permit, and only this file can create
//! one.

use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;

use super::certificate::ClientCertificate;
use super::principal::{Known, Principal};
use super::readings::{Readings, WORK_LIMIT};
use super::rules::{Access, HostName, Openness, Rule, RuleId, Rules, without_prefix};
use super::time::Timestamp;

/// A request to decide on, independent of its transport.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The requested host, as in `Host`.
    pub host: &'a str,
    /// The requested host as reported by a trusted proxy, if any.
    pub forwarded_host: Option<&'a str>,
    /// The method.
    pub method: &'a str,
    /// The path in all its readings.
    pub path: &'a Readings<'a>,
    /// The caller's address.
    pub from: IpAddr,
    /// The certificate of the caller's own connection; `None`: it has none, or is another peer's connection.
    pub certificate: Option<&'a ClientCertificate>,
    /// The current time.
    pub now: Timestamp,
}

/// A permit to forward one request. Its fields are private: no other file can create one.
///
/// ```
/// use sidegate::domain::judge::{AdmitReason, Permit};
///
/// fn reason(permit: Permit<()>) -> AdmitReason {
///     permit.reason()
/// }
/// ```
///
/// A permit cannot be written as a literal,
///
/// ```compile_fail,E0451
/// use sidegate::domain::judge::{AdmitReason, Permit};
///
/// fn forged() -> Permit<()> {
///     Permit { session: None, rule: None, reason: AdmitReason::OpenMode }
/// }
/// ```
///
/// nor changed after it was given for another request,
///
/// ```compile_fail,E0616
/// use sidegate::domain::judge::Permit;
///
/// fn for_somebody_else<S>(mut permit: Permit<S>, session: S) -> Permit<S> {
///     permit.session = Some(session);
///     permit
/// }
/// ```
///
/// nor used twice,
///
/// ```compile_fail,E0382
/// use sidegate::domain::judge::Permit;
///
/// fn twice<S>(permit: Permit<S>) -> [Permit<S>; 2] {
///     [permit, permit]
/// }
/// ```
///
/// nor created by default:
///
/// ```compile_fail,E0277
/// use sidegate::domain::judge::Permit;
///
/// fn of<P: Default + Clone>() {}
/// of::<Permit<()>>();
/// ```
#[derive(Debug)]
pub struct Permit<S> {
    session: Option<S>,
    rule: Option<RuleId>,
    reason: AdmitReason,
}

impl<S> Permit<S> {
    /// The admitted session; `None` means "admitted without a session", never "refused".
    pub const fn session(&self) -> Option<&S> {
        self.session.as_ref()
    }

    /// The rule that admits the request; `None`: no rule matches it.
    pub const fn rule(&self) -> Option<RuleId> {
        self.rule
    }

    /// Why it is admitted.
    pub const fn reason(&self) -> AdmitReason {
        self.reason
    }
}

/// Why a request is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdmitReason {
    /// Sign-in is disabled.
    OpenMode,
    /// The rule is for everyone.
    Public,
    /// The rule is for every signed-in user.
    SignedIn,
    /// The allow lists name the user.
    Listed,
    /// The rule's own list names the user.
    Named,
}

impl AdmitReason {
    /// The operator's word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenMode => "open mode: everything is forwarded",
            Self::Public => "the rule is public",
            Self::SignedIn => "the rule lets in everyone who has signed in",
            Self::Listed => "the allow lists name the person, or there are none",
            Self::Named => "the rule's `allow` names the person",
        }
    }
}

/// Why a request is refused, and by which rule; `None`: no rule matches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The rule that refuses it.
    pub rule: Option<RuleId>,
    /// The reason.
    pub why: Why,
}

/// Why a request is refused, in the operator's terms.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Why {
    /// The user authenticated too long ago: signing in again may help.
    #[error("the sign-in is older than the rule's `max_age`, or nobody has said when it was")]
    TooOld {
        /// The age that the rule allows.
        max_age: Duration,
    },
    /// The request has no identity: signing in may help.
    #[error("nobody is signed in")]
    Unauthenticated,
    /// The lists do not name the user.
    #[error("no allow list names this person")]
    NotListed,
    /// The rule's own list does not name the user.
    #[error("the rule's `allow` does not name this person")]
    NotNamed,
    /// An entry that the rule requires does not match the user.
    #[error("the rule requires `{0}`, which does not name this person")]
    Lacks(String),
    /// The rule admits nobody.
    #[error("the rule lets nobody in")]
    Nobody,
    /// Servers read the path differently, and rules send those readings to different upstreams.
    #[error("servers read this path differently, and the rules lead the readings to different upstreams")]
    ManyUpstreams,
    /// Behind the prefix that the upstream does not receive, the path has another reading, which the rules do not admit or which leads
    /// elsewhere.
    #[error(
        "without its `strip_prefix` the upstream could read a path that the rules do not let in, or that leads elsewhere"
    )]
    BehindPrefix,
}

impl Why {
    /// The reason in one word, for metrics and for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooOld { .. } => "too_old",
            Self::Unauthenticated => "unauthenticated",
            Self::NotListed => "not_listed",
            Self::NotNamed => "not_named",
            Self::Lacks(_) => "lacks_required",
            Self::Nobody => "nobody",
            Self::ManyUpstreams => "many_upstreams",
            Self::BehindPrefix => "behind_prefix",
        }
    }

    /// Whether the user is missing from a list.
    #[must_use]
    pub const fn is_about_lists(&self) -> bool {
        matches!(self, Self::NotListed | Self::NotNamed | Self::Lacks(_))
    }

    /// Ranks several reasons: the hardest to fix counts.
    const fn weight(&self) -> u8 {
        match self {
            Self::TooOld { .. } => 0,
            Self::Unauthenticated => 1,
            Self::NotListed | Self::NotNamed | Self::Lacks(_) => 2,
            Self::Nobody => 3,
            Self::ManyUpstreams | Self::BehindPrefix => 4,
        }
    }
}

/// Decides on a request by `who` (`None`: not signed in). It is admitted only if the rules admit it under every reading of its path, for
/// each host that it may be for, and by each method that it may be taken for.
///
/// # Errors
/// [`Refusal`], with the reason that is the hardest to fix.
pub fn judge<S: Known>(rules: &Rules, ask: &Ask<'_>, who: Option<S>) -> Result<Permit<S>, Refusal> {
    let certificate = ask.certificate.filter(|certificate| certificate.is_valid(ask.now));
    let principal = who.as_ref().map(|who| Principal { certificate, ..who.principal() });
    let (rule, reason) = judge_readings(rules, ask, principal.as_ref())?;
    judge_behind_prefix(rules, ask, rule, principal.as_ref())?;
    let counts = match reason {
        AdmitReason::OpenMode => false,
        // On a public path, a user whom no list or rule would admit any more counts as not signed in.
        AdmitReason::Public => principal.as_ref().is_some_and(|who| rules.could_let_in(who)),
        AdmitReason::SignedIn | AdmitReason::Listed | AdmitReason::Named => true,
    };
    Ok(Permit { rule, reason, session: who.filter(|_| counts) })
}

/// The rule of the path as written, and the reason to admit the request under every reading.
fn judge_readings(
    rules: &Rules,
    ask: &Ask<'_>,
    principal: Option<&Principal<'_>>,
) -> Result<(Option<RuleId>, AdmitReason), Refusal> {
    let deciding = Deciding::of(rules, ask);
    if let Some(rule) = deciding.leads_elsewhere(rules) {
        return Err(Refusal { rule, why: Why::ManyUpstreams });
    }
    let opens = ask.path.may_be_opened() && deciding.opens;
    let verdict = |rule| verdict(rules, rule, opens, ask.now, principal).map_err(|why| Refusal { rule, why });
    let mut outcome = verdict(deciding.first);
    for other in &deciding.others {
        outcome = match (outcome, verdict(*other)) {
            (Err(kept), Err(refusal)) if refusal.why.weight() > kept.why.weight() => Err(refusal),
            (Err(kept), _) => Err(kept),
            (Ok(_), Err(refusal)) => Err(refusal),
            // If the path is public under one reading only, the request is forwarded for the user.
            (Ok(AdmitReason::Public), Ok(reason)) => Ok(reason),
            (Ok(reason), Ok(_)) => Ok(reason),
        };
    }
    Ok((deciding.first, outcome?))
}

/// Judges the path again as its upstream reads it after the rule's prefix was removed: `/app/../admin` becomes `/../admin`, which a server
/// reads as its `/admin`, and which the rules know as `/app/admin`. A plain path reads the same with and without its prefix. Since each
/// reading has readings of its own, one limit holds for all of them: a path beyond it is refused.
fn judge_behind_prefix(
    rules: &Rules,
    ask: &Ask<'_>,
    rule: Option<RuleId>,
    principal: Option<&Principal<'_>>,
) -> Result<(), Refusal> {
    let Some(deciding) = rule.and_then(|id| rules.get(id)) else { return Ok(()) };
    let Some(prefix) = &deciding.strips else { return Ok(()) };
    let Some(path) = without_prefix(ask.path.as_written(), prefix, deciding.ignores_case) else { return Ok(()) };
    let upstream = |id: Option<RuleId>| rules.get(id?)?.upstream.as_deref();
    let refusal = || Refusal { rule, why: Why::BehindPrefix };
    let mut work = WORK_LIMIT;
    let stripped = Readings::within(&path, &mut work).map_err(|_| refusal())?;
    if stripped.is_plain() {
        return Ok(());
    }
    for reading in stripped.iter() {
        let whole = format!("{prefix}{reading}");
        let path = Readings::within(&whole, &mut work).map_err(|_| refusal())?;
        match judge_readings(rules, &Ask { path: &path, ..*ask }, principal) {
            Ok((again, _)) if upstream(again) == deciding.upstream.as_deref() => {}
            Ok(_) | Err(_) => return Err(refusal()),
        }
    }
    Ok(())
}

/// Decides on a request of unknown content: it is admitted only if every rule would admit it.
///
/// # Errors
/// [`Refusal`], with the reason that is the hardest to fix.
pub fn judge_blindly<S: Known>(rules: &Rules, now: Timestamp, who: Option<S>) -> Result<Permit<S>, Refusal> {
    let principal = who.as_ref().map(Known::principal);
    let mut first: Option<(Option<RuleId>, AdmitReason)> = None;
    let mut worst: Option<Refusal> = None;
    for rule in rules.all_that_may_decide() {
        match verdict(rules, rule, false, now, principal.as_ref()) {
            Ok(reason) => first = first.or(Some((rule, reason))),
            Err(why) if worst.as_ref().is_none_or(|worst| why.weight() > worst.why.weight()) => {
                worst = Some(Refusal { rule, why });
            }
            Err(_) => {}
        }
    }
    match (worst, first) {
        (None, Some((rule, reason))) => Ok(Permit { session: who, rule, reason }),
        (Some(refusal), _) => Err(refusal),
        (None, None) => Err(Refusal { rule: None, why: Why::Nobody }),
    }
}

/// The rules that decide under some reading: the one of the first reading, and the others, each once.
struct Deciding {
    first: Option<RuleId>,
    others: Vec<Option<RuleId>>,
    /// Whether each public rule among them may open the reading that it matches.
    opens: bool,
}

impl Deciding {
    fn of(rules: &Rules, ask: &Ask<'_>) -> Self {
        if rules.is_empty() {
            return Self { first: None, others: Vec::new(), opens: true };
        }
        let host = HostName::of(ask.host);
        let forwarded = ask.forwarded_host.map(HostName::of).filter(|other| *other != host);
        // An upstream may take `delete` for `DELETE`.
        let upper = ask.method.bytes().any(|b| b.is_ascii_lowercase()).then(|| ask.method.to_ascii_uppercase());
        let (mut found, mut opens): (Option<Self>, bool) = (None, true);
        for reading in ask.path.iter() {
            let path = rules.path(reading);
            for host in [Some(&host), forwarded.as_ref()].into_iter().flatten() {
                for method in [Some(ask.method), upper.as_deref()].into_iter().flatten() {
                    let rule = rules.first(host, &path, method, ask.from);
                    opens = opens && rules.opens(rule, &path);
                    match &mut found {
                        None => found = Some(Self { first: rule, others: Vec::new(), opens }),
                        Some(Self { first, others, .. }) if *first != rule && !others.contains(&rule) => {
                            others.push(rule);
                        }
                        Some(_) => {}
                    }
                }
            }
        }
        let found = found.unwrap_or(Self { first: None, others: Vec::new(), opens });
        Self { opens, ..found }
    }
}

impl Deciding {
    /// A rule with another upstream than one before it. A rule that admits nobody has no upstream.
    fn leads_elsewhere(&self, rules: &Rules) -> Option<Option<RuleId>> {
        if self.others.is_empty() {
            return None;
        }
        let leads = |id: &Option<RuleId>| {
            let rule = id.and_then(|id| rules.get(id));
            let is_closed =
                rule.is_some_and(|rule| rule.access == Access::Nobody) && *rules.openness() != Openness::Open;
            (!is_closed).then(|| (*id, rule.and_then(|rule| rule.upstream.as_deref())))
        };
        let mut leading = std::iter::once(&self.first).chain(&self.others).filter_map(leads);
        let (_, first) = leading.next()?;
        leading.find(|(_, upstream)| *upstream != first).map(|(rule, _)| rule)
    }
}

/// The verdict of one rule, or of the lists if no rule matches. `opens`: whether a public rule may open the path.
fn verdict(
    rules: &Rules,
    rule: Option<RuleId>,
    opens: bool,
    now: Timestamp,
    who: Option<&Principal<'_>>,
) -> Result<AdmitReason, Why> {
    let Openness::SignIn(lists) = rules.openness() else { return Ok(AdmitReason::OpenMode) };
    let rule: Option<&Rule> = rule.and_then(|id| rules.get(id));
    let access = rule.map_or(&Access::Listed, |rule| &rule.access);
    match access {
        Access::Nobody => return Err(Why::Nobody),
        Access::Public if opens => return Ok(AdmitReason::Public),
        Access::Public | Access::SignedIn | Access::Listed | Access::People(_) => {}
    }
    let who = who.ok_or(Why::Unauthenticated)?;
    let reason = match access {
        Access::SignedIn => AdmitReason::SignedIn,
        Access::People(people) if people.lists(who) => AdmitReason::Named,
        Access::People(_) => return Err(Why::NotNamed),
        Access::Public | Access::Listed | Access::Nobody if rules.list(lists, who) => AdmitReason::Listed,
        Access::Public | Access::Listed | Access::Nobody => return Err(Why::NotListed),
    };
    if let Some(lacking) = rule.and_then(|rule| rule.lacks(who)) {
        return Err(Why::Lacks(lacking.as_str().to_owned()));
    }
    if let Some(max_age) = rule.and_then(|rule| rule.max_age)
        && who.proved_at.is_none_or(|at| now.since(at) > max_age)
    {
        return Err(Why::TooOld { max_age });
    }
    Ok(reason)
}

#[cfg(test)]
mod tests;
