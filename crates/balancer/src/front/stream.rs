//! A client's TLS connection as the stream that pingora takes.

use std::{
    fmt, io,
    os::fd::AsRawFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use bytes::BytesMut;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    l4::socket::SocketAddr as PingoraAddr, raw_connect::ProxyDigest,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    connection_limits::ConnectionPermit,
    half_close::{Check, HalfClose, PROBE},
    head::Head,
};
use crate::{connection::Connection, linger::Linger};

/// pingora writes head and body apart; together they fit one TLS record and one packet.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;
/// How long a client may take to take the end of a connection.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// What is read at once of a request that is answered already.
const LINGER_BUFFER_BYTES: usize = 16 * 1024;
/// What is read of the next request while one is in flight.
const PIPELINED_BYTES: usize = 512;

type Inner = BufWriter<TlsStream<TcpStream>>;

/// The stream, the limits that it counts against, and what an orderly close needs.
pub(super) struct FrontStream {
    /// Only `None` while dropping.
    inner: Option<Inner>,
    digest: Arc<SocketDigest>,
    id: i32,
    has_unread_body: bool,
    /// What the client sent after the request in flight: the next one, which pingora must not read before its head was
    /// checked.
    pipelined: BytesMut,
    /// Bytes of the body that are still to come; `None` while only their reader knows where it ends.
    body_left: Option<u64>,
    linger: Option<LingerContext>,
    connection: Arc<Connection>,
    /// A request of HTTP/1.1 is in flight, and how far it has come.
    exchange: Option<Exchange>,
    half_close: Option<HalfClose>,
    /// The client's next bytes are awaited.
    is_read_pending: bool,
}

#[derive(Default)]
struct Exchange {
    is_answer_begun: bool,
}

/// What it takes to close a connection after the stream itself was dropped.
pub(super) struct LingerContext {
    pub(super) tracker: TaskTracker,
    pub(super) permit: ConnectionPermit,
    /// Ends it at once.
    pub(super) abort: CancellationToken,
}

// === impl FrontStream ===

impl FrontStream {
    /// A stream whose handshake is done.
    pub(super) fn new(stream: TlsStream<TcpStream>, connection: &Arc<Connection>, linger: LingerContext) -> Self {
        let id = stream.get_ref().0.as_raw_fd();
        let digest = SocketDigest::from_raw_fd(id);
        // The cell is new, so this address stays; pingora would ask the socket, which knows only the last hop.
        let _ = digest.peer_addr.set(Some(PingoraAddr::Inet(connection.client)));
        Self {
            inner: Some(BufWriter::with_capacity(WRITE_BUFFER_BYTES, stream)),
            digest: Arc::new(digest),
            id,
            has_unread_body: false,
            pipelined: BytesMut::new(),
            body_left: None,
            linger: Some(linger),
            connection: Arc::clone(connection),
            exchange: None,
            half_close: None,
            is_read_pending: false,
        }
    }

    /// The stream ends after this, and bytes of the client may still be on their way: a drop ends the answer, then reads on
    /// for a moment. Closing a socket with unread bytes sends a reset, and the client would lose the answer with it.
    pub(super) fn set_unread_body(&mut self) {
        self.has_unread_body = true;
    }

    /// Hands out one request whose head was found at the start of `received`: what is beyond it stays, there and on the
    /// wire, so that its reader can read nothing of the next.
    pub(super) fn begin_request(&mut self, received: &mut BytesMut, head: &Head) {
        self.has_unread_body = head.has_body();
        self.exchange = Some(Exchange::default());
        self.connection.set_request_received(!head.has_body());
        self.body_left = head.body_bytes.map(|bytes| {
            let beyond_head = received.len().saturating_sub(head.length);
            let here = usize::try_from(bytes).unwrap_or(usize::MAX).min(beyond_head);
            self.pipelined = received.split_off(head.length.saturating_add(here).min(received.len()));
            bytes.saturating_sub(u64::try_from(here).unwrap_or(u64::MAX))
        });
    }

    /// The request is over. Returns what was received of the next one.
    pub(super) fn end_request(&mut self) -> BytesMut {
        self.has_unread_body = false;
        self.body_left = None;
        self.exchange = None;
        std::mem::take(&mut self.pipelined)
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>, left: u64) -> Poll<io::Result<()>> {
        let left_here = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.remaining());
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(left_here));
        ready!(self.inner()?.poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buffer.advance(read);
        self.body_left = Some(left.saturating_sub(u64::try_from(read).unwrap_or(u64::MAX)));
        Poll::Ready(Ok(()))
    }

    /// After the end of a request its reader only wants to know whether the client has left.
    fn poll_pipelined(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.pipelined.is_empty() {
            // It has not. More cannot be learnt: the reader waits for other events.
            return Poll::Pending;
        }
        let mut bytes = [0; PIPELINED_BYTES];
        let mut part = ReadBuf::new(&mut bytes);
        ready!(self.inner()?.poll_read(cx, &mut part))?;
        self.pipelined.extend_from_slice(part.filled());
        if self.pipelined.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// All of a request was read, and then the end of the client's side. Until the answer is written this is not the end of the
    /// connection, which a reader of no bytes would take it for, unless the client has left.
    fn poll_half_closed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let (Some(inner), Some(half_close)) = (&self.inner, &mut self.half_close) else {
                return Poll::Ready(Ok(()));
            };
            let check = ready!(half_close.poll_check(cx, inner.get_ref().get_ref().0));
            let is_answer_begun = self.exchange.as_ref().is_none_or(|exchange| exchange.is_answer_begun);
            match check {
                Check::Gone => return Poll::Ready(Ok(())),
                // Once there is an answer, writing it shows the same.
                Check::Probe if !is_answer_begun => {
                    let mut inner = self.inner()?;
                    if let Poll::Ready(Err(_)) = inner.as_mut().poll_write(cx, PROBE) {
                        return Poll::Ready(Ok(()));
                    }
                    if let Poll::Ready(Err(_)) = inner.poll_flush(cx) {
                        return Poll::Ready(Ok(()));
                    }
                }
                Check::Probe | Check::Wait => {}
            }
        }
    }

    /// Whether the end of the client's side, if it comes now, comes after the whole of a request.
    fn is_request_received(&self) -> bool {
        self.exchange.is_some() && (self.body_left == Some(0) || self.connection.is_request_received())
    }

    fn record_written(&mut self, bytes: &[u8]) {
        // An answer that is only on its way (1xx) is none yet.
        if let Some(exchange) = &mut self.exchange
            && !bytes.starts_with(b"HTTP/1.1 1")
        {
            exchange.is_answer_begun = true;
        }
    }

    fn inner(&mut self) -> io::Result<Pin<&mut Inner>> {
        self.inner.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for FrontStream {
    fn drop(&mut self) {
        let (Some(mut inner), Some(context)) = (self.inner.take(), self.linger.take()) else { return };
        let LingerContext { tracker, permit, abort } = context;
        let is_all_read = !self.has_unread_body && self.pipelined.is_empty();
        if is_all_read || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        tracker.spawn(async move {
            let read_on = async {
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, inner.shutdown()).await;
                let (mut linger, mut buffer) = (Linger::begin(), vec![0; LINGER_BUFFER_BYTES]);
                while linger.goes_on_after(async { inner.read(&mut buffer).await.unwrap_or(0) }).await {}
            };
            // The connection ends here in any case; it counts against the limits until then.
            abort.run_until_cancelled(read_on).await;
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
        if self.half_close.is_some() && self.is_request_received() {
            return self.poll_half_closed(cx);
        }
        let filled = buffer.filled().len();
        let read = match self.body_left {
            None => self.inner()?.poll_read(cx, buffer),
            Some(0) => self.poll_pipelined(cx),
            Some(left) => self.poll_body(cx, buffer, left),
        };
        let is_end = matches!(read, Poll::Ready(Ok(()))) && buffer.filled().len() == filled;
        if is_end && self.is_request_received() {
            self.connection.record_half_close();
            self.half_close = Some(HalfClose::begin());
            return self.poll_half_closed(cx);
        }
        // Bytes that were not awaited may have been here for long, without being read.
        if std::mem::replace(&mut self.is_read_pending, read.is_pending()) && read.is_ready() {
            self.connection.record_arrival();
        }
        read
    }
}

impl AsyncWrite for FrontStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.record_written(buffer);
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
        self.record_written(buffers.first().map_or(&[], |first| first));
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
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, inner.shutdown()).await;
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
