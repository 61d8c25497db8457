//! How a request ends: what the metrics, the SLA and the access log count it as.

use std::time::{Duration, Instant};

use http::{HeaderMap, StatusCode};
use pingora::{Error, ErrorType, Result, http::ResponseHeader, proxy::Session};
use problem::{Kind, Problem};
use slo::Outcome;
use telemetry::Trace;

use super::{RequestState, context::RequestContext, failure::is_of_client, headers};
use crate::routes::Route;

/// A client that left after having waited this long was not answered in time. Before, it changed its mind.
const CLIENT_WAIT_MAX: Duration = Duration::from_secs(1);

/// What is known so far of how a request ends.
#[derive(Default)]
pub(super) struct RequestOutcome {
    /// What the client is to be told, when pingora has taken note of the failure.
    pub(super) problem: Option<Problem>,
    /// The kind of problem that the balancer answered with.
    pub(super) answered_kind: Option<Kind>,
    pub(super) grpc_status: Option<u16>,
    /// Refused for overload, by the balancer.
    pub(super) is_shed: bool,
    is_counted: bool,
}

// === impl RequestOutcome ===

impl RequestOutcome {
    /// Ends the request with a problem, from a hook that can only return pingora's kind of error.
    pub(super) fn fail<T>(&mut self, problem: Problem) -> Result<T> {
        let status = problem.kind().http_status().as_u16();
        self.problem = Some(problem);
        Err(Error::new_in(ErrorType::HTTPStatus(status)))
    }

    /// The same for what the client did wrong.
    pub(super) fn fail_client(&mut self, problem: Problem) -> Box<Error> {
        let status = problem.kind().http_status().as_u16();
        self.problem = Some(problem);
        Error::new_down(ErrorType::HTTPStatus(status))
    }

    pub(super) fn record_response(&mut self, response: &ResponseHeader) {
        self.grpc_status = headers::grpc_status(&response.headers);
    }

    pub(super) fn record_trailers(&mut self, trailers: &HeaderMap) {
        self.grpc_status = headers::grpc_status(trailers).or(self.grpc_status);
    }

    fn classify(&self, context: &RequestContext, status: Option<StatusCode>, error: Option<&Error>) -> Outcome {
        let is_cut_short = error.is_some() && self.answered_kind.is_none();
        let is_by_client = error.is_some_and(is_of_client);
        // One that sends something else in the place of the next request has not left.
        let has_left = error.is_some_and(|error| error.etype != ErrorType::ConnectError);
        let (clock, now) = (&context.clock, Instant::now());
        // One that had ended its side has left then, which only an attempt to answer it has shown.
        let left = context.connection.as_ref().and_then(|connection| connection.half_closed()).unwrap_or(now);
        let has_waited = has_left && clock.is_received() && status.is_none() && clock.own(left) >= CLIENT_WAIT_MAX;
        match (self.answered_kind, status) {
            _ if self.is_shed => Outcome::Shed,
            (Some(Kind::DeadlineExceeded), _) if clock.is_late_by_client(now) => Outcome::ClientError,
            (Some(Kind::DeadlineExceeded), _) => Outcome::Timeout,
            _ if is_cut_short && is_by_client && has_waited => Outcome::Timeout,
            _ if is_cut_short && is_by_client => Outcome::ClientError,
            _ if is_cut_short => Outcome::Error,
            (Some(kind), _) => Outcome::of_http(kind.http_status().as_u16()),
            (None, Some(status)) => match self.grpc_status {
                Some(code) => Outcome::of_grpc(code.into()),
                None => Outcome::of_http(status.as_u16()),
            },
            (None, None) => Outcome::Error,
        }
    }
}

/// Counts a request that has ended, and logs it if the configuration says so.
pub(super) fn finish(state: &mut RequestState, session: &Session, error: Option<&Error>) {
    let status = session.response_written().map(|head| head.status).filter(|status| !status.is_informational());
    let outcome = state.outcome.classify(&state.context, status, error);
    count(state, outcome, session.body_bytes_read(), session.body_bytes_sent());
    if state.context.shared.config.access_log {
        log(state, session, status, outcome);
    }
}

/// Counts a request that was dropped unfinished: its route's time was over, or the process ends.
pub(super) fn finish_dropped(state: &mut RequestState) {
    if !state.outcome.is_counted && state.context.route.is_some() {
        let is_by_client = state.context.clock.is_late_by_client(Instant::now());
        count(state, if is_by_client { Outcome::ClientError } else { Outcome::Timeout }, 0, 0);
    }
}

fn count(state: &mut RequestState, outcome: Outcome, request_bytes: usize, response_bytes: usize) {
    state.outcome.is_counted = true;
    let context = &state.context;
    let elapsed = context.clock.own(Instant::now());
    context.metrics().record(outcome, elapsed, request_bytes, response_bytes);
    if context.route.is_some_and(|route| route.is_counted) {
        context.shared.sla_minutes.record(outcome, elapsed);
    }
}

fn log(state: &RequestState, session: &Session, status: Option<StatusCode>, outcome: Outcome) {
    let RequestState { context, attempts, .. } = state;
    let request = session.req_header();
    tracing::info!(
        target: "access",
        method = %request.method,
        path = request.uri.path(),
        protocol = ?request.version,
        status = status.map_or(0, |status| status.as_u16()),
        outcome = outcome.as_str(),
        client = context.client().map(tracing::field::display),
        pool = context.route.as_ref().map_or("none", Route::pool_label),
        replica = attempts.replica().map(|replica| replica.name.as_str()),
        attempts = attempts.count,
        duration_us = u64::try_from(context.clock.elapsed(Instant::now()).as_micros()).unwrap_or(u64::MAX),
        request_bytes = session.body_bytes_read(),
        response_bytes = session.body_bytes_sent(),
        trace = context.trace.as_ref().map(Trace::id),
        "request"
    );
}
