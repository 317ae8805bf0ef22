//! Judges the path that an upstream reads after a prefix was removed, as if the prefix were still there.

use std::sync::Arc;

use super::passage::path_and_request_id;
use crate::domain::judge::{Ask, Permit, judge};
use crate::domain::readings::Readings;
use crate::ports::LoadedSession;
use crate::serve::answer::rejection::Rejection;
use crate::serve::exchange::{Exchange, Refused};
use crate::serve::request::headers::Malformed;
use crate::serve::request::question;

/// Judges again a request whose path has lost `prefix`: `/app/../admin` becomes `/../admin`, which a server reads as its
/// `/admin`, and which the rules know as `/app/admin`. A plain path reads the same with and without its prefix.
pub(super) fn judge_stripped(
    permit: &Permit<Arc<LoadedSession>>,
    exchange: &Exchange,
    prefix: &str,
    target: &str,
) -> Result<(), Refused> {
    let (snapshot, path) = (&exchange.snapshot, target.split_once('?').map_or(target, |(path, _)| path));
    let stripped = Readings::of(path).map_err(Malformed::Path).map_err(Rejection::Malformed)?;
    if stripped.is_plain() {
        return Ok(());
    }
    let leads_to = |rule| snapshot.rules.get(rule).and_then(|rule| rule.upstream.as_deref());
    let wanted = permit.rule().and_then(leads_to);
    for reading in stripped.iter() {
        let whole = format!("{prefix}{reading}");
        let readings = Readings::of(&whole).map_err(Malformed::Path).map_err(Rejection::Malformed)?;
        let ask = question::ask(&exchange.head, &exchange.caller, &snapshot.rules, &readings, exchange.now);
        let ask = Ask { certificate: exchange.certificate.as_deref(), ..ask };
        let lets_in = match judge(&snapshot.rules, &ask, permit.session().cloned()) {
            Ok(again) => again.rule().and_then(leads_to) == wanted,
            Err(_) => false,
        };
        if !lets_in {
            let (path, request_id) = path_and_request_id(exchange);
            tracing::info!(%path, %request_id, "refused: behind the prefix {prefix} the upstream would read a path that the rules do not let in, or lead elsewhere");
            return Err(Rejection::Malformed(Malformed::Upstreams).into());
        }
    }
    Ok(())
}
