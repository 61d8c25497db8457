//! Active health checks: `grpc.health.v1.Health/Check`, every 200 ms, over connections of their own. The model registry,
//! which has no gRPC, gets `GET /health`, less often.
//!
//! A check that is not answered in time says that the replica is frozen, or that the machine is busy. Three things keep
//! a busy machine from looking like a dead one: an answer to any request since the check began, a delay of the balancer
//! itself, and the rule that the last healthy replica of a pool is only given up after several checks.

use std::{
    error::Error,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::stream::{FuturesUnordered, StreamExt};
use http_body_util::{BodyExt, Limited};
use identity::Identity;
use serde::Deserialize;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, codegen::Service};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use topology::name;
use transport::Channel;

use super::{Pool, Replica};
use crate::metrics::CheckOutcome;

/// A check that ended this much later than its time-out says something about the balancer, not about the replica.
const OWN_DELAY_MAX: Duration = Duration::from_millis(150);
/// Inconclusive checks in a row that change nothing.
const INCONCLUSIVE_MAX: u32 = 2;
/// Failed checks in a row that bring a replica down.
const FAILURES_MAX: u32 = 2;
/// The registry answers a check in the process that moves its files, and is alone: to be called down by mistake would cut
/// transfers, so it is given time. No prediction waits for it.
const REGISTRY_INTERVAL_MS: u64 = 1_000;
const REGISTRY_TIMEOUT_MS: u64 = 3_000;
const HEALTH_BODY_BYTES_MAX: usize = 4 * 1024;
/// Unanswered checks in a row before the last healthy replica is given up.
const LAST_REPLICA_TIMEOUTS: u32 = 3;

/// How often, how long, how many.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthSettings {
    /// From the start of one check to the start of the next; they overlap.
    pub interval_ms: u64,
    /// How long a check waits for its answer.
    pub timeout_ms: u64,
    /// Good checks in a row that bring a replica back.
    pub good_checks: u32,
}

/// How a replica is checked.
#[derive(Clone)]
enum Probe {
    Grpc(HealthClient<Channel>),
    Http(Channel),
}

enum CheckResult {
    Serving,
    NotServing,
    /// A refused connection is certain; anything else may be a connection that was just being renewed.
    Failed {
        why: String,
        is_certain: bool,
    },
    TimedOut {
        began: Instant,
        elapsed: Duration,
    },
}

/// Results of the last checks, as far as the next one depends on them.
#[derive(Default)]
struct CheckHistory {
    failures: u32,
    timeouts: u32,
    inconclusive: u32,
}

/// Checks one replica until stopped.
pub async fn watch(
    pool: Arc<Pool>,
    replica: Arc<Replica>,
    identity: Arc<Identity>,
    settings: HealthSettings,
    stop: CancellationToken,
) {
    let channel = transport::channel(&identity, pool.name, std::slice::from_ref(&replica.address));
    let probe = match pool.name {
        name::MLFLOW => Probe::Http(channel),
        _ => Probe::Grpc(HealthClient::new(channel)),
    };
    let timeout = Duration::from_millis(settings.timeout_ms);
    let mut ticks = tokio::time::interval(Duration::from_millis(settings.interval_ms));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut checks = FuturesUnordered::new();
    let mut history = CheckHistory::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => checks.push(check(probe.clone(), timeout)),
            Some(result) = checks.next() => {
                let outcome = history.apply(&pool, &replica, result, &settings);
                replica.metrics.checks.increment(outcome);
            }
        }
    }
}

async fn check(probe: Probe, timeout: Duration) -> CheckResult {
    let began = Instant::now();
    match tokio::time::timeout(timeout, probe.ask()).await {
        Ok(Ok(true)) => CheckResult::Serving,
        Ok(Ok(false)) => CheckResult::NotServing,
        Ok(Err(status)) => CheckResult::Failed { why: crate::describe(&status), is_certain: is_refused(&status) },
        Err(_) => CheckResult::TimedOut { began, elapsed: began.elapsed() },
    }
}

// === impl HealthSettings ===

impl HealthSettings {
    /// Those for a pool.
    pub fn of(&self, pool: &str) -> Self {
        match pool {
            name::MLFLOW => Self {
                interval_ms: self.interval_ms.max(REGISTRY_INTERVAL_MS),
                timeout_ms: self.timeout_ms.max(REGISTRY_TIMEOUT_MS),
                good_checks: self.good_checks,
            },
            _ => self.clone(),
        }
    }
}

// === impl Probe ===

impl Probe {
    /// Whether the replica answers that it serves.
    async fn ask(self) -> Result<bool, tonic::Status> {
        match self {
            Self::Grpc(mut client) => {
                let response = client.check(HealthCheckRequest { service: String::new() }).await?;
                Ok(response.get_ref().status() == ServingStatus::Serving)
            }
            Self::Http(mut channel) => {
                let mut request = http::Request::new(Body::empty());
                *request.uri_mut() = http::Uri::from_static("/health");
                let (head, body) = channel.call(request).await?.into_parts();
                // Read to its end, or the stream would be reset.
                let read = Limited::new(body, HEALTH_BODY_BYTES_MAX).collect().await;
                read.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
                Ok(head.status == http::StatusCode::OK)
            }
        }
    }
}

// === impl CheckHistory ===

impl CheckHistory {
    fn apply(
        &mut self,
        pool: &Pool,
        replica: &Replica,
        result: CheckResult,
        settings: &HealthSettings,
    ) -> CheckOutcome {
        match result {
            CheckResult::Serving => {
                *self = Self::default();
                replica.check_passed(settings.good_checks);
                CheckOutcome::Ok
            }
            CheckResult::NotServing => {
                *self = Self::default();
                replica.set_draining();
                CheckOutcome::NotServing
            }
            CheckResult::Failed { why, is_certain } => {
                self.failures += 1;
                if is_certain || self.failures >= FAILURES_MAX || !replica.is_available() {
                    replica.check_failed(&format!("health check failed: {why}"));
                }
                CheckOutcome::Failed
            }
            CheckResult::TimedOut { began, elapsed } => self.apply_timeout(pool, replica, began, elapsed, settings),
        }
    }

    fn apply_timeout(
        &mut self,
        pool: &Pool,
        replica: &Replica,
        began: Instant,
        elapsed: Duration,
        settings: &HealthSettings,
    ) -> CheckOutcome {
        let is_own_delay = elapsed > Duration::from_millis(settings.timeout_ms) + OWN_DELAY_MAX;
        let has_responded = replica.responded_since(began);
        if has_responded || (is_own_delay && self.inconclusive < INCONCLUSIVE_MAX) {
            self.inconclusive += 1;
            return CheckOutcome::Inconclusive;
        }
        self.timeouts += 1;
        let is_last = replica.is_available() && pool.healthy_count() == 1;
        if !is_last || self.timeouts >= LAST_REPLICA_TIMEOUTS {
            replica.set_unhealthy(&format!("health check not answered within {} ms", settings.timeout_ms));
        }
        CheckOutcome::Timeout
    }
}

fn is_refused(status: &tonic::Status) -> bool {
    let causes = std::iter::successors(status.source(), |error| (*error).source());
    let mut io_errors = causes.filter_map(|error| error.downcast_ref::<io::Error>());
    io_errors.any(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::ReplicaConfig;

    const SETTINGS: HealthSettings = HealthSettings { interval_ms: 200, timeout_ms: 300, good_checks: 2 };

    fn pool(count: usize) -> Arc<Pool> {
        let config = |n: usize| ReplicaConfig { name: format!("serving-{n}"), address: format!("127.0.0.1:{n}") };
        let pool = Pool::new(name::SERVING, &(1..=count).map(config).collect::<Vec<_>>(), 100);
        pool.replicas.iter().for_each(|replica| replica.check_passed(2));
        pool
    }

    fn timed_out(elapsed_ms: u64) -> CheckResult {
        CheckResult::TimedOut { began: Instant::now(), elapsed: Duration::from_millis(elapsed_ms) }
    }

    #[test]
    fn one_unanswered_check_is_enough_while_others_can_take_over() {
        let pool = pool(2);
        CheckHistory::default().apply(&pool, &pool.replicas[0], timed_out(300), &SETTINGS);
        assert!(!pool.replicas[0].is_available());
    }

    #[test]
    fn the_last_healthy_replica_gets_three_checks() {
        let pool = pool(1);
        let mut history = CheckHistory::default();
        for expected in [true, true, false] {
            history.apply(&pool, &pool.replicas[0], timed_out(300), &SETTINGS);
            assert_eq!(pool.replicas[0].is_available(), expected);
        }
    }

    #[test]
    fn a_response_meanwhile_makes_a_timeout_inconclusive() {
        let pool = pool(2);
        let result = timed_out(300);
        pool.replicas[0].record_response();
        let outcome = CheckHistory::default().apply(&pool, &pool.replicas[0], result, &SETTINGS);
        assert!(matches!(outcome, CheckOutcome::Inconclusive));
        assert!(pool.replicas[0].is_available());
    }

    #[test]
    fn own_delay_is_tolerated_twice() {
        let pool = pool(2);
        let mut history = CheckHistory::default();
        for expected in [true, true, false] {
            history.apply(&pool, &pool.replicas[0], timed_out(600), &SETTINGS);
            assert_eq!(pool.replicas[0].is_available(), expected);
        }
    }

    /// Where no process listens the kernel says so, and the channel passes it on.
    #[tokio::test]
    async fn a_closed_port_is_a_certain_failure() {
        identity::install_crypto_providers().unwrap();
        let directory = tempfile::tempdir().unwrap();
        testkit::ca::Ca::new().issue("balancer", "balancer-1", directory.path());
        let identity = Identity::load(&identity::IdentityConfig { directory: directory.path().into() }).unwrap();
        let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let client = HealthClient::new(transport::channel(&identity, "serving", &[port.to_string()]));
        let CheckResult::Failed { why, is_certain } = check(Probe::Grpc(client), Duration::from_secs(5)).await else {
            panic!("a closed port does not answer");
        };
        assert!(is_certain, "{why}");
        assert!(why.contains("refused"), "{why}");
    }

    #[test]
    fn a_refused_connection_counts_at_once_and_other_failures_twice() {
        let pool = pool(2);
        let failed = |is_certain| CheckResult::Failed { why: "gone".into(), is_certain };
        CheckHistory::default().apply(&pool, &pool.replicas[0], failed(true), &SETTINGS);
        assert_eq!(pool.replicas[0].status().why, "health check failed: gone");
        let mut history = CheckHistory::default();
        for expected in [true, false] {
            history.apply(&pool, &pool.replicas[1], failed(false), &SETTINGS);
            assert_eq!(pool.replicas[1].is_available(), expected);
        }
    }
}
