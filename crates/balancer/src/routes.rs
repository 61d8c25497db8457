//! Every public route, on one page: where it goes, how much, how long, and whether it may be sent twice.
//!
//! What is not here is 404. Nothing is decided here about who may call: services decide that by the passport, and the gateway
//! where what is behind a route checks no passports.
//! RPCs that services answer to peers must never lead to a pool: a service would see the balancer's own certificate and answer
//! any client. `grpc.health.v1.Health` is one of them; what clients ask by that name the balancer answers itself.

mod absent;
mod path;

use std::time::Duration;

use http::Method;
use serde::Deserialize;
use topology::name;

/// What answers a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A replica of the service of this name.
    Pool(&'static str),
    /// The balancer itself: `GET /health`.
    Health,
    /// The balancer itself: `grpc.health.v1.Health/Check`.
    GrpcHealth,
    /// The balancer itself: `GET /api/loadbalancer/status`.
    Status,
    /// The balancer itself: `GET /api/loadbalancer/openapi.json`.
    Description,
}

/// What a gateway is asked before a request goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    /// Nothing. A token is not even looked at where none is needed, so that a client with an expired one can get the next,
    /// and health does not depend on a gateway.
    Public,
    /// For a passport, if there is a token. The service decides what it allows.
    Passport,
    /// Whether the token's owner may make this very request. There must be a token.
    PerRequest,
}

/// Which requests of a route may be sent again to another replica when the first one failed them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeatable {
    /// Those that change nothing by HTTP's own definition.
    SafeMethods,
    /// Those, and `POST …/infer`, `POST …/predict` and the repository's index: a prediction is a pure function of its input.
    Inference,
    /// These methods of a gRPC service.
    Rpc(&'static [&'static str]),
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Whole segments that its paths begin with.
    pub prefix: &'static str,
    /// What answers.
    pub target: Target,
    /// What a gateway is asked.
    pub auth_mode: AuthMode,
    repeatable: Repeatable,
    is_broadcast: bool,
    /// Bytes of body that are let through; the next one is 413.
    pub body_bytes_max: u64,
    /// From the head of the request to the end of its answer.
    pub time_max: Duration,
    /// Whether its requests count in the SLA of `ml-services`.
    pub is_counted: bool,
    /// Whether the service gets the `Authorization: Basic` of a client, which is of use at the token endpoint alone.
    pub takes_basic: bool,
}

/// How much and how long, as configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteLimits {
    /// Body of a prediction.
    pub inference_body_bytes_max: u64,
    /// Time of a prediction, from its head to the end of its answer.
    pub inference_time_max_ms: u64,
    /// Body of everything else.
    pub api_body_bytes_max: u64,
    /// Time of everything else.
    pub api_time_max_ms: u64,
    /// Body of a request to the model registry.
    pub registry_body_bytes_max: u64,
    /// Time of a request to the model registry.
    pub registry_time_max_ms: u64,
    /// A file for the model registry.
    pub artifact_body_bytes_max: u64,
    /// Time to bring or to fetch it.
    pub artifact_time_max_ms: u64,
}

/// The table.
#[derive(Clone, Debug)]
pub struct Routes(Vec<Route>);

/// A request to load or unload a model, or for statistics: as much as a service reads of it.
const CONTROL_BODY_BYTES_MAX: u64 = 64 * 1024;

/// The name of a service.
const HEALTH_BODY_BYTES_MAX: u64 = 1024;

const MODEL_STATISTICS: &str = "/inference.GRPCInferenceService/ModelStatistics";

const INFERENCE_RPCS: &[&str] =
    &["ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "RepositoryIndex"];

// === impl Routes ===

impl Routes {
    /// The table with its limits filled in.
    pub fn new(limits: &RouteLimits) -> Self {
        use Repeatable::{Inference, Rpc, SafeMethods};
        use Target::{Description, GrpcHealth, Health, Pool, Status};
        let inference = (limits.inference_body_bytes_max, Duration::from_millis(limits.inference_time_max_ms));
        let api = (limits.api_body_bytes_max, Duration::from_millis(limits.api_time_max_ms));
        let registry = (limits.registry_body_bytes_max, Duration::from_millis(limits.registry_time_max_ms));
        let artifact = (limits.artifact_body_bytes_max, Duration::from_millis(limits.artifact_time_max_ms));
        let nothing = (0, api.1);
        let control = (CONTROL_BODY_BYTES_MAX, inference.1);
        let row = |prefix, target, repeatable, (body_bytes_max, time_max)| Route {
            prefix,
            target,
            auth_mode: AuthMode::Passport,
            repeatable,
            is_broadcast: false,
            body_bytes_max,
            time_max,
            is_counted: false,
            takes_basic: false,
        };
        let public = |row: Route| Route { auth_mode: AuthMode::Public, ..row };
        let per_request = |row: Route| Route { auth_mode: AuthMode::PerRequest, ..row };
        let broadcast = |row: Route| Route { is_broadcast: true, ..row };
        let counted = |row: Route| Route { is_counted: true, ..row };
        let basic = |row: Route| Route { takes_basic: true, ..row };
        Self(vec![
            // The first line that matches decides.
            public(row("/v2/health", Pool(name::SERVING), Inference, nothing)),
            counted(broadcast(row("/v2/repository/models", Pool(name::SERVING), SafeMethods, control))),
            counted(row("/v2", Pool(name::SERVING), Inference, inference)),
            counted(row("/api/models", Pool(name::SERVING), Inference, inference)),
            counted(broadcast(row(
                "/inference.GRPCInferenceService/RepositoryModelLoad",
                Pool(name::SERVING),
                SafeMethods,
                control,
            ))),
            counted(broadcast(row(
                "/inference.GRPCInferenceService/RepositoryModelUnload",
                Pool(name::SERVING),
                SafeMethods,
                control,
            ))),
            public(row(
                "/inference.GRPCInferenceService/ServerLive",
                Pool(name::SERVING),
                Rpc(INFERENCE_RPCS),
                control,
            )),
            public(row(
                "/inference.GRPCInferenceService/ServerReady",
                Pool(name::SERVING),
                Rpc(INFERENCE_RPCS),
                control,
            )),
            counted(row(MODEL_STATISTICS, Pool(name::SERVING), SafeMethods, control)),
            counted(row("/inference.GRPCInferenceService", Pool(name::SERVING), Rpc(INFERENCE_RPCS), inference)),
            basic(public(row("/api/auth/token", Pool(name::GATEWAY), SafeMethods, api))),
            row("/api/auth", Pool(name::GATEWAY), SafeMethods, api),
            row("/api/admin", Pool(name::GATEWAY), SafeMethods, api),
            public(row("/.well-known/jwks.json", Pool(name::GATEWAY), SafeMethods, nothing)),
            public(row("/.well-known/oauth-authorization-server", Pool(name::GATEWAY), SafeMethods, nothing)),
            public(row("/api/openapi.json", Pool(name::GATEWAY), SafeMethods, nothing)),
            row("/api/sla", Pool(name::SLA), SafeMethods, api),
            row("/api/backups", Pool(name::BACKUP), SafeMethods, api),
            per_request(row("/api/2.0/mlflow", Pool(name::MLFLOW), SafeMethods, registry)),
            per_request(row("/api/2.0/mlflow-artifacts", Pool(name::MLFLOW), SafeMethods, artifact)),
            row("/api/loadbalancer/status", Status, SafeMethods, nothing),
            public(row("/api/loadbalancer/openapi.json", Description, SafeMethods, nothing)),
            public(row("/health", Health, SafeMethods, nothing)),
            public(row("/grpc.health.v1.Health/Check", GrpcHealth, SafeMethods, (HEALTH_BODY_BYTES_MAX, api.1))),
        ])
    }

    /// Every line, in order.
    pub fn all(&self) -> &[Route] {
        &self.0
    }

    /// What is said of a path that has no route.
    pub fn unknown_path_message(path: &str) -> &'static str {
        absent::message(path)
    }

    /// What clients of other servers look for and is not offered, with what they are told.
    pub fn absent() -> &'static [(&'static str, &'static str)] {
        absent::all()
    }

    /// The route of a path, if it has one. Paths that two parties could read differently have none.
    pub fn find(&self, path: &str) -> Option<&Route> {
        let route = self.0.iter().find(|route| path::is_below(path, route.prefix))?;
        (path::is_plain(path) && !absent::is_absent(path)).then_some(route)
    }
}

// === impl Route ===

impl Route {
    /// Whether this request may be sent to a second replica after a first one may have seen it.
    pub fn is_repeatable(&self, method: &Method, path: &str) -> bool {
        let is_safe = matches!(*method, Method::GET | Method::HEAD);
        match self.repeatable {
            Repeatable::SafeMethods => is_safe,
            Repeatable::Inference => {
                let is_prediction = path.ends_with("/infer") || path.ends_with("/predict");
                is_safe || *method == Method::POST && (is_prediction || path == "/v2/repository/index")
            }
            Repeatable::Rpc(methods) => path.rsplit_once('/').is_some_and(|(_, rpc)| methods.contains(&rpc)),
        }
    }

    /// Whether every replica gets this request: a model that one of them has loaded is not loaded.
    pub fn is_broadcast(&self, method: &Method) -> bool {
        self.is_broadcast && *method == Method::POST
    }

    /// Whether every replica is asked and the client gets the sum: a replica has counted only what it computed itself.
    pub fn is_summed(&self, method: &Method, path: &str) -> bool {
        match *method {
            Method::GET | Method::HEAD => self.target == Target::Pool(name::SERVING) && is_statistics(path),
            Method::POST => path == MODEL_STATISTICS,
            _ => false,
        }
    }

    /// The pool's name, or the balancer's own, for metrics.
    pub fn pool_label(&self) -> &'static str {
        match self.target {
            Target::Pool(pool) => pool,
            Target::Health | Target::GrpcHealth | Target::Status | Target::Description => name::BALANCER,
        }
    }
}

/// Whether a path asks for the statistics of all models, of one, or of one version. A model or an alias may have the same name.
fn is_statistics(path: &str) -> bool {
    let Some(segments) = path.strip_prefix("/v2/models/") else { return false };
    let segments: Vec<&str> = segments.splitn(5, '/').collect();
    matches!(*segments, ["stats"] | [_, "stats"] | [_, "versions", _, "stats"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Routes {
        Routes::new(&RouteLimits {
            inference_body_bytes_max: 100,
            inference_time_max_ms: 1000,
            api_body_bytes_max: 10,
            api_time_max_ms: 500,
            registry_body_bytes_max: 20,
            registry_time_max_ms: 700,
            artifact_body_bytes_max: 1000,
            artifact_time_max_ms: 5000,
        })
    }

    #[test]
    fn paths_match_by_whole_segments() {
        let routes = routes();
        let target = |path: &str| routes.find(path).map(|route| route.target);
        for (path, pool) in [
            ("/v2", name::SERVING),
            ("/v2/", name::SERVING),
            ("/v2/models/m/infer", name::SERVING),
            ("/api/models/m/predict", name::SERVING),
            ("/v2/repository/models/m/load", name::SERVING),
            ("/inference.GRPCInferenceService/ModelInfer", name::SERVING),
            ("/api/auth/token", name::GATEWAY),
            ("/api/admin/users", name::GATEWAY),
            ("/.well-known/jwks.json", name::GATEWAY),
            ("/.well-known/oauth-authorization-server", name::GATEWAY),
            ("/api/openapi.json", name::GATEWAY),
            ("/api/sla/ml-services/current", name::SLA),
            ("/api/backups", name::BACKUP),
            ("/api/2.0/mlflow/model-versions/search", name::MLFLOW),
            ("/api/2.0/mlflow-artifacts/artifacts/1/model.onnx", name::MLFLOW),
        ] {
            assert_eq!(target(path), Some(Target::Pool(pool)), "{path}");
        }
        assert_eq!(target("/health"), Some(Target::Health));
        assert_eq!(target("/grpc.health.v1.Health/Check"), Some(Target::GrpcHealth));
        assert_eq!(target("/api/loadbalancer/status"), Some(Target::Status));
        assert_eq!(target("/api/loadbalancer/openapi.json"), Some(Target::Description));
        for path in [
            "/",
            "",
            "*",
            "/v20",
            "/api",
            "/api/administration",
            "/api/models2/m/predict",
            "/v2//models",
            "/v2/../api/admin",
            "/v2/%2e%2E/x",
            "/v2/.",
            "/v2\\x",
            "/rampart.auth.v1.Authorization/Authorize",
            "/internal/authorize",
            "/api/2.0",
            "/api/2.0/mlflow-other",
            "/api/3.0/mlflow/server-info",
            "/ajax-api/2.0/mlflow/runs/search",
            "/metrics",
            "/grpc.health.v1.Health/Watch",
            "/grpc.health.v1.Health",
        ] {
            assert_eq!(target(path), None, "{path}");
        }
    }

    #[test]
    fn clients_of_other_protocols_are_shown_the_way() {
        for path in ["/v1/models/m:predict", "/v1/models/m", "/invocations"] {
            assert!(routes().find(path).is_none());
            assert!(Routes::unknown_path_message(path).contains("/api/models/{model}/predict"), "{path}");
        }
        assert_eq!(Routes::unknown_path_message("/v1/modelsx"), "there is nothing at this path");
    }

    #[test]
    fn what_of_mlflow_is_not_offered_is_told() {
        for (path, what) in [
            ("/ajax-api/2.0/mlflow/experiments/search", "web interface"),
            ("/static-files/index.html", "web interface"),
            ("/api/2.0/mlflow/webhooks", "webhooks"),
            ("/api/2.0/mlflow/webhooks/1", "webhooks"),
            ("/api/2.0/mlflow/traces", "traces"),
            ("/api/3.0/mlflow/traces/search", "traces"),
        ] {
            assert!(routes().find(path).is_none(), "{path}");
            let message = Routes::unknown_path_message(path);
            assert!(message.contains(what) && message.contains("not offered here"), "{path}: {message}");
        }
        assert!(routes().find("/api/2.0/mlflow/registered-models/get").is_some());
    }

    /// What is behind these routes checks no passports, so none of them may go on without permission.
    #[test]
    fn every_registry_route_needs_permission_per_request() {
        for route in routes().0 {
            let is_registry = route.target == Target::Pool(name::MLFLOW);
            assert_eq!(route.auth_mode == AuthMode::PerRequest, is_registry, "{}", route.prefix);
        }
    }

    #[test]
    fn only_what_changes_nothing_may_be_sent_twice() {
        let routes = routes();
        for (method, path, repeatable) in [
            (Method::GET, "/v2/models/m", true),
            (Method::POST, "/v2/models/m/infer", true),
            (Method::POST, "/v2/models/m/versions/2/infer", true),
            (Method::POST, "/v2/repository/index", true),
            (Method::POST, "/api/models/m/predict", true),
            (Method::POST, "/api/models/m/versions/2/predict", true),
            (Method::GET, "/api/models/m/schema", true),
            (Method::POST, "/api/models/m/schema", false),
            (Method::POST, "/v2/repository/models/m/load", false),
            (Method::POST, "/v2/repository/models/m/unload", false),
            (Method::POST, "/inference.GRPCInferenceService/ModelInfer", true),
            (Method::POST, "/inference.GRPCInferenceService/ModelMetadata", true),
            (Method::POST, "/inference.GRPCInferenceService/ServerLive", true),
            (Method::POST, "/inference.GRPCInferenceService/RepositoryModelLoad", false),
            (Method::POST, "/inference.GRPCInferenceService/ModelStreamInfer", false),
            (Method::GET, "/api/admin/users", true),
            (Method::POST, "/api/admin/users", false),
            (Method::DELETE, "/api/admin/users/1", false),
            (Method::POST, "/api/auth/token", false),
            (Method::POST, "/api/backups", false),
            (Method::GET, "/api/2.0/mlflow/model-versions/search", true),
            (Method::POST, "/api/2.0/mlflow/runs/search", false),
            (Method::PUT, "/api/2.0/mlflow-artifacts/artifacts/a", false),
        ] {
            assert_eq!(routes.find(path).unwrap().is_repeatable(&method, path), repeatable, "{method} {path}");
        }
    }

    #[test]
    fn statistics_are_summed_and_nothing_else_is() {
        let routes = routes();
        for (method, path, is_summed) in [
            (Method::GET, "/v2/models/stats", true),
            (Method::HEAD, "/v2/models/m/stats", true),
            (Method::GET, "/v2/models/m/versions/2/stats", true),
            (Method::GET, "/v2/models/stats/stats", true),
            (Method::POST, "/v2/models/m/stats", false),
            (Method::GET, "/v2/models/m/versions/stats", false),
            (Method::GET, "/v2/models/m/versions/2/x/stats", false),
            (Method::GET, "/v2/models/m/stats/x", false),
            (Method::GET, "/v2/stats", false),
            (Method::POST, "/inference.GRPCInferenceService/ModelStatistics", true),
            (Method::POST, "/inference.GRPCInferenceService/ModelStatistics/x", false),
            (Method::GET, "/inference.GRPCInferenceService/ModelStatistics", false),
            (Method::POST, "/inference.GRPCInferenceService/ModelInfer", false),
        ] {
            assert_eq!(routes.find(path).unwrap().is_summed(&method, path), is_summed, "{method} {path}");
        }
    }
}
