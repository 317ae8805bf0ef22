//! The metrics for Prometheus.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::rule_metrics::RuleMetrics;
use super::store_metrics::StoreMetrics;
use super::upstream_metrics::UpstreamMetrics;
use crate::domain::time::Timestamp;

/// The `Content-Type` of [`Metrics::render`].
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The possible outcomes of a session renewal.
const RENEWALS: [&str; 10] =
    ["renewed", "ended", "put_off", "deferred", "taken", "adopted", "ended_before", "store_away", "lost", "unusable"];

/// The possible outcomes of checking a bearer token.
const TOKENS: [&str; 6] = ["verified", "remembered", "invalid", "malformed", "unknown", "too_old"];

type Labels = [(&'static str, &'static str); 1];
type TwoLabels = [(&'static str, &'static str); 2];

/// All metrics. Each handle is an atomic: counting takes no lock, and its only lookup is of a code in a short list.
pub struct Metrics {
    registry: Registry,
    forwarded: ByClass,
    answered: ByClass,
    refused: ByCode,
    sign_ins: ByCode,
    renewals: ByCode,
    tokens: ByCode,
    durations: Durations,
    /// Sign-outs.
    pub sign_outs: Counter,
    /// Open client connections; count with [`Held`].
    pub downstream_connections: Gauge,
    /// Client connections that were closed because there were too many, or they used too much memory.
    pub connections_shed: Counter,
    /// Open connections to the upstream of `UPSTREAM_URL`; count with [`Held`].
    pub upstream_connections: Gauge,
    /// Failed attempts to connect to that upstream.
    pub upstream_connect_errors: Counter,
    /// Requests that were sent to that upstream a second time.
    pub upstream_retries: Counter,
    /// Timeouts of that upstream.
    pub upstream_timeouts: Counter,
    /// Sessions in this replica's memory; set it before rendering.
    pub sessions_held: Gauge,
    /// Sessions that were evicted for lack of room.
    pub sessions_evicted: Counter,
    /// Calls to the session store, and those that memory saves.
    pub store: StoreMetrics,
    /// What the rules decide.
    pub rules: RuleMetrics,
    /// The requests to named upstreams.
    pub upstreams: UpstreamMetrics,
    reloads: [Counter; 2],
    moments: Arc<Moments>,
}

impl Metrics {
    /// Counts refusals by these codes, and sign-ins by these outcomes (`succeeded` is always one). They bound the label's values: any
    /// other code counts as `other`.
    #[must_use]
    pub fn new(refusals: &[&'static str], sign_ins: &[&'static str]) -> Self {
        let mut registry = Registry::default();
        let requests = Family::<TwoLabels, Counter>::default();
        registry.register(
            "sidegate_requests",
            "Requests, by what became of them: the class of the status, or the code of the refusal",
            requests.clone(),
        );
        let outcomes = Family::<Labels, Counter>::default();
        registry.register("sidegate_sign_ins", "Attempts to sign in that came to an end, by how", outcomes.clone());
        let renewals = Family::<Labels, Counter>::default();
        registry.register(
            "sidegate_session_renewals",
            "Sessions whose provider was to be asked again, by what came of it",
            renewals.clone(),
        );
        let tokens = Family::<Labels, Counter>::default();
        registry.register("sidegate_bearer_tokens", "Bearer tokens of requests, by what came of them", tokens.clone());
        let reloads = Family::<Labels, Counter>::default();
        registry.register("sidegate_reloads", "Configurations that were read again, by how that went", reloads.clone());
        let connections = Family::<Labels, Gauge>::default();
        registry.register(
            "sidegate_connections",
            "Open connections, of clients (downstream) and to upstreams",
            connections.clone(),
        );
        let durations = Durations::default();
        registry.register_with_unit(
            "sidegate_request_duration",
            "From the head of a request to the head of its answer",
            Unit::Seconds,
            durations.clone(),
        );
        let moments = Arc::new(Moments::default());
        registry.register_collector(Box::new(Arc::clone(&moments)));
        registry.register_collector(Box::new(Process));
        registry.register_collector(Box::new(LostLines));
        registry.register("sidegate_build", "What runs here", Info::new([("version", env!("CARGO_PKG_VERSION"))]));

        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let sign_outs = counter("sidegate_sign_outs", "People who signed out");
        let connections_shed =
            counter("sidegate_connections_shed", "Connections of clients that were closed to make room for others");
        let sessions_evicted = counter("sidegate_sessions_evicted", "Sessions that were given up for want of room");
        let sessions_held = Gauge::default();
        registry.register("sidegate_sessions_held", "Sessions in this replica's memory", sessions_held.clone());

        let store = StoreMetrics::new(&mut registry);
        let rules = RuleMetrics::new(&mut registry);
        let upstreams = UpstreamMetrics::new(&mut registry);
        let [upstream_connect_errors, upstream_retries, upstream_timeouts] = upstreams.of_default();
        let outcome = |outcome, code| requests.get_or_create_owned(&[("outcome", outcome), ("code", code)]);
        let side = |side| connections.get_or_create_owned(&[("side", side)]);
        Self {
            forwarded: ByClass::new(|class| outcome("forwarded", class)),
            answered: ByClass::new(|class| outcome("answered", class)),
            refused: ByCode::new(refusals, |code| outcome("refused", code)),
            sign_ins: ByCode::new(&[&["succeeded"], sign_ins].concat(), |code| {
                outcomes.get_or_create_owned(&[("outcome", code)])
            }),
            renewals: ByCode::new(&RENEWALS, |code| renewals.get_or_create_owned(&[("outcome", code)])),
            tokens: ByCode::new(&TOKENS, |code| tokens.get_or_create_owned(&[("outcome", code)])),
            durations,
            sign_outs,
            downstream_connections: side("downstream"),
            connections_shed,
            upstream_connections: side("upstream"),
            upstream_connect_errors,
            upstream_retries,
            upstream_timeouts,
            sessions_held,
            sessions_evicted,
            store,
            rules,
            upstreams,
            reloads: ["failed", "succeeded"].map(|result| reloads.get_or_create_owned(&[("result", result)])),
            moments,
            registry,
        }
    }

    /// Counts a request that the upstream answered with `status` after `took`.
    pub fn forwarded(&self, status: StatusCode, took: Duration) {
        self.forwarded.of(status).inc();
        self.durations.observe(took);
    }

    /// Counts a request that the proxy answered itself, as requested.
    pub fn answered(&self, status: StatusCode) {
        self.answered.of(status).inc();
    }

    /// Counts a refused request by the response's code; a browser redirected to sign in counts as `unauthenticated`.
    pub fn refused(&self, code: &'static str) {
        self.refused.of(code).inc();
    }

    /// Counts a finished sign-in: `succeeded`, or the response's code.
    pub fn sign_in(&self, outcome: &'static str) {
        self.sign_ins.of(outcome).inc();
    }

    /// Counts a session renewal by its outcome, one of a few words.
    pub fn renewal(&self, outcome: &'static str) {
        self.renewals.of(outcome).inc();
    }

    /// Counts a request with a bearer token by its outcome, one of a few words.
    pub fn bearer(&self, outcome: &'static str) {
        self.tokens.of(outcome).inc();
    }

    /// Counts a reload of the configuration at `now`, or the first load.
    pub fn reloaded(&self, succeeded: bool, now: Timestamp) {
        let [failures, successes] = &self.reloads;
        if succeeded {
            successes.inc()
        } else {
            failures.inc()
        };
        self.moments.last_reload_failed.store(u64::from(!succeeded), Ordering::Relaxed);
        if succeeded {
            self.moments.last_reload.store(now.secs(), Ordering::Relaxed);
        }
    }

    /// When the certificate for clients expires, in seconds since the Unix epoch.
    pub fn certificate_ends(&self, not_after: i64) {
        self.moments.certificate_end.store(not_after, Ordering::Relaxed);
    }

    /// All metrics in the OpenMetrics text format, which goes with [`METRICS_CONTENT_TYPE`].
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        // Writing to a string does not fail; if one metric did, the others would still be useful.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

/// Something that is held (a connection): the gauge counts it until this is dropped.
pub struct Held(Gauge);

impl Held {
    /// Counts one more.
    #[must_use]
    pub fn by(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// One counter for each status class.
struct ByClass([Counter; 5]);

impl ByClass {
    fn new(counter: impl Fn(&'static str) -> Counter) -> Self {
        Self(["1xx", "2xx", "3xx", "4xx", "5xx"].map(counter))
    }

    /// A status beyond 599 (RFC 9110 §15 lets a client treat it as 5xx) counts as 5xx.
    const fn of(&self, status: StatusCode) -> &Counter {
        let [informational, success, redirection, client_error, server_error] = &self.0;
        match status.as_u16() / 100 {
            1 => informational,
            2 => success,
            3 => redirection,
            4 => client_error,
            _ => server_error,
        }
    }
}

/// One counter for each code in a list, and one for all others.
struct ByCode {
    known: Vec<(&'static str, Counter)>,
    other: Counter,
}

impl ByCode {
    fn new(codes: &[&'static str], counter: impl Fn(&'static str) -> Counter) -> Self {
        Self { known: codes.iter().map(|code| (*code, counter(code))).collect(), other: counter("other") }
    }

    fn of(&self, code: &'static str) -> &Counter {
        self.known.iter().find(|(known, _)| *known == code).map_or(&self.other, |(_, counter)| counter)
    }
}

/// The upper bounds of the histogram's buckets, in seconds.
const BOUNDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// A histogram of atomics: the crate's own locks for each value.
#[derive(Clone, Debug, Default)]
struct Durations(Arc<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    /// Not cumulative; the last counts values above all bounds.
    counts: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Durations {
    fn observe(&self, took: Duration) {
        let bucket = BOUNDS.partition_point(|bound| *bound < took.as_secs_f64());
        if let Some(count) = self.0.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.0.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(0), Ordering::Relaxed);
    }
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> =
            bounds.zip(&self.0.counts).map(|(bound, count)| (bound, count.load(Ordering::Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        #[expect(clippy::cast_precision_loss, reason = "285 years of microseconds are exact")]
        let sum = self.0.micros.load(Ordering::Relaxed) as f64 / 1e6;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// Points in time, omitted until they are known: a zero would look like a certificate that expired in 1970.
#[derive(Debug, Default)]
struct Moments {
    certificate_end: AtomicI64,
    last_reload: AtomicU64,
    last_reload_failed: AtomicU64,
}

impl Collector for Moments {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name: &str, help: &str, value: i64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
        };
        let certificate_end = self.certificate_end.load(Ordering::Relaxed);
        if certificate_end != 0 {
            gauge(
                "sidegate_certificate_expiry_timestamp_seconds",
                "When the certificate that clients are shown ends",
                certificate_end,
            )?;
        }
        let last_reload = self.last_reload.load(Ordering::Relaxed);
        if last_reload != 0 {
            let last_reload = i64::try_from(last_reload).unwrap_or(i64::MAX);
            gauge(
                "sidegate_config_last_reload_success_timestamp_seconds",
                "When the configuration in force was read",
                last_reload,
            )?;
        }
        let successful = i64::from(self.last_reload_failed.load(Ordering::Relaxed) == 0);
        gauge(
            "sidegate_config_last_reload_successful",
            "Whether the configuration that was read last is the one in force",
            successful,
        )
    }
}

/// The process's resource usage, read on demand (Linux only; omitted elsewhere). All Prometheus clients use these names.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if let Some(bytes) = std::fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident_bytes) {
            let name = "process_resident_memory_bytes";
            let gauge = ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, "Resident memory", None, MetricType::Gauge)?)?;
        }
        if let Some(seconds) = std::fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(cpu_seconds) {
            let counter = ConstCounter::new(seconds);
            counter.encode(encoder.encode_descriptor(
                "process_cpu_seconds",
                "CPU time, user and system",
                None,
                MetricType::Counter,
            )?)?;
        }
        Ok(())
    }
}

/// Bodies that were cut off by TIMEOUT_BODY: of requests, and of responses.
static BODIES_CUT: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// Whose body it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Request,
    /// The upstream's.
    Answer,
}

impl Side {
    /// Counts a body of this side that was cut off because no bytes moved.
    pub fn note_body_cut(self) {
        let [requests, answers] = &BODIES_CUT;
        let count = if self == Self::Request { requests } else { answers };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Log lines that were lost since the process started.
#[derive(Debug)]
struct LostLines;

impl Collector for LostLines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Lines of the log that could not be written, since its reader was too slow or away";
        let lost = ConstCounter::new(log_lines::lost_lines());
        lost.encode(encoder.encode_descriptor("sidegate_log_lines_lost", help, None, MetricType::Counter)?)?;
        let help = "Audit lines that could not be written to AUDIT_FILE";
        let lost = ConstCounter::new(super::lost_audit_lines());
        lost.encode(encoder.encode_descriptor("sidegate_audit_lines_lost", help, None, MetricType::Counter)?)?;
        let help = "Bodies that were cut off since they moved no byte for TIMEOUT_BODY";
        let mut encoder = encoder.encode_descriptor("sidegate_bodies_cut", help, None, MetricType::Counter)?;
        for (side, count) in ["request", "answer"].into_iter().zip(&BODIES_CUT) {
            let count = ConstCounter::new(count.load(Ordering::Relaxed));
            count.encode(encoder.encode_family(&[("of", side)])?)?;
        }
        Ok(())
    }
}

/// `VmRSS:    1234 kB` in `/proc/self/status`, which unlike `stat` does not count in pages.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// `utime` and `stime` in `/proc/self/stat` (proc_pid_stat(5)), in ticks of 1/100 s on every architecture that Rust supports. The
/// program's name in parentheses may contain spaces, so fields are counted from its end.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / 100.0)
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new(&["unauthenticated", "not_allowed"], &["invalid_state"])
    }

    fn has(metrics: &Metrics, line: &str) {
        let text = metrics.render();
        assert!(text.lines().any(|found| found == line), "no `{line}` in\n{text}");
    }

    #[test]
    fn requests_are_counted_by_what_became_of_them() {
        let metrics = metrics();
        metrics.forwarded(StatusCode::OK, Duration::from_millis(3));
        metrics.forwarded(StatusCode::SWITCHING_PROTOCOLS, Duration::from_millis(3));
        metrics.forwarded(StatusCode::from_u16(999).unwrap(), Duration::from_millis(3));
        metrics.answered(StatusCode::FOUND);
        metrics.refused("not_allowed");
        metrics.refused("not_allowed");
        metrics.refused("never heard of");
        has(&metrics, r#"sidegate_requests_total{outcome="forwarded",code="2xx"} 1"#);
        has(&metrics, r#"sidegate_requests_total{outcome="forwarded",code="1xx"} 1"#);
        has(&metrics, r#"sidegate_requests_total{outcome="forwarded",code="5xx"} 1"#);
        has(&metrics, r#"sidegate_requests_total{outcome="answered",code="3xx"} 1"#);
        has(&metrics, r#"sidegate_requests_total{outcome="refused",code="not_allowed"} 2"#);
        has(&metrics, r#"sidegate_requests_total{outcome="refused",code="other"} 1"#);
        has(&metrics, r#"sidegate_requests_total{outcome="refused",code="unauthenticated"} 0"#);
    }

    #[test]
    fn sign_ins_are_counted_by_their_end() {
        let metrics = metrics();
        metrics.sign_in("succeeded");
        metrics.sign_in("invalid_state");
        metrics.sign_outs.inc();
        has(&metrics, r#"sidegate_sign_ins_total{outcome="succeeded"} 1"#);
        has(&metrics, r#"sidegate_sign_ins_total{outcome="invalid_state"} 1"#);
        has(&metrics, "sidegate_sign_outs_total 1");
    }

    #[test]
    fn renewals_are_counted_by_what_came_of_them() {
        let metrics = metrics();
        for outcome in RENEWALS {
            metrics.renewal(outcome);
            has(&metrics, &format!(r#"sidegate_session_renewals_total{{outcome="{outcome}"}} 1"#));
        }
    }

    #[test]
    fn what_is_held_is_counted_until_it_is_let_go() {
        let metrics = metrics();
        let one = Held::by(&metrics.downstream_connections);
        let _two = Held::by(&metrics.downstream_connections);
        drop(one);
        has(&metrics, r#"sidegate_connections{side="downstream"} 1"#);
        has(&metrics, r#"sidegate_connections{side="upstream"} 0"#);
    }

    #[test]
    fn durations_fall_into_cumulative_buckets() {
        let metrics = metrics();
        for millis in [1, 3, 70_000] {
            metrics.forwarded(StatusCode::OK, Duration::from_millis(millis));
        }
        has(&metrics, r#"sidegate_request_duration_seconds_bucket{le="0.001"} 1"#);
        has(&metrics, r#"sidegate_request_duration_seconds_bucket{le="0.0025"} 1"#);
        has(&metrics, r#"sidegate_request_duration_seconds_bucket{le="0.005"} 2"#);
        has(&metrics, r#"sidegate_request_duration_seconds_bucket{le="60.0"} 2"#);
        has(&metrics, r#"sidegate_request_duration_seconds_bucket{le="+Inf"} 3"#);
        has(&metrics, "sidegate_request_duration_seconds_count 3");
        has(&metrics, "sidegate_request_duration_seconds_sum 70.004");
    }

    #[test]
    fn a_failed_reload_shows_and_the_time_of_the_last_good_one_stays() {
        let metrics = metrics();
        has(&metrics, "sidegate_config_last_reload_successful 1");
        metrics.reloaded(true, Timestamp::from_secs(100));
        metrics.reloaded(false, Timestamp::from_secs(200));
        has(&metrics, "sidegate_config_last_reload_successful 0");
        has(&metrics, "sidegate_config_last_reload_success_timestamp_seconds 100");
        has(&metrics, r#"sidegate_reloads_total{result="failed"} 1"#);
        has(&metrics, r#"sidegate_reloads_total{result="succeeded"} 1"#);
    }

    #[test]
    fn a_certificates_expiry_is_published_only_where_there_is_one() {
        let metrics = metrics();
        assert!(!metrics.render().contains("certificate"));
        metrics.certificate_ends(1_800_000_000);
        has(&metrics, "sidegate_certificate_expiry_timestamp_seconds 1800000000");
    }

    #[test]
    fn the_rest_is_there_from_the_start() {
        let metrics = metrics();
        has(&metrics, concat!(r#"sidegate_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#));
        for name in ["sessions_evicted", "connections_shed"] {
            has(&metrics, &format!("sidegate_{name}_total 0"));
        }
        for name in ["upstream_connect_errors", "upstream_retries", "upstream_timeouts"] {
            has(&metrics, &format!("sidegate_{name}_total{{upstream=\"default\"}} 0"));
        }
        has(&metrics, "sidegate_sessions_held 0");
        let text = metrics.render();
        assert!(text.ends_with("# EOF\n"));
        if cfg!(target_os = "linux") {
            assert!(
                text.contains("\nprocess_resident_memory_bytes ") && text.contains("\nprocess_cpu_seconds_total "),
                "{text}"
            );
        }
    }

    #[test]
    fn process_files_are_read_as_linux_writes_them() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 150 0 0 20 0 3 0 12345 1000 200 1844";
        assert_eq!(cpu_seconds(stat), Some(4.0));
        assert_eq!(cpu_seconds("7 (a"), None);
        assert_eq!(resident_bytes("Name:\ta\nVmRSS:\t    12 kB\nVmData: 1 kB\n"), Some(12 * 1024));
        assert_eq!(resident_bytes(""), None);
    }
}
