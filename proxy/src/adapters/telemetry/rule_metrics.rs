//! The decisions of the rules, counted for each rule.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::domain::judge::{Refusal, Why};
use crate::domain::rules::{NO_RULE, RuleId, Rules};

type Labels = Vec<(&'static str, String)>;

/// The counters of all rules since the start.
#[derive(Clone, Default)]
pub struct RuleMetrics {
    permits: Family<Labels, Counter>,
    refusals: Family<Labels, Counter>,
}

impl RuleMetrics {
    /// Registers both metrics.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "sidegate_rule_permits",
            "Requests that were let in, by the rule (its name or number; - is none)",
            metrics.permits.clone(),
        );
        registry.register(
            "sidegate_rule_refusals",
            "Requests that were not let in, by the rule (- is none) and the reason",
            metrics.refusals.clone(),
        );
        metrics
    }

    /// The counters of these rules, created now, so that a request needs no look-up.
    #[must_use]
    pub fn of(&self, rules: &Rules) -> RuleCounters {
        let permit = |rule: &str| self.permits.get_or_create_owned(&vec![("rule", rule.to_owned())]);
        let counters = RuleCounters {
            permits: rules.iter().map(|rule| permit(&rule.name)).collect(),
            no_rule: permit(NO_RULE),
            refusals: self.refusals.clone(),
        };
        // Created at the start, so that a rise from zero is visible.
        drop(counters.refusal(NO_RULE, Why::NotListed.code()));
        counters
    }
}

/// The counters of the current rules. A label's values are the operator's own names.
pub struct RuleCounters {
    permits: Vec<Counter>,
    no_rule: Counter,
    refusals: Family<Labels, Counter>,
}

impl RuleCounters {
    fn refusal(&self, rule: &str, reason: &str) -> Counter {
        self.refusals.get_or_create_owned(&vec![("rule", rule.to_owned()), ("reason", reason.to_owned())])
    }

    /// Counts a permitted request.
    pub fn permitted(&self, rule: Option<RuleId>) {
        rule.and_then(|rule| self.permits.get(rule.place())).unwrap_or(&self.no_rule).inc();
    }

    /// Counts a request refused by the rule of that name.
    pub fn refused(&self, refusal: &Refusal, rule: &str) {
        self.refusal(rule, refusal.why.code()).inc();
    }
}
