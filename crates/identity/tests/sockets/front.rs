//! The public front: no client certificate, otherwise as strict; and a certificate of the platform's owner for names of their own.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use identity::FrontCertificateFile;
use rustls::{NamedGroup, ProtocolVersion, ServerConfig};
use rustls_pki_types::CertificateDer;
use testkit::ca::{Ca, Leaf};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::handshake::{client_builder, identity, shake, tls12_provider};

const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn clients_without_certificate_are_accepted_with_tls_1_3_only() {
    let ca = Ca::new();
    let (balancer, _directory) = identity(&ca, "balancer");
    let front = identity::front_server_config(&balancer, None);

    let client = client_builder(identity::crypto_provider(), &ca).with_no_client_auth();
    let agreed = shake(front.clone(), client.into(), "localhost").await.client.unwrap();
    assert_eq!(agreed.version, Some(ProtocolVersion::TLSv1_3));
    assert_eq!(agreed.group, Some(NamedGroup::X25519MLKEM768));

    let old = client_builder(tls12_provider(), &ca).with_no_client_auth();
    let outcome = shake(front, old.into(), "localhost").await;
    assert!(outcome.is_refused_with("ProtocolVersion"), "{:?} {:?}", outcome.server, outcome.client);
}

/// The leaf that a client gets who trusts `ca` alone and asks for `host`; the client's own word if it refuses.
async fn leaf_for(front: &Arc<ServerConfig>, ca: &Ca, host: &str) -> Result<CertificateDer<'static>, String> {
    let client = client_builder(identity::crypto_provider(), ca).with_no_client_auth();
    let agreed = shake(Arc::clone(front), client.into(), host).await.client.map_err(|error| error.to_string())?;
    Ok(agreed.peer.first().unwrap().clone())
}

/// Chain and key in one file, as the front reads it.
fn write_pair(chain: &Path, key: &Path, file: &Path) {
    let pair = [fs::read(chain.join("certificate.pem")).unwrap(), fs::read(key.join("key.pem")).unwrap()].concat();
    let beside = file.with_extension("new");
    fs::write(&beside, pair).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&beside, file).unwrap();
}

fn issue(ca: &Ca, names: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    ca.issue_leaf(&Leaf::of("unused", "unused").uris(&[]).dns_names(names).server_only(), directory.path());
    directory
}

/// It comes, is renewed, is broken and goes while the front stays open; the own CA's names are answered as ever.
#[tokio::test]
async fn the_owners_certificate_is_presented_for_its_names_alone() {
    let (ca, public) = (Ca::new(), Ca::new());
    let (balancer, directory) = identity(&ca, "balancer");
    let file = directory.path().join("front.pem");
    let own = FrontCertificateFile::open(file.clone());
    let front = identity::front_server_config(&balancer, Some(Arc::clone(&own)));
    let stop = CancellationToken::new();
    let watch = tokio::spawn(own.watch(stop.clone()));
    let is_answered = async |host: &str, wanted: bool| {
        let changed = async { while leaf_for(&front, &public, host).await.is_ok() != wanted {} };
        timeout(PATIENCE, changed).await.unwrap_or_else(|_| panic!("{host}: answered is not {wanted}"));
    };
    leaf_for(&front, &public, "ml.example.org").await.unwrap_err();

    let first = issue(&public, &["ml.example.org", "*.models.example.org"]);
    write_pair(first.path(), first.path(), &file);
    is_answered("ml.example.org", true).await;
    leaf_for(&front, &public, "a.models.example.org").await.unwrap();
    leaf_for(&front, &public, "a.b.models.example.org").await.unwrap_err();
    leaf_for(&front, &ca, "localhost").await.unwrap();

    // A key of another certificate changes nothing, for however many readings.
    let second = issue(&public, &["ml.example.org", "new.example.org"]);
    let before = leaf_for(&front, &public, "ml.example.org").await.unwrap();
    write_pair(second.path(), first.path(), &file);
    let broken = FrontCertificateFile::open(file.clone());
    let refused = identity::front_server_config(&balancer, Some(broken));
    leaf_for(&refused, &public, "ml.example.org").await.unwrap_err();
    assert_eq!(leaf_for(&front, &public, "ml.example.org").await.unwrap(), before);

    write_pair(second.path(), second.path(), &file);
    is_answered("new.example.org", true).await;
    fs::remove_file(&file).unwrap();
    is_answered("ml.example.org", false).await;
    leaf_for(&front, &ca, "localhost").await.unwrap();

    stop.cancel();
    timeout(PATIENCE, watch).await.unwrap().unwrap();
}
