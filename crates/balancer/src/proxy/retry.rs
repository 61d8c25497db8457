//! Whether a request that failed goes to another replica.
//!
//! What was never sent may always go to another one. What may have been seen goes to another one only if its route says
//! that it may be repeated, or if the replica says that it did not look at it. Either way the body must still be in the
//! replay buffer, no byte of an answer written, the route's time not over, and the pool's retry budget pays.
//!
//! A prediction whose replica died may be what it died of. It goes to one other replica at most, and never to the last healthy one.

use http::Method;
use pingora::{BError, ErrorSource::Upstream, ErrorType, http::ResponseHeader, proxy::Session};
use tower::retry::budget::Budget;

use super::{
    RequestState,
    failure::{describe, is_connection_lost, stream_error},
    headers,
};
use crate::metrics::RetryReason;

/// Replicas that may be lost under a prediction before it is given up.
const LOSSES_MAX: usize = 1;

/// The connection could not be made, so nothing was sent.
pub(super) fn decide_after_connect_error(session: &Session, state: &mut RequestState, mut error: BError) -> BError {
    let why = describe(&error);
    let RequestState { context, attempts, .. } = &*state;
    if let Some(replica) = attempts.replica() {
        tracing::debug!(replica = %replica.name, why, "replica cannot be connected to");
        // A time-out may mean that the machine is busy; health checks tell that from a dead replica, and come as fast.
        if !matches!(error.etype, ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout) {
            attempts.record_connection_failure(context.pool(), &format!("connection failed: {why}"));
        }
    }
    let again = !session.as_downstream().retry_buffer_truncated() && can_afford_attempt(state);
    if again {
        attempts.count_retry(context.pool(), RetryReason::Connect);
    }
    error.set_retry(again);
    error
}

/// The request was sent, or a part of it.
pub(super) fn decide_after_request_error(session: &Session, state: &mut RequestState, mut error: BError) -> BError {
    let is_lost = error.esource == Upstream && is_connection_lost(&error);
    // A replica whose sockets were cut was slow, not lost: no request brings that about, since models compute elsewhere.
    let has_died = is_lost && state.attempts.replica().is_some_and(|replica| !replica.is_cut());
    if has_died {
        state.attempts.losses += 1;
    }
    if let Some(reason) = state.attempts.pending_retry.take() {
        state.attempts.count_retry(state.context.pool(), reason);
        error.set_retry(true);
        return error;
    }
    let RequestState { context, attempts, outcome } = &*state;
    if is_lost && let Some(replica) = attempts.replica() {
        let why = describe(&error);
        tracing::debug!(replica = %replica.name, why, "replica was lost in the middle of a request");
        attempts.record_connection_failure(context.pool(), &format!("connection broke: {why}"));
    }
    // RFC 9113, 8.7: a refused stream was not looked at, so even a request that changes something may be sent again.
    let is_refused = stream_error(&error).is_some_and(|error| error.reason() == Some(h2::Reason::REFUSED_STREAM));
    let is_of_replica = error.esource == Upstream && !matches!(error.etype, ErrorType::InvalidHTTPHeader);
    let is_suspect = has_died && session.req_header().method == Method::POST && may_have_ended_replica(state);
    let again = is_of_replica && outcome.problem.is_none() && !is_suspect && may_send_again(session, state, is_refused);
    if again {
        attempts.count_retry(context.pool(), RetryReason::Broken);
    }
    error.set_retry(again);
    error
}

/// The replica answered that it cannot serve now. Only one that was not tried yet is worth another attempt.
pub(super) fn may_retry_after_unavailable(response: &ResponseHeader, session: &Session, state: &RequestState) -> bool {
    headers::says_unavailable(response)
        && state.context.pool().is_some_and(|pool| pool.untried_count(state.attempts.tried) > 0)
        && may_send_again(session, state, false)
}

/// Whether the replicas that are left must be kept from a prediction whose replica was lost.
fn may_have_ended_replica(state: &RequestState) -> bool {
    let RequestState { context, attempts, .. } = state;
    let Some(pool) = context.pool() else { return false };
    pool.name == topology::name::SERVING && (attempts.losses > LOSSES_MAX || pool.untried_count(attempts.tried) <= 1)
}

fn may_send_again(session: &Session, state: &RequestState, is_certainly_unseen: bool) -> bool {
    (state.context.is_repeatable || is_certainly_unseen)
        && session.response_written().is_none_or(|head| head.status.is_informational())
        && !session.as_downstream().retry_buffer_truncated()
        && can_afford_attempt(state)
}

/// Takes the attempt out of the budget if so, hence asked last.
fn can_afford_attempt(state: &RequestState) -> bool {
    let RequestState { context, attempts, .. } = state;
    let Some(pool) = context.pool() else { return false };
    attempts.count < context.shared.config.attempts_max && context.time_left().is_some() && pool.retry_budget.withdraw()
}
