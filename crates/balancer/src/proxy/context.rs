//! What a request is: its route, where it came from, whose passport it carries, and how much of it has arrived.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue};
use problem::{Form, Kind, Problem};
use telemetry::Trace;
use tracing::Level;

use super::{Shared, clock::RequestClock};
use crate::{
    access::Origin,
    callers::CallPermit,
    connection::Connection,
    metrics::PoolMetrics,
    pool::Pool,
    routes::{Route, Target},
};

/// What is known of a request before it goes to a replica. Attempts and outcome are kept apart from it.
pub(super) struct RequestContext {
    pub(super) shared: Arc<Shared>,
    pub(super) connection: Option<Arc<Connection>>,
    pub(super) clock: RequestClock,
    pub(super) trace: Option<Trace>,
    pub(super) form: Form,
    /// What every answer says to a browser about the origin of its page.
    pub(super) cors_fields: HeaderMap,
    pub(super) route: Option<Route>,
    /// Whether a second replica may get it although a first one may have seen it.
    pub(super) is_repeatable: bool,
    pub(super) passport: Option<HeaderValue>,
    /// Its place among the calls of its caller, if it has a token.
    pub(super) permit: Option<CallPermit>,
    /// Of the attempt under way.
    pub(super) body_bytes: u64,
}

// === impl RequestContext ===

impl RequestContext {
    pub(super) fn new(shared: Arc<Shared>, connection: Option<Arc<Connection>>) -> Self {
        Self {
            shared,
            connection,
            clock: RequestClock::new(Instant::now()),
            trace: None,
            form: Form::Api,
            cors_fields: HeaderMap::new(),
            route: None,
            is_repeatable: false,
            passport: None,
            permit: None,
            body_bytes: 0,
        }
    }

    pub(super) fn begin_trace(&mut self, headers: &HeaderMap) {
        self.trace = Some(Trace::of_request(headers, |level| {
            // The level of a span is part of the code and not a value, hence two of them.
            if level == Level::INFO {
                tracing::info_span!("request", otel.name = "edge", otel.kind = "server")
            } else {
                tracing::debug_span!("request")
            }
        }));
    }

    pub(super) fn client(&self) -> Option<SocketAddr> {
        self.connection.as_ref().map(|connection| connection.client)
    }

    pub(super) fn origin(&self) -> Origin<'_> {
        Origin { trace: self.trace.as_ref(), client: self.client().map(|client| client.ip()) }
    }

    pub(super) fn pool(&self) -> Option<&Arc<Pool>> {
        match self.route?.target {
            Target::Pool(name) => self.shared.pools.of(name),
            Target::Health | Target::GrpcHealth | Target::Status | Target::Description => None,
        }
    }

    pub(super) fn metrics(&self) -> &PoolMetrics {
        self.pool().map_or(&self.shared.own_metrics, |pool| &pool.metrics)
    }

    /// What is left of the route's time, if anything is.
    pub(super) fn time_left(&self) -> Option<Duration> {
        self.route?.time_max.checked_sub(self.clock.elapsed(Instant::now())).filter(|left| !left.is_zero())
    }

    /// A part of the body was read from the client.
    pub(super) fn record_part(&mut self, is_last: bool) {
        let arrived = self.connection.as_ref().map(|connection| connection.arrived());
        self.clock.record_part(Instant::now(), arrived, is_last);
        if let Some(connection) = self.connection.as_ref().filter(|_| is_last) {
            connection.set_request_received(true);
        }
    }

    /// Counts bytes of the body against the route's limit.
    pub(super) fn count_body(&mut self, bytes: usize) -> Result<(), Problem> {
        let Some(route) = self.route else { return Ok(()) };
        self.body_bytes = self.body_bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        if self.body_bytes > route.body_bytes_max {
            return Err(too_large(&route));
        }
        // Another attempt sends the body again, which takes nothing more.
        self.permit.as_mut().map_or(Ok(()), |permit| permit.count_body(self.body_bytes)).map_err(Problem::from)
    }
}

pub(super) fn too_large(route: &Route) -> Problem {
    Problem::new(Kind::TooLarge, format!("the body is over the limit of {} bytes", route.body_bytes_max))
}
