//! From a list of addresses to one verified connection.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::Service;

use crate::metrics::{self, Connect};

const H2: &[u8] = b"h2";
/// For TCP and TLS together, to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one address may keep silent before the next is tried beside it: a frozen host accepts and never answers.
const HEAD_START: Duration = Duration::from_millis(200);

/// Connects to the first address that completes a handshake, starting with another one each time.
#[derive(Clone)]
pub(crate) struct Connector {
    shared: Arc<Shared>,
}

struct Shared {
    service: String,
    addresses: Vec<String>,
    server_name: Option<ServerName<'static>>,
    tls: TlsConnector,
    first: AtomicUsize,
}

/// Why a service could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No address was configured.
    #[error("no address is known for {0}")]
    NoAddress(String),
    /// Not the name of a service.
    #[error("{0:?} is not the name of a service")]
    Service(String),
    /// TCP or TLS failed.
    #[error("cannot reach {service} at {address}")]
    Failed {
        /// Whom.
        service: String,
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
}

type Connection = TokioIo<TlsStream<TcpStream>>;

// === impl Connector ===

impl Connector {
    pub(crate) fn new(service: &str, addresses: &[String], config: Arc<rustls::ClientConfig>, first: usize) -> Self {
        let server_name = ServerName::try_from(identity::dns_name(service)).ok();
        let shared = Shared {
            service: service.to_owned(),
            addresses: addresses.to_vec(),
            server_name,
            tls: TlsConnector::from(config),
            first: AtomicUsize::new(first),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl Service<Uri> for Connector {
    type Response = Connection;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Connection, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    /// The address in the URI is not asked: it only names the service.
    fn call(&mut self, _uri: Uri) -> Self::Future {
        let shared = self.shared.clone();
        Box::pin(async move { shared.connect().await })
    }
}

// === impl Shared ===

impl Shared {
    async fn connect(&self) -> Result<Connection, ConnectError> {
        let Some(server_name) = &self.server_name else {
            return Err(ConnectError::Service(self.service.clone()));
        };
        let first = self.first.fetch_add(1, Ordering::Relaxed);
        let in_turn = self.addresses.iter().cycle().skip(first % self.addresses.len().max(1));
        let mut untried = in_turn.take(self.addresses.len());
        let mut attempts = FuturesUnordered::new();
        let mut failure = ConnectError::NoAddress(self.service.clone());
        loop {
            let started = untried.next().map(|address| attempts.push(self.dial(address, server_name))).is_some();
            if attempts.is_empty() {
                return Err(failure);
            }
            // The head start matters only while there is somebody to start next.
            let head_start = if started { HEAD_START } else { CONNECT_TIMEOUT };
            match timeout(head_start, attempts.next()).await {
                Ok(Some(Ok(connection))) => return Ok(connection),
                Ok(Some(Err(error))) => failure = error,
                Ok(None) | Err(_) => {}
            }
        }
    }

    async fn dial(&self, address: &str, server_name: &ServerName<'static>) -> Result<Connection, ConnectError> {
        let dialled = match timeout(CONNECT_TIMEOUT, self.handshake(address, server_name)).await {
            Ok(dialled) => dialled,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {CONNECT_TIMEOUT:?}"))),
        };
        let outcome = if dialled.is_ok() { Connect::Completed } else { Connect::Failed };
        metrics::count_connect(&self.service, outcome);
        dialled.map_err(|source| ConnectError::Failed {
            service: self.service.clone(),
            address: address.to_owned(),
            source,
        })
    }

    async fn handshake(&self, address: &str, server_name: &ServerName<'static>) -> io::Result<Connection> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let stream = self.tls.connect(server_name.clone(), tcp).await?;
        if stream.get_ref().1.alpn_protocol() != Some(H2) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "server does not speak HTTP/2"));
        }
        Ok(TokioIo::new(stream))
    }
}
