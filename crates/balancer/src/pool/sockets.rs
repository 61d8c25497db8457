//! The kill-switch: every open socket to one replica, to be shut when the replica is declared down.
//!
//! A frozen replica answers nothing and closes nothing; requests in flight on it would wait for their time-outs. Shutting
//! the sockets under pingora makes each of them fail at once with an error that can be retried elsewhere. A duplicate of
//! each socket is kept for this, and dropped with the connection (pingora's tracer tells when).

use std::{
    collections::HashMap,
    io,
    net::{Shutdown, TcpStream as StdStream},
    os::fd::AsFd,
    sync::{Arc, Weak},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::{
    Error, ErrorType, OrErr,
    connectors::L4Connect,
    protocols::l4::{socket::SocketAddr, stream::Stream},
    upstreams::peer::{Tracer, Tracing},
};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Open sockets of one replica. While it is down no new ones are made.
#[derive(Debug, Default)]
pub(super) struct Sockets(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Cancelled while the replica is down, and with it whatever is just connecting.
    closed: CancellationToken,
    next_key: u64,
    open: HashMap<u64, StdStream>,
}

/// Opens connections to a replica and registers them.
#[derive(Debug)]
pub(super) struct Connector(pub Arc<Sockets>);

/// Removes a socket when its connection ends.
#[derive(Clone, Debug)]
struct SocketRegistration {
    key: u64,
    sockets: Weak<Sockets>,
}

// === impl Sockets ===

impl Sockets {
    /// Refuses new sockets, and ends what is just connecting.
    pub(super) fn refuse_new(&self) {
        self.0.lock().closed.cancel();
    }

    /// Cuts every socket, in both directions, and refuses new ones. Returns how many were open.
    pub(super) fn cut_all(&self) -> usize {
        let open = {
            let mut inner = self.0.lock();
            inner.closed.cancel();
            std::mem::take(&mut inner.open)
        };
        for socket in open.values() {
            // It fails if the peer has closed it already.
            let _ = socket.shutdown(Shutdown::Both);
        }
        open.len()
    }

    /// Lets new sockets be made again.
    pub(super) fn reopen(&self) {
        let mut inner = self.0.lock();
        if inner.closed.is_cancelled() {
            inner.closed = CancellationToken::new();
        }
    }

    /// Whether it is down.
    pub(super) fn is_closed(&self) -> bool {
        self.0.lock().closed.is_cancelled()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.lock().open.len()
    }

    fn register(self: &Arc<Self>, stream: &TcpStream) -> io::Result<SocketRegistration> {
        let duplicate = StdStream::from(stream.as_fd().try_clone_to_owned()?);
        let mut inner = self.0.lock();
        if inner.closed.is_cancelled() {
            return Err(is_down());
        }
        let key = inner.next_key;
        inner.next_key += 1;
        inner.open.insert(key, duplicate);
        Ok(SocketRegistration { key, sockets: Arc::downgrade(self) })
    }
}

// === impl Connector ===

#[async_trait]
impl L4Connect for Connector {
    async fn connect(&self, address: &SocketAddr) -> pingora::Result<Stream> {
        let SocketAddr::Inet(address) = address else {
            return Error::e_explain(ErrorType::ConnectError, "upstreams are TCP addresses");
        };
        let closed = self.0.0.lock().closed.clone();
        // The whole of connecting, TLS with it, is under the peer's total time-out.
        let connected = closed.run_until_cancelled(TcpStream::connect(address)).await;
        let stream = connected.unwrap_or_else(|| Err(is_down())).map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
                _ => ErrorType::ConnectError,
            };
            Error::because(kind, "connecting to a replica", error)
        })?;
        let registered = self.0.register(&stream).or_err(ErrorType::ConnectError, "keeping a replica's socket")?;
        let mut stream = Stream::from(stream);
        stream.tracer = Some(Tracer(Box::new(registered)));
        Ok(stream)
    }
}

fn is_down() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "replica is down")
}

// === impl SocketRegistration ===

impl Tracing for SocketRegistration {
    fn on_connected(&self) {}

    fn on_disconnected(&self) {
        if let Some(sockets) = self.sockets.upgrade() {
            sockets.0.lock().open.remove(&self.key);
        }
    }

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpSocket},
        time::timeout,
    };

    use super::*;

    async fn connected() -> (Arc<Sockets>, Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = SocketAddr::Inet(listener.local_addr().unwrap());
        let sockets = Arc::new(Sockets::default());
        let stream = Connector(Arc::clone(&sockets)).connect(&address).await.unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        (sockets, stream, peer)
    }

    /// A read that waits on a silent peer ends when the kill-switch is thrown, and nothing connects until it is reset.
    #[tokio::test]
    async fn shutting_ends_a_waiting_read_at_once() {
        let (sockets, mut stream, peer) = connected().await;
        let address = SocketAddr::Inet(peer.local_addr().unwrap());
        let waiting = tokio::spawn(async move { stream.read(&mut [0; 1]).await });
        assert_eq!(sockets.cut_all(), 1);
        assert_eq!(waiting.await.unwrap().unwrap(), 0);
        drop(peer);
        let listener = TcpListener::bind(address.as_inet().unwrap()).await.unwrap();
        assert!(Connector(Arc::clone(&sockets)).connect(&address).await.is_err());
        sockets.reopen();
        assert!(Connector(Arc::clone(&sockets)).connect(&address).await.is_ok());
        drop(listener);
    }

    /// A host that is gone does not even refuse: a connect in progress need not wait for its time-out either.
    #[tokio::test]
    async fn a_connect_in_progress_ends_at_once() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        // Connections are not accepted, so that the kernel soon leaves the next one unanswered.
        let mut queue = Vec::new();
        while let Ok(connected) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            queue.push(connected.unwrap());
        }
        let sockets = Arc::new(Sockets::default());
        let connector = Connector(Arc::clone(&sockets));
        let address = SocketAddr::Inet(address);
        let mut connecting = std::pin::pin!(connector.connect(&address));
        assert!(futures::poll!(&mut connecting).is_pending());
        sockets.refuse_new();
        assert!(timeout(Duration::from_millis(200), connecting).await.expect("it ends").is_err());
    }

    /// What is open may go on while nothing new is opened.
    #[tokio::test]
    async fn closing_leaves_open_sockets_alone() {
        let (sockets, mut stream, mut peer) = connected().await;
        sockets.refuse_new();
        peer.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        let address = SocketAddr::Inet(peer.local_addr().unwrap());
        assert!(Connector(Arc::clone(&sockets)).connect(&address).await.is_err());
        assert_eq!(sockets.cut_all(), 1);
    }

    /// The duplicate does not keep a connection open that pingora has closed.
    #[tokio::test]
    async fn a_closed_connection_is_deregistered() {
        let (sockets, mut stream, mut peer) = connected().await;
        stream.write_all(b"x").await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(sockets.count(), 1);
        drop(stream);
        assert_eq!(sockets.count(), 0);
        let mut received = Vec::new();
        peer.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"x");
    }
}
