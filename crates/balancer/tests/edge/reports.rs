//! The reports to the SLA tracker.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::StatusCode;
use proto::sla::v1::{
    Minute, ReportMinutesRequest, ReportMinutesResponse,
    ledger_server::{Ledger, LedgerServer},
};
use rustix::process::Signal;
use testkit::poll_until;
use tokio::{net::TcpStream, runtime::Runtime};
use tonic::{Request, Response, Status};

use crate::{
    process::{Balancer, field},
    raw,
    upstream::serve,
    world::{Platform, SOON},
};

/// A tracker that keeps every report, and loses as many as the test says: of every other one it loses the report, and of
/// the others the acknowledgement.
#[derive(Clone, Default)]
pub struct Tracker(Arc<Mutex<Vec<ReportMinutesRequest>>>, Arc<AtomicUsize>);

#[tonic::async_trait]
impl Ledger for Tracker {
    async fn report_minutes(
        &self,
        request: Request<ReportMinutesRequest>,
    ) -> Result<Response<ReportMinutesResponse>, Status> {
        let report = request.into_inner();
        let recorded = report.minutes.len() as u32;
        let to_lose =
            self.1.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1)).unwrap_or(0);
        if to_lose.is_multiple_of(2) {
            self.0.lock().unwrap().push(report);
        }
        if to_lose > 0 {
            Err(Status::unavailable("lost"))
        } else {
            Ok(Response::new(ReportMinutesResponse { recorded }))
        }
    }
}

/// Counts over all minutes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub good: u64,
    pub bad: u64,
    pub client_error: u64,
    pub slow: u64,
}

impl Tracker {
    /// What was reported last of each minute, added up.
    pub fn totals(&self) -> Totals {
        let reports = self.0.lock().unwrap().clone();
        let mut minutes: BTreeMap<i64, Minute> = BTreeMap::new();
        for report in &reports {
            assert_eq!(report.source, "balancer-1");
            assert_eq!(report.boot_id, reports[0].boot_id);
            for minute in &report.minutes {
                assert_eq!(minute.service, "ml-services");
                minutes.insert(minute.minute.as_ref().unwrap().seconds, minute.clone());
            }
        }
        let sum = |count: fn(&Minute) -> u64| minutes.values().map(count).sum::<u64>();
        Totals {
            good: sum(|minute| minute.good),
            bad: sum(|minute| minute.bad),
            client_error: sum(|minute| minute.client_error),
            slow: sum(|minute| minute.slow),
        }
    }
}

/// A balancer before one replica and a tracker.
pub struct Reporting {
    pub platform: Platform,
    pub tracker: Tracker,
    pub balancer: Balancer,
    runtime: Option<Runtime>,
}

impl Reporting {
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// `config` is laid over what the test needs anyway.
    pub async fn start_with(config: &str) -> Self {
        let platform = Platform::start(1).await;
        let tracker = Tracker::default();
        let service = LedgerServer::new(tracker.clone());
        let router = tonic::service::Routes::new(service).into_axum_router().reset_fallback();
        let any_port: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let (runtime, address, _) = serve(platform.world.identity("sla-1"), any_port, router);
        let balancer = Balancer::start(
            &platform.world,
            &format!(
                "sla.report_interval_s = 1\n\
                 pools.serving.replicas = [{{ name = \"serving-1\", address = \"{}\" }}]\n\
                 pools.sla.replicas = [{{ name = \"sla-1\", address = \"{address}\" }}]\n{config}",
                platform.serving[0].address
            ),
        )
        .await;
        let reporting = Self { platform, tracker, balancer, runtime: Some(runtime) };
        poll_until("the replica is healthy", SOON, async || {
            reporting.platform.client.get(reporting.url("/v2/health/live")).send().await.unwrap().status()
                == StatusCode::OK
        })
        .await;
        reporting
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.balancer.front.port())
    }

    pub fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.platform.client.post(self.url(path)).body("{}")
    }

    /// One that takes longer than the SLA's latency target.
    async fn slow_prediction(&self) {
        let seen = &self.platform.serving[0].seen;
        let before = seen.count();
        let call = tokio::spawn(self.post("/v2/held/infer").send());
        poll_until("it is in flight", SOON, async || seen.count() > before).await;
        let arrived = Instant::now();
        poll_until("it is slow", SOON, async || arrived.elapsed() > Duration::from_millis(150)).await;
        seen.release();
        call.await.unwrap().unwrap();
    }

    /// Nothing in the log that would wake somebody.
    pub fn assert_no_errors(&self) {
        let log = self.balancer.log();
        let errors: Vec<_> = log.iter().filter(|line| field(line, "level").as_deref() == Some("ERROR")).collect();
        assert!(errors.is_empty(), "{errors:?}");
    }

    pub async fn wait_for(&self, what: &str, is_met: impl Fn(&Totals) -> bool) {
        poll_until(what, SOON, async || is_met(&self.tracker.totals())).await;
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Every prediction is reported once, in the minute in which it ended, also if reports and acknowledgements are lost.
#[tokio::test]
async fn minutes_are_reported() {
    let reporting = Reporting::start().await;
    reporting.tracker.1.store(3, Ordering::SeqCst);
    for _ in 0..5 {
        reporting.post("/v2/models/m/infer").send().await.unwrap();
    }
    reporting.slow_prediction().await;
    // Outside the SLA.
    reporting.post("/nothing/here").send().await.unwrap();
    let bad = reporting.post("/v2/models").header("authorization", "Basic x").send().await.unwrap();
    assert_eq!(bad.status(), StatusCode::UNAUTHORIZED);
    reporting
        .wait_for("all were reported", |totals| {
            (totals.good, totals.bad, totals.client_error) == (6, 0, 1) && (1..=6).contains(&totals.slow)
        })
        .await;
    poll_until("nothing is lost any more", SOON, async || reporting.tracker.1.load(Ordering::SeqCst) == 0).await;
    let before = reporting.tracker.0.lock().unwrap().len();
    poll_until("two more reports", SOON, async || {
        // A new minute may have begun, and nothing is said of one in which nothing happened before it is over.
        reporting.post("/v2/models").header("authorization", "Basic x").send().await.unwrap();
        reporting.tracker.0.lock().unwrap().len() >= before + 2
    })
    .await;
    let totals = reporting.tracker.totals();
    assert_eq!((totals.good, totals.bad), (6, 0), "and counted once");
    let logged = |level: &str| {
        let log = reporting.balancer.log();
        let lines = log.iter().filter(|line| field(line, "level").as_deref() == Some(level));
        lines
            .filter_map(|line| field(line, "message"))
            .filter(|message| message.contains("SLA tracker"))
            .collect::<Vec<_>>()
    };
    let (warnings, infos) = (logged("WARN"), logged("INFO"));
    assert!(!warnings.is_empty() && warnings.iter().all(|it| it.contains("kept for two hours")), "{warnings:?}");
    assert!(infos.contains(&"minutes are reported to the SLA tracker again".to_owned()), "{infos:?}");
}

/// A client that leaves after a long wait was not served in time; one that leaves at once has changed its mind.
#[tokio::test]
async fn a_client_that_leaves_after_a_long_wait_counts_as_a_timeout() {
    let reporting = Reporting::start().await;
    for http in ["1", "2"] {
        let builder = reporting.platform.world.client();
        let client = if http == "1" { builder.http1_only() } else { builder }.build().unwrap();
        for wait_ms in [400, 2000] {
            // The connection is made before the clock runs.
            client.get(reporting.url("/v2/health/live")).send().await.unwrap();
            let request = client.post(reporting.url("/v2/held/infer")).body("{}");
            assert!(request.timeout(Duration::from_millis(wait_ms)).send().await.unwrap_err().is_timeout());
        }
    }
    reporting.wait_for("both were reported", |totals| (totals.bad, totals.client_error) == (2, 2)).await;
}

/// A client that resets its requests before the balancer's own answer is written fails for itself alone.
#[tokio::test]
async fn requests_reset_by_their_client_are_no_failures_of_the_service() {
    let reporting = Reporting::start().await;
    let tls = raw::config(&reporting.platform, &[&rustls::version::TLS13], &[b"h2"]);
    let stream = raw::tls_handshake(raw::connect(reporting.balancer.front).await, tls).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let _connection = tokio::spawn(connection);
    let post = || http::Request::post(reporting.url("/v2/models/m/infer")).header("authorization", "Basic x");
    for _ in 0..10 {
        for _ in 0..10 {
            sender = sender.ready().await.unwrap();
            let (_, mut stream) = sender.send_request(post().body(()).unwrap(), false).unwrap();
            // Else the request leaves the client together with its reset, or not at all.
            tokio::task::yield_now().await;
            stream.send_reset(h2::Reason::CANCEL);
        }
        // A library ends a connection that has 20 reset requests which were not accepted yet. These were, once this is
        // answered.
        sender = sender.ready().await.unwrap();
        let health = http::Request::get(reporting.url("/health")).body(()).unwrap();
        sender.send_request(health, true).unwrap().0.await.unwrap();
    }
    reporting.post("/v2/models/m/infer").send().await.unwrap();
    reporting.wait_for("they were reported", |totals| totals.good == 1 && totals.client_error >= 10).await;
    assert_eq!(reporting.tracker.totals().bad, 0);
    reporting.assert_no_errors();
}

/// What ends during the drain is in the last report.
#[tokio::test]
async fn the_last_report_comes_after_the_drain() {
    let mut reporting = Reporting::start().await;
    let before = reporting.platform.serving[0].seen.count();
    let call = tokio::spawn(reporting.post("/v2/held/infer").send());
    poll_until("it is under way", SOON, async || reporting.platform.serving[0].seen.count() > before).await;
    reporting.balancer.signal(Signal::TERM);
    let front = reporting.balancer.front;
    poll_until("the listener is closed", SOON, async || TcpStream::connect(front).await.is_err()).await;
    reporting.platform.release_held();
    assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK);
    assert!(reporting.balancer.exit(Duration::from_secs(15)).await.success());
    assert_eq!(reporting.tracker.totals().good, 1);
}
