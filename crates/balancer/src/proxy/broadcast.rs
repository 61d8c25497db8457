//! Requests that go to every replica and not to one: a model that one of three has loaded is not loaded, and what one of three
//! has counted is not all.
//!
//! They go over channels of their own and not through pingora, which sends a request to one replica. Each replica gets the
//! request once, all at the same time. Of a change the client gets the worst answer: what one replica did not do is to be
//! tried again.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri,
    header::{self, CONTENT_ENCODING, CONTENT_TYPE, TE},
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
    context::RequestContext,
    headers::{GRPC_STATUS, PASSPORT, grpc_status},
};
use crate::{
    pool::{Pool, Replica},
    replica_state::ReplicaState,
};

/// The answer to a change is short.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
/// What of the client's request says how to read its body.
const OF_THE_BODY: [HeaderName; 3] = [CONTENT_TYPE, CONTENT_ENCODING, GRPC_ENCODING];
/// What of a replica's answer the client gets.
const FORWARDED: [HeaderName; 7] = [
    CONTENT_TYPE,
    header::RETRY_AFTER,
    header::WWW_AUTHENTICATE,
    header::ALLOW,
    header::ACCEPT_ENCODING,
    GRPC_STATUS,
    GRPC_MESSAGE,
];

/// What comes after the body of a gRPC answer; an extension of the response.
#[derive(Clone)]
pub(super) struct Trailers(pub(super) HeaderMap);

/// A channel to each replica of a pool.
pub struct Broadcast(Vec<(Arc<Replica>, Channel)>);

/// The whole answer of a replica, or why there is none.
pub(super) type Answer = Result<Response<Bytes>, Problem>;

/// What came of a request at one replica.
pub(super) struct Reply {
    pub(super) replica: Arc<Replica>,
    /// None of one that is down, which was not asked.
    pub(super) answer: Option<Answer>,
}

/// What each replica's answer may take.
#[derive(Clone, Copy)]
pub(super) struct AnswerBounds {
    pub(super) time_max: Duration,
    pub(super) bytes_max: usize,
}

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

    /// Sends a request to every replica that is not down. One that is down asks a gateway for what has changed when it comes back.
    pub(super) async fn send(&self, request: &Request<Bytes>, bounds: AnswerBounds) -> Vec<Reply> {
        let replies = self.0.iter().map(|(replica, channel)| async move {
            let is_down = replica.status().state == ReplicaState::Unhealthy;
            let answer = match is_down {
                true => None,
                false => Some(call(replica, channel.clone(), request.clone(), bounds).await),
            };
            Reply { replica: Arc::clone(replica), answer }
        });
        join_all(replies).await
    }
}

/// Sends the request to every replica, with the same passport and origin. One that is down loads its models itself when it
/// comes back.
pub(super) async fn send_to_all(state: &mut RequestState, head: &RequestHeader, body: Bytes) -> Answer {
    let context = &state.context;
    let request = request(context, head, body)?;
    let bounds = AnswerBounds { time_max: time_left(context)?, bytes_max: ANSWER_BYTES_MAX };
    let answer = worst(context.shared.broadcast.send(&request, bounds).await)?;
    state.outcome.grpc_status = status_of(&answer);
    Ok(answer)
}

/// The worst of the answers.
pub(super) fn worst(replies: Vec<Reply>) -> Answer {
    let answers = replies.into_iter().filter_map(|reply| reply.answer);
    answers.max_by_key(severity).unwrap_or_else(|| Err(Problem::unavailable("no replica is there")))
}

pub(super) fn time_left(context: &RequestContext) -> Result<Duration, Problem> {
    let too_late = || Problem::new(Kind::DeadlineExceeded, "the request took too long to arrive");
    context.time_left().ok_or_else(too_late)
}

/// The client's request as a replica gets it.
pub(super) fn request(context: &RequestContext, head: &RequestHeader, body: Bytes) -> Result<Request<Bytes>, Problem> {
    let mut headers = context.origin().headers();
    if let Some(passport) = &context.passport {
        headers.insert(PASSPORT, passport.clone());
    }
    for name in OF_THE_BODY {
        // Every one: a second content coding must not be lost.
        for value in head.headers.get_all(&name) {
            headers.append(name.clone(), value.clone());
        }
    }
    if context.form == Form::Grpc {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = path_of(&head.uri)?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// The channel puts the service's authority before it.
fn path_of(uri: &Uri) -> Result<Uri, Problem> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    path.parse().map_err(|_| Problem::new(Kind::InvalidArgument, "the request's target is not valid"))
}

async fn call(replica: &Arc<Replica>, mut channel: Channel, request: Request<Bytes>, bounds: AnswerBounds) -> Answer {
    let _lease = replica.lease();
    let exchange = async {
        let request = request.map(|body| Body::new(Full::new(body)));
        let response = channel.call(request).await.map_err(|status| crate::describe(&status))?;
        let (mut parts, body) = response.into_parts();
        let body = Limited::new(body, bounds.bytes_max).collect().await.map_err(|error| error.to_string())?;
        parts.headers = forwarded(&parts.headers);
        if let Some(trailers) = body.trailers() {
            parts.extensions.insert(Trailers(forwarded(trailers)));
        }
        Ok(Response::from_parts(parts, body.to_bytes()))
    };
    timeout(bounds.time_max, exchange).await.unwrap_or_else(|_| Err("no answer in time".to_owned())).map_err(
        |why: String| {
            tracing::info!(replica = %replica.name, why, "a replica did not answer a request that goes to all of them");
            Problem::unavailable(format!("{} did not answer; others may have", replica.name))
        },
    )
}

fn forwarded(headers: &HeaderMap) -> HeaderMap {
    headers
        .iter()
        .filter(|(name, _)| FORWARDED.contains(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The gRPC status of a whole answer, in its head or its trailers.
pub(super) fn status_of(response: &Response<Bytes>) -> Option<u16> {
    let trailers = response.extensions().get::<Trailers>();
    grpc_status(response.headers()).or_else(|| grpc_status(&trailers?.0))
}

/// The greater, the worse, for both kinds of answers.
pub(super) fn severity(answer: &Answer) -> u16 {
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
