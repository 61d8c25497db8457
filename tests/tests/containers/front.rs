//! Proves that one address cannot take all connections of the front, and that clients reach it under their own names, with the platform's
//! certificate or their owner's.

use std::{env, fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::ensure;
use end_to_end::{
    containers::{Containers, say},
    poll::until,
    tls_probe::accepted_leaf,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use testkit::ca::{Ca, Leaf};
use tokio::{io::AsyncReadExt, net::TcpStream, task::JoinSet, time::timeout};

use crate::load::Load;

/// As in `docker/haproxy/front.cfg`.
const OF_ONE_ADDRESS_MAX: usize = 1000;
const TOO_MANY: usize = 200;
/// A connection on which nothing is sent is ended by a balancer after 3 s; one too many by the front at once.
const AT_ONCE: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(20);
/// To the front, which deals them out to both balancers in turn.
const CONNECTIONS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_cannot_fill_the_front() {
    let platform = Containers::from_environment().unwrap();
    let mut opening: JoinSet<_> = (0..OF_ONE_ADDRESS_MAX + TOO_MANY).map(|_| open(platform.front.address)).collect();
    let (mut held, mut refused) = (Vec::new(), 0);
    while let Some(opened) = opening.join_next().await {
        match opened.unwrap() {
            Some(connection) => held.push(connection),
            None => refused += 1,
        }
    }
    // A container of the same network is another address.
    let client = "timeout 10 openssl s_client -connect front:8095 -tls1_3 </dev/null";
    let served = platform.container("edge").run(&["sh", "-c", client]).await;
    say(&format!("{refused} connections of one address were refused, and {} kept", held.len()));
    assert!(served.is_ok(), "another address was not served: {served:?}");
    assert!(refused >= TOO_MANY, "only {refused} were refused");
    drop(held);
    until("this address is served again", SOON, async || platform.analyst().await.map(drop)).await.unwrap();
}

/// The test's platform is started with these names.
#[tokio::test]
async fn clients_reach_the_front_under_the_names_that_its_owner_gave_it() {
    let platform = Containers::from_environment().unwrap();
    let front = platform.front.address;
    for name in env::var("RAMPART_FRONT_NAMES").unwrap().split(',') {
        accepted_leaf(front, name, &platform.front.ca_file).await.unwrap_or_else(|error| panic!("{name}: {error:#}"));
    }
    accepted_leaf(front, "other.example.test", &platform.front.ca_file).await.unwrap_err();
    // Whose name would be in another's place: no balancer has it.
    accepted_leaf(front, "gateway.rampart.internal", &platform.front.ca_file).await.unwrap_err();
}

/// It is there from the start; then the owner renews it, with one that a CA has signed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owners_certificate_is_renewed_without_a_failed_call() {
    const OWN: &str = "own.example.test";
    let platform = Containers::from_environment().unwrap();
    let front = platform.front.address;
    let folder = PathBuf::from(env::var("RAMPART_FRONT_FOLDER").unwrap());
    let (scratch, ca) = (tempfile::tempdir().unwrap(), Ca::new());
    let roots = scratch.path().join("roots.pem");
    fs::write(&roots, ca.pem()).unwrap();
    accepted_leaf(front, OWN, &roots).await.unwrap_err();
    let load = Load::predictions(&platform).await;
    let from = load.steady.now();

    ca.issue_leaf(&Leaf::of("unused", "unused").uris(&[]).dns_names(&[OWN]).server_only(), scratch.path());
    for (new, name) in [("certificate.pem", "chain.pem"), ("key.pem", "key.pem")] {
        // Into the file that is there, which the steward may read.
        fs::write(folder.join(name), fs::read(scratch.path().join(new)).unwrap()).unwrap();
    }
    // Each of many connections, so that both balancers have it.
    until("both balancers show the new certificate", SOON, async || {
        for _ in 0..CONNECTIONS {
            accepted_leaf(front, OWN, &roots).await?;
        }
        Ok(())
    })
    .await
    .unwrap();
    let leaf = CertificateDer::from_pem_file(scratch.path().join("certificate.pem")).unwrap();
    until("the second edge shows it", SOON, async || {
        let show = "curl --silent --show-error --insecure --haproxy-protocol --output /dev/null --write-out '%{certs}' \
            --connect-to own.example.test:8095:127.0.0.1:8095 https://own.example.test:8095/health";
        let shown = platform.container("edge").run(&["sh", "-c", show]).await?;
        let shown = CertificateDer::from_pem_slice(shown.as_bytes())?;
        ensure!(shown == leaf, "it shows another");
        Ok(())
    })
    .await
    .unwrap();
    accepted_leaf(front, "localhost", &platform.front.ca_file).await.unwrap();

    let figures = load.steady.figures(from, load.steady.now()).await.unwrap();
    say(&format!("predictions meanwhile: {}", figures.line()));
    assert_eq!(figures.failed, 0, "{:?}", figures.failures);
}

/// None if the front ended it at once, without a word.
async fn open(address: SocketAddr) -> Option<TcpStream> {
    let mut connection = TcpStream::connect(address).await.ok()?;
    let mut byte = [0];
    match timeout(AT_ONCE, connection.read(&mut byte)).await {
        Ok(Ok(0) | Err(_)) => None,
        Ok(Ok(_)) | Err(_) => Some(connection),
    }
}
