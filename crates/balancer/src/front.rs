//! The front: TCP accepted, PROXY protocol read, TLS ended, everything bounded, and each request handed to the proxy.
//!
//! Not pingora's listeners: those accept TLS 1.2, wait a minute for a handshake and have no deadline for a header. pingora's
//! proxy takes one request at a time, from any caller, so the loop around it is here, on the same runtime as everything
//! else.

mod connection_limits;
pub mod descriptors;
mod error_response;
mod h1;
mod h2;
mod half_close;
pub mod head;
mod plain_http;
pub mod proxy_protocol;
mod stream;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use pingora::proxy::HttpProxy;
use rustls::ServerConfig;
use serde::Deserialize;
use telemetry::FailureLog;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, watch},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    connection_limits::{ConnectionLimits, ConnectionPermit},
    stream::{FrontStream, LingerContext},
};
use crate::{
    connection::Connection,
    metrics::{ConnectionOutcome, FrontMetrics},
    proxy::Edge,
    routes::Routes,
};

/// After a failed accept (no file descriptors left, mostly) others get time to close theirs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The first byte of a TLS record with a ClientHello.
const TLS_HANDSHAKE: u8 = 0x16;

/// The `[front]` section.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrontConfig {
    /// Where clients connect.
    pub address: SocketAddr,
    /// What a client may do.
    pub limits: FrontLimits,
    /// TCP proxies in front of the balancer.
    pub proxy_protocol: ProxyProtocolConfig,
    /// A certificate of the platform's owner, which clients get who ask for a name in it: PEM, chain and key in one file. The
    /// file may come, change and go while the balancer runs.
    #[serde(default)]
    pub certificate_file: Option<PathBuf>,
}

/// Bounds on everything that a client can cause.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrontLimits {
    /// Connections at once, those in the handshake included.
    pub connections_max: usize,
    /// Connections at once from one address (IPv6: from one /64).
    pub connections_per_address_max: usize,
    /// TCP accepted to TLS finished.
    pub handshake_timeout_ms: u64,
    /// First to last byte of a header; also from the handshake to the first byte.
    pub header_timeout_ms: u64,
    /// Bytes of a header. One more is 431.
    pub header_bytes_max: usize,
    /// The longest pause within a body.
    pub body_pause_max_ms: u64,
    /// The longest pause between two requests.
    pub idle_timeout_ms: u64,
    /// The age at which a connection is asked to end, so that renewed certificates come into use.
    pub connection_age_max_s: u64,
    /// Requests at once on one HTTP/2 connection.
    pub streams_max: u32,
    /// Requests that a client may give up on one HTTP/2 connection, each within 100 ms, before that counts as a flood.
    pub given_up_max: u32,
}

/// Which peers must send a PROXY header.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocolConfig {
    /// Source addresses that must send it; from all others it is not understood.
    pub from: Vec<IpAddr>,
}

/// The bound listener for clients.
pub struct Front {
    listener: TcpListener,
    address: SocketAddr,
    handler: Arc<ConnectionHandler>,
    draining: watch::Sender<bool>,
}

/// When to stop.
pub struct StopSignals {
    /// Take nothing new, finish what is in flight.
    pub drain: CancellationToken,
    /// Drop what is still in flight.
    pub abort: CancellationToken,
}

/// What every connection shares.
struct ConnectionHandler {
    tls: TlsAcceptor,
    config: FrontConfig,
    routes: Arc<Routes>,
    proxy: Arc<HttpProxy<Edge>>,
    connections: Arc<ConnectionLimits>,
    metrics: FrontMetrics,
    tracker: TaskTracker,
    drain: CancellationToken,
    abort: CancellationToken,
    /// The same as `drain`, in the form that pingora takes.
    draining: watch::Receiver<bool>,
}

/// Decrements the gauge of open connections, however a connection ends.
struct ActiveConnection<'a>(&'a FrontMetrics);

// === impl Front ===

impl Front {
    /// Binds the address. No client is answered before `serve`.
    pub async fn bind(
        config: FrontConfig,
        tls: Arc<ServerConfig>,
        routes: Arc<Routes>,
        proxy: Arc<HttpProxy<Edge>>,
        stops: StopSignals,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(config.address).await?;
        let listener = descriptors::move_to_highest(listener, config.limits.connections_max)?;
        let address = listener.local_addr()?;
        let (draining, receiver) = watch::channel(false);
        let handler = ConnectionHandler {
            tls: TlsAcceptor::from(tls),
            connections: ConnectionLimits::new(
                config.limits.connections_max,
                config.limits.connections_per_address_max,
            ),
            config,
            routes,
            proxy,
            metrics: FrontMetrics::register(),
            tracker: TaskTracker::new(),
            drain: stops.drain,
            abort: stops.abort,
            draining: receiver,
        };
        Ok(Self { listener, address, handler: Arc::new(handler), draining })
    }

    /// The address in use, with the port that was chosen for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers until it is to drain, then finishes what is in flight until it is to abort.
    pub async fn serve(self) {
        let Self { listener, handler, draining, .. } = self;
        accept_until_stopped(&listener, &handler).await;
        drop(listener);
        let _ = draining.send(true);
        handler.tracker.close();
        tracing::info!(connections = handler.tracker.len(), "listener closed, requests in flight are finished");
        tokio::select! {
            () = handler.tracker.wait() => {}
            () = handler.abort.cancelled() => {
                tracing::warn!(connections = handler.tracker.len(), "stopping: open connections were cut after the grace time, their requests fail");
                handler.tracker.wait().await;
            }
        }
    }
}

async fn accept_until_stopped(listener: &TcpListener, handler: &Arc<ConnectionHandler>) {
    let mut failures = FailureLog::once();
    loop {
        let accepted = tokio::select! {
            biased;
            () = handler.drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, source)) => {
                if failures.recovered() {
                    tracing::info!("front door accepts connections again");
                }
                handler.spawn_handler(tcp, source);
            }
            Err(error) => {
                if failures.failed() {
                    tracing::warn!(%error, "front door cannot accept connections, often too many open files; tried again every 50 ms");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

// === impl ConnectionHandler ===

impl ConnectionHandler {
    fn spawn_handler(self: &Arc<Self>, tcp: TcpStream, source: SocketAddr) {
        let Some(slot) = self.connections.acquire_slot() else {
            return self.metrics.count_connection(ConnectionOutcome::OverTotal);
        };
        let handler = Arc::clone(self);
        self.tracker.spawn(async move {
            handler.metrics.active.increment(1.0);
            let _active = ActiveConnection(&handler.metrics);
            tokio::select! {
                () = handler.abort.cancelled() => {}
                () = handler.handle_connection(tcp, source, slot) => {}
            }
        });
    }

    /// From the accepted socket to the end of the connection.
    async fn handle_connection(&self, tcp: TcpStream, source: SocketAddr, slot: OwnedSemaphorePermit) {
        let deadline = Duration::from_millis(self.config.limits.handshake_timeout_ms);
        let Ok(Some((tls, connection, permit))) =
            tokio::time::timeout(deadline, self.accept_tls(tcp, source, slot)).await.inspect_err(|_| {
                self.metrics.count_connection(ConnectionOutcome::HandshakeFailed);
            })
        else {
            return;
        };
        self.metrics.count_connection(ConnectionOutcome::Accepted);
        let is_h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let linger = LingerContext { tracker: self.tracker.clone(), permit, abort: self.abort.clone() };
        let stream = Box::new(FrontStream::new(tls, &connection, linger));
        if is_h2 {
            self.serve_h2(stream, connection).await;
        } else {
            self.serve_h1(stream, connection).await;
        }
    }

    async fn accept_tls(
        &self,
        mut tcp: TcpStream,
        source: SocketAddr,
        slot: OwnedSemaphorePermit,
    ) -> Option<(TlsStream<TcpStream>, Arc<Connection>, ConnectionPermit)> {
        let began = Instant::now();
        tcp.set_nodelay(true).ok()?;
        let mut client = source;
        if self.config.proxy_protocol.from.contains(&source.ip().to_canonical()) {
            match proxy_protocol::read(&mut tcp).await {
                Ok(named) => client = named.unwrap_or(source),
                Err(error) => {
                    tracing::debug!(%source, %error, "no PROXY header from a proxy");
                    self.metrics.count_connection(ConnectionOutcome::NoProxyHeader);
                    return None;
                }
            }
        }
        let Some(permit) = self.connections.admit_address(slot, client.ip()) else {
            self.metrics.count_connection(ConnectionOutcome::OverAddress);
            return None;
        };
        let mut first = [0_u8; 1];
        if tcp.peek(&mut first).await.ok()? == 0 {
            self.metrics.count_connection(ConnectionOutcome::HandshakeFailed);
            return None;
        }
        if first != [TLS_HANDSHAKE] {
            self.metrics.count_connection(ConnectionOutcome::PlainHttp);
            plain_http::answer(tcp, self.config.limits.header_bytes_max).await;
            return None;
        }
        let accepted = self.tls.accept(tcp).await;
        self.metrics.handshake(accepted.is_ok(), began.elapsed());
        match accepted {
            Ok(tls) => Some((tls, Connection::new(client), permit)),
            Err(error) => {
                tracing::debug!(%client, %error, "no TLS handshake");
                self.metrics.count_connection(ConnectionOutcome::HandshakeFailed);
                None
            }
        }
    }

    /// How long a request of this path may take in all: a backstop, since the proxy answers at its route's limit.
    fn time_max(&self, path: &str) -> Duration {
        /// For the proxy to notice and to answer.
        const GRACE: Duration = Duration::from_secs(2);
        const UNKNOWN: Duration = Duration::from_secs(5);
        self.routes.find(path).map_or(UNKNOWN, |route| route.time_max) + GRACE
    }

    fn is_old(&self, connection: &Connection) -> bool {
        connection.opened.elapsed() >= Duration::from_secs(self.config.limits.connection_age_max_s)
    }
}

// === impl ActiveConnection ===

impl Drop for ActiveConnection<'_> {
    fn drop(&mut self) {
        self.0.active.decrement(1.0);
    }
}
