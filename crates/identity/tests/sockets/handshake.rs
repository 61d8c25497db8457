//! One handshake between two configurations, and what each side saw of it.

use std::{io, path::Path, sync::Arc};

use identity::{Identity, IdentityConfig, PeerList};
use rustls::{ClientConfig, NamedGroup, ProtocolVersion, RootCertStore, ServerConfig, crypto::CryptoProvider};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tempfile::TempDir;
use testkit::ca::{Ca, Leaf};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What both sides saw. The client's view is its first read: in TLS 1.3 it learns only there that it was refused.
pub(crate) struct HandshakeResult {
    pub(crate) server: io::Result<Agreed>,
    pub(crate) client: io::Result<Agreed>,
}

#[derive(Debug)]
pub(crate) struct Agreed {
    pub(crate) version: Option<ProtocolVersion>,
    pub(crate) group: Option<NamedGroup>,
    pub(crate) alpn: Option<Vec<u8>>,
    pub(crate) peer: Vec<CertificateDer<'static>>,
    pub(crate) tickets: u32,
}

impl HandshakeResult {
    /// Both sides refused: the client by an alert, not by a connection that just ended.
    pub(crate) fn is_refused_with(&self, alert: &str) -> bool {
        let is_alerted = self.client.as_ref().is_err_and(|error| error.to_string().contains(alert));
        self.server.is_err() && is_alerted
    }
}

/// Runs one handshake over loopback.
pub(crate) async fn shake(server: Arc<ServerConfig>, client: Arc<ClientConfig>, name: &str) -> HandshakeResult {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut stream = match TlsAcceptor::from(server).accept(tcp).into_fallible().await {
            Ok(stream) => stream,
            Err((error, mut tcp)) => {
                // Hear the client out, or the reset that follows a close with unread bytes overtakes the alert.
                tcp.shutdown().await?;
                tcp.read_to_end(&mut Vec::new()).await?;
                return Err(error);
            }
        };
        stream.write_all(b"!").await?;
        let session = stream.get_ref().1;
        Ok(Agreed {
            version: session.protocol_version(),
            group: session.negotiated_key_exchange_group().map(|group| group.name()),
            alpn: session.alpn_protocol().map(<[u8]>::to_vec),
            peer: session.peer_certificates().unwrap_or_default().to_vec(),
            tickets: 0,
        })
    });
    let client = dial(address, client, name).await;
    HandshakeResult { server: accepting.await.unwrap(), client }
}

async fn dial(address: std::net::SocketAddr, config: Arc<ClientConfig>, name: &str) -> io::Result<Agreed> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut stream = TlsConnector::from(config).connect(name, tcp).await?;
    let mut first = [0];
    stream.read_exact(&mut first).await?;
    let session = stream.get_ref().1;
    Ok(Agreed {
        version: session.protocol_version(),
        group: session.negotiated_key_exchange_group().map(|group| group.name()),
        alpn: session.alpn_protocol().map(<[u8]>::to_vec),
        peer: session.peer_certificates().unwrap_or_default().to_vec(),
        tickets: session.tls13_tickets_received(),
    })
}

/// An identity of its own directory, which lives as long as the test.
pub(crate) fn identity(ca: &Ca, service: &str) -> (Arc<Identity>, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    ca.issue(service, &format!("{service}-1"), directory.path());
    (load(directory.path()), directory)
}

pub(crate) fn load(directory: &Path) -> Arc<Identity> {
    Identity::load(&IdentityConfig { directory: directory.to_owned() }).unwrap()
}

pub(crate) fn peers(services: &[&str]) -> PeerList {
    let services = services.iter().map(|service| (*service).to_owned()).collect();
    PeerList::new([("/".to_owned(), services)].into()).unwrap()
}

/// A client that presents any leaf at all, and trusts the CA as it should.
pub(crate) fn client_with(ca: &Ca, signed_by: &Ca, leaf: &Leaf) -> Arc<ClientConfig> {
    let directory = tempfile::tempdir().unwrap();
    signed_by.issue_leaf(leaf, directory.path());
    let (chain, key) = pair(directory.path());
    let config = client_builder(identity::crypto_provider(), ca).with_client_auth_cert(chain, key).unwrap();
    Arc::new(config)
}

/// A server that presents any leaf at all, and asks for no certificate.
pub(crate) fn server_with(signed_by: &Ca, leaf: &Leaf) -> Arc<ServerConfig> {
    let directory = tempfile::tempdir().unwrap();
    signed_by.issue_leaf(leaf, directory.path());
    let (chain, key) = pair(directory.path());
    let mut config = ServerConfig::builder_with_provider(identity::crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// A client's builder up to its own certificate.
pub(crate) fn client_builder(
    provider: Arc<CryptoProvider>,
    ca: &Ca,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
}

/// rustls as it comes, but for the suites of TLS 1.3: what an old client offers.
pub(crate) fn tls12_provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.tls13().is_none());
    Arc::new(provider)
}

fn pair(directory: &Path) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_file_iter(directory.join("certificate.pem")).unwrap().map(Result::unwrap).collect();
    (chain, PrivateKeyDer::from_pem_file(directory.join("key.pem")).unwrap())
}
