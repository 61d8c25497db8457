//! Start, stop, renewal, and what is reported.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::StatusCode;
use proto::sla::v1::{
    Minute, ReportMinutesRequest, ReportMinutesResponse,
    ledger_server::{Ledger, LedgerServer},
};
use rustix::process::Signal;
use testkit::poll_until;
use tokio::net::TcpStream;
use tonic::{Request, Response, Status};

use crate::{
    process::Balancer,
    upstream::serve,
    world::{Platform, SOON},
};

/// SIGTERM: nothing new, what is in flight is finished, exit code 0.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_what_is_in_flight() {
    let mut platform = Platform::start(1).await;
    let http1 = platform.world.client().http1_only().build().unwrap();
    let calls: Vec<_> = [platform.client.clone(), http1]
        .into_iter()
        .map(|client| tokio::spawn(client.post(platform.url("/v2/slow/2000/infer")).body("{}").send()))
        .collect();
    poll_until("both are under way", SOON, async || platform.serving[0].seen.count() == 2).await;
    platform.balancer.signal(Signal::TERM);
    let front = platform.balancer.front;
    poll_until("the door is closed", SOON, async || TcpStream::connect(front).await.is_err()).await;
    for call in calls {
        let response = call.await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.text().await.unwrap().contains("serving-1"));
    }
    assert!(platform.balancer.exit(Duration::from_secs(15)).await.success());
}

/// Every certificate is renewed while requests run, and none fails.
#[tokio::test(flavor = "multi_thread")]
async fn renewed_certificates_fail_nothing() {
    let platform = Platform::start(2).await;
    let serial = || {
        let log = platform.balancer.log();
        log.iter().filter(|line| line.to_string().contains("new certificate files are in use")).count()
    };
    for round in 1..=3 {
        for instance in ["balancer-1", "serving-1", "serving-2", "gateway-1"] {
            platform.world.renew(instance);
        }
        poll_until("the balancer has the new one", SOON, async || {
            // A new connection each time, as half of the clients have.
            let client = platform.world.client().build().unwrap();
            for client in [&client, &platform.client] {
                let response = client.post(platform.url("/v2/models/m/infer")).body("{}").send().await.unwrap();
                assert_eq!(response.status(), StatusCode::OK);
            }
            serial() >= round
        })
        .await;
    }
    platform.wait_healthy(2).await;
}

#[derive(Clone, Default)]
struct Tracker(Arc<Mutex<Vec<ReportMinutesRequest>>>);

#[tonic::async_trait]
impl Ledger for Tracker {
    async fn report_minutes(
        &self,
        request: Request<ReportMinutesRequest>,
    ) -> Result<Response<ReportMinutesResponse>, Status> {
        let report = request.into_inner();
        let recorded = report.minutes.len() as u32;
        self.0.lock().unwrap().push(report);
        Ok(Response::new(ReportMinutesResponse { recorded }))
    }
}

/// The tracker hears of every prediction once, by whichever minute it ended in.
#[tokio::test]
async fn minutes_are_reported() {
    let platform = Platform::start(1).await;
    let tracker = Tracker::default();
    let router = tonic::service::Routes::new(LedgerServer::new(tracker.clone())).into_axum_router().reset_fallback();
    let (runtime, address, _) = serve(platform.world.identity("sla-1"), "127.0.0.1:0".parse().unwrap(), router);
    let balancer = Balancer::start(
        &platform.world,
        &format!(
            "sla.report_interval_s = 1\n\
             pools.serving.replicas = [{{ name = \"serving-1\", address = \"{}\" }}]\n\
             pools.sla.replicas = [{{ name = \"sla-1\", address = \"{address}\" }}]",
            platform.serving[0].address
        ),
    )
    .await;
    let url = |path: &str| format!("https://127.0.0.1:{}{path}", balancer.front.port());
    poll_until("the replica is healthy", SOON, async || {
        platform.client.get(url("/v2/health/live")).send().await.unwrap().status() == StatusCode::OK
    })
    .await;
    for _ in 0..5 {
        platform.client.post(url("/v2/models/m/infer")).body("{}").send().await.unwrap();
    }
    platform.client.post(url("/v2/slow/150/infer")).body("{}").send().await.unwrap();
    platform.client.get(url("/v2/unread/..")).send().await.unwrap();
    let bad = platform.client.get(url("/v2/models")).header("authorization", "Basic x").send().await.unwrap();
    assert_eq!(bad.status(), StatusCode::UNAUTHORIZED);
    poll_until("all were reported", SOON, async || {
        let reports = tracker.0.lock().unwrap().clone();
        let mut minutes: std::collections::BTreeMap<i64, Minute> = std::collections::BTreeMap::new();
        for report in &reports {
            assert_eq!(report.source, "balancer-1");
            assert_eq!(report.boot_id, reports[0].boot_id);
            for minute in &report.minutes {
                minutes.insert(minute.minute.as_ref().unwrap().seconds, minute.clone());
            }
        }
        let sum = |count: fn(&Minute) -> u64| minutes.values().map(count).sum::<u64>();
        assert!(minutes.values().all(|minute| minute.service == "ml-services"));
        sum(|minute| minute.good) >= 6 && sum(|minute| minute.slow) >= 1 && sum(|minute| minute.client_error) == 1
    })
    .await;
    runtime.shutdown_background();
}

/// A configuration with faults is refused with all of them, and exit code 2.
#[test]
fn a_faulty_configuration_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("balancer.toml");
    std::fs::write(&file, "proxy.attempts_max = 0\naccess.calls_max = 0\n").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_rampart-balancer"))
        .args(["check-config", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("proxy.attempts_max") && message.contains("access.calls_max"), "{message}");
}
