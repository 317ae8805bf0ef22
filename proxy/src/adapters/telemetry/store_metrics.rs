//! The metrics of a session store on the network.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Labels = [(&'static str, &'static str); 1];

/// The counters of a session store, cheap to clone. They stay at zero with a store in memory.
#[derive(Clone, Default)]
pub struct StoreMetrics {
    /// Calls that succeeded.
    pub succeeded: Counter,
    /// Calls that failed or timed out.
    pub failed: Counter,
    /// Calls that were not made because the store is known to be down.
    pub refused: Counter,
    /// Sessions found in memory.
    pub hits: Counter,
    /// Sessions read from the store.
    pub misses: Counter,
    /// 1 while the store responds.
    pub reachable: Gauge,
    /// 1 while subscribed to news of ended sessions.
    pub channel: Gauge,
}

impl StoreMetrics {
    /// Creates and registers the counters.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let calls = Family::<Labels, Counter>::default();
        registry.register("sidegate_store_calls", "Calls to the session store, by how they went", calls.clone());
        let lookups = Family::<Labels, Counter>::default();
        registry.register(
            "sidegate_session_lookups",
            "Sessions of a shared store that were looked up, by where they were found",
            lookups.clone(),
        );
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let call = |outcome| calls.get_or_create_owned(&[("outcome", outcome)]);
        let lookup = |found| lookups.get_or_create_owned(&[("found", found)]);
        let metrics = Self {
            succeeded: call("succeeded"),
            failed: call("failed"),
            refused: call("refused"),
            hits: lookup("memory"),
            misses: lookup("store"),
            reachable: gauge(
                "sidegate_store_reachable",
                "1 while the shared session store answers, and where there is none",
            ),
            channel: gauge(
                "sidegate_store_channel",
                "1 while news of ended sessions is listened to, and where there is none",
            ),
        };
        metrics.shared(false);
        metrics
    }

    /// Says whether there is a shared store: until it is reached it counts as down; without one, nothing is down.
    pub fn shared(&self, shared: bool) {
        let found = i64::from(!shared);
        self.reachable.set(found);
        self.channel.set(found);
    }
}
