//! The routes that the balancer answers itself: `GET /health`, the same over gRPC, `GET /api/loadbalancer/status`, and their description.
//!
//! Without a token the status says how many replicas there are and in which state; since when, why, and how loaded they
//! are needs permission.

use std::sync::Arc;

use authz::{Guard, Principal};
use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use policy::{Action, Caller, DeclaredRoute};
use problem::{Kind, Problem};
use serde::Serialize;
use serde_json::{Value, json};
use service::Readiness;
use time::format_description::well_known::Rfc3339;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};

use crate::pool::{Pool, Replica};

/// The audience of passports for the balancer's own routes.
pub const AUDIENCE: &str = topology::name::BALANCER;

/// What clients may ask the health of: everything, and what of it is gRPC, which is the same.
const HEALTH_SERVICES: [&str; 2] = ["", "inference.GRPCInferenceService"];

/// Answers them, with details for callers that may read them.
pub struct StatusPage {
    guard: Arc<Guard>,
    readiness: Readiness,
}

#[derive(Serialize)]
struct Body<'a> {
    /// Of the serving pool: what clients of models depend on.
    healthy_backends: usize,
    pools: serde_json::Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
}

/// The routes that the balancer answers itself, for the matrix of who may do what.
pub fn declared_routes() -> Vec<DeclaredRoute> {
    let route = |method, path: &str, action| DeclaredRoute { method, path: path.into(), action, caller: Caller::User };
    vec![
        route(Method::GET, "/health", Action::ReadHealth),
        route(Method::POST, "/grpc.health.v1.Health/Check", Action::ReadHealth),
        route(Method::GET, "/api/loadbalancer/status", Action::ReadReplicasSummary),
        route(Method::GET, "/api/loadbalancer/openapi.json", Action::ReadOpenapi),
    ]
}

// === impl StatusPage ===

impl StatusPage {
    /// A page that the guard for [`AUDIENCE`] protects, and that reports this readiness.
    pub fn new(guard: Arc<Guard>, readiness: Readiness) -> Self {
        Self { guard, readiness }
    }

    /// Whether the balancer itself takes requests. Not whether replicas do, which the status says: a front that took the
    /// balancer out because of them would turn a clear 503 into a refused connection.
    pub fn health(&self) -> Response<Bytes> {
        let (status, text) = match self.readiness.is_ready() {
            true => (StatusCode::OK, &b"OK\n"[..]),
            false => (StatusCode::SERVICE_UNAVAILABLE, &b"not ready\n"[..]),
        };
        let mut response = Response::new(Bytes::from_static(text));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    }

    /// Whether a client's call of a model can be answered: the balancer takes requests, and a replica is there for them.
    pub fn check_health(
        &self,
        pools: &[Arc<Pool>],
        request: &HealthCheckRequest,
    ) -> Result<HealthCheckResponse, Problem> {
        if !HEALTH_SERVICES.contains(&request.service.as_str()) {
            let known = HEALTH_SERVICES.map(|name| format!("{name:?}")).join(" and ");
            return Err(Problem::new(Kind::NotFound, format!("only the services {known} are known")));
        }
        let is_serving = self.readiness.is_ready() && serving_pool(pools).is_some_and(|pool| pool.healthy_count() > 0);
        let status = if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        Ok(HealthCheckResponse { status: status.into() })
    }

    /// The status, with details for a passport that allows them.
    pub fn answer(&self, pools: &[Arc<Pool>], passport: Option<&HeaderValue>) -> Result<Response<Bytes>, Problem> {
        let with_details = match self.identify(passport)? {
            anonymous @ Principal::Anonymous => {
                self.guard.check(&anonymous, Action::ReadReplicasSummary)?;
                false
            }
            principal => {
                self.guard.check(&principal, Action::ReadReplicas)?;
                true
            }
        };
        let describe = |pool: &Arc<Pool>| (pool.name.to_owned(), describe_pool(pool, with_details));
        let body = Body {
            healthy_backends: serving_pool(pools).map_or(0, |pool| pool.healthy_count()),
            pools: pools.iter().map(describe).collect(),
            version: with_details.then_some(env!("CARGO_PKG_VERSION")),
        };
        let body = serde_json::to_vec(&body).map_err(Problem::internal)?;
        let mut response = Response::new(Bytes::from(body));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }

    /// The gateway's signature is what counts, for cached passports too.
    fn identify(&self, passport: Option<&HeaderValue>) -> Result<Principal, Problem> {
        let Some(passport) = passport else { return Ok(Principal::Anonymous) };
        let rejected = |reason: String| {
            tracing::info!(reason, "passport refused; the caller gets 401");
            Problem::new(Kind::Unauthenticated, "the credentials are not valid, or no longer")
        };
        let text = passport.to_str().map_err(|error| rejected(error.to_string()))?;
        self.guard.identify(Some(text)).map_err(|reject| rejected(reject.to_string()))
    }
}

fn serving_pool(pools: &[Arc<Pool>]) -> Option<&Arc<Pool>> {
    pools.iter().find(|pool| pool.name == topology::name::SERVING)
}

fn describe_pool(pool: &Pool, with_details: bool) -> Value {
    let replicas: Vec<Value> = pool.replicas.iter().map(|replica| describe_replica(replica, with_details)).collect();
    json!({ "healthy": pool.healthy_count(), "total": pool.replicas.len(), "replicas": replicas })
}

fn describe_replica(replica: &Replica, with_details: bool) -> Value {
    let status = replica.status();
    let state: &str = status.state.into();
    if !with_details {
        return json!({ "name": replica.name, "state": state });
    }
    json!({
        "name": replica.name,
        "state": state,
        "since": status.since.format(&Rfc3339).unwrap_or_default(),
        "why": status.why,
        "address": replica.address,
        "in_flight": replica.in_flight(),
        "connections": replica.connections(),
    })
}
