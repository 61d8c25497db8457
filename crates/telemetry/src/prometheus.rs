//! The metrics of this process, as Prometheus reads them.
//!
//! The exporter removes no single series: it can drop what was idle for a while, but a counter that rightly stays at zero is idle, too.
//! So what can end before the process has a recorder of its own, which is dropped with all of its series, and a scrape reads all
//! recorders as one.

use std::{collections::BTreeMap, iter, sync::Arc, time::Duration};

use metrics::{Unit, describe_gauge, gauge, with_local_recorder};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::process;

/// Bounds of every histogram of seconds: exact at the target of 0.1 s and dense around it, so that the share of answers
/// within the target is counted and never interpolated.
pub const LATENCY_BUCKETS_S: &[f64] = &[
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.11, 0.125, 0.15,
    0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Bounds for work that takes minutes: backups, restores.
const JOB_BUCKETS_S: &[f64] =
    &[0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0];

/// Bounds for sizes: 256 bytes to 1 GiB by fours.
const SIZE_BUCKETS_BYTES: &[f64] = &[
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
];

/// Bounds for everything else, which is counts (batch sizes). Without a default the exporter would make summaries, which
/// cannot be added up over replicas.
const COUNT_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0];

/// How often samples are moved from the histograms' queues into their buckets; without it memory grows until a scrape.
const UPKEEP_PERIOD: Duration = Duration::from_secs(5);

/// Of every [`EndingSeries`]: the recorder of `metrics` is the process' own, and these belong to it.
static ENDING: Mutex<Vec<Arc<PrometheusHandle>>> = Mutex::new(Vec::new());

/// Reads the metrics of this process.
#[derive(Clone)]
pub struct MetricsHandle(PrometheusHandle);

/// Some series of this process, which end when this is dropped. What goes on to record into them then is lost.
pub struct EndingSeries {
    recorder: PrometheusRecorder,
    handle: Arc<PrometheusHandle>,
}

pub(crate) fn builder() -> PrometheusBuilder {
    with_buckets(PrometheusBuilder::new()).expect("an error is an empty list of bounds, and none of these is")
}

fn with_buckets(builder: PrometheusBuilder) -> Result<PrometheusBuilder, BuildError> {
    builder
        .set_buckets(COUNT_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), LATENCY_BUCKETS_S)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), SIZE_BUCKETS_BYTES)?
        .set_buckets_for_metric(Matcher::Prefix("ml_backup_".to_owned()), JOB_BUCKETS_S)
}

/// Installs the recorder of this process.
pub(crate) fn install(service: &'static str) -> Result<MetricsHandle, BuildError> {
    let handle = MetricsHandle(builder().install_recorder()?);
    process::describe();
    describe_gauge!("ml_build_info", Unit::Count, "Always 1; the labels say what runs.");
    gauge!("ml_build_info", "service" => service, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

// === impl MetricsHandle ===

impl MetricsHandle {
    /// Every metric in Prometheus' text format, with the process' own figures of this moment.
    pub fn render(&self) -> String {
        process::measure();
        let ending = ENDING.lock().clone();
        if ending.is_empty() {
            return self.0.render();
        }
        let handles = iter::once(&self.0).chain(ending.iter().map(AsRef::as_ref));
        merged(&handles.map(PrometheusHandle::render).collect::<Vec<_>>())
    }

    /// Keeps the histograms small until `stop`.
    pub async fn upkeep(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(UPKEEP_PERIOD);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            self.0.run_upkeep();
            let ending = ENDING.lock().clone();
            ending.iter().for_each(|handle| handle.run_upkeep());
        }
    }
}

// === impl EndingSeries ===

impl EndingSeries {
    /// None yet.
    pub fn new() -> Self {
        let recorder = builder().build_recorder();
        let handle = Arc::new(recorder.handle());
        ENDING.lock().push(Arc::clone(&handle));
        Self { recorder, handle }
    }

    /// What is described and registered within `register` ends with these series.
    pub fn within<R>(&self, register: impl FnOnce() -> R) -> R {
        with_local_recorder(&self.recorder, register)
    }
}

impl Default for EndingSeries {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for EndingSeries {
    fn drop(&mut self) {
        ENDING.lock().retain(|handle| !Arc::ptr_eq(handle, &self.handle));
    }
}

/// One text of several: the format wants all series of a metric in one place, behind its description.
fn merged(texts: &[String]) -> String {
    let mut series_of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for metric in texts.iter().flat_map(|text| text.split("\n\n")).filter(|metric| !metric.is_empty()) {
        let description = metric.lines().take_while(|line| line.starts_with('#')).map(|line| line.len() + 1).sum();
        let (description, series) = metric.split_at_checked(description).unwrap_or((metric, ""));
        series_of.entry(description).or_default().push(series.trim_end());
    }
    let metrics = series_of.into_iter().map(|(description, series)| format!("{description}{}\n\n", series.join("\n")));
    metrics.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(record: impl FnOnce()) -> String {
        let recorder = builder().build_recorder();
        with_local_recorder(&recorder, record);
        recorder.handle().render()
    }

    /// Whatever the name, a histogram has buckets: a summary could not be added up over replicas.
    #[test]
    fn there_is_no_summary() {
        let text = rendered(|| {
            for name in ["ml_x_duration_seconds", "ml_queue_wait_seconds", "ml_size_bytes", "ml_batch_size", "plain"] {
                metrics::histogram!(name).record(0.05);
            }
        });
        assert_eq!(text.matches(" histogram\n").count(), 5, "{text}");
        assert!(!text.contains("summary") && !text.contains("quantile"), "{text}");
    }

    #[test]
    fn latencies_have_a_bound_exactly_at_the_target() {
        let text = rendered(|| metrics::histogram!("ml_x_duration_seconds").record(0.1));
        assert!(text.contains("ml_x_duration_seconds_bucket{le=\"0.09\"} 0"), "{text}");
        assert!(text.contains("ml_x_duration_seconds_bucket{le=\"0.1\"} 1"), "{text}");
        assert_eq!(text.matches("_bucket{").count(), 26, "{text}");
    }

    #[test]
    fn jobs_have_minutes_and_sizes_have_bytes() {
        let text = rendered(|| {
            metrics::histogram!("ml_backup_duration_seconds").record(100.0);
            metrics::histogram!("ml_response_size_bytes").record(100.0);
        });
        assert!(text.contains("ml_backup_duration_seconds_bucket{le=\"120\"} 1"), "{text}");
        assert!(text.contains("ml_response_size_bytes_bucket{le=\"256\"} 1"), "{text}");
    }

    /// Series of several recorders are one text, with one description for each metric, and what has ended is not in it.
    #[test]
    fn series_that_have_ended_are_gone() {
        let record = |model: &'static str| {
            metrics::describe_counter!("ml_x_total", Unit::Count, "Of a model.");
            metrics::counter!("ml_x_total", "model" => model).increment(1);
            metrics::histogram!("ml_x_seconds", "model" => model).record(0.05);
        };
        let recorder = builder().build_recorder();
        with_local_recorder(&recorder, || metrics::gauge!("ml_y").set(1.0));
        let handle = MetricsHandle(recorder.handle());
        let (first, second) = (EndingSeries::new(), EndingSeries::new());
        first.within(|| record("a"));
        second.within(|| record("b"));
        let text = handle.render();
        for line in
            ["# HELP ml_x_total Of a model.", "# TYPE ml_x_total counter", "# TYPE ml_x_seconds histogram", "ml_y 1"]
        {
            assert_eq!(text.lines().filter(|each| *each == line).count(), 1, "{line}: {text}");
        }
        let place = |line: &str| text.find(line).unwrap();
        let (a, b) = (place("ml_x_total{model=\"a\"} 1\n"), place("ml_x_total{model=\"b\"} 1\n"));
        let between = &text[a.min(b)..a.max(b)];
        assert!(!between.contains('#'), "they are in one place: {text}");
        assert!(text.contains("ml_x_seconds_bucket{model=\"a\",le=\"0.05\"} 1\n"), "{text}");
        drop(first);
        let text = handle.render();
        assert!(!text.contains("model=\"a\"") && text.contains("ml_x_total{model=\"b\"} 1\n"), "{text}");
    }

    /// A series that appears with its first event loses that event to `rate`.
    #[test]
    fn registered_series_are_there_before_their_first_event() {
        let text = rendered(|| {
            metrics::counter!("ml_x_total").absolute(0);
            let _registered = metrics::histogram!("ml_x_duration_seconds");
        });
        assert!(text.contains("ml_x_total 0"), "{text}");
        assert!(text.contains("ml_x_duration_seconds_count 0"), "{text}");
    }
}
