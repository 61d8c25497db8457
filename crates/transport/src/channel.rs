//! The one way to call.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, Uri};
use identity::Identity;
use serde::Deserialize;
use tonic::{
    body::Body,
    transport::{Endpoint, channel::ResponseFuture},
};
use tower::Service;

use crate::{connector::Connector, metrics};

const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// Where another service of ours is to be found.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// Its replicas, each `host:port`.
    pub addresses: Vec<String>,
}

/// A gRPC channel to a service of ours. Cloning is cheap and shares the connection.
#[derive(Clone, Debug)]
pub struct Channel {
    inner: tonic::transport::Channel,
}

/// A channel to a service by any of its addresses: mutual TLS, connected at the first call, and again when it breaks.
///
/// A connection goes to the first address that answers, beginning with another one each time, so that a replica which is
/// down or frozen costs no more than a moment. A broken connection is noticed within three seconds even if nothing is
/// sent. Calls have no deadline unless the caller sets one, and every caller should.
///
/// Must be called within a tokio runtime.
pub fn channel(identity: &Arc<Identity>, service: &str, addresses: &[String]) -> Channel {
    // Channels begin with different addresses too, so that the clients of one process are spread over the replicas.
    static CHANNELS: AtomicUsize = AtomicUsize::new(0);
    let first = CHANNELS.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id() as usize);
    metrics::describe_channel(service);
    let connector = Connector::new(service, addresses, identity.client_config(service), first);
    let endpoint = Endpoint::from(service_uri(service))
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    Channel { inner: tonic::transport::Channel::new(connector, endpoint) }
}

/// What requests carry as scheme and authority. A name that makes no URI makes no certificate's name either: the
/// connector refuses it.
fn service_uri(service: &str) -> Uri {
    Uri::builder()
        .scheme("https")
        .authority(identity::dns_name(service))
        .path_and_query("/")
        .build()
        .unwrap_or_else(|_| Uri::from_static("https://invalid"))
}

// === impl Channel ===

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.inner.call(request)
    }
}
