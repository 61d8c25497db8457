//! One replica: what we believe about it, why, and since when.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use pingora::upstreams::peer::HttpPeer;
use serde::Deserialize;
use time::OffsetDateTime;

use super::sockets::Sockets;
use crate::metrics::ReplicaMetrics;

/// Connections that break in a row before the replica counts as down without waiting for a health check.
const BREAKS_MAX: u32 = 2;

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
pub enum State {
    /// Never checked yet.
    Starting,
    /// It is given requests.
    Healthy,
    /// It answers and says that it does not serve: no new requests, those in flight go on.
    Draining,
    /// It does not answer: no requests, its sockets are shut.
    Unhealthy,
}

/// A belief with its reason.
#[derive(Clone, Debug)]
pub struct Status {
    /// The belief.
    pub state: State,
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
    /// Every open socket to it.
    pub sockets: Arc<Sockets>,
    /// Its metrics.
    pub metrics: ReplicaMetrics,
    pool: &'static str,
    peer: ArcSwapOption<HttpPeer>,
    in_flight: AtomicUsize,
    is_available: AtomicBool,
    breaks: AtomicU32,
    epoch: Instant,
    /// Nanoseconds after `epoch` of the last sign of life.
    answered_ns: AtomicU64,
    belief: Mutex<Belief>,
}

struct Belief {
    status: Status,
    good_checks: u32,
}

/// A request's place on a replica; given back when dropped.
pub struct Lease(Arc<Replica>);

// === impl State ===

impl State {
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
        metrics.transition(State::Starting);
        let status = Status { state: State::Starting, since: OffsetDateTime::now_utc(), why: "not checked yet".into() };
        Arc::new(Self {
            index,
            name: config.name.clone(),
            address: config.address.clone(),
            sockets: Arc::default(),
            metrics,
            pool,
            peer: ArcSwapOption::empty(),
            in_flight: AtomicUsize::new(0),
            is_available: AtomicBool::new(false),
            breaks: AtomicU32::new(0),
            epoch: Instant::now(),
            answered_ns: AtomicU64::new(0),
            belief: Mutex::new(Belief { status, good_checks: 0 }),
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

    /// The belief and its reason.
    pub fn status(&self) -> Status {
        self.belief.lock().status.clone()
    }

    /// How pingora shall connect to it; `None` until its name was resolved.
    pub fn peer(&self) -> Option<Arc<HttpPeer>> {
        self.peer.load_full()
    }

    /// Changes how pingora shall connect to it.
    pub fn set_peer(&self, peer: HttpPeer) {
        self.peer.store(Some(Arc::new(peer)));
    }

    /// Takes a place for a request.
    pub fn lease(self: &Arc<Self>) -> Lease {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Lease(Arc::clone(self))
    }

    /// Notes a sign of life: an answer to a request or to a check.
    pub fn note_answer(&self) {
        self.answered_ns.store(self.after_epoch(Instant::now()), Ordering::Relaxed);
        if self.breaks.load(Ordering::Relaxed) != 0 {
            self.breaks.store(0, Ordering::Relaxed);
        }
    }

    /// Whether there was a sign of life since then.
    pub fn answered_since(&self, then: Instant) -> bool {
        self.answered_ns.load(Ordering::Relaxed) > self.after_epoch(then)
    }

    /// A connection could not be made, or broke under a request.
    pub fn note_break(&self, why: &str) {
        let breaks = self.breaks.fetch_add(1, Ordering::Relaxed) + 1;
        if breaks >= BREAKS_MAX && self.is_available() {
            self.set_down(why);
        }
    }

    /// A check passed. A replica that was out comes back after `good_checks` in a row; one that is new, after the first.
    pub fn check_passed(&self, good_checks: u32) {
        self.note_answer();
        let mut belief = self.belief.lock();
        if belief.status.state == State::Healthy {
            return;
        }
        belief.good_checks += 1;
        if belief.status.state == State::Starting || belief.good_checks >= good_checks {
            self.sockets.reopen();
            self.become_state(&mut belief, State::Healthy, "health checks pass");
        }
    }

    /// A check was answered with "not serving".
    pub fn set_draining(&self) {
        self.note_answer();
        let mut belief = self.belief.lock();
        belief.good_checks = 0;
        if belief.status.state != State::Draining {
            self.become_state(&mut belief, State::Draining, "it says that it does not serve");
        }
    }

    /// It is down. Requests in flight on it fail at once, and may be sent elsewhere.
    pub fn set_down(&self, why: &str) {
        {
            let mut belief = self.belief.lock();
            belief.good_checks = 0;
            if belief.status.state == State::Unhealthy {
                why.clone_into(&mut belief.status.why);
                return;
            }
            self.become_state(&mut belief, State::Unhealthy, why);
        }
        let shut = self.sockets.shut();
        tracing::debug!(pool = self.pool, replica = %self.name, sockets = shut, "shut the sockets of a lost replica");
    }

    fn become_state(&self, belief: &mut Belief, state: State, why: &str) {
        let before = belief.status.state;
        belief.status = Status { state, since: OffsetDateTime::now_utc(), why: why.to_owned() };
        self.is_available.store(state == State::Healthy, Ordering::Release);
        self.breaks.store(0, Ordering::Relaxed);
        self.metrics.transition(state);
        let (before, after) = (before.as_str(), state.as_str());
        if matches!(state, State::Unhealthy) {
            tracing::warn!(pool = self.pool, replica = %self.name, before, after, why, "replica is down");
        } else {
            tracing::info!(pool = self.pool, replica = %self.name, before, after, why, "replica changed state");
        }
    }

    fn after_epoch(&self, time: Instant) -> u64 {
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
        replica.set_down("no answer");
        replica.check_passed(2);
        assert!(!replica.is_available());
        replica.set_down("no answer");
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
        assert_eq!(replica.status().state, State::Draining);
        assert!(!replica.is_available());
    }

    #[test]
    fn one_broken_connection_is_forgiven_and_two_in_a_row_are_not() {
        let replica = replica();
        replica.check_passed(2);
        replica.note_break("reset");
        replica.note_answer();
        replica.note_break("reset");
        assert!(replica.is_available());
        replica.note_break("refused");
        assert_eq!(replica.status().state, State::Unhealthy);
        assert_eq!(replica.status().why, "refused");
    }

    #[test]
    fn a_sign_of_life_counts_from_the_moment_asked_for() {
        let replica = replica();
        assert!(!replica.answered_since(Instant::now()));
        let then = Instant::now();
        replica.note_answer();
        assert!(replica.answered_since(then));
    }
}
