//! Whose a failure is, and what the client is told when a request goes to no other replica.
//!
//! pingora (0.9.1) says of what it reads from a client that it is `Downstream`, and of what passes between it and a replica that
//! it is `Upstream`. It leaves open (`Unset`) whose these are:
//!
//! - a `WriteError` of trailers over HTTP/2, and of the flush before a replica's failure is passed on over HTTP/1.1: the client
//!   has gone;
//! - an `InvalidHTTPHeader` of the target or authority as it is written for the replica: they are the client's;
//! - upgrades and CONNECT, of which nothing comes this far, and whatever a later version adds: a fault of ours.

use std::time::{Duration, Instant};

use futures::FutureExt as _;
use pingora::{
    Error,
    ErrorSource::{Downstream, Internal, Unset, Upstream},
    ErrorType,
    proxy::Session,
};
use problem::{Chain, Kind, Problem};

use super::RequestState;

/// A call that is given up after this was waited for. Only those that are reset at once are a flood (CVE-2023-44487).
const WAITED_FOR: Duration = Duration::from_millis(100);

/// `None` if the client has left, or has its answer already.
pub(super) fn problem_for_client(session: &Session, state: &mut RequestState, error: &Error) -> Option<Problem> {
    if session.response_written().is_some_and(|head| !head.status.is_informational()) {
        return None;
    }
    if let Some(problem) = state.outcome.problem.take() {
        return Some(problem);
    }
    match error.esource() {
        Downstream => match error.etype() {
            ErrorType::ReadTimedout => Some(Problem::new(Kind::InvalidArgument, "the body did not arrive in time")),
            ErrorType::InvalidHTTPHeader | ErrorType::Custom(_) | ErrorType::CustomCode(..) => {
                Some(Problem::new(Kind::InvalidArgument, "the request is not well-formed HTTP"))
            }
            _ => {
                if let Some(connection) = &state.context.connection
                    && state.context.clock.elapsed(Instant::now()) < WAITED_FOR
                {
                    connection.count_abandoned();
                }
                None
            }
        },
        Upstream if error.etype() == &ErrorType::ReadTimedout && is_body_late(state) => {
            Some(Problem::new(Kind::InvalidArgument, "the body did not arrive in time"))
        }
        Upstream => {
            let why = describe(error);
            let replica = state.attempts.replica().map_or("none", |replica| replica.name.as_str());
            let pool = state.context.pool().map_or("none", |pool| pool.name);
            tracing::info!(
                pool,
                replica,
                why,
                "replica failed a request that may not be sent again; the client gets 503, or 504 after a time-out"
            );
            Some(match error.etype() {
                ErrorType::ReadTimedout => Problem::new(Kind::DeadlineExceeded, "no replica answered in time"),
                _ => Problem::unavailable(
                    "the replica was lost in the middle of the request, which may have been carried out",
                ),
            })
        }
        Internal | Unset => Some(match error.etype() {
            // The request's own authority or target, found invalid when it was written for the replica.
            ErrorType::InvalidHTTPHeader => Problem::new(Kind::InvalidArgument, "the request's target is not valid"),
            _ => Problem::internal(error.to_string()),
        }),
    }
}

/// Whether more of the body is here than was read is seen only by reading on, which is done when nothing else is left to do.
pub(super) fn look_for_unread_body(session: &mut Session, state: &mut RequestState, error: &Error) {
    let is_timeout = error.esource() == &Upstream && error.etype() == &ErrorType::ReadTimedout;
    if !is_timeout || state.context.clock.is_received() {
        return;
    }
    if matches!(session.as_downstream_mut().read_request_body().now_or_never(), Some(Ok(_))) {
        state.context.clock.stop_awaiting();
    }
}

/// The replica could not answer, because the client has not sent all of the request.
fn is_body_late(state: &RequestState) -> bool {
    let clock = &state.context.clock;
    !clock.is_received() && clock.is_late_by_client(Instant::now())
}

/// Whether it is the client's that an answer could not be written. pingora leaves open whose error that is.
pub(super) fn is_of_client(error: &Error) -> bool {
    match error.esource() {
        Downstream => true,
        Unset => matches!(error.etype(), ErrorType::WriteError),
        Internal | Upstream => false,
    }
}

/// Whether the connection itself failed, and not one request on it. A reset of one stream says nothing about the replica:
/// a client could provoke it.
pub(super) fn is_connection_lost(error: &Error) -> bool {
    match stream_error(error) {
        Some(error) => error.is_io(),
        None => matches!(error.etype, ErrorType::ConnectionClosed | ErrorType::WriteError),
    }
}

pub(super) fn stream_error(error: &Error) -> Option<&h2::Error> {
    error.root_cause().downcast_ref()
}

/// The type and the innermost cause, on one line.
pub(super) fn describe(error: &Error) -> String {
    let cause = error.root_cause();
    match cause.downcast_ref::<Error>() {
        Some(inner) => inner.etype().as_str().to_owned(),
        None => format!("{}: {}", error.etype().as_str(), Chain(cause)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_to_a_client_is_the_clients() {
        let write = || Error::explain(ErrorType::WriteError, "while writing h2 response trailers to downstream");
        assert!(is_of_client(&write()));
        assert!(is_of_client(&write().into_down()));
        assert!(!is_of_client(&write().into_up()));
        assert!(!is_of_client(&Error::explain(ErrorType::H2Error, "upgraded while proxying to h2 session")));
        assert!(!is_of_client(&Error::new_in(ErrorType::HTTPStatus(503))));
    }
}
