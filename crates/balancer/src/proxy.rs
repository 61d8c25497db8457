//! What happens to a request between the front and a replica.
//!
//! [`RequestState`] goes with a request from its head to the end of its answer: what it is, which replicas it was sent to,
//! and how it ends. The stages are those of pingora's [`ProxyHttp`], listed below in the order in which pingora calls them;
//! each is in the module of its name.

mod admission;
mod attempts;
mod broadcast;
mod clock;
mod context;
mod cors;
mod early_answer;
mod failure;
mod grpc_message;
mod headers;
mod local_reply;
mod outcome;
mod retry;
mod statistics;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use pingora::{
    BError, Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
    prelude::HttpPeer,
    proxy::{FailToProxy, HttpProxy, ProxyHttp, ProxyWarnLogContext, Session, http_proxy},
    server::configuration::ServerConf,
};
use serde::Deserialize;

pub use broadcast::Broadcast;
pub use cors::{Cors, CorsConfig};

use self::{admission::Admission, attempts::Attempts, context::RequestContext, outcome::RequestOutcome};
use crate::{
    access::Access,
    callers::Callers,
    connection::CONNECTION,
    metrics::{PoolMetrics, RetryReason},
    pool::Pools,
    routes::Routes,
    sla::MinuteBuffer,
    status::StatusPage,
};

/// The `[proxy]` section.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfig {
    /// Replicas that one request is sent to, at most.
    pub attempts_max: usize,
    /// One line per request in the log, at level info. It costs more than the rest of the balancer's work.
    pub access_log: bool,
}

/// What all requests share.
pub struct Shared {
    /// The routes.
    pub routes: Arc<Routes>,
    /// The pools.
    pub pools: Pools,
    /// Every replica of the serving pool at once.
    pub broadcast: Broadcast,
    /// Passports.
    pub access: Arc<Access>,
    /// What callers have under way.
    pub callers: Callers,
    /// Which pages of other origins may call, if any.
    pub cors: Option<Cors>,
    /// The routes that the balancer answers itself.
    pub status: StatusPage,
    /// Minutes for the SLA tracker.
    pub sla_minutes: Arc<MinuteBuffer>,
    /// Metrics of what the balancer answers itself.
    pub own_metrics: PoolMetrics,
    /// Attempts and the access log.
    pub config: ProxyConfig,
}

/// The hooks of pingora's proxy.
pub struct Edge(Arc<Shared>);

/// One request, from its head to the end of its answer.
pub struct RequestState {
    context: RequestContext,
    attempts: Attempts,
    outcome: RequestOutcome,
}

/// pingora's proxy with these hooks. `ca_file` replaces the machine's own trust store, which must never count here.
pub fn engine(shared: Arc<Shared>, ca_file: String) -> Arc<HttpProxy<Edge>> {
    let conf = ServerConf { max_retries: shared.config.attempts_max, ca_file: Some(ca_file), ..ServerConf::default() };
    Arc::new(http_proxy(&Arc::new(conf), Edge(shared)))
}

// === impl RequestState ===

impl Drop for RequestState {
    fn drop(&mut self) {
        outcome::finish_dropped(self);
    }
}

// === impl Edge ===

#[async_trait]
impl ProxyHttp for Edge {
    type CTX = RequestState;

    /// 1. The head was read and checked by the front.
    fn new_ctx(&self) -> RequestState {
        let context = RequestContext::new(Arc::clone(&self.0), CONNECTION.try_with(Arc::clone).ok());
        RequestState { context, attempts: Attempts::new(), outcome: RequestOutcome::default() }
    }

    /// 2. Admission: what may not go on is answered here and costs no replica anything.
    async fn request_filter(&self, session: &mut Session, state: &mut RequestState) -> Result<bool> {
        match admission::admit(session, state).await {
            Ok(Admission::Forward) => Ok(false),
            Ok(Admission::Answer(response)) => local_reply::write(session, state, response).await.map(|()| true),
            Err(problem) => local_reply::write_problem(session, state, &problem).await.map(|()| true),
        }
    }

    /// 3. An attempt begins with the choice of its replica; 3 to 6 are repeated for another attempt.
    async fn upstream_peer(&self, session: &mut Session, state: &mut RequestState) -> Result<Box<HttpPeer>> {
        attempts::next_peer(session, state)
    }

    /// 4. The connection failed. Nothing was sent, so any request may go to another replica.
    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        state: &mut RequestState,
        error: BError,
    ) -> BError {
        retry::decide_after_connect_error(session, state, error)
    }

    /// 5. Headers, once there is a connection: identity comes from the balancer alone.
    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        state: &mut RequestState,
    ) -> Result<()> {
        headers::to_upstream(request, &state.context)
    }

    /// 6. Each part of the body, counted here because a length need not be declared.
    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        is_end: bool,
        state: &mut RequestState,
    ) -> Result<()> {
        let RequestState { context, outcome, .. } = state;
        context.record_part(is_end);
        context.count_body(body.as_ref().map_or(0, Bytes::len)).map_err(|problem| outcome.fail_client(problem))
    }

    /// 7. The head of the answer, before a byte of it goes to the client: the last moment for another attempt.
    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        state: &mut RequestState,
    ) -> Result<()> {
        if response.status.is_informational() {
            return Ok(());
        }
        state.outcome.record_response(response);
        state.attempts.record_response();
        cors::set_fields(response, &state.context.cors_fields)?;
        if retry::may_retry_after_unavailable(response, session, state) {
            state.attempts.pending_retry = Some(RetryReason::Unavailable);
            return Err(Error::new_up(ErrorType::HTTPStatus(503)));
        }
        Ok(())
    }

    /// 8. Each part of the answer. The last is the end of the replica's time.
    fn response_body_filter(
        &self,
        _session: &mut Session,
        _body: &mut Option<Bytes>,
        is_end: bool,
        state: &mut RequestState,
    ) -> Result<Option<Duration>> {
        if is_end {
            state.context.clock.record_answered(Instant::now());
        }
        Ok(None)
    }

    /// 9. The trailers: where gRPC has its status.
    async fn response_trailer_filter(
        &self,
        _session: &mut Session,
        trailers: &mut HeaderMap,
        state: &mut RequestState,
    ) -> Result<Option<Bytes>> {
        state.outcome.record_trailers(trailers);
        state.context.clock.record_answered(Instant::now());
        Ok(None)
    }

    /// 10. An error in 5 to 9, of the client or the replica: another attempt, or 11.
    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: BError,
        state: &mut RequestState,
        _is_reused: bool,
    ) -> BError {
        retry::decide_after_request_error(session, state, error)
    }

    /// 11. No other attempt: the client is told, if it is still there.
    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, state: &mut RequestState) -> FailToProxy {
        failure::look_for_unread_body(session, state, error);
        let error_code = match failure::problem_for_client(session, state, error) {
            Some(problem) => {
                let _ = local_reply::write_problem(session, state, &problem).await;
                problem.kind().http_status().as_u16()
            }
            None => 0,
        };
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    /// 12. The end, whatever it was: counted once, for metrics and SLA. What is still coming of the request is read on.
    async fn logging(&self, session: &mut Session, error: Option<&Error>, state: &mut RequestState) {
        outcome::finish(state, session, error);
        early_answer::read_on(session, state, error).await;
    }

    /// Failures are logged where they are decided, once and with fields.
    fn suppress_error_log(&self, _session: &Session, _state: &RequestState, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _state: &RequestState,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}
