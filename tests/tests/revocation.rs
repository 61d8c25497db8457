//! Proves that a revoked token and a removed role are refused within two seconds, on every replica, by REST and by gRPC.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use anyhow::{Context as _, ensure};
use end_to_end::{
    counters::Counters,
    platform::Platform,
    poll::until,
    request::{Connection, HttpResponse, Protocol, Server, Template},
};
use http::{Method, StatusCode};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, interval, timeout},
};

const REVOKED_WITHIN: Duration = Duration::from_secs(2);
const POLL_PERIOD: Duration = Duration::from_millis(50);
/// Enough concurrent calls that each replica has some all the time.
const REST_POLLERS: usize = 3;
const REPLICAS: [&str; 3] = ["serving-1", "serving-2", "serving-3"];
/// Calls that each replica must have had before the change, and denials after it.
const ENOUGH: u64 = 5;
const REST_ANSWERS: [(&str, &str); 2] = [("route", "/v2/models/{model}/infer"), ("outcome", "ok")];
const GRPC_ANSWERS: [(&str, &str); 2] = [("route", "/inference.GRPCInferenceService/ModelInfer"), ("outcome", "ok")];
const DENIALS: [(&str, &str); 2] = [("route", "/v2/models/{model}/infer"), ("outcome", "client_error")];
/// Limit of waits for states that nothing is promised about.
const PATIENCE: Duration = Duration::from_secs(20);

/// The status of a refused call, by HTTP and by gRPC.
#[derive(Clone, Copy)]
struct RefusalCodes {
    http: StatusCode,
    grpc: i32,
}

const UNAUTHENTICATED: RefusalCodes = RefusalCodes { http: StatusCode::UNAUTHORIZED, grpc: 16 };
const DENIED: RefusalCodes = RefusalCodes { http: StatusCode::FORBIDDEN, grpc: 7 };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_and_a_removed_role_are_refused_within_two_seconds() {
    let platform = Platform::start(&[]).unwrap();
    let admin = platform.token("admin").unwrap();
    let remove_role = async |id: &str| {
        let (path, body) = (format!("/api/admin/users/{id}"), json!({ "roles": ["viewer"] }));
        platform.front.call(Method::PATCH, &path, Some(&admin), Some(&body)).await.unwrap().0
    };

    let (_, token) = platform.account("to-be-revoked", &["analyst"]).await.unwrap();
    let mut polls = predictions(&platform, &token, UNAUTHENTICATED).await.unwrap();
    wait_until_every_replica_answers(&platform).await;
    let body = json!({ "token": token });
    let (status, _) = platform.front.call(Method::POST, "/api/auth/revoke", Some(&token), Some(&body)).await.unwrap();
    polls.assert_refused_after(status, "revoked").await;

    let (id, token) = platform.account("to-be-demoted", &["analyst"]).await.unwrap();
    let mut polls = predictions(&platform, &token, DENIED).await.unwrap();
    wait_until_every_replica_answers(&platform).await;
    let denied_before = counts(&platform, DENIALS).await;
    let status = remove_role(&id).await;
    polls.assert_refused_after(status, "role removed").await;
    // The token is still good, so it is the replicas themselves that deny, each of them.
    for (before, after) in denied_before.iter().zip(counts(&platform, DENIALS).await) {
        assert!(after >= before + ENOUGH, "every replica denied: {denied_before:?}, then {after}");
    }

    let (id, token) = platform.account("to-be-an-admin-no-more", &["admin"]).await.unwrap();
    let users = Template::json(Method::GET, "/api/admin/users", Some(&token), "").unwrap();
    let mut polls = Polls::default();
    polls.start(platform.front.server(Protocol::Http1).unwrap(), users, DENIED);
    polls.wait_for_success().await;
    let status = remove_role(&id).await;
    polls.assert_refused_after(status, "admin's role removed").await;

    platform.stop(&[]).unwrap();
}

/// Polls of a prediction: three by REST, one by gRPC, all of which must be right as long as they are served.
async fn predictions(platform: &Platform, token: &str, refusal: RefusalCodes) -> anyhow::Result<Polls> {
    let mut polls = Polls::default();
    let prediction = platform.front.golden_prediction(token).await?;
    for _ in 0..REST_POLLERS {
        polls.start(platform.front.server(Protocol::Http1)?, prediction.clone(), refusal);
    }
    polls.start(platform.front.server(Protocol::Http2)?, platform.front.grpc_prediction(token)?, refusal);
    polls.wait_for_success().await;
    Ok(polls)
}

/// Waits until each replica has answered some more predictions than now, by REST and by gRPC.
async fn wait_until_every_replica_answers(platform: &Platform) {
    for answers in [REST_ANSWERS, GRPC_ANSWERS] {
        let before = counts(platform, answers).await;
        until("every replica is asked", PATIENCE, async || {
            let now = counts(platform, answers).await;
            let are_asked = before.iter().zip(&now).all(|(before, now)| *now >= before + ENOUGH);
            ensure!(are_asked, "{answers:?} {before:?}, now {now:?}");
            Ok(())
        })
        .await
        .unwrap();
    }
}

/// What each replica has counted of requests with these labels.
async fn counts(platform: &Platform, labels: [(&str, &str); 2]) -> Vec<u64> {
    let mut counts = Vec::new();
    for replica in REPLICAS {
        let counters = Counters::of(platform, replica).await.unwrap();
        counts.push(counters.sum("ml_serving_requests_total", &labels).unwrap());
    }
    counts
}

/// Calls that go on until they are refused for good.
#[derive(Default)]
struct Polls {
    pollers: JoinSet<anyhow::Result<Instant>>,
    successes: Vec<tokio::sync::watch::Receiver<bool>>,
}

// === impl Polls ===

impl Polls {
    fn start(&mut self, server: Server, template: Template, refusal: RefusalCodes) {
        let (succeeded, success) = tokio::sync::watch::channel(false);
        self.successes.push(success);
        self.pollers.spawn(poll(server, template, refusal, succeeded));
    }

    /// Until each of them was served at least once.
    async fn wait_for_success(&mut self) {
        for success in &mut self.successes {
            timeout(PATIENCE, success.wait_for(|succeeded| *succeeded)).await.unwrap().unwrap();
        }
    }

    /// The change was answered with `status` just now: how late was the last success?
    async fn assert_refused_after(&mut self, status: StatusCode, what: &str) {
        let answered = Instant::now();
        assert!(status.is_success(), "{what}: the change was refused with {status}");
        while let Some(last) = timeout(PATIENCE, self.pollers.join_next()).await.expect("refused in the end") {
            let lag = last.unwrap().unwrap().saturating_duration_since(answered);
            assert!(lag <= REVOKED_WITHIN, "{what}: the last success came {lag:?} after the change was answered");
        }
    }
}

/// Calls at 20 Hz; the time of the last success, once the refusals have gone on for longer than the promise.
async fn poll(
    server: Server,
    template: Template,
    refusal: RefusalCodes,
    succeeded: tokio::sync::watch::Sender<bool>,
) -> anyhow::Result<Instant> {
    let mut connection = server.connect().await?;
    let mut ticks = interval(POLL_PERIOD);
    let (mut last_success, mut first_refusal) = (None, None::<Instant>);
    loop {
        ticks.tick().await;
        let answer = call(&server, &mut connection, &template).await?;
        if template.check(&answer).is_ok() {
            (last_success, first_refusal) = (Some(Instant::now()), None);
            succeeded.send_replace(true);
            continue;
        }
        ensure!(refusal.is(&answer), "neither served nor refused: {} {:?}", answer.status, answer.grpc_status());
        let since = *first_refusal.get_or_insert_with(Instant::now);
        if since.elapsed() > REVOKED_WITHIN {
            return last_success.context("no poll ever succeeded");
        }
    }
}

/// A refusal may end the connection, also in the moment of the next call; a client opens another.
async fn call(server: &Server, connection: &mut Connection, template: &Template) -> anyhow::Result<HttpResponse> {
    if connection.is_usable()
        && let Ok(answer) = connection.call(template).await
    {
        return Ok(answer);
    }
    *connection = server.connect().await?;
    connection.call(template).await
}

// === impl RefusalCodes ===

impl RefusalCodes {
    fn is(self, answer: &HttpResponse) -> bool {
        match answer.grpc_status() {
            Some(code) => code == self.grpc,
            None => answer.status == self.http,
        }
    }
}
