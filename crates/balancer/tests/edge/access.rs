//! Tokens, passports, revocations, and gateways that are not there.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use authz::Role;
use http::StatusCode;
use testkit::poll_until;

use crate::{
    gateway::Gateway,
    world::{Platform, SOON},
};

async fn status_of(platform: &Platform, token: &str) -> StatusCode {
    let request = platform.client.get(platform.url("/v2/echo")).bearer_auth(token);
    request.send().await.unwrap().status()
}

/// However many requests bring one token at once, the gateway is asked once.
#[tokio::test]
async fn one_call_for_one_token() {
    let platform = Platform::start(1).await;
    platform.gateway.grant("good", Role::Analyst);
    let requests = (0..50).map(|_| status_of(&platform, "good"));
    let statuses = futures::future::join_all(requests).await;
    assert!(statuses.iter().all(|status| *status == StatusCode::OK), "{statuses:?}");
    assert_eq!(platform.gateway.calls(), 1);
    assert_eq!(status_of(&platform, "good").await, StatusCode::OK);
    assert_eq!(platform.gateway.calls(), 1);
}

/// What is no token of ours is 401, and asks no gateway; a refusal is remembered for a moment.
#[tokio::test]
async fn bad_tokens_are_401() {
    let platform = Platform::start(1).await;
    for header in ["Basic dXNlcjpwYXNz", "Bearer", "Bearer ", "Token x"] {
        let request = platform.client.get(platform.url("/v2/echo")).header("authorization", header);
        assert_eq!(request.send().await.unwrap().status(), StatusCode::UNAUTHORIZED, "{header}");
    }
    assert_eq!(status_of(&platform, &"x".repeat(4097)).await, StatusCode::UNAUTHORIZED);
    assert_eq!(platform.gateway.calls(), 0);
    for _ in 0..20 {
        assert_eq!(status_of(&platform, "unknown").await, StatusCode::UNAUTHORIZED);
    }
    assert!((1..5).contains(&platform.gateway.calls()), "{}", platform.gateway.calls());
    assert_eq!(platform.serving[0].seen.count(), 0);
}

/// Where nobody needs a passport a token is not looked at: an expired one must not keep a client from the next.
#[tokio::test]
async fn open_routes_do_not_look_at_tokens() {
    let platform = Platform::start(1).await;
    for path in ["/health", "/v2/health/live", "/.well-known/jwks.json"] {
        let request = platform.client.get(platform.url(path)).bearer_auth("expired");
        assert_eq!(request.send().await.unwrap().status(), StatusCode::OK, "{path}");
    }
    let request = platform.client.post(platform.url("/api/auth/token")).bearer_auth("expired").body("x");
    assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(platform.gateway.calls(), 0);
}

/// A revocation is felt at once, long before the passport ends.
#[tokio::test]
async fn a_revocation_is_felt_at_once() {
    let platform = Platform::start(1).await;
    for token in ["one", "other"] {
        platform.gateway.grant(token, Role::Analyst);
        assert_eq!(status_of(&platform, token).await, StatusCode::OK);
    }
    let began = Instant::now();
    platform.gateway.revoke("one");
    poll_until("the token is refused", Duration::from_secs(2), async || {
        status_of(&platform, "one").await == StatusCode::UNAUTHORIZED
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(status_of(&platform, "other").await, StatusCode::OK);
    assert_eq!(platform.gateway.calls(), 3, "the other was not asked for again");
}

/// With every gateway lost, who is known is served and who is not is told so at once. When one is back, what was
/// revoked unheard is not served any more.
#[tokio::test]
async fn a_lost_gateway_stops_nobody_who_is_known() {
    let mut platform = Platform::start(1).await;
    for token in ["known", "revoked"] {
        platform.gateway.grant(token, Role::Analyst);
        assert_eq!(status_of(&platform, token).await, StatusCode::OK);
    }
    platform.gateway.kill();
    poll_until("the gateway is noticed to be down", SOON, async || {
        platform.status().await["pools"]["gateway"]["replicas"][0]["state"] == "unhealthy"
    })
    .await;
    for _ in 0..20 {
        assert_eq!(status_of(&platform, "known").await, StatusCode::OK);
    }
    let began = Instant::now();
    let request = platform.client.get(platform.url("/v2/echo")).bearer_auth("new");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "1");
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());

    platform.gateway.forget("revoked");
    let (address, state) = (platform.gateway.address, Arc::clone(&platform.gateway.state));
    platform.gateway = Gateway::start_with(&platform.world, "gateway-1", address, state);
    poll_until("what was revoked unheard is refused", SOON, async || {
        assert_eq!(status_of(&platform, "known").await, StatusCode::OK);
        status_of(&platform, "revoked").await == StatusCode::UNAUTHORIZED
    })
    .await;
}

/// A passport that is used is renewed in the background before it ends.
#[tokio::test]
async fn passports_are_renewed_while_they_are_used() {
    let platform = Platform::start(1).await;
    *platform.gateway.state.passport_life_s.lock().unwrap() = 3;
    platform.gateway.grant("good", Role::Analyst);
    poll_until("it was renewed", SOON, async || {
        assert_eq!(status_of(&platform, "good").await, StatusCode::OK);
        platform.gateway.calls() >= 3
    })
    .await;
}
