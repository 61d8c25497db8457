//! Every metric of the balancer, with every label set registered at zero when it starts.

use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use slo::{Outcome, PerOutcome};
use strum::{IntoStaticStr, VariantArray};

use crate::replica_state::ReplicaState;

/// The label of the one public listener.
const LISTENER: &str = "front";

/// How a TCP connection began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum ConnectionOutcome {
    /// Handshake done.
    Accepted,
    /// Over the cap of all connections.
    OverTotal,
    /// Over the cap of one address.
    OverAddress,
    /// No PROXY header where there must be one.
    NoProxyHeader,
    /// Plain HTTP on the TLS port.
    PlainHttp,
    /// No TLS handshake, or not in time.
    HandshakeFailed,
}

/// What a health check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum CheckOutcome {
    /// Serving.
    Ok,
    /// It answers, and says that it does not serve.
    NotServing,
    /// An error.
    Failed,
    /// No answer in time.
    Timeout,
    /// No answer in time, but a request was answered meanwhile, or the balancer itself was delayed.
    Inconclusive,
}

/// Why a request was sent to a second replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum RetryReason {
    /// The connection could not be made.
    Connect,
    /// The connection broke before the answer.
    Broken,
    /// The replica said that it is not available.
    Unavailable,
}

/// What a caller may take at a time, and has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum CallerLimit {
    /// Requests of a principal in a second.
    PrincipalRate,
    /// Calls of a principal at once.
    PrincipalCalls,
    /// Bodies of a principal's calls.
    PrincipalBytes,
    /// Requests of a tenant in a second.
    TenantRate,
    /// Calls of a tenant at once.
    TenantCalls,
    /// Bodies of a tenant's calls.
    TenantBytes,
    /// Bodies of all calls.
    AllBytes,
}

/// Metrics of what callers take.
pub struct CallerMetrics {
    /// Calls that were refused.
    pub limited: Counters<CallerLimit>,
}

/// Metrics of one pool.
pub struct PoolMetrics {
    requests: PerOutcome<Counter>,
    duration: Histogram,
    request_size: Histogram,
    response_size: Histogram,
    /// Requests sent to another replica.
    pub retries: Counters<RetryReason>,
    /// Requests that left a replica because it was lost.
    pub failovers: Counter,
}

/// Metrics of one replica.
pub struct ReplicaMetrics {
    /// From sending the request to the head of the answer.
    pub duration: Histogram,
    up: Gauge,
    circuit: Gauge,
    transitions: Counters<ReplicaState>,
    /// Health checks.
    pub checks: Counters<CheckOutcome>,
}

/// Metrics of the listener.
pub struct FrontMetrics {
    /// Connections that are open.
    pub active: Gauge,
    connections: Counters<ConnectionOutcome>,
    handshakes: [Counter; 2],
    handshake_duration: Histogram,
    limited: [Counter; 3],
}

/// Metrics of the calls to gateways.
pub struct AccessMetrics {
    /// Tokens exchanged for a passport.
    pub granted: Counter,
    /// Tokens refused.
    pub unauthenticated: Counter,
    /// Valid tokens, with a request that their owner may not make.
    pub permission_denied: Counter,
    /// No gateway answered.
    pub failed: Counter,
    /// Cached passports removed by a revocation.
    pub revoked: Counter,
    /// Calls that were not made because too many were in flight.
    pub limited: Counter,
}

/// A counter for each value of a label.
pub struct Counters<L>(Vec<(L, Counter)>);

// === impl Counters ===

impl<L: VariantArray + Copy + PartialEq + Into<&'static str>> Counters<L> {
    fn register(counter: impl Fn(&'static str) -> Counter) -> Self {
        Self(L::VARIANTS.iter().map(|label| (*label, counter((*label).into()))).collect())
    }

    /// Counts one.
    pub fn increment(&self, label: L) {
        if let Some((_, counter)) = self.0.iter().find(|(its, _)| *its == label) {
            counter.increment(1);
        }
    }
}

// === impl PoolMetrics ===

impl PoolMetrics {
    /// Registers the pool's label sets.
    pub fn new(pool: &'static str) -> Self {
        Self {
            requests: PerOutcome::new(
                |outcome| counter!("ml_balancer_requests_total", "pool" => pool, "outcome" => outcome.as_str()),
            ),
            duration: histogram!("ml_balancer_request_duration_seconds", "pool" => pool),
            request_size: histogram!("ml_balancer_request_size_bytes", "pool" => pool),
            response_size: histogram!("ml_balancer_response_size_bytes", "pool" => pool),
            retries: Counters::register(
                |reason| counter!("ml_balancer_retries_total", "pool" => pool, "reason" => reason),
            ),
            failovers: counter!("ml_balancer_failovers_total", "pool" => pool),
        }
    }

    /// Counts one request that has ended.
    pub fn record(&self, outcome: Outcome, elapsed: Duration, request_bytes: usize, response_bytes: usize) {
        self.requests.get(outcome).increment(1);
        self.duration.record(elapsed);
        self.request_size.record(bytes_as_f64(request_bytes));
        self.response_size.record(bytes_as_f64(response_bytes));
    }
}

// === impl ReplicaMetrics ===

impl ReplicaMetrics {
    /// Registers the replica's label sets.
    pub fn new(pool: &'static str, address: &str) -> Self {
        let backend = || address.to_owned();
        Self {
            duration: histogram!("ml_balancer_upstream_duration_seconds", "pool" => pool, "backend" => backend()),
            up: gauge!("ml_balancer_backend_up", "pool" => pool, "backend" => backend()),
            circuit: gauge!("ml_balancer_circuit_state", "backend" => backend()),
            transitions: Counters::register(
                |to| counter!("ml_balancer_backend_transitions_total", "pool" => pool, "backend" => backend(), "to" => to),
            ),
            checks: Counters::register(
                |outcome| counter!("ml_balancer_health_checks_total", "backend" => backend(), "outcome" => outcome),
            ),
        }
    }

    /// Counts a change of state.
    pub fn transition(&self, to: ReplicaState) {
        let (up, circuit) = match to {
            ReplicaState::Healthy => (1.0, 0.0),
            ReplicaState::Starting => (0.0, 1.0),
            ReplicaState::Draining | ReplicaState::Unhealthy => (0.0, 2.0),
        };
        self.transitions.increment(to);
        self.up.set(up);
        self.circuit.set(circuit);
    }
}

// === impl FrontMetrics ===

impl FrontMetrics {
    /// Registers the listener's label sets.
    pub fn register() -> Self {
        Self {
            active: gauge!("ml_balancer_active_connections", "listener" => LISTENER),
            connections: Counters::register(
                |outcome| counter!("ml_balancer_connections_total", "listener" => LISTENER, "outcome" => outcome),
            ),
            handshakes: ["ok", "error"]
                .map(|outcome| counter!("ml_balancer_tls_handshakes_total", "version" => "1.3", "outcome" => outcome)),
            handshake_duration: histogram!("ml_balancer_tls_handshake_duration_seconds", "version" => "1.3"),
            limited: ["connections", "address", "streams"]
                .map(|scope| counter!("ml_balancer_rate_limited_total", "scope" => scope)),
        }
    }

    /// Counts a connection as it begins.
    pub fn count_connection(&self, outcome: ConnectionOutcome) {
        self.connections.increment(outcome);
        let [limited_total, limited_address, _] = &self.limited;
        match outcome {
            ConnectionOutcome::OverTotal => limited_total.increment(1),
            ConnectionOutcome::OverAddress => limited_address.increment(1),
            _ => {}
        }
    }

    /// Counts a TLS handshake.
    pub fn handshake(&self, is_ok: bool, elapsed: Duration) {
        let [ok, error] = &self.handshakes;
        if is_ok { ok } else { error }.increment(1);
        self.handshake_duration.record(elapsed);
    }

    /// Counts an HTTP/2 connection that was ended for resetting too many of its own requests.
    pub fn limit_streams(&self) {
        let [_, _, streams] = &self.limited;
        streams.increment(1);
    }
}

// === impl AccessMetrics ===

impl AccessMetrics {
    /// Registers the label sets.
    pub fn register() -> Self {
        let authorize = |outcome| counter!("ml_balancer_authorize_total", "outcome" => outcome);
        Self {
            granted: authorize("granted"),
            unauthenticated: authorize("denied"),
            permission_denied: authorize("forbidden"),
            failed: authorize("failed"),
            revoked: counter!("ml_balancer_passports_revoked_total"),
            limited: counter!("ml_balancer_rate_limited_total", "scope" => "authorize"),
        }
    }
}

// === impl CallerMetrics ===

impl CallerMetrics {
    /// Registers the label sets.
    pub fn register() -> Self {
        Self { limited: Counters::register(|limit| counter!("ml_balancer_rate_limited_total", "scope" => limit)) }
    }
}

/// Bytes of request bodies under way.
pub fn body_bytes() -> Gauge {
    gauge!("ml_balancer_body_bytes")
}

/// 1 while the revocation stream of this gateway is alive.
pub fn revocation_stream_up(gateway: &str) -> Gauge {
    gauge!("ml_balancer_revocation_stream_up", "gateway" => gateway.to_owned())
}

/// Minutes that were dropped before the SLA tracker acknowledged them.
pub fn sla_minutes_dropped() -> Counter {
    counter!("ml_balancer_sla_minutes_dropped_total")
}

/// Describes every metric. Called once, before any of them is used.
pub fn describe() {
    describe_counter!("ml_balancer_requests_total", "Requests by pool and outcome.");
    describe_histogram!(
        "ml_balancer_request_duration_seconds",
        Unit::Seconds,
        "Head of the request to end of the answer."
    );
    describe_histogram!(
        "ml_balancer_upstream_duration_seconds",
        Unit::Seconds,
        "Request sent to head of the answer, by replica."
    );
    describe_gauge!("ml_balancer_active_connections", "Client connections that are open.");
    describe_counter!("ml_balancer_connections_total", "Client connections by how they began.");
    describe_gauge!("ml_balancer_backend_up", "1 while the replica is given requests.");
    describe_counter!("ml_balancer_backend_transitions_total", "Changes of a replica's state.");
    describe_counter!("ml_balancer_health_checks_total", "Health checks by result.");
    describe_counter!("ml_balancer_retries_total", "Requests sent to another replica, by reason.");
    describe_counter!("ml_balancer_failovers_total", "Requests that were in flight on a replica when it was lost.");
    describe_gauge!("ml_balancer_circuit_state", "0 closed (in use), 1 half open (starting), 2 open (not in use).");
    describe_counter!("ml_balancer_rate_limited_total", "Refusals by limiter.");
    describe_gauge!("ml_balancer_body_bytes", Unit::Bytes, "Bodies of the requests under way that carry a token.");
    describe_counter!("ml_balancer_tls_handshakes_total", "TLS handshakes with clients.");
    describe_histogram!(
        "ml_balancer_tls_handshake_duration_seconds",
        Unit::Seconds,
        "First byte to end of the handshake."
    );
    describe_histogram!("ml_balancer_request_size_bytes", Unit::Bytes, "Body of requests.");
    describe_histogram!("ml_balancer_response_size_bytes", Unit::Bytes, "Body of answers.");
    describe_counter!("ml_balancer_authorize_total", "Tokens brought to a gateway, by result.");
    describe_counter!("ml_balancer_passports_revoked_total", "Cached passports removed by a revocation.");
    describe_gauge!("ml_balancer_revocation_stream_up", "1 while the gateway's revocations are followed.");
    describe_counter!("ml_balancer_sla_minutes_dropped_total", "Minutes of the SLA ledger dropped unacknowledged.");
}

#[expect(clippy::cast_precision_loss, reason = "a size in a histogram; exact up to 2^53")]
fn bytes_as_f64(bytes: usize) -> f64 {
    bytes as f64
}
