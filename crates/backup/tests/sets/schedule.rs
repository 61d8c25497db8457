//! Runs that begin without a request: on time, once, by one of several workers, whatever was missed and whatever the clock does.
//!
//! Time is a parameter here, too: a test moves what the database has planned, and the worker's clock stays as it is.

use axum::http::Method;
use backup::{
    progress::Reached,
    run::{Run, RunKind, RunState},
    schedule::{Planned, ScheduleName},
    store::Store,
};
use serde_json::json;
use testkit::{Harness, poll_until};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::{
    support::TestSite,
    worker::{RUN_TIMEOUT, Worker},
};

/// Far away, so that nothing begins but what a test makes due.
const ONCE_A_YEAR: &str = "create = \"0 0 1 7 *\"\nverify_older = \"0 0 1 7 *\"\njitter_s = 0\n";

async fn wait_until_planned(site: &TestSite, schedule: &str) {
    let planned = format!("SELECT count(*) FROM backup.schedules WHERE name = '{schedule}' AND due_at > now()");
    poll_until("the schedule is planned", RUN_TIMEOUT, async || site.sql(&planned).await == "1").await;
}

/// Makes a schedule due as it would be had no worker run for three days.
async fn miss(site: &TestSite, schedule: &str) {
    wait_until_planned(site, schedule).await;
    let sql = format!(
        "UPDATE backup.schedules SET due_at = now() - interval '3 days', planned_at = now() - interval '4 days'
         WHERE name = '{schedule}'"
    );
    site.sql(&sql).await;
}

/// Proves that of two workers one makes up for three missed days, with one set, which is then verified.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_workers_makes_up_for_missed_days_once() {
    let worker = Worker::start_with(&format!("{ONCE_A_YEAR}verify_created = true\n")).await;
    let second = Harness::new("backup", env!("CARGO_BIN_EXE_rampart-backup"));
    let configuration = worker.site.configuration(&worker.site.path("second"), ONCE_A_YEAR);
    let second_service = second.start(&configuration).await;
    miss(&worker.site, "create").await;

    let verified = worker.find("the set is verified", |run| run["verdict"] == json!("VALID")).await;
    let made = worker.find("a set is made", |run| run["kind"] == json!("create")).await;
    assert_eq!((&made["state"], &made["requested_by"]), (&json!("succeeded"), &json!("schedule:create")), "{made}");
    assert_eq!(verified["set"], made["set"]);
    assert_eq!(verified["requested_by"], json!(format!("run:{}", made["id"].as_str().unwrap())));
    wait_until_planned(&worker.site, "create").await;

    let (first, other) = (worker.harness.metrics(&worker.service).await, second.metrics(&second_service).await);
    let missed = |metrics: &str| metrics.contains("ml_backup_schedule_missed_total{schedule=\"create\"} 1");
    assert!(missed(&first) != missed(&other), "one of the two counts it: {first}\n{other}");
    for metrics in [&first, &other] {
        assert!(metrics.contains("ml_backup_clock_set_back_total{schedule=\"create\"} 0"), "{metrics}");
    }
}

/// Proves that each of the older sets is verified in its turn, and the newest not by this schedule.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_set_that_was_verified_longest_ago_is_verified() {
    let worker = Worker::start_with(&format!("{ONCE_A_YEAR}verify_created = false\n")).await;
    let mut sets = Vec::new();
    for _ in 0..3 {
        sets.push(worker.run("/api/backups").await["set"].clone());
    }
    for (turn, expected) in [&sets[0], &sets[1], &sets[0]].into_iter().enumerate() {
        miss(&worker.site, "verify_older").await;
        let operator = worker.operator();
        let mut last = json!(null);
        let is_verified = async || {
            let runs = operator.call(Method::GET, "/api/backups").await.json();
            let verified = runs["runs"].as_array().into_iter().flatten().filter(|run| run["verdict"] == json!("VALID"));
            let verified: Vec<_> = verified.cloned().collect();
            last = verified.first().cloned().unwrap_or_default();
            verified.len() == turn + 1
        };
        poll_until("an older set is verified", RUN_TIMEOUT, is_verified).await;
        assert_eq!((&last["set"], &last["requested_by"]), (expected, &json!("schedule:verify_older")));
    }
}

/// Proves that a clock which was set back past a scheduled run leads to a new plan, a line in the log and a count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_set_back_is_counted_and_planned_anew() {
    let worker = Worker::start_with(ONCE_A_YEAR).await;
    wait_until_planned(&worker.site, "create").await;
    let later = "UPDATE backup.schedules
                 SET due_at = now() + interval '700 days', planned_at = now() + interval '1 day' WHERE name = 'create'";
    worker.site.sql(later).await;
    let planned = "SELECT count(*) FROM backup.schedules WHERE name = 'create'
                   AND due_at < now() + interval '367 days' AND planned_at <= now()";
    poll_until("it is planned anew", RUN_TIMEOUT, async || worker.site.sql(planned).await == "1").await;
    let is_counted = async || {
        let metrics = worker.harness.metrics(&worker.service).await;
        metrics.contains("ml_backup_clock_set_back_total{schedule=\"create\"} 1")
    };
    poll_until("it is counted", RUN_TIMEOUT, is_counted).await;
    assert_eq!(worker.site.sql("SELECT count(*) FROM backup.runs").await, "0", "nothing was due");
}

/// Proves that a claim is won by one worker only, however many claim at the same moment, and leaves a plan for the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_claims_of_one_run_one_is_won() {
    let site = TestSite::new().await;
    let database = database::connect(&site.database).unwrap();
    database.migrate(&sqlx::migrate!(), backup::NAME).await.unwrap();
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap();
    let planned = |due_at| Planned { expression: "0 2 * * *".into(), due_at, planned_at: now, worker: None };
    let (old, new) = (planned(now), planned(now + Duration::DAY));
    let stores: Vec<_> = (0..4).map(|_| Store::new(database.clone(), Uuid::new_v4())).collect();
    stores[0].plan(ScheduleName::Create, &old).await.unwrap();
    let claims = stores.into_iter().map(|store| {
        let (run, old, new) = (run(now), old.clone(), new.clone());
        tokio::spawn(async move { store.begin_scheduled(ScheduleName::Create, &run, &old, &new).await.unwrap() })
    });
    let mut won = 0;
    for claim in claims.collect::<Vec<_>>() {
        won += usize::from(claim.await.unwrap());
    }
    assert_eq!(won, 1);
    let store = Store::new(database, Uuid::new_v4());
    assert_eq!(store.planned(ScheduleName::Create).await.unwrap(), Some(new.clone()));
    assert_eq!(site.sql("SELECT count(*) FROM backup.runs").await, "1");

    // While that one is under way: the next does not begin, and stays due until it can, unless a set of its time is being made.
    let after = planned(now + Duration::days(2));
    assert!(!store.begin_scheduled(ScheduleName::Create, &run(now), &new, &after).await.unwrap());
    assert_eq!(store.planned(ScheduleName::Create).await.unwrap(), Some(new.clone()));
    site.sql("UPDATE backup.runs SET started_at = now() + interval '2 days'").await;
    assert!(!store.begin_scheduled(ScheduleName::Create, &run(now), &new, &after).await.unwrap());
    assert_eq!(store.planned(ScheduleName::Create).await.unwrap(), Some(after));
}

fn run(started_at: OffsetDateTime) -> Run {
    Run {
        id: Uuid::now_v7(),
        kind: RunKind::Create,
        set: None,
        state: RunState::Running,
        verdict: None,
        error: None,
        requested_by: "schedule:create".into(),
        started_at,
        finished_at: None,
        size_bytes: None,
        attempt: 1,
        reached: Reached::default(),
        cancelled_by: None,
    }
}
