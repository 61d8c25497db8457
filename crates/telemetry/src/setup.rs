//! Sets up, once per process, what is global by nature: the subscriber, the recorder, the panic hook.

use std::io;
use std::sync::OnceLock;

use metrics_exporter_prometheus::BuildError;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{FilterExt, LevelFilter, ParseError, filter_fn};
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{LogFormat, TelemetryConfig};
use crate::export::{Collector, Export};
use crate::log_line::LogLine;
use crate::prometheus::{self, MetricsHandle};
use crate::trace;

/// The highest level of these libraries in the log, above the filter: beyond it they write headers with tokens
/// (pingora, h2), or a WARN whenever some client wishes (rustls).
const LEVEL_CAPS: [(&str, LevelFilter); 3] =
    [("pingora_proxy", LevelFilter::OFF), ("h2", LevelFilter::INFO), ("rustls", LevelFilter::ERROR)];

/// The service's name, which is part of the names of its request metrics.
static SERVICE: OnceLock<&'static str> = OnceLock::new();

/// Logs and traces of this process. Keep it until the end and call [`shutdown`](Self::shutdown) there.
pub struct Telemetry {
    export: Option<Export>,
}

/// Why telemetry cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter in `log_filter` does not parse.
    #[error("telemetry.log_filter is not a log filter")]
    Filter(#[from] ParseError),
    /// A recorder is installed already.
    #[error("cannot install the metrics recorder")]
    Recorder(#[from] BuildError),
    /// A subscriber is installed already.
    #[error("cannot install the log subscriber")]
    Subscriber(#[from] tracing_subscriber::util::TryInitError),
}

/// Installs the metrics recorder of this process. Comes first: what is described or set before it is lost.
pub fn install_recorder(service: &'static str) -> Result<MetricsHandle, TelemetryError> {
    let metrics = prometheus::install(service)?;
    let _first = SERVICE.set(service);
    Ok(metrics)
}

/// Sets up logs and traces of this process. `collector` is where spans go, when one is configured; must be called
/// inside a Tokio runtime then.
pub fn init(
    service: &'static str,
    instance: &str,
    config: &TelemetryConfig,
    collector: Option<Collector>,
) -> Result<Telemetry, TelemetryError> {
    let export = collector.map(|collector| Export::start(collector, service, instance, config.trace_sample_ratio));
    subscriber(service, instance, config, export.as_ref())?.try_init()?;
    trace::set_exporting(export.is_some());
    std::panic::set_hook(Box::new(log_panic));
    Ok(Telemetry { export })
}

fn subscriber(
    service: &'static str,
    instance: &str,
    config: &TelemetryConfig,
    export: Option<&Export>,
) -> Result<impl Subscriber + Send + Sync, ParseError> {
    let filter = EnvFilter::builder().parse(&config.log_filter)?;
    let filter = filter.and(filter_fn(is_below_cap).with_max_level_hint(LevelFilter::TRACE));
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let lines = match config.log_format {
        LogFormat::Json => lines.event_format(LogLine::new(service, instance)).fmt_fields(JsonFields::new()).boxed(),
        LogFormat::Text => lines.with_ansi(false).boxed(),
    };
    // Only spans of requests and jobs go to the collector; events stay in the log, which has the trace's id.
    let spans = export.map(|export| {
        let is_own_span = filter_fn(|metadata| metadata.is_span() && *metadata.level() <= Level::INFO);
        tracing_opentelemetry::layer().with_tracer(export.tracer()).with_filter(is_own_span)
    });
    // A list and not `.with(spans)`: an absent layer counts as one that wants to see everything, and every span that a
    // library has at level trace would be made in vain.
    let mut layers = vec![lines.with_filter(filter).boxed()];
    layers.extend(spans.map(Layer::boxed));
    Ok(tracing_subscriber::registry().with(layers))
}

/// The service's name; before `install_recorder` (in a test) there is none.
pub(crate) fn service_name() -> &'static str {
    SERVICE.get().copied().unwrap_or("unnamed")
}

fn is_below_cap(metadata: &Metadata<'_>) -> bool {
    let library = metadata.target().split("::").next().unwrap_or_default();
    let cap = LEVEL_CAPS.iter().find(|(name, _)| *name == library);
    cap.is_none_or(|(_, cap)| metadata.level() <= cap)
}

/// A panic is a bug that a human must see. Its message is a literal of the source, and holds no secret.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("no message");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(location, backtrace = %std::backtrace::Backtrace::capture(), "panicked: {message}");
}

// === impl Telemetry ===

impl Telemetry {
    /// Sends the last spans; blocks for at most three seconds.
    pub fn shutdown(self) {
        if let Some(export) = self.export {
            export.shutdown();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Making spans that are neither logged nor exported was once a fifth of a request's time.
    #[test]
    fn a_span_that_is_not_recorded_is_not_made() {
        let config = TelemetryConfig { log_filter: "info".to_owned(), ..TelemetryConfig::default() };
        tracing::subscriber::with_default(subscriber("serving", "1", &config, None).unwrap(), || {
            assert!(tracing::debug_span!("request").is_disabled());
            assert!(tracing::trace_span!(target: "h2", "frame").is_disabled());
            assert!(!tracing::info_span!(target: "h2", "connection").is_disabled());
            assert_eq!(LevelFilter::current(), LevelFilter::INFO);
        });
    }
}
