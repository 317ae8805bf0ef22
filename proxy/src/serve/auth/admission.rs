//! Judges a request or a person, and logs a refusal.

use std::sync::Arc;

use http::header::{HOST, HeaderValue};

use crate::adapters::telemetry::audit::{self, Asked, Origin, Verdict};
use crate::domain::certificate::ClientCertificate;
use crate::domain::identity::Identity;
use crate::domain::judge::{Ask, Permit, Refusal, Why, judge, judge_blindly};
use crate::domain::principal::{Known, Principal, Proof};
use crate::domain::readings::Readings;
use crate::domain::rules::NO_RULE;
use crate::ports::{LoadedSession, Omission, Omitted};
use crate::serve::answer::challenge::Challenge;
use crate::serve::answer::denial::{Denial, Missing};
use crate::serve::answer::rejection::Rejection;
use crate::serve::app::{SignIn, Snapshot};
use crate::serve::auth::session::{self, Found};
use crate::serve::auth::{bearer, omitted};
use crate::serve::exchange::{Exchange, Refused};
use crate::serve::request::headers::{self, Malformed};
use crate::serve::request::question;

/// The request's session, if any, and the cookies that a refusal must clear; logs a lookup that fails.
async fn who_asks(exchange: &Exchange) -> Result<(Option<Arc<LoadedSession>>, Vec<HeaderValue>), Refused> {
    let Some(sign_in) = &exchange.snapshot.sign_in else { return Ok((None, Vec::new())) };
    Ok(find(exchange, sign_in).await.inspect_err(|why| refused_before_rules(exchange, why))?)
}

/// The permit for a request by the current rules, with its live session if it has one.
pub(crate) async fn admit(exchange: &Exchange, path: &Readings<'_>) -> Result<Permit<Arc<LoadedSession>>, Refused> {
    let snapshot = &exchange.snapshot;
    let (session, cookies) = who_asks(exchange).await?;
    let who = session.clone();
    let ask = question::ask(&exchange.head, &exchange.caller, &snapshot.rules, path, exchange.now);
    let ask = Ask { certificate: exchange.certificate.as_deref(), ..ask };
    match judge(&snapshot.rules, &ask, session) {
        Ok(permit) => {
            snapshot.rule_metrics.permitted(permit.rule());
            if snapshot.audit_all {
                let by = Verdict { rule: snapshot.rules.name(permit.rule()), reason: permit.reason().as_str() };
                audit::decided(
                    true,
                    who.as_deref().map(|who| principal(exchange, who)).as_ref(),
                    asked(exchange, ask.method, ask.path.as_written()),
                    by,
                    exchange.origin(),
                );
            }
            Ok(permit)
        }
        Err(refusal) => Err(Refused(refuse(exchange, &ask, &refusal, who.as_deref()), cookies)),
    }
}

/// The request's session, by a bearer token or a cookie, and the cookies that a refusal must clear.
async fn find(
    exchange: &Exchange,
    sign_in: &SignIn,
) -> Result<(Option<Arc<LoadedSession>>, Vec<HeaderValue>), Rejection> {
    if let Some(session) = bearer::find(exchange, sign_in).await? {
        return Ok((Some(session), Vec::new()));
    }
    match session::find(exchange, sign_in).await? {
        Found::Session(session) => Ok((Some(session), Vec::new())),
        Found::NoSession => Ok((None, Vec::new())),
        // No session counts; requests that need none pass all the same.
        Found::Conflict => Ok((None, sign_in.cookies.clear_session().to_vec())),
    }
}

/// Logs a request refused before the rules: a bad bearer token, an unavailable store, a path with too many readings.
pub(crate) fn refused_before_rules(exchange: &Exchange, why: &Rejection) {
    if exchange.snapshot.audit_all {
        let Exchange { head, .. } = exchange;
        let asked = asked(exchange, head.method.as_str(), head.uri.path());
        audit::refused_before_rules(why.code(), &why.reason(), asked, exchange.origin());
    }
}

/// The audit log's entry for a request without a description. It is no path, so `sidegate simulate` does not take it for one.
const NOT_DESCRIBED: Asked<'static> = Asked { host: "-", forwarded_host: None, method: "-", path: "(not described)" };

/// The permit for a request without a description: granted only if every rule would admit it.
pub(crate) async fn admit_blindly(exchange: &Exchange) -> Result<Permit<Arc<LoadedSession>>, Refused> {
    let snapshot = &exchange.snapshot;
    let (session, cookies) = who_asks(exchange).await?;
    let who = session.clone();
    let Refusal { rule, why } = match judge_blindly(&snapshot.rules, exchange.now, session) {
        Ok(permit) => {
            snapshot.rule_metrics.permitted(permit.rule());
            if snapshot.audit_all {
                let by = Verdict { rule: snapshot.rules.name(permit.rule()), reason: permit.reason().as_str() };
                let who = who.as_deref().map(Known::principal);
                audit::decided(true, who.as_ref(), NOT_DESCRIBED, by, exchange.origin());
            }
            return Ok(permit);
        }
        Err(refusal) => refusal,
    };
    let name = snapshot.rules.name(rule);
    snapshot.rule_metrics.refused(&Refusal { rule, why: why.clone() }, name);
    let rejection = if why == Why::Unauthenticated {
        if snapshot.audit_all {
            let by = Verdict { rule: name, reason: &why.to_string() };
            audit::decided(false, None, NOT_DESCRIBED, by, exchange.origin());
        }
        Rejection::Unauthenticated
    } else {
        let who = who.as_deref();
        let has_session = who.is_some_and(|session| !session.is_token());
        let omitted = omitted_of_refused(exchange, who, &why);
        let principal = who.map(Known::principal);
        denied(principal.as_ref(), Some(NOT_DESCRIBED), omitted, name, &why, has_session, exchange.origin())
    };
    Err(Refused(rejection, cookies))
}

/// What the lists could match this person by but the provider does not state: the commonest reason of a refusal.
/// `omitted`: what it stated at this sign-in, or in this bearer token, but is ignored.
fn missing(who: &Identity, omitted: &[Omitted]) -> Vec<Missing> {
    let not_counted = omitted.iter().map(|omitted| omitted.what).filter(|what| *what != Omission::Email);
    let not_said = [
        (who.email.is_none(), Missing::Email),
        (who.username.vouched().is_none(), Missing::Username),
        (who.groups.is_empty(), Missing::Groups),
    ]
    .into_iter()
    .filter_map(|(missing, what)| missing.then_some(what));
    let mut all: Vec<Missing> = not_said.collect();
    for what in not_counted.map(Missing::Omitted) {
        if !all.contains(&what) {
            all.push(what);
        }
    }
    all
}

fn in_the_log(who: &Principal<'_>, missing: &[Missing]) -> String {
    let kind = who.identity.provider;
    if who.by == Proof::Session {
        return missing.iter().map(|what| format!("; {}", what.in_the_log(kind))).collect();
    }
    let texts = missing.iter().filter_map(|what| what.of_a_token(kind, who.provider == kind.as_str()));
    let text: String = texts.map(|text| format!("; {text}")).collect();
    let forms: Vec<_> = missing.iter().filter_map(|what| what.of_another_form()).collect();
    if forms.is_empty() { text } else { format!("{text}; in a form that does not count: {}", forms.join(", ")) }
}

/// What of a refused bearer token does not count, which is also logged where a list could have named its user by it.
fn omitted_of_refused<'a>(exchange: &Exchange, who: Option<&'a LoadedSession>, why: &Why) -> &'a [Omitted] {
    let Some(token) = who.filter(|who| who.is_token()) else { return &[] };
    if why.is_about_lists() {
        omitted::log(exchange, token);
    }
    token.omitted()
}

/// The answer to a refused request; also logs and counts the refusal.
fn refuse(exchange: &Exchange, ask: &Ask<'_>, refusal: &Refusal, session: Option<&LoadedSession>) -> Rejection {
    let snapshot = &exchange.snapshot;
    let rule = snapshot.rules.name(refusal.rule);
    snapshot.rule_metrics.refused(refusal, rule);
    let who = session.map(|session| principal(exchange, session));
    let is_quiet = match refusal.why {
        Why::Unauthenticated | Why::TooOld { .. } | Why::ManyUpstreams | Why::BehindPrefix => true,
        // Their audit lines are written with the denial.
        Why::NotListed | Why::NotNamed | Why::Lacks(_) | Why::Nobody => false,
    };
    if snapshot.audit_all && is_quiet {
        let by = Verdict { rule, reason: &refusal.why.to_string() };
        audit::decided(false, who.as_ref(), asked(exchange, ask.method, ask.path.as_written()), by, exchange.origin());
    }
    match refusal.why {
        Why::TooOld { max_age } if session.is_some_and(LoadedSession::is_token) => {
            bearer::note(exchange, "too_old", &format!("{}, by the rule {rule}", refusal.why));
            Rejection::Token(Challenge::TooOld { max_age })
        }
        Why::Unauthenticated => Rejection::Unauthenticated,
        Why::TooOld { max_age } => Rejection::StepUp { max_age },
        Why::ManyUpstreams => Malformed::Upstreams.into(),
        Why::BehindPrefix => Malformed::BehindPrefix.into(),
        Why::NotListed | Why::NotNamed | Why::Lacks(_) | Why::Nobody => {
            let has_session = session.is_some_and(|session| !session.is_token());
            denied(
                who.as_ref(),
                Some(asked(exchange, ask.method, ask.path.as_written())),
                omitted_of_refused(exchange, session, &refusal.why),
                rule,
                &refusal.why,
                has_session,
                exchange.origin(),
            )
        }
    }
}

/// The request, as the audit log describes it.
fn asked<'a>(exchange: &'a Exchange, method: &'a str, path: &'a str) -> Asked<'a> {
    let (headers, caller) = (&exchange.head.headers, &exchange.caller);
    // Without rules the judgement's input has no host.
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let forwarded_host = if caller.trusted { headers::host(headers, caller) } else { None };
    Asked { host, forwarded_host, method, path }
}

/// The principal of the request, with its client certificate.
fn principal<'a>(exchange: &'a Exchange, who: &'a LoadedSession) -> Principal<'a> {
    Principal { certificate: shown(exchange), ..who.principal() }
}

/// The connection's client certificate, unless it has expired.
pub(super) fn shown(exchange: &Exchange) -> Option<&ClientCertificate> {
    exchange.certificate.as_deref().filter(|certificate| certificate.is_valid(exchange.now))
}

/// Whether that person may have a session, by the current lists and rules.
pub(crate) fn admit_session(exchange: &Exchange, session: &LoadedSession) -> Result<(), Rejection> {
    let who = principal(exchange, session);
    let admitted = admit_person(&exchange.snapshot, &who, session.omitted(), !session.is_token(), exchange.origin());
    if admitted.is_err() && session.is_token() {
        omitted::log(exchange, session);
    }
    admitted
}

/// Whether a session may begin: some list, or some rule that is not public, could admit the person.
pub(super) fn admit_person(
    snapshot: &Snapshot,
    who: &Principal<'_>,
    omitted: &[Omitted],
    has_session: bool,
    origin: Origin<'_>,
) -> Result<(), Rejection> {
    if snapshot.rules.could_let_in(who) {
        return Ok(());
    }
    Err(denied(Some(who), None, omitted, NO_RULE, &Why::NotListed, has_session, origin))
}

/// A refusal by the rules: logged in the words that operators search for.
pub(super) fn denied(
    who: Option<&Principal<'_>>,
    asked: Option<Asked<'_>>,
    omitted: &[Omitted],
    rule: &str,
    why: &Why,
    has_session: bool,
    origin: Origin<'_>,
) -> Rejection {
    let name = who.map(|who| name(who.identity)).unwrap_or_default().to_owned();
    // That the provider does not state something is the commonest reason why no list matches.
    let missing = if why.is_about_lists() {
        who.map(|who| missing(who.identity, omitted)).unwrap_or_default()
    } else {
        Vec::new()
    };
    let about = who.map(|who| in_the_log(who, &missing)).unwrap_or_default();
    let reason = format!("{why}{about}");
    audit::denied(&name, who, asked, Verdict { rule, reason: &reason }, origin);
    let rule = (rule != NO_RULE).then(|| rule.to_owned());
    let denial = Denial { rule, why: Some(why.clone()), missing };
    Rejection::NotAllowed { who: name, has_session, denial: Box::new(denial) }
}

/// The name by which people know themselves: the vouched email, else the username, else the id.
pub(super) fn name(who: &Identity) -> &str {
    [who.email_str(), who.username.as_str(), who.id.as_str()]
        .into_iter()
        .find(|name| !name.is_empty())
        .unwrap_or_default()
}
