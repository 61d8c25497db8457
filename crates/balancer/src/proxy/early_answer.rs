//! Answers that come before the end of their request, over HTTP/2.

use pingora::{Error, protocols::http::ServerSession, proxy::Session};

use super::RequestState;
use crate::linger::Linger;

/// Reads on what the client still sends of a request that is answered already. When the stream is dropped after that, before the end
/// of the request, the library resets it with `NO_ERROR` (RFC 9113, 8.1). Over HTTP/1.1 the front does the same with the connection.
pub(super) async fn read_on(session: &mut Session, state: &mut RequestState, error: Option<&Error>) {
    let is_answered =
        session.response_written().is_some() && (error.is_none() || state.outcome.answered_kind.is_some());
    let ServerSession::H2(h2) = session.as_downstream_mut() else { return };
    if !is_answered || h2.is_body_done() {
        return;
    }
    // Nothing is done for it any more.
    state.context.permit = None;
    state.attempts.end();
    let mut linger = Linger::begin();
    // Not the end, even if a part is empty.
    while linger.goes_on_after(bytes_of(h2.read_body_bytes())).await {}
}

async fn bytes_of<E>(read: impl Future<Output = Result<Option<bytes::Bytes>, E>>) -> usize {
    read.await.ok().flatten().map_or(0, |part| part.len().max(1))
}
