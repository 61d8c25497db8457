//! One replica: what we believe about it, why, and since when.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use pingora::upstreams::peer::HttpPeer;
use serde::Deserialize;
use time::OffsetDateTime;

use super::sockets::Sockets;
use crate::metrics::ReplicaMetrics;

/// Connections that break in a row before the replica counts as down without waiting for a health check.
pub(super) const CONNECTION_FAILURES_MAX: u32 = 2;
/// How long a replica that said it would end, and has closed its door, may take for what is in flight on it: the grace of
/// our services, and a little.
const DRAIN_MAX: Duration = Duration::from_secs(12);
/// How long a replica that is down keeps what may not be repeated. To cut it makes a failure certain: the replica may only
/// have been slow, and nobody else may be asked. A request that waits longer is told.
const UNRESPONSIVE_MAX: Duration = Duration::from_secs(2);

/// Where a replica is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaConfig {
    /// What the status page and the metrics call it.
    pub name: String,
    /// `host:port`.
    pub address: String,
}

/// What we believe about a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// Never checked yet.
    Starting,
    /// It is given requests.
    Healthy,
    /// It answers and says that it does not serve: no new requests, those in flight go on.
    Draining,
    /// It does not answer: no requests, its sockets are shut or will be.
    Unhealthy,
}

/// A health with its reason.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    /// The health.
    pub state: ReplicaState,
    /// Held since.
    pub since: OffsetDateTime,
    /// The reason, for people.
    pub why: String,
}

/// One replica of a pool.
pub struct Replica {
    /// Its place in the pool.
    pub index: usize,
    /// What people call it, e.g. `serving-1`.
    pub name: String,
    /// `host:port`, as configured.
    pub address: String,
    /// Open sockets for requests that may be repeated elsewhere.
    pub(super) repeatable: Arc<Sockets>,
    /// Open sockets for the others.
    pub(super) unrepeatable: Arc<Sockets>,
    /// Its metrics.
    pub metrics: ReplicaMetrics,
    pool: &'static str,
    peers: ArcSwapOption<Peers>,
    in_flight: AtomicUsize,
    is_available: AtomicBool,
    connection_failures: AtomicU32,
    /// Nanoseconds after `epoch` of the last break that counted.
    last_failure_ns: AtomicU64,
    epoch: Instant,
    /// Nanoseconds after `epoch` of the last sign of life.
    last_response_ns: AtomicU64,
    health: Mutex<Health>,
}

/// How pingora shall connect to a replica, over sockets apart for requests that may be repeated and for others.
pub(super) struct Peers {
    pub(super) address: SocketAddr,
    /// Of our certificate and CA.
    pub(super) generation: u64,
    pub(super) repeatable: Arc<HttpPeer>,
    pub(super) unrepeatable: Arc<HttpPeer>,
}

struct Health {
    status: ReplicaStatus,
    good_checks: u32,
    /// The first of the failed checks in a row, when it is down and not in good order.
    unresponsive_since: Option<Instant>,
    /// It is down but leaves in good order: its sockets stay until then.
    drain_deadline: Option<Instant>,
}

/// A request's place on a replica; given back when dropped.
pub struct Lease(Arc<Replica>);

// === impl ReplicaState ===

impl ReplicaState {
    /// The state's name in the status page and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Draining => "draining",
            Self::Unhealthy => "unhealthy",
        }
    }
}

// === impl Replica ===

impl Replica {
    /// A replica of which nothing is known.
    pub fn new(pool: &'static str, index: usize, config: &ReplicaConfig) -> Arc<Self> {
        let metrics = ReplicaMetrics::new(pool, &config.name);
        metrics.transition(ReplicaState::Starting);
        let status = ReplicaStatus {
            state: ReplicaState::Starting,
            since: OffsetDateTime::now_utc(),
            why: "not checked yet".into(),
        };
        Arc::new(Self {
            index,
            name: config.name.clone(),
            address: config.address.clone(),
            repeatable: Arc::default(),
            unrepeatable: Arc::default(),
            metrics,
            pool,
            peers: ArcSwapOption::empty(),
            in_flight: AtomicUsize::new(0),
            is_available: AtomicBool::new(false),
            connection_failures: AtomicU32::new(0),
            last_failure_ns: AtomicU64::new(0),
            epoch: Instant::now(),
            last_response_ns: AtomicU64::new(0),
            health: Mutex::new(Health { status, good_checks: 0, unresponsive_since: None, drain_deadline: None }),
        })
    }

    /// Whether it is given requests.
    pub fn is_available(&self) -> bool {
        self.is_available.load(Ordering::Acquire)
    }

    /// Requests that it is working on for us.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The health and its reason.
    pub fn status(&self) -> ReplicaStatus {
        self.health.lock().status.clone()
    }

    /// How many connections to it are open.
    pub fn connections(&self) -> usize {
        self.repeatable.count() + self.unrepeatable.count()
    }

    /// How pingora shall connect to it; `None` until its name was resolved.
    pub fn peer(&self, is_repeatable: bool) -> Option<Arc<HttpPeer>> {
        let peers = self.peers.load();
        let peers = peers.as_ref()?;
        Some(Arc::clone(if is_repeatable { &peers.repeatable } else { &peers.unrepeatable }))
    }

    pub(super) fn peers(&self) -> Option<Arc<Peers>> {
        self.peers.load_full()
    }

    /// Changes how pingora shall connect to it.
    pub(super) fn set_peers(&self, peers: Peers) {
        self.peers.store(Some(Arc::new(peers)));
    }

    /// Takes a place for a request.
    pub fn lease(self: &Arc<Self>) -> Lease {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Lease(Arc::clone(self))
    }

    /// Notes a sign of life: an answer to a request or to a check.
    pub fn record_response(&self) {
        self.last_response_ns.store(self.ns_since_epoch(Instant::now()), Ordering::Relaxed);
        if self.connection_failures.load(Ordering::Relaxed) != 0 {
            self.connection_failures.store(0, Ordering::Relaxed);
        }
    }

    /// Whether there was a sign of life since then.
    pub fn responded_since(&self, then: Instant) -> bool {
        self.last_response_ns.load(Ordering::Relaxed) > self.ns_since_epoch(then)
    }

    /// Counts a connection that could not be made, or broke under a request that was sent to it at `began`. Returns how many
    /// that are in a row. All requests of one connection see it break, and none of them began after that: the break counts
    /// once.
    pub(super) fn count_connection_failure(&self, began: Instant) -> u32 {
        let (began, now) = (self.ns_since_epoch(began), self.ns_since_epoch(Instant::now()));
        let is_new = |last| (last <= began).then_some(now);
        if self.last_failure_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_new).is_err() {
            return self.connection_failures.load(Ordering::Relaxed);
        }
        self.connection_failures.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A check passed. A replica that was out comes back after `good_checks` in a row; one that is new, after the first.
    pub fn check_passed(&self, good_checks: u32) {
        self.record_response();
        let mut health = self.health.lock();
        if health.status.state == ReplicaState::Healthy {
            return;
        }
        health.good_checks += 1;
        health.unresponsive_since = None;
        if health.status.state == ReplicaState::Starting || health.good_checks >= good_checks {
            self.repeatable.reopen();
            self.unrepeatable.reopen();
            health.drain_deadline = None;
            self.change_state(&mut health, ReplicaState::Healthy, "health checks pass");
        }
    }

    /// A check was answered with "not serving".
    pub fn set_draining(&self) {
        self.record_response();
        let mut health = self.health.lock();
        health.good_checks = 0;
        (health.drain_deadline, health.unresponsive_since) = (None, None);
        if health.status.state != ReplicaState::Draining {
            self.change_state(&mut health, ReplicaState::Draining, "it says that it does not serve");
        }
    }

    /// A check failed. Of a replica that has just said that it does not serve this is the end of its door and not of its
    /// work: it gets nothing new, and its sockets stay for a while.
    pub fn check_failed(&self, why: &str) {
        {
            let mut health = self.health.lock();
            let now = Instant::now();
            if health.status.state == ReplicaState::Draining {
                health.drain_deadline = Some(now + DRAIN_MAX);
                return self.change_state(&mut health, ReplicaState::Unhealthy, why);
            }
            if health.drain_deadline.is_some_and(|by| now < by) {
                return;
            }
        }
        self.set_unhealthy(why);
    }

    /// It is down, or still is. Requests in flight on it that may be sent elsewhere fail at once; the others when it has been
    /// silent for a while.
    pub fn set_unhealthy(&self, why: &str) {
        let is_given_up = {
            let mut health = self.health.lock();
            (health.good_checks, health.drain_deadline) = (0, None);
            if health.status.state == ReplicaState::Unhealthy {
                why.clone_into(&mut health.status.why);
            } else {
                self.change_state(&mut health, ReplicaState::Unhealthy, why);
            }
            health.unresponsive_since.get_or_insert_with(Instant::now).elapsed() >= UNRESPONSIVE_MAX
        };
        let mut shut = self.repeatable.shut();
        self.unrepeatable.close();
        if is_given_up {
            shut += self.unrepeatable.shut();
        }
        if shut > 0 {
            tracing::debug!(pool = self.pool, replica = %self.name, sockets = shut, "shut the sockets of a lost replica");
        }
    }

    fn change_state(&self, health: &mut Health, state: ReplicaState, why: &str) {
        let before = health.status.state;
        health.status = ReplicaStatus { state, since: OffsetDateTime::now_utc(), why: why.to_owned() };
        self.is_available.store(state == ReplicaState::Healthy, Ordering::Release);
        self.connection_failures.store(0, Ordering::Relaxed);
        self.metrics.transition(state);
        let is_lost = before == ReplicaState::Healthy && state == ReplicaState::Unhealthy;
        let (before, after) = (before.as_str(), state.as_str());
        // One that said that it would end is not lost, nor one that was never up: at a start everybody waits for somebody.
        if is_lost {
            tracing::warn!(pool = self.pool, replica = %self.name, before, after, why, "replica is down");
        } else {
            tracing::info!(pool = self.pool, replica = %self.name, before, after, why, "replica changed state");
        }
    }

    fn ns_since_epoch(&self, time: Instant) -> u64 {
        u64::try_from(time.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }
}

// === impl Lease ===

impl Lease {
    /// The replica.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica() -> Arc<Replica> {
        Replica::new("serving", 0, &ReplicaConfig { name: "serving-1".into(), address: "127.0.0.1:1".into() })
    }

    #[test]
    fn a_new_replica_is_not_used_before_its_first_good_check() {
        let replica = replica();
        assert!(!replica.is_available());
        replica.check_passed(2);
        assert!(replica.is_available());
    }

    #[test]
    fn a_lost_replica_comes_back_after_two_good_checks_in_a_row() {
        let replica = replica();
        replica.check_passed(2);
        replica.set_unhealthy("no answer");
        replica.check_passed(2);
        assert!(!replica.is_available());
        replica.set_unhealthy("no answer");
        replica.check_passed(2);
        assert!(!replica.is_available(), "the two were not in a row");
        replica.check_passed(2);
        assert!(replica.is_available());
    }

    #[test]
    fn a_draining_replica_gets_nothing_new_and_keeps_its_sockets() {
        let replica = replica();
        replica.check_passed(2);
        replica.set_draining();
        assert_eq!(replica.status().state, ReplicaState::Draining);
        assert!(!replica.is_available());
    }

    /// A replica that drains, then closes its door, keeps its sockets for a while; one that does not answer loses them.
    #[test]
    fn a_draining_replica_keeps_its_sockets_until_its_deadline() {
        let replica = replica();
        replica.check_passed(2);
        replica.set_draining();
        replica.check_failed("refused");
        assert_eq!(replica.status().state, ReplicaState::Unhealthy);
        replica.check_failed("refused");
        assert!(!replica.repeatable.is_closed());
        let by = replica.health.lock().drain_deadline.unwrap();
        replica.health.lock().drain_deadline = by.checked_sub(DRAIN_MAX);
        replica.check_failed("refused");
        assert!(replica.repeatable.is_closed(), "its time is over");

        replica.check_passed(1);
        replica.set_draining();
        replica.check_failed("refused");
        replica.set_unhealthy("no answer");
        assert!(replica.repeatable.is_closed(), "it is frozen");

        replica.check_passed(1);
        replica.check_failed("refused");
        assert!(replica.repeatable.is_closed(), "it did not say that it would end");
    }

    /// Of one that says something now and then, what may not be repeated is not cut.
    #[test]
    fn a_single_good_check_resets_the_unresponsive_time() {
        let replica = replica();
        replica.check_passed(2);
        replica.set_unhealthy("no answer");
        let unresponsive_since = replica.health.lock().unresponsive_since.unwrap();
        replica.set_unhealthy("no answer");
        assert_eq!(replica.health.lock().unresponsive_since, Some(unresponsive_since), "it goes on");
        replica.check_passed(2);
        assert_eq!(replica.status().state, ReplicaState::Unhealthy);
        assert_eq!(replica.health.lock().unresponsive_since, None);
    }

    #[test]
    fn a_broken_connection_counts_once_however_many_requests_were_on_it() {
        let replica = replica();
        let began = Instant::now();
        for _ in 0..5 {
            assert_eq!(replica.count_connection_failure(began), 1);
        }
        assert_eq!(replica.count_connection_failure(Instant::now()), 2);
        replica.record_response();
        assert_eq!(replica.count_connection_failure(Instant::now()), 1);
    }

    #[test]
    fn responded_since_compares_with_the_last_response() {
        let replica = replica();
        assert!(!replica.responded_since(Instant::now()));
        let then = Instant::now();
        replica.record_response();
        assert!(replica.responded_since(then));
    }
}
