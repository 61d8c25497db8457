//! The JSON of everything that is not a prediction.

use std::{collections::BTreeMap, sync::Arc};

use axum::{body::Body, response::Response};
use engine::TensorSpec;
use http::{HeaderValue, StatusCode, header};
use model_repository::{Durations, IndexRow, Model, ModelEntry};
use serde::Serialize;

use crate::protocol::{EXTENSIONS, PLATFORM, properties};

#[derive(Serialize)]
pub(super) struct Server {
    name: &'static str,
    version: &'static str,
    extensions: &'static [&'static str],
}

#[derive(Serialize)]
pub(super) struct Metadata<'a> {
    name: &'a str,
    versions: Vec<&'a str>,
    platform: &'static str,
    inputs: &'a [TensorSpec],
    outputs: &'a [TensorSpec],
    properties: BTreeMap<String, String>,
}

#[derive(Serialize)]
pub(super) struct MetadataAndStatistics<'a> {
    #[serde(flatten)]
    metadata: Metadata<'a>,
    #[serde(flatten)]
    statistics: AllStatistics<'a>,
}

#[derive(Serialize)]
pub(super) struct Index<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
    state: &'static str,
    reason: &'a str,
}

#[derive(Serialize)]
pub(super) struct AllStatistics<'a> {
    model_stats: Vec<ModelStatistics<'a>>,
}

#[derive(Serialize)]
struct ModelStatistics<'a> {
    name: &'a str,
    version: &'a str,
    last_inference: u64,
    inference_count: u64,
    execution_count: u64,
    inference_stats: InferStatistics,
    batch_stats: [(); 0],
}

#[derive(Serialize)]
struct InferStatistics {
    success: Duration,
    fail: Duration,
    queue: Duration,
    compute_input: Duration,
    compute_infer: Duration,
    compute_output: Duration,
}

#[derive(Serialize)]
struct Duration {
    count: u64,
    ns: u64,
}

pub(super) fn server() -> Server {
    Server { name: "rampart", version: env!("CARGO_PKG_VERSION"), extensions: EXTENSIONS }
}

pub(super) fn model<'a>(model: &'a Model, entry: Option<&'a Arc<ModelEntry>>) -> Metadata<'a> {
    let versions = entry.into_iter().flat_map(|entry| entry.serving()).map(|model| &*model.version_text).collect();
    Metadata {
        name: model.identity.name.as_str(),
        versions,
        platform: PLATFORM,
        inputs: &model.signature.inputs,
        outputs: &model.signature.outputs,
        properties: properties(model, entry),
    }
}

pub(super) fn model_and_statistics<'a>(
    namesake: &'a Model,
    entry: &'a Arc<ModelEntry>,
    statistics: AllStatistics<'a>,
) -> MetadataAndStatistics<'a> {
    MetadataAndStatistics { metadata: model(namesake, Some(entry)), statistics }
}

pub(super) fn index(rows: &[IndexRow]) -> Vec<Index<'_>> {
    rows.iter()
        .map(|row| Index { name: &row.name, version: &row.version, state: row.state.as_str(), reason: &row.reason })
        .collect()
}

pub(super) fn statistics(models: &[Arc<Model>]) -> AllStatistics<'_> {
    AllStatistics { model_stats: models.iter().map(|model| model_statistics(model)).collect() }
}

fn model_statistics(model: &Model) -> ModelStatistics<'_> {
    let statistics = &model.statistics;
    let inference_stats = InferStatistics {
        success: duration(&statistics.success),
        fail: duration(&statistics.fail),
        queue: duration(&statistics.queue),
        compute_input: duration(&statistics.compute_input),
        compute_infer: duration(&statistics.compute_infer),
        compute_output: duration(&statistics.compute_output),
    };
    ModelStatistics {
        name: model.identity.name.as_str(),
        version: &model.version_text,
        last_inference: statistics.last_ms(),
        inference_count: statistics.rows(),
        execution_count: inference_stats.compute_infer.count,
        inference_stats,
        batch_stats: [],
    }
}

fn duration(durations: &Durations) -> Duration {
    let (count, ns) = durations.get();
    Duration { count, ns }
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).expect("these structures always serialise into memory");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
