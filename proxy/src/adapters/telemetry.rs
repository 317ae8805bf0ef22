//! Logs, metrics, audit events.

use std::fmt::{self, Debug};
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use log_lines::LogLine;
use tracing::Subscriber;
use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

pub mod audit;
mod audit_file;
mod clean;
mod lines;
mod metrics;
mod rule_metrics;
mod store_metrics;
mod upstream_metrics;

pub use audit_file::{audit_trouble, lost_audit_lines, reopen_audit_file};
pub use clean::Clean;
pub use lines::{Output, install_log_hooks, lost_lines, say};
pub use metrics::{Held, METRICS_CONTENT_TYPE, Metrics, Side};
pub use rule_metrics::{RuleCounters, RuleMetrics};
pub use store_metrics::StoreMetrics;
pub use upstream_metrics::{DEFAULT_UPSTREAM, UpstreamCounters, UpstreamMetrics};

use self::audit_file::AuditLine;

/// How long the program waits at its end for queued lines.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// `LOG_LEVEL`, `LOG_FORMAT` and `AUDIT_FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`) or a filter such as `info,sidegate=debug`.
    pub filter: String,
    /// The format of lines.
    pub format: LogFormat,
    /// The file that audit lines are appended to beside the log, whatever the filter is.
    pub audit_file: Option<PathBuf>,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is invalid.
    #[error(
        "`{filter}` is no log filter ({reason}): write a level (`error`, `warn`, `info`, `debug`, `trace`) or `info,sidegate=debug`"
    )]
    Filter {
        /// The filter's text.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another logger is already set up.
    #[error("the log was set up twice")]
    Twice,
}

impl LogSettings {
    /// Checks the filter, without setting anything up.
    ///
    /// # Errors
    /// [`LogError::Filter`] if it is invalid.
    pub fn check(&self) -> Result<(), LogError> {
        self.filter().map(|_| ())
    }

    /// A bare `debug` or `trace` applies to our own lines only: at these levels libraries log header fields, cookies among them, so they
    /// must be named explicitly.
    fn filter(&self) -> Result<EnvFilter, LogError> {
        let directives = match LevelFilter::from_str(self.filter.trim()) {
            Ok(level) if level > LevelFilter::INFO => format!("info,sidegate={level}"),
            Ok(level) => level.to_string(),
            Err(_) => self.filter.clone(),
        };
        EnvFilter::builder()
            .parse(directives)
            .map_err(|error| LogError::Filter { filter: self.filter.clone(), reason: error.to_string() })
    }
}

/// Sends log lines to standard error, and audit lines to their file, for the whole process. Call it once, at the start.
///
/// # Errors
/// [`LogError`] if the filter is invalid, or another logger is already set up.
pub fn init_logging(settings: &LogSettings) -> Result<(), LogError> {
    let terminal = std::io::stderr().is_terminal();
    let lines = match settings.format {
        LogFormat::Json => json(|| LogLine),
        LogFormat::Text => text(|| LogLine, terminal),
    };
    let filter = settings.filter()?;
    let audit = settings.audit_file.as_ref().map(|_| json(|| AuditLine));
    subscriber(lines, filter, audit).try_init().map_err(|_| LogError::Twice)?;
    if let Some(path) = &settings.audit_file {
        audit_file::start(path);
    }
    Ok(())
}

/// Waits until queued lines are written, for a second at most. Call it last.
pub fn flush() {
    let now = Instant::now();
    // First, since it may log something.
    audit_file::flush(now + LAST_WAIT / 2);
    log_lines::flush(now + LAST_WAIT);
}

/// A layer that formats and writes lines.
type LogLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// `lines` gets what the filter lets through, `audit` all audit lines.
fn subscriber(lines: LogLayer, filter: EnvFilter, audit: Option<LogLayer>) -> Box<dyn Subscriber + Send + Sync> {
    let Some(audit) = audit else { return Box::new(Registry::default().with(lines).with(filter)) };
    let is_audit = filter_fn(|metadata| metadata.target() == audit::TARGET);
    Box::new(Registry::default().with(vec![lines.with_filter(filter).boxed(), audit.with_filter(is_audit).boxed()]))
}

/// One flat object a line: `timestamp` (RFC 3339), `level`, `target`, `message`, and the event's own fields beside them.
fn json<W>(writer: W) -> LogLayer
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().json().flatten_event(true);
    Box::new(layer.with_current_span(false).with_span_list(false).with_writer(writer))
}

/// Lines for people; coloured only on a terminal, and only if `NO_COLOR` is not set (which the crate checks).
fn text<W>(writer: W, terminal: bool) -> LogLayer
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let fields = debug_fn(write_field).delimited(" ");
    let layer = tracing_subscriber::fmt::layer().fmt_fields(fields).with_writer(writer);
    if terminal { Box::new(layer) } else { Box::new(layer.with_ansi(false)) }
}

/// Writes a field as `name=1` or `name="text"`: quoted, so that text with blanks or `=` cannot pass for further fields.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    let (name, text) = (field.name(), format!("{value:?}"));
    if name == "message" {
        return writer.write_str(&text);
    }
    if writer.has_ansi_escapes() {
        write!(writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m")?;
    } else {
        write!(writer, "{name}=")?;
    }
    let is_number = text.parse::<f64>().is_ok() || text == "true" || text == "false";
    if is_number || is_quoted(&text) {
        writer.write_str(&text)
    } else {
        write!(writer, "\"{}\"", text.replace('"', "\\\""))
    }
}

/// Whether it is a single quoted text: a value logged as text is, a displayed one is not.
fn is_quoted(text: &str) -> bool {
    let Some(inner) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return false };
    let mut escaped = false;
    let ends_within = inner.chars().any(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    !ends_within && !escaped
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use serde_json::Value;
    use tracing::{debug, info};

    use super::*;

    /// Captured log output.
    #[derive(Clone, Default)]
    pub(super) struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }

        fn make(&self) -> impl for<'a> MakeWriter<'a> + Send + Sync + 'static {
            let lines = self.clone();
            move || lines.clone()
        }
    }

    fn filter(filter: &str) -> EnvFilter {
        LogSettings { filter: filter.into(), format: LogFormat::Json, audit_file: None }.filter().unwrap()
    }

    /// The lines that `work` logs at `level`, as JSON objects.
    pub(super) fn logged(level: &str, work: impl FnOnce()) -> Vec<Value> {
        let lines = Lines::default();
        tracing::subscriber::with_default(subscriber(json(lines.make()), filter(level), None), work);
        lines.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_json_line_is_one_flat_object() {
        let lines = logged("info", || info!(answer = 42, who = %Clean("a\nb"), "it \"runs\"\nwell"));
        assert_eq!(lines.len(), 1);
        let line = &lines[0];
        assert_eq!(line["message"], "it \"runs\"\nwell");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["answer"], 42);
        assert_eq!(line["who"], "a\\nb");
        let moment = line["timestamp"].as_str().unwrap();
        time::OffsetDateTime::parse(moment, &time::format_description::well_known::Rfc3339).unwrap();
    }

    #[test]
    fn text_has_no_colours_where_nobody_looks() {
        let lines = Lines::default();
        tracing::subscriber::with_default(subscriber(text(lines.make(), false), filter("info"), None), || {
            info!(answer = 42, "it runs")
        });
        let text = lines.text();
        assert!(text.contains("it runs") && text.contains("answer=42"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn text_values_are_quoted_and_cannot_pass_for_other_fields() {
        let lines = Lines::default();
        tracing::subscriber::with_default(subscriber(text(lines.make(), false), filter("info"), None), || {
            info!(count = 3, ready = true, code = "a b", who = %Clean("ann id=7 \"x\""), none = %Clean(""), "it runs");
            info!(who = %Clean("\"a\" id=\"7\""), "again");
        });
        let text = lines.text();
        let expected = r#"it runs count=3 ready=true code="a b" who="ann id=7 \"x\"" none="""#;
        let (first, second) = text.trim_end().split_once('\n').unwrap();
        assert!(first.ends_with(expected), "{text}");
        assert!(second.ends_with(r#"again who="\"a\" id=\"7\"""#), "{text}");
    }

    #[test]
    fn a_bare_level_speaks_of_our_own_lines() {
        let work = || {
            debug!(target: "sidegate::serve", "ours");
            debug!(target: "h2::codec", "theirs");
        };
        let messages = |level| logged(level, work).iter().map(|line| line["message"].clone()).collect::<Vec<_>>();
        assert_eq!(messages("info"), [""; 0]);
        assert_eq!(messages("DEBUG"), ["ours"]);
        assert_eq!(messages("trace"), ["ours"]);
        assert_eq!(messages("info,h2=debug"), ["theirs"]);
    }

    #[test]
    fn the_audit_file_gets_audit_lines_only_and_whatever_the_filter_of_the_log_is() {
        let (log, audit) = (Lines::default(), Lines::default());
        let both = subscriber(text(log.make(), false), filter("warn"), Some(json(audit.make())));
        tracing::subscriber::with_default(both, || {
            audit::disabled();
            tracing::warn!("the log's own");
        });
        let line: Value = serde_json::from_str(&audit.text()).unwrap();
        assert_eq!((&line["event"], &line["target"]), (&"disabled".into(), &audit::TARGET.into()));
        assert!(log.text().ends_with("the log's own\n") && !log.text().contains("OAuth"), "{}", log.text());
    }

    #[test]
    fn a_filter_that_makes_no_sense_is_a_fault() {
        let check =
            |filter: &str| LogSettings { filter: filter.into(), format: LogFormat::Text, audit_file: None }.check();
        for good in ["info", "Warn", "off", "info,sidegate=debug", "sidegate::audit=info"] {
            check(good).unwrap();
        }
        let fault = check("sidegate=loud").unwrap_err().to_string();
        assert!(fault.contains("sidegate=loud") && fault.contains("info,sidegate=debug"), "{fault}");
    }
}
