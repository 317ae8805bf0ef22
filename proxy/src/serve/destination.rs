//! The upstreams that rules name, and that of `UPSTREAM_URL` if its identity fields are configured: what is sent and allowed there.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderMap;

use crate::adapters::telemetry::UpstreamCounters;
use crate::adapters::upstream::{Backends, TokenFile};
use crate::domain::rules::{RuleId, Rules, without_prefix};
use crate::serve::body::RequestBody;
use crate::serve::identity_fields::IdentityFieldsBuilder;
use crate::serve::log_limit::LogLimit;
use crate::serve::upstream_settings::Manner;

/// An upstream, ready for requests.
pub(crate) struct Destination {
    pub(crate) name: String,
    pub(crate) backends: Arc<Backends<RequestBody>>,
    pub(crate) manner: Manner,
    /// `None` in open mode, where there is no identity.
    pub(crate) identity_fields: Option<IdentityFieldsBuilder>,
    /// Whether it impersonates people, so that no request without an identity goes there.
    pub(crate) impersonates: bool,
    /// When it was last logged that it rejects our credential.
    pub(crate) rejection_limit: LogLimit,
    /// Our bearer token there.
    pub(crate) token: Option<Arc<TokenFile>>,
    pub(crate) counters: UpstreamCounters,
}

impl Destination {
    /// Path and query as sent to the upstream, and whether a prefix was removed. A path without the prefix stays
    /// unchanged.
    pub(crate) fn target<'t>(&self, target: &'t str) -> (Cow<'t, str>, bool) {
        let prefix = self.manner.strip_prefix.as_deref();
        match prefix.and_then(|prefix| without_prefix(target, prefix, self.manner.ignores_case)) {
            Some(rest) => (rest, true),
            None => (Cow::Borrowed(target), false),
        }
    }

    /// Changes the header fields of a response as configured.
    pub(crate) fn change(&self, headers: &mut HeaderMap) {
        for name in &self.manner.remove {
            headers.remove(name);
        }
        for (name, value) in &self.manner.set {
            headers.insert(name.clone(), value.clone());
        }
    }

    /// Its current problems, a line each.
    pub(crate) fn troubles(&self) -> impl Iterator<Item = String> {
        let token = self.token.as_ref().and_then(|token| token.trouble());
        self.backends.troubles().into_iter().chain(token).map(|why| format!("upstream {}: {why}", self.name))
    }
}

/// All upstreams, and which rule routes to which.
#[derive(Default)]
pub(crate) struct Destinations {
    all: Vec<Arc<Destination>>,
    /// Indexed by the rule's position; `None`: to the upstream of `UPSTREAM_URL`.
    of_rules: Box<[Option<Arc<Destination>>]>,
    /// The upstream of `UPSTREAM_URL`, if its identity fields are configured.
    usual: Option<Arc<Destination>>,
}

impl Destinations {
    /// `usual`: the upstream of `UPSTREAM_URL`, if its identity fields are configured.
    pub(crate) fn new(named: Vec<Arc<Destination>>, usual: Option<Arc<Destination>>, rules: &Rules) -> Self {
        let leads = |name: &str| named.iter().find(|destination| destination.name == name).cloned();
        let of_rules = rules.iter().map(|rule| rule.upstream.as_deref().and_then(leads));
        let of_rules = of_rules.collect();
        Self { all: named.into_iter().chain(usual.clone()).collect(), of_rules, usual }
    }

    /// The upstream of a request that this rule admits; `None`: the upstream of `UPSTREAM_URL`, with the usual identity fields.
    pub(crate) fn of(&self, rule: Option<RuleId>) -> Option<&Arc<Destination>> {
        rule.and_then(|rule| self.of_rules.get(rule.place())?.as_ref()).or(self.usual.as_ref())
    }

    /// Each once.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Destination>> {
        self.all.iter()
    }
}
