//! A run that a caller cancels ends, and nothing of it stays; and how far a run is.

use std::time::Duration;

use axum::http::Method;
use backup::set_name::SetName;
use policy::Role;
use serde_json::{Value, json};
use testkit::poll_until;

use crate::{
    support::is_gone,
    worker::{ON_DEMAND, RUN_TIMEOUT, Worker},
};

async fn begin(worker: &Worker, path: &str) -> String {
    let begun = worker.operator().call(Method::POST, path).await;
    assert_eq!(begun.status, 202, "{:?}", begun.json());
    begun.json()["id"].as_str().unwrap().to_owned()
}

/// Waits until the run itself tells that it does this.
async fn wait_for_phase(worker: &Worker, id: &str, phase: &str) -> Value {
    let operator = worker.operator();
    let mut run = Value::Null;
    let is_reached = async || {
        run = operator.call(Method::GET, &format!("/api/backups/{id}")).await.json();
        run["phase"] == json!(phase)
    };
    poll_until("the run is in that phase", RUN_TIMEOUT, is_reached).await;
    run
}

/// Proves that a set cancelled in the middle of its dump leaves no set, no file and no connection, and that the next is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_is_cancelled_leaves_nothing() {
    let worker = Worker::start_with(ON_DEMAND).await;
    let lock = worker.site.postgres.lock(&worker.site.database.name, "gateway.users");
    let id = begin(&worker, "/api/backups").await;
    let run = wait_for_phase(&worker, &id, "dump_databases").await;
    assert!(run["bytes_done"].as_u64().unwrap() > 0, "the models are archived: {run}");
    assert_eq!(run["bytes_expected"], Value::Null, "there is no set before it: {run}");

    let path = format!("/api/backups/{id}/cancel");
    let viewer = worker.harness.client(&worker.service, Some(&[Role::Viewer]));
    assert_eq!(viewer.call(Method::POST, &path).await.status, 403);
    let asked = worker.operator().call(Method::POST, &path).await;
    assert_eq!(asked.status, 202, "{:?}", asked.json());
    let run = worker.wait(&id).await;
    assert_eq!((&run["state"], &run["cancelled_by"]), (&json!("cancelled"), &json!("user:u-1")), "{run}");
    assert_eq!(worker.site.leftovers(), Vec::<String>::new());
    assert_eq!(SetName::list(&worker.site.root()).unwrap(), []);
    drop(lock);
    let connected = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rampart-backup'";
    let is_gone = async || worker.site.sql(connected).await == "0";
    poll_until("pg_dump is gone", RUN_TIMEOUT, is_gone).await;

    // Once more is harmless, and what has ended otherwise stays as it is.
    assert_eq!(worker.operator().call(Method::POST, &path).await.json()["state"], json!("cancelled"));
    let made = worker.run("/api/backups").await;
    assert_eq!(made["state"], json!("succeeded"), "{made}");
    assert_eq!(made["bytes_done"], made["size_bytes"], "{made}");
    let path = format!("/api/backups/{}/cancel", made["id"].as_str().unwrap());
    assert_eq!(worker.operator().call(Method::POST, &path).await.status, 409);
    for unknown in ["x", "0190a6b2-7d51-7e0c-a1c5-6b3d5f0e8f11"] {
        let path = format!("/api/backups/{unknown}/cancel");
        assert_eq!(worker.operator().call(Method::POST, &path).await.status, 404);
    }
    let metrics = worker.harness.metrics(&worker.service).await;
    assert!(metrics.contains("ml_backup_runs_total{kind=\"create\",outcome=\"cancelled\"} 1"), "{metrics}");
}

/// Proves that a verification cancelled in the middle of its restore leaves no server and no plaintext, and is no verdict; and
/// that a run of a worker that is gone can be cancelled, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verification_that_is_cancelled_leaves_nothing() {
    let worker = Worker::start_with(ON_DEMAND).await;
    let set = worker.run("/api/backups").await["set"].as_str().unwrap().to_owned();
    let verify = format!("/api/backups/{set}/verify");
    let id = begin(&worker, &verify).await;
    let (server, sockets) = worker.site.freeze_scratch_server().await;
    let run = wait_for_phase(&worker, &id, "restore_databases").await;
    let (done, expected) = (run["bytes_done"].as_u64().unwrap(), run["bytes_expected"].as_u64().unwrap());
    assert!(done >= expected / 2, "every file was read once: {run}");
    assert_eq!(worker.operator().call(Method::POST, &format!("/api/backups/{id}/cancel")).await.status, 202);
    let run = worker.wait(&id).await;
    assert_eq!((&run["state"], &run["verdict"]), (&json!("cancelled"), &Value::Null), "{run}");
    poll_until("the server is gone", Duration::from_secs(10), async || is_gone(server)).await;
    assert!(worker.site.scratch_is_empty() && !sockets.exists());

    let elsewhere = "INSERT INTO backup.runs (id, kind, set_name, state, requested_by, started_at, worker, seen_at)
                     VALUES ('0190a6b2-7d51-7e0c-a1c5-6b3d5f0e8f11', 'verify', 'ml-data-2020-01-01', 'running', 'user:u-1',
                             now(), '0190a6b2-7d51-7e0c-a1c5-6b3d5f0e8f12', now() - interval '10 minutes')";
    worker.site.sql(elsewhere).await;
    // The worker may find that it is orphaned first, and then there is nothing to cancel.
    let path = "/api/backups/0190a6b2-7d51-7e0c-a1c5-6b3d5f0e8f11/cancel";
    let status = worker.operator().call(Method::POST, path).await.status;
    assert!(status == 202 || status == 409, "{status}");
    let verified = worker.run(&verify).await;
    assert_eq!(verified["verdict"], json!("VALID"), "{verified}");
    assert_eq!(verified["bytes_done"], verified["bytes_expected"], "{verified}");
}
