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
pub(super) const BREAKS_MAX: u32 = 2;
/// How long a replica that said it would end, and has closed its door, may take for what is in flight on it: the grace of
/// our services, and a little.
const LEAVING_MAX: Duration = Duration::from_secs(12);
/// How long a replica that is down keeps what may not be repeated. To cut it makes a failure certain: the replica may only
/// have been slow, and nobody else may be asked. A request that waits longer is told.
const SILENCE_MAX: Duration = Duration::from_secs(2);

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
    /// It does not answer: no requests, its sockets are shut or will be.
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
    breaks: AtomicU32,
    /// Nanoseconds after `epoch` of the last break that counted.
    broke_ns: AtomicU64,
    epoch: Instant,
    /// Nanoseconds after `epoch` of the last sign of life.
    answered_ns: AtomicU64,
    belief: Mutex<Belief>,
}

/// How pingora shall connect to a replica, over sockets apart for requests that may be repeated and for others.
pub(super) struct Peers {
    pub(super) address: SocketAddr,
    /// Of our certificate and CA.
    pub(super) generation: u64,
    pub(super) repeatable: Arc<HttpPeer>,
    pub(super) unrepeatable: Arc<HttpPeer>,
}

struct Belief {
    status: Status,
    good_checks: u32,
    /// The first of the failed checks in a row, when it is down and not in good order.
    silent_since: Option<Instant>,
    /// It is down but leaves in good order: its sockets stay until then.
    leaves_by: Option<Instant>,
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
            repeatable: Arc::default(),
            unrepeatable: Arc::default(),
            metrics,
            pool,
            peers: ArcSwapOption::empty(),
            in_flight: AtomicUsize::new(0),
            is_available: AtomicBool::new(false),
            breaks: AtomicU32::new(0),
            broke_ns: AtomicU64::new(0),
            epoch: Instant::now(),
            answered_ns: AtomicU64::new(0),
            belief: Mutex::new(Belief { status, good_checks: 0, silent_since: None, leaves_by: None }),
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

    /// Counts a connection that could not be made, or broke under a request that was sent to it at `began`. Returns how many
    /// that are in a row. All requests of one connection see it break, and none of them began after that: the break counts
    /// once.
    pub(super) fn count_break(&self, began: Instant) -> u32 {
        let (began, now) = (self.after_epoch(began), self.after_epoch(Instant::now()));
        let is_new = |last| (last <= began).then_some(now);
        if self.broke_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_new).is_err() {
            return self.breaks.load(Ordering::Relaxed);
        }
        self.breaks.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A check passed. A replica that was out comes back after `good_checks` in a row; one that is new, after the first.
    pub fn check_passed(&self, good_checks: u32) {
        self.note_answer();
        let mut belief = self.belief.lock();
        if belief.status.state == State::Healthy {
            return;
        }
        belief.good_checks += 1;
        belief.silent_since = None;
        if belief.status.state == State::Starting || belief.good_checks >= good_checks {
            self.repeatable.reopen();
            self.unrepeatable.reopen();
            belief.leaves_by = None;
            self.become_state(&mut belief, State::Healthy, "health checks pass");
        }
    }

    /// A check was answered with "not serving".
    pub fn set_draining(&self) {
        self.note_answer();
        let mut belief = self.belief.lock();
        belief.good_checks = 0;
        (belief.leaves_by, belief.silent_since) = (None, None);
        if belief.status.state != State::Draining {
            self.become_state(&mut belief, State::Draining, "it says that it does not serve");
        }
    }

    /// A check failed. Of a replica that has just said that it does not serve this is the end of its door and not of its
    /// work: it gets nothing new, and its sockets stay for a while.
    pub fn check_failed(&self, why: &str) {
        {
            let mut belief = self.belief.lock();
            let now = Instant::now();
            if belief.status.state == State::Draining {
                belief.leaves_by = Some(now + LEAVING_MAX);
                return self.become_state(&mut belief, State::Unhealthy, why);
            }
            if belief.leaves_by.is_some_and(|by| now < by) {
                return;
            }
        }
        self.set_down(why);
    }

    /// It is down, or still is. Requests in flight on it that may be sent elsewhere fail at once; the others when it has been
    /// silent for a while.
    pub fn set_down(&self, why: &str) {
        let is_silent_for_long = {
            let mut belief = self.belief.lock();
            (belief.good_checks, belief.leaves_by) = (0, None);
            if belief.status.state == State::Unhealthy {
                why.clone_into(&mut belief.status.why);
            } else {
                self.become_state(&mut belief, State::Unhealthy, why);
            }
            belief.silent_since.get_or_insert_with(Instant::now).elapsed() >= SILENCE_MAX
        };
        let mut shut = self.repeatable.shut();
        self.unrepeatable.close();
        if is_silent_for_long {
            shut += self.unrepeatable.shut();
        }
        if shut > 0 {
            tracing::debug!(pool = self.pool, replica = %self.name, sockets = shut, "shut the sockets of a lost replica");
        }
    }

    fn become_state(&self, belief: &mut Belief, state: State, why: &str) {
        let before = belief.status.state;
        belief.status = Status { state, since: OffsetDateTime::now_utc(), why: why.to_owned() };
        self.is_available.store(state == State::Healthy, Ordering::Release);
        self.breaks.store(0, Ordering::Relaxed);
        self.metrics.transition(state);
        let is_lost = before == State::Healthy && state == State::Unhealthy;
        let (before, after) = (before.as_str(), state.as_str());
        // One that said that it would end is not lost, nor one that was never up: at a start everybody waits for somebody.
        if is_lost {
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

    /// A replica that drains, then closes its door, keeps its sockets for a while; one that does not answer loses them.
    #[test]
    fn who_leaves_in_good_order_keeps_its_sockets() {
        let replica = replica();
        replica.check_passed(2);
        replica.set_draining();
        replica.check_failed("refused");
        assert_eq!(replica.status().state, State::Unhealthy);
        replica.check_failed("refused");
        assert!(!replica.repeatable.is_closed());
        let by = replica.belief.lock().leaves_by.unwrap();
        replica.belief.lock().leaves_by = by.checked_sub(LEAVING_MAX);
        replica.check_failed("refused");
        assert!(replica.repeatable.is_closed(), "its time is over");

        replica.check_passed(1);
        replica.set_draining();
        replica.check_failed("refused");
        replica.set_down("no answer");
        assert!(replica.repeatable.is_closed(), "it is frozen");

        replica.check_passed(1);
        replica.check_failed("refused");
        assert!(replica.repeatable.is_closed(), "it did not say that it would end");
    }

    /// Of one that says something now and then, what may not be repeated is not cut.
    #[test]
    fn silence_ends_with_a_single_good_check() {
        let replica = replica();
        replica.check_passed(2);
        replica.set_down("no answer");
        let silent_since = replica.belief.lock().silent_since.unwrap();
        replica.set_down("no answer");
        assert_eq!(replica.belief.lock().silent_since, Some(silent_since), "it goes on");
        replica.check_passed(2);
        assert_eq!(replica.status().state, State::Unhealthy);
        assert_eq!(replica.belief.lock().silent_since, None);
    }

    #[test]
    fn a_broken_connection_counts_once_however_many_requests_were_on_it() {
        let replica = replica();
        let began = Instant::now();
        for _ in 0..5 {
            assert_eq!(replica.count_break(began), 1);
        }
        assert_eq!(replica.count_break(Instant::now()), 2);
        replica.note_answer();
        assert_eq!(replica.count_break(Instant::now()), 1);
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
