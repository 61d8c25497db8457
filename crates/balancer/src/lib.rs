#![doc = include_str!("../README.md")]

pub mod access;
pub mod callers;
pub mod config;
pub mod connection;
pub mod front;
mod linger;
pub mod metrics;
mod openapi;
pub mod pool;
pub mod proxy;
pub mod replica_state;
pub mod routes;
pub mod sla;
pub mod status;

use std::sync::Arc;

use authz::{Clock, Guard, PassportKeys};
use identity::FrontCertificateFile;
use policy::Policy;
use service::{BoxError, Lifecycle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use topology::name;

pub use config::{Config, DEFAULTS};
pub use openapi::openapi_json;
pub use status::declared_routes;

use access::{Access, Gateways};
use callers::Callers;
use front::{Front, StopSignals};
use pool::{Pool, Pools};
use proxy::{Broadcast, Cors, Shared};
use routes::Routes;
use sla::MinuteBuffer;
use status::StatusPage;

/// Wires the balancer together and opens its listener.
pub async fn start(config: Config, lifecycle: Lifecycle) -> Result<(), BoxError> {
    metrics::describe();
    front::descriptors::raise_limit(config.front.limits.connections_max);
    let identity = lifecycle.identity();
    // What serves requests in flight goes on until they have ended, or ends at once if the listener cannot be bound.
    let drained = CancellationToken::new();
    let until_drained = drained.clone().drop_guard();

    // Pools: peers kept current, replicas checked.
    let pools = Pools::new(&config.pools, config.peers.in_flight_max);
    let peers = pool::maintain(pools.all().to_vec(), Arc::clone(&identity), config.peers, drained.clone());
    lifecycle.spawn("peers", peers);
    for pool in pools.all() {
        for replica in &pool.replicas {
            let (pool, replica) = (Arc::clone(pool), Arc::clone(replica));
            let settings = config.health.of(pool.name);
            let watched = pool::watch(pool, replica, Arc::clone(&identity), settings, drained.clone());
            lifecycle.spawn("health checks", watched);
        }
    }
    let pool_of = |service| pools.of(service).ok_or_else(|| format!("the map has no pool of {service}"));
    let (serving_pool, gateway_pool, sla_pool) =
        (pool_of(name::SERVING)?, pool_of(name::GATEWAY)?, pool_of(name::SLA)?);

    // Access: tokens to passports, revocations followed, and the keys for the balancer's own routes.
    let calls = TaskTracker::new();
    let access = Access::new(&config.access, Gateways::new(gateway_pool, &identity), calls);
    lifecycle.spawn("revocations", access::watch(Arc::clone(&access), drained.clone()));
    let keys = Arc::new(PassportKeys::default());
    service::passport_keys::follow(channel_to(gateway_pool, &identity), Arc::clone(&keys), &lifecycle);
    let guard = Arc::new(Guard::new(status::AUDIENCE, keys, Arc::new(Policy::embedded()?), Clock::system()));

    // The front, last: everything that a request needs is there.
    let (sla_minutes, tracker) = (MinuteBuffer::new(), channel_to(sla_pool, &identity));
    let routes = Arc::new(Routes::new(&config.routes));
    let ca_file = identity.ca_file().to_string_lossy().into_owned();
    let shared = Shared {
        routes: Arc::clone(&routes),
        broadcast: Broadcast::new(serving_pool, &identity),
        pools,
        access,
        callers: Callers::new(config.callers),
        cors: Cors::new(&config.cors),
        status: StatusPage::new(guard, lifecycle.readiness()),
        sla_minutes: Arc::clone(&sla_minutes),
        own_metrics: metrics::PoolMetrics::new(name::BALANCER),
        config: config.proxy,
    };
    let engine = proxy::engine(Arc::new(shared), ca_file);
    let stops = StopSignals { drain: lifecycle.soft_stop(), abort: lifecycle.hard_stop() };
    let own_certificate = config.front.certificate_file.clone().map(FrontCertificateFile::open);
    let tls = identity::front_server_config(&identity, own_certificate.clone());
    let front = Front::bind(config.front, tls, routes, engine, stops).await?;
    if let Some(file) = own_certificate {
        lifecycle.spawn("certificate of the owner", file.watch(drained.clone()));
    }
    lifecycle.listening("front", front.local_addr());
    lifecycle.spawn("front", async move {
        front.serve().await;
        drop(until_drained);
    });

    // SLA reports, which cover the time in which the listener is open, and end with the last request.
    let source = identity.name().instance;
    lifecycle.spawn("sla reports", sla::report_until_stopped(sla_minutes, tracker, source, config.sla, drained));
    Ok(())
}

/// What a call failed with, on one line: tonic's own text has its source in it as debug output.
fn describe(status: &tonic::Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => problem::Chain(source).to_string(),
        None => format!("{:?}: {}", status.code(), status.message()),
    }
}

fn channel_to(pool: &Pool, identity: &Arc<identity::Identity>) -> transport::Channel {
    let addresses: Vec<String> = pool.replicas.iter().map(|replica| replica.address.clone()).collect();
    transport::channel(identity, pool.name, &addresses)
}
