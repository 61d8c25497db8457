//! One replica: its address, its sockets, and what is in flight on it. Changes of its state are in `transitions`.

mod transitions;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use pingora::upstreams::peer::HttpPeer;
use time::OffsetDateTime;

use self::transitions::Health;
use super::{config::ReplicaConfig, sockets::Sockets};
use crate::{metrics::ReplicaMetrics, replica_state::ReplicaState};

/// Connections that break in a row before the replica counts as down without waiting for a health check.
pub(super) const CONNECTION_FAILURES_MAX: u32 = 2;
/// The state of a replica with its reason.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    /// The state.
    pub state: ReplicaState,
    /// When it changed to that.
    pub since: OffsetDateTime,
    /// The reason, for people.
    pub why: String,
}

/// One replica of a pool.
pub struct Replica {
    /// Its index in the pool.
    pub index: usize,
    /// Its name, e.g. `serving-1`.
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
    /// Nanoseconds after `epoch` of the last connection failure that counted.
    last_failure_ns: AtomicU64,
    epoch: Instant,
    /// Nanoseconds after `epoch` of the last answer to a request or a check.
    last_response_ns: AtomicU64,
    health: Mutex<Health>,
}

/// How pingora connects to a replica, with separate sockets for requests that may be repeated and for others.
pub(super) struct Peers {
    pub(super) address: SocketAddr,
    /// Of the certificate and the CA.
    pub(super) generation: u64,
    pub(super) repeatable: Arc<HttpPeer>,
    pub(super) unrepeatable: Arc<HttpPeer>,
}

/// A request in flight on a replica; counted until dropped.
pub struct Lease(Arc<Replica>);

// === impl Replica ===

impl Replica {
    /// A replica that was never checked.
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

    /// Whether it gets requests.
    pub fn is_available(&self) -> bool {
        self.is_available.load(Ordering::Acquire)
    }

    /// Requests of this balancer that are in flight on it.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The state and its reason.
    pub fn status(&self) -> ReplicaStatus {
        self.health.lock().status.clone()
    }

    /// How many connections to it are open.
    pub fn connections(&self) -> usize {
        self.repeatable.count() + self.unrepeatable.count()
    }

    /// Whether the balancer itself has closed the sockets of requests that may be repeated.
    pub fn is_cut(&self) -> bool {
        self.repeatable.is_closed()
    }

    /// How pingora connects to it; `None` until its name was resolved.
    pub fn peer(&self, is_repeatable: bool) -> Option<Arc<HttpPeer>> {
        let peers = self.peers.load();
        let peers = peers.as_ref()?;
        Some(Arc::clone(if is_repeatable { &peers.repeatable } else { &peers.unrepeatable }))
    }

    pub(super) fn peers(&self) -> Option<Arc<Peers>> {
        self.peers.load_full()
    }

    /// Changes how pingora connects to it.
    pub(super) fn set_peers(&self, peers: Peers) {
        self.peers.store(Some(Arc::new(peers)));
    }

    /// Counts a request that is sent to it.
    pub fn lease(self: &Arc<Self>) -> Lease {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Lease(Arc::clone(self))
    }

    /// Records an answer to a request or to a check.
    pub fn record_response(&self) {
        self.last_response_ns.store(self.ns_since_epoch(Instant::now()), Ordering::Relaxed);
        if self.connection_failures.load(Ordering::Relaxed) != 0 {
            self.connection_failures.store(0, Ordering::Relaxed);
        }
    }

    /// Whether it answered a request or a check since then.
    pub fn responded_since(&self, then: Instant) -> bool {
        self.last_response_ns.load(Ordering::Relaxed) > self.ns_since_epoch(then)
    }

    /// Counts a connection that could not be made, or broke under a request that was sent to it at `began`. Returns how many
    /// that are in a row. All requests of one connection see it break, and none of them began after that: the failure
    /// counts once.
    pub(super) fn count_connection_failure(&self, began: Instant) -> u32 {
        let (began, now) = (self.ns_since_epoch(began), self.ns_since_epoch(Instant::now()));
        let is_new = |last| (last <= began).then_some(now);
        if self.last_failure_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_new).is_err() {
            return self.connection_failures.load(Ordering::Relaxed);
        }
        self.connection_failures.fetch_add(1, Ordering::Relaxed) + 1
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
