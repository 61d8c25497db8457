//! The worker as a process: permissions, one run at a time, runs over its restart.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use axum::http::Method;
use policy::Role;
use serde_json::{Value, json};
use testkit::poll_until;
use testkit::{Harness, PeerClient, RunningService};

use crate::support::TestSite;

pub(crate) const RUN_TIMEOUT: Duration = Duration::from_secs(60);

/// Nothing runs but what a test requests.
pub(crate) const ON_DEMAND: &str = "create = \"off\"\nverify_older = \"off\"\nverify_created = false\n";

pub(crate) struct Worker {
    pub(crate) site: TestSite,
    pub(crate) harness: Harness,
    pub(crate) service: RunningService,
}

impl Worker {
    async fn start() -> Self {
        Self::start_with(ON_DEMAND).await
    }

    pub(crate) async fn start_with(schedule: &str) -> Self {
        Self::start_as(TestSite::new().await, env!("CARGO_BIN_EXE_rampart-backup"), schedule).await
    }

    async fn start_as(site: TestSite, binary: &str, schedule: &str) -> Self {
        let harness = Harness::new("backup", binary);
        let service = harness.start(&site.configuration(&site.root(), schedule)).await;
        Self { site, harness, service }
    }

    pub(crate) fn operator(&self) -> PeerClient {
        self.harness.client(&self.service, Some(&[Role::Operator]))
    }

    /// Begins a run and waits for its end.
    pub(crate) async fn run(&self, path: &str) -> Value {
        let operator = self.operator();
        let begun = operator.call(Method::POST, path).await;
        assert_eq!(begun.status, 202, "{:?}", begun.json());
        assert_eq!(begun.json()["state"], json!("running"));
        self.wait(begun.json()["id"].as_str().unwrap()).await
    }

    /// The only run of which this holds, once there is one.
    pub(crate) async fn find(&self, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let operator = self.operator();
        let mut found = Vec::new();
        let is_found = async || {
            let runs = operator.call(Method::GET, "/api/backups").await.json();
            found = runs["runs"].as_array().into_iter().flatten().filter(|run| is_wanted(run)).cloned().collect();
            !found.is_empty()
        };
        poll_until(what, RUN_TIMEOUT, is_found).await;
        assert_eq!(found.len(), 1, "{what}: {found:?}");
        found.remove(0)
    }

    pub(crate) async fn wait(&self, id: &str) -> Value {
        let operator = self.operator();
        let mut run = Value::Null;
        let is_ended = async || {
            run = operator.call(Method::GET, &format!("/api/backups/{id}")).await.json();
            // A machine that has much to do may answer that its database is away.
            run["state"].as_str().is_some_and(|state| state != "running")
        };
        poll_until("the run ends", RUN_TIMEOUT, is_ended).await;
        run
    }
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
    // Runs begin by the second, and two may begin in one.
    worker.site.sql("UPDATE backup.runs SET started_at = '2026-01-01T00:00:00Z'").await;
    let runs = worker.operator().call(Method::GET, "/api/backups").await.json();
    let kinds: Vec<_> = runs["runs"].as_array().unwrap().iter().map(|run| run["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["verify", "verify", "verify", "create", "verify", "create"], "the last begun first");
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

/// Proves single flight.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_run_is_refused() {
    let worker = Worker::start().await;
    let lock = worker.site.postgres.lock(&worker.site.database.name, "gateway.users");
    let operator = worker.operator();
    let begun = operator.call(Method::POST, "/api/backups").await;
    assert_eq!(begun.status, 202);
    let again = operator.call(Method::POST, "/api/backups").await;
    assert_eq!(again.status, 409, "{:?}", again.json());
    drop(lock);
    let run = worker.wait(begun.json()["id"].as_str().unwrap()).await;
    assert_eq!((&run["state"], &run["attempt"]), (&json!("succeeded"), &json!(1)), "{run}");
    assert_eq!(worker.run("/api/backups").await["state"], json!("succeeded"));
}

/// Proves that an orphaned run, whose insertion was committed without a response, does not block the next run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orphaned_run_is_failed_by_the_next_one() {
    let worker = Worker::start().await;
    let orphaned = "0190a6b2-7d51-7e0c-a1c5-6b3d5f0e8f11";
    let sql = format!(
        "INSERT INTO backup.runs (id, kind, state, requested_by, started_at, attempt)
         VALUES ('{orphaned}', 'create', 'running', 'user:u-1', now(), 3)"
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
    let worker = Worker::start_as(site, small.to_str().unwrap(), ON_DEMAND).await;
    let run = worker.run("/api/backups").await;
    assert_eq!(run["state"], json!("failed"), "{run}");
    assert!(run["error"].as_str().unwrap().contains("File too large"), "{run}");
    assert_eq!(worker.site.leftovers(), Vec::<String>::new());
    assert_eq!(backup::set_name::SetName::list(&worker.site.root()).unwrap(), []);
}
