//! HTTP/1.1: one head after the other, each read whole and checked, then the proxy.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use pingora::{
    apps::HttpServerApp,
    protocols::{Shutdown, http::ServerSession},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout, timeout_at},
};

use super::{
    ConnectionHandler, error_response,
    head::{self, Head},
    stream::{CLOSE_TIMEOUT, FrontStream},
};
use crate::connection::{CONNECTION, Connection};

/// Most heads fit; a larger one makes the buffer grow up to the limit.
const HEAD_BUFFER_BYTES: usize = 4 * 1024;
/// How long a request's unread rest is awaited before its connection can serve the next one.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no head.
enum HeadReadError {
    /// The client left, was silent for too long, or the listener is closing.
    Closed,
    /// An answer, and then the end.
    Rejected(Vec<u8>),
}

impl ConnectionHandler {
    pub(super) async fn serve_h1(&self, mut stream: Box<FrontStream>, connection: Arc<Connection>) {
        let limits = &self.config.limits;
        let mut pause_max = Duration::from_millis(limits.header_timeout_ms);
        loop {
            let mut buffer = stream.end_request();
            let head = match self.read_head(&mut stream, &mut buffer, pause_max).await {
                Ok(head) => head,
                Err(HeadReadError::Closed) => return close(stream).await,
                Err(HeadReadError::Rejected(answer)) => return reject(stream, &answer).await,
            };
            let path = std::str::from_utf8(buffer.get(head.path.clone()).unwrap_or_default()).unwrap_or_default();
            let time_max = self.time_max(path);
            stream.begin_request(&mut buffer, &head);
            let mut session = ServerSession::new_http1(stream);
            session.set_pipelined_prefix(buffer);
            session.set_read_timeout(Some(Duration::from_millis(limits.body_pause_max_ms)));
            session.set_total_drain_timeout(Some(DRAIN_TIMEOUT));
            if self.is_old(&connection) || self.drain.is_cancelled() {
                session.set_keepalive_reuses_remaining(Some(0));
            }
            let exchange =
                CONNECTION.scope(Arc::clone(&connection), self.proxy.process_new_http(session, &self.draining));
            let Ok(Some(reused)) = timeout(time_max, exchange).await else { return };
            let (reused, _) = reused.consume();
            let Ok(reused) = reused.into_any().downcast::<FrontStream>() else { return };
            stream = reused;
            pause_max = Duration::from_millis(limits.idle_timeout_ms);
        }
    }

    async fn read_head(
        &self,
        stream: &mut FrontStream,
        buffer: &mut BytesMut,
        pause_max: Duration,
    ) -> Result<Head, HeadReadError> {
        let limits = &self.config.limits;
        // Not if the client sent its next request ahead.
        if buffer.is_empty() {
            buffer.reserve(HEAD_BUFFER_BYTES);
            tokio::select! {
                biased;
                read = timeout(pause_max, stream.read_buf(buffer)) => {
                    if !matches!(read, Ok(Ok(1..))) {
                        return Err(HeadReadError::Closed);
                    }
                }
                () = self.drain.cancelled() => return Err(HeadReadError::Closed),
            }
        }
        // From the first byte on the whole head has one deadline: however it trickles, it ends.
        let deadline = Instant::now() + Duration::from_millis(limits.header_timeout_ms);
        let mut scanned = 0;
        loop {
            match head::scan(buffer, &mut scanned, limits.header_bytes_max) {
                Ok(Some(head)) => return Ok(head),
                Ok(None) => {}
                Err(error) => return Err(HeadReadError::Rejected(error_response::for_head_error(error, buffer))),
            }
            match timeout_at(deadline, stream.read_buf(buffer)).await {
                Ok(Ok(1..)) => {}
                Ok(_) => return Err(HeadReadError::Closed),
                Err(_) => return Err(HeadReadError::Rejected(error_response::for_head_timeout(buffer))),
            }
        }
    }
}

async fn reject(mut stream: Box<FrontStream>, answer: &[u8]) {
    // What else it sends stays unread, and must not turn the answer into a reset.
    stream.set_unread_body();
    let written = async {
        stream.write_all(answer).await?;
        stream.flush().await
    };
    // A client that reads nothing must not hold the connection open.
    let _ = timeout(CLOSE_TIMEOUT, written).await;
}

/// Ends TLS with close_notify, so that the client knows that nothing was cut off.
async fn close(mut stream: Box<FrontStream>) {
    Shutdown::shutdown(stream.as_mut()).await;
}
