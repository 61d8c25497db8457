//! A tracker with a database of its own, and balancers that report to it.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::Method;
use prost_types::Timestamp;
use proto::sla::v1::{Minute, ReportMinutesRequest, ledger_client::LedgerClient};
use serde_json::Value;
use slo::Latencies;
use testkit::Postgres;
use testkit::{Harness, PeerClient, RunningService};
use tonic::Code;

pub(crate) const SERVICE: &str = "ml-services";
pub(crate) const BOOT: &str = "0190a6b2-7d51-7e0c-a1c5-6b3d5f0e8f11";

pub(crate) struct Tracker {
    pub(crate) harness: Harness,
    pub(crate) service: RunningService,
    pub(crate) postgres: Postgres,
    pub(crate) database: String,
    /// The minute in which the test began, counted from 1970: all its minutes are counted from this one.
    base: u64,
    config: String,
}

impl Tracker {
    pub(crate) async fn start() -> Self {
        let postgres = Postgres::start().await;
        let database = postgres.database("sla").await;
        let config = format!(
            "[database]\nhost = {:?}\nport = {}\nname = {:?}\nuser = {:?}\npassword_file = {:?}\nca_file = {:?}\n\
             certificate_file = {:?}\nkey_file = {:?}\n",
            database.host,
            database.port,
            database.name,
            database.user,
            database.password_file.path(),
            database.ca_file,
            database.certificate_file,
            database.key_file,
        );
        let harness = Harness::new("sla", env!("CARGO_BIN_EXE_rampart-sla"));
        let service = harness.start(&config).await;
        Self { harness, service, postgres, database: database.name, base: now_minute(), config }
    }

    /// The same ledger after `kill -9` and a new start.
    pub(crate) async fn restarted(self) -> Self {
        let Self { harness, service, postgres, database, base, config } = self;
        service.kill();
        let service = harness.start(&config).await;
        Self { harness, service, postgres, database, base, config }
    }

    /// Reports as a balancer of this name; the source is the name too, as it must be.
    pub(crate) async fn report(&self, instance: &str, boot_id: &str, minutes: Vec<Minute>) -> Result<u32, Code> {
        let peer = self.harness.peer(&self.service, "balancer", instance);
        report_as(&peer, instance, boot_id, minutes).await
    }

    pub(crate) async fn current(&self, caller: &PeerClient) -> Value {
        let answer = caller.call(Method::GET, &format!("/api/sla/{SERVICE}/current")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    pub(crate) async fn summary(&self) -> Value {
        self.current(&self.harness.client(&self.service, None)).await
    }

    /// The minute that began this many minutes before the test's, in which each of these latencies was of a good request.
    pub(crate) fn minute(&self, ago: u64, latencies_us: &[u64]) -> Minute {
        let mut latencies = Latencies::empty();
        latencies_us.iter().for_each(|latency| latencies.record(*latency));
        Minute {
            service: SERVICE.into(),
            minute: Some(Timestamp { seconds: i64::try_from((self.base - ago) * 60).unwrap(), nanos: 0 }),
            good: latencies.count(),
            slow: latencies_us.iter().filter(|latency| **latency > 100_000).count() as u64,
            latency_histogram: latencies.encode(),
            ..Minute::default()
        }
    }

    /// The output of psql for a query of the ledger.
    pub(crate) async fn sql(&self, sql: &str) -> String {
        self.postgres.sql(&self.database, sql).await
    }
}

pub(crate) async fn report_as(
    peer: &PeerClient,
    source: &str,
    boot_id: &str,
    minutes: Vec<Minute>,
) -> Result<u32, Code> {
    let request = ReportMinutesRequest { source: source.into(), boot_id: boot_id.into(), minutes };
    let answer = LedgerClient::new(peer.channel()).report_minutes(request).await;
    answer.map(|response| response.into_inner().recorded).map_err(|status| status.code())
}

/// Minutes since 1970.
fn now_minute() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 60
}
