//! Tokens, passports, revocations, and gateways that are not there.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use http::StatusCode;
use policy::Role;
use testkit::{FakeGateway, poll_until};

use crate::{
    process::Balancer,
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

/// What cannot be a token is 401 without a call; a rejection is cached for a moment.
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

/// Where no passport is needed a token is not looked at: an expired one must not keep a client from the next.
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

/// A revocation takes effect at once, long before the passport expires.
#[tokio::test]
async fn a_revocation_takes_effect_at_once() {
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

/// With every gateway lost, callers with a cached passport are served and others fail at once. When one is back, what was
/// revoked meanwhile is not served any more.
#[tokio::test]
async fn a_lost_gateway_stops_no_cached_caller() {
    let mut platform = Platform::start(1).await;
    for token in ["cached", "revoked"] {
        platform.gateway.grant(token, Role::Analyst);
        assert_eq!(status_of(&platform, token).await, StatusCode::OK);
    }
    platform.gateway.kill();
    poll_until("the gateway is unhealthy", SOON, async || {
        platform.status().await["pools"]["gateway"]["replicas"][0]["state"] == "unhealthy"
    })
    .await;
    for _ in 0..20 {
        assert_eq!(status_of(&platform, "cached").await, StatusCode::OK);
    }
    let began = Instant::now();
    let request = platform.client.get(platform.url("/v2/echo")).bearer_auth("new");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "1");
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());

    platform.gateway.revoke_silently("revoked");
    let (address, state) = (platform.gateway.address, Arc::clone(&platform.gateway.state));
    platform.gateway = FakeGateway::start_with(&platform.world.identity("gateway-1"), &["balancer"], address, state);
    poll_until("what was revoked meanwhile is refused", SOON, async || {
        assert_eq!(status_of(&platform, "cached").await, StatusCode::OK);
        status_of(&platform, "revoked").await == StatusCode::UNAUTHORIZED
    })
    .await;
}

/// A passport that is used is renewed in the background before it ends.
#[tokio::test]
async fn passports_are_renewed_while_they_are_used() {
    let platform = Platform::start(1).await;
    platform.gateway.state.passport_life_s.store(3, Ordering::SeqCst);
    platform.gateway.grant("good", Role::Analyst);
    poll_until("it was renewed", SOON, async || {
        assert_eq!(status_of(&platform, "good").await, StatusCode::OK);
        platform.gateway.calls() >= 3
    })
    .await;
}

/// The gateway's audit log names the client, and the trace has no gap.
#[tokio::test]
async fn authorize_calls_carry_client_address_and_trace() {
    let platform = Platform::start(1).await;
    platform.gateway.grant("good", Role::Analyst);
    let request = platform.client.get(platform.url("/v2/echo")).bearer_auth("good");
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = request.header("traceparent", traceparent).header("rampart-client-address", "203.0.113.9");
    assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
    let origins = platform.gateway.state.origins.lock().unwrap().clone();
    let [(client, trace)] = &origins[..] else { panic!("one call: {origins:?}") };
    assert_eq!(client, "127.0.0.1");
    assert!(trace.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{trace}");
}

/// The answer of a gateway that is cut off from its database counts only where no other can be asked.
#[tokio::test]
async fn a_stale_gateway_is_the_second_choice() {
    let platform = Platform::start(1).await;
    let mut fresh = platform.world.gateway("gateway-2");
    let old = &platform.gateway;
    old.state.is_stale.store(true, Ordering::SeqCst);
    let balancer = Balancer::start(
        &platform.world,
        &format!(
            "pools.serving.replicas = [{{ name = \"serving-1\", address = \"{}\" }}]\n\
             pools.gateway.replicas = [{{ name = \"gateway-1\", address = \"{}\" }}, \
             {{ name = \"gateway-2\", address = \"{}\" }}]",
            platform.serving[0].address, old.address, fresh.address
        ),
    )
    .await;
    let url = |path: &str| format!("https://127.0.0.1:{}{path}", balancer.front.port());
    let states = async || {
        let status = platform.client.get(url("/api/loadbalancer/status")).send().await.unwrap();
        let status: serde_json::Value = status.json().await.unwrap();
        ["serving", "gateway"].map(|pool| status["pools"][pool]["healthy"].as_u64().unwrap())
    };
    let status_of =
        async |token: &str| platform.client.get(url("/v2/echo")).bearer_auth(token).send().await.unwrap().status();
    poll_until("all are healthy", SOON, async || states().await == [1, 2]).await;
    for n in 0..10 {
        // Two of three tokens the fresh one has revoked and the old one has not. Three in a round, as each gateway is first in turn.
        for (name, is_good) in [("good", true), ("gone", false), ("lost", false)] {
            let token = format!("{name} {n}");
            old.grant(&token, Role::Analyst);
            if is_good {
                fresh.grant(&token, Role::Analyst);
            }
            let expected = if is_good { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
            assert_eq!(status_of(&token).await, expected, "{token}");
        }
    }
    assert!(old.calls() > 0, "each is asked first now and then");
    fresh.kill();
    poll_until("the fresh one is unhealthy", SOON, async || states().await == [1, 1]).await;
    old.grant("alone", Role::Analyst);
    assert_eq!(status_of("alone").await, StatusCode::OK, "better than nothing");
}

/// A gateway that is slow after its start does not slow down callers with a cached passport.
#[tokio::test]
async fn cached_callers_do_not_wait_for_a_slow_gateway() {
    let platform = Platform::start(1).await;
    platform.gateway.grant("cached", Role::Analyst);
    assert_eq!(status_of(&platform, "cached").await, StatusCode::OK);
    platform.gateway.state.is_hung.send_replace(true);
    poll_until("a gateway is asked again", SOON, async || {
        platform.gateway.resnapshot();
        let began = Instant::now();
        assert_eq!(status_of(&platform, "cached").await, StatusCode::OK);
        assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
        platform.gateway.calls() >= 2
    })
    .await;
}
