//! Proves that a revoked token and a taken role are dead within two seconds, and that new certificates cost no call.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use end_to_end::{
    load::open_loop,
    platform::Platform,
    request::{Protocol, Server, Template},
};
use http::{Method, StatusCode};
use serde_json::json;
use tokio::time::{Instant, interval};

const REVOKED_WITHIN: Duration = Duration::from_secs(2);
const POLL_PERIOD: Duration = Duration::from_millis(50);
/// As many as there are replicas, so that each of them is asked all the time.
const POLLERS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_and_a_taken_role_are_dead_within_two_seconds() {
    let platform = Platform::start(&["--certificate-lifetime-s", "40"]).unwrap();
    let admin = platform.token("admin").unwrap();

    let (_, token) = platform.account("to-be-revoked", &["analyst"]).await.unwrap();
    let revoke = async {
        let body = json!({ "token": token });
        platform.call(Method::POST, "/api/auth/revoke", Some(&token), Some(&body)).await.unwrap().0
    };
    let lag = last_success_after(&platform, &token, revoke, StatusCode::UNAUTHORIZED).await.unwrap();
    assert!(lag <= REVOKED_WITHIN, "the last 200 came {lag:?} after the revoke was answered");

    let (id, token) = platform.account("to-be-demoted", &["analyst"]).await.unwrap();
    let demote = async {
        let body = json!({ "roles": ["viewer"] });
        let path = format!("/api/admin/users/{id}");
        platform.call(Method::PATCH, &path, Some(&admin), Some(&body)).await.unwrap().0
    };
    let lag = last_success_after(&platform, &token, demote, StatusCode::FORBIDDEN).await.unwrap();
    assert!(lag <= REVOKED_WITHIN, "the last 200 came {lag:?} after the role was taken");

    certificates_are_renewed_without_a_failed_call(&platform).await;
}

/// The platform was started with certificates of 40 s, renewed every 20.
async fn certificates_are_renewed_without_a_failed_call(platform: &Platform) {
    let files = ["balancer-1", "gateway-1", "serving-1", "serving-2", "serving-3"];
    let read = || -> BTreeMap<&str, Vec<u8>> {
        let path = |name| platform.state().identities.join(name).join("certificate.pem");
        files.iter().map(|name| (*name, std::fs::read(path(name)).unwrap())).collect()
    };
    let before = read();
    let token = platform.token("analyst").unwrap();
    let server = platform.front(Protocol::Http1).unwrap();
    let report = open_loop(&server, &platform.prediction(&token).unwrap(), 100, Duration::from_secs(45)).await.unwrap();
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    let after = read();
    for name in files {
        assert_ne!(before[name], after[name], "{name} had no new certificate during the load");
    }
}

/// Polls at 20 Hz on several connections, does `act` in the middle, and waits until every poller sees `refused`.
/// How long after the answer to `act` the last success came.
async fn last_success_after(
    platform: &Platform,
    token: &str,
    act: impl Future<Output = StatusCode>,
    refused: StatusCode,
) -> anyhow::Result<Duration> {
    let prediction = platform.prediction(token)?;
    let mut pollers = Vec::new();
    for _ in 0..POLLERS {
        let server = platform.front(Protocol::Http1)?;
        pollers.push(tokio::spawn(poll(server, prediction.clone(), refused)));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let status = act.await;
    let answered = Instant::now();
    anyhow::ensure!(status.is_success(), "the change was refused with {status}");
    let mut last = None;
    for poller in pollers {
        last = last.max(tokio::time::timeout(Duration::from_secs(10), poller).await.context("never refused")???);
    }
    let last = last.context("no poll ever succeeded")?;
    Ok(last.saturating_duration_since(answered))
}

/// The time of the last 200, once the refusals have gone on for a second.
async fn poll(server: Server, prediction: Template, refused: StatusCode) -> anyhow::Result<Option<Instant>> {
    let mut connection = server.connect().await?;
    let mut ticks = interval(POLL_PERIOD);
    let (mut last_success, mut first_refusal) = (None, None::<Instant>);
    loop {
        ticks.tick().await;
        if !connection.is_usable() {
            // A refusal may end the connection; a client opens the next.
            connection = server.connect().await?;
        }
        let answer = connection.call(&prediction).await?;
        if answer.status == StatusCode::OK {
            (last_success, first_refusal) = (Some(Instant::now()), None);
        } else {
            anyhow::ensure!(answer.status == refused, "expected {refused}, got {}", answer.status);
            let since = *first_refusal.get_or_insert_with(Instant::now);
            if since.elapsed() > Duration::from_secs(1) {
                return Ok(last_success);
            }
        }
    }
}
