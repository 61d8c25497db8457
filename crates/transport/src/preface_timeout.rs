//! A deadline for the first bytes of a connection.
//!
//! hyper waits for the preface of HTTP/2 for ever, and pings only after it. HTTP/1.1 has its header deadline.

use std::{io, pin::Pin, task::Context, time::Duration};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::guarded_stream::GuardedStream;

const HTTP2_PREFACE_BYTES: usize = 24;

/// The stream fails if the preface of HTTP/2 does not arrive within `timeout`.
pub(crate) fn preface_timeout<S>(timeout: Duration, stream: S) -> impl AsyncRead + AsyncWrite + Unpin
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut missing = HTTP2_PREFACE_BYTES;
    let mut deadline = Some(Box::pin(tokio::time::sleep(timeout)));
    let read = move |stream: Pin<&mut S>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>| {
        let Some(running) = &mut deadline else { return stream.poll_read(cx, buffer) };
        let before = buffer.filled().len();
        let read = stream.poll_read(cx, buffer);
        if read.is_pending() {
            return running
                .as_mut()
                .poll(cx)
                .map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "no preface in time")));
        }
        missing = missing.saturating_sub(buffer.filled().len() - before);
        if missing == 0 {
            deadline = None;
        }
        read
    };
    GuardedStream { stream, read }
}
