//! Changes of a replica's state, by the results of its health checks and by connections that break.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use time::OffsetDateTime;

use super::{Replica, ReplicaStatus};
use crate::replica_state::ReplicaState;

/// How long a replica that drained, and has closed its listener, may take for what is in flight on it: the grace of the
/// services, and a little.
const DRAIN_MAX: Duration = Duration::from_secs(12);
/// How long an unhealthy replica keeps the sockets of what may not be repeated. To shut them makes a failure certain: the
/// replica may only have been slow, and no other may get the request. A request that waits longer fails.
const UNRESPONSIVE_MAX: Duration = Duration::from_secs(2);

/// The state, and what the next change depends on.
pub(super) struct Health {
    pub(super) status: ReplicaStatus,
    pub(super) good_checks: u32,
    /// The first of the failed checks in a row, unless it drained before.
    pub(super) unresponsive_since: Option<Instant>,
    /// It drained before it was down: its sockets stay until then.
    pub(super) drain_deadline: Option<Instant>,
}

// === impl Replica ===

impl Replica {
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

    /// A check failed. If the replica was draining, it has closed its listener and not yet finished its work: it gets nothing
    /// new, and its sockets stay for a while.
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

    /// It is down, or still is. Requests in flight on it that may be repeated fail at once, so that they are; the others when
    /// it has not answered for a while.
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
        let mut shut = self.repeatable.cut_all();
        self.unrepeatable.refuse_new();
        if is_given_up {
            shut += self.unrepeatable.cut_all();
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
        let (before, after): (&str, &str) = (before.into(), state.into());
        // One that drained is not lost, nor one that was never up: at a start, services wait for each other.
        if is_lost {
            tracing::warn!(pool = self.pool, replica = %self.name, before, after, why, "replica is down");
        } else {
            tracing::info!(pool = self.pool, replica = %self.name, before, after, why, "replica changed state");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pool::ReplicaConfig;

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

    /// A replica that drains, then closes its listener, keeps its sockets for a while; one that does not answer loses them.
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
        assert!(replica.repeatable.is_closed(), "it did not drain");
    }

    /// The unrepeatable requests of a replica that answers now and then are not cut.
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
}
