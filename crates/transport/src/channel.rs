//! The one way to call.
//!
//! Not tonic's own channel: that one fails a call which comes upon a connection that the server has just asked to end.
//! Here such a call, which was never sent, goes over a new connection; so retirements and renewals cost no call.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use http::{Request, Response, Uri, uri::PathAndQuery};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use identity::{Generation, Identity};
use parking_lot::Mutex;
use problem::Chain;
use serde::Deserialize;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tonic::{Status, body::Body};
use tower::Service;

use crate::{
    connection::time_left,
    connector::{ConnectError, Connector},
    deadline,
    expiring_stream::expiring_stream,
    metrics,
};

const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// What is in flight when a connection has to end may take this long; then it is cut. Long streams are, and begin anew.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How many connections one call may come upon that are just ending.
const CONNECTIONS_MAX: usize = 4;

/// The addresses of another service of the platform.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// Its replicas, each `host:port`.
    pub addresses: Vec<String>,
}

/// A gRPC channel to a service of the platform. Cloning is cheap and shares the connection. Calls carry the current trace.
#[derive(Clone)]
pub struct Channel {
    upstream: Arc<Upstream>,
}

struct Upstream {
    service: String,
    identity: Arc<Identity>,
    authority: Option<http::uri::Authority>,
    connector: Connector,
    http2: http2::Builder<TokioExecutor>,
    /// The newest connection, be it in the making, in use or broken.
    newest: Mutex<Option<Connecting>>,
    /// Why the last connection broke, for calls that found it broken: an alert of the peer belongs to no call.
    /// Apart from the rest, because the task of a connection must not keep its channel alive.
    broke: Arc<Mutex<Option<String>>>,
}

/// A connection, and how long it may be used: no longer than the certificates and the trust that it was opened with.
#[derive(Clone)]
struct ChannelConnection {
    sender: http2::SendRequest<Body>,
    not_after: Instant,
    /// As it was before the handshake, so that no change during it is missed.
    trust: u64,
    changes: watch::Receiver<Generation>,
}

/// Many calls may wait for one connection, and all of them get its failure too.
type Connecting = Shared<BoxFuture<'static, Result<ChannelConnection, Arc<ConnectError>>>>;

/// A channel to a service by any of its addresses: mutual TLS, connected at the first call, and again when it breaks.
///
/// A connection goes to the first address that answers, beginning with another one each time, so that a replica which is
/// down or frozen costs no more than a moment. No call goes over a connection whose certificates have ended, or that was
/// opened when other CAs were trusted; what is in flight on it may finish, for five seconds. A broken connection is noticed within three seconds even if nothing is
/// sent. Calls have no deadline unless the caller sets one, and every caller should: `tonic::Request::set_timeout` bounds
/// the time to the head of the answer, `tokio::time::timeout` around the call bounds all of it.
///
/// Whatever goes wrong on the way is `UNAVAILABLE`, with the address and the cause in the message.
///
/// Calls must be made within a tokio runtime.
pub fn channel(identity: &Arc<Identity>, service: &str, addresses: &[String]) -> Channel {
    // Channels begin with different addresses too, so that the clients of one process are spread over the replicas.
    static CHANNELS: AtomicUsize = AtomicUsize::new(0);
    let first = CHANNELS.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id() as usize);
    metrics::describe_channel(service);
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    let upstream = Upstream {
        service: service.to_owned(),
        identity: Arc::clone(identity),
        // A name that makes no authority makes no certificate's name either, and the connector says so.
        authority: identity::dns_name(service).parse().ok(),
        connector: Connector::new(service, addresses, identity.client_config(service), first),
        http2,
        newest: Mutex::new(None),
        broke: Arc::default(),
    };
    Channel { upstream: Arc::new(upstream) }
}

// === impl UpstreamConfig ===

impl UpstreamConfig {
    /// What is wrong with the values: key inside the section, and why.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let is_empty = self.addresses.is_empty();
        if is_empty { vec![("addresses", "needs at least one host:port".to_owned())] } else { Vec::new() }
    }
}

// === impl Channel ===

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        telemetry::inject(request.headers_mut());
        let deadline = deadline::of(request.headers());
        let upstream = self.upstream.clone();
        let call = async move { upstream.send(request).await };
        match deadline {
            None => call.boxed(),
            Some(deadline) => async move {
                let expired = |_| Status::deadline_exceeded(format!("no answer within {deadline:?}"));
                tokio::time::timeout(deadline, call).await.unwrap_or_else(|elapsed| Err(expired(elapsed)))
            }
            .boxed(),
        }
    }
}

// === impl Upstream ===

impl Upstream {
    async fn send(self: Arc<Self>, mut request: Request<Body>) -> Result<Response<Body>, Status> {
        self.set_scheme_and_authority(&mut request);
        for _ in 0..CONNECTIONS_MAX {
            let connecting = self.connection();
            let mut connection = connecting.await.map_err(unavailable)?;
            if !connection.is_trusted() {
                // The trust changed while it was being opened.
                continue;
            }
            let mut failure = match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok(response.map(Body::new)),
                Err(failure) => failure,
            };
            match failure.take_message() {
                Some(unsent) => request = unsent,
                None => return Err(self.lost(&failure.into_error())),
            }
        }
        let cause = self.broke.lock().clone().unwrap_or_else(|| "without a reason".to_owned());
        Err(Status::unavailable(format!("{} ended {CONNECTIONS_MAX} connections before a call: {cause}", self.service)))
    }

    /// HTTP/2 wants scheme and authority, and generated clients know only the path.
    fn set_scheme_and_authority(&self, request: &mut Request<Body>) {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(http::uri::Scheme::HTTPS);
        parts.authority = self.authority.clone();
        parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    }

    /// The newest connection if it may still be of use, otherwise a new one.
    fn connection(self: &Arc<Self>) -> Connecting {
        let mut newest = self.newest.lock();
        if let Some(connecting) = newest.as_ref().filter(|connecting| is_usable(connecting)) {
            return connecting.clone();
        }
        let upstream = self.clone();
        // A task of its own: a caller that gives up must not leave a half-made connection to the next.
        let made = tokio::spawn(async move { upstream.connect().await });
        let connecting = async move { made.await.unwrap_or_else(|_| Err(ConnectError::Interrupted)).map_err(Arc::new) };
        newest.insert(connecting.boxed().shared()).clone()
    }

    async fn connect(&self) -> Result<ChannelConnection, ConnectError> {
        let mut changes = self.identity.changes();
        let trust = changes.borrow_and_update().trust;
        let (stream, peer_not_after) = self.connector.connect().await?;
        let not_after = Instant::now() + time_left(peer_not_after.min(self.identity.not_after()));
        let end = retired(not_after, trust, changes.clone()).then(|()| sleep(DRAIN_TIMEOUT)).boxed();
        let stream = TokioIo::new(expiring_stream(end, stream));
        let (sender, connection) = self.http2.handshake(stream).await.map_err(ConnectError::Http)?;
        let (service, broke) = (self.service.clone(), self.broke.clone());
        // Ends when the channel is dropped or the peer closes; broken peers are found by pings.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                let error = Chain(&error).to_string();
                tracing::debug!(service, error, "connection broke");
                *broke.lock() = Some(error);
            }
        });
        Ok(ChannelConnection { sender, not_after, trust, changes })
    }

    fn lost(&self, error: &hyper::Error) -> Status {
        Status::unavailable(format!("connection to {} was lost: {}", self.service, Chain(error)))
    }
}

// === impl ChannelConnection ===

impl ChannelConnection {
    fn is_trusted(&self) -> bool {
        self.changes.borrow().trust == self.trust && Instant::now() < self.not_after
    }
}

/// Resolves when a connection must not be used any more.
async fn retired(not_after: Instant, trust: u64, mut changes: watch::Receiver<Generation>) {
    tokio::select! {
        () = sleep_until(not_after) => {}
        Ok(_) = changes.wait_for(|now| now.trust != trust) => {}
    }
}

fn is_usable(connecting: &Connecting) -> bool {
    match connecting.peek() {
        None => true,
        Some(Ok(connection)) => connection.sender.is_ready() && connection.is_trusted(),
        Some(Err(_)) => false,
    }
}

fn unavailable(error: Arc<ConnectError>) -> Status {
    let mut status = Status::unavailable(Chain(error.as_ref()).to_string());
    status.set_source(error);
    status
}
