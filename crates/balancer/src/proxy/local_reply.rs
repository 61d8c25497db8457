//! Answers that the balancer writes itself, over HTTP/1.1 and HTTP/2.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use pingora::{Result, http::ResponseHeader, protocols::http::ServerSession, proxy::Session};
use problem::Problem;

use super::{RequestState, broadcast::Trailers, cors, headers::GRPC_STATUS};

/// Writes a problem in the form of its route.
pub(super) async fn write_problem(session: &mut Session, state: &mut RequestState, problem: &Problem) -> Result<()> {
    state.outcome.answered_kind = Some(problem.kind());
    write(session, state, problem.response(state.context.form)).await
}

/// Writes a whole response. Whatever fails here is the client's: pingora leaves open whose error it is.
pub(super) async fn write(session: &mut Session, state: &RequestState, response: Response<Bytes>) -> Result<()> {
    write_parts(session, state, response).await.map_err(|error| error.into_down())
}

async fn write_parts(session: &mut Session, state: &RequestState, response: Response<Bytes>) -> Result<()> {
    let (mut parts, body) = response.into_parts();
    let trailers = parts.extensions.remove::<Trailers>();
    let mut head = ResponseHeader::build(parts.status, Some(parts.headers.len() + 2))?;
    for (name, value) in &parts.headers {
        head.append_header(name.clone(), value.clone())?;
    }
    cors::add_fields(&mut head, &state.context.cors_fields)?;
    let is_head_only = session.req_header().method == Method::HEAD;
    let has_length = parts.status != StatusCode::NO_CONTENT && !parts.headers.contains_key(GRPC_STATUS);
    if trailers.is_none() && has_length {
        head.insert_header(header::CONTENT_LENGTH, HeaderValue::from(body.len()))?;
    }
    // A status or a failure holds for this moment.
    head.insert_header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))?;
    let body = if is_head_only { Bytes::new() } else { body };
    match session.as_downstream_mut() {
        // A gRPC status in the head counts only if the head is also the end.
        ServerSession::H2(h2) if body.is_empty() && trailers.is_none() => {
            h2.write_response_header(Box::new(head), true)
        }
        downstream => {
            downstream.write_response_header(Box::new(head)).await?;
            downstream.write_response_body(body, trailers.is_none()).await?;
            match trailers {
                Some(Trailers(trailers)) => downstream.write_response_trailers(trailers).await,
                None => Ok(()),
            }
        }
    }
}
