//! The proxy's part of a request, hook by hook, as pingora calls them.
//!
//! `request_filter` admits or answers; `upstream_peer` chooses a replica, once for each attempt; the error hooks decide
//! whether there is another attempt; `logging` counts. What a hook does is in the module that has its name.

mod admission;
mod broadcast;
mod exchange;
mod failure;
mod headers;
mod local_reply;

use std::{sync::Arc, time::Duration};

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
use problem::{Kind, Problem};
use serde::Deserialize;

pub use broadcast::Broadcast;
pub use exchange::Exchange;

use crate::{
    access::Access,
    front::connections::CONNECTION,
    metrics::{PoolMetrics, RetryReason},
    pool::{NoReplica, Pool},
    routes::{PoolName, Routes},
    sla::MinuteBuffer,
    status::StatusPage,
};

/// The `[proxy]` section.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfig {
    /// Replicas that one request is brought to, at most.
    pub attempts_max: usize,
    /// One line per request in the log, at level info. It costs more than the rest of the balancer's work.
    pub access_log: bool,
}

/// What all requests share.
pub struct Shared {
    /// The routes.
    pub routes: Arc<Routes>,
    /// The pools, in the order of `PoolName::ALL`.
    pub pools: [Arc<Pool>; 5],
    /// Every replica of the serving pool at once.
    pub broadcast: Broadcast,
    /// Passports.
    pub access: Arc<Access>,
    /// What the balancer tells about itself.
    pub status: StatusPage,
    /// Minutes for the SLA tracker.
    pub ledger: Arc<MinuteBuffer>,
    /// Metrics of what the balancer answers itself.
    pub own_metrics: PoolMetrics,
    /// How.
    pub config: ProxyConfig,
}

/// The balancer, as pingora's proxy knows it.
pub struct Edge(Arc<Shared>);

/// pingora's proxy with our hooks. `ca_file` replaces the machine's own trust store, which we never want to ask.
pub fn engine(shared: Arc<Shared>, ca_file: String) -> Arc<HttpProxy<Edge>> {
    let conf = ServerConf { max_retries: shared.config.attempts_max, ca_file: Some(ca_file), ..ServerConf::default() };
    Arc::new(http_proxy(&Arc::new(conf), Edge(shared)))
}

// === impl Shared ===

impl Shared {
    fn pool(&self, name: PoolName) -> &Arc<Pool> {
        let [serving, gateway, sla, backup, mlflow] = &self.pools;
        match name {
            PoolName::Serving => serving,
            PoolName::Gateway => gateway,
            PoolName::Sla => sla,
            PoolName::Backup => backup,
            PoolName::Mlflow => mlflow,
        }
    }
}

// === impl Edge ===

#[async_trait]
impl ProxyHttp for Edge {
    type CTX = Exchange;

    fn new_ctx(&self) -> Exchange {
        Exchange::new(Arc::clone(&self.0), CONNECTION.try_with(Arc::clone).ok())
    }

    async fn request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
        match admission::admit(session, exchange).await {
            Ok(admission::Admission::Forward) => Ok(false),
            Ok(admission::Admission::Answer(response)) => local_reply::write(session, response).await.map(|()| true),
            Err(problem) => local_reply::write_problem(session, exchange, &problem).await.map(|()| true),
        }
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        is_end: bool,
        exchange: &mut Exchange,
    ) -> Result<()> {
        if is_end {
            exchange.set_received();
        }
        exchange.count_body(body.as_ref().map_or(0, Bytes::len))
    }

    async fn upstream_peer(&self, session: &mut Session, exchange: &mut Exchange) -> Result<Box<HttpPeer>> {
        let Some(pool) = exchange.pool().cloned() else {
            return Error::e_explain(ErrorType::InternalError, "a request without a pool was forwarded");
        };
        let Some(time_left) = exchange.time_left() else {
            return exchange.fail(Problem::new(Kind::DeadlineExceeded, "no replica answered in time"));
        };
        let lease = match pool.choose(exchange.tried()) {
            Ok(lease) => lease,
            Err(NoReplica::Unhealthy) => {
                return exchange.fail(Problem::unavailable(format!("no replica of {} is healthy", pool.name.as_str())));
            }
            Err(NoReplica::Saturated) => {
                exchange.set_shed();
                return exchange.fail(Problem::unavailable(format!("{} has as much as it can do", pool.name.as_str())));
            }
        };
        let Some(peer) = lease.replica().peer(exchange.is_repeatable()) else {
            return exchange.fail(Problem::unavailable("the replica's address is not known yet"));
        };
        exchange.attempt(&pool, lease);
        // The body filter is not asked about a body that there is not.
        if session.is_body_empty() {
            exchange.set_received();
        }
        let mut peer = Box::new(HttpPeer::clone(&peer));
        peer.options.read_timeout = Some(time_left.max(Duration::from_millis(1)));
        Ok(peer)
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        headers::to_upstream(request, exchange)
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        if response.status.is_informational() {
            return Ok(());
        }
        exchange.record_response_head(response);
        if headers::says_unavailable(response) && failure::may_repeat(session, exchange, RetryReason::Unavailable) {
            exchange.set_retry(RetryReason::Unavailable);
            return Err(Error::new_up(ErrorType::HTTPStatus(503)));
        }
        Ok(())
    }

    async fn response_trailer_filter(
        &self,
        _session: &mut Session,
        trailers: &mut HeaderMap,
        exchange: &mut Exchange,
    ) -> Result<Option<Bytes>> {
        exchange.record_grpc_status(trailers);
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        exchange: &mut Exchange,
        error: BError,
    ) -> BError {
        failure::of_connecting(session, exchange, error)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: BError,
        exchange: &mut Exchange,
        _is_reused: bool,
    ) -> BError {
        failure::of_exchange(session, exchange, error)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, exchange: &mut Exchange) -> FailToProxy {
        let error_code = match failure::problem_of(session, exchange, error) {
            Some(problem) => {
                let _ = local_reply::write_problem(session, exchange, &problem).await;
                problem.kind().http_status().as_u16()
            }
            None => 0,
        };
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, exchange: &mut Exchange) {
        exchange.finish(session, error);
    }

    /// We log what matters ourselves, once and with fields.
    fn suppress_error_log(&self, _session: &Session, _exchange: &Exchange, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _exchange: &Exchange,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}
