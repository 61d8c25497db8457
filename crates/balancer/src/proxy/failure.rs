//! When something fails: is there another attempt, and if not, what is the client told.

use pingora::{
    BError, Error,
    ErrorSource::{Downstream, Internal, Unset, Upstream},
    ErrorType,
    proxy::Session,
};
use problem::{Chain, Kind, Problem};

use super::{Exchange, admission};
use crate::metrics::RetryReason;

/// Nothing was sent: the next replica may be asked whatever the request is.
pub(super) fn of_connecting(session: &Session, exchange: &mut Exchange, mut error: BError) -> BError {
    let why = reason(&error);
    if let Some(replica) = exchange.replica() {
        tracing::debug!(replica = %replica.name, why, "replica cannot be connected to");
        // Silence may mean that the machine is busy, which health checks tell from death; they come as fast.
        if !matches!(error.etype, ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout) {
            exchange.record_connection_failure(&format!("connection failed: {why}"));
        }
    }
    let again = !session.as_downstream().retry_buffer_truncated() && exchange.can_afford_attempt();
    if again {
        exchange.count_retry(RetryReason::Connect);
    }
    error.set_retry(again);
    error
}

/// The request was sent, or a part of it.
pub(super) fn of_exchange(session: &Session, exchange: &mut Exchange, mut error: BError) -> BError {
    if let Some(reason) = exchange.take_retry() {
        exchange.count_retry(reason);
        error.set_retry(true);
        return error;
    }
    let is_lost = error.esource == Upstream && is_connection_lost(&error);
    if is_lost && let Some(replica) = exchange.replica() {
        let why = reason(&error);
        tracing::debug!(replica = %replica.name, why, "replica was lost in the middle of a request");
        exchange.record_connection_failure(&format!("connection broke: {why}"));
    }
    // RFC 9113, 8.7: a refused stream was not looked at, so even a request that changes something may be sent again.
    let is_refused = stream_error(&error).is_some_and(|error| error.reason() == Some(h2::Reason::REFUSED_STREAM));
    let is_upstreams = error.esource == Upstream && !matches!(error.etype, ErrorType::InvalidHTTPHeader);
    let again = is_upstreams && !exchange.has_failed() && may_repeat_if(session, exchange, is_refused);
    if again {
        exchange.count_retry(RetryReason::Broken);
    }
    error.set_retry(again);
    error
}

/// Whether the request may be sent to another replica now that one may have seen it. Pays for it if so.
pub(super) fn may_repeat(session: &Session, exchange: &mut Exchange, reason: RetryReason) -> bool {
    // A replica that says no has at least answered; only a fresh one is worth asking.
    let is_worth_it = reason != RetryReason::Unavailable || exchange.has_untried_replica();
    is_worth_it && may_repeat_if(session, exchange, false)
}

fn may_repeat_if(session: &Session, exchange: &mut Exchange, is_certainly_unseen: bool) -> bool {
    (exchange.is_repeatable() || is_certainly_unseen)
        && session.response_written().is_none_or(|head| head.status.is_informational())
        && !session.as_downstream().retry_buffer_truncated()
        && exchange.can_afford_attempt()
}

/// What the client is told; `None` if it has left, or has its answer already.
pub(super) fn problem_of(session: &Session, exchange: &mut Exchange, error: &Error) -> Option<Problem> {
    if session.response_written().is_some_and(|head| !head.status.is_informational()) {
        return None;
    }
    if let Some(problem) = exchange.take_problem() {
        return Some(problem);
    }
    match error.esource() {
        Downstream => match error.etype() {
            ErrorType::ReadTimedout => Some(Problem::new(Kind::InvalidArgument, "the body did not arrive in time")),
            ErrorType::InvalidHTTPHeader | ErrorType::Custom(_) | ErrorType::CustomCode(..) => {
                Some(Problem::new(Kind::InvalidArgument, "the request is not well-formed HTTP"))
            }
            _ => {
                exchange.count_abandoned();
                None
            }
        },
        Upstream => {
            let why = reason(error);
            let replica = exchange.replica().map_or("none", |replica| replica.name.as_str());
            tracing::info!(replica, why, "request failed: its replica did, and it cannot go to another");
            Some(match error.etype() {
                ErrorType::ReadTimedout => Problem::new(Kind::DeadlineExceeded, "no replica answered in time"),
                _ => Problem::unavailable("the replica was lost in the middle of the request"),
            })
        }
        Internal | Unset => Some(match error.etype() {
            // The request's own authority or target, found wanting when it was written down for the replica.
            ErrorType::InvalidHTTPHeader => Problem::new(Kind::InvalidArgument, "the request's target is not valid"),
            _ => Problem::internal(error.to_string()),
        }),
    }
}

pub(super) fn of_body_over_limit(exchange: &mut Exchange, route: &crate::routes::Route) -> BError {
    exchange.set_problem(admission::too_large(route));
    Error::new_down(ErrorType::HTTPStatus(413))
}

/// The connection itself, not just this request on it. A reset of one stream says nothing about the replica: a client
/// could provoke it.
fn is_connection_lost(error: &Error) -> bool {
    match stream_error(error) {
        Some(error) => error.is_io(),
        None => matches!(error.etype, ErrorType::ConnectionClosed | ErrorType::WriteError),
    }
}

fn stream_error(error: &Error) -> Option<&h2::Error> {
    error.root_cause().downcast_ref()
}

/// The type and the innermost cause, on one line.
fn reason(error: &Error) -> String {
    let cause = error.root_cause();
    match cause.downcast_ref::<Error>() {
        Some(inner) => inner.etype().as_str().to_owned(),
        None => format!("{}: {}", error.etype().as_str(), Chain(cause)),
    }
}
