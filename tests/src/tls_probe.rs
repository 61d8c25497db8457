//! TLS handshakes that the platform must refuse: with an old version, a foreign CA, or a name that is on no list.

use std::{net::SocketAddr, path::Path, process::Command, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use rustls::{
    AlertDescription, ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// All of it is one machine.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// PROXY protocol 2: signature, version 2 with the command LOCAL, no addresses.
const PROXY_V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

/// Bytes that are sent before TLS begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preamble {
    /// Nothing.
    None,
    /// A PROXY header without addresses.
    Proxy,
    /// PostgreSQL's question whether TLS is spoken.
    Postgres,
}

/// The certificates of a CA file.
///
/// # Errors
/// The file is no certificate.
pub fn root_store(ca_file: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca_file).with_context(|| ca_file.display().to_string())? {
        roots.add(certificate?)?;
    }
    Ok(roots)
}

/// A client that trusts this CA, with the identity in a folder (`certificate.pem`, `key.pem`) or with none.
///
/// # Errors
/// The files are not there.
pub fn client_config(ca_file: &Path, identity: Option<&Path>) -> anyhow::Result<ClientConfig> {
    let builder = ClientConfig::builder().with_root_certificates(root_store(ca_file)?);
    Ok(match identity {
        None => builder.with_no_client_auth(),
        Some(directory) => {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(directory.join("certificate.pem"))?.collect();
            builder.with_client_auth_cert(chain?, PrivateKeyDer::from_pem_file(directory.join("key.pem"))?)?
        }
    })
}

/// Sends a whole request; the alert of a refused certificate comes with the first read (RFC 8446 §4.4.2.4).
///
/// # Errors
/// It was answered, or refused in another way.
pub async fn expect_alert(
    address: SocketAddr,
    name: &str,
    path: &str,
    client: ClientConfig,
    alert: AlertDescription,
) -> anyhow::Result<()> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned())?;
    let mut stream = TlsConnector::from(Arc::new(client)).connect(name, tcp).await?;
    // Refused already, perhaps; then the read says why.
    let _ = stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
    let Err(error) = stream.read_u8().await else { bail!("it was answered") };
    let read = error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>());
    ensure!(read == Some(&rustls::Error::AlertReceived(alert)), "it read {error} and not {alert:?}");
    Ok(())
}

/// The port speaks TLS 1.3 with a certificate that the CA `platform_ca` has signed for one of these names; it refuses TLS 1.2; and a
/// client that trusts only `foreign` stops.
///
/// # Errors
/// One of these is not so.
pub async fn expect_only_tls_1_3(
    address: SocketAddr,
    preamble: Preamble,
    names: &[String],
    platform_ca: &Path,
    foreign: &Path,
) -> anyhow::Result<()> {
    let mut reason_of_last = anyhow::anyhow!("no name was given");
    let mut right = None;
    for name in names {
        match handshake(address, preamble, name, &[&TLS13], platform_ca).await {
            Ok(_) => right = Some(name),
            Err(error) => reason_of_last = error.context(format!("as {name}")),
        }
    }
    let Some(name) = right else {
        return Err(reason_of_last.context("TLS 1.3 with a certificate of the platform's CA"));
    };
    let old = handshake(address, preamble, name, &[&TLS12], platform_ca).await.err().context("it speaks TLS 1.2")?;
    let refusal = rustls::Error::AlertReceived(AlertDescription::ProtocolVersion);
    ensure!(tls_error(&old) == Some(&refusal), "TLS 1.2 ended otherwise than by its version: {old:#}");
    let unknown = handshake(address, preamble, name, &[&TLS13], foreign).await.err();
    let unknown = unknown.context("a client that does not trust that CA went on")?;
    let is_distrust = matches!(tls_error(&unknown), Some(rustls::Error::InvalidCertificate(_)));
    ensure!(is_distrust, "it stopped for another reason: {unknown:#}");
    Ok(())
}

/// The certificate that a server shows a client that trusts this CA and asks for `name`.
///
/// # Errors
/// The client does not accept it.
pub async fn accepted_leaf(address: SocketAddr, name: &str, ca_file: &Path) -> anyhow::Result<CertificateDer<'static>> {
    let stream = handshake(address, Preamble::None, name, &[&TLS13], ca_file).await?;
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).context("it shows none")?;
    Ok(leaf.clone().into_owned())
}

fn tls_error(error: &anyhow::Error) -> Option<&rustls::Error> {
    error.downcast_ref::<std::io::Error>()?.get_ref()?.downcast_ref()
}

/// What `sslscan` finds, which tries the versions that no library speaks any more.
///
/// # Errors
/// It found more than TLS 1.3, or not even that.
pub fn sslscan_finds_only_1_3(address: SocketAddr, preamble: Preamble) -> anyhow::Result<()> {
    let starttls = (preamble == Preamble::Postgres).then_some("--starttls-psql");
    let mut sslscan = Command::new("sslscan");
    let output = sslscan.arg("--no-colour").args(starttls).arg(address.to_string()).output().context("sslscan")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for version in ["SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1", "TLSv1.2"] {
        let line = said.lines().find(|line| line.starts_with(version)).context(version)?;
        ensure!(line.contains("disabled"), "{line}");
    }
    ensure!(said.lines().any(|line| line.starts_with("TLSv1.3") && line.contains("enabled")), "{said}");
    let ciphers: Vec<_> = said.lines().filter(|line| is_cipher(line)).collect();
    ensure!(!ciphers.is_empty() && ciphers.iter().all(|line| line.contains("TLSv1.3")), "{ciphers:?}");
    Ok(())
}

fn is_cipher(line: &str) -> bool {
    line.starts_with("Preferred") || line.starts_with("Accepted")
}

async fn handshake(
    address: SocketAddr,
    preamble: Preamble,
    name: &str,
    versions: &[&'static SupportedProtocolVersion],
    ca_file: &Path,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let client = builder.with_protocol_versions(versions)?.with_root_certificates(root_store(ca_file)?);
    let connector = TlsConnector::from(Arc::new(client.with_no_client_auth()));
    let name = ServerName::try_from(name.to_owned())?;
    timeout(HANDSHAKE_TIMEOUT, async {
        let mut tcp = TcpStream::connect(address).await?;
        preamble.send(&mut tcp).await?;
        Ok(connector.connect(name, tcp).await?)
    })
    .await
    .context("no handshake in time")?
}

// === impl Preamble ===

impl Preamble {
    async fn send(self, tcp: &mut TcpStream) -> anyhow::Result<()> {
        match self {
            Self::None => {}
            Self::Proxy => tcp.write_all(PROXY_V2_LOCAL).await?,
            Self::Postgres => {
                tcp.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await?;
                ensure!(tcp.read_u8().await? == b'S', "PostgreSQL speaks no TLS");
            }
        }
        Ok(())
    }
}
