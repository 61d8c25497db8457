//! `GET /api/sla/{service}/current`: the figures are those of the requests, and never better.

use axum::http::Method;
use policy::Role;
use proto::sla::v1::Minute;
use serde_json::{Value, json};

use crate::support::{BOOT, Tracker};

/// Proves that an empty ledger has no figures, and that unknown services are not found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_data_there_is_a_reason_and_no_figure() {
    let tracker = Tracker::start().await;
    let summary = tracker.summary().await;
    assert_eq!(summary["service"], json!("ml-services"));
    for figure in ["uptime_percentage", "coverage_percentage", "response_time_p95", "compliant", "window"] {
        assert_eq!(summary[figure], Value::Null, "{figure}");
    }
    assert!(summary["reason"].is_string());
    assert_eq!(summary["targets"], json!({ "uptime": 99.9, "p95_ms": 100 }));
    let caller = tracker.harness.client(&tracker.service, None);
    let unknown = caller.call(Method::GET, "/api/sla/other/current").await;
    assert_eq!((unknown.status, &unknown.headers["content-type"]), (404, &"application/problem+json".parse().unwrap()));
}

/// Proves uptime, coverage and p95 (within 0.1 %) over two balancers, a minute without a report, and a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_are_those_of_the_requests() {
    let tracker = Tracker::start().await;
    // 12,000 latencies between 1 and 190 ms, spread over two balancers and twelve minutes; minute 5 is missing.
    let latencies: Vec<u64> = (0..12_000_u64).map(|i| 1_000 + (i * 7919) % 189_000).collect();
    let mut sorted = latencies.clone();
    sorted.sort_unstable();
    let exact_p95_ms = sorted[sorted.len() * 95 / 100 - 1] as f64 / 1000.0;
    let agos = [13, 12, 11, 10, 9, 8, 7, 6, 4, 3, 2, 1];
    for (ago, chunk) in agos.into_iter().zip(latencies.chunks(1000)) {
        let (one, two) = chunk.split_at(300);
        tracker.report("balancer-1", BOOT, vec![tracker.minute(ago, one)]).await.unwrap();
        let shed = Minute { shed: 2, client_error: 50, ..tracker.minute(ago, two) };
        tracker.report("balancer-2", BOOT, vec![shed]).await.unwrap();
    }
    let before = tracker.summary().await;
    let tracker = tracker.restarted().await;
    let after = tracker.summary().await;
    for summary in [before, after] {
        let figure = |name: &str| summary[name].as_f64().unwrap();
        // 12,000 good of 12,024: 99.8003992…, cut.
        assert_eq!(figure("uptime_percentage"), 99.8003, "{summary}");
        // One of 13 minutes, or of 14 when the present one is due by now.
        assert!([92.3076, 85.7142].contains(&figure("coverage_percentage")), "{summary}");
        assert!(figure("uptime_percentage_lower") < 93.0, "{summary}");
        let p95_ms = figure("response_time_p95");
        assert!(p95_ms >= exact_p95_ms && p95_ms <= exact_p95_ms * 1.001, "{p95_ms} for {exact_p95_ms}");
        let in_time = latencies.iter().filter(|latency| **latency <= 100_000).count() as f64;
        assert!((figure("latency_good_percentage") - in_time / 120.0).abs() < 0.0001, "{summary}");
        assert_eq!((&summary["status"], &summary["compliant"]), (&json!("insufficient_data"), &Value::Null));
    }
}

/// Proves that every caller sees the summary, that callers with a role see the details, and that metrics show the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn details_need_a_token() {
    let tracker = Tracker::start().await;
    let minutes =
        vec![tracker.minute(2, &[5000; 100]), tracker.minute(1, &[5000; 100]), tracker.minute(0, &[5000; 10])];
    tracker.report("balancer-1", BOOT, minutes).await.unwrap();
    let summary = tracker.summary().await;
    assert_eq!(summary["status"], json!("compliant"), "{summary}");
    assert_eq!(summary["uptime_percentage"], json!(100.0));
    assert_eq!(summary["coverage_percentage"], json!(100.0));
    assert_eq!(summary.get("detail"), None);

    let viewer = tracker.harness.client(&tracker.service, Some(&[Role::Viewer]));
    let detail = tracker.current(&viewer).await["detail"].clone();
    assert_eq!(detail["requests"]["good"], json!(210));
    assert_eq!(detail["minutes"].as_array().unwrap().len(), 3);
    assert_eq!(detail["sources"][0]["source"], json!("balancer-1"));
    assert!(!detail["hours"].as_array().unwrap().is_empty());

    let metrics = tracker.harness.metrics(&tracker.service).await;
    assert!(metrics.contains("ml_sla_uptime_ratio{service=\"ml-services\",window=\"30d\"} 1\n"), "{metrics}");
    assert!(metrics.contains("ml_sla_objective_ratio{service=\"ml-services\",sli=\"uptime\"} 0.999\n"), "{metrics}");
}

/// Proves that hours which are over are summed up once, and anew when a late report changes them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_report_changes_an_hour_that_was_summed_up() {
    let tracker = Tracker::start().await;
    tracker.report("balancer-1", BOOT, vec![tracker.minute(300, &[5000; 10]), tracker.minute(0, &[])]).await.unwrap();
    let viewer = tracker.harness.client(&tracker.service, Some(&[Role::Viewer]));
    let good = async || tracker.current(&viewer).await["detail"]["requests"]["good"].as_u64();
    assert_eq!(good().await, Some(10));
    assert_eq!(tracker.sql("SELECT count(*) FROM sla.hours WHERE sealed").await, "1");
    let late = Minute { bad: 5, ..tracker.minute(299, &[5000; 15]) };
    tracker.report("balancer-1", BOOT, vec![Minute { good: 10, ..late }]).await.unwrap();
    assert_eq!(good().await, Some(20));
    assert_eq!(tracker.current(&viewer).await["detail"]["requests"]["bad"], json!(5));
}
