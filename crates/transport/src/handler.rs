//! What happens to a request before the router sees it.

use std::{
    convert::Infallible,
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{Router, body::Body, extract::DefaultBodyLimit};
use futures::future::BoxFuture;
use http::{Request, Response, header};
use http_body_util::Limited;
use hyper::body::{Body as _, Incoming};
use identity::{PeerList, PeerName};
use problem::{Form, Kind, Problem};
use tower::Service as _;

use crate::{
    Limits,
    body::{DrainOnDrop, IdleTimeoutBody},
    metrics,
};

/// Handles the requests of one connection, all from the same peer.
#[derive(Clone)]
pub(crate) struct Handler {
    pub(crate) router: Router,
    pub(crate) connection: Arc<Peer>,
}

/// The peer of a connection, and what applies to it.
pub(crate) struct Peer {
    pub(crate) name: PeerName,
    pub(crate) peers: Arc<PeerList>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) listener: &'static str,
    /// A peer that calls what it must not is reported once per connection.
    pub(crate) reported: AtomicBool,
}

// === impl Handler ===

impl hyper::service::Service<Request<Incoming>> for Handler {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    /// Peer, then size, then the router: a peer that may not call learns nothing else.
    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let peer = &self.connection;
        if let Err(problem) = peer.check(&request) {
            let form = Form::of(request.uri().path(), request.headers().get(header::CONTENT_TYPE));
            return Box::pin(ready(Ok(problem.response(form).map(Body::from))));
        }
        request.extensions_mut().insert(peer.name.clone());
        let limits = &peer.limits;
        // axum's extractors have a limit of their own, 2 MiB by default.
        DefaultBodyLimit::max(limits.body_bytes_max).apply(&mut request);
        let (head, body) = request.into_parts();
        let body = Limited::new(IdleTimeoutBody::new(body, limits.body_idle_timeout), limits.body_bytes_max);
        let (body, unread) = DrainOnDrop::new(body);
        let answer = self.router.clone().call(Request::from_parts(head, body));
        Box::pin(async move {
            let answer = answer.await;
            unread.drain().await;
            answer
        })
    }
}

// === impl Peer ===

impl Peer {
    fn check(&self, request: &Request<Incoming>) -> Result<(), Problem> {
        let path = request.uri().path();
        if !self.peers.allows(path, &self.name) {
            metrics::count_refusal(self.listener, metrics::RequestRefusal::Peer);
            if !self.reported.swap(true, Ordering::Relaxed) {
                tracing::warn!(peer = %self.name, path, listener = self.listener, "peer called what its list does not open");
            }
            return Err(Problem::new(Kind::PermissionDenied, "this peer may not call this path"));
        }
        let announced = request.body().size_hint().lower();
        if announced > self.limits.body_bytes_max as u64 {
            metrics::count_refusal(self.listener, metrics::RequestRefusal::Body);
            let max = self.limits.body_bytes_max;
            return Err(Problem::new(Kind::TooLarge, format!("body of {announced} bytes exceeds {max}")));
        }
        Ok(())
    }
}
