//! The worker as a process: who may ask, one run at a time, what is remembered over its death.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use axum::http::Method;
use policy::Role;
use serde_json::{Value, json};
use testkit::poll_until;
use testkit::{Harness, PeerClient, RunningService};

use crate::support::Ground;

const RUN_TIMEOUT: Duration = Duration::from_secs(60);

struct Worker {
    ground: Ground,
    harness: Harness,
    service: RunningService,
}

impl Worker {
    async fn start() -> Self {
        Self::start_as(Ground::new().await, env!("CARGO_BIN_EXE_rampart-backup")).await
    }

    async fn start_as(ground: Ground, binary: &str) -> Self {
        let harness = Harness::new("backup", binary);
        let service = harness.start(&configuration(&ground)).await;
        Self { ground, harness, service }
    }

    fn operator(&self) -> PeerClient {
        self.harness.client(&self.service, Some(&[Role::Operator]))
    }

    /// Begins a run and waits for its end.
    async fn run(&self, path: &str) -> Value {
        let operator = self.operator();
        let begun = operator.call(Method::POST, path).await;
        assert_eq!(begun.status, 202, "{:?}", begun.json());
        assert_eq!(begun.json()["state"], json!("running"));
        self.wait(begun.json()["id"].as_str().unwrap()).await
    }

    async fn wait(&self, id: &str) -> Value {
        let operator = self.operator();
        let mut run = Value::Null;
        let is_ended = async || {
            run = operator.call(Method::GET, &format!("/api/backups/{id}")).await.json();
            run["state"] != json!("running")
        };
        poll_until("the run ends", RUN_TIMEOUT, is_ended).await;
        run
    }
}

fn configuration(ground: &Ground) -> String {
    let database = &ground.database;
    format!(
        "[database]\nhost = {:?}\nport = {}\nname = {:?}\nuser = {:?}\npassword_file = {:?}\nca_file = {:?}\n\
         certificate_file = {:?}\nkey_file = {:?}\n\
         [backup]\ndirectory = {:?}\nmodels = {:?}\nscratch = {:?}\nage_recipient_file = {:?}\n\
         age_identity_file = {:?}\nsigning_key_file = {:?}\nfree_bytes_min = 1\n",
        database.host,
        database.port,
        database.name,
        database.user,
        database.password_file.path(),
        database.ca_file,
        database.certificate_file,
        database.key_file,
        ground.root(),
        ground.models(),
        ground.path("scratch"),
        ground.path("age-recipient"),
        ground.path("age-identity"),
        ground.path("signing-key.pem"),
    )
}

/// Proves the way of an operator: make, prove, damage, prove again; and that the worker remembers the manifest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operator_makes_and_proves_a_set() {
    let worker = Worker::start().await;
    let made = worker.run("/api/backups").await;
    assert_eq!(made["state"], json!("succeeded"), "{made}");
    assert_eq!(made["requested_by"], json!("user:u-1"));
    let set = made["set"].as_str().unwrap().to_owned();
    let verified = worker.run(&format!("/api/backups/{set}/verify")).await;
    assert_eq!((&verified["state"], &verified["verdict"]), (&json!("succeeded"), &json!("VALID")), "{verified}");
    assert!(worker.ground.scratch_is_empty());

    let second = worker.run("/api/backups").await;
    let second = second["set"].as_str().unwrap();
    assert!(second.starts_with(&set) && second.len() > set.len(), "{second} of the same day carries its time");
    assert_eq!(worker.run(&format!("/api/backups/{second}/verify")).await["verdict"], json!("VALID"));

    let name: backup::set::SetName = set.parse().unwrap();
    fs::remove_dir_all(name.top_directory(&worker.ground.root())).unwrap();
    for (set, reason) in [(set.as_str(), "cannot be read"), (second, "previous set")] {
        let verified = worker.run(&format!("/api/backups/{set}/verify")).await;
        assert_eq!(verified["verdict"], json!("INVALID"), "{verified}");
        assert!(verified["reason"].as_str().unwrap().contains(reason), "{verified}");
    }
    let runs = worker.operator().call(Method::GET, "/api/backups").await.json();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 6);
    let metrics = worker.harness.metrics(&worker.service).await;
    assert!(metrics.contains("ml_backup_runs_total{kind=\"create\",outcome=\"made\"} 2"), "{metrics}");
    assert!(metrics.contains("ml_backup_verification_failures_total 2"), "{metrics}");
}

/// Proves that only operators and administrators begin runs, that everybody with a role reads them, and that what is not
/// there is 404.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_may_read_and_not_run() {
    let worker = Worker::start().await;
    let set = "/api/backups/ml-data-2020-01-01/verify";
    for role in Role::ALL.iter().copied() {
        let client = worker.harness.client(&worker.service, Some(&[role]));
        let is_allowed = matches!(role, Role::Operator | Role::Admin);
        assert_eq!(client.call(Method::GET, "/api/backups").await.status, 200, "{role:?}");
        assert_eq!(client.call(Method::POST, set).await.status, if is_allowed { 404 } else { 403 }, "{role:?}");
        if !is_allowed {
            assert_eq!(client.call(Method::POST, "/api/backups").await.status, 403, "{role:?}");
        }
    }
    let nobody = worker.harness.client(&worker.service, None);
    assert_eq!(nobody.call(Method::POST, "/api/backups").await.status, 401);
    assert_eq!(nobody.call(Method::GET, "/api/backups").await.status, 401);
    let operator = worker.operator();
    for path in ["/api/backups/x", "/api/backups/0190a6b2-7d51-7e0c-a1c5-6b3d5f0e8f11"] {
        assert_eq!(operator.call(Method::GET, path).await.status, 404);
    }
    assert_eq!(operator.call(Method::POST, "/api/backups/..%2fx/verify").await.status, 404);
}

/// Proves single flight, and that a run killed in its middle is a failed run and no set after the restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_run_waits_and_a_killed_one_has_failed() {
    let worker = Worker::start().await;
    let lock = worker.ground.postgres.lock(&worker.ground.database.name, "gateway.users");
    let operator = worker.operator();
    let begun = operator.call(Method::POST, "/api/backups").await;
    assert_eq!(begun.status, 202);
    let id = begun.json()["id"].as_str().unwrap().to_owned();
    let again = operator.call(Method::POST, "/api/backups").await;
    assert_eq!(again.status, 409, "{:?}", again.json());
    let is_begun = async || !worker.ground.leftovers().is_empty();
    poll_until("the set is in the making", RUN_TIMEOUT, is_begun).await;

    let Worker { ground, harness, service } = worker;
    service.kill();
    assert!(!ground.leftovers().is_empty(), "kill -9 cleans nothing up");
    drop(lock);
    let service = harness.start(&configuration(&ground)).await;
    let worker = Worker { ground, harness, service };
    assert_eq!(worker.ground.leftovers(), Vec::<String>::new());
    let run = worker.wait(&id).await;
    assert_eq!(run["state"], json!("failed"), "{run}");
    assert!(run["error"].as_str().unwrap().starts_with("interrupted"), "{run}");
    assert_eq!(worker.run("/api/backups").await["state"], json!("succeeded"));
}

/// Proves that a row which says running, because the answer to its beginning was lost, keeps the next run out no longer
/// than until somebody asks for one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_that_nobody_works_on_makes_way() {
    let worker = Worker::start().await;
    let stray = "0190a6b2-7d51-7e0c-a1c5-6b3d5f0e8f11";
    let sql = format!(
        "INSERT INTO backup.runs (id, kind, state, requested_by, started_at)
         VALUES ('{stray}', 'create', 'running', 'user:u-1', now())"
    );
    worker.ground.postgres.sql(&worker.ground.database.name, &sql).await;
    assert_eq!(worker.run("/api/backups").await["state"], json!("succeeded"));
    let run = worker.wait(stray).await;
    assert_eq!(run["state"], json!("failed"), "{run}");
    assert!(run["error"].as_str().unwrap().starts_with("interrupted"), "{run}");
}

/// Proves that a caller who goes away while its run is being begun leaves a run that is worked on to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caller_that_goes_away_leaves_a_run_that_ends() {
    let worker = Worker::start().await;
    let (postgres, database) = (&worker.ground.postgres, &worker.ground.database.name);
    let lock = postgres.lock(database, "backup.runs");
    let operator = worker.operator();
    let calling = tokio::spawn(async move { operator.try_call(Method::POST, "/api/backups").await.is_ok() });
    let waits = async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT%'";
        postgres.sql("postgres", waiting).await == "1"
    };
    poll_until("the run is being begun", RUN_TIMEOUT, waits).await;
    calling.abort();
    assert!(calling.await.unwrap_err().is_cancelled());
    drop(lock);
    let operator = worker.operator();
    let is_made = async || {
        let runs = operator.call(Method::GET, "/api/backups").await.json();
        runs["runs"].as_array().is_some_and(|runs| runs.len() == 1 && runs[0]["state"] == json!("succeeded"))
    };
    poll_until("the run ends", RUN_TIMEOUT, is_made).await;
}

/// Proves that a disk which fills up in the middle fails the run and leaves nothing. The full disk is a limit of the size of
/// a file: writing fails in the same way, and nobody needs to mount anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_fails_the_run_and_leaves_nothing() {
    let ground = Ground::new().await;
    let rows = "INSERT INTO gateway.users SELECT n, md5(n::text) FROM generate_series(10000, 60000) AS n";
    ground.postgres.sql(&ground.database.name, rows).await;
    let small = ground.path("rampart-backup-on-a-small-disk");
    let script = format!(
        "#!/bin/sh\nexec env --ignore-signal=XFSZ prlimit --fsize={} {} \"$@\"\n",
        64 << 10,
        env!("CARGO_BIN_EXE_rampart-backup")
    );
    fs::write(&small, script).unwrap();
    fs::set_permissions(&small, fs::Permissions::from_mode(0o755)).unwrap();
    let worker = Worker::start_as(ground, small.to_str().unwrap()).await;
    let run = worker.run("/api/backups").await;
    assert_eq!(run["state"], json!("failed"), "{run}");
    assert!(run["error"].as_str().unwrap().contains("File too large"), "{run}");
    assert_eq!(worker.ground.leftovers(), Vec::<String>::new());
    assert_eq!(backup::set::SetName::list(&worker.ground.root()).unwrap(), []);
}
