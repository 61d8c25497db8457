//! A TLS connection into which a test writes whatever it likes.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::world::{Platform, SOON};

pub struct Raw(pub TlsStream<TcpStream>);

/// A client's TLS configuration that trusts the platform's CA.
pub fn config(
    platform: &Platform,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&[u8]],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(platform.world.ca.pem().as_bytes()).unwrap()).unwrap();
    // All of rustls, not what the services install: a client may be any program.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

pub async fn connect(address: SocketAddr) -> TcpStream {
    timeout(SOON, TcpStream::connect(address)).await.unwrap().unwrap()
}

pub async fn tls_handshake(tcp: TcpStream, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").unwrap();
    timeout(SOON, TlsConnector::from(config).connect(name, tcp)).await.unwrap()
}

/// An HTTP/2 connection to this front.
pub async fn http2(platform: &Platform, front: SocketAddr) -> h2::client::SendRequest<Bytes> {
    let config = config(platform, &[&rustls::version::TLS13], &[b"h2"]);
    let stream = tls_handshake(connect(front).await, config).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    // It ends with the test.
    tokio::spawn(connection);
    sender
}

impl Raw {
    pub async fn open(platform: &Platform) -> Self {
        Self::open_at(platform, platform.balancer.front).await
    }

    /// A connection to this front.
    pub async fn open_at(platform: &Platform, front: SocketAddr) -> Self {
        let config = config(platform, &[&rustls::version::TLS13], &[b"http/1.1"]);
        Self(tls_handshake(connect(front).await, config).await.unwrap())
    }

    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// Everything until the server closes.
    pub async fn read_to_end(&mut self) -> String {
        let mut received = Vec::new();
        // A close without close_notify is a close too.
        let _ = timeout(SOON, self.0.read_to_end(&mut received)).await.expect("the server closes");
        String::from_utf8_lossy(&received).into_owned()
    }

    /// One response with a `content-length`, leaving the connection open.
    pub async fn read_response(&mut self) -> String {
        let mut received = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&received).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
                if body.len() >= length.unwrap_or(0) {
                    return text;
                }
            }
            let read = timeout(SOON, self.0.read_buf(&mut received)).await.expect("the server answers").unwrap();
            assert!(read > 0, "closed in the middle of {text:?}");
        }
    }

    /// Writes, and returns the whole answer of a server that closes.
    pub async fn exchange(platform: &Platform, request: impl AsRef<[u8]>) -> String {
        let mut raw = Self::open(platform).await;
        raw.write(request).await;
        raw.read_to_end().await
    }
}
