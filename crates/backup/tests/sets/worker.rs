//! The worker as a process: permissions, one run at a time, runs over its restart.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use axum::http::Method;
use policy::Role;
use serde_json::{Value, json};
use testkit::poll_until;
use testkit::{Harness, PeerClient, RunningService};

use crate::support::TestSite;

const RUN_TIMEOUT: Duration = Duration::from_secs(60);

struct Worker {
    site: TestSite,
    harness: Harness,
    service: RunningService,
}

impl Worker {
    async fn start() -> Self {
        Self::start_as(TestSite::new().await, env!("CARGO_BIN_EXE_rampart-backup")).await
    }

    async fn start_as(site: TestSite, binary: &str) -> Self {
        let harness = Harness::new("backup", binary);
        let service = harness.start(&configuration(&site)).await;
        Self { site, harness, service }
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

fn configuration(site: &TestSite) -> String {
    let database = &site.database;
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
        site.root(),
        site.models(),
        site.path("scratch"),
        site.path("age-recipient"),
        site.path("age-identity"),
        site.path("signing-key.pem"),
    )
}

/// Proves what an operator does: build, verify, damage, verify again; and that the worker has the manifest's digest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_builds_and_verifies_a_set() {
    let worker = Worker::start().await;
    let built = worker.run("/api/backups").await;
    assert_eq!(built["state"], json!("succeeded"), "{built}");
    assert_eq!(built["requested_by"], json!("user:u-1"));
    let set = built["set"].as_str().unwrap().to_owned();
    let verified = worker.run(&format!("/api/backups/{set}/verify")).await;
    assert_eq!((&verified["state"], &verified["verdict"]), (&json!("succeeded"), &json!("VALID")), "{verified}");
    assert!(worker.site.scratch_is_empty());

    let second = worker.run("/api/backups").await;
    let second = second["set"].as_str().unwrap();
    assert!(second.starts_with(&set) && second.len() > set.len(), "{second} of the same day carries its time");
    assert_eq!(worker.run(&format!("/api/backups/{second}/verify")).await["verdict"], json!("VALID"));

    let name: backup::set_name::SetName = set.parse().unwrap();
    fs::remove_dir_all(name.top_directory(&worker.site.root())).unwrap();
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

/// Proves that only operators and administrators begin runs, that every role reads them, and that unknown ones are 404.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_operators_and_administrators_begin_runs() {
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
    let anonymous = worker.harness.client(&worker.service, None);
    assert_eq!(anonymous.call(Method::POST, "/api/backups").await.status, 401);
    assert_eq!(anonymous.call(Method::GET, "/api/backups").await.status, 401);
    let operator = worker.operator();
    for path in ["/api/backups/x", "/api/backups/0190a6b2-7d51-7e0c-a1c5-6b3d5f0e8f11"] {
        assert_eq!(operator.call(Method::GET, path).await.status, 404);
    }
    assert_eq!(operator.call(Method::POST, "/api/backups/..%2fx/verify").await.status, 404);
}

/// Proves single flight, and that a run killed in its middle is a failed run and no set after the restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_run_is_refused_and_a_killed_one_fails() {
    let worker = Worker::start().await;
    let lock = worker.site.postgres.lock(&worker.site.database.name, "gateway.users");
    let operator = worker.operator();
    let begun = operator.call(Method::POST, "/api/backups").await;
    assert_eq!(begun.status, 202);
    let id = begun.json()["id"].as_str().unwrap().to_owned();
    let again = operator.call(Method::POST, "/api/backups").await;
    assert_eq!(again.status, 409, "{:?}", again.json());
    let is_begun = async || !worker.site.leftovers().is_empty();
    poll_until("the set is being built", RUN_TIMEOUT, is_begun).await;

    let Worker { site, harness, service } = worker;
    service.kill();
    assert!(!site.leftovers().is_empty(), "kill -9 cleans nothing up");
    drop(lock);
    let service = harness.start(&configuration(&site)).await;
    let worker = Worker { site, harness, service };
    assert_eq!(worker.site.leftovers(), Vec::<String>::new());
    let run = worker.wait(&id).await;
    assert_eq!(run["state"], json!("failed"), "{run}");
    assert!(run["error"].as_str().unwrap().starts_with("interrupted"), "{run}");
    assert_eq!(worker.run("/api/backups").await["state"], json!("succeeded"));
}

/// Proves that an orphaned run, whose insertion was committed without a response, does not block the next run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orphaned_run_is_failed_by_the_next_one() {
    let worker = Worker::start().await;
    let orphaned = "0190a6b2-7d51-7e0c-a1c5-6b3d5f0e8f11";
    let sql = format!(
        "INSERT INTO backup.runs (id, kind, state, requested_by, started_at)
         VALUES ('{orphaned}', 'create', 'running', 'user:u-1', now())"
    );
    worker.site.postgres.sql(&worker.site.database.name, &sql).await;
    assert_eq!(worker.run("/api/backups").await["state"], json!("succeeded"));
    let run = worker.wait(orphaned).await;
    assert_eq!(run["state"], json!("failed"), "{run}");
    assert!(run["error"].as_str().unwrap().starts_with("interrupted"), "{run}");
}

/// Proves that a caller that disconnects while its run is being begun leaves a run that completes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_outlives_a_caller_that_disconnects() {
    let worker = Worker::start().await;
    let (postgres, database) = (&worker.site.postgres, &worker.site.database.name);
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
/// a file: writing fails in the same way, without a mount.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_fails_the_run_and_leaves_no_files() {
    let site = TestSite::new().await;
    let rows = "INSERT INTO gateway.users SELECT n, md5(n::text) FROM generate_series(10000, 60000) AS n";
    site.postgres.sql(&site.database.name, rows).await;
    let small = site.path("rampart-backup-on-a-small-disk");
    let script = format!(
        "#!/bin/sh\nexec env --ignore-signal=XFSZ prlimit --fsize={} {} \"$@\"\n",
        64 << 10,
        env!("CARGO_BIN_EXE_rampart-backup")
    );
    fs::write(&small, script).unwrap();
    fs::set_permissions(&small, fs::Permissions::from_mode(0o755)).unwrap();
    let worker = Worker::start_as(site, small.to_str().unwrap()).await;
    let run = worker.run("/api/backups").await;
    assert_eq!(run["state"], json!("failed"), "{run}");
    assert!(run["error"].as_str().unwrap().contains("File too large"), "{run}");
    assert_eq!(worker.site.leftovers(), Vec::<String>::new());
    assert_eq!(backup::set_name::SetName::list(&worker.site.root()).unwrap(), []);
}
