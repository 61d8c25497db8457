//! Requests that go to every replica and not to one: a model that one of three has loaded is not loaded.
//!
//! They go over channels of their own and not through pingora, which sends a request to one replica. Each replica gets the
//! request once, all at the same time, and the client gets the worst answer: what one replica did not do is to be tried
//! again.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri,
    header::{self, CONTENT_TYPE, TE},
};
use http_body_util::{BodyExt, Full, Limited};
use identity::Identity;
use pingora::http::RequestHeader;
use problem::{Form, Kind, Problem};
use tokio::time::timeout;
use tonic::{Code, body::Body, codegen::Service};
use transport::Channel;

use super::{
    RequestState,
    headers::{GRPC_STATUS, PASSPORT, grpc_status},
};
use crate::{
    pool::{Pool, Replica},
    replica_state::ReplicaState,
};

/// These answers are short.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// What of a replica's answer the client gets.
const FORWARDED: [HeaderName; 5] =
    [CONTENT_TYPE, header::RETRY_AFTER, header::WWW_AUTHENTICATE, GRPC_STATUS, GRPC_MESSAGE];

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
            (Arc::clone(replica), transport::channel(identity, pool.name, address))
        };
        Self(pool.replicas.iter().map(channel).collect())
    }

    /// Sends a request to every replica that is not down. One that is down loads its models itself when it comes back.
    async fn send(&self, request: Request<Bytes>, time_max: Duration) -> Result<Response<Bytes>, Problem> {
        let reachable = self.0.iter().filter(|(replica, _)| replica.status().state != ReplicaState::Unhealthy);
        let calls = reachable.map(|(replica, channel)| call(replica, channel.clone(), request.clone(), time_max));
        let answers = join_all(calls).await.into_iter();
        answers.max_by_key(severity).unwrap_or_else(|| Err(Problem::unavailable("no replica is there")))
    }
}

/// Sends the request to every replica, with the same passport and origin.
pub(super) async fn send_to_all(
    state: &mut RequestState,
    head: &RequestHeader,
    body: Bytes,
) -> Result<Response<Bytes>, Problem> {
    let context = &state.context;
    let Some(time_left) = context.time_left() else {
        return Err(Problem::new(Kind::DeadlineExceeded, "the request took too long to arrive"));
    };
    let mut headers = context.origin().headers();
    if let Some(passport) = &context.passport {
        headers.insert(PASSPORT, passport.clone());
    }
    if let Some(content_type) = head.headers.get(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, content_type.clone());
    }
    if context.form == Form::Grpc {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = path_of(&head.uri)?;
    *request.headers_mut() = headers;
    let answer = context.shared.broadcast.send(request, time_left).await?;
    state.outcome.grpc_status = status_of(&answer);
    Ok(answer)
}

/// The channel puts the service's authority before it.
fn path_of(uri: &Uri) -> Result<Uri, Problem> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    path.parse().map_err(|_| Problem::new(Kind::InvalidArgument, "the request's target is not valid"))
}

async fn call(
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
        parts.headers = forwarded(&parts.headers);
        if let Some(trailers) = body.trailers() {
            parts.extensions.insert(Trailers(forwarded(trailers)));
        }
        Ok(Response::from_parts(parts, body.to_bytes()))
    };
    timeout(time_max, exchange).await.unwrap_or_else(|_| Err("no answer in time".to_owned())).map_err(|why: String| {
        tracing::info!(replica = %replica.name, why, "a replica did not answer a request that goes to all of them");
        Problem::unavailable(format!("{} did not answer; others may have", replica.name))
    })
}

fn forwarded(headers: &HeaderMap) -> HeaderMap {
    headers
        .iter()
        .filter(|(name, _)| FORWARDED.contains(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The gRPC status of a whole answer, in its head or its trailers.
fn status_of(response: &Response<Bytes>) -> Option<u16> {
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
