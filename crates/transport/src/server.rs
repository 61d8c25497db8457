//! The one way to listen.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use identity::{Identity, PeerList};
use serde::Deserialize;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Limits, TransportError,
    connection::{Listener, http1_builder, http2_builder},
    metrics::{self, Accepted},
};

/// After a failed accept (usually no file descriptors left) other connections get time to close theirs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const ACCEPT_FAILURES_MAX: u32 = 200;

/// Where to listen, and which services may call what.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenConfig {
    /// The address; port 0 takes a free one.
    pub address: SocketAddr,
    /// Path prefixes and the services that may call below them. Required: there is no open server.
    pub peers: PeerList,
}

/// A bound listener. From `bind` on the kernel queues connections; `serve` answers them.
pub struct Server {
    name: &'static str,
    listener: TcpListener,
    address: SocketAddr,
    identity: Arc<Identity>,
    peers: PeerList,
    limits: Limits,
}

/// The connections of one `serve`. None outlives it: they are tasks of their own, and would go on.
#[derive(Default)]
struct OpenConnections {
    tasks: TaskTracker,
    cut: CancellationToken,
}

// === impl Server ===

impl Server {
    /// Binds the address. No connection is accepted before `serve`.
    pub async fn bind(config: &ListenConfig, identity: Arc<Identity>, limits: Limits) -> Result<Self, TransportError> {
        let failed = |source| TransportError::Bind { address: config.address, source };
        let listener = TcpListener::bind(config.address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { name: "service", listener, address, identity, peers: config.peers.clone(), limits })
    }

    /// The name of this listener in metrics and logs, if there is more than one in the process.
    #[must_use]
    pub fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// The address in use, with the port that was chosen for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers until stopped, then finishes what is in flight, for `Limits::drain_timeout` at most. Dropping this future cuts
    /// every connection at once.
    ///
    /// The router sees only requests of peers that the list admits, with their `PeerName` in the extensions.
    pub async fn serve(self, router: Router, stop: CancellationToken) -> Result<(), TransportError> {
        metrics::describe_listener(self.name);
        let Self { name, listener: socket, address, identity, peers, limits } = self;
        let (slots, drain_timeout) = (Arc::new(Semaphore::new(limits.connections_max)), limits.drain_timeout);
        let listener = Arc::new(Listener {
            name,
            tls: TlsAcceptor::from(identity.server_config(&peers)),
            identity,
            peers: Arc::new(peers),
            http1: http1_builder(&limits),
            http2: http2_builder(&limits),
            limits: Arc::new(limits),
            router,
            stop,
        });
        let connections = OpenConnections::default();
        let accepted = accept_until_stopped(&listener, &socket, &slots, &connections).await;
        drop(socket);
        listener.stop.cancel();
        connections.tasks.close();
        if timeout(drain_timeout, connections.tasks.wait()).await.is_err() {
            tracing::warn!(
                listener = name,
                connections = connections.tasks.len(),
                "stopping: open connections were cut after the grace time, their requests fail"
            );
            connections.cut.cancel();
            connections.tasks.wait().await;
        }
        accepted.map_err(|source| TransportError::Accept { address, source })
    }
}

impl Drop for OpenConnections {
    fn drop(&mut self) {
        self.cut.cancel();
    }
}

async fn accept_until_stopped(
    listener: &Arc<Listener>,
    socket: &TcpListener,
    slots: &Arc<Semaphore>,
    connections: &OpenConnections,
) -> io::Result<()> {
    let mut failures = 0;
    let mut ordinal = 0_u64;
    loop {
        let accepted = tokio::select! {
            biased;
            () = listener.stop.cancelled() => return Ok(()),
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((tcp, _)) => {
                failures = 0;
                ordinal = ordinal.wrapping_add(1);
                spawn_connection(listener, slots, connections, tcp, ordinal);
            }
            Err(error) => {
                metrics::count_accepted(listener.name, Accepted::Failed);
                failures += 1;
                if failures > ACCEPT_FAILURES_MAX {
                    return Err(error);
                }
                tracing::debug!(%error, listener = listener.name, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn spawn_connection(
    listener: &Arc<Listener>,
    slots: &Arc<Semaphore>,
    connections: &OpenConnections,
    tcp: TcpStream,
    ordinal: u64,
) {
    let Ok(slot) = slots.clone().try_acquire_owned() else {
        metrics::count_accepted(listener.name, Accepted::Full);
        tracing::debug!(listener = listener.name, "connection closed unanswered: as many as allowed are open");
        return;
    };
    metrics::count_accepted(listener.name, Accepted::Taken);
    let (listener, cut) = (listener.clone(), connections.cut.clone());
    connections.tasks.spawn(async move {
        let _cut = cut.run_until_cancelled(listener.serve(tcp, ordinal)).await;
        drop(slot);
    });
}
