//! How pingora connects to a replica: mutual TLS with HTTP/2, by the newest certificate and CA.
//!
//! pingora's rustls connector checks the CA and the DNS name `<service>.rampart.internal`, which the CA puts only into
//! that service's certificates; it has no hook for the SPIFFE URI. The health checks verify that as well, at the same
//! address, and a replica that fails them is given no requests.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use identity::Identity;
use pingora::{
    protocols::{ALPN, TcpKeepalive, tls::CaType},
    upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy, PeerOptions},
    utils::tls::{CertKey, WrappedX509, parse_x509},
};
use serde::Deserialize;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{
    Pool, Replica,
    replica::Peers,
    sockets::{Connector, Sockets},
};

/// How often names are resolved again. Addresses in containers change when the container is made anew.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(2);
const CONNECTION_IDLE_MAX: Duration = Duration::from_secs(60);
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer may be this far ahead of a slow client. A connection has this for each of its requests, so that clients that
/// do not read hold up no other request.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// What HTTP/2 allows.
const CONNECTION_WINDOW_BYTES_MAX: u32 = i32::MAX.cast_unsigned();

/// How connections to replicas are made.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerSettings {
    /// TCP and TLS together.
    pub connect_timeout_ms: u64,
    /// Requests at once on one connection.
    pub streams_max: usize,
    /// Requests at once on one replica; more are refused.
    pub in_flight_max: usize,
}

/// Certificate, key and CA as pingora takes them, made once for each generation of them.
struct TlsMaterial {
    generation: u64,
    certificate: Arc<CertKey>,
    ca: Arc<CaType>,
}

/// Keeps every replica's peer current: resolves names again and again, and takes over new certificates.
pub async fn maintain(pools: Vec<Arc<Pool>>, identity: Arc<Identity>, settings: PeerSettings, stop: CancellationToken) {
    let mut changes = identity.changes();
    let mut material = TlsMaterial::of(&identity);
    let mut ticks = tokio::time::interval(RESOLVE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
            Ok(()) = changes.changed() => material = TlsMaterial::of(&identity),
        }
        let replicas = pools.iter().flat_map(|pool| pool.replicas.iter().map(move |replica| (pool, replica)));
        let resolved = replicas.map(|(pool, replica)| refresh(pool, replica, &material, &settings));
        futures::future::join_all(resolved).await;
    }
}

async fn refresh(pool: &Pool, replica: &Replica, material: &TlsMaterial, settings: &PeerSettings) {
    let address = match resolve(&replica.address).await {
        Ok(address) => address,
        // The address it had stays: a resolver that is down for a moment must not take every replica out.
        Err(why) if replica.peers().is_some() => {
            return tracing::debug!(replica = %replica.name, why, "name not resolved, the old address stays");
        }
        Err(why) => return replica.set_unhealthy(&why),
    };
    let current = replica.peers();
    if current.is_some_and(|peers| peers.generation == material.generation && peers.address == address) {
        return;
    }
    // pingora's pool ignores the CA and the set of sockets when it reuses a connection; the group keeps them apart.
    let group = material.generation * 2;
    let make = |group, sockets| Arc::new(make_peer(pool.name, address, group, sockets, material, settings));
    replica.set_peers(Peers {
        address,
        generation: material.generation,
        repeatable: make(group, &replica.repeatable),
        unrepeatable: make(group + 1, &replica.unrepeatable),
    });
}

async fn resolve(address: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = address.parse() {
        return Ok(address);
    }
    let lookup = tokio::time::timeout(RESOLVE_INTERVAL, tokio::net::lookup_host(address));
    match lookup.await {
        Ok(Ok(mut addresses)) => addresses.next().ok_or_else(|| format!("{address} has no address")),
        Ok(Err(error)) => Err(format!("{address} cannot be resolved: {error}")),
        Err(_) => Err(format!("{address} was not resolved in time")),
    }
}

fn make_peer(
    service: &str,
    address: SocketAddr,
    group: u64,
    sockets: &Arc<Sockets>,
    material: &TlsMaterial,
    settings: &PeerSettings,
) -> HttpPeer {
    // The name is never empty: with an empty one pingora verifies nothing at all.
    let mut peer = HttpPeer::new_mtls(address, identity::dns_name(service), Arc::clone(&material.certificate));
    peer.group_key = group;
    let timeout = Duration::from_millis(settings.connect_timeout_ms);
    let mut options = PeerOptions::new();
    options.ca = Some(Arc::clone(&material.ca));
    options.alpn = ALPN::H2;
    options.connection_timeout = Some(timeout);
    options.total_connection_timeout = Some(timeout);
    options.write_timeout = Some(WRITE_TIMEOUT);
    options.idle_timeout = Some(CONNECTION_IDLE_MAX);
    options.max_h2_streams = settings.streams_max;
    options.h2_stream_window_size = Some(STREAM_WINDOW_BYTES);
    let streams = u32::try_from(settings.streams_max).unwrap_or(u32::MAX);
    let window = STREAM_WINDOW_BYTES.saturating_mul(streams).min(CONNECTION_WINDOW_BYTES_MAX);
    options.h2_connection_window_size = Some(window);
    options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
    options.custom_l4 = Some(Arc::new(Connector(Arc::clone(sockets))));
    options.tcp_keepalive = Some(TcpKeepalive {
        idle: Duration::from_secs(10),
        interval: Duration::from_secs(5),
        count: 3,
        #[cfg(target_os = "linux")]
        user_timeout: Duration::from_secs(0),
    });
    peer.options = options;
    peer
}

// === impl TlsMaterial ===

impl TlsMaterial {
    fn of(identity: &Identity) -> Self {
        // The generation first: if it rises in between, the next round makes everything again.
        let generation = identity.generation();
        let (chain, key) = identity.chain_and_key();
        let chain = chain.iter().map(|certificate| certificate.to_vec()).collect();
        let roots = identity.roots();
        let ca: Vec<WrappedX509> = roots.iter().map(|root| WrappedX509::new(root.to_vec(), parse_x509)).collect();
        Self { generation, certificate: Arc::new(CertKey::new(chain, key.secret_der().to_vec())), ca: ca.into() }
    }
}
