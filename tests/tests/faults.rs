//! Proves that replicas and the gateway may die, freeze and come back without a failed or late prediction.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use anyhow::ensure;
use end_to_end::{
    platform::Platform,
    poll::until_every,
    recorded_load::{CallKind, RecordedLoad},
    request::{Protocol, Template},
};
use http::Method;
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::Instant;

const RATE: u32 = 200;
const LATEST: Duration = Duration::from_secs(1);
/// Promised: how soon a lost replica is out of `healthy_backends`.
const FALL: Duration = Duration::from_secs(1);
/// A process is started again and loads its models; a thawed one only has to answer.
const RESTART: Duration = Duration::from_secs(15);
const THAW: Duration = Duration::from_secs(5);
const POLL_PERIOD: Duration = Duration::from_millis(20);

/// Warnings about the processes that this test kills and freezes.
const EXPECTED_WARNINGS: &[&str] =
    &["replica is down", "users and revocations cannot be followed", "passport keys could not be"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_prediction_fails_or_is_late_while_replicas_die_and_freeze() {
    let platform = Platform::start(&[]).unwrap();
    let template = platform.front.golden_prediction(&platform.token("analyst").unwrap()).await.unwrap();
    let prediction = CallKind { server: platform.front.server(Protocol::Http1).unwrap(), template };
    let load = RecordedLoad::start(vec![prediction], RATE).await.unwrap();

    load.go_on(Duration::from_secs(3)).await.unwrap();
    platform.signal("serving-1", Signal::KILL).unwrap();
    assert_seen(&platform, "fall after a kill", FALL, |healthy| healthy < 3).await;
    assert_seen(&platform, "return after a kill", RESTART, |healthy| healthy == 3).await;

    platform.signal("serving-2", Signal::STOP).unwrap();
    assert_seen(&platform, "fall after a freeze", FALL, |healthy| healthy < 3).await;
    load.go_on(Duration::from_secs(4)).await.unwrap();
    assert_eq!(platform.front.healthy_backends().await.unwrap(), 2, "a frozen replica stays out");
    platform.signal("serving-2", Signal::CONT).unwrap();
    assert_seen(&platform, "return after a freeze", THAW, |healthy| healthy == 3).await;

    kill_gateway_and_wait_for_the_next(&platform).await;
    load.go_on(Duration::from_secs(3)).await.unwrap();

    let figures = load.figures(Duration::ZERO, load.now()).await.unwrap();
    assert_eq!(figures.failed + figures.retried, 0, "{}: {:?}", figures.line(), figures.failures);
    assert!(figures.slowest <= LATEST, "{}", figures.line());
    drop(load);
    platform.stop(EXPECTED_WARNINGS).unwrap();
}

/// Polls the front door until `healthy_backends` is so. An answer that comes after the limit does not count, whatever it says.
async fn assert_seen(platform: &Platform, what: &str, limit: Duration, is_so: impl Fn(u64) -> bool) {
    let template = Template::json(Method::GET, "/api/loadbalancer/status", None, "").unwrap();
    let started = Instant::now();
    let mut connection = platform.front.server(Protocol::Http2).unwrap().connect().await.unwrap();
    until_every(POLL_PERIOD, what, limit, async || {
        let answer = connection.call(&template).await.unwrap();
        let status: Value = serde_json::from_slice(&answer.body).unwrap();
        ensure!(is_so(status.get("healthy_backends").and_then(Value::as_u64).unwrap()), "{status}");
        Ok(())
    })
    .await
    .unwrap();
    assert!(started.elapsed() <= limit, "{what}: only after {:?}", started.elapsed());
}

/// The next gateway is another process, and answers a login through the front door.
async fn kill_gateway_and_wait_for_the_next(platform: &Platform) {
    let secret = platform.secret("operator", "analyst-client-secret").unwrap();
    platform.front.login("example-analyst", &secret).await.unwrap();
    let killed = platform.pid("gateway-1").unwrap();
    platform.signal("gateway-1", Signal::KILL).unwrap();
    until_every(POLL_PERIOD, "another gateway answers", RESTART, async || {
        ensure!(platform.pid("gateway-1").is_ok_and(|pid| pid != killed), "it is not another");
        platform.front.login("example-analyst", &secret).await.map(drop)
    })
    .await
    .unwrap();
}
