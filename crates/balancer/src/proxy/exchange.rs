//! One request and its answer, from the head of the one to the end of the other.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri,
    header::{CONTENT_TYPE, TE},
};
use pingora::{
    Error, ErrorSource, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
    proxy::Session,
};
use problem::{Form, Kind, Problem};
use telemetry::Trace;
use tonic::Code;
use tracing::Level;

use super::{
    Shared, broadcast, failure,
    headers::{self, PASSPORT},
};
use crate::{
    access::{AccessError, Origin},
    front::connections::Connection,
    metrics::{Outcome, PoolMetrics, RetryReason},
    pool::{Lease, Pool, Replica, ReplicaState, TriedReplicas},
    routes::{Route, Routes, Target},
};

/// A client that left after having waited this long was not answered in time. Before, it changed its mind.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the balancer knows of a request while it is under way.
pub struct Exchange {
    shared: Arc<Shared>,
    connection: Option<Arc<Connection>>,
    began: Instant,
    trace: Option<Trace>,
    form: Form,
    route: Option<Route>,
    is_repeatable: bool,
    passport: Option<HeaderValue>,
    body_bytes: u64,
    is_received: bool,

    attempts: usize,
    attempt_began: Instant,
    tried: TriedReplicas,
    lease: Option<Lease>,
    retry: Option<RetryReason>,

    problem: Option<Problem>,
    kind: Option<Kind>,
    grpc_status: Option<u16>,
    is_shed: bool,
    is_counted: bool,
}

// === impl Exchange ===

impl Exchange {
    pub(super) fn new(shared: Arc<Shared>, connection: Option<Arc<Connection>>) -> Self {
        let now = Instant::now();
        Self {
            shared,
            connection,
            began: now,
            trace: None,
            form: Form::Api,
            route: None,
            is_repeatable: false,
            passport: None,
            body_bytes: 0,
            is_received: false,
            attempts: 0,
            attempt_began: now,
            tried: TriedReplicas::default(),
            lease: None,
            retry: None,
            problem: None,
            kind: None,
            grpc_status: None,
            is_shed: false,
            is_counted: false,
        }
    }

    // --- what it is ---

    pub(super) fn begin(&mut self, form: Form, headers: &HeaderMap) {
        self.form = form;
        self.trace = Some(Trace::of_request(headers, |level| {
            // The level of a span is part of the code and not a value, hence two of them.
            if level == Level::INFO {
                tracing::info_span!("request", otel.name = "edge", otel.kind = "server")
            } else {
                tracing::debug_span!("request")
            }
        }));
    }

    pub(super) fn set_route(&mut self, route: Route, is_repeatable: bool) {
        self.route = Some(route);
        self.is_repeatable = is_repeatable;
    }

    pub(super) fn set_passport(&mut self, passport: HeaderValue) {
        self.passport = Some(passport);
    }

    pub(super) fn routes(&self) -> &Arc<Routes> {
        &self.shared.routes
    }

    /// The passport for a token of this request.
    pub(super) async fn ask_passport(&self, token: &str, audience: &'static str) -> Result<HeaderValue, AccessError> {
        self.shared.access.passport(token, audience, self.origin()).await
    }

    /// Whether whoever has the token may make this request, of a third party.
    pub(super) async fn ask_permission(
        &self,
        token: &str,
        audience: &'static str,
        request: &RequestHeader,
    ) -> Result<(), AccessError> {
        self.shared.access.permission(token, audience, &request.method, request.uri.path(), self.origin()).await
    }

    pub(super) fn origin(&self) -> Origin<'_> {
        Origin { trace: self.trace.as_ref(), client: self.client().map(|client| client.ip()) }
    }

    /// Brings the request to every replica, with the same passport and origin.
    pub(super) async fn send_to_all(&mut self, head: &RequestHeader, body: Bytes) -> Result<Response<Bytes>, Problem> {
        let Some(time_left) = self.time_left() else {
            return Err(Problem::new(Kind::DeadlineExceeded, "the request took too long to arrive"));
        };
        let mut headers = self.origin().headers();
        if let Some(passport) = &self.passport {
            headers.insert(PASSPORT, passport.clone());
        }
        if let Some(content_type) = head.headers.get(CONTENT_TYPE) {
            headers.insert(CONTENT_TYPE, content_type.clone());
        }
        if self.form == Form::Grpc {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        let mut request = Request::new(body);
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = path_of(&head.uri)?;
        *request.headers_mut() = headers;
        let answer = self.shared.broadcast.send(request, time_left).await?;
        self.grpc_status = broadcast::status_of(&answer);
        Ok(answer)
    }

    pub(super) fn health(&self) -> Response<Bytes> {
        self.shared.status.health()
    }

    pub(super) fn status(&self, passport: Option<&HeaderValue>) -> Result<Response<Bytes>, Problem> {
        self.shared.status.answer(&self.shared.pools, passport)
    }

    pub(super) fn form(&self) -> Form {
        self.form
    }

    pub(super) fn passport(&self) -> Option<&HeaderValue> {
        self.passport.as_ref()
    }

    pub(super) fn client(&self) -> Option<SocketAddr> {
        self.connection.as_ref().map(|connection| connection.client)
    }

    pub(super) fn is_repeatable(&self) -> bool {
        self.is_repeatable
    }

    pub(super) fn pool(&self) -> Option<&Arc<Pool>> {
        match self.route?.target {
            Target::Pool(name) => Some(self.shared.pool(name)),
            Target::Health | Target::Status => None,
        }
    }

    // --- limits ---

    /// What is left of the route's time, if anything is.
    pub(super) fn time_left(&self) -> Option<Duration> {
        self.route?.time_max.checked_sub(self.began.elapsed()).filter(|left| !left.is_zero())
    }

    pub(super) fn count_body(&mut self, bytes: usize) -> Result<()> {
        let Some(route) = self.route else { return Ok(()) };
        self.body_bytes = self.body_bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        if self.body_bytes > route.body_bytes_max { Err(failure::of_body_over_limit(self, &route)) } else { Ok(()) }
    }

    /// The client has sent all of its request.
    pub(super) fn set_received(&mut self) {
        self.is_received = true;
    }

    // --- attempts ---

    pub(super) fn tried(&self) -> TriedReplicas {
        self.tried
    }

    /// A replica was chosen. The one before, if there was one, is rid of the request.
    pub(super) fn attempt(&mut self, pool: &Pool, lease: Lease) {
        if self.attempts == 0 {
            pool.budget.earn();
        }
        self.attempts += 1;
        self.attempt_began = Instant::now();
        // What was sent before is sent again from the start.
        self.body_bytes = 0;
        self.tried.insert(lease.replica());
        self.lease = Some(lease);
    }

    pub(super) fn replica(&self) -> Option<&Arc<Replica>> {
        self.lease.as_ref().map(Lease::replica)
    }

    /// The connection to the replica could not be made, or broke.
    pub(super) fn record_connection_failure(&self, why: &str) {
        if let (Some(pool), Some(replica)) = (self.pool(), self.replica()) {
            pool.record_connection_failure(replica, self.attempt_began, why);
        }
    }

    pub(super) fn has_untried_replica(&self) -> bool {
        self.pool().is_some_and(|pool| pool.has_untried(self.tried))
    }

    /// Whether there may be another attempt. Pays for it if so.
    pub(super) fn can_afford_attempt(&self) -> bool {
        let Some(pool) = self.pool() else { return false };
        self.attempts < self.shared.config.attempts_max && self.time_left().is_some() && pool.budget.spend()
    }

    pub(super) fn set_retry(&mut self, reason: RetryReason) {
        self.retry = Some(reason);
    }

    pub(super) fn take_retry(&mut self) -> Option<RetryReason> {
        self.retry.take()
    }

    pub(super) fn count_retry(&self, reason: RetryReason) {
        let Some(pool) = self.pool() else { return };
        pool.metrics.retry(reason);
        let is_lost = self.replica().is_some_and(|replica| replica.status().state == ReplicaState::Unhealthy);
        if is_lost && reason == RetryReason::Broken {
            pool.metrics.failovers.increment(1);
        }
    }

    // --- how it ends ---

    pub(super) fn record_response_head(&mut self, response: &ResponseHeader) {
        self.grpc_status = headers::grpc_status(&response.headers);
        self.is_shed = response.status == StatusCode::TOO_MANY_REQUESTS;
        if let Some(replica) = self.replica() {
            replica.record_response();
            replica.metrics.duration.record(self.attempt_began.elapsed());
        }
    }

    pub(super) fn record_grpc_status(&mut self, trailers: &HeaderMap) {
        self.grpc_status = headers::grpc_status(trailers).or(self.grpc_status);
    }

    pub(super) fn record_problem(&mut self, problem: &Problem) {
        self.kind = Some(problem.kind());
    }

    pub(super) fn count_abandoned(&self) {
        if let Some(connection) = &self.connection {
            connection.count_abandoned();
        }
    }

    pub(super) fn set_shed(&mut self) {
        self.is_shed = true;
    }

    pub(super) fn set_problem(&mut self, problem: Problem) {
        self.problem = Some(problem);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.problem.is_some()
    }

    pub(super) fn take_problem(&mut self) -> Option<Problem> {
        self.problem.take()
    }

    /// Ends the exchange with a problem, from a hook that can only return pingora's kind of error.
    pub(super) fn fail<T>(&mut self, problem: Problem) -> Result<T> {
        let status = problem.kind().http_status().as_u16();
        self.problem = Some(problem);
        Err(Error::new_in(ErrorType::HTTPStatus(status)))
    }

    /// Counts the exchange, and logs it if asked to.
    pub(super) fn finish(&mut self, session: &Session, error: Option<&Error>) {
        let status = session.response_written().map(|head| head.status).filter(|status| !status.is_informational());
        let outcome = self.outcome(status, error);
        self.count(outcome, session.body_bytes_read(), session.body_bytes_sent());
        if self.shared.config.access_log {
            self.log(session, status, outcome);
        }
    }

    fn outcome(&self, status: Option<StatusCode>, error: Option<&Error>) -> Outcome {
        let is_cut_short = error.is_some() && self.kind.is_none();
        let is_clients_doing = error.is_some_and(|error| error.esource == ErrorSource::Downstream);
        let has_waited = self.is_received && status.is_none() && self.began.elapsed() >= PATIENCE;
        match (self.kind, status) {
            _ if self.is_shed => Outcome::Shed,
            (Some(Kind::DeadlineExceeded), _) => Outcome::Timeout,
            _ if is_cut_short && is_clients_doing && has_waited => Outcome::Timeout,
            _ if is_cut_short && is_clients_doing => Outcome::ClientError,
            _ if is_cut_short => Outcome::Error,
            (Some(kind), _) => outcome_of_status(kind.http_status()),
            (None, Some(status)) => match self.grpc_status {
                Some(code) => outcome_of_code(Code::from(i32::from(code))),
                None => outcome_of_status(status),
            },
            (None, None) => Outcome::Error,
        }
    }

    fn count(&mut self, outcome: Outcome, request_bytes: usize, response_bytes: usize) {
        self.is_counted = true;
        let elapsed = self.began.elapsed();
        self.metrics().record(outcome, elapsed, request_bytes, response_bytes);
        if self.route.is_some_and(|route| route.is_counted) {
            self.shared.ledger.record(outcome, elapsed);
        }
    }

    fn metrics(&self) -> &PoolMetrics {
        self.pool().map_or(&self.shared.own_metrics, |pool| &pool.metrics)
    }

    fn log(&self, session: &Session, status: Option<StatusCode>, outcome: Outcome) {
        let request = session.req_header();
        tracing::info!(
            target: "access",
            method = %request.method,
            path = request.uri.path(),
            protocol = ?request.version,
            status = status.map_or(0, |status| status.as_u16()),
            outcome = outcome.as_str(),
            client = self.client().map(tracing::field::display),
            pool = self.route.map_or("none", |route| route.pool_label()),
            replica = self.replica().map(|replica| replica.name.as_str()),
            attempts = self.attempts,
            duration_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX),
            request_bytes = session.body_bytes_read(),
            response_bytes = session.body_bytes_sent(),
            trace = self.trace.as_ref().map(Trace::id),
            "request"
        );
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // Dropped in the middle: the backstop of its route's time, or the end of the process.
        if !self.is_counted && self.route.is_some() {
            self.count(Outcome::Timeout, 0, 0);
        }
    }
}

/// The channel puts the service's authority before it.
fn path_of(uri: &Uri) -> Result<Uri, Problem> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    path.parse().map_err(|_| Problem::new(Kind::InvalidArgument, "the request's target is not valid"))
}

fn outcome_of_status(status: StatusCode) -> Outcome {
    match status {
        StatusCode::TOO_MANY_REQUESTS => Outcome::Shed,
        StatusCode::GATEWAY_TIMEOUT => Outcome::Timeout,
        status if status.is_server_error() => Outcome::Error,
        status if status.is_client_error() => Outcome::ClientError,
        _ => Outcome::Ok,
    }
}

fn outcome_of_code(code: Code) -> Outcome {
    match code {
        Code::Ok => Outcome::Ok,
        Code::ResourceExhausted => Outcome::Shed,
        Code::DeadlineExceeded => Outcome::Timeout,
        Code::Unknown | Code::Internal | Code::Unavailable | Code::DataLoss => Outcome::Error,
        _ => Outcome::ClientError,
    }
}
