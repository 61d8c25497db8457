//! The admin listener: alive, ready, metrics. mTLS like every other, with a peer list of its own.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use serde_json::json;
use telemetry::MetricsHandle;

use crate::readiness::Readiness;

const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(crate) fn router(readiness: Readiness, metrics: MetricsHandle) -> Router {
    Router::new()
        .route("/live", get(async || "OK\n"))
        .route("/ready", get(ready).with_state(readiness))
        .route("/metrics", get(render).with_state(metrics))
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    let waits_for = readiness.waits_for();
    let status = if waits_for.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({ "ready": waits_for.is_empty(), "waits_for": waits_for }).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn render(State(metrics): State<MetricsHandle>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], metrics.render())
}
