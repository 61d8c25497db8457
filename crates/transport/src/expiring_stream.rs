//! A stream that fails at a given moment.
//!
//! hyper's client drives a connection in a task of its own for as long as a response is read from it, so the one place
//! where it can be ended from outside is below it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::guarded_stream::GuardedStream;

/// The stream fails when `end` resolves. HTTP/2 waits for its peer at any time, so a read is woken then.
pub(crate) fn expiring_stream<S>(end: BoxFuture<'static, ()>, stream: S) -> impl AsyncRead + AsyncWrite + Unpin
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut end = Some(end);
    let read = move |stream: Pin<&mut S>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>| {
        if end.as_mut().is_none_or(|end| end.as_mut().poll(cx).is_ready()) {
            end = None;
            let why = "the trust that this connection was opened with has ended";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, why)));
        }
        stream.poll_read(cx, buffer)
    };
    GuardedStream { stream, read }
}
