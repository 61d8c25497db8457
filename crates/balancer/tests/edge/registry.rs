//! The model registry: a third party that checks no passports, so every request needs permission.

use std::sync::atomic::Ordering;

use http::{Method, StatusCode};
use policy::Role;
use serde_json::{Value, json};
use testkit::poll_until;

use crate::{
    process::Balancer,
    upstream::Upstream,
    world::{Platform, SOON},
};

const SEARCH: &str = "/api/2.0/mlflow/model-versions/search";
const CREATE: &str = "/api/2.0/mlflow/registered-models/create";
const FILE: &str = "/api/2.0/mlflow-artifacts/artifacts/1/model.onnx";

/// A platform, and a balancer on it that has a registry.
struct WithRegistry {
    platform: Platform,
    registry: Upstream,
    balancer: Balancer,
}

impl WithRegistry {
    async fn start() -> Self {
        let platform = Platform::start(1).await;
        let registry = Upstream::start(&platform.world, "mlflow-1");
        let pool = |name: &str, address| {
            format!("pools.{name}.replicas = [{{ name = \"{name}-1\", address = \"{address}\" }}]\n")
        };
        let config = pool("serving", platform.serving[0].address)
            + &pool("gateway", platform.gateway.address)
            + &pool("mlflow", registry.address)
            + "routes.registry_body_bytes_max = 1000\nroutes.artifact_body_bytes_max = 1000000\n";
        let balancer = Balancer::start(&platform.world, &config).await;
        for (token, role) in [("viewer", Role::Viewer), ("engineer", Role::Engineer)] {
            platform.gateway.grant(token, role);
        }
        let with = Self { platform, registry, balancer };
        poll_until("the registry is healthy", SOON, async || with.healthy().await == 1).await;
        with
    }

    async fn healthy(&self) -> u64 {
        let status = self.call(Method::GET, "/api/loadbalancer/status", None, Vec::new()).await.1;
        status["pools"]["mlflow"]["healthy"].as_u64().unwrap_or_default()
    }

    async fn call(&self, method: Method, path: &str, token: Option<&str>, body: Vec<u8>) -> (StatusCode, Value) {
        let url = format!("https://127.0.0.1:{}{path}", self.balancer.front.port());
        let mut request = self.platform.client.request(method, url).body(body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        (status, response.json().await.unwrap_or_default())
    }

    async fn status_of(&self, method: Method, path: &str, token: &str) -> StatusCode {
        self.call(method, path, Some(token), Vec::new()).await.0
    }
}

/// Permission for one route never opens another: each needs its own, and each is cached for itself.
#[tokio::test]
async fn permission_for_one_request_opens_no_other() {
    let with = WithRegistry::start().await;
    let calls = || with.platform.gateway.calls();
    let seen = || with.registry.seen.requests.load(Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(with.status_of(Method::GET, SEARCH, "viewer").await, StatusCode::OK);
    }
    assert_eq!(calls(), 1, "permission is cached");
    let before = seen();
    for (method, path) in [
        (Method::POST, CREATE),
        (Method::PUT, FILE),
        (Method::DELETE, "/api/2.0/mlflow/model-versions/delete"),
        (Method::POST, SEARCH),
        (Method::GET, "/api/2.0/mlflow/jobs"),
        (Method::GET, "/api/2.0/mlflow"),
    ] {
        let (status, body) = with.call(method.clone(), path, Some("viewer"), Vec::new()).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path}");
        assert_eq!(body["error_code"], "PERMISSION_DENIED", "{body}");
    }
    let (status, body) = with.call(Method::GET, "/api/2.0/mlflow/webhooks", Some("viewer"), Vec::new()).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "it is not offered, whatever the role");
    let message = body["message"].as_str().unwrap();
    assert!(body["error_code"] == "ENDPOINT_NOT_FOUND" && message.contains("webhooks are not offered"), "{body}");
    for (path, expected) in [(SEARCH, 1), (CREATE, 1)] {
        let asked = calls();
        let (status, body) = with.call(Method::GET, path, None, Vec::new()).await;
        assert_eq!((status, &body["error_code"]), (StatusCode::UNAUTHORIZED, &json!("UNAUTHENTICATED")));
        assert_eq!(calls(), asked, "without a token there is nothing to ask");
        let (status, body) = with.call(Method::GET, path, Some("wrong"), Vec::new()).await;
        assert_eq!((status, &body["error_code"]), (StatusCode::UNAUTHORIZED, &json!("UNAUTHENTICATED")));
        assert_eq!(calls(), asked + expected);
    }
    let beyond = format!("/api/2.0/mlflow-artifacts/artifacts/{}", "a".repeat(5000));
    assert_eq!(with.status_of(Method::GET, &beyond, "engineer").await, StatusCode::FORBIDDEN);
    // Health checks go on meanwhile.
    assert!(seen() - before <= 60, "none of these reached the registry");
    assert_eq!(with.status_of(Method::POST, CREATE, "engineer").await, StatusCode::OK);
    with.platform.gateway.revoke("engineer");
    poll_until("permission is revoked", SOON, async || {
        with.status_of(Method::POST, CREATE, "engineer").await == StatusCode::UNAUTHORIZED
    })
    .await;
}

/// The registry is called by a name that it answers to, and gets no token, passport or identity of a client.
#[tokio::test]
async fn no_identity_header_reaches_the_registry() {
    let with = WithRegistry::start().await;
    for version in ["h2", "http/1.1"] {
        let builder = with.platform.world.client();
        let client = if version == "h2" { builder } else { builder.http1_only() }.build().unwrap();
        let url = format!("https://127.0.0.1:{}{SEARCH}?max_results=2", with.balancer.front.port());
        let request = client.get(url).bearer_auth("viewer").header("x-forwarded-for", "127.0.0.1");
        let request = request.header("rampart-passport", "forged");
        let request = if version == "h2" { request } else { request.header("host", "localhost:5000") };
        let echo: Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!((&echo["path"], &echo["query"]), (&json!(SEARCH), &json!("max_results=2")), "{version}: {echo}");
        assert_eq!(echo["authority"], "mlflow.rampart.internal", "{version}");
        for name in ["authorization", "rampart-passport", "x-forwarded-for"] {
            assert!(echo["headers"].get(name).is_none(), "{version}: {name} arrived");
        }
    }
}

/// Files are large and everything else is not; over the limit, the answer is in the form that MLflow's clients read.
#[tokio::test]
async fn a_file_may_be_larger_than_a_request() {
    let with = WithRegistry::start().await;
    for (method, path, bytes, expected) in [
        (Method::POST, CREATE, 1_000, StatusCode::OK),
        (Method::POST, CREATE, 1_001, StatusCode::PAYLOAD_TOO_LARGE),
        (Method::PUT, FILE, 1_000_000, StatusCode::OK),
        (Method::PUT, FILE, 1_000_001, StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let (status, body) = with.call(method.clone(), path, Some("engineer"), vec![b'x'; bytes]).await;
        assert_eq!(status, expected, "{method} {path} {bytes}");
        match status {
            StatusCode::OK => assert_eq!(body["body_bytes"], bytes),
            _ => assert_eq!(body["error_code"], "INVALID_PARAMETER_VALUE"),
        }
    }
}

/// A caller with permission is told that the registry is down, or that there is none; one without is not. Nothing else
/// changes.
#[tokio::test]
async fn a_lost_registry_affects_its_own_routes_alone() {
    let mut with = WithRegistry::start().await;
    with.registry.kill();
    poll_until("the registry is down", SOON, async || with.healthy().await == 0).await;
    let (status, body) = with.call(Method::GET, SEARCH, Some("viewer"), Vec::new()).await;
    assert_eq!((status, &body["error_code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("TEMPORARILY_UNAVAILABLE")));
    assert_eq!(with.status_of(Method::POST, CREATE, "viewer").await, StatusCode::FORBIDDEN);
    assert_eq!(with.call(Method::GET, "/health", None, Vec::new()).await.0, StatusCode::OK);
    assert_eq!(with.status_of(Method::GET, "/v2/echo", "viewer").await, StatusCode::OK);

    let call = async |method, path, token| {
        let request = with.platform.client.request(method, with.platform.url(path)).bearer_auth(token);
        let response = request.send().await.unwrap();
        (response.status(), response.json::<Value>().await.unwrap_or_default()["error_code"].clone())
    };
    let absent = call(Method::GET, SEARCH, "viewer").await;
    assert_eq!(absent, (StatusCode::NOT_FOUND, json!("ENDPOINT_NOT_FOUND")), "the first balancer has no registry");
    assert_eq!(call(Method::POST, CREATE, "viewer").await.0, StatusCode::FORBIDDEN);
    assert_eq!(call(Method::GET, SEARCH, "wrong").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(with.platform.get("/health").await.status(), StatusCode::OK);
}
