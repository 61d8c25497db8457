//! Replicas that die, freeze, drain and come back.

use std::{
    net::SocketAddr,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use futures::future::join_all;
use http::StatusCode;
use rustix::process::Signal;
use serde_json::Value;
use testkit::poll_until;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::{
    process::Balancer,
    upstream::{ChildUpstream, Upstream},
    world::{Platform, SOON, World},
};

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Serving replicas in processes of their own, and a balancer before them.
struct Processes {
    world: World,
    replicas: Vec<ChildUpstream>,
    balancer: Balancer,
    client: reqwest::Client,
}

impl Processes {
    async fn start(count: usize) -> Self {
        let world = World::new();
        let replicas: Vec<_> =
            (1..=count).map(|n| ChildUpstream::start(&world, &format!("serving-{n}"), ANY_PORT)).collect();
        let of =
            |replica: &ChildUpstream| format!("{{ name = \"{}\", address = \"{}\" }}", replica.name, replica.address);
        let list: Vec<String> = replicas.iter().map(of).collect();
        let balancer = Balancer::start(&world, &format!("pools.serving.replicas = [{}]", list.join(", "))).await;
        let client = world.client().build().unwrap();
        let processes = Self { world, replicas, balancer, client };
        processes.wait_healthy(count).await;
        processes
    }

    fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.balancer.front.port())
    }

    async fn wait_healthy(&self, count: usize) -> Duration {
        let began = Instant::now();
        poll_until("healthy replicas", SOON, async || {
            let response = self.client.get(self.url("/api/loadbalancer/status")).send().await.unwrap();
            response.json::<Value>().await.unwrap()["healthy_backends"] == count
        })
        .await;
        began.elapsed()
    }

    /// Predictions at a steady pace until told to stop: all statuses, and the longest time from when each was due.
    async fn load(&self, until: impl Future<Output = ()>) -> (Vec<StatusCode>, Duration) {
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        let mut calls = Vec::new();
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = &mut until => break,
                due = ticks.tick() => {
                    let request = self.client.post(self.url("/v2/models/m/infer")).body("{}");
                    calls.push(tokio::spawn(async move {
                        let status = request.send().await.map_or(StatusCode::IM_A_TEAPOT, |response| response.status());
                        (status, due.elapsed())
                    }));
                }
            }
        }
        let results: Vec<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
        let slowest = results.iter().map(|(_, elapsed)| *elapsed).max().unwrap_or_default();
        (results.into_iter().map(|(status, _)| status).collect(), slowest)
    }
}

/// Under load one replica is killed and another frozen: nothing fails, nothing takes longer than a second, and both come
/// back into use.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_and_a_frozen_replica_fail_no_request() {
    let mut processes = Processes::start(3).await;
    let address = processes.replicas[0].address;
    let (statuses, slowest) = processes
        .load(async {
            processes.replicas[0].signal(Signal::KILL);
            assert!(processes.wait_healthy(2).await < Duration::from_secs(1));
            processes.replicas[1].signal(Signal::STOP);
            assert!(processes.wait_healthy(1).await < Duration::from_secs(1));
            processes.replicas[1].signal(Signal::CONT);
            processes.wait_healthy(2).await;
        })
        .await;
    let failed = statuses.iter().filter(|status| **status != StatusCode::OK).count();
    assert_eq!(failed, 0, "of {}", statuses.len());
    assert!(statuses.len() > 20, "there was a load: {}", statuses.len());
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    processes.replicas[0] = ChildUpstream::start(&processes.world, "serving-1", address);
    processes.wait_healthy(3).await;
}

/// A prediction in flight on a lost replica goes to another one, once: it may be what the replica died of. If that one is lost too, or
/// if there is only one left, the client is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_prediction_takes_at_most_two_replicas_with_it() {
    for replicas in [4, 2] {
        let mut platform = Platform::start(replicas).await;
        let mut deaths = 0;
        let call = tokio::spawn(platform.client.post(platform.url("/v2/held/infer")).body("{}").send());
        for _ in 0..replicas / 2 {
            let busy = |platform: &Platform| platform.serving.iter().filter(|replica| replica.seen.count() > 0).count();
            poll_until("the request has arrived", SOON, async || busy(&platform) > deaths).await;
            let seen: Vec<usize> = (0..replicas).filter(|n| platform.serving[*n].seen.count() > 0).collect();
            seen.iter().for_each(|n| platform.serving[*n].kill());
            deaths = seen.len();
        }
        let response = call.await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let seen = platform.serving.iter().filter(|replica| replica.seen.count() > 0).count();
        assert_eq!(seen, replicas / 2, "replicas that the prediction was sent to");
    }
}

/// A prediction in flight on a lost replica goes to another one; a request that changes something is not sent twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_is_retried_only_if_repeatable() {
    let mut platform = Platform::start(3).await;
    let client = platform.client.clone();
    for (path, is_repeatable) in [("/v2/held/infer", true), ("/v2/held/load", false)] {
        let before: Vec<usize> = platform.serving.iter().map(|replica| replica.seen.count()).collect();
        let call = tokio::spawn(client.post(platform.url(path)).body("{}").send());
        let seen_by = |platform: &Platform| -> Vec<usize> {
            (0..3).filter(|n| platform.serving[*n].seen.count() > before[*n]).collect()
        };
        poll_until("the request has arrived", SOON, async || !seen_by(&platform).is_empty()).await;
        let first = seen_by(&platform)[0];
        platform.serving[first].kill();
        if is_repeatable {
            poll_until("the request has moved", SOON, async || seen_by(&platform).iter().any(|n| *n != first)).await;
            call.abort();
        } else {
            let response = call.await.unwrap().unwrap();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(seen_by(&platform).iter().all(|n| *n == first), "it was sent twice");
        }
        let (name, address) = (platform.serving[first].name.clone(), platform.serving[first].address);
        platform.serving[first] = Upstream::start_at(&platform.world, &name, address);
        platform.wait_healthy(3).await;
    }
}

/// An unhealthy replica may only have been slow: a request that may not be repeated waits for its answer, but not for ever.
#[tokio::test(flavor = "multi_thread")]
async fn an_unrepeatable_request_outlives_a_short_freeze() {
    let processes = Processes::start(1).await;
    let cases = [(true, StatusCode::OK), (false, StatusCode::SERVICE_UNAVAILABLE)];
    for (number, (thaws, expected)) in (1..).zip(cases) {
        let call = tokio::spawn(processes.client.post(processes.url("/v2/held/load")).body("{}").send());
        poll_until("the request has arrived", SOON, async || processes.replicas[0].held_requests() == number).await;
        processes.replicas[0].signal(Signal::STOP);
        processes.wait_healthy(0).await;
        assert!(!call.is_finished());
        if thaws {
            processes.replicas[0].signal(Signal::CONT);
            processes.wait_healthy(1).await;
            processes.client.post(processes.url("/v2/release")).send().await.unwrap();
        }
        let response = tokio::time::timeout(SOON, call).await.expect("it ends").unwrap().unwrap();
        assert_eq!(response.status(), expected);
        processes.replicas[0].signal(Signal::CONT);
        processes.wait_healthy(1).await;
    }
}

/// A body that is larger than the replay buffer is not sent again: 503, and the client may.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_is_not_replayed() {
    let mut platform = Platform::start(2).await;
    const BODY_BYTES: usize = 200 << 10;
    let body = vec![b'x'; BODY_BYTES];
    let call = tokio::spawn(platform.client.post(platform.url("/v2/held/infer")).body(body).send());
    let busy = async |platform: &Platform| platform.serving.iter().position(|replica| replica.seen.count() > 0);
    poll_until("the request has arrived", SOON, async || busy(&platform).await.is_some()).await;
    let first = busy(&platform).await.unwrap();
    poll_until("all of the body has arrived", SOON, async || {
        platform.serving[first].seen.held_bytes.load(Ordering::SeqCst) == BODY_BYTES
    })
    .await;
    platform.serving[first].kill();
    let response = call.await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(platform.serving[1 - first].seen.count(), 0);
}

/// Without a healthy replica the answer is 503 with `Retry-After`, at once, in the form of the route.
#[tokio::test(flavor = "multi_thread")]
async fn with_all_replicas_down_requests_fail_fast() {
    let mut platform = Platform::start(2).await;
    platform.serving.iter_mut().for_each(Upstream::kill);
    platform.wait_healthy(0).await;
    let began = Instant::now();
    for _ in 0..10 {
        let response = platform.client.post(platform.url("/v2/models/m/infer")).body("{}").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()["retry-after"], "1");
        assert!(response.text().await.unwrap().starts_with("{\"error\":"));
    }
    assert!(began.elapsed() < Duration::from_millis(500), "ten took {:?}", began.elapsed());
    assert_eq!(platform.get("/health").await.status(), StatusCode::OK, "the balancer itself is well");
}

/// A replica that says 503 is asked once; a repeatable request then goes to one that does not.
#[tokio::test]
async fn an_unavailable_replica_is_passed_over() {
    let platform = Platform::start(2).await;
    platform.serving[0].seen.is_unavailable.send_replace(true);
    for _ in 0..20 {
        let response = platform.client.post(platform.url("/v2/models/m/infer")).body("{}").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
    assert!(platform.serving[0].seen.count() > 0);
    platform.serving[1].seen.is_unavailable.send_replace(true);
    let response = platform.client.post(platform.url("/v2/models/m/infer")).body("{}").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "the replica's own answer when all say so");
    platform.serving[1].seen.is_unavailable.send_replace(false);
    let before = platform.serving[1].seen.count();
    let statuses =
        join_all((0..10).map(async |_| {
            platform.client.post(platform.url("/v2/models/m/unrepeatable")).send().await.unwrap().status()
        }))
        .await;
    let passed = statuses.iter().filter(|status| **status == StatusCode::OK).count();
    assert_eq!(platform.serving[1].seen.count() - before, passed, "what is not repeatable is not passed over");
}

/// A replica that drains gets nothing new and finishes what it has.
#[tokio::test]
async fn a_draining_replica_finishes_what_it_has() {
    const CALLS: usize = 6;
    let platform = Platform::start(2).await;
    let calls: Vec<_> = (0..CALLS)
        .map(|_| tokio::spawn(platform.client.post(platform.url("/v2/held/infer")).body("{}").send()))
        .collect();
    platform.wait_held(CALLS).await;
    platform.serving[0].set_serving(false).await;
    platform.wait_healthy(1).await;
    assert_eq!(platform.status().await["pools"]["serving"]["replicas"][0]["state"], "draining");
    let before = platform.serving[0].seen.count();
    for _ in 0..20 {
        assert_eq!(platform.get("/v2/echo").await.status(), StatusCode::OK);
    }
    assert_eq!(platform.serving[0].seen.count(), before);
    platform.release_held();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK);
    }
    platform.serving[0].set_serving(true).await;
    platform.wait_healthy(2).await;
}

/// A replica that drains, then closes its listener: what it has in flight is finished, also what may not be repeated.
#[tokio::test]
async fn a_stopping_replica_finishes_what_it_has() {
    const CALLS: usize = 6;
    let platform = Platform::start(2).await;
    let calls: Vec<_> = (0..CALLS)
        .map(|_| tokio::spawn(platform.client.post(platform.url("/v2/held/load")).body("{}").send()))
        .collect();
    platform.wait_held(CALLS).await;
    let state = async || platform.status().await["pools"]["serving"]["replicas"][0]["state"].clone();
    platform.serving[0].set_serving(false).await;
    poll_until("it drains", SOON, async || state().await == "draining").await;
    platform.serving[0].stop();
    poll_until("its listener is closed", SOON, async || state().await == "unhealthy").await;
    platform.release_held();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK);
    }
}

/// A replica of a foreign CA, or under another service's name, gets no request.
#[tokio::test]
async fn an_impostor_gets_no_request() {
    let platform = Platform::start(1).await;
    let foreign = World::new();
    let impostors = [Upstream::start(&foreign, "serving-9"), Upstream::start(&platform.world, "backup-1")];
    let list: Vec<String> = impostors
        .iter()
        .map(|replica| format!("{{ name = \"{}\", address = \"{}\" }}", replica.name, replica.address))
        .collect();
    let balancer = Balancer::start(&platform.world, &format!("pools.serving.replicas = [{}]", list.join(", "))).await;
    let url = |path: &str| format!("https://127.0.0.1:{}{path}", balancer.front.port());
    poll_until("both are unhealthy", SOON, async || {
        let status: Value =
            platform.client.get(url("/api/loadbalancer/status")).send().await.unwrap().json().await.unwrap();
        let replicas = status["pools"]["serving"]["replicas"].as_array().unwrap().clone();
        replicas.iter().all(|replica| replica["state"] == "unhealthy")
    })
    .await;
    let response = platform.client.get(url("/v2/echo")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(impostors.iter().all(|impostor| impostor.seen.count() == 0));
}

/// A host name that leads to the real replica when its health is checked, and to an impostor when requests are sent:
/// connections that carry requests verify for themselves.
#[tokio::test]
async fn an_impostor_behind_a_healthy_address_gets_no_request() {
    let platform = Platform::start(1).await;
    let foreign = World::new();
    for impostor in [Upstream::start(&foreign, "serving-9"), Upstream::start(&platform.world, "backup-1")] {
        let relay = Relay::start(platform.serving[0].address).await;
        let config = format!("pools.serving.replicas = [{{ name = \"serving-1\", address = \"{}\" }}]", relay.address);
        let balancer = Balancer::start(&platform.world, &config).await;
        let url = |path: &str| format!("https://127.0.0.1:{}{path}", balancer.front.port());
        let is_healthy = async || {
            let response = platform.client.get(url("/api/loadbalancer/status")).send().await.unwrap();
            response.json::<Value>().await.unwrap()["healthy_backends"] == 1
        };
        poll_until("it is healthy", SOON, is_healthy).await;
        relay.target.send_replace(impostor.address);
        for _ in 0..5 {
            let response = platform.client.post(url("/v2/models/m/infer")).body("{}").send().await.unwrap();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        }
        assert_eq!(impostor.seen.count(), 0);
        assert!(is_healthy().await, "its health is the real one's");
        relay.target.send_replace(platform.serving[0].address);
        let response = platform.client.post(url("/v2/models/m/infer")).body("{}").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
}

/// Passes each new connection on to wherever its target is at that moment.
struct Relay {
    address: SocketAddr,
    target: watch::Sender<SocketAddr>,
}

impl Relay {
    async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(ANY_PORT).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (target, targets) = watch::channel(target);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let target = *targets.borrow();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(target).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { address, target }
    }
}
