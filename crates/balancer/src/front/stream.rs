//! A client's TLS connection in the shape that pingora wants.

use std::{
    fmt, io,
    os::fd::AsRawFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    l4::socket::SocketAddr as PingoraAddr, raw_connect::ProxyDigest,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;

use super::connections::{Connection, Permit};

/// pingora writes head and body apart; together they fit one TLS record and one packet.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;
/// How long, and for how many bytes, we listen on after an answer that came before the end of the request.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: u64 = 1024 * 1024;

type Inner = BufWriter<TlsStream<TcpStream>>;

/// The stream, what it counts against, and how to leave it in good order.
pub(super) struct FrontStream {
    /// Only `None` while dropping.
    inner: Option<Inner>,
    digest: Arc<SocketDigest>,
    id: i32,
    is_body_pending: bool,
    farewell: Option<Farewell>,
}

/// What it takes to close a connection after the stream itself was dropped.
struct Farewell {
    tracker: TaskTracker,
    permit: Permit,
}

// === impl FrontStream ===

impl FrontStream {
    /// A stream whose handshake is done.
    pub(super) fn new(
        stream: TlsStream<TcpStream>,
        connection: &Connection,
        permit: Permit,
        tracker: TaskTracker,
    ) -> Self {
        let id = stream.get_ref().0.as_raw_fd();
        let digest = SocketDigest::from_raw_fd(id);
        // The cell is new, so the address is ours; pingora would ask the socket, which knows only the last hop.
        let _ = digest.peer_addr.set(Some(PingoraAddr::Inet(connection.client)));
        Self {
            inner: Some(BufWriter::with_capacity(WRITE_BUFFER_BYTES, stream)),
            digest: Arc::new(digest),
            id,
            is_body_pending: false,
            farewell: Some(Farewell { tracker, permit }),
        }
    }

    /// Says whether bytes of a request may still be on their way. If so, a drop answers, then listens on for a moment:
    /// closing a socket with unread bytes sends a reset, and the client would lose the answer with it.
    pub(super) fn set_body_pending(&mut self, is_pending: bool) {
        self.is_body_pending = is_pending;
    }

    fn inner(&mut self) -> io::Result<Pin<&mut Inner>> {
        self.inner.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for FrontStream {
    fn drop(&mut self) {
        let (Some(mut inner), Some(Farewell { tracker, permit })) = (self.inner.take(), self.farewell.take()) else {
            return;
        };
        if !self.is_body_pending || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        tracker.spawn(async move {
            let linger = async {
                inner.shutdown().await?;
                tokio::io::copy(&mut inner.take(LINGER_BYTES_MAX), &mut tokio::io::sink()).await
            };
            // Whatever comes of it, the connection ends here; its place counts until then.
            let _ = tokio::time::timeout(LINGER, linger).await;
            drop(permit);
        });
    }
}

impl fmt::Debug for FrontStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrontStream").field("client", &self.digest.peer_addr.get()).finish_non_exhaustive()
    }
}

impl AsyncRead for FrontStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.inner()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for FrontStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.inner()?.poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner()?.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner()?.poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}

#[async_trait]
impl Shutdown for FrontStream {
    async fn shutdown(&mut self) {
        let Ok(mut inner) = self.inner() else { return };
        // A client that reads nothing must not hold the connection open.
        let _ = tokio::time::timeout(LINGER, inner.shutdown()).await;
    }
}

impl UniqueID for FrontStream {
    fn id(&self) -> i32 {
        self.id
    }
}

impl GetSocketDigest for FrontStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.digest))
    }
}

impl GetTimingDigest for FrontStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for FrontStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl Ssl for FrontStream {}

impl Peek for FrontStream {}
