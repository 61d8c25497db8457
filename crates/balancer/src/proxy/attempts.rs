//! The replicas that a request was sent to, and the choice of the next one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use pingora::{Error, ErrorType, Result, prelude::HttpPeer, proxy::Session};
use problem::{Kind, Problem};
use tower::retry::budget::Budget;

use super::RequestState;
use crate::{
    metrics::RetryReason,
    pool::{Lease, NoReplica, Pool, Replica, TriedReplicas},
    replica_state::ReplicaState,
};

/// How often a request was sent, and to which replicas.
pub(super) struct Attempts {
    pub(super) count: usize,
    pub(super) tried: TriedReplicas,
    /// Replicas whose connection broke under the request.
    pub(super) losses: usize,
    began: Instant,
    lease: Option<Lease>,
    /// Another attempt was granted before pingora reports the error that leads to it.
    pub(super) pending_retry: Option<RetryReason>,
}

/// Chooses a replica, and says how pingora connects to it. Called once for each attempt.
pub(super) fn next_peer(session: &mut Session, state: &mut RequestState) -> Result<Box<HttpPeer>> {
    let RequestState { context, attempts, outcome } = state;
    let Some(pool) = context.pool().cloned() else {
        return Error::e_explain(ErrorType::InternalError, "a request without a pool was forwarded");
    };
    let Some(time_left) = context.time_left() else {
        return outcome.fail(Problem::new(Kind::DeadlineExceeded, "no replica answered in time"));
    };
    let lease = match pool.choose(attempts.tried) {
        Ok(lease) => lease,
        Err(NoReplica::Unhealthy) => {
            return outcome.fail(Problem::unavailable(format!("no replica of {} is healthy; try again", pool.name)));
        }
        Err(NoReplica::Saturated) => {
            outcome.is_shed = true;
            return outcome.fail(Problem::unavailable(format!(
                "every replica of {} has as many calls as it takes; try again",
                pool.name
            )));
        }
    };
    let Some(peer) = lease.replica().peer(context.is_repeatable) else {
        return outcome.fail(Problem::unavailable("the replica's address is not known yet"));
    };
    attempts.start(&pool, lease);
    // Another attempt sends the body again from its start.
    context.body_bytes = 0;
    context.clock.await_body(Instant::now());
    // The body filter is not called for a request without a body.
    if session.is_body_empty() {
        context.record_part(true);
    }
    let mut peer = Box::new(HttpPeer::clone(&peer));
    peer.options.read_timeout = Some(time_left.max(Duration::from_millis(1)));
    Ok(peer)
}

// === impl Attempts ===

impl Attempts {
    pub(super) fn new() -> Self {
        Self {
            count: 0,
            tried: TriedReplicas::default(),
            losses: 0,
            began: Instant::now(),
            lease: None,
            pending_retry: None,
        }
    }

    /// The lease of the attempt before, if there was one, ends here.
    fn start(&mut self, pool: &Pool, lease: Lease) {
        if self.count == 0 {
            pool.retry_budget.deposit();
        }
        self.count += 1;
        self.began = Instant::now();
        self.tried.insert(lease.replica());
        self.lease = Some(lease);
    }

    /// The request is answered, and the replica has nothing to do with it any more.
    pub(super) fn end(&mut self) {
        self.lease = None;
    }

    pub(super) fn replica(&self) -> Option<&Arc<Replica>> {
        self.lease.as_ref().map(Lease::replica)
    }

    /// The connection to the replica could not be made, or broke.
    pub(super) fn record_connection_failure(&self, pool: Option<&Arc<Pool>>, why: &str) {
        if let (Some(pool), Some(replica)) = (pool, self.replica()) {
            pool.record_connection_failure(replica, self.began, why);
        }
    }

    /// The head of the replica's answer is there.
    pub(super) fn record_response(&self) {
        if let Some(replica) = self.replica() {
            replica.record_response();
            replica.metrics.duration.record(self.began.elapsed());
        }
    }

    /// Counts that the request leaves its replica for another one.
    pub(super) fn count_retry(&self, pool: Option<&Arc<Pool>>, reason: RetryReason) {
        let Some(pool) = pool else { return };
        pool.metrics.retries.increment(reason);
        let is_lost = self.replica().is_some_and(|replica| replica.status().state == ReplicaState::Unhealthy);
        if is_lost && reason == RetryReason::Broken {
            pool.metrics.failovers.increment(1);
        }
    }
}
