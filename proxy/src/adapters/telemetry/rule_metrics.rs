//! What the rules decide, counted for each rule.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::domain::judge::Refusal;
use crate::domain::rules::{RuleId, Rules};

type Labels = Vec<(&'static str, String)>;

/// The counters of all rules that there have been.
#[derive(Clone, Default)]
pub struct RuleMetrics {
    permits: Family<Labels, Counter>,
    refusals: Family<Labels, Counter>,
}

impl RuleMetrics {
    /// Registers both.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "sidegate_rule_permits",
            "Requests that a rule let in, by its name or number",
            metrics.permits.clone(),
        );
        registry.register(
            "sidegate_rule_refusals",
            "Requests that were not let in, by the rule (- is none) and the reason",
            metrics.refusals.clone(),
        );
        metrics
    }

    /// The counters of these rules: made now, so that a request looks nothing up.
    #[must_use]
    pub fn of(&self, rules: &Rules) -> RuleCounters {
        let permit = |rule: &str| self.permits.get_or_create_owned(&vec![("rule", rule.to_owned())]);
        RuleCounters { permits: rules.iter().map(|rule| permit(&rule.name)).collect(), refusals: self.refusals.clone() }
    }
}

/// The counters of the rules of the moment. A label's values are the operator's own names.
pub struct RuleCounters {
    permits: Vec<Counter>,
    refusals: Family<Labels, Counter>,
}

impl RuleCounters {
    /// A request was let in.
    pub fn permitted(&self, rule: Option<RuleId>) {
        if let Some(counter) = rule.and_then(|rule| self.permits.get(rule.place())) {
            counter.inc();
        }
    }

    /// A request was not let in, by the rule of that name.
    pub fn refused(&self, refusal: &Refusal, rule: &str) {
        let reason = refusal.why.code().to_owned();
        self.refusals.get_or_create_owned(&vec![("rule", rule.to_owned()), ("reason", reason)]).inc();
    }
}
