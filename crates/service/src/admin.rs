//! The admin listener: alive, ready, metrics. mTLS like every other, with a peer list of its own.

use std::sync::Arc;

use authz::{Clock, Guard, PassportKeys, Routes};
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode, header};
use policy::{Action, Caller, DeclaredRoute, Policy};
use serde_json::json;
use telemetry::MetricsHandle;

use crate::BoxError;
use crate::readiness::Readiness;

const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the handlers show.
#[derive(Clone)]
struct Shown {
    readiness: Readiness,
    metrics: MetricsHandle,
}

/// The routes of every admin listener, each with its action.
pub fn declared_routes() -> Vec<DeclaredRoute> {
    routes().table()
}

pub(crate) fn router(readiness: Readiness, metrics: MetricsHandle) -> Result<Router, BoxError> {
    // Only services come here: there are no keys, so no passport would be believed.
    let guard = Guard::new("admin", Arc::new(PassportKeys::default()), Arc::new(Policy::embedded()?), Clock::system());
    Ok(routes().build(&Arc::new(guard), Shown { readiness, metrics })?)
}

fn routes() -> Routes<Shown> {
    Routes::new()
        .route_for(Caller::Peer, Method::GET, "/live", Action::ReadReadiness, async || "OK\n")
        .route_for(Caller::Peer, Method::GET, "/ready", Action::ReadReadiness, ready)
        .route_for(Caller::Peer, Method::GET, "/metrics", Action::ReadAdminPort, render)
}

async fn ready(State(Shown { readiness, .. }): State<Shown>) -> Response {
    let waits_for = readiness.waits_for();
    let status = if waits_for.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body =
        json!({ "ready": waits_for.is_empty(), "waits_for": waits_for, "remarks": readiness.degraded() }).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn render(State(Shown { metrics, .. }): State<Shown>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], metrics.render())
}
