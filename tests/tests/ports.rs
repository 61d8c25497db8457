//! Proves what every port of a platform answers to strangers: nothing but TLS 1.3, and on the inner ones no handshake
//! that lasts without a certificate of ours and a name on the list.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, ensure};
use authority::{Authority, Leaf};
use end_to_end::{
    platform::Platform,
    request::{Protocol, Server, Template},
};
use http::Method;
use identity::{Identity, IdentityConfig, PeerName};
use rustls::{ClientConfig, NamedGroup, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A listener that wants a client certificate.
struct Inner {
    instance: String,
    service: String,
    address: SocketAddr,
    is_admin: bool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_port_speaks_tls_1_3_only_and_inner_ports_only_with_listed_peers() {
    let platform = Platform::start(&[]).unwrap();
    let inner = inner_listeners(&platform);
    assert_eq!(inner.len(), 13, "every service's listener and every admin listener is looked at");

    let front = platform.front_address().unwrap();
    for address in inner.iter().map(|listener| listener.address).chain([front]) {
        assert_tls_1_3_only(address, &[]);
    }
    assert_tls_1_3_only(platform.state().database, &["-starttls", "postgres"]);
    assert_sslscan(front);
    assert_hybrid_group(front, &platform.state().ca_file).await.unwrap();

    let strangers = Strangers::make(&platform);
    for listener in &inner {
        let before = requests_handled(&platform, listener).await;
        assert_refused(&platform, listener, None).await.unwrap();
        assert_refused(&platform, listener, Some(&strangers.foreign)).await.unwrap();
        assert_refused(&platform, listener, Some(&platform.state().identities.join("postgres-1"))).await.unwrap();
        let after = requests_handled(&platform, listener).await;
        assert_eq!(before, after, "a stranger's request reached a handler of {}", listener.instance);
        // The instrument works: who is on the list gets an answer.
        assert!(answer(&platform, listener, Some(&listed_peer(&platform, listener))).await.is_ok());
    }
}

fn inner_listeners(platform: &Platform) -> Vec<Inner> {
    let mut inner = Vec::new();
    for (instance, listeners) in &platform.state().listeners {
        let service = instance.rsplit_once('-').unwrap().0.to_owned();
        let mut add = |address, is_admin| {
            inner.push(Inner { instance: instance.clone(), service: service.clone(), address, is_admin });
        };
        add(listeners.admin, true);
        if service != "balancer" {
            add(listeners.main, false);
        }
    }
    inner
}

/// Identities that no server of the platform may accept.
struct Strangers {
    foreign: PathBuf,
    _directory: tempfile::TempDir,
}

// === impl Strangers ===

impl Strangers {
    fn make(platform: &Platform) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let foreign = directory.path().join("foreign");
        let now = SystemTime::now().into();
        let name = PeerName { service: "balancer".into(), instance: "balancer-1".into() };
        let leaf = Leaf::new(name, now, Duration::from_secs(3600).try_into().unwrap());
        Authority::generate(now).unwrap().issue(&leaf, &foreign).unwrap();
        // It trusts the platform, so that only the server can refuse.
        std::fs::copy(&platform.state().ca_file, foreign.join("platform-ca.pem")).unwrap();
        Self { foreign, _directory: directory }
    }
}

fn listed_peer(platform: &Platform, listener: &Inner) -> PathBuf {
    platform.state().identities.join(if listener.is_admin { "operator-1" } else { "balancer-1" })
}

/// Tries a request; the TLS alert of a refused certificate comes with the first read (RFC 8446 §4.4.2.4).
async fn answer(platform: &Platform, listener: &Inner, identity: Option<&Path>) -> anyhow::Result<http::StatusCode> {
    let roots = trust(&platform.state().ca_file)?;
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let mut tls = match identity {
        None => builder.with_no_client_auth(),
        Some(directory) => {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(directory.join("certificate.pem"))?.collect();
            let key = rustls_pki_types::PrivateKeyDer::from_pem_file(directory.join("key.pem"))?;
            builder.with_client_auth_cert(chain?, key)?
        }
    };
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(format!("{}.rampart.internal", listener.service))?;
    let server = Server { address: listener.address, name, tls: Some(Arc::new(tls)), protocol: Protocol::Http2 };
    let path = if listener.is_admin { "/live" } else { "/v2" };
    Ok(server.connect().await?.call(&Template::json(Method::GET, path, None, "")?).await?.status)
}

async fn assert_refused(platform: &Platform, listener: &Inner, identity: Option<&Path>) -> anyhow::Result<()> {
    let outcome = answer(platform, listener, identity).await;
    ensure!(outcome.is_err(), "{} answered {:?} to {identity:?}", listener.instance, outcome.ok());
    Ok(())
}

/// The sum of a service's request counters, read from its admin port as an operator.
async fn requests_handled(platform: &Platform, listener: &Inner) -> f64 {
    let identity =
        Identity::load(&IdentityConfig { directory: platform.state().identities.join("operator-1") }).unwrap();
    let server = Server {
        address: platform.state().listeners[&listener.instance].admin,
        name: ServerName::try_from(format!("{}.rampart.internal", listener.service)).unwrap(),
        tls: Some(identity.client_config(&listener.service)),
        protocol: Protocol::Http2,
    };
    let template = Template::json(Method::GET, "/metrics", None, "").unwrap();
    let answer = server.connect().await.unwrap().call(&template).await.unwrap();
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(text.contains("ml_build_info"), "metrics of {}: {text}", listener.instance);
    // Health checks and scrapes go on meanwhile, and are of peers on the list.
    let background = ["/grpc.health.v1.Health/", "/rampart.", "/metrics", "/live", "/ready"];
    let name = format!("ml_{}_requests_total", listener.service);
    let counters =
        text.lines().filter(|line| line.starts_with(&name) && !background.iter().any(|path| line.contains(path)));
    counters.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn assert_tls_1_3_only(address: SocketAddr, extra: &[&str]) {
    let speaks = |version: &str| {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-brief", "-connect", &address.to_string(), version]).args(extra);
        let output = command.stdin(std::process::Stdio::null()).output().expect("openssl is installed");
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&said).contains("Protocol version: TLSv1")
    };
    assert!(speaks("-tls1_3"), "{address} does not speak TLS 1.3");
    assert!(!speaks("-tls1_2"), "{address} speaks TLS 1.2");
}

fn assert_sslscan(address: SocketAddr) {
    let output =
        Command::new("sslscan").args(["--no-colour", &address.to_string()]).output().expect("sslscan is installed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for version in ["SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1", "TLSv1.2"] {
        let line = said.lines().find(|line| line.starts_with(version)).unwrap_or(version);
        assert!(line.contains("disabled"), "{line}: {said}");
    }
    assert!(said.lines().any(|line| line.starts_with("TLSv1.3") && line.contains("enabled")), "{said}");
}

/// A client that offers nothing but the hybrid group gets through.
async fn assert_hybrid_group(front: SocketAddr, ca_file: &Path) -> anyhow::Result<()> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768];
    let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions()?;
    let tls = builder.with_root_certificates(trust(ca_file)?).with_no_client_auth();
    let tcp = TcpStream::connect(front).await?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(ServerName::try_from("localhost")?, tcp).await?;
    let group = stream.get_ref().1.negotiated_key_exchange_group().context("no group")?.name();
    ensure!(group == NamedGroup::X25519MLKEM768, "negotiated {group:?}");
    Ok(())
}

fn trust(ca_file: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca_file)? {
        roots.add(certificate?)?;
    }
    Ok(roots)
}
