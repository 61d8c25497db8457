//! What passes through, what does not, and what is put on the way.

use http::{HeaderMap, StatusCode, Version};
use policy::Role;
use proto::inference::{
    ModelReadyRequest, RepositoryModelLoadRequest, ServerLiveRequest,
    grpc_inference_service_client::GrpcInferenceServiceClient,
};
use serde_json::Value;
use testkit::poll_until;
use tonic::{
    Code,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    raw::Raw,
    world::{Platform, SOON},
};

pub async fn grpc(platform: &Platform) -> Channel {
    let tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(platform.world.ca.pem())).domain_name("localhost");
    Endpoint::from_shared(platform.url("/")).unwrap().tls_config(tls).unwrap().connect().await.unwrap()
}

/// Whatever identity a client claims, a service gets only what the balancer sets.
#[tokio::test]
async fn identity_headers_are_replaced() {
    let platform = Platform::start(1).await;
    platform.gateway.grant("good", Role::Analyst);
    for version in ["h2", "http/1.1"] {
        let builder = platform.world.client();
        let client = if version == "h2" { builder } else { builder.http1_only() }.build().unwrap();
        let response = client
            .post(platform.url("/v2/echo?x=1"))
            .bearer_auth("good")
            .header("rampart-passport", "forged")
            .header("Rampart-Client-Address", "203.0.113.9")
            .header("x-forwarded-for", "203.0.113.9")
            .header("Forwarded", "for=203.0.113.9")
            .header("X-User-Id", "admin")
            .header("x-auth-role", "admin")
            .header("x-internal-token", "x")
            .header("x-real-ip", "203.0.113.9")
            .header("kubeflow-userid", "admin")
            .header("x-request-id", "kept")
            .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
            .body("body")
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let echo: Value = response.json().await.unwrap();
        let headers = echo["headers"].as_object().unwrap();
        for stripped in [
            "authorization",
            "x-forwarded-for",
            "forwarded",
            "x-user-id",
            "x-auth-role",
            "x-internal-token",
            "x-real-ip",
            "kubeflow-userid",
        ] {
            assert!(!headers.contains_key(stripped), "{version}: {stripped} arrived");
        }
        assert_eq!(headers["rampart-client-address"], "127.0.0.1");
        assert_eq!(headers["x-request-id"], "kept");
        let traceparent = headers["traceparent"].as_str().unwrap();
        assert!(traceparent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{traceparent}");
        let passport = headers["rampart-passport"].as_str().unwrap();
        assert_eq!(passport.split('.').count(), 3, "a JWT, not {passport:?}");
        assert_eq!((&echo["body"], &echo["query"]), (&"body".into(), &"x=1".into()));
    }
}

/// Without a token a request goes on without a passport: the service's policy decides.
#[tokio::test]
async fn an_anonymous_request_has_no_passport_and_a_new_trace() {
    let platform = Platform::start(1).await;
    let echo: Value = platform.get("/v2/echo").await.json().await.unwrap();
    assert!(!echo["headers"].as_object().unwrap().contains_key("rampart-passport"));
    assert_eq!(echo["headers"]["traceparent"].as_str().unwrap().len(), 55);
}

/// gRPC passes with its trailers, and a status without a message stays one.
#[tokio::test]
async fn grpc_passes_with_its_trailers() {
    let platform = Platform::start(1).await;
    let mut client = GrpcInferenceServiceClient::new(grpc(&platform).await);
    let response = client.server_live(ServerLiveRequest {}).await.unwrap();
    assert_eq!(response.metadata().get("x-trailer").unwrap(), "kept");
    let request = ModelReadyRequest { name: "m".into(), version: String::new() };
    let status = client.model_ready(request).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "as asked"));
}

/// Errors of the balancer itself come in the form of the route.
#[tokio::test]
async fn own_errors_have_the_form_of_their_route() {
    let platform = Platform::start(1).await;
    let bad = |path: &str| platform.client.get(platform.url(path)).bearer_auth("unknown");
    let response = bad("/v2/models/m").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(response.headers()["www-authenticate"], "Bearer error=\"invalid_token\"");
    assert!(response.text().await.unwrap().starts_with("{\"error\":"));

    let response = bad("/api/admin/users").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_eq!(response.json::<Value>().await.unwrap()["status"], 401);

    let channel = grpc(&platform).await;
    let mut client = GrpcInferenceServiceClient::with_interceptor(channel, |mut request: tonic::Request<()>| {
        request.metadata_mut().insert("authorization", "Bearer unknown".parse().unwrap());
        Ok(request)
    });
    let request = ModelReadyRequest { name: "m".into(), version: String::new() };
    let status = client.model_ready(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    // Health needs no token, so that none is looked at.
    client.server_live(ServerLiveRequest {}).await.unwrap();

    let response = platform.get("/nothing/here").await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(response.json::<Value>().await.unwrap()["status"], 404);
    for (path, allowed) in [("/grpc.health.v1.Health/Check", "POST"), ("/health", "GET, HEAD")] {
        let response = platform.client.delete(platform.url(path)).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(response.headers()["allow"], allowed, "{path}");
    }
    let plain = platform.client.post(platform.url("/grpc.health.v1.Health/Check")).send().await.unwrap();
    assert_eq!(plain.status(), StatusCode::NOT_FOUND, "it is gRPC");
}

/// gRPC's own health is the platform's, for every client: whether a healthy replica is there.
#[tokio::test]
async fn grpc_health_is_answered_by_the_balancer() {
    let mut platform = Platform::start(2).await;
    let mut client = HealthClient::new(grpc(&platform).await);
    let mut check = async |service: &str| {
        let answer = client.check(HealthCheckRequest { service: service.to_owned() }).await;
        answer.map(|answer| answer.into_inner().status())
    };
    platform.serving[0].kill();
    platform.wait_healthy(1).await;
    for service in ["", "inference.GRPCInferenceService"] {
        assert_eq!(check(service).await.unwrap(), ServingStatus::Serving, "{service:?}");
    }
    for service in ["inference", &"x".repeat(1000)] {
        assert_eq!(check(service).await.unwrap_err().code(), Code::NotFound, "{service:?}");
    }
    assert_eq!(check(&"x".repeat(1024)).await.unwrap_err().code(), Code::ResourceExhausted);
    platform.serving[1].kill();
    platform.wait_healthy(0).await;
    assert_eq!(check("").await.unwrap(), ServingStatus::NotServing);

    let code = client.watch(HealthCheckRequest::default()).await.unwrap_err().code();
    assert_eq!(code, Code::Unimplemented);
    // What is no message, and one that is compressed.
    for (body, code) in [(&b"no message"[..], "3"), (b"", "3"), (&[1, 0, 0, 0, 0], "12")] {
        let request = platform.client.post(platform.url("/grpc.health.v1.Health/Check"));
        let response = request.header("content-type", "application/grpc").body(body).send().await.unwrap();
        assert_eq!(response.headers()["grpc-status"], code, "{response:?}");
    }
    assert_eq!(platform.serving.iter().map(|replica| replica.seen.count()).sum::<usize>(), 0);
}

/// A connection serves many requests, also with bodies, and `Expect: 100-continue` gets its go-ahead from the balancer.
#[tokio::test]
async fn http1_connections_are_kept() {
    let platform = Platform::start(1).await;
    let mut raw = Raw::open(&platform).await;
    for body in ["", "x", "xyz"] {
        let length = body.len();
        raw.write(format!("POST /v2/echo HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}")).await;
        let answer = raw.read_response().await;
        assert!(answer.contains(&format!("\"body_bytes\":{length}")), "{answer}");
    }
    raw.write("POST /v2/echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n").await;
    assert!(raw.read_response().await.starts_with("HTTP/1.1 100 "));
    raw.write("abc").await;
    let answer = raw.read_response().await;
    assert!(answer.contains("\"body\":\"abc\"") && answer.contains("keep-alive"), "{answer}");
    raw.write("GET /v2/echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let answer = raw.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
}

/// Requests that are sent before their time are answered in turn, and each head is read as strictly as the first.
#[tokio::test]
async fn pipelined_requests_are_answered_in_turn() {
    let platform = Platform::start(1).await;
    let first = "GET /v2/held/first HTTP/1.1\r\nHost: a\r\n\r\n";
    let with_body =
        "POST /v2/second HTTP/1.1\r\nHost: a\r\nContent-Length: 36\r\n\r\nGET /v2/no HTTP/1.1\r\nHost: a\r\nX: y\r\n";
    let third = "GET /v2/third HTTP/1.1\r\nHost: a\r\n\r\n";
    let ambiguous =
        "POST /v2/fourth HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    for is_at_once in [true, false] {
        let seen = platform.serving[0].seen.count();
        let mut raw = Raw::open(&platform).await;
        let rest = format!("{with_body}{third}{ambiguous}{third}");
        if is_at_once {
            raw.write(format!("{first}{rest}")).await;
        } else {
            raw.write(first).await;
        }
        poll_until("it is in flight", SOON, async || platform.serving[0].seen.count() > seen).await;
        if !is_at_once {
            let (some, more) = rest.split_at(100);
            raw.write(some).await;
            raw.write(more).await;
        }
        platform.release_held();
        let answers = raw.read_to_end().await;
        let statuses: Vec<&str> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
        assert_eq!(statuses, ["200", "200", "200", "400"], "{answers}");
        let place = |path: &str| answers.find(&format!("\"path\":\"/v2/{path}\"")).unwrap();
        assert!(place("held/first") < place("second") && place("second") < place("third"));
        assert_eq!(platform.serving[0].seen.count(), seen + 3, "what is in a body is no request");
    }
}

/// Loading a model reaches every replica, one that drains too, with passport and body; the worst answer is the client's.
#[tokio::test]
async fn loading_a_model_reaches_every_replica() {
    let platform = Platform::start(3).await;
    platform.gateway.grant("good", Role::Engineer);
    platform.serving[2].set_serving(false).await;
    platform.wait_healthy(2).await;
    let counts = || platform.serving.iter().map(|replica| replica.seen.count()).collect::<Vec<_>>();
    let load = |body: Vec<u8>| {
        let request = platform.client.post(platform.url("/v2/repository/models/m/load?x=1")).bearer_auth("good");
        async move { request.body(body).send().await.unwrap() }
    };
    let response = load(b"{\"a\":1}".to_vec()).await;
    assert_eq!(response.status(), StatusCode::OK);
    let echo: Value = response.json().await.unwrap();
    assert_eq!((&echo["method"], &echo["query"], &echo["body"]), (&"POST".into(), &"x=1".into(), &"{\"a\":1}".into()));
    assert_eq!(echo["path"], "/v2/repository/models/m/load");
    assert_eq!(echo["headers"]["rampart-client-address"], "127.0.0.1");
    assert_eq!(echo["headers"]["rampart-passport"].as_str().unwrap().split('.').count(), 3);
    assert!(echo["headers"]["authorization"].is_null());
    assert_eq!(counts(), [1, 1, 1]);
    platform.serving[1].seen.is_unavailable.send_replace(true);
    assert_eq!(load(Vec::new()).await.status(), StatusCode::SERVICE_UNAVAILABLE, "one of three has not done it");
    assert_eq!(counts(), [2, 2, 2]);
    assert_eq!(load(vec![b'x'; (64 << 10) + 1]).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(counts(), [2, 2, 2]);
}

/// The same over gRPC, where the answer's status comes after its message.
#[tokio::test]
async fn loading_a_model_over_grpc_reaches_every_replica() {
    let platform = Platform::start(3).await;
    platform.gateway.grant("good", Role::Engineer);
    let mut client = GrpcInferenceServiceClient::new(grpc(&platform).await);
    let mut load = async || {
        let message = RepositoryModelLoadRequest { model_name: "m".into(), ..Default::default() };
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert("authorization", "Bearer good".parse().unwrap());
        client.repository_model_load(request).await
    };
    let counts = || platform.serving.iter().map(|replica| replica.seen.count()).collect::<Vec<_>>();
    load().await.unwrap();
    assert_eq!(counts(), [1, 1, 1]);
    platform.serving[1].seen.is_unavailable.send_replace(true);
    assert_eq!(load().await.unwrap_err().code(), Code::Unavailable, "one of three has not done it");
    assert_eq!(counts(), [2, 2, 2]);
}

/// The token endpoint alone gets the `Authorization` of a client, and of that `Basic` alone.
#[tokio::test]
async fn basic_credentials_reach_the_token_endpoint_alone() {
    let platform = Platform::start(1).await;
    platform.gateway.grant("good", Role::Admin);
    for version in [Version::HTTP_2, Version::HTTP_11] {
        let builder = platform.world.client();
        let client = if version == Version::HTTP_2 { builder } else { builder.http1_only() }.build().unwrap();
        let send = async |path: &str, values: &[&str]| {
            let request = client.post(platform.url(path)).body("x");
            let request = values.iter().fold(request, |request, value| request.header("authorization", *value));
            let response = request.send().await.unwrap();
            assert_eq!(response.version(), version);
            (response.status(), response.text().await.unwrap())
        };
        let seen = |text: &str| (StatusCode::OK, text.to_owned());
        assert_eq!(send("/api/auth/token", &["Basic YTpi"]).await, seen("Basic YTpi"));
        assert_eq!(send("/api/auth/token", &["bAsIc YTpi"]).await, seen("bAsIc YTpi"));
        for other in ["Bearer good", "Basics YTpi", "Digest x", ""] {
            assert_eq!(send("/api/auth/token", &[other]).await, seen(""), "{other}");
        }
        assert_eq!(send("/api/auth/revoke", &["Bearer good"]).await, seen(""));
        // Which of two is meant? An HTTP/1.1 head with both is refused here, and a list of both by the gateway.
        let twice = send("/api/auth/token", &["Basic YTpi", "Basic Yzpk"]).await;
        if version == Version::HTTP_2 {
            assert_eq!(twice, seen("Basic YTpi, Basic Yzpk"));
        } else {
            assert_eq!(twice.0, StatusCode::BAD_REQUEST);
        }
    }
}

/// A body far over the replay buffer and the windows arrives whole.
#[tokio::test]
async fn large_bodies_pass() {
    let platform = Platform::start(1).await;
    for client in [platform.client.clone(), platform.world.client().http1_only().build().unwrap()] {
        let response = client.post(platform.url("/v2/echo")).body(vec![b'x'; 10 << 20]).send().await.unwrap();
        assert_eq!(response.json::<Value>().await.unwrap()["body_bytes"], 10 << 20);
    }
}

/// Details of the status need permission; the summary needs none.
#[tokio::test]
async fn status_details_need_permission() {
    let platform = Platform::start(2).await;
    platform.gateway.grant("viewer", Role::Viewer);
    let summary = platform.status().await;
    assert_eq!(summary["healthy_backends"], 2);
    let replica = summary["pools"]["serving"]["replicas"][0].as_object().unwrap();
    assert_eq!(replica.keys().collect::<Vec<_>>(), ["name", "state"]);
    let url = platform.url("/api/loadbalancer/status");
    let details = platform.client.get(&url).bearer_auth("viewer").send().await.unwrap();
    let details: Value = details.json().await.unwrap();
    let replica = &details["pools"]["serving"]["replicas"][1];
    assert_eq!((&replica["name"], &replica["state"]), (&"serving-2".into(), &"healthy".into()));
    assert!(replica["since"].is_string() && replica["why"].is_string(), "{replica}");
    let response = platform.client.get(&url).bearer_auth("unknown").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let response = platform.client.post(&url).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(response.headers()["allow"], "GET, HEAD");
}

/// HEAD has the head of GET and no body, also where the balancer answers itself.
#[tokio::test]
async fn head_has_no_body() {
    let platform = Platform::start(1).await;
    let mut raw = Raw::open(&platform).await;
    raw.write("HEAD /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let answer = raw.read_to_end().await;
    assert!(answer.contains("content-length: 3\r\n") || answer.contains("Content-Length: 3\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    let headers: HeaderMap = platform.client.head(platform.url("/health")).send().await.unwrap().headers().clone();
    assert_eq!(headers["cache-control"], "no-store");
}
