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

/// A stream that fails once its time is over.
pub(crate) struct ExpiringStream<S> {
    stream: S,
    /// Gone when it is over.
    end: Option<BoxFuture<'static, ()>>,
}

// === impl ExpiringStream ===

impl<S> ExpiringStream<S> {
    /// The stream fails when `end` resolves.
    pub(crate) fn until(end: BoxFuture<'static, ()>, stream: S) -> Self {
        Self { stream, end: Some(end) }
    }

    fn has_expired(&mut self, cx: &mut Context<'_>) -> bool {
        if self.end.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready()) {
            self.end = None;
        }
        self.end.is_none()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ExpiringStream<S> {
    /// HTTP/2 waits for its peer at any time, so this is woken at the end.
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.has_expired(cx) {
            let why = "the trust that this connection was opened with has ended";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, why)));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ExpiringStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
