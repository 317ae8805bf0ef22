//! The outcomes of the requests to each upstream.

use std::time::Duration;

use http::StatusCode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Labels = Vec<(&'static str, String)>;

/// The name of the upstream of `UPSTREAM_URL`.
pub const DEFAULT_UPSTREAM: &str = "default";

/// The counters of all upstreams since the start.
#[derive(Clone, Default)]
pub struct UpstreamMetrics {
    requests: Family<Labels, Counter>,
    seconds: Family<Labels, Counter<f64, std::sync::atomic::AtomicU64>>,
    connect_errors: Family<Labels, Counter>,
    retries: Family<Labels, Counter>,
    timeouts: Family<Labels, Counter>,
    connections: Family<Labels, Gauge>,
}

/// The counters of one upstream.
pub struct UpstreamCounters {
    /// By the response's status class.
    requests: [Counter; 5],
    /// The total time from the head of a request to the head of its response.
    seconds: Counter<f64, std::sync::atomic::AtomicU64>,
    /// Failed attempts to connect.
    pub connect_errors: Counter,
    /// Requests that were sent a second time.
    pub retries: Counter,
    /// Timeouts.
    pub timeouts: Counter,
    /// Open connections.
    pub connections: Gauge,
}

impl UpstreamMetrics {
    /// Registers all metrics.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let all = Self::default();
        registry.register(
            "sidegate_upstream_requests",
            "Answers of named upstreams, by the class of the status",
            all.requests.clone(),
        );
        registry.register(
            "sidegate_upstream_seconds",
            "How long named upstreams took to the head of their answers, all together",
            all.seconds.clone(),
        );
        registry.register(
            "sidegate_upstream_connect_errors",
            "Connections to upstreams that could not be made",
            all.connect_errors.clone(),
        );
        registry.register(
            "sidegate_upstream_retries",
            "Requests that were sent to an upstream a second time",
            all.retries.clone(),
        );
        registry.register("sidegate_upstream_timeouts", "Upstreams that did not answer in time", all.timeouts.clone());
        registry.register(
            "sidegate_upstream_connections",
            "Open connections to named upstreams",
            all.connections.clone(),
        );
        all
    }

    /// The counters of the upstream of that name.
    #[must_use]
    pub fn of(&self, name: &str) -> UpstreamCounters {
        let label = || vec![("upstream", name.to_owned())];
        let class = |class: &str| vec![("upstream", name.to_owned()), ("code", class.to_owned())];
        UpstreamCounters {
            requests: ["1xx", "2xx", "3xx", "4xx", "5xx"].map(|name| self.requests.get_or_create_owned(&class(name))),
            seconds: self.seconds.get_or_create_owned(&label()),
            connect_errors: self.connect_errors.get_or_create_owned(&label()),
            retries: self.retries.get_or_create_owned(&label()),
            timeouts: self.timeouts.get_or_create_owned(&label()),
            connections: self.connections.get_or_create_owned(&label()),
        }
    }

    /// The counters of the upstream of `UPSTREAM_URL`: failed connection attempts, retries, timeouts.
    #[must_use]
    pub fn of_default(&self) -> [Counter; 3] {
        let label = vec![("upstream", DEFAULT_UPSTREAM.to_owned())];
        [&self.connect_errors, &self.retries, &self.timeouts].map(|family| family.get_or_create_owned(&label))
    }
}

impl UpstreamCounters {
    /// Counts a response with `status` after `took`.
    pub fn answered(&self, status: StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        if let Some(counter) = self.requests.get(class) {
            counter.inc();
        }
        self.seconds.inc_by(took.as_secs_f64());
    }
}
