//! Proves that a model which was unloaded answers no call, whichever replica restarts or was away meanwhile.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use anyhow::ensure;
use end_to_end::{
    inference::MODEL,
    platform::Platform,
    poll::{until, until_every},
    request::{Protocol, Template},
};
use http::{Method, StatusCode};
use rustix::process::Signal;
use tokio::time::Instant;

/// Enough that each of three replicas has many of them.
const CALLS: usize = 60;
/// Longer than a replica may stand still without asking what it has missed.
const ABSENCE: Duration = Duration::from_secs(6);
const PATIENCE: Duration = Duration::from_secs(20);
const POLL_PERIOD: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unloaded_model_answers_no_call_after_restarts_and_absences() {
    let platform = Platform::start(&[]).unwrap();
    let prediction = platform.front.golden_prediction(&platform.token("analyst").unwrap()).await.unwrap();
    change(&platform, "unload").await;
    assert_calls(&platform, &prediction, StatusCode::NOT_FOUND).await;

    let killed = platform.pid("serving-1").unwrap();
    platform.signal("serving-1", Signal::KILL).unwrap();
    until("another process is there", PATIENCE, async || {
        ensure!(platform.pid("serving-1").is_ok_and(|pid| pid != killed), "it is not");
        Ok(())
    })
    .await
    .unwrap();
    until_healthy(&platform, &prediction, 3).await;
    assert_calls(&platform, &prediction, StatusCode::NOT_FOUND).await;

    change(&platform, "load").await;
    assert_calls(&platform, &prediction, StatusCode::OK).await;

    platform.signal("serving-2", Signal::STOP).unwrap();
    let left = Instant::now();
    until("the replica is down", PATIENCE, async || {
        let healthy = platform.front.healthy_backends().await?;
        ensure!(healthy == 2, "{healthy} are healthy");
        Ok(())
    })
    .await
    .unwrap();
    change(&platform, "unload").await;
    while left.elapsed() < ABSENCE {
        assert_calls(&platform, &prediction, StatusCode::NOT_FOUND).await;
    }
    platform.signal("serving-2", Signal::CONT).unwrap();
    until_healthy(&platform, &prediction, 3).await;
    assert_calls(&platform, &prediction, StatusCode::NOT_FOUND).await;
    platform.stop(&["replica is down"]).unwrap();
}

async fn change(platform: &Platform, verb: &str) {
    let engineer = platform.token("engineer").unwrap();
    let path = format!("/v2/repository/models/{MODEL}/{verb}");
    let (status, answer) = platform.front.call(Method::POST, &path, Some(&engineer), None).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{answer}");
}

async fn assert_calls(platform: &Platform, prediction: &Template, status: StatusCode) {
    let mut connection = platform.front.server(Protocol::Http2).unwrap().connect().await.unwrap();
    for _ in 0..CALLS {
        assert_eq!(connection.call(prediction).await.unwrap().status, status);
    }
}

/// While it waits, no call reaches the unloaded model.
async fn until_healthy(platform: &Platform, prediction: &Template, count: u64) {
    let mut connection = platform.front.server(Protocol::Http2).unwrap().connect().await.unwrap();
    until_every(POLL_PERIOD, "all replicas are healthy", PATIENCE, async || {
        let answer = connection.call(prediction).await?;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        let healthy = platform.front.healthy_backends().await?;
        ensure!(healthy == count, "{healthy} are healthy");
        Ok(())
    })
    .await
    .unwrap();
}
