//! Runs that are cut off by the end of their worker: nothing of them stays, and they are begun again.

use std::time::Duration;

use axum::http::Method;
use backup::set_name::SetName;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testkit::poll_until;

use crate::{
    support::is_gone,
    worker::{ON_DEMAND, RUN_TIMEOUT, Worker},
};

/// Starts another process in the place of one that was ended.
async fn restart(worker: Worker, end: impl AsyncFnOnce(&Worker)) -> Worker {
    end(&worker).await;
    let Worker { site, harness, service } = worker;
    service.kill();
    let service = harness.start(&site.configuration(&site.root(), ON_DEMAND)).await;
    Worker { site, harness, service }
}

async fn begin(worker: &Worker, path: &str) -> String {
    let begun = worker.operator().call(Method::POST, path).await;
    assert_eq!(begun.status, 202, "{:?}", begun.json());
    begun.json()["id"].as_str().unwrap().to_owned()
}

fn is_second_attempt(kind: &'static str) -> impl Fn(&Value) -> bool {
    move |run| run["kind"] == json!(kind) && run["attempt"] == json!(2) && run["state"] != json!("running")
}

/// Proves that a worker killed while it made a set leaves no half set, and makes the set after its restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_was_cut_off_is_made_after_the_restart() {
    let worker = Worker::start_with(ON_DEMAND).await;
    let lock = worker.site.postgres.lock(&worker.site.database.name, "gateway.users");
    let id = begin(&worker, "/api/backups").await;
    poll_until("the set is being built", RUN_TIMEOUT, async || !worker.site.leftovers().is_empty()).await;
    let worker = restart(worker, async |worker| {
        kill_process(Pid::from_raw(i32::try_from(worker.service.pid()).unwrap()).unwrap(), Signal::KILL).unwrap();
        drop(lock);
    })
    .await;
    let cut_off = worker.wait(&id).await;
    assert_eq!(cut_off["state"], json!("failed"), "{cut_off}");
    assert!(cut_off["error"].as_str().unwrap().starts_with("interrupted"), "{cut_off}");
    let made = worker.find("the set is made", is_second_attempt("create")).await;
    assert_eq!((&made["state"], &made["requested_by"]), (&json!("succeeded"), &json!("user:u-1")), "{made}");
    assert_eq!(worker.site.leftovers(), Vec::<String>::new());
    let sets = SetName::list(&worker.site.root()).unwrap();
    assert_eq!(sets.iter().map(|set| json!(set)).collect::<Vec<_>>(), [made["set"].clone()]);
    let metrics = worker.harness.metrics(&worker.service).await;
    assert!(metrics.contains("ml_backup_repeated_runs_total{kind=\"create\"} 1"), "{metrics}");
}

/// Proves that a worker killed while it verified leaves no server and no plaintext, and verifies after its restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verification_that_was_cut_off_is_done_after_the_restart() {
    let worker = Worker::start_with(ON_DEMAND).await;
    let set = worker.run("/api/backups").await["set"].as_str().unwrap().to_owned();
    let id = begin(&worker, &format!("/api/backups/{set}/verify")).await;
    let (server, sockets) = worker.site.freeze_scratch_server().await;
    let worker = restart(worker, async |worker| {
        kill_process(Pid::from_raw(i32::try_from(worker.service.pid()).unwrap()).unwrap(), Signal::KILL).unwrap();
        poll_until("the server follows its owner", Duration::from_secs(10), async || is_gone(server)).await;
        assert!(!worker.site.scratch_is_empty(), "kill -9 cleans nothing up");
    })
    .await;
    assert_eq!(worker.wait(&id).await["state"], json!("failed"));
    let verified = worker.find("the set is verified", is_second_attempt("verify")).await;
    assert_eq!((&verified["verdict"], &verified["set"]), (&json!("VALID"), &json!(set)), "{verified}");
    assert!(worker.site.scratch_is_empty() && !sockets.exists());
}

/// Proves that a worker which was stopped goes on with its run after the restart, and does not for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_begun_three_times_at_most() {
    let mut worker = Worker::start_with(ON_DEMAND).await;
    let lock = worker.site.postgres.lock(&worker.site.database.name, "gateway.users");
    begin(&worker, "/api/backups").await;
    for attempt in 1..=3 {
        let is_begun = |run: &Value| run["attempt"] == json!(attempt) && run["state"] == json!("running");
        worker.find("the run is begun", is_begun).await;
        poll_until("the set is being built", RUN_TIMEOUT, async || !worker.site.leftovers().is_empty()).await;
        worker = restart(worker, async |worker| {
            let process = Pid::from_raw(i32::try_from(worker.service.pid()).unwrap()).unwrap();
            kill_process(process, Signal::TERM).unwrap();
            let stored = format!("SELECT state FROM backup.runs WHERE attempt = {attempt}");
            poll_until("the run is ended", RUN_TIMEOUT, async || worker.site.sql(&stored).await == "failed").await;
            assert_eq!(worker.site.leftovers(), Vec::<String>::new());
        })
        .await;
    }
    drop(lock);
    assert_eq!(worker.run("/api/backups").await["state"], json!("succeeded"));
    let attempts =
        worker.site.sql("SELECT string_agg(attempt || state, ' ' ORDER BY started_at, id) FROM backup.runs").await;
    assert_eq!(attempts, "1failed 2failed 3failed 1succeeded");
}

/// Proves that a run of another worker is left alone while that one is seen, and is begun again here once it is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_of_a_worker_that_is_gone_is_begun_by_another() {
    let worker = Worker::start_with(ON_DEMAND).await;
    let elsewhere = "INSERT INTO backup.runs (id, kind, state, requested_by, started_at, worker, seen_at)
                     VALUES ('0190a6b2-7d51-7e0c-a1c5-6b3d5f0e8f11', 'create', 'running', 'schedule:create', now(),
                             '0190a6b2-7d51-7e0c-a1c5-6b3d5f0e8f12', now())";
    worker.site.sql(elsewhere).await;
    assert_eq!(worker.operator().call(Method::POST, "/api/backups").await.status, 409);
    worker.site.sql("UPDATE backup.runs SET seen_at = now() - interval '10 minutes'").await;
    let made = worker.find("the set is made here", is_second_attempt("create")).await;
    assert_eq!((&made["state"], &made["requested_by"]), (&json!("succeeded"), &json!("schedule:create")), "{made}");
}
