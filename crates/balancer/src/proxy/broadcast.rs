//! Requests that every replica must hear, not just one: a model that one of three has loaded is not loaded.
//!
//! They go over our own channels and not through pingora, which sends a request to one replica. Each is asked once, all at
//! the same time, and the client gets the worst answer: whatever did not happen everywhere is to be tried again.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use identity::Identity;
use problem::Problem;
use tokio::time::timeout;
use tonic::{Code, body::Body, codegen::Service};
use transport::Channel;

use super::headers::{GRPC_STATUS, grpc_status};
use crate::pool::{Pool, Replica, ReplicaState};

/// These answers are short.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const KEPT: [HeaderName; 5] =
    [header::CONTENT_TYPE, header::RETRY_AFTER, header::WWW_AUTHENTICATE, GRPC_STATUS, GRPC_MESSAGE];

/// What comes after the body of a gRPC answer; an extension of the response.
#[derive(Clone)]
pub(super) struct Trailers(pub(super) HeaderMap);

/// A channel to each replica of a pool.
pub struct Broadcast(Vec<(Arc<Replica>, Channel)>);

// === impl Broadcast ===

impl Broadcast {
    /// Channels to every replica of a pool. They connect when they are used.
    pub fn new(pool: &Pool, identity: &Arc<Identity>) -> Self {
        let channel = |replica: &Arc<Replica>| {
            let address = std::slice::from_ref(&replica.address);
            (Arc::clone(replica), transport::channel(identity, pool.name.as_str(), address))
        };
        Self(pool.replicas.iter().map(channel).collect())
    }

    /// Brings a request to every replica that is not down; those find out for themselves when they come back.
    pub(super) async fn send(&self, request: Request<Bytes>, time_max: Duration) -> Result<Response<Bytes>, Problem> {
        let present = self.0.iter().filter(|(replica, _)| replica.status().state != ReplicaState::Unhealthy);
        let asked = present.map(|(replica, channel)| ask(replica, channel.clone(), request.clone(), time_max));
        let answers = join_all(asked).await.into_iter();
        answers.max_by_key(severity).unwrap_or_else(|| Err(Problem::unavailable("no replica is there")))
    }
}

async fn ask(
    replica: &Arc<Replica>,
    mut channel: Channel,
    request: Request<Bytes>,
    time_max: Duration,
) -> Result<Response<Bytes>, Problem> {
    let _lease = replica.lease();
    let exchange = async {
        let request = request.map(|body| Body::new(Full::new(body)));
        let response = channel.call(request).await.map_err(|status| crate::describe(&status))?;
        let (mut parts, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
        parts.headers = kept(&parts.headers);
        if let Some(trailers) = body.trailers() {
            parts.extensions.insert(Trailers(kept(trailers)));
        }
        Ok(Response::from_parts(parts, body.to_bytes()))
    };
    timeout(time_max, exchange).await.unwrap_or_else(|_| Err("no answer in time".to_owned())).map_err(|why: String| {
        tracing::info!(replica = %replica.name, why, "a replica did not answer a request that all must hear");
        Problem::unavailable(format!("{} did not answer; others may have", replica.name))
    })
}

fn kept(headers: &HeaderMap) -> HeaderMap {
    headers.iter().filter(|(name, _)| KEPT.contains(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The gRPC status of a whole answer, wherever it stands.
pub(super) fn status_of(response: &Response<Bytes>) -> Option<u16> {
    let trailers = response.extensions().get::<Trailers>();
    grpc_status(response.headers()).or_else(|| grpc_status(&trailers?.0))
}

/// The greater, the worse, for both kinds of answers.
fn severity(answer: &Result<Response<Bytes>, Problem>) -> u16 {
    let response = match answer {
        Ok(response) => response,
        Err(problem) => return problem.kind().http_status().as_u16(),
    };
    let status = match status_of(response).map(|code| Code::from(i32::from(code))) {
        None | Some(Code::Ok) => response.status(),
        Some(Code::Unknown | Code::Internal | Code::Unavailable | Code::DataLoss) => StatusCode::SERVICE_UNAVAILABLE,
        Some(_) => StatusCode::BAD_REQUEST,
    };
    status.as_u16()
}
