//! Every metric of this service, by name. Those of HTTP, TLS and the process come from the kit.
//!
//! Labels are bounded: models and versions by the repository's limits, everything else by closed enums. All series of a
//! model exist, at zero, from the moment it serves, and end when it leaves the index; so do those of a version.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use engine::{Reason, WorkersEnded};
use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use parking_lot::Mutex;
use slo::{Outcome, PerOutcome};
use strum::{IntoStaticStr, VariantArray};
use telemetry::EndingSeries;

use crate::names::{ModelName, Version};

const PREDICTIONS: &str = "ml_predictions_total";
const PREDICTION_DURATION: &str = "ml_prediction_duration_seconds";
const PREDICTION_STAGE: &str = "ml_prediction_stage_duration_seconds";
const BATCH_SIZE: &str = "ml_prediction_batch_size";
const QUEUE_DEPTH: &str = "ml_serving_queue_depth";
const QUEUE_CAPACITY: &str = "ml_serving_queue_capacity";
const EXECUTIONS: &str = "ml_serving_executions_total";
const DEADLINE_EXCEEDED: &str = "ml_serving_deadline_exceeded_total";
const WORKERS: &str = "ml_serving_workers";
const WORKERS_ENDED: &str = "ml_serving_workers_ended_total";
const PANICS: &str = "ml_serving_panics_total";
const CALL_BYTES: &str = "ml_serving_call_bytes";
const MODELS_LOADED: &str = "ml_serving_models_loaded";
const DESIRED_GENERATION: &str = "ml_serving_desired_generation";
const MODEL_INFO: &str = "ml_model_info";
const MODEL_READY: &str = "ml_model_ready";
const MODEL_FILE: &str = "ml_model_file_bytes";
const MODEL_LOADED_AT: &str = "ml_model_loaded_timestamp_seconds";
const LOAD_DURATION: &str = "ml_model_load_duration_seconds";
const LOAD_FAILURES: &str = "ml_model_load_failures_total";
const REGISTRY_UP: &str = "ml_model_registry_up";
const REGISTRY_REFRESHED_AT: &str = "ml_model_registry_last_refresh_timestamp_seconds";
const REGISTRY_REFRESHES: &str = "ml_model_registry_refreshes_total";

/// Of each model, and of each of its versions, as long as the index has it. As `metrics` itself, they belong to the process.
static SERIES: Mutex<BTreeMap<(ModelName, Option<Version>), EndingSeries>> = Mutex::new(BTreeMap::new());

/// Where the time of a prediction goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Stage {
    /// Reading the request.
    Decode,
    /// Waiting for a worker.
    Queue,
    /// In ONNX Runtime.
    Compute,
    /// Writing the answer.
    Encode,
}

/// How a look at the model registry ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum RefreshOutcome {
    Ok,
    RegistryAway,
    StorageAway,
    MirrorFailed,
}

/// The series of one model version.
pub struct ModelMetrics {
    pub(crate) queue_depth: Gauge,
    pub(crate) executions: Counter,
    pub(crate) panics: Counter,
    pub(crate) workers: Gauge,
    pub(crate) workers_ended: WorkersEnded,
    outcomes: PerOutcome<Counter>,
    cancelled: Counter,
    duration: Histogram,
    of_model: SeriesOfModel,
}

/// The series that the versions of a model share.
struct SeriesOfModel {
    stages: Vec<Histogram>,
    expired: [Counter; 2],
    batch_size: Histogram,
}

/// Says what each metric of the process is. Once, before anything is counted.
pub fn describe() {
    describe_counter!(PANICS, Unit::Count, "Calls that panicked in a worker. Must stay 0.");
    describe_gauge!(CALL_BYTES, Unit::Bytes, "Bodies, tensors and unread answers of the calls under way.");
    describe_gauge!(MODELS_LOADED, Unit::Count, "Model versions that serve.");
    counter!(PANICS).absolute(0);
    gauge!(MODELS_LOADED).set(0.0);
    gauge!(CALL_BYTES).set(0.0);
}

/// Says what each metric of a model or a version is.
fn describe_model() {
    describe_counter!(PREDICTIONS, Unit::Count, "Predictions answered, by model, version and outcome.");
    describe_histogram!(
        PREDICTION_DURATION,
        Unit::Seconds,
        "A prediction from the first byte of its body to its answer."
    );
    describe_histogram!(
        PREDICTION_STAGE,
        Unit::Seconds,
        "Where a prediction's time went: decode, queue, compute, encode."
    );
    describe_histogram!(BATCH_SIZE, Unit::Count, "Rows of a prediction.");
    describe_gauge!(QUEUE_DEPTH, Unit::Count, "Calls that wait for a worker.");
    let desired = "Generation of the desired state of models that this replica has applied.";
    describe_gauge!(DESIRED_GENERATION, Unit::Count, desired);
    describe_gauge!(QUEUE_CAPACITY, Unit::Count, "Calls that may wait for a worker.");
    describe_counter!(EXECUTIONS, Unit::Count, "Runs that a worker began, whatever came of them.");
    describe_counter!(DEADLINE_EXCEEDED, Unit::Count, "Calls whose deadline passed, by the stage they were in.");
    describe_gauge!(MODEL_INFO, Unit::Count, "1 while a model version serves; the labels say what it is.");
    describe_gauge!(MODEL_READY, Unit::Count, "Whether a model version serves.");
    describe_gauge!(MODEL_FILE, Unit::Bytes, "Size of the model file that serves.");
    describe_gauge!(MODEL_LOADED_AT, Unit::Seconds, "When the model version was loaded.");
    describe_histogram!(LOAD_DURATION, Unit::Seconds, "Reading, probing and loading a model version that serves then.");
    describe_counter!(LOAD_FAILURES, Unit::Count, "Model versions that were refused, by reason.");
    describe_gauge!(WORKERS, Unit::Count, "Processes or threads that compute a model version or are ready to.");
    describe_counter!(
        WORKERS_ENDED,
        Unit::Count,
        "Processes of model versions that ended while the version served, by reason: crash, memory, stuck."
    );
}

/// Registers and sets series of a model, or of a version.
fn series_of<R>(name: &ModelName, version: Option<Version>, register: impl FnOnce() -> R) -> R {
    let mut all = SERIES.lock();
    let series = all.entry((name.clone(), version)).or_insert_with(|| {
        let series = EndingSeries::new();
        series.within(describe_model);
        series
    });
    series.within(register)
}

/// Ends the series of a version, or those of a model that no version has.
pub(crate) fn end_series(name: &ModelName, version: Option<Version>) {
    SERIES.lock().remove(&(name.clone(), version));
}

/// Says what the metrics of the model registry are, where one is configured.
pub(crate) fn describe_registry() {
    describe_gauge!(REGISTRY_UP, Unit::Count, "Whether the last look at the model registry came to its end.");
    describe_gauge!(
        REGISTRY_REFRESHED_AT,
        Unit::Seconds,
        "When the models were last what the registry has; 0 is never in this process."
    );
    describe_counter!(REGISTRY_REFRESHES, Unit::Count, "Looks at the model registry, by outcome.");
    gauge!(REGISTRY_UP).set(0.0);
    gauge!(REGISTRY_REFRESHED_AT).set(0.0);
    for outcome in RefreshOutcome::VARIANTS {
        counter!(REGISTRY_REFRESHES, "outcome" => <&str>::from(outcome)).increment(0);
    }
}

/// A look at the model registry ended.
pub(crate) fn record_refresh(outcome: RefreshOutcome) {
    counter!(REGISTRY_REFRESHES, "outcome" => <&str>::from(outcome)).increment(1);
    gauge!(REGISTRY_UP).set(f64::from(u8::from(outcome == RefreshOutcome::Ok)));
    if outcome == RefreshOutcome::Ok {
        gauge!(REGISTRY_REFRESHED_AT)
            .set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    }
}

/// Where the bytes of the calls under way are shown.
pub fn call_bytes_gauge() -> Gauge {
    gauge!(CALL_BYTES)
}

/// Whether a version serves.
pub(crate) fn set_model_serves(name: &ModelName, version: Version, serves: bool) {
    let (model, number, value) = (name.to_string(), version.to_string(), f64::from(u8::from(serves)));
    series_of(name, Some(version), || {
        gauge!(MODEL_INFO, "model" => model.clone(), "version" => number.clone(), "framework" => "onnx").set(value);
        gauge!(MODEL_READY, "model" => model, "version" => number).set(value);
    });
}

/// How many versions serve.
pub(crate) fn set_models_loaded(count: usize) {
    gauge!(MODELS_LOADED).set(u32::try_from(count).unwrap_or(u32::MAX));
}

/// The models are as the state at this generation has them, or the index says why not.
#[expect(clippy::cast_precision_loss, reason = "no installation makes 2^52 changes")]
pub(crate) fn set_desired_generation(generation: u64) {
    gauge!(DESIRED_GENERATION).set(generation as f64);
}

/// A version was loaded.
pub(crate) fn record_load(name: &ModelName, took: Duration) {
    series_of(name, None, || histogram!(LOAD_DURATION, "model" => name.to_string()).record(took));
}

/// A version was refused.
pub(crate) fn count_load_failure(name: &ModelName, reason: Reason) {
    series_of(name, None, || {
        for each in Reason::ALL {
            counter!(LOAD_FAILURES, "model" => name.to_string(), "reason" => each.as_str())
                .increment(u64::from(*each == reason));
        }
    });
}

// === impl ModelMetrics ===

impl ModelMetrics {
    /// Makes every series of a version, at zero where it is new.
    pub(crate) fn register(name: &ModelName, version: Version, file_bytes: u64, queue_max: usize) -> Self {
        // Not of the version, and hence registered outside of its series.
        let (panics, of_model) = (counter!(PANICS), series_of(name, None, || SeriesOfModel::register(name)));
        series_of(name, Some(version), || Self::of_version(name, version, file_bytes, queue_max, panics, of_model))
    }

    fn of_version(
        name: &ModelName,
        version: Version,
        file_bytes: u64,
        queue_max: usize,
        panics: Counter,
        of_model: SeriesOfModel,
    ) -> Self {
        let (model, version) = (name.to_string(), version.to_string());
        let file_bytes = u32::try_from(file_bytes).map_or(f64::MAX, f64::from);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        gauge!(MODEL_FILE, "model" => model.clone(), "version" => version.clone()).set(file_bytes);
        gauge!(MODEL_LOADED_AT, "model" => model.clone(), "version" => version.clone()).set(now.as_secs_f64());
        gauge!(QUEUE_CAPACITY, "model" => model.clone(), "version" => version.clone())
            .set(u32::try_from(queue_max).unwrap_or(u32::MAX));
        let ended = |outcome: &'static str| {
            let counter =
                counter!(PREDICTIONS, "model" => model.clone(), "version" => version.clone(), "outcome" => outcome);
            counter.increment(0);
            counter
        };
        let worker_ended = |reason: &'static str| {
            let counter =
                counter!(WORKERS_ENDED, "model" => model.clone(), "version" => version.clone(), "reason" => reason);
            counter.increment(0);
            counter
        };
        let metrics = Self {
            queue_depth: gauge!(QUEUE_DEPTH, "model" => model.clone(), "version" => version.clone()),
            executions: counter!(EXECUTIONS, "model" => model.clone(), "version" => version.clone()),
            panics,
            workers: gauge!(WORKERS, "model" => model.clone(), "version" => version.clone()),
            workers_ended: WorkersEnded {
                crash: worker_ended("crash"),
                memory: worker_ended("memory"),
                stuck: worker_ended("stuck"),
            },
            outcomes: PerOutcome::new(|outcome| ended(outcome.as_str())),
            cancelled: ended("cancelled"),
            duration: histogram!(PREDICTION_DURATION, "model" => model.clone(), "version" => version.clone()),
            of_model,
        };
        metrics.executions.increment(0);
        metrics.queue_depth.increment(0.0);
        metrics.workers.increment(0.0);
        metrics
    }

    /// A stage of a prediction ended.
    pub fn record_stage(&self, stage: Stage, took: Duration) {
        if let Some(histogram) = self.of_model.stages.get(stage as usize) {
            histogram.record(took);
        }
    }

    /// Counts a prediction that has ended; without an outcome because its caller left.
    pub fn record(&self, outcome: Option<Outcome>, took: Duration) {
        outcome.map_or(&self.cancelled, |outcome| self.outcomes.get(outcome)).increment(1);
        self.duration.record(took);
    }

    /// A prediction had so many rows.
    pub fn record_rows(&self, rows: u64) {
        self.of_model.batch_size.record(u32::try_from(rows).unwrap_or(u32::MAX));
    }

    /// A deadline passed in the queue or in the computation.
    pub(crate) fn count_expired(&self, stage: Stage) {
        let [queue, compute] = &self.of_model.expired;
        if stage == Stage::Queue { queue } else { compute }.increment(1);
    }
}

// === impl SeriesOfModel ===

impl SeriesOfModel {
    fn register(name: &ModelName) -> Self {
        let model = name.to_string();
        for reason in Reason::ALL {
            counter!(LOAD_FAILURES, "model" => model.clone(), "reason" => reason.as_str()).increment(0);
        }
        let stage =
            |stage: &Stage| histogram!(PREDICTION_STAGE, "model" => model.clone(), "stage" => <&str>::from(stage));
        let expired = |stage: Stage| {
            let counter = counter!(DEADLINE_EXCEEDED, "model" => model.clone(), "stage" => <&str>::from(stage));
            counter.increment(0);
            counter
        };
        Self {
            stages: Stage::VARIANTS.iter().map(stage).collect(),
            expired: [Stage::Queue, Stage::Compute].map(expired),
            batch_size: histogram!(BATCH_SIZE, "model" => model.clone()),
        }
    }
}
