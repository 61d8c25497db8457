//! What one caller may take, and that others do not notice when it wants more.

use axum::body::Bytes;
use http::StatusCode;
use http_body_util::StreamBody;
use hyper::body::Frame;
use policy::Role;
use reqwest::Response;
use testkit::poll_until;

use crate::world::{Platform, SOON};

async fn post(platform: &Platform, path: &str, token: &str, bytes: usize) -> Response {
    let request = platform.client.post(platform.url(path)).bearer_auth(token).body(vec![b'x'; bytes]);
    request.send().await.unwrap()
}

fn retry_after(response: &Response) -> Option<&str> {
    response.headers().get("retry-after")?.to_str().ok()
}

/// Sends calls that a replica holds, and waits until it has them.
async fn hold(platform: &Platform, token: &'static str, calls: usize, bytes: usize) -> Vec<Held> {
    let before = platform.serving[0].seen.count();
    let held = (0..calls).map(|_| {
        let url = platform.url("/v2/held/infer");
        let request = platform.client.post(url).bearer_auth(token).body(vec![b'x'; bytes]);
        tokio::spawn(async move { request.send().await.unwrap().status() })
    });
    let held = held.collect();
    poll_until("calls are held", SOON, async || platform.serving[0].seen.count() == before + calls).await;
    held
}

type Held = tokio::task::JoinHandle<StatusCode>;

/// By role: an engineer has more calls than others. gRPC, REST and the registry's routes count together.
#[tokio::test]
async fn calls_of_one_caller_are_bounded_and_others_are_served() {
    let config = "[callers.default]\ncalls_max = 3\n[callers.roles.engineer]\ncalls_max = 4\n\
                  requests_per_s = 1000\nrequests_burst = 1000\nbody_bytes_max = 1000000\n";
    let platform = Platform::start_with(1, config).await;
    for (token, role) in [("ada", Role::Analyst), ("bob", Role::Analyst), ("eve", Role::Engineer)] {
        platform.gateway.grant(token, role);
    }
    let mut held = hold(&platform, "ada", 3, 1).await;
    let refused = post(&platform, "/v2/echo", "ada", 1).await;
    assert_eq!((refused.status(), retry_after(&refused)), (StatusCode::TOO_MANY_REQUESTS, Some("1")));
    assert!(refused.text().await.unwrap().contains("as many of your calls are under way as your roles allow"));
    let rpc = platform
        .client
        .post(platform.url("/inference.GRPCInferenceService/ModelInfer"))
        .header("content-type", "application/grpc")
        .bearer_auth("ada");
    assert_eq!(rpc.send().await.unwrap().headers()["grpc-status"], "8", "RESOURCE_EXHAUSTED");
    assert_eq!(post(&platform, "/v2/echo", "bob", 1).await.status(), StatusCode::OK);
    held.extend(hold(&platform, "eve", 4, 1).await);
    assert_eq!(post(&platform, "/v2/echo", "eve", 1).await.status(), StatusCode::TOO_MANY_REQUESTS);

    platform.release_held();
    for call in held {
        assert_eq!(call.await.unwrap(), StatusCode::OK);
    }
    poll_until("places are given back", SOON, async || post(&platform, "/v2/echo", "ada", 1).await.status() == 200)
        .await;
}

/// A call that its client gives up gives its place back.
#[tokio::test]
async fn calls_that_are_given_up_give_their_places_back() {
    let platform = Platform::start_with(1, "callers.default.calls_max = 2\n").await;
    platform.gateway.grant("ada", Role::Analyst);
    let held = hold(&platform, "ada", 2, 1).await;
    assert_eq!(post(&platform, "/v2/echo", "ada", 1).await.status(), StatusCode::TOO_MANY_REQUESTS);
    held.iter().for_each(tokio::task::JoinHandle::abort);
    poll_until("a place is free", SOON, async || post(&platform, "/v2/echo", "ada", 1).await.status() == 200).await;
}

/// Announced bytes are taken before the body comes; others are counted as they come.
#[tokio::test]
async fn bodies_of_one_caller_are_bounded() {
    const MIB: usize = 1 << 20;
    let platform = Platform::start_with(1, "callers.default.body_bytes_max = 4194304\n").await;
    for token in ["ada", "bob"] {
        platform.gateway.grant(token, Role::Analyst);
    }
    let held = hold(&platform, "ada", 1, 3 * MIB).await;
    let refused = post(&platform, "/v2/echo", "ada", 2 * MIB).await;
    assert_eq!((refused.status(), retry_after(&refused)), (StatusCode::TOO_MANY_REQUESTS, Some("1")));
    let chunks = (0..32).map(|_| Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![b'x'; MIB / 16]))));
    let unannounced = reqwest::Body::wrap(StreamBody::new(futures::stream::iter(chunks)));
    let refused = platform.client.post(platform.url("/v2/echo")).bearer_auth("ada").body(unannounced).send().await;
    assert_eq!(refused.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(post(&platform, "/v2/echo", "ada", MIB).await.status(), StatusCode::OK);
    assert_eq!(post(&platform, "/v2/echo", "bob", 5 * MIB).await.status(), StatusCode::OK, "the only one may be long");
    platform.release_held();
    for call in held {
        assert_eq!(call.await.unwrap(), StatusCode::OK);
    }
}

/// Beyond the rate a caller waits; the answer says how long, and after that time it is served.
#[tokio::test]
async fn requests_of_one_caller_have_a_rate() {
    let platform = Platform::start_with(1, "[callers.default]\nrequests_per_s = 1\nrequests_burst = 5\n").await;
    for token in ["ada", "bob"] {
        platform.gateway.grant(token, Role::Analyst);
    }
    let mut statuses = Vec::new();
    for _ in 0..10 {
        statuses.push(post(&platform, "/v2/echo", "ada", 1).await.status());
    }
    assert_eq!(statuses[..5], [StatusCode::OK; 5]);
    assert!(statuses[5..].contains(&StatusCode::TOO_MANY_REQUESTS), "{statuses:?}");
    assert_eq!(post(&platform, "/v2/echo", "bob", 1).await.status(), StatusCode::OK);
    poll_until("it is served again", SOON, async || post(&platform, "/v2/echo", "ada", 1).await.status() == 200).await;
}
