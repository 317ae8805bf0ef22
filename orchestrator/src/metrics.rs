//! The metrics for Prometheus.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::StatusCode;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::fleet::{Fleet, HealthState, Status};
use crate::lines;

/// The `Content-Type` of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The upper bounds of the histogram's buckets, in seconds.
const BOUNDS: [f64; 9] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 1.0, 5.0, 10.0];

type Label<const N: usize> = [(&'static str, String); N];

/// All metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Label<2>, Counter>,
    durations: Histogram,
    clusters: Family<Label<1>, Gauge>,
    objects: Family<Label<1>, Gauge>,
    streams: Gauge,
    lost_lines: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("orchestrator");
        let requests = Family::default();
        registry.register("requests", "Requests, by route and class of status", requests.clone());
        let durations = Histogram::new(BOUNDS);
        let help = "From a request to the head of its answer";
        registry.register_with_unit("request_duration", help, Unit::Seconds, durations.clone());
        let clusters = Family::default();
        registry.register("clusters", "Clusters, by whether they can be reached", clusters.clone());
        let objects = Family::default();
        registry.register("objects", "Flux objects, by status", objects.clone());
        let streams = Gauge::default();
        registry.register("event_streams", "Open event streams", streams.clone());
        let lost_lines = Counter::default();
        let help = "Lines of the log that could not be written, because nobody read them in time or at all";
        registry.register("log_lines_lost", help, lost_lines.clone());
        registry.register("build", "What runs here", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        Self { registry, requests, durations, clusters, objects, streams, lost_lines }
    }
}

impl Metrics {
    /// Counts a response. The route is one of our patterns, so the number of label values is limited.
    pub fn answered(&self, route: String, status: StatusCode, took: Duration) {
        let class = format!("{}xx", status.as_u16() / 100);
        self.requests.get_or_create(&[("route", route), ("code", class)]).inc();
        self.durations.observe(took.as_secs_f64());
    }

    /// Updates the gauges, on each scrape.
    pub fn observe(&self, fleet: &Fleet, streams: usize) {
        let healths = fleet.healths();
        for (state, word) in
            [(HealthState::Up, "up"), (HealthState::Connecting, "connecting"), (HealthState::Down, "down")]
        {
            let count = healths.values().filter(|health| health.state == state).count();
            self.clusters.get_or_create(&[("state", word.to_owned())]).set(signed(count));
        }
        let counts = fleet.stats(None).unwrap_or_default().by_status;
        for status in Status::ALL {
            let count = match status {
                Status::Failed => counts.failed,
                Status::Progressing => counts.progressing,
                Status::Terminating => counts.terminating,
                Status::Unknown => counts.unknown,
                Status::Suspended => counts.suspended,
                Status::Ready => counts.ready,
            };
            self.objects.get_or_create(&[("status", status.word().to_owned())]).set(signed(count));
        }
        self.streams.set(signed(streams));
        self.lost_lines.inner().store(lines::lost_lines(), Ordering::Relaxed);
    }

    /// Renders all metrics in the OpenMetrics text format, which goes with [`CONTENT_TYPE`].
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail; if one metric did, the rest would still be useful.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn signed(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}
