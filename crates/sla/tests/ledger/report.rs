//! `ReportMinutes`: permissions, validation, idempotence.

use proto::sla::v1::Minute;
use serde_json::json;
use tonic::Code;

use crate::support::{BOOT, Tracker, report_as};

const ROWS: &str = "SELECT good, bad, shed, client_error, slow FROM sla.minutes ORDER BY minute";

/// Proves that a report may be repeated, overtaken and grown in any order, across a restart of the tracker, and that the
/// ledger then holds the furthest of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_and_overtaken_reports_change_nothing() {
    let tracker = Tracker::start().await;
    let (small, grown) = (tracker.minute(3, &[1000, 2000]), tracker.minute(3, &[1000, 2000, 3000]));
    assert_eq!(tracker.report("balancer-1", BOOT, vec![small.clone()]).await, Ok(1));
    assert_eq!(tracker.sql(ROWS).await, "2|0|0|0|0");
    assert_eq!(tracker.report("balancer-1", BOOT, vec![grown.clone(), tracker.minute(2, &[1000])]).await, Ok(2));
    for again in [&small, &grown, &small] {
        assert_eq!(tracker.report("balancer-1", BOOT, vec![again.clone()]).await, Ok(1));
        assert_eq!(tracker.sql(ROWS).await, "3|0|0|0|0\n1|0|0|0|0");
    }
    let tracker = tracker.restarted().await;
    assert_eq!(tracker.report("balancer-1", BOOT, vec![grown.clone()]).await, Ok(1));
    // Another process of the same replica counts from zero again: its minute is another one.
    let other = "0190a6b2-7d51-7e0c-a1c5-6b3d5f0e8f12";
    assert_eq!(tracker.report("balancer-1", other, vec![small]).await, Ok(1));
    assert_eq!(tracker.sql("SELECT count(*), sum(good) FROM sla.minutes").await, "3|6");
}

/// Proves that a minute which contradicts an earlier report of its source is dropped, counted, and the others recorded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contradicting_minute_is_dropped_alone() {
    let tracker = Tracker::start().await;
    let first = tracker.minute(4, &[1000; 10]);
    tracker.report("balancer-1", BOOT, vec![first.clone()]).await.unwrap();
    // Fewer good and more bad than was said before.
    let contradicting = Minute { good: 7, bad: 1, ..tracker.minute(4, &[1000; 8]) };
    assert_eq!(tracker.report("balancer-1", BOOT, vec![contradicting, tracker.minute(3, &[1000])]).await, Ok(2));
    assert_eq!(tracker.sql(ROWS).await, "10|0|0|0|0\n1|0|0|0|0");
    let metrics = tracker.harness.metrics(&tracker.service).await;
    assert!(metrics.contains("ml_sla_consistency_errors_total{check=\"contradiction\"} 1"), "{metrics}");
}

/// Proves that one wrong field refuses the whole report, and that only a balancer may report, and for itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_reports_and_wrong_peers_record_nothing() {
    let tracker = Tracker::start().await;
    let good = tracker.minute(2, &[1000]);
    let wrong = [
        Minute { service: "other".into(), ..good.clone() },
        Minute { minute: None, ..good.clone() },
        Minute { slow: 2, ..good.clone() },
        Minute { good: 2, ..good.clone() },
        Minute { latency_histogram: vec![0; 200 * 1024], ..good.clone() },
    ];
    for minute in wrong {
        let reported = tracker.report("balancer-1", BOOT, vec![good.clone(), minute]).await;
        assert_eq!(reported, Err(Code::InvalidArgument));
    }
    assert_eq!(tracker.report("balancer-1", "not a uuid", vec![good.clone()]).await, Err(Code::InvalidArgument));
    assert_eq!(tracker.report("balancer-1", BOOT, vec![]).await, Err(Code::InvalidArgument));
    let many = (0..121).map(|ago| tracker.minute(ago, &[])).collect();
    assert_eq!(tracker.report("balancer-1", BOOT, many).await, Err(Code::InvalidArgument));

    let balancer = tracker.harness.peer(&tracker.service, "balancer", "balancer-1");
    let for_another = report_as(&balancer, "balancer-2", BOOT, vec![good.clone()]).await;
    assert_eq!(for_another, Err(Code::PermissionDenied));
    let serving = tracker.harness.peer(&tracker.service, "serving", "serving-1");
    assert!(report_as(&serving, "serving-1", BOOT, vec![good]).await.is_err());
    assert_eq!(tracker.sql("SELECT count(*) FROM sla.minutes").await, "0");
    assert_eq!(tracker.summary().await["status"], json!("no_data"));
}
