//! From a list of addresses to one verified connection.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use identity::certificate_not_after;
use rustls_pki_types::ServerName;
use time::OffsetDateTime;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::metrics::{self, Connect};

const H2: &[u8] = b"h2";
/// For TCP and TLS together, to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one address may keep silent before the next is tried beside it: a frozen host accepts and never replies.
const NEXT_ADDRESS_DELAY: Duration = Duration::from_millis(200);

/// Connects to the first address that completes a handshake, starting with another one each time.
pub(crate) struct Connector {
    service: String,
    addresses: Vec<String>,
    server_name: Option<ServerName<'static>>,
    tls: TlsConnector,
    first: AtomicUsize,
}

/// Why a service could not be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// No address was configured.
    #[error("no address is known for {0}")]
    NoAddress(String),
    /// Not the name of a service.
    #[error("{0:?} is not the name of a service")]
    Service(String),
    /// TCP or TLS failed.
    #[error("cannot reach {service} at {address}")]
    Failed {
        /// The service.
        service: String,
        /// The address.
        address: String,
        /// The cause.
        source: io::Error,
    },
    /// HTTP/2 failed before the first call.
    #[error("connection ended at once")]
    Http(#[source] hyper::Error),
    /// The runtime is going down.
    #[error("connecting was interrupted")]
    Interrupted,
}

/// What was connected, and when the certificate of the other side ends.
type ServerConnection = (TlsStream<TcpStream>, OffsetDateTime);

// === impl Connector ===

impl Connector {
    pub(crate) fn new(service: &str, addresses: &[String], config: Arc<rustls::ClientConfig>, first: usize) -> Self {
        Self {
            service: service.to_owned(),
            addresses: addresses.to_vec(),
            server_name: ServerName::try_from(identity::dns_name(service)).ok(),
            tls: TlsConnector::from(config),
            first: AtomicUsize::new(first),
        }
    }

    pub(crate) async fn connect(&self) -> Result<ServerConnection, ConnectError> {
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
            // The delay matters only while there is an address to try next.
            let delay = if started { NEXT_ADDRESS_DELAY } else { CONNECT_TIMEOUT };
            match timeout(delay, attempts.next()).await {
                Ok(Some(Ok(connection))) => return Ok(connection),
                Ok(Some(Err(error))) => failure = error,
                Ok(None) | Err(_) => {}
            }
        }
    }

    async fn dial(&self, address: &str, server_name: &ServerName<'static>) -> Result<ServerConnection, ConnectError> {
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

    async fn handshake(&self, address: &str, server_name: &ServerName<'static>) -> io::Result<ServerConnection> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let stream = self.tls.connect(server_name.clone(), tcp).await?;
        let session = stream.get_ref().1;
        if session.alpn_protocol() != Some(H2) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "server does not speak HTTP/2"));
        }
        let leaf = session.peer_certificates().and_then(<[_]>::first).ok_or(io::ErrorKind::InvalidData)?;
        let not_after = certificate_not_after(leaf).map_err(io::Error::other)?;
        Ok((stream, not_after))
    }
}
