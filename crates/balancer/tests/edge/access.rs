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

/// A platform whose balancer has a second gateway.
struct TwoGateways {
    platform: Platform,
    second: FakeGateway,
    balancer: Balancer,
}

impl TwoGateways {
    async fn start() -> Self {
        let platform = Platform::start(1).await;
        let second = platform.world.gateway("gateway-2");
        let balancer = Self::balancer(&platform, &second).await;
        Self { platform, second, balancer }
    }

    /// A balancer that has just begun, and follows both.
    async fn balancer(platform: &Platform, second: &FakeGateway) -> Balancer {
        let config = format!(
            "pools.serving.replicas = [{{ name = \"serving-1\", address = \"{}\" }}]\n\
             pools.gateway.replicas = [{{ name = \"gateway-1\", address = \"{}\" }}, \
             {{ name = \"gateway-2\", address = \"{}\" }}]",
            platform.serving[0].address, platform.gateway.address, second.address
        );
        let balancer = Balancer::start(&platform.world, &config).await;
        poll_until("all are healthy", SOON, async || healthy(platform, &balancer).await == [1, 2]).await;
        poll_until("the revocations of both are followed", SOON, async || {
            let log = balancer.log();
            log.iter().filter(|line| line.to_string().contains("revocations are followed")).count() == 2
        })
        .await;
        balancer
    }

    async fn status_of(&self, token: &str) -> StatusCode {
        let request = self.platform.client.get(url(&self.balancer, "/v2/echo"));
        request.bearer_auth(token).send().await.unwrap().status()
    }

    /// The second gateway is lost, and the balancer knows.
    async fn lose_second(&mut self) {
        self.second.kill();
        poll_until("it is unhealthy", SOON, async || healthy(&self.platform, &self.balancer).await == [1, 1]).await;
    }
}

fn url(balancer: &Balancer, path: &str) -> String {
    format!("https://127.0.0.1:{}{path}", balancer.front.port())
}

/// Healthy replicas and gateways.
async fn healthy(platform: &Platform, balancer: &Balancer) -> [u64; 2] {
    let status = platform.client.get(url(balancer, "/api/loadbalancer/status")).send().await.unwrap();
    let status: serde_json::Value = status.json().await.unwrap();
    ["serving", "gateway"].map(|pool| status["pools"][pool]["healthy"].as_u64().unwrap())
}

/// The answer of a gateway that is cut off from its database counts only where no other can be asked.
#[tokio::test]
async fn a_stale_gateway_is_the_second_choice() {
    let mut two = TwoGateways::start().await;
    let (old, fresh) = (&two.platform.gateway, &two.second);
    old.state.is_stale.store(true, Ordering::SeqCst);
    for n in 0..10 {
        // Two of three tokens the fresh one has revoked and the old one has not. Three in a round, as each gateway is first in turn.
        for (name, is_good) in [("good", true), ("gone", false), ("lost", false)] {
            let token = format!("{name} {n}");
            old.grant(&token, Role::Analyst);
            if is_good {
                fresh.grant(&token, Role::Analyst);
            }
            let expected = if is_good { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
            assert_eq!(two.status_of(&token).await, expected, "{token}");
        }
    }
    assert!(old.calls() > 0, "each is asked first now and then");
    old.grant("alone", Role::Analyst);
    two.lose_second().await;
    assert_eq!(two.status_of("alone").await, StatusCode::OK, "better than nothing");
}

/// A gateway that was cut off a moment ago does not know that it is stale, and would go on granting what another revoked.
#[tokio::test]
async fn a_gateway_that_is_cut_off_grants_nothing_that_was_revoked_elsewhere() {
    let two = TwoGateways::start().await;
    let (cut, fresh) = (&two.platform.gateway, &two.second);
    for token in ["good", "gone", "demoted", "demoted later"] {
        cut.grant(token, Role::Analyst);
        fresh.grant(token, Role::Analyst);
        assert_eq!(two.status_of(token).await, StatusCode::OK);
    }
    fresh.revoke("gone");
    fresh.change_role("demoted", Role::Viewer);
    poll_until("the revocation has arrived", SOON, async || two.status_of("gone").await == StatusCode::UNAUTHORIZED)
        .await;
    // Both are asked in turn, again each second.
    let before = cut.calls();
    poll_until("the one that is cut off was asked", SOON, async || {
        assert_eq!(two.status_of("gone").await, StatusCode::UNAUTHORIZED);
        assert_eq!(two.status_of("demoted").await, StatusCode::OK, "the other one grants it, with the role of now");
        cut.calls() >= before + 2
    })
    .await;

    // The other one tells of changes, and answers no call.
    fresh.state.is_hung.send_replace(true);
    fresh.change_role("demoted later", Role::Viewer);
    poll_until("no gateway is left that knows the role of now", SOON, async || {
        two.status_of("demoted later").await == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    let before = cut.calls();
    poll_until("the one that is cut off was asked again", SOON, async || {
        assert_eq!(two.status_of("gone").await, StatusCode::UNAUTHORIZED);
        assert_eq!(two.status_of("demoted later").await, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(two.status_of("good").await, StatusCode::OK, "it was not revoked");
        cut.calls() >= before + 3
    })
    .await;
}

/// What was revoked before a balancer began it cannot know; how much there was it is told.
#[tokio::test]
async fn a_balancer_that_has_just_begun_asks_the_gateway_that_knows_more() {
    let two = TwoGateways::start().await;
    let (cut, fresh) = (&two.platform.gateway, &two.second);
    let tokens: Vec<String> = (0..15).map(|n| format!("gone {n}")).collect();
    for token in &tokens {
        cut.grant(token, Role::Analyst);
        fresh.revoke(token);
    }
    let began = TwoGateways::balancer(&two.platform, fresh).await;
    let two = TwoGateways { balancer: began, ..two };
    for token in &tokens {
        assert_eq!(two.status_of(token).await, StatusCode::UNAUTHORIZED, "{token}");
    }
    assert!(two.platform.gateway.calls() > 0, "each is asked first now and then");
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
