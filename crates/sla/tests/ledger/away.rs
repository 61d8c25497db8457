//! A ledger that cannot be read: requests fail in time, and no metric shows an outdated figure.

use std::time::Duration;

use axum::http::Method;
use rustix::process::{Pid, Signal, kill_process};
use testkit::poll_until;
use tokio::time::Instant;

use crate::support::{BOOT, SERVICE, Tracker};

const PATIENCE: Duration = Duration::from_secs(30);

/// Proves that without the database every gauge of the service is NaN, and that the failure is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gauges_show_nothing_while_the_database_is_gone() {
    let tracker = Tracker::start().await;
    tracker.report("balancer-1", BOOT, vec![tracker.minute(1, &[5000; 100])]).await.unwrap();
    tracker.summary().await;
    let gauge = |name: &str, value: &str| format!("{name}{{service=\"{SERVICE}\",window=\"30d\"}} {value}\n");
    let metrics = tracker.harness.metrics(&tracker.service).await;
    assert!(metrics.contains(&gauge("ml_sla_uptime_ratio", "1")), "{metrics}");
    assert!(metrics.contains("ml_sla_ledger_read_failures_total{service=\"ml-services\"} 0\n"), "{metrics}");

    let server = Pid::from_raw(i32::try_from(tracker.postgres.cluster().pid()).unwrap()).unwrap();
    kill_process(server, Signal::QUIT).unwrap();
    let caller = tracker.harness.client(&tracker.service, None);
    let path = format!("/api/sla/{SERVICE}/current");
    let is_away = async || caller.call(Method::GET, &path).await.status == 503;
    poll_until("the cached figures have expired", PATIENCE, is_away).await;
    let metrics = tracker.harness.metrics(&tracker.service).await;
    for name in ["uptime_ratio", "uptime_lower_ratio", "unknown_ratio", "latency_p95_seconds", "latency_good_ratio"] {
        assert!(metrics.contains(&gauge(&format!("ml_sla_{name}"), "NaN")), "{name}: {metrics}");
    }
    assert!(!metrics.contains("ml_sla_ledger_read_failures_total{service=\"ml-services\"} 0\n"), "{metrics}");
}

/// Proves that requests are answered in time while the ledger is locked, later ones at once, and that the figures return.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_fail_in_time_while_the_ledger_is_locked() {
    let tracker = Tracker::start().await;
    let caller = tracker.harness.client(&tracker.service, None);
    let path = format!("/api/sla/{SERVICE}/current");
    let lock = tracker.postgres.lock(&tracker.database, "sla.minutes");
    let is_refused = async || caller.call(Method::GET, &path).await.status == 503;
    poll_until("the cached figures have expired", PATIENCE, is_refused).await;

    let asked = Instant::now();
    let requests = (0..8).map(|_| caller.call(Method::GET, &path));
    for answer in futures::future::join_all(requests).await {
        assert_eq!(answer.status, 503);
        assert!(answer.headers.contains_key("retry-after"));
    }
    assert!(asked.elapsed() < Duration::from_secs(4), "the requests waited {:?}", asked.elapsed());

    drop(lock);
    let is_answered = async || caller.call(Method::GET, &path).await.status == 200;
    poll_until("the figures return", PATIENCE, is_answered).await;
}
