//! Proves that new certificates cost no call: under load, with logins, and past the end of the first ones.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, ensure};
use end_to_end::{
    platform::Platform,
    poll::until,
    recorded_load::{CallKind, RecordedLoad},
    request::Protocol,
    tls_probe::root_store,
};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, interval},
};
use tokio_rustls::TlsConnector;

/// Certificates live 40 s and are renewed every 20; the load sees two renewals and the end of the first ones.
const LIFETIME_S: &str = "40";
const LOAD: Duration = Duration::from_secs(45);
const RATE: u32 = 100;
const LOGIN_PERIOD: Duration = Duration::from_secs(1);
/// Services check their files every few seconds.
const RELOADED_WITHIN: Duration = Duration::from_secs(15);
/// The `SSLRequest` of PostgreSQL's protocol: its length, and a number that is no version.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A socket that presents a certificate.
struct Listener {
    instance: String,
    address: SocketAddr,
    is_postgres: bool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_renewed_without_a_failed_call() {
    let platform = Platform::start(&["--certificate-lifetime-s", LIFETIME_S]).unwrap();
    let listeners = listeners(&platform);
    assert_eq!(listeners.len(), 15, "every listener is checked: two a service, the front door, PostgreSQL");
    let mut first = Vec::new();
    for listener in &listeners {
        first.push(presented(&platform, listener).await.unwrap());
    }

    let template = platform.front.golden_prediction(&platform.token("analyst").unwrap()).await.unwrap();
    let prediction = CallKind { server: platform.front.server(Protocol::Http1).unwrap(), template };
    let load = RecordedLoad::start(vec![prediction], RATE).await.unwrap();
    let logins = log_in_during_the_load(&platform).await;
    let figures = load.figures(Duration::ZERO, load.now()).await.unwrap();
    drop(load);
    assert_eq!(figures.failed + figures.retried, 0, "{}: {:?}", figures.line(), figures.failures);
    assert!(logins > 20, "there were logins during the load: {logins}");

    for (listener, first) in listeners.iter().zip(first) {
        let now = presents_its_file(&platform, listener).await;
        assert_ne!(now, first, "{} at {} presents its first certificate", listener.instance, listener.address);
    }
    platform.stop(&[]).unwrap();
}

/// Each login is a write to the database. Every one must succeed.
async fn log_in_during_the_load(platform: &Platform) -> u32 {
    let secret = platform.secret("operator", "analyst-client-secret").unwrap();
    let started = Instant::now();
    let mut ticks = interval(LOGIN_PERIOD);
    let mut count = 0;
    while started.elapsed() < LOAD {
        ticks.tick().await;
        let login = platform.front.login("example-analyst", &secret).await;
        assert!(login.is_ok(), "a login failed {:?} after the load began: {login:?}", started.elapsed());
        count += 1;
    }
    count
}

fn listeners(platform: &Platform) -> Vec<Listener> {
    let state = platform.state();
    let listener =
        |instance: &str, address, is_postgres| Listener { instance: instance.to_owned(), address, is_postgres };
    let front = platform.front.address;
    let mut all = vec![listener("postgres-1", state.database, true), listener("balancer-1", front, false)];
    for (instance, listeners) in &state.listeners {
        all.push(listener(instance, listeners.admin, false));
        if instance != "balancer-1" {
            all.push(listener(instance, listeners.main, false));
        }
    }
    all
}

/// Waits until a listener presents what is in its file now, and returns that.
async fn presents_its_file(platform: &Platform, listener: &Listener) -> CertificateDer<'static> {
    let file = platform.state().identities.join(&listener.instance).join("certificate.pem");
    let mut shown = None;
    until("presents the certificate in its file", RELOADED_WITHIN, async || {
        let now = presented(platform, listener).await.unwrap();
        let is_new = CertificateDer::from_pem_file(&file).is_ok_and(|leaf| leaf == now);
        ensure!(is_new, "{} at {} does not", listener.instance, listener.address);
        shown = Some(now);
        Ok(())
    })
    .await
    .unwrap();
    shown.unwrap()
}

/// The certificate that a listener presents, which comes before the client's own.
async fn presented(platform: &Platform, listener: &Listener) -> anyhow::Result<CertificateDer<'static>> {
    let tls =
        ClientConfig::builder().with_root_certificates(root_store(&platform.state().ca_file)?).with_no_client_auth();
    let mut tcp = TcpStream::connect(listener.address).await?;
    if listener.is_postgres {
        tcp.write_all(&SSL_REQUEST).await?;
        ensure!(tcp.read_u8().await? == b'S', "PostgreSQL speaks no TLS");
    }
    let name = end_to_end::platform::service_of(&listener.instance);
    let name = ServerName::try_from(format!("{name}.rampart.internal"))?;
    let stream = TlsConnector::from(std::sync::Arc::new(tls)).connect(name, tcp).await?;
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).context("no certificate")?;
    Ok(leaf.clone().into_owned())
}
