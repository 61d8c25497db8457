//! HTTP/2: bounded streams, bounded headers, an end for connections that are idle, old or abusive.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ::h2::Reason;
use pingora::{
    apps::HttpServerApp,
    protocols::{
        Digest, GetSocketDigest,
        http::{
            ServerSession,
            v2::server::{H2Accept, H2Options, HttpSession, default_h2_options, handshake},
        },
    },
};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::{ConnectionHandler, FrontLimits, stream::FrontStream};
use crate::connection::{CONNECTION, Connection};

/// How far a request's body may be ahead of its replica, for one request and for all on a connection.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// What may be buffered for a client that reads slowly.
const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// Malformed requests on one connection.
const MALFORMED_MAX: u32 = 32;
/// Age and idleness are checked this often in an idle time-out, and this often while a connection closes.
const CHECKS_PER_IDLE_TIMEOUT: u32 = 4;
const CHECK_WHILE_CLOSING: Duration = Duration::from_millis(250);
/// How long a client that was asked to end the connection may take for that during a stop, when nothing of it is in flight.
const GOAWAY_GRACE: Duration = Duration::from_secs(1);

impl ConnectionHandler {
    pub(super) async fn serve_h2(&self, stream: Box<FrontStream>, connection: Arc<Connection>) {
        let limits = &self.config.limits;
        let socket_digest = stream.get_socket_digest();
        let digest = Arc::new(Digest { socket_digest, ..Digest::default() });
        let header_timeout = Duration::from_millis(limits.header_timeout_ms);
        let handshake = tokio::time::timeout(header_timeout, handshake(stream, Some(options(limits)))).await;
        let Ok(Ok(mut h2)) = handshake else { return };

        let idle_max = Duration::from_millis(limits.idle_timeout_ms);
        let mut checks = check_interval(idle_max / CHECKS_PER_IDLE_TIMEOUT);
        // Cloned for each request that is being handled.
        let active = Arc::new(());
        let (mut accepted, mut malformed) = (0_u32, 0_u32);
        let (mut is_closing, mut last_busy) = (false, Instant::now());
        loop {
            let event = tokio::select! {
                biased;
                () = self.drain.cancelled(), if !is_closing => None,
                event = HttpSession::from_h2_conn(&mut h2, Arc::clone(&digest)) => Some(event),
                now = checks.tick() => {
                    if Arc::strong_count(&active) > 1 {
                        last_busy = now;
                    }
                    let idle = now.duration_since(last_busy);
                    // An answer may still be on its way to a slow reader; only a stop does not wait for it.
                    let goaway_grace = if self.drain.is_cancelled() { GOAWAY_GRACE } else { idle_max };
                    if is_closing && idle >= goaway_grace {
                        return;
                    }
                    if is_closing || (idle < idle_max && !self.is_old(&connection)) {
                        continue;
                    }
                    None
                }
            };
            let Some(event) = event else {
                (is_closing, last_busy) = (true, Instant::now());
                checks = check_interval(CHECK_WHILE_CLOSING);
                h2.graceful_shutdown();
                continue;
            };
            match event {
                Ok(Some(H2Accept::Session(session))) => {
                    accepted = accepted.saturating_add(1);
                    last_busy = Instant::now();
                    self.handle(session, &connection, Arc::clone(&active));
                }
                Ok(Some(H2Accept::Rejected)) => malformed += 1,
                Ok(None) | Err(_) => return,
            }
            let abandoned = connection.abandoned.load(Ordering::Relaxed);
            let is_flood = abandoned > limits.given_up_max && abandoned > accepted / 2;
            if is_flood || malformed > MALFORMED_MAX {
                tracing::debug!(client = %connection.client, accepted, abandoned, malformed, "connection closed: its client abandoned too many requests, or sent too many malformed ones");
                self.metrics.limit_streams();
                h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                // Once more, so that the GOAWAY frame is written.
                let _ = tokio::time::timeout(header_timeout, HttpSession::from_h2_conn(&mut h2, digest)).await;
                return;
            }
        }
    }

    fn handle(&self, session: HttpSession, connection: &Arc<Connection>, active_request: Arc<()>) {
        let time_max = self.time_max(session.req_header().uri.path());
        let (proxy, draining, abort) = (Arc::clone(&self.proxy), self.draining.clone(), self.abort.clone());
        let connection = Arc::clone(connection);
        self.tracker.spawn(async move {
            let exchange = async {
                let session = ServerSession::new_http2(session);
                tokio::time::timeout(time_max, proxy.process_new_http(session, &draining)).await
            };
            tokio::select! {
                _ = CONNECTION.scope(connection, exchange) => {}
                () = abort.cancelled() => {}
            }
            drop(active_request);
        });
    }
}

fn check_interval(period: Duration) -> Interval {
    let mut checks = tokio::time::interval(period);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    checks
}

fn options(limits: &FrontLimits) -> H2Options {
    let mut options = default_h2_options();
    options
        .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
        .max_concurrent_streams(limits.streams_max)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buffer_size(SEND_BUFFER_BYTES);
    options
}
